//! The sending half: the send variables of RFC 9293 3.3.1 and the queue of segments.
//!
//! ```text
//!             una                    nxt                 end
//!  acknowledged |  sent, in flight    |  not sent yet     |
//!               [rec][rec][rec][rec]..[rec][rec][rec]
//!                0                     ^ sent
//! ```
//! The queue holds one [`Record`] a segment, SYN and FIN included, from the oldest unacknowledged to the last byte that the
//! application gave. A record is marked *lost* by `loss`, and sent again by `transmit`; neither knows the other. Records
//! carry when they were sent and what had been delivered by then: the raw material of RACK, delivery rates and BBR.
//!
//! What only a connection in trouble needs (what is SACKed, lost, sent again) stands in the [`scoreboard`], a box that exists
//! while there is something in it. While there is none, an acknowledgment costs what it takes off the queue and no more.

mod ack;
mod rack;
mod scoreboard;
mod storage;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod oracle_tests;

use alloc::boxed::Box;
use alloc::collections::vec_deque::IterMut;

use bywash_wire::SeqNumber;

pub(crate) use ack::{Acked, Arrival};
pub(crate) use rack::Detected;
use scoreboard::Scoreboard;

use crate::payload::Payload;
use crate::rate::{Delivered, DeliveryRate, Flight, RateSample, Stamp};
use crate::thin::Thin;
use crate::time::{Duration, Instant};

/// One segment of the send queue.
#[derive(Debug)]
pub(crate) struct Record<P> {
    pub(crate) payload: Option<P>,
    /// Time of the last transmission.
    pub(crate) sent_at: Instant,
    /// What had been delivered at that time.
    pub(crate) stamp: Stamp,
    pub(crate) seq: SeqNumber,
    /// Bytes of payload.
    pub(crate) len: u32,
    pub(crate) transmissions: u8,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    /// What the application wrote ends here.
    pub(crate) push: bool,
    /// The last of several segments that were sent in one burst.
    burst_end: bool,
    /// Nothing may be appended.
    sealed: bool,
    /// The peer has named it in a SACK block; then it is neither lost nor on the way.
    pub(crate) sacked: bool,
    /// It was counted as delivered when it was SACKed; outlives the SACK block if the peer takes that back.
    counted: bool,
    /// The transmission before the latest retransmission, if there is one on the way, is believed lost.
    pub(crate) lost: bool,
    /// A retransmission is on the way.
    pub(crate) resent: bool,
}

impl<P> Record<P> {
    /// Sequence space taken.
    pub(crate) fn seq_len(&self) -> u32 {
        self.len + u32::from(self.syn) + u32::from(self.fin)
    }

    /// The number behind the last one.
    pub(crate) fn end(&self) -> SeqNumber {
        self.seq + self.seq_len()
    }

    /// How often the record counts as being on the way (RFC 6675 4, SetPipe).
    fn weight(&self) -> u32 {
        u32::from(!self.sacked && !self.lost) + u32::from(self.resent)
    }

    /// Data that was sent, once, and of which nothing is known yet.
    fn is_sent_once(&self) -> bool {
        self.transmissions == 1 && self.len > 0 && !self.counted
    }

    /// Lost, and not sent again since.
    pub(crate) fn awaits_resending(&self) -> bool {
        self.lost && !self.resent
    }
}

/// Sums over the records: all zero when there are none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    /// Records sent at least once; they lie in front.
    sent: usize,
    /// Payload bytes in the queue.
    queued: usize,
    /// Payload bytes not sent yet.
    unsent: usize,
    /// Sequence space on the way: the lengths of all records sent, each times its weight.
    pipe: u32,
    /// The times of the sampled flight; there is none when nothing is on the way.
    flight: Flight,
}

/// The send variables and the queue.
#[derive(Debug)]
pub(crate) struct SendQueue<P> {
    records: Thin<Record<P>, Sums>,
    /// Exists while something is SACKed, lost or sent again.
    board: Option<Box<Scoreboard>>,
    /// Oldest unacknowledged number.
    pub(crate) una: SeqNumber,
    /// Next number to send.
    pub(crate) nxt: SeqNumber,
    /// The peer's window in bytes, from `una` of the segment that brought it (`wl2`).
    pub(crate) wnd: u32,
    pub(crate) wl1: SeqNumber,
    pub(crate) wl2: SeqNumber,
    /// Largest window seen (MAX.SND.WND).
    pub(crate) max_wnd: u32,
    pub(crate) rate: DeliveryRate,
}

impl<P: Payload> SendQueue<P> {
    /// A queue that holds the SYN.
    pub(crate) fn new(iss: SeqNumber) -> Self {
        let mut queue = Self {
            records: Thin::new(),
            board: None,
            una: iss,
            nxt: iss,
            wnd: 0,
            wl1: SeqNumber::default(),
            wl2: SeqNumber::default(),
            max_wnd: 0,
            rate: DeliveryRate::default(),
        };
        queue.push_record(None, true, false);
        queue
    }

    /// Where the records lie.
    pub(crate) fn memory(&mut self) -> &mut Thin<Record<P>, Sums> {
        &mut self.records
    }

    fn sent(&self) -> usize {
        self.records.head().sent
    }

    fn end(&self) -> SeqNumber {
        self.records.back().map_or(self.nxt, Record::end)
    }

    fn push_record(&mut self, payload: Option<P>, syn: bool, fin: bool) {
        let len = payload.as_ref().map_or(0, Payload::len);
        let seq = self.end();
        let (records, sums) = self.records.parts();
        records.push_back(Record {
            seq,
            len: len as u32,
            payload,
            sent_at: Instant::ZERO,
            stamp: Stamp::default(),
            transmissions: 0,
            syn,
            fin,
            sacked: false,
            counted: false,
            push: false,
            burst_end: false,
            sealed: false,
            lost: false,
            resent: false,
        });
        sums.queued += len;
        sums.unsent += len;
    }

    /// Queues a segment of data.
    pub(crate) fn push(&mut self, payload: P) {
        self.push_record(Some(payload), false, false);
    }

    /// Queues the FIN: on the last segment if that is not sent yet, else on its own.
    pub(crate) fn push_fin(&mut self) {
        if self.has_unsent()
            && let Some(last) = self.records.back_mut()
            && last.payload.is_some()
        {
            last.fin = true;
            return;
        }
        self.push_record(None, false, true);
    }

    /// Queues the FIN on its own: what is before it may go first.
    pub(crate) fn push_bare_fin(&mut self) {
        self.push_record(None, false, true);
    }

    /// The last segment if it is data, not sent, no FIN follows, and it may grow.
    pub(crate) fn unsent_tail(&mut self) -> Option<&mut Record<P>> {
        if !self.has_unsent() {
            return None;
        }
        self.records
            .back_mut()
            .filter(|last| last.payload.is_some() && !last.fin && !last.sealed)
    }

    /// Nothing may be appended to what was queued last.
    pub(crate) fn seal(&mut self) {
        if let Some(tail) = self.unsent_tail() {
            tail.sealed = true;
        }
    }

    /// What the application wrote ends with the last segment.
    pub(crate) fn push_mark(&mut self) {
        if let Some(tail) = self.unsent_tail() {
            tail.push = true;
        }
    }

    /// What the application wrote ends with this record, as far as is known when it is sent.
    pub(crate) fn mark_pushed(&mut self, index: usize) {
        self.records[index].push = true;
    }

    /// The record was the last of a burst, of `several` segments or alone.
    pub(crate) fn note_burst(&mut self, index: usize, several: bool) {
        self.records[index].burst_end = several;
    }

    /// Whether the record, which is sent again, follows now on another one of the same burst, and nothing more of the burst
    /// does.
    pub(crate) fn resends_burst_end(&self, index: usize, now: Instant) -> bool {
        let Some(before) = index.checked_sub(1).map(|before| &self.records[before]) else {
            return false;
        };
        let more = index + 1 < self.sent() && self.records[index + 1].awaits_resending();
        (self.records[index].burst_end || !more)
            && before.resent
            && before.sent_at == now
            && !before.burst_end
            && !before.push
    }

    /// `n` bytes were appended to the unsent tail.
    pub(crate) fn extended(&mut self, n: usize) {
        if let Some(tail) = self.unsent_tail() {
            tail.len += n as u32;
            // More was written behind the mark.
            tail.push = false;
            let (_, sums) = self.records.parts();
            sums.queued += n;
            sums.unsent += n;
        }
    }

    /// The number behind everything queued.
    pub(crate) fn data_end(&self) -> SeqNumber {
        self.end()
    }

    pub(crate) fn has_unsent(&self) -> bool {
        self.sent() < self.records.len()
    }

    /// Index of the first record not sent yet.
    pub(crate) fn first_unsent(&self) -> Option<usize> {
        self.has_unsent().then_some(self.sent())
    }

    /// Something sent is not acknowledged.
    pub(crate) fn is_outstanding(&self) -> bool {
        self.sent() > 0
    }

    /// How many records were sent; they lie in front.
    pub(crate) fn sent_records(&self) -> usize {
        self.sent()
    }

    pub(crate) fn record(&self, index: usize) -> &Record<P> {
        &self.records[index]
    }

    pub(crate) fn payload_mut(&mut self, index: usize) -> Option<&mut P> {
        self.records[index].payload.as_mut()
    }

    pub(crate) fn is_last(&self, index: usize) -> bool {
        index + 1 == self.records.len()
    }

    /// Sequence space believed to be on the way (RFC 6675 4). Without SACK a duplicate ACK says that some segment has
    /// arrived; those are taken off here.
    pub(crate) fn pipe(&self) -> u32 {
        let arrived = self.board.as_ref().map_or(0, |board| board.unnamed);
        self.records.head().pipe.saturating_sub(arrived)
    }

    /// Payload bytes acknowledged by number.
    pub(crate) fn bytes_acked(&self) -> u64 {
        let ahead = self.board.as_ref().map_or(0, |board| board.counted_bytes);
        self.rate.delivered.saturating_sub(ahead.into())
    }

    /// Sequence space sent and not acknowledged (FlightSize of RFC 5681).
    pub(crate) fn flight(&self) -> u32 {
        self.nxt.distance_from(self.una).max(0) as u32
    }

    pub(crate) fn queued(&self) -> usize {
        self.records.head().queued
    }

    pub(crate) fn unsent(&self) -> usize {
        self.records.head().unsent
    }

    /// Bytes that the peer's window takes beyond `nxt`.
    pub(crate) fn usable_window(&self) -> u32 {
        (self.una + self.wnd).distance_from(self.nxt).max(0) as u32
    }

    /// The record was sent; `now` is the time of this transmission.
    pub(crate) fn on_sent(&mut self, index: usize, now: Instant) {
        let (records, sums) = self.records.parts();
        let record = &mut records[index];
        record.sent_at = now;
        record.stamp = self
            .rate
            .stamp(&mut sums.flight, now, sums.pipe, record.len);
        record.transmissions = record.transmissions.saturating_add(1);
        if index != sums.sent {
            self.note_resent(index, now);
            return;
        }
        sums.pipe += record.seq_len();
        sums.sent += 1;
        sums.unsent -= record.len as usize;
        self.nxt = record.end();
    }

    /// Takes the sample of an acknowledgment: see [`DeliveryRate::sample`].
    pub(crate) fn sample(
        &mut self,
        now: Instant,
        acked: &Delivered,
        min_rtt: Duration,
    ) -> RateSample {
        let mut none = Flight::default();
        let flight = match self.records.head_mut() {
            Some(sums) => &mut sums.flight,
            None => &mut none,
        };
        self.rate.sample(flight, now, acked, min_rtt)
    }

    /// How many records that were never sent lie next and have `len` bytes each and nothing more, `most` at most. Another record
    /// always lies behind them.
    pub(crate) fn plain_records(&self, len: u32, most: usize) -> usize {
        let sent = self.sent();
        let behind = (self.records.len() - sent).saturating_sub(1);
        self.records
            .range(sent..sent + most.min(behind))
            .take_while(|next| {
                next.len == len && next.payload.is_some() && !(next.syn | next.fin | next.push)
            })
            .count()
    }

    /// The next `count` records of `len` bytes each were sent, while others were on the way.
    pub(crate) fn on_train_sent(&mut self, count: usize, len: u32, now: Instant) {
        let (records, sums) = self.records.parts();
        for record in records.range_mut(sums.sent..sums.sent + count) {
            record.sent_at = now;
            record.stamp = self.rate.stamp(&mut sums.flight, now, sums.pipe, len);
            record.transmissions = record.transmissions.saturating_add(1);
            sums.pipe += len;
        }
        let bytes = count as u32 * len;
        sums.sent += count;
        sums.unsent -= bytes as usize;
        self.nxt += bytes;
    }

    /// The records last sent, `count` of them.
    pub(crate) fn last_sent(&mut self, count: usize) -> IterMut<'_, Record<P>> {
        let (records, sums) = self.records.parts();
        records.range_mut(sums.sent - count..sums.sent)
    }

    /// Something is SACKed, lost or sent again.
    pub(crate) fn is_in_trouble(&self) -> bool {
        self.board.is_some()
    }

    /// Cuts the record at `at` payload bytes into two. `false`: no frame for the second half now.
    pub(crate) fn split(&mut self, index: usize, at: u32) -> bool {
        let record = &mut self.records[index];
        let Some(payload) = &mut record.payload else {
            return false;
        };
        let Some(rest) = payload.split_off(at as usize) else {
            return false;
        };
        let second = Record {
            payload: Some(rest),
            seq: record.seq + at + u32::from(record.syn),
            len: record.len - at,
            syn: false,
            fin: record.fin,
            push: record.push,
            ..*record
        };
        record.len = at;
        record.fin = false;
        record.push = false;
        record.burst_end = false;
        record.sealed = false;
        self.records.insert(index + 1, second);
        let (_, sums) = self.records.parts();
        if index < sums.sent {
            sums.sent += 1;
            self.note_split(index);
        }
        true
    }

    /// Makes the record at `index`, not sent yet, exactly `len` payload bytes long, out of those behind it. `false`: there is
    /// not enough, or handles that do not grow.
    pub(crate) fn gather(&mut self, index: usize, len: u32) -> bool {
        while self.records[index].len < len {
            let missing = len - self.records[index].len;
            let Some(next) = self.records.get(index + 1) else {
                return false;
            };
            if self.records[index].payload.is_none()
                || self.records[index].sealed
                || next.payload.is_none()
                || (next.len > missing && !self.split(index + 1, missing))
            {
                return false;
            }
            let Some(next) = self.records.remove(index + 1) else {
                return false;
            };
            let record = &mut self.records[index];
            let grown = match (&mut record.payload, &next.payload) {
                (Some(payload), Some(more)) => payload.append(more),
                _ => false,
            };
            if !grown {
                self.records.insert(index + 1, next);
                return false;
            }
            record.len += next.len;
            record.fin = next.fin;
            record.push = next.push;
            record.burst_end = next.burst_end;
            record.sealed = next.sealed;
        }
        self.records[index].len == len || self.split(index, len)
    }

    /// Drops everything (the connection is over).
    pub(crate) fn clear(&mut self) {
        // The memory too: a connection may stay in TIME-WAIT for long.
        self.records = Thin::new();
        self.una = self.nxt;
        self.board = None;
    }
}
