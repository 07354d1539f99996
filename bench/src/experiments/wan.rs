//! `wan`: goodput over an emulated path by loss and round trip, in real time, beside kernel TCP over the same path.
//!
//! The path is `bywash-link`'s: 200 Mbit/s, a queue of 1 MB, a seed that decides which packets are lost. What needs no kernel beside
//! it, time to recover from a loss and fairness between flows, is in the simulation's tables, in virtual time and repeatable to the
//! byte (`tests/suite/tables`).

use std::time::Duration;

use anyhow::Result;

use super::{Pair, bulk_case};
use crate::ends::bulk::Bulk;
use crate::ends::{Wait, Who};
use crate::netns::Testbed;
use crate::run::Case;
use crate::suite::Suite;

/// Round trips in microseconds.
const ROUND_TRIPS: [u64; 4] = [100, 1_000, 10_000, 100_000];
/// Losses in each direction, in per cent.
const LOSSES: [f64; 4] = [0.0, 0.1, 1.0, 5.0];
/// Bytes that may be under way: the largest bandwidth-delay product of these paths, and as much again.
const WINDOW: usize = 6 << 20;

pub(crate) fn run(suite: &mut Suite) -> Result<()> {
    let (mtu, xdp) = (suite.options.mtu, suite.options.xdp);
    for round_trip in ROUND_TRIPS {
        for loss in LOSSES {
            let bed = Testbed::over_link(mtu, Duration::from_micros(round_trip) / 2, loss / 100.0)?;
            let base = Bulk {
                wait: Wait::Block,
                window: Some(WINDOW),
                ..Bulk::new(xdp, Duration::ZERO)
            };
            let case = |pair: Pair, control| -> Case<'_> {
                let mut case = bulk_case(
                    "wan",
                    &bed,
                    pair,
                    Bulk {
                        control: Some(control),
                        ..base
                    },
                );
                case.params
                    .insert("round trip", format!("{} ms", round_trip as f64 / 1000.0));
                case.params.insert("loss", format!("{loss} %"));
                case
            };
            suite.add(vec![
                case([Who::Kernel; 2], "cubic"),
                case([Who::Us; 2], "cubic"),
                case([Who::Us, Who::Kernel], "cubic"),
                case([Who::Kernel; 2], "bbr"),
                case([Who::Us; 2], "bbr"),
            ])?;
        }
    }
    Ok(())
}
