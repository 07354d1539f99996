//! What crosses between application threads and a shard: plain data only.

use std::io;
use std::net::SocketAddr;

use bywash_xsk::LeaseDesc;

use crate::context::ConnOptions;

/// A connection as both sides name it. Its place is taken before the shard's own
/// [`ConnId`](crate::service::ConnId) exists, so that a connect in progress has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RemoteId {
    /// The shard that owns it.
    pub shard: u32,
    /// Place in the table of that shard's remote connections.
    pub index: u32,
    /// How often that place has been taken.
    pub generation: u32,
}

/// A listener as both sides name it; the same number on every shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerIndex(pub u32);

/// From an application thread to one shard, in order.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Accept connections to `port` on this shard.
    Listen {
        /// Where to report.
        listener: ListenerIndex,
        /// TCP port.
        port: u16,
        /// For every connection accepted.
        options: ConnOptions,
    },
    /// Stop accepting; established connections stay.
    Unlisten {
        /// What [`Command::Listen`] named.
        listener: ListenerIndex,
    },
    /// Open a connection.
    Connect {
        /// The place that the application took for it.
        conn: RemoteId,
        /// The peer.
        remote: SocketAddr,
        /// Choices for it.
        options: ConnOptions,
        /// A chunk and how many of its bytes are written first, so that they may go with the SYN.
        first: Option<(u32, u32)>,
    },
    /// Send the first `len` bytes of a chunk, then give the chunk back.
    Write {
        /// The connection.
        conn: RemoteId,
        /// Which of its chunks.
        chunk: u32,
        /// Bytes used in it.
        len: u32,
    },
    /// Switch Nagle's algorithm.
    SetNagle {
        /// The connection.
        conn: RemoteId,
        /// On, or off (TCP_NODELAY).
        on: bool,
    },
    /// FIN after everything written so far.
    Shutdown {
        /// The connection.
        conn: RemoteId,
    },
    /// Report once the peer has acknowledged everything, our FIN included.
    Drain {
        /// The connection, after its `Shutdown`.
        conn: RemoteId,
    },
    /// Leases came back on a connection that had used up its share: lend on.
    Resume {
        /// The connection.
        conn: RemoteId,
    },
    /// The application is done with it: close in order after everything written. Last command.
    Close {
        /// The connection.
        conn: RemoteId,
    },
    /// The application is done with it: reset. Last command.
    Abort {
        /// The connection.
        conn: RemoteId,
    },
}

/// From a shard to the reader of one connection, in the order of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// The next bytes, lent where they were received.
    Data {
        /// Opened exactly once, by `RegionView::open`.
        lease: LeaseDesc,
    },
    /// The peer's FIN: nothing follows.
    End,
}

/// From a shard to a listener's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The new connection.
    pub conn: RemoteId,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's.
    pub peer: SocketAddr,
}

/// Whose fault it was that a connection or a listener failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureCode {
    /// The peer answered the SYN with a RST.
    Refused,
    /// The peer reset the established connection.
    Reset,
    /// The peer stopped answering.
    TimedOut,
    /// The kernel knows no way to the peer.
    Unreachable,
    /// We reset it ourselves.
    Aborted,
    /// The engine could not begin it; the text says why.
    NotStarted,
    /// The engine was stopped, or its thread ended.
    Stopped,
}

impl FailureCode {
    /// The closest kind that std has.
    pub fn kind(self) -> io::ErrorKind {
        match self {
            Self::Refused => io::ErrorKind::ConnectionRefused,
            Self::Reset => io::ErrorKind::ConnectionReset,
            Self::TimedOut => io::ErrorKind::TimedOut,
            Self::Unreachable => io::ErrorKind::HostUnreachable,
            Self::Aborted | Self::Stopped => io::ErrorKind::ConnectionAborted,
            Self::NotStarted => io::ErrorKind::AddrNotAvailable,
        }
    }
}

/// Why a connection or a listener failed, with the remedy in the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// Whose fault.
    pub code: FailureCode,
    /// One line for people.
    pub text: String,
}

impl Failure {
    pub(super) fn new(code: FailureCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    pub(super) fn stopped() -> Self {
        Self::new(FailureCode::Stopped, "the engine has stopped")
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.code.kind(), failure)
    }
}
