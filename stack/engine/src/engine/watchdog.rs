//! The thread "bywash-watchdog": tells the guard that all shards move, and brings the engine back
//! after the guard has detached it.
//!
//! ```text
//!             all shards moved: beat                guard: detached
//!   +-------+ <--------------------- +-------+ ---------------------> +----------+
//!   | armed |                        | tick  |                        | detached |
//!   +-------+ ---------------------> +-------+ <--------------------- +----------+
//!             a shard did not: no beat        all shards moved: attach again, new guard
//! ```
//! A stopped process finds all of this out when it goes on; where only a shard hangs, this thread
//! says so before the guard acts.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use bywash_guard::{Guard, GuardConfig, OnDeath, Verdict};
use bywash_xdp::{Demux, Reattached};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::config::{EngineConfig, StartError};
use crate::directory::Directory;
use crate::pulse::Look;
use crate::report::WatchdogReport;

/// Looks in a limit: the guard hears at least three beats in the time that it allows for one.
const LOOKS: u32 = 4;

/// How often the thread looks when no limit is set: a killed guard is replaced.
const UNHURRIED: Duration = Duration::from_secs(1);

/// What the control socket tells of the watchdog.
#[derive(Debug)]
pub(crate) struct WatchdogStatus {
    limit: Option<Duration>,
    on_death: OnDeath,
    /// 0: none.
    guard: AtomicU32,
    detached: AtomicU64,
    guards_lost: AtomicU64,
}

impl WatchdogStatus {
    pub(crate) fn report(&self) -> WatchdogReport {
        let guard = self.guard.load(Ordering::Relaxed);
        WatchdogReport {
            limit_ms: self.limit.map(|limit| limit.as_millis() as u64),
            on_death: match self.on_death {
                OnDeath::Keep => "keep",
                OnDeath::Detach => "detach",
            }
            .to_owned(),
            guard: (guard != 0).then_some(guard),
            detached: self.detached.load(Ordering::Relaxed),
            guards_lost: self.guards_lost.load(Ordering::Relaxed),
        }
    }
}

/// The running watchdog. Dropping it ends guard and thread.
pub(super) struct Watchdog {
    status: Arc<WatchdogStatus>,
    /// Dropped to end the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Forks the guard and starts the thread, if the configuration wants them.
    pub(super) fn start(
        config: &EngineConfig,
        demux: &Arc<Demux>,
        directory: &Arc<Directory>,
    ) -> Result<Option<Self>, StartError> {
        if config.watchdog.is_none() && config.on_death == OnDeath::Keep {
            return Ok(None);
        }
        let status = Arc::new(WatchdogStatus {
            limit: config.watchdog,
            on_death: config.on_death,
            guard: AtomicU32::new(0),
            detached: AtomicU64::new(0),
            guards_lost: AtomicU64::new(0),
        });
        let guard_config = GuardConfig {
            link: demux.link_id()?,
            limit: config.watchdog,
            on_death: config.on_death,
            engine: format!("engine {} on {}", std::process::id(), config.device),
        };
        let guard = Guard::spawn(&guard_config)?;
        status.guard.store(guard.pid(), Ordering::Relaxed);
        let worker = Worker {
            guard: Some(guard),
            guard_config,
            // The engine's is the last strong reference: its drop detaches.
            demux: Arc::downgrade(demux),
            looks: looks(directory),
            directory: directory.clone(),
            status: status.clone(),
            silent: false,
            refused: false,
        };
        let (stop, stopped) = bounded(0);
        let thread = std::thread::Builder::new()
            .name("bywash-watchdog".to_owned())
            .spawn(move || worker.run(&stopped))
            .map_err(StartError::Thread)?;
        Ok(Some(Self {
            status,
            stop: Some(stop),
            thread: Some(thread),
        }))
    }

    pub(super) fn status(&self) -> Arc<WatchdogStatus> {
        self.status.clone()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop = None;
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the watchdog thread panicked");
        }
    }
}

fn looks(directory: &Directory) -> Vec<Look> {
    (0..directory.shards())
        .map(|shard| directory.pulse(shard).look())
        .collect()
}

struct Worker {
    /// `None`: the program was detached, or no guard could be made.
    guard: Option<Guard>,
    guard_config: GuardConfig,
    demux: Weak<Demux>,
    directory: Arc<Directory>,
    looks: Vec<Look>,
    status: Arc<WatchdogStatus>,
    /// Shards that do not move were told of.
    silent: bool,
    /// That it cannot be attached, or guarded, was told.
    refused: bool,
}

impl Worker {
    fn run(mut self, stopped: &Receiver<()>) {
        let interval = self
            .guard_config
            .limit
            .map_or(UNHURRIED, |limit| limit / LOOKS);
        // Nothing is ever sent: the other end is dropped.
        while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            self.tick();
        }
    }

    fn tick(&mut self) {
        let moves = self.all_move();
        self.hear_guard();
        match &self.guard {
            Some(guard) if moves => guard.beat(),
            None if moves => self.recover(),
            Some(_) | None => {}
        }
    }

    /// Whether every shard has moved since the last look, or need not.
    fn all_move(&mut self) -> bool {
        let before = std::mem::replace(&mut self.looks, looks(&self.directory));
        let stuck: Vec<u32> = (0..self.directory.shards())
            .zip(before)
            .filter(|(shard, before)| !self.directory.pulse(*shard).is_well_since(*before))
            .map(|(shard, _)| shard)
            .collect();
        if !stuck.is_empty() && !self.silent {
            tracing::error!(
                shards = ?stuck,
                limit = ?self.guard_config.limit,
                "shards make no progress: the XDP program is detached when the limit is over"
            );
        } else if stuck.is_empty() && self.silent {
            tracing::warn!("all shards make progress again");
        }
        self.silent = !stuck.is_empty();
        stuck.is_empty()
    }

    fn hear_guard(&mut self) {
        let Some(guard) = &mut self.guard else {
            return;
        };
        match guard.verdict() {
            Verdict::Watching => return,
            Verdict::Detached => {
                self.status.detached.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    limit = ?self.guard_config.limit,
                    "the engine stood still beyond the limit: its XDP program was detached, and the kernel answered for its ports"
                );
            }
            Verdict::Failed(errno) => {
                self.status.guards_lost.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    errno,
                    "the engine stood still beyond the limit, and its guard could not detach the XDP program"
                );
            }
            Verdict::Killed => {
                self.status.guards_lost.fetch_add(1, Ordering::Relaxed);
                tracing::error!("the guard was killed: another one takes its place");
            }
        }
        self.guard = None;
        self.status.guard.store(0, Ordering::Relaxed);
    }

    /// Attached and guarded again, if it can be; else at the next tick.
    fn recover(&mut self) {
        let Some(demux) = self.demux.upgrade() else {
            // The engine is ending.
            return;
        };
        match self.try_recover(&demux) {
            Ok(how) => {
                self.refused = false;
                match how {
                    Reattached::Anew => tracing::warn!(
                        "attached again: the engine serves its ports, with those of its connections that the kernel has not reset"
                    ),
                    Reattached::WasThere => tracing::warn!("guarded again"),
                }
            }
            Err(error) => {
                if !self.refused {
                    tracing::error!(%error, "the engine is not attached and guarded; it tries on");
                }
                self.refused = true;
            }
        }
    }

    fn try_recover(&mut self, demux: &Demux) -> Result<Reattached, StartError> {
        let how = demux.reattach()?;
        self.guard_config.link = demux.link_id()?;
        let guard = Guard::spawn(&self.guard_config)?;
        self.status.guard.store(guard.pid(), Ordering::Relaxed);
        self.guard = Some(guard);
        Ok(how)
    }
}
