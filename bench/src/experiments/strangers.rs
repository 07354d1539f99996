//! What a shard pays for segments of nobody's connection: a queue whose device is code hands it forged ones, batch after batch.
//!
//! The time is that of the shard's turns, divided by the segments; a turn with nothing to do is measured beside it. The XDP program's
//! part, and what it costs to drop them there instead, is `cargo run --release -p bywash-xdp-tests --bin cost`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bywash::ShardConfig;
use bywash::echo::Echo;
use bywash::seams::wire::{Ecn, Flags, Link, MacAddr, Segment, Tuple, checksum, emit, header_len};
use bywash::seams::{
    Environment, ManualClock, MemoryConfig, NoSteering, Received, SeededRandom, Shard,
    StaticRoutes, VirtualPort, VirtualQueue,
};

use crate::cpu::Sample;
use crate::row::{Params, Setting};
use crate::run::{Case, Outcome};

const US: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// Where we listen.
const PORT: u16 = 7;
/// Segments between two turns: about what a NAPI cycle brings.
const BATCH: usize = 64;
/// Different segments, from as many peers.
const PEERS: u32 = 16_384;

/// Nanoseconds a segment, and of a turn without any.
struct Cost {
    segment: f64,
    idle: f64,
}

/// The kinds of forged segments.
pub(crate) fn cases() -> Vec<Case<'static>> {
    let case = |kind: &'static str, flags: Flags, payload: usize| Case {
        experiment: "strangers",
        subject: "Bywash",
        peer: "forged",
        params: Params::from([("segment", kind.to_owned())]),
        setting: Setting::in_memory(1500),
        run: Box::new(move |duration| {
            let before = Sample::now()?;
            let cost = measure(flags, payload, duration)?;
            let cores = before.until(&Sample::now()?);
            Ok(Outcome {
                readings: vec![
                    ("segment", "ns", cost.segment),
                    ("idle turn", "ns", cost.idle),
                ],
                cores,
                ..Outcome::default()
            })
        }),
    };
    vec![
        case("RST", Flags::RST, 0),
        case("ACK", Flags::ACK, 0),
        case("ACK with 1448 bytes", Flags::ACK, 1448),
    ]
}

fn forged(flags: Flags, payload: usize, peer: u32) -> Box<[u8]> {
    let link = Link {
        source_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        destination_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        vlan: None,
    };
    let peer = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | peer));
    let tuple = Tuple::tcp(peer, 40_000, US, PORT);
    let segment = Segment {
        flags,
        payload_len: payload,
        ..Segment::default()
    };
    let header = header_len(&link, &tuple, &segment);
    let mut frame = vec![0x5a; header + payload];
    let (head, body) = frame.split_at_mut(header);
    emit(
        head,
        &link,
        &tuple,
        Ecn::NotEct,
        64,
        &segment,
        checksum::sum(body),
    );
    frame.into()
}

fn shard() -> Result<(Shard<VirtualPort, Echo>, VirtualQueue)> {
    let (port, queue) = VirtualPort::open(&MemoryConfig::default())?;
    let env = Environment {
        clock: Box::new(ManualClock::new()),
        random: Box::new(SeededRandom(1)),
        routes: Box::new(StaticRoutes::new(vec![US])),
        steering: Box::new(NoSteering),
    };
    let (listening, told) = std::sync::mpsc::channel();
    let echo = Echo::new(PORT, Default::default(), listening);
    let mut shard = Shard::new(ShardConfig::default(), port, echo, env);
    shard.turn();
    told.recv()?.context("the echo does not listen")?;
    Ok((shard, queue))
}

fn measure(flags: Flags, payload: usize, duration: Duration) -> Result<Cost> {
    let (mut shard, queue) = shard()?;
    let frames: Vec<_> = (0..PEERS)
        .map(|peer| forged(flags, payload, peer))
        .collect();
    let start = Instant::now();
    let (mut busy, mut idle, mut segments, mut turns) = (Duration::ZERO, Duration::ZERO, 0, 0);
    for batch in frames.chunks_exact(BATCH).cycle() {
        for frame in batch {
            let taken = queue.receive(0, frame.clone());
            ensure!(taken == Received::Queued, "the queue answered {taken:?}");
        }
        let before = Instant::now();
        while queue.unread() > 0 {
            shard.turn();
        }
        busy += before.elapsed();
        segments += BATCH;
        while let Some(answer) = queue.transmitted() {
            drop(answer);
        }
        // What the answers' completions cost is not the strangers' any more.
        shard.turn();
        let before = Instant::now();
        shard.turn();
        idle += before.elapsed();
        turns += 1;
        if start.elapsed() > duration {
            break;
        }
    }
    Ok(Cost {
        segment: busy.as_nanos() as f64 / segments as f64,
        idle: idle.as_nanos() as f64 / f64::from(turns),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_segments_are_taken_and_make_no_connection() {
        let (mut shard, queue) = shard().expect("a shard");
        for flags in [Flags::RST, Flags::ACK] {
            assert_eq!(queue.receive(0, forged(flags, 10, 1)), Received::Queued);
            shard.turn();
            assert_eq!(queue.unread(), 0);
        }
        let answer = queue.transmitted().expect("a RST to the ACK");
        assert_eq!(answer.bytes()[14 + 20 + 13], Flags::RST.bits());
        assert!(queue.transmitted().is_none(), "and none to the RST");
        assert!(measure(Flags::ACK, 0, Duration::ZERO).is_ok());
    }
}
