//! `--strict`: every connection stands in XDP's flow table from its first segment to its last, and strangers get no further.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bywash_tests::frames::{self, Segment, Wire, flags};
use bywash_tests::{Bed, LIMIT, Shape, bywash, kernel};
use serde_json::Value;

const PORT: u16 = 7;
const FORGED: u64 = 50;

fn count(report: &Value, counter: &str) -> u64 {
    report["xdp"][counter].as_u64().expect("a counter")
}

/// RSTs of connections that there never were.
fn forge(bed: &Bed) {
    let segments: Vec<_> = (0..FORGED)
        .map(|number| Segment {
            macs: (frames::mac(&bed.host.link()), frames::mac(&bed.peer.link())),
            addresses: (bed.peer.address(false), bed.host.address(false)),
            ports: (1024 + number as u16, PORT),
            numbers: (1, 0),
            flags: flags::RST,
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
    let server = bywash::serve(
        &bed.host,
        &[&["echo", "-p", port.as_str(), "--strict"][..], &policy].concat(),
    );
    forge(&bed);
    let deadline = Instant::now() + LIMIT;
    loop {
        let report = bywash::ss(&server);
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
    let report = bywash::ss(&server);
    assert_eq!(count(&report, "redirect-syn"), 8 * 3, "{report:#}");
    assert!(count(&report, "redirect-flow") > 8 * 3 * 20, "{report:#}");
    assert_eq!(
        count(&report, "redirect-port"),
        0,
        "a segment came that was not by its flow's entry: {report:#}"
    );
    bywash::end(server);
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
    let sent = bywash::run(
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
