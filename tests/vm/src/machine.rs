//! The guest itself: mounts, modules, and two namespaces with a NIC each.
//!
//! ```text
//! namespace "host"  eth0 10.99.0.1 --+
//!                                    hub (QEMU)
//! namespace "peer"  eth1 10.99.0.2 --+
//! ```
//! A namespace is a thread that has left the first one, with all threads and processes that it starts.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::Outcome;

/// Runs one of busybox's programs to its end; what it said is the error if it failed.
pub(crate) fn busybox(arguments: &[&str]) -> Outcome<String> {
    output(Command::new("/bin/busybox").args(arguments))
}

/// Runs a program to its end and gives what it wrote.
pub(crate) fn output(command: &mut Command) -> Outcome<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    match done.status.success() {
        true => Ok(text),
        false => Err(format!("{command:?}: {}: {text}", done.status)),
    }
}

/// Mounts what a machine has, and loads the modules of `/modules` in the order of their names.
pub(crate) fn start() -> Outcome<()> {
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
    ] {
        fs::create_dir_all(place).map_err(|error| format!("{place}: {error}"))?;
        mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .map_err(|error| format!("mount {place}: {error}"))?;
    }
    let failed = |error| format!("/modules: {error}");
    let mut modules = BTreeSet::new();
    for entry in fs::read_dir("/modules").map_err(failed)? {
        modules.insert(entry.map_err(failed)?.path());
    }
    for module in modules {
        busybox(&["insmod", &module.to_string_lossy()])?;
    }
    Ok(())
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with one NIC.
pub(crate) struct Side {
    /// Its NIC.
    pub(crate) device: &'static str,
    /// The NIC's address.
    pub(crate) address: Ipv4Addr,
    /// Its driver.
    pub(crate) driver: String,
    /// Its receive queues.
    pub(crate) queues: usize,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Side {
    /// A new namespace, which takes the NIC with it.
    pub(crate) fn new(device: &'static str, last: u8) -> Outcome<Self> {
        let (jobs, todo) = channel::<Job>();
        let (told, entered) = channel();
        let thread = std::thread::spawn(move || {
            let outcome = enter();
            let failed = outcome.is_err();
            let waiting = told.send(outcome).is_ok();
            if failed || !waiting {
                return;
            }
            for job in todo {
                job();
            }
        });
        let driver = driver(device)?;
        let queues = queues(device)?;
        let task = entered
            .recv()
            .map_err(|_| "a namespace's thread died".to_owned())??;
        busybox(&["ip", "link", "set", device, "netns", &task.to_string()])?;
        let side = Self {
            device,
            address: Ipv4Addr::new(10, 99, 0, last),
            driver,
            queues,
            jobs: Some(jobs),
            thread: Some(thread),
        };
        side.ip(&["link", "set", "lo", "up"])?;
        let address = format!("{}/24", side.address);
        side.ip(&["address", "add", &address, "dev", device])?;
        side.ip(&["link", "set", device, "up"])?;
        Ok(side)
    }

    /// Runs `job` in the namespace and gives its result; threads and processes that it starts stay there.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Outcome<T> {
        let (result, done) = channel();
        let jobs = self.jobs.as_ref().ok_or("the namespace is gone")?;
        jobs.send(Box::new(move || {
            // Whoever asked waits below.
            let _ = result.send(job());
        }))
        .map_err(|_| "the namespace's thread died".to_owned())?;
        done.recv()
            .map_err(|_| "a job in a namespace panicked".to_owned())
    }

    /// `ip ..` in the namespace.
    pub(crate) fn ip(&self, arguments: &[&str]) -> Outcome<String> {
        let mut line: Vec<String> = vec!["ip".to_owned()];
        line.extend(arguments.iter().map(|one| (*one).to_owned()));
        self.run(move || busybox(&line.iter().map(String::as_str).collect::<Vec<_>>()))?
    }

    /// Starts a thread in the namespace.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Outcome<JoinHandle<T>> {
        self.run(move || std::thread::spawn(work))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a namespace's thread panicked");
        }
    }
}

/// The driver of a device of this namespace.
fn driver(device: &str) -> Outcome<String> {
    let link = format!("/sys/class/net/{device}/device/driver");
    let target = fs::read_link(&link).map_err(|error| format!("{link}: {error}"))?;
    let name = target.file_name().unwrap_or_default();
    Ok(name.to_string_lossy().into_owned())
}

fn queues(device: &str) -> Outcome<usize> {
    let folder = format!("/sys/class/net/{device}/queues");
    let failed = |error| format!("{folder}: {error}");
    let mut count = 0;
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        count += usize::from(name.to_string_lossy().starts_with("rx-"));
    }
    Ok(count)
}

/// Leaves the first namespaces, and gives the number by which `ip` finds the new one. `/sys` shows the namespace that
/// mounted it, so it is mounted again.
fn enter() -> Outcome<i32> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|error| format!("unshare: {error}"))?;
    mount(
        Some("sysfs"),
        "/sys",
        Some("sysfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .map_err(|error| format!("mount /sys: {error}"))?;
    Ok(nix::unistd::gettid().as_raw())
}
