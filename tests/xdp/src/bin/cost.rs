//! What a verdict costs: mean time of the program under PROG_TEST_RUN, less that of the shortest path through it.

use std::time::Duration;

use anyhow::Result;
use bywash_xdp::{FlowKey, FlowValue, RING_CONTROL, RING_PRIMARY, slot};
use bywash_xdp_tests::packet::{OUR_V4, OUR_V6, Packet, extension, flags};
use bywash_xdp_tests::run::Harness;

const PORT: u16 = 8080;
const REPEAT: u32 = 1_000_000;
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let demux = Harness::new()?;
    demux.address(OUR_V4.into())?;
    demux.address(OUR_V6.into())?;
    demux.listen(PORT)?;
    let _sockets = [
        demux.socket(slot(0, RING_PRIMARY))?,
        demux.socket(slot(0, RING_CONTROL))?,
        demux.socket(slot(0, 2))?,
    ];
    for packet in Packet::both(PORT) {
        let key = FlowKey::new(packet.destination, PORT, packet.source, 1, None, 6);
        let value = FlowValue {
            slot: slot(0, 2),
            generation: 0,
            queue: 0,
        };
        demux.flow(&key, value)?;
    }
    let flow = |packet: Packet| Packet {
        source_port: 1,
        ..packet
    };
    let mut arp = Packet::v4(PORT).build();
    arp[12..14].copy_from_slice(&[8, 6]);
    let cases = [
        ("not IP (ARP)", arp),
        (
            "pass: UDP",
            Packet {
                protocol: 17,
                ..Packet::v4(PORT)
            }
            .build(),
        ),
        ("pass: TCP, not our port", Packet::v4(22).build()),
        ("pass: TCP, not our port, v6", Packet::v6(22).build()),
        ("listener: SYN", Packet::v4(PORT).flags(flags::SYN).build()),
        ("listener: segment", Packet::v4(PORT).build()),
        ("listener: segment, v6", Packet::v6(PORT).build()),
        ("flow hit", flow(Packet::v4(PORT)).build()),
        ("flow hit, v6", flow(Packet::v6(PORT)).build()),
        (
            "flow hit, v6, an extension header",
            flow(Packet::v6(PORT))
                .extension(extension::DESTINATION)
                .build(),
        ),
    ];
    println!("best of {ROUNDS} rounds of {REPEAT} runs, JIT, hot caches, two flows in the table");
    for (name, frame) in cases {
        let mut best = Duration::MAX;
        for _ in 0..ROUNDS {
            best = best.min(demux.cost(&frame, REPEAT)?.1);
        }
        println!("{:>5} ns  {name}", best.as_nanos());
    }
    Ok(())
}
