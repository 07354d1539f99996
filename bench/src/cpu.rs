//! Where every core's time went, from `/proc/stat`: on veth the sender's core also runs the receiver's softirq, so a program's own
//! CPU time says little.
//!
//! The kernel counts in ticks of 10 ms: over a run of two seconds a figure is good to about one per cent.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::row::spread;

/// Shares of one core's time over a run, in per cent; they add up to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CoreTime {
    /// Programs, `nice` ones included.
    pub(crate) user: f64,
    /// The kernel on behalf of programs.
    pub(crate) system: f64,
    /// Interrupts and softirq: packet reception on veth.
    pub(crate) softirq: f64,
    /// Taken by the hypervisor.
    pub(crate) steal: f64,
    /// Nothing to do, or waiting for a disk.
    pub(crate) idle: f64,
}

impl CoreTime {
    /// Middle of several runs, part by part.
    pub(crate) fn median(runs: &[Self]) -> Self {
        let part = |of: fn(&Self) -> f64| {
            let values: Vec<f64> = runs.iter().map(of).collect();
            spread(&values).map_or(0.0, |(median, _, _)| median)
        };
        Self {
            user: part(|core| core.user),
            system: part(|core| core.system),
            softirq: part(|core| core.softirq),
            steal: part(|core| core.steal),
            idle: part(|core| core.idle),
        }
    }

    /// The parts with their names, in the order in which tables show them.
    pub(crate) const fn parts(&self) -> [(&'static str, f64); 5] {
        [
            ("user", self.user),
            ("system", self.system),
            ("softirq", self.softirq),
            ("steal", self.steal),
            ("idle", self.idle),
        ]
    }
}

/// Core time of the whole machine in seconds over a run of `elapsed`: all that was not idle or stolen, and the kernel's part of it.
pub(crate) fn spent(cores: &[CoreTime], elapsed: Duration) -> [(&'static str, f64); 2] {
    let seconds = |share: fn(&CoreTime) -> f64| {
        elapsed.as_secs_f64() * cores.iter().map(share).sum::<f64>() / 100.0
    };
    [
        (
            "busy",
            seconds(|core| core.user + core.system + core.softirq),
        ),
        ("kernel", seconds(|core| core.system + core.softirq)),
    ]
}

/// A reading of `/proc/stat`: ticks of every core since boot.
#[derive(Clone, Debug)]
pub(crate) struct Sample(Vec<[u64; 8]>);

impl Sample {
    /// Reads the counters.
    pub(crate) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut cores = Vec::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let is_core = words.next().is_some_and(|word| {
                word.strip_prefix("cpu")
                    .is_some_and(|number| !number.is_empty())
            });
            if !is_core {
                continue;
            }
            // user nice system idle iowait irq softirq steal; guest times are within user and nice
            let mut ticks = [0; 8];
            for tick in &mut ticks {
                let word = words.next().context("a cpu line of /proc/stat is short")?;
                *tick = word
                    .parse()
                    .context("a cpu line of /proc/stat holds no number")?;
            }
            cores.push(ticks);
        }
        Ok(Self(cores))
    }

    /// Every core's time between `self` and a later reading.
    pub(crate) fn until(&self, later: &Self) -> Vec<CoreTime> {
        self.0
            .iter()
            .zip(&later.0)
            .map(|(before, after)| shares(before, after))
            .collect()
    }
}

fn shares(before: &[u64; 8], after: &[u64; 8]) -> CoreTime {
    let spent: Vec<f64> = before
        .iter()
        .zip(after)
        .map(|(before, after)| after.saturating_sub(*before) as f64) // iowait may step back
        .collect();
    let total = spent.iter().sum::<f64>().max(1.0);
    let share =
        |parts: &[usize]| 100.0 * parts.iter().map(|&part| spent[part]).sum::<f64>() / total;
    CoreTime {
        user: share(&[0, 1]),
        system: share(&[2]),
        softirq: share(&[5, 6]),
        steal: share(&[7]),
        idle: share(&[3, 4]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_between_two_readings_is_shared_out_per_core() {
        let before = Sample::parse("cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 10 0 10 100 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\nintr 1").unwrap();
        let after = Sample::parse("cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 40 10 30 120 5 5 10 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\nintr 1").unwrap();
        let cores = before.until(&after);
        assert_eq!(cores.len(), 2, "the line that sums all cores is no core");
        assert_eq!(
            cores[0],
            CoreTime {
                user: 40.0,
                system: 20.0,
                softirq: 15.0,
                steal: 0.0,
                idle: 25.0
            }
        );
    }

    #[test]
    fn a_line_without_numbers_is_an_error() {
        assert!(Sample::parse("cpu0 1 2 three 4 5 6 7 8").is_err());
        assert!(Sample::parse("cpu0 1 2").is_err());
    }
}
