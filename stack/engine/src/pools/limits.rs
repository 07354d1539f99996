//! What one flow's ring may bring and hold, and what becomes of what is beyond.

use bywash_tcp::time::Instant;
use bywash_wire::DropReason;

use super::{Pool, Pools};
use crate::config::Discard;

const SECOND: u64 = 1_000_000_000;

/// A token bucket in packets: one ring's worth may come at once, and then so many a second.
pub(super) struct Bucket {
    /// Packets per second; `None`: no limit.
    rate: Option<u32>,
    burst: u64,
    /// Billionths of a packet, so that no part of one is lost between two turns.
    tokens: u64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn new(rate: Option<u32>, burst: u32, now: Instant) -> Self {
        let burst = u64::from(burst) * SECOND;
        Self {
            rate,
            burst,
            tokens: burst,
            filled: now,
        }
    }

    /// Whole packets that may come now.
    fn packets(&mut self, now: Instant) -> usize {
        let Some(rate) = self.rate else {
            return usize::MAX;
        };
        let elapsed = now.as_nanos().saturating_sub(self.filled.as_nanos());
        self.filled = now;
        let more = elapsed.saturating_mul(u64::from(rate));
        self.tokens = self.tokens.saturating_add(more).min(self.burst);
        (self.tokens / SECOND) as usize
    }

    fn take(&mut self, packets: usize) {
        if self.rate.is_some() {
            self.tokens = self.tokens.saturating_sub(packets as u64 * SECOND);
        }
    }
}

/// What may be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// All of it.
    Whole,
    /// Its header counts, its payload is dropped for this reason.
    WithoutData(DropReason),
    /// It is dropped for this reason, unless it fills a gap.
    OnlyIntoGap(DropReason),
    /// It is dropped for this reason.
    Nothing(DropReason),
}

impl Pools {
    /// Whether packets of flows' rings must be looked at one by one.
    pub(crate) fn is_limited(&self, lease_cap: u32, credit: usize) -> bool {
        self.limits.rate.is_some() || credit < lease_cap as usize
    }

    /// Packets that may be taken from a flow's ring now; what is beyond waits in the ring.
    pub(crate) fn allowance(&mut self, ring: u16, now: Instant) -> usize {
        let waits = self.limits.discard == Discard::Window;
        let pool = self.pool_mut(ring);
        let packets = pool.bucket.packets(now);
        if waits { packets } else { usize::MAX }
    }

    /// What becomes of the next packet of a flow's ring, of which `held` frames are held beside it.
    pub(crate) fn admit(
        &mut self,
        ring: u16,
        held: usize,
        credit: usize,
        now: Instant,
    ) -> Admission {
        let discard = self.limits.discard;
        let Pool {
            bucket, counters, ..
        } = self.pool_mut(ring);
        if bucket.packets(now) == 0 {
            counters.beyond_rate += 1;
            return match discard {
                Discard::Packet => Admission::Nothing(DropReason::PoolRateLimited),
                Discard::Data | Discard::Window => {
                    Admission::WithoutData(DropReason::PoolRateLimited)
                }
            };
        }
        if held >= credit {
            counters.beyond_credit += 1;
            return match discard {
                // What waits out of order may be all that holds the credit: without the segment before it, it would for ever.
                Discard::Packet => Admission::OnlyIntoGap(DropReason::PoolCredit),
                Discard::Data | Discard::Window => Admission::WithoutData(DropReason::PoolCredit),
            };
        }
        bucket.take(1);
        Admission::Whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(micros * 1000)
    }

    #[test]
    fn a_bucket_gives_a_ring_at_once_and_then_its_rate() {
        let mut bucket = Bucket::new(Some(1_000_000), 4, at(0));
        assert_eq!(bucket.packets(at(0)), 4);
        bucket.take(4);
        assert_eq!(bucket.packets(at(0)), 0);
        assert_eq!(bucket.packets(at(3)), 3);
        bucket.take(3);
        // Parts of a packet add up.
        for half in 1..=6 {
            let now = Instant::from_nanos(3000 + half * 500);
            assert_eq!(bucket.packets(now), half as usize / 2);
        }
        assert_eq!(bucket.packets(at(1_000_000)), 4, "no more than a ring");
    }

    #[test]
    fn without_a_rate_nothing_is_counted() {
        let mut bucket = Bucket::new(None, 1, at(0));
        bucket.take(1000);
        assert_eq!(bucket.packets(at(0)), usize::MAX);
    }
}
