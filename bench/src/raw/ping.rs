//! Ping-pong of one raw frame, both ends spinning: what any TCP over this wire could reach at best.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bywash_xdp::Mode;

use super::frame::{HEADER, Route, Template, sum};
use super::port::RawPort;
use super::{PORT_A, PORT_B, join, route};
use crate::cpu::{CoreTime, Sample};
use crate::latency::{Latencies, WARM_UP};
use crate::netns::Testbed;

/// An answer that takes this long is lost.
const TIMEOUT: Duration = Duration::from_secs(1);

/// What one run measured.
pub(crate) struct Ping {
    /// Round-trip times.
    pub(crate) latencies: Latencies,
    /// `native` or `generic`.
    pub(crate) mode: &'static str,
    /// All cores' time.
    pub(crate) cores: Vec<CoreTime>,
}

/// Frames with `size` bytes of payload, there and back, for the given time.
pub(crate) fn run(bed: &Testbed, size: usize, mode: Mode, duration: Duration) -> Result<Ping> {
    let ready = Barrier::new(2);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = bed.b.spawn(scope, |entered| {
            let port = entered.and_then(|()| RawPort::open(&bed.b, PORT_B, mode));
            ready.wait();
            answer(
                port?,
                &Frames::new(&route(&bed.b, &bed.a, PORT_B, PORT_A), size),
                &stop,
            )
        });
        let client = bed.a.spawn(scope, |entered| {
            let port = entered.and_then(|()| RawPort::open(&bed.a, PORT_A, mode));
            ready.wait();
            let frames = Frames::new(&route(&bed.a, &bed.b, PORT_A, PORT_B), size);
            let asked = port.and_then(|port| ask(port, &frames, duration));
            stop.store(true, Ordering::Release);
            asked
        });
        let ping = join(client);
        join(server)?;
        ping
    })
}

fn ask(mut port: RawPort, frames: &Frames, duration: Duration) -> Result<Ping> {
    let mut latencies = Latencies::new()?;
    let before = Sample::now()?;
    let start = Instant::now();
    let mut now = start;
    while now - start < duration {
        let asked = now;
        exchange(&mut port, frames)?;
        while port.receive(|_| ())? == 0 {
            if asked.elapsed() > TIMEOUT {
                bail!(
                    "a raw frame was not answered within {TIMEOUT:?}: lost, or the other end failed"
                );
            }
        }
        now = Instant::now();
        if asked - start >= WARM_UP {
            latencies.record(now - asked);
        }
    }
    let cores = before.until(&Sample::now()?);
    let mode = port.mode();
    port.close()?;
    Ok(Ping {
        latencies,
        mode,
        cores,
    })
}

fn answer(mut port: RawPort, frames: &Frames, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Acquire) {
        if port.receive(|_| ())? > 0 {
            exchange(&mut port, frames)?;
        }
    }
    port.close()
}

/// What one end sends.
struct Frames {
    template: Template,
    payload: Vec<u8>,
}

impl Frames {
    fn new(route: &Route, size: usize) -> Self {
        Self {
            template: Template::new(route, size),
            payload: vec![7; size],
        }
    }
}

fn exchange(port: &mut RawPort, frames: &Frames) -> Result<()> {
    port.reclaim();
    port.post(HEADER + frames.payload.len(), |frame| {
        frames
            .template
            .write(frame, 0, 0, &frames.payload, sum(&frames.payload))
    })?;
    port.kick()
}
