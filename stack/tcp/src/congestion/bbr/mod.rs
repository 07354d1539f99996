//! BBRv3 (draft-ietf-ccwg-bbr-06): a model of the path instead of a reaction to loss.
//!
//! ```text
//!  bandwidth x round-trip time = what fills the path without a queue         every ACK
//!                                                                               |
//!  Startup --full--> Drain --empty--> Down -> Cruise -> Refill -> Up --+     model.rs: max_bw, min_rtt, bounds by loss
//!                                      ^                               |        |
//!                                      +-------------------------------+     phases.rs: where in the cycle
//!  any --min_rtt is old--> ProbeRtt --200 ms--> Cruise (or Startup)             |
//!                                                                            here: pacing rate and window
//! ```
//! The names are the draft's. Bandwidths are bytes a second, volumes bytes, gains hundredths. Recorded choices: losses come
//! with the sample of the ACK that found them, not one by one ([`crate::rate::Excess`] keeps the first flight that lost too
//! much, which is all that the draft's HandleLostPacket acts on); six lossy ACKs stand for "six discontiguous ranges", as
//! in Linux. A congestion mark (RFC 3168) is answered as the loss of Beta, once a round, outside of probing: the draft
//! leaves ECN out, and a sender that asks for marks must not ignore them.

mod model;
mod phases;
#[cfg(test)]
mod tests;

use super::window::Window;
use super::{AckSample, Moment, Recovery, initial_window};
use crate::snapshot::code;
use crate::time::{Duration, Instant};
use model::{AckAggregation, Bounds, FullPipe, MinRtt, Rounds};

/// Unbounded.
const INFINITE: u32 = u32::MAX;
/// 2.8, BBR.PacingMarginPercent.
const PACING_MARGIN_PERCENT: u64 = 1;
/// BBR.MinPipeCwnd, in segments.
const MIN_PIPE_SEGMENTS: u32 = 4;
/// BBR.Beta and BBR.Headroom, in hundredths.
const BETA: u64 = 70;
const HEADROOM: u64 = 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Startup,
    Drain,
    Down,
    Cruise,
    Refill,
    Up,
    ProbeRtt,
}

code!(
    enum State {
        Startup = 0,
        Drain = 1,
        Down = 2,
        Cruise = 3,
        Refill = 4,
        Up = 5,
        ProbeRtt = 6,
    }
);

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Drain => "drain",
            Self::Down => "probe bandwidth: down",
            Self::Cruise => "probe bandwidth: cruise",
            Self::Refill => "probe bandwidth: refill",
            Self::Up => "probe bandwidth: up",
            Self::ProbeRtt => "probe round-trip time",
        }
    }

    /// 5.6.1, the table.
    fn pacing_gain(self) -> u64 {
        match self {
            Self::Startup => 277,
            Self::Drain => 50,
            Self::Down => 90,
            Self::Cruise | Self::Refill | Self::ProbeRtt => 100,
            Self::Up => 125,
        }
    }

    fn cwnd_gain(self) -> u64 {
        match self {
            Self::Up => 225,
            Self::ProbeRtt => 50,
            Self::Startup | Self::Drain | Self::Down | Self::Cruise | Self::Refill => 200,
        }
    }

    fn is_probe_bw(self) -> bool {
        matches!(self, Self::Down | Self::Cruise | Self::Refill | Self::Up)
    }

    /// IsProbingBW: accelerating on purpose, so that losses are no news.
    fn is_probing(self) -> bool {
        matches!(self, Self::Startup | Self::Refill | Self::Up)
    }
}

/// What the ACKs that come in now tell about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AckPhase {
    Init,
    Refilling,
    ProbeStarting,
    ProbeFeedback,
    ProbeStopping,
}

code!(
    enum AckPhase {
        Init = 0,
        Refilling = 1,
        ProbeStarting = 2,
        ProbeFeedback = 3,
        ProbeStopping = 4,
    }
);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bbr {
    pub(super) window: Window,
    state: State,
    ack_phase: AckPhase,
    rounds: Rounds,
    full: FullPipe,
    /// Largest bandwidths of the present cycle of probing and of the one before.
    max_bw: (u64, u64),
    /// What the path is taken to carry: `max_bw` within the bounds.
    bw: u64,
    pacing_rate: u64,
    min_rtt: MinRtt,
    bounds: Bounds,
    aggregation: AckAggregation,
    /// When the present cycle began, and how long until bandwidth is probed again.
    cycle_stamp: Instant,
    bw_probe_wait: Duration,
    rounds_since_probe_up: u32,
    probe_up_acked_per_inc: u32,
    bw_probe_up_acked: u32,
    bw_probe_up_rounds: u8,
    /// The ACKs are of data sent while probing, and no loss among it was answered yet.
    is_bw_probe_sample: bool,
    prev_probe_too_high: bool,
    prev_probe_precautionary: bool,
    drain_start_round: u32,
    /// The end of ProbeRTT, once its window is reached; whether a round has passed in it.
    probe_rtt_done_stamp: Option<Instant>,
    probe_rtt_round_done: bool,
    idle_restart: bool,
    recovery: Recovery,
    /// Which probing a loss ended, to come back to if the loss was none.
    undo_state: Option<State>,
    /// For the random parts of the cycle: flows must not probe in step.
    random: u32,
}

code!(struct Bbr {
    window, state, ack_phase, rounds, full, max_bw, bw, pacing_rate, min_rtt, bounds, aggregation, cycle_stamp,
    bw_probe_wait, rounds_since_probe_up, probe_up_acked_per_inc, bw_probe_up_acked, bw_probe_up_rounds,
    is_bw_probe_sample, prev_probe_too_high, prev_probe_precautionary, drain_start_round,
    probe_rtt_done_stamp, probe_rtt_round_done, idle_restart, recovery, undo_state, random
});

impl Bbr {
    /// OnInit (5.2.1). `seed`: any number that differs from flow to flow.
    pub(super) fn new(window: Window, seed: u32) -> Self {
        Self {
            window: Window {
                ssthresh: u32::MAX,
                ..window
            },
            state: State::Startup,
            ack_phase: AckPhase::Init,
            rounds: Rounds::default(),
            full: FullPipe::default(),
            max_bw: (0, 0),
            bw: 0,
            pacing_rate: 0,
            min_rtt: MinRtt::new(),
            bounds: Bounds::new(),
            aggregation: AckAggregation::default(),
            cycle_stamp: Instant::ZERO,
            bw_probe_wait: Duration::ZERO,
            rounds_since_probe_up: 0,
            probe_up_acked_per_inc: INFINITE,
            bw_probe_up_acked: 0,
            bw_probe_up_rounds: 0,
            is_bw_probe_sample: false,
            prev_probe_too_high: false,
            prev_probe_precautionary: false,
            drain_start_round: 0,
            probe_rtt_done_stamp: None,
            probe_rtt_round_done: false,
            idle_restart: false,
            recovery: Recovery::Open,
            undo_state: None,
            random: seed | 1,
        }
    }

    pub(super) fn phase(&self) -> &'static str {
        self.state.name()
    }

    pub(super) fn bandwidth(&self) -> u64 {
        self.bw
    }

    pub(super) fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt.get()
    }

    pub(super) fn has_filled_pipe(&self) -> bool {
        self.full.reached
    }

    /// In ProbeRTT samples of the rate are low on purpose.
    pub(super) fn is_probing_rtt(&self) -> bool {
        self.state == State::ProbeRtt
    }

    /// InitPacingRate (5.6.2) until there is a bandwidth.
    pub(super) fn pacing_rate(&self, srtt: Duration) -> u64 {
        if self.pacing_rate > 0 {
            return self.pacing_rate;
        }
        let nanos = if srtt == Duration::ZERO {
            1_000_000
        } else {
            srtt.as_nanos()
        };
        u64::from(self.window.cwnd) * 1_000_000_000 / 100 * State::Startup.pacing_gain() / nanos
    }

    /// UpdateOnACK (5.2.3).
    pub(super) fn on_ack(&mut self, sample: &AckSample) {
        if self.recovery == Recovery::AfterTimeout && sample.recovery == Recovery::Open {
            self.restore_cwnd();
        }
        self.recovery = sample.recovery;
        self.note_losses(sample);
        if !sample.rate.is_delivery {
            return;
        }
        self.update_model_and_state(sample);
        self.set_pacing_rate(self.state.pacing_gain());
        self.set_cwnd(sample);
    }

    fn update_model_and_state(&mut self, sample: &AckSample) {
        self.bounds.update_latest(sample);
        self.update_max_bw(sample);
        if self.bounds.loss_round_start {
            self.adapt_lower_bounds();
        }
        self.aggregation.update(
            sample,
            self.bw,
            self.window.cwnd,
            self.rounds.start,
            self.full.reached,
        );
        self.full.check(sample, self.rounds.start);
        self.check_startup_done(sample);
        self.check_drain_done(sample);
        self.update_probe_bw_cycle(sample);
        self.min_rtt.update(sample);
        self.check_probe_rtt(sample);
        self.bounds.advance_latest(sample);
        self.bw = self.max_bw().min(self.bounds.bw_shortterm);
    }

    fn max_bw(&self) -> u64 {
        self.max_bw.0.max(self.max_bw.1)
    }

    /// 5.5.5.
    fn update_max_bw(&mut self, sample: &AckSample) {
        self.rounds.update(sample);
        if self.rounds.start {
            self.rounds_since_probe_up = self.rounds_since_probe_up.saturating_add(1);
        }
        if let Some(rate) = sample.rate.rate()
            && (rate >= self.max_bw() || !sample.rate.app_limited)
        {
            self.max_bw.0 = self.max_bw.0.max(rate);
        }
    }

    /// AdvanceMaxBwFilter: the window is two cycles.
    fn advance_max_bw(&mut self) {
        self.max_bw = (0, self.max_bw.0);
    }

    fn set_pacing_rate(&mut self, gain: u64) {
        let rate = self.bw / 100 * gain / 100 * (100 - PACING_MARGIN_PERCENT);
        if self.full.reached || rate > self.pacing_rate {
            self.pacing_rate = rate;
        }
    }

    fn min_pipe(mss: u32) -> u32 {
        MIN_PIPE_SEGMENTS * mss
    }

    /// BDPMultiple, with a gain in hundredths.
    fn bdp(&self, bw: u64, gain: u64, mss: u32) -> u32 {
        let Some(min_rtt) = self.min_rtt.get() else {
            return initial_window(mss);
        };
        let bytes = u128::from(bw) * u128::from(min_rtt.as_nanos()) * u128::from(gain);
        u32::try_from(bytes / 100_000_000_000).unwrap_or(INFINITE)
    }

    /// QuantizationBudget.
    fn quantize(&self, inflight: u32, mss: u32) -> u32 {
        let quantum = u32::try_from(self.pacing_rate / 1_000).unwrap_or(INFINITE);
        let offload = 3 * quantum.min(65_536).max(2 * mss);
        let floor = inflight.max(offload).max(Self::min_pipe(mss));
        if self.state == State::Up {
            floor.saturating_add(2 * mss)
        } else {
            floor
        }
    }

    /// Inflight(gain).
    fn inflight(&self, bw: u64, gain: u64, mss: u32) -> u32 {
        self.quantize(self.bdp(bw, gain, mss), mss)
    }

    /// 5.6.4.6.
    fn set_cwnd(&mut self, sample: &AckSample) {
        let mss = sample.mss;
        let with_aggregation = self
            .bdp(self.bw, self.state.cwnd_gain(), mss)
            .saturating_add(self.aggregation.extra_acked());
        let max_inflight = self.quantize(with_aggregation, mss);
        let cwnd = self.window.cwnd;
        let grown = cwnd.saturating_add(sample.delivered);
        let next = if self.full.reached {
            grown.min(max_inflight)
        } else if cwnd < max_inflight
            || sample.rate.total_delivered < u64::from(initial_window(mss))
        {
            grown
        } else {
            cwnd
        };
        self.window.set(next.max(Self::min_pipe(mss)));
        self.bound_cwnd(mss);
    }

    /// BoundCwndForProbeRTT and BoundCwndForModel.
    fn bound_cwnd(&mut self, mss: u32) {
        let longterm = match self.state {
            State::Down | State::Refill | State::Up => self.bounds.inflight_longterm,
            State::ProbeRtt | State::Cruise => self.bounds.with_headroom(mss),
            State::Startup | State::Drain => INFINITE,
        };
        let cap = longterm
            .min(self.bounds.inflight_shortterm)
            .max(Self::min_pipe(mss));
        let mut cwnd = self.window.cwnd.min(cap);
        if self.state == State::ProbeRtt {
            cwnd = cwnd.min(self.probe_rtt_cwnd(mss));
        }
        self.window.cwnd = cwnd;
    }

    fn probe_rtt_cwnd(&self, mss: u32) -> u32 {
        self.bdp(self.bw, State::ProbeRtt.cwnd_gain(), mss)
            .max(Self::min_pipe(mss))
    }

    fn save_cwnd(&mut self) {
        let latest = self.window.cwnd;
        self.window.prior_cwnd = if self.recovery == Recovery::Open && self.state != State::ProbeRtt
        {
            latest
        } else {
            self.window.prior_cwnd.max(latest)
        };
    }

    fn restore_cwnd(&mut self) {
        self.window.cwnd = self.window.cwnd.max(self.window.prior_cwnd);
    }

    /// OnEnterFastRecovery.
    pub(super) fn on_enter_recovery(&mut self) {
        self.save_state();
        self.recovery = Recovery::Fast;
    }

    pub(super) fn on_exit_recovery(&mut self, moment: Moment) {
        self.restore_cwnd();
        self.recovery = Recovery::Open;
        self.bound_cwnd(moment.mss);
    }

    /// OnEnterRTO.
    pub(super) fn on_timeout(&mut self, moment: Moment) {
        self.save_state();
        self.bounds.note_loss();
        self.recovery = Recovery::AfterTimeout;
        self.window.cwnd = moment.mss;
    }

    /// SaveStateUponLoss (5.5.11.1).
    fn save_state(&mut self) {
        self.save_cwnd();
        self.undo_state = None;
        self.bounds.save();
    }

    /// HandleSpuriousLossDetection (5.5.11.2).
    pub(super) fn on_undo(&mut self, moment: Moment) {
        self.restore_cwnd();
        self.recovery = Recovery::Open;
        self.bounds.undo();
        self.full.reset();
        match self.undo_state.take() {
            Some(State::Startup) if self.state != State::Startup => {
                self.full.reached = false;
                if self.state != State::ProbeRtt {
                    self.state = State::Startup;
                }
            }
            Some(State::Up) if !matches!(self.state, State::Up | State::ProbeRtt) => {
                self.start_refill();
            }
            _ => {}
        }
        self.bound_cwnd(moment.mss);
    }

    /// The answer to a congestion mark; see the module.
    pub(super) fn on_ecn_echo(&mut self, moment: Moment) {
        if self.state.is_probing() {
            self.full.reached = true;
            self.bounds.inflight_longterm = self
                .bdp(self.bw, 100, moment.mss)
                .max(self.bounds.inflight_latest)
                .max(Self::min_pipe(moment.mss));
            match self.state {
                State::Startup => self.enter_drain(),
                _ => self.start_down(moment.now),
            }
        } else {
            self.adapt_to_congestion();
        }
        self.bw = self.max_bw().min(self.bounds.bw_shortterm);
        self.set_pacing_rate(self.state.pacing_gain());
        self.bound_cwnd(moment.mss);
    }

    /// HandleRestartFromIdle (5.4.1).
    pub(super) fn on_resume(&mut self, moment: Moment) {
        self.idle_restart = true;
        self.aggregation.restart(moment.now);
        if self.state.is_probe_bw() {
            self.set_pacing_rate(100);
        } else if self.state == State::ProbeRtt {
            self.check_probe_rtt_done(moment.now, moment.mss);
        }
    }

    /// A number below `n`, by xorshift.
    fn random_below(&mut self, n: u32) -> u32 {
        let mut x = self.random;
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.random = x;
        ((u64::from(x) * u64::from(n)) >> 32) as u32
    }
}
