//! `latency` (Thekkath Table 3): ping-pong of one message, many in flight, and open-loop requests at fixed rates.

use std::time::Duration;

use anyhow::Result;
use bywash_xdp::Mode;

use super::{PAIRS, Pair, at_rate, ceiling, exchange_case};
use crate::ends::exchange::{Exchange, Load};
use crate::ends::{Wait, Who};
use crate::netns::{Offloads, Testbed};
use crate::run::Case;
use crate::suite::Suite;

/// Thekkath's sizes, and one more.
const SIZES: [usize; 4] = [1, 64, 512, 1460];
/// Requests a second of the open loops.
const RATES: [u32; 3] = [1_000, 10_000, 100_000];

pub(crate) fn run(suite: &mut Suite) -> Result<()> {
    let (mtu, xdp) = (suite.options.mtu, suite.options.xdp);
    let bed = Testbed::new(Offloads::Default, mtu)?;
    let plain = Testbed::new(Offloads::Off, mtu)?;
    let mut cases = Vec::new();
    for size in SIZES {
        // One frame holds it together with 12 bytes of options only up to 1448.
        if size <= 1448 {
            cases.push(ceiling::ping(&bed, size, xdp));
        }
        cases.extend(pings(&bed, size, xdp));
    }
    for pair in [[Who::Smoltcp, Who::Kernel], [Who::Smoltcp; 2]] {
        cases.push(exchange_case("latency", &plain, pair, base(1, xdp)));
    }
    suite.add(cases)?;
    suite.add(in_flight(&bed, xdp))?;
    let open = |pair: Pair, rate| {
        exchange_case(
            "latency",
            &bed,
            pair,
            Exchange {
                load: at_rate(rate),
                ..base(64, xdp)
            },
        )
    };
    suite.add(
        RATES
            .into_iter()
            .flat_map(|rate| [open([Who::Kernel; 2], rate), open([Who::Us; 2], rate)])
            .collect(),
    )
}

/// One message there and back, in all pairings, both ways of waiting.
fn pings(bed: &Testbed, size: usize, xdp: Mode) -> Vec<Case<'_>> {
    let case = |pair, wait| {
        exchange_case(
            "latency",
            bed,
            pair,
            Exchange {
                wait,
                ..base(size, xdp)
            },
        )
    };
    PAIRS
        .into_iter()
        .flat_map(|pair| [Wait::Spin, Wait::Block].map(|wait| case(pair, wait)))
        .collect()
}

/// 64 messages of 64 bytes in flight: each in a segment of its own, and joined as TCP likes.
pub(crate) fn in_flight(bed: &Testbed, xdp: Mode) -> Vec<Case<'_>> {
    let case = |pair, one_each| {
        let exchange = Exchange {
            load: Load::Depth(64),
            one_each,
            ..base(64, xdp)
        };
        exchange_case("latency", bed, pair, exchange)
    };
    [true, false]
        .into_iter()
        .flat_map(|one_each| {
            [
                case([Who::Kernel; 2], one_each),
                case([Who::Us; 2], one_each),
            ]
        })
        .collect()
}

/// A spinning ping-pong.
pub(crate) fn base(size: usize, xdp: Mode) -> Exchange {
    Exchange {
        size,
        load: Load::Depth(1),
        one_each: false,
        wait: Wait::Spin,
        xdp,
        duration: Duration::ZERO,
    }
}
