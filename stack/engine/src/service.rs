//! What an application on the shard's thread implements: a run-to-completion [`Service`].

use std::any::Any;
use std::net::SocketAddr;

use bywash_tcp::CloseReason;
use bywash_tcp::time::Instant;
use bywash_xsk::{Frame, Port};

use crate::context::Context;

/// A connection of one shard: index in its slab and the generation of that place, so that an id
/// kept too long names nothing instead of a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Place in the shard's slab.
    pub index: u32,
    /// How often that place has been taken.
    pub generation: u32,
}

/// A listener of one shard. Every shard of an engine has its own for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId {
    /// The local port it stands on.
    pub port: u16,
}

/// What happened, in the order it happened on one connection. `Closed` is always the last event
/// of its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The shard runs; comes once, before all others.
    Started,
    /// A peer completed the handshake with one of our listeners.
    Accepted {
        /// The new connection.
        conn: ConnId,
        /// The listener it came to.
        listener: ListenerId,
        /// Address and port of the peer.
        peer: SocketAddr,
    },
    /// A connection opened by [`Context::connect`] is established.
    Connected {
        /// The connection.
        conn: ConnId,
    },
    /// Data or the peer's FIN wait: call [`Context::recv`] until it says `Empty` or `End`.
    Readable {
        /// The connection.
        conn: ConnId,
    },
    /// After a [`Context::send`] that took less than it was given: there is room again.
    Writable {
        /// The connection.
        conn: ConnId,
    },
    /// The connection is gone; its id names nothing from now on.
    Closed {
        /// The connection.
        conn: ConnId,
        /// Why it ended.
        reason: CloseReason,
    },
    /// A connection that [`Context::connect`] began, or that was opened early by Fast Open, cannot reach its peer; nothing was
    /// sent.
    Unreachable {
        /// The connection, already gone.
        conn: ConnId,
        /// What the kernel says of the destination.
        reason: crate::host::Unreachable,
    },
    /// A timer of [`Context::set_timer`] ran out.
    Timer {
        /// What it was set with.
        token: u64,
    },
    /// The process was asked to end. Close what is open and call [`Context::stop`]; the shard
    /// resets whatever is still open a second later.
    Stopping,
}

/// What a service knows of a connection that goes to another shard.
pub type Luggage = Box<dyn Any + Send>;

/// An application that runs on the shard's own thread, called between ingress and egress of a turn.
///
/// A call must not block: while it runs, nothing is received or sent on the shard.
pub trait Service {
    /// Something happened.
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event);

    /// Called once a turn after all events; for services that are fed from another thread.
    /// Returns how many things it did: a turn without any work may sleep.
    fn on_turn<P: Port>(&mut self, cx: &mut Context<'_, P>) -> usize {
        let _ = cx;
        0
    }

    /// Most packets of the connection arrive on another shard's queue: may it move there? `Some`: yes, with what this service
    /// knows of it; nothing more is heard of `conn` here, and the other shard's service gets both by
    /// [`on_arrive`](Self::on_arrive). `None`, as unless this is overridden: it stays, and its packets are handed over.
    fn on_leave(&mut self, conn: ConnId) -> Option<Luggage> {
        let _ = conn;
        None
    }

    /// A connection has come from another shard, with what its service there gave it: data may wait to be read, and a
    /// `Writable` that was owed will come here. A service that lets connections leave takes them in, too; one that does not
    /// is never called, and would reset them.
    fn on_arrive<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId, luggage: Luggage) {
        drop(luggage);
        // It has just come, so it is there.
        let _ = cx.abort(conn);
    }

    /// Called once a turn before the shard may sleep: true if work is already waiting that
    /// no frame, timer or waker will announce.
    fn has_work(&self) -> bool {
        false
    }
}

/// What [`Context::recv`] found.
#[derive(Debug)]
pub enum Recv {
    /// The next bytes of the stream, where the NIC wrote them. The frame returns to the pool
    /// when it is dropped.
    Data(Frame),
    /// Nothing now; a `Readable` event will follow.
    Empty,
    /// The peer has sent its FIN and everything before it has been read.
    End,
}

/// What the application knows of the bytes that will follow what it sends now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follows {
    /// Nothing: what there is should go.
    #[default]
    Anything,
    /// More, soon: the peer is not pushed, and a segment that is not full waits for the rest (like `MSG_MORE`).
    More,
    /// A new record: nothing later shares a segment with this (like `MSG_EOR`).
    Record,
}

/// When a service timer or clock reading is wanted as a value.
pub type Time = Instant;

/// Why a call on a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnError {
    /// The id names no connection of this shard (it closed, or belongs to another shard).
    #[error("no such connection on this shard: it has closed")]
    Unknown,
    /// Our side of the stream is already closed for sending.
    #[error("the sending side was closed by shutdown; open a new connection to send more")]
    SendClosed,
}

/// Why a port could not be listened on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// This shard already listens there.
    #[error("port {0} is already listened on by this engine; choose another port")]
    InUse(u16),
    /// The kernel or another program has it.
    #[error("{0}")]
    Taken(String),
    /// Port 0 names no port.
    #[error("port 0 cannot be listened on; name one from 1 to 65535")]
    Zero,
    /// The demultiplexer did not take the port.
    #[error("the demultiplexer did not take port {port}: {cause}")]
    Steering {
        /// The port asked for.
        port: u16,
        /// What it said.
        cause: String,
    },
}

/// Why a connection could not be begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Every port of the local range is in use towards this peer.
    #[error(
        "no local port is free towards {0}: wait for old connections to leave TIME-WAIT, or give a larger local range"
    )]
    NoPort(SocketAddr),
    /// The shard has as many connections as it may.
    #[error("the shard already has {0} connections; close some, or raise `max_connections`")]
    Full(u32),
    /// The local range could not be reserved.
    #[error("{0}")]
    Range(String),
    /// The address cannot be connected to.
    #[error("{0} is not an address that can be connected to (unspecified, multicast or port 0)")]
    BadAddress(SocketAddr),
    /// No address of that family on the device.
    #[error(
        "the device has no {family} address to connect to {remote} from; add one with `ip address add`"
    )]
    NoSource {
        /// "IPv4" or "IPv6".
        family: &'static str,
        /// The peer.
        remote: SocketAddr,
    },
}
