//! `--strict`: every connection stands in XDP's flow table from its first segment to its last, and strangers get no further.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bywash::{EngineConfig, Stack};
use bywash_tests::frames::{self, Segment, Wire, flags};
use bywash_tests::{Bed, LIMIT, Shape, bywash as command, kernel};
use serde_json::Value;

const PORT: u16 = 7;
const FORGED: u64 = 50;

fn count(report: &Value, counter: &str) -> u64 {
    report["xdp"][counter].as_u64().expect("a counter")
}

/// Segments of connections that there never were, from an address.
fn forge(bed: &Bed, from: IpAddr, flags: u8) {
    let macs = (frames::mac(&bed.host.link()), frames::mac(&bed.peer.link()));
    let segments: Vec<_> = (0..FORGED)
        .map(|number| Segment {
            macs,
            addresses: (from, bed.host.address(false)),
            ports: (1024 + number as u16, PORT),
            numbers: (1, 0),
            flags,
            options: Vec::new(),
            payload: Vec::new(),
        })
        .collect();
    let device = bed.peer.device.clone();
    bed.peer.inside(move || {
        let wire = Wire::open(&device);
        for segment in &segments {
            assert!(wire.send(&segment.frame()), "the device took no frame");
        }
    });
}

#[test]
fn connections_are_served_with_rings_of_their_own_and_without_and_strangers_are_dropped_in_xdp() {
    let bed = Bed::new(Shape::default());
    let port = PORT.to_string();
    // Some of the connections get a ring, and lose it to others.
    let policy = [
        "--pools",
        "2",
        "--pool-policy",
        "promote-after=4000",
        "--pool-idle",
        "0.01",
    ];
    let server = command::serve(
        &bed.host,
        &[&["echo", "-p", port.as_str(), "--strict"][..], &policy].concat(),
    );
    forge(&bed, bed.peer.address(false), flags::RST);
    let deadline = Instant::now() + LIMIT;
    loop {
        let report = command::ss(&server);
        if count(&report, "drop-no-flow") == FORGED {
            break;
        }
        assert!(Instant::now() < deadline, "{report:#}");
        std::thread::sleep(Duration::from_millis(10));
    }
    let talkers: Vec<_> = (0..8)
        .map(|number| {
            let to = SocketAddr::new(bed.host.address(number % 2 == 1), PORT);
            bed.peer.spawn(move || -> std::io::Result<()> {
                for round in 0..3 {
                    let mut stream = kernel::connect(to)?;
                    kernel::converse(&mut stream, number * 8 + round, 20, 6000)?;
                    kernel::part(stream)?;
                }
                Ok(())
            })
        })
        .collect();
    for talker in talkers {
        talker
            .join()
            .expect("no panic")
            .unwrap_or_else(|error| panic!("a connection failed: {error}"));
    }
    let report = command::ss(&server);
    assert_eq!(count(&report, "redirect-syn"), 8 * 3, "{report:#}");
    assert!(count(&report, "redirect-flow") > 8 * 3 * 20, "{report:#}");
    assert_eq!(
        count(&report, "redirect-port"),
        0,
        "a segment came that was not by its flow's entry: {report:#}"
    );
    command::end(server);
}

#[test]
fn a_connection_that_we_open_is_in_the_table_before_its_syn_leaves() {
    let bed = Bed::new(Shape::default());
    let file = std::env::temp_dir().join(format!("bywash-strict-{}", std::process::id()));
    std::fs::write(&file, kernel::noise(1, 1 << 20)).expect("a file");
    let received = bed.peer.start("sh", &["-c", "exec nc -l 9 | sha256sum"]);
    let deadline = Instant::now() + LIMIT;
    while !bed
        .peer
        .run("ss", &["-Hltn", "sport", "=", "9"])
        .ok()
        .stdout
        .contains("LISTEN")
    {
        assert!(Instant::now() < deadline, "nc does not listen");
    }
    let (from, to) = (
        file.to_str().expect("UTF-8"),
        bed.peer.address(false).to_string(),
    );
    let sent = command::run(
        &bed.host,
        &["send", from, &to, "-p", "9", "--strict"],
        LIMIT,
    );
    std::fs::remove_file(&file).expect("the file");
    sent.ok();
    let hash = kernel::sha256(&kernel::noise(1, 1 << 20));
    let received = received.wait(LIMIT).ok();
    assert!(received.stdout.contains(&hash), "{received:#?}");
}

/// What `ss` says of an engine in this very process.
fn own_report() -> Value {
    let asked = std::process::Command::new(command::binary())
        .args(["ss", "--json"])
        .output();
    let all: Value =
        serde_json::from_slice(&asked.expect("it runs").stdout).expect("a list of reports");
    let own = all.as_array().expect("a list").iter();
    own.clone()
        .find(|one| one["pid"] == std::process::id())
        .expect("this engine")
        .clone()
}

#[test]
fn a_handshake_by_cookie_ends_although_no_flow_stands_in_the_table() {
    let bed = Bed::new(Shape::default());
    let mut config = EngineConfig::new(bed.host.device.clone());
    config.xdp_settings.strict = true;
    config.shard.backlog = 16;
    let stack = bed.host.inside(move || Stack::start(config));
    let stack = stack.expect("the engine starts");
    let listener = stack.listen(PORT).expect("a free port");
    // Nobody there answers, so that half-open connections stay what they are; but frames to it have a way.
    let nobody = Ipv4Addr::new(10, 88, 0, 77);
    let way = frames::mac(&bed.peer.link()).map(|byte| format!("{byte:02x}"));
    let (nobody_is, way) = (nobody.to_string(), way.join(":"));
    let arguments = ["neigh", "replace", &nobody_is, "lladdr", &way];
    let rest = ["dev", &bed.host.device, "nud", "permanent"];
    bed.host.run("ip", &[&arguments[..], &rest].concat()).ok();
    forge(&bed, nobody.into(), flags::SYN);
    let counter = |report: &Value, name: &str| {
        let counters = &report["shards"][0]["counters"];
        counters[name].as_u64().expect("a counter")
    };
    let deadline = Instant::now() + LIMIT;
    while counter(&own_report(), "syn-cookies-sent") < FORGED - 16 {
        assert!(Instant::now() < deadline, "{:#}", own_report());
        std::thread::sleep(Duration::from_millis(10));
    }
    for v6 in [false, true] {
        let to = SocketAddr::new(bed.host.address(v6), PORT);
        let client = bed.peer.spawn(move || -> std::io::Result<()> {
            let mut stream = kernel::connect(to)?;
            kernel::converse(&mut stream, 7, 20, 6000)?;
            kernel::part(stream)
        });
        let (served, _) = listener.accept().expect("the kernel has connected");
        served.set_read_timeout(Some(LIMIT));
        let copied = std::io::copy(&mut &served, &mut &served).expect("an echo");
        assert!(copied > 6000, "{copied} bytes");
        drop(served);
        client.join().expect("no panic").expect("it is served");
    }
    let report = own_report();
    assert_eq!(counter(&report, "syn-cookies-taken"), 2, "{report:#}");
    // The handshakes' last segments came by their port; all others by their flow.
    assert!(count(&report, "redirect-port") >= 2, "{report:#}");
    assert!(count(&report, "redirect-flow") > 2 * 20, "{report:#}");
    stack.stop().expect("a clean end");
}
