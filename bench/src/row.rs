//! One figure with everything that it depends on: what the terminal table shows, what `--json` writes and `compare` reads.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cpu::CoreTime;
use crate::machine::Machine;

/// What distinguishes a case from the others of its experiment, by name. Nothing that changes from run to run.
pub(crate) type Params = BTreeMap<&'static str, String>;

/// One metric of one case over all repetitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The experiment's name on the command line.
    pub(crate) experiment: String,
    /// Who sends, or asks.
    pub(crate) subject: String,
    /// Who receives, or answers.
    pub(crate) peer: String,
    /// What distinguishes the case.
    pub(crate) params: BTreeMap<String, String>,
    /// What was measured, for example `goodput`.
    pub(crate) metric: String,
    /// Its unit, for example `Gbit/s`; empty for a plain number.
    pub(crate) unit: String,
    /// Middle of the repetitions.
    pub(crate) median: f64,
    /// Smallest.
    pub(crate) min: f64,
    /// Largest.
    pub(crate) max: f64,
    /// Where and under what conditions it was measured.
    pub(crate) machine: Conditions,
}

/// The wire of a case and how its ends wait, as far as known before it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setting {
    /// Driver and queues of the device.
    pub(crate) driver: String,
    /// What the devices leave to each other or to the kernel: both ends, as `ethtool -k` reports it.
    pub(crate) offloads: String,
    /// Largest IP datagram on the wire, in bytes.
    pub(crate) mtu: String,
    /// Which core runs the receive softirq.
    pub(crate) napi: String,
    /// How the ends wait.
    pub(crate) idle: String,
}

impl Setting {
    /// Of a case without any device: both ends on the calling thread.
    pub(crate) fn in_memory(mtu: u16) -> Self {
        Self {
            driver: "none (in memory)".to_owned(),
            offloads: "none".to_owned(),
            mtu: mtu.to_string(),
            napi: "none".to_owned(),
            idle: "spin".to_owned(),
        }
    }

    /// The same, waiting in another way.
    pub(crate) fn waiting(&self, idle: &str) -> Self {
        Self {
            idle: idle.to_owned(),
            ..self.clone()
        }
    }
}

/// Everything around a figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Conditions {
    /// Processor, cores, kernel.
    #[serde(flatten)]
    pub(crate) machine: Machine,
    /// Wire and idle policy.
    #[serde(flatten)]
    pub(crate) setting: Setting,
    /// Load averages when the experiment began.
    pub(crate) load: String,
    /// Every core's time while the load ran: medians over the repetitions.
    pub(crate) cores: Vec<CoreTime>,
}

/// Median, smallest and largest. The median of an even number is the mean of the two in the middle. None of nothing.
pub(crate) fn spread(values: &[f64]) -> Option<(f64, f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = match sorted.len() % 2 {
        0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    };
    Some((median, first, last))
}

/// Writes the array that [`read`] reads.
pub(crate) fn write(path: &Path, rows: &[Row]) -> Result<()> {
    fs::write(path, serde_json::to_string_pretty(rows)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Rows of an earlier run.
pub(crate) fn read(path: &Path) -> Result<Vec<Row>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| {
        format!(
            "{} is not what `--json` of this version writes",
            path.display()
        )
    })
}

#[cfg(test)]
pub(crate) fn sample(metric: &str, unit: &str, [median, min, max]: [f64; 3]) -> Row {
    Row {
        experiment: "throughput".to_owned(),
        subject: "Bywash".to_owned(),
        peer: "kernel TCP".to_owned(),
        params: BTreeMap::from([("message".to_owned(), "64".to_owned())]),
        metric: metric.to_owned(),
        unit: unit.to_owned(),
        median,
        min,
        max,
        machine: Conditions {
            machine: Machine::this(),
            setting: Setting::in_memory(1500),
            load: "0.00 0.00 0.00".to_owned(),
            cores: vec![CoreTime::default()],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let rows = vec![sample("goodput", "Gbit/s", [2.5, 2.0, 3.0]); 2];
        let path = std::env::temp_dir().join(format!("bywash-bench-rows-{}", std::process::id()));
        write(&path, &rows).unwrap();
        let found = read(&path);
        fs::remove_file(&path).unwrap();
        assert_eq!(found.unwrap(), rows);
    }

    /// The members that readers of the array rely on.
    #[test]
    fn the_arrays_members_have_their_names() {
        let value = serde_json::to_value(sample("p50", "us", [1.0; 3])).unwrap();
        for member in [
            "experiment",
            "subject",
            "peer",
            "params",
            "metric",
            "unit",
            "median",
            "min",
            "max",
            "machine",
        ] {
            assert!(value.get(member).is_some(), "no {member}");
        }
        for member in [
            "cpu", "kernel", "driver", "offloads", "mtu", "napi", "idle", "load", "cores",
        ] {
            assert!(
                value["machine"].get(member).is_some(),
                "no machine.{member}"
            );
        }
    }

    #[test]
    fn an_even_number_has_its_median_between() {
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some((2.5, 1.0, 4.0)));
        assert_eq!(spread(&[]), None);
    }
}
