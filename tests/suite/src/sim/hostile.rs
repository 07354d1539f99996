//! A peer that means ill, or a box on the way that does: the segments of one host are rewritten, and are right in themselves.
//!
//! ```text
//! host h ─> watcher (sees what h sent) ─> rewritten ─> Link ─> watcher (sees what arrives) ─> host 1 - h, the victim
//! ```
//! The victim must stay within the RFCs' bounds, keep its frames, and bring every connection to an end. What may be lost to it is
//! said by [`Hostility::spoils`]; everything else must still arrive.

use bywash::seams::wire::{
    ChecksumPolicy, Decoded, Flags, Link, SackBlocks, checksum, decode, emit, header_len,
};

use super::dice::Dice;
use super::faults::Hostility;

impl Hostility {
    /// Whether the victim may believe that bytes arrived which did not: then the connection need not come to a good end.
    pub fn spoils(self) -> bool {
        matches!(self, Self::OptimisticAcks)
    }

    /// What leaves of a frame. Frames that it leaves alone are given back as they are.
    pub fn rewrite(self, frame: &[u8], dice: &mut Dice) -> Vec<Box<[u8]>> {
        let Ok(mut decoded) = decode(frame, ChecksumPolicy::Full) else {
            return vec![frame.into()];
        };
        let segment = &mut decoded.segment;
        let is_syn = segment.flags.contains(Flags::SYN);
        let is_reset = segment.flags.contains(Flags::RST);
        let plain = !is_syn && !is_reset && segment.flags.contains(Flags::ACK);
        match self {
            Self::TinyMss if is_syn => {
                segment.options.mss = Some(dice.pick(&[0, 1, 12, 64, 88, 536]));
            }
            Self::ShrinkingWindow if plain && dice.one_in(2) => {
                segment.window /= dice.between(2, 16) as u16;
            }
            Self::ClosedWindow if plain => segment.window = 0,
            Self::OptimisticAcks if plain && dice.one_in(4) => {
                segment.ack += dice.between(1, 4_000) as u32;
            }
            // It names what it does not keep: data beyond the acknowledgment that is SACKed now and asked for later.
            Self::Reneging if plain && dice.one_in(3) => {
                let from = segment.ack + dice.between(1, 3_000) as u32;
                let mut blocks = SackBlocks::EMPTY;
                blocks.push(from, from + dice.between(1, 3_000) as u32);
                segment.options.sack = blocks;
            }
            Self::Reneging if plain => segment.options.sack = SackBlocks::EMPTY,
            Self::DividedAcks if plain && decoded.payload.is_empty() => {
                return divided(frame, &decoded, dice);
            }
            _ => return vec![frame.into()],
        }
        vec![built(&decoded, frame)]
    }
}

/// One acknowledgment as several, each for a few bytes more (RFC 3465 2.3 names the attack).
fn divided(frame: &[u8], decoded: &Decoded, dice: &mut Dice) -> Vec<Box<[u8]>> {
    let count = dice.between(2, 8) as u32;
    let mut pieces: Vec<Box<[u8]>> = (1..count)
        .map(|left| {
            let mut piece = decoded.clone();
            piece.segment.ack = decoded.segment.ack - (count - left) * 10;
            piece.segment.flags = Flags::ACK;
            built(&piece, frame)
        })
        .collect();
    pieces.push(frame.into());
    pieces
}

fn built(decoded: &Decoded, frame: &[u8]) -> Box<[u8]> {
    let payload = &frame[decoded.payload.clone()];
    let link = Link {
        source_mac: decoded.source_mac,
        destination_mac: decoded.destination_mac,
        vlan: decoded.tuple.vlan,
    };
    let sender = decoded.tuple.reversed();
    let head = header_len(&link, &sender, &decoded.segment);
    let mut bytes = vec![0; head + payload.len()];
    let (header, body) = bytes.split_at_mut(head);
    let sum = checksum::copy_and_sum(body, payload);
    let (ecn, hops) = (decoded.ecn, decoded.hop_limit);
    emit(header, &link, &sender, ecn, hops, &decoded.segment, sum);
    bytes.into()
}
