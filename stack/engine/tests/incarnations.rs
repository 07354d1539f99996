//! A tuple that is used again while its last connection is in TIME-WAIT (RFC 6191). Found by simulation: the service was never
//! told of the old connection's end, and what it had not read was gone.

use std::net::SocketAddr;
use std::time::Duration;

use bywash_engine::clock::ManualClock;
use bywash_engine::config::ShardConfig;
use bywash_engine::context::{ConnOptions, Context};
use bywash_engine::memory::{ADDRESSES_B, MemoryPair};
use bywash_engine::service::{ConnId, Event, Recv, Service};
use bywash_engine::tcp::CloseReason;
use bywash_engine::xsk::{MemoryConfig, MemoryPort, Port};

const PORT: u16 = 7;

/// Says FIN to whoever comes, and reads when it is let.
#[derive(Default)]
struct Server {
    reads: bool,
    accepted: Vec<ConnId>,
    closed: Vec<(ConnId, CloseReason)>,
    read: usize,
}

impl Server {
    fn read<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        while let Ok(Recv::Data(frame)) = cx.recv(conn) {
            self.read += frame.len();
        }
    }
}

impl Service for Server {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                cx.listen(PORT, ConnOptions::default()).expect("free");
            }
            Event::Accepted { conn, .. } => {
                self.accepted.push(conn);
                cx.shutdown(conn).expect("open");
            }
            Event::Readable { conn } if self.reads => self.read(cx, conn),
            Event::Closed { conn, reason } => self.closed.push((conn, reason)),
            _ => {}
        }
    }
}

/// Sends five bytes and FIN when the server has said FIN, and calls again when the connection has ended.
#[derive(Default)]
struct Client {
    closed: usize,
    said: bool,
}

impl Client {
    fn call<P: Port>(cx: &mut Context<'_, P>) {
        let server = SocketAddr::new(ADDRESSES_B[0], PORT);
        cx.connect(server, ConnOptions::default()).expect("a port");
    }
}

impl Service for Client {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => Self::call(cx),
            Event::Readable { conn } if !self.said && matches!(cx.recv(conn), Ok(Recv::End)) => {
                self.said = true;
                assert_eq!(cx.send(conn, b"hello"), Ok(5));
                cx.close(conn).expect("open");
            }
            Event::Closed { .. } => {
                self.closed += 1;
                self.said = false;
                // Its port is free when this has been said.
                cx.set_timer(Duration::from_millis(1), 0);
            }
            Event::Timer { .. } => Self::call(cx),
            _ => {}
        }
    }
}

fn pair(reads: bool) -> (ManualClock, MemoryPair<Client, Server>) {
    let config = ShardConfig {
        local_ports: 61_440..=61_440,
        ..ShardConfig::default()
    };
    let clock = ManualClock::new();
    let ports = MemoryPort::pair(&MemoryConfig::default());
    let server = Server {
        reads,
        ..Server::default()
    };
    let pair = MemoryPair::seeded(&config, ports, Client::default(), server, &clock, 1);
    (clock, pair)
}

fn run(clock: &ManualClock, pair: &mut MemoryPair<Client, Server>, millis: usize) {
    for _ in 0..millis {
        pair.turn();
        clock.advance(Duration::from_millis(1));
    }
}

#[test]
fn a_new_incarnation_ends_the_old_one_for_the_service_too() {
    let (clock, mut pair) = pair(true);
    run(&clock, &mut pair, 300);
    let server = pair.b.service();
    assert!(server.accepted.len() > 2, "{:?}", server.accepted);
    let told: Vec<ConnId> = server.closed.iter().map(|(conn, _)| *conn).collect();
    assert_eq!(told[..], server.accepted[..told.len()], "each was told");
    assert!(server.accepted.len() - told.len() <= 1);
    let reasons = server.closed.iter().map(|(_, reason)| *reason);
    assert!(reasons.into_iter().all(|one| one == CloseReason::Finished));
    assert_eq!(server.read, 5 * server.accepted.len());
}

#[test]
fn unread_data_keeps_the_old_incarnation() {
    let (clock, mut pair) = pair(false);
    run(&clock, &mut pair, 300);
    let server = pair.b.service();
    assert_eq!(pair.a.service().closed, 1);
    assert_eq!((server.accepted.len(), server.closed.len()), (1, 0));
    pair.b.with_context(|server, cx| {
        server.reads = true;
        server.read(cx, server.accepted[0]);
    });
    run(&clock, &mut pair, 5_000);
    let server = pair.b.service();
    assert!(server.accepted.len() > 1, "the SYN came again");
    assert!(server.read >= 5);
}
