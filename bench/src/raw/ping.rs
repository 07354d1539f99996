//! Ping-pong of one small raw frame, both ends spinning: what any TCP over this wire could reach at best.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bywash_xdp::Mode;

use super::frame::{HEADER, Template, sum};
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

/// Frames with one byte of payload, there and back, for the given time.
pub(crate) fn run(bed: &Testbed, mode: Mode, duration: Duration) -> Result<Ping> {
    let ready = Barrier::new(2);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = bed.b.spawn(scope, |entered| {
            let port = entered.and_then(|()| RawPort::open(&bed.b, PORT_B, mode));
            ready.wait();
            answer(
                port?,
                &Template::new(&route(&bed.b, &bed.a, PORT_B, PORT_A), 1),
                &stop,
            )
        });
        let client = bed.a.spawn(scope, |entered| {
            let port = entered.and_then(|()| RawPort::open(&bed.a, PORT_A, mode));
            ready.wait();
            let template = Template::new(&route(&bed.a, &bed.b, PORT_A, PORT_B), 1);
            let asked = port.and_then(|port| ask(port, &template, duration));
            stop.store(true, Ordering::Release);
            asked
        });
        let ping = join(client);
        join(server)?;
        ping
    })
}

fn ask(mut port: RawPort, template: &Template, duration: Duration) -> Result<Ping> {
    let mut latencies = Latencies::new()?;
    let before = Sample::now()?;
    let start = Instant::now();
    let mut now = start;
    while now - start < duration {
        let asked = now;
        exchange(&mut port, template)?;
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

fn answer(mut port: RawPort, template: &Template, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Acquire) {
        if port.receive(|_| ())? > 0 {
            exchange(&mut port, template)?;
        }
    }
    port.close()
}

fn exchange(port: &mut RawPort, template: &Template) -> Result<()> {
    port.reclaim();
    port.post(HEADER + 1, |frame| {
        template.write(frame, 0, 0, &[7], sum(&[7]))
    })?;
    port.kick()
}
