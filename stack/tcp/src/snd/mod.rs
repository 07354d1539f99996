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

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bywash_wire::SeqNumber;

use crate::payload::Payload;
use crate::rate::{Delivered, DeliveryRate, Stamp};
use crate::snapshot::{Code, Reader, SnapshotError, save_payload};
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
    /// Sent, believed lost, and not sent again since.
    pub(crate) lost: bool,
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
}

/// What an acknowledgment took from the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acked {
    /// Sequence space.
    pub(crate) seq_len: u32,
    /// Payload bytes.
    pub(crate) bytes: u32,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    /// From the oldest record, if all were sent only once.
    pub(crate) rtt: Option<Duration>,
    /// Bytes on the way before: sent, not acknowledged, not believed lost.
    pub(crate) pipe_before: u32,
    /// [`DeliveryRate::lost`] before.
    pub(crate) lost_before: u32,
    /// What is delivered, for the rate sample.
    pub(crate) delivered: Delivered,
}

/// The send variables and the queue.
#[derive(Debug)]
pub(crate) struct SendQueue<P> {
    records: VecDeque<Record<P>>,
    /// Records sent at least once; they lie in front.
    sent: usize,
    /// No record before this one is lost.
    lost_hint: usize,
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
    /// Sequence space sent, and neither acknowledged nor marked lost since.
    pipe: u32,
    /// Payload bytes in the queue.
    queued: usize,
    /// Payload bytes not sent yet.
    unsent: usize,
    pub(crate) rate: DeliveryRate,
}

impl<P: Payload> SendQueue<P> {
    /// A queue that holds the SYN.
    pub(crate) fn new(iss: SeqNumber) -> Self {
        let mut queue = Self {
            records: VecDeque::new(),
            sent: 0,
            lost_hint: 0,
            una: iss,
            nxt: iss,
            wnd: 0,
            wl1: SeqNumber::default(),
            wl2: SeqNumber::default(),
            max_wnd: 0,
            pipe: 0,
            queued: 0,
            unsent: 0,
            rate: DeliveryRate::default(),
        };
        queue.push_record(None, true, false);
        queue
    }

    fn end(&self) -> SeqNumber {
        self.records.back().map_or(self.nxt, Record::end)
    }

    fn push_record(&mut self, payload: Option<P>, syn: bool, fin: bool) {
        let len = payload.as_ref().map_or(0, Payload::len);
        self.records.push_back(Record {
            seq: self.end(),
            len: len as u32,
            payload,
            sent_at: Instant::ZERO,
            stamp: Stamp::default(),
            transmissions: 0,
            syn,
            fin,
            lost: false,
        });
        self.queued += len;
        self.unsent += len;
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

    /// The last segment if it is data, not sent, and no FIN follows.
    pub(crate) fn unsent_tail(&mut self) -> Option<&mut Record<P>> {
        if !self.has_unsent() {
            return None;
        }
        self.records
            .back_mut()
            .filter(|last| last.payload.is_some() && !last.fin)
    }

    /// `n` bytes were appended to the unsent tail.
    pub(crate) fn extended(&mut self, n: usize) {
        if let Some(tail) = self.unsent_tail() {
            tail.len += n as u32;
            self.queued += n;
            self.unsent += n;
        }
    }

    pub(crate) fn has_unsent(&self) -> bool {
        self.sent < self.records.len()
    }

    /// Index of the first record not sent yet.
    pub(crate) fn first_unsent(&self) -> Option<usize> {
        self.has_unsent().then_some(self.sent)
    }

    /// Something sent is not acknowledged.
    pub(crate) fn is_outstanding(&self) -> bool {
        self.sent > 0
    }

    /// How many records were sent; they lie in front.
    pub(crate) fn sent_records(&self) -> usize {
        self.sent
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

    pub(crate) fn pipe(&self) -> u32 {
        self.pipe
    }

    /// Sequence space sent and not acknowledged (FlightSize of RFC 5681).
    pub(crate) fn flight(&self) -> u32 {
        self.nxt.distance_from(self.una).max(0) as u32
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    pub(crate) fn unsent(&self) -> usize {
        self.unsent
    }

    /// Bytes that the peer's window takes beyond `nxt`.
    pub(crate) fn usable_window(&self) -> u32 {
        (self.una + self.wnd).distance_from(self.nxt).max(0) as u32
    }

    /// The record was sent; `now` is the time of this transmission.
    pub(crate) fn on_sent(&mut self, index: usize, now: Instant) {
        let record = &mut self.records[index];
        record.sent_at = now;
        record.stamp = self.rate.stamp(now, self.pipe, record.len);
        record.transmissions = record.transmissions.saturating_add(1);
        let first = index == self.sent;
        if first || record.lost {
            self.pipe += record.seq_len();
        }
        record.lost = false;
        if first {
            self.sent += 1;
            self.unsent -= record.len as usize;
            self.nxt = record.end();
        }
    }

    /// Takes everything before `ack` off the queue; `una < ack <= nxt`.
    pub(crate) fn on_ack(&mut self, ack: SeqNumber, now: Instant) -> Acked {
        let mut acked = Acked {
            pipe_before: self.pipe,
            lost_before: self.rate.lost,
            ..Acked::default()
        };
        acked.seq_len = ack.distance_from(self.una).max(0) as u32;
        self.una = ack;
        let mut again = false;
        while let Some(record) = self.records.front_mut()
            && record.seq.before(ack)
        {
            if record.end().after(ack) {
                self.trim_front(ack, &mut acked);
                break;
            }
            again |= record.transmissions > 1;
            if acked.rtt.is_none() {
                acked.rtt = Some(now.since(record.sent_at));
            }
            acked.bytes += record.len;
            acked.syn |= record.syn;
            acked.fin |= record.fin;
            let once = record.transmissions == 1;
            acked
                .delivered
                .add(record.len, record.sent_at, &record.stamp, once);
            if !record.lost {
                self.pipe -= record.seq_len();
            }
            self.queued -= record.len as usize;
            self.sent -= 1;
            self.lost_hint = self.lost_hint.saturating_sub(1);
            self.records.pop_front();
        }
        // Karn's rule, for the whole acknowledgment: what was sent once may have waited at the peer for what was sent twice.
        acked.rtt = acked.rtt.filter(|_| !again);
        acked
    }

    /// The acknowledgment ends inside the first record: a peer, or a box on the way, that cuts segments its own way.
    fn trim_front(&mut self, ack: SeqNumber, acked: &mut Acked) {
        let record = &mut self.records[0];
        let mut n = ack.distance_from(record.seq) as u32;
        if !record.lost {
            self.pipe -= n;
        }
        if record.syn {
            record.syn = false;
            acked.syn = true;
            n -= 1;
        }
        record.seq = ack;
        record.len -= n;
        self.queued -= n as usize;
        acked.bytes += n;
        let once = record.transmissions == 1;
        acked.delivered.add(n, record.sent_at, &record.stamp, once);
        if let Some(payload) = &mut record.payload {
            payload.advance(n as usize);
        }
    }

    /// The record is believed lost: it is not on the way any more.
    pub(crate) fn mark_lost(&mut self, index: usize) {
        if index >= self.sent || self.records[index].lost {
            return;
        }
        let record = &mut self.records[index];
        record.lost = true;
        self.rate.on_lost(record.len, &record.stamp);
        self.pipe -= record.seq_len();
        self.lost_hint = self.lost_hint.min(index);
    }

    /// Everything sent is believed lost (RFC 6298 5.4 with RFC 5681's go-back-N).
    pub(crate) fn mark_all_lost(&mut self) {
        for record in self.records.iter_mut().take(self.sent) {
            if !record.lost {
                self.rate.on_lost(record.len, &record.stamp);
            }
            record.lost = true;
        }
        self.pipe = 0;
        self.lost_hint = 0;
    }

    /// The first record that is believed lost.
    pub(crate) fn next_lost(&mut self) -> Option<usize> {
        while self.lost_hint < self.sent {
            if self.records[self.lost_hint].lost {
                return Some(self.lost_hint);
            }
            self.lost_hint += 1;
        }
        None
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
            ..*record
        };
        record.len = at;
        record.fin = false;
        self.records.insert(index + 1, second);
        if index < self.sent {
            self.sent += 1;
        }
        true
    }

    /// Drops everything (the connection is over).
    pub(crate) fn clear(&mut self) {
        // The memory too: a connection may stay in TIME-WAIT for long.
        self.records = VecDeque::new();
        self.una = self.nxt;
        self.sent = 0;
        self.lost_hint = 0;
        self.pipe = 0;
        self.queued = 0;
        self.unsent = 0;
    }

    pub(crate) fn save<'a>(&'a self, out: &mut Vec<u8>, bytes: &dyn Fn(&'a P) -> &'a [u8]) {
        (self.una, self.nxt).save(out);
        (self.wnd, self.max_wnd).save(out);
        (self.wl1, self.wl2).save(out);
        self.rate.save(out);
        (self.records.len() as u32).save(out);
        (self.sent as u32).save(out);
        for record in &self.records {
            (record.sent_at, record.stamp).save(out);
            (
                record.transmissions,
                (record.syn, (record.fin, record.lost)),
            )
                .save(out);
            record.payload.is_some().save(out);
            if let Some(payload) = &record.payload {
                save_payload(out, bytes(payload));
            }
        }
    }

    pub(crate) fn load(
        input: &mut Reader<'_>,
        make: &mut dyn FnMut(&[u8]) -> Option<P>,
    ) -> Result<Self, SnapshotError> {
        let (una, nxt) = Code::load(input)?;
        let mut queue = Self::new(una);
        queue.clear();
        queue.nxt = nxt;
        (queue.wnd, queue.max_wnd) = Code::load(input)?;
        (queue.wl1, queue.wl2) = Code::load(input)?;
        queue.rate = Code::load(input)?;
        let count = input.count()?;
        let sent = u32::load(input)? as usize;
        if sent > count || (sent == 0 && una != nxt) {
            return Err(SnapshotError::Corrupt);
        }
        let mut seq = una;
        for index in 0..count {
            let record = Self::load_record(input, seq, make)?;
            seq = record.end();
            queue.queued += record.len as usize;
            if index >= sent {
                queue.unsent += record.len as usize;
            } else if !record.lost {
                queue.pipe += record.seq_len();
            }
            queue.records.push_back(record);
            if index + 1 == sent && seq != nxt {
                return Err(SnapshotError::Corrupt);
            }
        }
        queue.sent = sent;
        Ok(queue)
    }

    fn load_record(
        input: &mut Reader<'_>,
        seq: SeqNumber,
        make: &mut dyn FnMut(&[u8]) -> Option<P>,
    ) -> Result<Record<P>, SnapshotError> {
        let (sent_at, stamp) = Code::load(input)?;
        let (transmissions, (syn, (fin, lost))) = Code::load(input)?;
        let payload = if bool::load(input)? {
            Some(input.payload(make)?)
        } else {
            None
        };
        let len = payload.as_ref().map_or(0, Payload::len) as u32;
        Ok(Record {
            payload,
            sent_at,
            stamp,
            seq,
            len,
            transmissions,
            syn,
            fin,
            lost,
        })
    }
}
