//! Was it all for nothing? What tells a needless reduction of the window from a needed one.
//!
//! | evidence | what it means |
//! |---|---|
//! | D-SACKs for everything sent again (RFC 2883, 3708) | each retransmission was a duplicate |
//! | an ACK that echoes a time before the first retransmission (Eifel: RFC 3522, 4015) | the first transmissions arrived |
//! | recovery ends, and nothing was sent again | likewise |
//! | after a time-out, an ACK for something sent once (F-RTO: RFC 5682 3.1, with SACK) | not all was lost: the time-out came too soon |

use bywash_wire::SeqNumber;

use crate::snapshot::code;
use crate::snd::Arrival;
use crate::time::Instant;

/// What the last reduction would be undone by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Undo {
    /// `snd.una` at the reduction: duplicates of what lies before are older.
    marker: SeqNumber,
    /// The end of what was sent again: duplicates of what lies behind are not ours.
    end: SeqNumber,
    /// Segments sent again that no D-SACK has named; `None`: nothing was sent again.
    unproven: Option<u32>,
    /// The first retransmission.
    first_at: Option<Instant>,
}

code!(struct Undo { marker, end, unproven, first_at });

impl Undo {
    /// The window is reduced with `resent` retransmissions on the way.
    pub(super) fn new(una: SeqNumber, resent: u32) -> Self {
        Self {
            marker: una,
            end: una,
            unproven: (resent > 0).then_some(resent),
            first_at: None,
        }
    }

    pub(super) fn on_resent(&mut self, now: Instant, end: SeqNumber) {
        if end.after(self.end) {
            self.end = end;
        }
        self.unproven = Some(self.unproven.unwrap_or(0).saturating_add(1));
        self.first_at.get_or_insert(now);
    }

    /// The peer has reported `count` segments that end at `end` as duplicates. Whether they are of this reduction.
    pub(super) fn on_duplicate(&mut self, end: SeqNumber, count: u32) -> bool {
        let ours = end.after(self.marker)
            && end.at_or_before(self.end)
            && self.unproven.is_some_and(|left| left > 0);
        if ours {
            self.unproven = self.unproven.map(|left| left.saturating_sub(count));
        }
        ours
    }

    /// Whether nothing can refute it any more: `una` is so far on that numbers begin to mean something else.
    pub(super) fn is_stale(&self, una: SeqNumber) -> bool {
        una.after(self.end + (1 << 30))
    }

    /// Every retransmission was a duplicate.
    pub(super) fn is_refuted(&self) -> bool {
        self.unproven == Some(0)
    }

    /// The acknowledgment answers what was sent before the first retransmission, or there was none. Of retransmissions that
    /// were on the way before the reduction nobody knows the time: they prove nothing.
    pub(super) fn is_preceded_by(&self, arrival: &Arrival) -> bool {
        match self.first_at {
            Some(at) => arrival.precedes(at),
            None => self.unproven.is_none(),
        }
    }
}

/// Where F-RTO stands (RFC 5682 2.1, 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Frto {
    /// Not looking, or it has its answer.
    #[default]
    Off,
    /// The oldest segment was sent again; its acknowledgment is awaited.
    Watching,
    /// That moved `snd.una`: new data goes, and nothing again, until the next acknowledgment tells.
    Probing,
}

code!(
    enum Frto {
        Off = 0,
        Watching = 1,
        Probing = 2,
    }
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    const UNA: SeqNumber = SeqNumber::new(u32::MAX - 500);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn only_duplicates_of_what_was_sent_again_refute() {
        let mut undo = Undo::new(UNA, 0);
        assert!(!undo.on_duplicate(UNA + 100, 1), "nothing was sent again");
        undo.on_resent(at(1), UNA + 1_000);
        undo.on_resent(at(2), UNA + 500);
        assert!(!undo.on_duplicate(UNA, 1), "older");
        assert!(
            !undo.on_duplicate(UNA + 1_001, 1),
            "newer: the network doubles"
        );
        assert!(undo.on_duplicate(UNA + 500, 1) && !undo.is_refuted());
        assert!(undo.on_duplicate(UNA + 1_000, 1) && undo.is_refuted());
        assert!(!undo.on_duplicate(UNA + 1_000, 1), "enough");
        assert!(!undo.is_stale(UNA + 2_000) && undo.is_stale(UNA + (1 << 30) + 2_000));
    }

    #[test]
    fn an_echo_from_before_the_first_retransmission_precedes_it() {
        let mut undo = Undo::new(UNA, 0);
        let arrival = |echo| Arrival {
            now: at(100),
            echo,
            min_rtt: Duration::ZERO,
        };
        assert!(undo.is_preceded_by(&arrival(None)), "there was none");
        undo.on_resent(at(50), UNA + 100);
        assert!(undo.is_preceded_by(&arrival(Some(49))));
        assert!(!undo.is_preceded_by(&arrival(Some(50))));
        assert!(!undo.is_preceded_by(&arrival(None)), "without timestamps");
        let undo = Undo::new(UNA, 1);
        assert!(!undo.is_preceded_by(&arrival(Some(49))), "on the way");
    }
}
