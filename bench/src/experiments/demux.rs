//! `demux` (Thekkath Table 5): what it costs to tell whose a packet is. In software: our XDP program's verdict, by the number of flows
//! in its table. In hardware: a NIC steers the flow to a queue of its own, and XDP redirects by the queue's number without a look.
//!
//! By `BPF_PROG_TEST_RUN`, which costs some 26 ns itself. "One packet" is the same one a million times, with all caches hot; "random
//! packets" are of random flows, each run by itself, with the kernel's two looks at the clock (about 75 ns) in the figure.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bywash_xdp::{Counter, FlowKey, FlowValue, RING_CONTROL, RING_PRIMARY, slot};
use bywash_xdp_tests::packet::{OUR_V4, Packet};
use bywash_xdp_tests::random::Random;
use bywash_xdp_tests::run::Harness;

use crate::cpu::Sample;
use crate::raw::{Steering, join};
use crate::row::{Params, Setting};
use crate::run::{Case, Outcome};
use crate::suite::Suite;

const PORT: u16 = 8080;
/// Runs of one packet.
const REPEAT: u32 = 1_000_000;
/// Random packets.
const VARIED: u64 = 100_000;
/// Flows in the table.
const FLOWS: [u32; 5] = [1, 1_000, 16_384, 100_000, 1_000_000];

pub(crate) fn run(suite: &mut Suite) -> Result<()> {
    let mut cases = vec![steering()];
    cases.extend(FLOWS.map(table));
    suite.add(cases)
}

fn case(
    subject: &'static str,
    params: Params,
    measure: impl Fn() -> Result<Vec<(&'static str, &'static str, f64)>> + Sync + 'static,
) -> Case<'static> {
    let setting = Setting {
        driver: "none (BPF_PROG_TEST_RUN)".to_owned(),
        ..Setting::in_memory(1500)
    };
    Case {
        experiment: "demux",
        subject,
        peer: "a packet",
        params,
        setting,
        run: Box::new(move |_| {
            let before = Sample::now()?;
            // A thread of its own: the harness goes to a namespace of its own, and stays there.
            let readings = thread::scope(|scope| join(scope.spawn(&measure)))?;
            Ok(Outcome {
                readings,
                cores: before.until(&Sample::now()?),
                ..Outcome::default()
            })
        }),
    }
}

/// Redirect by the queue's number.
fn steering() -> Case<'static> {
    let params = Params::from([("flows", "steered to queues by hardware".to_owned())]);
    case("queue steering", params, || {
        let frame = peer(0).build();
        let steering = Steering::load()?;
        Ok(vec![(
            "one packet",
            "ns",
            nanoseconds(steering.cost(&frame, REPEAT)?),
        )])
    })
}

/// Our program, with so many flows in its table.
fn table(flows: u32) -> Case<'static> {
    case(
        "XDP flow table",
        Params::from([("flows", flows.to_string())]),
        move || {
            let demux = Harness::with_flows(flows)?;
            demux.address(OUR_V4.into())?;
            demux.listen(PORT)?;
            // Without sockets in their slots packets would be dropped.
            let _sockets = [RING_PRIMARY, RING_CONTROL, 2]
                .map(|ring| demux.socket(slot(0, ring)))
                .into_iter()
                .collect::<Result<Vec<_>>>()?;
            for number in 0..flows {
                let packet = peer(number);
                let key = FlowKey::new(
                    packet.destination,
                    packet.port,
                    packet.source,
                    packet.source_port,
                    None,
                    6,
                );
                demux.flow(
                    &key,
                    FlowValue {
                        slot: slot(0, 2),
                        generation: 0,
                        queue: 0,
                    },
                )?;
            }
            let frame = peer(0).build();
            let verdict = demux.fate(0, &frame)?.counter;
            ensure!(
                verdict == Counter::RedirectFlow,
                "the packet met {verdict} instead of its flow"
            );
            let hot = demux.cost(&frame, REPEAT)?.1;
            let mut random = Random::new(1);
            let mut total = Duration::ZERO;
            for _ in 0..VARIED {
                let number =
                    u32::try_from(random.below(flows as usize)).context("a flow's number")?;
                total += demux.cost(&peer(number).build(), 1)?.1;
            }
            Ok(vec![
                ("one packet", "ns", nanoseconds(hot)),
                (
                    "random packets",
                    "ns",
                    total.as_nanos() as f64 / VARIED as f64,
                ),
            ])
        },
    )
}

/// The number's own peer, and so its flow.
fn peer(number: u32) -> Packet {
    Packet {
        source: IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 | number)),
        ..Packet::v4(PORT)
    }
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_nanos() as f64
}
