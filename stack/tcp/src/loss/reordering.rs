//! How long a segment may be late before it is lost: RACK's reordering window (RFC 8985 6.2, step 4).
//!
//! No reordering seen: none, once three segments are SACKed or recovery has begun; else a quarter of the smallest round-trip
//! time. Each round trip in which the peer reports duplicates that our haste has caused adds another quarter, up to a
//! smoothed round trip; sixteen recoveries without one take that back.

use bywash_wire::SeqNumber;

use crate::snapshot::code;
use crate::time::Duration;

/// SACKed segments that mean a loss where no reordering was ever seen.
pub(super) const DUPLICATE_THRESHOLD: u32 = 3;

/// Recoveries without D-SACK until the window is small again.
const PERSISTENCE: u8 = 16;

/// A path that reorders over more segments than this is not followed further (Linux's `tcp_max_reordering`).
const DEGREE_MAX: u32 = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reordering {
    /// RACK.reordering_seen.
    pub(super) seen: bool,
    /// RACK.reo_wnd_mult.
    quarters: u8,
    /// RACK.reo_wnd_persist.
    persist: u8,
    /// RACK.dsack_round: no further growth until this is acknowledged.
    round: Option<SeqNumber>,
    /// The farthest that a segment was overtaken, in segments.
    pub(super) degree: u32,
}

code!(struct Reordering { seen, quarters, persist, round, degree });

impl Default for Reordering {
    fn default() -> Self {
        Self {
            seen: false,
            quarters: 1,
            persist: 0,
            round: None,
            degree: DUPLICATE_THRESHOLD,
        }
    }
}

impl Reordering {
    /// A segment sent once arrived `bytes` behind the highest one.
    pub(super) fn on_reordered(&mut self, bytes: u32, mss: u32) {
        self.seen = true;
        let degree = bytes.div_ceil(mss.max(1)).min(DEGREE_MAX);
        self.degree = self.degree.max(degree);
    }

    /// The peer has reported a duplicate that a retransmission has caused, and not a tail loss probe.
    pub(super) fn on_duplicate(&mut self, una: SeqNumber, nxt: SeqNumber) {
        self.on_una(una);
        if self.round.is_none() && self.seen {
            self.round = Some(nxt);
            self.quarters = self.quarters.saturating_add(1);
            self.persist = PERSISTENCE;
        }
    }

    /// The round ends when `una` has passed it.
    pub(super) fn on_una(&mut self, una: SeqNumber) {
        self.round = self.round.filter(|round| una.before(*round));
    }

    /// A recovery, by whatever means, is over.
    pub(super) fn on_recovered(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.quarters = 1;
        }
    }

    /// RACK.reo_wnd; `hasty`: in recovery.
    pub(super) fn window(
        &self,
        hasty: bool,
        sacked: u32,
        min_rtt: Duration,
        srtt: Duration,
    ) -> Duration {
        if !self.seen && (hasty || sacked >= DUPLICATE_THRESHOLD) {
            return Duration::ZERO;
        }
        (min_rtt * u32::from(self.quarters) / 4).min(srtt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn grows_a_quarter_a_round_and_shrinks_after_sixteen_recoveries() {
        let mut reordering = Reordering::default();
        let window = |reordering: &Reordering| reordering.window(true, 5, MS * 40, MS * 100);
        let seq = SeqNumber::new;
        reordering.on_duplicate(seq(0), seq(100));
        assert_eq!(
            window(&reordering),
            Duration::ZERO,
            "no reordering was seen"
        );
        reordering.on_reordered(5_000, 1_000);
        assert_eq!(window(&reordering), MS * 10);
        reordering.on_duplicate(seq(0), seq(100));
        reordering.on_duplicate(seq(99), seq(150));
        assert_eq!(window(&reordering), MS * 20, "once a round");
        for una in 1..20 {
            reordering.on_duplicate(seq(una * 100), seq(una * 100 + 100));
        }
        assert_eq!(
            window(&reordering),
            MS * 100,
            "a smoothed round trip at most"
        );
        for _ in 0..15 {
            reordering.on_recovered();
        }
        assert_eq!(window(&reordering), MS * 100);
        reordering.on_recovered();
        assert_eq!(window(&reordering), MS * 10);
        assert_eq!(reordering.degree, 5);
    }

    #[test]
    fn without_reordering_three_sacked_segments_are_enough() {
        let reordering = Reordering::default();
        assert_eq!(reordering.window(false, 2, MS * 40, MS * 50), MS * 10);
        assert_eq!(
            reordering.window(false, 3, MS * 40, MS * 50),
            Duration::ZERO
        );
        assert_eq!(reordering.window(true, 0, MS * 40, MS * 50), Duration::ZERO);
    }
}
