//! A connection follows its packets to another shard.
//!
//! RSS may send a flow's packets to a queue whose shard does not own it: because the NIC's table was changed, or because an
//! active open had no say in it. They are handed over, at the price of a copy and two queues' cache lines a packet. When
//! that goes on, the NIC is told to bring them home, if it can be told such things; else the connection moves, if the service
//! lets it:
//!
//! ```text
//!   owner: away from home for RESTEER_AFTER packets more than at home
//!     Service::on_leave ──► luggage, Connection::snapshot ──► Traveller ──► inbox of the arriving shard
//!     directory: the other shard owns the flow; frames that still come here are handed on
//!   other: Connection::restore (payload into own TX frames), Service::on_arrive(luggage)
//!     frames that come by its own ring wait (`pools::moves`) until those that went the long way have come: a marker goes
//!     the same way behind them, and is back when they are
//! ```
//! The traveller is in the inbox before the directory names its new owner. So a shard that is named and has no such flow
//! finds it by looking there.

use bywash_tcp::{Connection, State};
use bywash_xsk::Port;

use crate::context::Context;
use crate::directory::{Handed, Traveller};
use crate::flows::Place;
use crate::payload::FramePayload;
use crate::pools::PRIMARY;
use crate::pools::moves::Move;
use crate::service::{ConnId, Luggage, Service};
use crate::shard::{Core, Shard};
use crate::stages::ingress::Arrival;

/// Packets that were handed over, less those that came to the owner's own queue, before a connection is offered to move.
/// A hand-over costs under a microsecond and a move some tens, so this is soon earned back, and a flow whose packets come by
/// both queues stays.
pub(crate) const RESTEER_AFTER: u16 = 512;

impl<P: Port, S: Service> Shard<P, S> {
    /// Lets connections go to the shards that their packets reach, and welcomes those that have come. Returns how many.
    pub(crate) fn resteer(&mut self) -> usize {
        if self.core.config.shards < 2 {
            return 0;
        }
        let mut done = 0;
        let mut displaced = std::mem::take(&mut self.core.displaced);
        for (index, to) in displaced.drain(..) {
            done += 1;
            self.depart(index, to);
        }
        self.core.displaced = displaced;
        self.core.adopt_travellers();
        while let Some((conn, luggage)) = self.core.arrived.pop_front() {
            done += 1;
            self.service
                .on_arrive(&mut Context::new(&mut self.core), conn, luggage);
        }
        done
    }

    fn depart(&mut self, index: u32, to: u32) {
        let Some(id) = self.core.may_depart(index) else {
            return;
        };
        if self.core.recall(index) {
            return;
        }
        let directory = self.core.directory.clone();
        let Some(luggage) = self.service.on_leave(id) else {
            self.core.counters.resteers_declined += 1;
            return;
        };
        let Some(traveller) = self.core.pack(index, luggage) else {
            return;
        };
        let tuple = traveller.tuple;
        match directory.inbox(to).send_traveller(traveller) {
            Ok(()) => {
                directory.reassign(&tuple, self.core.config.index, to);
                self.core.let_go(index);
            }
            // So many are on their way to that shard already: it stays for now.
            Err(traveller) => {
                self.service
                    .on_arrive(&mut Context::new(&mut self.core), id, traveller.luggage)
            }
        }
    }
}

impl<P: Port> Core<P> {
    /// Counts where a connection's packets come. Called for those of connections that have been away.
    #[cold]
    pub(crate) fn count_away(&mut self, index: u32, arrival: Arrival) {
        let Some(conn) = self.conns.by_index(index) else {
            return;
        };
        let Some(from) = arrival.shard() else {
            conn.away = conn.away.saturating_sub(1);
            return;
        };
        conn.away += 1;
        if conn.away == RESTEER_AFTER {
            conn.away = 0;
            self.displaced.push((index, from));
        }
    }

    /// Whether the NIC brings the connection's packets here from now on. What is on its way the long way is still handed over.
    fn recall(&mut self, index: u32) -> bool {
        let Some(conn) = self.conns.by_index(index) else {
            return false;
        };
        let recalled = self.env.steering.recall(&conn.tcp.tuple());
        self.counters.resteers_by_nic += u64::from(recalled);
        recalled
    }

    /// Only an established connection with a path and nothing to tell or waiting moves.
    fn may_depart(&mut self, index: u32) -> Option<ConnId> {
        let id = self.conns.id_of(index)?;
        let waits = |one: &Move| one.conn == index && one.parked() > 0;
        if self.moves.iter().any(waits) {
            return None;
        }
        let conn = self.conns.by_index(index)?;
        let is_plain = conn.tcp.state() == State::Established
            && conn.link.is_some()
            && conn.opening.is_none()
            && conn.ended.is_none()
            && !conn.fast_open
            && !conn.abandoned;
        is_plain.then_some(id)
    }

    fn pack(&mut self, index: u32, luggage: Luggage) -> Option<Box<Traveller>> {
        let conn = self.conns.by_index(index)?;
        let mut bytes = Vec::new();
        conn.tcp
            .snapshot(&mut bytes, |payload| payload.frame.bytes());
        Some(Box::new(Traveller {
            from: self.config.index,
            returned: false,
            tuple: conn.tcp.tuple(),
            bytes,
            luggage,
            origin: conn.origin,
            receive_buffer: conn.receive_buffer,
            wants_writable: conn.wants_writable,
        }))
    }

    /// Forgets a connection that is another shard's now.
    fn let_go(&mut self, index: u32) {
        self.demote(index);
        self.forget_moves(index);
        if let Some(conn) = self.conns.remove(index) {
            self.flows
                .remove(&conn.tcp.tuple(), Place::Connection(index));
            self.wheel.set(index, None);
            self.counters.resteered_away += 1;
        }
    }

    /// Takes in the connections that have come from other shards. Their services are told in the deliver stage.
    pub(crate) fn adopt_travellers(&mut self) {
        let directory = self.directory.clone();
        while let Some(traveller) = directory.inbox(self.config.index).next_traveller() {
            let umem = self.port.umem().clone();
            let restored = Connection::restore(&traveller.bytes, |bytes| {
                let mut payload = FramePayload::empty(umem.alloc_tx()?);
                (payload.fill(bytes, bytes.len()) == bytes.len()).then_some(payload)
            });
            match restored {
                Ok(tcp) => self.settle_in(tcp, *traveller),
                Err(cause) => self.refuse_traveller(traveller, &cause),
            }
        }
    }

    fn settle_in(&mut self, tcp: Connection<FramePayload>, traveller: Traveller) {
        let Traveller {
            from,
            luggage,
            origin,
            receive_buffer,
            wants_writable,
            ..
        } = traveller;
        let index = self.adopt(tcp, origin, receive_buffer, None);
        // Opened once, and on another shard.
        self.counters.connections_opened -= 1;
        self.counters.resteered_here += 1;
        self.find_path(index);
        let to = self.conns.by_index(index).and_then(|conn| {
            conn.wants_writable = wants_writable;
            conn.pool
        });
        self.begin_move(index, Arrival::handed(from).ring, to.unwrap_or(PRIMARY));
        let marker = Handed::Marker {
            from: self.config.index,
            conn: index,
        };
        if !self.directory.hand_over(from, marker) {
            self.counters.markers_lost += 1;
        }
        if let Some(id) = self.conns.id_of(index) {
            self.arrived.push_back((id, luggage));
        }
        self.mark_ready(index);
    }

    /// A marker on its way back, or one of ours that is back: everything that was handed over before it has come. One that
    /// finds a full inbox is lost, and patience ends the wait for it.
    pub(crate) fn on_marker(&mut self, from: u32, conn: u32) {
        if from != self.config.index {
            if !self
                .directory
                .hand_over(from, Handed::Marker { from, conn })
            {
                self.counters.markers_lost += 1;
            }
            return;
        }
        let rings = self.reads.len();
        let came = |one: &&mut Move| one.conn == conn && usize::from(one.from) >= rings;
        if let Some(one) = self.moves.iter_mut().find(came) {
            one.resolve();
        }
    }

    /// There are no frames for it here. Where it came from there were; a connection that finds none there either is lost, and
    /// its peer will be told with a RST.
    fn refuse_traveller(
        &mut self,
        mut traveller: Box<Traveller>,
        cause: &bywash_tcp::SnapshotError,
    ) {
        tracing::warn!(%cause, "a connection could not move to this shard");
        self.counters.resteers_failed += 1;
        let (own, tuple, back) = (self.config.index, traveller.tuple, traveller.from);
        let again = traveller.returned;
        (traveller.from, traveller.returned) = (own, true);
        let directory = self.directory.clone();
        if !again && directory.inbox(back).send_traveller(traveller).is_ok() {
            directory.reassign(&tuple, own, back);
        } else {
            self.counters.connections_lost += 1;
            directory.remove(&tuple);
        }
    }
}
