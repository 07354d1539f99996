//! `stack`: both ends on one core over the in-memory wire, no kernel: what the code itself costs. smoltcp over the same kind of wire.
//!
//! Ours is measured by the time that the thread has had its core, smoltcp too, so that a busy machine disturbs both alike.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bywash_bench_stack::{Churn, Cost, Effort, Exchange, bulk, churn, exchange};

use crate::cpu::Sample;
use crate::ends::{US, smol};
use crate::raw::join;
use crate::row::{Params, Setting};
use crate::run::{Case, Outcome};
use crate::suite::Suite;

/// Socket buffers of smoltcp in bytes: what suits it best depends on the cache.
const SMOLTCP_BUFFERS: [usize; 3] = [64 << 10, 256 << 10, 1 << 20];
/// Payload of a segment, in bytes.
const SEGMENTS: [u16; 4] = [64, 536, 1460, 1700];
/// The MTU that 1460 bytes need with timestamps: 52 bytes of headers.
const MTU: u16 = 1512;

pub(crate) fn run(suite: &mut Suite) -> Result<()> {
    let mut cases: Vec<Case<'_>> = SEGMENTS.map(flow).into();
    cases.extend(SMOLTCP_BUFFERS.map(smoltcp));
    cases.extend(
        [(64, 64), (64, 1), (1024, 1024), (1, 64)]
            .map(|(connections, in_flight)| transactions(connections, in_flight)),
    );
    cases.extend([1, 64].map(short));
    suite.add(cases)
}

/// One flow.
pub(crate) fn flow(segment: u16) -> Case<'static> {
    let params = [
        ("load", "one flow".to_owned()),
        ("segment", segment.to_string()),
    ];
    ours(
        params.into(),
        move |effort| bulk(segment, effort),
        |cost| {
            vec![
                ("goodput", "Gbit/s", cost.gbits()),
                ("packet", "ns", cost.ns_per_packet()),
            ]
        },
    )
}

/// Requests and answers of 64 bytes.
pub(crate) fn transactions(connections: usize, in_flight: usize) -> Case<'static> {
    let params = [
        ("load", "64 B there and back".to_owned()),
        ("connections", connections.to_string()),
        ("in flight", in_flight.to_string()),
    ];
    let load = Exchange {
        connections,
        in_flight,
        message: 64,
    };
    ours(
        params.into(),
        move |effort| exchange(load, effort),
        |cost| {
            vec![
                ("transactions", "M/s", cost.per_second() * 1e-6),
                ("packet", "ns", cost.ns_per_packet()),
            ]
        },
    )
}

/// Connect, 64 bytes each way, close.
pub(crate) fn short(at_once: usize) -> Case<'static> {
    let params = [
        ("load", "connect, 64 B each way, close".to_owned()),
        ("at once", at_once.to_string()),
    ];
    let load = Churn {
        at_once,
        message: 64,
    };
    ours(
        params.into(),
        move |effort| churn(load, effort),
        |cost| {
            vec![
                ("connections", "/s", cost.per_second()),
                ("packet", "ns", cost.ns_per_packet()),
            ]
        },
    )
}

fn ours(
    params: Params,
    run: impl Fn(Effort) -> Result<Cost> + Sync + 'static,
    readings: impl Fn(&Cost) -> Vec<(&'static str, &'static str, f64)> + Sync + 'static,
) -> Case<'static> {
    case("stack", US, params, MTU, move |duration| {
        let cost = run(Effort::Time(duration))?;
        let mut all = readings(&cost);
        all.push(("share of the core", "%", 100.0 * cost.share()));
        Ok(all)
    })
}

/// smoltcp's one flow.
pub(crate) fn smoltcp(buffer: usize) -> Case<'static> {
    let params = [
        ("load", "one flow".to_owned()),
        ("segment", "1460".to_owned()),
        ("buffers", format!("{} KiB", buffer >> 10)),
    ];
    case("stack", "smoltcp", params.into(), 1500, move |duration| {
        let (bytes, core) = smol::bulk(buffer, 1500, duration)?;
        Ok(vec![(
            "goodput",
            "Gbit/s",
            bytes as f64 * 8e-9 / core.as_secs_f64(),
        )])
    })
}

/// A case on one core without a device.
pub(crate) fn case(
    experiment: &'static str,
    subject: &'static str,
    mut params: Params,
    mtu: u16,
    run: impl Fn(Duration) -> Result<Vec<(&'static str, &'static str, f64)>> + Sync + 'static,
) -> Case<'static> {
    params.insert("checksums", "computed and verified".to_owned());
    Case {
        experiment,
        subject,
        peer: subject,
        params,
        setting: Setting::in_memory(mtu),
        run: Box::new(move |duration| {
            let before = Sample::now()?;
            let readings = on_one_core(|| run(duration))?;
            Ok(Outcome {
                readings,
                cores: before.until(&Sample::now()?),
                ..Outcome::default()
            })
        }),
    }
}

fn on_one_core<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        join(scope.spawn(|| {
            let cores = core_affinity::get_core_ids().unwrap_or_default();
            let core = *cores
                .last()
                .context("cannot list the cores this process may use")?;
            ensure!(
                core_affinity::set_for_current(core),
                "cannot pin a thread to core {}",
                core.id
            );
            work()
        }))
    })
}
