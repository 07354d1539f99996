//! SEGMENT ARRIVES (RFC 9293 3.10.7) as a table: every state, every kind of segment at the places that matter, and what
//! became of it. The table is a snapshot: a change of behaviour is a change that a reviewer sees.
//!
//! `plain()` settings: no options, a window of 10000 octets; the next number expected of the peer is 0, also where its FIN
//! has been received, our SYN is 0 and our data begins at 1. A line reads: segment -> what the connection said of it; the state if it changed; what was sent in return.

use std::fmt::Write;

use bywash_tcp::{Disposition, State};
use bywash_wire::Flags;

use crate::support::lone::{Lone, Sent, plain};
use crate::support::{ISS_A, ISS_B};

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

const ACK: Flags = Flags::ACK;

/// Name, sequence number, acknowledgment, flags, octets of data. `ack` -1 stands for "everything we have sent".
const SEGMENTS: &[(&str, i32, i32, Flags, usize)] = &[
    ("SYN", -1, 0, Flags::SYN, 0),
    ("SYN in the window", 5, 0, Flags::SYN, 0),
    ("SYN-ACK", -1, 1, Flags::SYN.union(ACK), 0),
    ("SYN-ACK of nothing sent", -1, 9, Flags::SYN.union(ACK), 0),
    ("RST at the next number", 0, 0, Flags::RST, 0),
    ("RST-ACK at the next number", 0, 1, Flags::RST.union(ACK), 0),
    ("RST in the window", 100, 0, Flags::RST, 0),
    (
        "RST at the last number of the window",
        9_999,
        0,
        Flags::RST,
        0,
    ),
    ("RST outside the window", 10_001, 0, Flags::RST, 0),
    ("RST before the window", -1, 0, Flags::RST, 0),
    ("ACK of everything", 0, -1, ACK, 0),
    ("ACK of nothing new", 0, 1, ACK, 0),
    ("ACK of data never sent", 0, 1_000, ACK, 0),
    ("ACK older than any window", 0, -50_000, ACK, 0),
    ("ACK at the right edge", 10_000, -1, ACK, 0),
    ("ACK beyond the right edge", 10_001, -1, ACK, 0),
    ("ACK before the window", -2, -1, ACK, 0),
    ("no flags", 0, 0, Flags::EMPTY, 0),
    ("data", 0, -1, ACK, 10),
    ("data without ACK", 0, 0, Flags::EMPTY, 10),
    ("data seen before", -10, -1, ACK, 10),
    ("data half seen before", -5, -1, ACK, 10),
    ("data out of order", 10, -1, ACK, 10),
    ("data over the right edge", 9_995, -1, ACK, 10),
    ("data beyond the window", 10_000, -1, ACK, 10),
    ("FIN", 0, -1, Flags::FIN.union(ACK), 0),
    ("FIN once more", -1, -1, Flags::FIN.union(ACK), 0),
    (
        "FIN that does not acknowledge ours",
        0,
        1,
        Flags::FIN.union(ACK),
        0,
    ),
    ("FIN with data", 0, -1, Flags::FIN.union(ACK), 10),
    ("FIN out of order", 10, -1, Flags::FIN.union(ACK), 0),
    ("urgent data", 0, -1, Flags::URG.union(ACK), 10),
];

/// The next number expected of the peer, as `Lone` counts.
fn base(state: State) -> i32 {
    match state {
        State::CloseWait | State::Closing | State::LastAck | State::TimeWait => 1,
        _ => 0,
    }
}

fn show(sent: &Sent, base: i32) -> String {
    let segment = &sent.segment;
    let mut text = format!("{} seq={}", segment.flags, segment.seq.distance_from(ISS_A));
    if segment.flags.contains(ACK) {
        write!(text, " ack={}", segment.ack.distance_from(ISS_B + 1) - base).unwrap();
    }
    if sent.again {
        text.push_str(" again");
    }
    text
}

fn row(state: State, &(name, seq, ack, flags, len): &(&str, i32, i32, Flags, usize)) -> String {
    let mut lone = Lone::in_state(state, &plain());
    let all = lone.tcp.info().bytes_out as i32
        + match state {
            State::SynSent | State::SynReceived | State::Established | State::CloseWait => 1,
            _ => 2,
        };
    let ack = if ack == -1 { all } else { ack };
    let said = match lone.get(base(state) + seq, ack, flags, &vec![7; len]) {
        Disposition::Accepted => "accepted".to_string(),
        Disposition::Dropped(reason) => reason.name().to_string(),
    };
    let mut text = format!("{name}: {said}");
    if lone.tcp.state() != state {
        write!(text, "; {}", lone.tcp.state()).unwrap();
        if let Some(error) = lone.tcp.error() {
            write!(text, " ({error})").unwrap();
        }
    }
    let unread: usize = std::iter::from_fn(|| lone.tcp.recv())
        .map(|frame| frame.bytes.len())
        .sum();
    if unread > 0 {
        write!(text, "; {unread} octets read").unwrap();
    }
    for sent in lone.sent() {
        write!(text, "; <{}>", show(&sent, base(state))).unwrap();
    }
    text
}

#[test]
fn every_state_and_every_kind_of_segment() {
    let mut table = String::new();
    for state in STATES {
        writeln!(table, "{state}").unwrap();
        for segment in SEGMENTS {
            writeln!(table, "  {}", row(state, segment)).unwrap();
        }
    }
    insta::assert_snapshot!("segment_arrives", table);
}

#[test]
fn a_closed_connection_takes_nothing_and_sends_nothing() {
    for segment in SEGMENTS {
        let row = row(State::Closed, segment);
        assert!(row.ends_with(": closed"), "{row}");
    }
}

#[test]
fn challenges_are_rate_limited() {
    let mut lone = Lone::in_state(State::Established, &plain());
    let mut answers = 0;
    for _ in 0..100 {
        lone.get(100, 0, Flags::RST, b"");
        answers += lone.sent().len();
    }
    assert_eq!(answers, 1);
    assert_eq!(lone.tcp.info().challenge_acks, 1);
    lone.now += crate::support::ms(499);
    lone.get(100, 0, Flags::RST, b"");
    assert_eq!(lone.sent().len(), 0);
    lone.now += crate::support::ms(1);
    lone.get(100, 0, Flags::RST, b"");
    assert_eq!(lone.sent().len(), 1);
}

#[test]
fn the_shard_may_withhold_a_challenge() {
    let mut lone = Lone::in_state(State::Established, &plain());
    lone.get(100, 0, Flags::RST, b"");
    assert!(lone.tcp.challenge_due());
    lone.tcp.withhold_challenge();
    assert!(lone.sent().is_empty());
    // What is owed for another reason goes all the same.
    lone.now += crate::support::ms(500);
    lone.get(5, 1, Flags::SYN, b"");
    lone.get(0, 1, Flags::FIN | ACK, b"");
    assert!(lone.tcp.challenge_due());
    lone.tcp.withhold_challenge();
    assert_eq!(lone.sent().len(), 1);
}

#[test]
fn two_ends_that_disagree_do_not_answer_each_other_for_ever() {
    let mut lone = Lone::in_state(State::Established, &plain());
    let mut answers = 0;
    for _ in 0..100 {
        lone.get(-500, 1, ACK, b"");
        answers += lone.sent().len();
    }
    assert_eq!(answers, 1);
}

#[test]
fn an_old_segment_does_not_change_the_window() {
    let mut lone = Lone::in_state(State::Established, &plain());
    lone.get(0, 1, ACK, b"ten octets");
    let mut old = crate::support::lone::segment(5, 1, ACK);
    old.window = 1;
    lone.get_segment(&old, b"octet");
    assert_eq!(lone.tcp.info().snd_wnd, 8_000);
    let mut new = crate::support::lone::segment(10, 1, ACK);
    new.window = 2;
    lone.get_segment(&new, b"");
    assert_eq!(lone.tcp.info().snd_wnd, 2);
}

#[test]
fn paws_drops_old_timestamps_but_not_resets() {
    let config = bywash_tcp::Config {
        timestamps: true,
        ..plain()
    };
    let mut pair = crate::support::Pair::established(&config, &config);
    pair.a.send(b"x");
    pair.settle();
    let mut segment = pair.trace[0].segment;
    pair.run_for(crate::support::ms(10));
    let next = segment.seq + 1;
    segment.seq = next;
    segment.options.timestamps.as_mut().unwrap().value -= 10_000;
    pair.on_segment(crate::support::Side::B, &segment, Some(vec![1]));
    assert_eq!(
        pair.b.drops,
        [Disposition::Dropped(bywash_wire::DropReason::Paws)]
    );
    segment.flags = Flags::RST;
    segment.payload_len = 0;
    pair.on_segment(crate::support::Side::B, &segment, None);
    assert_eq!(pair.b.state(), State::Closed);
}
