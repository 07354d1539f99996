//! ICMP errors that XDP gave us because they quote one of our flows: to the connection that they concern.

use bywash_tcp::Disposition;
use bywash_wire::{DropReason, IcmpKind, decode_icmp};
use bywash_xsk::{Frame, Port};

use crate::shard::Core;

impl<P: Port> Core<P> {
    /// A frame that is not TCP. The error may have arrived on another queue than its flow: RSS hashes the router's address.
    #[cold]
    pub(crate) fn on_icmp_frame(&mut self, frame: &Frame) {
        let error = match decode_icmp(frame.bytes()) {
            Ok(error) => error,
            Err(reason) => return self.count_drop(reason),
        };
        let Some(index) = self.flows.lookup(&error.tuple) else {
            return match self.directory.owner(&error.tuple) {
                Some(owner) if owner != self.config.index => self.hand_over(owner, frame),
                _ => self.count_drop(DropReason::IcmpNoConnection),
            };
        };
        let now = self.now;
        let Some(conn) = self.conns.by_index(index) else {
            return;
        };
        match conn.tcp.on_icmp(now, error) {
            Disposition::Dropped(reason) => return self.count_drop(reason),
            Disposition::Accepted => self.counters.icmp_errors += 1,
        }
        if let IcmpKind::PacketTooBig { .. } = error.kind {
            let mtu = conn.tcp.path_mtu();
            self.path_mtus.learn(error.tuple.remote, mtu, now);
        }
        self.mark_dirty(index);
    }
}
