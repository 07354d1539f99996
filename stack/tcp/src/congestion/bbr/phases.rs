//! Where BBR is in its cycle, and when it goes on (draft-ietf-ccwg-bbr-06, 5.3).

use super::{AckPhase, AckSample, BETA, Bbr, INFINITE, Recovery, State};
use crate::time::{Duration, Instant};

/// BBR.ProbeRTTDuration.
const PROBE_RTT_DURATION: Duration = Duration::from_millis(200);
/// BBRStartupFullLossCnt.
const STARTUP_LOSS_EVENTS: u8 = 6;
/// BBR.LossThresh, in hundredths.
const LOSS_THRESH: u64 = 2;
/// Rounds after which Drain ends in any case (5.3.2).
const DRAIN_ROUNDS_MAX: u32 = 3;
/// Rounds between probes that leave Reno its share (5.3.3.8).
const RENO_ROUNDS_MAX: u32 = 63;

/// IsInflightTooHigh.
fn is_too_high(sample: &AckSample) -> bool {
    let rate = &sample.rate;
    u64::from(rate.lost) * 100 > u64::from(rate.flight_at_send) * LOSS_THRESH
        || (rate.lost > 0 && !sample.sack)
}

impl Bbr {
    /// What the draft does for each segment when it is marked lost (5.5.10.2).
    pub(super) fn note_losses(&mut self, sample: &AckSample) {
        if sample.lost > 0 {
            self.bounds.note_loss_in(sample);
        }
        let excess = sample
            .rate
            .excess
            .map(|excess| (excess.flight, excess.app_limited));
        let without_sack = (sample.lost > 0 && !sample.sack)
            .then_some((sample.rate.flight_at_send, sample.rate.app_limited));
        if self.is_bw_probe_sample
            && let Some((flight, app_limited)) = excess.or(without_sack)
        {
            self.on_inflight_too_high(sample, flight, app_limited);
        }
    }

    /// HandleInflightTooHigh.
    fn on_inflight_too_high(&mut self, sample: &AckSample, flight: u32, app_limited: bool) {
        self.prev_probe_too_high = true;
        self.is_bw_probe_sample = false;
        if !app_limited {
            let target = self.target_inflight(sample.mss);
            let floor = (u64::from(target) * BETA / 100) as u32;
            self.bounds.inflight_longterm = flight.max(floor);
        }
        if self.state == State::Up {
            self.undo_state = Some(State::Up);
            self.start_down(sample.now);
            self.rounds.begin(sample);
        }
    }

    fn target_inflight(&self, mss: u32) -> u32 {
        self.bdp(self.bw, 100, mss).min(self.window.cwnd)
    }

    /// UpdateCongestionSignals, once a round.
    pub(super) fn adapt_lower_bounds(&mut self) {
        if self.bounds.is_loss_in_round && !self.state.is_probing() {
            self.adapt_to_congestion();
        }
        self.bounds.is_loss_in_round = false;
    }

    pub(super) fn adapt_to_congestion(&mut self) {
        let (max_bw, cwnd) = (self.max_bw(), self.window.cwnd);
        self.bounds.lower(max_bw, cwnd);
    }

    /// 5.3.1.
    pub(super) fn check_startup_done(&mut self, sample: &AckSample) {
        if self.state != State::Startup {
            return;
        }
        let many = if sample.sack {
            self.bounds.loss_round_start
                && self.bounds.loss_events >= STARTUP_LOSS_EVENTS
                && is_too_high(sample)
        } else {
            sample.lost > 0
        };
        if many && sample.recovery == Recovery::Fast {
            self.undo_state = Some(State::Startup);
            self.full.reached = true;
            self.bounds.inflight_longterm = self
                .bdp(self.bw, 100, sample.mss)
                .max(self.bounds.inflight_latest);
        }
        if self.full.reached {
            self.enter_drain();
        }
    }

    pub(super) fn enter_drain(&mut self) {
        self.state = State::Drain;
        self.drain_start_round = self.rounds.count;
    }

    pub(super) fn check_drain_done(&mut self, sample: &AckSample) {
        let rounds = self.rounds.count.wrapping_sub(self.drain_start_round);
        if self.state == State::Drain
            && (sample.flight <= self.inflight(self.bw, 100, sample.mss)
                || rounds > DRAIN_ROUNDS_MAX)
        {
            self.start_down(sample.now);
            self.rounds.begin(sample);
        }
    }

    /// StartProbeBW_DOWN; the caller begins a round, if there is an ACK to begin it with.
    pub(super) fn start_down(&mut self, now: Instant) {
        self.bounds.reset_signals();
        self.probe_up_acked_per_inc = INFINITE;
        // PickProbeWait.
        self.rounds_since_probe_up = self.random_below(2);
        self.bw_probe_wait = Duration::from_millis(2_000 + u64::from(self.random_below(1_000)));
        self.cycle_stamp = now;
        self.ack_phase = AckPhase::ProbeStopping;
        self.state = State::Down;
    }

    /// StartProbeBW_REFILL.
    pub(super) fn start_refill(&mut self) {
        self.bounds.reset_shortterm();
        self.bw_probe_up_rounds = 0;
        self.bw_probe_up_acked = 0;
        self.prev_probe_precautionary = false;
        self.ack_phase = AckPhase::Refilling;
        self.state = State::Refill;
    }

    fn start_up(&mut self, sample: &AckSample) {
        self.ack_phase = AckPhase::ProbeStarting;
        self.rounds.begin(sample);
        self.full.restart(sample);
        self.state = State::Up;
        self.raise_longterm_slope(sample.mss);
    }

    /// 5.3.3.9.
    pub(super) fn update_probe_bw_cycle(&mut self, sample: &AckSample) {
        if !self.full.reached || self.adapt_long_term_model(sample) {
            return;
        }
        match self.state {
            State::Down => {
                if !self.check_time_to_probe(sample) && self.is_time_to_cruise(sample) {
                    self.state = State::Cruise;
                }
            }
            State::Cruise => {
                self.check_time_to_probe(sample);
            }
            State::Refill => {
                if self.rounds.start {
                    self.is_bw_probe_sample = true;
                    self.start_up(sample);
                }
            }
            State::Up => {
                if self.is_time_to_go_down(sample) {
                    self.start_down(sample.now);
                    self.rounds.begin(sample);
                }
            }
            State::Startup | State::Drain | State::ProbeRtt => {}
        }
    }

    /// AdaptLongTermModel; true: it has changed the state.
    fn adapt_long_term_model(&mut self, sample: &AckSample) -> bool {
        if self.ack_phase == AckPhase::ProbeStarting && self.rounds.start {
            self.ack_phase = AckPhase::ProbeFeedback;
        }
        if self.ack_phase == AckPhase::ProbeStopping && self.rounds.start {
            self.is_bw_probe_sample = false;
            self.ack_phase = AckPhase::Init;
            if self.state.is_probe_bw() {
                if !sample.rate.app_limited {
                    self.advance_max_bw();
                }
                if self.prev_probe_precautionary && !self.prev_probe_too_high {
                    self.start_refill();
                    self.rounds.begin(sample);
                    return true;
                }
            }
        }
        let longterm = &mut self.bounds.inflight_longterm;
        if is_too_high(sample) || *longterm == INFINITE {
            return false;
        }
        *longterm = (*longterm).max(sample.rate.flight_at_send);
        if self.state == State::Up {
            self.probe_longterm_upward(sample);
        }
        false
    }

    /// IsTimeToProbeBW: by the clock, or by rounds as often as Reno would lose.
    fn check_time_to_probe(&mut self, sample: &AckSample) -> bool {
        let reno_rounds = (self.target_inflight(sample.mss) / sample.mss).min(RENO_ROUNDS_MAX);
        let due = sample.now.since(self.cycle_stamp) > self.bw_probe_wait
            || self.rounds_since_probe_up >= reno_rounds;
        if due {
            self.start_refill();
            self.rounds.begin(sample);
        }
        due
    }

    fn is_time_to_cruise(&self, sample: &AckSample) -> bool {
        sample.flight <= self.bounds.with_headroom(sample.mss)
            && sample.flight <= self.inflight(self.max_bw(), 100, sample.mss)
    }

    fn is_time_to_go_down(&mut self, sample: &AckSample) -> bool {
        let longterm = self.bounds.inflight_longterm;
        let due = if self.prev_probe_too_high && sample.flight >= longterm {
            // Precautionary probing: so much was too much the last time.
            self.prev_probe_precautionary = true;
            true
        } else if sample.cwnd_limited && self.window.cwnd >= longterm {
            // The bound, not the path, limits the bandwidth.
            self.full.restart(sample);
            false
        } else {
            self.full.now
        };
        if due {
            self.prev_probe_too_high = false;
        }
        due
    }

    fn raise_longterm_slope(&mut self, mss: u32) {
        let growth = 1_u32 << self.bw_probe_up_rounds;
        self.bw_probe_up_rounds = (self.bw_probe_up_rounds + 1).min(30);
        self.probe_up_acked_per_inc = (self.window.cwnd / growth).max(mss);
    }

    fn probe_longterm_upward(&mut self, sample: &AckSample) {
        if !sample.cwnd_limited || self.window.cwnd < self.bounds.inflight_longterm {
            return;
        }
        self.bw_probe_up_acked = self.bw_probe_up_acked.saturating_add(sample.delivered);
        let delta = self.bw_probe_up_acked / self.probe_up_acked_per_inc.max(1);
        self.bw_probe_up_acked -= delta * self.probe_up_acked_per_inc;
        self.bounds.inflight_longterm = self
            .bounds
            .inflight_longterm
            .saturating_add(delta.saturating_mul(sample.mss));
        if self.rounds.start {
            self.raise_longterm_slope(sample.mss);
        }
    }

    /// 5.3.4.3.
    pub(super) fn check_probe_rtt(&mut self, sample: &AckSample) {
        if self.state != State::ProbeRtt && self.min_rtt.probe_expired && !self.idle_restart {
            self.save_cwnd();
            self.state = State::ProbeRtt;
            self.probe_rtt_done_stamp = None;
            self.ack_phase = AckPhase::ProbeStopping;
            self.rounds.begin(sample);
        }
        if self.state == State::ProbeRtt {
            self.handle_probe_rtt(sample);
        }
        if sample.rate.delivered > 0 {
            self.idle_restart = false;
        }
    }

    fn handle_probe_rtt(&mut self, sample: &AckSample) {
        match self.probe_rtt_done_stamp {
            None if sample.flight <= self.probe_rtt_cwnd(sample.mss) => {
                self.probe_rtt_done_stamp = Some(sample.now + PROBE_RTT_DURATION);
                self.probe_rtt_round_done = false;
                self.rounds.begin(sample);
            }
            None => {}
            Some(_) => {
                self.probe_rtt_round_done |= self.rounds.start;
                if self.probe_rtt_round_done {
                    self.check_probe_rtt_done(sample.now, sample.mss);
                }
            }
        }
    }

    pub(super) fn check_probe_rtt_done(&mut self, now: Instant, mss: u32) {
        if self.probe_rtt_done_stamp.is_none_or(|done| now <= done) {
            return;
        }
        // The next time is an interval away.
        self.min_rtt.probe_stamp = now;
        self.min_rtt.probe_expired = false;
        self.restore_cwnd();
        self.bounds.reset_shortterm();
        if self.full.reached {
            self.start_down(now);
            self.state = State::Cruise;
        } else {
            self.state = State::Startup;
        }
        self.bound_cwnd(mss);
    }
}
