//! The send queue as bytes, and back.

use alloc::vec::Vec;

use bywash_wire::SeqNumber;

use super::{Record, SendQueue};
use crate::payload::Payload;
use crate::rate::Flight;
use crate::snapshot::{Code, Reader, SnapshotError, save_payload};

impl<P: Payload> SendQueue<P> {
    pub(crate) fn save<'a>(&'a self, out: &mut Vec<u8>, bytes: &dyn Fn(&'a P) -> &'a [u8]) {
        (self.una, self.nxt).save(out);
        (self.wnd, self.max_wnd).save(out);
        (self.wl1, self.wl2).save(out);
        // An empty queue may have memory, and what was on the way in it, or not.
        let flight = match self.records.is_empty() {
            true => Flight::default(),
            false => self.records.head().flight,
        };
        (self.rate, flight).save(out);
        self.board_state().save(out);
        (self.records.len() as u32).save(out);
        (self.sent() as u32).save(out);
        for record in self.records.iter() {
            (record.sent_at, record.stamp).save(out);
            (
                record.transmissions,
                (record.syn, (record.fin, record.push)),
            )
                .save(out);
            (record.burst_end, record.sealed).save(out);
            (
                (record.sacked, record.counted),
                (record.lost, record.resent),
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
        let flight;
        (queue.rate, flight) = Code::load(input)?;
        let board = Code::load(input)?;
        let count = input.count()?;
        let sent = u32::load(input)? as usize;
        if sent > count || (sent == 0 && una != nxt) {
            return Err(SnapshotError::Corrupt);
        }
        let mut seq = una;
        for index in 0..count {
            let record = Self::load_record(input, seq, make)?;
            seq = record.end();
            let (records, sums) = queue.records.parts();
            sums.queued += record.len as usize;
            if index >= sent {
                sums.unsent += record.len as usize;
            } else {
                sums.sent += 1;
                sums.pipe += record.weight() * record.seq_len();
            }
            sums.flight = flight;
            records.push_back(record);
            if index + 1 == sent && seq != nxt {
                return Err(SnapshotError::Corrupt);
            }
        }
        if let Some(board) = board {
            queue.load_board(board);
        }
        // Marks without a board, or on what was never sent.
        let marked =
            |record: &Record<P>| record.sacked || record.lost || record.resent || record.counted;
        if queue.records.iter().skip(sent).any(marked) || !queue.is_consistent() {
            return Err(SnapshotError::Corrupt);
        }
        Ok(queue)
    }

    fn load_record(
        input: &mut Reader<'_>,
        seq: SeqNumber,
        make: &mut dyn FnMut(&[u8]) -> Option<P>,
    ) -> Result<Record<P>, SnapshotError> {
        let (sent_at, stamp) = Code::load(input)?;
        let (transmissions, (syn, (fin, push))) = Code::load(input)?;
        let (burst_end, sealed) = Code::load(input)?;
        let ((sacked, counted), (lost, resent)) = Code::load(input)?;
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
            push,
            burst_end,
            sealed,
            sacked,
            counted,
            lost,
            resent,
        })
    }
}
