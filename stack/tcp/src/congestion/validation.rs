//! Congestion window validation (RFC 7661): a window that is not used proves nothing.
//!
//! `pipeACK` is the most that was acknowledged in a round trip, lately. While it is less than half of the window, the
//! window is *not validated*: it does not grow, a loss is answered by what was really in use, and after five minutes it is
//! halved. It is kept otherwise, so that an application that pauses need not start over at each burst.

use super::{AckSample, Moment, Round, initial_window};
use core::num::NonZeroU32;

use crate::snapshot::code;
use crate::time::{Duration, Instant};

/// RFC 7661 4.2: the sampling period is three round trips, and at least this long.
const SAMPLING_MIN: Duration = Duration::from_secs(1);
/// How long a window is kept that is not validated (4.4.3).
const NON_VALIDATED_MAX: Duration = Duration::from_secs(300);
/// `pipeACK` is undefined: nothing was measured yet.
const UNDEFINED: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validation {
    round: Round,
    /// Bytes acknowledged in this round, and the most on the way in it.
    round_acked: u32,
    round_flight: u32,
    /// Most in a round, of this and of the last half of the sampling period.
    current: u32,
    previous: u32,
    /// When this half began, and the window ceased to be validated, in milliseconds.
    half_since: u32,
    not_validated_since: Option<NonZeroU32>,
    /// In recovery: what a window that was not validated is reduced from; and bytes found lost since.
    loss_basis: Option<u32>,
    repaired: u32,
}

code!(struct Validation {
    round, round_acked, round_flight, current, previous, half_since, not_validated_since, loss_basis, repaired
});

fn millis(now: Instant) -> u32 {
    now.as_millis() as u32
}

/// The same, but for a millisecond in fifty days, which is a millisecond later.
fn since(now: Instant) -> NonZeroU32 {
    NonZeroU32::new(millis(now)).unwrap_or(NonZeroU32::MIN)
}

impl Validation {
    pub(super) fn new() -> Self {
        Self {
            round: Round::default(),
            round_acked: 0,
            round_flight: 0,
            current: UNDEFINED,
            previous: UNDEFINED,
            half_since: 0,
            not_validated_since: None,
            loss_basis: None,
            repaired: 0,
        }
    }

    /// The most acknowledged in a round lately; `None`: undefined, as in the beginning and after a loss (4.2).
    fn pipe_ack(&self) -> Option<u32> {
        match (self.current, self.previous) {
            (UNDEFINED, UNDEFINED) => None,
            (UNDEFINED, known) | (known, UNDEFINED) => Some(known),
            (current, previous) => Some(current.max(previous)),
        }
    }

    /// An ACK outside of recovery: whether the window may grow by it.
    pub(super) fn on_ack(&mut self, sample: &AckSample, cwnd: u32) -> bool {
        self.round_acked = self.round_acked.saturating_add(sample.delivered);
        if self.round.is_over(sample) {
            self.end_round(sample);
        }
        // 4.1: what was on the way in this round is on its way to be proof.
        self.round_flight = self.round_flight.max(sample.flight_before);
        let used = self
            .pipe_ack()
            .map(|pipe_ack| pipe_ack.max(self.round_flight).max(self.round_acked));
        let validated = used.is_none_or(|used| used >= cwnd / 2);
        if validated {
            self.not_validated_since = None;
        } else if self.not_validated_since.is_none() {
            self.not_validated_since = Some(since(sample.now));
        }
        // Half of it is enough to keep the window, more is needed to widen it (Linux's `tcp_is_cwnd_limited`).
        used.is_none_or(|used| used > cwnd / 2)
    }

    fn end_round(&mut self, sample: &AckSample) {
        let now = millis(sample.now);
        let half = (sample.srtt * 3).max(SAMPLING_MIN) / 2;
        if now.wrapping_sub(self.half_since) >= half.as_millis() as u32 {
            self.previous = self.current;
            self.current = UNDEFINED;
            self.half_since = now;
        }
        self.current = match self.current {
            UNDEFINED => self.round_acked,
            current => current.max(self.round_acked),
        };
        self.round_acked = 0;
        self.round_flight = 0;
    }

    /// 4.4.3: the window after five minutes without proof, if they are over.
    pub(super) fn expire(&mut self, now: Instant, cwnd: u32, mss: u32) -> Option<u32> {
        let began = self.not_validated_since?;
        let elapsed = millis(now).wrapping_sub(began.get());
        if u64::from(elapsed) < NON_VALIDATED_MAX.as_millis() {
            return None;
        }
        self.not_validated_since = Some(since(now));
        Some((cwnd / 2).max(initial_window(mss)).min(cwnd))
    }

    /// Recovery begins. What a reduction starts from, if the window is not validated: what was in use of it (4.4.1).
    pub(super) fn on_congestion(&mut self, moment: Moment, cwnd: u32) -> Option<u32> {
        self.repaired = 0;
        self.loss_basis = match (self.not_validated_since, self.pipe_ack()) {
            (Some(_), Some(pipe_ack)) => Some(pipe_ack.max(moment.flight).min(cwnd)),
            _ => None,
        };
        self.loss_basis
    }

    /// Losses found in recovery.
    pub(super) fn on_recovery_ack(&mut self, sample: &AckSample) {
        self.repaired = self.repaired.saturating_add(sample.lost);
    }

    /// Recovery is over. What the window is reduced from, if it was not validated: less what had to be repaired (4.4.1).
    pub(super) fn on_recovered(&mut self) -> Option<u32> {
        let basis = self
            .loss_basis
            .map(|basis| basis.saturating_sub(self.repaired));
        // 4.4.1: measurement begins anew.
        *self = Self {
            round: self.round,
            half_since: self.half_since,
            ..Self::new()
        };
        basis
    }

    pub(super) fn is_validated(&self) -> bool {
        self.not_validated_since.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MSS, Rounds};
    use super::*;

    /// Rounds of 100 ms in which so many segments are acknowledged; whether the window could grow at the end.
    fn rounds(
        validation: &mut Validation,
        rounds: &mut Rounds,
        n: u32,
        segments: u32,
        cwnd: u32,
    ) -> bool {
        let mut may_grow = true;
        for _ in 0..n {
            for sample in rounds.next(segments, 100) {
                may_grow = validation.on_ack(&sample, cwnd);
            }
        }
        may_grow
    }

    #[test]
    fn half_of_the_window_in_use_is_proof() {
        let (mut validation, mut time) = (Validation::new(), Rounds::default());
        assert!(!rounds(&mut validation, &mut time, 30, 50, 100 * MSS));
        assert!(validation.is_validated());
        assert!(rounds(&mut validation, &mut time, 30, 51, 100 * MSS));
        assert!(!rounds(&mut validation, &mut time, 30, 49, 100 * MSS));
        assert!(!validation.is_validated());
        // The busy time is remembered for the sampling period of a second.
        assert!(rounds(&mut validation, &mut time, 2, 51, 100 * MSS));
        assert!(rounds(&mut validation, &mut time, 3, 5, 100 * MSS));
        assert!(!rounds(&mut validation, &mut time, 12, 5, 100 * MSS));
    }

    /// The first window comes back ACK by ACK: each proves less, all together the whole.
    #[test]
    fn what_was_on_the_way_in_the_round_counts_until_its_end() {
        let (mut validation, mut time) = (Validation::new(), Rounds::default());
        let mut round = time.next(10, 100);
        for (left, ack) in (1..=10).rev().zip(&mut round) {
            ack.flight_before = left * MSS;
        }
        assert!(round.iter().all(|ack| validation.on_ack(ack, 19 * MSS)));
        let mut next = time.next(1, 100);
        next[0].flight_before = MSS;
        assert!(!validation.on_ack(&next[0], 21 * MSS));
    }

    #[test]
    fn five_minutes_without_proof_halve_the_window() {
        let (mut validation, mut time) = (Validation::new(), Rounds::default());
        rounds(&mut validation, &mut time, 30, 5, 100 * MSS);
        let now = time.now();
        assert_eq!(validation.expire(now, 100 * MSS, MSS), None);
        let later = now + NON_VALIDATED_MAX;
        assert_eq!(validation.expire(later, 100 * MSS, MSS), Some(50 * MSS));
        assert_eq!(validation.expire(later, 50 * MSS, MSS), None);
        let last = later + NON_VALIDATED_MAX;
        assert_eq!(validation.expire(last, 12 * MSS, MSS), Some(10 * MSS));
    }

    #[test]
    fn a_loss_is_answered_by_what_was_in_use() {
        let (mut validation, mut time) = (Validation::new(), Rounds::default());
        rounds(&mut validation, &mut time, 30, 20, 100 * MSS);
        let moment = Moment {
            now: time.now(),
            mss: MSS,
            flight: 15 * MSS,
        };
        assert_eq!(validation.on_congestion(moment, 100 * MSS), Some(20 * MSS));
        let mut ack = time.next(1, 100)[0];
        ack.lost = 4 * MSS;
        validation.on_recovery_ack(&ack);
        assert_eq!(validation.on_recovered(), Some(16 * MSS));
        // And what was measured before the loss is forgotten.
        assert!(validation.is_validated());
    }

    #[test]
    fn a_window_in_use_is_reduced_from_itself() {
        let (mut validation, mut time) = (Validation::new(), Rounds::default());
        rounds(&mut validation, &mut time, 30, 90, 100 * MSS);
        let moment = Moment {
            now: time.now(),
            mss: MSS,
            flight: 90 * MSS,
        };
        assert_eq!(validation.on_congestion(moment, 100 * MSS), None);
        assert_eq!(validation.on_recovered(), None);
    }
}
