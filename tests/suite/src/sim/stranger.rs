//! A third party: what it puts into the wire to do harm.

use std::net::{IpAddr, Ipv4Addr};

use bywash::seams::wire::{
    Ecn, Flags, Link, MacAddr, Options, Segment, SeqNumber, Tuple, VlanId, checksum, emit,
    header_len,
};

use super::app::LISTENED;
use super::book::Book;
use super::dice::Dice;
use super::faults;
use super::host::addresses;
use super::packet::ETHERNET;

/// What kind of frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SYN from an address that nobody answers at.
    Syn,
    /// Random bytes.
    Garbage,
    /// A segment in a connection's name.
    Forged,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Syn, Self::Garbage, Self::Forged];

    /// Frames a second.
    pub fn rate(self, stranger: &faults::Stranger) -> u64 {
        match self {
            Self::Syn => stranger.syns,
            Self::Garbage => stranger.garbage,
            Self::Forged => stranger.forged,
        }
    }
}

fn build(tuple: &Tuple, segment: &Segment, payload: &[u8], vlan: Option<VlanId>) -> Vec<u8> {
    let link = Link {
        source_mac: MacAddr([2, 0, 0, 0, 0, 9]),
        destination_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        vlan,
    };
    let header = header_len(&link, tuple, segment);
    let mut frame = vec![0; header + payload.len()];
    let (front, body) = frame.split_at_mut(header);
    let sum = checksum::copy_and_sum(body, payload);
    emit(front, &link, tuple, Ecn::NotEct, 64, segment, sum);
    frame
}

/// A frame, and the host that it goes to. `None`: there is nothing to forge yet.
pub fn frame(
    kind: Kind,
    dice: &mut Dice,
    book: &Book,
    vlan: Option<VlanId>,
) -> Option<(usize, Box<[u8]>)> {
    match kind {
        Kind::Syn => {
            let from = Ipv4Addr::new(198, 51, 100, dice.between(1, 254) as u8);
            let port = dice.between(1024, 65_535) as u16;
            let tuple = Tuple::tcp(IpAddr::V4(from), port, addresses(1)[0], LISTENED);
            let segment = Segment {
                seq: SeqNumber::new(dice.next_u64() as u32),
                flags: Flags::SYN,
                window: 65_535,
                options: Options {
                    mss: Some(1460),
                    ..Options::default()
                },
                ..Segment::default()
            };
            Some((1, build(&tuple, &segment, &[], vlan).into()))
        }
        Kind::Garbage => {
            let tuple = Tuple::tcp(addresses(0)[0], 61_440, addresses(1)[0], LISTENED);
            let mut frame = build(&tuple, &random_segment(dice, 40), &[7; 40], vlan);
            let from = dice.between(ETHERNET as u64, frame.len() as u64 - 1) as usize;
            let to = dice.between(from as u64 + 1, frame.len() as u64) as usize;
            for byte in &mut frame[from..to] {
                *byte = dice.next_u64() as u8;
            }
            Some((1, frame.into()))
        }
        Kind::Forged => {
            let number = dice.below(book.entries.len() as u64) as u32;
            let (client, server) = book.addresses(number)?;
            let entry = &book.entries[number as usize];
            let side = dice.below(2) as usize;
            let (from, to) = if side == 0 {
                (client, server)
            } else {
                (server, client)
            };
            let len = dice.pick(&[0, 0, 1, 500]);
            let mut segment = random_segment(dice, len);
            if entry
                .ends
                .iter()
                .any(|end| end.shut || end.closed.is_some() || !end.open)
            {
                // In SYN-SENT a SYN is a simultaneous open, and in TIME-WAIT it may rightly open a new connection.
                segment.flags.remove(Flags::SYN);
            }
            let tuple = Tuple::tcp(from.ip(), from.port(), to.ip(), to.port());
            let host = if side == 0 {
                1 - entry.plan.client
            } else {
                entry.plan.client
            };
            Some((host, build(&tuple, &segment, &vec![0x66; len], vlan).into()))
        }
    }
}

fn random_segment(dice: &mut Dice, len: usize) -> Segment {
    let flags = dice.pick(&[
        Flags::RST,
        Flags::RST | Flags::ACK,
        Flags::SYN,
        Flags::SYN | Flags::ACK,
        Flags::ACK,
        Flags::ACK | Flags::FIN,
        Flags::PSH | Flags::ACK,
    ]);
    Segment {
        seq: SeqNumber::new(dice.next_u64() as u32),
        ack: SeqNumber::new(dice.next_u64() as u32),
        flags,
        window: dice.next_u64() as u16,
        payload_len: len,
        ..Segment::default()
    }
}
