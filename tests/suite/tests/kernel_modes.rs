//! What can be asked of the kernel for a device, alone and together, and what the engine says became of it.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use bywash_tests::kernel::{self, counter};
use bywash_tests::process::Running;
use bywash_tests::remains::Traces;
use bywash_tests::{Bed, LIMIT, Shape, bywash};
use serde_json::Value;

fn serve(bed: &Bed, more: &[&str]) -> Running {
    bywash::serve(&bed.host, &[&["echo", "-p", "7"], more].concat())
}

/// Conversations over both families.
#[track_caller]
fn talk(bed: &Bed) {
    for v6 in [false, true] {
        kernel::echo_once(&bed.peer, SocketAddr::new(bed.host.address(v6), 7));
    }
}

fn counters(report: &Value, name: &str) -> u64 {
    bywash::over_shards(report, |shard| {
        shard["counters"][name].as_u64().expect("a counter")
    })
}

#[test]
fn native_and_generic_with_every_mode_of_copying() {
    for xdp in ["native", "generic", "auto"] {
        for mode in ["copy", "auto"] {
            let bed = Bed::new(Shape::default());
            let traces = Traces::of(&bed.host);
            let server = serve(&bed, &["--xdp", xdp, "--mode", mode]);
            let program = traces.present();
            let report = bywash::ss(&server);
            // A veth has no zero copy: that it was asked for first is no error, and is not claimed.
            assert_eq!(report["bind_mode"], "copy", "{report:#}");
            let became = if xdp == "auto" { "native" } else { xdp };
            assert_eq!(report["xdp_mode"], became, "{report:#}");
            assert!(report["native_refusal"].is_null(), "{report:#}");
            talk(&bed);
            bywash::end(server);
            traces.gone(&[program]);
        }
    }
}

#[test]
fn zero_copy_that_is_required_and_not_there_is_an_error() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    for arguments in [&["--require-zero-copy"][..], &["--mode", "zero-copy"]] {
        let refused = bywash::run(&bed.host, &[&["echo"], arguments].concat(), LIMIT);
        assert_eq!(refused.status.code(), Some(1), "{refused:#?}");
        assert!(
            refused.stderr.contains("zero copy") || refused.stderr.contains("zero-copy"),
            "{refused:#?}"
        );
        traces.gone(&[]);
    }
}

#[test]
fn busy_polling_without_a_napi_is_refused_aloud_and_changes_nothing() {
    let bed = Bed::new(Shape::default());
    let server = serve(&bed, &["--busy-poll", "20"]);
    let report = bywash::ss(&server);
    let told = report["busy_poll"].as_str().expect("a text");
    assert!(told.starts_with("unavailable: "), "{told}");
    assert!(told.contains("SO_INCOMING_NAPI_ID"), "{told}");
    let log = server.stderr();
    assert!(log.contains("busy poll unavailable"), "{log}");
    talk(&bed);
    let report = bywash::ss(&server);
    assert_eq!(counters(&report, "busy-polls"), 0);
    assert_eq!(counters(&report, "tx-stalls"), 0);
    bywash::end(server);
}

#[test]
fn the_kernel_completes_checksums() {
    for offloads in [true, false] {
        for xdp in ["native", "generic"] {
            let bed = Bed::new(Shape {
                offloads,
                ..Shape::default()
            });
            let server = serve(&bed, &["--tx-checksum", "kernel", "--xdp", xdp]);
            assert_eq!(bywash::ss(&server)["tx_checksum"], "kernel");
            talk(&bed);
            // A RST to nobody's port-less connection has a checksum too.
            let wrong = counter(&bed.peer, "Tcp", "InCsumErrors");
            assert_eq!(
                wrong, 0,
                "offloads {offloads}, {xdp}: the peer saw wrong checksums"
            );
            assert!(counter(&bed.peer, "Tcp", "InSegs") > 40);
            let report = bywash::ss(&server);
            assert_eq!(counters(&report, "tx-refused"), 0, "{report:#}");
            assert_eq!(counters(&report, "tx-invalid-descriptors"), 0, "{report:#}");
            bywash::end(server);
        }
    }
}

#[test]
fn received_checksums_are_judged_as_asked() {
    // (policy, whether half-summed segments are taken, whether they are counted)
    for (policy, taken, counted) in [
        ("verify", false, false),
        ("verify-or-pseudo", true, true),
        ("trust", true, false),
    ] {
        // The kernel on the other end leaves checksums to a NIC that is not there.
        let bed = Bed::new(Shape::default());
        let server = serve(&bed, &["--rx-checksum", policy]);
        assert_eq!(bywash::ss(&server)["rx_checksum"], policy);
        if taken {
            talk(&bed);
        } else {
            let to = SocketAddr::new(bed.host.v4.into(), 7);
            let knock = bed
                .peer
                .inside(move || TcpStream::connect_timeout(&to, Duration::from_millis(300)));
            assert!(knock.is_err(), "a half-summed SYN was answered");
        }
        let report = bywash::ss(&server);
        let wrong = bywash::over_shards(&report, |shard| bywash::total(&shard["drops"]));
        assert_eq!(wrong > 0, !taken, "{report:#}");
        assert_eq!(
            counters(&report, "partial-checksums") > 0,
            counted,
            "{report:#}"
        );
        bywash::end(server);
    }
}

/// Rules and indirection are a NIC's; that they are told as the kernel's header says is tested against a mock.
#[test]
fn a_device_that_cannot_steer_is_refused_and_left_alone() {
    let bed = Bed::new(Shape {
        queues: 2,
        ..Shape::default()
    });
    let traces = Traces::of(&bed.host);
    for policy in ["rss", "ntuple"] {
        let arguments = ["echo", "--queue-steering", policy];
        let refused = bywash::run(&bed.host, &arguments, LIMIT);
        assert_eq!(refused.status.code(), Some(1), "{refused:#?}");
        assert!(
            refused.stderr.contains("not supported by its driver"),
            "{refused:#?}"
        );
        traces.gone(&[]);
    }
    let refused = bywash::run(&bed.host, &["echo"], LIMIT);
    assert!(refused.stderr.contains("--queue-steering"), "{refused:#?}");
    let server = serve(&bed, &["--shards", "2"]);
    assert_eq!(bywash::ss(&server)["queue_steering"], "none");
    bywash::end(server);
}

#[test]
fn napi_in_threads_off_the_shards_core_until_the_end() {
    let bed = Bed::new(Shape::default());
    let device = bed.host.device.clone();
    let threaded = || {
        let path = format!("/sys/class/net/{device}/threaded");
        bed.host.run("cat", &[&path]).ok().stdout.trim().to_owned()
    };
    assert_eq!(threaded(), "0");
    let server = serve(&bed, &["--threaded-napi", "--cores", "1"]);
    assert_eq!(threaded(), "1");
    talk(&bed);
    let prefix = format!("napi/{}-", bed.host.device);
    let mut threads = 0;
    for process in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let read =
            |name: &str| std::fs::read_to_string(process.path().join(name)).unwrap_or_default();
        if read("comm").starts_with(&prefix) {
            threads += 1;
            let status = read("status");
            let cores = status
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            let cores = cores.expect("a list of cores").trim();
            assert!(
                !cores.split([',', '-']).any(|core| core == "1"),
                "on cores {cores}"
            );
        }
    }
    assert!(threads > 0, "no thread {prefix}");
    bywash::end(server);
    assert_eq!(threaded(), "0");
    drop(bed);

    // Every core is a shard's: refused, and nothing is changed.
    let cores = std::thread::available_parallelism()
        .expect("a number of cores")
        .get();
    if Path::new("/sys/devices/system/cpu/cpu2").exists() {
        eprintln!("SKIPPED: {cores} cores would take as many queues to use up");
        return;
    }
    let bed = Bed::new(Shape {
        queues: 2,
        ..Shape::default()
    });
    let refused = bywash::run(
        &bed.host,
        &["echo", "--shards", "2", "--threaded-napi"],
        LIMIT,
    );
    assert_eq!(refused.status.code(), Some(1), "{refused:#?}");
    assert!(
        refused.stderr.contains("needs a core beside"),
        "{refused:#?}"
    );
}
