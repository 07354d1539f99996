//! The receive rings of single flows: who has which, what they may hold, and how a flow gets in and out of one.
//!
//! ```text
//!             promote: a flow that has proved busy, or any (dedicated), while rings last
//!   free ───────────────────────────────────────────────────────────────► owned by one flow
//!     ▲                                                                      │   credit, rate: `limits`
//!     └──────────────────────────────────────────────────────────────────────┘
//!             end of the flow, TIME-WAIT, or idle while another flow wants a ring
//! ```
//! | file | holds |
//! |---|---|
//! | [`limits`] | what a flow may hold and receive, and what becomes of what is beyond |
//! | [`moves`] | a flow that changes rings keeps its order |
//! | [`scan`] | which rings a turn looks at |
//!
//! A pool is Jetstream's (Edwards & Muir, 1995): buffers tied to one stream. There, buffers were cached on a pool because
//! each allocation was a system call, and flushed because what one pool kept was missing elsewhere. Here a frame is a pop
//! from the shard's own list and the fill ring is refilled in one batch, so nothing need be cached; what is left of the
//! problem is hoarding. A pool's credit is a share that others may use while it does not ([`Pools::credit`]): as long as
//! frames are plenty it may hold as many as it likes, and once they run short each is held to an equal part, by its window.

pub(crate) mod limits;
pub(crate) mod moves;
pub(crate) mod scan;

use std::collections::VecDeque;

use bywash_tcp::time::Instant;
use bywash_xsk::Port;

use crate::config::{PoolLimits, ShardConfig};
use limits::Bucket;

/// The ring of all flows without one of their own.
pub(crate) const PRIMARY: u16 = 0;
/// The ring of SYNs to listening ports.
pub(crate) const CONTROL: u16 = 1;
/// First ring that belongs to single flows; 0 is the primary, 1 the control pool.
pub(crate) const FIRST_POOL: usize = 2;
/// Pools that one search for an idle one looks at: it goes on where the last one ended.
const SEARCH: usize = 16;

/// How much of the frames that somebody may hold is held. Windows follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    None,
    /// More than half: windows are halved.
    Half,
    /// More than three quarters: a window of a few segments.
    High,
    /// All that a flow's pool may hold: no window. The shard as a whole knows no such level: it refuses, and its
    /// connections go on.
    Full,
}

impl Pressure {
    pub(crate) fn of(held: usize, cap: usize) -> Self {
        if held * 4 > cap * 3 {
            Self::High
        } else if held * 2 > cap {
            Self::Half
        } else {
            Self::None
        }
    }
}

/// Counters of one ring since the start of the shard, whoever had it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PoolCounters {
    /// Frames that came by it.
    pub(crate) frames: u64,
    /// Flows that have had it.
    pub(crate) owners: u64,
    /// Packets beyond its credit.
    pub(crate) beyond_credit: u64,
    /// Packets beyond its rate.
    pub(crate) beyond_rate: u64,
}

/// One flow's ring.
pub(crate) struct Pool {
    pub(crate) ring_size: u32,
    class: usize,
    /// Place in the slab of the connection that has it.
    pub(crate) owner: Option<u32>,
    pub(crate) generation: u32,
    /// When packets were last found in it, or it was given out.
    pub(crate) last_used: Instant,
    pub(crate) pressure: Pressure,
    bucket: Bucket,
    pub(crate) counters: PoolCounters,
}

/// The flow pools of a shard.
pub(crate) struct Pools {
    pools: Vec<Pool>,
    /// Free rings of each class, the smallest class first. First in, first out: the frames of a ring's last owner have
    /// most time to come back.
    free: Vec<(u32, VecDeque<u16>)>,
    in_use: usize,
    generation: u32,
    /// Where the search for an idle pool goes on.
    hand: usize,
    pub(crate) limits: PoolLimits,
    /// Pools in which packets were found in this turn, and those under pressure: their windows are looked at.
    touched: Vec<u16>,
    pressed: Vec<u16>,
}

impl Pools {
    pub(crate) fn new<P: Port>(port: &P, config: &ShardConfig, now: Instant) -> Self {
        let sizes: Vec<u32> = (FIRST_POOL..port.rings())
            .map(|ring| port.ring_size(ring))
            .collect();
        let mut classes: Vec<u32> = sizes.clone();
        classes.sort_unstable();
        classes.dedup();
        let mut free: Vec<(u32, VecDeque<u16>)> = classes
            .iter()
            .map(|size| (*size, VecDeque::new()))
            .collect();
        let pool = |(index, size): (usize, &u32)| {
            let class = classes.partition_point(|class| class < size);
            free[class].1.push_back((FIRST_POOL + index) as u16);
            Pool {
                ring_size: *size,
                class,
                owner: None,
                generation: 0,
                last_used: now,
                pressure: Pressure::None,
                bucket: Bucket::new(config.pool_limits.rate, *size, now),
                counters: PoolCounters::default(),
            }
        };
        Self {
            pools: sizes.iter().enumerate().map(pool).collect(),
            free,
            in_use: 0,
            generation: 0,
            hand: 0,
            limits: config.pool_limits,
            touched: Vec::with_capacity(sizes.len()),
            pressed: Vec::with_capacity(sizes.len()),
        }
    }

    /// A free ring for the flow at this place, and the flow's generation. `window` is what the flow may have under way, in
    /// full segments: the smallest ring that holds it is taken, or else the largest there is.
    pub(crate) fn take(&mut self, owner: u32, window: usize, now: Instant) -> Option<(u16, u32)> {
        let fits = self
            .free
            .partition_point(|(size, _)| (*size as usize) < window);
        let (small, large) = self.free.split_at_mut(fits);
        let ring = large
            .iter_mut()
            .chain(small.iter_mut().rev())
            .find_map(|(_, rings)| rings.pop_front())?;
        self.in_use += 1;
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let pool = self.pool_mut(ring);
        pool.owner = Some(owner);
        pool.generation = generation;
        pool.last_used = now;
        pool.counters.owners += 1;
        Some((ring, generation))
    }

    /// The ring is nobody's again. Packets that are in it still are read all the same.
    pub(crate) fn release(&mut self, ring: u16) {
        let pool = self.pool_mut(ring);
        debug_assert!(pool.owner.is_some(), "a ring is given back once");
        pool.owner = None;
        pool.pressure = Pressure::None;
        let class = pool.class;
        self.in_use -= 1;
        self.free[class].1.push_back(ring);
    }

    /// A flow that has received nothing by its ring for the configured time, if one is soon found.
    pub(crate) fn idle_owner(&mut self, now: Instant) -> Option<u32> {
        let idle_after = self.limits.idle_after.as_nanos() as u64;
        for _ in 0..SEARCH.min(self.pools.len()) {
            self.hand = (self.hand + 1) % self.pools.len();
            let pool = &self.pools[self.hand];
            let idle = now.as_nanos().saturating_sub(pool.last_used.as_nanos());
            if pool.owner.is_some() && idle > idle_after {
                return pool.owner;
            }
        }
        None
    }

    /// Packets were found in this ring.
    pub(crate) fn on_batch(&mut self, ring: u16, frames: usize, now: Instant) {
        if usize::from(ring) >= FIRST_POOL {
            let pool = self.pool_mut(ring);
            pool.last_used = now;
            pool.counters.frames += frames as u64;
            self.touched.push(ring);
        }
    }

    /// Frames that came by a flow's ring and may be held at a time. While the shard has plenty, all that it was given
    /// (`lease_cap` unless configured); else no more than an equal part, so that nobody lives on what others need.
    pub(crate) fn credit(&self, lease_cap: u32, shard: Pressure) -> usize {
        let own = self.limits.credit.unwrap_or(lease_cap).min(lease_cap);
        match shard {
            Pressure::None => own as usize,
            // One more part for the flows without a ring.
            Pressure::Half | Pressure::High | Pressure::Full => {
                (own as usize).min(lease_cap as usize / (self.in_use + 1))
            }
        }
    }

    /// How much of its credit the pool holds, as its owner's window has it.
    pub(crate) fn level(&self, held: usize, credit: usize, shard: Pressure) -> Pressure {
        let own = if held >= credit {
            Pressure::Full
        } else {
            Pressure::of(held, credit)
        };
        match shard {
            Pressure::High | Pressure::Full => own.max(Pressure::Half),
            Pressure::None | Pressure::Half => own,
        }
    }

    /// Looks at the pools whose level may have changed; `change` is told of each owner whose window must follow.
    pub(crate) fn update_levels<P: Port>(
        &mut self,
        port: &P,
        lease_cap: u32,
        shard: Pressure,
        owners: &mut Vec<u32>,
    ) {
        if self.pressed.is_empty() && self.touched.is_empty() {
            return;
        }
        let credit = self.credit(lease_cap, shard);
        let limited = self.is_limited(lease_cap, credit);
        let pressed = std::mem::take(&mut self.pressed);
        let mut touched = std::mem::take(&mut self.touched);
        for ring in pressed.iter().chain(&touched).copied() {
            let level = self.level(port.held(ring.into()), credit, shard);
            let pool = self.pool_mut(ring);
            let Some(owner) = pool.owner else { continue };
            let old = std::mem::replace(&mut pool.pressure, level);
            if old != level || limited {
                owners.push(owner);
            }
            if level != Pressure::None && !self.pressed.contains(&ring) {
                self.pressed.push(ring);
            }
        }
        touched.clear();
        self.touched = touched;
    }

    pub(crate) fn pool_mut(&mut self, ring: u16) -> &mut Pool {
        &mut self.pools[usize::from(ring) - FIRST_POOL]
    }

    /// All pools with their rings.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Pool)> {
        (FIRST_POOL..).zip(&self.pools)
    }

    /// Rings in use, and rings in all.
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.in_use, self.pools.len())
    }
}

#[cfg(test)]
mod tests;
