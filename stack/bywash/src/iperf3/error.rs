//! Why a test failed, and whose fault it was.

use std::net::SocketAddr;

use bywash_engine::engine::{EngineError, StartError};

use super::control::ProtocolError;

/// Why a server ended or a client's test failed.
#[derive(Debug, thiserror::Error)]
pub enum Iperf3Error {
    /// An option is out of range (the caller's fault; exit status 2).
    #[error("{0}")]
    Option(String),
    /// The engine did not start on the device.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The engine failed while it ran.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The port could not be listened on.
    #[error("unable to listen on port {port}: {cause}")]
    Listen {
        /// The port asked for.
        port: u16,
        /// What the engine said.
        cause: String,
    },
    /// No connection to the server.
    #[error("unable to connect to server {server}: {cause}")]
    Connect {
        /// Where to.
        server: SocketAddr,
        /// What stood in the way, with the remedy where there is one.
        cause: String,
    },
    /// The server runs somebody else's test (ACCESS_DENIED).
    #[error("the server is busy running a test. try again later")]
    Busy,
    /// The peer broke the protocol, or speaks another one.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The server was stopped in the middle of the test (SERVER_TERMINATE).
    #[error("the server has terminated")]
    ServerTerminated,
    /// The server reported an error of its own (SERVER_ERROR).
    #[error("the server reported error {code} (errno {errno})")]
    ServerError {
        /// iperf3's number (`iperf_api.h`).
        code: i32,
        /// The server's errno.
        errno: i32,
    },
    /// A data connection ended before the test did.
    #[error("a data connection ended before the test was over: {0}")]
    StreamLost(String),
    /// The server did not take the next step in time.
    #[error("the server did not answer within {seconds} seconds while we waited for {waiting_for}")]
    TimedOut {
        /// What should have come.
        waiting_for: &'static str,
        /// How long we waited.
        seconds: u64,
    },
    /// We were asked to stop (SIGINT, SIGTERM) before the test was over.
    #[error("interrupt - the client has terminated")]
    Interrupted,
    /// The report could not be written.
    #[error("unable to write the report: {0}")]
    Output(#[from] std::io::Error),
}
