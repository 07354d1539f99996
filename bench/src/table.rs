//! The terminal's form of the figures, and Markdown to be included verbatim.
//!
//! What all cases have in common is said once at the top; what differs stands with the case.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::row::{Conditions, Row};

/// A case of the table: all of its figures on one line.
struct Line<'a> {
    first: &'a Row,
    figures: Vec<String>,
}

/// Rows of one case stand together, as the runner makes them.
fn lines(rows: &[Row]) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for row in rows {
        let same = lines.last().is_some_and(|line| {
            let first = line.first;
            (
                &first.experiment,
                &first.subject,
                &first.peer,
                &first.params,
            ) == (&row.experiment, &row.subject, &row.peer, &row.params)
        });
        match lines.last_mut() {
            Some(line) if same => line.figures.push(figure(row)),
            _ => lines.push(Line {
                first: row,
                figures: vec![figure(row)],
            }),
        }
    }
    lines
}

/// `goodput 9.24 Gbit/s (8.01-10.52)`.
fn figure(row: &Row) -> String {
    let digits = match row.median.abs() {
        value if value >= 1000.0 => 0,
        value if value >= 100.0 => 1,
        _ => 2,
    };
    let space = if row.unit.is_empty() { "" } else { " " };
    format!(
        "{} {:.digits$}{space}{} ({:.digits$}-{:.digits$})",
        row.metric, row.median, row.unit, row.min, row.max
    )
}

/// `0: user 3 system 60 softirq 30 idle 7; 1: ...`, in whole per cent. Steal only where there is some.
fn cores(conditions: &Conditions) -> String {
    let mut text = String::new();
    for (number, core) in conditions.cores.iter().enumerate() {
        let gap = if number == 0 { "" } else { "; " };
        let _ = write!(text, "{gap}{number}:"); // writing to a String cannot fail
        for (kind, share) in core.parts() {
            if kind != "steal" || share >= 0.5 {
                let _ = write!(text, " {kind} {share:.0}");
            }
        }
    }
    text
}

/// Conditions other than the cores' time, in the order in which they are told.
fn conditions(row: &Row) -> [(&'static str, String); 7] {
    let Conditions {
        machine,
        setting,
        load,
        ..
    } = &row.machine;
    [
        ("machine", machine.to_string()),
        ("driver", setting.driver.clone()),
        ("offloads", setting.offloads.clone()),
        ("mtu", setting.mtu.clone()),
        ("napi", setting.napi.clone()),
        ("idle", setting.idle.clone()),
        ("load", format!("{load} before the experiment")),
    ]
}

/// The names of conditions that all rows share, with their values.
pub(crate) fn common(rows: &[Row]) -> BTreeMap<&'static str, String> {
    let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for row in rows {
        for (name, value) in conditions(row) {
            seen.entry(name).or_default().insert(value);
        }
    }
    let single = |(name, values): (&'static str, BTreeSet<String>)| match values.len() {
        1 => values.into_iter().next().map(|value| (name, value)),
        _ => None,
    };
    seen.into_iter().filter_map(single).collect()
}

/// What distinguishes the case, then the conditions that not all cases share.
fn details(row: &Row, shared: &BTreeMap<&'static str, String>) -> String {
    let params = row
        .params
        .iter()
        .map(|(name, value)| format!("{name} {value}"));
    let own = conditions(row);
    let own = own
        .iter()
        .filter(|(name, _)| !shared.contains_key(name) && !row.params.contains_key(*name))
        .map(|(name, value)| format!("{name}: {value}"));
    params.chain(own).collect::<Vec<_>>().join(", ")
}

/// A case as any of the forms shows it.
pub(crate) struct Shown {
    /// The experiment.
    pub(crate) experiment: String,
    /// Who to whom.
    pub(crate) title: String,
    /// What distinguishes it, and the conditions that not all cases share.
    pub(crate) details: String,
    /// Its figures.
    pub(crate) figures: Vec<String>,
    /// Every core's time.
    pub(crate) cores: String,
}

/// All cases, given what they share.
pub(crate) fn shown(rows: &[Row], shared: &BTreeMap<&'static str, String>) -> Vec<Shown> {
    lines(rows)
        .into_iter()
        .map(|line| Shown {
            experiment: line.first.experiment.clone(),
            title: format!("{} → {}", line.first.subject, line.first.peer),
            details: details(line.first, shared),
            cores: cores(&line.first.machine),
            figures: line.figures,
        })
        .collect()
}

/// The terminal's form.
pub(crate) fn terminal(rows: &[Row]) -> String {
    let shared = common(rows);
    let mut text = String::new();
    for (name, value) in &shared {
        let _ = writeln!(text, "{name}: {value}");
    }
    let mut experiment = String::new();
    for case in shown(rows, &shared) {
        if case.experiment != experiment {
            let _ = writeln!(text, "\n== {}", case.experiment);
            experiment = case.experiment;
        }
        let _ = writeln!(text, "{:<44} {}", case.title, case.figures.join("; "));
        let _ = writeln!(text, "{:<6}{}", "", case.details);
        let _ = writeln!(text, "{:<6}% of core {}", "", case.cores);
    }
    text
}

/// The form for documents. `command` is what reproduces it.
pub(crate) fn markdown(rows: &[Row], command: &str) -> String {
    let shared = common(rows);
    let mut text = format!(
        "Made by `{command}`. Median (smallest-largest) of interleaved runs; core time is all of the machine's, in per cent.\n\n"
    );
    for (name, value) in &shared {
        let _ = writeln!(text, "- {name}: {value}");
    }
    let mut experiment = String::new();
    for case in shown(rows, &shared) {
        if case.experiment != experiment {
            let _ = writeln!(
                text,
                "\n**{}**\n\n| from → to | conditions | figures | core time, % |\n|---|---|---|---|",
                case.experiment
            );
            experiment = case.experiment;
        }
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            case.title,
            case.details,
            case.figures.join("; "),
            case.cores
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::sample;

    #[test]
    fn every_figure_and_every_condition_is_shown() {
        let mut rows = vec![
            sample("goodput", "Gbit/s", [2.5, 2.0, 3.0]),
            sample("retransmissions", "", [7.0, 7.0, 7.0]),
            sample("goodput", "Gbit/s", [9.0, 9.0, 9.0]),
        ];
        rows[2].peer = "smoltcp".to_owned();
        rows[2].machine.setting.napi = "threaded".to_owned();
        for text in [terminal(&rows), markdown(&rows, "cargo run")] {
            for part in [
                "goodput 2.50 Gbit/s (2.00-3.00); retransmissions 7.00 (7.00-7.00)",
                "Bywash → smoltcp",
                "napi: threaded",
                "napi: none",
                "message 64",
                "0: user 0",
                "Linux",
                "mtu: 1500",
                "offloads: none",
                "driver: none",
                "idle: spin",
                "load: 0.00",
            ] {
                assert!(text.contains(part), "no {part:?} in\n{text}");
            }
        }
    }
}
