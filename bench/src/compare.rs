//! `compare OLD NEW`: each figure of two runs beside the other, and whether the difference means anything.
//!
//! Wall time on a shared machine is noisy, so a difference counts only if the two runs' ranges, smallest to largest, do not touch, and
//! if the medians differ by more than [`ALWAYS_NOISE`]; with a single run a side there is no range, and [`SINGLE_RUN`] takes its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::row::Row;

/// Medians this close, as a part of the old one, are never told apart.
const ALWAYS_NOISE: f64 = 0.02;
/// The same if each side ran once.
const SINGLE_RUN: f64 = 0.10;

/// What a difference between two rows means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Further on in the metric's good direction.
    Better,
    /// The other way.
    Worse,
    /// Different, of a metric that is neither good nor bad.
    Different,
    /// Not told apart.
    Noise,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::Different => "different",
            Verdict::Noise => "noise",
        }
    }
}

/// Which way a metric should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
    Neither,
}

/// By the unit: rates are to rise, times and sizes to fall, plain counts are neither.
fn direction(unit: &str) -> Direction {
    match unit {
        "Gbit/s" | "Mbit/s" | "Mpps" | "/s" | "M/s" => Direction::Up,
        "s" | "ms" | "us" | "ns" | "bytes" | "B" | "instructions" => Direction::Down,
        _ if unit.starts_with("ns/") => Direction::Down,
        _ => Direction::Neither,
    }
}

fn verdict(old: &Row, new: &Row) -> Verdict {
    let apart = new.min > old.max || new.max < old.min;
    let single = old.min == old.max && new.min == new.max;
    let least = if single { SINGLE_RUN } else { ALWAYS_NOISE };
    let change = (new.median - old.median).abs();
    if !apart || change <= least * old.median.abs() {
        return Verdict::Noise;
    }
    match (direction(&old.unit), new.median > old.median) {
        (Direction::Neither, _) => Verdict::Different,
        (Direction::Up, true) | (Direction::Down, false) => Verdict::Better,
        (Direction::Up, false) | (Direction::Down, true) => Verdict::Worse,
    }
}

/// What names a row in both runs.
fn key(row: &Row) -> (String, String) {
    let params: Vec<_> = row
        .params
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    let case = format!(
        "{}: {} → {}, {}",
        row.experiment,
        row.subject,
        row.peer,
        params.join(", ")
    );
    (
        case,
        format!("{} {}", row.metric, row.unit).trim_end().to_owned(),
    )
}

/// All rows of both runs, with counts of each verdict at the end.
pub(crate) fn compare(old: &[Row], new: &[Row]) -> String {
    let by_key = |rows: &[Row]| -> BTreeMap<_, Row> {
        rows.iter().map(|row| (key(row), row.clone())).collect()
    };
    let (old, new) = (by_key(old), by_key(new));
    let mut text = differences(&old, &new);
    let mut counts: BTreeMap<Verdict, usize> = BTreeMap::new();
    let (mut missing, mut added, mut case) = (0, 0, "");
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for key in keys {
        if key.0 != case {
            case = &key.0;
            let _ = writeln!(text, "{case}"); // writing to a String cannot fail
        }
        let metric = &key.1;
        match (old.get(key), new.get(key)) {
            (Some(old), Some(new)) => {
                let verdict = verdict(old, new);
                *counts.entry(verdict).or_default() += 1;
                let change = match old.median {
                    0.0 => String::new(),
                    median => format!("{:+.1} %", 100.0 * (new.median / median - 1.0)),
                };
                let _ = writeln!(
                    text,
                    "  {:<9} {metric}: {:.2} ({:.2}-{:.2}) -> {:.2} ({:.2}-{:.2}) {change}",
                    verdict.name(),
                    old.median,
                    old.min,
                    old.max,
                    new.median,
                    new.min,
                    new.max,
                );
            }
            (Some(_), None) => {
                missing += 1;
                let _ = writeln!(text, "  gone      {metric}");
            }
            _ => {
                added += 1;
                let _ = writeln!(text, "  new       {metric}");
            }
        }
    }
    let count = |verdict| counts.get(&verdict).copied().unwrap_or_default();
    let _ = writeln!(
        text,
        "\n{} better, {} worse, {} different, {} noise; {missing} only in the old run, {added} only in the new one",
        count(Verdict::Better),
        count(Verdict::Worse),
        count(Verdict::Different),
        count(Verdict::Noise)
    );
    text
}

/// Warns where the two runs were not made under the same conditions.
fn differences<K>(old: &BTreeMap<K, Row>, new: &BTreeMap<K, Row>) -> String {
    let machines = |rows: &BTreeMap<K, Row>| -> BTreeSet<String> {
        rows.values()
            .map(|row| row.machine.machine.to_string())
            .collect()
    };
    let (old, new) = (machines(old), machines(new));
    if old == new || old.is_empty() || new.is_empty() {
        return String::new();
    }
    let list = |machines: BTreeSet<String>| machines.into_iter().collect::<Vec<_>>().join("; ");
    format!(
        "warning: not the same machine, kernel or compiler:\n  old: {}\n  new: {}\n\n",
        list(old),
        list(new)
    )
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::row::sample;

    fn judged(unit: &str, old: [f64; 3], new: [f64; 3]) -> Verdict {
        verdict(&sample("m", unit, old), &sample("m", unit, new))
    }

    #[test]
    fn a_difference_counts_in_the_units_direction() {
        let (low, high) = ([10.0, 9.0, 11.0], [20.0, 19.0, 21.0]);
        assert_eq!(judged("Gbit/s", low, high), Verdict::Better);
        assert_eq!(judged("Gbit/s", high, low), Verdict::Worse);
        assert_eq!(judged("us", low, high), Verdict::Worse);
        assert_eq!(judged("ns/packet", high, low), Verdict::Better);
        assert_eq!(judged("frames", low, high), Verdict::Different);
    }

    #[test]
    fn ranges_that_touch_and_small_differences_are_noise() {
        assert_eq!(
            judged("us", [10.0, 9.0, 15.0], [20.0, 15.0, 21.0]),
            Verdict::Noise
        );
        assert_eq!(
            judged("us", [100.0, 99.9, 100.1], [101.0, 100.9, 101.1]),
            Verdict::Noise
        );
        assert_eq!(judged("us", [100.0; 3], [109.0; 3]), Verdict::Noise);
        assert_eq!(judged("us", [100.0; 3], [111.0; 3]), Verdict::Worse);
    }

    #[test]
    fn rows_of_one_side_alone_are_told() {
        let same = sample("goodput", "Gbit/s", [1.0; 3]);
        let text = compare(
            &[same.clone(), sample("p50", "us", [1.0; 3])],
            &[same, sample("p99", "us", [1.0; 3])],
        );
        assert!(text.contains("gone      p50 us"), "{text}");
        assert!(text.contains("new       p99 us"), "{text}");
        assert!(text.ends_with("0 better, 0 worse, 0 different, 1 noise; 1 only in the old run, 1 only in the new one\n"), "{text}");
    }

    #[test]
    fn another_machine_is_told() {
        let old = sample("p50", "us", [1.0; 3]);
        let mut new = old.clone();
        new.machine.machine.kernel = "9.9".to_owned();
        assert!(compare(from_ref(&old), &[new]).starts_with("warning: not the same machine"));
        assert!(!compare(from_ref(&old), from_ref(&old)).contains("warning"));
    }
}
