//! What came twice is reported (RFC 2883), before what is held (RFC 2018 4).

use bywash_tcp::{Config, State};
use bywash_wire::Flags;

use crate::support::ISS_B;
use crate::support::lone::{Lone, plain};

const DATA: Flags = Flags::ACK.union(Flags::PSH);

/// Agreed on SACK, a window of 10,000.
fn lone() -> Lone {
    let config = Config {
        sack: true,
        ..plain()
    };
    let mut lone = Lone::called_with(&config, |syn| syn.options.sack_permitted = true);
    lone.get(0, 1, Flags::ACK, b"");
    assert_eq!(lone.tcp.state(), State::Established);
    lone
}

/// `start..end` of the peer's stream arrives; the acknowledgment's number and blocks.
fn get(lone: &mut Lone, start: i32, end: i32) -> (i32, Vec<(i32, i32)>) {
    lone.get(start, 1, DATA, &vec![5; (end - start) as usize]);
    let sent = lone.sent();
    let [ack] = &sent[..] else {
        panic!("one acknowledgment at once: {sent:?}")
    };
    let offset = |seq: bywash_wire::SeqNumber| seq.distance_from(ISS_B + 1);
    let blocks = ack.segment.options.sack.iter();
    let blocks = blocks.map(|(start, end)| (offset(start), offset(end)));
    (offset(ack.segment.ack), blocks.collect())
}

#[test]
fn the_walk_through_of_linuxs_own_test() {
    let mut lone = lone();
    assert_eq!(get(&mut lone, 1_000, 2_000), (0, vec![(1_000, 2_000)]));
    assert_eq!(get(&mut lone, 2_000, 3_000), (0, vec![(1_000, 3_000)]));
    assert_eq!(
        get(&mut lone, 4_000, 5_000),
        (0, vec![(4_000, 5_000), (1_000, 3_000)])
    );
    assert_eq!(
        get(&mut lone, 7_000, 8_000),
        (0, vec![(7_000, 8_000), (4_000, 5_000), (1_000, 3_000)])
    );
    // Over two held runs: the first is reported, and what is still held.
    assert_eq!(
        get(&mut lone, 0, 6_000),
        (6_000, vec![(1_000, 3_000), (7_000, 8_000)])
    );
    assert_eq!(get(&mut lone, 6_000, 8_000), (8_000, vec![(7_000, 8_000)]));
    assert_eq!(get(&mut lone, 0, 1_000), (8_000, vec![(0, 1_000)]));
}

#[test]
fn a_duplicate_among_what_is_held_comes_before_its_run() {
    let mut lone = lone();
    get(&mut lone, 1_000, 3_000);
    assert_eq!(
        get(&mut lone, 2_000, 3_000),
        (0, vec![(2_000, 3_000), (1_000, 3_000)])
    );
    // Partly new.
    assert_eq!(
        get(&mut lone, 2_500, 4_000),
        (0, vec![(2_500, 3_000), (1_000, 4_000)])
    );
}

#[test]
fn a_duplicate_is_reported_once() {
    let mut lone = lone();
    get(&mut lone, 0, 1_000);
    assert_eq!(get(&mut lone, 0, 500), (1_000, vec![(0, 500)]));
    assert_eq!(get(&mut lone, 1_000, 2_000), (2_000, vec![]));
    // Half of it new: what is old is reported.
    assert_eq!(get(&mut lone, 1_500, 2_500), (2_500, vec![(1_500, 2_000)]));
}

#[test]
fn nothing_is_reported_to_a_peer_that_takes_no_blocks() {
    let mut lone = Lone::in_state(State::Established, &plain());
    get(&mut lone, 0, 1_000);
    assert_eq!(get(&mut lone, 0, 1_000), (1_000, vec![]));
}

#[test]
fn a_duplicate_brings_quick_acknowledgments() {
    let mut lone = lone();
    for start in 0..9 {
        lone.get(start * 1_000, 1, Flags::ACK, &[5; 1_000]);
        lone.sent();
        lone.tcp.recv();
    }
    // The quick ACKs of the start are used up.
    let single = |lone: &mut Lone, start: i32| {
        lone.get(start, 1, Flags::ACK, &[5; 1_000]);
        let sent = lone.sent().len();
        while lone.tcp.recv().is_some() {}
        sent
    };
    assert_eq!(single(&mut lone, 9_000), 1);
    assert_eq!(single(&mut lone, 10_000), 0, "every second");
    assert_eq!(single(&mut lone, 11_000), 1);
    get(&mut lone, 0, 1_000);
    assert_eq!(single(&mut lone, 12_000), 1);
}
