//! Losses that SACK and time tell of: bursts, tails, lost retransmissions; reordering that is none; peers without SACK, and
//! peers that take back what they said.

use bywash_tcp::{Config, CongestionControl, RecoveryPhase};
use bywash_wire::{Flags, SackBlocks, SeqNumber, Timestamps};

use crate::support::lone::{Lone, plain, segment};
use crate::support::{Faults, ISS_A, Pair, Random, Side, Trace, ms, pattern};

const MSS: u32 = 1_448;

/// A client that has sent and got acknowledged `warm` segments over a path of 10 ms each way.
fn warm(config: &Config, warm: u32) -> Pair {
    let faults = Faults {
        delay: ms(10),
        ..Faults::default()
    };
    let mut pair = Pair::with(config, &Config::default(), faults);
    let len = (warm * MSS) as usize;
    pair.a.send(&pattern(len, 1));
    pair.run_until(|pair| pair.b.received.len() == len);
    pair.run_for(ms(100));
    pair.b.received.clear();
    pair.trace.clear();
    pair
}

/// The number of a data segment sent after `warm` others.
fn index(trace: &Trace, warm: u32) -> Option<u32> {
    let ours = trace.from == Side::A && trace.is_data();
    ours.then(|| (trace.seq().wrapping_sub(1 + warm * MSS)) / MSS)
}

/// Loses segment `n` as often as `times` says.
fn lose(pair: &mut Pair, warm: u32, times: impl Fn(u32) -> u32 + 'static) {
    let mut lost = std::collections::BTreeMap::new();
    pair.network.drop_if(move |trace| {
        let Some(n) = index(trace, warm) else {
            return false;
        };
        let count = lost.entry(n).or_insert(0);
        *count += 1;
        *count <= times(n)
    });
}

/// Sends `segments` and waits until they have arrived and everything is quiet. How long the data took, in milliseconds.
fn transfer(pair: &mut Pair, segments: u32) -> u64 {
    let data = pattern((segments * MSS) as usize, 2);
    let start = pair.now;
    pair.a.send(&data);
    pair.run_until(|pair| pair.b.received.len() == data.len());
    let took = pair.now.since(start);
    assert!(pair.b.received == data);
    pair.run_for(ms(300));
    took.as_millis()
}

#[test]
fn a_burst_of_losses_is_repaired_in_one_recovery_and_two_round_trips() {
    let mut pair = warm(&Config::default(), 60);
    lose(&mut pair, 60, |n| u32::from((10..30).contains(&n)));
    let took = transfer(&mut pair, 60);
    let info = pair.a.tcp().info();
    assert_eq!((info.timeouts, info.fast_recoveries), (0, 1));
    assert_eq!(info.retransmissions, 20, "{}", pair.story());
    assert_eq!(info.recovery.lost, 20);
    assert_eq!(info.recovery.resent_bytes, u64::from(20 * MSS));
    assert_eq!(info.recovery.phase, RecoveryPhase::Open);
    // There, back, there again, and once more for what proportional rate reduction held back.
    assert!((30..=50).contains(&took), "{took} ms {}", pair.story());
}

#[test]
fn every_algorithm_sends_again_what_is_lost_and_nothing_else() {
    for congestion in [
        CongestionControl::Cubic,
        CongestionControl::Reno,
        CongestionControl::Bbr,
    ] {
        let config = Config {
            congestion,
            ..Config::default()
        };
        let mut pair = warm(&config, 60);
        lose(&mut pair, 60, |n| match n {
            10..20 | 100 | 150 | 151 => 1,
            30 => 2,
            _ => 0,
        });
        transfer(&mut pair, 500);
        let info = pair.a.tcp().info();
        assert_eq!(info.timeouts, 0, "{congestion:?}");
        assert_eq!(info.retransmissions, 10 + 1 + 2 + 2, "{congestion:?}");
        assert_eq!(info.recovery.undone, 0, "{congestion:?}");
    }
}

#[test]
fn a_lost_retransmission_is_found_by_time() {
    let mut pair = warm(&Config::default(), 60);
    lose(&mut pair, 60, |n| if n == 5 { 2 } else { 0 });
    // More than a window: what is sent behind the retransmission tells.
    let took = transfer(&mut pair, 400);
    let info = pair.a.tcp().info();
    assert_eq!(info.timeouts, 0, "{}", pair.story());
    assert_eq!((info.retransmissions, info.recovery.lost_resent), (2, 1));
    assert!(took < 180, "{took} ms");
}

#[test]
fn a_lost_tail_of_three_is_found_by_a_probe() {
    let mut pair = warm(&Config::default(), 60);
    lose(&mut pair, 60, |n| u32::from((17..20).contains(&n)));
    let took = transfer(&mut pair, 20);
    let info = pair.a.tcp().info();
    assert_eq!(info.timeouts, 0, "{}", pair.story());
    assert_eq!(info.recovery.probes, 1);
    assert_eq!(
        info.fast_recoveries, 1,
        "the probe's SACK tells of the rest"
    );
    // The ACK for the first seventeen after 20 ms; two round trips and 2 ms until the probe; its SACK after 20 ms; what that
    // delivers lets one go, whose ACK lets the other go.
    assert_eq!(took, 20 + 42 + 20 + 20 + 10);
}

#[test]
fn the_tail_of_the_initial_window_is_found_by_a_probe() {
    let faults = Faults {
        delay: ms(10),
        ..Faults::default()
    };
    let mut pair = Pair::with(&Config::default(), &Config::default(), faults);
    lose(&mut pair, 0, |n| u32::from(n >= 8));
    let took = transfer(&mut pair, 10);
    let info = pair.a.tcp().info();
    assert_eq!((info.timeouts, info.recovery.probes), (0, 1));
    assert!(took < 150, "{took} ms with the handshake");
}

#[test]
fn a_probe_of_new_data_goes_beyond_the_congestion_window() {
    let mut pair = warm(&Config::default(), 60);
    // Every ACK is lost for a while: the window is full, and there is more to send.
    let mut until = None;
    pair.network.drop_if(move |trace| {
        let since = *until.get_or_insert(trace.at + ms(45));
        trace.from == Side::B && trace.at < since
    });
    let cwnd = pair.a.tcp().info().cwnd;
    pair.a.send(&pattern(200 * MSS as usize, 3));
    pair.run_for(ms(50));
    let sent = |pair: &Pair| pair.trace.iter().filter(|t| t.is_data()).count() as u32;
    let info = pair.a.tcp().info();
    assert_eq!((info.recovery.probes, info.retransmissions), (1, 0));
    assert!(sent(&pair) * MSS > cwnd, "{} {cwnd}", sent(&pair));
    pair.run_until(|pair| pair.b.received.len() == 200 * MSS as usize);
    assert_eq!(pair.a.tcp().info().timeouts, 0);
    assert_eq!(
        pair.a.tcp().info().recovery.probe_repairs,
        0,
        "nothing was lost"
    );
}

/// Holds up every `every`th data segment by `millis`; retransmissions go straight.
fn reorder(pair: &mut Pair, every: u32, millis: u64) {
    let mut count = 0;
    pair.network.delay_by(move |trace| {
        count += u32::from(trace.from == Side::A && trace.is_data());
        let held = trace.is_data() && !trace.retransmission && count.is_multiple_of(every);
        ms(if held { millis } else { 0 })
    });
}

#[test]
fn reordering_within_the_window_is_learnt_once() {
    let mut pair = warm(&Config::default(), 60);
    reorder(&mut pair, 10, 4);
    transfer(&mut pair, 400);
    let learnt = pair.a.tcp().info();
    // The holes of one window, before anything is known of the path.
    assert!(learnt.retransmissions <= 30, "{}", learnt.retransmissions);
    assert!(learnt.recovery.reordered > 0);
    assert!(learnt.recovery.reordering > 3);
    pair.b.received.clear();
    transfer(&mut pair, 2_000);
    let info = pair.a.tcp().info();
    assert_eq!(
        info.retransmissions, learnt.retransmissions,
        "none in two hundred more"
    );
    assert_eq!(info.timeouts, 0, "{}", pair.story());
}

#[test]
fn reordering_beyond_the_window_widens_it() {
    let mut pair = warm(&Config::default(), 60);
    // A quarter of the round trip is 5 ms.
    reorder(&mut pair, 10, 12);
    for _ in 0..12 {
        transfer(&mut pair, 100);
        pair.b.received.clear();
    }
    let learnt = pair.a.tcp().info();
    assert!(learnt.recovery.duplicates > 0, "D-SACKs have told");
    assert!(learnt.recovery.undone > 0, "and the windows are back");
    transfer(&mut pair, 2_000);
    let info = pair.a.tcp().info();
    assert_eq!(info.retransmissions, learnt.retransmissions);
}

#[test]
fn lost_acks_are_no_losses() {
    for seed in 0..10 {
        let mut pair = warm(&Config::default(), 60);
        let mut random = Random::new(seed);
        pair.network
            .drop_if(move |trace| trace.from == Side::B && random.chance(300));
        transfer(&mut pair, 500);
        let info = pair.a.tcp().info();
        // A probe asks where the last ACK of a flight was lost; nothing is believed lost.
        assert_eq!(info.fast_recoveries, 0, "seed {seed}");
        assert!(info.retransmissions <= info.recovery.probes, "seed {seed}");
    }
}

#[test]
fn without_sack_a_burst_of_losses_needs_no_time_out() {
    let config = Config {
        sack: false,
        ..Config::default()
    };
    for timestamps in [true, false] {
        let config = Config {
            timestamps,
            ..config.clone()
        };
        let mut pair = warm(&config, 60);
        // Segments are longer without timestamps, but the first of the burst is the first in any case.
        lose(&mut pair, 60, |n| u32::from([0, 3, 7].contains(&n)));
        transfer(&mut pair, 60);
        let info = pair.a.tcp().info();
        assert_eq!(
            (info.timeouts, info.fast_recoveries),
            (0, 1),
            "{}",
            pair.story()
        );
        assert_eq!(info.retransmissions, 3);
        assert_eq!(info.recovery.sacked_now, 0);
    }
}

#[test]
fn a_snapshot_at_any_point_of_recovery_changes_nothing() {
    let run = |restore_every| {
        let mut pair = warm(&Config::default(), 60);
        pair.restore_every = restore_every;
        lose(&mut pair, 60, |n| match n {
            5 | 9 | 10 | 30..=34 => 1,
            12 => 2,
            _ => 0,
        });
        transfer(&mut pair, 120);
        pair.trace
            .iter()
            .map(Trace::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let plain = run(None);
    for every in [1, 2, 3, 7] {
        assert_eq!(run(Some(every)), plain, "every {every} steps");
    }
}

/// Ten segments of a hundred bytes are sent; `get` counts from the SYN.
fn ten_sent() -> Lone {
    let config = Config {
        sack: true,
        ..plain()
    };
    let mut lone = Lone::called_with(&config, |syn| syn.options.sack_permitted = true);
    lone.get(0, 1, Flags::ACK, b"");
    for n in 0..10 {
        lone.send(&[n; 100]);
    }
    assert_eq!(lone.sent().len(), 10);
    lone
}

fn seq(n: u32) -> SeqNumber {
    ISS_A + 1 + n * 100
}

/// An ACK for the first `ack` segments, with SACK blocks of segments.
fn sack(lone: &mut Lone, ack: u32, blocks: &[(u32, u32)]) {
    let mut segment = segment(0, 1 + ack as i32 * 100, Flags::ACK);
    segment.options.sack = blocks
        .iter()
        .map(|(start, end)| (seq(*start), seq(*end)))
        .collect::<SackBlocks>();
    lone.get_segment(&segment, b"");
}

#[test]
fn a_peer_that_takes_sack_blocks_back_gets_everything_again() {
    let mut lone = ten_sent();
    lone.now += ms(10);
    sack(&mut lone, 0, &[(1, 10)]);
    let again = lone.sent();
    assert_eq!(again.len(), 1, "the first is missing");
    assert_eq!(lone.tcp.info().recovery.sacked_now, 9);
    lone.now += ms(10);
    // It arrives; but of the rest, which should be acknowledged with it, the peer knows nothing any more.
    sack(&mut lone, 1, &[]);
    assert_eq!(lone.sent(), []);
    lone.wait();
    let mut sent = lone.sent();
    let info = lone.tcp.info();
    assert_eq!((info.recovery.reneges, info.timeouts), (1, 1));
    assert_eq!(info.recovery.sacked_now, 0);
    let mut acked = 1;
    while acked < 10 {
        assert!(!sent.is_empty() && sent.iter().all(|sent| sent.again));
        acked += sent.len() as u32;
        lone.now += ms(10);
        sack(&mut lone, acked, &[]);
        sent = lone.sent();
    }
    assert_eq!(lone.tcp.info().in_flight, 0);
    assert_eq!(lone.desk.alive.get(), 0, "all frames are released");
}

#[test]
fn a_peer_that_only_seems_to_take_blocks_back_has_time_to_say_so() {
    let mut lone = ten_sent();
    lone.now += ms(10);
    sack(&mut lone, 0, &[(1, 10)]);
    lone.sent();
    lone.now += ms(10);
    sack(&mut lone, 1, &[]);
    lone.now += ms(2);
    sack(&mut lone, 10, &[]);
    assert_eq!(lone.sent(), []);
    let info = lone.tcp.info();
    assert_eq!((info.recovery.reneges, info.timeouts), (0, 0));
}

#[test]
fn an_overtaken_ack_still_names_what_has_arrived() {
    let mut lone = ten_sent();
    lone.now += ms(10);
    sack(&mut lone, 2, &[]);
    sack(&mut lone, 1, &[(5, 7)]);
    let info = lone.tcp.info();
    assert_eq!((info.recovery.sacked_now, info.in_flight), (2, 800));
    assert_eq!(info.dup_acks, 0);
    // What lies before the acknowledgments is known.
    sack(&mut lone, 0, &[(1, 2)]);
    assert_eq!(lone.tcp.info().recovery.sacked_now, 2);
}

#[test]
fn segments_cut_for_a_smaller_path_are_acknowledged_in_part() {
    let mut lone = ten_sent();
    lone.now += ms(10);
    lone.tcp.set_mss(60);
    // Segment 0 is lost; SACK names the rest.
    sack(&mut lone, 0, &[(1, 10)]);
    let again = lone.sent();
    let lens: Vec<usize> = again.iter().map(|sent| sent.bytes.len()).collect();
    assert_eq!(lens, [60, 40]);
    lone.now += ms(10);
    // The first half arrives, then the second of which a byte was acknowledged already.
    lone.get(0, 1 + 61, Flags::ACK, b"");
    assert_eq!(lone.tcp.info().in_flight, 939);
    lone.wait();
    let rest = lone.sent();
    assert_eq!(rest[0].segment.seq, ISS_A + 1 + 61);
    assert_eq!(rest[0].bytes.len(), 39);
    lone.now += ms(10);
    sack(&mut lone, 10, &[]);
    assert_eq!(lone.desk.alive.get(), 0);
}

#[test]
fn blocks_of_what_was_never_sent_are_not_believed() {
    let mut lone = ten_sent();
    sack(&mut lone, 0, &[(10, 11), (9, 12), (5, 5), (6, 4)]);
    let info = lone.tcp.info();
    assert_eq!(info.recovery.sacked_now, 0);
    assert_eq!(info.recovery.duplicates, 0);
    // Half of a segment says nothing of it.
    let mut half = segment(0, 1, Flags::ACK);
    half.options.sack = [(seq(1) + 50, seq(3) + 50)].into_iter().collect();
    lone.get_segment(&half, b"");
    assert_eq!(lone.tcp.info().recovery.sacked_now, 1);
}

/// Sequence space that the peer acknowledges or names: within what was sent, on and off the edges of segments.
fn somewhere(random: &mut Random, lone: &Lone) -> SeqNumber {
    let info = lone.tcp.info();
    let una = ISS_A + 1 + info.bytes_acked as u32;
    let within = random.below(u64::from(info.in_flight) + 1) as u32;
    una + if random.chance(700) {
        within / 100 * 100
    } else {
        within
    }
}

fn liars_turn(random: &mut Random, lone: &mut Lone) {
    match random.below(16) {
        0..=2 if lone.tcp.send_room() >= 6_000 => {
            for _ in 0..random.below(20) {
                let len = 1 + random.below(300) as usize;
                lone.send(&vec![1; len.min(lone.tcp.segment_limit())]);
            }
        }
        3 => lone.now += ms(random.below(60)),
        4 if lone.tcp.next_timeout().is_some() => lone.wait(),
        5 => lone.desk.queued.set(random.chance(200)),
        6 => lone.desk.exhausted.set(random.chance(200)),
        7 if random.chance(100) => lone.tcp.set_mss(60 + random.below(300) as u16),
        _ => {
            let mut ack = segment(0, 1, Flags::ACK);
            ack.ack = ISS_A + 1 + lone.tcp.info().bytes_acked as u32;
            if random.chance(300) {
                ack.ack = somewhere(random, lone);
            }
            for _ in 0..random.below(4) {
                let start = somewhere(random, lone);
                let end = somewhere(random, lone);
                ack.options.sack.push(start, end);
            }
            ack.options.timestamps = Some(Timestamps {
                value: lone.now.as_millis() as u32,
                echo: (lone.now.as_millis() as u32).wrapping_sub(random.below(300) as u32),
            });
            lone.get_segment(&ack, b"");
        }
    }
    lone.sent();
}

#[test]
fn a_peer_that_acknowledges_at_random_confuses_nobody() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let config = Config {
            sack: true,
            timestamps: random.chance(500),
            retries: 255,
            send_buffer: 60_000,
            congestion: [
                CongestionControl::Cubic,
                CongestionControl::Reno,
                CongestionControl::Bbr,
            ][random.below(3) as usize],
            ..plain()
        };
        let mut lone = Lone::called_with(&config, |syn| {
            syn.options.sack_permitted = true;
            syn.options.timestamps = Some(Timestamps { value: 0, echo: 0 });
            syn.window = 60_000;
        });
        lone.get(0, 1, Flags::ACK, b"");
        for _ in 0..400 {
            liars_turn(&mut random, &mut lone);
            let info = lone.tcp.info();
            assert!(info.recovery.pipe <= 2 * info.in_flight, "seed {seed}");
            let awaits = info.in_flight > 0;
            assert!(!awaits || lone.tcp.next_timeout().is_some(), "seed {seed}");
        }
        // An honest peer from now on: it acknowledges what there is.
        lone.desk.queued.set(false);
        lone.desk.exhausted.set(false);
        for _ in 0..2_000 {
            let info = lone.tcp.info();
            if info.in_flight == 0 && info.unsent == 0 {
                break;
            }
            lone.sent();
            match (lone.tcp.next_send(), lone.tcp.next_timeout()) {
                // Pacing.
                (Some(at), _) => lone.now = at,
                (None, Some(_)) => lone.wait(),
                (None, None) => {
                    let info = lone.tcp.info();
                    assert_eq!(
                        (info.in_flight, info.unsent),
                        (0, 0),
                        "seed {seed}: nobody moves"
                    );
                }
            }
            lone.sent();
            let info = lone.tcp.info();
            let mut ack = segment(0, 1, Flags::ACK);
            ack.window = 60_000;
            ack.ack = ISS_A + 1 + info.bytes_acked as u32 + info.in_flight;
            ack.options.timestamps = Some(Timestamps {
                value: lone.now.as_millis() as u32,
                echo: lone.now.as_millis() as u32,
            });
            lone.get_segment(&ack, b"");
            lone.sent();
        }
        let info = lone.tcp.info();
        assert_eq!((info.in_flight, info.recovery.pipe), (0, 0), "seed {seed}");
        assert_eq!(info.unsent, 0, "seed {seed}");
        assert_eq!(lone.desk.alive.get(), 0, "seed {seed}");
    }
}
