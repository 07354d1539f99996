//! What a router does that has a queue and no wish to drop (RFC 3168 5): it writes CE over ECT.

/// Both addresses of an Ethernet header.
const ADDRESSES: usize = 12;
/// EtherTypes of VLAN tags, and the length of a tag.
const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
const TAG: usize = 4;
/// The ECN field, and CE in it.
const ECN: u8 = 3;

/// Marks a packet of an ECN-capable transport; whether it was one that had no mark yet.
pub(crate) fn mark(frame: &mut [u8]) -> bool {
    let mut at = ADDRESSES;
    while frame
        .get(at..at + 2)
        .is_some_and(|tpid| TAGS.iter().any(|tag| tag == tpid))
    {
        at += TAG;
    }
    let Some((head, packet)) = frame.split_at_mut_checked(at + 2) else {
        return false;
    };
    match head[at..] {
        [0x08, 0x00] => mark_v4(packet),
        [0x86, 0xdd] => mark_v6(packet),
        _ => false,
    }
}

fn is_ect(ecn: u8) -> bool {
    ecn == 1 || ecn == 2
}

fn mark_v4(packet: &mut [u8]) -> bool {
    if packet.len() < 20 || !is_ect(packet[1] & ECN) {
        return false;
    }
    let before = u16::from_be_bytes([packet[0], packet[1]]);
    packet[1] |= ECN;
    let after = u16::from_be_bytes([packet[0], packet[1]]);
    // RFC 1624 3, equation 3.
    let sum = u16::from_be_bytes([packet[10], packet[11]]);
    let mut new = u32::from(!sum) + u32::from(!before) + u32::from(after);
    while new > 0xffff {
        new = (new >> 16) + (new & 0xffff);
    }
    packet[10..12].copy_from_slice(&(!(new as u16)).to_be_bytes());
    true
}

fn mark_v6(packet: &mut [u8]) -> bool {
    // Version 4, traffic class 8, flow label 20: the ECN field is bits 4 and 5 of the second octet.
    if packet.len() < 40 || !is_ect(packet[1] >> 4 & ECN) {
        return false;
    }
    packet[1] |= ECN << 4;
    true
}

#[cfg(test)]
mod tests {
    use super::mark;

    fn sum(header: &[u8]) -> u16 {
        let words = header
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }

    /// An IPv4 header with this type of service and a right checksum, behind tags.
    fn v4(tos: u8, tags: &[u8]) -> Vec<u8> {
        let mut packet = vec![
            0x45, tos, 0, 20, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        let value = !sum(&packet);
        packet[10..12].copy_from_slice(&value.to_be_bytes());
        [&[7; 12][..], tags, &[8, 0], &packet].concat()
    }

    #[test]
    fn what_can_be_marked_is_and_its_checksum_holds() {
        for tags in [
            &[][..],
            &[0x81, 0, 0, 5],
            &[0x88, 0xa8, 0, 9, 0x81, 0, 0, 7],
        ] {
            for tos in 0..=255_u8 {
                let mut frame = v4(tos, tags);
                let marked = mark(&mut frame);
                assert_eq!(marked, matches!(tos & 3, 1 | 2));
                let packet = &frame[14 + tags.len()..];
                assert_eq!(sum(packet), 0xffff, "type of service {tos}");
                assert_eq!(packet[1], if marked { tos | 3 } else { tos });
            }
        }
    }

    #[test]
    fn ipv6_has_it_in_its_traffic_class() {
        let mut frame = [&[7; 12][..], &[0x86, 0xdd, 0x60, 0x20], &[0; 38]].concat();
        assert!(mark(&mut frame));
        assert_eq!(frame[14..16], [0x60, 0x30]);
        assert!(!mark(&mut frame));
    }

    #[test]
    fn anything_else_is_left_alone() {
        for len in 0..34 {
            let frame = v4(2, &[])[..len].to_vec();
            let mut same = frame.clone();
            assert!(!mark(&mut same) && same == frame);
        }
        let mut arp = [&[7; 12][..], &[8, 6], &[2; 28]].concat();
        assert!(!mark(&mut arp));
    }
}
