//! The raw cases: what the wire under any TCP here can do.

use std::time::Duration;

use anyhow::Result;
use bywash_xdp::Mode;

use crate::cpu;
use crate::netns::Testbed;
use crate::raw::{self, Shape, Touch};
use crate::row::Params;
use crate::run::{Case, Outcome};

/// Frames in flight that leave the veth's ring of 256 some room for frames in other hands.
pub(crate) const WINDOW: usize = 160;

/// Name of both ends in tables.
pub(crate) const RAW: &str = "raw AF_XDP";

/// Bulk transfer with the receiver verifying checksums as the stack's does, and not; and in generic mode, which is the faster one on veth.
pub(crate) fn bulk(bed: &Testbed, mode: Mode) -> Vec<Case<'_>> {
    let mut cases = vec![
        bulk_case(bed, WINDOW, Touch::Verify, mode),
        bulk_case(bed, WINDOW, Touch::Header, mode),
    ];
    if mode != Mode::Generic {
        cases.push(bulk_case(bed, WINDOW, Touch::Verify, Mode::Generic));
    }
    cases
}

/// Bulk transfer over windows, and in generic mode.
pub(crate) fn sweep(bed: &Testbed) -> Vec<Case<'_>> {
    let mut cases: Vec<Case<'_>> = [16, 64, 128, 160, 256]
        .map(|window| bulk_case(bed, window, Touch::Verify, Mode::Native))
        .into();
    cases.push(bulk_case(bed, WINDOW, Touch::Verify, Mode::Generic));
    cases.push(bulk_case(bed, WINDOW, Touch::Header, Mode::Native));
    cases.push(bulk_case(bed, WINDOW, Touch::Header, Mode::Generic));
    cases.push(ping(bed, 1, Mode::Native));
    cases.push(ping(bed, 1, Mode::Generic));
    cases
}

/// Ping-pong of one frame.
pub(crate) fn ping(bed: &Testbed, size: usize, mode: Mode) -> Case<'_> {
    let params = Params::from([
        ("bytes", size.to_string()),
        ("offloads", bed.offloads.name().to_owned()),
    ]);
    Case {
        experiment: "latency",
        subject: RAW,
        peer: RAW,
        params,
        setting: bed.setting.waiting("spin"),
        run: Box::new(move |duration| ping_once(bed, size, mode, duration)),
    }
}

/// Bulk transfer with so many frames in flight.
pub(crate) fn bulk_case(bed: &Testbed, window: usize, touch: Touch, mode: Mode) -> Case<'_> {
    let params = Params::from([
        ("offloads", bed.offloads.name().to_owned()),
        ("window", format!("{window} frames")),
        ("receiver", touch.name().to_owned()),
        (
            "sender",
            "payload copied, checksum known beforehand".to_owned(),
        ),
        ("acks", "one for two".to_owned()),
    ]);
    Case {
        experiment: "throughput",
        subject: RAW,
        peer: RAW,
        params,
        setting: bed.setting.waiting("spin"),
        run: Box::new(move |duration| {
            let bulk = raw::bulk(
                bed,
                &Shape {
                    mtu: bed.mtu,
                    window,
                    touch,
                    mode,
                    duration,
                },
            )?;
            let seconds = bulk.elapsed.as_secs_f64();
            let [offloads_a, offloads_b] = bulk.offloads;
            let [busy, kernel] = cpu::spent(&bulk.cores, bulk.elapsed);
            let per_frame = |spent: f64| spent * 1e9 / bulk.frames.max(1) as f64;
            let per_kib = |spent: f64| spent * 1e9 * 1024.0 / bulk.bytes.max(1) as f64;
            Ok(Outcome {
                readings: vec![
                    ("goodput", "Gbit/s", bulk.bytes as f64 * 8e-9 / seconds),
                    ("rate", "Mpps", bulk.frames as f64 * 1e-6 / seconds),
                    ("lost", "frames", bulk.lost as f64),
                    (
                        "per send call",
                        "frames",
                        bulk.frames as f64 / bulk.kicks.max(1) as f64,
                    ),
                    ("kernel core time", "ns/frame", per_frame(kernel.1)),
                    ("busy core time", "ns/KiB", per_kib(busy.1)),
                    ("kernel core time", "ns/KiB", per_kib(kernel.1)),
                ],
                cores: bulk.cores,
                params: Params::from([("xdp", bulk.mode.to_owned())]),
                offloads: Some(format!("a: {offloads_a}; b: {offloads_b}")),
            })
        }),
    }
}

fn ping_once(bed: &Testbed, size: usize, mode: Mode, duration: Duration) -> Result<Outcome> {
    let ping = raw::ping(bed, size, mode, duration)?;
    Ok(Outcome {
        readings: ping.latencies.readings(),
        cores: ping.cores,
        params: Params::from([("xdp", ping.mode.to_owned())]),
        offloads: None,
    })
}
