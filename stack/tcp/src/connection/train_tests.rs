//! Trains against segments that are decided one by one.

extern crate std;
use alloc::vec;
use alloc::vec::Vec;

use bywash_wire::Flags;
use proptest::prelude::*;

use super::super::Transmit;
use super::super::on_segment::tests::{at, busy, snapshot, stamped};
use super::*;

type Tcp = Connection<Vec<u8>>;
type Seen = Vec<(Segment, usize)>;

fn seen(transmit: &Transmit<'_, Vec<u8>>) -> (Segment, usize) {
    let payload = transmit.payload.as_ref().map_or(0, |payload| payload.len());
    (transmit.segment, payload)
}

fn one_by_one(tcp: &mut Tcp, now: Instant) -> Seen {
    let mut all = Vec::new();
    while let Some(transmit) = tcp.poll_transmit(now) {
        all.push(seen(&transmit));
    }
    all
}

/// And how many came by trains.
fn by_trains(tcp: &mut Tcp, now: Instant, most: usize) -> (Seen, usize) {
    let (mut all, mut trains) = (Vec::new(), 0);
    while let Some(transmit) = tcp.poll_transmit(now) {
        let (first, len) = seen(&transmit);
        all.push((first, len));
        for (seq, payload) in tcp.poll_train(now, &first, most).into_iter().flatten() {
            all.push((Segment { seq, ..first }, payload.len()));
            trains += 1;
        }
    }
    (all, trains)
}

/// `steps`: segments queued, whether the last is short, segments acknowledged, the window, whether that comes by an ACK.
fn compare(steps: Vec<(usize, bool, u32, u16, bool)>, most: usize) -> Result<usize, TestCaseError> {
    let (mut fast, mut slow) = (busy(), busy());
    let limit = fast.segment_limit();
    let mut trains = 0;
    for (now, (queued, short, acked, window, acks)) in (2_u64..).zip(steps) {
        let now = at(now * 3);
        let una = fast
            .snd
            .una
            .distance_from(crate::connection::on_segment::tests::ISS) as u32;
        let outstanding = fast.snd.nxt.distance_from(fast.snd.una) as u32;
        let ack = stamped(
            1,
            una + outstanding.min(acked * limit as u32),
            window,
            2,
            Flags::ACK,
        );
        for tcp in [&mut fast, &mut slow] {
            if acks {
                tcp.on_segment(now, &ack, None);
            }
            if tcp.next_timeout().is_some_and(|due| due <= now) {
                tcp.on_timeout(now);
            }
            for place in 0..queued {
                let len = if short && place + 1 == queued {
                    limit / 3
                } else {
                    limit
                };
                // A full buffer refuses both alike.
                tcp.send(vec![9; len]).ok();
            }
            if short {
                tcp.push();
            }
        }
        let (all, of_trains) = by_trains(&mut fast, now, most);
        trains += of_trains;
        prop_assert_eq!(all, one_by_one(&mut slow, now));
        prop_assert_eq!(snapshot(&fast), snapshot(&slow));
    }
    Ok(trains)
}

proptest! {
    #[test]
    fn trains_change_nothing(
        steps in prop::collection::vec(
            (0_usize..60, any::<bool>(), 0_u32..40, 8_000_u16..60_000, prop::bool::weighted(0.8)),
            1..25,
        ),
        most in 1_usize..40,
    ) {
        compare(steps, most)?;
    }
}

#[test]
fn a_grown_window_leaves_in_trains() {
    let steps = vec![(40, false, 40, 60_000, true); 12];
    let trains = compare(steps, 32).expect("as one by one");
    assert!(trains > 100, "{trains} of 480");
}
