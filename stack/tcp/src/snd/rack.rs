//! RACK's look at the scoreboard (RFC 8985 6.2): what was sent well before something that has arrived is lost.
//!
//! Two orders by time are walked over, each from where the last look ended to the first record that is not due: the queue
//! itself for what was sent once, and the list of retransmissions.

use bywash_wire::SeqNumber;

use super::{Arrival, Record, SendQueue};
use crate::payload::Payload;
use crate::rtt::RTT_MAX;
use crate::snapshot::code;
use crate::time::{Duration, Instant};

/// What RACK knows of the segment that was sent last among those delivered (RFC 8985 5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rack {
    /// RACK.xmit_ts.
    sent_at: Instant,
    /// RACK.end_seq.
    end: SeqNumber,
    /// RACK.rtt; zero: nothing is known yet.
    rtt: Duration,
}

code!(struct Rack { sent_at, end, rtt });

impl Rack {
    /// RFC 8985 6.2, step 2. `by_number`: `snd.una` has passed it, so that the echoed timestamp is of the segment that has
    /// filled the hole; with a SACK block it is an old one and tells nothing.
    pub(super) fn on_delivered<P>(
        &mut self,
        record: &Record<P>,
        arrival: &Arrival,
        by_number: bool,
    ) {
        let rtt = arrival.now.since(record.sent_at);
        let older = by_number && arrival.precedes(record.sent_at);
        // It may be the first transmission that has arrived, and not the second.
        if record.transmissions > 1 && (older || rtt < arrival.min_rtt) {
            return;
        }
        if rtt <= RTT_MAX {
            self.rtt = rtt.max(Duration::from_nanos(1));
        }
        if sent_after(record.sent_at, record.end(), self.sent_at, self.end) {
            self.sent_at = record.sent_at;
            self.end = record.end();
        }
    }

    /// Whether `record` was sent before the newest segment delivered.
    pub(super) fn overtook<P>(&self, record: &Record<P>) -> bool {
        sent_after(self.sent_at, self.end, record.sent_at, record.end())
    }
}

/// RACK_sent_after() of RFC 8985 6.2: segments of one burst share their time.
fn sent_after(at: Instant, end: SeqNumber, than_at: Instant, than_end: SeqNumber) -> bool {
    at > than_at || (at == than_at && end.after(than_end))
}

/// What loss detection has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Detected {
    /// Records marked lost.
    pub(crate) lost: u32,
    /// Retransmissions among them.
    pub(crate) resent: u32,
    /// When the next record would be due if nothing is heard of it.
    pub(crate) wait: Option<Instant>,
}

impl<P: Payload> SendQueue<P> {
    /// RACK_detect_loss() of RFC 8985 6.2: what was sent a reordering window before something delivered is lost.
    pub(crate) fn detect_lost(&mut self, now: Instant, window: Duration) -> Detected {
        let mut found = Detected::default();
        let Some(rack) = self.board.as_ref().map(|board| board.rack) else {
            return found;
        };
        if rack.rtt == Duration::ZERO {
            return found;
        }
        let grace = rack.rtt + window;
        let first = self.detect_lost_originals(now, &rack, grace, &mut found);
        let again = self.detect_lost_resent(now, &rack, grace, &mut found);
        found.wait = match (first, again) {
            (Some(first), Some(again)) => Some(first.min(again)),
            (first, again) => first.or(again),
        };
        found
    }

    /// Those sent once: the older ones lie in front.
    fn detect_lost_originals(
        &mut self,
        now: Instant,
        rack: &Rack,
        grace: Duration,
        found: &mut Detected,
    ) -> Option<Instant> {
        let mut index = self.board.as_ref()?.judged;
        let mut wait = None;
        while index < self.sent() {
            self.board().note_visit();
            let record = &self.records[index];
            let judged = record.sacked || record.lost || record.resent;
            if !judged {
                if !rack.overtook(record) {
                    break;
                }
                let due = record.sent_at + grace;
                if due > now {
                    wait = Some(due);
                    break;
                }
                found.lost += u32::from(self.mark_lost(index));
            }
            index += 1;
        }
        self.board().judged = index;
        wait
    }

    /// Those sent again, in the order of sending.
    fn detect_lost_resent(
        &mut self,
        now: Instant,
        rack: &Rack,
        grace: Duration,
        found: &mut Detected,
    ) -> Option<Instant> {
        while let Some((at, index)) = self.resent_front() {
            self.board().note_visit();
            if let Some(index) = index {
                if !rack.overtook(&self.records[index]) {
                    return None;
                }
                let due = at + grace;
                if due > now {
                    return Some(due);
                }
                self.mark_lost(index);
                found.lost += 1;
                found.resent += 1;
            }
            self.board().resent.pop_front();
        }
        None
    }
}
