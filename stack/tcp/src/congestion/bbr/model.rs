//! The model of the path: rounds, whether the pipe is full, least round-trip time, bounds that losses set, aggregation.

use super::{AckSample, BETA, HEADROOM, INFINITE, MIN_PIPE_SEGMENTS};
use crate::snapshot::code;
use crate::time::{Duration, Instant};

/// BBR.MinRTTFilterLen and BBR.ProbeRTTInterval.
const MIN_RTT_FILTER: Duration = Duration::from_secs(10);
const PROBE_RTT_INTERVAL: Duration = Duration::from_secs(5);

/// Round trips counted by packets (5.5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rounds {
    next_delivered: u64,
    pub(super) count: u32,
    /// A round began with this ACK.
    pub(super) start: bool,
}

code!(struct Rounds { next_delivered, count, start });

impl Rounds {
    pub(super) fn update(&mut self, sample: &AckSample) {
        self.start = sample.rate.prior_delivered >= self.next_delivered;
        if self.start {
            self.begin(sample);
            self.count = self.count.wrapping_add(1);
        }
    }

    /// StartRound.
    pub(super) fn begin(&mut self, sample: &AckSample) {
        self.next_delivered = sample.rate.total_delivered;
    }
}

/// Whether more sending brings more (5.3.1.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FullPipe {
    bw: u64,
    count: u8,
    pub(super) now: bool,
    /// Ever.
    pub(super) reached: bool,
}

code!(struct FullPipe { bw, count, now, reached });

impl FullPipe {
    pub(super) fn reset(&mut self) {
        *self = Self {
            reached: self.reached,
            ..Self::default()
        };
    }

    /// Begins anew, from the bandwidth of this sample on.
    pub(super) fn restart(&mut self, sample: &AckSample) {
        self.reset();
        self.bw = sample.rate.rate().unwrap_or(0);
    }

    pub(super) fn check(&mut self, sample: &AckSample, round_start: bool) {
        if self.now || !round_start || sample.rate.app_limited {
            return;
        }
        let Some(rate) = sample.rate.rate() else {
            return;
        };
        if u128::from(rate) * 4 >= u128::from(self.bw) * 5 {
            return self.restart(sample);
        }
        self.count += 1;
        self.now = self.count >= 3;
        self.reached |= self.now;
    }
}

/// The least round-trip time lately, and when to look for it on purpose (5.3.4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MinRtt {
    min: Option<Duration>,
    stamp: Instant,
    probe_min: Option<Duration>,
    pub(super) probe_stamp: Instant,
    pub(super) probe_expired: bool,
}

code!(struct MinRtt { min, stamp, probe_min, probe_stamp, probe_expired });

impl MinRtt {
    pub(super) fn new() -> Self {
        Self {
            min: None,
            stamp: Instant::ZERO,
            probe_min: None,
            probe_stamp: Instant::ZERO,
            probe_expired: false,
        }
    }

    pub(super) fn get(&self) -> Option<Duration> {
        self.min
    }

    pub(super) fn update(&mut self, sample: &AckSample) {
        let now = sample.now;
        self.probe_expired =
            self.probe_min.is_some() && now.since(self.probe_stamp) > PROBE_RTT_INTERVAL;
        if let Some(rtt) = sample.rate.rtt
            && (self.probe_expired || self.probe_min.is_none_or(|min| rtt < min))
        {
            self.probe_min = Some(rtt);
            self.probe_stamp = now;
        }
        let expired = now.since(self.stamp) > MIN_RTT_FILTER;
        if let Some(probe_min) = self.probe_min
            && (expired || self.min.is_none_or(|min| probe_min < min))
        {
            self.min = Some(probe_min);
            self.stamp = self.probe_stamp;
        }
    }
}

/// What losses have taught (5.5.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) bw_shortterm: u64,
    pub(super) inflight_shortterm: u32,
    pub(super) inflight_longterm: u32,
    undo: (u64, (u32, u32)),
    bw_latest: u64,
    pub(super) inflight_latest: u32,
    loss_round_delivered: u64,
    pub(super) loss_round_start: bool,
    pub(super) is_loss_in_round: bool,
    /// ACKs in this round that found losses.
    pub(super) loss_events: u8,
}

code!(struct Bounds {
    bw_shortterm, inflight_shortterm, inflight_longterm, undo, bw_latest, inflight_latest,
    loss_round_delivered, loss_round_start, is_loss_in_round, loss_events
});

impl Bounds {
    pub(super) fn new() -> Self {
        Self {
            bw_shortterm: u64::MAX,
            inflight_shortterm: INFINITE,
            inflight_longterm: INFINITE,
            undo: (u64::MAX, (INFINITE, INFINITE)),
            bw_latest: 0,
            inflight_latest: 0,
            loss_round_delivered: 0,
            loss_round_start: false,
            is_loss_in_round: false,
            loss_events: 0,
        }
    }

    pub(super) fn update_latest(&mut self, sample: &AckSample) {
        self.bw_latest = self.bw_latest.max(sample.rate.rate().unwrap_or(0));
        self.inflight_latest = self.inflight_latest.max(sample.rate.delivered);
        self.loss_round_start = sample.rate.prior_delivered >= self.loss_round_delivered;
        if self.loss_round_start {
            self.loss_round_delivered = sample.rate.total_delivered;
        }
    }

    pub(super) fn advance_latest(&mut self, sample: &AckSample) {
        if self.loss_round_start {
            self.bw_latest = sample.rate.rate().unwrap_or(0);
            self.inflight_latest = sample.rate.delivered;
            self.loss_events = 0;
        }
    }

    /// NoteLoss; the first loss of a round begins the round that is judged by it.
    pub(super) fn note_loss_in(&mut self, sample: &AckSample) {
        if !self.is_loss_in_round {
            self.loss_round_delivered = sample.rate.total_delivered;
            self.save();
        }
        self.loss_events = self.loss_events.saturating_add(1);
        self.is_loss_in_round = true;
    }

    pub(super) fn note_loss(&mut self) {
        self.is_loss_in_round = true;
    }

    /// ResetCongestionSignals.
    pub(super) fn reset_signals(&mut self) {
        self.is_loss_in_round = false;
        self.bw_latest = 0;
        self.inflight_latest = 0;
    }

    /// ResetShortTermModel.
    pub(super) fn reset_shortterm(&mut self) {
        self.bw_shortterm = u64::MAX;
        self.inflight_shortterm = INFINITE;
    }

    /// InitLowerBounds and LossLowerBounds.
    pub(super) fn lower(&mut self, max_bw: u64, cwnd: u32) {
        if self.bw_shortterm == u64::MAX {
            self.bw_shortterm = max_bw;
        }
        if self.inflight_shortterm == INFINITE {
            self.inflight_shortterm = cwnd;
        }
        self.bw_shortterm = self.bw_latest.max(self.bw_shortterm / 100 * BETA);
        self.inflight_shortterm = self
            .inflight_latest
            .max((u64::from(self.inflight_shortterm) * BETA / 100) as u32);
    }

    /// InflightWithHeadroom.
    pub(super) fn with_headroom(&self, mss: u32) -> u32 {
        if self.inflight_longterm == INFINITE {
            return INFINITE;
        }
        let headroom = ((u64::from(self.inflight_longterm) * HEADROOM / 100) as u32).max(mss);
        self.inflight_longterm
            .saturating_sub(headroom)
            .max(MIN_PIPE_SEGMENTS * mss)
    }

    pub(super) fn save(&mut self) {
        self.undo = (
            self.bw_shortterm,
            (self.inflight_shortterm, self.inflight_longterm),
        );
    }

    pub(super) fn undo(&mut self) {
        let (bw_shortterm, (shortterm, longterm)) = self.undo;
        self.is_loss_in_round = false;
        self.bw_shortterm = self.bw_shortterm.max(bw_shortterm);
        self.inflight_shortterm = self.inflight_shortterm.max(shortterm);
        self.inflight_longterm = self.inflight_longterm.max(longterm);
    }
}

/// How much more than the bandwidth explains comes in one ACK (5.5.9): the window makes room for it. A maximum over ten
/// rounds, in two halves; over one round in Startup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AckAggregation {
    interval_start: Instant,
    delivered: u64,
    extra: (u32, u32),
    rounds: u8,
}

code!(struct AckAggregation { interval_start, delivered, extra, rounds });

impl AckAggregation {
    pub(super) fn extra_acked(&self) -> u32 {
        self.extra.0.max(self.extra.1)
    }

    pub(super) fn restart(&mut self, now: Instant) {
        self.interval_start = now;
        self.delivered = 0;
    }

    pub(super) fn update(
        &mut self,
        sample: &AckSample,
        bw: u64,
        cwnd: u32,
        round_start: bool,
        full: bool,
    ) {
        if round_start {
            self.rounds += 1;
            let half = if full { 5 } else { 1 };
            if self.rounds >= half {
                self.rounds = 0;
                self.extra = (0, self.extra.0);
            }
        }
        let nanos = sample.now.since(self.interval_start).as_nanos();
        let mut expected = u128::from(bw) * u128::from(nanos) / 1_000_000_000;
        if u128::from(self.delivered) <= expected {
            self.restart(sample.now);
            expected = 0;
        }
        self.delivered = self.delivered.saturating_add(sample.delivered.into());
        let extra = u128::from(self.delivered).saturating_sub(expected);
        let extra = u32::try_from(extra).unwrap_or(cwnd).min(cwnd);
        self.extra.0 = self.extra.0.max(extra);
    }
}
