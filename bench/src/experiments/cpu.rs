//! `cpu` (Edwards Figure 3): core time by byte and by packet, of the whole machine, softirq included.
//!
//! At full speed, and at a paced rate that everybody reaches: an end that spins is busy whatever it does, so at a fixed rate ours
//! sleep when they have nothing to do. `/proc/stat` counts ksoftirqd's work as softirq, and what else its thread does as system.

use std::time::Duration;

use anyhow::Result;

use super::{PAIRS, bulk_case};
use crate::ends::bulk::Bulk;
use crate::ends::{Wait, Who};
use crate::netns::{Offloads, Testbed};
use crate::suite::Suite;

/// Bytes a second of the paced runs: 1 and 2.5 Gbit/s.
const RATES: [u64; 2] = [125_000_000, 312_500_000];

pub(crate) fn run(suite: &mut Suite) -> Result<()> {
    let (mtu, xdp) = (suite.options.mtu, suite.options.xdp);
    let bed = Testbed::new(Offloads::Default, mtu)?;
    let plain = Testbed::new(Offloads::Off, mtu)?;
    let mut cases = Vec::new();
    for rate in [None, Some(RATES[0]), Some(RATES[1])] {
        let bulk = Bulk {
            wait: Wait::Block,
            rate,
            ..Bulk::new(xdp, Duration::ZERO)
        };
        cases.push(bulk_case("cpu", &bed, [Who::Kernel; 2], bulk));
        cases.extend(PAIRS.map(|pair| bulk_case("cpu", &plain, pair, bulk)));
    }
    suite.add(cases)
}
