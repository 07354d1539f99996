//! Pacing: segments leave at a rate, in quanta, and not all at once.
//!
//! A bucket that fills at the rate: what may leave is what has not been sent of the last millisecond or so. It is kept as
//! one instant, the time up to which the rate is used up; a segment may leave once that has passed, and moves it on by its
//! own length. The sender is woken only when a whole quantum may leave, so that pacing costs a wake-up a quantum and not
//! one a segment; a quantum is a millisecond's worth, at least two segments (for delayed ACKs) and at most 64 KiB, as
//! Linux sizes its offloads and section 5.6.3 of draft-ietf-ccwg-bbr-06 recommends.

use crate::snapshot::code;
use crate::time::{Duration, Instant};

/// How late a wake-up may be without loss: a turn of a busy engine.
const LATENESS: Duration = Duration::from_micros(250);
const QUANTUM_MAX: u64 = 65_536;
/// Bytes a second that congestion control's rate never goes below. Recovery may have a window of nothing (RFC 6937), and with it a rate of
/// nothing, while the oldest segment goes all the same: it must not use up the rate of the half hour that follows.
pub(crate) const RATE_MIN: u64 = 10_000;

/// A rate and the segment size: what pacing goes by at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Bytes a second.
    pub(crate) rate: u64,
    pub(crate) mss: u32,
}

impl Pace {
    fn time_for(self, bytes: u64) -> Duration {
        Duration::from_nanos(
            bytes
                .saturating_mul(1_000_000_000)
                .div_ceil(self.rate.max(1)),
        )
    }

    fn quantum(self) -> u64 {
        (self.rate / 1_000)
            .min(QUANTUM_MAX)
            .max(2 * u64::from(self.mss))
    }

    /// How far back the rate that was not used still counts.
    fn slack(self) -> Duration {
        self.time_for(self.quantum()) + LATENESS
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pacer {
    /// The rate is used up until then.
    used_until: Instant,
    /// When a quantum may leave, if the last attempt to send was held back.
    wake: Option<Instant>,
}

code!(struct Pacer { used_until, wake });

impl Pacer {
    /// Sending begins: nothing is held back.
    pub(crate) fn begin(&mut self) {
        self.wake = None;
    }

    /// Whether a segment may leave now; else [`wake`](Self::wake) says when.
    pub(crate) fn allows(&mut self, now: Instant, pace: Pace) -> bool {
        if self.used_until <= now {
            return true;
        }
        let mss = u64::from(pace.mss);
        self.wake = Some(self.used_until + pace.time_for(pace.quantum().saturating_sub(mss)));
        false
    }

    pub(crate) fn on_sent(&mut self, now: Instant, bytes: u32, pace: Pace) {
        let earliest = now.checked_sub(pace.slack()).unwrap_or(Instant::ZERO);
        self.used_until = self.used_until.max(earliest) + pace.time_for(bytes.into());
    }

    pub(crate) fn wake(&self) -> Option<Instant> {
        self.wake
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends whenever it may, woken when it asks to be, but `late`; bytes in the first second after `start`.
    fn run(pace: Pace, late: Duration) -> (u64, u32) {
        let mut pacer = Pacer::default();
        let start = Instant::ZERO + Duration::from_secs(5);
        let (mut now, mut sent, mut wakes) = (start, 0, 0);
        while now.since(start) < Duration::from_secs(1) {
            pacer.begin();
            while pacer.allows(now, pace) {
                pacer.on_sent(now, pace.mss, pace);
                sent += u64::from(pace.mss);
            }
            wakes += 1;
            now = pacer.wake().expect("it was held back") + late;
        }
        (sent, wakes)
    }

    #[test]
    fn the_rate_is_kept_also_by_a_late_sender() {
        for rate in [10_000, 1_000_000, 125_000_000, 12_500_000_000] {
            for late in [Duration::ZERO, Duration::from_micros(100)] {
                let pace = Pace { rate, mss: 1_448 };
                let (sent, _) = run(pace, late);
                let most = rate + 2 * pace.quantum() + rate / 4_000;
                assert!(
                    sent >= rate - rate / 50 && sent <= most,
                    "{sent} at {rate}, {late:?} late"
                );
            }
        }
    }

    #[test]
    fn a_wake_up_serves_a_quantum() {
        let pace = Pace {
            rate: 125_000_000,
            mss: 1_448,
        };
        let (_, wakes) = run(pace, Duration::ZERO);
        assert!(wakes <= 2_000, "{wakes} for 1 Gbit of 64 KiB quanta");
        let pace = Pace {
            rate: 144_800,
            mss: 1_448,
        };
        let (_, wakes) = run(pace, Duration::ZERO);
        assert!(
            (49..=51).contains(&wakes),
            "{wakes} for 100 segments in pairs"
        );
    }

    #[test]
    fn silence_saves_no_more_than_a_quantum() {
        let pace = Pace {
            rate: 1_000_000,
            mss: 1_000,
        };
        let mut pacer = Pacer::default();
        let now = Instant::ZERO + Duration::from_secs(100);
        let mut burst = 0;
        while pacer.allows(now, pace) {
            pacer.on_sent(now, 1_000, pace);
            burst += 1;
        }
        assert_eq!(burst, 3, "two, and the one that uses up the present moment");
    }

    #[test]
    fn a_rate_of_nothing_holds_back_for_no_longer_than_a_round() {
        let pace = Pace {
            rate: RATE_MIN,
            mss: 1_448,
        };
        let mut pacer = Pacer::default();
        let now = Instant::ZERO + Duration::from_secs(100);
        while pacer.allows(now, pace) {
            pacer.on_sent(now, pace.mss, pace);
        }
        let wake = pacer.wake().expect("it was held back");
        assert!(wake.since(now) < Duration::from_secs(1));
    }
}
