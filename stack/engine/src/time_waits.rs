//! Connections in TIME-WAIT, apart from those that live: a tenth of their size, in the order in which they end.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use bywash_tcp::TimeWait;
use bywash_tcp::time::Instant;
use bywash_wire::{Decoded, DropReason};
use bywash_xsk::{Frame, Port};

use crate::flows::Place;
use crate::shard::Core;
use crate::slab::Slab;
use crate::stages::ingress::Arrival;

/// Entries of the order that need not be tidied, whatever they are.
const FEW: usize = 1024;

/// The minute-long rest of connections.
#[derive(Default)]
pub(crate) struct TimeWaits {
    slab: Slab<TimeWait>,
    /// By the time at which they were to end when they came, with their generation: all wait equally long, so this is also the
    /// order of ending.
    order: VecDeque<Entry>,
    /// Those that were found prolonged when their turn came. They end before the ones that came last, so at the end of
    /// `order` they would wait for twice their time, and refuse a peer that has started anew for as long.
    prolonged: BinaryHeap<Reverse<Entry>>,
}

/// When it ends at the earliest, ns; index and generation.
type Entry = (u64, u32, u32);

impl TimeWaits {
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn get(&self, index: u32) -> Option<&TimeWait> {
        self.slab.get(index)
    }

    fn insert(&mut self, one: TimeWait) -> u32 {
        let until = one.until().as_nanos();
        let id = self.slab.insert(one);
        self.order.push_back((until, id.index, id.generation));
        self.tidy();
        id.index
    }

    /// Takes out the entries of those that have given way to new connections, once they are most: behind one that waits its
    /// minute, a hundred thousand a second would gather.
    fn tidy(&mut self) {
        if self.order.len() <= 2 * self.slab.len() + FEW {
            return;
        }
        let slab = &self.slab;
        self.order.retain(|&(_, index, generation)| {
            slab.id_of(index)
                .is_some_and(|id| id.generation == generation)
        });
    }

    /// The entry that ends first, and whether it is of those prolonged.
    fn first(&self) -> Option<(Entry, bool)> {
        let plain = self.order.front().map(|entry| (*entry, false));
        let prolonged = self.prolonged.peek().map(|entry| (entry.0, true));
        plain.into_iter().chain(prolonged).min()
    }

    fn pop(&mut self, is_prolonged: bool) {
        if is_prolonged {
            self.prolonged.pop();
        } else {
            self.order.pop_front();
        }
    }

    /// The next one whose time may be over, ns.
    fn oldest(&mut self) -> Option<(u64, u32)> {
        loop {
            let ((until, index, generation), is_prolonged) = self.first()?;
            let id = self.slab.id_of(index);
            if id.is_some_and(|id| id.generation == generation) {
                return Some((until, index));
            }
            // Gone before its time.
            self.pop(is_prolonged);
        }
    }

    /// The first one's time is `moved`, ns: its peer's FIN came once more.
    fn prolong_first(&mut self, moved: u64) {
        if let Some(((_, index, generation), is_prolonged)) = self.first() {
            self.pop(is_prolonged);
            self.prolonged.push(Reverse((moved, index, generation)));
        }
    }

    /// When the next one ends, at the earliest.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        self.first()
            .map(|((until, ..), _)| Instant::from_nanos(until))
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
            && until <= self.now.as_nanos()
        {
            ended += 1;
            let moved = self.time_waits.get(index).map(|one| one.until().as_nanos());
            match moved {
                Some(moved) if moved > until => self.time_waits.prolong_first(moved),
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bywash_tcp::time::Duration;
    use bywash_xsk::{MemoryConfig, MemoryPort};

    use super::*;
    use crate::clock::ManualClock;
    use crate::config::ShardConfig;
    use crate::context::{ConnOptions, Context};
    use crate::memory::{ADDRESSES_A, MemoryPair};
    use crate::service::{Event, Service};

    const PORTS: [u16; 2] = [9, 10];

    /// Closes whatever it accepts, and so has TIME-WAIT.
    struct Closer;

    impl Service for Closer {
        fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
            match event {
                Event::Started => PORTS.into_iter().for_each(|port| {
                    cx.listen(port, ConnOptions::default()).expect("free");
                }),
                Event::Accepted { conn, .. } => cx.close(conn).expect("it is open"),
                _ => {}
            }
        }
    }

    /// Opens one connection after the other: the first to another port than the rest.
    #[derive(Default)]
    struct Opener {
        closed: usize,
    }

    impl Opener {
        fn open<P: Port>(&self, cx: &mut Context<'_, P>) {
            let port = PORTS[usize::from(self.closed > 0)];
            let to = SocketAddr::new(ADDRESSES_A[0], port);
            cx.connect(to, ConnOptions::default()).expect("a port");
        }
    }

    impl Service for Opener {
        fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
            match event {
                Event::Started => self.open(cx),
                // It may be closed already.
                Event::Readable { conn } => drop(cx.close(conn)),
                Event::Closed { .. } => {
                    self.closed += 1;
                    self.open(cx);
                }
                _ => {}
            }
        }
    }

    /// Behind one that waits its minute, those that give way leave nothing for long.
    #[test]
    fn what_gave_way_is_tidied_away() {
        let config = ShardConfig {
            local_ports: 61440..=61443,
            ..ShardConfig::default()
        };
        let clock = ManualClock::new();
        let ports = MemoryPort::pair(&MemoryConfig::default());
        let mut pair = MemoryPair::seeded(&config, ports, Closer, Opener::default(), &clock, 1);
        let (mut turns, mut longest) = (0, 0);
        while pair.b.service().closed < 3000 {
            pair.turn();
            clock.advance(std::time::Duration::from_micros(500));
            longest = longest.max(pair.a.core.time_waits.order.len());
            turns += 1;
            assert!(turns < 50_000, "{} closed", pair.b.service().closed);
        }
        // The first one, and one for each port that is not in use just now.
        let waiting = pair.a.core.time_waits.len();
        assert!((4..=5).contains(&waiting), "{waiting}");
        assert!(longest > FEW, "{longest}: there was something to tidy");
        assert!(longest <= 2 * 5 + FEW + 1, "{longest}");
    }

    #[test]
    fn one_prolonged_ends_before_those_that_came_later() {
        let mut all = TimeWaits::default();
        for second in [10, 11, 13] {
            all.order.push_back((second, second as u32, 0));
        }
        // The first was to end at 10; its FIN came again, so it ends between the others.
        all.prolong_first(12);
        let mut ended = Vec::new();
        while let Some(((until, index, _), is_prolonged)) = all.first() {
            assert_eq!(
                all.next_wakeup(),
                Some(Instant::ZERO + Duration::from_nanos(until))
            );
            all.pop(is_prolonged);
            ended.push((until, index));
        }
        assert_eq!(ended, [(11, 11), (12, 10), (13, 13)]);
    }
}
