//! What a connection tells its owner.
//!
//! [`Event`]s say that something *changed*; [`Readiness`] says how things *are*. Events collapse: a connection holds at
//! most one of each kind, so a burst of a hundred segments is one `Readable`.

use core::fmt;

use crate::snapshot::{Code, Reader, SnapshotError};

/// Something changed since the last call of `poll_event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The handshake is complete; or, of a passive open with data on the SYN (RFC 7413), the connection can be used before.
    Connected,
    /// The handshake of such a connection has ended too: the peer is who it says.
    Confirmed,
    /// There is more to `recv` than before.
    Readable,
    /// After a short or refused send there is room again.
    Writable,
    /// The peer's FIN is in order: no data will come after what is queued.
    PeerClosed,
    /// The connection is over; the last event of a connection.
    Closed(CloseReason),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Both directions were closed in order, TIME-WAIT included.
    Finished,
    /// The peer sent a RST to a synchronised connection.
    Reset,
    /// The peer did not answer: retransmissions, the user time-out or keep-alive probes ran out.
    TimedOut,
    /// The peer sent a RST to our SYN, or to our SYN-ACK.
    Refused,
    /// An ICMP error said that the peer cannot be reached: while it had not answered our SYN, or before time ran out.
    Unreachable,
    /// We gave up: `abort`, or `close` before the handshake was complete.
    Aborted,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Finished => "finished",
            Self::Reset => "reset by the peer",
            Self::TimedOut => "timed out",
            Self::Refused => "refused by the peer",
            Self::Unreachable => "unreachable, says a router",
            Self::Aborted => "aborted here",
        })
    }
}

impl core::error::Error for CloseReason {}

/// The level bits on which poll, epoll and mio can be built.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness(u8);

impl Readiness {
    /// Nothing is ready.
    pub const NONE: Self = Self(0);
    /// `recv` returns data, or the end is reached (`at_end`), or the connection is over.
    pub const READABLE: Self = Self(1);
    /// `send` takes at least one byte, or fails for good.
    pub const WRITABLE: Self = Self(2);
    /// Both directions are closed.
    pub const HANG_UP: Self = Self(4);
    /// The connection ended with an error: see `error()`.
    pub const ERROR: Self = Self(8);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Sets the bits of `other`.
    pub const fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// The bits: 1 readable, 2 writable, 4 hang-up, 8 error.
    pub const fn bits(self) -> u8 {
        self.0
    }
}

impl core::ops::BitOr for Readiness {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::READABLE, "READABLE"),
            (Self::WRITABLE, "WRITABLE"),
            (Self::HANG_UP, "HANG_UP"),
            (Self::ERROR, "ERROR"),
        ];
        f.debug_set()
            .entries(
                names
                    .iter()
                    .filter(|(bit, _)| self.contains(*bit))
                    .map(|(_, name)| name),
            )
            .finish()
    }
}

/// Events not yet polled. One bit each: events collapse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending(u8);

impl Pending {
    pub(crate) const CONNECTED: u8 = 1;
    pub(crate) const READABLE: u8 = 2;
    pub(crate) const WRITABLE: u8 = 4;
    pub(crate) const PEER_CLOSED: u8 = 8;
    pub(crate) const CLOSED: u8 = 16;
    pub(crate) const CONFIRMED: u8 = 32;

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn raise(&mut self, bit: u8) {
        self.0 |= bit;
    }

    /// Takes the first of `bit` if it is raised.
    pub(crate) fn take(&mut self, bit: u8) -> bool {
        let raised = self.0 & bit != 0;
        self.0 &= !bit;
        raised
    }
}

impl Code for Pending {
    fn save(&self, out: &mut alloc::vec::Vec<u8>) {
        self.0.save(out);
    }

    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        match u8::load(input)? {
            bits if bits < 2 * Self::CONFIRMED => Ok(Self(bits)),
            _ => Err(SnapshotError::Corrupt),
        }
    }
}
