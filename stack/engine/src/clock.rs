//! The shard's clock: read once a turn.

use std::cell::Cell;
use std::rc::Rc;

use bywash_tcp::time::Instant;

/// Monotonic time.
pub trait Clock {
    /// Nanoseconds since an arbitrary start; never goes back.
    fn now(&self) -> Instant;
}

/// `CLOCK_MONOTONIC`. Copies show the same time: the shards of an engine have one, as connections go from one to another.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    start: std::time::Instant,
}

impl MonotonicClock {
    /// Starts at one second, so that "just before the start" can be expressed.
    pub fn new() -> Self {
        Self {
            start: std::time::Instant::now(),
        }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(1_000_000_000 + self.start.elapsed().as_nanos() as u64)
    }
}

/// Virtual time that a test moves by hand; clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    nanos: Rc<Cell<u64>>,
}

impl ManualClock {
    /// Starts at one second.
    pub fn new() -> Self {
        Self {
            nanos: Rc::new(Cell::new(1_000_000_000)),
        }
    }

    /// Moves time on.
    pub fn advance(&self, by: std::time::Duration) {
        self.nanos.set(self.nanos.get() + by.as_nanos() as u64);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.nanos.get())
    }
}
