//! Trains: several segments by one decision, as segmentation offload makes them.
//!
//! ```text
//!  poll_transmit -> the first, decided in full
//!  poll_train    -> those behind it in the same burst: full, equal but for their number, within both windows
//!  poll_transmit -> the burst's last one, with its PSH
//! ```
//! What a train leaves behind is exactly what [`poll_transmit`](Connection::poll_transmit) would, segment by segment.

use alloc::collections::vec_deque::IterMut;

use bywash_wire::{Flags, Segment, SeqNumber};

use super::Connection;
use crate::payload::Payload;
use crate::snd::Record;
use crate::state::Phase;
use crate::time::Instant;

/// Segments to be sent behind one that [`poll_transmit`](Connection::poll_transmit) has given, all of them as long as that; they
/// count as sent. Number and payload of each in turn; everything else is as in the one before.
#[derive(Debug)]
pub struct Train<'a, P> {
    records: IterMut<'a, Record<P>>,
}

impl<'a, P> Iterator for Train<'a, P> {
    type Item = (SeqNumber, &'a mut P);

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.records.next()?;
        Some((record.seq, record.payload.as_mut()?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.records.size_hint()
    }
}

impl<P> ExactSizeIterator for Train<'_, P> {}

impl<P: Payload> Connection<P> {
    /// What may leave at once behind `first`, which `poll_transmit` has just given as new data, `most` segments at most.
    /// `None`: whatever comes next is to be decided in full.
    pub fn poll_train(
        &mut self,
        now: Instant,
        first: &Segment,
        most: usize,
    ) -> Option<Train<'_, P>> {
        let limit = self.segment_limit() as u32;
        if first.payload_len as u32 != limit || !self.may_repeat(first) {
            return None;
        }
        let count = self.train_room(limit).min(most);
        let count = self.snd.plain_records(limit, count);
        if count == 0 {
            return None;
        }
        let bytes = count as u32 * limit;
        self.control.burst += count as u8;
        self.control.burst_left -= count as u8;
        self.snd.on_train_sent(count, limit, now);
        self.loss.on_sent(now, self.snd.nxt, bytes, false);
        self.counters.segments_out += count as u64;
        self.counters.bytes_out += u64::from(bytes);
        self.set_timers_after_sending(now);
        Some(Train {
            records: self.snd.last_sent(count),
        })
    }

    /// Whether the next segment's header would be the same as `first`'s, and nothing is to be considered before it leaves.
    fn may_repeat(&self, first: &Segment) -> bool {
        first.flags == Flags::ACK
            && first.options.sack.is_empty()
            && self.phase == Phase::Established
            && !self.loss.probe_due
            && !self.snd.is_in_trouble()
            && first.seq + first.payload_len as u32 == self.snd.nxt
            && self.rare.as_ref().is_none_or(|rare| {
                rare.reset.is_none()
                    && rare.path.is_none()
                    && rare.urgent_out.is_none()
                    && rare.pacer.is_none()
            })
            && self.pace().is_none()
    }

    /// Segments of `limit` bytes that may leave now and do not end the burst: another one may always follow.
    fn train_room(&self, limit: u32) -> usize {
        let window = self.congestion.window().saturating_sub(self.snd.pipe());
        let segments = window.min(self.snd.usable_window()) / limit;
        let burst = u32::from(self.control.burst_left);
        segments.min(burst).saturating_sub(1) as usize
    }
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
