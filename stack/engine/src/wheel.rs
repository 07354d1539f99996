//! Hierarchical timing wheel (Varghese & Lauck): one deadline per connection, constant cost.
//!
//! ```text
//! level 0: 64 slots of 1 tick      |  level 1: 64 slots of 64 ticks  |  .. level 4: 64^4 ticks
//! ```
//! A deadline stands in the lowest level whose span holds it; when a higher level's slot comes
//! up, its entries are spread over the levels below. An entry is found by its key (the
//! connection's index) in a doubly linked list threaded through one vector, so moving a deadline
//! costs two unlinks and no allocation. A bitmap per level makes empty stretches free.
//!
//! Most deadlines are moved or taken back before they come: every acknowledgment does it. So an entry whose deadline is put
//! off, or taken back, stays where it stands, with a note; it is moved or dropped when its old place comes up. That is one
//! look more for each entry in each of its old time-outs, and no unlinking for each packet.
//!
//! A deadline fires at the first `advance` at or after it; one tick late at most. Never before, but for one that is more than a
//! day ahead: that comes up after some 24 hours, and its owner, which looks at its own deadlines, sets it anew.

use bywash_tcp::time::Instant;

/// Length of a tick: 2^14 ns = 16 us. Pacing needs it so fine: a sender is woken once a quantum of at most 64 KiB, which
/// at 10 Gbit/s is 52 us. Delayed ACKs (40 ms) and RTOs (200 ms) would do with a coarser one.
const TICK_SHIFT: u32 = 14;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 5;
/// Deadlines beyond this many ticks (4.9 h) are kept at the edge and moved on when it comes.
const HORIZON: u64 = (1 << (SLOT_BITS as usize * LEVELS)) - 1;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Entry {
    next: u32,
    prev: u32,
    /// Tick that it stands at, its lower half: never before the wheel's, never beyond the horizon. Meaningless while `place`
    /// is `NONE`.
    tick: u32,
    /// By how many ticks the deadline is later; `NONE`: there is none any more.
    later: u32,
    /// Level * SLOTS + slot, or `NONE` while it stands nowhere.
    place: u32,
}

const IDLE: Entry = Entry {
    next: NONE,
    prev: NONE,
    tick: 0,
    later: NONE,
    place: NONE,
};

impl Entry {
    fn is_armed(&self) -> bool {
        self.place != NONE && self.later != NONE
    }
}

/// The tick whose lower half is `half`, at or after `now`.
fn whole(now: u64, half: u32) -> u64 {
    now + u64::from(half.wrapping_sub(now as u32))
}

/// Deadlines by key.
pub(crate) struct Wheel {
    entries: Vec<Entry>,
    heads: [u32; SLOTS * LEVELS],
    occupied: [u64; LEVELS],
    /// Every tick before this one has fired.
    tick: u64,
    /// Entries with a deadline.
    armed: usize,
    /// Entries in lists.
    linked: usize,
}

impl Wheel {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            entries: Vec::new(),
            heads: [NONE; SLOTS * LEVELS],
            occupied: [0; LEVELS],
            tick: now.as_nanos() >> TICK_SHIFT,
            armed: 0,
            linked: 0,
        }
    }

    /// Arms, moves or (with `None`) disarms the deadline of `key`.
    pub(crate) fn set(&mut self, key: u32, deadline: Option<Instant>) {
        let Some(deadline) = deadline else {
            if let Some(entry) = self.entries.get_mut(key as usize)
                && entry.is_armed()
            {
                entry.later = NONE;
                self.armed -= 1;
            }
            return;
        };
        let tick = self.tick_of(deadline);
        if key as usize >= self.entries.len() {
            self.entries.resize(key as usize + 1, IDLE);
        }
        let entry = &mut self.entries[key as usize];
        if entry.place != NONE
            && let Some(later) = tick.checked_sub(whole(self.tick, entry.tick))
            && later < u64::from(NONE)
        {
            self.armed += usize::from(entry.later == NONE);
            entry.later = later as u32;
            return;
        }
        self.unlink(key);
        self.link(key, tick);
    }

    /// Moves time on to `now` and hands over the keys whose deadline has come; they are disarmed.
    /// Returns how many there were.
    pub(crate) fn advance(&mut self, now: Instant, mut fire: impl FnMut(u32)) -> usize {
        let target = now.as_nanos() >> TICK_SHIFT;
        let mut fired = 0;
        while self.tick <= target {
            if self.linked == 0 {
                self.tick = target + 1;
                break;
            }
            let slot = (self.tick & (SLOTS as u64 - 1)) as usize;
            if slot == 0 {
                self.cascade();
            }
            fired += self.fire_slot(slot, &mut fire);
            self.tick = self.next_stop(slot).min(target + 1);
        }
        fired
    }

    /// The next time at which `advance` could have something to do: never later than the earliest
    /// deadline's tick, but possibly earlier than it.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        if self.armed == 0 {
            return None;
        }
        let mut best = u64::MAX;
        for level in 0..LEVELS {
            let bits = self.occupied[level];
            if bits == 0 {
                continue;
            }
            let shift = SLOT_BITS * level as u32;
            let here = (self.tick >> shift) & (SLOTS as u64 - 1);
            let ahead = u64::from(bits.rotate_right(here as u32).trailing_zeros());
            let block = self.tick >> shift;
            // A slot that begins now is still to be spread; one that is under way was, and what
            // stands in it is for its next round (the top level's edge).
            let under_way = ahead == 0 && self.tick > block << shift;
            let blocks = if !under_way {
                ahead
            } else {
                match bits & !(1 << here) {
                    0 => SLOTS as u64,
                    later => u64::from(later.rotate_right(here as u32).trailing_zeros()),
                }
            };
            let at = (block + blocks) << shift;
            best = best.min(at);
        }
        Some(Instant::from_nanos(best << TICK_SHIFT))
    }

    /// First tick at which a deadline has surely passed: rounded up, and never in the past.
    fn tick_of(&self, deadline: Instant) -> u64 {
        let up = (deadline.as_nanos() + (1 << TICK_SHIFT) - 1) >> TICK_SHIFT;
        up.max(self.tick)
    }

    fn link(&mut self, key: u32, tick: u64) {
        let delta = (tick - self.tick).min(HORIZON);
        let at = self.tick + delta;
        // The level is that of the highest bit in which the deadline and the present differ, so
        // an entry never stands in a slot that was already spread.
        let differs = at ^ self.tick;
        let level = if differs == 0 {
            0
        } else {
            ((63 - differs.leading_zeros()) / SLOT_BITS).min(LEVELS as u32 - 1) as usize
        };
        let slot = ((at >> (SLOT_BITS * level as u32)) & (SLOTS as u64 - 1)) as usize;
        let place = level * SLOTS + slot;
        let head = self.heads[place];
        self.entries[key as usize] = Entry {
            next: head,
            prev: NONE,
            tick: at as u32,
            // A deadline beyond 19 hours comes up before its time, and its owner sets it anew.
            later: u32::try_from(tick - at).unwrap_or(NONE).min(NONE - 1),
            place: place as u32,
        };
        if head != NONE {
            self.entries[head as usize].prev = key;
        }
        self.heads[place] = key;
        self.occupied[level] |= 1 << slot;
        self.armed += 1;
        self.linked += 1;
    }

    fn unlink(&mut self, key: u32) {
        let Some(&entry) = self.entries.get(key as usize) else {
            return;
        };
        if entry.place == NONE {
            return;
        }
        let place = entry.place as usize;
        if entry.prev == NONE {
            self.heads[place] = entry.next;
        } else {
            self.entries[entry.prev as usize].next = entry.next;
        }
        if entry.next != NONE {
            self.entries[entry.next as usize].prev = entry.prev;
        }
        if self.heads[place] == NONE {
            self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
        }
        self.entries[key as usize] = IDLE;
        self.armed -= usize::from(entry.is_armed());
        self.linked -= 1;
    }

    /// The tick at which the entry shall fire, if it shall.
    fn deadline_of(&self, key: u32) -> Option<u64> {
        let entry = &self.entries[key as usize];
        entry
            .is_armed()
            .then(|| whole(self.tick, entry.tick) + u64::from(entry.later))
    }

    fn fire_slot(&mut self, slot: usize, fire: &mut impl FnMut(u32)) -> usize {
        let mut fired = 0;
        while self.heads[slot] != NONE {
            let key = self.heads[slot];
            let deadline = self.deadline_of(key);
            self.unlink(key);
            let Some(tick) = deadline else { continue };
            if tick > self.tick {
                self.link(key, tick);
            } else {
                fire(key);
                fired += 1;
            }
        }
        fired
    }

    /// Spreads the higher levels' slots that begin at the present tick over the levels below.
    fn cascade(&mut self) {
        for level in 1..LEVELS {
            let slot = ((self.tick >> (SLOT_BITS * level as u32)) & (SLOTS as u64 - 1)) as usize;
            let place = level * SLOTS + slot;
            let mut key = self.heads[place];
            while key != NONE {
                let next = self.entries[key as usize].next;
                let deadline = self.deadline_of(key);
                self.unlink(key);
                if let Some(tick) = deadline {
                    self.link(key, tick);
                }
                key = next;
            }
            if slot != 0 {
                break;
            }
        }
    }

    /// The next tick worth a look: the next occupied slot of level 0, or the start of the next
    /// block of 64, where higher levels are spread.
    fn next_stop(&self, slot: usize) -> u64 {
        let block = self.tick - slot as u64;
        let later = if slot + 1 < SLOTS {
            self.occupied[0] >> (slot + 1) << (slot + 1)
        } else {
            0
        };
        match later {
            0 => block + SLOTS as u64,
            bits => block + u64::from(bits.trailing_zeros()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const TICK: u64 = 1 << TICK_SHIFT;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    proptest! {
        /// Against a map: every deadline fires once, not early, at most a tick late.
        #[test]
        fn fires_like_a_sorted_map(
            start in 0u64..(1 << 50),
            steps in prop::collection::vec((0u32..24, 0u64..(1 << 42), any::<bool>(), 0u64..(1 << 40)), 1..200),
        ) {
            let mut now = start;
            let mut wheel = Wheel::new(at(now));
            let mut oracle: BTreeMap<u32, u64> = BTreeMap::new();
            for (key, delay, arm, step) in steps {
                let delay = if key % 2 == 0 { delay } else { delay >> 18 };
                let step = if key % 3 == 0 { step } else { step >> 14 };
                if arm {
                    wheel.set(key, Some(at(now + delay)));
                    oracle.insert(key, now + delay);
                } else {
                    wheel.set(key, None);
                    oracle.remove(&key);
                }
                prop_assert_eq!(wheel.armed, oracle.len());
                let earliest = oracle.values().min().copied();
                match (wheel.next_wakeup(), earliest) {
                    (None, None) => {}
                    (Some(wake), Some(due)) => {
                        prop_assert!(wake.as_nanos() <= due.max(now) + 2 * TICK, "wakes up too late");
                    }
                    (wake, due) => prop_assert!(false, "{wake:?} against {due:?}"),
                }
                now += step;
                let mut fired = Vec::new();
                wheel.advance(at(now), |key| fired.push(key));
                for key in fired {
                    let due = oracle.remove(&key);
                    prop_assert!(due.is_some_and(|due| due <= now), "{key} fired early or twice");
                }
                for due in oracle.values() {
                    prop_assert!(*due + 2 * TICK > now, "a deadline was missed");
                }
            }
        }
    }

    #[test]
    fn next_wakeup_leads_to_the_deadline() {
        for delay in [
            0,
            1,
            TICK,
            64 * TICK,
            65 * TICK,
            5000 * TICK,
            300_000 * TICK,
        ] {
            let mut wheel = Wheel::new(at(77 * TICK));
            wheel.set(3, Some(at(77 * TICK + delay)));
            let mut steps = 0;
            let mut fired = 0;
            while let Some(wake) = wheel.next_wakeup() {
                fired += wheel.advance(wake, |_| {});
                steps += 1;
                assert!(steps < 10, "{delay}: wake-ups do not lead to the deadline");
            }
            assert_eq!(fired, 1);
        }
    }
}
