//! A receive buffer that follows the path.

use bywash_tcp::Config;
use bywash_wire::Flags;

use crate::support::{Faults, Pair, Side, Trace, ms, pattern};

fn config(buffer: usize, max: usize) -> Config {
    Config {
        receive_buffer: buffer,
        receive_buffer_max: max,
        send_buffer: 32 << 20,
        ..Config::default()
    }
}

/// A transfer of `bytes` over a path of 50 ms; how long it took, in ms, and the largest window offered.
fn transfer(config: &Config, bytes: usize, reads: bool) -> (u64, u32) {
    let faults = Faults {
        delay: ms(25),
        ..Faults::default()
    };
    let mut pair = Pair::with(config, config, faults);
    let data = pattern(bytes, 7);
    pair.a.send(&data);
    pair.b.reads = reads;
    let start = pair.now;
    if reads {
        pair.run_until(|pair| pair.b.received.len() == bytes);
        assert_eq!(pair.b.received, data);
    } else {
        pair.run_for(ms(3_000));
    }
    let of_b = |trace: &&Trace| trace.from == Side::B && !trace.has(Flags::SYN);
    let windows = pair.trace.iter().filter(of_b);
    let largest = windows.map(|trace| u32::from(trace.segment.window)).max();
    let scale = pair.b.tcp().info().rcv_wscale;
    (
        pair.now.since(start).as_millis(),
        largest.unwrap_or(0) << scale,
    )
}

#[test]
fn it_grows_until_it_is_no_longer_the_limit() {
    let (fixed, small) = transfer(&config(65_536, 0), 8_000_000, true);
    let (tuned, large) = transfer(&config(65_536, 6 << 20), 8_000_000, true);
    assert_eq!(small, 65_536, "the window that it began with");
    assert!(large > 4 << 20, "{large}");
    // 122 round trips with a fixed window, slow start's dozen with a growing one.
    assert!(fixed > 6_000 && tuned < 1_500, "{fixed} ms and {tuned} ms");
}

#[test]
fn nobody_reads_and_it_does_not_grow() {
    let (_, largest) = transfer(&config(65_536, 6 << 20), 1_000_000, false);
    assert!(largest <= 65_536, "{largest}");
}

#[test]
fn the_owners_credit_goes_first() {
    let config = config(65_536, 6 << 20);
    let mut pair = Pair::established(&config, &config);
    pair.b.tcp().set_receive_limit(100_000);
    pair.a.send(&pattern(4_000_000, 3));
    pair.run_until(|pair| pair.b.received.len() == 4_000_000);
    let scale = pair.b.tcp().info().rcv_wscale;
    let largest = pair.trace.iter().filter(|trace| trace.from == Side::B);
    let largest = largest.map(|trace| u32::from(trace.segment.window) << scale);
    assert!(largest.max().unwrap() <= 100_000);
}

#[test]
fn a_fixed_buffer_is_fixed_from_now_on() {
    let config = config(65_536, 6 << 20);
    let mut pair = Pair::established(&config, &config);
    let now = pair.now;
    pair.b.tcp().configure(now, |config| {
        config.receive_buffer = 32_768;
        config.receive_buffer_max = 0;
    });
    pair.a.send(&pattern(2_000_000, 3));
    pair.run_until(|pair| pair.b.received.len() == 2_000_000);
    assert!(
        pair.b.tcp().info().rcv_wnd <= 65_536,
        "what was promised stays"
    );
}
