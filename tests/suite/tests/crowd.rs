//! Many connections at once, and two shards behind one port, with the kernel's own services going on all the while.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use bywash_tests::kernel::{self, Bystanders};
use bywash_tests::process::Running;
use bywash_tests::{Bed, LIMIT, Shape, Side, bywash};
use serde_json::Value;

const PORT: u16 = 7;

/// `count` connections that all stand before the first one speaks; each checks every byte of its own. `meanwhile` runs while all stand.
fn crowd(peer: &Side, server: SocketAddr, count: usize, rounds: usize, meanwhile: impl FnOnce()) {
    let all_stand = Arc::new(Barrier::new(count + 1));
    let speak = Arc::new(Barrier::new(count + 1));
    let clients: Vec<_> = (0..count)
        .map(|number| {
            let (all_stand, speak) = (all_stand.clone(), speak.clone());
            peer.spawn(move || -> io::Result<()> {
                let stream = kernel::connect(server);
                all_stand.wait();
                speak.wait();
                let mut stream = stream?;
                kernel::converse(&mut stream, number as u64 + 1, rounds, 6000)?;
                kernel::part(stream)
            })
        })
        .collect();
    all_stand.wait();
    meanwhile();
    speak.wait();
    let outcomes: Vec<_> = clients
        .into_iter()
        .map(|client| client.join().expect("no panic"))
        .collect();
    let failures: Vec<_> = outcomes
        .iter()
        .enumerate()
        .filter(|(_, outcome)| outcome.is_err())
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {count} failed: {:?}",
        failures.len(),
        &failures[..failures.len().min(5)]
    );
}

fn established(report: &Value) -> u64 {
    bywash::over_shards(report, |shard| {
        let connections = shard["connections"].as_array().expect("connections");
        connections
            .iter()
            .filter(|one| one["state"] == "ESTABLISHED")
            .count() as u64
    })
}

fn accepted(shard: &Value) -> u64 {
    let listeners = shard["listeners"].as_array().expect("listeners");
    listeners
        .iter()
        .filter_map(|listener| listener["accepted"].as_u64())
        .sum()
}

/// Frames must be all back where they came from once nobody holds any.
fn nothing_is_held(server: &Running) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let report = bywash::ss(server);
        let busy = bywash::over_shards(&report, |shard| {
            let frames = &shard["frames"];
            frames["tx_total"].as_u64().expect("a number")
                - frames["tx_free"].as_u64().expect("a number")
        });
        let open = bywash::over_shards(&report, |shard| {
            let connections = shard["connections"].as_array().expect("connections");
            connections
                .iter()
                .filter(|one| one["state"] != "TIME-WAIT")
                .count() as u64
        });
        if busy == 0 && open == 0 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{busy} TX frames and {open} connections remain: {report:#}"
        );
    }
}

#[test]
fn five_hundred_connections_at_once() {
    const COUNT: usize = 500;
    for (v6, offloads) in [(false, true), (true, false)] {
        let bed = Bed::new(Shape {
            offloads,
            ..Shape::default()
        });
        let server = bywash::serve(&bed.host, &["echo", "-p", &PORT.to_string()]);
        let bystanders = Bystanders::start(&bed.host, &bed.peer);
        crowd(
            &bed.peer,
            SocketAddr::new(bed.host.address(v6), PORT),
            COUNT,
            20,
            || {
                let report = bywash::ss(&server);
                assert_eq!(established(&report), COUNT as u64, "{report:#}");
            },
        );
        bystanders.wait_for(2);
        bystanders.undisturbed();
        nothing_is_held(&server);
        bywash::end(server);
    }
}

/// A crowd of connections that come and go: what one leaves must not harm the next.
#[test]
fn connections_come_and_go() {
    let bed = Bed::new(Shape::default());
    let server = bywash::serve(&bed.host, &["echo", "-p", &PORT.to_string()]);
    let address = SocketAddr::new(bed.host.v4.into(), PORT);
    for _ in 0..5 {
        crowd(&bed.peer, address, 100, 3, || {});
    }
    let report = bywash::ss(&server);
    assert_eq!(bywash::over_shards(&report, accepted), 500, "{report:#}");
    nothing_is_held(&server);
    bywash::end(server);
}

#[test]
fn two_shards_share_a_listener() {
    let bed = Bed::new(Shape {
        queues: 2,
        ..Shape::default()
    });
    let server = bywash::serve(
        &bed.host,
        &["echo", "-p", &PORT.to_string(), "--shards", "2"],
    );
    let bystanders = Bystanders::start(&bed.host, &bed.peer);
    for v6 in [false, true] {
        crowd(
            &bed.peer,
            SocketAddr::new(bed.host.address(v6), PORT),
            64,
            40,
            || {
                let report = bywash::ss(&server);
                assert_eq!(established(&report), 64, "{report:#}");
            },
        );
    }
    let report = bywash::ss(&server);
    let shards = report["shards"].as_array().expect("shards");
    assert_eq!(shards.len(), 2);
    let by_shard: Vec<u64> = shards.iter().map(accepted).collect();
    assert_eq!(by_shard.iter().sum::<u64>(), 128, "{report:#}");
    assert!(
        by_shard.iter().all(|count| *count > 0),
        "one shard got everything: {by_shard:?}"
    );
    bystanders.wait_for(2);
    bystanders.undisturbed();
    nothing_is_held(&server);
    bywash::end(server);
}

#[test]
fn two_shards_serve_iperf3() {
    let bed = Bed::new(Shape {
        queues: 2,
        ..Shape::default()
    });
    let server = bywash::serve(&bed.host, &["iperf3", "-s", "--shards", "2"]);
    let address = bed.host.v4.to_string();
    for direction in [&[][..], &["-R"]] {
        let arguments = [&["-c", &address, "-J", "-t", "2", "-P", "8"], direction].concat();
        let report = bed.peer.run("iperf3", &arguments).ok().json();
        for stream in report["end"]["streams"].as_array().expect("streams") {
            assert!(
                stream["receiver"]["bytes"].as_u64().expect("bytes") > 0,
                "{report:#}"
            );
        }
    }
    bywash::end(server);
}

/// Full load in both directions leaves pings and the kernel's own TCP on the same address alone.
#[test]
fn the_kernel_goes_on_under_full_load() {
    let bed = Bed::new(Shape::default());
    let server = bywash::serve(&bed.host, &["iperf3", "-s"]);
    let bystanders = Bystanders::start(&bed.host, &bed.peer);
    let address = bed.host.v4.to_string();
    for direction in [&[][..], &["-R"]] {
        // As much as can be on its way at once, and not more than waits on the receiver's side of a veth pair (1000 packets).
        let load = ["-c", &address, "-J", "-t", "3", "-P", "4", "-w", "128K"];
        let deadline = Instant::now() + LIMIT;
        loop {
            let before = bystanders.talks();
            let report = bed.peer.run("iperf3", &[&load, direction].concat()).ok();
            let report = report.json();
            let received = report["end"]["sum_received"]["bytes"].as_u64();
            assert!(received.is_some_and(|bytes| bytes > 0), "{report:#}");
            // On a busy machine three seconds may be short; under load all the same.
            if bystanders.talks() > before {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "the kernel served nobody during {direction:?}"
            );
        }
    }
    bystanders.undisturbed();
    bywash::end(server);
}
