//! VLANs: an engine serves those that it is told of, by the addresses, routes and neighbours of their devices; untagged traffic
//! and other VLANs go on as before.
//!
//! The kernel's part of 802.1Q is emulated ([`bywash_tests::vlans`]), since not every kernel has it; what finds the kernel's own
//! VLAN devices is tested on their netlink messages (`bywash-engine`, `host::vlans`).

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bywash::{EngineConfig, Stack, VlanChoice, WantedVlan};
use bywash_link::Tags;
use bywash_tests::kernel::{self, noise};
use bywash_tests::{Bed, LIMIT, Shape, Side, Vlans, bywash as command};

/// Where we listen, where the kernel does, and a port that is nobody's but the kernel's.
const OURS: u16 = 7000;
const THEIRS: u16 = 7001;
const KERNELS: u16 = 7002;
const BYTES: usize = 300_000;

/// 5, s9 and s9.7, which the engine is told of, and 6, which it is not.
fn lab(bed: &Bed) -> (Vlans, Vec<[Side; 2]>) {
    let wanted = [
        (Tags::customer(5), 1500),
        (Tags::service(9), 1496),
        (Tags::stacked(9, 7), 1492),
        (Tags::customer(6), 1500),
    ];
    Vlans::over(bed, &wanted)
}

fn config(bed: &Bed) -> EngineConfig {
    let mut config = EngineConfig::new(bed.host.device.clone());
    let wanted = [("5", "bwv0"), ("s9", "bwv1"), ("s9.7", "bwv2")];
    config.vlans = VlanChoice::These(
        wanted
            .iter()
            .map(|(vlan, device)| WantedVlan {
                vlan: vlan.parse().expect("a VLAN"),
                device: Some((*device).to_owned()),
            })
            .collect(),
    );
    config
}

/// Sends `out` and answers what has come back by the end.
fn exchange<S>(stream: &S, out: &[u8], shut: impl Fn(&S) + Sync) -> Vec<u8>
where
    for<'a> &'a S: Read + Write,
    S: Sync,
{
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = stream;
            writer.write_all(out).expect("it takes all");
            shut(stream);
        });
        let mut back = Vec::new();
        let mut reader = stream;
        reader.read_to_end(&mut back).expect("an end in order");
        back
    })
}

fn both(ours: &bywash::TcpStream, theirs: &TcpStream, what: &str) {
    let (out, back) = (noise(1, BYTES), noise(2, BYTES));
    ours.set_read_timeout(Some(LIMIT));
    std::thread::scope(|scope| {
        let kernel = scope.spawn(|| {
            exchange(theirs, &back, |stream| {
                stream.shutdown(Shutdown::Write).expect("it is open");
            })
        });
        let arrived = exchange(ours, &out, |stream| {
            stream.shutdown(Shutdown::Write).expect("it is open");
        });
        assert!(arrived == back, "{what}: to us");
        assert!(
            kernel.join().expect("no panic") == out,
            "{what}: to the kernel"
        );
    });
}

/// A connection opened by each end, with data both ways, and whether segments are as large as the VLAN's MTU lets them be.
fn talk(stack: &Stack, listener: &bywash::TcpListener, ends: &[Side; 2], v6: bool) {
    let [host, peer] = ends;
    let what = format!("{} {}", host.device, if v6 { "IPv6" } else { "IPv4" });
    let at = SocketAddr::new(host.address(v6), OURS);
    let theirs = peer.inside(move || kernel::connect(at)).expect("we listen");
    let (ours, _) = listener.accept().expect("the kernel has connected");
    both(&ours, &theirs, &what);

    let at = SocketAddr::new(peer.address(v6), THEIRS);
    let server = peer
        .inside(move || TcpListener::bind(at))
        .expect("a free port");
    let ours = stack
        .connect(at)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let (theirs, from) = server.accept().expect("we have connected");
    assert_eq!(
        from.ip(),
        host.address(v6),
        "{what}: the VLAN's own address"
    );
    both(&ours, &theirs, &what);
}

/// A connection between the two kernels, on a port that is not ours.
fn kernels(host: &Side, peer: &Side, address: IpAddr) {
    let at = SocketAddr::new(address, KERNELS);
    let server = host
        .inside(move || TcpListener::bind(at))
        .expect("a free port");
    let client = peer
        .inside(move || kernel::connect(at))
        .expect("the kernel listens");
    let (served, _) = server.accept().expect("it has connected");
    (&client).write_all(b"hello").expect("it takes five bytes");
    client.shutdown(Shutdown::Write).expect("it is open");
    let mut text = String::new();
    (&served)
        .read_to_string(&mut text)
        .expect("an end in order");
    assert_eq!(text, "hello");
}

#[test]
fn vlans_are_served_both_ways_and_what_is_not_ours_goes_on() {
    let bed = Bed::new(Shape::default());
    let (_vlans, ends) = lab(&bed);
    let config = config(&bed);
    let stack = bed
        .host
        .inside(move || Stack::start(config))
        .expect("it starts");
    let listener = stack.listen(OURS).expect("a free port");
    let untagged = [bed.host.clone(), bed.peer.clone()];
    for ends in ends[..3].iter().chain([&untagged]) {
        for v6 in [false, true] {
            talk(&stack, &listener, ends, v6);
            // The VLAN's other ports, and ping.
            kernels(&ends[0], &ends[1], ends[0].address(v6));
        }
        ends[1]
            .run("ping", &["-c1", "-W5", &ends[0].v4.to_string()])
            .ok();
    }
    // A VLAN that nobody has told us of: all of its ports are the kernel's.
    let [host, peer] = &ends[3];
    kernels(host, peer, host.v4.into());
    let at = SocketAddr::new(host.v4.into(), OURS);
    let refused = peer.inside(move || kernel::connect(at)).map(drop);
    let refused = refused.expect_err("the kernel has no such service");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    drop(listener);
    stack.stop().expect("a clean end");
}

#[test]
fn addresses_of_a_vlan_come_and_go_and_so_does_its_device() {
    let bed = Bed::new(Shape::default());
    let (_vlans, ends) = lab(&bed);
    let [host, peer] = &ends[0];
    let config = config(&bed);
    let stack = bed
        .host
        .inside(move || Stack::start(config))
        .expect("it starts");
    let _listener = stack.listen(OURS).expect("a free port");
    let connects = |address: IpAddr| {
        let at = SocketAddr::new(address, OURS);
        peer.inside(move || kernel::connect(at)).map(drop)
    };
    // The kernel tells of changes when it likes: soon.
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let deadline = Instant::now() + LIMIT;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    connects(host.v4.into()).expect("served");
    host.run("ip", &["address", "add", "10.89.0.9/24", "dev", "bwv0"])
        .ok();
    let added = "10.89.0.9".parse().expect("an address");
    until("a new address is served", &|| connects(added).is_ok());
    host.run("ip", &["address", "del", "10.89.0.9/24", "dev", "bwv0"])
        .ok();
    // The kernel of the host answers for nobody there any more.
    host.run("ip", &["link", "set", "bwv0", "down"]).ok();
    host.run("ip", &["link", "set", "bwv0", "up"]).ok();
    host.run(
        "ip",
        &["address", "replace", "fd89::1/64", "dev", "bwv0", "nodad"],
    )
    .ok();
    until("it is served after down and up", &|| {
        connects(host.v6.into()).is_ok()
    });
    let remote = SocketAddr::new(peer.v4.into(), THEIRS);
    let server = peer
        .inside(move || TcpListener::bind(remote))
        .expect("a free port");
    until("we connect after down and up", &|| {
        stack.connect(remote).is_ok()
    });
    drop(server);
    stack.stop().expect("a clean end");
}

#[test]
fn the_command_shows_its_vlans_and_refuses_what_is_not_there() {
    let bed = Bed::new(Shape::default());
    let (_vlans, ends) = lab(&bed);
    let server = command::serve(
        &bed.host,
        &["echo", "-p", "7000", "--vlan", "5=bwv0,s9.7=bwv2"],
    );
    let [host, peer] = &ends[2];
    let at = SocketAddr::new(host.v6.into(), OURS);
    let mut stream = peer.inside(move || kernel::connect(at)).expect("we listen");
    stream.write_all(b"ping").expect("it takes four bytes");
    let mut back = [0; 4];
    stream.read_exact(&mut back).expect("an echo");
    assert_eq!(&back, b"ping");
    let report = command::ss(&server);
    let shown: Vec<_> = report["vlans"]
        .as_array()
        .expect("VLANs")
        .iter()
        .map(|one| {
            (
                one["vlan"].as_str(),
                one["device"].as_str(),
                one["mtu"].as_u64(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (Some("5"), Some("bwv0"), Some(1500)),
            (Some("s9.7"), Some("bwv2"), Some(1492)),
        ]
    );
    let conn = &report["shards"][0]["connections"][0];
    assert_eq!(
        (&conn["vlan"], &conn["mss"]),
        (&"s9.7".into(), &1420.into()),
        "{report:#}"
    );
    let text = command::command(&bed.host, &["ss"]);
    let text = bywash_tests::process::Running::start(&mut { text })
        .wait(LIMIT)
        .stdout;
    assert!(
        text.contains("vlan s9.7 (bwv2, 10.89.2.1 fd89:2::1): link up, MTU 1492"),
        "{text}"
    );
    assert!(text.contains("[fd89:2::1]:7000 vlan s9.7"), "{text}");
    drop(stream);
    command::end(server);

    for (list, status, sentence) in [
        ("5", 1, "there is no VLAN device for vlan 5"),
        ("5=nosuch0", 1, "there is no interface nosuch0 for vlan 5"),
        ("5=bwv0,6=bwv0", 1, "an interface one VLAN"),
        ("5,5", 2, "names 5 twice"),
        ("4095", 2, "of 1 to 4094"),
        ("all,5", 2, "drop the others"),
    ] {
        let arguments = ["echo", "-p", "7000", "--vlan", list];
        let refused = command::start(&bed.host, &arguments).wait(LIMIT);
        assert_eq!(refused.status.code(), Some(status), "{list}: {refused:#?}");
        assert!(
            refused.stderr.contains(sentence),
            "{list}: {}",
            refused.stderr
        );
    }
}
