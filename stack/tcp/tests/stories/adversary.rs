//! A peer that sends anything: no panic, no unbounded memory, no lie about what was received; and snapshots at any turn.

use bywash_tcp::time::Duration;
use bywash_tcp::{Config, Connection, Event, SnapshotError};
use bywash_wire::{Flags, Segment, Timestamps};

use crate::support::lone::{Desk, Lone, plain};
use crate::support::{ISS_A, ISS_B, Pair, Random, reborn};

fn any_segment(random: &mut Random, lone: &Lone) -> (Segment, Vec<u8>) {
    let info = lone.tcp.info();
    let near = |random: &mut Random, base: u32| match random.below(4) {
        0 => base,
        1 => base.wrapping_add(random.below(20_000) as u32),
        2 => base.wrapping_sub(random.below(20_000) as u32),
        _ => random.next() as u32,
    };
    let mut segment = Segment {
        seq: bywash_wire::SeqNumber::new(near(random, (ISS_B + 1 + info.bytes_in as u32).raw())),
        ack: bywash_wire::SeqNumber::new(near(random, (ISS_A + 1 + info.bytes_acked as u32).raw())),
        flags: Flags::from_bits(match random.below(3) {
            0 => random.next() as u8,
            1 => (Flags::ACK | Flags::FIN).bits(),
            _ => Flags::ACK.bits(),
        }),
        window: random.next() as u16,
        urgent: random.next() as u16,
        ..Segment::default()
    };
    if random.chance(300) {
        segment.options.timestamps = Some(Timestamps {
            value: random.next() as u32,
            echo: random.next() as u32,
        });
    }
    if random.chance(100) {
        let start = bywash_wire::SeqNumber::new(random.next() as u32);
        segment
            .options
            .sack
            .push(start, start + random.next() as u32);
    }
    if segment.flags.contains(Flags::SYN) {
        segment.options.mss = Some(1 + random.below(3_000) as u16);
        segment.options.window_scale = Some(random.below(15) as u8);
        segment.options.sack_permitted = random.chance(500);
    }
    let len = if random.chance(500) {
        0
    } else {
        random.below(1_500) as usize
    };
    segment.payload_len = len;
    (segment, vec![random.next() as u8; len])
}

#[test]
fn anything_may_arrive_at_any_time() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let config = Config {
            timestamps: random.chance(500),
            sack: random.chance(500),
            window_scale: random.chance(500),
            receive_segments: 64,
            send_buffer: 20_000,
            receive_buffer: 1 + random.below(100_000) as usize,
            ..plain()
        };
        let mut lone = match random.below(3) {
            0 => Lone::calling(&config),
            1 => Lone::called(&config),
            _ => Lone::in_state(bywash_tcp::State::Established, &config),
        };
        for _ in 0..300 {
            turn(&mut random, &mut lone);
        }
        let held = lone.desk.alive.get();
        assert!(held <= 64 + 400, "seed {seed}: {held} frames held");
        drop(lone.tcp.recv());
        lone.tcp.abort();
        assert_eq!(lone.desk.alive.get(), 0, "seed {seed}: frames are released");
    }
}

fn turn(random: &mut Random, lone: &mut Lone) {
    let now = lone.now;
    match random.below(20) {
        0 => {
            let len = 1 + random.below(lone.tcp.segment_limit() as u64) as usize;
            // Refusals are part of the game.
            drop(lone.tcp.send(lone.desk.frame(&vec![1; len])));
        }
        1 => drop(lone.tcp.recv()),
        2 if random.chance(50) => lone.tcp.close(now),
        3 if random.chance(20) => lone.tcp.orphan(now),
        4 => lone.desk.queued.set(random.chance(500)),
        5 => lone.desk.exhausted.set(random.chance(500)),
        6 => lone.tcp.set_receive_limit(random.below(200_000) as usize),
        7 if random.chance(100) => lone.tcp.set_mss(random.next() as u16),
        8 | 9 if lone.tcp.next_timeout().is_some() => lone.wait(),
        10 => lone.now = now + Duration::from_nanos(random.below(1_000_000_000)),
        _ => {
            let (segment, bytes) = any_segment(random, lone);
            lone.get_segment(&segment, &bytes);
        }
    }
    lone.sent();
    let info = lone.tcp.info();
    assert!(info.held_out_of_order <= 300_000);
    while let Some(event) = lone.tcp.poll_event() {
        if let Event::Closed(_) = event {
            assert_eq!(lone.tcp.next_timeout(), None, "nothing is awaited any more");
        }
    }
}

fn snapshot(pair: &mut Pair) -> Vec<u8> {
    let mut bytes = Vec::new();
    pair.a.tcp().snapshot(&mut bytes, |payload| payload);
    bytes
}

fn busy() -> Pair {
    let mut pair = Pair::established(&Config::default(), &Config::default());
    let mut count = 0;
    pair.network.drop_if(move |trace| {
        count += usize::from(trace.is_data());
        count % 5 == 3
    });
    pair.a.send(&crate::support::pattern(50_000, 1));
    pair.b.send(&crate::support::pattern(50_000, 2));
    pair.b.reads = false;
    pair.a.reads = false;
    pair.run_until(|pair| {
        let info = pair.a.tcp.as_ref().unwrap().info();
        info.in_flight > 0 && info.unread > 0 && info.held_out_of_order > 0 && info.unsent > 0
    });
    pair
}

#[test]
fn a_snapshot_restores_an_equal_connection() {
    let mut pair = busy();
    let info = pair.a.tcp().info();
    let copy = reborn(pair.a.tcp());
    assert_eq!(copy.info(), info);
    assert_eq!(copy.next_timeout(), pair.a.tcp().next_timeout());
    assert_eq!(copy.tuple(), pair.a.tcp().tuple());
    assert_eq!(copy.readiness(), pair.a.tcp().readiness());
}

#[test]
fn a_foreign_or_cut_snapshot_is_refused() {
    let mut pair = busy();
    let bytes = snapshot(&mut pair);
    let restore =
        |bytes: &[u8]| Connection::<Vec<u8>>::restore(bytes, |bytes| Some(bytes.to_vec()));
    assert_eq!(
        restore(b"GET / HTTP/1.1").unwrap_err(),
        SnapshotError::Version(0)
    );
    let mut future = bytes.clone();
    future[4] += 1;
    let version = u32::from(future[4]);
    assert_eq!(
        restore(&future).unwrap_err(),
        SnapshotError::Version(version)
    );
    for len in 0..bytes.len().min(4_000) {
        assert!(restore(&bytes[..len]).is_err(), "cut at {len}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(restore(&longer).unwrap_err(), SnapshotError::Corrupt);
    let none = Connection::<Vec<u8>>::restore(&bytes, |_| None);
    assert_eq!(none.unwrap_err(), SnapshotError::NoPayload);
}

#[test]
fn a_damaged_snapshot_never_panics() {
    let mut pair = busy();
    let bytes = snapshot(&mut pair);
    let mut random = Random::new(1);
    let desk = Desk::default();
    let mut accepted = 0;
    for _ in 0..4_000 {
        let mut damaged = bytes.clone();
        // Most of the bytes are payload: damage the fields in front.
        let at = random.below(900) as usize;
        damaged[at] = random.next() as u8;
        let Ok(tcp) = Connection::restore(&damaged, |bytes| Some(desk.frame(bytes))) else {
            continue;
        };
        accepted += 1;
        let mut lone = Lone {
            tcp,
            desk: desk.clone(),
            now: pair.now,
        };
        for _ in 0..20 {
            turn(&mut random, &mut lone);
        }
    }
    assert!(accepted > 1_000, "{accepted} of 4000 were plausible");
}

/// What an engine's handle looks like: an `Rc`, an index, a start, a length.
struct Handle([u64; 3]);

impl bywash_tcp::Payload for Handle {
    fn len(&self) -> usize {
        self.0[2] as usize
    }
    fn advance(&mut self, _: usize) {}
    fn truncate(&mut self, _: usize) {}
    fn split_off(&mut self, _: usize) -> Option<Self> {
        None
    }
    fn append(&mut self, _: &Self) -> bool {
        false
    }
    fn is_queued(&self) -> bool {
        false
    }
}

#[test]
fn a_connection_stays_small() {
    // A ratchet: lower it when you can; whoever raises it says why. A million connections are that many megabytes.
    // 640 before delivery rates, CUBIC, HyStart++, validation of the window, and where time goes. In boxes of their own, for
    // the connections that have them: BBR, pacing, ECN, recovery.
    const BOUND: usize = 512;
    let size = size_of::<Connection<Handle>>();
    assert!(size <= BOUND, "{size} bytes");
    assert!(size + 96 > BOUND, "{size} bytes: lower the bound");
}
