//! Making sockets, connecting them, and ending them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;

use bywash_engine::context::Context;
use bywash_engine::service::{ConnId, ConnectError, ListenError};
use bywash_engine::xsk::Port;
use nix::errno::Errno;

use super::socket::{Family, Key, Listening, Socket, State};
use super::{Attempt, Object, Sockets};

/// What `shutdown` closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `SHUT_RD`.
    Read,
    /// `SHUT_WR`.
    Write,
    /// `SHUT_RDWR`.
    Both,
}

impl Sockets {
    /// `socket(2)`: only TCP.
    ///
    /// # Errors
    /// As Linux for what is not TCP over IP.
    pub fn socket_new(&mut self, domain: i32, kind: i32, protocol: i32) -> Result<RawFd, Errno> {
        let family = match domain {
            libc::AF_INET => Family::V4,
            libc::AF_INET6 => Family::V6,
            _ => return Err(Errno::EAFNOSUPPORT),
        };
        let nonblocking = kind & libc::SOCK_NONBLOCK != 0;
        if kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != libc::SOCK_STREAM {
            return Err(Errno::ESOCKTNOSUPPORT);
        }
        if !matches!(protocol, 0 | libc::IPPROTO_TCP) {
            return Err(Errno::EPROTONOSUPPORT);
        }
        let mut socket = Socket::new(family, nonblocking);
        socket.options.keep_alive = self.sysctls.keep_alive();
        self.install(socket)
    }

    fn install(&mut self, socket: Socket) -> Result<RawFd, Errno> {
        let key = self.fresh_key();
        self.sockets.insert(key, socket);
        self.give_descriptor(key)
    }

    fn give_descriptor(&mut self, key: Key) -> Result<RawFd, Errno> {
        let fd = self.open(Object::Socket(key))?;
        if let Some(socket) = self.sockets.get_mut(&key) {
            socket.fd = Some(fd);
        }
        Ok(fd)
    }

    /// `bind(2)`.
    ///
    /// # Errors
    /// `EINVAL` if it is bound or used, `EADDRNOTAVAIL` if the address is not ours.
    pub fn bind(&mut self, fd: RawFd, address: SocketAddr) -> Result<(), Errno> {
        let ip = address.ip().to_canonical();
        if !ip.is_unspecified() && !self.addresses.contains(&ip) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let socket = self.socket_mut(fd)?;
        if socket.bound.is_some() || !matches!(socket.state, State::Fresh) {
            return Err(Errno::EINVAL);
        }
        if socket.family == Family::V4 && !ip.is_ipv4() {
            return Err(Errno::EAFNOSUPPORT);
        }
        socket.bound = Some(SocketAddr::new(ip, address.port()));
        Ok(())
    }

    /// `listen(2)`.
    ///
    /// # Errors
    /// `EINVAL` if it is connected, `EADDRINUSE` if another listens there.
    pub fn listen<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        fd: RawFd,
        backlog: i32,
    ) -> Result<(), Errno> {
        // As Linux: a negative number is a large one, and there is room for one more than it says.
        let most = usize::try_from(backlog).unwrap_or(usize::MAX - 1) + 1;
        let socket = self.socket_mut(fd)?;
        match &mut socket.state {
            // Again: only the backlog changes.
            State::Listening(listening) => {
                listening.most = most;
                cx.set_listener_open(listening.id, !listening.is_full());
                return Ok(());
            }
            State::Fresh => {}
            _ => return Err(Errno::EINVAL),
        }
        let port = socket.bound.map_or(0, |bound| bound.port());
        let config = self.config(cx, fd)?;
        let id = cx.listen_with(port, &config).map_err(|error| match error {
            ListenError::InUse(_) | ListenError::Taken(_) => Errno::EADDRINUSE,
            // No port was bound, and the engine gives none out.
            ListenError::Zero => Errno::EADDRNOTAVAIL,
            ListenError::Steering { .. } => Errno::EIO,
        })?;
        self.socket_mut(fd)?.state = State::Listening(Listening {
            id,
            port,
            queue: std::collections::VecDeque::new(),
            most,
        });
        self.tune_fast_open(cx, fd)
    }

    /// `accept4(2)`: the new descriptor and the peer's address as the listener's family shows it.
    ///
    /// # Errors
    /// `EINVAL` if it does not listen.
    pub fn accept<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        fd: RawFd,
        flags: i32,
    ) -> Attempt<(RawFd, SocketAddr)> {
        let socket = self.socket_mut(fd)?;
        let family = socket.family;
        let State::Listening(listening) = &mut socket.state else {
            return Err(Errno::EINVAL);
        };
        let Some(key) = listening.queue.pop_front() else {
            return Ok(None);
        };
        cx.set_listener_open(listening.id, true);
        let fd = self.give_descriptor(key)?;
        let child = self.sockets.get_mut(&key).ok_or(Errno::ECONNABORTED)?;
        child.nonblocking = flags & libc::SOCK_NONBLOCK != 0;
        if let Some(conn) = child.conn()
            && let Ok(names) = cx.addresses(conn)
        {
            child.names = Some(names);
        }
        let peer = child.names.map(|(_, peer)| peer);
        Ok(Some((fd, shown(peer.ok_or(Errno::ECONNABORTED)?, family))))
    }

    /// The first half of `connect(2)`: sends the SYN. The second is [`connected`](Self::connected).
    ///
    /// # Errors
    /// `EISCONN`, `EALREADY` or what keeps the SYN from being sent; the pending error of an earlier attempt.
    pub fn connect<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        fd: RawFd,
        remote: SocketAddr,
    ) -> Result<(), Errno> {
        if !self.may_connect(fd, remote)? {
            return Ok(());
        }
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        if self.defer(cx, fd, remote)? {
            return Ok(());
        }
        let wants = self.socket(fd)?.options.fast_open_connect();
        self.open_actively(cx, fd, remote, wants)
    }

    /// Whether the socket can begin a connection. False: it has one, and `connect` has not said so yet.
    pub(super) fn may_connect(&mut self, fd: RawFd, remote: SocketAddr) -> Result<bool, Errno> {
        let socket = self.socket_mut(fd)?;
        match socket.state {
            State::Connecting(_) => return Err(Errno::EALREADY),
            State::Connected(_) if socket.options.connect_told => return Err(Errno::EISCONN),
            State::Connected(_) => return Ok(false),
            State::Listening(_) => return Err(Errno::EISCONN),
            State::Ended => {
                socket.take_error()?;
                socket.state = State::Fresh;
            }
            State::Fresh => {}
        }
        if socket.family == Family::V4 && !remote.is_ipv4() {
            return Err(Errno::EAFNOSUPPORT);
        }
        Ok(true)
    }

    /// Sends the SYN.
    pub(super) fn open_actively<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        fd: RawFd,
        remote: SocketAddr,
        fast_open: bool,
    ) -> Result<(), Errno> {
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let mut config = self.config(cx, fd)?;
        config.fast_open = fast_open;
        let conn = cx
            .connect_with(remote, config)
            .map_err(|error| match error {
                ConnectError::NoPort(_) | ConnectError::Range(_) => Errno::EADDRNOTAVAIL,
                ConnectError::Full(_) => Errno::ENOBUFS,
                ConnectError::BadAddress(_) | ConnectError::NoSource { .. } => Errno::ENETUNREACH,
            })?;
        let key = self.key(fd)?;
        self.by_conn.insert(conn, key);
        let socket = self.socket_mut(fd)?;
        socket.state = State::Connecting(conn);
        socket.options.connect_told = false;
        Ok(())
    }

    /// Whether the handshake that `connect` began has ended, and how.
    ///
    /// # Errors
    /// The handshake failed.
    pub fn connected(&mut self, fd: RawFd) -> Attempt<()> {
        let socket = self.socket_mut(fd)?;
        match socket.state {
            State::Connecting(_) => Ok(None),
            State::Fresh if socket.deferred.is_some() => Ok(Some(())),
            State::Connected(_) => {
                socket.options.connect_told = true;
                Ok(Some(()))
            }
            _ => {
                let failed = socket.error.take().unwrap_or(Errno::ECONNABORTED);
                socket.state = State::Fresh;
                Err(failed)
            }
        }
    }

    /// `connect(2)` with `AF_UNSPEC`: back to a fresh socket; a peer gets a RST.
    ///
    /// # Errors
    /// It is no socket.
    pub fn disconnect<P: Port>(&mut self, cx: &mut Context<'_, P>, fd: RawFd) -> Result<(), Errno> {
        let socket = self.socket_mut(fd)?;
        let conn = socket.conn();
        socket.state = State::Fresh;
        socket.deferred = None;
        socket.head.clear();
        socket.error = None;
        (socket.shut_read, socket.shut_write) = (false, false);
        if let Some(conn) = conn {
            self.by_conn.remove(&conn);
            abort(cx, conn);
        }
        Ok(())
    }

    /// `shutdown(2)`.
    ///
    /// # Errors
    /// `ENOTCONN` if there is no connection.
    pub fn shutdown<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        fd: RawFd,
        how: How,
    ) -> Result<(), Errno> {
        let key = self.key(fd)?;
        let socket = self.socket_mut(fd)?;
        let conn = match &socket.state {
            State::Connecting(conn) | State::Connected(conn) => *conn,
            State::Listening(_) if how != How::Write => {
                let socket = self.sockets.get_mut(&key).ok_or(Errno::EBADF)?;
                let state = std::mem::replace(&mut socket.state, State::Fresh);
                self.stop_listening(cx, key, state);
                return Ok(());
            }
            State::Fresh | State::Listening(_) | State::Ended => return Err(Errno::ENOTCONN),
        };
        if how != How::Write {
            socket.shut_read = true;
            socket.edges.read += 1;
        }
        if how != How::Read {
            socket.shut_write = true;
            socket.edges.write += 1;
            cx.shutdown(conn).map_err(|_| Errno::ENOTCONN)?;
        }
        Ok(())
    }

    /// `close(2)`. With `SO_LINGER` of zero, or with bytes unread, the peer gets a RST.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn close<P: Port>(&mut self, cx: &mut Context<'_, P>, fd: RawFd) -> Result<(), Errno> {
        let object = self.fds.remove(&fd).ok_or(Errno::EBADF)?;
        for other in self.fds.values_mut() {
            if let Object::Epoll(epoll) = other {
                epoll.forget(fd);
            }
        }
        match object {
            Object::Socket(key) => self.close_socket(cx, key),
            Object::Pipe(end) => self.close_pipe(end),
            Object::Epoll(_) => {}
        }
        nix::unistd::close(fd)
    }

    fn close_socket<P: Port>(&mut self, cx: &mut Context<'_, P>, key: Key) {
        let Some(socket) = self.sockets.remove(&key) else {
            return;
        };
        if let Some(conn) = socket.conn() {
            self.by_conn.remove(&conn);
            let rude = socket.options.linger == Some(0) || !socket.head.is_empty();
            if rude {
                abort(cx, conn);
            } else if cx.close(conn).is_err() {
                // It has ended in this very turn; nobody is left to be told.
            }
        }
        self.stop_listening(cx, key, socket.state);
    }

    /// Children that nobody will accept any more are reset.
    fn stop_listening<P: Port>(&mut self, cx: &mut Context<'_, P>, key: Key, state: State) {
        let State::Listening(mut listening) = state else {
            return;
        };
        cx.unlisten(listening.id);
        let deferred = self
            .sockets
            .iter()
            .filter(|(_, child)| child.deferred_by == Some(key));
        listening.queue.extend(deferred.map(|(key, _)| *key));
        for key in listening.queue {
            if let Some(conn) = self.sockets.remove(&key).and_then(|child| child.conn()) {
                self.by_conn.remove(&conn);
                abort(cx, conn);
            }
        }
    }

    /// `getsockname(2)` and `getpeername(2)`: ours, and the peer's if there is one.
    ///
    /// # Errors
    /// It is no socket.
    pub fn names<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        fd: RawFd,
    ) -> Result<(SocketAddr, Option<SocketAddr>), Errno> {
        let socket = self.socket(fd)?;
        let family = socket.family;
        let both = match socket.conn() {
            Some(conn) => cx.addresses(conn).ok().or(socket.names),
            None => socket.names,
        };
        let unbound = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let own = both.map_or(socket.bound.unwrap_or(unbound), |(own, _)| own);
        let peer = both.map(|(_, peer)| shown(peer, family));
        Ok((shown(own, family), peer))
    }
}

/// RST, if there is still somebody to send it to.
fn abort<P: Port>(cx: &mut Context<'_, P>, conn: ConnId) {
    if cx.abort(conn).is_err() {
        // It has ended in this very turn.
    }
}

/// An address as a socket of this family shows it (RFC 3493 3.7).
fn shown(address: SocketAddr, family: Family) -> SocketAddr {
    match (address.ip(), family) {
        (IpAddr::V4(ip), Family::V6) => {
            let ip = if ip.is_unspecified() {
                Ipv6Addr::UNSPECIFIED
            } else {
                ip.to_ipv6_mapped()
            };
            SocketAddr::new(ip.into(), address.port())
        }
        _ => address,
    }
}
