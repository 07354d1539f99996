//! The retransmission time-out (RFC 6298).
//!
//! Two averages of the round-trip time give the time-out: `RTO = SRTT + 4 * RTTVAR`. Samples come from segments that were
//! sent once (Karn's rule), or from the echoed timestamp (RFC 7323 4), which tells which transmission is answered. After a
//! time-out the RTO doubles and stays doubled until there is a new sample.

use crate::config::Config;
use crate::snapshot::code;
use crate::time::Duration;

/// Clock granularity (RFC 6298 G): ours is finer, but the timer wheel that serves the deadlines is not.
const GRANULARITY: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RttEstimator {
    /// SRTT; zero before the first sample.
    srtt: Duration,
    rttvar: Duration,
    min: Duration,
    /// Without back-off.
    base: Duration,
    /// How often the base is doubled.
    backoff: u8,
}

code!(struct RttEstimator { srtt, rttvar, min, base, backoff });

impl RttEstimator {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            srtt: Duration::ZERO,
            rttvar: Duration::ZERO,
            min: Duration::ZERO,
            // RFC 6298 2.1.
            base: config.initial_rto,
            backoff: 0,
        }
    }

    /// Takes a sample; the time-out is fresh again.
    pub(crate) fn on_sample(&mut self, rtt: Duration, config: &Config) {
        // A sample of zero would read as "none yet".
        let rtt = rtt.max(Duration::from_nanos(1));
        self.min = if self.is_measured() {
            self.min.min(rtt)
        } else {
            rtt
        };
        if self.is_measured() {
            // RFC 6298 2.3, in this order: alpha = 1/8, beta = 1/4.
            self.rttvar = self.rttvar * 3 / 4 + self.srtt.abs_diff(rtt) / 4;
            self.srtt = (self.srtt * 7 / 8 + rtt / 8).max(Duration::from_nanos(1));
        } else {
            // RFC 6298 2.2.
            self.srtt = rtt;
            self.rttvar = rtt / 2;
        }
        let rto = self.srtt + (self.rttvar * 4).max(GRANULARITY);
        self.base = rto.max(config.rto_min).min(config.rto_max);
        self.backoff = 0;
    }

    /// RFC 6298 5.5: the timer ran out.
    pub(crate) fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    /// RFC 6298 5.7: the SYN was sent again and nothing was measured, so the path may be slow: 3 s.
    pub(crate) fn on_syn_lost(&mut self, config: &Config) {
        if !self.is_measured() {
            self.base = Duration::from_secs(3)
                .max(config.rto_min)
                .min(config.rto_max);
            self.backoff = 0;
        }
    }

    pub(crate) fn rto(&self, config: &Config) -> Duration {
        self.base
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
        self.rttvar
    }

    pub(crate) fn min(&self) -> Duration {
        self.min
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn first_sample_and_those_that_follow() {
        let config = Config::default();
        let mut rtt = RttEstimator::new(&config);
        assert_eq!(rtt.rto(&config), ms(1_000));
        rtt.on_sample(ms(400), &config);
        assert_eq!(
            (rtt.srtt(), rtt.rttvar(), rtt.rto(&config)),
            (ms(400), ms(200), ms(1_200))
        );
        rtt.on_sample(ms(800), &config);
        assert_eq!(
            (rtt.srtt(), rtt.rttvar(), rtt.rto(&config)),
            (ms(450), ms(250), ms(1_450))
        );
        assert_eq!(rtt.min(), ms(400));
    }

    #[test]
    fn floor_back_off_and_ceiling() {
        let config = Config::default();
        let mut rtt = RttEstimator::new(&config);
        rtt.on_sample(Duration::ZERO, &config);
        assert!(rtt.is_measured());
        assert_eq!(rtt.rto(&config), config.rto_min);
        rtt.back_off();
        rtt.back_off();
        assert_eq!(rtt.rto(&config), config.rto_min * 4);
        for _ in 0..300 {
            rtt.back_off();
        }
        assert_eq!(rtt.rto(&config), config.rto_max);
        rtt.on_sample(ms(1), &config);
        assert_eq!(
            rtt.rto(&config),
            config.rto_min,
            "a sample ends the back-off"
        );
    }

    #[test]
    fn a_lost_syn_makes_it_three_seconds() {
        let config = Config::default();
        let mut rtt = RttEstimator::new(&config);
        rtt.back_off();
        rtt.on_syn_lost(&config);
        assert_eq!(rtt.rto(&config), ms(3_000));
    }
}
