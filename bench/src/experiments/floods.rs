//! A hundred connections to an echo server while somebody floods its port at the link's rate: kernel TCP, Bywash, and Bywash that
//! drops strangers in XDP (`--strict`), one after the other under the same flood.
//!
//! ```text
//!  namespace a: 100 clients of the kernel's TCP, and the flood ──► namespace b: the echo server
//!
//!  before ──► under the flood ──► after       goodput of all, times of the small requests; frames offered and taken; memory
//! ```
//!
//! Ninety of the clients ask for 16 KiB at a time, ten for 64 bytes; each compares what comes back and then asks again. Everything but
//! the engine's shard runs where the scheduler puts it. The veth device of `a` has a queueing discipline, so that what the flood takes
//! from the flows is time and places in rings at `b`, and not their places on the link.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bywash_tests::Side;
use bywash_tests::bywash::binary;
use bywash_tests::flood::{Flood, Flooding, Target};
use bywash_tests::flows::{Flows, Progress};
use bywash_tests::kernel::KernelEcho;
use bywash_tests::process::Running;
use serde_json::Value;

use crate::cpu::Sample;
use crate::netns::{End, Testbed};
use crate::raw::join;
use crate::row::Params;
use crate::run::{Case, Outcome};

const PORT: u16 = 7007;
const FLOWS: usize = 100;
/// Different frames of a flood.
const FRAMES: usize = 1 << 16;
/// Before a phase is measured.
const SETTLE: Duration = Duration::from_millis(300);
/// A server that has not said by then that it is ready will not.
const READY: Duration = Duration::from_secs(10);

/// Who echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Kernel,
    Bywash,
    Strict,
}

impl Subject {
    const fn name(self) -> &'static str {
        match self {
            Subject::Kernel => "kernel TCP",
            Subject::Bywash => "Bywash",
            Subject::Strict => "Bywash --strict",
        }
    }
}

/// Every flood on every server.
pub(crate) fn cases(bed: &Testbed) -> Vec<Case<'_>> {
    let mut cases = Vec::new();
    for flood in Flood::ALL {
        for subject in [Subject::Kernel, Subject::Bywash, Subject::Strict] {
            cases.push(Case {
                experiment: "floods",
                subject: subject.name(),
                peer: "100 flows of kernel TCP",
                params: Params::from([("flood", flood.name().to_owned())]),
                setting: bed.setting.waiting("default"),
                run: Box::new(move |duration| {
                    // What fails in the helpers of the tests panics.
                    thread::scope(|scope| join(scope.spawn(|| run(bed, subject, flood, duration))))
                }),
            });
        }
    }
    cases
}

fn side(end: &End) -> Side {
    Side {
        namespace: end.namespace.clone(),
        device: end.device.to_owned(),
        v4: end.address,
        v6: Ipv6Addr::UNSPECIFIED,
    }
}

/// The echo server, for as long as it is held.
enum Server {
    Kernel { _echo: KernelEcho },
    Bywash { process: Running },
}

impl Server {
    fn start(subject: Subject, end: &End) -> Self {
        let here = side(end);
        if subject == Subject::Kernel {
            return Self::Kernel {
                _echo: KernelEcho::start(&here, PORT),
            };
        }
        let mut command = here.command(binary());
        let (port, core) = (PORT.to_string(), end.core.to_string());
        command.args(["echo", "-p", &port, "--dev", end.device, "--cores", &core]);
        if subject == Subject::Strict {
            command.arg("--strict");
        }
        let mut process = Running::start(&mut command);
        process.line(READY, |line| line.contains("serving"));
        Self::Bywash { process }
    }

    /// Bytes: the process's in memory, or in the kernel's caches for TCP. Asked before [`Server::holds`], whose answer takes some
    /// KiB for each connection.
    fn memory(&self) -> Result<f64> {
        match self {
            Self::Kernel { .. } => slabs(),
            Self::Bywash { process } => Ok(process.memory()),
        }
        .map(|bytes| bytes as f64)
    }

    /// What an engine says of itself; nothing of the kernel.
    fn holds(&self) -> Result<Holds> {
        let Self::Bywash { process } = self else {
            return Ok(Holds::default());
        };
        let shown = Command::new(binary()).args(["ss", "--json"]).output()?;
        let reports: Value = serde_json::from_slice(&shown.stdout)?;
        let own = reports.as_array().and_then(|all| {
            let own = |one: &&Value| one["pid"] == process.pid();
            all.iter().find(own)
        });
        Ok(Holds::of(own.context("ss does not show the engine")?))
    }
}

/// Frames that are neither free nor the kernel's, half-open connections, and what was counted.
#[derive(Clone, Debug, Default)]
struct Holds {
    frames: u64,
    half_open: u64,
    counters: BTreeMap<String, u64>,
}

impl Holds {
    fn of(report: &Value) -> Self {
        let mut holds = Self::default();
        let mut add = |counters: &Value| {
            for (name, count) in counters.as_object().into_iter().flatten() {
                *holds.counters.entry(name.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        };
        add(&report["xdp"]);
        for shard in report["shards"].as_array().into_iter().flatten() {
            add(&shard["drops"]);
            add(&shard["counters"]);
            let frames = |kind: &str| shard["frames"][kind].as_u64().unwrap_or(0);
            holds.frames += frames("held") + frames("outstanding");
            let connections = shard["connections"].as_array().into_iter().flatten();
            holds.half_open += connections
                .filter(|one| one["state"] == "SYN-RECEIVED")
                .count() as u64;
        }
        holds
    }
}

/// Bytes in the kernel's caches of TCP sockets, half-open ones and those in TIME-WAIT, of all namespaces.
fn slabs() -> Result<u64> {
    let text = fs::read_to_string("/proc/slabinfo").context("cannot read /proc/slabinfo")?;
    let size = |line: &str| -> Option<u64> {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let active: u64 = words.next()?.parse().ok()?;
        let bytes: u64 = words.nth(1)?.parse().ok()?;
        let ours = ["TCP", "request_sock_TCP", "tw_sock_TCP"].contains(&name);
        ours.then_some(active * bytes)
    };
    Ok(text.lines().filter_map(size).sum())
}

/// A phase: what the flows did, and for how long.
struct Phase {
    progress: Progress,
    elapsed: Duration,
}

impl Phase {
    fn measure(flows: &Flows, duration: Duration) -> Self {
        thread::sleep(SETTLE);
        drop(flows.take());
        let start = Instant::now();
        thread::sleep(duration);
        Self {
            progress: flows.take(),
            elapsed: start.elapsed(),
        }
    }

    /// Bytes there, and the same back, in Mbit/s of one direction.
    fn goodput(&self) -> f64 {
        self.progress.bytes as f64 * 8e-6 / self.elapsed.as_secs_f64()
    }

    /// Of the small requests, in us; none if none ended.
    fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.progress.latencies.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        Some(sorted[(last as f64 * share) as usize].as_nanos() as f64 / 1000.0)
    }
}

fn run(bed: &Testbed, subject: Subject, flood: Flood, duration: Duration) -> Result<Outcome> {
    prepare(bed)?;
    let server = Server::start(subject, &bed.b);
    let here = SocketAddrV4::new(bed.b.address, PORT);
    let peer = side(&bed.a);
    let flows = Flows::start(&peer, SocketAddr::V4(here), FLOWS, 1);
    let target = Target {
        macs: (bed.b.mac, bed.a.mac),
        server: here,
        clients: flows.addresses.iter().filter_map(v4).collect(),
    };
    let frames = flood.frames(&target, 1, FRAMES);
    let before = Phase::measure(&flows, duration);
    let calm = server.holds()?;
    let at_first = server.memory()?;
    let flooding = Flooding::start(&peer, frames);
    thread::sleep(SETTLE);
    let (cores, [offered, taken]) = (Sample::now()?, flooding.frames());
    let early = server.memory()?;
    let start = Instant::now();
    let under = Phase::measure(&flows, duration);
    let cores = cores.until(&Sample::now()?);
    let (elapsed, now) = (start.elapsed().as_secs_f64(), flooding.frames());
    let at_last = server.memory()?;
    let late = server.holds()?;
    flooding.end();
    let after = Phase::measure(&flows, duration);
    flows.end().context("a flow was harmed")?;
    tell(&calm, &late);
    let rate = |count: u64| count as f64 / elapsed * 1e-3;
    let mut readings = vec![
        ("goodput before", "Mbit/s", before.goodput()),
        ("goodput under it", "Mbit/s", under.goodput()),
        ("goodput after", "Mbit/s", after.goodput()),
        (
            "left of it",
            "%",
            100.0 * under.goodput() / before.goodput(),
        ),
        ("flood offered", "kpps", rate(now[0] - offered)),
        ("flood taken", "kpps", rate(now[1] - taken)),
        ("memory at first", "KiB more", (early - at_first) / 1024.0),
        (
            "memory while it goes on",
            "KiB more",
            (at_last - early) / 1024.0,
        ),
        ("frames in use before", "", calm.frames as f64),
        ("frames in use under it", "", late.frames as f64),
        ("half-open", "", late.half_open as f64),
    ];
    for (name, phase, share) in [
        ("p50 before", &before, 0.5),
        ("p50 under it", &under, 0.5),
        ("p99 before", &before, 0.99),
        ("p99 under it", &under, 0.99),
    ] {
        readings.extend(phase.quantile(share).map(|time| (name, "us", time)));
    }
    let idle = under.progress.exchanges.iter().filter(|count| **count == 0);
    readings.push(("flows without an exchange", "", idle.count() as f64));
    Ok(Outcome {
        readings,
        cores,
        ..Outcome::default()
    })
}

fn v4(address: &SocketAddr) -> Option<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Some(*address),
        SocketAddr::V6(_) => None,
    }
}

/// A way to everywhere for the server's answers, and a queue for the clients' segments. Both may stand from the last run.
fn prepare(bed: &Testbed) -> Result<()> {
    let gateway = bed.a.address.to_string();
    let route = ["ip", "route", "replace", "default", "via", &gateway];
    let queue = [
        "tc",
        "qdisc",
        "replace",
        "dev",
        bed.a.device,
        "root",
        "pfifo",
        "limit",
        "10000",
    ];
    for (end, words) in [(&bed.b, &route[..]), (&bed.a, &queue[..])] {
        let done = side(end).command(words[0]).args(&words[1..]).output()?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(
            done.status.success(),
            "`{}`: {}",
            words.join(" "),
            said.trim()
        );
    }
    Ok(())
}

/// What the engine counted meanwhile, for who looks on.
fn tell(before: &Holds, after: &Holds) {
    let more: Vec<String> = after
        .counters
        .iter()
        .map(|(name, count)| (name, count - before.counters.get(name).unwrap_or(&0)))
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if !more.is_empty() {
        eprintln!("  {}", more.join(", "));
    }
}
