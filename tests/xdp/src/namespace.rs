//! A network namespace for the calling thread, with nothing of the host in it, gone when the thread ends.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};

/// Moves the calling thread, and what it starts from now on, into a new network namespace.
///
/// # Panics
/// Without the rights: a test that cannot run must not look as if it had.
pub fn enter() {
    unshare(CloneFlags::CLONE_NEWNET)
        .expect("a network namespace of its own: these tests need root");
}

/// A veth pair in this thread's namespace, both ends up, with this many queues; answers the index of the first.
pub fn veth(name: &str, peer: &str, queues: u32) -> Result<u32> {
    let queues = queues.to_string();
    let both = ["numrxqueues", &queues, "numtxqueues", &queues];
    let mut arguments = vec!["link", "add", name];
    arguments.extend(both);
    arguments.extend(["type", "veth", "peer", "name", peer]);
    arguments.extend(both);
    ip(&arguments)?;
    ip(&["link", "set", "dev", name, "up"])?;
    ip(&["link", "set", "dev", peer, "up"])?;
    ifindex(name)
}

/// Index of an interface of this thread's namespace.
pub fn ifindex(name: &str) -> Result<u32> {
    // /sys shows the namespace in which it was mounted; if_nametoindex asks this one.
    nix::net::if_::if_nametoindex(name).with_context(|| format!("index of {name}"))
}

/// Runs `ip` in this thread's namespace; answers what it prints.
pub fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("running `ip` (Debian: `apt-get install iproute2`)")?;
    ensure!(
        output.status.success(),
        "`ip {}`: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Root directory of the mount namespace in which the loader keeps its pins: pid 1's, or, where a container refuses that one, ours.
pub fn pins_root() -> &'static Path {
    let host = Path::new("/proc/1/root");
    if File::open("/proc/1/ns/mnt").is_ok() {
        host
    } else {
        Path::new("/")
    }
}

/// Lines of the mount table of [`pins_root`]'s namespace that name the path.
pub fn mounts_below(path: &str) -> Result<Vec<String>> {
    let table = if pins_root() == Path::new("/") {
        "/proc/self/mounts"
    } else {
        "/proc/1/mounts"
    };
    let table = fs::read_to_string(table).context("reading the mount table")?;
    let lines = table.lines().filter(|line| line.contains(path));
    Ok(lines.map(str::to_owned).collect())
}
