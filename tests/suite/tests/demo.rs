//! `deploy/demo.sh`: what it shows, and that nothing is left of it however it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bywash_tests::bed::turn;
use bywash_tests::process::Running;
use bywash_tests::{LIMIT, bywash, workspace};
use nix::sys::signal::Signal;

const DEMO_TIME: Duration = Duration::from_secs(90);

fn demo() -> Running {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the demo's own path needs root: run ./tests/run.sh as root"
    );
    let script = workspace::root().join("deploy/demo.sh");
    // Tests that run in the background of a shell ignore SIGINT, and what is ignored at its start a script cannot trap.
    Running::start(
        Command::new("env")
            .args(["--default-signal=INT,TERM"])
            .arg(script)
            .env("BYWASH", bywash::binary())
            .env("SECONDS_EACH", "1"),
    )
}

/// Namespaces and engines of the demo with this process id.
fn remains(pid: u32) -> Vec<String> {
    let namespaces = fs::read_dir("/run/netns").map(|entries| {
        let names = entries.map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        });
        names
            .filter(|name| name.starts_with(&format!("bywash-demo-{pid}-")))
            .collect()
    });
    // No such folder: no namespace was ever made.
    namespaces.unwrap_or_default()
}

/// Names of the engines that run on a device of a demo.
fn engines_of_demos() -> usize {
    let reports = Running::start(Command::new(bywash::binary()).args(["ss", "--json"]))
        .wait(LIMIT)
        .json();
    reports
        .as_array()
        .expect("reports")
        .iter()
        .filter(|report| report["device"] == "bywash0")
        .count()
}

#[test]
fn it_shows_goodput_percentiles_and_ss() {
    let _turn = turn();
    let demo = demo();
    let pid = demo.pid();
    let finished = demo.wait(DEMO_TIME).ok();
    assert_eq!(
        finished.stdout.matches("goodput: ").count(),
        2,
        "{finished:#?}"
    );
    assert!(!finished.stdout.contains("goodput: 0 "), "{finished:#?}");
    for shown in [
        "p50",
        "p99 ",
        "p99.9",
        "ESTABLISHED",
        "LISTEN",
        " 0% packet loss",
    ] {
        assert!(finished.stdout.contains(shown), "no {shown}: {finished:#?}");
    }
    assert_eq!(remains(pid), Vec::<String>::new());
    assert_eq!(engines_of_demos(), 0);
}

#[test]
fn interrupted_anywhere_it_leaves_nothing() {
    let _turn = turn();
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        for moment in [
            "two namespaces",
            "Server listening",
            "goodput",
            "STATE",
            "ping-pong",
        ] {
            let mut demo = demo();
            let pid = demo.pid();
            demo.line(DEMO_TIME, |line| line.contains(moment));
            demo.signal(signal);
            let began = Instant::now();
            let finished = demo.wait(LIMIT);
            assert_eq!(
                finished.status.code(),
                Some(status),
                "at {moment:?}, after {:?}: {finished:#?}",
                began.elapsed()
            );
            assert!(
                !finished.stderr.contains("is killed"),
                "a program did not end at {moment:?}: {finished:#?}"
            );
            assert_eq!(remains(pid), Vec::<String>::new(), "at {moment:?}");
            assert_eq!(engines_of_demos(), 0, "at {moment:?}");
        }
    }
}

/// A copy of script and binary that everybody may read, removed with it.
struct Copy(PathBuf);

impl Copy {
    fn new() -> Self {
        let folder = Path::new("/tmp").join(format!("bwt{}-demo", std::process::id()));
        fs::create_dir_all(folder.join("deploy")).expect("a folder");
        let copy = Self(folder);
        copy.add(&workspace::root().join("deploy/demo.sh"), "deploy/demo.sh");
        copy.add(&bywash::binary(), "bywash");
        copy
    }

    fn add(&self, from: &Path, to: &str) {
        fs::copy(from, self.0.join(to)).expect("a copy");
        fs::set_permissions(self.0.join(to), fs::Permissions::from_mode(0o755))
            .expect("to open it");
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("WARNING: {} is left behind: {error}", self.0.display());
        }
    }
}

#[test]
fn without_root_it_says_so_first_and_runs_in_memory() {
    let _turn = turn();
    let copy = Copy::new();
    let mut command = Command::new(copy.0.join("deploy/demo.sh"));
    if nix::unistd::geteuid().is_root() {
        command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(copy.0.join("deploy/demo.sh"));
    }
    let demo = Running::start(
        command
            .env("BYWASH", copy.0.join("bywash"))
            .env("SECONDS_EACH", "1"),
    );
    let finished = demo.wait(DEMO_TIME).ok();
    let first = finished.stdout.lines().next().unwrap_or_default();
    assert!(
        first.contains("not root") && first.contains("in-memory wire"),
        "{finished:#?}"
    );
    for shown in ["bits/sec", "p50", "p99.9", "ESTABLISHED"] {
        assert!(finished.stdout.contains(shown), "no {shown}: {finished:#?}");
    }
}
