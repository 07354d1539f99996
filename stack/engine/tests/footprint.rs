//! What a connection at rest takes: everything on the heap that is there because of it, at both ends of the wire.
//!
//! Frames are not counted: a connection at rest holds none. Slab, flow table and wheel are, with what they have for nothing
//! at this number of connections.

use std::net::SocketAddr;
use std::time::Duration;

use bywash_engine::clock::ManualClock;
use bywash_engine::config::ShardConfig;
use bywash_engine::context::{ConnOptions, Context};
use bywash_engine::memory::{ADDRESSES_A, MemoryPair};
use bywash_engine::service::{ConnId, Event, Recv, Service};
use bywash_engine::xsk::{MemoryConfig, MemoryPort, Port};

const PORT: u16 = 9;
/// Connections that are there before, so that what a shard has once is not counted; and as many again, which are. The slab grows
/// by whole chunks of this: none is there for nothing.
const CONNECTIONS: usize = 2_048;
const AT_ONCE: usize = 100;

/// Bytes that a connection at rest may take now..
const LIMIT: u64 = 640;

/// Sends back what comes.
#[derive(Default)]
struct Echo;

impl Service for Echo {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                cx.listen(PORT, ConnOptions::default()).expect("free");
            }
            Event::Readable { conn } => {
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    let sent = cx.send(conn, frame.bytes());
                    assert_eq!(sent, Ok(frame.len()));
                }
            }
            _ => {}
        }
    }
}

/// Opens connections and asks once on each.
struct Asker {
    wanted: usize,
    opened: usize,
    answered: usize,
}

impl Asker {
    fn open<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        while self.opened < self.wanted && self.opened < self.answered + AT_ONCE {
            let peer = SocketAddr::new(ADDRESSES_A[0], PORT);
            cx.connect(peer, ConnOptions::default()).expect("a path");
            self.opened += 1;
        }
    }

    fn ask<P: Port>(cx: &mut Context<'_, P>, conn: ConnId) {
        assert_eq!(cx.send(conn, &[7; 64]), Ok(64));
    }
}

impl Service for Asker {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Connected { conn } => Self::ask(cx, conn),
            Event::Readable { conn } => {
                while let Ok(Recv::Data(_)) = cx.recv(conn) {}
                self.answered += 1;
            }
            _ => {}
        }
    }

    fn on_turn<P: Port>(&mut self, cx: &mut Context<'_, P>) -> usize {
        let before = self.opened;
        self.open(cx);
        self.opened - before
    }
}

fn run(pair: &mut MemoryPair<Echo, Asker>, clock: &ManualClock, connections: usize) {
    pair.b.service_mut().wanted = connections;
    for _ in 0..40_000 {
        pair.turn();
        clock.advance(Duration::from_micros(100));
        if pair.b.service().answered == connections {
            break;
        }
    }
    assert_eq!(pair.b.service().answered, connections);
    // Delayed acknowledgments too.
    for _ in 0..1_000 {
        pair.turn();
        clock.advance(Duration::from_millis(1));
    }
}

#[test]
fn a_connection_at_rest_is_small() {
    let clock = ManualClock::new();
    let config = ShardConfig::default();
    let ports = MemoryPort::pair(&MemoryConfig::default());
    let asker = Asker {
        wanted: 0,
        opened: 0,
        answered: 0,
    };
    let mut pair = MemoryPair::seeded(&config, ports, Echo, asker, &clock, 3);
    run(&mut pair, &clock, CONNECTIONS);
    let counted = allocation_counter::measure(|| run(&mut pair, &clock, 2 * CONNECTIONS));
    let each = counted.bytes_current as u64 / (2 * CONNECTIONS as u64);
    println!("{each} bytes for a connection at rest");
    assert!(
        each > 300,
        "{each} bytes: that is no connection, nothing was measured"
    );
    assert!(each <= LIMIT, "{each} bytes for a connection at rest");
}
