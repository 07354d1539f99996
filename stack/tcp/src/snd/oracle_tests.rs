//! The scoreboard against an oracle that walks over everything, every time.
//!
//! One body, driven twice: by proptest here, and by the bytes of a fuzzer (`tests/fuzz`).

extern crate std;
use std::vec;
use std::vec::Vec;

use bywash_wire::{SackBlocks, SeqNumber};
#[cfg(test)]
use proptest::prelude::*;

use super::*;
use crate::time::Duration;

/// So near the end that every run wraps.
const ISS: SeqNumber = SeqNumber::new(u32::MAX - 3_000);

#[derive(Clone, Debug)]
enum Op {
    /// So many segments of so many bytes are sent.
    Send(u8, u16),
    /// An ACK by so many records and bytes of the next, with blocks of (record, records, bytes cut off each end).
    Ack(u8, u8, Vec<(u8, u8, u8)>),
    /// What is lost is sent again, so many records at most.
    Resend(u8),
    /// RACK looks, with a window of so many milliseconds.
    Detect(u8),
    TimeOut(u8),
    Unmark,
    Probe,
    Cut(u8, u8),
    Wait(u8),
}

#[cfg(test)]
fn op() -> impl Strategy<Value = Op> {
    let block = (
        any::<u8>(),
        1_u8..6,
        prop_oneof![4 => Just(0_u8), 1 => 1_u8..200],
    );
    prop_oneof![
        4 => (1_u8..12, 1_u16..400).prop_map(|(n, len)| Op::Send(n, len)),
        8 => (prop_oneof![2 => Just(0_u8), 1 => 0_u8..5], prop_oneof![4 => Just(0_u8), 1 => any::<u8>()],
            prop::collection::vec(block, 0..4)).prop_map(|(n, part, blocks)| Op::Ack(n, part, blocks)),
        4 => (1_u8..8).prop_map(Op::Resend),
        4 => (0_u8..30).prop_map(Op::Detect),
        1 => (0_u8..40).prop_map(Op::TimeOut),
        1 => Just(Op::Unmark),
        1 => Just(Op::Probe),
        1 => (any::<u8>(), 1_u8..255).prop_map(|(index, at)| Op::Cut(index, at)),
        4 => (1_u8..30).prop_map(Op::Wait),
    ]
}

/// What the oracle knows of a record that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    seq: SeqNumber,
    end: SeqNumber,
    sent_at: Instant,
    times: u8,
    sacked: bool,
    lost: bool,
    resent: bool,
}

#[derive(Default)]
struct Oracle {
    records: Vec<Known>,
    newest: (Instant, SeqNumber),
    rtt: Option<Duration>,
}

impl Oracle {
    fn delivered(&mut self, record: &Known, arrival: &Arrival, by_number: bool) {
        if by_number && record.times > 1 && arrival.precedes(record.sent_at) {
            return;
        }
        let rtt = arrival.now.since(record.sent_at);
        self.rtt = Some(rtt.max(Duration::from_nanos(1)));
        if later((record.sent_at, record.end), self.newest) {
            self.newest = (record.sent_at, record.end);
        }
    }

    fn ack(&mut self, ack: SeqNumber, arrival: &Arrival) {
        for record in self.records.clone() {
            if record.end.at_or_before(ack) && !record.sacked {
                self.delivered(&record, arrival, true);
            }
        }
        self.records.retain(|record| record.end.after(ack));
        if let Some(first) = self.records.first_mut()
            && first.seq.before(ack)
        {
            first.seq = ack;
        }
    }

    fn sack(&mut self, start: SeqNumber, end: SeqNumber, arrival: &Arrival) {
        for index in 0..self.records.len() {
            let record = self.records[index];
            if record.seq.at_or_after(start) && record.end.at_or_before(end) && !record.sacked {
                self.delivered(&record, arrival, false);
                self.records[index] = Known {
                    sacked: true,
                    lost: false,
                    resent: false,
                    ..record
                };
            }
        }
    }

    /// How many were found, and when the next is due.
    fn detect(&mut self, now: Instant, window: Duration) -> (u32, Option<Instant>) {
        let Some(rtt) = self.rtt else {
            return (0, None);
        };
        let mut found = (0, None);
        for record in &mut self.records {
            let waits = !record.sacked && (!record.lost || record.resent);
            if !waits || !later(self.newest, (record.sent_at, record.end)) {
                continue;
            }
            let due = record.sent_at + rtt + window;
            if due <= now {
                found.0 += 1;
                record.lost = true;
                record.resent = false;
            } else {
                found.1 = Some(found.1.map_or(due, |at: Instant| at.min(due)));
            }
        }
        found
    }

    fn pipe(&self) -> u32 {
        let on_the_way =
            |record: &Known| u32::from(!record.sacked && !record.lost) + u32::from(record.resent);
        let len = |record: &Known| record.end.distance_from(record.seq) as u32;
        self.records
            .iter()
            .map(|record| on_the_way(record) * len(record))
            .sum()
    }
}

fn later(one: (Instant, SeqNumber), other: (Instant, SeqNumber)) -> bool {
    one.0 > other.0 || (one.0 == other.0 && one.1.after(other.1))
}

/// Both, and the time.
struct World {
    queue: SendQueue<Vec<u8>>,
    oracle: Oracle,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let now = Instant::ZERO + Duration::from_secs(10);
        let mut world = Self {
            queue: SendQueue::new(ISS),
            oracle: Oracle::default(),
            now,
        };
        world.queue.max_wnd = 1 << 20;
        world.queue.on_sent(0, now);
        world.sync_sent(0);
        world.ack(1, 0, &[]);
        world
    }

    /// The oracle learns of a transmission.
    fn sync_sent(&mut self, index: usize) {
        let record = self.queue.record(index);
        let (seq, end) = (record.seq, record.end());
        match self.oracle.records.get_mut(index) {
            Some(known) => {
                known.sent_at = self.now;
                known.times += 1;
                known.resent = true;
            }
            None => self.oracle.records.push(Known {
                seq,
                end,
                sent_at: self.now,
                times: 1,
                sacked: false,
                lost: false,
                resent: false,
            }),
        }
    }

    fn send(&mut self, len: usize) {
        self.queue.push(vec![7; len]);
        let index = self.queue.first_unsent().expect("just queued");
        self.queue.on_sent(index, self.now);
        self.sync_sent(index);
    }

    /// The peer acknowledges `whole` records and `part` bytes of the next, and names blocks.
    fn ack(&mut self, whole: usize, part: u32, blocks: &[(u8, u8, u8)]) {
        let records = &self.oracle.records;
        let mut ack = self.queue.una;
        if let Some(last) = whole.checked_sub(1).and_then(|at| records.get(at)) {
            ack = last.end;
        }
        if let Some(next) = records.get(whole) {
            ack += part.min(next.end.distance_from(next.seq) as u32 - 1);
        }
        let mut sack = SackBlocks::EMPTY;
        for (index, count, cut) in blocks {
            let from = usize::from(*index) % records.len().max(1);
            let to = (from + usize::from(*count)).min(records.len());
            if from < to {
                let (start, end) = (records[from].seq, records[to - 1].end);
                sack.push(start + u32::from(*cut), end - u32::from(*cut));
            }
        }
        let arrival = Arrival {
            now: self.now,
            echo: (part % 3 == 1).then(|| self.now.as_millis() as u32 - part),
            min_rtt: Duration::ZERO,
        };
        let mut acked = self.queue.begin_ack();
        if ack != self.queue.una {
            self.queue.on_ack(&mut acked, ack, &arrival);
            self.oracle.ack(ack, &arrival);
        }
        self.queue.on_sack(&mut acked, ack, &sack, &arrival);
        let skip = usize::from(acked.duplicate.is_some());
        for (start, end) in sack.iter().skip(skip) {
            if start.before(end) && start.at_or_after(ack) {
                self.oracle.sack(start, end, &arrival);
            }
        }
        self.queue
            .sample(self.now, &acked.delivered, Duration::ZERO);
    }

    fn resend(&mut self, most: u8) {
        for _ in 0..most {
            let first = self
                .oracle
                .records
                .iter()
                .position(|record| record.lost && !record.resent);
            assert_eq!(self.queue.next_lost(), first);
            let Some(index) = first else { return };
            self.queue.on_sent(index, self.now);
            self.sync_sent(index);
        }
    }

    fn detect(&mut self, window: Duration) {
        let found = self.queue.detect_lost(self.now, window);
        let expected = self.oracle.detect(self.now, window);
        assert_eq!((found.lost, found.wait), expected);
    }

    fn time_out(&mut self, rtt: Duration) {
        let records = &mut self.oracle.records;
        let reneged = records.first().is_some_and(|record| record.sacked);
        for (index, record) in records.iter_mut().enumerate() {
            record.sacked &= !reneged;
            let old = reneged || index == 0 || self.now.since(record.sent_at) >= rtt;
            if old && !record.sacked {
                record.lost = true;
                record.resent = false;
            }
        }
        assert_eq!(self.queue.mark_timed_out(self.now, rtt), reneged);
    }

    fn unmark(&mut self) {
        let records = &mut self.oracle.records;
        // A lost retransmission that is no longer lost is found later than the oracle would.
        if records.iter().any(|record| record.lost && record.times > 1) {
            return;
        }
        for record in records.iter_mut() {
            record.lost = false;
        }
        self.queue.unmark_lost();
    }

    fn probe(&mut self) {
        if let Some(last) = self.oracle.records.len().checked_sub(1)
            && !self.oracle.records.iter().any(|record| record.sacked)
            && !self.oracle.records[last].lost
        {
            self.queue.on_sent(last, self.now);
            self.sync_sent(last);
        }
    }

    fn cut(&mut self, index: u8, at: u8) {
        let count = self.oracle.records.len();
        if count == 0 {
            return;
        }
        let index = usize::from(index) % count;
        let at = u32::from(at);
        let known = self.oracle.records[index];
        if known.sacked || at >= known.end.distance_from(known.seq) as u32 {
            return;
        }
        assert!(self.queue.split(index, at));
        let middle = known.seq + at;
        self.oracle.records[index].end = middle;
        let second = Known {
            seq: middle,
            ..known
        };
        self.oracle.records.insert(index + 1, second);
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Send(count, len) => (0..*count).for_each(|_| self.send(usize::from(*len))),
            Op::Ack(whole, part, blocks) => self.ack((*whole).into(), (*part).into(), blocks),
            Op::Resend(most) => self.resend(*most),
            Op::Detect(millis) => self.detect(Duration::from_millis((*millis).into())),
            Op::TimeOut(millis) => self.time_out(Duration::from_millis((*millis).into())),
            Op::Unmark => self.unmark(),
            Op::Probe => self.probe(),
            Op::Cut(index, at) => self.cut(*index, *at),
            Op::Wait(millis) => self.now += Duration::from_millis((*millis).into()),
        }
    }

    fn check(&self) {
        let seen: Vec<Known> = self
            .queue
            .records
            .iter()
            .take(self.queue.sent())
            .map(|record| Known {
                seq: record.seq,
                end: record.end(),
                sent_at: record.sent_at,
                times: record.transmissions,
                sacked: record.sacked,
                lost: record.lost,
                resent: record.resent,
            })
            .collect();
        assert_eq!(seen, self.oracle.records);
        assert_eq!(self.queue.pipe(), self.oracle.pipe());
        assert!(self.queue.is_consistent(), "{:?}", self.queue.board);
        let acked = self.queue.una.distance_from(ISS + 1) as u64;
        assert_eq!(self.queue.bytes_acked(), acked);
        let marked = seen.iter().any(|r| r.sacked || r.lost || r.resent);
        assert!(!marked || self.queue.board.is_some());
    }

    /// Written down and read back.
    fn reborn(&mut self) {
        let mut bytes = Vec::new();
        self.queue.save(&mut bytes, &|payload: &Vec<u8>| payload);
        let mut input = Vec::new();
        crate::snapshot::begin(&mut input);
        input.extend_from_slice(&bytes);
        let mut reader = crate::snapshot::Reader::open(&input).expect("a header");
        self.queue = SendQueue::load(&mut reader, &mut |bytes| Some(bytes.to_vec()))
            .expect("what was saved loads");
        let mut again = Vec::new();
        self.queue.save(&mut again, &|payload: &Vec<u8>| payload);
        assert_eq!(bytes, again);
    }
}

/// The bytes of a fuzzer as operations; the same ranges as [`op`] has.
#[cfg(feature = "fuzzing")]
struct Script<'a>(core::slice::Iter<'a, u8>);

#[cfg(feature = "fuzzing")]
impl Script<'_> {
    /// The next byte, folded into `0..below`; 0 behind the end.
    fn next(&mut self, below: u8) -> u8 {
        self.0.next().copied().unwrap_or(0) % below
    }

    fn op(&mut self) -> Op {
        match self.next(16) {
            0..=3 => {
                let wide = u16::from(self.next(2)) * 200;
                Op::Send(1 + self.next(11), 1 + wide + u16::from(self.next(200)))
            }
            4..=7 => {
                let (whole, part) = (self.next(10), self.next(255));
                let blocks = (0..self.next(4)).map(|_| {
                    let (index, count) = (self.next(255), 1 + self.next(5));
                    (index, count, self.next(100).saturating_sub(80))
                });
                let blocks = blocks.collect();
                // Mostly duplicates, and mostly whole records.
                Op::Ack(whole.saturating_sub(5), part.saturating_sub(200), blocks)
            }
            8 | 9 => Op::Resend(1 + self.next(7)),
            10 | 11 => Op::Detect(self.next(30)),
            12 => Op::TimeOut(self.next(40)),
            13 => Op::Unmark,
            14 if self.next(2) == 0 => Op::Probe,
            14 => Op::Cut(self.next(255), 1 + self.next(254)),
            _ => Op::Wait(1 + self.next(29)),
        }
    }
}

/// Runs a fuzzer's bytes: see [`crate::fuzzing::scoreboard`].
#[cfg(feature = "fuzzing")]
pub(crate) fn run(data: &[u8]) {
    let mut script = Script(data.iter());
    let mut world = World::new();
    for turn in 1..80 {
        if script.0.as_slice().is_empty() {
            break;
        }
        let op = script.op();
        world.run(&op);
        world.check();
        if turn % 7 == 0 {
            world.reborn();
            world.check();
        }
    }
}

#[cfg(test)]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_scoreboard_knows_what_the_oracle_knows(
        ops in prop::collection::vec(op(), 1..80),
        reborn_every in 3_usize..20,
    ) {
        let mut world = World::new();
        for (turn, op) in ops.iter().enumerate() {
            world.run(op);
            world.check();
            if turn % reborn_every == 0 {
                world.reborn();
                world.check();
            }
        }
    }
}

#[test]
fn a_block_heard_before_costs_nothing_and_islands_merge() {
    let mut world = World::new();
    (0..10).for_each(|_| world.send(100));
    world.ack(0, 0, &[(1, 1, 0), (3, 1, 0), (5, 2, 0)]);
    let islands = |world: &World| world.queue.board.as_ref().map_or(0, |b| b.island_count());
    assert_eq!(islands(&world), 3);
    let mut acked = world.queue.begin_ack();
    let arrival = Arrival {
        now: world.now,
        echo: None,
        min_rtt: Duration::ZERO,
    };
    let una = world.queue.una;
    let block: SackBlocks = [(una + 500, una + 700)].into_iter().collect();
    world.queue.on_sack(&mut acked, una, &block, &arrival);
    assert_eq!((acked.sacked, acked.fresh), (0, 0));
    world.ack(0, 0, &[(1, 6, 0)]);
    assert_eq!(islands(&world), 1);
    assert_eq!(world.queue.tally().sacked, 6);
    world.ack(9, 0, &[]);
    assert_eq!(islands(&world), 0);
    world.ack(10, 0, &[]);
    assert!(world.queue.board.is_none(), "nothing is left to remember");
}

/// The entry of a retransmission outlives the beginning of its record: cut then, its halves stay where their time is, and are not
/// looked at behind later ones (found by fuzzing).
#[test]
fn the_halves_of_a_trimmed_retransmission_keep_their_time() {
    let mut world = World::new();
    (0..4).for_each(|_| world.send(100));
    world.now += Duration::from_millis(50);
    world.ack(0, 0, &[(3, 1, 0)]);
    world.detect(Duration::ZERO);
    world.resend(1);
    world.now += Duration::from_millis(10);
    world.resend(1);
    world.ack(0, 30, &[]);
    world.cut(0, 20);
    let times = |world: &World| -> Vec<Instant> {
        let resent = &world.queue.board.as_ref().expect("in trouble").resent;
        resent.iter().map(|entry| entry.1).collect()
    };
    assert!(times(&world).is_sorted(), "{:?}", times(&world));
    world.check();
}

/// Work is in proportion to what is new, not to the window: ten thousand segments, every hundredth lost, an ACK for each.
#[test]
fn the_window_is_not_walked_over_for_each_ack() {
    const SEGMENTS: usize = 10_000;
    let mut world = World::new();
    world.queue.max_wnd = 1 << 30;
    (0..SEGMENTS).for_each(|_| world.send(100));
    let mut acks = 0_usize;
    let ack = |world: &mut World, whole: u32, blocks: &[(u32, u32)]| {
        let mut acked = world.queue.begin_ack();
        let arrival = Arrival {
            now: world.now,
            echo: None,
            min_rtt: Duration::ZERO,
        };
        let number = ISS + 1 + whole * 100;
        if number.after(world.queue.una) {
            world.queue.on_ack(&mut acked, number, &arrival);
        }
        let blocks = blocks
            .iter()
            .map(|(from, to)| (ISS + 1 + from * 100, ISS + 1 + to * 100));
        world
            .queue
            .on_sack(&mut acked, number, &blocks.collect(), &arrival);
        world.queue.detect_lost(world.now, Duration::ZERO);
        while let Some(index) = world.queue.next_lost() {
            world.queue.on_sent(index, world.now);
        }
    };
    for n in 1..SEGMENTS as u32 {
        world.now += Duration::from_micros(10);
        if n % 100 != 0 {
            // As receivers do: the newest block, and two before it.
            let start = n / 100 * 100 + 1;
            let older = |back: u32| {
                (
                    start.saturating_sub(back),
                    (start - 1).saturating_sub(back - 100),
                )
            };
            let mut blocks = std::vec![(start, n + 1)];
            if start > 201 {
                blocks.extend([older(100), older(200)]);
            }
            ack(&mut world, 0, &blocks);
            acks += 1;
        }
    }
    assert_eq!(world.queue.tally().sacked, 9_900);
    assert!(
        world.queue.tally().resent >= 99,
        "{:?}",
        world.queue.tally()
    );
    let visits = world.queue.board.as_ref().map_or(0, |board| board.visits);
    assert!(visits < 6 * acks, "{visits} records for {acks} ACKs");
}
