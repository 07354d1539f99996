//! Stories of whole shards over the in-memory wire, in virtual time. In debug builds every turn checks the frame ledger.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bywash_engine::config::ShardConfig;
use bywash_engine::context::{ConnOptions, Context};
use bywash_engine::defence::SynCookies;
use bywash_engine::memory::ADDRESSES_B;
use bywash_engine::patrol::{Reap, SlowReader};
use bywash_engine::service::{Event, Recv, Service};
use bywash_engine::tcp::CloseReason;
use bywash_engine::xsk::Port;
use support::{Client, Echo, Faults, PORT, World};

const MINUTE: Duration = Duration::from_secs(60);
/// TIME-WAIT lasts a minute.
const UNTIL_CLOSED: Duration = Duration::from_secs(90);

fn world(client: Client, faults: Faults, seed: u64) -> World<Client, Echo> {
    World::new(
        &ShardConfig::default(),
        client,
        Echo::default(),
        faults,
        seed,
    )
}

#[test]
fn what_is_sent_comes_back_and_the_connection_ends() {
    let mut world = world(Client::new(1, 1_000_000, 10_000), Faults::default(), 1);
    assert!(world.run(UNTIL_CLOSED, |client, _| client.is_complete()));
    assert!(!world.pair.a.service().corrupt);
    assert_eq!(world.pair.a.service().closed, [CloseReason::Finished]);
    assert_eq!(world.pair.b.service().accepted, 1);
    let report = world.pair.a.report();
    assert_eq!(report.connections.len(), 0, "the slab is empty again");
    assert_eq!(
        report.frames.tx_free, report.frames.tx_total,
        "every frame came back"
    );
    assert_eq!(report.drops, Default::default());
}

#[test]
fn ipv6_too() {
    let mut client = Client::new(3, 100_000, 1000);
    client.remote.set_ip(ADDRESSES_B[1]);
    let mut world = world(client, Faults::default(), 2);
    assert!(world.run(UNTIL_CLOSED, |client, _| client.is_complete()));
    assert!(!world.pair.a.service().corrupt);
}

#[test]
fn writes_of_one_byte_share_segments() {
    let mut world = world(Client::new(1, 20_000, 1), Faults::default(), 3);
    assert!(world.run(UNTIL_CLOSED, |client, _| client.is_complete()));
    let segments = world.pair.a.report().counters["segments-out"];
    assert!(
        segments < 2000,
        "{segments} segments for 20,000 bytes: small writes were not joined"
    );
}

#[test]
fn loss_and_late_completions_lose_no_byte() {
    for seed in 0..12 {
        let faults = Faults {
            drop: 10 * (seed % 4),
            late_completion: 100 * (seed % 3),
        };
        let mut world = world(Client::new(4, 200_000, 5000), faults, 100 + seed);
        let done = world.run(3 * MINUTE + UNTIL_CLOSED, |client, _| client.is_complete());
        let client = world.pair.a.service();
        assert!(
            done,
            "seed {seed}: {} of 4 done, {:?}",
            client.done, client.closed
        );
        assert!(!client.corrupt, "seed {seed}");
        // The other end has its last ACK and its last completions still before it.
        world.run(MINUTE, |_, _| false);
        let report = world.pair.b.report();
        assert_eq!(report.frames.tx_free, report.frames.tx_total, "seed {seed}");
    }
}

#[test]
fn a_retransmission_goes_when_its_frame_comes_back_and_waits_for_no_timer() {
    // A burst of ten, of which the first is lost; its frame comes back after 100 turns, which take 0.1 s.
    let client = Client::new(1, 14_000, 14_000);
    let mut world = World::losing_late(client, Echo::default(), 2, 100);
    assert!(world.run(UNTIL_CLOSED, |client, _| client.received() == 14_000));
    assert!(world.seconds > 0.09, "the frame was late");
    assert!(
        world.seconds < 0.12,
        "{} s: a timer was waited for",
        world.seconds
    );
}

#[test]
fn five_hundred_connections_at_once() {
    let faults = Faults {
        drop: 2,
        late_completion: 0,
    };
    let mut world = world(Client::new(500, 5000, 700), faults, 5);
    assert!(world.run(4 * MINUTE, |client, _| client.is_complete()));
    assert_eq!(world.pair.b.service().accepted, 500);
}

#[test]
fn a_reader_that_stalls_closes_its_window_and_goes_on_later() {
    let mut client = Client::new(1, 3_000_000, 10_000);
    client.stall_after = Some(100_000);
    client.options = ConnOptions {
        receive_buffer: Some(65_536),
        ..ConnOptions::default()
    };
    let mut world = world(client, Faults::default(), 6);
    assert!(!world.run(Duration::from_secs(20), |client, _| client.is_complete()));
    let stalled_at = world.pair.a.service().received();
    let report = world.pair.a.report();
    assert_eq!(report.connections.len(), 1, "nobody gave up");
    assert!(
        report.connections[0].unread <= 65_536,
        "the window bounds what waits"
    );
    world.pair.a.with_context(|client, cx| client.resume(cx));
    assert!(world.run(MINUTE + UNTIL_CLOSED, |client, _| client.is_complete()));
    assert!(stalled_at < 3_000_000);
    assert!(!world.pair.a.service().corrupt);
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    let mut client = Client::new(2, 10, 10);
    client.remote.set_port(9);
    let mut world = world(client, Faults::default(), 7);
    assert!(world.run(MINUTE, |client, _| client.closed.len() == 2));
    assert_eq!(world.pair.a.service().closed, [CloseReason::Refused; 2]);
    assert_eq!(world.pair.b.report().counters["resets-out"], 2);
    assert_eq!(world.pair.b.report().drops["no-connection"], 2);
}

#[test]
fn a_peer_that_never_answers_times_out() {
    let mut world = world(
        Client::new(1, 10, 10),
        Faults {
            drop: 1000,
            late_completion: 0,
        },
        8,
    );
    assert!(world.run(5 * MINUTE, |client, _| !client.closed.is_empty()));
    assert_eq!(world.pair.a.service().closed, [CloseReason::TimedOut]);
}

#[test]
fn a_full_backlog_drops_syns_and_says_so() {
    let config = ShardConfig {
        backlog: 3,
        syn_cookies: SynCookies::Never,
        ..ShardConfig::default()
    };
    // Three at a time, and six retransmissions of a SYN: twelve get through.
    let client = Client::new(12, 100, 100);
    let mut world = World::new(&config, client, Echo::default(), Faults::default(), 9);
    assert!(world.run(5 * MINUTE, |client, _| client.is_complete()));
    assert!(world.pair.b.report().drops["listen-queue-full"] > 0);
}

#[test]
fn loss_leads_to_no_other_drops_than_those_of_retransmission() {
    let faults = Faults {
        drop: 5,
        late_completion: 50,
    };
    let mut world = world(Client::new(1, 300_000, 3000), faults, 10);
    assert!(world.run(UNTIL_CLOSED + MINUTE, |client, _| client.is_complete()));
    let report = world.pair.b.report();
    for reason in report.drops.keys() {
        assert!(
            // The last two: the FIN was acknowledged twice, the connection ended at the first time.
            [
                "duplicate-data",
                "unacceptable-sequence",
                "closed",
                "no-connection"
            ]
            .contains(&reason.as_str()),
            "loss alone leads to {reason}"
        );
    }
}

#[test]
fn few_transmit_frames_starve_nobody_for_good() {
    // 40 connections of 1 MiB send buffer each want far more frames than there are.
    let config = ShardConfig {
        control_frames: 3900,
        ..ShardConfig::default()
    };
    let client = Client::new(40, 100_000, 50_000);
    let mut world = World::new(&config, client, Echo::default(), Faults::default(), 11);
    assert!(world.run(3 * MINUTE, |client, _| client.is_complete()));
    assert!(
        world.pair.a.report().counters["tx-frames-wanted"] > 0,
        "the test did not starve them"
    );
}

#[test]
fn a_slow_reader_gets_everything_after_the_end() {
    // Both sides have said FIN and the handshake of the end is over before the client reads on.
    let mut client = Client::new(1, 30_000, 10_000);
    client.stall_after = Some(1);
    let mut world = world(client, Faults::default(), 12);
    assert!(!world.run(UNTIL_CLOSED, |client, _| !client.closed.is_empty()));
    world.pair.a.with_context(|client, cx| client.resume(cx));
    assert!(world.run(MINUTE, |client, _| client.is_complete()));
    assert_eq!(world.pair.a.report().connections.len(), 0);
}

/// Greets who comes, and keeps what they say.
#[derive(Default)]
struct Greeter {
    heard: Vec<u8>,
}

impl Service for Greeter {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                cx.listen(PORT, ConnOptions::default()).expect("free");
            }
            Event::Accepted { conn, .. } => {
                assert_eq!(cx.send(conn, b"hello"), Ok(5));
            }
            Event::Readable { conn } => {
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    self.heard.extend_from_slice(frame.bytes());
                }
            }
            _ => {}
        }
    }
}

/// Says goodbye without listening.
#[derive(Default)]
struct Hasty;

impl Service for Hasty {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                let greeter = SocketAddr::new(ADDRESSES_B[0], PORT);
                cx.connect(greeter, ConnOptions::default()).expect("a path");
            }
            Event::Readable { conn } => {
                assert_eq!(cx.send(conn, b"goodbye"), Ok(7));
                cx.close(conn).expect("open");
            }
            _ => {}
        }
    }
}

#[test]
fn a_reset_for_unread_data_does_not_overtake_what_was_sent() {
    let config = ShardConfig::default();
    let mut world = World::new(&config, Hasty, Greeter::default(), Faults::default(), 13);
    assert!(world.run(MINUTE, |_, greeter| greeter.heard == b"goodbye"));
}

/// A listener without a place for half-open connections keeps nothing of a SYN, and everybody gets in.
#[test]
fn cookies_let_everybody_in_when_no_half_open_place_is_left() {
    // With loss, the ACK of a cookie may be lost and data behind it come first: nobody is reset for that.
    for (drop, seed) in [(0, 31), (20, 32), (100, 33), (100, 34), (100, 35)] {
        let faults = Faults {
            drop,
            ..Faults::default()
        };
        let config = ShardConfig {
            backlog: 0,
            ..ShardConfig::default()
        };
        let client = Client::new(40, 20_000, 1000);
        let mut world = World::new(&config, client, Echo::default(), faults, seed);
        assert!(world.run(MINUTE * 4, |client, _| client.is_complete()));
        assert!(!world.pair.a.service().corrupt);
        assert_eq!(world.pair.b.service().accepted, 40);
        let counters = world.pair.b.report().counters;
        assert_eq!(counters["syn-cookies-taken"], 40);
        assert!(counters["syn-cookies-sent"] >= 40);
        assert_eq!(counters["connections-opened"], 40, "SYNs made none");
    }
}

/// Who closes first has TIME-WAIT: its service knows the end at once, and only a rest is kept for a minute.
#[test]
fn time_wait_is_kept_apart_from_connections() {
    let config = ShardConfig::default();
    let client = Client::new(300, 100, 100);
    let mut world = World::new(&config, client, Echo::default(), Faults::default(), 41);
    assert!(world.run(Duration::from_secs(5), |client, _| client.is_complete()));
    world.run(Duration::from_secs(1), |_, _| false);
    let (a, b) = (world.pair.a.report(), world.pair.b.report());
    assert_eq!((a.connections.len(), b.connections.len()), (0, 0));
    assert_eq!(a.time_waits + b.time_waits, 300);
    world.run(MINUTE + Duration::from_secs(1), |_, _| false);
    let (a, b) = (world.pair.a.report(), world.pair.b.report());
    assert_eq!(a.time_waits + b.time_waits, 0);
}

/// Five local ports, five hundred connections: those in TIME-WAIT give way, since timestamps tell old from new (RFC 6191).
#[test]
fn ports_in_time_wait_are_used_again() {
    let config = ShardConfig {
        local_ports: 61440..=61444,
        ..ShardConfig::default()
    };
    let (mut opened, mut refused) = (0, 0);
    let mut world = World::new(
        &config,
        Client::new(0, 50, 50),
        Echo::default(),
        Faults::default(),
        42,
    );
    for _ in 0..20 {
        world.pair.a.with_context(|client, cx| {
            for _ in 0..5 {
                match client.open(cx) {
                    Ok(()) => opened += 1,
                    Err(_) => refused += 1,
                }
            }
        });
        // A second, so that the timestamp clock has moved on.
        world.run(Duration::from_millis(1500), |_, _| false);
    }
    assert_eq!((opened, refused), (100, 0));
    assert_eq!(world.pair.a.service().done, 100);
}

/// A table of a fixed size: the oldest goes, and is counted.
#[test]
fn time_waits_are_bounded() {
    let config = ShardConfig {
        max_time_waits: 10,
        ..ShardConfig::default()
    };
    let mut world = World::new(
        &config,
        Client::new(40, 50, 50),
        Echo::default(),
        Faults::default(),
        43,
    );
    assert!(world.run(Duration::from_secs(5), |client, _| client.is_complete()));
    world.run(Duration::from_secs(1), |_, _| false);
    let (a, b) = (world.pair.a.report(), world.pair.b.report());
    assert!(a.time_waits <= 10 && b.time_waits <= 10);
    assert_eq!(
        a.counters["time-waits-cut"] + b.counters["time-waits-cut"],
        30
    );
}

fn reaping(reap: Reap) -> ShardConfig {
    ShardConfig {
        reap,
        ..ShardConfig::default()
    }
}

/// A peer that takes nothing: TCP would probe it for ever.
#[test]
fn slow_readers_are_reset_by_policy_and_others_are_not() {
    let slow = SlowReader {
        bytes: 10_000,
        period: Duration::from_secs(20),
    };
    let config = reaping(Reap {
        slow: Some(slow),
        ..Reap::default()
    });
    let mut client = Client::new(3, 3_000_000, 100_000);
    client.stall_after = Some(50_000);
    let mut world = World::new(&config, client, Echo::default(), Faults::default(), 51);
    world.run(MINUTE * 2, |client, _| client.closed.len() == 3);
    // Either end may lose its patience first: an echo server that cannot send does not read either.
    assert_eq!(world.pair.a.service().closed.len(), 3);
    let reports = [world.pair.a.report(), world.pair.b.report()];
    let reaped = reports.iter().map(|one| one.counters["reaped-slow-reader"]);
    assert!(reaped.sum::<u64>() >= 3);

    // Without a stall, and without the policy, nobody is.
    for (reap, stall, reaped) in [(config.reap, None, 0), (Reap::default(), Some(50_000), 0)] {
        let mut client = Client::new(3, 3_000_000, 100_000);
        client.stall_after = stall;
        let config = reaping(reap);
        let mut world = World::new(&config, client, Echo::default(), Faults::default(), 52);
        world.run(MINUTE * 2, |client, _| client.is_complete());
        assert_eq!(world.pair.a.service().is_complete(), stall.is_none());
        assert_eq!(world.pair.b.report().counters["reaped-slow-reader"], reaped);
        assert_eq!(world.pair.a.service().connected, 3);
    }
}

#[test]
fn idle_connections_are_reset_by_policy() {
    let config = reaping(Reap {
        idle: Some(Duration::from_secs(30)),
        ..Reap::default()
    });
    let mut client = Client::new(5, 1_000_000, 100_000);
    client.stall_after = Some(0);
    let mut world = World::new(&config, client, Echo::default(), Faults::default(), 53);
    world.run(Duration::from_secs(25), |_, _| false);
    assert_eq!(world.pair.b.report().counters["reaped-idle"], 0);
    world.run(MINUTE * 3, |client, _| client.closed.len() == 5);
    let reports = [world.pair.a.report(), world.pair.b.report()];
    let reaped: u64 = reports.iter().map(|one| one.counters["reaped-idle"]).sum();
    assert!(reaped >= 5, "{reaped}");
    assert!(reports.iter().all(|one| one.connections.is_empty()));
}

#[test]
fn a_paced_connection_takes_its_time_and_not_more() {
    let mut config = ShardConfig::default();
    config.tcp.max_pacing_rate = Some(1_000_000);
    let client = Client::new(1, 2_000_000, 10_000);
    let mut world = World::new(&config, client, Echo::default(), Faults::default(), 14);
    assert!(world.run(UNTIL_CLOSED, |client, _| client.received() == 2_000_000));
    // There and back overlap; turns are a millisecond apart when nothing happens, which costs a little of the rate.
    assert!(
        (1.9..2.6).contains(&world.seconds),
        "{} s for 2 MB at 1 MB/s",
        world.seconds
    );
    let report = world.pair.a.report();
    let sender = &report.connections[0].sender;
    assert_eq!(
        (&*sender.congestion, sender.pacing_rate),
        ("cubic", Some(1_000_000))
    );
}

#[test]
fn every_algorithm_carries_a_stream_and_ecn_is_agreed() {
    use bywash_engine::tcp::{CongestionControl, EcnMode};
    for congestion in CongestionControl::ALL {
        let mut config = ShardConfig::default();
        config.tcp.congestion = congestion;
        config.tcp.ecn = EcnMode::On;
        let client = Client::new(2, 1_000_000, 10_000);
        let faults = Faults {
            drop: 3,
            late_completion: 10,
        };
        let mut world = World::new(&config, client, Echo::default(), faults, 15);
        assert!(world.run(MINUTE, |client, _| client.connected == 2));
        for conn in world.pair.a.report().connections {
            assert_eq!(conn.sender.congestion, congestion.name());
            assert!(conn.sender.ecn, "{congestion}");
        }
        assert!(
            world.run(UNTIL_CLOSED + MINUTE, |client, _| client.is_complete()),
            "{congestion}"
        );
        assert!(!world.pair.a.service().corrupt, "{congestion}");
    }
}
