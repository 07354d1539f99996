//! Why the last segment waits although the windows would let it go: Nagle's rule, and what the application said of what
//! it will write next.
//!
//! ```text
//!  nagle    RFC 9293 3.7.4: another small segment is unacknowledged          ends with its acknowledgment
//!  more     the application said so with this write (like `MSG_MORE`)        ends with the next write or acknowledgment
//!  cork     it said so for all writes (like `TCP_CORK`)                      ends when it takes that back
//! ```
//! Only a segment that is not full waits, and only as the last in the queue. With nothing on the way that could be
//! acknowledged, `more` and `cork` end with the persist timer.

use super::Connection;
use crate::payload::Payload;
use crate::snapshot::{Code, Reader, SnapshotError};
use crate::time::Instant;

/// A set of reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holds(u8);

impl Holds {
    /// More was said to follow what was queued last: that does not end with PSH.
    const UNFINISHED: u8 = 1;
    /// And it waits for that.
    const MORE: u8 = 2;
    const CORK: u8 = 4;
    /// What is queued now goes, whatever the rest says.
    const NONE_FOR_NOW: u8 = 8;
    const ALL: u8 = 15;

    fn has(self, bits: u8) -> bool {
        self.0 & bits != 0
    }

    fn set(&mut self, bits: u8, on: bool) {
        if on {
            self.0 |= bits;
        } else {
            self.0 &= !bits;
        }
    }

    /// Whether what was queued last ends what the application wrote.
    pub(super) fn is_finished(self) -> bool {
        !self.has(Self::UNFINISHED)
    }

    /// An acknowledgment came.
    pub(super) fn on_ack(&mut self) {
        self.set(Self::MORE, false);
    }

    /// Nothing is left to send.
    pub(super) fn on_empty(&mut self) {
        self.set(Self::NONE_FOR_NOW, false);
    }
}

impl Code for Holds {
    fn save(&self, out: &mut alloc::vec::Vec<u8>) {
        out.push(self.0);
    }

    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let bits = u8::load(input)?;
        (bits & !Self::ALL == 0)
            .then_some(Self(bits))
            .ok_or(SnapshotError::Corrupt)
    }
}

impl<P: Payload> Connection<P> {
    /// PUSH (RFC 9293 3.9.1.2): what the application wrote ends with what was queued last. That segment will have the PSH flag
    /// even if more is written before it goes.
    pub fn push(&mut self) {
        self.control
            .holds
            .set(Holds::UNFINISHED | Holds::MORE, false);
        self.snd.push_mark();
    }

    /// More follows soon what was queued last: it gets no PSH flag, and waits, if it is no full segment, for what follows, the
    /// next acknowledgment, or a time-out.
    pub fn announce_more(&mut self) {
        self.control
            .holds
            .set(Holds::UNFINISHED | Holds::MORE, true);
    }

    /// Nothing is ever appended to what was queued last: a record of the application's ends there.
    pub fn end_record(&mut self) {
        self.snd.seal();
    }

    /// Keeps segments back that are not full, until this is switched off; each at most for a time-out.
    pub fn set_cork(&mut self, on: bool) {
        self.control.holds.set(Holds::CORK, on);
    }

    /// What is queued now goes as far as the windows let it, whatever was said of more.
    pub fn push_out(&mut self) {
        self.control.holds.set(Holds::MORE, false);
        self.control.holds.set(Holds::NONE_FOR_NOW, true);
    }

    /// Whether the segment at `index`, whole, of `len` bytes and without FIN, waits.
    pub(super) fn is_held(&mut self, now: Instant, index: usize, len: u32) -> bool {
        let holds = self.control.holds;
        if len as usize >= self.segment_limit()
            || !self.snd.is_last(index)
            || holds.has(Holds::NONE_FOR_NOW)
        {
            return false;
        }
        if holds.has(Holds::MORE | Holds::CORK) {
            self.arm_persist(now);
            return true;
        }
        self.nagle_holds()
    }

    /// Nagle's rule (RFC 9293 3.7.4) in Minshall's form, as in Linux: a small segment waits while another small one is
    /// unacknowledged. What is followed by more waits for nothing.
    fn nagle_holds(&self) -> bool {
        self.control.nagle
            && self
                .control
                .small_end
                .is_some_and(|end| end.after(self.snd.una))
    }
}
