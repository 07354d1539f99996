//! `mechanism` (Thekkath Table 1): what a user-to-user path can do over this wire, against what the wire can do at all; then what TCP
//! costs on top of that path.
//!
//! | row | Thekkath's |
//! |---|---|
//! | kernel TCP with TSO | the link's saturation: a veth has no bit rate, its limit is the cores |
//! | raw AF_XDP, both XDP modes, receiver looking at headers only, or verifying each checksum; windows | user to user, without protocol |
//! | Bywash to Bywash | with protocol |

use std::time::Duration;

use anyhow::Result;

use super::{bulk_case, ceiling};
use crate::ends::Who;
use crate::ends::bulk::Bulk;
use crate::netns::{Offloads, Testbed};
use crate::suite::Suite;

pub(crate) fn run(suite: &mut Suite) -> Result<()> {
    let (mtu, xdp) = (suite.options.mtu, suite.options.xdp);
    let bed = Testbed::new(Offloads::Default, mtu)?;
    let bulk = Bulk::new(xdp, Duration::ZERO);
    let mut cases = ceiling::sweep(&bed);
    cases.push(bulk_case("mechanism", &bed, [Who::Kernel; 2], bulk));
    cases.push(bulk_case("mechanism", &bed, [Who::Us; 2], bulk));
    for case in &mut cases {
        case.experiment = "mechanism";
    }
    suite.add(cases)
}
