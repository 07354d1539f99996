//! Packets that nobody would send: a structure chosen at random from what headers can say, then some bytes of it changed.
//!
//! ```text
//! random_packet: family, tags, options, fragments, extension headers, ICMP quotations, ports, flags, padding
//!    └─> corrupt: bits and bytes flipped where they decide, or anywhere; frames cut and lengthened
//!           └─> seal (most of them): the IPv4 header checksum made right, so that a parser which verifies it goes on
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::packet::{OUR_V4, OUR_V6, PEER_V4, PEER_V6, Packet, extension};
use crate::random::Random;
use crate::setup::{HELD, KERNELS, LOCAL, PORT};

/// Identifiers that tags get.
const IDS: [u16; 8] = [0, 1, 5, 6, 100, 0xf06, 4094, 4095];

/// A frame of 14 octets or more.
pub fn mutant(random: &mut Random) -> Vec<u8> {
    let mut packet = random_packet(random);
    if random.once_in(8) {
        packet = about(random, &packet);
    }
    let mut frame = packet.build();
    let changes = random.one_of(&[0, 0, 0, 0, 1, 1, 2, 3]);
    for _ in 0..changes {
        corrupt(random, &packet, &mut frame);
    }
    match random.below(8) {
        0 => {
            let len = 14 + random.below(frame.len() - 13);
            frame.truncate(len);
        }
        1 => frame.resize(frame.len() + random.below(40), random.octet()),
        _ => {}
    }
    if !random.once_in(32) {
        seal(&mut frame);
    }
    frame
}

fn random_packet(random: &mut Random) -> Packet {
    let port = random.one_of(&[PORT, PORT, PORT, HELD, LOCAL, KERNELS, 50_010, 50_011, 0]);
    let mut packet = match random.once_in(2) {
        true => random_v4(random, port),
        false => random_v6(random, port),
    };
    let tags = random.one_of(&[0, 0, 0, 0, 0, 1, 1, 2, 2, 3]);
    for _ in 0..tags {
        let identifier = random.one_of(&[0x8100, 0x8100, 0x88a8, 0x88a8, 0x9100]);
        let priority = random.one_of(&[0, 0xe000, 0x1000]);
        packet = packet.tag(identifier, priority | random.one_of(&IDS));
    }
    packet.source_port = random.one_of(&[packet.source_port, packet.source_port, 1, 2, 0xffff, 0]);
    let any = random.octet();
    packet.flags = random.one_of(&[0x10, 0x10, 0x02, 0x12, 0x04, 0x11, 0x18, any]);
    packet.tcp_options = 4 * random.one_of(&[0, 0, 1, 3, 5, 10]);
    packet.payload = random.one_of(&[0, 0, 1, 10, 100]);
    packet.padding = random.one_of(&[0, 0, 0, 1, 6, 40]);
    if random.once_in(8) {
        packet.protocol = random.one_of(&[1, 58, 17, 4, 41]);
    }
    if random.once_in(64) {
        packet.mac[0] = random.octet();
    }
    packet
}

fn random_v4(random: &mut Random, port: u16) -> Packet {
    let strange = [
        OUR_V4,
        PEER_V4,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(10, 1, 1, 77),
    ];
    let mut packet = Packet::v4(port);
    if random.once_in(16) {
        packet.source = random.one_of(&strange).into();
    }
    if random.once_in(16) {
        packet.destination = random.one_of(&strange).into();
    }
    packet.ip_options = 4 * random.one_of(&[0, 0, 0, 1, 2, 10]);
    packet.fragment = random.one_of(&[
        0, 0, 0, 0, 0x4000, 0x4000, 0x4000, 0x8000, 0x2000, 0x2001, 0x0005,
    ]);
    packet
}

fn random_v6(random: &mut Random, port: u16) -> Packet {
    let strange = [
        OUR_V6,
        PEER_V6,
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        OUR_V4.to_ipv6_mapped(),
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 77),
    ];
    let mut packet = Packet::v6(port);
    if random.once_in(16) {
        packet.source = random.one_of(&strange).into();
    }
    if random.once_in(16) {
        packet.destination = random.one_of(&strange).into();
    }
    let extensions = random.one_of(&[0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 5, 6, 7, 8]);
    for _ in 0..extensions {
        let number = random.one_of(&[
            extension::HOP_BY_HOP,
            extension::ROUTING,
            extension::DESTINATION,
            extension::DESTINATION,
            extension::DESTINATION,
            extension::FRAGMENT,
            extension::ESP,
        ]);
        packet = match number {
            extension::FRAGMENT => {
                let field = random.one_of(&[[0, 0], [0, 1], [0, 8], [0xff, 0xf9]]);
                packet.extension_with(number, &[field[0], field[1], 0, 0, 0, 1])
            }
            _ => {
                let mut body = vec![0; 6 + 8 * random.one_of(&[0, 0, 0, 1, 3])];
                if random.once_in(8) {
                    let at = random.below(body.len());
                    body[at] = random.octet();
                }
                packet.extension_with(number, &body)
            }
        };
    }
    packet
}

/// An ICMP message about a segment that the packet's receiver could have sent.
fn about(random: &mut Random, packet: &Packet) -> Packet {
    let mut quoted = Packet {
        tags: Vec::new(),
        ..packet.clone().reversed()
    };
    if !random.once_in(8) {
        quoted.extensions.clear();
        quoted.fragment = 0;
        quoted.protocol = 6;
    }
    if random.once_in(8) {
        quoted.source = quoted.destination;
    }
    let kinds: [u8; 10] = match packet.source {
        IpAddr::V4(_) => [3, 3, 3, 11, 12, 4, 5, 8, 0, 1],
        IpAddr::V6(_) => [1, 2, 2, 2, 3, 4, 128, 137, 0, 5],
    };
    let any = random.below(60);
    let len = random.one_of(&[28, 48, 60, 120, any]);
    packet.clone().icmp(random.one_of(&kinds), &quoted, len)
}

/// Changes an octet: mostly one of the few that decide.
fn corrupt(random: &mut Random, packet: &Packet, frame: &mut [u8]) {
    let (ip, tcp) = (packet.ip_offset(), packet.tcp_offset());
    let link = [0, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21];
    let network = [0, 2, 3, 4, 5, 6, 7, 9, 40, 41, 42, 43].map(|at| ip + at);
    let transport = [0, 1, 2, 3, 12, 13].map(|at| tcp + at);
    let quoted = [0, 8, 14, 15, 17, 28, 29, 30, 31, 48, 49, 50, 51].map(|at| tcp + at);
    let at = match random.below(6) {
        0 => random.one_of(&link),
        1 | 2 => random.one_of(&network),
        3 => random.one_of(&transport),
        4 => random.one_of(&quoted),
        _ => random.below(frame.len()),
    };
    if let Some(octet) = frame.get_mut(at) {
        *octet = match random.below(3) {
            0 => random.octet(),
            1 => *octet ^ (1 << random.below(8)),
            _ => random.one_of(&[0, 6, 0x45, 0x60, 43, 44, 60, 0x81, 0x88, 0xff]),
        };
    }
}

/// Where the packet starts behind the tags that there are, and its EtherType.
pub fn network_layer(frame: &[u8]) -> Option<(usize, u16)> {
    let mut at = 12;
    loop {
        let kind = u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]);
        match kind {
            0x8100 | 0x88a8 => at += 4,
            _ => return Some((at + 2, kind)),
        }
    }
}

/// Makes an IPv4 header's checksum right, if there is a header.
pub fn seal(frame: &mut [u8]) {
    let Some((at, 0x0800)) = network_layer(frame) else {
        return;
    };
    let packet = &mut frame[at..];
    let len = packet
        .first()
        .map_or(0, |first| usize::from(first & 15) * 4);
    let Some(header) = packet.get_mut(..len).filter(|header| header.len() >= 20) else {
        return;
    };
    header[10..12].fill(0);
    let checksum = checksum(header, 0);
    header[10..12].copy_from_slice(&checksum);
}

/// Makes an ICMP message's checksum right, if there is a whole one behind an IPv4 header, or right behind an IPv6 header.
pub fn seal_icmp(frame: &mut [u8]) {
    let Some((at, kind)) = network_layer(frame) else {
        return;
    };
    let packet = &mut frame[at..];
    let length = |at: usize, packet: &[u8]| {
        let field = packet.get(at..at + 2)?;
        Some(usize::from(u16::from_be_bytes([field[0], field[1]])))
    };
    let (start, end, pseudo) = match kind {
        0x0800 => {
            let header = packet
                .first()
                .map_or(0, |first| usize::from(first & 15) * 4);
            (header, length(2, packet), 0)
        }
        0x86dd => {
            let Some(payload) = length(4, packet).filter(|_| packet.len() >= 40) else {
                return;
            };
            let (addresses, mut start, mut next) = (packet[8..40].to_vec(), 40, packet[6]);
            while let (0 | 43 | 60, Some(head)) = (next, packet.get(start..start + 2)) {
                (next, start) = (head[0], start + 8 + 8 * usize::from(head[1]));
            }
            let message = (40 + payload).saturating_sub(start);
            (
                start,
                Some(40 + payload),
                sum(&addresses) + 58 + message as u32,
            )
        }
        _ => return,
    };
    let Some(message) = end.and_then(|end| packet.get_mut(start..end)) else {
        return;
    };
    if message.len() >= 8 {
        message[2..4].fill(0);
        let checksum = checksum(message, pseudo);
        message[2..4].copy_from_slice(&checksum);
    }
}

fn sum(octets: &[u8]) -> u32 {
    let words = octets
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    words.sum()
}

/// RFC 1071, of these octets and what is summed already.
fn checksum(octets: &[u8], before: u32) -> [u8; 2] {
    let mut sum = before + sum(octets);
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = (!sum).to_be_bytes();
    [high, low]
}
