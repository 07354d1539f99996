//! `targets`: the table of what must be reached, with what this run measured beside it.
//!
//! Ratios are between cases of one interleaved run, so that whatever the machine does it does to both. A row that `--quick` leaves
//! out says so and does not hold.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::row::Row;
use crate::suite::{Options, Suite};

mod measure;

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
            Bound::Below(bound) => value < bound,
        }
    }
}

/// A row as it should be.
struct Target {
    id: &'static str,
    /// In words, with the stretch in brackets.
    text: &'static str,
    unit: &'static str,
    bound: Bound,
    /// The value, and what stands beside it.
    value: fn(&Figures<'_>) -> Option<(f64, String)>,
}

/// A row as it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Verdict {
    id: &'static str,
    target: &'static str,
    /// None: it was not measured, and `note` says why.
    value: Option<f64>,
    unit: &'static str,
    holds: bool,
    /// What the value is made of.
    note: String,
}

#[derive(Debug, Serialize)]
struct Report {
    rows: Vec<Verdict>,
}

/// What was measured, to be looked up.
pub(crate) struct Figures<'a> {
    rows: &'a [Row],
}

impl Figures<'_> {
    /// The median of the one row of this pair whose params hold all of these and whose metric is this one.
    fn median(
        &self,
        subject: &str,
        peer: &str,
        params: &[(&str, &str)],
        metric: &str,
    ) -> Option<f64> {
        let fits = |row: &&Row| {
            row.subject == subject
                && row.peer == peer
                && row.metric == metric
                && params
                    .iter()
                    .all(|(name, value)| row.params.get(*name).is_some_and(|found| found == value))
        };
        self.rows.iter().find(fits).map(|row| row.median)
    }
}

/// Measures, prints the table, and says whether all of it holds.
pub(crate) fn run(
    options: Options,
    quick: bool,
    json: Option<&Path>,
    rows: Option<&Path>,
) -> Result<bool> {
    let mut suite = Suite::new(options);
    measure::everything(&mut suite, quick)?;
    let verdicts = judge(&suite.results.rows, quick);
    print!("{}", table(&verdicts));
    for failure in &suite.results.failures {
        eprintln!("failed: {failure}");
    }
    if let Some(path) = rows {
        crate::row::write(path, &suite.results.rows)?;
    }
    let all = verdicts.iter().all(|verdict| verdict.holds);
    if let Some(path) = json {
        let report = serde_json::to_string_pretty(&Report { rows: verdicts })?;
        std::fs::write(path, report).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(all)
}

fn judge(rows: &[Row], quick: bool) -> Vec<Verdict> {
    let figures = Figures { rows };
    let verdict = |target: &Target| {
        let found = (target.value)(&figures).filter(|(value, _)| value.is_finite());
        let missing = match quick {
            true => "not measured: left out by --quick or --only, or its case failed",
            false => "not measured: left out by --only, or its case failed",
        };
        Verdict {
            id: target.id,
            target: target.text,
            value: found.as_ref().map(|(value, _)| *value),
            unit: target.unit,
            holds: found
                .as_ref()
                .is_some_and(|(value, _)| target.bound.holds(*value)),
            note: found.map_or_else(|| missing.to_owned(), |(_, note)| note),
        }
    };
    measure::TARGETS.iter().map(verdict).collect()
}

fn table(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for verdict in verdicts {
        let value = match verdict.value {
            Some(value) if value.abs() >= 1000.0 => format!("{value:.0}"),
            Some(value) => format!("{value:.3}"),
            None => "-".to_owned(),
        };
        let holds = if verdict.holds {
            "holds"
        } else {
            "DOES NOT HOLD"
        };
        text += &format!(
            "{:<20} {value:>10} {:<8} {holds:<14} {}\n{:<20} {}\n",
            verdict.id, verdict.unit, verdict.target, "", verdict.note
        );
    }
    let held = verdicts.iter().filter(|verdict| verdict.holds).count();
    text + &format!("{held} of {} targets hold\n", verdicts.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::sample;

    fn figure(
        subject: &str,
        peer: &str,
        params: &[(&str, &str)],
        metric: &str,
        median: f64,
    ) -> Row {
        let mut row = sample(metric, "", [median; 3]);
        (row.subject, row.peer) = (subject.to_owned(), peer.to_owned());
        row.params = params
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        row
    }

    #[test]
    fn nothing_measured_holds_nothing_and_every_row_is_there() {
        let verdicts = judge(&[], true);
        assert_eq!(verdicts.len(), measure::TARGETS.len());
        assert!(
            verdicts
                .iter()
                .all(|verdict| !verdict.holds && verdict.note.contains("--quick"))
        );
        assert!(table(&verdicts).ends_with(&format!("0 of {} targets hold\n", verdicts.len())));
    }

    #[test]
    fn ids_are_unique() {
        let mut ids: Vec<_> = measure::TARGETS.iter().map(|target| target.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), measure::TARGETS.len());
    }

    /// A ratio takes the right rows, and its bound is on the right side.
    #[test]
    fn a_ratio_is_of_the_rows_it_names() {
        let rows = |kernel: f64| {
            [
                figure(
                    "Bywash",
                    "kernel TCP",
                    &[("offloads", "off")],
                    "goodput",
                    9.0,
                ),
                figure(
                    "kernel TCP",
                    "kernel TCP",
                    &[("offloads", "off")],
                    "goodput",
                    kernel,
                ),
                figure(
                    "kernel TCP",
                    "kernel TCP",
                    &[("offloads", "default")],
                    "goodput",
                    90.0,
                ),
            ]
        };
        let verdict = |kernel| {
            let verdicts = judge(&rows(kernel), false);
            verdicts
                .into_iter()
                .find(|verdict| verdict.id == "bulk-us-kernel")
                .unwrap()
        };
        assert_eq!(verdict(9.0).value, Some(1.0));
        assert!(verdict(10.0).holds, "0.9 is enough");
        assert!(!verdict(10.1).holds);
        assert!(
            verdict(9.0).note.contains("0.10"),
            "the ratio to TSO: {}",
            verdict(9.0).note
        );
    }

    #[test]
    fn the_report_has_the_agreed_members() {
        let report = Report {
            rows: judge(&[], false),
        };
        let value = serde_json::to_value(report).unwrap();
        for member in ["id", "target", "value", "unit", "holds"] {
            assert!(value["rows"][0].get(member).is_some(), "no {member}");
        }
    }
}
