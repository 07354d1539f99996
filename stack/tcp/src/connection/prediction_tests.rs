//! Header prediction against the checks in full.

extern crate std;
use alloc::vec;
use alloc::vec::Vec;

use bywash_wire::{Timestamps, Tuple};
use proptest::prelude::*;

use super::*;
use crate::time::Duration;
use crate::{Config, ListenOutcome, Listener};

pub(in crate::connection) const ISS: SeqNumber = SeqNumber::new(u32::MAX - 2_000);
const PEER: SeqNumber = SeqNumber::new(u32::MAX - 50);

pub(in crate::connection) fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

pub(in crate::connection) fn stamped(
    seq: u32,
    ack: u32,
    window: u16,
    millis: u32,
    flags: Flags,
) -> Segment {
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
pub(in crate::connection) fn busy() -> Connection<Vec<u8>> {
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

pub(in crate::connection) fn snapshot(tcp: &Connection<Vec<u8>>) -> Vec<u8> {
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

proptest! {
    /// What follows with the same header leaves behind what it would have if it had been worked off in full.
    #[test]
    fn following_changes_nothing(
        heads in prop::collection::vec(
            (0_u32..12, 0_u16..3, 1_usize..4, prop::collection::vec((1_usize..4, any::<bool>()), 0..8), 0_u8..6),
            1..12,
        ),
    ) {
        let mut fast = busy();
        let mut slow = busy();
        for (now, (acked, window, len, followers, between)) in (2_u32..).zip(heads) {
            let time = at(now.into());
            let seq = fast.rcv.nxt.distance_from(PEER) as u32;
            let mut segment = stamped(seq, 1 + acked * 1_000, 60_000 - window, now, Flags::ACK);
            segment.payload_len = len * 400;
            let payload = vec![7; segment.payload_len];
            let said = fast.on_segment(time, &segment, Some(payload.clone()));
            prop_assert_eq!(slow.on_segment(time, &segment, Some(payload)), said);
            if said != Disposition::Accepted {
                continue;
            }
            for (len, push) in followers {
                segment.seq += segment.payload_len as u32;
                segment.payload_len = len * 400;
                segment.flags = if push { Flags::ACK | Flags::PSH } else { Flags::ACK };
                let payload = vec![7; segment.payload_len];
                if !fast.continues(time, &segment) {
                    prop_assert!(segment.ack != fast.snd.una || fast.rcv.window() < segment.payload_len as u32);
                    break;
                }
                fast.on_following(&segment, payload.clone());
                prop_assert_eq!(slow.on_segment(time, &segment, Some(payload)), Disposition::Accepted);
                prop_assert_eq!(snapshot(&fast), snapshot(&slow));
            }
            for tcp in [&mut fast, &mut slow] {
                if between > 2 {
                    while tcp.recv().is_some() {}
                }
                if between > 3 {
                    while tcp.poll_transmit(time).is_some() {}
                }
            }
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
