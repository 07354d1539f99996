//! What happens when segments are lost, and when they only seem to be.

use bywash_tcp::{CloseReason, Config, CongestionControl};

use crate::support::{Faults, Network, Pair, Side, Trace, ms, pattern};

/// A client in the middle of a transfer: 60 segments are sent and acknowledged, so the window is large.
fn warm(config: &Config) -> Pair {
    let mut pair = Pair::established(config, &Config::default());
    pair.a.send(&pattern(60 * 1_448, 1));
    pair.run_until(|pair| pair.b.received.len() == 60 * 1_448);
    pair.run_for(ms(100));
    pair.b.received.clear();
    pair.trace.clear();
    pair
}

/// Loses the first transmission of each segment that begins at one of these segments, counted from now.
fn lose(pair: &mut Pair, which: &'static [u32]) {
    let mut lost = Vec::new();
    pair.network.drop_if(move |trace: &Trace| {
        let index = (trace.seq().wrapping_sub(1 + 60 * 1_448)) / 1_448;
        let hit = trace.from == Side::A
            && trace.is_data()
            && which.contains(&index)
            && !lost.contains(&index);
        if hit {
            lost.push(index);
        }
        hit
    });
}

#[test]
fn three_duplicates_bring_the_segment_back_without_a_time_out() {
    let mut pair = warm(&Config::default());
    lose(&mut pair, &[0]);
    let start = pair.now;
    let data = pattern(20 * 1_448, 2);
    pair.a.send(&data);
    pair.run_until(|pair| pair.b.received.len() == data.len());
    assert_eq!(pair.b.received, data);
    let info = pair.a.tcp().info();
    assert_eq!(
        (info.timeouts, info.fast_recoveries, info.retransmissions),
        (0, 1, 1)
    );
    assert_eq!(pair.now.since(start), ms(3), "there, back, and there again");
    assert!(pair.a.tcp().info().dup_acks >= 3);
    assert!(pair.b.tcp().info().sack_sent > 0);
}

#[test]
fn the_window_is_halved_once_for_a_burst_of_losses() {
    let reno = Config {
        congestion: CongestionControl::Reno,
        ..Config::default()
    };
    let mut pair = warm(&reno);
    lose(&mut pair, &[0, 3, 5, 9]);
    let before = pair.a.tcp().info().cwnd;
    pair.a.send(&pattern(40 * 1_448, 2));
    pair.run_until(|pair| pair.b.received.len() == 40 * 1_448);
    pair.run_for(ms(50));
    let info = pair.a.tcp().info();
    assert_eq!(
        (info.timeouts, info.fast_recoveries, info.retransmissions),
        (0, 1, 4)
    );
    assert_eq!(info.ssthresh, 20 * 1_448, "half of what was on the way");
    assert!(info.cwnd <= before);
}

/// Recovery can have a window of nothing (RFC 6937), where all that was on the way is lost and an acknowledgment delivers nothing;
/// congestion control's rate is then nothing too. The oldest segment goes all the same, and must not use up the rate of the half
/// hour that follows.
#[test]
fn a_window_of_nothing_in_recovery_holds_back_nothing_that_follows() {
    let config = Config {
        pacing: true,
        ..Config::default()
    };
    for seed in 0..250 {
        let mut pair = warm(&config);
        pair.network = Network::new(Faults {
            seed,
            loss: 250,
            duplication: 300,
            reordering: 200,
            ..Faults::default()
        });
        for round in 1..6 {
            pair.a.send(&pattern(3 * 1_448, round));
            pair.run_until(|pair| {
                let held = pair.a.tcp.as_ref().and_then(|tcp| tcp.next_send());
                let held = held.map_or(ms(0), |until| until.since(pair.now));
                assert!(held < ms(1_000), "seed {seed}: {held:?}\n{}", pair.story());
                pair.b.received.len() == round as usize * 3 * 1_448
            });
        }
    }
}

#[test]
fn a_lost_tail_is_probed_for_and_counts_as_a_loss() {
    let mut pair = warm(&Config::default());
    lose(&mut pair, &[9]);
    let start = pair.now;
    pair.a.send(&pattern(10 * 1_448, 2));
    pair.run_until(|pair| pair.b.received.len() == 10 * 1_448);
    let waited = pair.now.since(start);
    // All but the last are acknowledged after 2 ms; then two round trips, 200 ms for a peer that may delay, and 1 ms.
    assert_eq!(waited, ms(2 + 2 + 200 + 1), "no later than the time-out");
    let before = pair.a.tcp().info();
    assert_eq!((before.timeouts, before.retransmissions), (0, 1));
    assert_eq!(before.recovery.probes, 1);
    // What comes back for the probe alone does not say which of the two has arrived; the next acknowledgment does.
    pair.a.send(&pattern(1_448, 2));
    pair.run_until(|pair| pair.b.received.len() == 11 * 1_448);
    pair.run_for(ms(50));
    let info = pair.a.tcp().info();
    assert_eq!(info.recovery.probe_repairs, 1);
    assert!(info.cwnd < before.cwnd, "{} {}", info.cwnd, before.cwnd);
}

#[test]
fn time_outs_back_off_and_end_the_connection() {
    let mut pair = warm(&Config::default());
    pair.network.drop_if(|_| true);
    let start = pair.now;
    pair.a.send(b"anybody there?");
    pair.run_until(|pair| pair.a.closed().is_some());
    assert_eq!(pair.a.closed(), Some(CloseReason::TimedOut));
    let sent: Vec<u64> = pair
        .trace
        .iter()
        .filter(|trace| trace.is_data())
        .map(|trace| trace.at.since(start).as_millis())
        .collect();
    assert_eq!(sent.len(), 17, "once, as a probe, and fifteen times again");
    assert_eq!(sent[..5], [0, 202, 404, 808, 1_616]);
    assert_eq!(sent[16] - sent[15], 120_000);
    assert_eq!(
        pair.now.since(start).as_millis() / 1_000,
        926,
        "as Linux with tcp_retries2 = 15, and a probe before"
    );
}

#[test]
fn the_user_time_out_ends_it_sooner() {
    let config = Config {
        user_timeout: Some(ms(5_000)),
        ..Config::default()
    };
    let mut pair = warm(&config);
    pair.network.drop_if(|_| true);
    let start = pair.now;
    pair.a.send(b"anybody there?");
    pair.run_until(|pair| pair.a.closed().is_some());
    assert_eq!(pair.a.closed(), Some(CloseReason::TimedOut));
    assert_eq!(pair.now.since(start), ms(5_000));
}

#[test]
fn after_a_time_out_the_window_is_one_segment() {
    let mut pair = warm(&Config::default());
    pair.network.drop_if(|trace| trace.from == Side::A);
    pair.a.send(&pattern(20 * 1_448, 2));
    pair.run_for(ms(199));
    pair.trace.clear();
    pair.run_for(ms(10));
    assert_eq!(pair.trace.len(), 1, "{}", pair.story());
    assert_eq!(pair.a.tcp().info().cwnd, 1_448);
    pair.network.drop_nothing();
    pair.run_until(|pair| pair.b.received.len() == 20 * 1_448);
    assert_eq!(pair.b.received, pattern(20 * 1_448, 2));
}

#[test]
fn reordering_by_two_is_no_loss() {
    let mut pair = warm(&Config::default());
    // Hold nothing back but swap: the first segment of a burst arrives behind two others.
    pair.a.send(&pattern(3 * 1_448, 2));
    let now = pair.now;
    let mut segments = Vec::new();
    {
        let a = &mut pair.a;
        while a.to_send.len() >= 1_448 {
            let payload: Vec<u8> = a.to_send.drain(..1_448).collect();
            a.tcp().send(payload).unwrap();
        }
        while let Some(transmit) = a.tcp().poll_transmit(now) {
            segments.push((
                transmit.segment,
                transmit.payload.map(|payload| payload.clone()),
            ));
        }
    }
    for index in [1, 2, 0] {
        let (segment, payload) = segments[index].clone();
        pair.on_segment(Side::B, &segment, payload);
    }
    pair.run_until(|pair| pair.b.received.len() == 3 * 1_448);
    pair.run_for(ms(500));
    let info = pair.a.tcp().info();
    assert_eq!((info.retransmissions, info.fast_recoveries), (0, 0));
    assert_eq!(pair.b.tcp().info().out_of_order, 2);
}

#[test]
fn limited_transmit_finds_a_loss_in_a_small_window() {
    // Three segments in a window of three: two duplicates at most, but for the new segments that they release.
    let mut pair = Pair::established(&Config::default(), &Config::default());
    let mut lost = 0;
    pair.network.drop_if(move |trace| {
        lost += u32::from(trace.is_data());
        trace.is_data() && lost == 1
    });
    pair.a.send(&pattern(30 * 1_448, 6));
    pair.run_until(|pair| pair.b.received.len() == 30 * 1_448);
    assert_eq!(pair.a.tcp().info().timeouts, 0);
}

#[test]
fn idle_connections_start_again_from_the_initial_window() {
    let mut pair = warm(&Config::default());
    assert!(pair.a.tcp().info().cwnd > 14_480);
    pair.run_for(ms(5_000));
    pair.a.send(&pattern(60 * 1_448, 3));
    pair.settle();
    let burst = pair.trace.iter().filter(|trace| trace.is_data()).count();
    assert_eq!(burst, 10);
}

#[test]
fn keep_alive_finds_out_that_the_peer_is_gone() {
    let keep_alive = bywash_tcp::KeepAlive {
        idle: ms(10_000),
        interval: ms(1_000),
        probes: 3,
    };
    let config = Config {
        keep_alive: Some(keep_alive),
        ..Config::default()
    };
    let mut pair = Pair::established(&config, &Config::default());
    pair.run_for(ms(35_000));
    let probes = pair
        .trace
        .iter()
        .filter(|trace| trace.from == Side::A)
        .count();
    assert!((2..=3).contains(&probes), "{}", pair.story());
    pair.network.drop_if(|_| true);
    pair.run_until(|pair| pair.a.closed() == Some(CloseReason::TimedOut));
}

#[test]
fn karn_without_timestamps_ignores_what_was_sent_twice() {
    let config = Config {
        timestamps: false,
        ..Config::default()
    };
    let mut pair = Pair::with(&config, &Config::default(), Faults::default());
    pair.a.send(b"x");
    pair.run_until(|pair| pair.b.received == b"x");
    pair.run_for(ms(100));
    let before = pair.a.tcp().info().rtt_ns;
    // The segment and its tail loss probe; the third comes from a time-out.
    let mut left = 2;
    pair.network.drop_if(move |trace| {
        let lose = trace.is_data() && left > 0;
        left -= i32::from(lose);
        lose
    });
    pair.a.send(b"y");
    pair.run_until(|pair| pair.b.received == b"xy");
    pair.run_for(ms(100));
    assert_eq!(
        pair.a.tcp().info().rtt_ns,
        before,
        "no sample from the segment sent twice"
    );
    assert_eq!(
        pair.a.tcp().info().rto_ns,
        2 * 202_000_000,
        "and the back-off stays"
    );
}
