//! Data both ways over good and bad networks: what arrives is what was sent.

use std::fmt::Write;

use bywash_tcp::{CloseReason, Config, State};
use bywash_wire::Flags;

use crate::support::{Faults, Pair, Random, Side, ms, pattern};

/// Sends `len` bytes each way, closes, and checks both streams and both ends.
fn both_ways(mut pair: Pair, len: usize, seed: u64) -> Pair {
    let (to_b, to_a) = (pattern(len, seed), pattern(len / 2 + 1, seed + 1));
    pair.a.send(&to_b);
    pair.b.send(&to_a);
    pair.a.close_when_sent = true;
    pair.b.close_when_sent = true;
    pair.run_until(|pair| pair.a.closed().is_some() && pair.b.closed().is_some());
    assert!(
        pair.b.received == to_b,
        "seed {seed}: a to b, {}",
        pair.story()
    );
    assert!(
        pair.a.received == to_a,
        "seed {seed}: b to a, {}",
        pair.story()
    );
    // On a very bad network time-outs outlast TIME-WAIT: the peer is gone before its last ACK gets through, and our FIN,
    // whose data it has read, meets a RST.
    let bad = pair.network.faults.loss + pair.network.faults.corruption >= 50;
    let ends = [pair.a.closed(), pair.b.closed()].map(Option::unwrap);
    let good = match ends {
        [CloseReason::Finished, CloseReason::Finished] => true,
        [CloseReason::Finished, CloseReason::Reset] => bad,
        [CloseReason::Reset, CloseReason::Finished] => bad,
        _ => false,
    };
    assert!(good, "seed {seed}: {ends:?}\n{}", pair.story());
    assert_eq!(pair.a.tcp().info().in_flight, 0);
    pair
}

#[test]
fn a_clean_network_needs_no_retransmission() {
    let pair = Pair::with(&Config::default(), &Config::default(), Faults::default());
    let mut pair = both_ways(pair, 1_000_000, 1);
    assert_eq!(pair.a.tcp().info().retransmissions, 0);
    assert_eq!(pair.b.tcp().info().retransmissions, 0);
    assert_eq!(pair.a.tcp().info().bytes_acked, 1_000_000);
}

#[test]
fn streams_survive_loss() {
    for loss in [5, 10, 50, 100, 200] {
        for seed in 0..40 {
            let pair = Pair::with(
                &Config::default(),
                &Config::default(),
                Faults::loss(seed, loss),
            );
            both_ways(pair, 60_000, seed);
        }
    }
}

#[test]
fn streams_survive_everything_at_once() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let faults = Faults {
            seed,
            loss: random.below(100),
            duplication: random.below(100),
            reordering: random.below(300),
            corruption: random.below(50),
            delay: ms(1 + random.below(40)),
        };
        let config = Config {
            timestamps: random.chance(500),
            sack: random.chance(500),
            window_scale: random.chance(500),
            nagle: random.chance(500),
            receive_buffer: 2_000 + random.below(100_000) as usize,
            send_buffer: 2_000 + random.below(100_000) as usize,
            receive_segments: 8 + random.below(200) as usize,
            ..Config::default()
        };
        let mut pair = Pair::with(&config, &Config::default(), faults);
        pair.a.write_size = random.below(2_000) as usize;
        pair.restore_every = Some(1 + random.below(20));
        both_ways(pair, 40_000, seed);
    }
}

#[test]
fn one_byte_at_a_time_fills_segments() {
    let mut pair = Pair::established(&Config::default(), &Config::default());
    pair.a.write_size = 1;
    let data = pattern(20_000, 5);
    pair.a.send(&data);
    pair.run_until(|pair| pair.b.received.len() == data.len());
    assert_eq!(pair.b.received, data);
    let segments = pair.trace.iter().filter(|trace| trace.is_data()).count();
    assert!(segments < 100, "{segments} segments for 20000 bytes");
    assert!(pair.a.tcp().info().copied_small > 10_000);
}

#[test]
fn the_last_segment_of_a_write_is_pushed() {
    let mut pair = Pair::established(&Config::default(), &Config::default());
    pair.a.send(&[1; 4_000]);
    pair.run_until(|pair| pair.b.received.len() == 4_000);
    let pushed: Vec<bool> = pair
        .trace
        .iter()
        .filter(|trace| trace.is_data())
        .map(|trace| trace.has(Flags::PSH))
        .collect();
    assert_eq!(pushed, [false, false, true]);
}

#[test]
fn a_burst_is_acknowledged_once_at_its_end() {
    let mut pair = Pair::established(&Config::default(), &Config::default());
    pair.a.send(&[1; 14_480]);
    pair.settle();
    pair.run_for(ms(1));
    pair.settle();
    let acks = pair
        .trace
        .iter()
        .filter(|trace| trace.from == Side::B)
        .count();
    assert_eq!(acks, 1, "ten segments, one ACK: {}", pair.story());
}

#[test]
fn a_small_segment_waits_for_the_delayed_ack_once_the_start_is_over() {
    let mut pair = Pair::established(&Config::default(), &Config::default());
    // The quick ACKs of the start.
    for _ in 0..20 {
        pair.a.send(b"x");
        pair.run_for(ms(100));
    }
    // Read at once, and nothing to answer with: nothing to wait for. Unread: 40 ms of hope for data to ride on.
    for (reads, waits) in [(true, 1), (false, 41)] {
        pair.trace.clear();
        pair.b.reads = reads;
        pair.a.send(b"y");
        pair.run_for(ms(100));
        let [data, ack] = &pair.trace[..] else {
            panic!("{}", pair.story())
        };
        assert!(data.is_data() && ack.is_pure_ack());
        assert_eq!(ack.at.since(data.at), ms(waits), "1 ms on the way");
    }
}

#[test]
fn an_answer_carries_the_acknowledgment_once_the_two_talk_by_turns() {
    let mut pair = Pair::established(&Config::default(), &Config::default());
    for turn in 0..5 {
        pair.trace.clear();
        pair.a.send(b"question");
        pair.run_for(ms(10));
        pair.b.send(b"answer");
        pair.run_for(ms(100));
        let acks = pair.trace.iter().filter(|trace| trace.is_pure_ack());
        let of_b = acks.filter(|ack| ack.from == Side::B).count();
        assert_eq!(of_b, usize::from(turn == 0), "{}", pair.story());
    }
}

#[test]
fn nagle_and_delayed_ack_meet_and_nagle_can_be_switched_off() {
    for (nagle, sent_at_once) in [(true, 1), (false, 2)] {
        let config = Config {
            nagle,
            ..Config::default()
        };
        let mut pair = Pair::established(&config, &Config::default());
        pair.a.send(b"one");
        pair.settle();
        pair.a.send(b"two");
        pair.settle();
        let sent = pair.trace.iter().filter(|trace| trace.is_data()).count();
        assert_eq!(sent, sent_at_once);
        pair.run_until(|pair| pair.b.received == b"onetwo");
    }
}

#[test]
fn minshall_lets_the_tail_of_a_large_write_go() {
    let mut pair = Pair::established(&Config::default(), &Config::default());
    pair.a.send(&[1; 3_000]);
    pair.settle();
    assert_eq!(
        pair.trace.len(),
        3,
        "two full segments and their tail, at once: {}",
        pair.story()
    );
}

#[test]
fn small_writes_make_a_full_segment_and_then_wait_no_longer() {
    let mut pair = Pair::established(&Config::default(), &Config::default());
    pair.a.send(b"x");
    pair.settle();
    pair.a.write_size = 100;
    pair.a.send(&[2; 1_448]);
    pair.settle();
    let lens: Vec<usize> = pair
        .trace
        .iter()
        .map(|trace| trace.segment.payload_len)
        .collect();
    assert_eq!(lens, [1, 1_448]);
}

#[test]
fn a_slow_reader_gets_everything() {
    let narrow = Config {
        receive_buffer: 8_000,
        ..Config::default()
    };
    let mut pair = Pair::established(&Config::default(), &narrow);
    pair.b.reads = false;
    let data = pattern(200_000, 9);
    pair.a.send(&data);
    while pair.b.received.len() < data.len() {
        pair.run_for(ms(50));
        if let Some(payload) = pair.b.tcp().recv() {
            pair.b.received.extend(payload);
        }
    }
    assert_eq!(pair.b.received, data);
    assert_eq!(pair.a.tcp().info().timeouts, 0);
}

#[test]
fn ten_megabytes_wrap_and_fill_the_window() {
    let config = Config {
        receive_buffer: 4 << 20,
        send_buffer: 4 << 20,
        ..Config::default()
    };
    let faults = Faults {
        delay: ms(10),
        ..Faults::default()
    };
    let mut pair = both_ways(Pair::with(&config, &config, faults), 10_000_000, 4);
    assert!(pair.a.tcp().info().cwnd > 1_000_000);
    assert_eq!(pair.a.state(), State::Closed);
}

/// Goodput by loss and delay, in kbit/s of virtual time, the mean of twenty seeds. No promise: a picture of what loss detection
/// and congestion control do, so that a change of them is a change that a reviewer sees.
#[test]
fn goodput_by_loss_and_delay() {
    const LEN: usize = 1_000_000;
    const SEEDS: u64 = 20;
    let mut table = String::from("loss     2 ms    20 ms   100 ms  (round trip)\n");
    for loss in [0, 1, 5, 10, 20, 50] {
        write!(table, "{:>3}.{} %", loss / 10, loss % 10).unwrap();
        for delay in [1, 10, 50] {
            let mut micros = 0;
            for seed in 0..SEEDS {
                let faults = Faults {
                    delay: ms(delay),
                    ..Faults::loss(seed, loss)
                };
                let mut pair = Pair::with(&Config::default(), &Config::default(), faults);
                pair.a.send(&pattern(LEN, seed));
                let start = pair.now;
                pair.run_until(|pair| pair.b.received.len() == LEN);
                micros += pair.now.since(start).as_micros();
            }
            write!(table, "{:>9}", LEN as u64 * 8_000 * SEEDS / micros).unwrap();
        }
        table.push('\n');
    }
    insta::assert_snapshot!("goodput", table);
}
