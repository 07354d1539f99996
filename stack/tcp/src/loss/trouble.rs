//! What only a connection needs that has lost something, or seems to have: made when that happens first.

use bywash_wire::SeqNumber;

use super::prr::Prr;
use super::reordering::Reordering;
use super::tlp::Probe;
use super::undo::{Frto, Undo};
use crate::snapshot::code;
use crate::snd::Acked;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) counts: Counts,
    pub(super) reordering: Reordering,
    pub(super) probe: Option<Probe>,
    /// While fast recovery lasts, and the controller does not regulate itself.
    pub(super) prr: Option<Prr>,
    /// Outlives the recovery: D-SACKs come a round trip later.
    pub(super) undo: Option<Undo>,
    pub(super) frto: Frto,
    /// Without SACK: duplicate ACKs in a row.
    pub(super) duplicates: u32,
}

code!(struct Trouble { counts, reordering, probe, prr, undo, frto, duplicates });

/// See [`RecoveryInfo`](super::RecoveryInfo).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) resent_bytes: u64,
    pub(super) resent: u32,
    pub(super) lost: u32,
    pub(super) lost_resent: u32,
    pub(super) fast_recoveries: u32,
    pub(super) reordered: u32,
    pub(super) duplicates: u32,
    pub(super) undone: u32,
    pub(super) spurious_timeouts: u32,
    pub(super) probes: u32,
    pub(super) probe_repairs: u32,
    pub(super) reneges: u32,
}

code!(struct Counts {
    resent_bytes, resent, lost, lost_resent, fast_recoveries, reordered, duplicates, undone, spurious_timeouts, probes,
    probe_repairs, reneges
});

/// Adds to a counter that stops at its end.
pub(super) fn count(counter: &mut u32, n: u32) {
    *counter = counter.saturating_add(n);
}

impl Trouble {
    /// No acknowledgment is awaited that would mean more than it says.
    pub(super) fn is_calm(&self) -> bool {
        self.probe.is_none() && self.duplicates == 0
    }

    /// What an ACK says of reordering and duplicates. Whether its D-SACK names the tail loss probe.
    pub(super) fn on_ack(
        &mut self,
        acked: &Acked,
        una: SeqNumber,
        nxt: SeqNumber,
        mss: u32,
    ) -> bool {
        if acked.reordered > 0 {
            count(&mut self.counts.reordered, 1);
            self.reordering.on_reordered(acked.reordered, mss);
        }
        let Some((start, end)) = acked.duplicate else {
            return false;
        };
        let bytes = end.distance_from(start).max(0) as u32;
        let segments = bytes.div_ceil(mss.max(1));
        count(&mut self.counts.duplicates, segments);
        let twin = segments == 1 && self.probe.is_some_and(|probe| probe.end == end);
        // More duplicates than retransmissions: the network doubles segments, and the reports prove nothing.
        if twin || self.counts.duplicates > self.counts.resent {
            return twin;
        }
        let refuted = self
            .undo
            .as_mut()
            .is_some_and(|undo| undo.on_duplicate(end, segments));
        // The first transmission was late, not lost, whatever overtook it.
        self.reordering.seen |= refuted;
        self.reordering.on_duplicate(una, nxt);
        twin
    }
}
