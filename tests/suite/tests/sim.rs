//! Simulated worlds in CI, and that the simulation deserves belief: a seed decides a world, and every checker can fail.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;

use bywash_tests::sim::faults::{Loss, MS, SEC};
use bywash_tests::sim::packet::fix_checksum;
use bywash_tests::sim::plan::{Ending, Plan};
use bywash_tests::sim::runner::run_scenario;
use bywash_tests::sim::world::Sabotage;
use bywash_tests::sim::{Outcome, Scenario, World, run, run_many};

/// More are run before a release: `cargo run --release -p bywash-tests --bin sim -- --seeds 100000`.
const WORLDS: u64 = 500;

#[test]
fn five_hundred_worlds() {
    let failed = Mutex::new(Vec::new());
    let threads = thread::available_parallelism().map_or(1, |n| n.get());
    run_many(0..WORLDS, threads, |outcome| {
        if !outcome.failures.is_empty() {
            failed.lock().expect("unpoisoned").push(outcome);
        }
    });
    let failed = failed.into_inner().expect("unpoisoned");
    assert!(
        failed.is_empty(),
        "replay by `cargo run --release -p bywash-tests --bin sim -- --seed N -v`: {failed:#?}"
    );
}

#[test]
fn a_seed_decides_a_world() {
    let seeds = 1_000..1_024;
    let here: Vec<Outcome> = seeds.clone().map(|seed| run(seed, false)).collect();
    let there = Mutex::new(BTreeMap::new());
    run_many(seeds, 3, |outcome| {
        there
            .lock()
            .expect("unpoisoned")
            .insert(outcome.seed, outcome);
    });
    let there = there.into_inner().expect("unpoisoned");
    for outcome in here {
        assert_eq!(outcome, there[&outcome.seed]);
        assert_ne!(outcome.hash, 0);
    }
}

/// Two plain hosts; `bytes` go from host 0 to host 1.
fn transfer(bytes: u64) -> Scenario {
    Scenario::plain(1, MS, vec![Plan::bulk(bytes, 0)])
}

/// Fields of an IPv4 frame without IP options: where they lie.
const SOURCE: usize = 14 + 15;
const SEQ: usize = 34 + 4;
const ACK: usize = 34 + 8;
const FLAGS: usize = 34 + 13;
const WINDOW: usize = 34 + 14;
const OPTIONS: usize = 34 + 20;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK_FLAG: u8 = 16;

fn payload_at(frame: &[u8]) -> usize {
    34 + usize::from(frame[34 + 12] >> 4) * 4
}

fn has_data(frame: &[u8]) -> bool {
    frame.len() > payload_at(frame)
}

fn field(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(frame[at..at + 4].try_into().expect("four octets"))
}

fn set(frame: &mut [u8], at: usize, to: u32) {
    frame[at..at + 4].copy_from_slice(&to.to_be_bytes());
}

/// The watcher sees each frame of `host` changed by `change`.
fn seen(host: usize, mut change: impl FnMut(&mut Vec<u8>) + 'static) -> Sabotage {
    Sabotage::Watcher(Box::new(move |from, frame| {
        if from == host {
            change(frame);
            fix_checksum(frame);
        }
    }))
}

/// A world in which `sabotage` breaks a promise must be found out under this name.
fn must_find(rule: &str, scenario: Scenario, sabotage: Sabotage) {
    must_find_in(rule, scenario, |world| world.set_sabotage(sabotage));
}

fn must_find_in(rule: &str, scenario: Scenario, prepare: impl FnOnce(&mut World)) {
    let failures = run_scenario(scenario, false, prepare).failures;
    let found = failures
        .iter()
        .any(|text| text.contains(&format!("{rule}: ")));
    assert!(found, "{rule} was not found, but {failures:?}");
}

#[test]
fn a_world_without_sabotage_is_right() {
    let outcome = run_scenario(transfer(300_000), false, |world| {
        world.set_sabotage(seen(0, |_| {}));
    });
    assert_eq!(outcome.failures, Vec::<String>::new());
    assert_eq!((outcome.verified, outcome.good), (300_000, 1));
}

#[test]
fn the_watcher_finds_damaged_and_foreign_frames() {
    let spoilt = |_: usize, frame: &mut Vec<u8>| frame[FLAGS] ^= 0x20;
    must_find(
        "well-formed",
        transfer(1_000),
        Sabotage::Watcher(Box::new(spoilt)),
    );
    must_find(
        "own address",
        transfer(1_000),
        seen(0, |frame| frame[SOURCE] = 9),
    );
    let no_syn = |frame: &mut Vec<u8>| frame[FLAGS] = ACK_FLAG;
    must_find("handshake first", transfer(1_000), seen(0, no_syn));
    let no_ack = |frame: &mut Vec<u8>| {
        if frame[FLAGS] & SYN == 0 {
            frame[FLAGS] &= !ACK_FLAG;
        }
    };
    must_find("ACK everywhere", transfer(1_000), seen(0, no_ack));
}

#[test]
fn the_watcher_finds_what_a_sender_must_not_do() {
    let narrow = |frame: &mut Vec<u8>| frame[WINDOW..WINDOW + 2].copy_from_slice(&[0, 90]);
    must_find("window", transfer(100_000), seen(1, narrow));
    let small = |frame: &mut Vec<u8>| {
        if frame[FLAGS] & SYN != 0 {
            frame[OPTIONS + 2..OPTIONS + 4].copy_from_slice(&[0, 200]);
        }
    };
    must_find("MSS", transfer(100_000), seen(1, small));
    must_find("initial window", transfer(100_000), seen(1, small));
    let skip = |frame: &mut Vec<u8>| {
        if has_data(frame) {
            let seq = field(frame, SEQ);
            set(frame, SEQ, seq.wrapping_add(77_777));
        }
    };
    must_find("no gap", transfer(10_000), seen(0, skip));
    let ends_early = |frame: &mut Vec<u8>| {
        if has_data(frame) {
            frame[FLAGS] |= FIN;
        }
    };
    must_find("nothing after FIN", transfer(10_000), seen(0, ends_early));
    let other_byte = |frame: &mut Vec<u8>| {
        if has_data(frame) {
            let at = payload_at(frame);
            frame[at] ^= 1;
        }
    };
    must_find("content", transfer(10_000), seen(0, other_byte));
    let reset = |frame: &mut Vec<u8>| {
        if has_data(frame) && frame[FLAGS] & FIN != 0 {
            frame[FLAGS] |= RST;
        }
    };
    must_find("reset with reason", transfer(90_000), seen(0, reset));
}

#[test]
fn the_watcher_finds_what_a_receiver_must_not_do() {
    let too_much = |frame: &mut Vec<u8>| {
        if frame[FLAGS] & SYN == 0 {
            let ack = field(frame, ACK);
            set(frame, ACK, ack.wrapping_add(1_000_000));
        }
    };
    must_find("ACK of what was sent", transfer(1_000), seen(1, too_much));
    let mut count = 0;
    let back = move |frame: &mut Vec<u8>| {
        count += 1;
        if count % 5 == 0 {
            let ack = field(frame, ACK);
            set(frame, ACK, ack.wrapping_sub(40_000));
        }
    };
    must_find("ACK never goes back", transfer(200_000), seen(1, back));
    let mut count = 0;
    let shrink = move |frame: &mut Vec<u8>| {
        count += 1;
        if count % 5 == 0 {
            frame[WINDOW..WINDOW + 2].fill(0);
        }
    };
    must_find("window never shrinks", transfer(200_000), seen(1, shrink));
    let mut first = None;
    let silent = move |frame: &mut Vec<u8>| {
        let first = *first.get_or_insert(field(frame, ACK));
        set(frame, ACK, first);
    };
    must_find(
        "ACK every second segment",
        transfer(100_000),
        seen(1, silent),
    );
    // One small segment on a connection that stays, and another one that keeps the host turning.
    let mut rests = Plan::bulk(200, 0);
    (rests.ends[0].write, rests.ends[0].write_every) = (100, 5 * SEC);
    let mut slow = Plan::bulk(10_000, 0);
    slow.start = 10 * MS;
    (slow.ends[0].write, slow.ends[0].write_every) = (100, 100 * MS);
    let mut first = None;
    let silent = move |frame: &mut Vec<u8>| {
        let port = field(frame, 34);
        let (only, ack) = *first.get_or_insert((port, field(frame, ACK)));
        if port == only {
            set(frame, ACK, ack);
        }
    };
    let two = Scenario::plain(1, MS, vec![rests, slow]);
    must_find("ACK within 500 ms", two, seen(1, silent));
}

#[test]
fn the_watcher_finds_wrong_options() {
    let mut count = 0u32;
    let old = move |frame: &mut Vec<u8>| {
        count += 1;
        // NOP, NOP, timestamps, length: as every segment but a SYN begins its options.
        if frame[OPTIONS..].starts_with(&[1, 1, 8, 10]) && count.is_multiple_of(7) {
            set(frame, OPTIONS + 4, 0);
        }
    };
    must_find("timestamps", transfer(200_000), seen(0, old));
    let mut lossy = transfer(200_000);
    lossy.peace = 10 * SEC;
    lossy.faults.links[0].loss = Loss::Uniform(500);
    let not_agreed = |frame: &mut Vec<u8>| {
        if frame[FLAGS] & SYN != 0
            && let Some(at) = frame[OPTIONS..].windows(2).position(|two| two == [4, 2])
        {
            frame[OPTIONS + at..OPTIONS + at + 2].fill(1);
        }
    };
    must_find("SACK", lossy, seen(1, not_agreed));
}

#[test]
fn the_oracle_finds_wrong_bytes_and_wrong_ends() {
    let other_byte = |_: usize, frame: &mut Vec<u8>| {
        if has_data(frame) {
            let at = payload_at(frame);
            frame[at] ^= 1;
            fix_checksum(frame);
        }
    };
    let sabotage = Sabotage::Wire(Box::new(other_byte));
    must_find("stream integrity", transfer(10_000), sabotage);
    let reset = |host: usize, frame: &mut Vec<u8>| {
        if host == 0 && has_data(frame) && frame[FLAGS] & FIN != 0 {
            frame[FLAGS] |= RST;
            fix_checksum(frame);
        }
    };
    let sabotage = Sabotage::Wire(Box::new(reset));
    must_find("ends with reason", transfer(90_000), sabotage);
}

#[test]
fn what_never_comes_to_its_end_is_found() {
    let mut slow = transfer(100_000);
    slow.faults.links[0].delay = 10 * SEC;
    slow.patience = SEC;
    must_find_in("liveness", slow, |_| {});
    // Applications that wait for each other: TCP is at rest.
    let mut stuck = Plan::bulk(10, 10);
    for end in &mut stuck.ends {
        end.ending = Ending::AfterPeer;
    }
    must_find_in("liveness", Scenario::plain(1, MS, vec![stuck]), |_| {});
}

#[test]
fn lost_frames_and_uncounted_packets_are_found() {
    let mut kept = Vec::new();
    must_find_in("ledger", transfer(10_000), |world| {
        kept.push(world.queue(0, 0).umem().alloc_tx());
    });
    assert!(kept[0].is_some());
    must_find_in("counters", transfer(10_000), |world| {
        world.run(2 * MS);
        // Past the world's own count.
        world.queue(1, 0).receive(0, vec![0; 60].into());
    });
}

#[test]
fn a_panic_is_its_worlds_failure() {
    let failures = run_scenario(transfer(1), false, |_| panic!("on purpose")).failures;
    assert!(failures[0].starts_with("panic: ") && failures[0].contains("on purpose"));
}
