//! Processor time of this process, as `iperf3` tells its peer.
//!
//! The figures are the user and kernel time of *all threads of the process* (`getrusage`,
//! RUSAGE_SELF) in percent of one core's wall time: two shards that poll without sleeping show 200.
//! What the kernel does for us outside of our system calls (XDP program, soft interrupts) is not in them.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::Serialize;

/// Percentages of one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CpuUse {
    /// User and kernel.
    pub total: f64,
    /// User mode.
    pub user: f64,
    /// Kernel mode.
    pub system: f64,
}

/// A moment to measure from.
#[derive(Clone, Copy, Debug)]
pub(super) struct CpuMark {
    at: Instant,
    user: Duration,
    system: Duration,
}

impl CpuMark {
    /// Now.
    pub(super) fn now() -> Self {
        let (user, system) = times();
        Self {
            at: Instant::now(),
            user,
            system,
        }
    }

    /// What was used since then.
    pub(super) fn elapsed(&self) -> CpuUse {
        let (user, system) = times();
        let wall = self.at.elapsed().as_secs_f64().max(1e-9);
        let percent =
            |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() / wall * 100.0;
        let (user, system) = (percent(user, self.user), percent(system, self.system));
        CpuUse {
            total: user + system,
            user,
            system,
        }
    }
}

/// User and kernel time so far. The call only fails for arguments that do not occur here.
fn times() -> (Duration, Duration) {
    let usage =
        getrusage(UsageWho::RUSAGE_SELF).expect("getrusage of the own process always succeeds");
    (span(usage.user_time()), span(usage.system_time()))
}

fn span(time: TimeVal) -> Duration {
    let micros = time.tv_sec().unsigned_abs() * 1_000_000 + time.tv_usec().unsigned_abs();
    Duration::from_micros(micros)
}
