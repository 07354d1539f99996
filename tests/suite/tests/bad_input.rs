//! What cannot be done is refused with one line that names the remedy: status 2 for wrong usage, 1 for the rest, nothing left behind.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bywash_tests::kernel::KernelEcho;
use bywash_tests::process::{Finished, Running};
use bywash_tests::remains::Traces;
use bywash_tests::{Bed, LIMIT, Shape, Side, bed::ip, bywash, workspace};
use bywash_xsk::{XskConfig, XskPort};

/// Checks that a command was refused in one line with this status, which has all of these words.
#[track_caller]
fn refused(finished: &Finished, status: i32, words: &[&str]) {
    assert_eq!(finished.status.code(), Some(status), "{finished:#?}");
    for word in words {
        assert!(
            finished.stderr.contains(word),
            "the error does not say {word:?}: {finished:#?}"
        );
    }
    if status == 1 {
        assert_eq!(
            finished.stderr.lines().count(),
            1,
            "more than one line: {finished:#?}"
        );
        assert!(finished.stderr.starts_with("bywash: "), "{finished:#?}");
    }
    assert!(!finished.stderr.contains("panicked"), "{finished:#?}");
    assert!(
        !finished.stdout.contains("serving"),
        "it said that it serves: {finished:#?}"
    );
}

/// Tries an echo server on the host's device, which must be refused and leave nothing.
#[track_caller]
fn echo_refused(bed: &Bed, options: &[&str], words: &[&str]) {
    let traces = Traces::of(&bed.host);
    refused(
        &bywash::run(&bed.host, &[&["echo", "-p", "7"], options].concat(), LIMIT),
        1,
        words,
    );
    traces.gone(&[]);
}

fn echo_on(side: &Side, device: &str) -> Finished {
    Running::start(&mut bywash::command(
        side,
        &["echo", "-p", "7", "--dev", device],
    ))
    .wait(LIMIT)
}

#[test]
fn wrong_usage_has_status_2() {
    // No bed: usage is wrong whatever the machine has.
    let usage = |arguments: &[&str]| {
        Running::start(std::process::Command::new(bywash::binary()).args(arguments)).wait(LIMIT)
    };
    for arguments in [
        &[][..],
        &["serve"],
        &["echo"],
        &["echo", "--dev"],
        &["echo", "--dev", "x", "-p", "0"],
        &["echo", "--dev", "x", "-p", "65536"],
        &["echo", "--dev", "x", "--shards", "0"],
        &["echo", "--dev", "x", "--idle", "never"],
        &[
            "echo",
            "--dev",
            "x",
            "--mode",
            "copy",
            "--require-zero-copy",
        ],
        &["echo", "--dev", "x", "--shards", "2", "--cores", "0"],
        &["iperf3", "--dev", "x"],
        &["iperf3", "--dev", "x", "-s", "-c", "10.0.0.1"],
        &["iperf3", "--dev", "x", "-s", "-R"],
        &[
            "iperf3", "--dev", "x", "-c", "10.0.0.1", "-t", "5", "-n", "5",
        ],
        &["iperf3", "--dev", "x", "-c", "10.0.0.1", "-P", "0"],
        &["iperf3", "--dev", "x", "-c", "10.0.0.1", "-P", "1000"],
        &["iperf3", "--dev", "x", "-c", "10.0.0.1", "-l", "0"],
        &["recv", "--dev", "x", "-p", "9"],
        &["recv", "file", "--dev", "x"],
        &["send", "file", "--dev", "x", "-p", "9"],
        &["doctor"],
    ] {
        let finished = usage(arguments);
        assert_eq!(finished.status.code(), Some(2), "{finished:#?}");
        assert!(
            !finished.stderr.trim().is_empty(),
            "{arguments:?} is refused in silence"
        );
        assert!(!finished.stderr.contains("panicked"), "{finished:#?}");
    }
    for asked in ["--help", "--version"] {
        assert!(usage(&[asked]).ok().stdout.contains("bywash"), "{asked}");
    }
}

#[test]
fn without_root() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    // The target directory need not be open to others.
    let copy = Path::new("/tmp").join(format!("bwt{}-bywash", std::process::id()));
    std::fs::copy(bywash::binary(), &copy).expect("a copy");
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))
        .expect("to make it executable");
    let copied = copy.to_str().expect("a path in UTF-8");
    let arguments = [
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        copied,
        "echo",
        "-p",
        "4007",
        "--dev",
        &bed.host.device,
    ];
    let finished = bed.host.run("setpriv", &arguments);
    std::fs::remove_file(&copy).expect("to remove the copy");
    refused(&finished, 1, &["root"]);
    traces.gone(&[]);
}

#[test]
fn without_the_capabilities() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    let binary = bywash::binary();
    let binary = binary.to_str().expect("a path in UTF-8");
    // Root by name, as in a container.
    for missing in ["-bpf,-sys_admin", "-net_admin,-sys_admin", "-net_raw"] {
        let finished = bed.host.run(
            "setpriv",
            &[
                "--bounding-set",
                missing,
                binary,
                "echo",
                "-p",
                "7",
                "--dev",
                &bed.host.device,
            ],
        );
        refused(&finished, 1, &["CAP_"]);
        traces.gone(&[]);
    }
}

#[test]
fn an_interface_that_is_unknown_or_down_or_not_ethernet() {
    let bed = Bed::new(Shape::default());
    refused(
        &echo_on(&bed.host, "nosuch0"),
        1,
        &["nosuch0", "there are", &bed.host.device],
    );
    refused(
        &echo_on(&bed.host, "a-name-that-is-far-too-long"),
        1,
        &["a-name-that-is-far-too-long"],
    );
    refused(&echo_on(&bed.host, "lo"), 1, &["lo", "Ethernet"]);
    ip(&[
        "-n",
        &bed.host.namespace,
        "link",
        "set",
        &bed.host.device,
        "down",
    ]);
    let set_up = format!("ip link set {} up", bed.host.device);
    echo_refused(&bed, &[], &["down", &set_up]);
}

#[test]
fn an_interface_without_an_address() {
    let bed = Bed::new(Shape::default());
    ip(&[
        "-n",
        &bed.host.namespace,
        "address",
        "flush",
        "dev",
        &bed.host.device,
    ]);
    echo_refused(&bed, &[], &["no address", "ip address add"]);
}

#[test]
fn a_queue_out_of_range() {
    let bed = Bed::new(Shape::default());
    echo_refused(&bed, &["--shards", "2"], &["queue", "ethtool -L"]);
}

#[test]
fn a_queue_without_a_shard() {
    let bed = Bed::new(Shape {
        queues: 2,
        ..Shape::default()
    });
    echo_refused(&bed, &[], &["2 receive queues", "--shards 2"]);
}

#[test]
fn cores_that_there_are_not() {
    let bed = Bed::new(Shape::default());
    echo_refused(&bed, &["--cores", "4000"], &["core 4000"]);
}

#[test]
fn a_busy_queue() {
    let bed = Bed::new(Shape::default());
    // Another AF_XDP program on queue 0, one without an XDP program on the device.
    let (held, is_held) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let device = bed.host.device.clone();
    let holder = bed.host.spawn(move || {
        let port = XskPort::open(&XskConfig::new(device, 0));
        held.send(port.as_ref().map(drop).map_err(ToString::to_string))
            .expect("the test waits");
        // Until the test is done with it.
        let _ = released.recv();
        drop(port);
    });
    is_held
        .recv()
        .expect("an answer")
        .expect("a socket on queue 0");
    echo_refused(&bed, &[], &["queue 0", "another queue"]);
    drop(release);
    holder.join().expect("no panic");
    bywash::end(bywash::serve(&bed.host, &["echo", "-p", "7"]));
}

#[test]
fn another_xdp_program() {
    let bed = Bed::new(Shape::default());
    let object = workspace::root().join("xdp-prog/bpf/demux.bpf.o");
    let object = object.to_str().expect("a path in UTF-8");
    let (namespace, device) = (bed.host.namespace.as_str(), bed.host.device.as_str());
    // Any program will do: what is attached by netlink belongs to no engine.
    for mode in ["xdpdrv", "xdpgeneric"] {
        ip(&[
            "-n", namespace, "link", "set", device, mode, "obj", object, "sec", "xdp",
        ]);
        let theirs = bed.host.link()["xdp"].clone();
        assert!(theirs.is_object(), "no program was attached");
        let finished = bywash::run(&bed.host, &["echo", "-p", "7"], LIMIT);
        refused(&finished, 1, &["already has an XDP program", "xdp off"]);
        assert_eq!(
            bed.host.link()["xdp"],
            theirs,
            "the other program was touched"
        );
        ip(&["-n", namespace, "link", "set", device, mode, "off"]);
        Traces::of(&bed.host).gone(&[]);
    }
}

#[test]
fn another_bywash_on_the_device() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    let first = bywash::serve(&bed.host, &["echo", "-p", "7"]);
    let program = traces.present();
    let second = bywash::run(&bed.host, &["echo", "-p", "4007"], LIMIT);
    refused(
        &second,
        1,
        &["another Bywash", &first.pid().to_string(), &bed.host.device],
    );
    // The first one is not disturbed.
    assert_eq!(traces.present(), program);
    bywash_tests::kernel::echo_once(&bed.peer, SocketAddr::new(bed.host.v4.into(), 7));
    bywash::end(first);
    traces.gone(&[program]);
}

#[test]
fn an_mtu_beyond_a_single_buffer() {
    let bed = Bed::new(Shape::default());
    for side in [&bed.host, &bed.peer] {
        ip(&[
            "-n",
            &side.namespace,
            "link",
            "set",
            &side.device,
            "mtu",
            "9000",
        ]);
    }
    echo_refused(&bed, &[], &["MTU 9000", "ip link set"]);
    // The peer's counts as well: its packets are the ones that arrive.
    ip(&[
        "-n",
        &bed.host.namespace,
        "link",
        "set",
        &bed.host.device,
        "mtu",
        "1500",
    ]);
    echo_refused(&bed, &[], &["MTU", "ip link set"]);
}

#[test]
fn a_port_that_the_kernel_has() {
    let bed = Bed::new(Shape::default());
    let service = KernelEcho::start(&bed.host, 7);
    echo_refused(&bed, &[], &["port 7", "taken by the kernel"]);
    bywash_tests::kernel::echo_once(&bed.peer, service.address());
}

#[test]
fn a_port_that_another_engine_has_on_another_device() {
    let bed = Bed::new(Shape::default());
    let second = bed.host.second_device(&bed.peer);
    let first = bywash::serve(&bed.host, &["echo", "-p", "7"]);
    // Each engine takes the port on its own device only, so both may have it.
    let other = bywash::serve(&second, &["echo", "-p", "7"]);
    for side in [&bed.host, &second] {
        bywash_tests::kernel::echo_once(&bed.peer, SocketAddr::new(side.v4.into(), 7));
    }
    bywash::end(other);
    bywash::end(first);
}

#[test]
fn the_kernel_cannot_take_a_port_of_ours() {
    let bed = Bed::new(Shape::default());
    let server = bywash::serve(&bed.host, &["echo", "-p", "7"]);
    let to = SocketAddr::new(bed.host.v4.into(), 7);
    let taken = bed.host.inside(move || TcpListener::bind(to).map(drop));
    assert_eq!(
        taken.expect_err("the port is reserved").kind(),
        std::io::ErrorKind::AddrInUse
    );
    bywash::end(server);
}

fn send(bed: &Bed, to: &str) -> Finished {
    let file = workspace::root().join("Cargo.toml");
    let traces = Traces::of(&bed.host);
    let finished = bywash::run(
        &bed.host,
        &[
            "send",
            file.to_str().expect("a path in UTF-8"),
            to,
            "-p",
            "9",
        ],
        Duration::from_secs(60),
    );
    traces.gone(&[]);
    finished
}

#[test]
fn nobody_to_connect_to() {
    let bed = Bed::new(Shape::default());
    refused(&send(&bed, "192.0.2.1"), 1, &["no route", "ip route"]);
    refused(&send(&bed, "2001:db8::1"), 1, &["no route", "ip route"]);
    refused(
        &send(&bed, "10.88.0.99"),
        1,
        &["10.88.0.99", "address resolution"],
    );
    refused(
        &send(&bed, "fd88::99"),
        1,
        &["fd88::99", "address resolution"],
    );
    refused(&send(&bed, &bed.peer.v4.to_string()), 1, &["refused"]);
    refused(&send(&bed, &bed.peer.v6.to_string()), 1, &["refused"]);
    refused(
        &send(&bed, &bed.host.v4.to_string()),
        1,
        &["this host's own"],
    );
    refused(&send(&bed, "224.0.0.1"), 1, &["224.0.0.1"]);
    refused(&send(&bed, "no such name"), 1, &["no such name"]);
    let second = bed.host.second_device(&bed.peer);
    refused(
        &send(&bed, "10.88.2.2"),
        1,
        &[&second.device, "this engine's device"],
    );
}

#[test]
fn peers_that_are_not_iperf3() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    // A server of another protocol that speaks first.
    let ssh = bed.peer.start(
        "socat",
        &[
            "TCP4-LISTEN:5201,reuseaddr,fork",
            "SYSTEM:printf SSH-2.0-OpenSSH_9.2; sleep 5",
        ],
    );
    let deadline = ssh.started + LIMIT;
    while !bed
        .peer
        .run("ss", &["-Hltn", "sport", "=", "5201"])
        .ok()
        .stdout
        .contains("5201")
    {
        assert!(
            std::time::Instant::now() < deadline,
            "nobody listens: {}",
            ssh.stderr()
        );
    }
    let to = bed.peer.v4.to_string();
    let finished = bywash::run(&bed.host, &["iperf3", "-c", &to, "-t", "1"], LIMIT);
    refused(&finished, 1, &["not an iperf3 server", "address and port"]);
    drop(ssh);
    let finished = bywash::run(&bed.host, &["iperf3", "-c", &to, "-t", "1"], LIMIT);
    refused(&finished, 1, &["unable to connect", "refused"]);
    traces.gone(&[]);

    // A client of another protocol: told off, and the next one is served.
    let server = bywash::serve(&bed.host, &["iperf3", "-s"]);
    let here = SocketAddr::new(bed.host.v4.into(), 5201);
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: example.org\r\nAccept: text/html, */*;q=0.8\r\n\r\n"[..],
        b"\0",
        b"",
    ] {
        bed.peer.inside(move || {
            let mut stream = bywash_tests::kernel::connect(here).expect("a connection");
            std::io::Write::write_all(&mut stream, garbage).expect("to send");
        });
    }
    let address = bed.host.v4.to_string();
    let mut report = bed.peer.run("iperf3", &["-c", &address, "-J", "-t", "1"]);
    let deadline = std::time::Instant::now() + LIMIT;
    // It may be busy with the last of those peers for a moment.
    while !report.status.success() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(500));
        report = bed.peer.run("iperf3", &["-c", &address, "-J", "-t", "1"]);
    }
    assert!(
        report.ok().json()["end"]["sum_received"]["bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes > 0)
    );
    bywash::end(server);
}

#[test]
fn files_that_cannot_be_used() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    for file in ["/nonexistent/file", "/", "/proc/version"] {
        let finished = bywash::run(&bed.host, &["recv", file, "-p", "9"], LIMIT);
        refused(&finished, 1, &["cannot write", file]);
        traces.gone(&[]);
    }
    let to = bed.peer.v4.to_string();
    for file in ["/nonexistent/file", "/"] {
        let finished = bywash::run(&bed.host, &["send", file, &to, "-p", "9"], LIMIT);
        refused(&finished, 1, &["cannot read", file]);
        traces.gone(&[]);
    }
}

#[test]
fn a_disk_that_is_full() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    let server = bywash::serve(&bed.host, &["recv", "/dev/full", "-p", "9"]);
    let to = SocketAddr::new(bed.host.v4.into(), 9);
    bed.peer.inside(move || {
        let mut stream = bywash_tests::kernel::connect(to).expect("a connection");
        // The receiver may reset before everything is taken.
        let _ = std::io::Write::write_all(&mut stream, &vec![1; 100_000]);
    });
    refused_after_ready(&server.wait(LIMIT), &["/dev/full", "space"]);
    traces.gone(&[]);
}

#[track_caller]
fn refused_after_ready(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.status.code(), Some(1), "{finished:#?}");
    for word in words {
        assert!(
            finished.stderr.contains(word),
            "the error does not say {word:?}: {finished:#?}"
        );
    }
}

#[test]
fn doctor_answers_for_good_and_bad_devices() {
    let bed = Bed::new(Shape::default());
    let good = bywash::run(&bed.host, &["doctor", "--json"], LIMIT);
    assert!(
        good.json()
            .as_array()
            .is_some_and(|findings| !findings.is_empty()),
        "{good:#?}"
    );
    let text = bywash::run(&bed.host, &["doctor"], LIMIT);
    assert!(text.stdout.contains(&bed.host.device), "{text:#?}");
    let bad = Running::start(&mut bywash::command(
        &bed.host,
        &["doctor", "--dev", "nosuch0"],
    ))
    .wait(LIMIT);
    assert_eq!(bad.status.code(), Some(1), "{bad:#?}");
    assert!(
        format!("{}{}", bad.stdout, bad.stderr).contains("nosuch0"),
        "{bad:#?}"
    );
}
