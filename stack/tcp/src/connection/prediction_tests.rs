//! Header prediction against the checks in full.

extern crate std;
use alloc::vec;
use alloc::vec::Vec;

use bywash_wire::{Timestamps, Tuple};
use proptest::prelude::*;

use super::*;
use crate::time::Duration;
use crate::{Config, ListenOutcome, Listener};

const ISS: SeqNumber = SeqNumber::new(u32::MAX - 2_000);
const PEER: SeqNumber = SeqNumber::new(u32::MAX - 50);

fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

fn stamped(seq: u32, ack: u32, window: u16, millis: u32, flags: Flags) -> Segment {
    let mut segment = Segment {
        seq: PEER + seq,
        ack: ISS + ack,
        flags,
        window,
        ..Segment::default()
    };
    segment.options.timestamps = Some(Timestamps {
        value: millis,
        echo: 0,
    });
    segment.options.mss = flags.contains(Flags::SYN).then_some(1_460);
    segment
}

/// Established, with ten segments of a thousand bytes in flight.
fn busy() -> Connection<Vec<u8>> {
    let syn = stamped(0, 0, 60_000, 0, Flags::SYN);
    let listener = Listener::new(Config::default());
    let outcome = listener.on_segment(at(0), Tuple::default(), &syn, ISS, 0);
    let ListenOutcome::Connection(mut tcp) = outcome else {
        panic!("{outcome:?}")
    };
    while tcp.poll_transmit(at(0)).is_some() {}
    tcp.on_segment(at(1), &stamped(1, 1, 60_000, 1, Flags::ACK), None);
    for _ in 0..10 {
        tcp.send(vec![1; 1_000]).unwrap();
    }
    while tcp.poll_transmit(at(1)).is_some() {}
    tcp
}

fn snapshot(tcp: &Connection<Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::new();
    tcp.snapshot(&mut out, |payload| payload);
    out
}

proptest! {
    /// The fast path is nothing but fast: whatever it takes, the checks in full would have done the same.
    #[test]
    fn prediction_changes_nothing(
        steps in prop::collection::vec((0_u32..3, 0_u32..12, 0_u16..3, 0_u32..3, 0_usize..4), 1..30),
    ) {
        let mut fast = busy();
        let mut slow = busy();
        for (now, (skip, acked, window, older, len)) in (2_u32..).zip(steps) {
            let seq = fast.rcv.nxt.distance_from(PEER) as u32 + skip / 2;
            let ack = 1 + acked * 1_000;
            let len = len * 400;
            let flags = if len > 0 { Flags::ACK | Flags::PSH } else { Flags::ACK };
            let segment = stamped(seq, ack, 60_000 - window, now - older / 2, flags);
            let payload = (len > 0).then(|| vec![7; len]);
            let time = at(now.into());
            let said = fast.on_segment(time, &segment, payload.clone());
            slow.control.clock = time;
            slow.counters.segments_in += 1;
            prop_assert_eq!(slow.on_unpredicted(time, &segment, payload), said);
            prop_assert_eq!(snapshot(&fast), snapshot(&slow));
        }
    }
}

#[test]
fn the_usual_segments_are_predicted() {
    let tcp = busy();
    assert!(
        tcp.is_predicted(&stamped(1, 1, 60_000, 2, Flags::ACK | Flags::PSH), 1_000),
        "data"
    );
    assert!(
        tcp.is_predicted(&stamped(1, 5_001, 60_000, 2, Flags::ACK), 0),
        "an ACK"
    );
    assert!(
        tcp.is_predicted(&stamped(1, 5_001, 9, 2, Flags::ACK), 10),
        "both, and a window"
    );
    assert!(
        !tcp.is_predicted(&stamped(2, 1, 60_000, 2, Flags::ACK), 1_000),
        "a gap"
    );
    assert!(
        !tcp.is_predicted(&stamped(1, 1, 60_000, 0, Flags::ACK), 1_000),
        "an old timestamp"
    );
    assert!(
        !tcp.is_predicted(&stamped(1, 20_000, 60_000, 2, Flags::ACK), 0),
        "never sent"
    );
    assert!(
        !tcp.is_predicted(&stamped(1, 1, 60_000, 2, Flags::ACK | Flags::FIN), 0),
        "FIN"
    );
}
