//! The shard that holds a test's control connection: drives the test from parameters to goodbye.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bywash_engine::context::Context;
use bywash_engine::service::{ConnId, Recv, Time};
use bywash_engine::xsk::Port;

use super::{Server, timer};
use crate::iperf3::control::{ServerControl, ServerStep};
use crate::iperf3::cpu::CpuMark;
use crate::iperf3::message::{Parameters, Results, stream_label};
use crate::iperf3::meter::{Meter, Sample};
use crate::iperf3::outcome::Outcome;
use crate::iperf3::report::Connected;
use crate::iperf3::shared::{ActiveTest, Phase, StreamCell};

/// How long the last bytes of a test with a fixed amount may take without progress, in nanoseconds: the client
/// says that it is done when its stack has taken them, not when they have arrived.
const LAST_BYTES_NS: u64 = 100_000_000;

/// How the client's end of the test is being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    /// The amount of the test is still on its way.
    LastBytes,
    /// Shards have still to tell their last counts.
    Counts,
    /// The results are being exchanged.
    Results,
    /// Both sides have all results.
    Told,
}

/// The control connection and what is known of its test.
pub(super) struct Conductor {
    pub(super) conn: ConnId,
    peer: SocketAddr,
    machine: ServerControl,
    test: Arc<ActiveTest>,
    cells: Vec<Arc<StreamCell>>,
    meter: Option<Meter>,
    cpu: CpuMark,
    ending: Ending,
    ended_at: Time,
    outcome: Option<Outcome>,
    /// When the present step of the protocol began.
    step_since: Time,
    started_at: Time,
    /// Payload bytes over all streams when something last moved, and when that was.
    moved: (u64, Time),
    intervals: u32,
    /// Tells timers of the present clock from older ones.
    epoch: u64,
}

impl Conductor {
    /// Sends what the machine has to say; the rest goes when the connection is writable.
    pub(super) fn flush<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        // If the connection is gone, `Closed` follows and ends the test.
        if let Ok(taken) = cx.send(self.conn, self.machine.output()) {
            self.machine.sent(taken);
        }
    }

    /// Whether another shard's streams are awaited, or the last bytes of this one's.
    pub(super) fn awaits_streams(&self, several: bool) -> bool {
        let collecting = self.test.phase() == Phase::Collecting || self.ending == Ending::Counts;
        self.ending == Ending::LastBytes || (several && collecting)
    }

    fn samples(&self) -> Vec<Sample> {
        self.cells.iter().map(|cell| cell.sample()).collect()
    }

    fn moved_bytes(&mut self, now: Time) -> u64 {
        let bytes = self.cells.iter().map(|cell| cell.sample().bytes).sum();
        if bytes != self.moved.0 {
            self.moved = (bytes, now);
        }
        bytes
    }

    fn is_running(&self) -> bool {
        self.meter.is_some() && matches!(self.ending, Ending::No | Ending::LastBytes)
    }
}

impl Server {
    /// Begins a test on `conn`, whose cookie began it.
    pub(super) fn conduct<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        conn: ConnId,
        peer: SocketAddr,
        test: Arc<ActiveTest>,
        rest: &[u8],
    ) {
        // A test before this one may still wait for its client's goodbye.
        self.finish_test(cx, None);
        // States are single bytes: each shall leave at once.
        let _ = cx.set_nagle(conn, false);
        self.state
            .report(|report| report.begin(peer, test.cookie.text()));
        let now = cx.now();
        let mut conductor = Conductor {
            conn,
            peer,
            machine: ServerControl::new(),
            cells: Vec::new(),
            meter: None,
            cpu: CpuMark::now(),
            ending: Ending::No,
            ended_at: now,
            outcome: None,
            step_since: now,
            started_at: now,
            moved: (0, now),
            intervals: 0,
            epoch: test.number << 1,
            test,
        };
        conductor.machine.on_bytes(rest);
        conductor.flush(cx);
        self.conductor = Some(conductor);
        self.drive(cx);
        self.keep_up(cx);
    }

    pub(super) fn on_control_readable<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        while let Some(conductor) = &mut self.conductor {
            match cx.recv(conductor.conn) {
                Ok(Recv::Data(frame)) => conductor.machine.on_bytes(frame.bytes()),
                Ok(Recv::Empty) => return,
                Ok(Recv::End) | Err(_) => return self.on_control_end(cx),
            }
            self.drive(cx);
        }
    }

    /// The control connection is closed by the peer, or gone.
    pub(super) fn on_control_end<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let Some(conductor) = &self.conductor else {
            return;
        };
        match conductor.machine.on_end() {
            Ok(()) => self.finish_test(cx, None),
            Err(error) => self.finish_test(cx, Some(error.to_string())),
        }
    }

    /// Takes the steps that the control connection has brought.
    fn drive<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        while let Some(conductor) = &mut self.conductor {
            let step = match conductor.machine.poll() {
                Ok(Some(step)) => step,
                Ok(None) => return,
                Err(error) => return self.finish_test(cx, Some(error.to_string())),
            };
            conductor.step_since = cx.now();
            match step {
                ServerStep::Parameters(parameters) => self.on_parameters(cx, parameters),
                ServerStep::TestEnd => self.on_test_end(cx),
                ServerStep::Results(results) => self.on_results(cx, &results),
                ServerStep::Done => self.finish_test(cx, None),
                ServerStep::ClientTerminated => self.on_terminated(cx, "the client has terminated"),
            }
        }
    }

    fn on_parameters<P: Port>(&mut self, cx: &mut Context<'_, P>, parameters: Parameters) {
        let Some(conductor) = &mut self.conductor else {
            return;
        };
        match parameters.check() {
            Ok(()) => {
                for (name, value) in [("-M", parameters.mss), ("-w", parameters.window)] {
                    if value != 0 {
                        let line = format!(
                            "iperf3: the client's {name} {value} holds for its own side only"
                        );
                        self.state.report(|report| report.line(&line));
                    }
                }
                // First the phase, then the word that lets the client open its streams.
                conductor.test.collect(parameters);
                conductor.machine.accept();
                conductor.flush(cx);
                self.keep_up(cx);
            }
            Err(refusal) => {
                conductor.machine.refuse(&refusal);
                conductor.flush(cx);
                self.finish_test(cx, Some(refusal.to_string()));
            }
        }
    }

    /// Starts the test once all of its streams have come, wherever they are.
    pub(super) fn start_when_complete<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let Some(conductor) = &mut self.conductor else {
            return;
        };
        if conductor.test.phase() != Phase::Collecting {
            return;
        }
        let (Some(cells), Some(parameters)) = (
            conductor.test.complete(),
            conductor.test.parameters().cloned(),
        ) else {
            return;
        };
        // The client makes the streams on which it sends first (`iperf_client_api.c`).
        for (index, cell) in (0u32..).zip(&cells) {
            cell.set_sender(
                parameters.reverse || (parameters.bidirectional && index >= parameters.parallel),
            );
        }
        let connected = (0..).zip(&cells).filter_map(|(index, cell)| {
            let (local, remote) = cell.addresses?;
            Some(Connected::new(stream_label(index), local, remote))
        });
        let mss = cx.info(conductor.conn).map_or(0, |info| info.mss);
        self.state
            .report(|report| report.start(&parameters, mss, connected.collect()));

        let now = cx.now();
        conductor.meter = Some(Meter::new(
            now,
            parameters.omit > 0,
            cells.iter().map(|cell| cell.is_sender()),
        ));
        conductor.cells = cells;
        (conductor.step_since, conductor.started_at, conductor.moved) = (now, now, (0, now));
        conductor.cpu = CpuMark::now();
        conductor.machine.start();
        conductor.flush(cx);
        conductor.test.set_phase(Phase::Running);
        if parameters.omit > 0 {
            let token = timer::OMIT | conductor.epoch << 8;
            cx.set_timer(Duration::from_secs(parameters.omit.into()), token);
        }
        self.arm_interval(cx, Duration::ZERO);
        self.follow_phase(cx);
    }

    /// Sets the timer of the next interval; they are counted from the clock's start, so that they do not drift.
    fn arm_interval<P: Port>(&mut self, cx: &mut Context<'_, P>, elapsed: Duration) {
        let every = self.state.options().interval;
        let Some(conductor) = &mut self.conductor else {
            return;
        };
        if every.is_zero() {
            return;
        }
        conductor.intervals += 1;
        let after = (every * conductor.intervals).saturating_sub(elapsed);
        cx.set_timer(after, timer::INTERVAL | conductor.epoch << 8);
    }

    pub(super) fn on_conductor_timer<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        kind: u64,
        epoch: u64,
    ) {
        match &self.conductor {
            Some(conductor) if conductor.epoch == epoch && conductor.is_running() => {}
            _ => return,
        }
        match kind {
            timer::INTERVAL => {
                self.tell_interval(cx, cx.now(), false);
                if let Some(meter) = self
                    .conductor
                    .as_ref()
                    .and_then(|conductor| conductor.meter.as_ref())
                {
                    let elapsed = Duration::from_secs_f64(meter.seconds(cx.now()));
                    self.arm_interval(cx, elapsed);
                }
            }
            timer::OMIT => self.on_omit_end(cx),
            _ => {}
        }
    }

    fn on_omit_end<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        self.tell_interval(cx, cx.now(), true);
        let Some(conductor) = &mut self.conductor else {
            return;
        };
        let samples = conductor.samples();
        if let Some(meter) = &mut conductor.meter {
            meter.end_omit(cx.now(), &samples);
        }
        // The intervals begin anew with the measured time.
        conductor.epoch |= 1;
        conductor.intervals = 0;
        self.arm_interval(cx, Duration::ZERO);
    }

    /// Tells the interval that ends `now`; `only_if_worth` leaves out a short one without bytes.
    fn tell_interval<P: Port>(&mut self, cx: &mut Context<'_, P>, now: Time, only_if_worth: bool) {
        if let Some(local) = &self.local {
            for stream in local.by_conn.values() {
                stream.publish(cx);
            }
        }
        let every = self.state.options().interval;
        let Some(conductor) = &mut self.conductor else {
            return;
        };
        let samples = conductor.samples();
        let Some(meter) = &mut conductor.meter else {
            return;
        };
        let every_ns = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
        if every.is_zero() || (only_if_worth && !meter.is_worth_showing(now, every_ns, &samples)) {
            return;
        }
        let interval = meter.interval(now, &samples);
        self.state.report(|report| report.interval(interval));
    }

    fn on_test_end<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let now = cx.now();
        let Some(conductor) = &mut self.conductor else {
            return;
        };
        conductor.ended_at = now;
        conductor.moved_bytes(now);
        conductor.moved.1 = now;
        conductor.ending = Ending::LastBytes;
        self.await_last_bytes(cx);
        self.keep_up(cx);
    }

    /// With a fixed amount, from the client alone: waits until it has arrived.
    fn await_last_bytes<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let now = cx.now();
        let Some(conductor) = &mut self.conductor else {
            return;
        };
        let expected = conductor.test.parameters().and_then(|parameters| {
            let from_client = !parameters.reverse && !parameters.bidirectional;
            let blocks = parameters.blocks().filter(|_| from_client)?;
            Some(blocks.saturating_mul(parameters.len.into()))
        });
        let bytes = conductor.moved_bytes(now);
        let (_, moved_at) = conductor.moved;
        if expected.is_some_and(|expected| bytes < expected)
            && now.since(moved_at).as_nanos() < LAST_BYTES_NS
        {
            return;
        }
        conductor.ended_at = now;
        conductor.ending = Ending::Counts;
        conductor.test.set_phase(Phase::Over);
        self.follow_phase(cx);
        self.await_counts(cx);
    }

    /// Once every shard has told its last counts: asks for the client's results.
    fn await_counts<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        match &self.conductor {
            Some(conductor)
                if conductor.ending == Ending::Counts && conductor.test.all_closed() => {}
            _ => return,
        }
        self.close_meter(cx);
        let Some(conductor) = &mut self.conductor else {
            return;
        };
        conductor.ending = Ending::Results;
        conductor.step_since = cx.now();
        conductor.machine.exchange();
        conductor.flush(cx);
    }

    /// Tells the last interval and settles our totals.
    fn close_meter<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let Some(ended_at) = self.conductor.as_ref().map(|conductor| conductor.ended_at) else {
            return;
        };
        self.tell_interval(cx, ended_at, true);
        let Some(conductor) = &mut self.conductor else {
            return;
        };
        let samples = conductor.samples();
        let Some(meter) = &conductor.meter else {
            return;
        };
        let cpu = conductor.cpu.elapsed();
        let asked = conductor.test.parameters().and_then(|parameters| {
            // One that does not exist was refused before.
            parameters.congestion().ok().flatten()
        });
        conductor.outcome = Some(Outcome {
            totals: meter.totals(&samples),
            seconds: meter.seconds(ended_at),
            cpu,
            congestion: asked.unwrap_or(cx.tcp_config().congestion),
        });
    }

    fn on_results<P: Port>(&mut self, cx: &mut Context<'_, P>, theirs: &Results) {
        let Some(conductor) = &mut self.conductor else {
            return;
        };
        let Some(outcome) = &conductor.outcome else {
            return;
        };
        conductor.machine.results(&outcome.results());
        let end = outcome.end(Some(theirs));
        conductor.flush(cx);
        conductor.ending = Ending::Told;
        self.state.report(|report| report.end(end));
        // Only the client's goodbye is left, and a lost segment may delay it for seconds: the next client
        // need not wait for that. (With `-1` there is no next one.)
        if !self.state.options().one_off {
            self.state.release(&conductor.test);
        }
    }

    /// Someone was stopped in the middle: shows what there is.
    fn on_terminated<P: Port>(&mut self, cx: &mut Context<'_, P>, text: &str) {
        let now = cx.now();
        if let Some(conductor) = &mut self.conductor
            && conductor.is_running()
        {
            conductor.ended_at = now;
            self.close_meter(cx);
        }
        let outcome = self
            .conductor
            .as_ref()
            .filter(|conductor| conductor.ending != Ending::Told);
        if let Some(outcome) = outcome.and_then(|conductor| conductor.outcome.as_ref()) {
            let end = outcome.end(None);
            self.state.report(|report| report.total(end));
        }
        self.finish_test(cx, Some(text.to_owned()));
    }

    /// Closes what belongs to the test and frees the server for the next one, or ends it.
    fn finish_test<P: Port>(&mut self, cx: &mut Context<'_, P>, error: Option<String>) {
        let Some(conductor) = self.conductor.take() else {
            return;
        };
        let began = conductor.test.parameters().is_some();
        // A client that leaves without its goodbye has still been served.
        let error = error.filter(|_| conductor.ending != Ending::Told);
        if let Some(text) = error {
            let text = if began {
                text
            } else {
                format!("{}: {text}", conductor.peer)
            };
            self.state.report(|report| report.fail(&text));
        }
        self.state.release(&conductor.test);
        self.follow_phase(cx);
        // Gone already, or a FIN behind what was said last.
        let _ = cx.close(conductor.conn);
        // `-1` is for one test: a peer that never told parameters does not use it up.
        if self.state.options().one_off && began {
            self.state.finish();
        }
        if self.state.is_finished() {
            self.leave(cx);
        }
    }

    /// Time limits and other shards' news.
    pub(super) fn conductor_upkeep<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        match self.conductor.as_ref().map(|conductor| conductor.ending) {
            Some(Ending::LastBytes) => self.await_last_bytes(cx),
            Some(Ending::Counts) => self.await_counts(cx),
            _ => {}
        }
        let now = cx.now();
        let (patience, idle_limit) = (
            self.state.options().patience,
            self.state.options().idle_limit,
        );
        let Some(conductor) = &mut self.conductor else {
            return;
        };
        let complaint = if conductor.meter.is_some() && conductor.ending == Ending::No {
            conductor.moved_bytes(now);
            let parameters = conductor.test.parameters();
            let planned = parameters
                .filter(|p| p.time > 0 && p.blocks().is_none())
                .map(|p| u64::from(p.time + p.omit));
            let limit = planned.map(|seconds| Duration::from_secs(seconds) + patience);
            if limit.is_some_and(|limit| now.since(conductor.started_at) > limit.into()) {
                Some("the client did not end the test when its time was over".to_owned())
            } else if now.since(conductor.moved.1) > idle_limit.into() {
                Some(format!(
                    "no byte moved for {} seconds",
                    idle_limit.as_secs()
                ))
            } else {
                None
            }
        } else if now.since(conductor.step_since) > patience.into() {
            let during = conductor.machine.during();
            Some(format!(
                "the client fell silent for {} seconds while {during}",
                patience.as_secs()
            ))
        } else {
            None
        };
        if let Some(text) = complaint {
            self.finish_test(cx, Some(text));
        }
    }

    /// We are asked to end: says so to the client and to the user.
    pub(super) fn on_stopping<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        if let Some(conductor) = &mut self.conductor {
            conductor.machine.terminate();
            conductor.flush(cx);
            self.on_terminated(cx, "the server has terminated");
        }
        self.leave(cx);
    }

    fn leave<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        if let Some(listener) = self.listener.take() {
            cx.unlisten(listener);
        }
        self.end_streams(cx);
        for (conn, _) in self.guests.drain() {
            let _ = cx.close(conn);
        }
        cx.stop();
    }
}
