//! Bytes that nobody meant: `decode` answers, and what it says about a frame lies inside the frame.

use bywash_wire::{ChecksumPolicy, decode};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::strategies::case;

fn check(frame: &[u8]) {
    for policy in [
        ChecksumPolicy::Full,
        ChecksumPolicy::FullOrPseudo,
        ChecksumPolicy::Trusted,
    ] {
        if let Ok(decoded) = decode(frame, policy) {
            assert_eq!(
                frame[decoded.payload.clone()].len(),
                decoded.segment.payload_len
            );
            assert_eq!(
                decoded.tuple.local.is_ipv4(),
                decoded.tuple.remote.is_ipv4()
            );
            assert!(
                decoded
                    .segment
                    .options
                    .window_scale
                    .is_none_or(|shift| shift <= 14)
            );
            assert!(decoded.segment.header_len() <= 60);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&frame);
    }

    /// Right so far that the random part is reached: Ethernet, version, and no IPv4 checksum in the way.
    #[test]
    fn any_ip_packet(v4: bool, ihl in 5u8..=15, next in prop_oneof![Just(6u8), Just(0), Just(43), Just(60), any::<u8>()],
                     rest in proptest::collection::vec(any::<u8>(), 64..300)) {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00];
        if !v4 {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        }
        frame.extend(&rest);
        let ip = &mut frame[14..];
        let len = ip.len() as u16;
        if v4 {
            ip[0] = 0x40 | ihl;
            ip[2..4].copy_from_slice(&len.to_be_bytes());
            ip[6..8].fill(0);
            ip[9] = 6;
            ip[10..12].fill(0);
            let header = usize::from(ihl) * 4;
            let sum = bywash_wire::checksum::sum(&ip[..header]).finish();
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            ip[0] = 0x60;
            ip[4..6].copy_from_slice(&(len - 40).to_be_bytes());
            ip[6] = next;
        }
        check(&frame);
    }

    #[test]
    fn a_mutated_right_frame(
        case in case(),
        changes in proptest::collection::vec(any::<(Index, u8)>(), 0..6),
        cut in proptest::option::of(any::<Index>()),
    ) {
        let mut frame = case.frame(0);
        // Most of the frame is payload, where a change says little: change the headers.
        let header = frame.len() - case.payload.len();
        for (at, value) in changes {
            frame[at.index(header)] = value;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(header + 1));
        }
        check(&frame);
    }
}
