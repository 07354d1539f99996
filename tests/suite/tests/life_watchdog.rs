//! An engine that stands still gives the host back to the kernel, and takes its ports again when it goes on.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::bywash::{ConnOptions, Context, Engine, EngineConfig, Event, Port, Service};
use bywash_tests::kernel::{self, Bystanders};
use bywash_tests::process::Running;
use bywash_tests::remains::Traces;
use bywash_tests::{Bed, LIMIT, Shape, bywash};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PORT: u16 = 7;
/// How long silence is listened to.
const A_MOMENT: Duration = Duration::from_millis(300);

fn serve(bed: &Bed, more: &[&str]) -> Running {
    let arguments = [&["echo", "-p", "7"], more].concat();
    bywash::serve(&bed.host, &arguments)
}

fn address(bed: &Bed) -> SocketAddr {
    SocketAddr::new(bed.host.v4.into(), PORT)
}

/// Looks again and again until it holds.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How somebody, or nobody, answers a SYN.
fn knock(bed: &Bed) -> Option<std::io::ErrorKind> {
    knock_for(bed, LIMIT)
}

/// As [`knock`], where silence is expected, or will do.
fn knock_for(bed: &Bed, patience: Duration) -> Option<std::io::ErrorKind> {
    let to = address(bed);
    let knock = bed
        .peer
        .inside(move || TcpStream::connect_timeout(&to, patience));
    knock.err().map(|error| error.kind())
}

fn guard(engine: &Running) -> i32 {
    let report = bywash::ss(engine);
    let pid = report["watchdog"]["guard"].as_i64();
    i32::try_from(pid.unwrap_or_else(|| panic!("no guard: {report:#}"))).expect("a pid")
}

fn process(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

#[test]
fn a_stopped_engine_gives_the_host_back_and_goes_on_later() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    let bystanders = Bystanders::start(&bed.host, &bed.peer);
    let server = serve(&bed, &["--watchdog", "1"]);
    let first = traces.present();
    let to = address(&bed);
    let mut quiet: TcpStream = bed.peer.inside(move || {
        let mut stream = kernel::connect(to).expect("a connection");
        kernel::converse(&mut stream, 1, 3, 3000).expect("an echo");
        stream
    });
    // Twice: the watchdog is armed again.
    for round in 1..=2u64 {
        let guard = guard(&server);
        server.signal(Signal::SIGSTOP);
        until("the program is off", || traces.program().is_none());
        assert_eq!(
            knock(&bed),
            Some(std::io::ErrorKind::ConnectionRefused),
            "the kernel does not answer for the port"
        );
        bystanders.wait_for(3);
        server.signal(Signal::SIGCONT);
        until("the program is on again", || traces.program().is_some());
        until("somebody serves again", || {
            knock_for(&bed, A_MOMENT).is_none()
        });
        kernel::echo_once(&bed.peer, to);
        // A connection whose peer said nothing in the meantime was not reset by the kernel.
        quiet = bed.peer.inside(move || {
            kernel::converse(&mut quiet, round, 3, 3000).expect("an echo");
            quiet
        });
        let report = bywash::ss(&server);
        assert_eq!(report["watchdog"]["detached"], round, "{report:#}");
        assert!(!process(guard).exists(), "a process or a zombie is left");
        let said = server.stderr();
        assert_eq!(
            said.matches("its XDP program was detached").count() as u64,
            round,
            "not told of: {said}"
        );
        assert!(
            said.contains("bywash guard: the engine"),
            "not told of: {said}"
        );
    }
    bystanders.undisturbed();
    let last = guard(&server);
    server.end_by(Signal::SIGTERM, LIMIT).ok();
    traces.gone(&[first]);
    assert!(!process(last).exists(), "the guard outlives its engine");
}

#[test]
fn a_killed_guard_is_replaced_and_nothing_is_detached() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    let server = serve(&bed, &["--watchdog", "1"]);
    let program = traces.present();
    let killed = guard(&server);
    kill(Pid::from_raw(killed), Signal::SIGKILL).expect("a guard");
    until("another guard", || {
        let report = bywash::ss(&server);
        report["watchdog"]["guards_lost"] == 1
            && report["watchdog"]["guard"]
                .as_i64()
                .is_some_and(|pid| pid != i64::from(killed))
    });
    assert_eq!(traces.program(), Some(program));
    kernel::echo_once(&bed.peer, address(&bed));
    server.end_by(Signal::SIGTERM, LIMIT).ok();
    traces.gone(&[program]);
}

#[test]
fn a_dead_engine_takes_its_guard_along_and_the_program_if_that_is_wished() {
    for (more, answer) in [
        (&["--on-death", "keep"][..], std::io::ErrorKind::TimedOut),
        (
            &["--on-death", "detach"],
            std::io::ErrorKind::ConnectionRefused,
        ),
        (
            &["--on-death", "detach", "--watchdog", "off"],
            std::io::ErrorKind::ConnectionRefused,
        ),
    ] {
        let bed = Bed::new(Shape::default());
        let traces = Traces::of(&bed.host);
        let server = serve(&bed, more);
        let program = traces.present();
        let guard = guard(&server);
        server.end_by(Signal::SIGKILL, LIMIT);
        until("the guard has ended", || !process(guard).exists());
        let patience = match answer {
            std::io::ErrorKind::TimedOut => A_MOMENT,
            _ => LIMIT,
        };
        assert_eq!(knock_for(&bed, patience), Some(answer), "{more:?}");
        // Either way the next one serves, and cleans up.
        let next = serve(&bed, &[]);
        kernel::echo_once(&bed.peer, address(&bed));
        bywash::end(next);
        traces.gone(&[program]);
    }
}

#[test]
fn without_a_watchdog_there_is_no_guard() {
    let bed = Bed::new(Shape::default());
    let server = serve(&bed, &["--watchdog", "off"]);
    let report = bywash::ss(&server);
    assert!(report["watchdog"].is_null(), "{report:#}");
    let children = format!("/proc/{0}/task/{0}/children", server.pid());
    let children = std::fs::read_to_string(children).expect("a process");
    assert_eq!(children.trim(), "", "a child process");
    bywash::end(server);
}

/// Listens, and stands still in the middle of an event for as long as it is told to.
struct Hanging(Arc<AtomicBool>);

impl Service for Hanging {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                cx.listen(PORT, ConnOptions::default())
                    .expect("the port is free");
            }
            Event::Stopping => cx.stop(),
            _ => {
                while self.0.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }
}

/// Lets the shard go on.
struct Release(Arc<AtomicBool>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The process lives, its shard does not: an embedder's service that blocks, or a fault of ours.
#[test]
fn one_hanging_shard_gives_the_host_back_as_well() {
    let bed = Bed::new(Shape::default());
    let traces = Traces::of(&bed.host);
    let hang = Arc::new(AtomicBool::new(false));
    let mut config = EngineConfig::new(&*bed.host.device);
    config.watchdog = Some(Duration::from_secs(1));
    let seen = hang.clone();
    let engine = bed
        .host
        .inside(move || Engine::start(config, |_shard| Hanging(seen.clone())))
        .expect("an engine");
    // Dropped before the engine, whose end waits for its shard, also after a failure.
    let release = Release(hang.clone());
    let program = traces.present();
    assert_eq!(knock(&bed), None);
    hang.store(true, Ordering::Relaxed);
    // Whatever happens next hangs: the end of the first connection, or the begin of this one.
    let _either_way = knock_for(&bed, A_MOMENT);
    until("the program is off", || traces.program().is_none());
    assert_eq!(
        knock(&bed),
        Some(std::io::ErrorKind::ConnectionRefused),
        "the kernel does not answer for the port"
    );
    drop(release);
    until("the program is on again", || traces.program().is_some());
    until("it serves again", || knock_for(&bed, A_MOMENT).is_none());
    engine.stop();
    engine.join().expect("an orderly end");
    traces.gone(&[program]);
}
