use proptest::prelude::*;

use super::*;
use crate::impairment::Burst;

const MS: u64 = 1_000_000;

/// Frames of 60 bytes that carry their number; one a millisecond.
fn run(impairment: Impairment, seed: u64, frames: u64) -> (Vec<(u64, Vec<u8>)>, Fates) {
    let mut lane = Lane::new(impairment, seed, 0);
    let mut out = Vec::new();
    let mut take = |lane: &mut Lane, now| {
        while let Some(frame) = lane.due(now) {
            out.push((now, frame));
        }
    };
    for number in 0..frames {
        lane.offer(number * MS, &frame(number));
        take(&mut lane, number * MS);
    }
    while let Some(at) = lane.next_due() {
        take(&mut lane, at);
    }
    let fates = lane.fates();
    (out, fates)
}

fn frame(number: u64) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[52..].copy_from_slice(&number.to_be_bytes());
    frame
}

fn number(frame: &[u8]) -> u64 {
    u64::from_be_bytes(frame[52..60].try_into().expect("eight bytes"))
}

#[test]
fn without_impairments_everything_passes_at_once() {
    let (out, fates) = run(Impairment::default(), 1, 100);
    assert_eq!(out.len(), 100);
    for (index, (at, bytes)) in out.iter().enumerate() {
        assert_eq!(*at, index as u64 * MS);
        assert_eq!(*bytes, frame(index as u64));
    }
    assert_eq!((fates.offered, fates.delivered), (100, 100));
}

#[test]
fn delay_and_jitter_keep_the_order() {
    let impairment = Impairment {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(5),
        ..Impairment::default()
    };
    let mut lane = Lane::new(impairment, 3, 0);
    lane.offer(0, &frame(0));
    let due = lane.next_due().expect("a packet");
    assert!((20 * MS..25 * MS).contains(&due), "{due}");
    assert_eq!(lane.due(due - 1), None);
    assert!(lane.due(due).is_some());
    let (out, _) = run(impairment, 3, 1000);
    assert!(out.is_sorted_by_key(|(_, bytes)| number(bytes)));
}

#[test]
fn reordered_packets_are_overtaken() {
    let impairment = Impairment {
        reorder: 0.1,
        reorder_by: Duration::from_micros(3500),
        ..Impairment::default()
    };
    let (out, fates) = run(impairment, 5, 1000);
    assert_eq!(out.len(), 1000);
    assert!((60..140).contains(&fates.reordered), "{fates:?}");
    let overtaken = out
        .windows(2)
        .filter(|pair| number(&pair[1].1) < number(&pair[0].1))
        .count();
    assert!(overtaken > 30, "{overtaken}");
}

#[test]
fn a_rate_spaces_packets_and_its_queue_drops_the_tail() {
    // 60 bytes at 48 kbit/s take 10 ms.
    let impairment = Impairment {
        rate: Some(48_000),
        queue: 180,
        ..Impairment::default()
    };
    let mut lane = Lane::new(impairment, 1, 0);
    for number in 0..5 {
        lane.offer(0, &frame(number));
    }
    assert_eq!(lane.fates().queue_full, 2);
    let mut times = Vec::new();
    while let Some(at) = lane.next_due() {
        times.push(at / MS);
        lane.due(at).expect("due now");
    }
    assert_eq!(times, [10, 20, 30]);
    // The queue is empty again.
    lane.offer(40 * MS, &frame(9));
    assert_eq!(lane.next_due(), Some(50 * MS));
}

#[test]
fn bursts_are_as_long_as_they_should_be() {
    let impairment = Impairment {
        burst: Some(Burst {
            enter: 0.01,
            leave: 0.25,
        }),
        ..Impairment::default()
    };
    let (out, fates) = run(impairment, 11, 100_000);
    // Stationary probability of the bad state: enter / (enter + leave).
    let expected = 100_000.0 * 0.01 / 0.26;
    let lost = fates.lost_in_bursts as f64;
    assert!(
        (lost - expected).abs() < expected / 5.0,
        "{lost} for {expected}"
    );
    let gaps = out
        .windows(2)
        .filter(|pair| number(&pair[1].1) != number(&pair[0].1) + 1)
        .count() as f64;
    let mean = lost / gaps;
    assert!((3.0..5.5).contains(&mean), "mean burst {mean}");
}

#[test]
fn damage_spares_the_ethernet_header() {
    let impairment = Impairment {
        corrupt: 0.5,
        truncate: 0.5,
        ..Impairment::default()
    };
    let mut lane = Lane::new(impairment, 2, 0);
    let whole = [0xaa_u8; 60];
    for _ in 0..1000 {
        lane.offer(0, &whole);
    }
    let (mut flipped, mut cut) = (0, 0);
    while let Some(frame) = lane.due(0) {
        assert_eq!(frame[..14], whole[..14]);
        let bits: u32 = frame.iter().map(|byte| (byte ^ 0xaa).count_ones()).sum();
        assert!(bits <= 1);
        flipped += bits;
        cut += u64::from(frame.len() < 60);
    }
    let fates = lane.fates();
    assert_eq!(cut, fates.truncated);
    assert!(flipped > 200 && u64::from(flipped) <= fates.corrupted);
}

#[test]
fn a_frame_without_a_payload_is_left_alone() {
    let impairment = Impairment {
        corrupt: 1.0,
        truncate: 1.0,
        ..Impairment::default()
    };
    let mut lane = Lane::new(impairment, 2, 0);
    lane.offer(0, &[1; 14]);
    lane.offer(0, &[]);
    assert_eq!(lane.due(0), Some(vec![1; 14]));
    assert_eq!(lane.due(0), Some(vec![]));
}

#[test]
fn one_fault_does_not_change_the_draws_of_another() {
    let lossy = Impairment {
        loss: 0.1,
        ..Impairment::default()
    };
    let more = Impairment {
        jitter: Duration::from_micros(10),
        duplicate: 0.2,
        corrupt: 0.2,
        ..lossy
    };
    let survivors = |impairment| {
        let (out, _) = run(impairment, 9, 1000);
        let mut order: Vec<u64> = out.iter().map(|(at, _)| at.div_ceil(MS)).collect();
        order.dedup();
        order.len()
    };
    let (_, plain) = run(lossy, 9, 1000);
    let (_, other) = run(more, 9, 1000);
    assert_eq!(plain.lost, other.lost);
    assert!(survivors(lossy) > 800);
}

proptest! {
    #[test]
    fn every_packet_is_accounted_for(
        seed: u64,
        loss in 0.0..0.5_f64,
        duplicate in 0.0..0.5_f64,
        reorder in 0.0..0.5_f64,
        rate in proptest::option::of(10_000_u64..10_000_000),
        queue in 0_usize..2000,
        frames in 0_u64..300,
    ) {
        let impairment = Impairment { loss, duplicate, reorder, rate, queue, ..Impairment::default() };
        let (out, fates) = run(impairment, seed, frames);
        prop_assert_eq!(fates.offered, frames);
        prop_assert_eq!(fates.delivered, out.len() as u64);
        prop_assert_eq!(
            fates.delivered,
            fates.offered - fates.lost - fates.lost_in_bursts - fates.queue_full + fates.duplicated
        );
        let again = run(impairment, seed, frames);
        prop_assert_eq!(again.0, out);
    }
}
