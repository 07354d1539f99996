//! The connection (bodies follow; this commit fixes the signatures).

use alloc::vec::Vec;
use core::marker::PhantomData;

use bywash_wire::{DropReason, Ecn, Segment, SeqNumber, Tuple};

use crate::config::Config;
use crate::event::{CloseReason, Event, Readiness};
use crate::info::Info;
use crate::payload::Payload;
use crate::snapshot::SnapshotError;
use crate::state::State;
use crate::time::Instant;

/// One TCP connection.
#[derive(Debug)]
pub struct Connection<P: Payload> {
    tuple: Tuple,
    payload: PhantomData<P>,
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// All of it was of use.
    Accepted,
    /// It, or its payload, was dropped; what its header said may have been used.
    Dropped(DropReason),
}

/// A segment to be sent; returned means sent.
#[derive(Debug)]
pub struct Transmit<'a, P> {
    /// The header.
    pub segment: Segment,
    /// The payload: the whole handle.
    pub payload: Option<&'a mut P>,
    /// Whether it was sent before.
    pub retransmission: bool,
    /// The codepoint for the IP header.
    pub ecn: Ecn,
}

/// Why `send` did not take a payload, which comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError<P> {
    /// The send buffer is full; a `Writable` event follows.
    Full(P),
    /// More than `segment_limit` bytes.
    TooLong(P),
    /// This end was closed, or the connection is over.
    Closed(P),
}

impl<P> SendError<P> {
    /// The payload.
    pub fn into_payload(self) -> P {
        match self {
            Self::Full(payload) | Self::TooLong(payload) | Self::Closed(payload) => payload,
        }
    }
}

#[expect(unused_variables, reason = "signatures first")]
impl<P: Payload> Connection<P> {
    /// An active open: a connection in SYN-SENT.
    pub fn connect(
        config: &Config,
        tuple: Tuple,
        iss: SeqNumber,
        ts_offset: u32,
        now: Instant,
    ) -> Self {
        Self {
            tuple,
            payload: PhantomData,
        }
    }
    pub(crate) fn accept(
        config: &Config,
        tuple: Tuple,
        syn: &Segment,
        iss: SeqNumber,
        ts_offset: u32,
        now: Instant,
    ) -> Self {
        Self {
            tuple,
            payload: PhantomData,
        }
    }
    /// SEGMENT ARRIVES (RFC 9293 3.10.7).
    pub fn on_segment(
        &mut self,
        now: Instant,
        segment: &Segment,
        payload: Option<P>,
    ) -> Disposition {
        Disposition::Dropped(DropReason::Closed)
    }
    /// To be called at or after `next_timeout`.
    pub fn on_timeout(&mut self, now: Instant) {}
    /// The next segment to send; call until `None`.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit<'_, P>> {
        None
    }
    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }
    /// When `on_timeout` is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        None
    }
    /// When `poll_transmit` may be called next; `None`: now.
    pub fn next_send(&self) -> Option<Instant> {
        None
    }
    /// Level bits.
    pub fn readiness(&self) -> Readiness {
        Readiness::NONE
    }
    /// Bytes that the send buffer takes now.
    pub fn send_room(&self) -> usize {
        0
    }
    /// Asks for a `Writable` event once there is room again.
    pub fn want_writable(&mut self) {}
    /// The last segment, if it is not sent, shorter than `segment_limit` and may grow.
    pub fn unsent_tail(&mut self) -> Option<&mut P> {
        None
    }
    /// Says that `n` bytes were appended to `unsent_tail`.
    pub fn extended(&mut self, n: usize) {}
    /// Bytes of payload in one segment now.
    pub fn segment_limit(&self) -> usize {
        0
    }
    /// Queues a payload.
    pub fn send(&mut self, payload: P) -> Result<(), SendError<P>> {
        Err(SendError::Closed(payload))
    }
    /// The next payload in order.
    pub fn recv(&mut self) -> Option<P> {
        None
    }
    /// Whether everything up to the peer's FIN was read.
    pub fn at_end(&self) -> bool {
        false
    }
    /// FIN after all data.
    pub fn close(&mut self, now: Instant) {}
    /// RST.
    pub fn abort(&mut self) {}
    /// Whether the connection is over and its RST, if any, was polled: the owner may drop it.
    pub fn is_closed(&self) -> bool {
        true
    }
    /// Caps the receive window.
    pub fn set_receive_limit(&mut self, bytes: usize) {}
    /// Caps the segment size, in bytes without options (a smaller path MTU).
    pub fn set_mss(&mut self, mss: u16) {}
    /// Switches Nagle's rule.
    pub fn set_nagle(&mut self, on: bool) {}
    /// The flow.
    pub fn tuple(&self) -> &Tuple {
        &self.tuple
    }
    /// The state.
    pub fn state(&self) -> State {
        State::Closed
    }
    /// Whether a SYN that arrived in TIME-WAIT may open a new incarnation (RFC 9293 3.6.1, RFC 6191).
    pub fn accepts_new_incarnation(&self, segment: &Segment) -> bool {
        false
    }
    /// A picture of the connection.
    pub fn info(&self) -> Info {
        unreachable!("signatures first")
    }
    /// How the connection ended, unless it ended well.
    pub fn error(&self) -> Option<CloseReason> {
        None
    }
    /// Writes the connection; `bytes` gives the bytes of a payload.
    pub fn snapshot<'a>(&'a self, out: &mut Vec<u8>, bytes: impl Fn(&'a P) -> &'a [u8]) {}
    /// Reads a connection; `make` makes a payload of bytes.
    pub fn restore(
        input: &[u8],
        make: impl FnMut(&[u8]) -> Option<P>,
    ) -> Result<Self, SnapshotError> {
        Err(SnapshotError::Corrupt)
    }
}
