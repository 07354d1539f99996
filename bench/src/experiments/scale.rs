//! `scale`: what many connections and many rings cost.
//!
//! | part | load |
//! |---|---|
//! | connections | 64-byte transactions, 64 in flight, over 1 to 1,000,000 established connections, both ends on one core in memory |
//! | memory | what the process has allocated for each idle connection, by end |
//! | rings | 64-byte ping-pong on each of 1 to 1022 flows over veth: all by one ring, or each by a ring of its own |

use std::time::Duration;

use anyhow::Result;
use bywash_bench_stack::{Effort, Exchange, exchange};
use bywash_xdp::Mode;

use super::stack;
use crate::ends::idle;
use crate::ends::many::{self, Many};
use crate::ends::{US, Wait};
use crate::netns::{Offloads, Testbed};
use crate::row::Params;
use crate::run::{Case, Outcome};
use crate::suite::Suite;

/// Connections of the first part.
const CONNECTIONS: [usize; 5] = [1, 100, 10_000, 100_000, 1_000_000];
/// Flows of the third.
const FLOWS: [usize; 4] = [1, 16, 256, 1022];
/// Requests under way at once.
const IN_FLIGHT: usize = 64;
/// Connections for which the memory is measured, beside as many again: their difference has no fixed cost in it.
const IDLE: usize = 50_000;

pub(crate) fn run(suite: &mut Suite) -> Result<()> {
    let mut cases: Vec<Case<'_>> = CONNECTIONS.map(connections).into();
    cases.push(memory());
    suite.add(cases)?;
    let bed = Testbed::new(Offloads::Default, suite.options.mtu)?;
    let xdp = suite.options.xdp;
    suite.add(
        FLOWS
            .into_iter()
            .flat_map(|flows| [false, true].map(|dedicated| rings(&bed, flows, dedicated, xdp)))
            .collect(),
    )
}

/// Transactions over so many connections.
pub(crate) fn connections(connections: usize) -> Case<'static> {
    let params = [
        ("connections", connections.to_string()),
        ("in flight", IN_FLIGHT.min(connections).to_string()),
        ("bytes", "64".to_owned()),
    ];
    let load = Exchange {
        connections,
        in_flight: IN_FLIGHT.min(connections),
        message: 64,
    };
    stack::case("scale", US, params.into(), 1512, move |duration| {
        let cost = exchange(load, Effort::Time(duration))?;
        Ok(vec![
            ("packet", "ns", cost.ns_per_packet()),
            ("transactions", "M/s", cost.per_second() * 1e-6),
        ])
    })
}

/// Memory of an idle connection.
pub(crate) fn memory() -> Case<'static> {
    let params = Params::from([(
        "connections",
        format!("{IDLE} more, idle after 64 B each way"),
    )]);
    stack::case("scale", US, params, 1512, |_| {
        let bytes = idle::bytes_each(IDLE)?;
        Ok(vec![("memory of a connection", "B", bytes)])
    })
}

/// Flows by one ring, or each by a ring of its own.
pub(crate) fn rings(bed: &Testbed, flows: usize, dedicated: bool, xdp: Mode) -> Case<'_> {
    let rings = match dedicated {
        true => flows,
        false => 1,
    };
    Case {
        experiment: "scale",
        subject: US,
        peer: US,
        params: Params::from([
            ("flows", flows.to_string()),
            (
                "rings at the server",
                format!(
                    "{rings}{}",
                    if dedicated { ", dedicated" } else { ", shared" }
                ),
            ),
            ("bytes", "64".to_owned()),
        ]),
        setting: bed.setting.waiting(Wait::Spin.name()),
        run: Box::new(move |duration: Duration| {
            let counted = many::run(
                bed,
                &Many {
                    flows,
                    dedicated,
                    xdp,
                    duration,
                },
            )?;
            let pace = counted.elapsed.as_nanos() as f64 / counted.answers as f64;
            Ok(Outcome {
                readings: vec![("pace", "ns/answer", pace), ("answers", "/s", 1e9 / pace)],
                cores: counted.cores,
                ..Outcome::default()
            })
        }),
    }
}
