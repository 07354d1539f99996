//! How connections begin.

use bywash_tcp::time::Instant;
use bywash_tcp::{CloseReason, Config, Event, ListenOutcome, Listener, State};
use bywash_wire::{DropReason, Flags, Segment, SeqNumber, Tuple};

use crate::support::lone::{Lone, plain, segment};
use crate::support::{Faults, ISS_A, ISS_B, Pair, Side, ms, tuple};

fn both_established(pair: &Pair) -> bool {
    pair.a.state() == State::Established && pair.b.state() == State::Established
}

#[test]
fn three_segments_and_both_know() {
    let mut pair = Pair::new();
    pair.run_until(both_established);
    let flags: Vec<Flags> = pair.trace.iter().map(|trace| trace.segment.flags).collect();
    assert_eq!(flags, [Flags::SYN, Flags::SYN | Flags::ACK, Flags::ACK]);
    assert_eq!(pair.a.events, [Event::Connected]);
    assert_eq!(pair.b.events, [Event::Connected]);
    let (a, b) = (pair.a.tcp().info(), pair.b.tcp().info());
    assert!(a.timestamps && a.sack && b.timestamps && b.sack);
    assert_eq!(
        (a.mss, b.mss),
        (1448, 1448),
        "timestamps take twelve bytes of every segment"
    );
    assert_eq!(
        (a.rcv_wscale, a.snd_wscale),
        (5, 5),
        "1 MiB does not fit 65535 << 4"
    );
    assert_eq!(a.rtt_ns, 2_000_000);
}

#[test]
fn the_syn_offers_everything_and_its_window_is_not_scaled() {
    let mut pair = Pair::new();
    pair.settle();
    let syn = &pair.trace[0].segment;
    assert_eq!(syn.options.mss, Some(1460));
    assert_eq!(syn.options.window_scale, Some(5));
    assert!(syn.options.sack_permitted);
    assert_eq!(syn.options.timestamps.map(|ts| ts.echo), Some(0));
    assert_eq!(syn.window, 65_535);
}

#[test]
fn a_peer_without_options_gets_none() {
    let bare = Config {
        window_scale: false,
        timestamps: false,
        sack: false,
        ..Config::default()
    };
    for (a, b) in [(&bare, &Config::default()), (&Config::default(), &bare)] {
        let mut pair = Pair::with(a, b, Faults::default());
        pair.a.send(&[7; 100_000]);
        pair.run_until(|pair| pair.b.received.len() == 100_000);
        for end in [&mut pair.a, &mut pair.b] {
            let info = end.tcp().info();
            assert!(!info.timestamps && !info.sack);
            assert_eq!((info.snd_wscale, info.rcv_wscale, info.mss), (0, 0, 1460));
            assert!(info.rcv_wnd <= 65_535 && info.snd_wnd <= 65_535);
        }
        assert!(
            pair.trace[2..]
                .iter()
                .all(|trace| trace.segment.options.timestamps.is_none())
        );
    }
}

#[test]
fn without_the_option_the_mss_is_536() {
    let mut pair = Pair::new();
    pair.settle();
    let mut syn = pair.trace[0].segment;
    syn.options.mss = None;
    pair.on_segment(Side::B, &syn, None);
    assert_eq!(pair.b.tcp().info().mss, 536 - 12);
}

#[test]
fn a_lost_syn_is_sent_again_after_one_second_then_two() {
    let mut pair = Pair::new();
    let mut left = 2;
    pair.network.drop_if(move |trace| {
        let lose = trace.has(Flags::SYN) && left > 0;
        left -= i32::from(lose);
        lose
    });
    let start = pair.now;
    pair.run_until(both_established);
    let syns: Vec<u64> = pair
        .trace
        .iter()
        .filter(|trace| trace.segment.flags == Flags::SYN)
        .map(|trace| trace.at.since(start).as_millis())
        .collect();
    assert_eq!(syns, [0, 1_000, 3_000]);
    assert_eq!(
        pair.a.tcp().info().cwnd,
        1448,
        "RFC 5681: one segment after a lost SYN"
    );
    assert_eq!(
        pair.a.tcp().info().ssthresh,
        u32::MAX,
        "but slow start goes on"
    );
}

#[test]
fn a_lost_syn_ack_is_sent_again() {
    let mut pair = Pair::new();
    let mut left = 1;
    pair.network.drop_if(move |trace| {
        let lose = trace.segment.flags == Flags::SYN | Flags::ACK && left > 0;
        left -= i32::from(lose);
        lose
    });
    pair.run_until(both_established);
    assert!(
        pair.trace
            .iter()
            .filter(|trace| trace.has(Flags::SYN | Flags::ACK))
            .count()
            >= 2
    );
}

#[test]
fn a_lost_third_segment_is_made_good_by_data() {
    let mut pair = Pair::new();
    let mut left = 1;
    pair.network.drop_if(move |trace| {
        let lose = trace.from == Side::A && trace.is_pure_ack() && left > 0;
        left -= i32::from(lose);
        lose
    });
    pair.a.send(b"hello");
    pair.run_until(|pair| pair.b.received == b"hello");
    assert_eq!(pair.b.events[0], Event::Connected);
}

#[test]
fn nobody_answers() {
    let mut pair = Pair::new();
    pair.network.drop_if(|_| true);
    let start = pair.now;
    pair.run_until(|pair| pair.a.closed().is_some());
    assert_eq!(pair.a.closed(), Some(CloseReason::TimedOut));
    assert_eq!(pair.a.tcp().error(), Some(CloseReason::TimedOut));
    assert_eq!(pair.trace.len(), 7, "the SYN and six more");
    assert_eq!(pair.now.since(start).as_millis(), 127_000);
}

#[test]
fn both_call_at_once() {
    let mut pair = Pair::simultaneous(&Config::default());
    pair.a.send(b"from a");
    pair.b.send(b"from b");
    pair.run_until(|pair| pair.b.received == b"from a" && pair.a.received == b"from b");
    assert!(both_established(&pair));
    let syn_acks = pair
        .trace
        .iter()
        .filter(|trace| trace.has(Flags::SYN | Flags::ACK))
        .count();
    assert_eq!(syn_acks, 2, "{}", pair.story());
    assert_eq!(
        pair.a.tcp().info().timeouts + pair.b.tcp().info().timeouts,
        0
    );
}

#[test]
fn data_queued_before_the_handshake_follows_it() {
    let mut pair = Pair::new();
    pair.a.send(&[1; 5_000]);
    pair.settle();
    assert_eq!(pair.trace.len(), 1, "only the SYN");
    pair.run_until(|pair| pair.b.received.len() == 5_000);
}

#[test]
fn a_smaller_peer_mss_cuts_what_was_queued() {
    let small = Config {
        mss: 600,
        ..Config::default()
    };
    let mut pair = Pair::with(&Config::default(), &small, Faults::default());
    pair.a.send(&crate::support::pattern(5_000, 3));
    pair.run_until(|pair| pair.b.received.len() == 5_000);
    assert_eq!(pair.b.received, crate::support::pattern(5_000, 3));
    assert!(
        pair.trace
            .iter()
            .all(|trace| trace.segment.payload_len <= 588)
    );
}

#[test]
fn a_refused_connection_says_so() {
    let mut pair = Pair::new();
    pair.settle();
    let reset = Segment {
        ack: ISS_A + 1,
        flags: Flags::RST | Flags::ACK,
        ..Segment::default()
    };
    pair.on_segment(Side::A, &reset, None);
    pair.settle();
    assert_eq!(pair.a.events, [Event::Closed(CloseReason::Refused)]);
    assert!(pair.a.tcp().is_closed());
}

#[test]
fn a_half_open_peer_is_reset_and_the_call_goes_through() {
    // RFC 9293 3.5.1, figure 9: the server remembers an old connection and answers the SYN with an ACK of its own.
    let mut pair = Pair::new();
    pair.settle();
    let stray = Segment {
        seq: ISS_A,
        ack: ISS_A + 50_000,
        flags: Flags::ACK,
        ..Segment::default()
    };
    pair.on_segment(Side::A, &stray, None);
    pair.flush(Side::A);
    let sent: Vec<_> = pair
        .trace
        .iter()
        .map(|trace| (trace.segment.flags, trace.segment.seq))
        .collect();
    let syn = (Flags::SYN, ISS_A);
    assert_eq!(
        sent,
        [syn, (Flags::RST, stray.ack), syn],
        "the SYN follows the reset at once, not after a second"
    );
    assert_eq!(pair.a.state(), State::SynSent);
    // Once: whoever goes on so gets resets, and the SYN at the pace of its timer.
    pair.on_segment(Side::A, &stray, None);
    pair.flush(Side::A);
    let last = pair.trace.last().unwrap().segment;
    assert_eq!((last.flags, last.seq), (Flags::RST, stray.ack));
    pair.run_until(both_established);
}

#[test]
fn a_handshake_with_a_closed_receive_window_still_works() {
    let narrow = Config {
        receive_buffer: 1,
        ..Config::default()
    };
    let mut pair = Pair::with(&Config::default(), &narrow, Faults::default());
    pair.a.send(b"abc");
    pair.run_until(|pair| pair.b.received == b"abc");
    pair.run_for(ms(1_000));
    assert!(both_established(&pair));
}

#[test]
fn over_ipv6_the_default_mss_is_1220() {
    let tuple = Tuple::tcp(
        "fd00::1".parse().unwrap(),
        80,
        "fd00::2".parse().unwrap(),
        40_000,
    );
    let syn = Segment {
        flags: Flags::SYN,
        ..Segment::default()
    };
    let outcome = Listener::new(Config::default()).on_segment::<Vec<u8>>(
        Instant::ZERO,
        tuple,
        &syn,
        ISS_A,
        0,
    );
    let ListenOutcome::Connection(tcp) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(tcp.info().mss, 1_220, "and no timestamps were offered");
}

#[test]
fn a_listener_answers_only_syns_with_connections() {
    let listener = Listener::new(Config::default());
    let outcome = |flags| {
        let segment = Segment {
            ack: ISS_A,
            flags,
            ..Segment::default()
        };
        listener.on_segment::<Vec<u8>>(Instant::ZERO, tuple(), &segment, ISS_A, 0)
    };
    assert!(matches!(
        outcome(Flags::RST),
        ListenOutcome::Drop(DropReason::BadReset)
    ));
    assert!(matches!(
        outcome(Flags::EMPTY),
        ListenOutcome::Drop(DropReason::MissingAck)
    ));
    assert!(matches!(
        outcome(Flags::SYN | Flags::FIN),
        ListenOutcome::Drop(DropReason::BadFlags)
    ));
    for flags in [Flags::ACK, Flags::SYN | Flags::ACK, Flags::FIN | Flags::ACK] {
        let ListenOutcome::Reset(reset) = outcome(flags) else {
            panic!("{flags}")
        };
        assert_eq!((reset.flags, reset.seq), (Flags::RST, ISS_A));
    }
}

/// An end that has called, and whose peer has called too: the SYN has come.
fn crossed(window: u16) -> Lone {
    let config = Config {
        window_scale: true,
        ..plain()
    };
    let mut lone = Lone::calling(&config);
    let mut syn = segment(-1, 0, Flags::SYN);
    syn.ack = SeqNumber::default();
    syn.window = window;
    syn.options.mss = Some(1_000);
    syn.options.window_scale = Some(3);
    lone.get_segment(&syn, b"");
    assert_eq!(lone.tcp.state(), State::SynReceived);
    lone
}

#[test]
fn both_call_at_once_and_the_answers_overtake() {
    let mut lone = crossed(1_000);
    // Before its own SYN-ACK is sent, or instead of it: the peer must not wait for a second to hear that it is heard.
    lone.get(-1, 1, Flags::SYN | Flags::ACK, b"");
    assert_eq!(lone.tcp.state(), State::Established);
    let sent = lone.sent();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(sent[0].segment.flags, Flags::ACK);
    assert_eq!(sent[0].segment.ack, ISS_B + 1);
}

#[test]
fn the_window_of_a_crossing_syn_ack_is_not_scaled() {
    let mut lone = crossed(1_000);
    let mut answer = segment(-1, 1, Flags::SYN | Flags::ACK);
    answer.window = 1_000;
    answer.options.window_scale = Some(3);
    lone.get_segment(&answer, b"");
    for _ in 0..3 {
        lone.send(&[7; 1_000]);
    }
    let bytes: usize = lone.sent().iter().map(|sent| sent.bytes.len()).sum();
    assert_eq!(bytes, 1_000, "RFC 7323 2.2");
}
