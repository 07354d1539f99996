//! Stage 1: completions come back.

use bywash_xsk::Port;

use crate::shard::Core;

impl<P: Port> Core<P> {
    /// Completion ring -> free frames. First of all stages, so that egress of this turn finds room.
    /// Applications that wait for TX frames are told as soon as there are enough; connections whose retransmission waits
    /// for its frame send in this turn if that has come back.
    pub(crate) fn reclaim(&mut self) -> usize {
        let reclaimed = self.port.reclaim();
        if reclaimed > 0 && !self.blocked.is_empty() {
            let mut blocked = std::mem::take(&mut self.blocked);
            for index in blocked.drain(..) {
                if let Some(conn) = self.conns.by_index(index) {
                    conn.blocked = false;
                }
                self.mark_ready(index);
            }
            self.blocked = blocked;
        }
        if !self.starved.is_empty() && self.has_data_frames() {
            let mut starved = std::mem::take(&mut self.starved);
            for index in starved.drain(..) {
                if let Some(conn) = self.conns.by_index(index) {
                    conn.starved = false;
                }
                self.mark_dirty(index);
            }
            self.starved = starved;
        }
        reclaimed
    }

    /// The connection's application waits for TX frames: it is told when there are some.
    pub(crate) fn starve(&mut self, index: u32) {
        if let Some(conn) = self.conns.by_index(index)
            && !conn.starved
        {
            conn.starved = true;
            self.starved.push(index);
            self.counters.tx_frames_wanted += 1;
        }
    }

    /// The connection's retransmission waits for a completion: it is tried again when some have come.
    pub(crate) fn await_completion(&mut self, index: u32) {
        if let Some(conn) = self.conns.by_index(index)
            && conn.tcp.awaits_completion()
            && !conn.blocked
        {
            conn.blocked = true;
            self.blocked.push(index);
        }
    }

    /// Whether application data may take a TX frame: some are kept for ACKs, SYNs and RSTs, so that
    /// a full send buffer cannot silence the acknowledgments that would empty it.
    pub(crate) fn has_data_frames(&self) -> bool {
        self.port.umem().tx_free() > self.config.control_frames as usize
    }
}
