//! The receiving half: the receive variables of RFC 9293 3.3.1, the queue of data in order, the window, and the debts of
//! acknowledgment.
//!
//! ```text
//!   read by the application |  queue, in order  | window offered: may hold `ooo`  |
//!                                              nxt                             edge
//! ```
//! The window is a promise: `edge` never moves left (RFC 9293 3.8.6), whatever happens to the buffer.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bywash_wire::options::MAX_WINDOW_SCALE;
use bywash_wire::{DropReason, SeqNumber};

use crate::config::Config;
use crate::payload::{COPYBREAK, Payload};
use crate::reassembly::{Inserted, Reassembly};
use crate::snapshot::{Code, Reader, SnapshotError, code, save_payload};

/// ACKs without delay at the start of a connection, while the peer's congestion window is small (as Linux does).
const QUICK_ACKS: u8 = 16;

/// Least segment size assumed of the peer when counting full segments (RFC 9293 3.7.1: 536 reaches everybody).
const SEGMENT_SIZE_LEAST: u32 = 536;

/// Duplicate ACKs owed at most: more say nothing more.
const DUPLICATES_OWED_MAX: u8 = 64;

/// What is owed to the peer in acknowledgments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AckDebt {
    /// Bytes received in order since the last acknowledgment.
    pub(crate) bytes: u32,
    /// Acknowledge in the next segment, at once.
    pub(crate) now: bool,
    /// Pure ACKs owed, one for each segment out of order (RFC 5681 4.2).
    pub(crate) duplicates: u8,
    /// ACKs without delay that are left.
    quick: u8,
    /// The buffer has got room since the last acknowledgment, which the peer may not know.
    room: bool,
}

code!(struct AckDebt { bytes, now, duplicates, quick, room });

/// What became of a segment's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// In order: there is more to read.
    InOrder,
    /// Waits for what is missing.
    OutOfOrder,
    /// Nothing of it was kept.
    Dropped(DropReason),
}

/// The receive variables and queues.
#[derive(Debug)]
pub(crate) struct Receiver<P> {
    /// Next number expected.
    pub(crate) nxt: SeqNumber,
    /// Right edge of the window as the peer knows it.
    edge: SeqNumber,
    /// The acknowledgment in the last segment sent (Last.ACK.sent of RFC 7323).
    pub(crate) last_ack: SeqNumber,
    pub(crate) irs: SeqNumber,
    /// Where the peer's FIN is, once known.
    pub(crate) fin: Option<SeqNumber>,
    /// The peer's FIN is in order.
    pub(crate) finished: bool,
    /// Shift of our windows; 0 also before it is agreed on.
    pub(crate) wscale: u8,
    pub(crate) debt: AckDebt,
    /// Largest payload received: the peer's segment size.
    segment_size: u32,
    /// Bytes that may wait to be read.
    limit: usize,
    /// Handles that may be held, in order and out of order together.
    max_segments: u32,
    queue: VecDeque<P>,
    /// Bytes in the queue.
    queued: usize,
    pub(crate) ooo: Reassembly<P>,
    /// Small payloads copied behind their predecessor.
    pub(crate) copied_small: u32,
}

impl<P: Payload> Receiver<P> {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            nxt: SeqNumber::default(),
            edge: SeqNumber::default(),
            last_ack: SeqNumber::default(),
            irs: SeqNumber::default(),
            fin: None,
            finished: false,
            wscale: 0,
            debt: AckDebt {
                quick: QUICK_ACKS,
                ..AckDebt::default()
            },
            segment_size: SEGMENT_SIZE_LEAST,
            limit: config.receive_buffer,
            max_segments: u32::try_from(config.receive_segments)
                .unwrap_or(u32::MAX)
                .max(2),
            queue: VecDeque::new(),
            queued: 0,
            ooo: Reassembly::new(),
            copied_small: 0,
        }
    }

    /// The peer's SYN has arrived.
    pub(crate) fn on_syn(&mut self, irs: SeqNumber) {
        self.irs = irs;
        self.nxt = irs + 1;
        self.last_ack = self.nxt;
        self.edge = self.nxt;
    }

    /// The window offered, in bytes from `nxt`.
    pub(crate) fn window(&self) -> u32 {
        self.edge.distance_from(self.nxt).max(0) as u32
    }

    /// Handles held.
    fn segments(&self) -> usize {
        self.queue.len() + self.ooo.segments()
    }

    /// Handles that may be added.
    fn free_segments(&self) -> usize {
        (self.max_segments as usize).saturating_sub(self.segments())
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    pub(crate) fn set_limit(&mut self, bytes: usize) {
        self.debt.room |= bytes > self.limit;
        self.limit = bytes;
    }

    /// The peer's segments are assumed to be at least this long.
    fn full_segment(&self) -> u32 {
        self.segment_size
    }

    /// The largest window there is room for now, before rounding: in bytes, and in handles for segments as long as the
    /// peer's longest.
    fn room(&self) -> u32 {
        let handles = self
            .free_segments()
            .saturating_mul(self.full_segment() as usize);
        let room = self.limit.saturating_sub(self.queued).min(handles);
        u32::try_from(room)
            .unwrap_or(u32::MAX)
            .min(u32::from(u16::MAX) << self.wscale)
    }

    /// How far the right edge could move now, if that is far enough to be worth it: at least one full segment or half the
    /// buffer (RFC 9293 3.8.6.2.2: no silly windows).
    fn growth(&self) -> Option<u32> {
        let growth = self.room().saturating_sub(self.window());
        let worth = self
            .full_segment()
            .min((self.limit / 2).min(u32::MAX as usize) as u32);
        (growth > 0 && growth >= worth).then_some(growth)
    }

    /// The window field of the segment that is being sent, and the promise that goes with it.
    pub(crate) fn offer(&mut self) -> u16 {
        let window = self.window();
        let offered = match self.growth() {
            // Rounded down to what the field can say: never more than there is room for.
            Some(growth) => ((window + growth) >> self.wscale).max(self.field_of(window)),
            None => self.field_of(window),
        };
        // `window` never exceeds what the field can hold: it was offered in one, and `nxt` has only moved right.
        let field = offered.min(u16::MAX.into()) as u16;
        self.edge = self.nxt + (u32::from(field) << self.wscale);
        field
    }

    /// A window already offered, rounded up: rounding down would take back a promise (RFC 7323 2.4).
    fn field_of(&self, window: u32) -> u32 {
        window.div_ceil(1 << self.wscale)
    }

    /// The window field of a SYN, which is never scaled (RFC 7323 2.2).
    pub(crate) fn offer_unscaled(&mut self) -> u16 {
        let field = u16::try_from(self.limit).unwrap_or(u16::MAX);
        let edge = self.nxt + u32::from(field);
        if edge.after(self.edge) {
            self.edge = edge;
        }
        field
    }

    /// Data that fits the window begins at `seq`; it is not empty.
    pub(crate) fn on_data(&mut self, seq: SeqNumber, payload: P) -> Received {
        let len = payload.len() as u32;
        self.segment_size = self.segment_size.max(len);
        if seq != self.nxt {
            return self.on_out_of_order(seq, payload);
        }
        // The bound on handles; data that waits out of order is counted, so that it always finds its place here.
        if self.free_segments() == 0 {
            self.debt.now = true;
            return Received::Dropped(DropReason::NoReceiveCredit);
        }
        self.push_in_order(payload);
        self.debt.bytes = self.debt.bytes.saturating_add(len);
        if !self.ooo.is_empty() {
            while let Some(payload) = self.ooo.pop(self.nxt) {
                self.push_in_order(payload);
            }
            self.ooo.advance(self.nxt);
            // RFC 5681 4.2: at once when a gap is filled, in part or as a whole.
            self.debt.now = true;
        }
        Received::InOrder
    }

    fn push_in_order(&mut self, payload: P) {
        let len = payload.len();
        self.nxt += len as u32;
        self.queued += len;
        // Copybreak: runs of tiny segments share a handle.
        if len <= COPYBREAK
            && let Some(last) = self.queue.back_mut()
            && last.len() <= COPYBREAK
            && last.append(&payload)
        {
            self.copied_small = self.copied_small.saturating_add(1);
        } else {
            self.queue.push_back(payload);
        }
    }

    fn on_out_of_order(&mut self, seq: SeqNumber, payload: P) -> Received {
        self.debt.duplicates = self
            .debt
            .duplicates
            .saturating_add(1)
            .min(DUPLICATES_OWED_MAX);
        // Half of the handles stay free for data in order, or a peer could wedge us with fragments of the future.
        let all = self.max_segments as usize;
        let max_segments = (all / 2).min(all.saturating_sub(self.queue.len()));
        match self.ooo.insert(seq, payload, max_segments, self.limit) {
            Inserted::Held { copied } => {
                self.copied_small = self.copied_small.saturating_add(u32::from(copied));
                Received::OutOfOrder
            }
            Inserted::Duplicate => Received::Dropped(DropReason::DuplicateData),
            Inserted::Full => Received::Dropped(DropReason::ReassemblyFull),
        }
    }

    /// The peer's FIN has number `at`. Whether it is in order now.
    pub(crate) fn fin_is_next(&self) -> bool {
        self.fin == Some(self.nxt) && !self.finished
    }

    /// The FIN is in order: it takes a number, and is acknowledged at once.
    pub(crate) fn on_fin(&mut self) {
        self.finished = true;
        self.nxt += 1;
        if self.edge.before(self.nxt) {
            self.edge = self.nxt;
        }
        self.debt.now = true;
        self.ooo.clear();
    }

    /// The next payload in order, for the application.
    pub(crate) fn pop(&mut self) -> Option<P> {
        let payload = self.queue.pop_front()?;
        self.queued -= payload.len();
        self.debt.room = true;
        Some(payload)
    }

    /// The window has opened by so much that the peer should know: two segments or half the buffer.
    pub(crate) fn owes_window_update(&self) -> bool {
        if !self.debt.room {
            return false;
        }
        let Some(growth) = self.growth() else {
            return false;
        };
        let half = (self.limit / 2).min(u32::MAX as usize) as u32;
        !self.finished && growth >= (2 * self.full_segment()).min(half).max(1 << self.wscale)
    }

    /// An acknowledgment is due without waiting: two full segments, the quick start, or a reason of its own.
    pub(crate) fn owes_ack_now(&self) -> bool {
        self.debt.now
            || self.debt.bytes >= 2 * self.full_segment()
            || (self.debt.bytes > 0 && self.debt.quick > 0)
    }

    /// A segment with an acknowledgment is being sent.
    pub(crate) fn on_ack_sent(&mut self) {
        self.last_ack = self.nxt;
        if self.debt.bytes > 0 {
            self.debt.quick = self.debt.quick.saturating_sub(1);
        }
        self.debt.bytes = 0;
        self.debt.now = false;
        self.debt.room = false;
    }

    /// Drops what waits: all of it, or only what is out of order.
    pub(crate) fn clear(&mut self, also_unread: bool) {
        self.ooo.clear();
        if also_unread {
            self.queue.clear();
            self.queued = 0;
        }
    }

    pub(crate) fn is_unread(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) fn save<'a>(&'a self, out: &mut Vec<u8>, bytes: &dyn Fn(&'a P) -> &'a [u8]) {
        (self.nxt, (self.edge, (self.last_ack, self.irs))).save(out);
        (self.fin, (self.finished, self.wscale)).save(out);
        (self.debt, (self.segment_size, self.copied_small)).save(out);
        (self.limit, self.max_segments).save(out);
        (self.queue.len() as u32).save(out);
        for payload in &self.queue {
            save_payload(out, bytes(payload));
        }
        self.ooo.save(out, bytes);
    }

    pub(crate) fn load(
        input: &mut Reader<'_>,
        make: &mut dyn FnMut(&[u8]) -> Option<P>,
    ) -> Result<Self, SnapshotError> {
        let (nxt, (edge, (last_ack, irs))) = Code::load(input)?;
        let (fin, (finished, wscale)) = Code::load(input)?;
        let (debt, (segment_size, copied_small)) = Code::load(input)?;
        let (limit, max_segments) = Code::load(input)?;
        let mut queue = VecDeque::new();
        let mut queued = 0;
        for _ in 0..input.count()? {
            let payload = input.payload(make)?;
            queued += payload.len();
            queue.push_back(payload);
        }
        if wscale > MAX_WINDOW_SCALE {
            return Err(SnapshotError::Corrupt);
        }
        Ok(Self {
            nxt,
            edge,
            last_ack,
            irs,
            fin,
            finished,
            wscale,
            debt,
            segment_size,
            limit,
            max_segments,
            queue,
            queued,
            ooo: Reassembly::load(input, make)?,
            copied_small,
        })
    }
}
