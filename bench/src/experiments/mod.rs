//! The experiments, a file each: what they run, over which wires, and what they take from it.
//!
//! An experiment makes [`Case`]s and hands them to [`Suite::add`](crate::suite::Suite::add), which runs them interleaved. A new one
//! gets a name in [`Experiment`](crate::suite::Experiment).

use std::time::Duration;

use bywash_xdp::Mode;

use crate::cpu::spent;
use crate::ends::bulk::{self, Bulk, Moved, size_name};
use crate::ends::exchange::{self, Exchange, Load};
use crate::ends::{US, Wait, Who};
use crate::netns::Testbed;
use crate::row::Params;
use crate::run::{Case, Outcome};

pub(crate) mod ceiling;
pub(crate) mod cpu;
pub(crate) mod demux;
pub(crate) mod floods;
pub(crate) mod latency;
pub(crate) mod mechanism;
pub(crate) mod pools;
pub(crate) mod scale;
pub(crate) mod setup;
pub(crate) mod stack;
pub(crate) mod strangers;
pub(crate) mod throughput;
pub(crate) mod tune;
pub(crate) mod wan;

/// Who sends to whom.
pub(crate) type Pair = [Who; 2];
/// All pairings, kernel to kernel first.
pub(crate) const PAIRS: [Pair; 4] = [
    [Who::Kernel, Who::Kernel],
    [Who::Kernel, Who::Us],
    [Who::Us, Who::Kernel],
    [Who::Us, Who::Us],
];

/// A bulk transfer as a case: goodput, and what it costs.
pub(crate) fn bulk_case<'a>(
    experiment: &'static str,
    bed: &'a Testbed,
    pair: Pair,
    bulk: Bulk,
) -> Case<'a> {
    let mut params = Params::from([
        ("offloads", bed.offloads.name().to_owned()),
        ("message", size_name(bulk.message)),
    ]);
    if let Some(mss) = bulk.mss {
        params.insert("mss", mss.to_string());
    }
    if let Some(rate) = bulk.rate {
        params.insert("paced", format!("{:.1} Gbit/s", rate as f64 * 8e-9));
    }
    if let Some(control) = bulk.control {
        params.insert("congestion control", control.to_owned());
    }
    waiting(&mut params, pair, bulk.wait, mode_name(bulk.xdp));
    Case {
        experiment,
        subject: pair[0].name(),
        peer: pair[1].name(),
        params,
        setting: bed.setting.waiting(bulk.wait.name()),
        run: Box::new(move |duration| {
            let moved = bulk::run(bed, pair, &Bulk { duration, ..bulk })?;
            Ok(Outcome {
                readings: bulk_readings(&moved),
                offloads: Some(moved.offloads),
                cores: moved.cores,
                ..Outcome::default()
            })
        }),
    }
}

/// Goodput, and the core time that it took by byte and by frame: of the whole machine, since on veth the sender's core also runs the
/// receiver's softirq.
pub(crate) fn bulk_readings(moved: &Moved) -> Vec<(&'static str, &'static str, f64)> {
    let [busy, kernel] = spent(&moved.cores, moved.elapsed);
    let per_kib = |seconds: f64| seconds * 1e9 * 1024.0 / moved.bytes.max(1) as f64;
    let per_frame = |seconds: f64| seconds * 1e9 / moved.frames.max(1) as f64;
    let mut readings = vec![
        ("goodput", "Gbit/s", moved.goodput()),
        (
            "frame",
            "B",
            moved.bytes as f64 / moved.frames.max(1) as f64,
        ),
        ("busy core time", "ns/KiB", per_kib(busy.1)),
        ("kernel core time", "ns/KiB", per_kib(kernel.1)),
        ("kernel core time", "ns/frame", per_frame(kernel.1)),
    ];
    let counters = moved.counters;
    if counters.frames > 0 {
        readings.push((
            "our system calls",
            "per frame",
            counters.calls as f64 / counters.frames as f64,
        ));
        readings.push(("lost at our rings", "", counters.lost as f64));
    }
    readings
}

/// Requests and answers as a case.
pub(crate) fn exchange_case<'a>(
    experiment: &'static str,
    bed: &'a Testbed,
    pair: Pair,
    exchange: Exchange,
) -> Case<'a> {
    let mut params = Params::from([
        ("offloads", bed.offloads.name().to_owned()),
        ("bytes", exchange.size.to_string()),
    ]);
    match exchange.load {
        Load::Depth(depth) => {
            params.insert("in flight", depth.to_string());
            let how = if exchange.one_each {
                "one each"
            } else {
                "joined"
            };
            if depth > 1 {
                params.insert("segments", how.to_owned());
            }
        }
        Load::Every(interval) => {
            let rate = (1.0 / interval.as_secs_f64()).round();
            params.insert("open loop", format!("{rate}/s"));
        }
    }
    waiting(&mut params, pair, exchange.wait, mode_name(exchange.xdp));
    Case {
        experiment,
        subject: pair[0].name(),
        peer: pair[1].name(),
        params,
        setting: bed.setting.waiting(exchange.wait.name()),
        run: Box::new(move |duration| {
            let exchanged = exchange::run(
                bed,
                pair,
                &Exchange {
                    duration,
                    ..exchange
                },
            )?;
            let mut readings = exchanged.latencies.readings();
            readings.push(("answers", "/s", exchanged.per_second));
            readings.push(("frames each way", "", exchanged.frames_each));
            Ok(Outcome {
                readings,
                cores: exchanged.cores,
                ..Outcome::default()
            })
        }),
    }
}

/// How the ends wait, and XDP's mode where there is an end of ours.
fn waiting(params: &mut Params, pair: Pair, wait: Wait, xdp: &'static str) {
    let name = match wait {
        Wait::Spin => "spin",
        Wait::Block => "default",
    };
    params.insert("idle", name.to_owned());
    if pair.iter().any(|who| who.name() == US) {
        params.insert("xdp", xdp.to_owned());
    }
}

/// An interval of an open loop.
pub(crate) fn at_rate(per_second: u32) -> Load {
    Load::Every(Duration::from_secs(1) / per_second)
}

/// As `--xdp` has it.
pub(crate) const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "auto",
        Mode::Native => "native",
        Mode::Generic => "generic",
    }
}
