//! The rows of the table, and the cases that they take their values from.

use std::time::Duration;

use anyhow::Result;
use bywash_bench_stack::{Effort, bulk};

use super::{Bound, Figures, Target};
use crate::ends::bulk::Bulk;
use crate::ends::exchange::{Exchange, Load};
use crate::ends::{KERNEL, US, Wait, Who};
use crate::experiments::ceiling::{self, RAW};
use crate::experiments::latency::base;
use crate::experiments::{bulk_case, exchange_case, scale, setup, stack, tune};
use crate::netns::{self, Offloads, Testbed};
use crate::raw::Touch;
use crate::row::Params;
use crate::suite::Suite;

const OFF: &[(&str, &str)] = &[("offloads", "off")];
const TSO: &[(&str, &str)] = &[("offloads", "default")];
const VERIFIED: &[(&str, &str)] = &[("receiver", "checksum verified")];
const PING_SPIN: &[(&str, &str)] = &[("bytes", "1"), ("idle", "spin")];
const PING_BLOCK: &[(&str, &str)] = &[("bytes", "1"), ("idle", "default")];
const ONE_EACH: &[(&str, &str)] = &[("in flight", "64"), ("segments", "one each")];
const JOINED: &[(&str, &str)] = &[("in flight", "64"), ("segments", "joined")];
const SHORTS: &[(&str, &str)] = &[("at once", "64")];
const FLOW: &[(&str, &str)] = &[("load", "one flow")];

/// All rows, in the order of the table.
pub(super) const TARGETS: &[Target] = &[
    Target {
        id: "bulk-us-us",
        text: "us to us, MTU 1500, one flow, against raw AF_XDP: at least 0.9 (0.95)",
        unit: "x",
        bound: Bound::AtLeast(0.9),
        value: |figures| {
            let ours = figures.median(US, US, TSO, "goodput")?;
            let raw = figures.median(RAW, RAW, VERIFIED, "goodput")?;
            Some((ours / raw, format!("{ours:.2} against {raw:.2} Gbit/s")))
        },
    },
    Target {
        id: "bulk-kernel-us",
        text: "kernel to us, against kernel to kernel with offloads off: at least 1.2",
        unit: "x",
        bound: Bound::AtLeast(1.2),
        value: |figures| {
            let ours = figures.median(KERNEL, US, OFF, "goodput")?;
            let kernel = figures.median(KERNEL, KERNEL, OFF, "goodput")?;
            Some((
                ours / kernel,
                format!("{ours:.2} against {kernel:.2} Gbit/s"),
            ))
        },
    },
    Target {
        id: "bulk-us-kernel",
        text: "us to kernel, against kernel to kernel with offloads off: at least 0.9 (1.1)",
        unit: "x",
        bound: Bound::AtLeast(0.9),
        value: |figures| {
            let ours = figures.median(US, KERNEL, OFF, "goodput")?;
            let kernel = figures.median(KERNEL, KERNEL, OFF, "goodput")?;
            let tso = figures.median(KERNEL, KERNEL, TSO, "goodput")?;
            let note = format!(
                "{ours:.2} against {kernel:.2} Gbit/s; {:.2} of the {tso:.2} Gbit/s with TSO, which crosses veth and both stacks in trains of 64 KiB, AF_XDP frame by frame",
                ours / tso
            );
            Some((ours / kernel, note))
        },
    },
    Target {
        id: "bulk-best",
        text: "the bulk configuration that `doctor --tune` offers, against the default: at least 1.0",
        unit: "x",
        bound: Bound::AtLeast(1.0),
        value: |figures| {
            let best = figures.median(US, US, &[("configuration", "tuned")], "goodput")?;
            let default = figures.median(US, US, &[("configuration", "default")], "goodput")?;
            Some((
                best / default,
                format!("{best:.2} against {default:.2} Gbit/s"),
            ))
        },
    },
    Target {
        id: "ping-raw",
        text: "1-byte ping-pong p50, spinning, against raw frames: at most 1.3",
        unit: "x",
        bound: Bound::AtMost(1.3),
        value: |figures| {
            let ours = figures.median(US, US, PING_SPIN, "p50")?;
            let raw = figures.median(RAW, RAW, &[("bytes", "1")], "p50")?;
            Some((ours / raw, format!("{ours:.2} against {raw:.2} us")))
        },
    },
    Target {
        id: "ping-kernel-spin",
        text: "the kernel's spinning 1-byte ping-pong p50 against ours: at least 1.7",
        unit: "x",
        bound: Bound::AtLeast(1.7),
        value: |figures| {
            let ours = figures.median(US, US, PING_SPIN, "p50")?;
            let kernel = figures.median(KERNEL, KERNEL, PING_SPIN, "p50")?;
            Some((kernel / ours, format!("{kernel:.2} against {ours:.2} us")))
        },
    },
    Target {
        id: "ping-kernel-block",
        text: "the kernel's blocking 1-byte ping-pong p50 against our spinning one: at least 8",
        unit: "x",
        bound: Bound::AtLeast(8.0),
        value: |figures| {
            let ours = figures.median(US, US, PING_SPIN, "p50")?;
            let kernel = figures.median(KERNEL, KERNEL, PING_BLOCK, "p50")?;
            Some((kernel / ours, format!("{kernel:.2} against {ours:.2} us")))
        },
    },
    Target {
        id: "ping-tail",
        text: "1-byte ping-pong p99.9, spinning, against raw frames: at most 1.5",
        unit: "x",
        bound: Bound::AtMost(1.5),
        value: |figures| {
            let ours = figures.median(US, US, PING_SPIN, "p99.9")?;
            let raw = figures.median(RAW, RAW, &[("bytes", "1")], "p99.9")?;
            Some((ours / raw, format!("{ours:.2} against {raw:.2} us")))
        },
    },
    Target {
        id: "echoes",
        text: "64-byte messages, one segment each, 64 in flight, echoes per second against the kernel: at least 3",
        unit: "x",
        bound: Bound::AtLeast(3.0),
        value: |figures| {
            let [ours, kernel] =
                [US, KERNEL].map(|who| figures.median(who, who, ONE_EACH, "answers"));
            let (ours, kernel) = (ours?, kernel?);
            let [ours_joined, kernel_joined] =
                [US, KERNEL].map(|who| figures.median(who, who, JOINED, "answers"));
            let joined = match (ours_joined, kernel_joined) {
                (Some(ours), Some(kernel)) => {
                    format!("{ours:.0} against {kernel:.0}/s, {:.2}x", ours / kernel)
                }
                _ => "not measured".to_owned(),
            };
            let [our_frames, kernel_frames] =
                [US, KERNEL].map(|who| figures.median(who, who, ONE_EACH, "frames each way"));
            let note = format!(
                "{ours:.0} against {kernel:.0}/s, {:.2} and {:.2} frames each way; joined into larger segments: {joined}",
                our_frames?, kernel_frames?
            );
            Some((ours / kernel, note))
        },
    },
    Target {
        id: "connections",
        text: "connections opened, used once and closed, per second against the kernel: at least 4",
        unit: "x",
        bound: Bound::AtLeast(4.0),
        value: |figures| {
            let [ours, kernel] =
                [US, KERNEL].map(|who| figures.median(who, who, SHORTS, "connections"));
            let (ours, kernel) = (ours?, kernel?);
            Some((
                ours / kernel,
                format!("{ours:.0} against {kernel:.0}/s, 64 at once"),
            ))
        },
    },
    Target {
        id: "stack-bulk",
        text: "in memory, one flow, 1460-byte segments, both ends on one core: at least 100 Gbit/s (150)",
        unit: "Gbit/s",
        bound: Bound::AtLeast(100.0),
        value: |figures| {
            let ours = figures.median(US, US, FLOW, "goodput")?;
            let smoltcp = figures.median("smoltcp", "smoltcp", FLOW, "goodput");
            let note = smoltcp.map_or_else(String::new, |smoltcp| {
                format!("smoltcp in the same run: {smoltcp:.1} Gbit/s; ")
            });
            Some((ours, note + "checksums computed and verified"))
        },
    },
    Target {
        id: "stack-transactions",
        text: "in memory, 64-byte request and response, both ends on one core: at least 4 M/s",
        unit: "M/s",
        bound: Bound::AtLeast(4.0),
        value: |figures| {
            let load = ("load", "64 B there and back");
            let best = figures.median(US, US, &[load], "transactions")?;
            Some((best, "64 connections, 64 in flight".to_owned()))
        },
    },
    Target {
        id: "stack-connections",
        text: "in memory, connect, 64 bytes each way, close, both ends on one core: at least 500000/s",
        unit: "/s",
        bound: Bound::AtLeast(500_000.0),
        value: |figures| {
            let value = figures.median(
                US,
                US,
                &[("load", "connect, 64 B each way, close")],
                "connections",
            )?;
            Some((value, "64 at once".to_owned()))
        },
    },
    Target {
        id: "scale-100k",
        text: "cost by packet at 100,000 connections against 100: at most 1.5",
        unit: "x",
        bound: Bound::AtMost(1.5),
        value: |figures| cost_by_packet(figures, "100000"),
    },
    Target {
        id: "scale-1m",
        text: "cost by packet at 1,000,000 connections against 100: at most 2.5",
        unit: "x",
        bound: Bound::AtMost(2.5),
        value: |figures| cost_by_packet(figures, "1000000"),
    },
    Target {
        id: "memory-idle",
        text: "memory of an idle connection with everything that exists for it: at most 640 B",
        unit: "B",
        bound: Bound::AtMost(640.0),
        value: |figures| {
            let bytes = figures.median(US, US, &[], "memory of a connection")?;
            Some((
                bytes,
                "allocated, 50,000 more connections, each used once".to_owned(),
            ))
        },
    },
    Target {
        id: "memory-hot",
        text: "hot part of a connection: at most 3 cache lines",
        unit: "lines",
        bound: Bound::AtMost(3.0),
        value: |figures| {
            figures
                .median(US, US, &[], "hot part of a connection")
                .map(|lines| (lines, String::new()))
        },
    },
    Target {
        id: "pools-256",
        text: "256 flows by rings of their own against one ring, by packet: at most 1.1",
        unit: "x",
        bound: Bound::AtMost(1.1),
        value: |figures| {
            let own =
                figures.median(US, US, &[("rings at the server", "256, dedicated")], "pace")?;
            let one = figures.median(US, US, &[("rings at the server", "1, shared")], "pace")?;
            Some((
                own / one,
                format!("{own:.0} against {one:.0} ns an answer, 256 flows"),
            ))
        },
    },
    Target {
        id: "allocations",
        text: "allocations in steady state: 0",
        unit: "",
        bound: Bound::AtMost(0.0),
        value: |figures| {
            let count = figures.median(US, US, &[], "allocations")?;
            Some((
                count,
                "more allocations for 300,000 segments than for 100,000".to_owned(),
            ))
        },
    },
    Target {
        id: "system-calls",
        text: "system calls by packet in steady state, us to us: below 1/16",
        unit: "",
        bound: Bound::Below(1.0 / 16.0),
        value: |figures| {
            let calls = figures.median(US, US, TSO, "our system calls")?;
            Some((
                calls,
                "kicks and sleeps of both engines by frame sent or received".to_owned(),
            ))
        },
    },
];

fn cost_by_packet(figures: &Figures<'_>, connections: &str) -> Option<(f64, String)> {
    let cost = |connections| {
        figures.median(
            US,
            US,
            &[("connections", connections), ("bytes", "64")],
            "packet",
        )
    };
    let (few, many) = (cost("100")?, cost(connections)?);
    Some((
        many / few,
        format!("{many:.0} against {few:.0} ns, 64 in flight"),
    ))
}

/// Runs every case that a row needs.
pub(super) fn everything(suite: &mut Suite, quick: bool) -> Result<()> {
    netns::require()?;
    netns::sweep()?;
    let (mtu, xdp) = (suite.options.mtu, suite.options.xdp);
    let bed = Testbed::new(Offloads::Default, mtu)?;
    let plain = Testbed::new(Offloads::Off, mtu)?;
    let spin = Bulk::new(xdp, Duration::ZERO);
    let bulk_of = |bed, pair| bulk_case("throughput", bed, pair, spin);
    suite.add(vec![
        ceiling::bulk_case(&bed, ceiling::WINDOW, Touch::Verify, xdp),
        bulk_of(&bed, [Who::Us; 2]),
        bulk_of(&plain, [Who::Kernel; 2]),
        bulk_of(&plain, [Who::Kernel, Who::Us]),
        bulk_of(&plain, [Who::Us, Who::Kernel]),
        bulk_of(&bed, [Who::Kernel; 2]),
    ])?;
    let ping = |pair, wait| {
        exchange_case(
            "latency",
            &bed,
            pair,
            Exchange {
                wait,
                ..base(1, xdp)
            },
        )
    };
    suite.add(vec![
        ceiling::ping(&bed, 1, xdp),
        ping([Who::Us; 2], Wait::Spin),
        ping([Who::Kernel; 2], Wait::Spin),
        ping([Who::Kernel; 2], Wait::Block),
    ])?;
    let echo = |who, one_each| {
        let exchange = Exchange {
            load: Load::Depth(64),
            one_each,
            ..base(64, xdp)
        };
        exchange_case("latency", &bed, [who; 2], exchange)
    };
    suite.add(vec![
        echo(Who::Us, true),
        echo(Who::Kernel, true),
        echo(Who::Us, false),
        echo(Who::Kernel, false),
    ])?;
    let [default, tuned] = [tune::DEFAULT, tune::TUNED]
        .map(|configuration| tune::bed(&configuration).map(|bed| (configuration, bed)));
    let (default, tuned) = (default?, tuned?);
    suite.add(vec![
        tune::case(&default.1, &default.0, [Who::Us; 2]),
        tune::case(&tuned.1, &tuned.0, [Who::Us; 2]),
    ])?;
    suite.add(
        [Who::Us, Who::Kernel]
            .map(|who| setup::case(&bed, [who; 2], 64, false, xdp))
            .into(),
    )?;
    suite.add(vec![
        stack::flow(1460),
        stack::smoltcp(256 << 10),
        stack::transactions(64, 64),
        stack::short(64),
        scale::connections(100),
        scale::connections(100_000),
    ])?;
    suite.add(
        [false, true]
            .map(|dedicated| scale::rings(&bed, 256, dedicated, xdp))
            .into(),
    )?;
    let mut once = vec![scale::memory(), allocations()];
    if !quick {
        once.push(scale::connections(1_000_000));
    }
    suite.add_once(once)
}

/// Allocations of so many more segments, both ends included.
fn allocations() -> crate::run::Case<'static> {
    stack::case(
        "scale",
        US,
        Params::from([("load", "one flow, allocations counted".to_owned())]),
        1512,
        |_| {
            let mut failed = Ok(());
            let mut count = |segments| {
                allocation_counter::measure(|| {
                    if let Err(error) = bulk(1460, Effort::Operations(segments)) {
                        failed = Err(error);
                    }
                })
                .count_total as f64
            };
            let few = count(100_000);
            let more = count(300_000) - few;
            failed?;
            Ok(vec![("allocations", "", more.max(0.0))])
        },
    )
}
