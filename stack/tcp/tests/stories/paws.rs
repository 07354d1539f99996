//! Protection against wrapped sequence numbers (RFC 7323 5).

use bywash_tcp::{Config, Disposition, State};
use bywash_wire::{DropReason, Flags, Segment, Timestamps};

use crate::support::lone::{Lone, plain, segment};
use crate::support::ms;

/// Agreed on timestamps; the peer's clock stands at `value`.
fn lone(value: u32) -> Lone {
    let config = Config {
        timestamps: true,
        ..plain()
    };
    let mut lone = Lone::called_with(&config, |syn| {
        syn.options.timestamps = Some(Timestamps { value, echo: 0 });
    });
    lone.get_segment(&stamped(0, 1, Flags::ACK, value), b"");
    assert_eq!(lone.tcp.state(), State::Established);
    lone
}

fn stamped(seq: i32, ack: i32, flags: Flags, value: u32) -> Segment {
    let mut segment = segment(seq, ack, flags);
    segment.options.timestamps = Some(Timestamps { value, echo: 0 });
    segment
}

const OLD: Disposition = Disposition::Dropped(DropReason::Paws);

/// The timestamp echoed by the only segment sent now.
fn echo(lone: &mut Lone) -> u32 {
    let sent = lone.sent();
    let [one] = &sent[..] else {
        panic!("one segment: {sent:?}")
    };
    one.segment.options.timestamps.expect("agreed on").echo
}

#[test]
fn what_is_older_is_answered_and_dropped() {
    let mut lone = lone(1_000);
    assert_eq!(lone.get_segment(&stamped(0, 1, Flags::ACK, 999), b"x"), OLD);
    assert_eq!(echo(&mut lone), 1_000);
    assert!(lone.tcp.recv().is_none());
    // Equal is not older, and the clock may wrap.
    let mut lone = self::lone(u32::MAX);
    lone.get_segment(&stamped(0, 1, Flags::ACK, u32::MAX), b"x");
    lone.sent();
    lone.get_segment(&stamped(1, 1, Flags::ACK, 3), b"y");
    assert_eq!(lone.tcp.recv().unwrap().bytes, b"x");
    lone.sent();
    assert_eq!(
        lone.get_segment(&stamped(2, 1, Flags::ACK, u32::MAX), b"z"),
        OLD
    );
    assert_eq!(echo(&mut lone), 3);
}

#[test]
fn answers_to_empty_old_segments_are_limited_but_not_to_data() {
    let mut lone = lone(1_000);
    let mut answers = [0; 2];
    for _ in 0..10 {
        for (kind, bytes) in [&b""[..], b"x"].into_iter().enumerate() {
            assert_eq!(lone.get_segment(&stamped(0, 1, Flags::ACK, 5), bytes), OLD);
            answers[kind] += lone.sent().len();
        }
    }
    assert_eq!(answers, [1, 10]);
}

#[test]
fn a_reset_is_not_judged_by_its_clock() {
    let mut lone = lone(1_000);
    lone.get_segment(&stamped(0, 1, Flags::RST, 5), b"");
    assert_eq!(lone.tcp.state(), State::Closed);
}

#[test]
fn after_24_days_of_silence_any_clock_counts() {
    const DAY: u64 = 24 * 3_600 * 1_000;
    for (days, old) in [(24, true), (25, false)] {
        let mut lone = lone(1_000);
        lone.now += ms(days * DAY);
        let said = lone.get_segment(&stamped(0, 1, Flags::ACK, 5), b"x");
        assert_eq!(said == OLD, old, "{days} days");
        assert_eq!(echo(&mut lone), if old { 1_000 } else { 5 });
    }
}

#[test]
fn a_clock_of_zero_in_the_syn_binds_nobody() {
    let mut lone = lone(0);
    let said = lone.get_segment(&stamped(0, 1, Flags::ACK, 0xf000_0000), b"x");
    assert_eq!(said, Disposition::Accepted);
    assert_eq!(echo(&mut lone), 0xf000_0000);
}

#[test]
fn the_echo_is_that_of_the_segment_acknowledged() {
    // RFC 7323 4.3 (B): a hole. What lies behind it does not change the echo; what fills it does.
    let mut lone = lone(1_000);
    lone.get_segment(&stamped(10, 1, Flags::ACK, 1_010), &[1; 10]);
    assert_eq!(echo(&mut lone), 1_000);
    lone.get_segment(&stamped(0, 1, Flags::ACK, 1_020), &[1; 10]);
    assert_eq!(echo(&mut lone), 1_020);
}

#[test]
fn every_segment_has_timestamps_the_reset_too() {
    let mut lone = lone(1_000);
    lone.send(b"x");
    lone.tcp.abort();
    let sent = lone.sent();
    assert!(sent[0].segment.flags.contains(Flags::RST));
    assert_eq!(sent[0].segment.options.timestamps.unwrap().echo, 1_000);
}
