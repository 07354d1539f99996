//! The stock iperf3 as client and as server, over both families, with the kernel's default offloads and with none.

use std::time::Duration;

use bywash_tests::process::{Finished, Running};
use bywash_tests::{Bed, LIMIT, Shape, Side, bywash};
use serde_json::Value;

/// What is asked of each peer, besides one plain run.
const VARIANTS: [&[&str]; 4] = [&[], &["-R"], &["-P", "8"], &["-l", "16"]];
const TEST_TIME: Duration = Duration::from_secs(60);

/// Fails unless a client's JSON tells of a test in which both sides moved, and agree on, data.
#[track_caller]
fn check(finished: &Finished, variant: &[&str]) {
    let report = finished.json();
    assert_eq!(report["error"], Value::Null, "{finished:#?}");
    assert!(finished.status.success(), "{finished:#?}");
    let end = &report["end"];
    for side in ["sum_sent", "sum_received"] {
        let rate = end[side]["bits_per_second"].as_f64().unwrap_or_default();
        assert!(
            rate > 0.0,
            "{side} of {variant:?} has no rate: {finished:#?}"
        );
    }
    let streams = if variant.contains(&"-P") { 8 } else { 1 };
    assert_eq!(
        end["streams"].as_array().map(Vec::len),
        Some(streams),
        "{finished:#?}"
    );
    for stream in end["streams"].as_array().expect("streams") {
        let received = stream["receiver"]["bytes"].as_u64().unwrap_or_default();
        let sent = stream["sender"]["bytes"].as_u64().unwrap_or_default();
        assert!(received > 0, "a stream without a byte: {finished:#?}");
        assert!(
            received <= sent,
            "more was received than sent: {finished:#?}"
        );
    }
    let backwards = end["streams"][0]["sender"]["sender"] == Value::Bool(false);
    assert_eq!(backwards, variant.contains(&"-R"), "{finished:#?}");
}

fn stock_client(peer: &Side, host: &Side, v6: bool, variant: &[&str]) -> Finished {
    let address = host.address(v6).to_string();
    let arguments = [&["-c", &address, "-J", "-t", "1"], variant].concat();
    peer.run_for("iperf3", &arguments, TEST_TIME)
}

/// The stock server: one test for each time it is started.
fn stock_server(peer: &Side) -> Running {
    let mut server = peer.start("iperf3", &["-s", "-1", "--forceflush"]);
    server.line(LIMIT, |line| line.contains("Server listening"));
    server
}

fn our_client(host: &Side, peer: &Side, v6: bool, variant: &[&str]) -> Finished {
    let server = stock_server(peer);
    let address = peer.address(v6).to_string();
    let arguments = [&["iperf3", "-c", &address, "--json", "-t", "1"], variant].concat();
    let finished = bywash::run(host, &arguments, TEST_TIME);
    server.wait(LIMIT).ok();
    finished
}

fn stock_client_against_us(shape: Shape) {
    let bed = Bed::new(shape);
    let server = bywash::serve(&bed.host, &["iperf3", "-s"]);
    for v6 in [false, true] {
        for variant in VARIANTS {
            check(&stock_client(&bed.peer, &bed.host, v6, variant), variant);
        }
    }
    bywash::end(server);
}

fn our_client_against_stock(shape: Shape) {
    let bed = Bed::new(shape);
    for v6 in [false, true] {
        for variant in VARIANTS {
            check(&our_client(&bed.host, &bed.peer, v6, variant), variant);
        }
    }
}

#[test]
fn stock_client_with_default_offloads() {
    stock_client_against_us(Shape::default());
}

#[test]
fn stock_client_without_offloads() {
    stock_client_against_us(Shape {
        offloads: false,
        ..Shape::default()
    });
}

#[test]
fn stock_server_with_default_offloads() {
    our_client_against_stock(Shape::default());
}

#[test]
fn stock_server_without_offloads() {
    our_client_against_stock(Shape {
        offloads: false,
        ..Shape::default()
    });
}

#[test]
fn partial_checksums_arrive_with_the_default_offloads_only() {
    for offloads in [true, false] {
        let bed = Bed::new(Shape {
            offloads,
            ..Shape::default()
        });
        let server = bywash::serve(&bed.host, &["iperf3", "-s"]);
        check(&stock_client(&bed.peer, &bed.host, false, &[]), &[]);
        let report = bywash::ss(&server);
        let counted = |name: &str| {
            bywash::over_shards(&report, |shard| {
                shard["counters"][name].as_u64().expect("a counter")
            })
        };
        let (partial, all) = (counted("partial-checksums"), counted("segments-in"));
        assert!(all > 1000, "{report:#}");
        // One full checksum in 65536 looks like a partial one.
        let expected = if offloads {
            partial > all / 2
        } else {
            partial < all / 1000
        };
        assert!(
            expected,
            "{partial} of {all} checksums are partial with offloads {offloads}: {report:#}"
        );
        let wrong = bywash::over_shards(&report, |shard| {
            shard["drops"]["bad-tcp-checksum"].as_u64().unwrap_or(0)
        });
        assert_eq!(wrong, 0, "{report:#}");
        bywash::end(server);
    }
}

#[test]
fn a_given_amount_arrives_whole() {
    let bed = Bed::new(Shape::default());
    let server = bywash::serve(&bed.host, &["iperf3", "-s"]);
    let address = bed.host.v4.to_string();
    for direction in [&[][..], &["-R"]] {
        let arguments = [&["-c", &address, "-J", "-n", "32M"], direction].concat();
        let report = bed
            .peer
            .run_for("iperf3", &arguments, TEST_TIME)
            .ok()
            .json();
        let received = report["end"]["sum_received"]["bytes"]
            .as_u64()
            .expect("bytes");
        assert!(received >= 32 << 20, "{direction:?}: {report:#}");
    }
    bywash::end(server);
}

#[test]
fn one_off_ends_by_itself_and_a_line_comes_each_second() {
    let bed = Bed::new(Shape::default());
    let server = bywash::serve(&bed.host, &["iperf3", "-s", "-1"]);
    let address = bed.host.v4.to_string();
    bed.peer
        .run_for("iperf3", &["-c", &address, "-t", "3"], TEST_TIME)
        .ok();
    let finished = server.wait(LIMIT).ok();
    for interval in ["0.00-1.", "1.00-2.", "2.00-3."] {
        assert!(
            finished.stdout.contains(interval),
            "no line for {interval}..: {finished:#?}"
        );
    }
}

#[test]
fn both_ends_are_ours() {
    let bed = Bed::new(Shape::default());
    let server = bywash::serve(&bed.peer, &["iperf3", "-s"]);
    for variant in VARIANTS {
        let address = bed.peer.v6.to_string();
        let arguments = [&["iperf3", "-c", &address, "--json", "-t", "1"], variant].concat();
        check(&bywash::run(&bed.host, &arguments, TEST_TIME), variant);
    }
    bywash::end(server);
}
