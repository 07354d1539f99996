//! What a link does to packets, and how it is written on a command line.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

/// What one direction does. The default does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Impairment {
    /// Time from the end of serialisation to arrival.
    pub delay: Duration,
    /// Largest addition to the delay, drawn evenly for each packet. Order is kept; see `reorder`.
    pub jitter: Duration,
    /// Probability that a packet is lost, each by itself.
    pub loss: f64,
    /// Loss in bursts (Gilbert's model).
    pub burst: Option<Burst>,
    /// Probability that a packet is held back for `reorder_by`, so that later ones overtake it.
    pub reorder: f64,
    /// How long it is held back.
    pub reorder_by: Duration,
    /// Probability that a packet arrives twice.
    pub duplicate: f64,
    /// Probability that a packet is marked as having met congestion (CE), if its transport takes marks (ECT).
    pub mark: f64,
    /// Probability that one bit behind the Ethernet header is flipped.
    pub corrupt: f64,
    /// Probability that the end of a packet is cut off, at a place drawn evenly behind the Ethernet header.
    pub truncate: f64,
    /// Bits of frames, without preamble and checksum, a second. `None`: no limit.
    pub rate: Option<u64>,
    /// Bytes that may wait for the rate; what does not fit is dropped (drop-tail). Without a rate nothing waits.
    pub queue: usize,
}

/// Loss in bursts: all packets are lost in the bad state, none in the good one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Burst {
    /// Probability, at each packet, of going from good to bad.
    pub enter: f64,
    /// Probability, at each packet, of going from bad to good: the mean burst is 1/leave packets long.
    pub leave: f64,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            burst: None,
            reorder: 0.0,
            reorder_by: Duration::from_millis(1),
            duplicate: 0.0,
            mark: 0.0,
            corrupt: 0.0,
            truncate: 0.0,
            rate: None,
            queue: 256 * 1024,
        }
    }
}

/// Both directions and the seed of all draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Link {
    /// From the first device to the second.
    pub forth: Impairment,
    /// From the second to the first.
    pub back: Impairment,
    /// Seed of all draws.
    pub seed: u64,
}

impl Link {
    /// The same in both directions.
    pub fn both(impairment: Impairment, seed: u64) -> Self {
        Self {
            forth: impairment,
            back: impairment,
            seed,
        }
    }
}

/// A value for both directions: `X`, or `X/Y` for forth and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Each<T>(pub T, pub T);

impl<T: FromStr<Err = anyhow::Error> + Copy> FromStr for Each<T> {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text.split_once('/') {
            Some((forth, back)) => Self(forth.parse()?, back.parse()?),
            None => {
                let both = text.parse()?;
                Self(both, both)
            }
        })
    }
}

/// `1%` or `0.01`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probability(pub f64);

impl FromStr for Probability {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (number, scale) = match text.strip_suffix('%') {
            Some(number) => (number, 0.01),
            None => (text, 1.0),
        };
        let value: f64 = number
            .trim()
            .parse()
            .with_context(|| format!("`{text}` is no probability: write 0.01 or 1%"))?;
        let value = value * scale;
        ensure!(
            (0.0..=1.0).contains(&value),
            "the probability `{text}` is not between 0 and 1 (0% and 100%)"
        );
        Ok(Self(value))
    }
}

/// `10ms`, `250us`, `1.5s`, `20ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let units = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)];
        let found = units
            .iter()
            .find_map(|(unit, ns)| Some((text.strip_suffix(unit)?, ns)));
        let Some((number, ns)) = found else {
            bail!("`{text}` is no time: write a number with ns, us, ms or s, as 10ms");
        };
        let value: f64 = number
            .trim()
            .parse()
            .with_context(|| format!("`{text}` is no time: write 10ms or 1.5s"))?;
        ensure!(
            (0.0..=3600e9).contains(&(value * ns)),
            "the time `{text}` is not between 0 and one hour"
        );
        Ok(Self(Duration::from_nanos((value * ns) as u64)))
    }
}

/// `100mbit`, `1.5gbit`, `64kbit`, `9600bit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u64);

impl FromStr for Rate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let units = [("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3), ("bit", 1.0)];
        let found = units
            .iter()
            .find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, bits)));
        let Some((number, bits)) = found else {
            bail!("`{text}` is no rate: write a number with bit, kbit, mbit or gbit, as 100mbit");
        };
        let value: f64 = number
            .trim()
            .parse()
            .with_context(|| format!("`{text}` is no rate: write 100mbit or 1.5gbit"))?;
        let value = value * bits;
        ensure!(
            (1e3..=1e12).contains(&value),
            "the rate `{text}` is not between 1kbit and 1000gbit"
        );
        Ok(Self(value as u64))
    }
}

/// Bytes: `65536`, `64k`, `1m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub usize);

impl FromStr for Bytes {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (number, unit) = match text.strip_suffix(['k', 'm']) {
            Some(number) if text.ends_with('k') => (number, 1 << 10),
            Some(number) => (number, 1 << 20),
            None => (text, 1),
        };
        let value: usize = number
            .parse()
            .with_context(|| format!("`{text}` is no size: write 65536, 64k or 1m"))?;
        let bytes = value.checked_mul(unit).filter(|bytes| *bytes <= 1 << 30);
        Ok(Self(bytes.with_context(|| {
            format!("the size `{text}` is larger than 1024m")
        })?))
    }
}

/// `ENTER,LEAVE`: two probabilities.
impl FromStr for Burst {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((enter, leave)) = text.split_once(',') else {
            bail!(
                "`{text}` is no burst: write the probabilities to enter and to leave one, as 0.1%,25%"
            );
        };
        let (Probability(enter), Probability(leave)) = (enter.parse()?, leave.parse()?);
        ensure!(
            leave > 0.0,
            "a burst that is never left loses everything: give LEAVE more than 0"
        );
        Ok(Self { enter, leave })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_people_write_them() {
        assert_eq!("1%".parse::<Probability>().unwrap().0, 0.01);
        assert_eq!("0.25".parse::<Probability>().unwrap().0, 0.25);
        assert_eq!("10ms".parse::<Time>().unwrap().0, Duration::from_millis(10));
        assert_eq!(
            "1.5s".parse::<Time>().unwrap().0,
            Duration::from_millis(1500)
        );
        assert_eq!("100mbit".parse::<Rate>().unwrap().0, 100_000_000);
        assert_eq!("64k".parse::<Bytes>().unwrap().0, 65_536);
        assert_eq!(
            "10ms/20ms".parse::<Each<Time>>().unwrap(),
            Each(
                Time(Duration::from_millis(10)),
                Time(Duration::from_millis(20))
            )
        );
        assert_eq!(
            "0.1%,25%".parse::<Burst>().unwrap(),
            Burst {
                enter: 0.001,
                leave: 0.25
            }
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let message = |result: Result<()>| result.unwrap_err().to_string();
        for text in ["101%", "-1", "1.5", "x", ""] {
            let said = message(text.parse::<Probability>().map(|_| ()));
            assert!(said.contains("probability"), "{said}");
        }
        for text in ["10", "ms", "-1ms", "2e9s", "10m"] {
            let said = message(text.parse::<Time>().map(|_| ()));
            assert!(said.contains("time"), "{said}");
        }
        for text in ["10", "1bit", "mbit", "9999gbit"] {
            let said = message(text.parse::<Rate>().map(|_| ()));
            assert!(said.contains("rate"), "{said}");
        }
        for text in ["1g", "", "99999m"] {
            let said = message(text.parse::<Bytes>().map(|_| ()));
            assert!(said.contains("size"), "{said}");
        }
        assert!(message("1%,0".parse::<Burst>().map(|_| ())).contains("LEAVE"));
    }
}
