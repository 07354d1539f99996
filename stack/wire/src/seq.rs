//! TCP sequence numbers: a circle, not a line.
//!
//! A sequence number is 32 bits that wrap, so "less than" has no meaning for two numbers alone; it has one for two numbers
//! that lie less than half the circle (2^31) apart, and that is always so for numbers of one connection, since no window
//! is larger than 2^30 (RFC 7323 2.3). [`SeqNumber`] therefore has no `Ord`: it offers `before`, `after` and
//! [`in_window`](SeqNumber::in_window), and a signed [`distance_from`](SeqNumber::distance_from).

use core::fmt;
use core::ops::{Add, AddAssign, Sub, SubAssign};

/// A sequence or acknowledgment number (RFC 9293 3.4), compared modulo 2^32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct SeqNumber(u32);

impl SeqNumber {
    /// The number with these 32 bits, host order.
    #[inline]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The 32 bits, host order.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// How far `self` lies behind (positive) or ahead of (negative) `other`, in octets: `self - other` on the circle.
    ///
    /// At exactly half the circle the answer is `i32::MIN` both ways.
    #[inline]
    pub const fn distance_from(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }

    /// `self < other` on the half circle around `other`.
    #[inline]
    pub const fn before(self, other: Self) -> bool {
        self.distance_from(other) < 0
    }

    /// `self > other` on the half circle around `other`.
    ///
    /// Written as `other` before `self`, so that of two numbers half a circle apart each is before *and* after the other,
    /// and `at_or_before` is exactly "not after", as in Linux.
    #[inline]
    pub const fn after(self, other: Self) -> bool {
        other.before(self)
    }

    /// `self <= other`: not [`after`](Self::after).
    #[inline]
    pub const fn at_or_before(self, other: Self) -> bool {
        !self.after(other)
    }

    /// `self >= other`: not [`before`](Self::before).
    #[inline]
    pub const fn at_or_after(self, other: Self) -> bool {
        !self.before(other)
    }

    /// `start <= self < start + len`; an empty window holds nothing. Right for every `len`, also above 2^31.
    #[inline]
    pub const fn in_window(self, start: Self, len: u32) -> bool {
        self.0.wrapping_sub(start.0) < len
    }
}

impl Add<u32> for SeqNumber {
    type Output = Self;
    #[inline]
    fn add(self, octets: u32) -> Self {
        Self(self.0.wrapping_add(octets))
    }
}

impl Sub<u32> for SeqNumber {
    type Output = Self;
    #[inline]
    fn sub(self, octets: u32) -> Self {
        Self(self.0.wrapping_sub(octets))
    }
}

impl AddAssign<u32> for SeqNumber {
    #[inline]
    fn add_assign(&mut self, octets: u32) {
        *self = *self + octets;
    }
}

impl SubAssign<u32> for SeqNumber {
    #[inline]
    fn sub_assign(&mut self, octets: u32) {
        *self = *self - octets;
    }
}

impl fmt::Display for SeqNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for SeqNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::SeqNumber;
    use proptest::prelude::*;

    #[test]
    fn wraps_at_the_top() {
        let last = SeqNumber::new(u32::MAX);
        let first = last + 1;
        assert_eq!(first.raw(), 0);
        assert!(last.before(first) && first.after(last));
        assert_eq!(first.distance_from(last), 1);
        assert_eq!(last.distance_from(first), -1);
        assert_eq!(first - 1, last);
    }

    #[test]
    fn window_edges() {
        let start = SeqNumber::new(u32::MAX - 1);
        assert!(!start.in_window(start, 0));
        assert!(start.in_window(start, 1));
        assert!((start + 3).in_window(start, 4));
        assert!(!(start + 4).in_window(start, 4));
        assert!(!(start - 1).in_window(start, u32::MAX));
    }

    proptest! {
        /// Against the integers: numbers less than half the circle apart compare as their unwrapped positions do.
        #[test]
        fn agrees_with_integers(base: u32, offset in -0x7fff_ffff_i64..=0x7fff_ffff) {
            let a = SeqNumber::new(base);
            let b = SeqNumber::new((i64::from(base) + offset) as u32);
            prop_assert_eq!(b.before(a), offset < 0);
            prop_assert_eq!(b.after(a), offset > 0);
            prop_assert_eq!(b.at_or_before(a), offset <= 0);
            prop_assert_eq!(b.at_or_after(a), offset >= 0);
            prop_assert_eq!(i64::from(b.distance_from(a)), offset);
        }
    }
}
