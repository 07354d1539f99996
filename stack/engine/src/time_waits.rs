//! Connections in TIME-WAIT, apart from those that live: a tenth of their size, in the order in which they end.

use std::collections::VecDeque;

use bywash_tcp::TimeWait;
use bywash_tcp::time::Instant;
use bywash_wire::{Decoded, DropReason};
use bywash_xsk::{Frame, Port};

use crate::flows::Place;
use crate::shard::Core;
use crate::slab::Slab;
use crate::stages::ingress::Arrival;

/// The minute-long rest of connections.
#[derive(Default)]
pub(crate) struct TimeWaits {
    slab: Slab<TimeWait>,
    /// By the time at which they were to end when they came, with their generation: all wait equally long, so this is also the
    /// order of ending. One that was prolonged is put at the end when its turn comes.
    order: VecDeque<(Instant, u32, u32)>,
}

impl TimeWaits {
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn get(&self, index: u32) -> Option<&TimeWait> {
        self.slab.get(index)
    }

    fn insert(&mut self, one: TimeWait) -> u32 {
        let until = one.until();
        let id = self.slab.insert(one);
        self.order.push_back((until, id.index, id.generation));
        id.index
    }

    /// The next one whose time may be over.
    fn oldest(&mut self) -> Option<(Instant, u32)> {
        loop {
            let (until, index, generation) = *self.order.front()?;
            let id = self.slab.id_of(index);
            if id.is_some_and(|id| id.generation == generation) {
                return Some((until, index));
            }
            // Gone before its time.
            self.order.pop_front();
        }
    }

    /// When the next one ends, at the earliest.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        self.order.front().map(|(until, ..)| *until)
    }
}

impl<P: Port> Core<P> {
    /// The connection has only TIME-WAIT before it and its service knows: all but what TIME-WAIT needs goes.
    pub(crate) fn keep_time_wait(&mut self, index: u32) {
        let Some(conn) = self.conns.by_index(index) else {
            return;
        };
        let Some(one) = conn.tcp.time_wait() else {
            return;
        };
        self.forget(index);
        if self.config.max_time_waits == 0 {
            self.counters.time_waits_cut += 1;
            return;
        }
        if self.time_waits.len() >= self.config.max_time_waits as usize
            && let Some((_, oldest)) = self.time_waits.oldest()
        {
            // The oldest has waited longest: it is the least likely to meet an old segment.
            self.counters.time_waits_cut += 1;
            self.end_time_wait(oldest);
        }
        let tuple = *one.tuple();
        let place = self.time_waits.insert(one);
        self.flows.insert(&tuple, Place::TimeWait(place));
        if self.config.shards > 1 {
            self.directory.insert(&tuple, self.config.index);
        }
    }

    /// Ends those whose time is over. A few at a time: a flood of them must not stop a turn.
    pub(crate) fn expire_time_waits(&mut self) -> usize {
        const BUDGET: usize = 64;
        let mut ended = 0;
        while ended < BUDGET
            && let Some((until, index)) = self.time_waits.oldest()
            && until.as_nanos() <= self.now.as_nanos()
        {
            ended += 1;
            let moved = self.time_waits.get(index).map(TimeWait::until);
            match moved {
                // Its peer's FIN came once more.
                Some(moved) if moved.as_nanos() > until.as_nanos() => {
                    let entry = self.time_waits.order.pop_front();
                    if let Some((_, index, generation)) = entry {
                        self.time_waits.order.push_back((moved, index, generation));
                    }
                }
                _ => self.end_time_wait(index),
            }
        }
        ended
    }

    pub(crate) fn end_time_wait(&mut self, index: u32) {
        let Some(one) = self.time_waits.slab.remove(index) else {
            return;
        };
        self.flows.remove(one.tuple(), Place::TimeWait(index));
        if self.config.shards > 1 {
            self.directory.remove(one.tuple());
        }
    }

    pub(crate) fn on_time_wait_segment(
        &mut self,
        index: u32,
        decoded: &Decoded,
        frame: Frame,
        arrival: Arrival,
    ) {
        use bywash_tcp::TimeWaitAnswer;
        let Some(one) = self.time_waits.slab.by_index(index) else {
            debug_assert!(false, "the flow table names what exists");
            return;
        };
        match one.on_segment(self.now, &decoded.segment) {
            TimeWaitAnswer::Drop(reason) => self.count_drop(reason),
            TimeWaitAnswer::Acknowledge(segment) => {
                self.count_drop(DropReason::UnacceptableSequence);
                // Counted where it fails.
                self.send_back(decoded, &segment);
            }
            TimeWaitAnswer::NewIncarnation => {
                self.end_time_wait(index);
                self.on_stray_segment(decoded, frame, arrival);
            }
        }
    }
}
