//! Segments that follow on one that was just worked off, with the same header but for their number: what GRO joins.
//!
//! ```text
//!  on_segment(head) -> Accepted;  continues(seq 2)? on_following(2);  continues(seq 3)? on_following(3); ..
//! ```
//! Everything that the head's header said has been heard: of a follower only its data is new, and its number, where that tells
//! how old a window is. What this leaves behind is exactly what [`on_segment`](Connection::on_segment) would.

use bywash_wire::{Flags, Segment};

use super::Connection;
use crate::event::Pending;
use crate::payload::Payload;
use crate::rcv::Context;
use crate::state::Phase;
use crate::time::{Duration, Instant};

impl<P: Payload> Connection<P> {
    /// Whether `segment`, with `segment.payload_len` bytes, may be worked off by [`on_following`](Self::on_following).
    ///
    /// The caller has seen that it is the next of its flow after one that was accepted at this same time, and that the two
    /// headers differ in number, PSH and length only. No SACK blocks, no user time-out, no flag but ACK and PSH.
    pub fn continues(&self, now: Instant, segment: &Segment) -> bool {
        self.phase == Phase::Established
            && !self.control.orphaned
            && segment.seq == self.rcv.nxt
            // The head's acknowledgment was the latest: it says nothing again.
            && segment.ack == self.snd.una
            && self.rcv.ack.data_at() == now
            && self.rcv.takes_following(segment.payload_len)
            && segment
                .options
                .timestamps
                .is_none_or(|timestamps| !self.is_older(timestamps.value))
    }

    /// Works off a segment of which [`continues`](Self::continues) is true; `payload` is not empty.
    pub fn on_following(&mut self, segment: &Segment, payload: P) {
        self.counters.segments_in += 1;
        self.counters.bytes_in += payload.len() as u64;
        // RFC 9293 3.10.7.4: the window of a newer segment, if the head's was not taken for it.
        if self.snd.wl1.before(segment.seq) {
            let window = self.scaled_window(segment);
            self.set_send_window(segment.seq, segment.ack, window);
            self.on_window_seen();
        }
        let context = Context {
            now: self.control.clock,
            push: segment.flags.contains(Flags::PSH),
            // Asked for after a silence only, and there was none.
            rto: Duration::ZERO,
            ack_delay: self.config.delayed_ack,
            mss: self.config.mss.into(),
        };
        self.rcv.on_following(payload, context);
        // A service that reads in between may have taken the head's event.
        self.events.raise(Pending::READABLE);
    }
}
