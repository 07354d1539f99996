//! The first and only program of the guest that `tests/zero-copy.sh` boots: it is `/init`.
//!
//! ```text
//! machine   mounts, modules, two namespaces with a NIC each
//! engine    Bywash in one of them, with the service of `mirror`
//! traffic   the other end: the guest kernel's TCP, or Bywash
//! cases     what is asserted, in each mode
//! modes     a mode that is refused; the table that compares modes
//! claims    what `bywash doctor` says of kernel and driver, against what `raw` sockets and engines find
//! ```
//! What is found goes to the serial console, one line each, which the script reads:
//!
//! ```text
//! VM ok NAME: what was seen          VM FAIL NAME: why          VM row | a | line | of the table |
//! VM note TEXT                       VM end N ok, M failed
//! ```
//! The kernel's command line says what to run (`bywash_run=zero-copy bywash_size=short`): it becomes this program's environment.

mod cases;
mod claims;
mod engine;
mod machine;
mod mirror;
mod modes;
mod raw;
mod traffic;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use bywash::seams::xsk::{BindMode, Mode};
use bywash::{EngineConfig, XdpMode};
use bywash_engine::host::QueueSteering;

use machine::Side;

/// A value, or what went wrong in words.
pub(crate) type Outcome<T> = Result<T, String>;

/// How engines are to get their frames.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) mode: BindMode,
    pub(crate) xdp: XdpMode,
    /// The same on a command line.
    pub(crate) arguments: &'static [&'static str],
}

impl Asked {
    pub(crate) const ZERO_COPY: Self = Self {
        mode: BindMode::ZeroCopy,
        xdp: XdpMode::Native,
        arguments: &["--require-zero-copy"],
    };
    pub(crate) const DRIVER_COPY: Self = Self {
        mode: BindMode::Copy,
        xdp: XdpMode::Native,
        arguments: &["--mode", "copy", "--xdp", "native"],
    };
    pub(crate) const GENERIC: Self = Self {
        mode: BindMode::Copy,
        xdp: XdpMode::Generic,
        arguments: &["--mode", "copy", "--xdp", "generic"],
    };
    /// As whoever gives no options.
    pub(crate) const AUTO: Self = Self {
        mode: BindMode::Auto,
        xdp: XdpMode::Auto,
        arguments: &[],
    };

    /// An engine that gets its frames so, and watches every sent one.
    pub(crate) fn config(self, side: &Side) -> EngineConfig {
        EngineConfig {
            mode: self.mode,
            xdp: self.xdp,
            guard_tx: true,
            // One shard: where there are more queues, all traffic is led to the first.
            queue_steering: match side.queues {
                1 => QueueSteering::None,
                _ => QueueSteering::Rss,
            },
            ..EngineConfig::new(side.device)
        }
    }
}

/// Both ends, and what came out so far.
pub(crate) struct Guest {
    pub(crate) host: Side,
    pub(crate) peer: Side,
    /// What the engines of the cases are asked for.
    pub(crate) asked: Asked,
    /// The whole list, or the short one.
    pub(crate) whole: bool,
    ok: u32,
    failed: u32,
}

impl Guest {
    pub(crate) fn config(&self, side: &Side) -> EngineConfig {
        self.asked.config(side)
    }

    /// What a kernel that grants it must make of it.
    pub(crate) fn expected(&self) -> Mode {
        match self.asked.mode {
            BindMode::ZeroCopy => Mode::ZeroCopy,
            BindMode::Copy | BindMode::Auto => Mode::Copy,
        }
    }

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
        asked: Asked::AUTO,
        whole: std::env::var("bywash_size").is_ok_and(|size| size == "whole"),
        ok: 0,
        failed: 0,
    };
    let what = std::env::var("bywash_run").map_err(|error| format!("bywash_run: {error}"))?;
    println!("VM note Linux {}, {what}", release.trim());
    let guest = &mut guest;
    for name in what.split('+') {
        match name {
            "zero-copy" => cases::all(guest, Asked::ZERO_COPY),
            "driver-copy" => cases::all(guest, Asked::DRIVER_COPY),
            "generic" => cases::all(guest, Asked::GENERIC),
            "refused" => modes::refused(guest),
            "claims" => claims::all(guest),
            "table" => modes::table(guest),
            other => return Err(format!("nothing is called {other}")),
        }
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
