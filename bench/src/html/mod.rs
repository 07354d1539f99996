//! One self-contained page: plots as SVG in the text, the papers' tables beside ours, every figure with its conditions. No script, no
//! network.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::row::Row;
use crate::table::{self, Shown};

mod papers;
mod plot;
mod plots;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222}\
h2{border-bottom:2px solid #0072b2;margin-top:2.4em}table{border-collapse:collapse;margin:1em 0;font-size:13px}\
td,th{border:1px solid #ccc;padding:3px 8px;text-align:left;vertical-align:top}th{background:#f1f5f8}\
.beside{display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start}figure{margin:1em 0}svg{max-width:100%;height:auto}\
details{margin:1em 0}small{color:#555}pre{font-size:12px;background:#f7f7f7;padding:1em;overflow-x:auto}.num{white-space:nowrap}";

/// What the simulation says where an experiment leaves it to virtual time.
const SIMULATED: [(&str, &str); 2] = [
    (
        "Time to recover, simulated",
        include_str!("../../../tests/suite/tables/recovery.txt"),
    ),
    (
        "Fairness, simulated",
        include_str!("../../../tests/suite/tables/fairness.txt"),
    ),
];

/// Writes the page.
pub(crate) fn write(path: &Path, rows: &[Row], command: &str) -> Result<()> {
    std::fs::write(path, page(rows, command)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn page(rows: &[Row], command: &str) -> Result<String> {
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Bywash: figures</title><style>{STYLE}</style></head><body>\n\
         <h1>Bywash, measured</h1>\n<p>Made by <code>{}</code>. Medians of interleaved runs, smallest and largest in brackets. \
         Numbers of the papers are of their machines of 1993 to 1995: what compares is the ratio of user level to kernel.</p>\n<table>",
        escape(command)
    );
    let shared = table::common(rows);
    for (name, value) in &shared {
        let _ = writeln!(text, "<tr><th>{name}</th><td>{}</td></tr>", escape(value)); // writing to a String cannot fail
    }
    text.push_str("</table>\n");
    let mut seen = BTreeSet::new();
    let order: Vec<&str> = rows
        .iter()
        .map(|row| row.experiment.as_str())
        .filter(|name| seen.insert(*name))
        .collect();
    text.push_str("<p>");
    for name in &order {
        let _ = write!(text, "<a href=\"#{name}\">{name}</a> ");
    }
    text.push_str("</p>\n");
    for name in order {
        let own: Vec<&Row> = rows.iter().filter(|row| row.experiment == name).collect();
        section(&mut text, name, &own)?;
        let cases: Vec<Row> = own.into_iter().cloned().collect();
        figures(&mut text, &table::shown(&cases, &shared));
    }
    text.push_str("</body></html>\n");
    Ok(text)
}

/// Heading, the paper's tables beside our figures in their form, plots.
fn section(text: &mut String, name: &str, rows: &[&Row]) -> Result<()> {
    let _ = writeln!(text, "<h2 id=\"{name}\">{name}</h2>");
    text.push_str("<div class=\"beside\">\n");
    for paper in papers::tables(name) {
        let _ = write!(text, "<div><h4>{}</h4>", escape(paper.title));
        grid(
            text,
            paper.columns,
            paper
                .rows
                .iter()
                .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()),
        );
        let _ = writeln!(text, "<small>{}</small></div>", escape(paper.note));
    }
    ours(text, name, rows);
    text.push_str("</div>\n");
    for plot in plots::of(name, rows) {
        if let Some(svg) = plot.svg()? {
            let _ = writeln!(text, "<figure>{svg}</figure>");
        }
    }
    if name == "wan" {
        for (title, table) in SIMULATED {
            let _ = writeln!(
                text,
                "<details><summary>{title}</summary><pre>{}</pre></details>",
                escape(table)
            );
        }
    }
    Ok(())
}

/// Title, the param that makes the columns, metric, and which rows.
type Form = (&'static str, &'static str, &'static str, fn(&Row) -> bool);

/// The form of the paper's table, where there is one.
fn form(name: &str) -> Option<Form> {
    let form: Form = match name {
        "mechanism" => ("Here: Gbit/s", "xdp", "goodput", |_| true),
        "throughput" => (
            "Here: Gbit/s by message size",
            "message",
            "goodput",
            |row| !row.params.contains_key("mss"),
        ),
        "latency" => (
            "Here: round trip p50 in us by size",
            "bytes",
            "p50",
            |row| {
                row.params.get("in flight").is_none_or(|depth| depth == "1")
                    && !row.params.contains_key("open loop")
            },
        ),
        "setup" => (
            "Here: us until the connection stands",
            "at once",
            "handshake",
            |_| true,
        ),
        "demux" => (
            "Here: ns a packet, caches hot",
            "flows",
            "one packet",
            |_| true,
        ),
        "cpu" => (
            "Here: ns of core time by KiB",
            "paced",
            "busy core time",
            |_| true,
        ),
        _ => return None,
    };
    Some(form)
}

/// Our figures in the form of the paper's table: the main metric by the paper's axis.
fn ours(text: &mut String, name: &str, rows: &[&Row]) {
    let Some((title, axis, metric, wanted)) = form(name) else {
        return;
    };
    let column = |row: &Row| {
        let value = row.params.get(axis).cloned();
        value.unwrap_or_else(|| "full speed".to_owned())
    };
    let mine: Vec<&&Row> = rows
        .iter()
        .filter(|row| row.metric == metric && wanted(row))
        .collect();
    let mut columns: Vec<String> = Vec::new();
    for row in &mine {
        if !columns.contains(&column(row)) {
            columns.push(column(row));
        }
    }
    // Numbers by size, behind what is none.
    columns.sort_by(|one, other| {
        let [one, other] = [one, other].map(|text| plots::number(text).unwrap_or(-1.0));
        one.total_cmp(&other)
    });
    let mut lines: Vec<(String, Vec<(usize, String)>)> = Vec::new();
    for row in mine {
        let at = columns
            .iter()
            .position(|known| *known == column(row))
            .unwrap_or_default();
        let who = format!("{} → {}", row.subject, row.peer);
        let apart = row
            .params
            .iter()
            .filter(|(param, _)| param.as_str() != axis && APART.contains(&param.as_str()));
        let who = apart.fold(who, |who, (param, value)| format!("{who}, {param} {value}"));
        let digits = if row.median < 0.1 { 4 } else { 2 };
        let cell = (at, format!("{:.digits$}", row.median));
        match lines.iter_mut().find(|(known, _)| *known == who) {
            Some((_, cells)) => cells.push(cell),
            None => lines.push((who, vec![cell])),
        }
    }
    let _ = write!(text, "<div><h4>{title}</h4>");
    let titles: Vec<&str> = std::iter::once("")
        .chain(columns.iter().map(String::as_str))
        .collect();
    let width = columns.len();
    let rows = lines.into_iter().map(|(who, cells)| {
        let mut row = vec![String::new(); width + 1];
        row[0] = who;
        cells.into_iter().for_each(|(at, cell)| row[at + 1] = cell);
        row
    });
    grid(text, &titles, rows);
    text.push_str("</div>\n");
}

/// Params that set a line of our tables apart.
const APART: [&str; 8] = [
    "offloads",
    "idle",
    "receiver",
    "rings",
    "window",
    "segments",
    "xdp",
    "configuration",
];

fn grid(text: &mut String, columns: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    text.push_str("<table><tr>");
    for column in columns {
        let _ = write!(text, "<th>{}</th>", escape(column));
    }
    text.push_str("</tr>");
    for row in rows {
        text.push_str("<tr>");
        for cell in row {
            let _ = write!(text, "<td>{}</td>", escape(&cell));
        }
        text.push_str("</tr>");
    }
    text.push_str("</table>");
}

/// Every figure of an experiment with its conditions.
fn figures(text: &mut String, cases: &[Shown]) {
    text.push_str("<details><summary>all figures</summary><table><tr><th>from → to</th><th>conditions</th><th>figures</th><th>core time, %</th></tr>\n");
    for case in cases {
        let figures: Vec<String> = case
            .figures
            .iter()
            .map(|figure| format!("<span class=\"num\">{}</span>", escape(figure)))
            .collect();
        let _ = writeln!(
            text,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&case.title),
            escape(&case.details),
            figures.join("; "),
            escape(&case.cores)
        );
    }
    text.push_str("</table></details>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::sample;

    #[test]
    fn the_page_is_whole_and_loads_nothing() {
        let rows = [
            sample("goodput", "Gbit/s", [2.5, 2.0, 3.0]),
            sample("retransmissions", "", [1.0; 3]),
        ];
        let page = page(&rows, "cargo run -- all").unwrap();
        for part in [
            "<!doctype html>",
            "Thekkath, Table 2",
            "5.8",
            "Edwards, Figure 2",
            "<svg",
            "goodput 2.50 Gbit/s (2.00-3.00)",
            "cargo run -- all",
            "</html>",
        ] {
            assert!(page.contains(part), "no {part:?}");
        }
        // The name space of SVG is an address, but nothing is fetched from it.
        let page = page.replace("http://www.w3.org/2000/svg", "");
        for address in ["http:", "https:", "<script", "src=", "@import"] {
            assert!(!page.contains(address), "{address}");
        }
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("a<b & \"c\""), "a&lt;b &amp; &quot;c&quot;");
    }

    /// Numbers that the papers' own tables have.
    #[test]
    fn the_papers_numbers_are_there() {
        let cells = |experiment| -> Vec<&str> {
            papers::tables(experiment)
                .iter()
                .flat_map(|table| table.rows.iter().flat_map(|row| row.iter().copied()))
                .collect()
        };
        assert!(cells("latency").contains(&"16.0"));
        assert!(cells("setup").contains(&"12.3"));
        assert!(cells("demux").contains(&"52"));
        assert!(cells("cpu").contains(&"about 72"));
        assert!(cells("mechanism").contains(&"89 %"));
    }
}
