//! Program against model on thousands of packets with changed bytes: whatever arrives, both say the same.

use anyhow::Result;
use bywash_xdp::{FlowKey, FlowValue, RING_CONTROL, RING_PRIMARY, abi, slot};
use bywash_xdp_tests::model::Model;
use bywash_xdp_tests::packet::{OUR_V4, OUR_V6, Packet, extension};
use bywash_xdp_tests::run::{Harness, QUEUES};

const PORT: u16 = 8080;
const HELD: u16 = 8081;
const ROUNDS: u32 = 6_000;

/// xorshift64*: a run that fails names its seed and round, and is repeated by them.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).expect("31 bits") % bound
    }

    fn octet(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("below 256")
    }
}

fn seeds() -> Vec<Packet> {
    let mut seeds = Vec::new();
    for port in [PORT, HELD, 50_005, 22] {
        seeds.extend(Packet::both(port));
    }
    seeds.push(Packet {
        ip_options: 8,
        tcp_options: 12,
        ..Packet::v4(PORT)
    });
    seeds.push(Packet {
        fragment: 0x2000,
        ..Packet::v4(PORT)
    });
    seeds.push(Packet::v6(PORT).extension(extension::FRAGMENT));
    let mut chain = Packet::v6(PORT);
    for number in [
        extension::HOP_BY_HOP,
        extension::ROUTING,
        extension::DESTINATION,
    ] {
        chain = chain.extension(number);
        seeds.push(chain.clone());
    }
    seeds.push(
        chain
            .clone()
            .extension(extension::DESTINATION)
            .extension(extension::DESTINATION)
            .extension(extension::DESTINATION),
    );
    let tagged: Vec<_> = seeds
        .iter()
        .map(|packet| packet.clone().tag(0x8100, 100))
        .collect();
    seeds.extend(tagged);
    seeds
}

/// Changes a few bytes of the headers, cuts or lengthens the frame.
fn mutate(random: &mut Random, packet: &Packet) -> Vec<u8> {
    let mut frame = packet.build();
    for _ in 0..random.below(4) {
        // Mostly the few bytes that decide.
        let ip = packet.ip_offset();
        let places = [
            0,
            12,
            13,
            14,
            15,
            ip,
            ip + 2,
            ip + 3,
            ip + 4,
            ip + 5,
            ip + 6,
            ip + 9,
            ip + 40,
            ip + 41,
        ];
        let tcp = packet.tcp_offset();
        let at = match random.below(4) {
            0 => places[random.below(places.len())],
            1 => tcp + [0, 1, 2, 3, 12, 13][random.below(6)],
            _ => random.below(frame.len()),
        };
        if let Some(octet) = frame.get_mut(at) {
            *octet = match random.below(3) {
                0 => random.octet(),
                1 => *octet ^ (1 << random.below(8)),
                _ => [0, 6, 0x45, 0x60, 43, 44, 60, 0x81, 0xff][random.below(9)],
            };
        }
    }
    match random.below(6) {
        0 => {
            let len = 14 + random.below(frame.len() - 13);
            frame.truncate(len);
        }
        1 => frame.resize(frame.len() + random.below(40), random.octet()),
        _ => {}
    }
    frame
}

#[test]
fn program_and_model_agree_on_mutated_packets() -> Result<()> {
    let mut demux = Harness::new()?;
    let mut model = Model {
        queues: QUEUES - 1,
        addresses: [OUR_V4.into(), OUR_V6.into()].into(),
        listening: [PORT].into(),
        held: [HELD].into(),
        local: Some(50_000..=50_010),
        vlans: [100, 6, 0xf06].into(),
        ..Model::default()
    };
    for address in &model.addresses {
        demux.address(*address)?;
    }
    demux.listen(PORT)?;
    demux.port(HELD, abi::PORT_TCP_OURS)?;
    demux.local_ports(50_000..=50_010)?;
    for vlan in &model.vlans {
        demux.vlan(*vlan)?;
    }
    let mut sockets = Vec::new();
    for index in [
        slot(0, RING_PRIMARY),
        slot(0, RING_CONTROL),
        slot(0, 2),
        slot(1, RING_PRIMARY),
    ] {
        sockets.push(demux.socket(index)?);
        model.sockets.insert(index);
    }
    for (index, packet) in Packet::both(HELD).into_iter().enumerate() {
        let key = FlowKey::new(
            packet.destination,
            HELD,
            packet.source,
            packet.source_port,
            None,
            6,
        );
        let queue = u32::try_from(index)?;
        let value = FlowValue {
            slot: slot(queue, 2),
            generation: 1,
            queue,
        };
        demux.flow(&key, value)?;
        model.flows.insert(key, value);
    }

    let seeds = seeds();
    let mut seen = std::collections::HashSet::new();
    for seed in 1..=2 {
        let mut random = Random(seed);
        for round in 0..ROUNDS {
            let packet = &seeds[random.below(seeds.len())];
            let frame = mutate(&mut random, packet);
            let queue = u32::try_from(random.below(4))?;
            let fate = demux.fate(queue, &frame)?;
            let expected = model.verdict(queue, &frame);
            assert_eq!(
                fate.counter, expected,
                "seed {seed}, round {round}, queue {queue}, frame {frame:02x?}"
            );
            seen.insert(fate.counter);
        }
    }
    // The mutations are worth their time only if they reach nearly everything.
    assert!(seen.len() >= 19, "only {seen:?}");
    Ok(())
}
