//! Readiness as poll(2) tells it.

use std::os::fd::RawFd;

use bywash_engine::context::Context;
use bywash_engine::tcp::{Info, Readiness};
use bywash_engine::xsk::Port;

use super::socket::{Socket, State};
use super::{Object, Sockets};

/// Bits that are told whether asked for or not.
pub(super) const ALWAYS: i16 = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
/// `POLLRDHUP`, which libc has as a short for some targets only.
const POLLRDHUP: i16 = 0x2000;
const IN: i16 = libc::POLLIN | libc::POLLRDNORM;
const OUT: i16 = libc::POLLOUT | libc::POLLWRNORM;

impl Sockets {
    /// The present level bits of a descriptor, `POLLNVAL` if there is none. Epoll's bits have the same values.
    pub fn ready<P: Port>(&mut self, cx: &mut Context<'_, P>, fd: RawFd) -> i16 {
        match self.fds.get(&fd) {
            None => libc::POLLNVAL,
            Some(Object::Pipe(_)) => self.pipe_ready(fd),
            Some(Object::Epoll(_)) => {
                if self.has_epoll_events(cx, fd) {
                    IN
                } else {
                    0
                }
            }
            Some(Object::Socket(key)) => {
                let key = *key;
                self.sockets.get_mut(&key).map_or(libc::POLLNVAL, |socket| {
                    socket.note_urgent(cx);
                    socket.ready(cx)
                })
            }
        }
    }

    /// One look of `poll(2)`: what is ready of each `(descriptor, bits asked for)`.
    pub fn poll<P: Port>(&mut self, cx: &mut Context<'_, P>, asked: &[(RawFd, i16)]) -> Vec<i16> {
        let one = |(fd, events): &(RawFd, i16)| {
            if *fd < 0 {
                return 0;
            }
            self.ready(cx, *fd) & (*events | ALWAYS)
        };
        asked.iter().map(one).collect()
    }
}

impl Socket {
    fn ready<P: Port>(&self, cx: &mut Context<'_, P>) -> i16 {
        let error = if self.error.is_some() || !self.completions.is_empty() {
            libc::POLLERR
        } else {
            0
        };
        let conn = match &self.state {
            State::Listening(listening) if listening.queue.is_empty() => return error,
            State::Listening(_) => return error | IN,
            State::Connecting(_) => return error,
            // As Linux: a socket in CLOSE hangs up and takes anything, to fail at once.
            State::Fresh if self.deferred.is_some() => return error | OUT,
            State::Fresh => return error | OUT | libc::POLLHUP,
            State::Ended => return error | IN | OUT | libc::POLLHUP | POLLRDHUP,
            State::Connected(conn) => *conn,
        };
        let (Ok(level), Ok(info)) = (cx.readiness(conn), cx.info(conn)) else {
            return error | IN | OUT | libc::POLLHUP;
        };
        let unread = self.queued() + info.unread as usize;
        let finished = self.shut_read || (level.contains(Readiness::READABLE) && info.unread == 0);
        let mut bits = error;
        if finished {
            bits |= IN | POLLRDHUP;
        }
        if unread >= self.options.receive_low_water() {
            bits |= IN;
        }
        if self.has_urgent(unread) {
            bits |= libc::POLLPRI;
        }
        if self.shut_write || self.is_writable(&info, level) {
            bits |= OUT;
        }
        if self.shut_write && finished {
            bits |= libc::POLLHUP;
        }
        bits
    }

    fn is_writable(&self, info: &Info, level: Readiness) -> bool {
        let few = self
            .options
            .unsent_low_water()
            .is_none_or(|most| info.unsent < most);
        few && level.contains(Readiness::WRITABLE)
    }
}
