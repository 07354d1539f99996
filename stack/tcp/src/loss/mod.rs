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

use crate::congestion::{AckSample, Controller};
use crate::payload::Payload;
use crate::snapshot::code;
use crate::snd::{Acked, SendQueue};

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
        cwnd_limited: bool,
        mss: u32,
    ) {
        self.duplicates = 0;
        let whole = snd.una.at_or_after(self.recover);
        match self.mode {
            Mode::FastRecovery if whole => {
                congestion.on_recovered(snd.flight(), mss);
                self.mode = Mode::Open;
            }
            Mode::FastRecovery => {
                // RFC 6582 3.2 (5): the acknowledgment stops at the next hole.
                congestion.on_partial_ack(acked.seq_len, mss);
                snd.mark_lost(0);
            }
            Mode::Open | Mode::AfterTimeout => {
                let after_timeout = self.mode == Mode::AfterTimeout && !whole;
                if !after_timeout {
                    self.mode = Mode::Open;
                }
                congestion.on_ack(
                    AckSample {
                        acked: acked.bytes,
                        flight: acked.flight,
                        cwnd_limited,
                        after_timeout,
                    },
                    mss,
                );
            }
        }
    }

    /// A duplicate ACK while something is outstanding.
    pub(crate) fn on_duplicate<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        congestion: &mut Controller,
        mss: u32,
    ) {
        match self.mode {
            Mode::FastRecovery => congestion.on_recovery_duplicate(mss),
            Mode::AfterTimeout => {}
            Mode::Open => {
                self.duplicates = self.duplicates.saturating_add(1);
                // RFC 6582 3.2 (2): not for duplicates that our own retransmissions brought about.
                if self.duplicates == DUPLICATE_THRESHOLD && snd.una.after(self.recover) {
                    self.mode = Mode::FastRecovery;
                    self.recover = snd.nxt;
                    self.fast_recoveries = self.fast_recoveries.saturating_add(1);
                    congestion.on_loss(snd.flight(), mss);
                    snd.mark_lost(0);
                }
            }
        }
    }

    /// The retransmission timer ran out; `again`: for the same data as the last time.
    pub(crate) fn on_timeout<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        congestion: &mut Controller,
        again: bool,
        mss: u32,
    ) {
        congestion.on_timeout(snd.flight(), again, mss);
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
