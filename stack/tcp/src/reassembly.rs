//! Segments that arrived before their turn.
//!
//! They wait as they came, uncopied, sorted and without overlap: a newcomer is trimmed against its neighbours, and those
//! that it covers are dropped for it, so no handle is ever cut in the middle. The queue is bounded in handles and in bytes;
//! what does not fit is refused, and the peer sends it again. Nothing that was accepted is dropped later, so the SACK
//! blocks never take anything back (RFC 2018 8 would allow it).

use alloc::boxed::Box;
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

/// The queue of segments out of order. Most connections never have one: it is made for the first such segment.
#[derive(Debug)]
pub(crate) struct Reassembly<P>(Option<Box<Queue<P>>>);

#[derive(Debug)]
struct Queue<P> {
    held: VecDeque<Held<P>>,
    bytes: usize,
    sack: RecentBlocks,
}

impl<P: Payload> Reassembly<P> {
    pub(crate) fn new() -> Self {
        Self(None)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments() == 0
    }

    /// Handles held.
    pub(crate) fn segments(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.held.len())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.bytes)
    }

    /// The blocks to acknowledge selectively, the one that changed last first (RFC 2018 4).
    pub(crate) fn sack_blocks(&self) -> SackBlocks {
        self.0.as_ref().map_or(SackBlocks::EMPTY, |queue| {
            let recent = &queue.sack;
            recent.blocks[..recent.len].iter().copied().collect()
        })
    }

    /// Adds the segment that begins at `seq`; there are at most `max_segments` handles and `max_bytes` bytes afterwards.
    pub(crate) fn insert(
        &mut self,
        seq: SeqNumber,
        payload: P,
        max_segments: usize,
        max_bytes: usize,
    ) -> Inserted {
        self.0.get_or_insert_with(|| Box::new(Queue::new())).insert(
            seq,
            payload,
            max_segments,
            max_bytes,
        )
    }

    /// The number behind the last byte held.
    pub(crate) fn end(&self) -> Option<SeqNumber> {
        self.0.as_ref()?.held.back().map(|held| held.end)
    }

    /// What is held already of `start..end`: the first piece, with all that touches it.
    pub(crate) fn overlap(
        &self,
        start: SeqNumber,
        end: SeqNumber,
    ) -> Option<(SeqNumber, SeqNumber)> {
        let held = &self.0.as_ref()?.held;
        // The usual case, a hole and then segments in order, is a comparison with the last one.
        held.back().filter(|last| last.end.after(start))?;
        let first = held.partition_point(|held| held.end.at_or_before(start));
        let mut found: Option<(SeqNumber, SeqNumber)> = None;
        for one in held.range(first..).take_while(|one| one.seq.before(end)) {
            let from = if one.seq.before(start) {
                start
            } else {
                one.seq
            };
            let to = if one.end.after(end) { end } else { one.end };
            match &mut found {
                None => found = Some((from, to)),
                Some((_, edge)) if *edge == from => *edge = to,
                Some(_) => break,
            }
        }
        found
    }

    /// Takes the segment that `nxt` has reached, trimmed to begin there. Segments that lie wholly before are dropped.
    pub(crate) fn pop(&mut self, nxt: SeqNumber) -> Option<P> {
        self.0.as_mut()?.pop(nxt)
    }

    /// `nxt` has moved: what lies before it is no longer out of order.
    pub(crate) fn advance(&mut self, nxt: SeqNumber) {
        if let Some(queue) = &mut self.0 {
            queue.sack.retain_after(nxt);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    pub(crate) fn save<'a>(&'a self, out: &mut Vec<u8>, bytes: &dyn Fn(&'a P) -> &'a [u8]) {
        self.0.is_some().save(out);
        if let Some(queue) = &self.0 {
            queue.save(out, bytes);
        }
    }

    pub(crate) fn load(
        input: &mut Reader<'_>,
        make: &mut dyn FnMut(&[u8]) -> Option<P>,
    ) -> Result<Self, SnapshotError> {
        Ok(Self(if bool::load(input)? {
            Some(Box::new(Queue::load(input, make)?))
        } else {
            None
        }))
    }
}

impl<P: Payload> Queue<P> {
    fn new() -> Self {
        Self {
            held: VecDeque::new(),
            bytes: 0,
            sack: RecentBlocks::default(),
        }
    }

    fn insert(
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
        let covered = self
            .held
            .range(at..)
            .take_while(|next| next.end.at_or_before(end));
        let (count, freed) = covered.fold((0, 0), |(n, bytes), h| (n + 1, bytes + h.payload.len()));
        if let Some(next) = self.held.get(at + count)
            && next.seq.before(end)
        {
            end = next.seq;
            payload.truncate(end.distance_from(seq) as usize);
        }
        if payload.len() == freed {
            // Nothing is new: after trimming, the segment is just what lies behind its predecessor.
            self.touch(at.saturating_sub(1));
            return Inserted::Duplicate;
        }
        if self.bytes - freed + payload.len() > max_bytes {
            return Inserted::Full;
        }
        self.held.drain(at..at + count);
        self.bytes -= freed;
        let copied = self.append_to_predecessor(&mut at, seq, end, &payload);
        if !copied {
            // In the place of others it adds no handle, and those are gone already.
            if count == 0 && self.held.len() >= max_segments {
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

    fn pop(&mut self, nxt: SeqNumber) -> Option<P> {
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

    fn save<'a>(&'a self, out: &mut Vec<u8>, bytes: &dyn Fn(&'a P) -> &'a [u8]) {
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

    fn load(
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

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// So that numbers wrap in the middle of every case.
    const BASE: SeqNumber = SeqNumber::new(u32::MAX - 300);

    /// The byte at an offset: overlapping segments agree.
    fn bytes(start: u32, len: u32) -> Vec<u8> {
        (start..start + len)
            .map(|offset| (offset * 7 + offset / 256) as u8)
            .collect()
    }

    /// Handles that refuse to grow, as those in NIC memory do.
    struct Rigid(Vec<u8>);

    impl Payload for Rigid {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn advance(&mut self, n: usize) {
            self.0.advance(n);
        }
        fn truncate(&mut self, n: usize) {
            self.0.truncate(n);
        }
        fn split_off(&mut self, _: usize) -> Option<Self> {
            panic!("reassembly cuts no handle in the middle");
        }
        fn append(&mut self, _: &Self) -> bool {
            false
        }
        fn is_queued(&self) -> bool {
            false
        }
    }

    fn offset(seq: SeqNumber) -> u32 {
        seq.distance_from(BASE) as u32
    }

    /// The run of held offsets around `at`.
    fn run(held: &BTreeSet<u32>, at: u32) -> (u32, u32) {
        let (mut start, mut end) = (at, at + 1);
        while start > 0 && held.contains(&(start - 1)) {
            start -= 1;
        }
        while held.contains(&end) {
            end += 1;
        }
        (start, end)
    }

    /// One body for both kinds of handle: `make` makes one, `read` gives its bytes back.
    fn against_the_oracle<P: Payload>(
        steps: &[(u32, u32, bool)],
        make: fn(Vec<u8>) -> P,
        read: fn(P) -> Vec<u8>,
    ) -> Result<(), TestCaseError> {
        let mut queue = Reassembly::<P>::new();
        let mut held = BTreeSet::new();
        let mut nxt = 0;
        for &(start, len, fill) in steps {
            if fill {
                // The gap in front is filled: `nxt` moves, and what follows it comes out.
                nxt += len;
                while let Some(payload) = queue.pop(BASE + nxt) {
                    let out = read(payload);
                    prop_assert_eq!(&out, &bytes(nxt, out.len() as u32));
                    nxt += out.len() as u32;
                }
                queue.advance(BASE + nxt);
                held = held.split_off(&nxt);
                prop_assert!(!held.contains(&nxt), "what is next was not handed out");
            } else {
                let start = nxt + 1 + start;
                let payload = make(bytes(start, len));
                let known = (start..start + len).all(|at| held.contains(&at));
                let result = queue.insert(BASE + start, payload, usize::MAX, usize::MAX);
                prop_assert_eq!(result == Inserted::Duplicate, known);
                held.extend(start..start + len);
                let first = queue.sack_blocks().as_slice()[0];
                prop_assert_eq!((offset(first.0), offset(first.1)), run(&held, start));
            }
            prop_assert_eq!(queue.bytes(), held.len());
            prop_assert_eq!(queue.is_empty(), held.is_empty());
            let blocks = queue.sack_blocks();
            for (i, (from, to)) in blocks.iter().enumerate() {
                prop_assert_eq!((offset(from), offset(to)), run(&held, offset(from)));
                prop_assert!(blocks.iter().skip(i + 1).all(|other| other != (from, to)));
            }
        }
        Ok(())
    }

    fn steps() -> impl Strategy<Value = Vec<(u32, u32, bool)>> {
        let step = (0_u32..400, 1_u32..60, prop::bool::weighted(0.15));
        prop::collection::vec(step, 1..80)
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_bytes(steps in steps()) {
            against_the_oracle(&steps, |bytes| bytes, |bytes| bytes)?;
        }

        #[test]
        fn agrees_when_handles_do_not_grow(steps in steps()) {
            against_the_oracle(&steps, Rigid, |rigid| rigid.0)?;
        }

        #[test]
        fn holds_no_more_than_it_may(steps in steps(), segments in 1_usize..6, room in 1_usize..200) {
            let mut queue = Reassembly::<Rigid>::new();
            for (start, len, _) in steps {
                let before = queue.bytes();
                let payload = Rigid(bytes(start, len));
                let result = queue.insert(BASE + start, payload, segments, room);
                prop_assert!(queue.segments() <= segments && queue.bytes() <= room);
                if result == Inserted::Full {
                    // What was covered by the refused segment may be gone with it only if that is not acknowledged.
                    prop_assert_eq!(queue.bytes(), before);
                }
            }
        }
    }

    #[test]
    fn the_most_recent_block_comes_first_and_four_are_kept() {
        let mut queue = Reassembly::<Vec<u8>>::new();
        for start in [10, 30, 50, 70, 90] {
            queue.insert(BASE + start, vec![0; 5], 100, 1_000);
        }
        let starts: Vec<u32> = queue
            .sack_blocks()
            .iter()
            .map(|block| offset(block.0))
            .collect();
        assert_eq!(starts, [90, 70, 50, 30]);
        // The forgotten block grows, and is reported as a whole.
        queue.insert(BASE + 15, vec![0; 5], 100, 1_000);
        let first = queue.sack_blocks().as_slice()[0];
        assert_eq!((offset(first.0), offset(first.1)), (10, 20));
    }
}
