//! Loss detection: which segments are believed lost, and when recovery begins and ends. NewReno (RFC 5681, RFC 6582).
//!
//! The interface is three events in and marks out. `on_ack`, `on_duplicate` and `on_timeout` look at the send queue and
//! call [`SendQueue::mark_lost`]; `transmit` sends what is marked, as far as the congestion window lets it, the oldest
//! outstanding segment always. RACK-TLP replaces the bodies here: the records know when they were sent, and SACK blocks
//! come with the same calls; its two timers join `timer`. Nothing in `snd` or `transmit` knows which algorithm marked.
//!
//! Two recorded choices. The retransmission timer starts anew at every partial acknowledgment ("slow but steady", RFC 6582
//! 4): with a floor of 200 ms the other choice turns each burst loss on a short path into a time-out. And SACK blocks in
//! a duplicate ACK make it one even if the window changed with it (the definition of RFC 6675 2).

use bywash_wire::SeqNumber;

use crate::congestion::{AckSample, Controller, Moment, Recovery};
use crate::payload::Payload;
use crate::snapshot::code;
use crate::snd::{Acked, SendQueue};
use crate::time::{Duration, Instant};

/// Duplicate ACKs that mean a loss (RFC 5681 3.2).
const DUPLICATE_THRESHOLD: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    /// From the third duplicate ACK to the acknowledgment of `recover`.
    FastRecovery,
    /// From a time-out to the acknowledgment of `recover`.
    AfterTimeout,
}

code!(
    enum Mode {
        Open = 0,
        FastRecovery = 1,
        AfterTimeout = 2,
    }
);

/// What an ACK brings besides what it acknowledges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckContext {
    pub(crate) now: Instant,
    /// Payload of a full segment.
    pub(crate) mss: u32,
    /// The round-trip time it measures.
    pub(crate) rtt: Option<Duration>,
    /// The smoothed one, and the smallest ever measured.
    pub(crate) srtt: Duration,
    pub(crate) min_rtt: Duration,
    /// The congestion window was what stopped the last transmissions.
    pub(crate) cwnd_limited: bool,
    /// It carries ECE.
    pub(crate) ecn_echo: bool,
    /// Selective acknowledgments are agreed on.
    pub(crate) sack: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LossDetection {
    mode: Mode,
    /// `snd.nxt` when recovery began; the initial sequence number before.
    recover: SeqNumber,
    duplicates: u32,
    /// Times fast recovery was entered.
    pub(crate) fast_recoveries: u32,
}

code!(struct LossDetection { mode, recover, duplicates, fast_recoveries });

impl LossDetection {
    pub(crate) fn new(iss: SeqNumber) -> Self {
        Self {
            mode: Mode::Open,
            recover: iss,
            duplicates: 0,
            fast_recoveries: 0,
        }
    }

    /// `acked` was just taken off the queue.
    pub(crate) fn on_ack<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        congestion: &mut Controller,
        acked: &Acked,
        context: AckContext,
    ) {
        self.duplicates = 0;
        let whole = snd.una.at_or_after(self.recover);
        let mss = context.mss;
        match self.mode {
            Mode::FastRecovery if !whole => {
                // RFC 6582 3.2 (5): the acknowledgment stops at the next hole. The window is deflated by what was
                // acknowledged; then a segment is added for the one that is sent again.
                snd.mark_lost(0);
                let deflated = congestion.window().saturating_sub(acked.seq_len).max(mss);
                let again = if acked.seq_len >= mss { mss } else { 0 };
                self.tell(snd, congestion, acked, context);
                congestion.set_recovery_window(deflated + again);
            }
            Mode::FastRecovery => {
                self.tell(snd, congestion, acked, context);
                congestion.on_exit_recovery(Self::moment(snd, context.now, mss));
                self.mode = Mode::Open;
            }
            Mode::Open | Mode::AfterTimeout => {
                if whole {
                    self.mode = Mode::Open;
                }
                self.tell(snd, congestion, acked, context);
            }
        }
    }

    /// A duplicate ACK while something is outstanding.
    pub(crate) fn on_duplicate<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        congestion: &mut Controller,
        context: AckContext,
    ) {
        let mss = context.mss;
        let acked = Acked {
            pipe_before: snd.pipe(),
            lost_before: snd.rate.lost,
            ..Acked::default()
        };
        match self.mode {
            Mode::FastRecovery => {
                self.tell(snd, congestion, &acked, context);
                // RFC 5681 3.2 (4): a segment has left the network, unknown which.
                congestion.set_recovery_window(congestion.window().saturating_add(mss));
            }
            Mode::AfterTimeout => self.tell(snd, congestion, &acked, context),
            Mode::Open => {
                self.duplicates = self.duplicates.saturating_add(1);
                // RFC 6582 3.2 (2): not for duplicates that our own retransmissions brought about.
                let lost = self.duplicates == DUPLICATE_THRESHOLD && snd.una.after(self.recover);
                if lost {
                    self.mode = Mode::FastRecovery;
                    self.recover = snd.nxt;
                    self.fast_recoveries = self.fast_recoveries.saturating_add(1);
                    congestion.on_enter_recovery(Self::moment(snd, context.now, mss));
                    snd.mark_lost(0);
                }
                self.tell(snd, congestion, &acked, context);
                if lost {
                    // RFC 5681 3.2 (3): three segments have left the network.
                    congestion.set_recovery_window(congestion.ssthresh() + 3 * mss);
                }
            }
        }
    }

    /// The controller's sample of one ACK.
    fn tell<P: Payload>(
        &self,
        snd: &mut SendQueue<P>,
        congestion: &mut Controller,
        acked: &Acked,
        context: AckContext,
    ) {
        let rate = snd
            .rate
            .sample(context.now, &acked.delivered, context.min_rtt);
        congestion.on_ack(&AckSample {
            now: context.now,
            mss: context.mss,
            delivered: acked.delivered.bytes,
            acked: acked.bytes,
            lost: snd.rate.lost.wrapping_sub(acked.lost_before),
            flight_before: acked.pipe_before,
            flight: snd.pipe(),
            rtt: context.rtt,
            srtt: context.srtt,
            rate,
            cwnd_limited: context.cwnd_limited,
            ecn_echo: context.ecn_echo,
            sack: context.sack,
            recovery: match self.mode {
                Mode::Open => Recovery::Open,
                Mode::FastRecovery => Recovery::Fast,
                Mode::AfterTimeout => Recovery::AfterTimeout,
            },
        });
    }

    fn moment<P: Payload>(snd: &SendQueue<P>, now: Instant, mss: u32) -> Moment {
        Moment {
            now,
            mss,
            flight: snd.flight(),
        }
    }

    /// The retransmission timer ran out; `again`: for the same data as the last time.
    pub(crate) fn on_timeout<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        congestion: &mut Controller,
        now: Instant,
        again: bool,
        mss: u32,
    ) {
        congestion.on_timeout(Self::moment(snd, now, mss), again);
        // RFC 6582 3.2 (4).
        self.recover = snd.nxt;
        self.mode = Mode::AfterTimeout;
        self.duplicates = 0;
        snd.mark_all_lost();
    }

    /// Bytes of new data that may go beyond the congestion window: limited transmit (RFC 3042), one segment for each of the
    /// first two duplicate ACKs.
    pub(crate) fn allowance(&self, mss: u32) -> u32 {
        match self.mode {
            Mode::Open => self.duplicates.min(DUPLICATE_THRESHOLD - 1) * mss,
            Mode::FastRecovery | Mode::AfterTimeout => 0,
        }
    }
}
