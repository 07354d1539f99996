//! What a turn pays for looking at its rings: all of them, or those that XDP has marked.
//!
//! Real AF_XDP sockets on a veth, with nothing coming in: the cost is that of looking. "Marked" is what the engine does with
//! many rings: the marks are read, four rings at rest are swept, and, where eight flows are busy, their rings are read too.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bywash::seams::xsk::{
    Frame, Marks, PoolClass, Port, RingSizes, UmemConfig, XskConfig, XskPort,
};

use crate::cpu::Sample;
use crate::netns::{End, Testbed};
use crate::row::Params;
use crate::run::{Case, Outcome};

/// Slots of a queue, as XDP has them: two are the primary's and the control pool's.
const SLOTS: usize = 1024;
const OTHERS: usize = 2;
/// Rings at rest that a turn sweeps.
const SWEEP: usize = 4;
const BUSY: usize = 8;
/// Turns between two looks at the clock.
const TURNS: u32 = 1000;

/// One case for each number of pools.
pub(crate) fn scan(bed: &Testbed) -> Vec<Case<'_>> {
    let case = |pools: usize| Case {
        experiment: "pools",
        subject: "look at all rings",
        peer: "none",
        params: Params::from([("pools", pools.to_string())]),
        setting: bed.setting.clone(),
        run: Box::new(move |duration| run(bed, pools, duration)),
    };
    [1, 16, 64, 256, SLOTS - OTHERS]
        .into_iter()
        .map(case)
        .collect()
}

fn run(bed: &Testbed, pools: usize, duration: Duration) -> Result<Outcome> {
    let before = Sample::now()?;
    let readings = thread::scope(|scope| {
        let measuring = bed.a.spawn(scope, |entered| {
            entered?;
            measure(&bed.a, pools, duration / 4)
        });
        measuring
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(Outcome {
        readings,
        cores: before.until(&Sample::now()?),
        ..Outcome::default()
    })
}

fn measure(
    end: &End,
    pools: usize,
    duration: Duration,
) -> Result<Vec<(&'static str, &'static str, f64)>> {
    let mut port = open(end, pools)?;
    let marks = marks()?;
    let rings = port.rings();
    let mut out: Vec<Frame> = Vec::new();
    let mut marked = Vec::with_capacity(rings);
    let all = per_turn(duration, || {
        for ring in OTHERS..rings {
            port.receive(ring, &mut out, 256);
        }
    });
    let mut hand = OTHERS;
    let mut look = |port: &mut XskPort, armed: usize| {
        marks.take(rings, &mut marked);
        for ring in OTHERS..OTHERS + armed.min(pools) {
            port.receive(ring, &mut out, 256);
        }
        for _ in 0..SWEEP.min(pools) {
            port.receive(hand, &mut out, 256);
            hand = if hand + 1 == rings { OTHERS } else { hand + 1 };
        }
    };
    let idle = per_turn(duration, || look(&mut port, 0));
    let busy = per_turn(duration, || look(&mut port, BUSY));
    Ok(vec![
        ("all rings", "ns/turn", all),
        ("marked, none busy", "ns/turn", idle),
        ("marked, 8 busy", "ns/turn", busy),
    ])
}

fn per_turn(duration: Duration, mut turn: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut turns = 0_u64;
    while start.elapsed() < duration {
        for _ in 0..TURNS {
            turn();
        }
        turns += u64::from(TURNS);
    }
    start.elapsed().as_nanos() as f64 / turns as f64
}

fn open(end: &End, pools: usize) -> Result<XskPort> {
    let pools = PoolClass {
        pools: pools as u32,
        ring: 32,
    };
    let base = XskConfig::new(end.device, 0);
    let rings = RingSizes::default();
    let rx_frames = u64::from(rings.primary + rings.control + base.lease_cap + base.fill_reserve)
        + pools.frames();
    let config = XskConfig {
        umem: UmemConfig {
            rx_frames: u32::try_from(rx_frames)?,
            ..UmemConfig::default()
        },
        pools: vec![pools],
        // The case before has closed as many sockets, at some 13 ms each.
        bind_patience: Duration::from_secs(60),
        ..base
    };
    XskPort::open(&config).context("opening the pools' sockets")
}

/// An array such as XDP's, with nothing marked.
fn marks() -> Result<Marks> {
    let path = format!("/dev/shm/bywash-bench-{}", std::process::id());
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("cannot create {path}"))?;
    std::fs::remove_file(&path)?;
    file.set_len(4096)?;
    Ok(Marks::map(file.as_fd(), 4096, 0..SLOTS)?)
}
