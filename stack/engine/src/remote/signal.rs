//! Waiting for the other side's next step: spin a little, then sleep.

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use crossbeam::utils::Backoff;

/// A condition variable whose `notify` costs one load while nobody sleeps, so that the shard makes
/// no system call per packet for an application that keeps up.
#[derive(Debug, Default)]
pub(super) struct Signal {
    sleepers: AtomicU32,
    lock: Mutex<()>,
    condvar: Condvar,
}

impl Signal {
    /// Returns true as soon as `ready` says so, false when `deadline` has passed.
    pub(super) fn wait(&self, deadline: Option<Instant>, ready: impl Fn() -> bool) -> bool {
        let backoff = Backoff::new();
        while !backoff.is_completed() {
            if ready() {
                return true;
            }
            backoff.snooze();
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        // Pairs with the fence in `notify`: either `ready` sees the change, or `notify` sees us.
        fence(Ordering::SeqCst);
        let outcome = loop {
            if ready() {
                break true;
            }
            guard = match deadline {
                None => self
                    .condvar
                    .wait(guard)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break false;
                    }
                    let (guard, _) = self
                        .condvar
                        .wait_timeout(guard, left)
                        .unwrap_or_else(PoisonError::into_inner);
                    guard
                }
            };
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        outcome
    }

    /// Call after the change that `ready` looks at.
    pub(super) fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // Taken so that a sleeper between its look at `ready` and its sleep is not missed.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.condvar.notify_all();
        }
    }
}
