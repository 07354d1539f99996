//! Payloads with a will of their own: still queued for transmission, not to be cut now, counted.

use bywash_tcp::{COPYBREAK, LimitedBy, State};
use bywash_wire::Flags;

use crate::support::lone::{Lone, plain};
use crate::support::{ISS_A, ms};

fn established() -> Lone {
    Lone::in_state(State::Established, &plain())
}

#[test]
fn nothing_is_sent_again_while_its_transmission_is_not_completed() {
    let mut lone = established();
    lone.send(&[1; 1_000]);
    assert_eq!(lone.sent().len(), 1);
    lone.desk.queued.set(true);
    for blocked in 1..=3 {
        lone.wait();
        assert_eq!(lone.sent(), []);
        assert_eq!(lone.tcp.info().retransmit_blocked, blocked);
    }
    assert_eq!(
        lone.tcp.info().timeouts,
        0,
        "it was not lost, it was not sent"
    );
    lone.desk.queued.set(false);
    lone.wait();
    let again = lone.sent();
    assert!(again.len() == 1 && again[0].again);
}

#[test]
fn fast_retransmission_waits_for_the_completion_too() {
    let mut lone = established();
    // An acknowledgment beyond `recover` first: the SYN's does not count.
    lone.send(&[0; 100]);
    lone.sent();
    lone.get(0, 101, Flags::ACK, b"");
    for _ in 0..5 {
        lone.send(&[1; 1_000]);
    }
    lone.sent();
    lone.desk.queued.set(true);
    for _ in 0..3 {
        lone.get(0, 101, Flags::ACK, b"");
    }
    assert_eq!(lone.sent(), []);
    assert_eq!(lone.sent(), []);
    let info = lone.tcp.info();
    assert_eq!(
        (info.fast_recoveries, info.retransmit_blocked),
        (1, 1),
        "counted once"
    );
    lone.desk.queued.set(false);
    let again = lone.sent();
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].again, again[0].segment.seq), (true, ISS_A + 101));
}

#[test]
fn a_blocked_retransmission_is_said_to_limit_us() {
    let mut lone = established();
    lone.send(&[1; 1_000]);
    lone.sent();
    lone.wait();
    lone.desk.queued.set(true);
    assert_eq!(lone.sent(), []);
    assert_eq!(lone.tcp.info().limited_by, LimitedBy::TransmitQueue);
    assert_eq!(lone.tcp.info().retransmit_blocked, 1);
}

#[test]
fn no_frame_to_cut_into_is_counted_and_tried_again() {
    let mut lone = established();
    lone.desk.exhausted.set(true);
    // The largest window seen is 8000, so 4000 of it are worth a cut.
    let mut narrow = crate::support::lone::segment(0, 1, Flags::ACK);
    narrow.window = 700;
    lone.get_segment(&narrow, b"");
    lone.send(&[1; 1_000]);
    assert_eq!(lone.sent(), [], "700 of 8000 is a silly window");
    lone.wait();
    assert_eq!(lone.sent(), []);
    assert_eq!(lone.tcp.info().split_failed, 1);
    lone.desk.exhausted.set(false);
    lone.wait();
    let sent = lone.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].bytes.len(), 700);
}

#[test]
fn a_smaller_path_cuts_what_is_sent_again() {
    let mut lone = established();
    lone.send(&[1; 536]);
    lone.sent();
    lone.tcp.set_mss(300);
    assert_eq!(lone.tcp.segment_limit(), 300);
    lone.wait();
    let first = lone.sent();
    assert_eq!(
        first
            .iter()
            .map(|sent| sent.bytes.len())
            .collect::<Vec<_>>(),
        [300]
    );
    lone.get(0, 301, Flags::ACK, b"");
    let second = lone.sent();
    assert_eq!(
        second
            .iter()
            .map(|sent| sent.bytes.len())
            .collect::<Vec<_>>(),
        [236]
    );
    lone.get(0, 537, Flags::ACK, b"");
    assert_eq!(lone.desk.alive.get(), 0, "all frames are released");
}

#[test]
fn an_acknowledgment_inside_a_segment_trims_it() {
    let mut lone = established();
    lone.send(&(0..200).collect::<Vec<u8>>());
    lone.sent();
    lone.get(0, 51, Flags::ACK, b"");
    assert_eq!(lone.tcp.info().in_flight, 150);
    lone.wait();
    let again = lone.sent();
    assert_eq!(again[0].segment.seq, ISS_A + 51);
    assert_eq!(again[0].bytes, (50..200).collect::<Vec<u8>>());
}

#[test]
fn frames_are_released_when_acknowledged_read_or_given_up() {
    let mut lone = established();
    lone.send(&[1; 500]);
    lone.send(&[2; 500]);
    lone.sent();
    assert_eq!(lone.desk.alive.get(), 2);
    lone.get(0, 501, Flags::ACK, b"");
    assert_eq!(lone.desk.alive.get(), 1);
    lone.get(0, 501, Flags::ACK, &[3; COPYBREAK + 1]);
    lone.get(2_000, 501, Flags::ACK, &[3; 10]);
    assert_eq!(lone.desk.alive.get(), 3);
    drop(lone.tcp.recv());
    assert_eq!(lone.desk.alive.get(), 2);
    lone.tcp.abort();
    assert_eq!(lone.desk.alive.get(), 0);
}

#[test]
fn tiny_segments_in_order_are_bounded_in_handles() {
    let mut config = plain();
    config.receive_segments = 8;
    let mut lone = Lone::in_state(State::Established, &config);
    for n in 0..100 {
        lone.get(n, 1, Flags::ACK, b"x");
    }
    assert_eq!(lone.desk.alive.get(), 8, "no frame can be appended to here");
    // Whoever reads makes room again.
    while lone.tcp.recv().is_some() {}
    lone.get(8, 1, Flags::ACK, b"y");
    assert_eq!(lone.desk.alive.get(), 1);
}

#[test]
fn unsent_tail_is_offered_only_while_it_may_grow() {
    let mut lone = established();
    assert!(lone.tcp.unsent_tail().is_none());
    lone.send(b"abc");
    let tail = lone.tcp.unsent_tail().expect("three bytes, not sent");
    tail.bytes.extend_from_slice(b"def");
    lone.tcp.extended(3);
    assert_eq!(lone.tcp.info().unsent, 6);
    let sent = lone.sent();
    assert_eq!(sent[0].bytes, b"abcdef");
    assert!(lone.tcp.unsent_tail().is_none(), "it is sent");
    lone.send(&[0; 1_000]);
    assert!(lone.tcp.unsent_tail().is_none(), "it is full");
    lone.send(b"tail");
    let now = lone.now;
    lone.tcp.close(now);
    assert!(lone.tcp.unsent_tail().is_none(), "the FIN is behind it");
}

#[test]
fn a_full_send_buffer_says_when_there_is_room_again() {
    let mut config = plain();
    config.send_buffer = 1_000;
    let mut lone = Lone::in_state(State::Established, &config);
    while lone.tcp.poll_event().is_some() {}
    lone.send(&[1; 500]);
    lone.send(&[1; 400]);
    let refused = lone.tcp.send(lone.desk.frame(&[1; 200]));
    assert!(matches!(refused, Err(bywash_tcp::SendError::Full(_))));
    lone.sent();
    assert_eq!(lone.tcp.poll_event(), None);
    lone.get(0, 501, Flags::ACK, b"");
    assert_eq!(lone.tcp.poll_event(), Some(bywash_tcp::Event::Writable));
    assert_eq!(lone.tcp.poll_event(), None);
    lone.now += ms(1);
}

#[test]
fn each_write_ends_with_a_push() {
    let mut lone = Lone::in_state(State::Established, &plain());
    for len in [1_000, 500, 1_000, 1_000] {
        lone.send(&vec![1; len]);
        if len == 500 {
            lone.tcp.push();
        }
    }
    let pushes: Vec<bool> = lone
        .sent()
        .iter()
        .map(|sent| sent.segment.flags.contains(Flags::PSH))
        .collect();
    assert_eq!(pushes, [false, true, false, true]);
}
