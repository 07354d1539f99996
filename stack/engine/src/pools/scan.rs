//! Which rings a turn looks at.
//!
//! An empty ring costs a look at the kernel's cursor, a cache line of its own on a page of its own. With few rings that is
//! the cheapest there is. With many, the demultiplexer marks the rings that it sends packets to (one byte each, 64 to a
//! cache line), and the turn reads those:
//!
//! ```text
//!   marked ──► armed: read in every turn ──► quiet for ARMED ──► at rest: read by the sweep, some rings a turn
//!                 ▲──── packets found ────┘
//! ```
//! A mark can be seen before the ring shows the packet (rings are published at the end of a NAPI cycle; measured: nearly
//! always), and a second packet may find the mark still set that is being cleared. So an armed ring stays armed for longer
//! than a cycle lasts, and the sweep comes by every ring all the same.

use bywash_tcp::time::{Duration, Instant};

use super::FIRST_POOL;

/// Up to this many rings all are read in every turn.
///
/// Nanoseconds a turn for looking, with nothing found, on a veth (`cargo run --release -p bywash-bench -- pools`):
///
/// | pools | all rings | marked, none busy | marked, 8 busy |
/// |---|---|---|---|
/// | 1 | 3.6 | 4.7 | 8.6 |
/// | 16 | 56 | 18 | 35 |
/// | 64 | 210 | 20 | 50 |
/// | 256 | 740 | 28 | 52 |
/// | 1022 | 3470 | 79 | 101 |
///
/// Marking itself costs XDP a look-up in an array for each packet, a few nanoseconds, and a turn under load finds 30
/// packets and more: up to some 64 rings looking at all of them is the cheaper way, beyond it never is.
pub(crate) const SCAN_ALL_UP_TO: usize = 64;
/// How long a ring is read in every turn after its last mark or packet: longer than a NAPI cycle (64 packets, under 100 us).
const ARMED: Duration = Duration::from_micros(250);
/// Rings at rest that a turn reads.
const SWEEP: usize = 4;

/// The rings that a turn reads, where it does not read all of them.
pub(crate) struct Scan {
    /// Armed rings.
    armed: Vec<u16>,
    /// By ring: until when it is armed; 0: at rest.
    until: Vec<u64>,
    /// Next ring of the sweep.
    hand: usize,
    /// What this turn reads; kept for its allocation.
    plan: Vec<u16>,
    /// Marks of this turn; kept for its allocation.
    pub(crate) marked: Vec<u16>,
}

impl Scan {
    pub(crate) fn new(rings: usize) -> Self {
        Self {
            armed: Vec::with_capacity(rings),
            until: vec![0; rings],
            hand: FIRST_POOL,
            plan: Vec::with_capacity(rings + SWEEP),
            marked: Vec::with_capacity(rings),
        }
    }

    /// The ring is read from now on, until it has been quiet for a while.
    pub(crate) fn arm(&mut self, ring: u16, now: Instant) {
        let until = &mut self.until[usize::from(ring)];
        if *until == 0 {
            self.armed.push(ring);
        }
        *until = (now + ARMED).as_nanos();
    }

    /// Arms the marked rings, rests the quiet ones, and says which flows' rings to read now. Give it back by
    /// [`done`](Self::done).
    pub(crate) fn plan(&mut self, now: Instant) -> Vec<u16> {
        let mut marked = std::mem::take(&mut self.marked);
        for ring in marked.drain(..) {
            self.arm(ring, now);
        }
        self.marked = marked;
        let mut plan = std::mem::take(&mut self.plan);
        let until = &mut self.until;
        self.armed.retain(|ring| {
            let until = &mut until[usize::from(*ring)];
            let stays = *until > now.as_nanos();
            if stays {
                plan.push(*ring);
            } else {
                *until = 0;
            }
            stays
        });
        for _ in 0..SWEEP.min(self.until.len() - FIRST_POOL) {
            if self.until[self.hand] == 0 {
                plan.push(self.hand as u16);
            }
            self.hand = if self.hand + 1 == self.until.len() {
                FIRST_POOL
            } else {
                self.hand + 1
            };
        }
        plan
    }

    pub(crate) fn done(&mut self, mut plan: Vec<u16>) {
        plan.clear();
        self.plan = plan;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RINGS: usize = 102;

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(micros * 1000)
    }

    fn turn(scan: &mut Scan, now: Instant) -> Vec<u16> {
        let plan = scan.plan(now);
        let seen = plan.clone();
        scan.done(plan);
        seen
    }

    #[test]
    fn a_marked_ring_is_read_until_it_is_quiet() {
        let mut scan = Scan::new(RINGS);
        scan.marked.push(90);
        for micros in [1, 100, 250] {
            assert!(turn(&mut scan, at(micros)).contains(&90), "{micros} us");
        }
        assert!(!turn(&mut scan, at(251)).contains(&90));
        scan.arm(90, at(300));
        scan.arm(90, at(400));
        assert_eq!(
            turn(&mut scan, at(600))
                .iter()
                .filter(|ring| **ring == 90)
                .count(),
            1,
            "armed once, however often it is marked"
        );
    }

    /// A ring whose mark got lost is read all the same, and soon.
    #[test]
    fn the_sweep_comes_by_every_ring() {
        let mut scan = Scan::new(RINGS);
        scan.arm(7, at(0));
        let mut seen = vec![0; RINGS];
        for _ in 0..(RINGS - FIRST_POOL) / SWEEP {
            for ring in turn(&mut scan, at(1)) {
                seen[usize::from(ring)] += 1;
            }
        }
        assert!(
            seen[FIRST_POOL..].iter().all(|count| *count > 0),
            "{seen:?}"
        );
        assert_eq!(seen[..FIRST_POOL], [0, 0], "those are read anyway");
    }
}
