//! The server's side of the control connection, from the cookie on.

use super::{Inbox, MAX_PARAMETERS, MAX_RESULTS, Outbox, ProtocolError};
use crate::iperf3::message::{Parameters, Refusal, Results, State};

/// What the driver must know or do.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerStep {
    /// The client's wishes: answer with [`ServerControl::accept`] or [`ServerControl::refuse`].
    Parameters(Parameters),
    /// The client ended the test: close the streams, then call [`ServerControl::exchange`].
    TestEnd,
    /// The client's results: answer with [`ServerControl::results`].
    Results(Results),
    /// The client has said goodbye: close.
    Done,
    /// The client was stopped in the middle: close.
    ClientTerminated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Parameters,
    Judging,
    Streams,
    Running,
    Ending,
    ReadResults,
    WriteResults,
    Goodbye,
    Over,
}

impl Phase {
    const fn during(self) -> &'static str {
        match self {
            Self::Parameters | Self::Judging => "we waited for the test's parameters",
            Self::Streams => "we waited for the data connections",
            Self::Running => "the test was running",
            Self::Ending | Self::ReadResults | Self::WriteResults => "we exchanged results",
            Self::Goodbye => "we waited for the client's goodbye",
            Self::Over => "the test was over",
        }
    }
}

/// The server's control machine of one test.
#[derive(Debug)]
pub struct ServerControl {
    phase: Phase,
    inbox: Inbox,
    outbox: Outbox,
}

impl Default for ServerControl {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerControl {
    /// The cookie is read and no other test runs: asks for the parameters.
    pub fn new() -> Self {
        let mut outbox = Outbox::default();
        outbox.state(State::ParamExchange);
        Self {
            phase: Phase::Parameters,
            inbox: Inbox::default(),
            outbox,
        }
    }

    /// Takes what arrived.
    pub fn on_bytes(&mut self, bytes: &[u8]) {
        self.inbox.push(bytes);
    }

    /// The peer's FIN. Only after its goodbye is that no error.
    pub fn on_end(&self) -> Result<(), ProtocolError> {
        match self.phase {
            Phase::Over => Ok(()),
            phase => Err(ProtocolError::Closed(phase.during())),
        }
    }

    /// The next step, or `None` until more arrives or the last step is answered.
    pub fn poll(&mut self) -> Result<Option<ServerStep>, ProtocolError> {
        match self.phase {
            Phase::Parameters => {
                let Some(parameters) = self.inbox.json("parameters", MAX_PARAMETERS)? else {
                    return Ok(None);
                };
                self.phase = Phase::Judging;
                Ok(Some(ServerStep::Parameters(parameters)))
            }
            Phase::ReadResults => {
                let Some(results) = self.inbox.json("results", MAX_RESULTS)? else {
                    return Ok(None);
                };
                self.phase = Phase::WriteResults;
                Ok(Some(ServerStep::Results(results)))
            }
            Phase::Streams | Phase::Running | Phase::Goodbye => self.poll_state(),
            Phase::Judging | Phase::Ending | Phase::WriteResults | Phase::Over => Ok(None),
        }
    }

    fn poll_state(&mut self) -> Result<Option<ServerStep>, ProtocolError> {
        let during = self.phase.during();
        let Some(byte) = self.inbox.byte() else {
            return Ok(None);
        };
        let state = State::from_byte(byte).ok_or(ProtocolError::UnknownState { byte, during })?;
        let (phase, step) = match (self.phase, state) {
            (_, State::ClientTerminate) => (Phase::Over, ServerStep::ClientTerminated),
            (Phase::Running, State::TestEnd) => (Phase::Ending, ServerStep::TestEnd),
            (Phase::Goodbye, State::IperfDone) => (Phase::Over, ServerStep::Done),
            (_, state) => return Err(ProtocolError::Unexpected { state, during }),
        };
        self.phase = phase;
        Ok(Some(step))
    }

    /// The test can be run: the client shall open its data connections.
    pub fn accept(&mut self) {
        debug_assert_eq!(self.phase, Phase::Judging);
        self.outbox.state(State::CreateStreams);
        self.phase = Phase::Streams;
    }

    /// The test cannot be run: SERVER_ERROR with iperf3's number for it.
    pub fn refuse(&mut self, refusal: &Refusal) {
        self.outbox.state(State::ServerError);
        self.outbox
            .bytes
            .extend_from_slice(&refusal.code().to_be_bytes());
        self.outbox.bytes.extend_from_slice(&0i32.to_be_bytes());
        self.phase = Phase::Over;
    }

    /// All data connections stand: the test begins.
    pub fn start(&mut self) {
        debug_assert_eq!(self.phase, Phase::Streams);
        self.outbox.state(State::TestStart);
        self.outbox.state(State::TestRunning);
        self.phase = Phase::Running;
    }

    /// The streams are closed and counted: asks for the client's results.
    pub fn exchange(&mut self) {
        debug_assert_eq!(self.phase, Phase::Ending);
        self.outbox.state(State::ExchangeResults);
        self.phase = Phase::ReadResults;
    }

    /// Tells our results, and lets the client show them.
    pub fn results(&mut self, results: &Results) {
        debug_assert_eq!(self.phase, Phase::WriteResults);
        self.outbox.json(results);
        self.outbox.state(State::DisplayResults);
        self.phase = Phase::Goodbye;
    }

    /// We are being stopped.
    pub fn terminate(&mut self) {
        self.outbox.state(State::ServerTerminate);
        self.phase = Phase::Over;
    }

    /// What we are waiting for, in words that complete "while ...".
    pub fn during(&self) -> &'static str {
        self.phase.during()
    }

    /// Bytes to send.
    pub fn output(&self) -> &[u8] {
        &self.outbox.bytes
    }

    /// The first `count` bytes of the output are on their way.
    pub fn sent(&mut self, count: usize) {
        self.outbox.sent(count);
    }
}
