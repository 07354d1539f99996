//! Stage 5: what happened goes to the service, and what other threads ask for comes in.

use bywash_tcp::{CloseReason, Event as TcpEvent, Readiness};
use bywash_xsk::Port;

use crate::context::Context;
use crate::directory::ControlMessage;
use crate::service::{Event, ListenerId, Service};
use crate::shard::{Conn, Core, Origin, Shard, peer_of};

/// Passes over the connections that the service itself touches in one turn: what a call makes
/// ready is seen in the same turn, but two connections of one service that feed each other do not
/// keep the shard from its rings.
const PASSES: usize = 2;

impl<P: Port, S: Service> Shard<P, S> {
    /// Connection events -> `Service::on_event`; hand-over, control messages and path changes in.
    pub(crate) fn deliver(&mut self) -> usize {
        let mut delivered = self.core.take_over();
        delivered += self.control();
        delivered += self.core.paths();
        if self.core.update_pressure() {
            self.core.spread_pressure();
        }
        for _ in 0..PASSES {
            while let Some(event) = self.core.events.pop_front() {
                delivered += 1;
                self.service
                    .on_event(&mut Context::new(&mut self.core), event);
            }
            for _ in 0..self.core.dirty.len() {
                let Some(index) = self.core.dirty.pop_front() else {
                    break;
                };
                delivered += self.deliver_connection(index);
            }
            if self.core.dirty.is_empty() && self.core.events.is_empty() {
                break;
            }
        }
        if !self.has_ended() {
            delivered += self.service.on_turn(&mut Context::new(&mut self.core));
        }
        // What `on_turn` touched sends in this turn too; its events can wait for the next.
        for place in 0..self.core.dirty.len() {
            self.core.mark_ready(self.core.dirty[place]);
        }
        delivered
    }

    fn deliver_connection(&mut self, index: u32) -> usize {
        let Some(conn) = self.core.conns.by_index(index) else {
            return 0;
        };
        conn.dirty = false;
        let mut delivered = 0;
        while let Some(event) = self.core.next_event(index) {
            delivered += 1;
            self.service
                .on_event(&mut Context::new(&mut self.core), event);
        }
        self.core.mark_ready(index);
        delivered
    }

    fn control(&mut self) -> usize {
        let mut taken = 0;
        while let Some(message) = self.take_control() {
            taken += 1;
            let ControlMessage::Report(reply) = message;
            // Whoever asked may have given up waiting; that is its business.
            if reply.send(self.core.report()).is_err() {
                tracing::debug!("nobody waits for the report any more");
            }
        }
        taken
    }
}

impl<P: Port> Core<P> {
    /// The next event of the connection in the service's words. Connections that were never
    /// accepted have none.
    fn next_event(&mut self, index: u32) -> Option<Event> {
        let id = self.conns.id_of(index)?;
        loop {
            let has_frames = self.has_data_frames();
            let conn = self.conns.by_index(index)?;
            let Some(event) = conn.tcp.poll_event() else {
                if let Some(reason) = conn.ended {
                    return end_of(conn, reason).map(|reason| Event::Closed { conn: id, reason });
                }
                let room = conn.wants_writable
                    && conn.link.is_some()
                    && conn.tcp.readiness().contains(Readiness::WRITABLE);
                if room && !has_frames {
                    // Others were faster when frames came back: in the queue again.
                    self.starve(index);
                    return None;
                }
                if !room {
                    return None;
                }
                conn.wants_writable = false;
                return Some(Event::Writable { conn: id });
            };
            match (event, conn.origin) {
                (TcpEvent::Connected, Origin::Active) => {
                    return Some(Event::Connected { conn: id });
                }
                (TcpEvent::Connected, Origin::HalfOpen(port)) => {
                    conn.origin = Origin::Accepted(port);
                    let peer = peer_of(conn.tcp.tuple());
                    if let Some(listener) = self.listeners.by_port(port) {
                        listener.half_open -= 1;
                        listener.accepted += 1;
                    }
                    let listener = ListenerId { port };
                    return Some(Event::Accepted {
                        conn: id,
                        listener,
                        peer,
                    });
                }
                (TcpEvent::Connected, Origin::Accepted(_)) => {}
                (TcpEvent::Closed(_), Origin::HalfOpen(_)) => conn.told = true,
                (_, Origin::HalfOpen(_)) => {}
                (TcpEvent::Readable | TcpEvent::PeerClosed, _) => {
                    return Some(Event::Readable { conn: id });
                }
                // Told above, once there are frames to write into as well.
                (TcpEvent::Writable, _) => {}
                (TcpEvent::Closed(reason), _) => conn.ended = Some(reason),
            }
        }
    }

    /// Fewer frames, smaller windows: every connection is told, which happens only when the level
    /// changes.
    fn spread_pressure(&mut self) {
        let all: Vec<u32> = self.conns.iter().map(|(id, _)| id.index).collect();
        let limit = self.receive_limit();
        for index in all {
            if let Some(conn) = self.conns.by_index(index) {
                conn.tcp.set_receive_limit(limit);
            }
        }
    }

    /// Ends a connection that the service should hear of with this reason although TCP has not
    /// ended it itself.
    pub(crate) fn fail_opening(&mut self, index: u32, reason: crate::host::Unreachable) {
        if let Some(id) = self.conns.id_of(index) {
            self.forget(index);
            self.events
                .push_back(Event::Unreachable { conn: id, reason });
        }
    }
}

/// The reason to tell, once: an orderly end waits until the application has read everything before the FIN.
fn end_of(conn: &mut Conn, reason: CloseReason) -> Option<CloseReason> {
    let unread = reason == CloseReason::Finished && !conn.tcp.at_end() && !conn.abandoned;
    if conn.told || unread {
        return None;
    }
    conn.told = true;
    Some(reason)
}
