//! Stage 2: the fill ring is topped up before anything is received, so that ingress has
//! replacements for what it takes.

use bywash_xsk::Port;

use crate::shard::Core;

impl<P: Port> Core<P> {
    /// Free RX frames -> fill ring.
    pub(crate) fn refill(&mut self) -> usize {
        self.port.refill()
    }
}
