//! The scoreboard: which of the records sent are SACKed, believed lost, sent again (RFC 2018, RFC 6675).
//!
//! ```text
//!  records   [  ][S][S][  ][L][S][R][  ]     S sacked, L lost, R lost and sent again
//!  islands       <--->         <>            ranges of whole records, in order, apart
//!  resent    (seq of R, when)                in the order of sending
//!            ^ lost_hint, judged             nothing to be found before these
//! ```
//! The marks stand in the records; the board holds their sums and what finds them without a walk over the window. A block
//! that was heard before costs a binary search over the islands; a new one costs the records that it newly names. RACK's
//! order by time is the order of the queue for what was sent once, and the order of `resent` for the rest, so each look
//! stops at the first record that is not due. Only a time-out and an undo walk over everything.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bywash_wire::SeqNumber;

use super::rack::Rack;
use super::{Acked, Arrival, Record, SendQueue};
use crate::payload::Payload;
use crate::time::{Duration, Instant};

/// How many records bear which mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) sacked: u32,
    /// Sent again or not.
    pub(crate) lost: u32,
    pub(crate) resent: u32,
    /// Lost, and to be sent again.
    pub(crate) pending: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Scoreboard {
    islands: VecDeque<(SeqNumber, SeqNumber)>,
    /// Retransmissions by first number and time; entries may be out of date.
    pub(super) resent: VecDeque<(SeqNumber, Instant)>,
    pub(super) rack: Rack,
    pub(super) tally: Tally,
    /// Payload bytes in the queue that were counted as delivered already.
    pub(super) counted_bytes: u32,
    /// Without SACK: bytes that duplicate ACKs say have arrived, nobody knows which.
    pub(super) unnamed: u32,
    /// No record before this one awaits resending.
    lost_hint: usize,
    /// No record before this one is once sent and neither SACKed nor lost.
    pub(super) judged: usize,
    /// Records looked at, for the test that bounds them.
    #[cfg(test)]
    pub(super) visits: usize,
}

impl Scoreboard {
    /// The record has left the queue.
    pub(super) fn on_taken<P>(&mut self, record: &Record<P>) {
        let tally = &mut self.tally;
        tally.sacked -= u32::from(record.sacked);
        tally.lost -= u32::from(record.lost);
        tally.resent -= u32::from(record.resent);
        tally.pending -= u32::from(record.awaits_resending());
        if record.counted {
            self.counted_bytes -= record.len;
        }
    }

    /// `snd.una` is `una`, and `taken` records have left.
    pub(super) fn on_una(&mut self, una: SeqNumber, taken: usize) {
        self.lost_hint = self.lost_hint.saturating_sub(taken);
        self.judged = self.judged.saturating_sub(taken);
        while let Some((start, end)) = self.islands.front_mut() {
            if end.after(una) {
                if start.before(una) {
                    *start = una;
                }
                break;
            }
            self.islands.pop_front();
        }
    }

    fn expect(&mut self, index: usize) {
        self.lost_hint = if self.tally.pending == 0 {
            index
        } else {
            self.lost_hint.min(index)
        };
        self.tally.pending += 1;
    }

    #[cfg(test)]
    pub(super) fn island_count(&self) -> usize {
        self.islands.len()
    }

    /// A record is looked at that is not at the front.
    pub(super) fn note_visit(&mut self) {
        #[cfg(test)]
        {
            self.visits += 1;
        }
    }

    fn is_blank(&self) -> bool {
        self.tally == Tally::default() && self.counted_bytes == 0 && self.unnamed == 0
    }
}

impl<P: Payload> SendQueue<P> {
    pub(crate) fn tally(&self) -> Tally {
        self.board
            .as_ref()
            .map_or(Tally::default(), |board| board.tally)
    }

    /// Whether something is SACKed, lost or sent again, or has just been.
    pub(crate) fn is_troubled(&self) -> bool {
        self.board.is_some()
    }

    /// Whether a record is SACKed, lost or sent again now.
    pub(crate) fn is_marked(&self) -> bool {
        self.tally() != Tally::default()
    }

    /// Payload bytes SACKed and not acknowledged.
    pub(crate) fn sacked_bytes(&self) -> u32 {
        self.board.as_ref().map_or(0, |board| board.counted_bytes)
    }

    /// See [`note_unnamed`](Self::note_unnamed).
    pub(crate) fn unnamed(&self) -> u32 {
        self.board.as_ref().map_or(0, |board| board.unnamed)
    }

    pub(super) fn board(&mut self) -> &mut Scoreboard {
        self.board.get_or_insert_with(Box::default)
    }

    /// The end of the last island, or `una`.
    pub(super) fn highest_sacked(&self) -> SeqNumber {
        self.board
            .as_ref()
            .and_then(|board| board.islands.back())
            .map_or(self.una, |(_, end)| *end)
    }

    /// Drops the board once nothing is on it, and nothing outstanding was sent before what RACK has seen delivered.
    pub(super) fn tidy(&mut self) {
        let done = self.board.as_ref().is_some_and(|board| {
            board.is_blank() && !(self.sent() > 0 && board.rack.overtook(&self.records[0]))
        });
        if done {
            self.board = None;
        }
        // Everything is walked over: for windows that tests have.
        debug_assert!(self.board.is_none() || self.sent() > 200 || self.is_consistent());
    }

    /// Index of the first sent record that begins at `seq` or later.
    fn position(&self, seq: SeqNumber) -> usize {
        let after = self
            .records
            .partition_point(|record| record.seq.before(seq));
        after.min(self.sent())
    }

    /// Marks what lies within `start..end`, `una <= start < end <= nxt`, as SACKed, so far as it is not.
    pub(super) fn sack_range(
        &mut self,
        start: SeqNumber,
        end: SeqNumber,
        acked: &mut Acked,
        arrival: &Arrival,
        highest: SeqNumber,
    ) {
        if self.is_sacked(start, end) {
            return;
        }
        self.board();
        // Whole records only: no more islands than records, and no need to cut any.
        let first = self.position(start);
        let mut last = first;
        let (mut low, mut high) = (None, start);
        while last < self.sent() && self.records[last].end().at_or_before(end) {
            self.board().note_visit();
            low = low.or(Some(self.records[last].seq));
            high = self.records[last].end();
            let next = self.island_over(last);
            if next > last {
                last = next;
                continue;
            }
            self.mark_sacked(last, acked, arrival, highest);
            last += 1;
        }
        if let Some(low) = low {
            self.insert_island(low, high);
        }
    }

    /// Whether all of the range was named before.
    fn is_sacked(&self, start: SeqNumber, end: SeqNumber) -> bool {
        self.board.as_ref().is_some_and(|board| {
            let islands = &board.islands;
            let at = islands.partition_point(|island| island.1.before(end));
            islands
                .get(at)
                .is_some_and(|island| island.0.at_or_before(start))
        })
    }

    /// If record `index` is in an island, the index behind that; else `index`.
    fn island_over(&self, index: usize) -> usize {
        if !self.records[index].sacked {
            return index;
        }
        let seq = self.records[index].seq;
        let island = self.board.as_ref().and_then(|board| {
            let at = board
                .islands
                .partition_point(|island| island.1.at_or_before(seq));
            board.islands.get(at)
        });
        island.map_or(index + 1, |(_, end)| self.position(*end))
    }

    /// Adds a range of SACKed records, which may cover islands and touch others.
    fn insert_island(&mut self, low: SeqNumber, high: SeqNumber) {
        let islands = &mut self.board().islands;
        let from = islands.partition_point(|island| island.1.before(low));
        let to = islands.partition_point(|island| island.0.at_or_before(high));
        if from >= to {
            islands.insert(from, (low, high));
            return;
        }
        let last = islands[to - 1].1;
        let merged = &mut islands[from];
        if low.before(merged.0) {
            merged.0 = low;
        }
        merged.1 = if last.after(high) { last } else { high };
        islands.drain(from + 1..to);
    }

    fn mark_sacked(
        &mut self,
        index: usize,
        acked: &mut Acked,
        arrival: &Arrival,
        highest: SeqNumber,
    ) {
        let Some(board) = &mut self.board else { return };
        let (records, sums) = self.records.parts();
        let record = &mut records[index];
        board.rack.on_delivered(record, arrival, false);
        let len = record.seq_len();
        sums.pipe -= record.weight() * len;
        let tally = &mut board.tally;
        tally.lost -= u32::from(record.lost);
        tally.resent -= u32::from(record.resent);
        tally.pending -= u32::from(record.awaits_resending());
        tally.sacked += 1;
        record.sacked = true;
        record.lost = false;
        record.resent = false;
        acked.sacked += len;
        acked.note_delivered(record, arrival, highest);
        if !record.counted {
            record.counted = true;
            board.counted_bytes += record.len;
        }
    }

    /// The record is believed lost, its retransmission too if there is one. False: it was already, or has arrived.
    pub(crate) fn mark_lost(&mut self, index: usize) -> bool {
        let (records, sums) = self.records.parts();
        if index >= sums.sent {
            return false;
        }
        let record = &mut records[index];
        if record.sacked || record.awaits_resending() {
            return false;
        }
        let board = self.board.get_or_insert_with(Box::default);
        self.rate.on_lost(record.len, &record.stamp);
        sums.pipe -= record.weight() * record.seq_len();
        board.tally.lost += u32::from(!record.lost);
        board.tally.resent -= u32::from(record.resent);
        record.lost = true;
        record.resent = false;
        board.expect(index);
        true
    }

    /// The retransmission timer ran out: what was sent longer than `rtt` ago is lost, and the oldest record in any case
    /// (RFC 8985 6.3). If that is SACKed, the peer does not keep what it names: no block counts any more (RFC 2018 8), and
    /// all is lost. Whether that was so.
    pub(crate) fn mark_timed_out(&mut self, now: Instant, rtt: Duration) -> bool {
        let reneged = self.sent() > 0 && self.records[0].sacked;
        let rtt = if reneged { Duration::ZERO } else { rtt };
        if reneged {
            self.forget_sacks();
        }
        if let Some(board) = &mut self.board {
            board.unnamed = 0;
        }
        for index in 0..self.sent() {
            if index == 0 || now.since(self.records[index].sent_at) >= rtt {
                self.mark_lost(index);
            }
        }
        reneged
    }

    fn forget_sacks(&mut self) {
        let Some(board) = &mut self.board else { return };
        board.islands.clear();
        board.judged = 0;
        board.tally.sacked = 0;
        let (records, sums) = self.records.parts();
        for record in records.iter_mut().take(sums.sent) {
            if record.sacked {
                record.sacked = false;
                sums.pipe += record.seq_len();
            }
        }
    }

    /// Nothing is lost after all: what is marked is on the way.
    pub(crate) fn unmark_lost(&mut self) {
        let Some(board) = &mut self.board else { return };
        board.tally.lost = 0;
        board.tally.pending = 0;
        board.judged = 0;
        let (records, sums) = self.records.parts();
        for record in records.iter_mut().take(sums.sent) {
            if record.lost {
                record.lost = false;
                sums.pipe += record.seq_len();
            }
        }
    }

    /// The first record that is lost and not sent again.
    pub(crate) fn next_lost(&mut self) -> Option<usize> {
        let board = self
            .board
            .as_mut()
            .filter(|board| board.tally.pending > 0)?;
        let sent = self.records.head().sent;
        while board.lost_hint < sent {
            board.note_visit();
            if self.records[board.lost_hint].awaits_resending() {
                return Some(board.lost_hint);
            }
            board.lost_hint += 1;
        }
        debug_assert!(false, "a record that awaits resending lies before the hint");
        None
    }

    /// The record was sent again.
    pub(super) fn note_resent(&mut self, index: usize, now: Instant) {
        let board = self.board.get_or_insert_with(Box::default);
        let (records, sums) = self.records.parts();
        let record = &mut records[index];
        board.tally.pending -= u32::from(record.awaits_resending());
        if !record.resent {
            record.resent = true;
            board.tally.resent += 1;
            sums.pipe += record.seq_len();
        }
        let entry = (record.seq, now);
        while self
            .resent_front()
            .is_some_and(|(_, index)| index.is_none())
        {
            self.board().resent.pop_front();
        }
        // Within one moment by number, as RACK orders them.
        let resent = &mut self.board().resent;
        let mut at = resent.len();
        while at > 0 && resent[at - 1].1 == now && resent[at - 1].0.after(entry.0) {
            at -= 1;
        }
        resent.insert(at, entry);
    }

    /// The oldest entry of `resent`: its time, and the record if the entry is not out of date.
    pub(super) fn resent_front(&self) -> Option<(Instant, Option<usize>)> {
        let (seq, at) = *self.board.as_ref()?.resent.front()?;
        // An acknowledgment may have cut off the record's beginning.
        let seq = if seq.before(self.una) { self.una } else { seq };
        let index = self.position(seq);
        let current = index < self.sent() && {
            let record = &self.records[index];
            record.seq == seq && record.resent && record.sent_at == at
        };
        Some((at, current.then_some(index)))
    }

    /// The record was cut in two behind `index`.
    pub(super) fn note_split(&mut self, index: usize) {
        let Some(board) = &mut self.board else { return };
        let second = &self.records[index + 1];
        board.tally.sacked += u32::from(second.sacked);
        board.tally.lost += u32::from(second.lost);
        board.tally.resent += u32::from(second.resent);
        board.tally.pending += u32::from(second.awaits_resending());
        if board.lost_hint > index {
            board.lost_hint += 1;
        }
        if board.judged > index {
            board.judged += 1;
        }
        if second.resent {
            // Found by its time and not by the first half's number: an acknowledgment may have cut off that one's beginning.
            let (seq, sent_at) = (second.seq, second.sent_at);
            let at = board.resent.partition_point(|entry| {
                entry.1 < sent_at || (entry.1 == sent_at && entry.0.before(seq))
            });
            board.resent.insert(at, (seq, sent_at));
        }
    }

    /// Without SACK: a duplicate ACK says that one more segment has arrived.
    pub(crate) fn note_unnamed(&mut self, bytes: u32) {
        let room = self.pipe().saturating_sub(bytes);
        self.board().unnamed += bytes.min(room);
    }

    /// Without SACK: `bytes` of what had arrived unnamed are acknowledged by number.
    pub(crate) fn forget_unnamed(&mut self, bytes: u32) {
        if let Some(board) = &mut self.board {
            board.unnamed = board.unnamed.saturating_sub(bytes);
        }
        self.tidy();
    }

    /// Whether sums, islands and hints say what the marks say. Walks over everything: for assertions.
    pub(super) fn is_consistent(&self) -> bool {
        let sent = || self.records.iter().take(self.sent());
        let pipe: u32 = sent().map(|r| r.weight() * r.seq_len()).sum();
        let Some(board) = &self.board else {
            let marked = sent().any(|r| r.sacked || r.lost || r.resent || r.counted);
            return pipe == self.records.head().pipe && !marked;
        };
        let count = |mark: fn(&Record<P>) -> bool| sent().filter(|r| mark(r)).count() as u32;
        let tally = Tally {
            sacked: count(|r| r.sacked),
            lost: count(|r| r.lost),
            resent: count(|r| r.resent),
            pending: count(|r| r.awaits_resending()),
        };
        let counted: u32 = sent().filter(|r| r.counted).map(|r| r.len).sum();
        let within = |r: &Record<P>| {
            let over =
                |i: &&(SeqNumber, SeqNumber)| i.0.at_or_before(r.seq) && i.1.at_or_after(r.end());
            board.islands.iter().any(|island| over(&island))
        };
        pipe == self.records.head().pipe
            && tally == board.tally
            && counted == board.counted_bytes
            && sent().all(|r| r.sacked == within(r) && !(r.sacked && (r.lost || r.resent)))
            && sent().take(board.lost_hint).all(|r| !r.awaits_resending())
            && board.islands.iter().all(|i| i.0.before(i.1))
            && (board.islands.iter().zip(board.islands.iter().skip(1)))
                .all(|(first, second)| first.1.before(second.0))
    }

    /// What [`load_board`](Self::load_board) needs besides the marks.
    pub(super) fn board_state(&self) -> Option<(Rack, u32)> {
        self.board.as_ref().map(|board| (board.rack, board.unnamed))
    }

    /// Builds the board of the marks.
    pub(super) fn load_board(&mut self, (rack, unnamed): (Rack, u32)) {
        let mut board = Scoreboard {
            rack,
            unnamed,
            ..Scoreboard::default()
        };
        let mut resent = Vec::new();
        for record in self.records.iter().take(self.sent()) {
            let tally = &mut board.tally;
            tally.sacked += u32::from(record.sacked);
            tally.lost += u32::from(record.lost);
            tally.resent += u32::from(record.resent);
            tally.pending += u32::from(record.awaits_resending());
            if record.counted {
                board.counted_bytes += record.len;
            }
            if record.resent {
                resent.push((record.seq, record.sent_at));
            }
            if record.sacked {
                match board.islands.back_mut() {
                    Some(island) if island.1 == record.seq => island.1 = record.end(),
                    _ => board.islands.push_back((record.seq, record.end())),
                }
            }
        }
        // A stable sort: what was sent in one burst stays in the order of its numbers.
        resent.sort_by_key(|(_, at)| *at);
        board.resent = resent.into();
        self.board = Some(Box::new(board));
    }
}
