//! Segments that arrived before their turn.
//!
//! They wait as they came, uncopied, sorted and without overlap: a newcomer is trimmed against its neighbours, and those
//! that it covers are dropped for it, so no handle is ever cut in the middle. The queue is bounded in handles and in bytes;
//! what does not fit is refused, and the peer sends it again. Nothing that was accepted is dropped later, so the SACK
//! blocks never take anything back (RFC 2018 8 would allow it).

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bywash_wire::{SackBlocks, SeqNumber};

use crate::payload::{COPYBREAK, Payload};
use crate::snapshot::{Code, Reader, SnapshotError, save_payload};

#[derive(Debug)]
struct Held<P> {
    seq: SeqNumber,
    end: SeqNumber,
    payload: P,
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// It waits; `copied`: behind its predecessor's bytes.
    Held { copied: bool },
    /// All of it was there.
    Duplicate,
    /// No room.
    Full,
}

/// The queue of segments out of order.
#[derive(Debug)]
pub(crate) struct Reassembly<P> {
    held: VecDeque<Held<P>>,
    bytes: usize,
    sack: RecentBlocks,
}

impl<P: Payload> Reassembly<P> {
    pub(crate) fn new() -> Self {
        Self {
            held: VecDeque::new(),
            bytes: 0,
            sack: RecentBlocks::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Handles held.
    pub(crate) fn segments(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The blocks to acknowledge selectively, the one that changed last first (RFC 2018 4).
    pub(crate) fn sack_blocks(&self) -> SackBlocks {
        self.sack.blocks[..self.sack.len].iter().copied().collect()
    }

    /// Adds the segment that begins at `seq`; there are at most `max_segments` handles and `max_bytes` bytes afterwards.
    pub(crate) fn insert(
        &mut self,
        mut seq: SeqNumber,
        mut payload: P,
        max_segments: usize,
        max_bytes: usize,
    ) -> Inserted {
        let mut end = seq + payload.len() as u32;
        // The usual case, a hole and then segments in order, is a comparison with the last one.
        let mut at = match self.held.back() {
            Some(last) if last.seq.after(seq) => {
                self.held.partition_point(|h| h.seq.at_or_before(seq))
            }
            _ => self.held.len(),
        };
        if let Some(before) = at.checked_sub(1).map(|i| &self.held[i])
            && before.end.after(seq)
        {
            if before.end.at_or_after(end) {
                self.touch(at - 1);
                return Inserted::Duplicate;
            }
            payload.advance(before.end.distance_from(seq) as usize);
            seq = before.end;
        }
        while let Some(next) = self.held.get(at)
            && next.end.at_or_before(end)
        {
            self.bytes -= next.payload.len();
            self.held.remove(at);
        }
        if let Some(next) = self.held.get(at)
            && next.seq.before(end)
        {
            end = next.seq;
            payload.truncate(end.distance_from(seq) as usize);
        }
        if self.bytes + payload.len() > max_bytes {
            return Inserted::Full;
        }
        let copied = self.append_to_predecessor(&mut at, seq, end, &payload);
        if !copied {
            if self.held.len() >= max_segments {
                return Inserted::Full;
            }
            self.bytes += payload.len();
            self.held.insert(at, Held { seq, end, payload });
        }
        self.touch(at);
        Inserted::Held { copied }
    }

    /// Copybreak: a small payload goes behind the bytes of its predecessor, and its own handle is free. `at` is then the
    /// predecessor's index.
    fn append_to_predecessor(
        &mut self,
        at: &mut usize,
        seq: SeqNumber,
        end: SeqNumber,
        payload: &P,
    ) -> bool {
        let Some(index) = at.checked_sub(1) else {
            return false;
        };
        let before = &mut self.held[index];
        if payload.len() > COPYBREAK || before.end != seq || !before.payload.append(payload) {
            return false;
        }
        before.end = end;
        self.bytes += payload.len();
        *at = index;
        true
    }

    /// The block around the segment at `at` becomes the most recent one.
    fn touch(&mut self, at: usize) {
        // Listed blocks are whole: runs of held segments without a hole at either end. So a neighbour that touches is
        // either in a block that is absorbed here, or in a run that was pushed out of the list: walk that.
        let Held { seq, end, .. } = self.held[at];
        let (mut first, mut last) = self.sack.absorb(seq, end);
        if first == seq {
            for before in self.held.range(..at).rev() {
                if before.end != first {
                    break;
                }
                first = before.seq;
            }
        }
        if last == end {
            for next in self.held.range(at + 1..) {
                if next.seq != last {
                    break;
                }
                last = next.end;
            }
        }
        self.sack.push(first, last);
    }

    /// Takes the segment that `nxt` has reached, trimmed to begin there. Segments that lie wholly before are dropped.
    pub(crate) fn pop(&mut self, nxt: SeqNumber) -> Option<P> {
        while let Some(first) = self.held.front()
            && first.seq.at_or_before(nxt)
        {
            let Held {
                seq,
                end,
                mut payload,
            } = self.held.pop_front()?;
            self.bytes -= payload.len();
            if end.after(nxt) {
                payload.advance(nxt.distance_from(seq) as usize);
                return Some(payload);
            }
        }
        None
    }

    /// `nxt` has moved: what lies before it is no longer out of order.
    pub(crate) fn advance(&mut self, nxt: SeqNumber) {
        self.sack.retain_after(nxt);
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }

    pub(crate) fn save<'a>(&'a self, out: &mut Vec<u8>, bytes: &dyn Fn(&'a P) -> &'a [u8]) {
        (self.held.len() as u32).save(out);
        for held in &self.held {
            held.seq.save(out);
            save_payload(out, bytes(&held.payload));
        }
        self.sack.len.save(out);
        for block in &self.sack.blocks[..self.sack.len] {
            block.save(out);
        }
    }

    pub(crate) fn load(
        input: &mut Reader<'_>,
        make: &mut dyn FnMut(&[u8]) -> Option<P>,
    ) -> Result<Self, SnapshotError> {
        let mut queue = Self::new();
        for _ in 0..input.count()? {
            let seq = SeqNumber::load(input)?;
            let payload = input.payload(make)?;
            let end = seq + payload.len() as u32;
            if queue
                .held
                .back()
                .is_some_and(|last: &Held<P>| last.end.after(seq))
                || end == seq
            {
                return Err(SnapshotError::Corrupt);
            }
            queue.bytes += payload.len();
            queue.held.push_back(Held { seq, end, payload });
        }
        queue.sack.len = usize::load(input)?;
        if queue.sack.len > SackBlocks::CAPACITY {
            return Err(SnapshotError::Corrupt);
        }
        for block in &mut queue.sack.blocks[..queue.sack.len] {
            *block = Code::load(input)?;
        }
        Ok(queue)
    }
}

/// The blocks that changed last, most recent first.
#[derive(Clone, Copy, Debug, Default)]
struct RecentBlocks {
    blocks: [(SeqNumber, SeqNumber); SackBlocks::CAPACITY],
    len: usize,
}

impl RecentBlocks {
    /// Takes all blocks that overlap or touch `start..end` out of the list; gives their union with it.
    fn absorb(&mut self, mut start: SeqNumber, mut end: SeqNumber) -> (SeqNumber, SeqNumber) {
        let mut kept = 0;
        for i in 0..self.len {
            let (from, to) = self.blocks[i];
            if from.after(end) || to.before(start) {
                self.blocks[kept] = self.blocks[i];
                kept += 1;
            } else {
                start = if from.before(start) { from } else { start };
                end = if to.after(end) { to } else { end };
            }
        }
        self.len = kept;
        (start, end)
    }

    fn push(&mut self, start: SeqNumber, end: SeqNumber) {
        self.len = (self.len + 1).min(SackBlocks::CAPACITY);
        self.blocks[..self.len].rotate_right(1);
        self.blocks[0] = (start, end);
    }

    fn retain_after(&mut self, nxt: SeqNumber) {
        let mut kept = 0;
        for i in 0..self.len {
            let (start, end) = self.blocks[i];
            if end.after(nxt) && start.after(nxt) {
                self.blocks[kept] = (start, end);
                kept += 1;
            }
        }
        self.len = kept;
    }
}
