//! How connections end.

use bywash_tcp::{CloseReason, Config, Event, Readiness, State};
use bywash_wire::{Flags, Segment};

use crate::support::lone::{Lone, plain};
use crate::support::{Pair, Side, ms};

fn established() -> Pair {
    Pair::established(&Config::default(), &Config::default())
}

#[test]
fn half_close_lets_the_other_half_flow() {
    let mut pair = established();
    pair.a.send(b"question");
    pair.a.close_when_sent = true;
    pair.run_until(|pair| pair.b.state() == State::CloseWait && pair.a.state() == State::FinWait2);
    assert!(pair.b.tcp().at_end());
    assert!(pair.b.events.contains(&Event::PeerClosed));
    pair.b.send(&[3; 50_000]);
    pair.run_until(|pair| pair.a.received.len() == 50_000);
    pair.b.close_when_sent = true;
    pair.run_until(|pair| pair.b.state() == State::Closed && pair.a.state() == State::TimeWait);
    assert_eq!(pair.b.closed(), Some(CloseReason::Finished));
    let waiting = pair.now;
    pair.run_until(|pair| pair.a.closed() == Some(CloseReason::Finished));
    assert_eq!(
        pair.now.since(waiting).as_millis() / 1_000,
        59,
        "2 MSL, less the last way"
    );
}

#[test]
fn the_fin_rides_on_the_data() {
    let mut pair = established();
    pair.a.send(b"all");
    pair.a.close_when_sent = true;
    pair.settle();
    assert_eq!(pair.trace.len(), 1);
    assert!(pair.trace[0].is_data() && pair.trace[0].has(Flags::FIN));
}

#[test]
fn both_close_at_once() {
    let mut pair = established();
    pair.a.close_when_sent = true;
    pair.b.close_when_sent = true;
    pair.settle();
    assert_eq!(
        (pair.a.state(), pair.b.state()),
        (State::FinWait1, State::FinWait1)
    );
    pair.step();
    assert_eq!(
        (pair.a.state(), pair.b.state()),
        (State::Closing, State::Closing)
    );
    pair.run_until(|pair| pair.a.state() == State::TimeWait && pair.b.state() == State::TimeWait);
    pair.run_until(|pair| pair.a.closed().is_some() && pair.b.closed().is_some());
    assert_eq!(pair.a.closed(), Some(CloseReason::Finished));
}

#[test]
fn a_lost_fin_is_sent_again() {
    let mut pair = established();
    let mut left = 2;
    pair.network.drop_if(move |trace| {
        let lose = trace.has(Flags::FIN) && left > 0;
        left -= i32::from(lose);
        lose
    });
    pair.a.close_when_sent = true;
    pair.b.close_when_sent = true;
    pair.run_until(|pair| pair.a.closed().is_some() && pair.b.closed().is_some());
    assert_eq!(pair.a.closed(), Some(CloseReason::Finished));
}

#[test]
fn a_fin_before_its_data_waits_for_it() {
    let mut pair = established();
    let mut first = true;
    pair.network
        .drop_if(move |trace| std::mem::take(&mut first) && trace.is_data());
    pair.a.send(&[1; 3_000]);
    pair.a.close_when_sent = true;
    pair.run_for(ms(2));
    assert_eq!(pair.b.state(), State::Established);
    assert!(pair.b.received.is_empty());
    pair.run_until(|pair| pair.b.state() == State::CloseWait);
    assert_eq!(pair.b.received, [1; 3_000]);
}

#[test]
fn time_wait_acknowledges_the_fin_again_and_starts_over() {
    let mut pair = established();
    pair.a.close_when_sent = true;
    pair.run_until(|pair| pair.b.state() == State::CloseWait);
    pair.b.close_when_sent = true;
    let mut left = 1;
    pair.network.drop_if(move |trace| {
        // The last ACK.
        let lose = trace.from == Side::A && trace.is_pure_ack() && left > 0;
        left -= i32::from(lose);
        lose
    });
    pair.run_until(|pair| pair.a.state() == State::TimeWait);
    let entered = pair.now;
    pair.run_until(|pair| pair.b.closed().is_some());
    let again = pair.now;
    assert!(again > entered + ms(190), "after a retransmission time-out");
    pair.run_until(|pair| pair.a.closed().is_some());
    assert!(pair.now.since(again) > ms(59_900), "the wait began anew");
}

#[test]
fn a_reset_does_not_end_time_wait() {
    let mut pair = established();
    pair.a.close_when_sent = true;
    pair.b.close_when_sent = true;
    pair.run_until(|pair| pair.a.state() == State::TimeWait);
    let seq = pair
        .trace
        .iter()
        .rev()
        .find(|trace| trace.from == Side::A)
        .unwrap()
        .segment
        .ack;
    let reset = Segment {
        seq,
        flags: Flags::RST,
        ..Segment::default()
    };
    pair.on_segment(Side::A, &reset, None);
    assert_eq!(pair.a.state(), State::TimeWait);
}

#[test]
fn a_new_syn_may_follow_time_wait() {
    let mut pair = established();
    pair.a.close_when_sent = true;
    pair.b.close_when_sent = true;
    pair.run_until(|pair| pair.a.state() == State::TimeWait);
    let last = pair
        .trace
        .iter()
        .rev()
        .find(|trace| trace.from == Side::B)
        .unwrap()
        .segment;
    let mut syn = Segment {
        seq: last.seq + 10,
        flags: Flags::SYN,
        ..Segment::default()
    };
    assert!(pair.a.tcp().accepts_new_incarnation(&syn), "a later number");
    syn.seq = last.seq - 1_000;
    assert!(
        !pair.a.tcp().accepts_new_incarnation(&syn),
        "an earlier one"
    );
    syn.options.timestamps = last.options.timestamps;
    syn.options.timestamps.as_mut().unwrap().value += 1;
    assert!(
        pair.a.tcp().accepts_new_incarnation(&syn),
        "but a later timestamp"
    );
    assert!(!pair.b.tcp().accepts_new_incarnation(&syn) || pair.b.state() == State::TimeWait);
}

#[test]
fn abort_resets_the_peer() {
    let mut pair = established();
    pair.b.reads = false;
    pair.a.send(b"unread");
    pair.run_for(ms(100));
    pair.a.tcp().abort();
    assert!(!pair.a.tcp().is_closed(), "the RST is still to be sent");
    pair.run_until(|pair| pair.b.closed().is_some());
    assert!(pair.a.tcp().is_closed());
    assert_eq!(pair.a.closed(), Some(CloseReason::Aborted));
    assert_eq!(pair.b.closed(), Some(CloseReason::Reset));
    assert_eq!(
        pair.b.tcp().recv().as_deref(),
        Some(&b"unread"[..]),
        "what came before stays"
    );
    assert!(
        pair.b
            .tcp()
            .readiness()
            .contains(Readiness::ERROR | Readiness::HANG_UP)
    );
}

#[test]
fn close_in_syn_sent_ends_at_once_and_in_syn_received_waits() {
    let mut pair = Pair::new();
    let now = pair.now;
    pair.a.tcp().close(now);
    assert_eq!(pair.a.state(), State::Closed);

    let mut pair = Pair::new();
    pair.settle();
    pair.run_for(ms(1));
    let now = pair.now;
    assert_eq!(pair.b.state(), State::SynReceived);
    pair.b.tcp().close(now);
    assert_eq!(pair.b.state(), State::SynReceived);
    pair.run_until(|pair| pair.b.state() == State::FinWait2);
    assert_eq!(pair.a.state(), State::CloseWait);
}

#[test]
fn an_orphan_with_unread_data_resets() {
    let mut pair = established();
    pair.b.reads = false;
    pair.a.send(b"unread");
    pair.run_for(ms(100));
    let now = pair.now;
    pair.b.tcp().orphan(now);
    pair.run_until(|pair| pair.a.closed() == Some(CloseReason::Reset));
}

#[test]
fn an_orphan_resets_data_that_comes_later() {
    let mut pair = established();
    let now = pair.now;
    pair.b.tcp().orphan(now);
    pair.run_until(|pair| pair.b.state() == State::FinWait2);
    pair.a.send(b"too late");
    pair.run_until(|pair| pair.a.closed() == Some(CloseReason::Reset));
}

#[test]
fn an_orphan_leaves_fin_wait_2_after_a_minute_but_a_half_close_does_not() {
    let mut pair = established();
    let now = pair.now;
    pair.a.tcp().orphan(now);
    pair.run_for(ms(61_000));
    assert_eq!(pair.a.closed(), Some(CloseReason::Finished));

    let mut pair = established();
    let now = pair.now;
    pair.a.tcp().close(now);
    pair.run_for(ms(600_000));
    assert_eq!(pair.a.state(), State::FinWait2);
}

#[test]
fn sending_after_close_is_refused() {
    let mut pair = established();
    let now = pair.now;
    pair.a.tcp().close(now);
    assert_eq!(pair.a.tcp().send_room(), 0);
    assert!(matches!(
        pair.a.tcp().send(vec![1]),
        Err(bywash_tcp::SendError::Closed(payload)) if payload == [1]
    ));
}

#[test]
fn an_orphan_tries_less_long() {
    let tries = |orphan: bool| {
        let mut lone = Lone::in_state(State::Established, &plain());
        lone.send(b"x");
        if orphan {
            let now = lone.now;
            lone.tcp.orphan(now);
        }
        lone.sent();
        let mut again = 0;
        while lone.tcp.state() != State::Closed {
            lone.wait();
            again += lone
                .sent()
                .iter()
                .filter(|sent| sent.segment.payload_len > 0)
                .count();
        }
        assert_eq!(lone.tcp.error(), Some(CloseReason::TimedOut));
        again
    };
    assert_eq!((tries(false), tries(true)), (15, 8));
}

#[test]
fn an_orphan_is_not_held_by_a_closed_window() {
    let mut lone = Lone::in_state(State::Established, &plain());
    let mut shut = crate::support::lone::segment(0, 1, Flags::ACK);
    shut.window = 0;
    lone.get_segment(&shut, b"");
    lone.send(b"x");
    let now = lone.now;
    lone.tcp.orphan(now);
    lone.sent();
    let mut probes = 0;
    while lone.tcp.state() != State::Closed {
        lone.wait();
        let sent = lone.sent();
        if lone.tcp.state() == State::Closed {
            assert!(sent[0].segment.flags.contains(Flags::RST));
            break;
        }
        probes += sent.len();
        // The peer lives, and keeps its window shut.
        lone.get_segment(&shut, b"");
    }
    assert_eq!(probes, 8);
}

#[test]
fn a_fin_that_comes_again_may_acknowledge_ours() {
    let mut lone = Lone::in_state(State::Closing, &plain());
    lone.get(0, 2, Flags::FIN | Flags::ACK, b"");
    assert_eq!(lone.tcp.state(), State::TimeWait);
    assert_eq!(lone.sent().len(), 1, "and is acknowledged");

    let mut lone = Lone::in_state(State::LastAck, &plain());
    lone.get(0, 2, Flags::FIN | Flags::ACK, b"");
    assert_eq!(lone.tcp.error(), None);
    assert_eq!(lone.tcp.state(), State::Closed);
}
