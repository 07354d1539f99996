//! Reductions of the window that turn out to have been needless are undone.

use bywash_tcp::Config;

use crate::support::{Faults, Pair, Side, Trace, ms, pattern};

const MSS: usize = 1_448;

/// A transfer over 10 ms each way, sixty segments done.
fn warm(config: &Config) -> Pair {
    let faults = Faults {
        delay: ms(10),
        ..Faults::default()
    };
    let mut pair = Pair::with(config, &Config::default(), faults);
    pair.a.send(&pattern(60 * MSS, 1));
    pair.run_until(|pair| pair.b.received.len() == 60 * MSS);
    pair.run_for(ms(100));
    pair.b.received.clear();
    pair.trace.clear();
    pair
}

/// The client's segments stand still for `millis`, then all arrive, in order.
fn stall(pair: &mut Pair, millis: u64) {
    stall_apart(pair, millis, 0);
}

/// As [`stall`], but they arrive one by one, `apart` milliseconds after each other.
fn stall_apart(pair: &mut Pair, millis: u64, apart: u64) {
    let mut end = pair.now + ms(millis);
    pair.network.delay_by(move |trace: &Trace| {
        if trace.from != Side::A || trace.at >= end {
            return ms(0);
        }
        end += ms(apart);
        end.since(trace.at)
    });
}

fn finish(pair: &mut Pair, len: usize) {
    pair.run_until(|pair| pair.b.received.len() == len);
    pair.run_for(ms(500));
}

#[test]
fn a_time_out_that_came_too_soon_costs_no_window() {
    // With timestamps the echo tells (Eifel), without them the acknowledgment of what was sent once (F-RTO).
    for (timestamps, sack) in [(true, true), (true, false), (false, true), (false, false)] {
        let config = Config {
            timestamps,
            sack,
            ..Config::default()
        };
        let mut pair = warm(&config);
        let before = pair.a.tcp().info();
        // With neither, only a second acknowledgment tells, while there is something new to send (RFC 5682 2.1, step 2.b).
        let (len, apart) = match timestamps || sack {
            true => (40 * MSS, 0),
            false => (200 * MSS, 1),
        };
        stall_apart(&mut pair, 400, apart);
        pair.a.send(&pattern(len, 2));
        finish(&mut pair, len);
        let info = pair.a.tcp().info();
        let story = format!("timestamps {timestamps}, sack {sack}\n{}", pair.story());
        assert!(info.timeouts > 0, "{story}");
        assert!(info.recovery.undone > 0, "{story}");
        assert!(info.recovery.spurious_timeouts > 0, "{story}");
        assert!(info.cwnd >= before.cwnd, "{} {story}", info.cwnd);
        assert_eq!(info.ssthresh, before.ssthresh, "{story}");
        // The oldest, once a time-out; with SACK a probe before. Not the whole window.
        assert!(info.retransmissions <= 4, "{story}");
    }
}

#[test]
fn a_true_time_out_is_not_undone() {
    for (timestamps, sack) in [(true, true), (true, false), (false, true), (false, false)] {
        let config = Config {
            timestamps,
            sack,
            ..Config::default()
        };
        let mut pair = warm(&config);
        let mut end = None;
        pair.network.drop_if(move |trace| {
            let end = *end.get_or_insert(trace.at + ms(150));
            trace.from == Side::A && trace.at < end
        });
        let data = pattern(40 * MSS, 2);
        pair.a.send(&data);
        finish(&mut pair, data.len());
        assert!(pair.b.received == data);
        let info = pair.a.tcp().info();
        assert!(info.timeouts > 0);
        assert_eq!(info.recovery.undone, 0, "{}", pair.story());
        assert!(info.ssthresh < u32::MAX);
    }
}

#[test]
fn without_sack_a_hole_that_is_filled_does_not_refute_the_time_out() {
    // Found by the live matrix: each time-out was undone, the holes behind stayed, and the next time-out was twice as far.
    for timestamps in [true, false] {
        let config = Config {
            timestamps,
            sack: false,
            ..Config::default()
        };
        let mut pair = warm(&config);
        let (mut end, mut number) = (None, 0);
        pair.network.drop_if(move |trace| {
            let end = *end.get_or_insert(trace.at + ms(150));
            if trace.from == Side::B {
                return trace.at < end;
            }
            number += u32::from(trace.is_data());
            trace.is_data() && [1, 5, 9, 13, 17].contains(&number)
        });
        // More than the window holds, so that F-RTO has something new to send.
        let data = pattern(200 * MSS, 2);
        pair.a.send(&data);
        let start = pair.now;
        finish(&mut pair, data.len());
        assert!(pair.b.received == data);
        let info = pair.a.tcp().info();
        let story = format!("timestamps {timestamps}\n{}", pair.story());
        assert_eq!((info.timeouts, info.recovery.undone), (1, 0), "{story}");
        assert!(pair.now.since(start) < ms(3_000), "{story}");
    }
}

/// Holds the fifth segment up, so long that it is sent again.
fn hold_one_up(pair: &mut Pair, late: u64) {
    let mut count = 0;
    pair.network.delay_by(move |trace| {
        count += u32::from(trace.from == Side::A && trace.is_data());
        let held = count == 5 && trace.is_data() && trace.from == Side::A;
        ms(if held { late } else { 0 })
    });
}

#[test]
fn a_retransmission_that_only_doubled_is_undone() {
    // With timestamps as soon as the first transmission is acknowledged, without them by the D-SACK for the second.
    for timestamps in [true, false] {
        let config = Config {
            timestamps,
            ..Config::default()
        };
        let mut pair = warm(&config);
        let before = pair.a.tcp().info();
        hold_one_up(&mut pair, 25);
        pair.a.send(&pattern(60 * MSS, 2));
        finish(&mut pair, 60 * MSS);
        let info = pair.a.tcp().info();
        assert_eq!(
            (info.retransmissions, info.fast_recoveries, info.timeouts),
            (1, 1, 0),
            "{}",
            pair.story()
        );
        assert_eq!(info.recovery.undone, 1, "{}", pair.story());
        assert_eq!(info.recovery.duplicates, 1);
        assert_eq!(info.ssthresh, before.ssthresh);
        assert!(info.cwnd >= before.cwnd);
    }
}

#[test]
fn a_retransmission_that_was_needed_is_not_undone() {
    let mut pair = warm(&Config::default());
    let mut count = 0;
    pair.network.drop_if(move |trace| {
        count += u32::from(trace.from == Side::A && trace.is_data());
        count == 5 && trace.from == Side::A && trace.is_data()
    });
    let before = pair.a.tcp().info();
    pair.a.send(&pattern(60 * MSS, 2));
    finish(&mut pair, 60 * MSS);
    let info = pair.a.tcp().info();
    assert_eq!((info.fast_recoveries, info.recovery.undone), (1, 0));
    assert!(info.ssthresh < before.cwnd);
}

#[test]
fn a_stall_at_any_time_loses_no_byte() {
    for start in 0..60 {
        let mut pair = warm(&Config::default());
        let data = pattern(300 * MSS, 4);
        pair.a.send(&data);
        pair.run_for(ms(start));
        stall(&mut pair, 150 + 17 * start);
        finish(&mut pair, data.len());
        assert!(pair.b.received == data, "stalled after {start} ms");
        assert_eq!(pair.a.tcp().info().in_flight, 0);
    }
}
