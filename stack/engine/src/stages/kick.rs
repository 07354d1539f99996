//! Stage 7: the kernel is woken once, if the ring asks for it.

use bywash_xsk::Port;

use crate::shard::Core;

impl<P: Port> Core<P> {
    /// TX ring -> kernel.
    pub(crate) fn kick(&mut self) -> usize {
        self.port.kick()
    }
}
