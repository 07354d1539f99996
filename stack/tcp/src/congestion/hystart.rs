//! HyStart++ (RFC 9406): when to leave the first slow start before it overflows the path's queue.
//!
//! ```text
//!  slow start --- RTT of a round rises by 1/8 (4 to 16 ms) ---> conservative slow start --- 5 rounds ---> avoidance
//!       ^                                                             |
//!       +------------ the RTT falls again: it was jitter -------------+
//! ```
//! Rounds are counted by delivered bytes. One recorded choice: an ACK counts in full (`L` is infinite even without pacing),
//! as in Linux: receivers that acknowledge once a burst would make slow start crawl otherwise.

use super::{AckSample, Round};
use crate::snapshot::code;

/// RFC 9406 4.3, in microseconds.
const MIN_RTT_THRESH: u32 = 4_000;
const MAX_RTT_THRESH: u32 = 16_000;
const MIN_RTT_DIVISOR: u32 = 8;
const N_RTT_SAMPLE: u8 = 8;
const CSS_GROWTH_DIVISOR: u32 = 4;
const CSS_ROUNDS: u8 = 5;
/// "Infinite".
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HyStart {
    round: Round,
    /// Least round-trip times of the last and of this round, in microseconds.
    last_min: u32,
    current_min: u32,
    /// The one that began conservative slow start; `NONE`: not in it.
    css_baseline: u32,
    samples: u8,
    css_rounds: u8,
}

code!(struct HyStart { round, last_min, current_min, css_baseline, samples, css_rounds });

/// What an ACK means for slow start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Grow by so many bytes.
    Grow(u32),
    /// The path is full: slow start is over.
    Over,
}

impl HyStart {
    pub(super) fn new() -> Self {
        Self {
            round: Round::default(),
            last_min: NONE,
            current_min: NONE,
            css_baseline: NONE,
            samples: 0,
            css_rounds: 0,
        }
    }

    pub(super) fn is_conservative(&self) -> bool {
        self.css_baseline != NONE
    }

    /// An ACK in slow start that would let the window grow by `bytes`.
    pub(super) fn on_ack(&mut self, sample: &AckSample, bytes: u32) -> Verdict {
        if self.round.is_over(sample) {
            self.last_min = self.current_min;
            self.current_min = NONE;
            self.samples = 0;
            if self.is_conservative() {
                self.css_rounds += 1;
                if self.css_rounds >= CSS_ROUNDS {
                    return Verdict::Over;
                }
            }
        }
        if let Some(rtt) = sample.rate.rtt.or(sample.rtt) {
            let micros = u32::try_from(rtt.as_micros()).unwrap_or(NONE - 1);
            self.current_min = self.current_min.min(micros);
            self.samples = self.samples.saturating_add(1);
            self.judge();
        }
        Verdict::Grow(if self.is_conservative() {
            bytes / CSS_GROWTH_DIVISOR
        } else {
            bytes
        })
    }

    /// RFC 9406 4.2, the decisions at a sample.
    fn judge(&mut self) {
        if self.samples < N_RTT_SAMPLE || self.last_min == NONE {
            return;
        }
        if self.is_conservative() {
            if self.current_min < self.css_baseline {
                self.css_baseline = NONE;
                self.css_rounds = 0;
            }
        } else {
            let thresh = (self.last_min / MIN_RTT_DIVISOR).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
            if self.current_min >= self.last_min.saturating_add(thresh) {
                self.css_baseline = self.current_min;
                self.css_rounds = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MSS, Rounds};
    use super::*;

    /// A round of `acks` ACKs of a segment each, all with this round-trip time. What they let the window grow by.
    fn round(hystart: &mut HyStart, rounds: &mut Rounds, acks: u32, rtt_ms: u64) -> Option<u32> {
        let mut grown = 0;
        for sample in rounds.next(acks, rtt_ms) {
            match hystart.on_ack(&sample, MSS) {
                Verdict::Grow(bytes) => grown += bytes,
                Verdict::Over => return None,
            }
        }
        Some(grown)
    }

    #[test]
    fn a_steady_path_is_never_left() {
        let (mut hystart, mut rounds) = (HyStart::new(), Rounds::default());
        for _ in 0..50 {
            assert_eq!(round(&mut hystart, &mut rounds, 10, 40), Some(10 * MSS));
        }
        assert!(!hystart.is_conservative());
    }

    #[test]
    fn a_rising_round_trip_time_slows_down_and_then_ends_slow_start() {
        let (mut hystart, mut rounds) = (HyStart::new(), Rounds::default());
        round(&mut hystart, &mut rounds, 10, 40);
        // 4 ms is less than an eighth of 40 ms.
        round(&mut hystart, &mut rounds, 10, 44);
        assert!(!hystart.is_conservative());
        // 5.5 ms more than the last round: from the eighth sample on the window grows by a quarter.
        assert_eq!(
            round(&mut hystart, &mut rounds, 10, 50),
            Some(7 * MSS + 3 * (MSS / 4))
        );
        assert!(hystart.is_conservative());
        for _ in 0..4 {
            assert_eq!(
                round(&mut hystart, &mut rounds, 10, 52),
                Some(10 * (MSS / 4))
            );
        }
        assert_eq!(round(&mut hystart, &mut rounds, 10, 52), None);
    }

    #[test]
    fn jitter_is_forgiven() {
        let (mut hystart, mut rounds) = (HyStart::new(), Rounds::default());
        round(&mut hystart, &mut rounds, 10, 40);
        round(&mut hystart, &mut rounds, 10, 50);
        assert!(hystart.is_conservative());
        round(&mut hystart, &mut rounds, 10, 41);
        assert!(!hystart.is_conservative());
        assert_eq!(round(&mut hystart, &mut rounds, 10, 41), Some(10 * MSS));
    }

    #[test]
    fn few_samples_decide_nothing() {
        let (mut hystart, mut rounds) = (HyStart::new(), Rounds::default());
        round(&mut hystart, &mut rounds, 7, 40);
        round(&mut hystart, &mut rounds, 7, 80);
        assert!(!hystart.is_conservative());
    }
}
