//! In steady state a segment costs no allocation, and a system call is for many.
//!
//! "Steady" is after every queue has grown to what the transfer needs: buffers are kept for their allocation. Counted are
//! the allocations of this thread between two turns, both ends of the wire included.

use std::net::SocketAddr;
use std::time::Duration;

use bywash_engine::clock::ManualClock;
use bywash_engine::config::{PoolPolicy, ShardConfig};
use bywash_engine::context::{ConnOptions, Context};
use bywash_engine::memory::{ADDRESSES_A, MemoryPair};
use bywash_engine::service::{ConnId, Event, Recv, Service};
use bywash_engine::xsk::{MemoryConfig, MemoryPort, Port};

const PORT: u16 = 9;
const STEP: Duration = Duration::from_micros(20);

/// Sends without end.
#[derive(Default)]
struct Source;

impl Source {
    fn pump<P: Port>(cx: &mut Context<'_, P>, conn: ConnId) {
        let piece = [7; 16_384];
        while cx
            .send(conn, &piece)
            .is_ok_and(|taken| taken == piece.len())
        {}
    }
}

impl Service for Source {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                let sink = SocketAddr::new(ADDRESSES_A[0], PORT);
                cx.connect(sink, ConnOptions::default()).expect("a path");
            }
            Event::Connected { conn } | Event::Writable { conn } => Self::pump(cx, conn),
            _ => {}
        }
    }
}

#[derive(Default)]
struct Sink {
    received: u64,
}

impl Service for Sink {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                cx.listen(PORT, ConnOptions::default()).expect("free");
            }
            Event::Readable { conn } => {
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    self.received += frame.len() as u64;
                }
            }
            _ => {}
        }
    }
}

#[test]
fn a_segment_in_steady_state_allocates_nothing() {
    let clock = ManualClock::new();
    let config = ShardConfig {
        pools: PoolPolicy::Shared,
        ..ShardConfig::default()
    };
    let ports = MemoryPort::pair(&MemoryConfig::default());
    let mut pair = MemoryPair::seeded(&config, ports, Sink::default(), Source, &clock, 3);
    let turns = |pair: &mut MemoryPair<Sink, Source>, count: usize| {
        for _ in 0..count {
            pair.turn();
            clock.advance(STEP);
        }
    };
    turns(&mut pair, 20_000);
    let before = pair.a.service().received;
    let counted = allocation_counter::measure(|| turns(&mut pair, 10_000));
    let segments = (pair.a.service().received - before) / 1448;
    assert!(
        segments > 50_000,
        "only {segments} segments: nothing was measured"
    );
    assert_eq!(
        counted.count_total, 0,
        "{} allocations, {} bytes, for {segments} segments",
        counted.count_total, counted.bytes_total
    );
}
