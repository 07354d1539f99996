//! Proportional rate reduction (RFC 9937, which replaces RFC 6937): how much may leave while fast recovery lasts.
//!
//! The window comes down to the slow-start threshold by the end of recovery, in proportion to what arrives: while more than
//! the threshold is on the way, `ssthresh / flight` bytes leave for each byte delivered. When losses have brought it below
//! the threshold, as much leaves as is delivered (conservation of packets); and if the ACK that says so also fills a hole
//! without telling of new losses, a segment more (slow start). Controllers that set their own window in recovery (BBR) do
//! not use it.

use crate::snapshot::code;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prr {
    /// prr_delivered.
    delivered: u32,
    /// prr_out.
    out: u32,
    /// RecoverFS: bytes on the way that recovery will see delivered or lost.
    flight: u32,
}

code!(struct Prr { delivered, out, flight });

/// What an ACK in recovery says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Bytes delivered by it (DeliveredData).
    pub(super) delivered: u32,
    /// Bytes on the way after it.
    pub(super) pipe: u32,
    pub(super) ssthresh: u32,
    pub(super) mss: u32,
    /// It moved `snd.una` and told of no further loss (SafeACK).
    pub(super) safe: bool,
}

impl Prr {
    pub(super) fn new(flight: u32) -> Self {
        Self {
            delivered: 0,
            out: 0,
            flight: flight.max(1),
        }
    }

    /// Bytes were sent, for the first time or again.
    pub(super) fn on_sent(&mut self, bytes: u32) {
        self.out = self.out.saturating_add(bytes);
    }

    /// The congestion window after an ACK (RFC 9937 6.2).
    pub(super) fn window(&mut self, step: Step) -> u32 {
        self.delivered = self.delivered.saturating_add(step.delivered);
        let (delivered, out) = (u64::from(self.delivered), u64::from(self.out));
        let mut room = if step.pipe > step.ssthresh {
            let share = (delivered * u64::from(step.ssthresh)).div_ceil(self.flight.into());
            share.saturating_sub(out)
        } else {
            let mut room = delivered.saturating_sub(out).max(step.delivered.into());
            if step.safe {
                room += u64::from(step.mss);
            }
            room.min((step.ssthresh - step.pipe).into())
        };
        if self.out == 0 {
            // The retransmission that recovery begins with waits for nothing.
            room = room.max(step.mss.into());
        }
        u32::try_from(u64::from(step.pipe) + room).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1_000;

    fn step(delivered: u32, pipe: u32, ssthresh: u32, safe: bool) -> Step {
        Step {
            delivered,
            pipe,
            ssthresh,
            mss: MSS,
            safe,
        }
    }

    #[test]
    fn one_loss_of_twenty_halves_the_window_smoothly() {
        // Twenty on the way, one lost: nineteen duplicates arrive, ten segments leave.
        let mut prr = Prr::new(20 * MSS);
        let mut pipe = 19 * MSS;
        let mut sent = 0;
        for _ in 0..19 {
            pipe -= MSS;
            let window = prr.window(step(MSS, pipe, 10 * MSS, false));
            while pipe + MSS <= window {
                pipe += MSS;
                sent += 1;
                prr.on_sent(MSS);
            }
        }
        assert_eq!((sent, pipe), (10, 10 * MSS));
    }

    #[test]
    fn below_the_threshold_packets_are_conserved_unless_the_ack_is_safe() {
        let mut prr = Prr::new(20 * MSS);
        prr.on_sent(MSS);
        let held = prr.window(step(MSS, 4 * MSS, 10 * MSS, false));
        assert_eq!(held, 5 * MSS, "one delivered, one may leave");
        prr.on_sent(MSS);
        let grown = prr.window(step(MSS, 4 * MSS, 10 * MSS, true));
        assert_eq!(grown, 6 * MSS, "and one more");
        let capped = prr.window(step(20 * MSS, 9 * MSS, 10 * MSS, true));
        assert_eq!(capped, 10 * MSS, "never beyond the threshold");
    }

    #[test]
    fn the_first_retransmission_goes_at_once() {
        let mut prr = Prr::new(10 * MSS);
        assert_eq!(
            prr.window(step(0, 9 * MSS, 5 * MSS, false)),
            10 * MSS,
            "though twice the threshold is on the way"
        );
        prr.on_sent(MSS);
        assert_eq!(prr.window(step(0, 10 * MSS, 5 * MSS, false)), 10 * MSS);
    }
}
