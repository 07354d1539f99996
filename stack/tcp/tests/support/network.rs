//! The wire between the two ends: it delays, loses, doubles, reorders and corrupts by chance, and drops on demand.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bywash_tcp::time::{Duration, Instant};
use bywash_wire::Segment;

use super::trace::{Fate, Side, Trace};

/// A small generator (splitmix64): the same seed, the same story.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// True `permille` times in a thousand.
    pub(crate) fn chance(&mut self, permille: u64) -> bool {
        self.below(1_000) < permille
    }
}

/// What the network does to segments; chances in thousandths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    pub(crate) seed: u64,
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    /// The segment is held up by up to four delays, so that later ones overtake it.
    pub(crate) reordering: u64,
    /// Bits flip, the checksum finds it, the segment is dropped at the other end.
    pub(crate) corruption: u64,
    /// One way.
    pub(crate) delay: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            seed: 1,
            loss: 0,
            duplication: 0,
            reordering: 0,
            corruption: 0,
            delay: Duration::from_millis(1),
        }
    }
}

impl Faults {
    /// Loss alone, in thousandths.
    pub(crate) fn loss(seed: u64, loss: u64) -> Self {
        Self {
            seed,
            loss,
            ..Self::default()
        }
    }
}

/// A segment on its way.
struct Parcel {
    to: Side,
    segment: Segment,
    payload: Option<Vec<u8>>,
}

/// Decides whether a segment is dropped.
type Filter = Box<dyn FnMut(&Trace) -> bool>;

/// Says how much longer than usual a segment takes.
type Brake = Box<dyn FnMut(&Trace) -> Duration>;

/// The wire.
pub(crate) struct Network {
    pub(crate) faults: Faults,
    random: Random,
    /// By time of arrival, then by order of sending.
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    parcels: std::collections::HashMap<u64, Parcel>,
    count: u64,
    filter: Option<Filter>,
    brake: Option<Brake>,
}

impl Network {
    pub(crate) fn new(faults: Faults) -> Self {
        Self {
            faults,
            random: Random::new(faults.seed),
            queue: BinaryHeap::new(),
            parcels: std::collections::HashMap::new(),
            count: 0,
            filter: None,
            brake: None,
        }
    }

    /// From now on each segment takes longer by what `brake` says.
    pub(crate) fn delay_by(&mut self, brake: impl FnMut(&Trace) -> Duration + 'static) {
        self.brake = Some(Box::new(brake));
    }

    /// From now on drops every segment for which `filter` is true.
    pub(crate) fn drop_if(&mut self, filter: impl FnMut(&Trace) -> bool + 'static) {
        self.filter = Some(Box::new(filter));
    }

    /// Drops nothing on demand any more.
    pub(crate) fn drop_nothing(&mut self) {
        self.filter = None;
    }

    pub(crate) fn send(&mut self, now: Instant, trace: &Trace, payload: Option<Vec<u8>>) -> Fate {
        if self.filter.as_mut().is_some_and(|filter| filter(trace)) {
            return Fate::Lost;
        }
        let faults = self.faults;
        if self.random.chance(faults.loss) {
            return Fate::Lost;
        }
        if self.random.chance(faults.corruption) {
            return Fate::Corrupted;
        }
        let mut delay = faults.delay;
        if let Some(brake) = &mut self.brake {
            delay = delay + brake(trace);
        }
        if self.random.chance(faults.reordering) {
            delay = delay + Duration::from_nanos(self.random.below(4 * delay.as_nanos()));
        }
        let to = trace.from.other();
        let copies = 1 + u64::from(self.random.chance(faults.duplication));
        for copy in 0..copies {
            self.count += 1;
            let at = now + delay + faults.delay * copy as u32;
            self.queue.push(Reverse((at, self.count)));
            let parcel = Parcel {
                to,
                segment: trace.segment,
                payload: payload.clone(),
            };
            self.parcels.insert(self.count, parcel);
        }
        if copies > 1 {
            Fate::Doubled
        } else {
            Fate::Sent
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((at, _))| *at)
    }

    /// The next segment that has arrived by `now`.
    pub(crate) fn arrived(&mut self, now: Instant) -> Option<(Side, Segment, Option<Vec<u8>>)> {
        if self.next()? > now {
            return None;
        }
        let Reverse((_, number)) = self.queue.pop()?;
        let parcel = self.parcels.remove(&number)?;
        Some((parcel.to, parcel.segment, parcel.payload))
    }
}
