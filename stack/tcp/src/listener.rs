//! The LISTEN state: SYNs become connections.

use alloc::sync::Arc;

use bywash_wire::{DropReason, Flags, Segment, SeqNumber, Tuple};

use crate::config::Config;
use crate::connection::Connection;
use crate::fast_open::FastOpenAnswer;
use crate::payload::Payload;
use crate::reset::reset_for;
use crate::time::Instant;

/// A port that is listened on. It holds no half-open connections: each SYN yields a [`Connection`] in SYN-RECEIVED that
/// the owner keeps, and counts against its backlog.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Shared by all connections that come of it.
    config: Arc<Config>,
}

/// What became of a segment to a listening port.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the connection moves once, into the owner's slab; a box would be an allocation"
)]
pub enum ListenOutcome<P: Payload> {
    /// A SYN: a connection in SYN-RECEIVED, whose SYN-ACK `poll_transmit` gives.
    Connection(Connection<P>),
    /// Send this back.
    Reset(Segment),
    /// Nothing to do.
    Drop(DropReason),
}

impl Listener {
    /// Listens with these settings for the connections to come.
    pub fn new(config: Config) -> Self {
        Self {
            config: Arc::new(config),
        }
    }

    /// The settings of the connections to come.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn shared(&self) -> &Arc<Config> {
        &self.config
    }

    /// RFC 9293 3.10.7.2. `tuple.local` is this end. `iss` and `ts_offset` are the connection's initial sequence number
    /// (RFC 6528) and the start of its timestamp clock (RFC 7323 5.4), both unguessable.
    ///
    /// Data on the SYN is not kept: it is not acknowledged, and the peer sends it again; see
    /// [`on_fast_open`](Self::on_fast_open).
    pub fn on_segment<P: Payload>(
        &self,
        now: Instant,
        tuple: Tuple,
        segment: &Segment,
        iss: SeqNumber,
        ts_offset: u32,
    ) -> ListenOutcome<P> {
        let answer = FastOpenAnswer::Refuse;
        self.on_fast_open(now, tuple, segment, iss, ts_offset, answer)
    }

    /// The same, with the owner's decision about what the SYN says of Fast Open, and about its data (RFC 7413 4.2). Whoever
    /// accepts has a connection whose events come at once, though it is in SYN-RECEIVED.
    pub fn on_fast_open<P: Payload>(
        &self,
        now: Instant,
        tuple: Tuple,
        segment: &Segment,
        iss: SeqNumber,
        ts_offset: u32,
        answer: FastOpenAnswer<P>,
    ) -> ListenOutcome<P> {
        // First: a RST cannot refer to anything here.
        if segment.flags.contains(Flags::RST) {
            return ListenOutcome::Drop(DropReason::BadReset);
        }
        // Second: any acknowledgment is bad while nothing was sent.
        if segment.flags.contains(Flags::ACK) {
            return match reset_for(segment) {
                Some(reset) => ListenOutcome::Reset(reset),
                None => ListenOutcome::Drop(DropReason::BadReset),
            };
        }
        // Third: a SYN; with FIN it is no request that anybody makes in earnest (Linux drops it too).
        if !segment.flags.contains(Flags::SYN) {
            return ListenOutcome::Drop(DropReason::MissingAck);
        }
        if segment.flags.contains(Flags::FIN) {
            return ListenOutcome::Drop(DropReason::BadFlags);
        }
        let mut connection = Connection::accept(&self.config, tuple, segment, iss, ts_offset, now);
        connection.answer_fast_open(now, segment, answer);
        ListenOutcome::Connection(connection)
    }
}
