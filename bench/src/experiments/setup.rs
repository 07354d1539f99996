//! `setup` (Thekkath Table 4): what a connection costs before and after its use, and how many short ones go in a second.
//!
//! The parts that the client sees: the call that begins (port, route, memory), the handshake (with the server's accept in it), one
//! exchange of 64 bytes, the close. What a ring of its own costs is the difference between `dedicated` and `shared`.

use std::time::Duration;

use anyhow::Result;
use bywash_xdp::Mode;

use super::{PAIRS, Pair, mode_name};
use crate::ends::Who;
use crate::ends::shorts::{self, Shorts};
use crate::netns::{Offloads, Testbed};
use crate::row::Params;
use crate::run::{Case, Outcome};
use crate::suite::Suite;

/// Connections at a time: alone, for the parts; many, for the rate.
const AT_ONCE: [usize; 3] = [1, 16, 64];

pub(crate) fn run(suite: &mut Suite) -> Result<()> {
    let (mtu, xdp) = (suite.options.mtu, suite.options.xdp);
    let bed = Testbed::new(Offloads::Default, mtu)?;
    let mut cases = Vec::new();
    for at_once in AT_ONCE {
        cases.extend(PAIRS.map(|pair| case(&bed, pair, at_once, false, xdp)));
    }
    cases.push(case(&bed, [Who::Us; 2], 1, true, xdp));
    suite.add(cases)
}

/// One case.
pub(crate) fn case(
    bed: &Testbed,
    pair: Pair,
    at_once: usize,
    dedicated: bool,
    xdp: Mode,
) -> Case<'_> {
    let mut params = Params::from([
        ("offloads", bed.offloads.name().to_owned()),
        ("bytes", shorts::SIZE.to_string()),
        ("at once", at_once.to_string()),
    ]);
    if pair.contains(&Who::Us) {
        let rings = if dedicated { "dedicated" } else { "shared" };
        params.insert("rings", rings.to_owned());
        params.insert("xdp", mode_name(xdp).to_owned());
    }
    Case {
        experiment: "setup",
        subject: pair[0].name(),
        peer: pair[1].name(),
        params,
        setting: bed.setting.waiting("spin"),
        run: Box::new(move |duration: Duration| {
            let shorts = Shorts {
                at_once,
                dedicated,
                xdp,
                duration,
            };
            let counted = shorts::run(bed, pair, &shorts)?;
            Ok(Outcome {
                readings: vec![
                    (
                        "connections",
                        "/s",
                        counted.done as f64 / counted.elapsed.as_secs_f64(),
                    ),
                    ("begin", "us", counted.begin_us),
                    ("handshake", "us", counted.handshake_us),
                    ("use", "us", counted.use_us),
                    ("close", "us", counted.close_us),
                ],
                cores: counted.cores,
                ..Outcome::default()
            })
        }),
    }
}
