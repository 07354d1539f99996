//! The part of the Internet checksum (RFC 1071) that takes the time: adding up the words of a string, also while copying it.
//!
//! ```text
//!  bytes -> 64-bit ones' complement sum of the words as they lie; bywash-wire folds it to 16 bits and turns it
//!             |- short strings, other architectures: plain Rust, eight octets at a time with the carry
//!             |- AVX2:    32 octets at a time  }  chosen at run time, by what the processor says
//!             `- AVX-512: 64 octets at a time  }
//! ```
//! RFC 1071 2 (C): words may be summed in wider lanes, and the carries added in whenever that suits.
//!
//! A crate of its own because code for more than the target promises is `unsafe` to call, and bywash-wire has no `unsafe`. The
//! vectors are written out: of a plain loop LLVM makes gathers. Where there is no operating system to ask
//! (`target_os = "none"`, where vector registers are the kernel's business) only the plain code exists.
#![no_std]

#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
mod wide;

/// Shorter strings are not worth a question and a call.
#[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
const WIDE_MIN: usize = 128;

/// The ones' complement sum of the words of `bytes` in native byte order, a last incomplete word padded with zeros; folding its
/// halves together gives the sum of narrower words. Zero only if every byte is.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    #[cfg(all(target_arch = "x86_64", not(target_os = "none")))]
    if bytes.len() >= WIDE_MIN {
        return wide::sum(bytes);
    }
    sum_plain(bytes)
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
    dst.copy_from_slice(src);
    sum_plain(src)
}

/// Carries go into the upper half of 128 bits: an addition and an addition with carry for each eight octets.
#[inline]
fn sum_plain(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut sum = u128::from(last_word(rest));
    for word in words {
        sum += u128::from(u64::from_ne_bytes(*word));
    }
    end_around(sum as u64, (sum >> 64) as u64)
}

/// The sum of both, the carry added in; zero only if both are.
#[inline]
const fn end_around(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u64
}

/// Fewer than eight octets, as the beginning of a word.
#[inline]
fn last_word(rest: &[u8]) -> u64 {
    let mut word = [0; 8];
    let (halves, rest) = rest.as_chunks::<4>();
    let mut at = 0;
    if let [half] = halves {
        word[..4].copy_from_slice(half);
        at = 4;
    }
    // By cases: LLVM makes a call to memcpy of a loop over the last octets.
    match *rest {
        [] => {}
        [a] => word[at] = a,
        [a, b] => [word[at], word[at + 1]] = [a, b],
        [a, b, c, ..] => [word[at], word[at + 1], word[at + 2]] = [a, b, c],
    }
    u64::from_ne_bytes(word)
}

#[cfg(test)]
mod tests;
