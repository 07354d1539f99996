//! RX rings of single flows: which are free, and which must not be read yet.
//!
//! A flow is promoted by pointing its entry of the demultiplexer's flow table at a free ring. Its
//! earlier packets may still lie in the primary's ring, so the new ring is held back until the
//! old one has been drained: a grace time passes that is long against one NAPI cycle (both rings
//! of one cycle are published within microseconds of each other), and a whole pass of the primary
//! ring has come after it.

use bywash_tcp::time::{Duration, Instant};

/// First ring that belongs to single flows; 0 is the primary, 1 the control pool.
const FIRST_POOL: usize = 2;

/// How long a new flow's ring is left unread. A NAPI cycle of 64 packets takes under 100 us here.
const GRACE: Duration = Duration::from_micros(200);

/// The flow pools of a shard.
pub(crate) struct Pools {
    free: Vec<u16>,
    /// Rings in their grace time, and its end.
    held: Vec<(u16, Instant)>,
    total: usize,
    generation: u32,
}

impl Pools {
    pub(crate) fn new(rings: usize) -> Self {
        let free: Vec<u16> = (FIRST_POOL..rings).rev().map(|ring| ring as u16).collect();
        Self {
            total: free.len(),
            free,
            held: Vec::new(),
            generation: 0,
        }
    }

    /// A free ring for a new owner, and the owner's generation.
    pub(crate) fn take(&mut self) -> Option<(u16, u32)> {
        let ring = self.free.pop()?;
        self.generation = self.generation.wrapping_add(1);
        Some((ring, self.generation))
    }

    pub(crate) fn release(&mut self, ring: u16) {
        self.held.retain(|(held, _)| *held != ring);
        self.free.push(ring);
    }

    /// Leaves the ring unread until packets of the flow's old ring are surely visible.
    pub(crate) fn hold(&mut self, ring: u16, now: Instant) {
        self.held.push((ring, now + GRACE));
    }

    /// Ends grace times. Called before the primary's ring is drained, so that a ring becomes
    /// readable only in a turn whose drain began after its grace time.
    pub(crate) fn expire(&mut self, now: Instant) {
        if !self.held.is_empty() {
            self.held
                .retain(|(_, until)| until.as_nanos() > now.as_nanos());
        }
    }

    pub(crate) fn is_held(&self, ring: usize) -> bool {
        self.held.iter().any(|(held, _)| usize::from(*held) == ring)
    }

    /// When the next grace time ends: its ring may hold packets that nothing else announces.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        self.held
            .iter()
            .map(|(_, until)| *until)
            .min_by_key(|until| until.as_nanos())
    }

    /// Rings in use, and rings in all.
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.total - self.free.len(), self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_ring_is_read_after_its_grace_time() {
        let start = Instant::from_nanos(1_000_000);
        let mut pools = Pools::new(4);
        let (ring, _) = pools.take().unwrap();
        pools.hold(ring, start);
        pools.expire(start);
        assert!(pools.is_held(ring.into()));
        pools.expire(start + GRACE);
        assert!(!pools.is_held(ring.into()));
    }

    #[test]
    fn every_ring_goes_round() {
        let mut pools = Pools::new(5);
        let taken: Vec<_> = std::iter::from_fn(|| pools.take()).collect();
        assert_eq!(
            taken.iter().map(|(ring, _)| *ring).collect::<Vec<_>>(),
            [2, 3, 4]
        );
        assert_eq!(pools.usage(), (3, 3));
        pools.release(3);
        let (ring, generation) = pools.take().unwrap();
        assert_eq!(ring, 3);
        assert_eq!(generation, 4);
    }
}
