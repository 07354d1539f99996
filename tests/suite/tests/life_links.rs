//! The device changes under a running engine: link, MTU, addresses, routes, neighbours, MAC addresses, its very existence.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bywash_tests::bed::ip;
use bywash_tests::kernel;
use bywash_tests::process::Running;
use bywash_tests::remains::Traces;
use bywash_tests::{Bed, LIMIT, Shape, Side, bywash};
use serde_json::Value;

const PORT: u16 = 7;

fn serve(bed: &Bed) -> Running {
    bywash::serve(&bed.host, &["echo", "-p", "7"])
}

/// A connection to the server, opened and used once.
#[track_caller]
fn open(from: &Side, to: impl Into<IpAddr>) -> TcpStream {
    let to = SocketAddr::new(to.into(), PORT);
    let stream = from.inside(move || {
        let mut stream = kernel::connect(to)?;
        kernel::converse(&mut stream, 1, 3, 3000)?;
        Ok::<_, std::io::Error>(stream)
    });
    stream.unwrap_or_else(|error| panic!("echo by {to}: {error}"))
}

/// Uses it again. What was lost is sent again, so this waits for retransmissions.
#[track_caller]
fn goes_on(stream: &mut TcpStream, why: &str) {
    kernel::converse(stream, 2, 3, 3000).unwrap_or_else(|error| panic!("after {why}: {error}"));
}

/// `ip` in a side's namespace.
#[track_caller]
fn set(side: &Side, arguments: &[&str]) {
    ip(&[&["-n", side.namespace.as_str()], arguments].concat());
}

/// Asks `ss` until it holds.
#[track_caller]
fn until(engine: &Running, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let report = bywash::ss(engine);
        if holds(&report) {
            return report;
        }
        assert!(
            Instant::now() < deadline,
            "not within {LIMIT:?}: {what}: {report:#}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends it with status 0; the log may have told of what the test did.
#[track_caller]
fn end(server: Running) {
    let finished = server.end_by(nix::sys::signal::Signal::SIGTERM, LIMIT).ok();
    assert!(!finished.stderr.contains("panicked"), "{finished:#?}");
}

fn mss(report: &Value) -> Vec<u64> {
    let connections = report["shards"][0]["connections"]
        .as_array()
        .expect("a list");
    connections
        .iter()
        .filter_map(|one| one["mss"].as_u64())
        .collect()
}

#[test]
fn a_link_that_goes_down_and_comes_back_keeps_its_connections() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    let server = serve(&bed);
    let program = traces.present();
    let mut stream = open(&bed.peer, bed.host.v4);
    for round in 0..2 {
        set(&bed.host, &["link", "set", &bed.host.device, "down"]);
        until(&server, "the link is down", |report| {
            report["link"] == "down"
        });
        stream
            .write_all(b"into the void")
            .expect("the kernel's buffer takes it");
        set(&bed.host, &["link", "set", &bed.host.device, "up"]);
        until(&server, "the link is up", |report| report["link"] == "up");
        let mut answer = [0; 13];
        stream
            .read_exact(&mut answer)
            .expect("what was sent meanwhile");
        assert_eq!(&answer, b"into the void");
        goes_on(&mut stream, &format!("round {round} of down and up"));
        kernel::echo_once(&bed.peer, SocketAddr::new(bed.host.v4.into(), PORT));
    }
    // The peer's end down is a carrier lost.
    set(&bed.peer, &["link", "set", &bed.peer.device, "down"]);
    until(&server, "no carrier", |report| report["link"] == "down");
    set(&bed.peer, &["link", "set", &bed.peer.device, "up"]);
    until(&server, "carrier", |report| report["link"] == "up");
    goes_on(&mut stream, "a lost carrier");
    end(server);
    traces.gone(&[program]);
}

#[test]
fn segments_follow_the_mtu() {
    let bed = Bed::new(Shape::default());
    let server = serve(&bed);
    let mut old = open(&bed.peer, bed.host.v4);
    let before = mss(&bywash::ss(&server));
    assert!(
        before.iter().all(|mss| (1400..=1460).contains(mss)),
        "{before:?}"
    );
    for (mtu, most) in [("1000", 960), ("700", 660)] {
        // Both ends of the link, as it has to be: longer frames than its own MTU are dropped by either.
        for side in [&bed.peer, &bed.host] {
            set(side, &["link", "set", &side.device, "mtu", mtu]);
        }
        until(
            &server,
            "the MTU is known and the segments are shorter",
            |report| {
                report["mtu"] == mtu.parse::<u64>().expect("a number")
                    && mss(report).iter().all(|mss| *mss <= most)
            },
        );
        goes_on(&mut old, "a smaller MTU");
        let mut new = open(&bed.peer, bed.host.v4);
        goes_on(&mut new, "a smaller MTU, a new connection");
    }
    // Larger than at the start, within what a chunk of 2048 holds: only new connections use it.
    set(&bed.peer, &["link", "set", &bed.peer.device, "mtu", "1700"]);
    set(&bed.host, &["link", "set", &bed.host.device, "mtu", "1700"]);
    until(&server, "the MTU is known", |report| report["mtu"] == 1700);
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut new = open(&bed.peer, bed.host.v4);
        if mss(&bywash::ss(&server)).iter().any(|mss| *mss > 1460) {
            goes_on(&mut new, "a larger MTU");
            break;
        }
        assert!(Instant::now() < deadline, "no segment grows with the MTU");
    }
    // Beyond the chunk: told of, and served with what there is.
    set(&bed.peer, &["link", "set", &bed.peer.device, "mtu", "3000"]);
    set(&bed.host, &["link", "set", &bed.host.device, "mtu", "3000"]);
    until(&server, "the MTU is known", |report| report["mtu"] == 3000);
    let mut new = open(&bed.peer, bed.host.v4);
    goes_on(&mut new, "an MTU beyond the chunk");
    goes_on(&mut old, "an MTU beyond the chunk");
    let deadline = Instant::now() + LIMIT;
    while !server
        .stderr()
        .contains("beyond what the frames of this engine hold")
    {
        assert!(
            Instant::now() < deadline,
            "not told of: {}",
            server.stderr()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    end(server);
}

#[test]
fn connections_of_a_removed_address_wait_for_it() {
    let bed = Bed::new(Shape::default());
    let server = serve(&bed);
    let extra: IpAddr = "10.88.0.77".parse().expect("an address");
    let (device, with_length) = (bed.host.device.as_str(), "10.88.0.77/24");
    set(&bed.host, &["address", "add", with_length, "dev", device]);
    let shows = |report: &Value| report["addresses"].to_string().contains("10.88.0.77");
    until(&server, "the new address", shows);
    let mut kept = open(&bed.peer, extra);
    set(&bed.host, &["address", "del", with_length, "dev", device]);
    until(&server, "the address is gone", |report| !shows(report));
    // New ones are refused: nobody has the address.
    let to = SocketAddr::new(extra, PORT);
    let knock = bed
        .peer
        .inside(move || TcpStream::connect_timeout(&to, Duration::from_millis(300)));
    assert!(knock.is_err(), "somebody answers for a removed address");
    kept.write_all(b"are you there?")
        .expect("the kernel's buffer takes it");
    // Others are not concerned.
    kernel::echo_once(&bed.peer, SocketAddr::new(bed.host.v4.into(), PORT));
    set(&bed.host, &["address", "add", with_length, "dev", device]);
    let mut answer = [0; 14];
    kept.read_exact(&mut answer)
        .expect("what was sent meanwhile");
    goes_on(&mut kept, "the address's return");
    end(server);
}

#[test]
fn a_connection_follows_its_route() {
    let bed = Bed::new(Shape::default());
    // The peer has an address beyond the link, by way of its own or of nobody's.
    let far = "10.99.0.1";
    set(&bed.peer, &["address", "add", "10.99.0.1/32", "dev", "lo"]);
    let (right, wrong) = (bed.peer.v4.to_string(), "10.88.0.99");
    let route = |gateway: &str| {
        set(
            &bed.host,
            &["route", "replace", "10.99.0.1/32", "via", gateway],
        );
    };
    route(&right);
    let server = serve(&bed);
    let to = SocketAddr::new(bed.host.v4.into(), PORT);
    let from = SocketAddr::new(far.parse().expect("an address"), 0);
    let mut stream = bed.peer.inside(move || {
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Inet,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::empty(),
            None,
        )
        .expect("a socket");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        let address = |address| nix::sys::socket::SockaddrStorage::from(address);
        nix::sys::socket::bind(fd, &address(from)).expect("an address of ours");
        nix::sys::socket::connect(fd, &address(to)).expect("a connection");
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(LIMIT)).expect("a socket");
        kernel::converse(&mut stream, 1, 3, 3000).expect("an echo");
        stream
    });
    route(wrong);
    // The old way serves until the new gateway has turned out to be nobody.
    until(&server, "the path is given up", |report| {
        report["shards"][0]["counters"]["paths-lost"] == 1
    });
    stream
        .write_all(b"by which way?")
        .expect("the kernel's buffer takes it");
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("a socket");
    let mut answer = [0; 13];
    stream
        .read_exact(&mut answer)
        .expect_err("the answer went by a gateway that is not there");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    route(&right);
    stream
        .read_exact(&mut answer)
        .expect("the answer by the right way");
    assert_eq!(&answer, b"by which way?");
    goes_on(&mut stream, "two changes of its route");
    end(server);
}

#[test]
fn neighbours_and_we_may_change_the_mac_address() {
    let bed = Bed::new(Shape::default());
    let server = serve(&bed);
    let mut stream = open(&bed.peer, bed.host.v4);
    let mut v6 = open(&bed.peer, bed.host.v6);
    set(
        &bed.peer,
        &[
            "link",
            "set",
            &bed.peer.device,
            "address",
            "02:00:00:00:77:01",
        ],
    );
    goes_on(&mut stream, "the neighbour's new MAC address");
    goes_on(&mut v6, "the neighbour's new MAC address");
    set(
        &bed.host,
        &[
            "link",
            "set",
            &bed.host.device,
            "address",
            "02:00:00:00:77:02",
        ],
    );
    until(&server, "our new MAC address", |report| {
        report["mac"] == "02:00:00:00:77:02"
    });
    goes_on(&mut stream, "our new MAC address");
    goes_on(&mut v6, "our new MAC address");
    // Gone from the table, and back.
    set(&bed.host, &["neighbour", "flush", "dev", &bed.host.device]);
    goes_on(&mut stream, "a flushed neighbour table");
    let peer = bed.peer.v4.to_string();
    let entry = |mac: &str| {
        set(
            &bed.host,
            &[
                "neighbour",
                "replace",
                &peer,
                "lladdr",
                mac,
                "dev",
                &bed.host.device,
                "nud",
                "permanent",
            ],
        );
    };
    entry("02:00:00:00:99:99");
    stream
        .write_all(b"where are you?")
        .expect("the kernel's buffer takes it");
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("a socket");
    let mut answer = [0; 14];
    stream
        .read_exact(&mut answer)
        .expect_err("the answer went to another MAC address");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    entry("02:00:00:00:77:01");
    stream
        .read_exact(&mut answer)
        .expect("the answer to the right one");
    goes_on(&mut stream, "the neighbour's return");
    end(server);
}

#[test]
fn an_engine_whose_device_is_deleted_ends_and_says_why() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    let server = serve(&bed);
    let program = traces.present();
    let _stream = open(&bed.peer, bed.host.v4);
    set(&bed.host, &["link", "delete", &bed.host.device]);
    let finished = server.wait(LIMIT);
    assert_eq!(finished.status.code(), Some(1), "{finished:#?}");
    let last = finished.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("is gone"), "{finished:#?}");
    assert!(!finished.stderr.contains("panicked"), "{finished:#?}");
    traces.gone_with_device(&[program]);
}

#[test]
fn an_engine_outlives_the_name_of_its_namespace() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    let server = serve(&bed);
    let program = traces.present();
    let mut stream = open(&bed.peer, bed.host.v4);
    ip(&["netns", "delete", &bed.host.namespace]);
    // The namespace lives as long as somebody is in it.
    goes_on(&mut stream, "the end of the namespace's name");
    end(server);
    traces.gone_with_device(&[program]);
    // With the last inhabitant the namespace goes, and the pair with it.
    let deadline = Instant::now() + LIMIT;
    let there = || {
        bed.peer
            .run("ip", &["link", "show", &bed.peer.device])
            .status
            .success()
    };
    while there() {
        assert!(
            Instant::now() < deadline,
            "somebody is still in the namespace"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
