//! NewReno: slow start, congestion avoidance (RFC 5681).
//!
//! Two recorded choices. In slow start the window grows by all bytes acknowledged, not by one segment an ACK: receivers
//! that acknowledge once a burst would make it crawl otherwise (RFC 3465 without its limit L, as Linux does); after a
//! time-out, when one ACK may cover what arrived long ago, the limit of one segment stands. And a window that the sender
//! does not use does not grow (the point of RFC 7661).

use super::{AckSample, Moment, Recovery, initial_window};
use crate::snapshot::code;

/// Far above any path, far below overflow.
const WINDOW_MAX: u32 = 1 << 30;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewReno {
    cwnd: u32,
    ssthresh: u32,
    /// Window and threshold before the last reduction.
    prior_cwnd: u32,
    prior_ssthresh: u32,
    /// Bytes acknowledged towards the next growth in congestion avoidance.
    credit: u32,
}

code!(struct NewReno { cwnd, ssthresh, prior_cwnd, prior_ssthresh, credit });

impl NewReno {
    pub(super) fn new(mss: u32) -> Self {
        // RFC 5681 3.1: the threshold begins arbitrarily high.
        Self {
            cwnd: initial_window(mss),
            ssthresh: u32::MAX,
            prior_cwnd: 0,
            prior_ssthresh: 0,
            credit: 0,
        }
    }

    pub(super) fn window(&self) -> u32 {
        self.cwnd
    }

    pub(super) fn set_window(&mut self, bytes: u32) {
        self.cwnd = bytes.min(WINDOW_MAX);
    }

    pub(super) fn ssthresh(&self) -> u32 {
        self.ssthresh
    }

    pub(super) fn on_ack(&mut self, sample: &AckSample) {
        let after_timeout = match sample.recovery {
            Recovery::Open => false,
            Recovery::Fast => return,
            Recovery::AfterTimeout => true,
        };
        let (mss, flight) = (sample.mss, sample.flight_before);
        if self.cwnd < self.ssthresh {
            // Slow start doubles the window in a round trip, so half of it in use is enough proof.
            if flight >= self.cwnd / 2 {
                let growth = if after_timeout {
                    sample.acked.min(mss)
                } else {
                    sample.acked
                };
                self.grow(growth);
            }
        } else if flight.saturating_add(mss) >= self.cwnd
            || (sample.cwnd_limited && flight >= self.cwnd / 2)
        {
            // RFC 5681 3.1: one segment a window, counted by bytes.
            self.credit = self.credit.saturating_add(sample.acked);
            if self.credit >= self.cwnd {
                self.credit -= self.cwnd;
                self.grow(mss);
            }
        }
    }

    pub(super) fn on_enter_recovery(&mut self, moment: Moment) {
        self.remember();
        self.halve(moment);
        self.cwnd = self.ssthresh;
    }

    pub(super) fn on_exit_recovery(&mut self, moment: Moment) {
        // RFC 6582 3.2 (3), the first option: no burst.
        self.cwnd = self
            .ssthresh
            .min(moment.flight.max(moment.mss) + moment.mss);
        self.credit = 0;
    }

    pub(super) fn on_timeout(&mut self, moment: Moment, again: bool) {
        // RFC 5681 3.1: the threshold stands when the same data is lost again.
        if !again {
            self.remember();
            self.halve(moment);
        }
        // The loss window.
        self.cwnd = moment.mss;
        self.credit = 0;
    }

    pub(super) fn on_undo(&mut self) {
        self.cwnd = self.cwnd.max(self.prior_cwnd);
        self.ssthresh = self.ssthresh.max(self.prior_ssthresh);
    }

    pub(super) fn on_idle(&mut self, moment: Moment) {
        // RFC 5681 4.1: the restart window.
        self.cwnd = self.cwnd.min(initial_window(moment.mss));
    }

    pub(super) fn on_mss(&mut self, moment: Moment) {
        self.cwnd = self.cwnd.max(moment.mss);
    }

    pub(super) fn on_established(&mut self, moment: Moment, syn_lost: bool) {
        // A SYN that was lost says nothing of the path's capacity: the threshold is high again (as in Linux).
        self.ssthresh = u32::MAX;
        // RFC 5681 3.1: after a lost SYN one segment.
        self.cwnd = if syn_lost {
            moment.mss
        } else {
            initial_window(moment.mss)
        };
    }

    fn remember(&mut self) {
        self.prior_cwnd = self.cwnd;
        self.prior_ssthresh = self.ssthresh;
    }

    /// RFC 5681 3.1, equation 4.
    fn halve(&mut self, moment: Moment) {
        self.ssthresh = (moment.flight / 2).max(2 * moment.mss);
        self.credit = 0;
    }

    fn grow(&mut self, bytes: u32) {
        self.cwnd = self.cwnd.saturating_add(bytes).min(WINDOW_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::RateSample;
    use crate::time::Instant;

    const MSS: u32 = 1_000;

    fn ack(acked: u32, flight: u32) -> AckSample {
        AckSample {
            now: Instant::ZERO,
            mss: MSS,
            delivered: acked,
            acked,
            lost: 0,
            flight_before: flight,
            flight: flight.saturating_sub(acked),
            rtt: None,
            rate: RateSample::default(),
            cwnd_limited: false,
            ecn_echo: false,
            sack: true,
            recovery: Recovery::Open,
        }
    }

    fn moment(flight: u32) -> Moment {
        Moment {
            now: Instant::ZERO,
            mss: MSS,
            flight,
        }
    }

    #[test]
    fn initial_window_by_segment_size() {
        assert_eq!(initial_window(1_460), 14_600);
        assert_eq!(initial_window(536), 5_360);
        assert_eq!(initial_window(9_000), 18_000);
    }

    #[test]
    fn slow_start_then_avoidance() {
        let mut reno = NewReno::new(MSS);
        reno.on_ack(&ack(10_000, 10_000));
        assert_eq!(reno.window(), 20_000);
        reno.on_enter_recovery(moment(20_000));
        assert_eq!((reno.ssthresh(), reno.window()), (10_000, 10_000));
        reno.on_exit_recovery(moment(20_000));
        assert_eq!(reno.window(), 10_000);
        for _ in 0..9 {
            reno.on_ack(&ack(1_000, 10_000));
            assert_eq!(reno.window(), 10_000);
        }
        reno.on_ack(&ack(1_000, 10_000));
        assert_eq!(reno.window(), 11_000);
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let mut reno = NewReno::new(MSS);
        reno.on_ack(&ack(1_000, 1_000));
        assert_eq!(reno.window(), 10_000);
        // Once limited is not always limited: since then something else may hold the sender back.
        let once_limited = AckSample {
            cwnd_limited: true,
            ..ack(1_000, 1_000)
        };
        reno.on_ack(&once_limited);
        assert_eq!(reno.window(), 10_000);
    }

    #[test]
    fn a_second_time_out_keeps_the_threshold() {
        let mut reno = NewReno::new(MSS);
        reno.on_timeout(moment(10_000), false);
        assert_eq!((reno.window(), reno.ssthresh()), (1_000, 5_000));
        reno.on_timeout(moment(1_000), true);
        assert_eq!((reno.window(), reno.ssthresh()), (1_000, 5_000));
        reno.on_ack(&AckSample {
            recovery: Recovery::AfterTimeout,
            ..ack(9_000, 1_000)
        });
        assert_eq!(reno.window(), 2_000);
    }

    #[test]
    fn what_was_reduced_for_nothing_is_given_back() {
        let mut reno = NewReno::new(MSS);
        reno.on_ack(&ack(10_000, 10_000));
        reno.on_timeout(moment(20_000), false);
        reno.on_timeout(moment(1_000), true);
        reno.on_undo();
        assert_eq!((reno.window(), reno.ssthresh()), (20_000, u32::MAX));
    }
}
