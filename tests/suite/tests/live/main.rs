//! A matrix of our TCP against the kernel's, over real devices: each setting that two ends may differ in, and each fault of a path.
//!
//! ```text
//!  settings: wire, MTU, ECN, timestamps, SACK, window scaling, congestion control of both ends, family, buffers, VLAN
//!      └─ cover: every pair of choices in some cell ─ cell ─ bed, sysctl, engine ─ exchange: 2 connections × 2 directions
//! ```
//! `BYWASH_LIVE=full` takes every three choices together instead of every two, some minutes; `BYWASH_LIVE=N` takes cell `N`
//! of the pairs alone. The full product has 466,560 cells, which no one runs.
//!
//! Beside the matrix: captures, judged by tshark ([`capture`]), TCP Fast Open ([`fast_open`]), and smoltcp and lwIP as other TCPs
//! ([`smol`], [`lwip`]).

mod capture;
mod cell;
mod cover;
mod exchange;
mod fast_open;
mod lwip;
mod smol;

use std::net::SocketAddr;
use std::time::Instant;

use bywash::Stack;
use bywash_tests::LIMIT;

use capture::{Capture, Finding};
use cell::{COUNTS, Cell, WIRES, Wire};
use exchange::Stretch;

/// The cells that were asked for, with their numbers.
fn cells() -> Vec<(usize, Cell)> {
    let asked = std::env::var("BYWASH_LIVE").ok();
    let strength = if asked.as_deref() == Some("full") {
        3
    } else {
        2
    };
    let rows = cover::cover(COUNTS, strength).into_iter().enumerate();
    let all = rows.map(|(n, row)| (n, Cell::of(row, n as u64 + 1)));
    match asked.as_deref() {
        None | Some("full") => all.collect(),
        Some(number) => {
            let number: usize = number
                .parse()
                .expect("BYWASH_LIVE is `full` or a cell's number");
            all.filter(|(n, _)| *n == number).collect()
        }
    }
}

#[test]
fn every_pair_of_settings_against_the_kernel() {
    let cells = cells();
    assert!(!cells.is_empty(), "BYWASH_LIVE names no cell");
    let mut failures = Vec::new();
    // Lost, reordered, duplicated, corrupted, marked.
    let mut faults = [0; 5];
    for (number, cell) in &cells {
        let bed = cell.bed();
        let outcome = exchange::run(&bed, cell, cell.bytes());
        if let Wire::Faulty(..) = cell.wire {
            for fates in bed.passed().map(|counts| counts.fates) {
                let seen = [
                    fates.lost,
                    fates.reordered,
                    fates.duplicated,
                    fates.corrupted,
                    fates.marked,
                ];
                for (sum, more) in faults.iter_mut().zip(seen) {
                    *sum += more;
                }
            }
        }
        match outcome {
            Ok(took) => {
                let [to_us, to_them] = took.map(|time| time.as_secs_f64());
                println!("{number:3} {cell} to us {to_us:5.2} s, to the kernel {to_them:5.2} s");
            }
            Err(error) => {
                println!("{number:3} {cell} FAILED: {error}");
                failures.push(format!("{number} {cell}: {error}"));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "BYWASH_LIVE=N repeats one:\n{}",
        failures.join("\n")
    );
    println!("faults: lost, reordered, duplicated, corrupted, marked: {faults:?}");
    let whole = cells.len() >= WIRES.len();
    assert!(
        !whole || faults.iter().all(|n| *n > 100),
        "few faults prove little: {faults:?}"
    );
}

/// What may be found in any capture: the end of a connection, and a window that is full or closed since its reader is slow.
const USUAL: [&str; 6] = [
    "the connection closing",
    "completely full",
    "Zero Window segment",
    "Zero Window Probe",
    "keep-alive",
    "Window Update",
];

/// What losses, reordering and duplication explain. Not "ACKed segment that wasn't captured": see [`capture`]. An ACK that the last
/// one has overtaken finds no connection any more and is answered by a reset (RFC 9293 3.10.7.1); a reset before that would fail
/// the transfer.
const FAULTS: [&str; 6] = [
    "Connection reset",
    "retransmission",
    "Duplicate ACK",
    "Previous segment(s) not captured",
    "out-of-order",
    "D-SACK",
];

/// Runs a cell with a capture; answers what is found in it beside the usual.
fn findings(row: cover::Row<{ cell::SETTINGS }>) -> Vec<Finding> {
    let cell = Cell::of(row, 7);
    let bed = cell.bed();
    let capture = Capture::start(&bed);
    let outcome = exchange::run(&bed, &cell, cell.bytes());
    let (packets, mut findings) = capture.analyse(&bed);
    outcome.unwrap_or_else(|error| panic!("{cell}: {error}"));
    println!("{cell}: {packets} packets, {findings:?}");
    assert!(packets > 1000, "{packets} packets were captured");
    findings.retain(|finding| !is_one_of(finding, &USUAL));
    findings
}

fn is_one_of(finding: &Finding, names: &[&str]) -> bool {
    let summary = finding.summary.to_lowercase();
    names
        .iter()
        .any(|name| summary.contains(&name.to_lowercase()))
}

/// Segments that may be sent again on a wire that loses nothing: an end that a busy machine holds up for longer than a probe's
/// time-out is asked again (RFC 8985 7).
const HELD_UP: u64 = 40;

#[test]
fn captures_of_clean_wires_show_nothing_unusual() {
    // Plain: with offloads a capture shows checksums that nobody has computed yet. The columns are those of `Cell::of`.
    let rows = [
        [1, 3, 1, 0, 0, 0, 0, 0, 0, 1, 0],
        [1, 3, 2, 0, 0, 0, 2, 0, 1, 0, 0],
        [1, 0, 0, 1, 2, 1, 1, 1, 0, 1, 0],
        [1, 1, 0, 2, 1, 2, 0, 2, 1, 1, 0],
    ];
    for row in rows {
        let found = findings(row);
        let unexplained = found.iter().find(|one| !is_one_of(one, &FAULTS));
        assert_eq!(unexplained, None, "{found:#?}");
        let again: u64 = found.iter().map(|one| one.times).sum();
        assert!(again <= HELD_UP, "{found:#?}");
    }
}

#[test]
fn captures_of_faulty_wires_show_what_the_faults_explain() {
    // Loss 1 %, reordering 5 %, duplication 5 %.
    for (wire, v6) in [(3, 0), (5, 1), (6, 0)] {
        let found = findings([wire, 3, 1, 0, 0, 0, 0, 0, v6, 0, 0]);
        let unexplained = found.iter().find(|one| !is_one_of(one, &FAULTS));
        assert_eq!(unexplained, None, "{found:#?}");
        assert!(!found.is_empty(), "the analysis has not seen the faults");
    }
}

/// One connection that we open and one that smoltcp opens, with data in both directions.
fn with_smoltcp(wire: usize, v6: bool) {
    const BYTES: usize = 1 << 19;
    let cell = Cell::of([wire, 0, 1, 0, 0, 0, 0, 0, usize::from(v6), 0, 0], 11);
    let bed = cell.bed();
    let config = cell.config(&bed);
    let stack = bed.host.inside(move || Stack::start(config));
    let stack = stack.expect("the engine starts");
    for by_us in [true, false] {
        let deadline = Instant::now() + exchange::CELL_TIME;
        let (out, back) = (Stretch::new(1, BYTES), Stretch::new(2, BYTES));
        let noise = back.bytes.clone();
        let (stream, other) = if by_us {
            let other = smol::talk(&bed, v6, None, noise, deadline);
            let at = SocketAddr::new(smol::address(v6), smol::PORT);
            let stream = bywash::TcpStream::connect_timeout(stack.remote(), at, LIMIT);
            (stream.expect("smoltcp listens"), other)
        } else {
            let listener = stack.listen(exchange::PORTS.0).expect("a free port");
            let at = SocketAddr::new(bed.host.address(v6), exchange::PORTS.0);
            let other = smol::talk(&bed, v6, Some(at), noise, deadline);
            let stream = exchange::accept(&listener, deadline);
            (stream.expect("smoltcp connects"), other)
        };
        let outcome = exchange::our_end(&stream, (&out, &back), deadline);
        outcome.unwrap_or_else(|error| panic!("{cell}, opened by us: {by_us}: {error}"));
        let arrived = other.join().expect("smoltcp ends");
        assert!(arrived == out.bytes, "{} bytes arrived", arrived.len());
    }
    stack.stop().expect("a clean end");
}

#[test]
fn smoltcp_on_a_clean_wire() {
    with_smoltcp(1, false);
    with_smoltcp(1, true);
}

#[test]
fn smoltcp_with_loss() {
    with_smoltcp(3, false);
    with_smoltcp(3, true);
}

/// Connections that we open and that lwIP opens, with data in both directions at once.
fn with_lwip(wire: usize, bytes: usize) {
    let program = lwip::Program::compile();
    for v6 in [false, true] {
        let cell = Cell::of([wire, 0, 1, 0, 0, 0, 0, 0, usize::from(v6), 0, 0], 12);
        let bed = cell.bed();
        let config = cell.config(&bed);
        let stack = bed.host.inside(move || Stack::start(config));
        let stack = stack.expect("the engine starts");
        for by_us in [true, false] {
            let what = format!("{cell}, opened by us: {by_us}");
            let deadline = Instant::now() + exchange::CELL_TIME;
            let (out, back) = (Stretch::new(1, bytes), Stretch::new(2, bytes));
            let (stream, other) = if by_us {
                let other = program.listen(&bed, &back.bytes);
                let at = SocketAddr::new(lwip::address(v6), lwip::PORT);
                let stream = bywash::TcpStream::connect_timeout(stack.remote(), at, LIMIT);
                (stream, other)
            } else {
                let listener = stack.listen(exchange::PORTS.0).expect("a free port");
                let at = SocketAddr::new(bed.host.address(v6), exchange::PORTS.0);
                let other = program.connect(&bed, at, &back.bytes);
                (exchange::accept(&listener, deadline), other)
            };
            let stream = stream.unwrap_or_else(|error| panic!("{what}: {error}"));
            let outcome = exchange::our_end(&stream, (&out, &back), deadline);
            outcome.unwrap_or_else(|error| panic!("{what}: {error}"));
            let arrived = other.end();
            assert!(arrived == out.bytes, "{what}: {} bytes", arrived.len());
        }
        stack.stop().expect("a clean end");
    }
}

#[test]
fn lwip_on_a_clean_wire() {
    with_lwip(1, 1 << 19);
}

#[test]
fn lwip_with_loss() {
    with_lwip(3, 1 << 18);
}
