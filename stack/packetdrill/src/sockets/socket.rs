//! One socket: what it is now, what it was told, and what is left of a connection that has ended.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use bywash_engine::context::Context;
use bywash_engine::service::{ConnId, ListenerId, Recv};
use bywash_engine::tcp::{CloseReason, Info};
use bywash_engine::xsk::{Frame, Port};
use nix::errno::Errno;

use super::options::Options;
use super::urgent::Urgent;

/// Names a socket, also while no descriptor does: a child that waits for `accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(pub(super) u64);

/// Address family of the descriptor; an IPv6 one shows IPv4 peers as mapped addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// A listening socket's own.
pub(super) struct Listening {
    pub(super) id: ListenerId,
    pub(super) port: u16,
    /// Children in the order in which their handshakes ended.
    pub(super) queue: VecDeque<Key>,
    /// Children that may wait there: one more than `listen` said, as in Linux.
    pub(super) most: usize,
}

impl Listening {
    /// Nobody more is let in.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= self.most
    }
}

/// Where a socket is in its life.
pub(super) enum State {
    /// Neither listening nor connected; it never was, or was disconnected.
    Fresh,
    Listening(Listening),
    /// Our SYN is out.
    Connecting(ConnId),
    Connected(ConnId),
    /// The connection is over.
    Ended,
}

/// Counts of changes, for edge-triggered epoll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Edges {
    pub(super) read: u64,
    pub(super) write: u64,
    pub(super) error: u64,
}

pub(super) struct Socket {
    pub(super) fd: Option<RawFd>,
    pub(super) family: Family,
    pub(super) nonblocking: bool,
    /// The listener that keeps this child back until it has data.
    pub(super) deferred_by: Option<Key>,
    /// What `bind` said.
    pub(super) bound: Option<SocketAddr>,
    /// Both ends, kept when the connection is gone.
    pub(super) names: Option<(SocketAddr, SocketAddr)>,
    pub(super) state: State,
    /// `connect` was put off until there is data to go with the SYN (`TCP_FASTOPEN_CONNECT`).
    pub(super) deferred: Option<SocketAddr>,
    pub(super) options: Options,
    /// What the next call, or `SO_ERROR`, reports.
    pub(super) error: Option<Errno>,
    /// `shutdown` said so.
    pub(super) shut_read: bool,
    pub(super) shut_write: bool,
    /// The peer has said FIN while we had not.
    pub(super) peer_closed: bool,
    /// Taken from the connection and not yet read: the rest of a frame, or what `MSG_PEEK` has looked at.
    pub(super) head: VecDeque<Frame>,
    pub(super) urgent: Urgent,
    /// What waits in the error queue: ranges of writes with `MSG_ZEROCOPY` that are done with the caller's bytes.
    pub(super) completions: VecDeque<(u32, u32)>,
    /// Number of the next such write.
    pub(super) next_completion: u32,
    /// The last picture of a connection that is gone.
    pub(super) last_info: Option<Box<Info>>,
    pub(super) edges: Edges,
}

impl Socket {
    pub(super) fn new(family: Family, nonblocking: bool) -> Self {
        Self {
            fd: None,
            family,
            nonblocking,
            deferred_by: None,
            bound: None,
            names: None,
            state: State::Fresh,
            deferred: None,
            options: Options::default(),
            error: None,
            shut_read: false,
            shut_write: false,
            peer_closed: false,
            head: VecDeque::new(),
            urgent: Urgent::default(),
            completions: VecDeque::new(),
            next_completion: 0,
            last_info: None,
            edges: Edges::default(),
        }
    }

    /// The socket that `accept` will give for a connection of this listener: it takes over the options.
    pub(super) fn child(&self, conn: ConnId) -> Self {
        let mut child = Self::new(self.family, false);
        child.options = self.options.clone();
        child.bound = self.bound;
        child.state = State::Connected(conn);
        child
    }

    /// A child of this listener waits for `accept` from now on.
    pub(super) fn queue<P: Port>(&mut self, cx: &mut Context<'_, P>, child: Key) {
        if let State::Listening(listening) = &mut self.state {
            listening.queue.push_back(child);
            if listening.is_full() {
                cx.set_listener_open(listening.id, false);
            }
            self.edges.read += 1;
        }
    }

    /// The connection, while there is one.
    pub(super) fn conn(&self) -> Option<ConnId> {
        match self.state {
            State::Connecting(conn) | State::Connected(conn) => Some(conn),
            State::Fresh | State::Listening(_) | State::Ended => None,
        }
    }

    /// The connection is over; `None`: it never reached its peer. What was received stays readable.
    pub(super) fn end<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        conn: ConnId,
        reason: Option<CloseReason>,
    ) {
        while let Ok(Recv::Data(frame)) = cx.recv(conn) {
            self.head.push_back(frame);
        }
        if let Ok(info) = cx.info(conn) {
            self.last_info = Some(Box::new(info));
        }
        if let Ok(names) = cx.addresses(conn) {
            self.names = Some(names);
        }
        self.error = match reason {
            Some(CloseReason::Finished | CloseReason::Aborted) => None,
            // As Linux: whoever has read the FIN is not surprised by a missing answer but by a broken pipe.
            Some(CloseReason::Reset) if self.peer_closed => Some(Errno::EPIPE),
            Some(CloseReason::Reset) => Some(Errno::ECONNRESET),
            Some(CloseReason::Refused) => Some(Errno::ECONNREFUSED),
            Some(CloseReason::TimedOut) => Some(Errno::ETIMEDOUT),
            Some(CloseReason::Unreachable) | None => Some(Errno::EHOSTUNREACH),
        };
        self.state = State::Ended;
        self.edges.read += 1;
        self.edges.write += 1;
    }

    /// Tells a new connection of a cork that was set before there was one.
    pub(super) fn cork<P: Port>(&self, cx: &mut Context<'_, P>, conn: ConnId) {
        if self.options.cork && cx.set_cork(conn, true).is_err() {
            // It has ended in this very turn.
        }
    }

    /// A write with `MSG_ZEROCOPY` is done: its bytes were copied, so they are the caller's again at once, and it is told so.
    pub(super) fn note_copied(&mut self) {
        if !self.options.zerocopy() {
            return;
        }
        let number = self.next_completion;
        self.next_completion = number.wrapping_add(1);
        match self.completions.back_mut() {
            Some((_, last)) if last.wrapping_add(1) == number => *last = number,
            _ => self.completions.push_back((number, number)),
        }
        self.edges.error += 1;
    }

    /// Reports the pending error once.
    pub(super) fn take_error(&mut self) -> Result<(), Errno> {
        self.error.take().map_or(Ok(()), Err)
    }
}
