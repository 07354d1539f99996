//! SEGMENT ARRIVES (RFC 9293 3.10.7) over the whole space: every state, every combination of flags, every place that a segment
//! can have to the window, every kind of acknowledgment, four lengths, an open and a closed window. Some 20,000 cases.
//!
//! The table is a snapshot. Cases with the same outcome share a line, so it can be read, and a change of behaviour is a line that
//! a reviewer sees. A line: flags; lengths; acknowledgments: places -> what became of it. `segment_arrives` tells the
//! same by example, with numbers.
//!
//! `plain()` settings: no options, a window of 10,000 octets. Ten octets of ours are in flight in ESTABLISHED and CLOSE-WAIT; in
//! FIN-WAIT-1, CLOSING and LAST-ACK our FIN is.

use std::collections::BTreeMap;
use std::fmt::Write;

use bywash_tcp::{Disposition, State};
use bywash_wire::Flags;

use crate::support::lone::{Lone, plain};

const STATES: [State; 9] = [
    State::SynSent,
    State::SynReceived,
    State::Established,
    State::FinWait1,
    State::FinWait2,
    State::CloseWait,
    State::Closing,
    State::LastAck,
    State::TimeWait,
];

const WINDOW: i32 = 10_000;

/// Places of the first octet, from the next number expected.
const OPEN: [(&str, i32); 8] = [
    ("far before", -20_000),
    ("-1", -1),
    ("left edge", 0),
    ("inside", 5),
    ("last", WINDOW - 1),
    ("right edge", WINDOW),
    ("edge+1", WINDOW + 1),
    ("far after", 30_000),
];
const CLOSED: [(&str, i32); 4] = [
    ("-1", -1),
    ("edge", 0),
    ("edge+1", 1),
    ("far after", 30_000),
];

const FLAGS: [(&str, Flags); 8] = [
    ("-", Flags::EMPTY),
    ("FIN", Flags::FIN),
    ("SYN", Flags::SYN),
    ("SYN|FIN", Flags::SYN.union(Flags::FIN)),
    ("RST", Flags::RST),
    ("RST|SYN", Flags::RST.union(Flags::SYN)),
    ("RST|FIN", Flags::RST.union(Flags::FIN)),
    ("URG|PSH", Flags::URG.union(Flags::PSH)),
];

const LENGTHS: [(&str, usize); 4] = [
    ("0", 0),
    ("1", 1),
    ("window", WINDOW as usize),
    ("window+1", WINDOW as usize + 1),
];

const ACKS: [&str; 6] = ["none", "ancient", "old", "una", "all", "future"];

#[derive(Clone, Copy)]
struct Case {
    state: State,
    /// SYN-RECEIVED, opened by a SYN with three octets (RFC 7413), and ten of ours are in flight besides the SYN-ACK.
    early: bool,
    closed: bool,
    flags: Flags,
    len: usize,
    ack: &'static str,
    seq: i32,
}

/// A connection in the state, and the next number that it expects.
fn begin(case: &Case) -> (Lone, i32) {
    if case.early {
        let mut lone = Lone::called_early(&plain(), b"abc");
        lone.send(&[1; 10]);
        lone.sent();
        return (lone, 3);
    }
    let mut lone = Lone::in_state(case.state, &plain());
    let mut next = match case.state {
        State::CloseWait | State::Closing | State::LastAck | State::TimeWait => 1,
        _ => 0,
    };
    if case.closed {
        lone.get(0, all_sent(&lone), Flags::ACK, &[3; WINDOW as usize]);
        next = WINDOW;
        lone.sent();
        assert_eq!(lone.tcp.info().rcv_wnd, 0);
    }
    if matches!(case.state, State::Established | State::CloseWait) {
        lone.send(&[1; 10]);
        lone.sent();
    }
    (lone, next)
}

/// The number behind everything sent, counted from our SYN.
fn all_sent(lone: &Lone) -> i32 {
    let fin = match lone.tcp.state() {
        State::FinWait1 | State::FinWait2 | State::Closing | State::LastAck | State::TimeWait => 1,
        _ => 0,
    };
    1 + lone.tcp.info().bytes_out as i32 + fin
}

fn outcome(case: &Case) -> String {
    let (mut lone, next) = begin(case);
    let all = all_sent(&lone);
    let una = match case.state {
        State::SynSent | State::SynReceived => 0,
        _ => all - lone.tcp.info().in_flight as i32,
    };
    let (ack, number) = match case.ack {
        "none" => (Flags::EMPTY, 0),
        "ancient" => (Flags::ACK, una - 50_000),
        "old" => (Flags::ACK, una - 1),
        "una" => (Flags::ACK, una),
        "all" => (Flags::ACK, all),
        _ => (Flags::ACK, all + 1),
    };
    let before = lone.tcp.info();
    let said = lone.get(
        next + case.seq,
        number,
        case.flags | ack,
        &vec![7; case.len],
    );
    let mut text = match said {
        Disposition::Accepted => "accepted".to_string(),
        Disposition::Dropped(reason) => reason.name().to_string(),
    };
    let after = lone.tcp.info();
    if after.in_flight != before.in_flight && lone.tcp.state() != State::Closed {
        text.push_str("; acknowledges");
    }
    if after.bytes_in > before.bytes_in {
        write!(text, "; {} octets", after.bytes_in - before.bytes_in).unwrap();
    }
    if after.held_out_of_order > 0 {
        write!(text, "; {} held", after.held_out_of_order).unwrap();
    }
    if lone.tcp.state() != case.state {
        write!(text, "; {}", lone.tcp.state()).unwrap();
        if let Some(error) = lone.tcp.error() {
            write!(text, " ({error})").unwrap();
        }
    }
    for sent in lone.sent() {
        write!(text, "; <{}>", sent.segment.flags).unwrap();
    }
    text
}

/// Runs of places with the same outcome, as text.
fn places(case: Case, all: &[(&str, i32)]) -> String {
    let mut runs: Vec<(String, String)> = Vec::new();
    for (name, seq) in all {
        let text = outcome(&Case { seq: *seq, ..case });
        match runs.last_mut() {
            Some((names, last)) if *last == text => {
                let first = names.split(" .. ").next().unwrap().to_string();
                *names = format!("{first} .. {name}");
            }
            _ => runs.push((name.to_string(), text)),
        }
    }
    if runs.len() == 1 {
        return format!("anywhere -> {}", runs[0].1);
    }
    let runs = runs
        .iter()
        .map(|(names, text)| format!("{names} -> {text}"));
    runs.collect::<Vec<_>>().join("\n        ")
}

/// Joins keys with equal values, in the order of their first appearance.
fn merged(rows: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut order: Vec<String> = Vec::new();
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in rows {
        if !keys.contains_key(&value) {
            order.push(value.clone());
        }
        keys.entry(value).or_default().push(key);
    }
    let join = |value: String| (keys[&value].join(", "), value);
    order.into_iter().map(join).collect()
}

fn table(state: State, closed: bool) -> String {
    table_of(state, false, closed)
}

fn table_of(state: State, early: bool, closed: bool) -> String {
    let all: &[(&str, i32)] = if closed { &CLOSED } else { &OPEN };
    let mut by_flags = Vec::new();
    for (name, flags) in FLAGS {
        let mut by_len = Vec::new();
        for (length, len) in LENGTHS {
            let mut by_ack = Vec::new();
            for ack in ACKS {
                let case = Case {
                    state,
                    early,
                    closed,
                    flags,
                    len,
                    ack,
                    seq: 0,
                };
                by_ack.push((ack.to_string(), places(case, all)));
            }
            let lines = merged(by_ack).into_iter();
            let lines = lines.map(|(acks, text)| format!("      ack {acks}: {text}\n"));
            by_len.push((length.to_string(), lines.collect::<String>()));
        }
        let lines = merged(by_len).into_iter();
        let lines = lines.map(|(lengths, text)| format!("    length {lengths}\n{text}"));
        by_flags.push((name.to_string(), lines.collect::<String>()));
    }
    let lines = merged(by_flags).into_iter();
    let lines = lines.map(|(flags, text)| format!("  {flags}\n{text}"));
    lines.collect()
}

#[test]
fn every_state_over_the_whole_space() {
    let mut text = String::new();
    for state in STATES {
        writeln!(text, "{state}\n{}", table(state, false)).unwrap();
    }
    insta::assert_snapshot!("segment_space", text);
}

#[test]
fn a_closed_window_over_the_whole_space() {
    let mut text = String::new();
    for state in [State::Established, State::FinWait1, State::FinWait2] {
        writeln!(text, "{state}\n{}", table(state, true)).unwrap();
    }
    insta::assert_snapshot!("segment_space_closed_window", text);
}

#[test]
fn a_connection_opened_early_over_the_whole_space() {
    let text = table_of(State::SynReceived, true, false);
    insta::assert_snapshot!("segment_space_opened_early", text);
}
