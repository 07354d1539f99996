//! What is emitted is decoded again.

use bywash_wire::{
    ChecksumPolicy, Decoded, DropReason, Flags, Options, SackBlocks, SeqNumber, Timestamps,
    checksum, decode, emit_partial, header_len,
};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::strategies::case;

proptest! {
    #[test]
    fn emit_then_decode(case in case(), split: Index, padding in 0usize..50) {
        let mut frame = case.frame(split.index(case.payload.len() + 1));
        let len = frame.len();
        frame.resize(len + padding, 0x77);
        let expected = Decoded {
            source_mac: case.link.source_mac,
            destination_mac: case.link.destination_mac,
            tuple: case.tuple.reversed(),
            ecn: case.ecn,
            hop_limit: case.hop_limit,
            segment: case.segment,
            payload: len - case.payload.len()..len,
            partial_checksum: false,
        };
        let decoded = decode(&frame, ChecksumPolicy::Full).expect("a right frame");
        prop_assert_eq!(&frame[decoded.payload.clone()], &case.payload[..]);
        prop_assert_eq!(decoded, expected);
    }

    /// Any one flipped bit between the IP header and the end is found, but for those that no checksum covers.
    #[test]
    fn a_flipped_bit_is_found(case in case(), at: Index, bit in 0u8..8) {
        let mut frame = case.frame(0);
        let start = case.link.header_len();
        let ip_end = start + if case.tuple.is_v4() { 20 } else { 40 };
        let at = start + at.index(frame.len() - start);
        frame[at] ^= 1 << bit;
        let result = decode(&frame, ChecksumPolicy::Full);
        if case.tuple.is_v4() && at < ip_end {
            let version = at == start && (4..8).contains(&bit);
            // The IHL is believed before the checksum can be computed; a larger one may reach beyond the frame.
            let ihl = at == start && bit < 4;
            match result {
                Err(DropReason::BadIpVersion) => prop_assert!(version),
                Err(DropReason::BadIpHeaderLength) => prop_assert!(ihl),
                other => prop_assert!(other == Err(DropReason::BadIpChecksum) || ihl, "{:?}", other),
            }
        } else if at >= ip_end {
            prop_assert!(matches!(result, Err(DropReason::BadTcpChecksum | DropReason::BadDataOffset)), "{:?}", result);
        }
    }

    /// What is left for somebody behind us to complete is what such a somebody expects, at the place that is told.
    #[test]
    fn a_partial_checksum_is_emitted(case in case()) {
        let mut frame = case.frame(0);
        let full = frame.clone();
        let len = header_len(&case.link, &case.tuple, &case.segment);
        let start = emit_partial(&mut frame[..len], &case.link, &case.tuple, case.ecn, case.hop_limit, &case.segment);
        prop_assert!(decode(&frame, ChecksumPolicy::FullOrPseudo).is_ok());
        prop_assert_eq!(&frame[..start + 16], &full[..start + 16]);
        prop_assert_eq!(&frame[start + 18..], &full[start + 18..]);
        // RFC 1071: the sum over everything from `start`, the half-sum included, completes it.
        let sum = checksum::sum(&frame[start..]).finish();
        frame[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
        prop_assert!(decode(&frame, ChecksumPolicy::Full).is_ok());
    }

    #[test]
    fn a_partial_checksum_is_only_taken_where_allowed(case in case(), corrupt: Index) {
        let mut frame = case.frame(0);
        let start = case.link.header_len() + if case.tuple.is_v4() { 20 } else { 40 };
        let length = frame.len() - start;
        let pseudo = bywash_wire::checksum::pseudo_header(case.tuple.local, case.tuple.remote, 6, length).partial();
        // One segment in 65536 has this sum as its right checksum.
        prop_assume!(frame[start + 16..start + 18] != pseudo.to_be_bytes());
        frame[start + 16..start + 18].copy_from_slice(&pseudo.to_be_bytes());
        let decoded = decode(&frame, ChecksumPolicy::FullOrPseudo).expect("the pseudo header's sum is enough");
        prop_assert!(decoded.partial_checksum);
        prop_assert!(!decode(&frame, ChecksumPolicy::Trusted).unwrap().partial_checksum);
        prop_assert_eq!(decode(&frame, ChecksumPolicy::Full), Err(DropReason::BadTcpChecksum));

        let mut full = case.frame(0);
        prop_assert!(!decode(&full, ChecksumPolicy::FullOrPseudo).unwrap().partial_checksum);
        let at = start + 18 + corrupt.index(length - 18);
        full[at] ^= 0x10;
        prop_assert_eq!(decode(&full, ChecksumPolicy::FullOrPseudo), Err(DropReason::BadTcpChecksum));
        prop_assert!(decode(&full, ChecksumPolicy::Trusted).is_ok());
    }
}

/// Four blocks and timestamps are 48 octets: the last block stays behind.
#[test]
fn sack_blocks_give_way_to_what_stands_before_them() {
    let block = |at: u32| (SeqNumber::new(at), SeqNumber::new(at + 1));
    let sack: SackBlocks = [block(10), block(20), block(30), block(40)]
        .into_iter()
        .collect();
    let mut options = Options {
        sack,
        ..Options::NONE
    };
    assert_eq!(options.emitted_len(), 36);
    options.timestamps = Some(Timestamps { value: 1, echo: 2 });
    assert_eq!(options.emitted_len(), 40);
    let tuple = bywash_wire::Tuple::tcp(
        "10.0.0.1".parse().unwrap(),
        1,
        "10.0.0.2".parse().unwrap(),
        2,
    );
    let segment = bywash_wire::Segment {
        flags: Flags::ACK,
        options,
        ..Default::default()
    };
    let link = bywash_wire::Link::default();
    let mut frame = vec![0; bywash_wire::header_len(&link, &tuple, &segment)];
    bywash_wire::emit(
        &mut frame,
        &link,
        &tuple,
        Default::default(),
        64,
        &segment,
        Default::default(),
    );
    let decoded = decode(&frame, ChecksumPolicy::Full).unwrap();
    assert_eq!(
        decoded.segment.options.sack,
        [block(10), block(20), block(30)].into_iter().collect()
    );
    assert_eq!(decoded.segment.options.timestamps, options.timestamps);
}
