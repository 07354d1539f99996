//! Urgent data as the sockets API has it: one octet out of band.
//!
//! TCP knows a mark in the stream and no more (RFC 6093). The sockets API makes an octet of its own of what stands before the
//! mark: a read ends there, `MSG_OOB` fetches it, and the next read skips it, unless `SO_OOBINLINE` leaves it in its place.

use bywash_engine::context::Context;
use bywash_engine::xsk::Port;
use nix::errno::Errno;

use super::socket::Socket;

/// The urgent octet that lies ahead, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Urgent {
    /// How many octets come before it.
    ahead: Option<usize>,
    /// `MSG_OOB` has fetched it.
    fetched: bool,
}

impl Urgent {
    /// The next octet is the urgent one.
    pub(super) fn is_next(self) -> bool {
        self.ahead == Some(0)
    }

    /// How much of `want` octets may be read: not beyond the octet before the urgent one.
    pub(super) fn limit(self, want: usize) -> usize {
        match self.ahead {
            Some(ahead) if ahead > 0 => want.min(ahead),
            _ => want,
        }
    }

    /// So many octets were read.
    pub(super) fn on_read(&mut self, octets: usize) {
        self.ahead = self.ahead.and_then(|ahead| ahead.checked_sub(octets));
    }
}

impl Socket {
    /// Looks where the peer's mark is now.
    pub(super) fn note_urgent<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let Some(conn) = self.conn() else { return };
        if let Ok(Some(to_mark)) = cx.urgent_mark(conn) {
            let ahead = Some(self.queued() + to_mark - 1);
            if self.urgent.ahead != ahead {
                self.urgent = Urgent {
                    ahead,
                    fetched: false,
                };
            }
        }
    }

    /// `MSG_OOB`: the urgent octet, once; it stays unfetched if `peek` is set.
    pub(super) fn fetch_urgent<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        peek: bool,
    ) -> Result<u8, Errno> {
        let ahead = match self.urgent {
            Urgent {
                ahead: Some(ahead),
                fetched: false,
            } if !self.options.urgent_in_line() => ahead,
            _ => return Err(Errno::EINVAL),
        };
        self.fetch(cx, ahead + 1);
        let octet = self.octet(ahead).ok_or(Errno::EAGAIN)?;
        self.urgent.fetched = !peek;
        Ok(octet)
    }

    /// Takes the urgent octet out of the stream if it comes next and is not to be read in line.
    pub(super) fn skip_urgent<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        if !self.urgent.is_next() || self.options.urgent_in_line() {
            return;
        }
        self.fetch(cx, 1);
        self.take(1, false);
    }

    /// Whether the urgent octet has arrived and nobody has fetched it.
    pub(super) fn has_urgent(&self, unread: usize) -> bool {
        !self.urgent.fetched && self.urgent.ahead.is_some_and(|ahead| ahead < unread)
    }

    /// The octet so many places on, of those that were taken from the connection.
    fn octet(&self, place: usize) -> Option<u8> {
        let mut before = 0;
        for frame in &self.head {
            if let Some(octet) = frame.bytes().get(place - before) {
                return Some(*octet);
            }
            before += frame.len();
        }
        None
    }
}
