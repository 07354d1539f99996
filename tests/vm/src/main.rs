//! The first and only program of the guest that `tests/zero-copy.sh` boots: it is `/init`.
//!
//! ```text
//! machine   mounts, modules, two namespaces with a NIC each
//! engine    Bywash in one of them, with the service of `mirror`
//! traffic   the other end: the guest kernel's TCP, or Bywash
//! cases     what is asserted;  modes: what differs by driver, mode and kernel
//! ```
//! What is found goes to the serial console, one line each, which the script reads:
//!
//! ```text
//! VM ok NAME: what was seen          VM FAIL NAME: why          VM row | a | line | of the table |
//! VM note TEXT                       VM end N ok, M failed
//! ```
//! The kernel's command line says what to run (`bywash_run=short`): it becomes this program's environment.

mod cases;
mod engine;
mod machine;
mod mirror;
mod modes;
mod traffic;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use machine::Side;

/// A value, or what went wrong in words.
pub(crate) type Outcome<T> = Result<T, String>;

/// Both ends, and what came out so far.
pub(crate) struct Guest {
    pub(crate) host: Side,
    pub(crate) peer: Side,
    /// The whole list, or the short one.
    pub(crate) whole: bool,
    ok: u32,
    failed: u32,
}

impl Guest {
    /// Runs one case and tells the console.
    pub(crate) fn case(&mut self, name: &str, case: impl FnOnce(&Self) -> Outcome<String>) {
        let begin = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| case(self)))
            .unwrap_or_else(|_| Err("panicked; its message is above".to_owned()));
        let time = begin.elapsed().as_secs_f32();
        match outcome {
            Ok(text) => {
                self.ok += 1;
                println!("VM ok {name}: {text} ({time:.1} s)");
            }
            Err(text) => {
                self.failed += 1;
                println!(
                    "VM FAIL {name}: {} ({time:.1} s)",
                    text.replace('\n', " / ")
                );
            }
        }
    }
}

fn run() -> Outcome<()> {
    machine::start()?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_err(|error| format!("the kernel's release: {error}"))?;
    let mut guest = Guest {
        host: Side::new("eth0", 1)?,
        peer: Side::new("eth1", 2)?,
        whole: std::env::var("bywash_size").is_ok_and(|size| size == "whole"),
        ok: 0,
        failed: 0,
    };
    let what = std::env::var("bywash_run").unwrap_or_else(|_| "zero-copy".to_owned());
    println!("VM note Linux {}, {what}", release.trim());
    match what.as_str() {
        "zero-copy" => cases::zero_copy(&mut guest),
        "refused" => modes::refused(&mut guest),
        "igb" => modes::igb(&mut guest),
        "table" => modes::table(&mut guest),
        other => return Err(format!("nothing is called {other}")),
    }
    println!("VM end {} ok, {} failed", guest.ok, guest.failed);
    Ok(())
}

fn main() {
    if let Err(error) = run() {
        println!("VM FAIL guest: {error}");
    }
    // QEMU ends with -no-reboot. Should that fail, the end of the first program is a panic, which reboots as well.
    if let Err(error) = machine::busybox(&["reboot", "-f"]) {
        println!("VM note {error}");
    }
}
