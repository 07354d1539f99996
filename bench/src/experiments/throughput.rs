//! `throughput` (Thekkath Table 2, Braun Figures 6 and 7, Edwards Figure 2): goodput of one flow by message size and by segment size.
//!
//! Kernel TCP as users have it (TSO), with all offloads off, and with an XDP program at its receiver; the raw pair beside it.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use bywash_xdp::{AttachConfig, Demux, Mode, Settings, pin};

use super::{PAIRS, Pair, bulk_case, ceiling};
use crate::ends::bulk::Bulk;
use crate::ends::{Wait, Who};
use crate::netns::{Offloads, Testbed};
use crate::raw::join;
use crate::run::Case;
use crate::suite::Suite;

/// Sizes of messages in bytes, from Braun's and Edwards' axes and beyond.
const MESSAGES: [usize; 9] = [1, 16, 64, 512, 1024, 4096, 16 << 10, 128 << 10, 1 << 20];
/// Payload of a segment in bytes, at the largest MTU that single-buffer XDP has on veth.
const SEGMENTS: [u16; 4] = [536, 1024, 1448, 3400];
/// An MTU that holds the largest of them.
const LARGE_MTU: u16 = 3498;

pub(crate) fn run(suite: &mut Suite) -> Result<()> {
    let (mtu, xdp) = (suite.options.mtu, suite.options.xdp);
    let bed = Testbed::new(Offloads::Default, mtu)?;
    let plain = Testbed::new(Offloads::Off, mtu)?;
    suite.add(whole(&bed, &plain, xdp))?;
    suite.add(messages(&bed, &plain, xdp))?;
    let large = Testbed::new(Offloads::Off, LARGE_MTU.max(mtu))?;
    suite.add(segments(&large, xdp))
}

/// iperf3's block at full speed, in every pairing and with every peer.
fn whole<'a>(bed: &'a Testbed, plain: &'a Testbed, xdp: Mode) -> Vec<Case<'a>> {
    let mut cases = ceiling::bulk(bed, xdp);
    cases.push(with_xdp(bed, xdp));
    // smoltcp takes no trains of segments.
    for pair in [
        [Who::Smoltcp, Who::Kernel],
        [Who::Kernel, Who::Smoltcp],
        [Who::Smoltcp; 2],
    ] {
        cases.push(bulk_case("throughput", plain, pair, base(xdp)));
    }
    for bed in [bed, plain] {
        for (pair, wait) in PAIRS
            .into_iter()
            .flat_map(|pair| [Wait::Spin, Wait::Block].map(|wait| (pair, wait)))
        {
            // The kernel's ends do the same either way: they sleep in `read` and `write`.
            if pair == [Who::Kernel; 2] && wait == Wait::Spin {
                continue;
            }
            cases.push(bulk_case(
                "throughput",
                bed,
                pair,
                Bulk { wait, ..base(xdp) },
            ));
        }
    }
    cases
}

fn messages<'a>(bed: &'a Testbed, plain: &'a Testbed, xdp: Mode) -> Vec<Case<'a>> {
    let case = |bed: &'a Testbed, pair: Pair, message| {
        bulk_case(
            "throughput",
            bed,
            pair,
            Bulk {
                message,
                ..base(xdp)
            },
        )
    };
    MESSAGES
        .into_iter()
        .filter(|message| *message != base(xdp).message)
        .flat_map(|message| {
            [
                case(bed, [Who::Kernel; 2], message),
                case(plain, [Who::Kernel; 2], message),
                case(plain, [Who::Kernel, Who::Us], message),
                case(plain, [Who::Us, Who::Kernel], message),
                case(plain, [Who::Us; 2], message),
            ]
        })
        .collect()
}

fn segments(bed: &Testbed, xdp: Mode) -> Vec<Case<'_>> {
    let case = |pair: Pair, mss| {
        let bulk = Bulk {
            mss: Some(mss),
            ..base(xdp)
        };
        bulk_case("throughput", bed, pair, bulk)
    };
    SEGMENTS
        .into_iter()
        .flat_map(|mss| PAIRS.map(|pair| case(pair, mss)))
        .collect()
}

fn base(xdp: Mode) -> Bulk {
    Bulk::new(xdp, Duration::ZERO)
}

/// Kernel TCP with our demux attached at the receiver, where nothing is ours: what XDP alone costs.
pub(crate) fn with_xdp(bed: &Testbed, mode: Mode) -> Case<'_> {
    let mut case = bulk_case("throughput", bed, [Who::Kernel; 2], base(mode));
    case.params
        .insert("receiver", "XDP program attached, passing all".to_owned());
    let mut run = case.run;
    case.run = Box::new(move |duration| {
        let (attached, finished) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            let holder = bed.b.spawn(scope, |entered| {
                let demux = entered.and_then(|()| attach(bed, mode));
                attached.wait();
                finished.wait();
                let demux = demux?;
                let name = demux.mode().name();
                demux.detach()?;
                Ok(name)
            });
            attached.wait();
            let outcome = run(duration);
            finished.wait();
            let name = join(holder)?;
            let mut outcome = outcome?;
            outcome.params.insert("xdp", name.to_owned());
            Ok(outcome)
        })
    });
    case
}

fn attach(bed: &Testbed, mode: Mode) -> Result<Demux> {
    let device = bed.b.device;
    let ifindex =
        nix::net::if_::if_nametoindex(device).with_context(|| format!("no interface {device}"))?;
    let pin_dir = pin::directory(&pin::key(ifindex)?);
    Ok(Demux::attach(&AttachConfig {
        interface: device.to_owned(),
        ifindex,
        pin_dir,
        queues: 1,
        mode,
        settings: Settings::default(),
    })?)
}
