//! The names of the algorithms, as `TCP_CONGESTION` and `iperf3 -C` have them.

use core::fmt;
use core::str::FromStr;

use crate::snapshot::code;

/// A congestion control algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum CongestionControl {
    /// CUBIC (RFC 9438) with HyStart++ (RFC 9406).
    #[default]
    Cubic,
    /// Reno (RFC 5681) with HyStart++.
    Reno,
    /// BBRv3 (draft-ietf-ccwg-bbr-06), always paced.
    Bbr,
}

code!(
    enum CongestionControl {
        Cubic = 0,
        Reno = 1,
        Bbr = 2,
    }
);

impl CongestionControl {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cubic, Self::Reno, Self::Bbr];

    /// The name: "cubic", "reno" or "bbr".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Reno => "reno",
            Self::Bbr => "bbr",
        }
    }
}

impl fmt::Display for CongestionControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// There is no congestion control algorithm of that name here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCongestionControl;

impl fmt::Display for UnknownCongestionControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown congestion control algorithm; there are cubic, reno and bbr")
    }
}

impl core::error::Error for UnknownCongestionControl {}

impl FromStr for CongestionControl {
    type Err = UnknownCongestionControl;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or(UnknownCongestionControl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for algorithm in CongestionControl::ALL {
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
        }
        assert_eq!(
            "vegas".parse::<CongestionControl>(),
            Err(UnknownCongestionControl)
        );
    }
}
