//! Injected segments that are longer than a frame: cut into segments that fit, as the script's network card would have
//! cut them on their way.
//!
//! Scripts inject 10 kB and more at once. The pieces arrive in one turn of the shard, so they get one acknowledgment, as the
//! whole would.

use bywash_engine::wire::checksum::{pseudo_header, sum};

const TCP: u8 = 6;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Where the headers of a datagram end.
struct Layout {
    v4: bool,
    /// Octets of the IP header.
    ip: usize,
    /// Octets up to the payload.
    headers: usize,
}

/// The headers of an unfragmented TCP datagram without extension headers.
fn layout(datagram: &[u8]) -> Option<Layout> {
    let version = datagram.first()? >> 4;
    let (v4, ip, protocol) = match version {
        4 => (true, usize::from(datagram[0] & 15) * 4, *datagram.get(9)?),
        6 => (false, 40, *datagram.get(6)?),
        _ => return None,
    };
    let offset = usize::from(*datagram.get(ip + 12)? >> 4) * 4;
    let headers = ip + offset;
    (protocol == TCP && headers <= datagram.len()).then_some(Layout { v4, ip, headers })
}

/// The datagram as pieces of at most `most` octets, or `None` if it is no plain TCP segment.
pub(crate) fn pieces(datagram: &[u8], most: usize) -> Option<Vec<Vec<u8>>> {
    let layout = layout(datagram)?;
    let room = most.checked_sub(layout.headers).filter(|room| *room > 0)?;
    let (headers, payload) = datagram.split_at(layout.headers);
    let count = payload.len().div_ceil(room);
    // A checksum that is wrong stays wrong.
    let was_right = tcp_checksum(datagram, &layout) == 0;
    let piece = |(number, bytes): (usize, &[u8])| {
        let mut piece = [headers, bytes].concat();
        let at = layout.ip;
        let seq = u32::from_be_bytes(piece[at + 4..at + 8].try_into().expect("four octets"));
        let seq = seq.wrapping_add((number * room) as u32);
        piece[at + 4..at + 8].copy_from_slice(&seq.to_be_bytes());
        if number + 1 < count {
            piece[at + 13] &= !(FIN | PSH);
        }
        if number > 0 {
            piece[at + 13] &= !CWR;
        }
        mend_lengths(&mut piece, &layout);
        piece[at + 16..at + 18].fill(0);
        let checksum = tcp_checksum(&piece, &layout) ^ if was_right { 0 } else { 1 };
        piece[at + 16..at + 18].copy_from_slice(&checksum.to_be_bytes());
        piece
    };
    Some(payload.chunks(room).enumerate().map(piece).collect())
}

/// The checksum of the segment as it stands: 0 if the field is right.
fn tcp_checksum(datagram: &[u8], layout: &Layout) -> u16 {
    let address = |from: usize| -> std::net::IpAddr {
        if layout.v4 {
            let octets: [u8; 4] = datagram[from..from + 4].try_into().expect("four octets");
            octets.into()
        } else {
            let octets: [u8; 16] = datagram[from..from + 16].try_into().expect("sixteen");
            octets.into()
        }
    };
    let (source, destination) = if layout.v4 {
        (address(12), address(16))
    } else {
        (address(8), address(24))
    };
    let segment = &datagram[layout.ip..];
    let pseudo = pseudo_header(source, destination, TCP, segment.len());
    pseudo.then(sum(segment)).finish()
}

fn mend_lengths(piece: &mut [u8], layout: &Layout) {
    let total = piece.len() as u16;
    if layout.v4 {
        piece[2..4].copy_from_slice(&total.to_be_bytes());
        piece[10..12].fill(0);
        let checksum = sum(&piece[..layout.ip]).finish();
        piece[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        piece[4..6].copy_from_slice(&(total - 40).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use bywash_engine::wire::{ChecksumPolicy, Flags, decode};

    use super::*;

    /// A segment of `len` octets, IPv4 or IPv6, with FIN and PSH.
    fn long(v4: bool, len: usize) -> Vec<u8> {
        let mut bytes = if v4 {
            let mut ip = vec![
                0x45, 0, 0, 0, 0, 0, 0, 0, 64, TCP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
            ];
            ip[2..4].copy_from_slice(&(40 + len as u16).to_be_bytes());
            let checksum = sum(&ip).finish();
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            ip
        } else {
            let mut ip = vec![0x60, 0, 0, 0, 0, 0, TCP, 64];
            ip[4..6].copy_from_slice(&(20 + len as u16).to_be_bytes());
            ip.extend([0xfd; 16]);
            ip.extend([0xfc; 16]);
            ip
        };
        let at = bytes.len();
        bytes.extend([
            0, 1, 0, 2, 0xff, 0xff, 0xff, 0, 0, 0, 0, 9, 0x50, 0x19, 1, 1, 0, 0, 0, 0,
        ]);
        bytes.extend((0..len).map(|place| place as u8));
        let layout = layout(&bytes).unwrap();
        let checksum = tcp_checksum(&bytes, &layout);
        bytes[at + 16..at + 18].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    #[test]
    fn pieces_are_right_segments_of_the_same_bytes() {
        for v4 in [true, false] {
            let mut joined = Vec::new();
            let all = pieces(&long(v4, 5000), 1500).unwrap();
            let count = all.len();
            for (number, piece) in all.into_iter().enumerate() {
                assert!(piece.len() <= 1500);
                let ethertype = if v4 { [8, 0] } else { [0x86, 0xdd] };
                let frame = [
                    &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2],
                    &ethertype[..],
                    &piece,
                ]
                .concat();
                let decoded = decode(&frame, ChecksumPolicy::Full).expect("a right frame");
                let expected = 0xffff_ff00_u32.wrapping_add(joined.len() as u32);
                assert_eq!(decoded.segment.seq.raw(), expected);
                let last = number + 1 == count;
                assert_eq!(decoded.segment.flags.contains(Flags::FIN), last);
                joined.extend_from_slice(&frame[decoded.payload]);
            }
            assert_eq!(joined.len(), 5000);
            assert!(
                joined
                    .iter()
                    .enumerate()
                    .all(|(place, octet)| *octet == place as u8)
            );
        }
    }

    #[test]
    fn what_was_damaged_stays_damaged() {
        let mut bytes = long(true, 5000);
        *bytes.last_mut().unwrap() ^= 1;
        for piece in pieces(&bytes, 1500).unwrap() {
            let layout = layout(&piece).unwrap();
            assert_ne!(tcp_checksum(&piece, &layout), 0);
        }
        assert_eq!(pieces(&[0x45; 30], 1500), None);
    }
}
