//! The user time-out, and the option that tells it (RFC 5482).

use bywash_tcp::time::Duration;
use bywash_tcp::{CloseReason, Config, State};
use bywash_wire::{Flags, Options};

use crate::support::lone::{Lone, plain, segment};

fn config(own: Option<u64>) -> Config {
    Config {
        user_timeout: own.map(Duration::from_secs),
        user_timeout_option: true,
        ..plain()
    }
}

/// Seconds until a connection gives up whose peer's SYN had the option `field`.
fn patience(config: &Config, field: Option<u16>) -> u64 {
    let mut lone = Lone::called_with(config, |syn| syn.options.user_timeout = field);
    lone.get(0, 1, Flags::ACK, b"");
    lone.send(b"x");
    lone.sent();
    let start = lone.now;
    while lone.tcp.state() == State::Established {
        lone.wait();
        lone.sent();
    }
    assert_eq!(lone.tcp.error(), Some(CloseReason::TimedOut));
    lone.now.since(start).as_millis().div_ceil(1_000)
}

#[test]
fn the_longer_patience_counts_within_limits() {
    assert_eq!(patience(&config(Some(200)), None), 200);
    assert_eq!(patience(&config(Some(200)), Some(300)), 300);
    assert_eq!(patience(&config(Some(200)), Some(150)), 200);
    assert_eq!(patience(&config(Some(5)), Some(7)), 100, "not below R2");
    // Minutes; a peer cannot hold us for ever. (15 retransmissions end it first, after some 924 s.)
    let ends = patience(&config(Some(200)), Some(0x8000 | 30_000));
    assert!((800..1_000).contains(&ends), "{ends}");
    assert_eq!(patience(&config(Some(200)), Some(0x8000 | 5)), 300);
    assert_eq!(
        patience(&config(Some(200)), Some(0)),
        200,
        "zero is reserved"
    );
}

#[test]
fn off_is_off() {
    let off = Config {
        user_timeout_option: false,
        ..config(Some(200))
    };
    assert_eq!(patience(&off, Some(300)), 200);
    let mut calling = Lone::calling(&off);
    calling.wait();
    assert_eq!(calling.sent()[0].segment.options.user_timeout, None);
}

#[test]
fn our_syn_tells_and_later_segments_change_it() {
    let mut calling = Lone::calling(&config(Some(200)));
    calling.wait();
    assert_eq!(calling.sent()[0].segment.options.user_timeout, Some(200));

    let mut lone = Lone::in_state(State::Established, &config(Some(200)));
    let mut told = segment(0, 1, Flags::ACK);
    told.options.user_timeout = Some(Options::user_timeout_field(400));
    lone.get_segment(&told, b"y");
    lone.send(b"x");
    lone.sent();
    let start = lone.now;
    while lone.tcp.state() == State::Established {
        lone.wait();
        lone.sent();
    }
    assert_eq!(lone.now.since(start).as_millis(), 400_000);
}
