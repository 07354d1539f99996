//! The client's side of the control connection.

use super::{Inbox, MAX_RESULTS, Outbox, ProtocolError};
use crate::iperf3::message::{Cookie, Parameters, Results, State};

/// What the driver must know or do.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientStep {
    /// Open the data connections.
    CreateStreams,
    /// The test is about to begin: start the clocks.
    TestStart,
    /// Send. When time or amount is reached, call [`ClientControl::end_test`].
    TestRunning,
    /// Tell our results with [`ClientControl::results`].
    ExchangeResults,
    /// The server's results.
    Results(Results),
    /// Close the streams, show the results, call [`ClientControl::goodbye`] and close.
    DisplayResults,
    /// The server runs another test.
    AccessDenied,
    /// The server was stopped in the middle.
    ServerTerminated,
    /// The server failed.
    ServerError {
        /// iperf3's number.
        code: i32,
        /// The server's errno.
        errno: i32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Parameters,
    Streams,
    Starting,
    Running,
    Ended,
    WriteResults,
    ReadResults,
    Display,
    ErrorNumbers,
    Over,
}

impl Phase {
    const fn during(self) -> &'static str {
        match self {
            Self::Greeting => "we waited for the server's greeting",
            Self::Parameters => "we waited for the server to take the parameters",
            Self::Streams => "the data connections were being made",
            Self::Starting => "the test was about to start",
            Self::Running => "the test was running",
            Self::Ended | Self::WriteResults | Self::ReadResults | Self::Display => {
                "we exchanged results"
            }
            Self::ErrorNumbers => "we waited for the server's error",
            Self::Over => "the test was over",
        }
    }
}

/// The client's control machine of one test.
#[derive(Debug)]
pub struct ClientControl {
    phase: Phase,
    parameters: Parameters,
    inbox: Inbox,
    outbox: Outbox,
}

impl ClientControl {
    /// The connection stands: sends the cookie, and later `parameters`.
    pub fn new(cookie: &Cookie, parameters: Parameters) -> Self {
        let outbox = Outbox {
            bytes: cookie.bytes().to_vec(),
        };
        Self {
            phase: Phase::Greeting,
            parameters,
            inbox: Inbox::default(),
            outbox,
        }
    }

    /// Takes what arrived.
    pub fn on_bytes(&mut self, bytes: &[u8]) {
        self.inbox.push(bytes);
    }

    /// The peer's FIN. Only after our goodbye is that no error.
    pub fn on_end(&self) -> Result<(), ProtocolError> {
        match self.phase {
            Phase::Over => Ok(()),
            phase => Err(ProtocolError::Closed(phase.during())),
        }
    }

    /// The next step, or `None` until more arrives or the last step is answered.
    pub fn poll(&mut self) -> Result<Option<ClientStep>, ProtocolError> {
        loop {
            match self.phase {
                Phase::ReadResults => {
                    let Some(results) = self.inbox.json("results", MAX_RESULTS)? else {
                        return Ok(None);
                    };
                    self.phase = Phase::Display;
                    return Ok(Some(ClientStep::Results(results)));
                }
                Phase::ErrorNumbers => {
                    let Some([a, b, c, d, e, f, g, h]) = self.inbox.array::<8>() else {
                        return Ok(None);
                    };
                    self.phase = Phase::Over;
                    let code = i32::from_be_bytes([a, b, c, d]);
                    return Ok(Some(ClientStep::ServerError {
                        code,
                        errno: i32::from_be_bytes([e, f, g, h]),
                    }));
                }
                Phase::WriteResults | Phase::Over => return Ok(None),
                _ => {}
            }
            let Some(byte) = self.inbox.byte() else {
                return Ok(None);
            };
            if let Some(step) = self.on_state(byte)? {
                return Ok(Some(step));
            }
        }
    }

    fn on_state(&mut self, byte: u8) -> Result<Option<ClientStep>, ProtocolError> {
        let during = self.phase.during();
        let Some(state) = State::from_byte(byte) else {
            return Err(match self.phase {
                Phase::Greeting => ProtocolError::NotAServer(byte),
                _ => ProtocolError::UnknownState { byte, during },
            });
        };
        let (phase, step) = match (self.phase, state) {
            (_, State::AccessDenied) => (Phase::Over, Some(ClientStep::AccessDenied)),
            (_, State::ServerTerminate) => (Phase::Over, Some(ClientStep::ServerTerminated)),
            (_, State::ServerError) => (Phase::ErrorNumbers, None),
            (Phase::Greeting, State::ParamExchange) => {
                self.outbox.json(&self.parameters);
                (Phase::Parameters, None)
            }
            (Phase::Parameters, State::CreateStreams) => {
                (Phase::Streams, Some(ClientStep::CreateStreams))
            }
            (Phase::Streams, State::TestStart) => (Phase::Starting, Some(ClientStep::TestStart)),
            (Phase::Starting, State::TestRunning) => {
                (Phase::Running, Some(ClientStep::TestRunning))
            }
            (Phase::Ended, State::ExchangeResults) => {
                (Phase::WriteResults, Some(ClientStep::ExchangeResults))
            }
            (Phase::Display, State::DisplayResults) => {
                (Phase::Display, Some(ClientStep::DisplayResults))
            }
            (_, state) => return Err(ProtocolError::Unexpected { state, during }),
        };
        self.phase = phase;
        Ok(step)
    }

    /// Time or amount is reached.
    pub fn end_test(&mut self) {
        debug_assert_eq!(self.phase, Phase::Running);
        self.outbox.state(State::TestEnd);
        self.phase = Phase::Ended;
    }

    /// Tells our results.
    pub fn results(&mut self, results: &Results) {
        debug_assert_eq!(self.phase, Phase::WriteResults);
        self.outbox.json(results);
        self.phase = Phase::ReadResults;
    }

    /// The results are shown.
    pub fn goodbye(&mut self) {
        self.outbox.state(State::IperfDone);
        self.phase = Phase::Over;
    }

    /// We are being stopped.
    pub fn terminate(&mut self) {
        self.outbox.state(State::ClientTerminate);
        self.phase = Phase::Over;
    }

    /// What should come next.
    pub fn waiting_for(&self) -> &'static str {
        match self.phase {
            Phase::Greeting => "its greeting",
            Phase::Parameters => "it to take the parameters",
            Phase::Streams => "it to take the data connections",
            Phase::Starting | Phase::Running => "the test to start",
            Phase::Ended | Phase::WriteResults | Phase::ReadResults | Phase::Display => {
                "its results"
            }
            Phase::ErrorNumbers => "its error",
            Phase::Over => "the end",
        }
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
