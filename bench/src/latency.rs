//! Times of exchanges: an HDR histogram in nanoseconds.

use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

/// Exchanges in the first part of a run are not recorded: caches and the scheduler settle.
pub(crate) const WARM_UP: Duration = Duration::from_millis(50);

/// Largest time that is told apart, in nanoseconds; longer ones count as this.
const LARGEST: u64 = 10_000_000_000;

/// What the tables show.
const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
];

/// Times of exchanges.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub(crate) fn new() -> Result<Self> {
        let histogram = Histogram::new_with_bounds(1, LARGEST, 3).context("histogram bounds")?;
        Ok(Self(histogram))
    }

    /// Adds one.
    pub(crate) fn record(&mut self, time: Duration) {
        self.0
            .saturating_record(time.as_nanos().min(u128::from(LARGEST)) as u64);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time below which this part of all lies, in microseconds.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// What the tables show: quantiles in microseconds, and how many exchanges they rest on.
    pub(crate) fn readings(&self) -> Vec<(&'static str, &'static str, f64)> {
        let mut readings: Vec<_> = QUANTILES
            .map(|(name, quantile)| (name, "us", self.quantile_us(quantile)))
            .into();
        readings.push(("exchanges", "", self.count() as f64));
        readings
    }
}
