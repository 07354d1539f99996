//! Fifty engines that are killed at seeded moments, in their start and under load, each followed by the next.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bywash_tests::kernel::{self, Bystanders, Random, counter};
use bywash_tests::remains::Traces;
use bywash_tests::{Bed, LIMIT, Shape, Side, bywash};
use nix::sys::signal::Signal;

const PORT: u16 = 7;
const KILLS: usize = 50;
const CLIENTS: u64 = 4;

/// Clients that talk to whatever engine there is, and try again when it dies.
struct Load {
    stop: Arc<AtomicBool>,
    talks: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(bed: &Bed) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let talks = Arc::new(AtomicU64::new(0));
        let to = SocketAddr::new(bed.host.v4.into(), PORT);
        let client = |seed| {
            let (stop, talks) = (stop.clone(), talks.clone());
            bed.peer.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if talk(to, seed).is_ok() {
                        talks.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Self {
            stop,
            talks,
            threads,
        }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no panic");
        }
    }
}

/// A conversation that an engine's death may cut short.
fn talk(to: SocketAddr, seed: u64) -> std::io::Result<()> {
    let patience = Duration::from_millis(100);
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    kernel::converse(&mut stream, seed, 20, 20_000)
}

/// Processes that live in a side's network namespace, by name.
fn inhabitants(side: &Side) -> Vec<String> {
    let namespace = std::fs::metadata(Path::new("/run/netns").join(&side.namespace))
        .expect("a namespace of this bed")
        .ino();
    let processes = std::fs::read_dir("/proc").expect("/proc");
    processes
        .flatten()
        .filter(|entry| {
            let other = std::fs::metadata(entry.path().join("ns/net"));
            other.is_ok_and(|other| other.ino() == namespace)
        })
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

/// The kernel's TCP sockets in a namespace, without those in TIME-WAIT.
fn sockets(side: &Side) -> u64 {
    side.inside(|| {
        let text = std::fs::read_to_string("/proc/thread-self/net/sockstat").expect("counts");
        let tcp = text
            .lines()
            .find_map(|line| line.strip_prefix("TCP: inuse "));
        let count = tcp.and_then(|rest| rest.split_whitespace().next());
        count.expect("a count").parse().expect("a number")
    })
}

#[test]
fn killed_fifty_times_and_nothing_is_lost_or_left() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    let mut random = Random::new(0x5eed);
    let sockets_before = sockets(&bed.host);
    let mut programs = BTreeSet::new();

    // One that runs: from now on there is always a program that keeps the kernel quiet.
    let mut engine = bywash::serve(&bed.host, &["echo", "-p", "7"]);
    let bystanders = Bystanders::start(&bed.host, &bed.peer);
    let load = Load::start(&bed);
    bystanders.wait_for(1);
    let resets_before = counter(&bed.host, "Tcp", "OutRsts");
    let began = Instant::now();
    let mut unready = 0;
    for kill in 0..KILLS {
        // Every other one in its start, which takes some 100 ms.
        let moment = Duration::from_micros(random.below(150_000) as u64);
        if kill % 2 == 1 {
            bywash::ready(&mut engine);
        }
        std::thread::sleep(moment);
        if !engine.stdout().contains("serving") {
            unready += 1;
        }
        programs.insert(traces.present());
        let killed = engine.end_by(Signal::SIGKILL, LIMIT);
        assert!(!killed.stderr.contains("panicked"), "{killed:#?}");
        assert!(!killed.stderr.contains("ERROR"), "{killed:#?}");
        programs.insert(traces.present());
        assert_eq!(
            counter(&bed.host, "Tcp", "OutRsts"),
            resets_before,
            "kill {kill} after {moment:?}: the kernel reset a peer"
        );
        engine = bywash::start(&bed.host, &["echo", "-p", "7"]);
    }
    println!(
        "{KILLS} kills, {unready} of them before the ready line, in {:?}",
        began.elapsed()
    );
    assert!((5..KILLS).contains(&unready), "{unready} kills in a start");

    bywash::ready(&mut engine);
    kernel::echo_once(&bed.peer, SocketAddr::new(bed.host.v4.into(), PORT));
    // Engines that live for 75 ms on a busy machine may have ended no conversation; this one lives.
    let deadline = Instant::now() + LIMIT;
    while load.talks.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < deadline, "nobody was ever served");
        std::thread::sleep(Duration::from_millis(10));
    }
    load.stop();
    bystanders.wait_for(3);
    bystanders.undisturbed();
    bywash::end(engine);
    let programs: Vec<u64> = programs.into_iter().collect();
    traces.gone(&programs);
    let left = inhabitants(&bed.host);
    assert!(left.is_empty(), "processes are left: {left:?}");
    assert_eq!(sockets(&bed.host), sockets_before, "the kernel's sockets");
    for port in [PORT, 61440, 65535] {
        let to = SocketAddr::new(bed.host.v4.into(), port);
        bed.host
            .inside(move || TcpListener::bind(to))
            .unwrap_or_else(|error| panic!("port {port}: {error}"));
    }
}
