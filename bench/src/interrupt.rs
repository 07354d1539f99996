//! SIGINT and SIGTERM: commands that we started are ended, every run is cut short at its next step, and the way out is the normal
//! one, on which namespaces and programs are removed.

use std::io;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a child may take to end cleanly.
const PATIENCE: Duration = Duration::from_secs(5);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static CHILDREN: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Starts to listen for both signals.
pub(crate) fn install() -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM]).context("cannot handle SIGINT and SIGTERM")?;
    thread::spawn(move || {
        for _ in signals.forever() {
            INTERRUPTED.store(true, Ordering::Release);
            for pid in children().iter() {
                terminate(*pid);
            }
        }
    });
    Ok(())
}

/// An error once a signal has come.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Acquire) {
        bail!("interrupted");
    }
    Ok(())
}

/// Asks a process to end; one that has ended already needs no asking.
pub(crate) fn terminate(pid: u32) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
}

/// A child that is ended by a signal to us. Ended and waited for on drop.
#[derive(Debug)]
pub(crate) struct Tracked(Child);

impl Tracked {
    /// Takes care of a child that was just started.
    pub(crate) fn new(child: Child) -> Self {
        children().push(child.id());
        Self(child)
    }

    /// The child.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let pid = self.0.id();
        // Off the list first: once it is waited for, its number may belong to another process.
        children().retain(|other| *other != pid);
        if let Err(error) = end(&mut self.0) {
            eprintln!("warning: waiting for process {pid} failed: {error}");
        }
    }
}

/// Asks the child to end, and kills it if it does not.
fn end(child: &mut Child) -> io::Result<()> {
    let start = Instant::now();
    if child.try_wait()?.is_none() {
        terminate(child.id());
    }
    while child.try_wait()?.is_none() {
        if start.elapsed() > PATIENCE {
            eprintln!(
                "warning: process {} did not end on SIGTERM within {PATIENCE:?}; killed",
                child.id()
            );
            child.kill()?;
            child.wait()?;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn children() -> std::sync::MutexGuard<'static, Vec<u32>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}
