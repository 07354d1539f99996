//! Malformed packets at a served port: dropped by reason and counted, never a panic, and nobody else's connection is harmed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bywash_tests::frames::{self, Segment, Wire, flags, mutate};
use bywash_tests::kernel::{self, Random};
use bywash_tests::process::Running;
use bywash_tests::{Bed, LIMIT, Shape, Side, bywash};
use serde_json::Value;

const PORT: u16 = 7;
/// MSS, SACK permitted, timestamps, window scale.
const OPTIONS: [u8; 20] = [
    2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
];

/// A right segment from the peer's address to the served port.
fn segment(host: &Side, peer: &Side, v6: bool, port: u16, flags: u8) -> Segment {
    Segment {
        macs: (frames::mac(&host.link()), frames::mac(&peer.link())),
        addresses: (peer.address(v6), host.address(v6)),
        ports: (port, PORT),
        numbers: (1000, 0),
        flags,
        options: if flags & flags::SYN == 0 {
            Vec::new()
        } else {
            OPTIONS.to_vec()
        },
        payload: if flags & flags::SYN == 0 {
            b"payload".to_vec()
        } else {
            Vec::new()
        },
    }
}

fn drops(report: &Value) -> u64 {
    let by_shards = bywash::over_shards(report, |shard| bywash::total(&shard["drops"]));
    let xdp = report["xdp"].as_object().expect("counters");
    let by_xdp = xdp
        .iter()
        .filter(|(name, _)| name.starts_with("drop-"))
        .filter_map(|(_, count)| count.as_u64());
    by_shards + by_xdp.sum::<u64>()
}

fn count_of(report: &Value, reason: &str) -> u64 {
    let by_shards =
        bywash::over_shards(report, |shard| shard["drops"][reason].as_u64().unwrap_or(0));
    by_shards + report["xdp"][reason].as_u64().unwrap_or(0)
}

/// Sends frames from the peer's device.
fn spray(peer: &Side, frames: Vec<Vec<u8>>) {
    let device = peer.device.clone();
    peer.inside(move || {
        let wire = Wire::open(&device);
        for frame in &frames {
            assert!(
                wire.send(frame),
                "the device did not take a frame of {} bytes",
                frame.len()
            );
        }
    });
}

/// Waits until the reason has been counted `times`, since frames take their time.
#[track_caller]
fn wait_for_count(server: &Running, reason: &str, times: u64) {
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        let report = bywash::ss(server);
        let count = count_of(&report, reason);
        if count == times {
            return;
        }
        assert!(
            count < times,
            "{reason}: {count} instead of {times}: {report:#}"
        );
        assert!(
            std::time::Instant::now() < deadline,
            "{reason}: {count} instead of {times}: {report:#}"
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// One defect, and the reason that it must be counted under.
struct Defect {
    reason: &'static str,
    v6: bool,
    flags: u8,
    damage: fn(&mut Vec<u8>, usize),
}

const DEFECTS: [Defect; 8] = [
    Defect {
        reason: "bad-tcp-checksum",
        v6: false,
        flags: flags::SYN,
        damage: |frame, tcp| frame[tcp + 4] ^= 1,
    },
    Defect {
        reason: "bad-tcp-checksum",
        v6: true,
        flags: flags::SYN,
        damage: |frame, tcp| frame[tcp + 17] ^= 1,
    },
    Defect {
        reason: "bad-ip-checksum",
        v6: false,
        flags: flags::SYN,
        damage: |frame, _| frame[14 + 8] ^= 1,
    },
    Defect {
        reason: "drop-tcp-data-offset",
        v6: false,
        flags: flags::SYN,
        damage: |frame, tcp| frame[tcp + 12] = 0x40,
    },
    Defect {
        reason: "drop-tcp-data-offset",
        v6: true,
        flags: flags::SYN,
        damage: |frame, tcp| frame[tcp + 12] = 0xf0,
    },
    Defect {
        reason: "drop-tcp-port-zero",
        v6: false,
        flags: flags::SYN,
        damage: |frame, tcp| frame[tcp..tcp + 2].fill(0),
    },
    Defect {
        reason: "drop-tcp-truncated",
        v6: true,
        flags: flags::ACK,
        damage: |frame, tcp| {
            frame.truncate(tcp + 12);
            frame[18..20].copy_from_slice(&[0, 12]);
        },
    },
    Defect {
        reason: "drop-first-fragment",
        v6: false,
        flags: flags::ACK,
        damage: |frame, _| {
            frame[20] = 0x20;
            // The header's sum, by the difference (RFC 1624): DF gone, MF set.
            let sum = u32::from(u16::from_be_bytes([frame[24], frame[25]])) + 0x2000;
            let sum = (sum & 0xffff) + (sum >> 16);
            frame[24..26].copy_from_slice(&(sum as u16).to_be_bytes());
        },
    },
];

#[test]
fn each_defect_is_counted_under_its_name() {
    const TIMES: usize = 25;
    let bed = Bed::new(Shape::default());
    let server = bywash::serve(&bed.host, &["echo", "-p", &PORT.to_string()]);
    let mut expected = std::collections::BTreeMap::new();
    for (number, defect) in DEFECTS.iter().enumerate() {
        let right = segment(
            &bed.host,
            &bed.peer,
            defect.v6,
            40_000 + number as u16,
            defect.flags,
        );
        let mut frame = right.frame();
        (defect.damage)(&mut frame, right.tcp_at());
        spray(&bed.peer, vec![frame; TIMES]);
        *expected.entry(defect.reason).or_insert(0) += TIMES as u64;
    }
    for (reason, times) in expected {
        wait_for_count(&server, reason, times);
    }
    let report = bywash::ss(&server);
    let accepted = bywash::over_shards(&report, |shard| {
        shard["connections"].as_array().expect("connections").len() as u64
    });
    assert_eq!(
        accepted, 0,
        "a malformed segment made a connection: {report:#}"
    );
    kernel::echo_once(&bed.peer, SocketAddr::new(bed.host.v4.into(), PORT));
    bywash::end(server);
}

/// Right frames are taken: else the counts above would say nothing.
#[test]
fn the_frames_are_right_where_they_are_not_damaged() {
    let bed = Bed::new(Shape::default());
    let server = bywash::serve(&bed.host, &["echo", "-p", &PORT.to_string()]);
    for v6 in [false, true] {
        spray(
            &bed.peer,
            vec![segment(&bed.host, &bed.peer, v6, 41_000, flags::SYN).frame()],
        );
    }
    // Each SYN is answered; the peer's kernel knows nothing of it and resets, so both half-open connections come and go.
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        let report = bywash::ss(&server);
        if report["xdp"]["redirect-syn"] == 2 {
            assert_eq!(
                count_of(&report, "bad-tcp-checksum") + count_of(&report, "bad-ip-checksum"),
                0,
                "{report:#}"
            );
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{report:#}");
    }
    bywash::end(server);
}

/// Segments of every kind to the served port, most of them damaged.
fn mutants(bed: &Bed, count: usize, seed: u64) -> Vec<Vec<u8>> {
    let kinds = [
        flags::SYN,
        flags::ACK,
        flags::SYN | flags::ACK,
        flags::FIN | flags::ACK,
        flags::RST,
        0,
        0xff,
    ];
    let models: Vec<Segment> = [false, true]
        .into_iter()
        .flat_map(|v6| kinds.map(|kind| segment(&bed.host, &bed.peer, v6, 0, kind)))
        .collect();
    let mut random = Random::new(seed);
    let mut frames = Vec::with_capacity(count);
    for _ in 0..count {
        let mut model = models[random.below(models.len())].clone();
        // Ports that the peer's kernel does not use for its own connections.
        model.ports.0 = 1024 + random.below(20_000) as u16;
        model.numbers = (random.draw() as u32, random.draw() as u32);
        let mut frame = model.frame();
        // One in eight is well-formed and only out of place.
        if random.below(8) > 0 {
            mutate(&mut frame, &mut random);
        }
        frame.truncate(1514);
        frames.push(frame);
    }
    frames
}

#[test]
fn a_spray_of_mutants_harms_nobody() {
    const SEED: u64 = 20;
    const MUTANTS: usize = 60_000;
    let bed = Bed::new(Shape::default());
    let server = bywash::serve(&bed.host, &["echo", "-p", &PORT.to_string()]);
    let stop = Arc::new(AtomicBool::new(false));
    let talkers: Vec<_> = [false, true]
        .map(|v6| {
            let (to, stop) = (SocketAddr::new(bed.host.address(v6), PORT), stop.clone());
            bed.peer.spawn(move || -> std::io::Result<u64> {
                let mut talks = 0;
                let mut lasting = kernel::connect(to)?;
                while !stop.load(Ordering::Relaxed) {
                    kernel::converse(&mut lasting, talks, 5, 20_000)?;
                    talks += 1;
                }
                kernel::part(lasting)?;
                Ok(talks)
            })
        })
        .into_iter()
        .collect();

    let frames = mutants(&bed, MUTANTS, SEED);
    let device = bed.peer.device.clone();
    let taken = bed.peer.inside(move || {
        let wire = Wire::open(&device);
        frames.iter().filter(|frame| wire.send(frame)).count()
    });
    assert!(
        taken > MUTANTS / 2,
        "the device took only {taken} of {MUTANTS} frames"
    );
    stop.store(true, Ordering::Relaxed);
    for talker in talkers {
        let talks = talker
            .join()
            .expect("no panic")
            .unwrap_or_else(|error| panic!("a connection was harmed: {error}"));
        assert!(talks > 0, "nobody talked meanwhile");
    }
    let report = bywash::ss(&server);
    assert!(
        drops(&report) > 1000,
        "hardly anything was dropped: {report:#}"
    );
    for reason in ["bad-tcp-checksum", "drop-tcp-data-offset"] {
        assert!(
            count_of(&report, reason) > 0,
            "{reason} was never counted: {report:#}"
        );
    }
    for v6 in [false, true] {
        kernel::echo_once(&bed.peer, SocketAddr::new(bed.host.address(v6), PORT));
    }
    bywash::end(server);
}

/// Segments that are well-formed but belong to nobody: the engine answers as a closed port would, and forgets them.
#[test]
fn strangers_are_reset_and_forgotten() {
    let bed = Bed::new(Shape::default());
    let server = bywash::serve(&bed.host, &["echo", "-p", &PORT.to_string()]);
    let capture = bed.peer.start(
        "tcpdump",
        &[
            "-i",
            &bed.peer.device,
            "-nn",
            "-l",
            "-c",
            "1",
            "tcp[tcpflags] & tcp-rst != 0 and src port 7",
        ],
    );
    let deadline = std::time::Instant::now() + LIMIT;
    while !capture.stderr().contains("listening on") {
        assert!(std::time::Instant::now() < deadline, "{}", capture.stderr());
    }
    spray(
        &bed.peer,
        vec![segment(&bed.host, &bed.peer, false, 42_000, flags::ACK).frame()],
    );
    let captured = capture.wait(LIMIT).ok();
    let from: IpAddr = bed.host.v4.into();
    assert!(
        captured.stdout.contains(&format!("{from}.7 >")),
        "{captured:#?}"
    );
    let report = bywash::ss(&server);
    assert_eq!(
        report["shards"][0]["connections"].as_array().map(Vec::len),
        Some(0),
        "{report:#}"
    );
    bywash::end(server);
}
