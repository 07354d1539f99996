//! The part of the Internet checksum (RFC 1071) that takes the time: adding up the words of a string, also while copying it.
//!
//! ```text
//!  bytes -> [one body, plain Rust] -> 64-bit sum of 32-bit words as they lie; bywash-wire folds and turns it
//!             |- compiled for what every processor of the target has
//!             |- compiled again for AVX2
//!             `- compiled again for AVX-512       chosen at run time, by what the processor says
//! ```
//! A crate of its own because calling a function that was compiled for more than the target has is `unsafe`, and bywash-wire
//! has none. The body is not: LLVM makes the vectors. Where there is no operating system to ask (`target_os = "none"`, where
//! vector registers are the kernel's business), and on other architectures, only the first copy exists.
#![no_std]

#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
mod wide;

/// Octets that the loops take at a time.
const BLOCK: usize = 64;
/// 64-bit lanes of the running sum: enough independent additions to keep the vector units busy.
const LANES: usize = 8;
/// Shorter strings are not worth a question and a call.
#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
const WIDE_MIN: usize = 4 * BLOCK;

/// The sum of the 32-bit words of `bytes` in native byte order, an incomplete last word padded with zeros. It cannot overflow
/// below 16 GiB.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
    if bytes.len() >= WIDE_MIN {
        return wide::sum(bytes);
    }
    sum_body(bytes)
}

/// Copies `src` to `dst` and gives its [`sum`], so that each byte is loaded once.
///
/// # Panics
/// If the lengths differ.
#[inline]
pub fn copy_and_sum(dst: &mut [u8], src: &[u8]) -> u64 {
    assert_eq!(
        dst.len(),
        src.len(),
        "copy between strings of different length"
    );
    #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
    if src.len() >= WIDE_MIN {
        return wide::copy_and_sum(dst, src);
    }
    copy_body(dst, src)
}

/// Adds one block to the lanes. A lane takes two 32-bit words a block: it cannot overflow below 2^31 blocks, 128 GiB.
#[inline(always)]
fn add_block(lanes: &mut [u64; LANES], block: &[u8; BLOCK]) {
    let (words, _) = block.as_chunks::<8>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        let word = u64::from_ne_bytes(*word);
        *lane += (word & 0xffff_ffff) + (word >> 32);
    }
}

/// Sums the words of a string shorter than a block.
#[inline(always)]
fn tail_words(tail: &[u8]) -> u64 {
    let (words, rest) = tail.as_chunks::<4>();
    let mut sum = 0;
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    // By cases: LLVM makes a call to memcpy of a loop over the last octets.
    let last = match *rest {
        [] => return sum,
        [a] => [a, 0, 0, 0],
        [a, b] => [a, b, 0, 0],
        [a, b, c, ..] => [a, b, c, 0],
    };
    sum + u64::from(u32::from_ne_bytes(last))
}

#[inline(always)]
fn sum_body(bytes: &[u8]) -> u64 {
    let (blocks, tail) = bytes.as_chunks::<BLOCK>();
    let mut sum = tail_words(tail);
    if !blocks.is_empty() {
        let mut lanes = [0; LANES];
        for block in blocks {
            add_block(&mut lanes, block);
        }
        sum += lanes.iter().sum::<u64>();
    }
    sum
}

#[inline(always)]
fn copy_body(dst: &mut [u8], src: &[u8]) -> u64 {
    let (to_blocks, to_tail) = dst.as_chunks_mut::<BLOCK>();
    let (from_blocks, from_tail) = src.as_chunks::<BLOCK>();
    let mut lanes = [0; LANES];
    for (to, from) in to_blocks.iter_mut().zip(from_blocks) {
        let block = *from;
        *to = block;
        add_block(&mut lanes, &block);
    }
    to_tail.copy_from_slice(from_tail);
    lanes.iter().sum::<u64>() + tail_words(from_tail)
}

#[cfg(test)]
mod tests;
