//! The Internet checksum (RFC 1071), summed once per byte and put together from parts.
//!
//! A segment's checksum covers pseudo header, TCP header and payload. The payload's part is computed when the payload is
//! copied ([`copy_and_sum`]), kept as a [`Sum`], and joined with the header's part whenever the segment is sent: a
//! retransmission does not touch the payload again.
//!
//! ```text
//! payload:   copy_and_sum -> Sum --+--------------------------------+
//! header:    sum -----------> Sum  +-> pseudo.then(header).then(payload).finish() -> u16
//! addresses: pseudo_header -> Sum -+
//! ```
//!
//! Ones' complement sums do not depend on byte order except for one swap at the end (RFC 1071 2 (B)), and 16-bit words may
//! be summed in wider lanes with the carries folded in later (2 (C)). So `bywash_sum` adds 32-bit words as they lie into
//! 64-bit lanes, without a carry chain, in the widest vectors that the processor has.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ones' complement sum of a byte string, which knows whether the string's length is odd.
///
/// Parity matters for joining: behind an odd string every byte of the next one stands in the other half of its 16-bit word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Sum {
    /// Folded sum of big-endian words; an odd string counts as padded by a zero byte.
    folded: u16,
    odd: bool,
}

const ODD: u32 = 1 << 16;

impl Sum {
    /// The sum of the empty string.
    pub const ZERO: Self = Self {
        folded: 0,
        odd: false,
    };

    /// The sum of this string with `next` behind it.
    #[inline]
    #[must_use]
    pub const fn then(self, next: Self) -> Self {
        let folded = if self.odd {
            next.folded.swap_bytes()
        } else {
            next.folded
        };
        let (folded, carry) = self.folded.overflowing_add(folded);
        Self {
            folded: folded + carry as u16,
            odd: self.odd ^ next.odd,
        }
    }

    /// The checksum: the sum's complement, as a host-order number whose big-endian bytes go into the header field.
    ///
    /// A string that contains its own right checksum has the checksum 0.
    #[inline]
    pub const fn finish(self) -> u16 {
        !self.folded
    }

    /// The sum itself without the complement: what a sender leaves in the header field for an offload to complete.
    #[inline]
    pub const fn partial(self) -> u16 {
        self.folded
    }

    /// The sum as plain data: bits 0..16 the folded sum, bit 16 the parity.
    #[inline]
    pub const fn to_bits(self) -> u32 {
        self.folded as u32 | if self.odd { ODD } else { 0 }
    }

    /// The reverse of [`to_bits`](Self::to_bits); other bits are ignored.
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        Self {
            folded: bits as u16,
            odd: bits & ODD != 0,
        }
    }

    /// From a sum of big-endian words of a string of even length.
    #[inline]
    pub(crate) const fn from_words(sum: u64) -> Self {
        Self {
            folded: fold(sum),
            odd: false,
        }
    }

    /// From a sum of words that were loaded in native byte order.
    #[inline]
    const fn from_native(sum: u64, odd: bool) -> Self {
        Self {
            folded: fold(sum).to_be(),
            odd,
        }
    }
}

/// Adds the upper parts to the lower until 16 bits are left. Zero stays zero, and nothing else becomes zero.
#[inline]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff); // < 2^33
    let sum = (sum >> 16) + (sum & 0xffff); // < 2^18
    let sum = (sum >> 16) + (sum & 0xffff); // < 2^16 + 3
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// The sum of `bytes`.
#[inline]
pub fn sum(bytes: &[u8]) -> Sum {
    Sum::from_native(bywash_sum::sum(bytes), !bytes.len().is_multiple_of(2))
}

/// Copies `src` to `dst` and sums it on the way, so that each byte is loaded once.
///
/// # Panics
/// If the lengths differ.
#[inline]
pub fn copy_and_sum(dst: &mut [u8], src: &[u8]) -> Sum {
    let sum = bywash_sum::copy_and_sum(dst, src);
    Sum::from_native(sum, !src.len().is_multiple_of(2))
}

/// IPv4 pseudo header (RFC 9293 3.1): addresses, protocol, and `length` of the TCP segment in octets.
#[inline]
pub fn pseudo_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: u16) -> Sum {
    let addresses = u64::from(source.to_bits()) + u64::from(destination.to_bits());
    Sum::from_words(addresses + u64::from(protocol) + u64::from(length))
}

/// IPv6 pseudo header (RFC 8200 8.1): addresses, upper-layer `length` in octets, and protocol.
#[inline]
pub fn pseudo_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, length: u32) -> Sum {
    let mut sum = u64::from(length) + u64::from(protocol);
    for address in [source.to_bits(), destination.to_bits()] {
        for shift in [0, 32, 64, 96] {
            sum += u64::from((address >> shift) as u32);
        }
    }
    Sum::from_words(sum)
}

/// The pseudo header of the addresses' family.
///
/// # Panics
/// If the addresses are of different families, or an IPv4 `length` is above 65535.
#[inline]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Sum {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let length = u16::try_from(length).expect("an IPv4 packet is at most 65535 octets");
            pseudo_v4(source, destination, protocol, length)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            pseudo_v6(source, destination, protocol, length as u32)
        }
        _ => panic!("addresses of different families"),
    }
}

#[cfg(test)]
mod tests;
