//! What is used, second by second, and whether it grows.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::engines::Engines;

/// What the median of the last quarter may be above that of the first, beside a share of it: pages that the allocator keeps, and what
/// one second differs from another.
const ALLOWANCE: [f64; COLUMNS] = [12288.0, 40.0, 600.0, 0.0, 100.0, 1000.0];
/// The share.
const SHARE: f64 = 0.05;
const COLUMNS: usize = 6;
const NAMES: [&str; COLUMNS] = [
    "RSS KiB",
    "descriptors",
    "frames held",
    "frames in all",
    "connections",
    "TIME-WAITs",
];
/// Where TIME-WAITs stand, which last for a minute: in a run that has no quarter behind that they only become more.
const TIME_WAITS: usize = 5;
/// What is not looked at where there is enough time: until TIME-WAITs end as often as they begin.
const WARM_UP: Duration = Duration::from_secs(90);
/// What is enough.
const LONG: Duration = Duration::from_secs(360);
/// Lines of a table.
const LINES: usize = 20;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<(Duration, [f64; COLUMNS])>);

impl Samples {
    pub(super) fn take(&mut self, at: Duration, engines: &Engines) {
        let reports = engines.reports();
        let sum = |of: &dyn Fn(&Value) -> u64| -> f64 {
            let shards = reports
                .iter()
                .flat_map(|report| report["shards"].as_array());
            shards.flatten().map(of).sum::<u64>() as f64
        };
        let frames = |kind: &'static str| {
            move |shard: &Value| shard["frames"][kind].as_u64().expect("a number")
        };
        self.0.push((
            at,
            [
                resident() as f64,
                descriptors() as f64,
                sum(&frames("held")) + sum(&frames("outstanding")),
                sum(&frames("rx_total")) + sum(&frames("tx_total")),
                sum(&|shard| shard["connections"].as_array().map_or(0, Vec::len) as u64),
                sum(&|shard| shard["time_waits"].as_u64().expect("a number")),
            ],
        ));
    }

    fn is_long(&self) -> bool {
        self.0.last().is_some_and(|(at, _)| *at > LONG)
    }

    /// Medians of a quarter of the time, from 0.
    fn quarter(&self, number: usize) -> [f64; COLUMNS] {
        let first = match self.is_long() {
            true => self.0.partition_point(|(at, _)| *at < WARM_UP),
            false => 0,
        };
        let samples = &self.0[first..];
        let length = samples.len() / 4;
        let part = &samples[number * length..(number + 1) * length];
        std::array::from_fn(|column| {
            let mut values: Vec<f64> = part.iter().map(|(_, sample)| sample[column]).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(0.0)
        })
    }

    /// What has grown, in sentences.
    pub(super) fn growth(&self) -> Vec<String> {
        let (first, last) = (self.quarter(0), self.quarter(3));
        (0..COLUMNS)
            .filter(|&column| column != TIME_WAITS || self.is_long())
            .filter(|&column| last[column] > first[column] * (1.0 + SHARE) + ALLOWANCE[column])
            .map(|column| {
                let (name, first, last) = (NAMES[column], first[column], last[column]);
                format!("{name}: {first} in the first quarter, {last} in the last")
            })
            .collect()
    }

    pub(super) fn table(&self) -> String {
        let mut table = format!("{:>10}", "s");
        for name in NAMES {
            let _ = write!(table, "{name:>15}");
        }
        table.push('\n');
        let mut line = |head: &str, values: &[f64; COLUMNS]| {
            let _ = write!(table, "{head:>10}");
            for value in values {
                let _ = write!(table, "{value:>15.0}");
            }
            table.push('\n');
        };
        for (at, sample) in self.0.iter().step_by((self.0.len() / LINES).max(1)) {
            line(&at.as_secs().to_string(), sample);
        }
        line("1st quarter", &self.quarter(0));
        line("4th quarter", &self.quarter(3));
        table
    }
}

/// KiB of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next());
    kib.expect("a process with memory")
        .parse()
        .expect("a number")
}

/// Open descriptors of this process.
pub(super) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}

/// As [`descriptors`], once there are no more than `wanted`, or some seconds have passed: threads close theirs when they end.
pub(super) fn descriptors_once_closed(wanted: usize) -> usize {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let now = descriptors();
        if now <= wanted || Instant::now() > deadline {
            return now;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
