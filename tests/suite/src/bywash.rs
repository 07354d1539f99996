//! The `bywash` command as its users see it: the release binary, its ready line, its `ss`.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::process::{Finished, Running};
use crate::{LIMIT, Side, workspace};

/// The release binary: the one named by `BYWASH_BIN`, or the one in this target directory.
///
/// # Panics
/// If there is none: tests of an absent program must not pass.
#[track_caller]
pub fn binary() -> PathBuf {
    let path = match std::env::var_os("BYWASH_BIN") {
        Some(path) => PathBuf::from(path),
        None => workspace::target().join("release/bywash"),
    };
    assert!(
        path.is_file(),
        "{} is not there: `cargo build --release`, or run ./tests/run.sh, which builds it",
        path.display()
    );
    path
}

/// The command with these arguments, to run on this side.
pub fn command(side: &Side, arguments: &[&str]) -> Command {
    let mut command = side.command(binary());
    command.args(arguments);
    command
}

/// Runs it to its end. `--dev` is added.
#[track_caller]
pub fn run(side: &Side, arguments: &[&str], limit: Duration) -> Finished {
    let finished = start(side, arguments).wait(limit);
    assert!(!finished.stderr.contains("panicked"), "{finished:#?}");
    finished
}

/// Starts it. `--dev` is added.
#[track_caller]
pub fn start(side: &Side, arguments: &[&str]) -> Running {
    Running::start(command(side, arguments).args(["--dev", &side.device]))
}

/// Starts a server and waits until it says that it serves.
#[track_caller]
pub fn serve(side: &Side, arguments: &[&str]) -> Running {
    let mut server = start(side, arguments);
    let line = ready(&mut server);
    assert!(
        line.contains(&side.v4.to_string()),
        "the ready line lacks the address {}: {line}",
        side.v4
    );
    server
}

/// Waits for the ready line.
#[track_caller]
pub fn ready(server: &mut Running) -> String {
    server.line(LIMIT, |line| {
        line.contains("serving") || line.contains("listening")
    })
}

/// Asks a server to end; it must do so with status 0, and without a panic or an error on its way.
#[track_caller]
pub fn end(server: Running) -> Finished {
    let finished = server.end_by(Signal::SIGTERM, LIMIT).ok();
    assert!(!finished.stderr.contains("panicked"), "{finished:#?}");
    assert!(!finished.stderr.contains("ERROR"), "{finished:#?}");
    finished
}

/// What `bywash ss --json` says of the engine with this process id.
#[track_caller]
pub fn ss(engine: &Running) -> Value {
    let reports = Running::start(Command::new(binary()).args(["ss", "--json"])).wait(LIMIT);
    // Other engines may be on this host, and one that ends while it is asked makes the status 1.
    let all: Value = reports.json();
    let own = all
        .as_array()
        .and_then(|all| all.iter().find(|one| one["pid"] == engine.pid()));
    own.unwrap_or_else(|| panic!("ss does not show pid {}: {reports:#?}", engine.pid()))
        .clone()
}

/// Sum over the shards of a report of something that is counted in each.
pub fn over_shards(report: &Value, count: impl Fn(&Value) -> u64) -> u64 {
    report["shards"]
        .as_array()
        .expect("shards")
        .iter()
        .map(count)
        .sum()
}

/// Sum of a map of counters.
pub fn total(counters: &Value) -> u64 {
    counters
        .as_object()
        .expect("counters by name")
        .values()
        .filter_map(Value::as_u64)
        .sum()
}
