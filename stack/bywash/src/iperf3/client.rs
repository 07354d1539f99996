//! The client as a [`Service`]: one test to one server, all connections on one shard.

mod measure;

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bywash_engine::context::{ConnOptions, Context};
use bywash_engine::service::{ConnId, Event, Recv, Service, Time};
use bywash_engine::tcp::CloseReason;
use bywash_engine::xsk::Port;

use self::measure::Measure;
use super::control::{ClientControl, ClientStep};
use super::error::Iperf3Error;
use super::message::{Cookie, Parameters, Results};
use super::options::{ClientOptions, Extent};
use super::report::{End, Report, Role};
use super::shared::StreamCell;
use super::stream::{Progress, Stream};

/// How often time limits are looked after.
const UPKEEP: Duration = Duration::from_millis(200);

/// How often we look whether the last bytes of a fixed amount have arrived.
const WATCH: Duration = Duration::from_millis(1);

/// What a timer is for: the low byte of its token.
mod timer {
    pub(super) const UPKEEP: u64 = 0;
    pub(super) const INTERVAL: u64 = 1;
    pub(super) const OMIT: u64 = 2;
    pub(super) const END: u64 = 3;
    pub(super) const LAST_BYTES: u64 = 4;
}

/// A test that was completed.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Both sides' totals.
    pub end: End,
}

/// How far the test is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The control connection is being made.
    Connecting,
    /// Greeting, parameters, data connections.
    Preparing,
    /// Data flows.
    Running,
    /// All is handed to the stack; the peer has still to acknowledge some.
    LastBytes,
    /// The end is told; results are being exchanged.
    Ended,
    /// There is an outcome.
    Done,
}

/// An `iperf3` client.
pub struct Client {
    options: ClientOptions,
    parameters: Parameters,
    cookie: Cookie,
    report: Report,
    stage: Stage,
    stage_since: Time,
    control: Option<(ConnId, ClientControl)>,
    /// In the order of their making; the connection being made is the last.
    streams: Vec<Stream>,
    by_conn: HashMap<ConnId, usize>,
    /// What a data connection has still to send before anything else: its cookie, from this byte on.
    greeted: HashMap<ConnId, usize>,
    unfinished: Vec<usize>,
    measure: Option<Measure>,
    outcome: Option<Result<Summary, Iperf3Error>>,
}

impl Client {
    /// A client that reports to `out`. It begins with the shard it runs on and stops it when the test is over.
    pub fn new(options: ClientOptions, out: Box<dyn Write + Send>) -> Self {
        let mut random = [0; 36];
        getrandom::fill(&mut random).expect("the kernel gives random bytes");
        Self {
            parameters: parameters(&options),
            cookie: Cookie::from_random(&random),
            report: Report::new(Role::Client, options.json, out),
            options,
            stage: Stage::Connecting,
            stage_since: Time::default(),
            control: None,
            streams: Vec::new(),
            by_conn: HashMap::new(),
            greeted: HashMap::new(),
            unfinished: Vec::new(),
            measure: None,
            outcome: None,
        }
    }

    /// How the test went, once it is over.
    pub fn outcome(&self) -> Option<&Result<Summary, Iperf3Error>> {
        self.outcome.as_ref()
    }

    /// How the test went; [`Iperf3Error::Interrupted`] if it was not over.
    pub fn into_outcome(self) -> Result<Summary, Iperf3Error> {
        self.outcome.unwrap_or(Err(Iperf3Error::Interrupted))
    }

    fn enter(&mut self, cx_now: Time, stage: Stage) {
        self.stage = stage;
        self.stage_since = cx_now;
    }

    fn on_started<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        self.enter(cx.now(), Stage::Connecting);
        let server = self.options.server;
        self.report.begin(server, self.cookie.text());
        match cx.connect(
            server,
            ConnOptions {
                nagle: Some(false),
                ..ConnOptions::default()
            },
        ) {
            Ok(conn) => {
                let machine = ClientControl::new(&self.cookie, self.parameters.clone());
                self.control = Some((conn, machine));
                cx.set_timer(UPKEEP, timer::UPKEEP);
            }
            Err(error) => self.fail(
                cx,
                Iperf3Error::Connect {
                    server,
                    cause: error.to_string(),
                },
            ),
        }
    }

    fn is_control(&self, conn: ConnId) -> bool {
        self.control
            .as_ref()
            .is_some_and(|(control, _)| *control == conn)
    }

    fn on_connected<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        if self.is_control(conn) {
            self.enter(cx.now(), Stage::Preparing);
            self.flush(cx);
        } else if self.by_conn.contains_key(&conn) {
            self.greeted.insert(conn, 0);
            self.greet(cx, conn);
            self.next_stream(cx);
        }
    }

    /// Opens the next data connection once the last one stands: their order gives each its id and its direction.
    fn next_stream<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let index = self.streams.len();
        if index >= self.parameters.streams() as usize {
            return;
        }
        let server = self.options.server;
        let nagle = self.options.no_delay.then_some(false);
        match cx.connect(
            server,
            ConnOptions {
                nagle,
                mss: self.options.mss,
                congestion: self.options.congestion,
                ..ConnOptions::default()
            },
        ) {
            Ok(conn) => {
                let cell = StreamCell::new(cx.now(), cx.addresses(conn).ok());
                cell.set_sender(if self.parameters.bidirectional {
                    index < self.parameters.parallel as usize
                } else {
                    !self.parameters.reverse
                });
                self.streams
                    .push(Stream::new(conn, Arc::new(cell), self.parameters.len));
                self.by_conn.insert(conn, index);
            }
            Err(error) => self.fail(
                cx,
                Iperf3Error::Connect {
                    server,
                    cause: error.to_string(),
                },
            ),
        }
    }

    /// Sends what is left of a data connection's cookie.
    fn greet<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        let Some(done) = self.greeted.get_mut(&conn) else {
            return;
        };
        // If the connection is gone, `Closed` follows and ends the test.
        if let Ok(taken) = cx.send(conn, &self.cookie.bytes()[*done..]) {
            *done += taken;
            if *done == Cookie::LEN {
                self.greeted.remove(&conn);
            }
        }
    }

    fn flush<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let Some((conn, machine)) = &mut self.control else {
            return;
        };
        if let Ok(taken) = cx.send(*conn, machine.output()) {
            machine.sent(taken);
        }
    }

    fn on_readable<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        if let Some(&index) = self.by_conn.get(&conn) {
            self.receive(cx, index);
        } else if self.is_control(conn) {
            self.on_control_readable(cx);
        }
    }

    fn on_control_readable<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        while let Some((conn, machine)) = &mut self.control {
            match cx.recv(*conn) {
                Ok(Recv::Data(frame)) => machine.on_bytes(frame.bytes()),
                Ok(Recv::Empty) => return,
                Ok(Recv::End) | Err(_) => {
                    if let Err(error) = machine.on_end() {
                        self.fail(cx, error.into());
                    }
                    return;
                }
            }
            self.drive(cx);
        }
    }

    /// Takes the steps that the control connection has brought.
    fn drive<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        while let Some((_, machine)) = &mut self.control {
            let step = match machine.poll() {
                Ok(Some(step)) => step,
                Ok(None) => break,
                Err(error) => return self.fail(cx, error.into()),
            };
            match step {
                ClientStep::CreateStreams => {
                    self.stage_since = cx.now();
                    self.next_stream(cx);
                }
                ClientStep::TestStart => {}
                ClientStep::TestRunning => self.start(cx),
                ClientStep::ExchangeResults => self.tell_results(),
                ClientStep::Results(results) => self.on_results(results),
                ClientStep::DisplayResults => self.on_display(cx),
                ClientStep::AccessDenied => return self.fail(cx, Iperf3Error::Busy),
                ClientStep::ServerTerminated => {
                    self.show_what_there_is(cx);
                    return self.fail(cx, Iperf3Error::ServerTerminated);
                }
                ClientStep::ServerError { code, errno } => {
                    return self.fail(cx, Iperf3Error::ServerError { code, errno });
                }
            }
        }
        self.flush(cx);
    }

    fn receive<P: Port>(&mut self, cx: &mut Context<'_, P>, index: usize) {
        let Some(stream) = self.streams.get_mut(index) else {
            return;
        };
        if stream.receive(cx) == Progress::More {
            self.unfinished.push(index);
        }
        self.check_amount(cx);
    }

    fn send<P: Port>(&mut self, cx: &mut Context<'_, P>, index: usize) {
        let (Stage::Running, Some(measure)) = (self.stage, &self.measure) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(index) else {
            return;
        };
        if stream.send(cx, &measure.quota) == Progress::More {
            self.unfinished.push(index);
        }
        self.check_amount(cx);
    }

    fn on_writable<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        if self.is_control(conn) {
            return self.flush(cx);
        }
        self.greet(cx, conn);
        if let Some(&index) = self.by_conn.get(&conn)
            && self.streams[index].cell.is_sender()
        {
            self.send(cx, index);
        }
    }

    fn on_closed<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId, reason: CloseReason) {
        if self.stage == Stage::Done {
            return;
        }
        let server = self.options.server;
        if self.is_control(conn) {
            if self.stage == Stage::Connecting {
                return self.fail(
                    cx,
                    Iperf3Error::Connect {
                        server,
                        cause: connect_failure(reason),
                    },
                );
            }
            let ended = self.control.take().map(|(_, machine)| machine.on_end());
            if let Some(Err(error)) = ended {
                self.fail(cx, error.into());
            }
        } else if let Some(&index) = self.by_conn.get(&conn) {
            match self.stage {
                Stage::Preparing if self.measure.is_none() => {
                    self.fail(
                        cx,
                        Iperf3Error::Connect {
                            server,
                            cause: connect_failure(reason),
                        },
                    );
                }
                Stage::Running | Stage::LastBytes => {
                    // A server that is being stopped closes its streams and says so on the control
                    // connection; that word may still be on its way.
                    self.on_control_readable(cx);
                    if self.stage != Stage::Done {
                        let error =
                            Iperf3Error::StreamLost(format!("stream {}: {reason}", index + 1));
                        self.show_what_there_is(cx);
                        self.fail(cx, error);
                    }
                }
                _ => {}
            }
        }
    }

    /// The protocol's next step is due within the user's patience, except while data flows.
    fn on_upkeep<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        if self.stage == Stage::Done {
            return;
        }
        let patience = self.options.patience;
        let waits = self.stage != Stage::Running;
        if waits && cx.now().since(self.stage_since) > patience.into() {
            let server = self.options.server;
            let seconds = patience.as_secs();
            let error = match (self.stage, &self.control) {
                (Stage::Connecting, _) => Iperf3Error::Connect {
                    server,
                    cause: format!("no answer within {seconds} seconds"),
                },
                (Stage::LastBytes, _) => Iperf3Error::TimedOut {
                    waiting_for: "the last acknowledgments",
                    seconds,
                },
                (_, Some((_, machine))) => Iperf3Error::TimedOut {
                    waiting_for: machine.waiting_for(),
                    seconds,
                },
                (_, None) => Iperf3Error::TimedOut {
                    waiting_for: "the end",
                    seconds,
                },
            };
            return self.fail(cx, error);
        }
        cx.set_timer(UPKEEP, timer::UPKEEP);
    }

    fn on_display<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let Some(end) = self.measure.as_mut().and_then(Measure::take_end) else {
            return;
        };
        for stream in &self.streams {
            let _ = cx.close(stream.conn);
        }
        self.report.end(end.clone());
        self.report.line("\niperf Done.");
        if let Some((_, machine)) = &mut self.control {
            machine.goodbye();
        }
        self.flush(cx);
        let outcome = match self.report.failure() {
            Some(error) => Err(error.into()),
            None => Ok(Summary { end }),
        };
        self.finish(cx, outcome);
    }

    fn fail<P: Port>(&mut self, cx: &mut Context<'_, P>, error: Iperf3Error) {
        if self.stage == Stage::Done {
            return;
        }
        self.report.fail(&error.to_string());
        self.finish(cx, Err(error));
    }

    /// Closes everything and ends the shard.
    fn finish<P: Port>(&mut self, cx: &mut Context<'_, P>, outcome: Result<Summary, Iperf3Error>) {
        self.enter(cx.now(), Stage::Done);
        self.outcome = Some(outcome);
        self.unfinished.clear();
        for stream in &self.streams {
            let _ = cx.close(stream.conn);
        }
        if let Some((conn, _)) = &self.control {
            let _ = cx.close(*conn);
        }
        cx.stop();
    }

    /// We are asked to end.
    fn on_stopping<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        if self.stage == Stage::Done {
            return;
        }
        self.show_what_there_is(cx);
        if let (true, Some((_, machine))) = (self.stage != Stage::Connecting, &mut self.control) {
            machine.terminate();
        }
        self.flush(cx);
        self.fail(cx, Iperf3Error::Interrupted);
    }

    fn tell_results(&mut self) {
        if let (Some((_, machine)), Some(outcome)) = (
            &mut self.control,
            self.measure.as_ref().and_then(Measure::outcome),
        ) {
            machine.results(&outcome.results());
        }
    }

    fn on_results(&mut self, results: Results) {
        if let Some(measure) = &mut self.measure {
            measure.theirs = Some(results);
        }
    }
}

/// What we ask of the server.
fn parameters(options: &ClientOptions) -> Parameters {
    let (time, num, blockcount) = match options.extent {
        Extent::Seconds(seconds) => (seconds, 0, 0),
        Extent::Bytes(bytes) => (0, bytes, 0),
        Extent::Blocks(blocks) => (0, 0, blocks),
    };
    Parameters {
        time,
        num,
        blockcount,
        omit: options.omit,
        parallel: options.parallel,
        reverse: options.reverse,
        bidirectional: options.bidirectional,
        len: options.length,
        nodelay: options.no_delay,
        mss: options.mss.map_or(0, u32::from),
        congestion: options
            .congestion
            .map_or_else(String::new, |name| name.to_string()),
        ..Parameters::default()
    }
}

/// Why a connection could not be made, in the words that users know.
fn connect_failure(reason: CloseReason) -> String {
    match reason {
        CloseReason::Refused => {
            "Connection refused (does a server listen on that port?)".to_owned()
        }
        CloseReason::TimedOut => "Connection timed out (is a firewall in between?)".to_owned(),
        other => other.to_string(),
    }
}

impl Service for Client {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Readable { conn } => self.on_readable(cx, conn),
            Event::Writable { conn } => self.on_writable(cx, conn),
            Event::Started => self.on_started(cx),
            Event::Connected { conn } => self.on_connected(cx, conn),
            Event::Closed { conn, reason } => self.on_closed(cx, conn, reason),
            Event::Unreachable { reason, .. } => {
                let server = self.options.server;
                self.fail(
                    cx,
                    Iperf3Error::Connect {
                        server,
                        cause: reason.to_string(),
                    },
                );
            }
            Event::Timer { token } => match token & 0xff {
                timer::UPKEEP => self.on_upkeep(cx),
                kind => self.on_measure_timer(cx, kind, token >> 8),
            },
            Event::Stopping => self.on_stopping(cx),
            // A client listens nowhere.
            Event::Accepted { .. } => {}
        }
    }

    fn on_turn<P: Port>(&mut self, cx: &mut Context<'_, P>) -> usize {
        let indices = std::mem::take(&mut self.unfinished);
        for &index in &indices {
            if self.streams[index].cell.is_sender() {
                self.send(cx, index);
            } else {
                self.receive(cx, index);
            }
        }
        indices.len()
    }

    fn has_work(&self) -> bool {
        !self.unfinished.is_empty()
    }
}
