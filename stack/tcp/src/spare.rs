//! Memory of queues that are empty now, for connections whose queues are about to fill.
//!
//! ```text
//!  segment, send -> lend -> [queue in use] -> empty at the end of the turn -> give_back -> Spare
//! ```
//! A connection at rest has nothing to send again and nothing to read: its queues' memory, several hundred bytes, would lie
//! there for nothing, and out of every cache. The owner of many connections keeps it in common: the queue emptied last is
//! the next one used. Nobody must do so: a queue without memory gets its own.

use alloc::vec::Vec;

use crate::connection::Connection;
use crate::payload::Payload;
use crate::rcv::Unread;
use crate::snd::{Record, Sums};
use crate::thin::Thin;

/// Queues kept of each kind; what is beyond is freed. As many connections can be busy at once without an allocation; a quarter
/// of a megabyte.
const KEPT: usize = 1_024;
/// Longer queues stay with the connection that needed them: it is likely to do so again.
const CAPACITY_MAX: usize = 256;

/// Empty queues with memory.
#[derive(Debug)]
pub struct Spare<P> {
    records: Vec<Thin<Record<P>, Sums>>,
    unread: Vec<Thin<P, Unread>>,
}

impl<P> Default for Spare<P> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            unread: Vec::new(),
        }
    }
}

fn lend<T, H: Copy + Default>(queue: &mut Thin<T, H>, from: &mut Vec<Thin<T, H>>) {
    if queue.capacity().is_none()
        && let Some(spare) = from.pop()
    {
        *queue = spare;
    }
}

fn give_back<T, H: Copy + Default>(queue: &mut Thin<T, H>, to: &mut Vec<Thin<T, H>>) {
    if queue
        .capacity()
        .is_some_and(|capacity| capacity <= CAPACITY_MAX)
        && let Some(memory) = queue.take_empty()
        && to.len() < KEPT
    {
        to.push(memory);
    }
}

impl<P: Payload> Connection<P> {
    /// Data is about to be queued for sending.
    pub fn lend_for_sending(&mut self, spare: &mut Spare<P>) {
        lend(self.snd.memory(), &mut spare.records);
    }

    /// Data is about to arrive.
    pub fn lend_for_reading(&mut self, spare: &mut Spare<P>) {
        lend(self.rcv.memory(), &mut spare.unread);
    }

    /// Takes the memory of queues that are empty.
    pub fn give_back(&mut self, spare: &mut Spare<P>) {
        give_back(self.snd.memory(), &mut spare.records);
        give_back(self.rcv.memory(), &mut spare.unread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(values: &[u32], room: usize) -> Thin<u32> {
        let mut queue = Thin::new();
        queue.parts().0.reserve_exact(room);
        for value in values {
            queue.push_back(*value);
        }
        queue
    }

    #[test]
    fn memory_goes_round() {
        let mut spares = Vec::new();
        let mut one = queue(&[1, 2], 4);
        give_back(&mut one, &mut spares);
        assert!(spares.is_empty(), "it is in use");
        one.pop_front();
        one.pop_front();
        give_back(&mut one, &mut spares);
        assert_eq!((one.capacity(), spares.len()), (None, 1));
        let mut other = Thin::new();
        lend(&mut other, &mut spares);
        assert!(other.capacity() >= Some(2) && spares.is_empty());
        spares.push(queue(&[], 100));
        lend(&mut other, &mut spares);
        assert!(other.capacity() < Some(100), "it has its own");
    }

    #[test]
    fn long_queues_stay_and_spares_are_bounded() {
        let mut spares = Vec::new();
        let mut long = queue(&[], CAPACITY_MAX + 1);
        give_back(&mut long, &mut spares);
        assert!(long.capacity() > Some(CAPACITY_MAX) && spares.is_empty());
        for _ in 0..=KEPT {
            give_back(&mut queue(&[], 4), &mut spares);
        }
        assert_eq!(spares.len(), KEPT);
    }
}
