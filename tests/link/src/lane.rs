//! One direction of a link: packets go in with the time, and come out when their time has come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use serde::Serialize;

use crate::chance::{Chance, Draw};
use crate::impairment::Impairment;
use crate::mark::mark;

/// Bytes that damage leaves alone: without its Ethernet header a frame would reach nobody, or somebody else.
const ETHERNET: usize = 14;

/// What became of the packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fates {
    /// Packets that came in.
    pub offered: u64,
    /// Packets, copies included, that went out.
    pub delivered: u64,
    /// Lost by `loss`.
    pub lost: u64,
    /// Lost in a burst.
    pub lost_in_bursts: u64,
    /// Did not fit into the queue of the rate.
    pub queue_full: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Held back.
    pub reordered: u64,
    /// Marked as having met congestion.
    pub marked: u64,
    /// With one bit flipped.
    pub corrupted: u64,
    /// Cut short.
    pub truncated: u64,
}

/// A packet on its way: when it arrives, a number that keeps equal times in order, its bytes.
type Due = Reverse<(u64, u64, Vec<u8>)>;

/// One direction. Times are nanoseconds of any clock that does not go back.
#[derive(Debug)]
pub struct Lane {
    impairment: Impairment,
    chance: Chance,
    underway: BinaryHeap<Due>,
    fates: Fates,
    entered: u64,
    /// Bursty loss is in its bad state.
    bad: bool,
    /// When the rate has let everything through that it was given.
    free_at: u64,
    /// Arrival of the latest packet that keeps its order.
    last_due: u64,
}

impl Lane {
    /// An empty one. `number` tells the directions of a link apart: they draw from different streams.
    pub fn new(impairment: Impairment, seed: u64, number: u64) -> Self {
        Self {
            impairment,
            chance: Chance::new(seed, number),
            underway: BinaryHeap::new(),
            fates: Fates::default(),
            entered: 0,
            bad: false,
            free_at: 0,
            last_due: 0,
        }
    }

    /// From now on this is done to packets. What is on its way arrives as it was to.
    pub fn set_impairment(&mut self, impairment: Impairment) {
        self.impairment = impairment;
    }

    /// A frame has come in at `now`.
    pub fn offer(&mut self, now: u64, frame: &[u8]) {
        let number = self.fates.offered;
        self.fates.offered += 1;
        if self.is_lost(number) {
            return;
        }
        let Some(sent) = self.serialise(now, frame.len()) else {
            self.fates.queue_full += 1;
            return;
        };
        let copies =
            1 + u32::from(self.happens(number, Draw::Duplicate, self.impairment.duplicate));
        self.fates.duplicated += u64::from(copies > 1);
        let frame = self.damaged(number, frame);
        let due = self.arrival(number, sent);
        for _ in 0..copies {
            self.entered += 1;
            self.underway
                .push(Reverse((due, self.entered, frame.clone())));
        }
    }

    /// The next frame whose time has come, in the order of arrival.
    pub fn due(&mut self, now: u64) -> Option<Vec<u8>> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse((_, _, frame)) = self.underway.pop()?;
        self.fates.delivered += 1;
        Some(frame)
    }

    /// When the next frame arrives.
    pub fn next_due(&self) -> Option<u64> {
        self.underway.peek().map(|Reverse((due, _, _))| *due)
    }

    /// What became of the packets so far.
    pub fn fates(&self) -> Fates {
        self.fates
    }

    /// Frames on their way.
    pub fn underway(&self) -> usize {
        self.underway.len()
    }

    fn happens(&self, number: u64, draw: Draw, probability: f64) -> bool {
        self.chance.happens(number, draw, probability)
    }

    fn is_lost(&mut self, number: u64) -> bool {
        if let Some(burst) = self.impairment.burst {
            let change = if self.bad { burst.leave } else { burst.enter };
            self.bad ^= self.happens(number, Draw::Burst, change);
            if self.bad {
                self.fates.lost_in_bursts += 1;
                return true;
            }
        }
        let lost = self.happens(number, Draw::Loss, self.impairment.loss);
        self.fates.lost += u64::from(lost);
        lost
    }

    /// When the rate has let the packet through; `None` if the queue before it is full.
    fn serialise(&mut self, now: u64, length: usize) -> Option<u64> {
        let Some(rate) = self.impairment.rate else {
            return Some(now);
        };
        let start = self.free_at.max(now);
        let waiting = u128::from(start - now) * u128::from(rate) / 8_000_000_000;
        if waiting + length as u128 > self.impairment.queue as u128 {
            return None;
        }
        let time = length as u128 * 8_000_000_000 / u128::from(rate);
        self.free_at = start + time as u64;
        Some(self.free_at)
    }

    /// When a packet that was sent at `sent` arrives. All keep their order but those that are held back.
    fn arrival(&mut self, number: u64, sent: u64) -> u64 {
        let jitter = ns(self.impairment.jitter) as f64 * self.chance.fraction(number, Draw::Jitter);
        let due = sent + ns(self.impairment.delay) + jitter as u64;
        if self.happens(number, Draw::Reorder, self.impairment.reorder) {
            self.fates.reordered += 1;
            return due + ns(self.impairment.reorder_by);
        }
        self.last_due = self.last_due.max(due);
        self.last_due
    }

    fn damaged(&mut self, number: u64, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        let behind = frame.len().saturating_sub(ETHERNET) as u64;
        if behind == 0 {
            return frame;
        }
        if self.happens(number, Draw::Mark, self.impairment.mark) && mark(&mut frame) {
            self.fates.marked += 1;
        }
        if self.happens(number, Draw::Corrupt, self.impairment.corrupt) {
            let bit = self.chance.bits(number, Draw::CorruptBit) % (behind * 8);
            frame[ETHERNET + (bit / 8) as usize] ^= 1 << (bit % 8);
            self.fates.corrupted += 1;
        }
        if self.happens(number, Draw::Truncate, self.impairment.truncate) {
            let keep = self.chance.bits(number, Draw::TruncateAt) % behind;
            frame.truncate(ETHERNET + keep as usize);
            self.fates.truncated += 1;
        }
        frame
    }
}

fn ns(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

#[cfg(test)]
mod tests;
