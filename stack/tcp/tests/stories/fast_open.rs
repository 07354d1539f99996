//! Data on the SYN (RFC 7413), and every way in which it comes to nothing.

use bywash_tcp::time::Instant;
use bywash_tcp::{
    CloseReason, Config, Event, FastOpenAnswer, FastOpenOffer, FastOpenStatus, ListenOutcome,
    Listener, Readiness, State,
};
use bywash_wire::{FastOpen, FastOpenCookie, Flags, IcmpError, IcmpKind, Segment};

use crate::support::lone::{Lone, plain, segment};
use crate::support::{Faults, ISS_A, ISS_B, Pair, Side, ms, pattern, reborn, tuple};

const SYN_ACK: Flags = Flags::SYN.union(Flags::ACK);

fn cookie(octets: &[u8]) -> FastOpenCookie {
    FastOpenCookie::new(octets).expect("4 to 16 octets, an even number")
}

/// What the server of these stories gives out.
fn right() -> FastOpenCookie {
    cookie(b"biscuits")
}

fn show(cookie: FastOpenCookie) -> FastOpenOffer {
    FastOpenOffer::Show { cookie, mss: 1_460 }
}

/// A client that tries `offer` with `request`, and a server that answers with `answer`.
fn pair_with(faults: Faults, offer: FastOpenOffer, request: &[u8], answer: &[u8]) -> Pair {
    let config = Config {
        fast_open: true,
        ..Config::default()
    };
    let mut pair = Pair::with(&config, &config, faults);
    pair.cookie = Some(right());
    pair.a.tcp().fast_open(offer);
    pair.a.send(request);
    pair.b.send(answer);
    pair
}

fn pair(offer: FastOpenOffer) -> Pair {
    pair_with(Faults::default(), offer, b"request", b"answer")
}

fn status(pair: &mut Pair) -> [FastOpenStatus; 2] {
    [pair.a.tcp().info().fast_open, pair.b.tcp().info().fast_open]
}

fn done(pair: &Pair) -> bool {
    pair.b.received == b"request"
        && pair.a.received == b"answer"
        && pair.b.state() == State::Established
}

fn syns(pair: &Pair, from: Side) -> Vec<Segment> {
    let syns = pair.trace.iter().filter(|trace| trace.from == from);
    syns.filter(|trace| trace.has(Flags::SYN))
        .map(|trace| trace.segment)
        .collect()
}

#[test]
fn who_asks_gets_a_cookie_and_data_waits() {
    let mut pair = pair(FastOpenOffer::Ask);
    pair.run_until(done);
    let [syn, ..] = syns(&pair, Side::A)[..] else {
        panic!()
    };
    assert_eq!(syn.options.fast_open, Some(FastOpen::default()));
    assert_eq!(syn.payload_len, 0);
    assert_eq!(pair.trace[1].ack(), 1);
    assert_eq!(
        syns(&pair, Side::B)[0].options.fast_open.unwrap().cookie,
        Some(right())
    );
    assert_eq!(pair.a.tcp().fast_open_grant(), Some((right(), 1_460)));
    assert_eq!(
        status(&mut pair),
        [FastOpenStatus::CookieOnly, FastOpenStatus::Granted]
    );
    assert_eq!(pair.b.events[0], Event::Connected);
    assert!(!pair.b.events.contains(&Event::Confirmed));
}

#[test]
fn who_shows_it_has_an_answer_after_one_round_trip() {
    let mut pair = pair(show(right()));
    let begin = pair.now;
    pair.run_until(|pair| pair.b.received == b"request");
    assert_eq!(pair.now, begin + ms(1), "with the SYN");
    assert_eq!(pair.b.state(), State::SynReceived);
    assert_eq!(pair.b.events, [Event::Connected, Event::Readable]);
    pair.run_until(|pair| pair.a.received == b"answer");
    assert_eq!(pair.now, begin + ms(2), "behind the SYN-ACK");
    pair.run_until(done);
    assert_eq!(pair.b.events[2], Event::Confirmed);
    assert_eq!(status(&mut pair), [FastOpenStatus::Accepted; 2]);
    let story = pair.story();
    let [syn, syn_ack, answer, ack, ..] = &pair.trace[..] else {
        panic!("{story}")
    };
    assert_eq!(
        (syn.segment.payload_len, syn.segment.flags),
        (7, Flags::SYN)
    );
    assert_eq!((syn_ack.ack(), syn_ack.segment.flags), (8, SYN_ACK));
    assert_eq!(syn_ack.segment.options.fast_open, None, "it has one");
    assert_eq!((answer.seq(), answer.segment.payload_len), (1, 6));
    assert!(ack.ack() >= 1 && ack.segment.payload_len == 0);
    let (a, b) = (pair.a.tcp().info(), pair.b.tcp().info());
    assert_eq!((a.syn_data, b.syn_data), (7, 7));
    assert_eq!((a.retransmissions, b.retransmissions), (0, 0));
    assert_eq!(a.cwnd, 10 * 1_448, "RFC 6928, from the handshake's end on");
    assert_eq!(a.rtt_ns, 2_000_000);
}

#[test]
fn a_wrong_cookie_costs_a_round_trip_and_brings_the_right_one() {
    let mut pair = pair(show(cookie(b"stales")));
    pair.run_until(done);
    assert_eq!(pair.trace[1].ack(), 1);
    let again = &pair.trace[2..];
    let data = again.iter().find(|trace| trace.segment.payload_len == 7);
    assert_eq!(data.unwrap().at, pair.trace[0].at + ms(2), "at once");
    assert_eq!(pair.a.tcp().fast_open_grant(), Some((right(), 1_460)));
    let info = pair.a.tcp().info();
    assert_eq!(info.fast_open, FastOpenStatus::DataNotAcked);
    assert_eq!((info.timeouts, info.retransmissions), (0, 1));
    assert!(info.cwnd >= 10 * 1_448, "nobody was congested");
}

#[test]
fn a_server_without_it_answers_as_ever() {
    let mut pair = pair(show(right()));
    pair.cookie = None;
    pair.run_until(done);
    assert_eq!(pair.a.tcp().fast_open_grant(), None);
    assert_eq!(
        status(&mut pair),
        [FastOpenStatus::DataNotAcked, FastOpenStatus::Unused]
    );
}

#[test]
fn a_syn_that_is_lost_goes_again_without_option_and_data() {
    for offer in [FastOpenOffer::Ask, show(right())] {
        let mut pair = pair(offer);
        let mut lost = false;
        pair.network
            .drop_if(move |_| !std::mem::replace(&mut lost, true));
        pair.run_until(done);
        let [first, second] = syns(&pair, Side::A)[..] else {
            panic!("{}", pair.story())
        };
        assert!(first.options.fast_open.is_some());
        assert_eq!((second.payload_len, second.options.fast_open), (0, None));
        let info = pair.a.tcp().info();
        assert_eq!(info.fast_open, FastOpenStatus::SynRetransmitted);
        assert_eq!(info.bytes_acked, 7);
    }
}

/// The first SYN was only late: the server has its data, and the client learns so.
#[test]
fn a_syn_that_was_only_late_counts() {
    let mut pair = pair(show(right()));
    pair.network.delay_by(|trace| {
        let late = trace.has(Flags::SYN) && trace.segment.payload_len > 0;
        if late { ms(1_100) } else { ms(200) }
    });
    let second = |trace: &crate::support::Trace| {
        trace.from == Side::A && trace.has(Flags::SYN) && trace.segment.payload_len == 0
    };
    pair.network.drop_if(second);
    pair.run_until(done);
    assert_eq!(status(&mut pair), [FastOpenStatus::Accepted; 2]);
    assert_eq!(syns(&pair, Side::A).len(), 2);
}

#[test]
fn a_syn_ack_that_is_lost_goes_again_before_anything_else() {
    let mut pair = pair(show(cookie(b"pastry")));
    pair.older = Some(cookie(b"pastry"));
    pair.network
        .drop_if(|trace| trace.from == Side::B && trace.at < Instant::ZERO + ms(100_500));
    pair.run_until(done);
    let all = syns(&pair, Side::B);
    assert!(all.len() >= 2, "{}", pair.story());
    assert_eq!(all[0].options.fast_open.unwrap().cookie, Some(right()));
    assert!(all[1..].iter().all(|syn| syn.options.fast_open.is_none()));
    let handshake = pair
        .trace
        .iter()
        .position(|trace| trace.has(Flags::ACK) && trace.from == Side::A);
    let before = &pair.trace[..handshake.unwrap()];
    let data =
        |trace: &&crate::support::Trace| trace.from == Side::B && trace.segment.payload_len > 0;
    assert_eq!(before.iter().filter(data).count(), 1, "{}", pair.story());
    pair.run_for(ms(500));
    let info = pair.b.tcp().info();
    assert_eq!(
        (info.timeouts, info.bytes_acked),
        (1, 6),
        "{}",
        pair.story()
    );
}

#[test]
fn the_syn_holds_what_the_server_takes_in_a_segment() {
    let request = pattern(5_000, 1);
    for (mss, limit) in [(1_460, 1_460), (536, 536), (30, 0)] {
        let offer = FastOpenOffer::Show {
            cookie: right(),
            mss,
        };
        let mut pair = pair_with(Faults::default(), offer, &request, b"");
        pair.run_until(|pair| pair.b.received == request);
        let syn = syns(&pair, Side::A)[0];
        // MSS, SACK with timestamps, window scale, the cookie of eight octets with its padding.
        let options = syn.options.emitted_len();
        if limit > 0 {
            assert_eq!((options, syn.payload_len), (32, limit - 32));
        } else {
            assert_eq!(syn.payload_len, 0);
            assert_eq!(syn.options.fast_open, Some(FastOpen::default()));
        }
        assert_eq!(pair.a.tcp().info().retransmissions, 0);
    }
}

#[test]
fn without_data_a_cookie_is_asked_for() {
    let mut pair = pair_with(Faults::default(), show(right()), b"", b"hello");
    assert!(pair.a.tcp().takes_syn_data());
    assert!(pair.a.tcp().readiness().contains(Readiness::WRITABLE));
    pair.run_until(|pair| pair.a.received == b"hello");
    let syn = syns(&pair, Side::A)[0];
    assert_eq!(syn.options.fast_open, Some(FastOpen::default()));
    assert_eq!(pair.a.tcp().info().fast_open, FastOpenStatus::CookieOnly);
}

#[test]
fn the_longest_cookie_leaves_the_user_timeout_out() {
    let config = Config {
        user_timeout: Some(ms(9_000)),
        user_timeout_option: true,
        ..Config::default()
    };
    let mut pair = Pair::with(&config, &Config::default(), Faults::default());
    pair.a.tcp().fast_open(show(cookie(&[3; 16])));
    pair.a.send(b"request");
    pair.settle();
    let options = syns(&pair, Side::A)[0].options;
    assert_eq!((options.user_timeout, options.emitted_len()), (None, 40));
    assert!(options.fast_open.is_some());
}

#[test]
fn both_call_at_once_with_data() {
    let mut pair = Pair::simultaneous(&Config::default());
    pair.a.tcp().fast_open(show(right()));
    pair.b.tcp().fast_open(show(right()));
    pair.a.send(b"request");
    pair.b.send(b"answer");
    pair.run_until(done);
    // A SYN without an acknowledgment proves nothing: its data is sent again.
    assert_eq!(status(&mut pair), [FastOpenStatus::DataNotAcked; 2]);
    assert!(pair.a.tcp().info().timeouts == 0, "{}", pair.story());
}

#[test]
fn a_part_of_the_data_may_be_acknowledged() {
    let mut lone = Lone::fresh(&plain());
    lone.tcp.fast_open(show(right()));
    lone.send(b"request");
    assert_eq!(lone.sent()[0].bytes, b"request");
    lone.get(-1, 4, SYN_ACK, b"early");
    let sent = lone.sent();
    assert_eq!((&sent[0].bytes[..], sent[0].again), (&b"uest"[..], true));
    assert_eq!(sent[0].segment.seq, ISS_A + 4);
    assert_eq!(
        lone.tcp.recv().expect("data on the SYN-ACK").bytes,
        b"early"
    );
    lone.get(5, 8, Flags::ACK, b"");
    assert_eq!(lone.tcp.info().in_flight, 0);
}

/// A connection that a SYN with data has opened early; its SYN-ACK is sent.
fn early(config: &Config, bytes: &[u8]) -> Lone {
    Lone::called_early(config, bytes)
}

#[test]
fn what_is_read_and_written_before_the_handshake_ends() {
    let mut lone = early(&plain(), b"request");
    assert_eq!(lone.tcp.state(), State::SynReceived);
    assert_eq!(lone.tcp.recv().expect("the SYN's data").bytes, b"request");
    for len in [1_000, 1_000, 500] {
        lone.send(&vec![1; len]);
    }
    let sent = lone.sent();
    assert_eq!(sent.len(), 3, "an initial window is more than that");
    assert_eq!(sent[0].segment.ack, ISS_B + 8);
    // The client's ACK acknowledges a part of it.
    lone.get(7, 1_001, Flags::ACK, b"more");
    assert_eq!(lone.tcp.state(), State::Established);
    assert_eq!(lone.tcp.info().in_flight, 1_500);
    assert_eq!(lone.tcp.recv().expect("data").bytes, b"more");
}

#[test]
fn no_more_than_an_initial_window_goes_before_the_handshake_ends() {
    let mut lone = early(&plain(), b"x");
    let segments = 9;
    for _ in 0..segments {
        lone.send(&[1; 1_000]);
    }
    assert_eq!(lone.tcp.info().cwnd, 10_000);
    // The peer's window, 8000, is less.
    assert_eq!(lone.sent().len(), 8);
}

#[test]
fn the_syn_once_more_is_answered_once_more() {
    let mut lone = early(&plain(), b"request");
    let before = lone.tcp.info().bytes_in;
    let mut syn = segment(-1, 0, Flags::SYN);
    for bytes in [&b"request"[..], b""] {
        syn.payload_len = bytes.len();
        lone.get_segment(&syn, bytes);
        let sent = lone.sent();
        assert_eq!(sent.len(), 1);
        assert_eq!(
            (sent[0].segment.flags, sent[0].segment.ack),
            (SYN_ACK, ISS_B + 8)
        );
    }
    assert_eq!(lone.tcp.info().bytes_in, before, "not delivered twice");
}

#[test]
fn a_reset_leaves_what_was_read() {
    let mut lone = early(&plain(), b"request");
    lone.get(7, 0, Flags::RST, b"");
    assert_eq!(lone.tcp.error(), Some(CloseReason::Reset));
    assert_eq!(lone.tcp.recv().expect("the SYN's data").bytes, b"request");
}

#[test]
fn a_router_ends_it_while_the_handshake_has_not_ended() {
    let error = |kind| IcmpError {
        tuple: tuple(),
        seq: ISS_A,
        kind,
        reporter: tuple().remote,
    };
    let mut lone = early(&plain(), b"request");
    lone.tcp.on_icmp(lone.now, error(IcmpKind::HostUnreachable));
    assert_eq!(lone.tcp.error(), Some(CloseReason::Unreachable));
    assert_eq!(lone.tcp.recv().expect("the SYN's data").bytes, b"request");
}

#[test]
fn closing_early_waits_and_unread_data_resets() {
    let mut lone = early(&plain(), b"request");
    lone.tcp.recv().expect("data");
    lone.send(b"answer");
    lone.tcp.orphan(lone.now);
    let sent = lone.sent();
    assert_eq!(sent.len(), 1, "data at once, FIN later");
    assert_eq!(sent[0].bytes, b"answer");
    lone.get(7, 7, Flags::ACK, b"");
    assert_eq!(lone.tcp.state(), State::FinWait1);
    assert!(lone.sent()[0].segment.flags.contains(Flags::FIN));
    lone.get(7, 8, Flags::ACK | Flags::FIN, b"");
    assert_eq!(lone.tcp.state(), State::TimeWait);

    let mut lone = early(&plain(), b"request");
    lone.tcp.orphan(lone.now);
    let reset = lone.sent()[0].segment;
    assert_eq!(
        (reset.flags, reset.seq),
        (Flags::RST | Flags::ACK, ISS_A + 1)
    );
}

#[test]
fn nobody_at_the_other_end_is_given_up() {
    let mut lone = early(&plain(), b"request");
    lone.send(b"answer");
    lone.sent();
    while lone.tcp.state() == State::SynReceived {
        lone.wait();
        for sent in lone.sent() {
            assert!(
                sent.segment.flags.contains(Flags::SYN),
                "nothing but the SYN-ACK"
            );
        }
    }
    assert_eq!(lone.tcp.error(), Some(CloseReason::TimedOut));
    assert_eq!(lone.tcp.info().timeouts, 6);
}

#[test]
fn a_narrow_path_gets_a_syn_without_data_at_once() {
    let mut lone = Lone::fresh(&plain());
    lone.tcp.fast_open(show(right()));
    lone.send(&[1; 900]);
    assert_eq!(lone.sent()[0].bytes.len(), 900);
    let error = IcmpError {
        tuple: tuple(),
        seq: ISS_A,
        kind: IcmpKind::PacketTooBig { mtu: 600 },
        reporter: tuple().remote,
    };
    lone.tcp.on_icmp(lone.now, error);
    let sent = lone.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(
        (sent[0].segment.flags, sent[0].bytes.len()),
        (Flags::SYN, 0)
    );
    lone.get(-1, 1, SYN_ACK, b"");
    let lens: Vec<usize> = lone.sent().iter().map(|sent| sent.bytes.len()).collect();
    // The SYN-ACK names no segment size.
    assert_eq!(lens, [536, 364]);
}

#[test]
fn a_frame_under_way_is_not_touched() {
    let mut lone = Lone::fresh(&plain());
    lone.tcp.fast_open(show(right()));
    lone.send(b"request");
    lone.sent();
    lone.desk.queued.set(true);
    lone.get(-1, 1, SYN_ACK, b"");
    let sent = lone.sent();
    assert!(sent.iter().all(|sent| sent.bytes.is_empty()));
    assert!(lone.tcp.awaits_completion());
    lone.desk.queued.set(false);
    assert_eq!(lone.sent()[0].bytes, b"request");
}

#[test]
fn no_frame_to_cut_into_asks_for_a_cookie() {
    let mut lone = Lone::fresh(&plain());
    lone.tcp.fast_open(FastOpenOffer::Show {
        cookie: right(),
        mss: 500,
    });
    lone.send(&[1; 1_000]);
    lone.desk.exhausted.set(true);
    let sent = lone.sent();
    assert_eq!(sent[0].bytes.len(), 0);
    assert_eq!(sent[0].segment.options.fast_open, Some(FastOpen::default()));
}

#[test]
fn a_listener_gives_cookies_in_the_form_that_was_asked_in() {
    let listener = Listener::new(plain());
    let mut syn = segment(-1, 0, Flags::SYN);
    syn.payload_len = 3;
    let option = FastOpen {
        cookie: Some(right()),
        experimental: true,
    };
    let answer = FastOpenAnswer::<Vec<u8>>::Grant(option);
    let now = Instant::ZERO;
    let outcome = listener.on_fast_open(now, tuple(), &syn, ISS_A, 0, answer);
    let ListenOutcome::Connection(mut tcp) = outcome else {
        panic!("a SYN makes a connection")
    };
    assert!(tcp.poll_event().is_none(), "not before the handshake's end");
    let sent = tcp.poll_transmit(now).expect("a SYN-ACK").segment;
    assert_eq!(sent.options.fast_open, Some(option));
    assert_eq!(sent.ack, ISS_B + 1, "the data comes again");
}

#[test]
fn a_snapshot_knows_what_is_on_the_syn() {
    for offer in [FastOpenOffer::Ask, show(right()), show(cookie(b"stales"))] {
        let mut pair = pair(offer);
        pair.restore_every = Some(1);
        let before = reborn(pair.a.tcp());
        assert_eq!(before.takes_syn_data(), pair.a.tcp().takes_syn_data());
        pair.run_until(done);
    }
}

#[test]
fn over_bad_networks_everything_arrives_once() {
    for seed in 0..60 {
        let faults = Faults {
            seed,
            loss: 150,
            duplication: 150,
            reordering: 200,
            ..Faults::default()
        };
        let offers = [show(right()), show(cookie(b"stales")), FastOpenOffer::Ask];
        let (request, answer) = (pattern(20_000, seed), pattern(9_000, seed + 1));
        let offer = offers[seed as usize % 3];
        let mut pair = pair_with(faults, offer, &request, &answer);
        pair.restore_every = seed.is_multiple_of(2).then_some(3);
        pair.run_until(|pair| pair.b.received.len() == 20_000 && pair.a.received.len() == 9_000);
        assert!(
            pair.b.received == request && pair.a.received == answer,
            "{seed}"
        );
    }
}
