extern crate std;

use proptest::prelude::*;
use std::vec;

use super::*;

/// RFC 1071 4.1, word by word: the oracle.
fn oracle(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn carries_survive_at_every_length() {
    let ones = vec![0xff; 70_000];
    for len in (0..1_000).chain([65_535, 65_536, 69_999, 70_000]) {
        assert_eq!(folded(sum(&ones[..len])), oracle(&ones[..len]), "{len}");
    }
}

#[test]
fn only_zeros_sum_to_zero() {
    for len in 0..300 {
        let mut bytes = vec![0; len];
        assert_eq!(sum(&bytes), 0);
        for at in 0..len {
            bytes[at] = 0xff;
            assert_ne!(folded(sum(&bytes)), 0, "{at} of {len}");
            bytes[at] = 0;
        }
    }
}

#[test]
#[should_panic(expected = "different length")]
fn a_copy_between_different_lengths_is_refused() {
    copy_and_sum(&mut [0; 300], &[0; 301]);
}

/// A copy between two strings with something behind each.
fn copied(bytes: &[u8], copy: impl Fn(&mut [u8], &[u8]) -> u64) -> (u16, bool) {
    let mut to = vec![0xaa; bytes.len() + 70];
    let sum = copy(&mut to[..bytes.len()], bytes);
    let whole = to[..bytes.len()] == *bytes && to[bytes.len()..].iter().all(|byte| *byte == 0xaa);
    (folded(sum), whole)
}

proptest! {
    /// Whichever runs, at any length and alignment.
    #[test]
    fn all_forms_agree(bytes in proptest::collection::vec(any::<u8>(), 0..2000), skip in 0_usize..64) {
        let bytes = &bytes[skip.min(bytes.len())..];
        let expected = oracle(bytes);
        prop_assert_eq!(folded(sum(bytes)), expected);
        prop_assert_eq!(folded(sum_plain(bytes)), expected);
        prop_assert_eq!(copied(bytes, copy_and_sum), (expected, true));
        #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
        {
            if wide::has_avx2() {
                // SAFETY: the processor has it.
                prop_assert_eq!(folded(unsafe { wide::sum_avx2(bytes) }), expected);
                // SAFETY: the processor has it.
                let copy = |to: &mut [u8], from: &[u8]| unsafe { wide::copy_avx2(to, from) };
                prop_assert_eq!(copied(bytes, copy), (expected, true));
            }
            if wide::has_avx512() {
                // SAFETY: the processor has it.
                prop_assert_eq!(folded(unsafe { wide::sum_avx512(bytes) }), expected);
                // SAFETY: the processor has it.
                let copy = |to: &mut [u8], from: &[u8]| unsafe { wide::copy_avx512(to, from) };
                prop_assert_eq!(copied(bytes, copy), (expected, true));
            }
        }
    }
}
