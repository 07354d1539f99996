//! Figures and their three forms: a table on the terminal, a JSON array, and Markdown to be included verbatim.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::machine::Machine;

/// Conditions under which a figure holds, by name.
pub(crate) type Params = BTreeMap<&'static str, String>;

/// One metric of one case over all repetitions.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The experiment's name on the command line.
    pub(crate) experiment: &'static str,
    /// Who sends, or asks.
    pub(crate) subject: String,
    /// Who receives, or answers.
    pub(crate) peer: String,
    /// Everything the figure depends on.
    pub(crate) params: Params,
    /// What was measured, for example `goodput` or `core 0 softirq`.
    pub(crate) metric: String,
    /// Its unit, for example `Gbit/s`.
    pub(crate) unit: &'static str,
    /// Middle of the repetitions.
    pub(crate) median: f64,
    /// Smallest.
    pub(crate) min: f64,
    /// Largest.
    pub(crate) max: f64,
    /// Where it was measured.
    pub(crate) machine: Machine,
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

/// A case of the table: its figures, and its cores' time on the same line.
struct Line<'a> {
    first: &'a Row,
    figures: String,
    cores: String,
}

/// Metrics whose name begins so are core time; they share a column.
const CORE: &str = "core ";

/// Rows of one case stand together, as the runner makes them.
fn lines(rows: &[Row]) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for row in rows {
        let same = lines.last().is_some_and(|line| {
            let first = line.first;
            (first.experiment, &first.subject, &first.peer, &first.params)
                == (row.experiment, &row.subject, &row.peer, &row.params)
        });
        if !same {
            lines.push(Line {
                first: row,
                figures: String::new(),
                cores: String::new(),
            });
        }
        let Some(line) = lines.last_mut() else {
            continue;
        };
        match row.metric.strip_prefix(CORE) {
            Some(part) => add_core(&mut line.cores, part, row.median),
            None => add_figure(&mut line.figures, row),
        }
    }
    lines
}

/// `0: user 3 system 60 softirq 30 steal 0 idle 7; 1: ...`, in whole per cent.
fn add_core(cores: &mut String, part: &str, share: f64) {
    let Some((core, kind)) = part.split_once(' ') else {
        return;
    };
    if kind == "user" {
        let gap = if cores.is_empty() { "" } else { "; " };
        let _ = write!(cores, "{gap}{core}:"); // writing to a String cannot fail
    }
    if kind != "steal" || share >= 0.5 {
        let _ = write!(cores, " {kind} {share:.0}");
    }
}

fn add_figure(figures: &mut String, row: &Row) {
    let gap = if figures.is_empty() { "" } else { "; " };
    let digits = match row.median.abs() {
        value if value >= 1000.0 => 0,
        value if value >= 100.0 => 1,
        _ => 2,
    };
    let unit = if row.unit.is_empty() {
        String::new()
    } else {
        format!(" {}", row.unit)
    };
    let _ = write!(
        figures,
        "{gap}{} {:.digits$}{unit} ({:.digits$}-{:.digits$})",
        row.metric, row.median, row.min, row.max
    );
}

/// Params that the figure's line does not repeat, as most lines share them.
const COMMON: [&str; 6] = ["device", "napi", "mtu", "load", "offloads a", "offloads b"];

fn conditions(params: &Params) -> String {
    let own = params.iter().filter(|(name, _)| !COMMON.contains(*name));
    own.map(|(name, value)| format!("{name} {value}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Every distinct value that the common params have, so that nothing is left unsaid.
fn common(rows: &[Row]) -> Vec<String> {
    let mut seen: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for line in lines(rows) {
        for name in COMMON {
            if let Some(value) = line.first.params.get(name) {
                let cases = seen.entry((name, value)).or_default();
                cases.push(format!("{} → {}", line.first.subject, line.first.peer));
            }
        }
    }
    let mut text = Vec::new();
    for name in COMMON {
        let values: Vec<_> = seen
            .iter()
            .filter(|((other, _), _)| *other == name)
            .collect();
        match values.as_slice() {
            [((_, value), _)] => text.push(format!("{name}: {value}")),
            several => text.extend(several.iter().map(|((_, value), cases)| {
                let mut cases = (*cases).clone();
                cases.sort();
                cases.dedup();
                format!("{name}: {value} ({})", cases.join("; "))
            })),
        }
    }
    text
}

/// The terminal's form.
pub(crate) fn table(rows: &[Row], machine: &Machine) -> String {
    let mut text = format!("{machine}\n");
    for condition in common(rows) {
        let _ = writeln!(text, "{condition}");
    }
    let mut experiment = "";
    for line in lines(rows) {
        if line.first.experiment != experiment {
            experiment = line.first.experiment;
            let _ = writeln!(text, "\n== {experiment}");
        }
        let title = format!("{} → {}", line.first.subject, line.first.peer);
        let _ = writeln!(text, "{title:<44} {}", line.figures);
        let _ = writeln!(text, "{:<6}{}", "", conditions(&line.first.params));
        let _ = writeln!(text, "{:<6}% of core {}", "", line.cores);
    }
    text
}

/// The form for SPECIFICATION.md. `command` is what reproduces it.
pub(crate) fn markdown(rows: &[Row], machine: &Machine, command: &str) -> String {
    let mut text = format!(
        "Made by `{command}`. Median (smallest-largest) of interleaved runs; core time is all of the machine's, in per cent.\n\n{machine}\n"
    );
    for condition in common(rows) {
        let _ = writeln!(text, "- {condition}");
    }
    let mut experiment = "";
    for line in lines(rows) {
        if line.first.experiment != experiment {
            experiment = line.first.experiment;
            let _ = writeln!(
                text,
                "\n**{experiment}**\n\n| from → to | conditions | figures | core time, % |\n|---|---|---|---|"
            );
        }
        let _ = writeln!(
            text,
            "| {} → {} | {} | {} | {} |",
            line.first.subject,
            line.first.peer,
            conditions(&line.first.params),
            line.figures,
            line.cores
        );
    }
    text
}
