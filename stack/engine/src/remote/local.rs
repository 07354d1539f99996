//! What the shard keeps of a connection that has a handle.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use bywash_tcp::CloseReason;

use super::message::FailureCode;
use super::slot::Slot;
use crate::service::ConnId;

/// What the application asked of our direction, once everything written before has been sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Finish {
    Open,
    Shutdown,
    Close,
}

/// A chunk that a `Write` command named, and how much of it has been sent.
pub(super) struct Pending {
    pub(super) chunk: u32,
    pub(super) len: usize,
    pub(super) sent: usize,
}

/// What the shard keeps of a remote connection.
pub(super) struct Remote {
    pub(super) slot: Arc<Slot>,
    /// `None` once the connection is gone, or before it could begin.
    pub(super) conn: Option<ConnId>,
    pub(super) remote: Option<SocketAddr>,
    pub(super) pending: VecDeque<Pending>,
    pub(super) finish: Finish,
    /// The finish has been handed to TCP.
    pub(super) finished: bool,
    pub(super) draining: bool,
    /// The application has sent its last command.
    pub(super) released: bool,
}

impl Remote {
    pub(super) fn new(slot: Arc<Slot>, conn: Option<ConnId>, remote: Option<SocketAddr>) -> Self {
        Self {
            slot,
            conn,
            remote,
            pending: VecDeque::new(),
            finish: Finish::Open,
            finished: false,
            draining: false,
            released: false,
        }
    }
}

/// How a connection's end is told to its handle.
pub(super) fn outcome(reason: CloseReason) -> Result<(), (FailureCode, String)> {
    let code = match reason {
        CloseReason::Finished => return Ok(()),
        CloseReason::Reset => FailureCode::Reset,
        CloseReason::TimedOut => FailureCode::TimedOut,
        CloseReason::Refused => FailureCode::Refused,
        CloseReason::Unreachable => FailureCode::Unreachable,
        CloseReason::Aborted => FailureCode::Aborted,
    };
    let remedy = match reason {
        CloseReason::Refused => "; nothing listens there, or a firewall refuses",
        CloseReason::TimedOut => "; it stopped answering",
        _ => "",
    };
    Err((code, format!("{reason}{remedy}")))
}
