//! The program as a user runs it, with runs so short that their figures mean nothing: every row is there, and mistakes are told.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bywash-bench"))
        .args(arguments)
        .output()
        .expect("the program runs")
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("bywash-bench-smoke-{}-{name}", std::process::id()))
}

/// Runs experiments for a moment; gives the rows.
fn rows(experiments: &[&str]) -> Vec<Value> {
    let json = scratch(&experiments.join("-"));
    let path = json.to_str().expect("a path in UTF-8");
    let short = ["--seconds", "0.5", "--repetitions", "1", "--json", path];
    let output = bench(&[experiments, &short].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let rows = std::fs::read_to_string(&json).expect("the rows");
    std::fs::remove_file(&json).expect("the rows are a file");
    serde_json::from_str(&rows).expect("an array")
}

/// `subject → peer, the values of these params: metric` of each row.
fn names(rows: &[Value], params: &[&str]) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = |row: &Value| {
        let values: Vec<_> = params
            .iter()
            .map(|param| text(&row["params"][param]))
            .collect();
        format!(
            "{} → {}, {}: {}",
            text(&row["subject"]),
            text(&row["peer"]),
            values.join(", "),
            text(&row["metric"])
        )
    };
    rows.iter().map(name).collect()
}

fn require(found: &BTreeSet<String>, wanted: &[&str]) {
    for name in wanted {
        assert!(found.contains(*name), "no row {name:?} among {found:#?}");
    }
}

/// Needs no root.
#[test]
fn the_experiments_in_memory_have_all_their_rows() {
    let rows = rows(&["stack", "strangers"]);
    require(
        &names(
            &rows,
            &["load", "segment", "connections", "at once", "buffers"],
        ),
        &[
            "Bywash → Bywash, one flow, 64, , , : goodput",
            "Bywash → Bywash, one flow, 1460, , , : goodput",
            "Bywash → Bywash, 64 B there and back, , 64, , : transactions",
            "Bywash → Bywash, connect, 64 B each way, close, , , 64, : connections",
            "smoltcp → smoltcp, one flow, 1460, , , 64 KiB: goodput",
            "Bywash → forged, , RST, , , : segment",
        ],
    );
    for row in &rows {
        let (min, median, max) = (
            row["min"].as_f64(),
            row["median"].as_f64(),
            row["max"].as_f64(),
        );
        assert!(min <= median && median <= max && median.is_some(), "{row}");
        assert!(
            row["machine"]["kernel"].is_string() && row["machine"]["cores"].is_array(),
            "{row}"
        );
    }
}

/// Over veth, so with root.
#[test]
fn the_experiments_over_the_wire_have_all_their_rows() {
    let rows = rows(&["setup"]);
    let found = names(&rows, &["at once", "rings"]);
    require(
        &found,
        &[
            "kernel TCP → kernel TCP, 1, : connections",
            "kernel TCP → Bywash, 16, shared: handshake",
            "Bywash → kernel TCP, 64, shared: use",
            "Bywash → Bywash, 64, shared: connections",
            "Bywash → Bywash, 1, dedicated: begin",
        ],
    );
    let own = format!("bwb-{}", std::process::id());
    let left = std::fs::read_dir("/run/netns").map_or(0, |entries| {
        entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&own))
            .count()
    });
    assert_eq!(left, 0, "namespaces are left");
}

#[test]
fn mistakes_are_told_in_a_line_with_the_remedy() {
    let cases: [(&[&str], i32, &str); 6] = [
        (&["nothing"], 2, "possible values"),
        (&["stack", "--repetitions", "0"], 2, "--repetitions"),
        (&["stack", "--seconds", "0"], 1, "more than 0"),
        (&["stack", "--seconds", "-1"], 2, "-1"),
        (
            &["compare", "/nonexistent", "/nonexistent"],
            1,
            "cannot read /nonexistent",
        ),
        (&["targets", "--mtu", "9000"], 2, "--mtu"),
    ];
    for (arguments, code, part) in cases {
        let output = bench(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}
