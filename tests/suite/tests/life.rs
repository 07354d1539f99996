//! An engine's death and end: what stays with the kernel goes on, and nothing is left behind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bywash_tests::frames::{self, Segment, Wire, flags};
use bywash_tests::kernel::{self, Bystanders, counter};
use bywash_tests::process::Running;
use bywash_tests::remains::Traces;
use bywash_tests::{Bed, LIMIT, Shape, bywash};
use nix::sys::signal::Signal;

const PORT: u16 = 7;

fn echo_server(bed: &Bed) -> Running {
    bywash::serve(&bed.host, &["echo", "-p", &PORT.to_string()])
}

fn address(bed: &Bed) -> SocketAddr {
    SocketAddr::new(bed.host.v4.into(), PORT)
}

/// Segments of connections that only a dead engine knew, one every millisecond.
struct Peers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Peers {
    fn start(bed: &Bed) -> Self {
        let frame = Segment {
            macs: (frames::mac(&bed.host.link()), frames::mac(&bed.peer.link())),
            addresses: (bed.peer.v4.into(), bed.host.v4.into()),
            ports: (1025, PORT),
            numbers: (1, 1),
            flags: flags::ACK,
            options: Vec::new(),
            payload: b"still here".to_vec(),
        };
        let (frame, device) = (frame.frame(), bed.peer.device.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = bed.peer.spawn(move || {
            let wire = Wire::open(&device);
            while !stopped.load(Ordering::Relaxed) {
                assert!(wire.send(&frame), "the device did not take a frame");
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
    }
}

#[test]
fn killed_and_back_within_a_second_while_the_host_goes_on() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    let bystanders = Bystanders::start(&bed.host, &bed.peer);
    let server = echo_server(&bed);
    let to = address(&bed);
    let mut lasting: TcpStream = bed.peer.inside(move || {
        let mut stream = kernel::connect(to).expect("a connection");
        kernel::converse(&mut stream, 1, 10, 3000).expect("an echo");
        stream
    });
    bystanders.wait_for(3);

    let resets = || counter(&bed.host, "Tcp", "OutRsts");
    let resets_before = resets();
    let first = traces.present();
    let killed = server.end_by(Signal::SIGKILL, LIMIT);
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&killed.status),
        Some(9)
    );

    // Dead: neither a segment of an old connection nor a new SYN may reach the kernel, which would answer with resets. Peers do not
    // stop sending while an engine starts, so neither do these.
    let peers = Peers::start(&bed);
    lasting
        .write_all(b"is anybody there?")
        .expect("the kernel's buffer takes it");
    let knock = bed
        .peer
        .inside(move || TcpStream::connect_timeout(&to, Duration::from_millis(300)));
    assert_eq!(
        knock.expect_err("nobody is there").kind(),
        std::io::ErrorKind::TimedOut
    );
    bystanders.wait_for(3);
    assert_eq!(
        resets(),
        resets_before,
        "the kernel reset a peer of the dead engine"
    );
    assert_eq!(
        traces.present(),
        first,
        "the demultiplexer stays to keep the kernel quiet"
    );

    let mut server = bywash::start(&bed.host, &["echo", "-p", &PORT.to_string()]);
    bywash::ready(&mut server);
    let took = server.started.elapsed();
    // Other programs' time is not the engine's.
    let waited = server.waited_for_a_cpu();
    println!("from exec to the ready line: {took:?}, {waited:?} of it without a CPU");
    assert!(
        took.saturating_sub(waited) < Duration::from_secs(1),
        "the engine was back after {took:?}, {waited:?} of it without a CPU"
    );
    peers.stop();
    kernel::echo_once(&bed.peer, to);
    // The new engine does not know the old connection, and says so.
    let end = lasting.read(&mut [0; 64]);
    assert!(
        end.as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset),
        "the old connection was not reset: {end:?}"
    );
    bystanders.wait_for(3);
    assert_eq!(resets(), resets_before, "the kernel sent resets");
    bystanders.undisturbed();
    let second = traces.present();
    bywash::end(server);
    traces.gone(&[first, second]);
}

#[test]
fn a_start_is_quick_and_the_end_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let bed = Bed::new(Shape::default());
        let traces = Traces::of(&bed.host);
        traces.gone(&[]);
        let server = echo_server(&bed);
        let program = traces.present();
        kernel::echo_once(&bed.peer, address(&bed));
        server.end_by(signal, LIMIT).ok();
        traces.gone(&[program]);
        // The port is the kernel's again.
        let to = address(&bed);
        bed.host
            .inside(move || TcpListener::bind(to))
            .unwrap_or_else(|error| panic!("after {signal}: {error}"));
    }
}

#[test]
fn a_signal_under_load_ends_it_as_cleanly() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let bed = Bed::new(Shape::default());
        let traces = Traces::of(&bed.host);
        let server = bywash::serve(&bed.host, &["iperf3", "-s"]);
        let program = traces.present();
        let to = bed.host.v4.to_string();
        let client = bed
            .peer
            .start("iperf3", &["-c", &to, "-t", "20", "-P", "4"]);
        wait_for_streams(&server, 5);
        let finished = server.end_by(signal, LIMIT).ok();
        assert!(!finished.stderr.contains("panicked"), "{finished:#?}");
        traces.gone(&[program]);
        let client = client.wait(LIMIT);
        assert!(
            !client.status.success(),
            "the client did not notice: {client:#?}"
        );
    }
}

fn wait_for_streams(server: &Running, count: u64) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let report = bywash::ss(server);
        let open = bywash::over_shards(&report, |shard| {
            shard["connections"]
                .as_array()
                .expect("connections")
                .iter()
                .filter(|one| one["state"] == "ESTABLISHED")
                .count() as u64
        });
        if open >= count {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{open} of {count} connections: {report:#}"
        );
    }
}

/// A signal in the middle of the start must not leave half of one.
#[test]
fn a_signal_during_the_start_leaves_nothing() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    // Closely spaced while handlers are installed, then to well after the ready line.
    let early = (0..40).map(|step| step * 100);
    let later = [5, 10, 20, 30, 45, 60, 90, 130, 200, 300].map(|ms| ms * 1000);
    for delay in early.chain(later) {
        let server = bywash::start(&bed.host, &["echo", "-p", &PORT.to_string()]);
        std::thread::sleep(Duration::from_micros(delay));
        let finished = server.end_by(Signal::SIGTERM, LIMIT);
        // Before its handler stands, the signal's own effect is the end: nothing was attached by then.
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&finished.status) == Some(15);
        assert!(
            finished.status.success() || by_signal,
            "after {delay} us: {finished:#?}"
        );
        traces.gone(&[]);
    }
}

#[test]
fn a_client_leaves_nothing_either() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    let mut server = bed.peer.start("iperf3", &["-s", "--forceflush"]);
    server.line(LIMIT, |line| line.contains("Server listening"));
    let to = bed.peer.v4.to_string();
    bywash::run(&bed.host, &["iperf3", "-c", &to, "-t", "1"], LIMIT).ok();
    traces.gone(&[]);
    let client = bywash::start(&bed.host, &["iperf3", "-c", &to, "-t", "30"]);
    let deadline = Instant::now() + LIMIT;
    while !client.stdout().contains("sec") {
        assert!(
            Instant::now() < deadline,
            "no interval within {LIMIT:?}: {}",
            client.stderr()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let program = traces.present();
    let finished = client.end_by(Signal::SIGINT, LIMIT);
    assert_eq!(finished.status.code(), Some(130), "{finished:#?}");
    traces.gone(&[program]);
}

/// A killed engine's remains are cleaned up by the next one's end, on whatever port that one serves.
#[test]
fn the_next_engine_cleans_up_after_a_killed_one() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    let server = echo_server(&bed);
    let first = traces.present();
    server.end_by(Signal::SIGKILL, LIMIT);
    let server = bywash::serve(&bed.host, &["echo", "-p", "4007"]);
    kernel::echo_once(&bed.peer, SocketAddr::new(bed.host.v4.into(), 4007));
    // The dead engine's port is nobody's now: the kernel refuses.
    let to = address(&bed);
    let refused = bed
        .peer
        .inside(move || TcpStream::connect_timeout(&to, LIMIT));
    assert_eq!(
        refused.expect_err("nobody listens").kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    bywash::end(server);
    traces.gone(&[first]);
}

#[test]
fn addresses_that_come_and_go_are_followed() {
    let bed = Bed::new(Shape::default());
    let server = echo_server(&bed);
    let new: std::net::IpAddr = "10.88.0.77".parse().expect("an address");
    bywash_tests::bed::ip(&[
        "-n",
        &bed.host.namespace,
        "address",
        "add",
        "10.88.0.77/24",
        "dev",
        &bed.host.device,
    ]);
    let to = SocketAddr::new(new, PORT);
    let deadline = Instant::now() + LIMIT;
    // Until the engine has heard of it, the kernel answers for the port, and refuses.
    while bed
        .peer
        .inside(move || TcpStream::connect_timeout(&to, LIMIT))
        .is_err()
    {
        assert!(Instant::now() < deadline, "the new address is not served");
        std::thread::sleep(Duration::from_millis(10));
    }
    kernel::echo_once(&bed.peer, to);
    bywash::end(server);
}

#[test]
fn generic_xdp_serves_and_leaves_nothing() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    let server = bywash::serve(
        &bed.host,
        &["echo", "-p", &PORT.to_string(), "--xdp", "generic"],
    );
    let program = traces.present();
    let report = bywash::ss(&server);
    assert_eq!(report["xdp_mode"], "generic", "{report:#}");
    kernel::echo_once(&bed.peer, address(&bed));
    bywash::end(server);
    traces.gone(&[program]);
}
