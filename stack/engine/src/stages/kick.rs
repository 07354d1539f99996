//! Stage 7: the kernel is woken once, if the ring asks for it.

use bywash_xsk::Port;

use crate::shard::Core;

impl<P: Port> Core<P> {
    /// TX ring -> kernel.
    pub(crate) fn kick(&mut self) -> usize {
        let calls = self.port.kick();
        if let Some(complaint) = self.port.complaint() {
            tracing::warn!(shard = self.config.index, "{complaint}");
        }
        calls
    }
}
