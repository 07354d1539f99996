//! The bytes of a connection: reading, writing, and how many wait.

use std::os::fd::RawFd;

use bywash_engine::context::Context;
use bywash_engine::service::{ConnError, Follows, Recv};
use bywash_engine::xsk::Port;
use nix::errno::Errno;

use super::pipe::Pipe;
use super::socket::{Family, Socket, State};
use super::{Attempt, Object, Sockets};

/// Requests of ioctl(2) that libc has no name for.
const SIOCOUTQNSD: u64 = 0x894b;
const SIOCATMARK: u64 = 0x8905;

/// What a call of the `recv` family gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The bytes; none at the end of the stream.
    pub bytes: Vec<u8>,
    /// With `MSG_TRUNC` the bytes were counted and thrown away.
    pub counted: usize,
    /// Bytes that are left to read, if the socket is to tell (`TCP_INQ`).
    pub left: Option<usize>,
    /// Of the error queue: writes with `MSG_ZEROCOPY` whose bytes were copied, first and last.
    pub copied: Option<Copied>,
}

/// Writes with `MSG_ZEROCOPY` that are done, counted from the socket's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The first of them.
    pub first: u32,
    /// The last.
    pub last: u32,
    /// Whether the socket is one of IPv6, which names the message.
    pub v6: bool,
}

/// What a call of the `send` family says of its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sending {
    /// `MSG_MORE` and `MSG_EOR`.
    pub follows: Follows,
    /// `MSG_OOB`: the last of them is urgent.
    pub urgent: bool,
}

/// A write in progress: how much of it is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes taken so far.
    pub done: usize,
}

impl Sockets {
    /// `recv(2)`: at most `want` bytes, at least one unless the stream has ended. With `MSG_WAITALL` all of them.
    ///
    /// # Errors
    /// The connection's error, once; `ENOTCONN` without one.
    pub fn receive<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        fd: RawFd,
        want: usize,
        flags: i32,
    ) -> Attempt<Received> {
        if let Some(Object::Pipe(_)) = self.fds.get(&fd) {
            return self.read_pipe(fd, want);
        }
        let key = self.key(fd)?;
        let socket = self.sockets.get_mut(&key).ok_or(Errno::EBADF)?;
        if flags & libc::MSG_ERRQUEUE != 0 {
            // Nothing of it waits, whatever the socket says of waiting.
            let (first, last) = socket.completions.pop_front().ok_or(Errno::EAGAIN)?;
            let v6 = socket.family == Family::V6;
            return Ok(Some(Received {
                copied: Some(Copied { first, last, v6 }),
                ..Received::default()
            }));
        }
        let peek = flags & libc::MSG_PEEK != 0;
        socket.note_urgent(cx);
        if flags & libc::MSG_OOB != 0 {
            let octet = socket.fetch_urgent(cx, peek)?;
            return Ok(Some(Received {
                counted: 1,
                bytes: vec![octet],
                ..Received::default()
            }));
        }
        if want > 0 {
            socket.skip_urgent(cx);
        }
        let want = socket.urgent.limit(want);
        let at_end = socket.fetch(cx, want);
        let have = socket.queued();
        let least = if flags & libc::MSG_WAITALL != 0 {
            want
        } else {
            1
        };
        if have == 0 && want > 0 {
            return socket.nothing_to_read(at_end);
        }
        if have < least && !at_end && socket.error.is_none() && socket.conn().is_some() {
            return Ok(None);
        }
        let mut received = Received::default();
        let bytes = socket.take(want, peek);
        received.counted = bytes.len();
        if flags & libc::MSG_TRUNC == 0 {
            received.bytes = bytes;
        }
        if socket.options.tells_queue() {
            let left = self.readable(cx, fd)?;
            // As Linux: the end of the stream counts as one byte that can be read.
            received.left = Some(if left == 0 {
                usize::from(self.is_at_end(cx, fd))
            } else {
                left
            });
        }
        Ok(Some(received))
    }

    /// `send(2)`: as much of `bytes` as there is room for, continuing `progress`. `None`: there is room for nothing more
    /// and something is left; the progress then says how much was taken.
    ///
    /// # Errors
    /// The connection's error, once; `EPIPE` if our direction is closed.
    pub fn transmit<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        fd: RawFd,
        bytes: &[u8],
        kind: Sending,
        progress: &mut Progress,
    ) -> Attempt<usize> {
        if let Some(Object::Pipe(_)) = self.fds.get(&fd) {
            return self.write_pipe(fd, bytes);
        }
        let key = self.key(fd)?;
        let socket = self.sockets.get_mut(&key).ok_or(Errno::EBADF)?;
        socket.take_error()?;
        if socket.shut_write {
            return Err(Errno::EPIPE);
        }
        let conn = match socket.state {
            State::Connected(conn) => conn,
            State::Connecting(_) => return Ok(None),
            State::Fresh | State::Listening(_) | State::Ended => return Err(Errno::EPIPE),
        };
        let rest = &bytes[progress.done..];
        let taken = cx
            .send_followed(conn, rest, kind.follows)
            .map_err(|error| match error {
                ConnError::Unknown | ConnError::SendClosed => Errno::EPIPE,
            })?;
        progress.done += taken;
        if kind.urgent && progress.done == bytes.len() && cx.mark_urgent(conn).is_err() {
            // It has ended in this very turn, and will say so.
        }
        Ok((progress.done == bytes.len()).then_some(progress.done))
    }

    /// A write of `MSG_ZEROCOPY` has ended well. Without `SO_ZEROCOPY` the flag means nothing.
    ///
    /// # Errors
    /// It is no socket.
    pub fn note_copied(&mut self, fd: RawFd) -> Result<(), Errno> {
        self.socket_mut(fd)?.note_copied();
        Ok(())
    }

    /// Whether the stream has ended and everything was read.
    fn is_at_end<P: Port>(&self, cx: &mut Context<'_, P>, fd: RawFd) -> bool {
        let conn = self.socket(fd).ok().and_then(Socket::conn);
        conn.is_none_or(|conn| {
            let level = cx.readiness(conn).unwrap_or_default();
            level.contains(bywash_engine::tcp::Readiness::READABLE)
        })
    }

    /// Bytes that `recv` would give now (`FIONREAD`).
    fn readable<P: Port>(&mut self, cx: &mut Context<'_, P>, fd: RawFd) -> Result<usize, Errno> {
        let socket = self.socket(fd)?;
        let unread = socket
            .conn()
            .and_then(|conn| cx.info(conn).ok())
            .map_or(0, |info| info.unread as usize);
        Ok(socket.urgent.limit(socket.queued() + unread))
    }

    /// `ioctl(2)` with a number to fill in or to read.
    ///
    /// # Errors
    /// `EINVAL` on a listening socket, `ENOTTY` for a request that is not known.
    pub fn request<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        fd: RawFd,
        request: u64,
        value: i32,
    ) -> Result<i32, Errno> {
        if request == libc::FIONBIO {
            let flags = if value != 0 { libc::O_NONBLOCK } else { 0 };
            self.control(fd, libc::F_SETFL, flags)?;
            return Ok(value);
        }
        let socket = self.socket_mut(fd)?;
        if matches!(socket.state, State::Listening(_)) {
            return Err(Errno::EINVAL);
        }
        socket.note_urgent(cx);
        let at_mark = usize::from(socket.urgent.is_next());
        let info = socket.conn().and_then(|conn| cx.info(conn).ok());
        let bytes = match request {
            libc::FIONREAD => self.readable(cx, fd)?,
            libc::TIOCOUTQ => {
                info.map_or(0, |info| (info.unsent + u64::from(info.in_flight)) as usize)
            }
            SIOCOUTQNSD => info.map_or(0, |info| info.unsent as usize),
            SIOCATMARK => at_mark,
            _ => return Err(Errno::ENOTTY),
        };
        Ok(i32::try_from(bytes).unwrap_or(i32::MAX))
    }

    /// Moves bytes of a stream into a pipe: `splice(2)`.
    pub(super) fn splice_in<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        from: RawFd,
        room: usize,
    ) -> Attempt<Vec<u8>> {
        if room == 0 {
            return Ok(None);
        }
        if let Ok(socket) = self.socket_mut(from) {
            socket.note_urgent(cx);
            if socket.urgent.is_next() && !socket.options.urgent_in_line() {
                // As Linux: urgent data goes through no pipe, and is to be read first.
                return Ok(Some(Vec::new()));
            }
        }
        let received = self.receive(cx, from, room.min(Pipe::CAPACITY), 0)?;
        Ok(received.map(|received| received.bytes))
    }
}

impl Socket {
    /// Bytes taken from the connection and not yet read.
    pub(super) fn queued(&self) -> usize {
        self.head.iter().map(bywash_engine::xsk::Frame::len).sum()
    }

    /// Takes frames from the connection until `want` bytes are there. True: nothing will come after them.
    pub(super) fn fetch<P: Port>(&mut self, cx: &mut Context<'_, P>, want: usize) -> bool {
        let Some(conn) = self.conn() else {
            return true;
        };
        let mut have = self.queued();
        while have < want {
            match cx.recv(conn) {
                Ok(Recv::Data(frame)) => {
                    have += frame.len();
                    self.head.push_back(frame);
                }
                Ok(Recv::Empty) => return self.shut_read,
                Ok(Recv::End) | Err(_) => return true,
            }
        }
        false
    }

    /// The first `want` bytes; with `peek` they stay.
    pub(super) fn take(&mut self, want: usize, peek: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(want.min(self.queued()));
        if peek {
            for frame in &self.head {
                let rest = want - bytes.len();
                bytes.extend_from_slice(&frame.bytes()[..frame.len().min(rest)]);
            }
            return bytes;
        }
        while bytes.len() < want
            && let Some(frame) = self.head.front_mut()
        {
            let n = frame.len().min(want - bytes.len());
            bytes.extend_from_slice(&frame.bytes()[..n]);
            if n == frame.len() {
                self.head.pop_front();
            } else {
                frame.advance(n);
            }
        }
        self.urgent.on_read(bytes.len());
        bytes
    }

    /// What reading gives while no byte is there.
    fn nothing_to_read(&mut self, at_end: bool) -> Attempt<Received> {
        self.take_error()?;
        match self.state {
            State::Fresh | State::Listening(_) => Err(Errno::ENOTCONN),
            State::Ended => Ok(Some(Received::default())),
            State::Connecting(_) | State::Connected(_) if at_end => Ok(Some(Received::default())),
            State::Connecting(_) | State::Connected(_) => Ok(None),
        }
    }
}
