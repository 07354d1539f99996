//! `tune`: which configuration of a veth carries most in one flow. What `bywash doctor --tune` offers rests on it.
//!
//! | what is changed | why it could matter |
//! |---|---|
//! | MTU 3498 | the cost is by frame; the largest that single-buffer XDP has on veth |
//! | generic XDP | native XDP on veth copies a frame once more |
//! | threaded NAPI | the receive softirq leaves the sender's core |
//! | receive window of 128 or 512 KiB | 256 KiB is 181 full segments, below the 256 entries of veth's ring; 512 KiB is beyond |
//! | a qdisc at the sender | since Linux 6.16 a full ring then holds the kernel's sender back instead of dropping |

use std::time::Duration;

use anyhow::Result;
use bywash_xdp::Mode;

use super::{Pair, bulk_case};
use crate::ends::Who;
use crate::ends::bulk::Bulk;
use crate::netns::{Offloads, Testbed};
use crate::run::Case;
use crate::suite::Suite;

/// One way to set the wire up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Configuration {
    name: &'static str,
    mtu: u16,
    xdp: Mode,
    threaded: bool,
    qdisc: Option<&'static str>,
    receive_buffer: Option<usize>,
}

/// As a veth and an engine come.
pub(crate) const DEFAULT: Configuration = Configuration {
    name: "default",
    mtu: 1500,
    xdp: Mode::Auto,
    threaded: false,
    qdisc: None,
    receive_buffer: None,
};
/// What `doctor --tune` offers.
pub(crate) const TUNED: Configuration = Configuration {
    name: "tuned",
    mtu: 3498,
    ..DEFAULT
};
/// What else there is.
const OTHERS: [Configuration; 7] = [
    Configuration {
        name: "generic XDP",
        xdp: Mode::Generic,
        ..DEFAULT
    },
    Configuration {
        name: "threaded NAPI",
        threaded: true,
        ..DEFAULT
    },
    Configuration {
        name: "window of 128 KiB",
        receive_buffer: Some(128 << 10),
        ..DEFAULT
    },
    Configuration {
        name: "window of 512 KiB",
        receive_buffer: Some(512 << 10),
        ..DEFAULT
    },
    Configuration {
        name: "qdisc pfifo",
        qdisc: Some("pfifo"),
        ..DEFAULT
    },
    Configuration {
        name: "tuned, generic XDP",
        xdp: Mode::Generic,
        ..TUNED
    },
    Configuration {
        name: "tuned, threaded NAPI",
        threaded: true,
        ..TUNED
    },
];

pub(crate) fn run(suite: &mut Suite) -> Result<()> {
    let configurations: Vec<Configuration> = [DEFAULT, TUNED].into_iter().chain(OTHERS).collect();
    let beds = configurations.iter().map(bed).collect::<Result<Vec<_>>>()?;
    let cases = configurations
        .iter()
        .zip(&beds)
        .flat_map(|(configuration, bed)| {
            [[Who::Us; 2], [Who::Kernel, Who::Us], [Who::Us, Who::Kernel]]
                .map(|pair| case(bed, configuration, pair))
        });
    suite.add(cases.collect())
}

/// The wire, set up so.
pub(crate) fn bed(configuration: &Configuration) -> Result<Testbed> {
    let mut bed = Testbed::new(Offloads::Off, configuration.mtu)?;
    if let Some(qdisc) = configuration.qdisc {
        bed.set_qdisc(qdisc)?;
    }
    if configuration.threaded {
        bed.setting.napi = "a kernel thread for each of our devices (threaded NAPI on)".to_owned();
    }
    Ok(bed)
}

/// One flow over it.
pub(crate) fn case<'a>(bed: &'a Testbed, configuration: &Configuration, pair: Pair) -> Case<'a> {
    let bulk = Bulk {
        receive_buffer: configuration.receive_buffer,
        threaded: configuration.threaded,
        ..Bulk::new(configuration.xdp, Duration::ZERO)
    };
    let mut case = bulk_case("tune", bed, pair, bulk);
    case.params
        .insert("configuration", configuration.name.to_owned());
    case
}
