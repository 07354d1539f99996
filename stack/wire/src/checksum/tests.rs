extern crate std;
use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

/// RFC 1071 4.1, word by word: the oracle.
fn plain(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn the_example_of_rfc_1071() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(sum(&bytes).partial(), 0xddf2);
    assert_eq!(sum(&bytes).finish(), !0xddf2);
}

#[test]
fn carries_survive_at_every_length() {
    let ones = vec![0xff; 70_000];
    for len in (0..300).chain([65_535, 65_536, 69_999, 70_000]) {
        assert_eq!(sum(&ones[..len]).partial(), plain(&ones[..len]), "{len}");
    }
}

proptest! {
    #[test]
    fn agrees_with_the_plain_sum(bytes in proptest::collection::vec(any::<u8>(), 0..1600)) {
        let result = sum(&bytes);
        prop_assert_eq!(result.partial(), plain(&bytes));
        prop_assert_eq!(result.to_bits() >> 16, bytes.len() as u32 % 2);
        prop_assert_eq!(Sum::from_bits(result.to_bits()), result);
        let mut copy = vec![0xaa; bytes.len()];
        prop_assert_eq!(copy_and_sum(&mut copy, &bytes), result);
        prop_assert_eq!(copy, bytes);
    }

    #[test]
    fn parts_join_at_any_split(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let joined = cuts
            .windows(2)
            .fold(Sum::ZERO, |joined, cut| joined.then(sum(&bytes[cut[0]..cut[1]])));
        prop_assert_eq!(joined, sum(&bytes));
    }

    #[test]
    fn pseudo_headers_are_sums_of_their_bytes(
        v4: [[u8; 4]; 2], v6: [[u8; 16]; 2], protocol: u8, length: u16, length6: u32,
    ) {
        let bytes = [&v4[0][..], &v4[1], &[0, protocol], &length.to_be_bytes()].concat();
        prop_assert_eq!(pseudo_v4(v4[0].into(), v4[1].into(), protocol, length), sum(&bytes));
        let bytes = [&v6[0][..], &v6[1], &length6.to_be_bytes(), &[0, 0, 0, protocol]].concat();
        prop_assert_eq!(pseudo_v6(v6[0].into(), v6[1].into(), protocol, length6), sum(&bytes));
    }
}
