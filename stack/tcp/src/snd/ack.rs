//! What an acknowledgment takes off the queue, and what its SACK blocks name.

use bywash_wire::{SackBlocks, SeqNumber};

use super::{Record, SendQueue};
use crate::payload::Payload;
use crate::rate::Delivered;
use crate::time::{Duration, Instant};

/// The circumstances in which an acknowledgment arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) now: Instant,
    /// The echoed timestamp: the milliseconds of our clock at which the peer's reason to acknowledge was sent.
    pub(crate) echo: Option<u32>,
    /// The smallest round-trip time measured lately.
    pub(crate) min_rtt: Duration,
}

impl Arrival {
    /// Whether the acknowledgment answers something sent before `sent_at` (RFC 3522 3.2: the Eifel detection algorithm).
    pub(crate) fn precedes(&self, sent_at: Instant) -> bool {
        self.echo
            .is_some_and(|echo| (echo.wrapping_sub(sent_at.as_millis() as u32) as i32) < 0)
    }
}

/// What an acknowledgment has brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acked {
    /// Sequence space taken off the queue; not zero: `snd.una` moved.
    pub(crate) seq_len: u32,
    /// Payload bytes taken off.
    pub(crate) bytes: u32,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    /// Time since the oldest record taken off, or else SACKed, was sent, if Karn's rule lets it count.
    pub(crate) rtt: Option<Duration>,
    /// The same for the newest record.
    pub(crate) rtt_newest: Option<Duration>,
    /// Bytes believed to be on the way before.
    pub(crate) pipe_before: u32,
    /// [`DeliveryRate::lost`](crate::rate::DeliveryRate::lost) before.
    pub(crate) lost_before: u32,
    /// What is delivered, for the rate sample.
    pub(crate) delivered: Delivered,
    /// Sequence space named by SACK blocks for the first time.
    pub(crate) sacked: u32,
    /// Sequence space delivered: taken off or SACKed, whichever came first.
    pub(crate) fresh: u32,
    /// The end of the first record newly delivered that was sent only once.
    pub(crate) original: Option<SeqNumber>,
    /// How far behind the highest SACKed number something sent only once was delivered: reordering.
    pub(crate) reordered: u32,
    /// A duplicate that the peer has reported (RFC 2883).
    pub(crate) duplicate: Option<(SeqNumber, SeqNumber)>,
    /// The oldest record is SACKed: the peer has taken back what it said (RFC 2018 8).
    pub(crate) reneged: bool,
    /// An RTT sample came from SACK blocks alone, and is of a transmission before the oldest record's latest.
    pub(crate) restarts_timer: bool,
}

impl Acked {
    /// `record` is known to have arrived, by number or by SACK block, for the first time.
    pub(super) fn note_delivered<P: Payload>(
        &mut self,
        record: &Record<P>,
        arrival: &Arrival,
        highest: SeqNumber,
    ) {
        let once = record.transmissions == 1;
        self.fresh += record.seq_len();
        if !record.counted {
            self.delivered
                .add(record.len, record.sent_at, &record.stamp, once);
        }
        if !once {
            return;
        }
        let rtt = arrival.now.since(record.sent_at);
        self.rtt.get_or_insert(rtt);
        self.rtt_newest = Some(rtt);
        let end = record.end();
        if self.original.is_none_or(|first| end.before(first)) {
            self.original = Some(end);
        }
        // RFC 8985 6.2, step 3.
        if end.before(highest) {
            let behind = highest.distance_from(record.seq) as u32;
            self.reordered = self.reordered.max(behind);
        }
    }
}

impl<P: Payload> SendQueue<P> {
    /// The books as an acknowledgment finds them.
    pub(crate) fn begin_ack(&self) -> Acked {
        Acked {
            pipe_before: self.pipe(),
            lost_before: self.rate.lost,
            ..Acked::default()
        }
    }

    /// Takes everything before `ack` off the queue; `una < ack <= nxt`.
    pub(crate) fn on_ack(&mut self, acked: &mut Acked, ack: SeqNumber, arrival: &Arrival) {
        acked.seq_len = ack.distance_from(self.una).max(0) as u32;
        // Before `una` moves: what no SACK block has overtaken is not reordered.
        let highest = self.highest_sacked();
        self.una = ack;
        let mut again = false;
        let mut taken = 0;
        let quiet = self.board.is_none();
        let (records, sums) = self.records.parts();
        while let Some(record) = records.front()
            && record.seq.before(ack)
        {
            if record.end().after(ack) {
                self.trim_front(ack, acked);
                break;
            }
            // Looked at where it lies: only what it holds is dropped.
            taken += 1;
            sums.sent -= 1;
            sums.queued -= record.len as usize;
            acked.bytes += record.len;
            acked.syn |= record.syn;
            acked.fin |= record.fin;
            again |= record.transmissions > 1;
            sums.pipe -= record.weight() * record.seq_len();
            // In the middle of a run, all of which was sent once: the first and the last tell what there is to tell.
            let middle = quiet
                && acked.original.is_some()
                && record.is_sent_once()
                && records
                    .get(1)
                    .is_some_and(|next| next.is_sent_once() && next.end().at_or_before(ack));
            if middle {
                acked.fresh += record.seq_len();
                acked.delivered.bytes += record.len;
            } else if !record.sacked {
                acked.note_delivered(record, arrival, highest);
            }
            if let Some(board) = &mut self.board {
                if !record.sacked {
                    board.rack.on_delivered(record, arrival, true);
                }
                board.on_taken(record);
            }
            records.pop_front();
        }
        if again {
            // Karn's rule, for the whole acknowledgment: what was sent once may have waited at the peer for what was sent
            // twice.
            acked.rtt = None;
            acked.rtt_newest = None;
        }
        if let Some(board) = &mut self.board {
            board.on_una(ack, taken);
        }
        acked.reneged = self.sent() > 0 && self.records[0].sacked;
        self.tidy();
    }

    /// The acknowledgment ends inside the first record: a peer, or a box on the way, that cuts segments its own way.
    fn trim_front(&mut self, ack: SeqNumber, acked: &mut Acked) {
        let (records, sums) = self.records.parts();
        let record = &mut records[0];
        let mut n = ack.distance_from(record.seq) as u32;
        sums.pipe -= record.weight() * n;
        if !record.sacked {
            acked.fresh += n;
        }
        if record.syn {
            record.syn = false;
            acked.syn = true;
            n -= 1;
        }
        record.seq = ack;
        record.len -= n;
        sums.queued -= n as usize;
        acked.bytes += n;
        if record.counted {
            if let Some(board) = &mut self.board {
                board.counted_bytes -= n;
            }
        } else {
            let once = record.transmissions == 1;
            acked.delivered.add(n, record.sent_at, &record.stamp, once);
        }
        if let Some(payload) = &mut record.payload {
            payload.advance(n as usize);
        }
    }

    /// Takes note of the SACK blocks of a segment that acknowledges `ack`, `una` by now. Blocks that name what was never sent
    /// or lies before `una` are not believed; what they cover of a record only in part says nothing.
    pub(crate) fn on_sack(
        &mut self,
        acked: &mut Acked,
        ack: SeqNumber,
        blocks: &SackBlocks,
        arrival: &Arrival,
    ) {
        acked.duplicate = self.duplicate_of(ack, blocks);
        let skip = usize::from(acked.duplicate.is_some());
        let highest = self.highest_sacked();
        let by_number = (acked.rtt, acked.rtt_newest);
        let una = self.una;
        for (start, end) in blocks.iter().skip(skip) {
            let sane = start.before(end) && start.at_or_after(una) && end.at_or_before(self.nxt);
            if sane && self.sent() > 0 {
                self.sack_range(start, end, acked, arrival, highest);
            }
        }
        if by_number.0.is_some() {
            (acked.rtt, acked.rtt_newest) = by_number;
        } else if let Some(rtt) = acked.rtt
            && self.sent() > 0
        {
            acked.restarts_timer = rtt > arrival.now.since(self.records[0].sent_at);
        }
        self.tidy();
    }

    /// The first block, if it reports a duplicate (RFC 2883 4): it lies before the acknowledgment, or within the second.
    fn duplicate_of(&self, ack: SeqNumber, blocks: &SackBlocks) -> Option<(SeqNumber, SeqNumber)> {
        let mut blocks = blocks.iter();
        let (start, end) = blocks.next()?;
        let below = start.before(ack);
        let within = blocks
            .next()
            .is_some_and(|(first, last)| start.at_or_after(first) && end.at_or_before(last));
        let sane = start.before(end)
            && end.at_or_before(self.nxt)
            && end.distance_from(start) as u32 <= self.max_wnd.max(1)
            && start.at_or_after(ack - self.max_wnd);
        ((below || within) && sane).then_some((start, end))
    }
}
