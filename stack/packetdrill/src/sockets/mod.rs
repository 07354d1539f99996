//! System calls on top of a shard: descriptors, streams, options, readiness.
//!
//! [`Sockets`] is a [`Service`]: it hears of connections by events, and acts on them through a
//! [`Context`]. No call here waits. What would wait gives `None` ([`Attempt`]) and is tried again when something has
//! happened; whoever calls decides whether to sleep meanwhile.
//!
//! ```text
//!  fds: descriptor -> Object          sockets: key -> Socket            by_conn: ConnId -> key
//!        | Socket(key) ------------------^   | Listening: keys of children that wait for accept()
//!        | Epoll(..)                         | Connecting, Connected: a ConnId
//!        | Pipe end                          | Ended: what can still be read or asked
//! ```
//!
//! | module | noun |
//! |---|---|
//! | `socket` | one socket and its state |
//! | `calls` | socket, bind, listen, accept, connect, shutdown, close, names |
//! | `stream` | bytes in and out, what is queued |
//! | `options`, `tcp_info` | getsockopt, setsockopt, fcntl |
//! | `urgent` | `MSG_OOB` |
//! | `ready`, `epoll` | poll(2) and epoll(7) |
//! | `fast_open` | data on the SYN |
//! | `pipe` | pipe(2) and splice(2) |

mod calls;
mod epoll;
mod fast_open;
mod options;
mod pipe;
mod ready;
mod socket;
mod stream;
mod tcp_info;
mod urgent;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::fd::{IntoRawFd, RawFd};

use bywash_engine::context::Context;
use bywash_engine::service::{ConnId, Event, Service};
use bywash_engine::tcp::CloseReason;
use bywash_engine::xsk::Port;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::sysctl::Sysctls;

pub use calls::How;
pub use epoll::EpollEvent;
pub use stream::{Copied, Progress, Received, Sending};

use epoll::Epoll;
use pipe::{Pipe, PipeEnd};
use socket::{Key, Socket, State};

/// What a call that may have to wait gives: `None` to be tried again.
pub type Attempt<T> = Result<Option<T>, Errno>;

/// What a descriptor names.
enum Object {
    Socket(Key),
    Epoll(Epoll),
    Pipe(PipeEnd),
}

/// All descriptors of a process that stand for something of the stack.
pub struct Sockets {
    addresses: Vec<IpAddr>,
    sysctls: Sysctls,
    fds: BTreeMap<RawFd, Object>,
    sockets: BTreeMap<Key, Socket>,
    by_conn: HashMap<ConnId, Key>,
    pipes: BTreeMap<u64, Pipe>,
    next_key: u64,
}

impl Sockets {
    /// No descriptor yet. `addresses` are what a socket may be bound to.
    pub fn new(addresses: Vec<IpAddr>, sysctls: Sysctls) -> Self {
        Self {
            addresses,
            sysctls,
            fds: BTreeMap::new(),
            sockets: BTreeMap::new(),
            by_conn: HashMap::new(),
            pipes: BTreeMap::new(),
            next_key: 0,
        }
    }

    /// Whether a call on `fd` may not wait: `O_NONBLOCK` is set.
    pub fn is_nonblocking(&self, fd: RawFd) -> bool {
        match self.fds.get(&fd) {
            Some(Object::Socket(key)) => self.sockets[key].nonblocking,
            Some(Object::Pipe(end)) => end.nonblocking,
            Some(Object::Epoll(_)) | None => false,
        }
    }

    /// A number that is free, and that is a real descriptor of this process, so that the application may even `close`
    /// it behind our back.
    fn open(&mut self, object: Object) -> Result<RawFd, Errno> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let fd = std::os::fd::OwnedFd::from(EventFd::from_flags(flags)?).into_raw_fd();
        // A number that was closed behind our back names the new object from now on.
        self.fds.insert(fd, object);
        Ok(fd)
    }

    fn fresh_key(&mut self) -> Key {
        self.next_key += 1;
        Key(self.next_key)
    }

    fn key(&self, fd: RawFd) -> Result<Key, Errno> {
        match self.fds.get(&fd) {
            Some(Object::Socket(key)) => Ok(*key),
            Some(_) => Err(Errno::ENOTSOCK),
            None => Err(Errno::EBADF),
        }
    }

    fn socket(&self, fd: RawFd) -> Result<&Socket, Errno> {
        self.key(fd).map(|key| &self.sockets[&key])
    }

    fn socket_mut(&mut self, fd: RawFd) -> Result<&mut Socket, Errno> {
        let key = self.key(fd)?;
        self.sockets.get_mut(&key).ok_or(Errno::EBADF)
    }

    fn socket_of(&mut self, conn: ConnId) -> Option<&mut Socket> {
        self.sockets.get_mut(self.by_conn.get(&conn)?)
    }

    /// A connection of a listener is complete: it waits for `accept`.
    fn on_accepted<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId, port: u16) {
        let listener = self.sockets.iter().find_map(|(key, socket)| {
            matches!(&socket.state, State::Listening(listening) if listening.port == port)
                .then_some(*key)
        });
        let Some(listener) = listener else {
            // The listener was closed while the handshake was under way.
            if cx.abort(conn).is_err() {
                // It is over already.
            }
            return;
        };
        let key = self.fresh_key();
        let parent = self.sockets.get_mut(&listener).expect("just found");
        let mut child = parent.child(conn);
        child.cork(cx, conn);
        if let Some(seconds) = parent.options.deferred() {
            child.deferred_by = Some(listener);
            cx.set_timer(std::time::Duration::from_secs(seconds), key.0);
        } else {
            parent.queue(cx, key);
        }
        self.sockets.insert(key, child);
        self.by_conn.insert(conn, key);
    }

    /// A child that was kept back (`TCP_DEFER_ACCEPT`) has data, or has waited for long enough.
    fn end_deferral<P: Port>(&mut self, cx: &mut Context<'_, P>, key: Key) {
        let child = self.sockets.get_mut(&key);
        let Some(listener) = child.and_then(|child| child.deferred_by.take()) else {
            return;
        };
        if let Some(parent) = self.sockets.get_mut(&listener) {
            parent.queue(cx, key);
        }
    }

    fn on_closed<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        conn: ConnId,
        reason: Option<CloseReason>,
    ) {
        let Some(key) = self.by_conn.remove(&conn) else {
            return;
        };
        if let Some(socket) = self.sockets.get_mut(&key) {
            socket.end(cx, conn, reason);
            if socket.deferred_by.is_some() {
                // Nobody has heard of it, and nobody will.
                self.sockets.remove(&key);
            }
        }
    }
}

impl Service for Sockets {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Accepted { conn, listener, .. } => self.on_accepted(cx, conn, listener.port),
            Event::Connected { conn } => {
                if let Some(socket) = self.socket_of(conn) {
                    socket.state = State::Connected(conn);
                    socket.edges.write += 1;
                    socket.cork(cx, conn);
                }
            }
            Event::Readable { conn } => {
                if let Some(key) = self.by_conn.get(&conn).copied() {
                    self.end_deferral(cx, key);
                }
                if let Some(socket) = self.socket_of(conn) {
                    socket.edges.read += 1;
                    socket.peer_closed |= cx
                        .info(conn)
                        .is_ok_and(|info| info.state == bywash_engine::tcp::State::CloseWait);
                }
            }
            Event::Writable { conn } => {
                if let Some(socket) = self.socket_of(conn) {
                    socket.edges.write += 1;
                }
            }
            Event::Closed { conn, reason } => self.on_closed(cx, conn, Some(reason)),
            Event::Unreachable { conn, .. } => self.on_closed(cx, conn, None),
            // A timer of no socket only wakes the machine: who waits looks at the clock.
            Event::Timer { token } => self.end_deferral(cx, Key(token)),
            Event::Started | Event::Stopping => {}
        }
    }
}
