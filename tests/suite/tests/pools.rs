//! Flow pools on a device: flows get rings and lose them at full rate, and each segment stays in its place.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Arc, Barrier, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bywash::{
    ConnId, ConnOptions, Context, Engine, EngineConfig, Event, Luggage, PoolClass, PoolLimits,
    PoolPolicy, Port, Recv, Service,
};
use bywash_tests::bywash::{binary, over_shards};
use bywash_tests::process::Running;
use bywash_tests::{Bed, LIMIT, Shape};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

const PORT: u16 = 9100;
const FLOWS: u64 = 4;
const BURSTS: u64 = 40;
const BURST: u64 = 1 << 20;
/// What a sender may have under way: four times that stays below the 256 entries of veth's ring, so that nothing is lost.
const SEND_BUFFER: usize = 32 * 1024;

/// What the connections saw, as their shard's service last looked.
#[derive(Debug, Default)]
struct Seen {
    received: u64,
    connections: usize,
    out_of_order: u64,
}

struct Sink {
    seen: Arc<Mutex<Seen>>,
    connections: Vec<ConnId>,
}

impl Service for Sink {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                cx.listen(PORT, ConnOptions::default())
                    .expect("nobody else listens");
            }
            Event::Accepted { conn, .. } => self.connections.push(conn),
            Event::Readable { conn } => {
                let mut bytes = 0;
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    bytes += frame.len() as u64;
                }
                self.seen.lock().expect("nobody panics with it").received += bytes;
            }
            Event::Stopping => {
                let mut seen = self.seen.lock().expect("nobody panics with it");
                for conn in &self.connections {
                    let info = cx.info(*conn).expect("still open");
                    seen.connections += 1;
                    seen.out_of_order += info.out_of_order;
                }
                cx.stop();
            }
            _ => {}
        }
    }

    /// Nothing is known of a connection but that it is there.
    fn on_leave(&mut self, conn: ConnId) -> Option<Luggage> {
        self.connections.retain(|own| *own != conn);
        Some(Box::new(()))
    }

    fn on_arrive<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId, _: Luggage) {
        self.connections.push(conn);
        self.on_event(cx, Event::Readable { conn });
    }
}

/// Flows of the peer's kernel: bursts at full rate, with pauses in which others want the ring.
fn flows(bed: &Bed) -> Vec<JoinHandle<TcpStream>> {
    let server = SocketAddr::new(bed.host.address(false), PORT);
    let flow = |number: u64| {
        bed.peer.spawn(move || {
            let mut stream = TcpStream::connect(server).expect("the sink listens");
            setsockopt(&stream, sockopt::SndBuf, &SEND_BUFFER).expect("a send buffer");
            let burst = vec![number as u8; BURST as usize];
            for _ in 0..BURSTS {
                stream.write_all(&burst).expect("the sink reads");
                std::thread::sleep(Duration::from_millis(20 + 7 * number));
            }
            stream
        })
    };
    (0..FLOWS).map(flow).collect()
}

/// A sink on the bed's host.
fn start(bed: &Bed, change: impl FnOnce(&mut EngineConfig)) -> (Engine<Sink>, Arc<Mutex<Seen>>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut config = EngineConfig::new(bed.host.device.clone());
    change(&mut config);
    let in_engine = Arc::clone(&seen);
    let engine = bed.host.inside(move || {
        Engine::start(config, |_| Sink {
            seen: Arc::clone(&in_engine),
            connections: Vec::new(),
        })
        .expect("the device is free")
    });
    (engine, seen)
}

/// What `bywash ss` says of the engine in this process.
fn ss() -> Value {
    let reports = Running::start(Command::new(binary()).args(["ss", "--json"])).wait(LIMIT);
    let all: Value = reports.json();
    let own = all
        .as_array()
        .and_then(|all| all.iter().find(|one| one["pid"] == std::process::id()));
    own.expect("our engine answers").clone()
}

#[test]
fn flows_come_and_go_at_full_rate_and_keep_their_order() {
    let bed = Bed::new(Shape::default());
    let (engine, seen) = start(&bed, |config| {
        config.pools = vec![PoolClass::small(2)];
        config.shard.pools = PoolPolicy::PromoteAfter(50_000);
        config.shard.pool_limits = PoolLimits {
            idle_after: Duration::from_millis(10),
            ..PoolLimits::default()
        };
    });
    let streams: Vec<TcpStream> = flows(&bed)
        .into_iter()
        .map(|flow| flow.join().expect("it sends to its end"))
        .collect();
    let report = ss();
    engine.stop();
    engine.join().expect("a clean end");
    drop(streams);
    let seen = seen.lock().expect("nobody panics with it");
    assert_eq!(seen.received, FLOWS * BURSTS * BURST);
    assert_eq!(seen.connections as u64, FLOWS);
    let counter = |name: &str| {
        over_shards(&report, |shard| {
            shard["counters"][name].as_u64().unwrap_or(0)
        })
    };
    let figures = [
        "promoted",
        "demoted",
        "frames-parked",
        "moves-forced",
        "rx-ring-full",
    ]
    .map(|name| (name, counter(name)));
    println!("{seen:?} {figures:?}");
    assert!(
        counter("promoted") > 30 && counter("demoted") > 20,
        "{report:#}"
    );
    assert_eq!(
        counter("rx-ring-full") + counter("moves-forced"),
        0,
        "{report:#}"
    );
    assert_eq!(seen.out_of_order, 0, "{figures:?}");
    // System calls: one kick for many segments, and a sleep only when there is nothing to do.
    let calls = counter("kicks") + counter("sleeps");
    let frames = counter("frames-received") + counter("frames-transmitted");
    println!("{calls} system calls for {frames} frames");
    assert!(
        calls * 16 < frames,
        "{calls} system calls for {frames} frames"
    );
}

/// With many rings XDP marks those that it sends packets to, and the shard looks there.
#[test]
fn many_rings_are_found_by_their_marks() {
    let bed = Bed::new(Shape::default());
    let (engine, seen) = start(&bed, |config| {
        config.pools = vec![PoolClass {
            pools: 100,
            ring: 256,
        }];
        config.shard.pools = PoolPolicy::Dedicated;
        config.shard.lease_cap = 1024;
    });
    let streams: Vec<TcpStream> = flows(&bed)
        .into_iter()
        .map(|flow| flow.join().expect("it sends to its end"))
        .collect();
    let report = ss();
    engine.stop();
    engine.join().expect("a clean end");
    drop(streams);
    let seen = seen.lock().expect("nobody panics with it");
    assert_eq!(seen.received, FLOWS * BURSTS * BURST);
    assert_eq!(seen.out_of_order, 0);
    let shard = &report["shards"][0];
    let marked = shard["counters"]["rings-marked"]
        .as_u64()
        .expect("a counter");
    assert!(marked > FLOWS * BURSTS, "{marked} marks");
    let pools = shard["pools"].as_array().expect("pools");
    let with_frames = pools
        .iter()
        .filter(|pool| pool["frames"].as_u64() > Some(1000));
    assert_eq!(
        (pools.len(), with_frames.count() as u64),
        (100, FLOWS),
        "{shard:#}"
    );
}

/// Looks again and again until it holds.
#[track_caller]
fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How many connections each shard has.
fn by_shard(report: &Value) -> Vec<usize> {
    let shards = report["shards"].as_array().expect("shards");
    let connections = shards.iter().map(|shard| shard["connections"].as_array());
    connections
        .map(|all| all.expect("connections").len())
        .collect()
}

/// The peer's queues change, and with them where its flows arrive: they are handed over, and the connections follow.
#[test]
fn connections_follow_their_packets_to_another_queue() {
    const EACH: u64 = 4 << 20;
    let bed = Bed::new(Shape {
        queues: 2,
        ..Shape::default()
    });
    let (engine, seen) = start(&bed, |config| config.shards = 2);
    let server = SocketAddr::new(bed.host.address(false), PORT);
    let flows = 16;
    let half = Arc::new(Barrier::new(flows + 1));
    let changed = Arc::new(Barrier::new(flows + 1));
    let flow = |_| {
        let (half, changed) = (Arc::clone(&half), Arc::clone(&changed));
        bed.peer.spawn(move || {
            let mut stream = TcpStream::connect(server).expect("the sink listens");
            setsockopt(&stream, sockopt::SndBuf, &(SEND_BUFFER / 4)).expect("a send buffer");
            stream
                .write_all(&vec![1; EACH as usize])
                .expect("the sink reads");
            half.wait();
            changed.wait();
            stream
                .write_all(&vec![2; EACH as usize])
                .expect("the sink reads");
            stream
        })
    };
    let senders: Vec<_> = (0..flows).map(flow).collect();
    let received = || seen.lock().expect("nobody panics with it").received;
    half.wait();
    // What was sent has arrived before the queues change.
    until("the first half", || received() == EACH * flows as u64);
    let before = ss();
    assert!(
        by_shard(&before)[1] > 0,
        "no flow came to the second queue: {before:#}"
    );
    bed.peer
        .run("ethtool", &["-L", &bed.peer.device, "tx", "1"])
        .ok();
    changed.wait();
    let streams: Vec<TcpStream> = senders
        .into_iter()
        .map(|sender| sender.join().expect("it sends to its end"))
        .collect();
    until("the second half", || received() == 2 * EACH * flows as u64);
    until("every connection is where its packets are", || {
        by_shard(&ss()) == [flows, 0]
    });
    let after = ss();
    engine.stop();
    engine.join().expect("a clean end");
    drop(streams);
    let seen = seen.lock().expect("nobody panics with it");
    assert_eq!(seen.received, 2 * EACH * flows as u64);
    let counter = |name: &str| {
        over_shards(&after, |shard| {
            shard["counters"][name].as_u64().unwrap_or(0)
        })
    };
    println!(
        "{seen:?} {:?} -> {:?}, {} handed over, {} parked, {} moves forced, drops {:?}",
        by_shard(&before),
        by_shard(&after),
        counter("handed-over"),
        counter("frames-parked"),
        counter("moves-forced"),
        [&after["shards"][0]["drops"], &after["shards"][1]["drops"]],
    );
    assert_eq!(by_shard(&after), [flows, 0], "{after:#}");
    assert_eq!(counter("resteered-here"), by_shard(&before)[1] as u64);
    assert_eq!(counter("connections-lost"), 0);
}
