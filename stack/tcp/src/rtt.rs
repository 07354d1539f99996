//! The retransmission time-out (RFC 6298, with Linux's margin), and the smallest round-trip time.
//!
//! Two averages of the round-trip time give the time-out: `RTO = SRTT + margin`, where the margin is four times the mean
//! deviation, never less than the configured least time-out, and falls only once a round trip, by a quarter of the way to
//! the largest deviation of that round trip. So a peer that delays its acknowledgments now and then causes no time-outs.
//! Samples come from segments that were sent once (Karn's rule), or from the echoed timestamp (RFC 7323 4), which tells
//! which transmission is answered. After a time-out the RTO doubles and stays doubled until there is a new sample.

use bywash_wire::SeqNumber;

use crate::config::Config;
use crate::snapshot::code;
use crate::time::{Duration, Instant};

/// How long a smallest round-trip time is believed, in seconds: the path may have changed (as Linux's `tcp_min_rtt_wlen`).
const MIN_LIFETIME_SECS: u32 = 300;

/// The longest round-trip time that is believed, the largest time-out by default (`Config::rto_max`): a longer one says that our
/// own clock has leapt, or that we slept, and would hold up pacing, the reordering timer and time-outs for as long again.
pub(crate) const RTT_MAX: Duration = Duration::from_secs(120);

/// A round-trip time, and when it was measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RttSample {
    pub(crate) now: Instant,
    /// Of the oldest segment that the acknowledgment is for: what a time-out must allow.
    pub(crate) rtt: Duration,
    /// Of the newest: nearest to what the path takes.
    pub(crate) newest: Duration,
    pub(crate) una: SeqNumber,
    pub(crate) nxt: SeqNumber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RttEstimator {
    /// SRTT; zero before the first sample.
    srtt: Duration,
    min: Duration,
    /// When, in seconds of the clock.
    min_at: u32,
    /// Microseconds, as the next two: only time-outs are made of them.
    rttvar: u32,
    /// What is added to SRTT.
    margin: u32,
    /// The largest margin that this round trip's samples ask for.
    margin_max: u32,
    /// The round trip ends when this is acknowledged.
    round: SeqNumber,
    /// How often the time-out is doubled.
    backoff: u8,
    /// The SYN was lost, and nothing is measured yet.
    syn_lost: bool,
}

code!(struct RttEstimator {
    srtt, min, min_at, rttvar, margin, margin_max, round, backoff, syn_lost
});

impl RttEstimator {
    pub(crate) fn new() -> Self {
        Self {
            srtt: Duration::ZERO,
            min: Duration::ZERO,
            min_at: 0,
            rttvar: 0,
            margin: 0,
            margin_max: 0,
            round: SeqNumber::default(),
            backoff: 0,
            syn_lost: false,
        }
    }

    /// Takes a sample; the time-out is fresh again.
    pub(crate) fn on_sample(&mut self, sample: &RttSample, config: &Config) {
        // A sample of zero would read as "none yet".
        let least = Duration::from_nanos(1);
        self.on_min(sample.newest.max(least), sample.now);
        let rtt = sample.rtt.max(least);
        self.backoff = 0;
        let floor = micros(config.rto_min);
        if !self.is_measured() {
            // RFC 6298 2.2.
            self.srtt = rtt;
            self.rttvar = micros(rtt / 2);
            self.margin = self.rttvar.saturating_mul(4).max(floor);
            self.margin_max = self.margin;
            self.round = sample.nxt;
            return;
        }
        let error = micros(self.srtt.abs_diff(rtt));
        self.rttvar = if rtt < self.srtt && error > self.rttvar {
            // A sudden fall is no reason for a larger margin: it counts an eighth of what a rise does (as in Linux).
            self.rttvar + (error - self.rttvar) / 32
        } else {
            // RFC 6298 2.3, this before SRTT: beta = 1/4.
            self.rttvar - self.rttvar / 4 + error / 4
        };
        self.srtt = (self.srtt * 7 / 8 + rtt / 8).max(least);
        self.margin_max = self.margin_max.max(self.rttvar.saturating_mul(4));
        self.margin = self.margin.max(self.margin_max);
        if sample.una.after(self.round) {
            self.margin -= (self.margin - self.margin_max) / 4;
            self.round = sample.nxt;
            self.margin_max = floor;
        }
    }

    fn on_min(&mut self, rtt: Duration, now: Instant) {
        let now = (now.as_millis() / 1_000) as u32;
        let stale = now.wrapping_sub(self.min_at) > MIN_LIFETIME_SECS;
        if rtt <= self.min || self.min == Duration::ZERO || stale {
            self.min = rtt;
            self.min_at = now;
        }
    }

    /// RFC 6298 5.5: the timer ran out.
    pub(crate) fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    /// RFC 6298 5.7: the SYN was sent again and nothing was measured, so the path may be slow: 3 s.
    pub(crate) fn on_syn_lost(&mut self) {
        if !self.is_measured() {
            self.syn_lost = true;
            self.backoff = 0;
        }
    }

    pub(crate) fn rto(&self, config: &Config) -> Duration {
        let base = if self.is_measured() {
            self.srtt + Duration::from_micros(self.margin.into())
        } else if self.syn_lost {
            Duration::from_secs(3)
        } else {
            // RFC 6298 2.1.
            config.initial_rto
        };
        base.max(config.rto_min)
            .min(config.rto_max)
            .backed_off(self.backoff.into())
            .min(config.rto_max)
    }

    pub(crate) fn is_measured(&self) -> bool {
        self.srtt > Duration::ZERO
    }

    pub(crate) fn srtt(&self) -> Duration {
        self.srtt
    }

    pub(crate) fn rttvar(&self) -> Duration {
        Duration::from_micros(self.rttvar.into())
    }

    /// The smallest of the last five minutes; zero before the first sample.
    pub(crate) fn min(&self) -> Duration {
        self.min
    }
}

/// Microseconds, 71 minutes at most.
fn micros(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A sample at `at` milliseconds; each ends a round trip.
    fn sample(rtt: Duration, at: u32) -> RttSample {
        RttSample {
            now: Instant::ZERO + Duration::from_millis(at.into()),
            rtt,
            newest: rtt,
            una: SeqNumber::new(at + 1),
            nxt: SeqNumber::new(at + 1),
        }
    }

    #[test]
    fn first_sample_and_those_that_follow() {
        let config = Config::default();
        let mut rtt = RttEstimator::new();
        assert_eq!(rtt.rto(&config), ms(1_000));
        rtt.on_sample(&sample(ms(400), 1), &config);
        assert_eq!(
            (rtt.srtt(), rtt.rttvar(), rtt.rto(&config)),
            (ms(400), ms(200), ms(1_200))
        );
        rtt.on_sample(&sample(ms(800), 2), &config);
        assert_eq!(
            (rtt.srtt(), rtt.rttvar(), rtt.rto(&config)),
            (ms(450), ms(250), ms(1_450))
        );
        assert_eq!(rtt.min(), ms(400));
    }

    #[test]
    fn floor_back_off_and_ceiling() {
        let config = Config::default();
        let mut rtt = RttEstimator::new();
        rtt.on_sample(&sample(ms(2), 1), &config);
        assert_eq!(rtt.rto(&config), ms(2) + config.rto_min);
        rtt.back_off();
        rtt.back_off();
        assert_eq!(rtt.rto(&config), ms(2 + 200) * 4);
        for _ in 0..300 {
            rtt.back_off();
        }
        assert_eq!(rtt.rto(&config), config.rto_max);
        rtt.on_sample(&sample(ms(2), 2), &config);
        assert_eq!(
            rtt.rto(&config),
            ms(2) + config.rto_min,
            "a sample ends the back-off"
        );
    }

    #[test]
    fn the_margin_rises_at_once_and_falls_a_quarter_a_round_trip() {
        let config = Config::default();
        let mut rtt = RttEstimator::new();
        rtt.on_sample(&sample(ms(100), 1), &config);
        assert_eq!(rtt.rto(&config), ms(300));
        rtt.on_sample(&sample(ms(900), 2), &config);
        let high = rtt.rto(&config) - rtt.srtt();
        assert!(high >= ms(900), "{high:?}");
        rtt.on_sample(&sample(rtt.srtt(), 3), &config);
        let next = rtt.rto(&config) - rtt.srtt();
        assert!(next < high && next > high * 3 / 4, "{high:?} {next:?}");
        for at in 4..100 {
            rtt.on_sample(&sample(ms(100), at), &config);
        }
        let settled = rtt.rto(&config);
        assert!(settled < ms(310) && settled >= ms(300), "{settled:?}");
    }

    #[test]
    fn a_smallest_round_trip_time_is_not_believed_for_ever() {
        let config = Config::default();
        let mut rtt = RttEstimator::new();
        rtt.on_sample(&sample(ms(10), 1), &config);
        rtt.on_sample(&sample(ms(50), 300_000), &config);
        assert_eq!(rtt.min(), ms(10));
        rtt.on_sample(&sample(ms(50), 301_000), &config);
        assert_eq!(rtt.min(), ms(50));
    }

    #[test]
    fn a_lost_syn_makes_it_three_seconds() {
        let config = Config::default();
        let mut rtt = RttEstimator::new();
        rtt.back_off();
        rtt.on_syn_lost();
        assert_eq!(rtt.rto(&config), ms(3_000));
    }
}
