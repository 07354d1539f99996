//! Time as a count of nanoseconds.
//!
//! The state machine never reads a clock: whoever drives it passes [`Instant`]s, all of one monotonic clock whose start
//! means nothing. 64 bits of nanoseconds last 584 years, so sums saturate instead of failing: an instant at the end of
//! time is a timer that never fires, which is the right answer to an absurd duration.

use core::fmt;
use core::ops::{Add, AddAssign, Div, Mul, Sub};

/// A moment: nanoseconds since the driving clock's own start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Instant(u64);

/// A span of time in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Duration(u64);

impl Instant {
    /// The clock's start.
    pub const ZERO: Self = Self(0);

    /// The moment `nanos` nanoseconds after the clock's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Milliseconds since the clock's start, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / Duration::NANOS_PER_MILLI
    }

    /// The time from `earlier` to `self`; zero if `earlier` is in fact later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration(self.0.saturating_sub(earlier.0))
    }

    /// `self + span`, or `None` beyond the end of the clock.
    pub const fn checked_add(self, span: Duration) -> Option<Self> {
        match self.0.checked_add(span.0) {
            Some(nanos) => Some(Self(nanos)),
            None => None,
        }
    }

    /// `self - span`, or `None` before the clock's start.
    pub const fn checked_sub(self, span: Duration) -> Option<Self> {
        match self.0.checked_sub(span.0) {
            Some(nanos) => Some(Self(nanos)),
            None => None,
        }
    }
}

impl Duration {
    const NANOS_PER_MICRO: u64 = 1_000;
    const NANOS_PER_MILLI: u64 = 1_000_000;
    const NANOS_PER_SEC: u64 = 1_000_000_000;

    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// `nanos` nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// `micros` microseconds, saturating.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(Self::NANOS_PER_MICRO))
    }

    /// `millis` milliseconds, saturating.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(Self::NANOS_PER_MILLI))
    }

    /// `secs` seconds, saturating.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(Self::NANOS_PER_SEC))
    }

    /// Nanoseconds.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Microseconds, rounded down.
    pub const fn as_micros(self) -> u64 {
        self.0 / Self::NANOS_PER_MICRO
    }

    /// Milliseconds, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / Self::NANOS_PER_MILLI
    }

    /// The difference without sign.
    pub const fn abs_diff(self, other: Self) -> Self {
        Self(self.0.abs_diff(other.0))
    }

    /// `self * 2^doublings`, saturating: exponential back-off.
    pub const fn backed_off(self, doublings: u32) -> Self {
        if doublings >= 64 {
            return if self.0 == 0 { Self(0) } else { Self(u64::MAX) };
        }
        Self(self.0.saturating_mul(1 << doublings))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

impl Add for Duration {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Duration {
    type Output = Self;
    /// Zero instead of a negative span.
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Mul<u32> for Duration {
    type Output = Self;
    fn mul(self, factor: u32) -> Self {
        Self(self.0.saturating_mul(factor as u64))
    }
}

impl Div<u32> for Duration {
    type Output = Self;
    fn div(self, divisor: u32) -> Self {
        Self(self.0 / divisor as u64)
    }
}

impl From<core::time::Duration> for Duration {
    fn from(span: core::time::Duration) -> Self {
        Self(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Duration> for core::time::Duration {
    fn from(span: Duration) -> Self {
        Self::from_nanos(span.0)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{:?}", core::time::Duration::from_nanos(self.0))
    }
}

impl fmt::Debug for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&core::time::Duration::from_nanos(self.0), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_saturate_and_say_so_when_asked() {
        let end = Instant::from_nanos(u64::MAX);
        assert_eq!(end + Duration::from_secs(1), end);
        assert_eq!(end.checked_add(Duration::from_nanos(1)), None);
        assert_eq!(Instant::ZERO.checked_sub(Duration::from_nanos(1)), None);
        assert_eq!(Instant::ZERO.since(end), Duration::ZERO);
        assert_eq!(end.since(Instant::ZERO).as_nanos(), u64::MAX);
    }

    #[test]
    fn back_off_doubles_and_ends() {
        let rto = Duration::from_millis(200);
        assert_eq!(rto.backed_off(0), rto);
        assert_eq!(rto.backed_off(3).as_millis(), 1_600);
        assert_eq!(rto.backed_off(63).as_nanos(), u64::MAX);
        assert_eq!(rto.backed_off(64).as_nanos(), u64::MAX);
        assert_eq!(Duration::ZERO.backed_off(64), Duration::ZERO);
    }
}
