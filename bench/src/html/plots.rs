//! Which plots each experiment has.

use std::collections::BTreeMap;

use super::plot::{Line, Plot};
use crate::row::Row;

/// The plots of one experiment's rows.
pub(super) fn of(experiment: &str, rows: &[&Row]) -> Vec<Plot> {
    match experiment {
        "throughput" => throughput(rows),
        "latency" => latency(rows),
        "setup" => vec![plot(
            "Short connections",
            "connections at once",
            "connections a second",
            lines(rows, "at once", "connections", |_| true),
        )],
        "demux" => vec![plot(
            "XDP's verdict by flows in the table (Thekkath Table 5)",
            "flows",
            "ns",
            [
                lines(rows, "flows", "one packet", |_| true),
                lines(rows, "flows", "random packets", |_| true),
            ]
            .concat(),
        )],
        "scale" => vec![
            plot(
                "Cost by packet in memory, 64 transactions in flight",
                "connections",
                "ns a packet",
                lines(rows, "connections", "packet", |_| true),
            ),
            plot(
                "Ping-pong on many flows over veth",
                "flows",
                "ns an answer",
                lines(rows, "flows", "pace", |_| true),
            ),
        ],
        "wan" => wan(rows),
        "stack" => vec![plot(
            "One flow in memory by payload of a segment",
            "bytes a segment",
            "Gbit/s",
            lines(rows, "segment", "goodput", |_| true),
        )],
        "pools" => pools(rows),
        _ => Vec::new(),
    }
}

fn plot(title: &str, x: &'static str, y: &'static str, lines: Vec<Line>) -> Plot {
    Plot {
        title: title.to_owned(),
        x,
        y,
        lines,
    }
}

fn throughput(rows: &[&Row]) -> Vec<Plot> {
    vec![
        plot(
            "Goodput by message size (Braun Figures 6 and 7, Edwards Figure 2)",
            "bytes a message",
            "Gbit/s",
            lines(rows, "message", "goodput", |row| {
                spins(row) && !row.params.contains_key("mss")
            }),
        ),
        plot(
            "Goodput by payload of a segment, MTU 3498, offloads off",
            "bytes a segment",
            "Gbit/s",
            lines(rows, "mss", "goodput", |_| true),
        ),
    ]
}

fn latency(rows: &[&Row]) -> Vec<Plot> {
    vec![
        plot(
            "Round trip by size, p50, both ends spinning (Thekkath Table 3)",
            "bytes",
            "us",
            lines(rows, "bytes", "p50", |row| alone(row) && spins(row)),
        ),
        plot(
            "Round trip by size, p50, waiting by default",
            "bytes",
            "us",
            lines(rows, "bytes", "p50", |row| alone(row) && !spins(row)),
        ),
        quantiles(
            "Times of 1-byte ping-pongs, spinning: 1 in so many is slower",
            rows,
            |row| {
                alone(row)
                    && spins(row)
                    && row.params.get("bytes").is_some_and(|bytes| bytes == "1")
            },
        ),
        quantiles(
            "Open loop, 64 bytes: time from when a request was due; 1 in so many is slower",
            rows,
            |row| row.params.contains_key("open loop"),
        ),
    ]
}

fn wan(rows: &[&Row]) -> Vec<Plot> {
    ["0 %", "0.1 %", "1 %", "5 %"]
        .into_iter()
        .map(|loss| {
            let fits = move |row: &Row| row.params.get("loss").is_some_and(|found| found == loss);
            plot(
                &format!("Goodput by round trip, loss {loss}, path of 200 Mbit/s"),
                "ms",
                "Gbit/s",
                lines(rows, "round trip", "goodput", fits),
            )
        })
        .collect()
}

fn pools(rows: &[&Row]) -> Vec<Plot> {
    ["all rings", "marked, none busy", "marked, 8 busy"]
        .into_iter()
        .map(|metric| {
            plot(
                &format!("Looking at rings: {metric}"),
                "rings",
                "ns a turn",
                lines(rows, "pools", metric, |_| true),
            )
        })
        .collect()
}

fn spins(row: &Row) -> bool {
    row.params.get("idle").is_none_or(|idle| idle == "spin")
}

/// A ping-pong with one message in flight.
fn alone(row: &Row) -> bool {
    !row.params.contains_key("open loop")
        && row.params.get("in flight").is_none_or(|depth| depth == "1")
}

/// Lines of a metric over a numeric param: one line for all that is otherwise alike.
fn lines(rows: &[&Row], x: &str, metric: &str, fits: impl Fn(&Row) -> bool) -> Vec<Line> {
    let mut lines: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.metric == metric && fits(row)) {
        let Some(at) = row.params.get(x).and_then(|value| number(value)) else {
            continue;
        };
        lines
            .entry(name(row, x, metric))
            .or_default()
            .push((at, row.median));
    }
    lines.into_iter().collect()
}

/// Quantiles of some cases: over how many exchanges one is slower.
fn quantiles(title: &str, rows: &[&Row], fits: impl Fn(&Row) -> bool) -> Plot {
    let mut lines: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for row in rows.iter().filter(|row| fits(row)) {
        let Some(percent) = row
            .metric
            .strip_prefix('p')
            .and_then(|text| text.parse::<f64>().ok())
        else {
            continue;
        };
        lines
            .entry(name(row, "", ""))
            .or_default()
            .push((1.0 / (1.0 - percent / 100.0), row.median));
    }
    Plot {
        title: title.to_owned(),
        x: "1 in so many",
        y: "us",
        lines: lines.into_iter().collect(),
    }
}

/// Params that say little in a legend, or stand in the title.
const QUIET: [&str; 12] = [
    "idle",
    "xdp",
    "checksums",
    "congestion control",
    "in flight",
    "bytes",
    "sender",
    "acks",
    "window",
    "loss",
    "load",
    "message",
];

/// What stands in the legend: who, and what sets the line apart.
fn name(row: &Row, x: &str, metric: &str) -> String {
    let who = match row.subject == row.peer {
        true => row.subject.clone(),
        false => format!("{} → {}", row.subject, row.peer),
    };
    let apart = row
        .params
        .iter()
        .filter(|(param, _)| !QUIET.contains(&param.as_str()) && param.as_str() != x)
        .map(|(param, value)| match param.as_str() {
            "offloads" => format!("offloads {value}"),
            "rings at the server" => {
                if value.starts_with("1,") {
                    "one ring".to_owned()
                } else {
                    "own rings".to_owned()
                }
            }
            _ => value.clone(),
        });
    let control = row
        .params
        .get("congestion control")
        .filter(|_| row.experiment == "wan")
        .cloned();
    let metric = (row.experiment == "demux").then(|| metric.to_owned());
    [who]
        .into_iter()
        .chain(apart)
        .chain(control)
        .chain(metric)
        .collect::<Vec<_>>()
        .join(", ")
}

/// `64`, `64 B`, `16 KiB`, `0.1 ms`.
pub(super) fn number(text: &str) -> Option<f64> {
    let (value, unit) = text.split_once(' ').unwrap_or((text, ""));
    let scale = match unit {
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "" | "B" | "ms" | "KB" => 1.0,
        _ => return None,
    };
    Some(value.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::sample;

    #[test]
    fn rows_that_are_alike_but_for_x_are_one_line() {
        let mut rows =
            [[1.0; 3], [2.0; 3], [3.0; 3]].map(|values| sample("goodput", "Gbit/s", values));
        for (row, message) in rows.iter_mut().zip(["64 B", "16 KiB", "1 MiB"]) {
            row.params.insert("message".to_owned(), message.to_owned());
        }
        rows[2].peer = "smoltcp".to_owned();
        let rows: Vec<&Row> = rows.iter().collect();
        let lines = lines(&rows, "message", "goodput", |_| true);
        assert_eq!(
            lines,
            [
                (
                    "Bywash → kernel TCP".to_owned(),
                    vec![(64.0, 1.0), (16_384.0, 2.0)]
                ),
                ("Bywash → smoltcp".to_owned(), vec![(1_048_576.0, 3.0)]),
            ]
        );
    }

    #[test]
    fn quantiles_are_over_how_many_are_faster() {
        let rows = [
            sample("p50", "us", [5.0; 3]),
            sample("p99.9", "us", [9.0; 3]),
        ];
        let rows: Vec<&Row> = rows.iter().collect();
        let plot = quantiles("", &rows, |_| true);
        let points = &plot.lines[0].1;
        assert!(
            (points[0].0 - 2.0).abs() < 1e-6 && (points[1].0 - 1000.0).abs() < 1e-3,
            "{points:?}"
        );
    }
}
