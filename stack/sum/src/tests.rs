extern crate std;

use proptest::prelude::*;
use std::vec;

use super::*;

/// Word by word: the oracle.
fn plain(bytes: &[u8]) -> u64 {
    bytes
        .chunks(4)
        .map(|word| {
            let mut padded = [0; 4];
            padded[..word.len()].copy_from_slice(word);
            u64::from(u32::from_ne_bytes(padded))
        })
        .sum()
}

#[test]
fn carries_survive_at_every_length() {
    let ones = vec![0xff; 70_000];
    for len in (0..1_000).chain([65_535, 65_536, 69_999, 70_000]) {
        assert_eq!(sum(&ones[..len]), plain(&ones[..len]), "{len}");
    }
}

#[test]
#[should_panic(expected = "different length")]
fn a_copy_between_different_lengths_is_refused() {
    copy_and_sum(&mut [0; 300], &[0; 301]);
}

proptest! {
    /// Whichever copy runs, at any length and alignment.
    #[test]
    fn all_copies_agree(bytes in proptest::collection::vec(any::<u8>(), 0..2000), skip in 0_usize..64) {
        let bytes = &bytes[skip.min(bytes.len())..];
        let expected = plain(bytes);
        prop_assert_eq!(sum(bytes), expected);
        prop_assert_eq!(sum_body(bytes), expected);
        let mut copy = vec![0xaa; bytes.len()];
        prop_assert_eq!(copy_and_sum(&mut copy, bytes), expected);
        prop_assert_eq!(&copy, bytes);
        copy.fill(0xaa);
        prop_assert_eq!(copy_body(&mut copy, bytes), expected);
        prop_assert_eq!(&copy, bytes);
        #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            let (summed, copied) = unsafe { (wide::sum_avx2(bytes), wide::copy_avx2(&mut copy, bytes)) };
            prop_assert_eq!((summed, copied), (expected, expected));
            prop_assert_eq!(&copy, bytes);
        }
    }
}
