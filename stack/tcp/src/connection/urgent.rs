//! Urgent data (RFC 9293 3.8.5) as RFC 6093 leaves it: bytes of the stream like all others, delivered in line, with a mark.
//!
//! The pointer names the number behind the urgent data (RFC 6093 3.1: what everybody does). A later mark replaces an earlier one,
//! so an application that needs to know of each byte must not use this; RFC 6093 5 advises new applications against it.

use bywash_wire::{Flags, Segment, SeqNumber};

use super::Connection;
use crate::payload::Payload;

impl<P: Payload> Connection<P> {
    /// How many bytes are to be read until the peer's urgent data has been read, the urgent data included; `None`: there is no
    /// mark, or it lies behind what was read. It may lie ahead of what has arrived.
    pub fn urgent_mark(&self) -> Option<usize> {
        let mark = self.rare.as_ref()?.urgent_in?;
        let ahead = mark.distance_from(self.rcv.read_edge());
        usize::try_from(ahead).ok().filter(|ahead| *ahead > 0)
    }

    /// Marks what was queued last as urgent: the peer is told with every segment up to there.
    pub fn mark_urgent(&mut self) {
        let end = self.snd.data_end();
        self.rare().urgent_out = Some(end);
    }

    /// The peer's pointer (RFC 9293 3.10.7.4, sixth step).
    pub(super) fn note_urgent(&mut self, segment: &Segment, seq: SeqNumber) {
        if !segment.flags.contains(Flags::URG) || !self.phase.receives() {
            return;
        }
        let mark = seq + u32::from(segment.urgent);
        let rare = self.rare();
        if rare.urgent_in.is_none_or(|before| mark.after(before)) {
            rare.urgent_in = Some(mark);
        }
    }

    /// Our pointer, if the segment lies before our mark.
    pub(super) fn add_urgent(&self, segment: &mut Segment) {
        let Some(mark) = self.rare.as_ref().and_then(|rare| rare.urgent_out) else {
            return;
        };
        if mark.after(segment.seq) {
            segment.flags.insert(Flags::URG);
            let ahead = mark.distance_from(segment.seq);
            segment.urgent = u16::try_from(ahead).unwrap_or(u16::MAX);
        }
    }
}
