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
        let mut delivered = self.resteer();
        delivered += self.core.take_over();
        delivered += self.control();
        delivered += self.core.paths();
        if self.core.update_pressure() {
            self.core.spread_pressure();
        }
        self.core.update_pools();
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
            match message {
                ControlMessage::Report(reply) => {
                    // Whoever asked may have given up waiting; that is its business.
                    if reply.send(self.core.report()).is_err() {
                        tracing::debug!("nobody waits for the report any more");
                    }
                }
                ControlMessage::Mtu(mtu) => self.core.set_mtu(mtu),
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
                    self.settle_fast_open(index, None);
                    return Some(Event::Connected { conn: id });
                }
                (TcpEvent::Connected, Origin::HalfOpen(port)) => {
                    conn.origin = Origin::Accepted(port);
                    self.syn_alarm.on_accepted();
                    let peer = peer_of(&conn.tcp.tuple());
                    if let Some(listener) = self.listeners.by_port(port) {
                        listener.half_open = listener.half_open.saturating_sub(1);
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
                (TcpEvent::Confirmed, _) => self.settle_fast_open(index, None),
                (TcpEvent::Closed(_), Origin::HalfOpen(_)) => conn.told = true,
                (_, Origin::HalfOpen(_)) => {}
                (TcpEvent::Readable | TcpEvent::PeerClosed, _) => {
                    return Some(Event::Readable { conn: id });
                }
                // Told above, once there are frames to write into as well.
                (TcpEvent::Writable, _) => {}
                (TcpEvent::Closed(reason), _) => {
                    conn.ended = Some(reason);
                    self.settle_fast_open(index, Some(reason));
                }
            }
        }
    }

    /// Fewer frames, smaller windows: every connection is told, which happens only when the level
    /// changes.
    fn spread_pressure(&mut self) {
        self.each_connection(Self::limit_window);
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bywash_tcp::CloseReason;
    use bywash_wire::DropReason;
    use bywash_xsk::{MemoryConfig, MemoryPort, Port};

    use crate::clock::ManualClock;
    use crate::config::ShardConfig;
    use crate::context::{ConnOptions, Context};
    use crate::memory::{ADDRESSES_A, MemoryPair};
    use crate::service::{Event, Recv, Service};
    use crate::shard::Pressure;

    const PORT: u16 = 9;
    const BYTES: usize = 3_000_000;

    #[derive(Default)]
    struct Sink {
        received: usize,
    }

    impl Service for Sink {
        fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
            match event {
                Event::Started => {
                    cx.listen(PORT, ConnOptions::default()).expect("free");
                }
                Event::Readable { conn } => {
                    while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                        self.received += frame.len();
                    }
                }
                _ => {}
            }
        }
    }

    #[derive(Default)]
    struct Source {
        sent: usize,
        ended: Option<CloseReason>,
    }

    impl Service for Source {
        fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
            let conn = match event {
                Event::Started => {
                    let sink = SocketAddr::new(ADDRESSES_A[0], PORT);
                    cx.connect(sink, ConnOptions::default()).expect("a path");
                    return;
                }
                Event::Connected { conn } | Event::Writable { conn } => conn,
                Event::Closed { reason, .. } => {
                    self.ended = Some(reason);
                    return;
                }
                _ => return,
            };
            while self.sent < BYTES {
                let piece = [7; 1000];
                let taken = cx.send(conn, &piece[..piece.len().min(BYTES - self.sent)]);
                let taken = taken.expect("open");
                self.sent += taken;
                if taken < piece.len() {
                    return;
                }
            }
        }
    }

    /// Frames held by applications shrink the windows, then refuse data but not ACKs; nothing is lost for good.
    #[test]
    fn frames_that_are_held_close_the_windows_and_give_them_back() {
        let config = ShardConfig {
            lease_cap: 40,
            ..ShardConfig::default()
        };
        let clock = ManualClock::new();
        let ports = MemoryPort::pair(&MemoryConfig::default());
        let (sink, source) = (Sink::default(), Source::default());
        let mut pair = MemoryPair::seeded(&config, ports, sink, source, &clock, 1);
        let run = |pair: &mut MemoryPair<Sink, Source>, turns: usize| {
            for _ in 0..turns {
                pair.turn();
                clock.advance(std::time::Duration::from_micros(500));
            }
        };
        run(&mut pair, 8);
        let before = pair.a.service().received;
        assert!(before > 0 && before < BYTES, "in the middle: {before}");
        assert_eq!(pair.a.core.pressure, Pressure::None);

        // As an application that keeps leases would.
        let umem = pair.a.core.port.umem().clone();
        let mut held: Vec<_> = (0..32).filter_map(|_| umem.alloc_rx()).collect();
        // What was promised before stays promised, and is used up first.
        run(&mut pair, 60);
        assert_eq!(pair.a.core.pressure, Pressure::High);
        let window = pair.a.report().connections[0].rcv_wnd;
        assert!(window <= 4 * 1500, "{window}");
        held.extend((0..8).filter_map(|_| umem.alloc_rx()));
        run(&mut pair, 4);
        let stalled = pair.a.service().received;
        run(&mut pair, 400);
        assert_eq!(pair.a.service().received, stalled, "nothing more is kept");
        assert!(pair.a.core.counters.drops[DropReason::NoReceiveCredit.index()] > 0);

        drop(held);
        run(&mut pair, 40_000);
        assert_eq!(pair.a.core.pressure, Pressure::None);
        assert_eq!(pair.a.service().received, BYTES);
    }

    /// A peer that does not close within the linger time is told that nobody is there any more.
    #[test]
    fn a_shard_that_ends_resets_what_is_still_open() {
        let config = ShardConfig::default();
        let clock = ManualClock::new();
        let ports = MemoryPort::pair(&MemoryConfig::default());
        let (sink, source) = (Sink::default(), Source::default());
        let mut pair = MemoryPair::seeded(&config, ports, sink, source, &clock, 2);
        let step = std::time::Duration::from_millis(1);
        while pair.a.service().received < BYTES {
            pair.turn();
            clock.advance(step);
        }
        pair.a.with_context(|_, cx| cx.stop());
        let mut turns = 0;
        // The loop of `Shard::run`: no turn after the end.
        while !pair.a.has_ended() {
            pair.turn();
            clock.advance(step);
            turns += 1;
            assert!(turns < 5000, "the shard does not end");
        }
        pair.b.turn();
        pair.b.turn();
        assert_eq!(pair.b.service().ended, Some(CloseReason::Reset));
        assert_eq!(pair.a.report().connections.len(), 0);
    }
}
