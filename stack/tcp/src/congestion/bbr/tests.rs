//! The state machine on a path of a given rate and delay: segments in, ACKs out, in virtual time.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::super::tests::{MSS, sample};
use super::*;
use crate::rate::{Delivered, DeliveryRate, Flight, Stamp};

/// A bottleneck with a queue of unlimited or limited length, and a sender that always has data.
struct Path {
    bbr: Bbr,
    now: Instant,
    rate: DeliveryRate,
    sampled: Flight,
    /// Nanoseconds that the bottleneck takes for a segment.
    service: u64,
    propagation: Duration,
    queue_max: usize,
    /// When the bottleneck is free.
    busy_until: Instant,
    /// Arrival of the ACK, when it was sent, its stamp; in order of arrival. `None`: lost, found out at that time.
    acks: VecDeque<(Instant, Instant, Stamp, bool)>,
    flight: u32,
    next_send: Instant,
    sack: bool,
    states: Vec<State>,
}

impl Path {
    /// `rate` segments a second, `rtt_ms` of propagation.
    fn new(rate: u64, rtt_ms: u64) -> Self {
        Self {
            bbr: Bbr::new(Window::new(MSS), 1),
            now: Instant::from_nanos(1),
            rate: DeliveryRate::default(),
            sampled: Flight::default(),
            service: 1_000_000_000 / rate,
            propagation: Duration::from_millis(rtt_ms),
            queue_max: usize::MAX,
            busy_until: Instant::ZERO,
            acks: VecDeque::new(),
            flight: 0,
            next_send: Instant::ZERO,
            sack: true,
            states: alloc::vec![State::Startup],
        }
    }

    fn queue(&self) -> u64 {
        self.busy_until.since(self.now).as_nanos() / self.service
    }

    fn send(&mut self) {
        let stamp = self
            .rate
            .stamp(&mut self.sampled, self.now, self.flight, MSS);
        self.flight += MSS;
        let lost = self.queue() >= self.queue_max as u64;
        if !lost {
            self.busy_until = self.busy_until.max(self.now) + Duration::from_nanos(self.service);
        }
        let arrival = self.busy_until.max(self.now) + self.propagation;
        self.acks.push_back((arrival, self.now, stamp, lost));
        let pace = self.bbr.pacing_rate(self.propagation);
        self.next_send = self.next_send.max(self.now)
            + Duration::from_nanos(u64::from(MSS) * 1_000_000_000 / pace.max(1));
    }

    fn receive(&mut self) {
        let Some((at, sent_at, stamp, lost)) = self.acks.pop_front() else {
            return;
        };
        self.now = at;
        let flight_before = self.flight;
        self.flight -= MSS;
        let mut acked = Delivered::default();
        if lost {
            self.rate.on_lost(MSS, &stamp);
        } else {
            acked.add(MSS, sent_at, &stamp, true);
        }
        let limited = self.flight + 2 * MSS > self.bbr.window.cwnd;
        let rate = self
            .rate
            .sample(&mut self.sampled, self.now, &acked, self.propagation);
        self.bbr.on_ack(&AckSample {
            now: self.now,
            lost: if lost { MSS } else { 0 },
            flight: self.flight,
            srtt: self.propagation,
            rate,
            cwnd_limited: limited,
            sack: self.sack,
            recovery: if lost { Recovery::Fast } else { Recovery::Open },
            ..sample(acked.bytes, flight_before)
        });
        if self.states.last() != Some(&self.bbr.state) {
            self.states.push(self.bbr.state);
        }
        if self.bbr.is_probing_rtt() {
            self.rate.on_app_limited(self.flight);
        }
    }

    /// Runs for `millis`, or until `done`.
    fn run(&mut self, millis: u64, done: impl Fn(&Self) -> bool) {
        let end = self.now + Duration::from_millis(millis);
        while self.now < end && !done(self) {
            let may_send = self.flight + MSS <= self.bbr.window.cwnd;
            let ack = self.acks.front().map(|(at, ..)| *at);
            match ack {
                Some(ack) if !may_send || ack <= self.next_send => self.receive(),
                None if !may_send => return,
                _ => {
                    self.now = self.now.max(self.next_send);
                    self.send();
                }
            }
        }
    }
}

#[test]
fn startup_ends_at_the_full_pipe_and_drain_empties_the_queue() {
    let mut path = Path::new(1_000, 100);
    path.run(10_000, |path| path.bbr.state != State::Startup);
    assert_eq!(path.bbr.state, State::Drain);
    // Doubling from 10 segments a round, 100 fill the pipe after four; three more without growth.
    assert!(path.bbr.rounds.count <= 10, "{}", path.bbr.rounds.count);
    assert!(path.queue() > 50);
    path.run(10_000, |path| path.bbr.state != State::Drain);
    assert!(path.bbr.state.is_probe_bw());
    assert!(path.queue() < 10, "{}", path.queue());
    assert!(path.bbr.max_bw().abs_diff(1_000_000) < 20_000);
    assert_eq!(path.bbr.min_rtt().map(Duration::as_millis), Some(101));
}

#[test]
fn probing_goes_round_in_its_order() {
    let mut path = Path::new(1_000, 40);
    path.run(60_000, |path| {
        path.states
            .iter()
            .filter(|state| **state == State::Up)
            .count()
            == 4
    });
    let cycle = [State::Down, State::Cruise, State::Refill, State::Up];
    let from = path
        .states
        .iter()
        .position(|state| *state == State::Down)
        .expect("ProbeBW was reached");
    let mut expected = cycle.iter().cycle();
    for state in &path.states[from..] {
        if *state == State::ProbeRtt {
            break;
        }
        assert_eq!(Some(state), expected.next(), "{:?}", path.states);
    }
}

#[test]
fn the_least_round_trip_time_is_looked_for_every_five_seconds() {
    let mut path = Path::new(1_000, 40);
    path.run(4_000, |path| path.bbr.state == State::ProbeRtt);
    assert_ne!(path.bbr.state, State::ProbeRtt);
    path.run(6_000, |path| path.bbr.state == State::ProbeRtt);
    assert_eq!(path.bbr.state, State::ProbeRtt);
    let entered = path.now;
    path.run(1_000, |path| path.bbr.state != State::ProbeRtt);
    assert_eq!(path.bbr.state, State::Cruise);
    // 200 ms with half of the pipe, and the round trips around them.
    let took = path.now.since(entered).as_millis();
    assert!((200..400).contains(&took), "{took} ms");
    assert_eq!(path.bbr.window.cwnd, path.bbr.window.prior_cwnd);
}

#[test]
fn the_pipe_is_kept_full_without_a_queue() {
    let mut path = Path::new(1_000, 40);
    path.run(3_000, |_| false);
    let before = path.rate.delivered;
    path.run(20_000, |_| false);
    let segments = (path.rate.delivered - before) / u64::from(MSS);
    assert!(segments > 19_000, "{segments} of 20000");
    // On average; while probing there may be a quarter of the pipe.
    let mut queued = 0;
    for _ in 0..200 {
        path.run(50, |_| false);
        queued += path.queue();
    }
    assert!(queued / 200 < 20, "{}", queued / 200);
}

#[test]
fn a_short_queue_bounds_what_is_on_the_way() {
    let mut path = Path::new(1_000, 40);
    path.queue_max = 10;
    path.run(20_000, |_| false);
    let longterm = path.bbr.bounds.inflight_longterm;
    // The pipe takes 40 segments and the queue 10.
    assert!(
        (30 * MSS..=60 * MSS).contains(&longterm),
        "{longterm} bytes"
    );
    let lost = u64::from(path.rate.lost);
    path.run(20_000, |_| false);
    let lost = u64::from(path.rate.lost) - lost;
    assert!(lost < 20_000 * u64::from(MSS) / 50, "{lost} bytes lost");
}

#[test]
fn a_time_out_comes_back_to_the_old_window() {
    let mut path = Path::new(1_000, 40);
    path.run(3_000, |path| path.bbr.state == State::Cruise);
    let before = path.bbr.window.cwnd;
    let moment = Moment {
        now: path.now,
        mss: MSS,
        flight: path.flight,
    };
    path.bbr.on_timeout(moment);
    assert_eq!(path.bbr.window.cwnd, MSS);
    path.bbr.on_undo(moment);
    assert_eq!(path.bbr.window.cwnd, before);
}

#[test]
fn a_congestion_mark_lowers_the_rate() {
    let mut path = Path::new(1_000, 40);
    path.run(3_000, |path| path.bbr.state == State::Cruise);
    let (rate, cwnd) = (path.bbr.pacing_rate, path.bbr.window.cwnd);
    path.bbr.bounds.reset_signals();
    path.bbr.on_ecn_echo(Moment {
        now: path.now,
        mss: MSS,
        flight: path.flight,
    });
    assert!(path.bbr.pacing_rate <= rate * 71 / 100);
    assert!(path.bbr.window.cwnd <= cwnd * 71 / 100);
}

#[test]
fn without_a_measurement_it_paces_the_initial_window() {
    let bbr = Bbr::new(Window::new(MSS), 1);
    assert_eq!(bbr.pacing_rate(Duration::from_millis(100)), 277_000);
    assert_eq!(bbr.pacing_rate(Duration::ZERO), 27_700_000);
}
