//! The client's measured time: from TEST_RUNNING until time or amount is reached.

use std::time::Duration;

use bywash_engine::context::Context;
use bywash_engine::service::Time;
use bywash_engine::xsk::Port;

use super::{Client, Stage, WATCH, timer};
use crate::iperf3::cpu::CpuMark;
use crate::iperf3::message::{Results, stream_label};
use crate::iperf3::meter::{Meter, Sample};
use crate::iperf3::options::Extent;
use crate::iperf3::outcome::Outcome;
use crate::iperf3::report::{Connected, End};
use crate::iperf3::shared::Quota;

/// Clocks and counts of a running test.
pub(super) struct Measure {
    pub(super) quota: Quota,
    /// Bytes at which a test with an amount ends.
    amount: Option<u64>,
    meter: Meter,
    cpu: CpuMark,
    intervals: u32,
    /// Tells timers of the measured time from those of the omitted one.
    epoch: u64,
    outcome: Option<Outcome>,
    pub(super) theirs: Option<Results>,
}

impl Measure {
    /// Our totals, once the test has ended.
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Both sides' totals.
    pub(super) fn take_end(&mut self) -> Option<End> {
        let outcome = self.outcome.take()?;
        Some(outcome.end(self.theirs.as_ref()))
    }
}

impl Client {
    /// TEST_RUNNING: clocks and senders start.
    pub(super) fn start<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let now = cx.now();
        let parameters = &self.parameters;
        let connected = (0..).zip(&self.streams).filter_map(|(index, stream)| {
            let (local, remote) = cx.addresses(stream.conn).ok()?;
            Some(Connected::new(stream_label(index), local, remote))
        });
        let connected = connected.collect();
        let mss = self
            .control
            .as_ref()
            .and_then(|(conn, _)| cx.info(*conn).ok())
            .map_or(0, |info| info.mss);
        self.report.start(parameters, mss, connected);
        let senders: Vec<bool> = self
            .streams
            .iter()
            .map(|stream| stream.cell.is_sender())
            .collect();
        let blocks = parameters.blocks();
        self.measure = Some(Measure {
            quota: Quota::new(blocks),
            amount: blocks.map(|blocks| blocks.saturating_mul(parameters.len.into())),
            meter: Meter::new(now, parameters.omit > 0, senders.iter().copied()),
            cpu: CpuMark::now(),
            intervals: 0,
            epoch: 0,
            outcome: None,
            theirs: None,
        });
        self.enter(now, Stage::Running);
        let omit = Duration::from_secs(self.options.omit.into());
        if !omit.is_zero() {
            cx.set_timer(omit, timer::OMIT);
        }
        if let Extent::Seconds(seconds @ 1..) = self.options.extent {
            cx.set_timer(omit + Duration::from_secs(seconds.into()), timer::END);
        }
        self.arm_interval(cx, Duration::ZERO);
        for index in (0..senders.len()).filter(|index| senders[*index]) {
            self.send(cx, index);
        }
    }

    /// Sets the timer of the next interval, unless the end of the time comes with it and tells it.
    fn arm_interval<P: Port>(&mut self, cx: &mut Context<'_, P>, elapsed: Duration) {
        let every = self.options.interval;
        let Some(measure) = &mut self.measure else {
            return;
        };
        measure.intervals += 1;
        let due = every * measure.intervals;
        let (omit, measured) = (
            measure.epoch == 0 && self.options.omit > 0,
            self.options.extent,
        );
        let last = match measured {
            _ if omit => Some(self.options.omit),
            Extent::Seconds(seconds @ 1..) => Some(seconds),
            _ => None,
        };
        if every.is_zero() || last.is_some_and(|last| due >= Duration::from_secs(last.into())) {
            return;
        }
        cx.set_timer(
            due.saturating_sub(elapsed),
            timer::INTERVAL | measure.epoch << 8,
        );
    }

    pub(super) fn on_measure_timer<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        kind: u64,
        epoch: u64,
    ) {
        match (kind, self.stage) {
            (timer::INTERVAL, Stage::Running) => {
                let now = cx.now();
                match &self.measure {
                    Some(measure) if measure.epoch == epoch => {}
                    _ => return,
                }
                self.tell_interval(cx, now, false);
                let elapsed = self
                    .measure
                    .as_ref()
                    .map_or(0.0, |measure| measure.meter.seconds(now));
                self.arm_interval(cx, Duration::from_secs_f64(elapsed));
            }
            (timer::OMIT, Stage::Running) => {
                let now = cx.now();
                self.tell_interval(cx, now, true);
                let samples = self.samples();
                if let Some(measure) = &mut self.measure {
                    measure.meter.end_omit(now, &samples);
                    measure.epoch = 1;
                    measure.intervals = 0;
                }
                self.arm_interval(cx, Duration::ZERO);
            }
            (timer::END, Stage::Running) => self.end(cx),
            (timer::LAST_BYTES, Stage::LastBytes) => self.await_last_bytes(cx),
            _ => {}
        }
    }

    fn samples(&self) -> Vec<Sample> {
        self.streams
            .iter()
            .map(|stream| stream.cell.sample())
            .collect()
    }

    fn tell_interval<P: Port>(&mut self, cx: &mut Context<'_, P>, now: Time, only_if_worth: bool) {
        for stream in &self.streams {
            stream.publish(cx);
        }
        let samples = self.samples();
        let every = self.options.interval;
        let every_ns = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
        let Some(measure) = &mut self.measure else {
            return;
        };
        if every.is_zero()
            || (only_if_worth && !measure.meter.is_worth_showing(now, every_ns, &samples))
        {
            return;
        }
        let interval = measure.meter.interval(now, &samples);
        self.report.interval(interval);
        if let Some(error) = self.report.failure() {
            self.fail(cx, error.into());
        }
    }

    /// Ends a test with an amount once one direction has reached it (as the stock client does).
    pub(super) fn check_amount<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let (Stage::Running, Some(measure)) = (self.stage, &self.measure) else {
            return;
        };
        let Some(amount) = measure.amount else { return };
        let moved = |sender: bool| -> u64 {
            let of_side = self
                .streams
                .iter()
                .filter(|stream| stream.cell.is_sender() == sender);
            of_side.map(|stream| stream.bytes()).sum()
        };
        if moved(false) >= amount {
            self.end(cx);
        } else if moved(true) >= amount {
            self.enter(cx.now(), Stage::LastBytes);
            self.await_last_bytes(cx);
        }
    }

    /// The stack has taken the whole amount: the test lasts until the peer has it too. (The stock client
    /// ends at once, and what then lies in its socket buffers is in neither time nor receiver's count.)
    fn await_last_bytes<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let outstanding = self.streams.iter().any(|stream| {
            let info = cx.info(stream.conn);
            stream.cell.is_sender() && info.is_ok_and(|info| info.unsent > 0 || info.in_flight > 0)
        });
        if outstanding {
            cx.set_timer(WATCH, timer::LAST_BYTES);
        } else {
            self.end(cx);
        }
    }

    /// Time or amount is reached: settles our totals and tells the server.
    fn end<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let now = cx.now();
        self.settle(cx, now);
        if self.stage == Stage::Done {
            return;
        }
        self.enter(now, Stage::Ended);
        if let Some((_, machine)) = &mut self.control {
            machine.end_test();
        }
        self.flush(cx);
    }

    fn settle<P: Port>(&mut self, cx: &mut Context<'_, P>, now: Time) {
        self.tell_interval(cx, now, true);
        let samples = self.samples();
        let Some(measure) = &mut self.measure else {
            return;
        };
        let cpu = measure.cpu.elapsed();
        let (totals, seconds) = (measure.meter.totals(&samples), measure.meter.seconds(now));
        measure.outcome = Some(Outcome {
            totals,
            seconds,
            cpu,
            congestion: self
                .options
                .congestion
                .unwrap_or(cx.tcp_config().congestion),
        });
    }

    /// Before a test ends too early: tells what our side has measured.
    pub(super) fn show_what_there_is<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        if matches!(self.stage, Stage::Running | Stage::LastBytes) {
            self.settle(cx, cx.now());
        }
        if let Some(end) = self.measure.as_mut().and_then(Measure::take_end) {
            self.report.total(end);
        }
    }
}
