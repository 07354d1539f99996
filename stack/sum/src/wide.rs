//! The sums in AVX2 and AVX-512, and the choice between them.
//!
//! A lane of 64 bits takes the lower and the upper half of a word in two additions, and so cannot overflow below 2^32 words.
//! Valgrind has no AVX-512: under it the AVX2 code runs, and that is what callgrind counts.

extern crate std;

use core::arch::x86_64::{
    __m256i, __m512i, _mm_add_epi64, _mm_cvtsi128_si64, _mm_extract_epi64, _mm256_add_epi64,
    _mm256_blend_epi32, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_loadu_si256,
    _mm256_setzero_si256, _mm256_srli_epi64, _mm256_storeu_si256, _mm512_add_epi64,
    _mm512_loadu_si512, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_maskz_mov_epi32,
    _mm512_reduce_add_epi64, _mm512_setzero_si512, _mm512_srli_epi64, _mm512_storeu_si512,
};
use std::arch::is_x86_feature_detected;

use crate::{end_around, sum_plain};

/// The lower halves of eight 64-bit words, as a mask of 32-bit words.
const LOWER: u16 = 0x5555;

/// std asks the processor and the operating system once; afterwards it is a load and a test.
pub(super) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
}

pub(super) fn sum(bytes: &[u8]) -> u64 {
    if has_avx512() {
        // SAFETY: the processor has it.
        unsafe { sum_avx512(bytes) }
    } else if has_avx2() {
        // SAFETY: the processor has it.
        unsafe { sum_avx2(bytes) }
    } else {
        sum_plain(bytes)
    }
}

/// The strings are of the same length.
pub(super) fn copy_and_sum(dst: &mut [u8], src: &[u8]) -> u64 {
    if has_avx512() {
        // SAFETY: the processor has it.
        unsafe { copy_avx512(dst, src) }
    } else if has_avx2() {
        // SAFETY: the processor has it.
        unsafe { copy_avx2(dst, src) }
    } else {
        dst.copy_from_slice(src);
        sum_plain(src)
    }
}

/// Two running sums, so that additions need not wait for each other.
#[derive(Clone, Copy)]
struct Sums512(__m512i, __m512i);

impl Sums512 {
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new() -> Self {
        Self(_mm512_setzero_si512(), _mm512_setzero_si512())
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn add(&mut self, words: __m512i) {
        self.0 = _mm512_add_epi64(self.0, _mm512_maskz_mov_epi32(LOWER, words));
        self.1 = _mm512_add_epi64(self.1, _mm512_srli_epi64::<32>(words));
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn total(self) -> u64 {
        _mm512_reduce_add_epi64(_mm512_add_epi64(self.0, self.1)) as u64
    }
}

/// Fewer than 64 octets, as a mask.
fn mask_of(rest: &[u8]) -> u64 {
    debug_assert!(rest.len() < 64);
    (1 << rest.len()) - 1
}

#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn sum_avx512(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let mut sums = Sums512::new();
    for block in blocks {
        // SAFETY: 64 octets at any alignment.
        sums.add(unsafe { _mm512_loadu_si512(block.as_ptr().cast()) });
    }
    // SAFETY: only the octets of `rest` are loaded, the others are zero.
    sums.add(unsafe { _mm512_maskz_loadu_epi8(mask_of(rest), rest.as_ptr().cast()) });
    sums.total()
}

/// The strings are of the same length.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn copy_avx512(dst: &mut [u8], src: &[u8]) -> u64 {
    let (to, to_rest) = dst.as_chunks_mut::<64>();
    let (from, rest) = src.as_chunks::<64>();
    assert_eq!(to_rest.len(), rest.len(), "strings of the same length");
    let mut sums = Sums512::new();
    for (to, from) in to.iter_mut().zip(from) {
        // SAFETY: 64 octets each, at any alignment.
        unsafe {
            let words = _mm512_loadu_si512(from.as_ptr().cast());
            _mm512_storeu_si512(to.as_mut_ptr().cast(), words);
            sums.add(words);
        }
    }
    let mask = mask_of(rest);
    // SAFETY: only the octets of `rest` are loaded and stored, and `to_rest` has as many.
    unsafe {
        let words = _mm512_maskz_loadu_epi8(mask, rest.as_ptr().cast());
        _mm512_mask_storeu_epi8(to_rest.as_mut_ptr().cast(), mask, words);
        sums.add(words);
    }
    sums.total()
}

/// As [`Sums512`], for 32 octets.
#[derive(Clone, Copy)]
struct Sums256(__m256i, __m256i);

impl Sums256 {
    #[target_feature(enable = "avx2")]
    fn new() -> Self {
        Self(_mm256_setzero_si256(), _mm256_setzero_si256())
    }

    #[target_feature(enable = "avx2")]
    fn add(&mut self, words: __m256i) {
        let lower = _mm256_blend_epi32::<0b1010_1010>(words, _mm256_setzero_si256());
        self.0 = _mm256_add_epi64(self.0, lower);
        self.1 = _mm256_add_epi64(self.1, _mm256_srli_epi64::<32>(words));
    }

    #[target_feature(enable = "avx2")]
    fn total(self) -> u64 {
        let four = _mm256_add_epi64(self.0, self.1);
        let two = _mm_add_epi64(
            _mm256_castsi256_si128(four),
            _mm256_extracti128_si256::<1>(four),
        );
        (_mm_cvtsi128_si64(two) + _mm_extract_epi64::<1>(two)) as u64
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn sum_avx2(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut sums = Sums256::new();
    for block in blocks {
        // SAFETY: 32 octets at any alignment.
        sums.add(unsafe { _mm256_loadu_si256(block.as_ptr().cast()) });
    }
    end_around(sums.total(), sum_plain(rest))
}

/// The strings are of the same length.
#[target_feature(enable = "avx2")]
pub(super) fn copy_avx2(dst: &mut [u8], src: &[u8]) -> u64 {
    let (to, to_rest) = dst.as_chunks_mut::<32>();
    let (from, rest) = src.as_chunks::<32>();
    let mut sums = Sums256::new();
    for (to, from) in to.iter_mut().zip(from) {
        // SAFETY: 32 octets each, at any alignment.
        unsafe {
            let words = _mm256_loadu_si256(from.as_ptr().cast());
            _mm256_storeu_si256(to.as_mut_ptr().cast(), words);
            sums.add(words);
        }
    }
    to_rest.copy_from_slice(rest);
    end_around(sums.total(), sum_plain(rest))
}
