//! Whether a shard makes progress, as another thread can see it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Turns of a shard. One thread writes, and it costs a store on a cache line of its own.
#[derive(Debug, Default)]
pub(crate) struct Pulse(AtomicU64);

/// A pulse that another thread has looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look(u64);

/// In place of a count: the shard has ended.
const ENDED: u64 = u64::MAX;

impl Pulse {
    /// One turn more. For the shard's own thread.
    pub(crate) fn beat(&self) {
        let count = self.0.load(Ordering::Relaxed);
        self.0.store(count + 1, Ordering::Relaxed);
    }

    /// No more turns are to be expected.
    pub(crate) fn end(&self) {
        self.0.store(ENDED, Ordering::Relaxed);
    }

    /// How it is now.
    pub(crate) fn look(&self) -> Look {
        Look(self.0.load(Ordering::Relaxed))
    }

    /// Whether the shard moved since `before`, or need not: it has not begun, or has ended.
    pub(crate) fn is_well_since(&self, before: Look) -> bool {
        let now = self.look();
        now != before || matches!(now.0, 0 | ENDED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_shard_that_runs_has_to_move() {
        let pulse = Pulse::default();
        let look = pulse.look();
        assert!(pulse.is_well_since(look), "not begun");
        pulse.beat();
        assert!(pulse.is_well_since(look));
        let look = pulse.look();
        assert!(!pulse.is_well_since(look), "stands still");
        pulse.end();
        assert!(pulse.is_well_since(pulse.look()), "ended");
    }
}
