//! NewReno: slow start, congestion avoidance (RFC 5681), window in fast recovery (RFC 6582).
//!
//! Two recorded choices. In slow start the window grows by all bytes acknowledged, not by one segment an ACK: receivers
//! that acknowledge once a burst would make it crawl otherwise (RFC 3465 without its limit L, as Linux does); after a
//! time-out, when one ACK may cover what arrived long ago, the limit of one segment stands. And a window that the sender
//! does not use does not grow (the point of RFC 7661).

use super::{AckSample, initial_window};
use crate::snapshot::code;

/// Far above any path, far below overflow.
const WINDOW_MAX: u32 = 1 << 30;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewReno {
    cwnd: u32,
    ssthresh: u32,
    /// Bytes acknowledged towards the next growth in congestion avoidance.
    credit: u32,
}

code!(struct NewReno { cwnd, ssthresh, credit });

impl NewReno {
    pub(super) fn new(mss: u32) -> Self {
        // RFC 5681 3.1: the threshold begins arbitrarily high.
        Self {
            cwnd: initial_window(mss),
            ssthresh: u32::MAX,
            credit: 0,
        }
    }

    pub(super) fn window(&self) -> u32 {
        self.cwnd
    }

    pub(super) fn ssthresh(&self) -> u32 {
        self.ssthresh
    }

    pub(super) fn on_ack(&mut self, sample: AckSample, mss: u32) {
        if self.cwnd < self.ssthresh {
            // Slow start doubles the window in a round trip, so half of it in use is enough proof.
            if sample.flight >= self.cwnd / 2 {
                let growth = if sample.after_timeout {
                    sample.acked.min(mss)
                } else {
                    sample.acked
                };
                self.grow(growth);
            }
        } else if sample.flight.saturating_add(mss) >= self.cwnd
            || (sample.cwnd_limited && sample.flight >= self.cwnd / 2)
        {
            // RFC 5681 3.1: one segment a window, counted by bytes.
            self.credit = self.credit.saturating_add(sample.acked);
            if self.credit >= self.cwnd {
                self.credit -= self.cwnd;
                self.grow(mss);
            }
        }
    }

    pub(super) fn on_loss(&mut self, flight: u32, mss: u32) {
        self.halve(flight, mss);
        // RFC 5681 3.2 (3): three segments have left the network.
        self.cwnd = self.ssthresh;
        self.grow(3 * mss);
    }

    pub(super) fn on_recovery_duplicate(&mut self, mss: u32) {
        self.grow(mss);
    }

    pub(super) fn on_partial_ack(&mut self, acked: u32, mss: u32) {
        // RFC 6582 3.2 (5): deflate by what was acknowledged, then add a segment for the one that is sent again.
        self.cwnd = self.cwnd.saturating_sub(acked).max(mss);
        if acked >= mss {
            self.grow(mss);
        }
    }

    pub(super) fn on_recovered(&mut self, flight: u32, mss: u32) {
        // RFC 6582 3.2 (3), the first option: no burst.
        self.cwnd = self.ssthresh.min(flight.max(mss) + mss);
        self.credit = 0;
    }

    pub(super) fn on_timeout(&mut self, flight: u32, again: bool, mss: u32) {
        // RFC 5681 3.1: the threshold stands when the same data is lost again.
        if !again {
            self.halve(flight, mss);
        }
        // The loss window.
        self.cwnd = mss;
        self.credit = 0;
    }

    pub(super) fn on_idle(&mut self, mss: u32) {
        // RFC 5681 4.1: the restart window.
        self.cwnd = self.cwnd.min(initial_window(mss));
    }

    pub(super) fn on_established(&mut self, mss: u32, syn_lost: bool) {
        // A SYN that was lost says nothing of the path's capacity: the threshold is high again (as in Linux).
        self.ssthresh = u32::MAX;
        // RFC 5681 3.1: after a lost SYN one segment.
        self.cwnd = if syn_lost { mss } else { initial_window(mss) };
    }

    /// RFC 5681 3.1, equation 4.
    fn halve(&mut self, flight: u32, mss: u32) {
        self.ssthresh = (flight / 2).max(2 * mss);
        self.credit = 0;
    }

    fn grow(&mut self, bytes: u32) {
        self.cwnd = self.cwnd.saturating_add(bytes).min(WINDOW_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1_000;

    fn ack(acked: u32, flight: u32) -> AckSample {
        AckSample {
            acked,
            flight,
            cwnd_limited: false,
            after_timeout: false,
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
        reno.on_ack(ack(10_000, 10_000), MSS);
        assert_eq!(reno.window(), 20_000);
        reno.on_loss(20_000, MSS);
        assert_eq!((reno.ssthresh(), reno.window()), (10_000, 13_000));
        reno.on_recovered(20_000, MSS);
        assert_eq!(reno.window(), 10_000);
        for _ in 0..9 {
            reno.on_ack(ack(1_000, 10_000), MSS);
            assert_eq!(reno.window(), 10_000);
        }
        reno.on_ack(ack(1_000, 10_000), MSS);
        assert_eq!(reno.window(), 11_000);
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let mut reno = NewReno::new(MSS);
        reno.on_ack(ack(1_000, 1_000), MSS);
        assert_eq!(reno.window(), 10_000);
        // Once limited is not always limited: since then something else may hold the sender back.
        let once_limited = AckSample {
            cwnd_limited: true,
            ..ack(1_000, 1_000)
        };
        reno.on_ack(once_limited, MSS);
        assert_eq!(reno.window(), 10_000);
    }

    #[test]
    fn a_second_time_out_keeps_the_threshold() {
        let mut reno = NewReno::new(MSS);
        reno.on_timeout(10_000, false, MSS);
        assert_eq!((reno.window(), reno.ssthresh()), (1_000, 5_000));
        reno.on_timeout(1_000, true, MSS);
        assert_eq!((reno.window(), reno.ssthresh()), (1_000, 5_000));
        reno.on_ack(
            AckSample {
                after_timeout: true,
                ..ack(9_000, 1_000)
            },
            MSS,
        );
        assert_eq!(reno.window(), 2_000);
    }

    #[test]
    fn partial_acknowledgments_deflate() {
        let mut reno = NewReno::new(MSS);
        reno.on_loss(10_000, MSS);
        assert_eq!(reno.window(), 8_000);
        reno.on_recovery_duplicate(MSS);
        reno.on_partial_ack(4_000, MSS);
        assert_eq!(reno.window(), 6_000);
    }
}
