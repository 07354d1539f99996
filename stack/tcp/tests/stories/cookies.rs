//! SYN cookies: the listener keeps nothing, and the connection comes out all the same.

use std::hash::{DefaultHasher, Hash, Hasher};

use bywash_tcp::time::Instant;
use bywash_tcp::{Config, Connection, CookieInput, Listener, State};
use bywash_wire::{Flags, Segment, SeqNumber, Tuple};

use crate::support::{ISS_A, ms, tuple};

const START: u64 = 1_000_000_000_000;
const OFFSET: u32 = 77;

fn start() -> Instant {
    Instant::from_nanos(START)
}

fn keyed(key: u64, tuple: Tuple) -> impl Fn(CookieInput) -> u32 {
    move |input| {
        let mut hasher = DefaultHasher::new();
        (key, tuple, input).hash(&mut hasher);
        hasher.finish() as u32
    }
}

/// A handshake with a listener that keeps nothing: the client, and the ACK that completes it.
fn handshake(config: &Config, server: &Config) -> (Connection<Vec<u8>>, Segment, Segment) {
    let mut client = Connection::connect(config, tuple(), ISS_A, 0, start());
    let syn = client.poll_transmit(start()).expect("a SYN").segment;
    let here = tuple().reversed();
    let listener = Listener::new(server.clone());
    let reply = listener.cookie_reply::<Vec<u8>>(start(), here, &syn, OFFSET, keyed(1, here));
    let later = start() + ms(30);
    client.on_segment(later, &reply, None);
    let ack = client.poll_transmit(later).expect("an ACK").segment;
    (client, reply, ack)
}

fn completed(ack: &Segment, server: &Config, after: u64, key: u64) -> Option<Connection<Vec<u8>>> {
    let here = tuple().reversed();
    let now = Instant::from_nanos(START + after * 1_000_000_000);
    Listener::new(server.clone()).on_cookie_ack(now, here, ack, OFFSET, keyed(key, here))
}

#[test]
fn everything_the_syn_offered_comes_back() {
    let config = Config::default();
    let (client, reply, ack) = handshake(&config, &config);
    assert_eq!(reply.flags, Flags::SYN | Flags::ACK);
    assert_eq!(client.state(), State::Established);
    let server = completed(&ack, &config, 1, 1).expect("a cookie of ours");
    let (there, here) = (client.info(), server.info());
    assert_eq!(server.state(), State::Established);
    assert!(here.sack && here.timestamps);
    assert_eq!(here.mss, there.mss);
    assert_eq!(
        (here.snd_wscale, here.rcv_wscale),
        (there.rcv_wscale, there.snd_wscale)
    );
    assert_eq!(here.rtt_ns, 0, "the round trip is not known");
}

#[test]
fn data_flows_over_a_connection_that_a_cookie_made() {
    let config = Config::default();
    let (mut client, _, ack) = handshake(&config, &config);
    let mut server = completed(&ack, &config, 0, 1).expect("a cookie of ours");
    let now = start() + ms(40);
    // The segment that came with the cookie is given to the connection as well.
    server.on_segment(now, &ack, None);
    client.send(vec![5; 1000]).expect("room");
    let mut sent = client.poll_transmit(now).expect("data");
    let bytes = sent.payload.take().expect("data").clone();
    let segment = sent.segment;
    server.on_segment(now, &segment, Some(bytes));
    assert_eq!(server.recv(), Some(vec![5; 1000]));
    server.send(vec![6; 10]).expect("room");
    let mut sent = server.poll_transmit(now).expect("data");
    let bytes = sent.payload.take().expect("data").clone();
    let segment = sent.segment;
    client.on_segment(now, &segment, Some(bytes));
    assert_eq!(client.recv(), Some(vec![6; 10]));
}

#[test]
fn without_timestamps_nothing_but_the_size_is_kept() {
    let server = Config::default();
    let config = Config {
        timestamps: false,
        mss: 1400,
        ..Config::default()
    };
    let (client, reply, ack) = handshake(&config, &server);
    assert_eq!(reply.options.window_scale, None);
    assert!(!reply.options.sack_permitted);
    let made = completed(&ack, &server, 1, 1)
        .expect("a cookie of ours")
        .info();
    assert!(!made.sack && !made.timestamps);
    assert_eq!(
        made.mss, 1360,
        "the largest size that a cookie tells below 1400"
    );
    assert_eq!(client.info().rcv_wscale, 0);
}

#[test]
fn cookies_grow_old() {
    let config = Config::default();
    let (_, _, ack) = handshake(&config, &config);
    assert!(completed(&ack, &config, 60, 1).is_some());
    assert!(completed(&ack, &config, 128, 1).is_none());
    // The time in the cookie has gone around once.
    assert!(completed(&ack, &config, 64 * 32, 1).is_none());
}

#[test]
fn what_is_not_our_cookie_makes_no_connection() {
    let config = Config::default();
    let (_, _, ack) = handshake(&config, &config);
    assert!(completed(&ack, &config, 0, 2).is_none(), "another key");
    for change in [
        |ack: &mut Segment| ack.ack += 1,
        |ack: &mut Segment| ack.ack = SeqNumber::new(ack.ack.raw() ^ 1 << 25),
        |ack: &mut Segment| ack.ack = SeqNumber::new(ack.ack.raw() ^ 1 << 28),
        |ack: &mut Segment| ack.seq += 1,
        |ack: &mut Segment| ack.flags = Flags::SYN | Flags::ACK,
        |ack: &mut Segment| ack.flags = Flags::RST | Flags::ACK,
        |ack: &mut Segment| ack.flags = Flags::PSH,
    ] {
        let mut other = ack;
        change(&mut other);
        assert!(completed(&other, &config, 0, 1).is_none(), "{other:?}");
    }
}
