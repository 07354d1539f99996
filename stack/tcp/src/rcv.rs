//! The receiving half: the receive variables of RFC 9293 3.3.1, the queue of data in order, and the window.
//!
//! ```text
//!   read by the application |  queue, in order  | window offered: may hold `ooo`  |
//!                                              nxt                             edge
//! ```
//! The window is a promise: `edge` never moves left (RFC 9293 3.8.6), whatever happens to the buffer.

use alloc::boxed::Box;
use alloc::vec::Vec;

use bywash_wire::options::MAX_WINDOW_SCALE;
use bywash_wire::{DropReason, SackBlocks, SeqNumber};

use crate::ack_policy::{AckPolicy, Arrived};
use crate::config::Config;
use crate::payload::{COPYBREAK, Payload};
use crate::reassembly::{Inserted, Reassembly};
use crate::receive_tuning::ReceiveTuning;
use crate::snapshot::{Code, Reader, SnapshotError, code, save_payload};
use crate::thin::Thin;
use crate::time::{Duration, Instant};

/// Least segment size assumed of the peer when counting full segments: RFC 9293 3.7.1's 536, which reaches everybody, less
/// the timestamps that a full segment of it carries.
const SEGMENT_SIZE_LEAST: u16 = 524;

/// What the receiving half must know of a segment besides its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub(crate) now: Instant,
    /// The segment has the PSH flag.
    pub(crate) push: bool,
    pub(crate) rto: Duration,
    /// Acknowledgment time-out to begin with.
    pub(crate) ack_delay: Duration,
    /// The segment size that we have offered.
    pub(crate) mss: u32,
}

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

/// What goes with the queue of what is unread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unread {
    /// Bytes in it.
    bytes: usize,
}

/// What most connections never have: in a box, made when it is needed first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Odd {
    /// Bytes that came twice: reported once, in the next acknowledgment (RFC 2883).
    duplicate: Option<(SeqNumber, SeqNumber)>,
    /// What lets `limit` grow, unless the settings fix it.
    tuning: Option<ReceiveTuning>,
    /// Small payloads copied behind their predecessor.
    copied_small: u32,
}

code!(struct Odd { duplicate, tuning, copied_small });

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
    pub(crate) ack: AckPolicy,
    /// Largest payload received: the peer's segment size.
    segment_size: u16,
    /// Bytes that may wait to be read; no window is larger than this can say.
    limit: u32,
    /// Handles that may be held, in order and out of order together.
    max_segments: u32,
    queue: Thin<P, Unread>,
    pub(crate) ooo: Reassembly<P>,
    odd: Option<Box<Odd>>,
}

/// A buffer's size as it is kept.
fn clamped(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl<P: Payload> Receiver<P> {
    pub(crate) fn new(config: &Config, now: Instant) -> Self {
        Self {
            nxt: SeqNumber::default(),
            edge: SeqNumber::default(),
            last_ack: SeqNumber::default(),
            irs: SeqNumber::default(),
            fin: None,
            finished: false,
            wscale: 0,
            ack: AckPolicy::default(),
            segment_size: SEGMENT_SIZE_LEAST,
            limit: clamped(config.receive_buffer),
            max_segments: u32::try_from(config.receive_segments)
                .unwrap_or(u32::MAX)
                .max(2),
            queue: Thin::new(),
            ooo: Reassembly::new(),
            odd: Self::tuning(config, now).map(|tuning| {
                Box::new(Odd {
                    tuning: Some(tuning),
                    ..Odd::default()
                })
            }),
        }
    }

    /// The box, made if it is not there.
    fn odd(&mut self) -> &mut Odd {
        self.odd.get_or_insert_with(Box::default)
    }

    /// A small payload was copied behind its predecessor.
    pub(crate) fn note_copied(&mut self) {
        let count = &mut self.odd().copied_small;
        *count = count.saturating_add(1);
    }

    pub(crate) fn copied_small(&self) -> u32 {
        self.odd.as_ref().map_or(0, |odd| odd.copied_small)
    }

    fn tuning(config: &Config, now: Instant) -> Option<ReceiveTuning> {
        let (buffer, max) = (config.receive_buffer, config.receive_buffer_max);
        (max > buffer).then(|| ReceiveTuning::new(buffer, max, config.mss, now))
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

    /// Where the queue in order lies.
    pub(crate) fn memory(&mut self) -> &mut Thin<P, Unread> {
        &mut self.queue
    }

    /// Handles held.
    fn segments(&self) -> usize {
        self.queue.len() + self.ooo.segments()
    }

    /// Handles that may be added.
    fn free_segments(&self) -> usize {
        (self.max_segments as usize).saturating_sub(self.segments())
    }

    /// The number of the next byte to be read.
    pub(crate) fn read_edge(&self) -> SeqNumber {
        self.nxt - u32::from(self.finished) - self.queued() as u32
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.head().bytes
    }

    /// The owner's cap.
    pub(crate) fn set_limit(&mut self, bytes: usize) {
        let tuning = self.odd.as_mut().and_then(|odd| odd.tuning.as_mut());
        match tuning {
            Some(tuning) => {
                tuning.cap = bytes;
                let limit = tuning.limit();
                self.change_limit(limit);
            }
            None => self.change_limit(bytes),
        }
    }

    /// The settings of the buffer have changed.
    pub(crate) fn set_buffer(&mut self, config: &Config, now: Instant) {
        let tuning = Self::tuning(config, now);
        if tuning.is_some() || self.odd.is_some() {
            self.odd().tuning = tuning;
        }
        self.change_limit(config.receive_buffer);
    }

    fn change_limit(&mut self, bytes: usize) {
        let limit = clamped(bytes);
        if limit > self.limit {
            self.ack.on_read();
        }
        self.limit = limit;
    }

    /// The peer's segments are assumed to be at least this long.
    pub(crate) fn full_segment(&self) -> u32 {
        self.segment_size.into()
    }

    /// The largest window there is room for now, before rounding: in bytes, and in handles for segments as long as the
    /// peer's longest.
    fn room(&self) -> u32 {
        let handles = self
            .free_segments()
            .saturating_mul(self.full_segment() as usize);
        let room = (self.limit as usize)
            .saturating_sub(self.queued())
            .min(handles);
        u32::try_from(room)
            .unwrap_or(u32::MAX)
            .min(u32::from(u16::MAX) << self.wscale)
    }

    /// How far the right edge could move now, if that is far enough to be worth it: at least one full segment or half the
    /// buffer (RFC 9293 3.8.6.2.2: no silly windows).
    fn growth(&self) -> Option<u32> {
        let growth = self.room().saturating_sub(self.window());
        let worth = self.full_segment().min(self.limit / 2);
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

    /// The field of the window that the peer knows.
    pub(crate) fn offered(&self) -> u16 {
        self.field_of(self.window()).min(u32::from(u16::MAX)) as u16
    }

    /// A window already offered, rounded up: rounding down would take back a promise (RFC 7323 2.4).
    fn field_of(&self, window: u32) -> u32 {
        window.div_ceil(1 << self.wscale)
    }

    /// The window field of a SYN, which is never scaled (RFC 7323 2.2). A SYN that is sent again takes back nothing, even if the
    /// limit has fallen since.
    pub(crate) fn offer_unscaled(&mut self) -> u16 {
        let field = u16::try_from(self.limit).unwrap_or(u16::MAX);
        let edge = self.nxt + u32::from(field);
        if edge.after(self.edge) {
            self.edge = edge;
        }
        u16::try_from(self.window()).unwrap_or(u16::MAX)
    }

    /// Data that fits the window begins at `seq`; it is not empty.
    pub(crate) fn on_data(&mut self, seq: SeqNumber, payload: P, context: Context) -> Received {
        let len = payload.len() as u32;
        self.note_segment_size(len, context.mss);
        if let Some((start, end)) = self.ooo.overlap(seq, seq + len) {
            self.note_duplicate(start, end);
        }
        if seq != self.nxt {
            return self.on_out_of_order(seq, payload);
        }
        // The bound on handles; data that waits out of order is counted, so that it always finds its place here.
        if self.free_segments() == 0 {
            self.ack.demand();
            return Received::Dropped(DropReason::NoReceiveCredit);
        }
        self.push_in_order(payload);
        self.acknowledge_in_order(len, context);
        if !self.ooo.is_empty() {
            while let Some(payload) = self.ooo.pop(self.nxt) {
                self.push_in_order(payload);
            }
            self.ooo.advance(self.nxt);
            // RFC 5681 4.2: at once when a gap is filled, in part or as a whole.
            self.ack.demand();
            self.ack.forget_duplicates();
        }
        Received::InOrder
    }

    /// Whether [`on_following`](Self::on_following) takes a segment of `len` bytes that begins at `nxt`.
    pub(crate) fn takes_following(&self, len: usize) -> bool {
        len <= self.window() as usize
            && self.ooo.is_empty()
            && self.fin.is_none()
            && self.queue.len() < self.max_segments as usize
    }

    /// [`on_data`](Self::on_data) at `nxt`, where nothing waits out of order.
    pub(crate) fn on_following(&mut self, payload: P, context: Context) {
        let len = payload.len() as u32;
        self.note_segment_size(len, context.mss);
        self.push_in_order(payload);
        self.acknowledge_in_order(len, context);
    }

    /// Not more than we have offered: a NIC, or a script, may hand over several segments as one.
    fn note_segment_size(&mut self, len: u32, offered: u32) {
        let mss = len.min(offered).min(u16::MAX.into()) as u16;
        self.segment_size = self.segment_size.max(mss);
    }

    fn acknowledge_in_order(&mut self, len: u32, context: Context) {
        self.ack.on_data(
            context.now,
            Arrived {
                len,
                push: context.push,
                full: self.full_segment(),
                window: self.window(),
                rto: context.rto,
                delay: context.ack_delay,
            },
        );
    }

    #[inline]
    fn push_in_order(&mut self, payload: P) {
        let len = payload.len();
        self.nxt += len as u32;
        let (queue, unread) = self.queue.parts();
        unread.bytes += len;
        // Copybreak: runs of tiny segments share a handle.
        if len <= COPYBREAK
            && let Some(last) = queue.back_mut()
            && last.len() <= COPYBREAK
            && last.append(&payload)
        {
            self.note_copied();
        } else {
            queue.push_back(payload);
        }
    }

    fn on_out_of_order(&mut self, seq: SeqNumber, payload: P) -> Received {
        self.ack.demand_duplicate();
        // Half of the handles stay free for data in order, or a peer could wedge us with fragments of the future.
        let all = self.max_segments as usize;
        let max_segments = (all / 2).min(all.saturating_sub(self.queue.len()));
        let inserted = self
            .ooo
            .insert(seq, payload, max_segments, self.limit as usize);
        match inserted {
            Inserted::Held { copied } => {
                if copied {
                    self.note_copied();
                }
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

    /// The FIN is in order: it takes a number. What came twice is of no interest to a peer that sends nothing more.
    pub(crate) fn on_fin(&mut self) {
        self.finished = true;
        self.nxt += 1;
        if self.edge.before(self.nxt) {
            self.edge = self.nxt;
        }
        self.ack.on_fin();
        self.forget_duplicate();
        self.ooo.clear();
    }

    /// The next payload in order, for the application.
    pub(crate) fn pop(&mut self, now: Instant, srtt: Option<Duration>) -> Option<P> {
        let payload = self.queue.pop_front()?;
        let mss = self.full_segment().min(u16::MAX.into()) as u16;
        if let Some(odd) = &mut self.odd
            && let (Some(tuning), Some(rtt)) = (&mut odd.tuning, srtt)
        {
            tuning.on_read(now, payload.len(), rtt, mss);
            self.limit = clamped(tuning.limit());
        }
        self.queue.parts().1.bytes -= payload.len();
        self.ack.on_read();
        Some(payload)
    }

    /// Reading has opened the window by so much that the peer should know: to twice what is left of it, as Linux has it. While
    /// more than half of it is left, the next acknowledgment is soon enough.
    pub(crate) fn owes_window_update(&self) -> bool {
        let Some(growth) = self.growth().filter(|_| self.ack.has_read()) else {
            return false;
        };
        let least = self.window().max(1 << self.wscale);
        let half = self.limit / 2;
        !self.finished && self.window() <= half && growth >= least
    }

    /// An acknowledgment is due without waiting.
    pub(crate) fn owes_ack_now(&self) -> bool {
        self.ack.is_due(self.full_segment(), self.queue.is_empty())
    }

    /// The peer sends what it need not: quick answers help it.
    pub(crate) fn quicken(&mut self, most: u32, delay: Duration) {
        let (window, full) = (self.window(), self.full_segment());
        self.ack.quicken(most, window, full, delay);
    }

    /// `start..end` came twice. The first such range since the last acknowledgment is reported, with what touches it (RFC 2883
    /// 4: one block, the first).
    pub(crate) fn note_duplicate(&mut self, start: SeqNumber, end: SeqNumber) {
        let duplicate = &mut self.odd().duplicate;
        let Some((from, to)) = duplicate else {
            *duplicate = Some((start, end));
            return;
        };
        if start.at_or_before(*to) && end.at_or_after(*from) {
            *from = if start.before(*from) { start } else { *from };
            *to = if end.after(*to) { end } else { *to };
        }
    }

    /// Whether [`sack_blocks`](Self::sack_blocks) has any.
    pub(crate) fn has_sack_blocks(&self) -> bool {
        self.duplicate().is_some() || !self.ooo.is_empty()
    }

    /// The blocks of the SACK option: first the bytes that came twice (RFC 2883 4), then what is held, the block that changed
    /// last first (RFC 2018 4).
    pub(crate) fn sack_blocks(&self) -> SackBlocks {
        let held = self.ooo.sack_blocks();
        match self.duplicate() {
            Some(duplicate) => core::iter::once(duplicate).chain(held.iter()).collect(),
            None => held,
        }
    }

    /// A segment with an acknowledgment is being sent.
    fn duplicate(&self) -> Option<(SeqNumber, SeqNumber)> {
        self.odd.as_ref()?.duplicate
    }

    fn forget_duplicate(&mut self) {
        if let Some(odd) = &mut self.odd {
            odd.duplicate = None;
        }
    }

    pub(crate) fn on_ack_sent(&mut self) {
        self.last_ack = self.nxt;
        self.forget_duplicate();
        self.ack.on_ack_sent();
    }

    /// Drops what waits: all of it, or only what is out of order.
    pub(crate) fn clear(&mut self, also_unread: bool) {
        self.ooo.clear();
        if also_unread {
            self.queue = Thin::new();
        }
    }

    pub(crate) fn is_unread(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) fn save<'a>(&'a self, out: &mut Vec<u8>, bytes: &dyn Fn(&'a P) -> &'a [u8]) {
        (self.nxt, (self.edge, (self.last_ack, self.irs))).save(out);
        (self.fin, (self.finished, self.wscale)).save(out);
        (self.ack, self.segment_size).save(out);
        (self.limit, self.max_segments).save(out);
        self.odd.save(out);
        (self.queue.len() as u32).save(out);
        for payload in self.queue.iter() {
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
        let (ack, segment_size) = Code::load(input)?;
        let (limit, max_segments) = Code::load(input)?;
        let odd = Code::load(input)?;
        let mut queue = Thin::<P, Unread>::new();
        for _ in 0..input.count()? {
            let payload = input.payload(make)?;
            queue.parts().1.bytes += payload.len();
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
            ack,
            segment_size,
            limit,
            max_segments,
            queue,
            ooo: Reassembly::load(input, make)?,
            odd,
        })
    }
}
