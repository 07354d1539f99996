//! What stands at an end of the wire, and the loads that are put on it: each load has a body for kernel sockets and one for our
//! services, so that both do the same.
//!
//! | module | load |
//! |---|---|
//! | [`bulk`] | one flow, as much as goes, in messages of a size |
//! | [`exchange`] | requests and answers: one at a time, several in flight, or at a fixed rate (open loop) |
//! | [`many`] | requests and answers on many flows at once |
//! | [`idle`] | connections that stand idle, and the memory that they take |
//! | [`shorts`] | connections that are opened, used once and closed |
//! | `smol_packet` | smoltcp over AF_PACKET |
//! | [`smol`] | smoltcp with both ends on one thread, without a kernel |

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bywash::{Engine, EngineConfig, IdlePolicy, PoolClass, Service, ShardConfig};
use bywash_xdp::Mode;

use crate::interrupt;
use crate::netns::End;

pub(crate) mod bulk;
pub(crate) mod counters;
pub(crate) mod exchange;
pub(crate) mod idle;
pub(crate) mod kernel;
pub(crate) mod many;
pub(crate) mod shorts;
pub(crate) mod smol;
mod smol_packet;

/// Kernel TCP's name in tables.
pub(crate) const KERNEL: &str = "kernel TCP";
/// Our name in tables.
pub(crate) const US: &str = "Bywash";

/// smoltcp's name in tables where it runs over AF_PACKET.
pub(crate) const SMOLTCP: &str = "smoltcp over AF_PACKET";

/// Longest wait for an end to be ready, or for its first byte.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Which TCP stands at an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// The kernel's.
    Kernel,
    /// Ours.
    Us,
    /// smoltcp, over AF_PACKET.
    Smoltcp,
}

impl Who {
    /// As the tables say it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Who::Kernel => KERNEL,
            Who::Us => US,
            Who::Smoltcp => SMOLTCP,
        }
    }
}

impl Who {
    /// Where this TCP is found at an end.
    pub(crate) fn address(self, end: &End) -> Ipv4Addr {
        match self {
            Who::Smoltcp => smol_packet::address(end),
            Who::Kernel | Who::Us => end.address,
        }
    }

    /// Starts a thread in the end's namespace: on its core, unless it only starts an engine.
    pub(crate) fn spawn<'scope, T: Send + 'scope>(
        self,
        end: &End,
        scope: &'scope thread::Scope<'scope, '_>,
        work: impl FnOnce(Result<()>) -> Result<T> + Send + 'scope,
    ) -> thread::ScopedJoinHandle<'scope, Result<T>> {
        match self {
            Who::Us => end.spawn_unpinned(scope, work),
            Who::Kernel | Who::Smoltcp => end.spawn(scope, work),
        }
    }
}

/// How an end waits for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Kernel: in `read`, woken by the kernel. Ours: the default, 50 us of looking and then sleep.
    Block,
    /// Kernel: non-blocking calls again and again. Ours: never sleeps.
    Spin,
}

impl Wait {
    /// As the tables say it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Wait::Block => "default (kernel: blocking; Bywash: 50 us, then sleep)",
            Wait::Spin => "spin",
        }
    }

    /// The shard's policy.
    pub(crate) fn policy(self) -> IdlePolicy {
        match self {
            Wait::Block => ShardConfig::default().idle,
            Wait::Spin => IdlePolicy::Spin,
        }
    }
}

/// An engine on `end`'s device with one shard on its core.
pub(crate) fn engine_config(end: &End, wait: Wait, xdp: Mode) -> EngineConfig {
    let mut config = EngineConfig::new(end.device);
    config.cores = Some(vec![end.core]);
    config.xdp = xdp;
    // One flow at a time wants one ring; each socket takes 15 ms to close.
    config.pools = vec![PoolClass::small(1)];
    config.shard.idle = wait.policy();
    // Connections that the measurement has left are reset at once.
    config.shard.linger = Duration::from_millis(20);
    config
}

/// Starts an engine, says so, and runs it until `stop` or until all of its services have ended by themselves. Call in the end's
/// namespace.
pub(crate) fn run_engine<S: Service + Send + 'static>(
    config: EngineConfig,
    make: impl FnMut(u32) -> S,
    ready: &Sender<()>,
    stop: &AtomicBool,
) -> Result<Vec<S>> {
    let engine = Engine::start(config, make)?;
    // Whoever waited for this may have given up, and set `stop`.
    let _ = ready.send(());
    while !stop.load(Ordering::Acquire) && !engine.is_finished() {
        // Seldom: a wake-up on a core that spins shows in the last per mille of its times.
        thread::sleep(Duration::from_millis(20));
    }
    engine.stop();
    Ok(engine.join()?)
}

/// Waits until an end says that it is ready. False: it ended instead, and its thread's result says why.
pub(crate) fn is_ready(ready: &Receiver<()>) -> bool {
    ready.recv_timeout(PATIENCE).is_ok()
}

/// Waits until `begun`; an error after [`PATIENCE`], or if `ended` says that it will not.
pub(crate) fn wait_until(
    what: &str,
    begun: impl Fn() -> bool,
    ended: impl Fn() -> bool,
) -> Result<()> {
    let start = Instant::now();
    while !begun() {
        interrupt::check()?;
        if ended() {
            bail!("an end of the wire ended before {what}");
        }
        if start.elapsed() > PATIENCE {
            bail!("no sign of {what} within {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Sleeps, but not through an interruption.
pub(crate) fn rest(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        interrupt::check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(200)));
    }
}

/// Unwraps what a service was asked to report before its engine ended.
pub(crate) fn first<S>(services: Vec<S>) -> Result<S> {
    services
        .into_iter()
        .next()
        .context("an engine without a shard")
}
