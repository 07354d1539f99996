//! The loop around the turns: what a shard does between one and the next.
//!
//! ```text
//!            ┌── nothing to do ──► watch the rings' cursors ──► sleep, if the idle policy says so
//!   turn ────┼── one flow's stream comes in, and was acknowledged ──► let a burst gather
//!            └── anything else ──► the next turn
//! ```
//! A turn looks everywhere and takes longer than a packet should wait. So a shard that has nothing to do looks at the receive
//! rings alone, some times between two turns. And a receiver that keeps up with its sender would answer every second segment
//! with an acknowledgment and a system call of its own: it lets some come together first. Nothing but that one flow's next
//! segments waits for it, and not for long: whatever comes by another ring ends it.

use std::sync::atomic::{AtomicBool, Ordering};

use bywash_tcp::time::Duration;
use bywash_xsk::Port;

use crate::idle::Idle;
use crate::pools::scan::SCAN_ALL_UP_TO;
use crate::service::{Event, Service};
use crate::shard::{Core, Phase, Shard};

/// Looks at the rings' cursors between two turns that find nothing. What else may come (completions, deadlines, other threads'
/// commands) waits for the turn, under a microsecond.
const LOOKS: usize = 32;

/// Frames that are let come together. With two calls for the burst and its acknowledgment this keeps the system calls of both
/// ends below a sixteenth of the packets; a sender's window is several times as large (`RECEIVE_BUFFER`: 181 segments).
const GATHERED: usize = 24;
/// Longest time for it.
const GATHERING_MAX: Duration = Duration::from_micros(30);
/// The burst is over if nothing comes for so long: some three times what a frame takes on veth.
const GATHERING_QUIET: Duration = Duration::from_micros(5);

/// Octets of a frame from which on it counts as one of a stream, and not as a message that somebody waits for.
const STREAM_FRAME: usize = 1000;

/// What came in this turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bulk {
    /// Nothing yet.
    Nothing,
    /// Full segments by this flow's ring, nothing by others, and no data went out.
    Ring(u16),
    /// Anything else.
    Mixed,
}

impl Bulk {
    /// Frames have come by this ring; the last one has `len` octets.
    pub(crate) fn note(&mut self, ring: u16, is_pool: bool, len: usize) {
        *self = match self {
            Self::Nothing if is_pool && len >= STREAM_FRAME => Self::Ring(ring),
            _ => Self::Mixed,
        };
    }

    /// Data leaves: who answers what came in is not a stream's receiver, and its peer may wait for the answer.
    pub(crate) fn note_data_sent(&mut self) {
        *self = Self::Mixed;
    }
}

impl<P: Port> Core<P> {
    /// Until a packet is there, or for a moment.
    fn watch_rings(&self) {
        for _ in 0..LOOKS {
            if self.port.may_have_arrivals() {
                return;
            }
            std::hint::spin_loop();
        }
    }

    /// Whether somebody but the flow of this ring has sent something.
    fn others_wait(&self, ring: u16) -> bool {
        (0..self.port.rings())
            .any(|other| other != usize::from(ring) && self.port.waiting(other) > 0)
    }
}

impl<P: Port, S: Service> Shard<P, S> {
    /// Turns until the service stops the shard, or `stop` is set and the connections have closed.
    pub fn run(&mut self, stop: &AtomicBool) {
        let mut idle = Idle::new(self.core.config.idle);
        let mut asked = false;
        while self.core.phase != Phase::Stopped {
            if !asked && stop.load(Ordering::Relaxed) {
                asked = true;
                self.ask_to_stop();
            }
            self.core.directory.pulse(self.core.config.index).beat();
            let report = self.turn();
            let core = &self.core;
            let pending = !core.ready.is_empty() || !core.dirty.is_empty();
            let worked = report.worked() || pending;
            let sleep = idle.after_turn(core.now, worked, || core.next_wakeup());
            if pending || self.is_called() {
                continue;
            }
            match (sleep, core.bulk) {
                (Some(longest), _) => {
                    self.core.counters.sleeps += 1;
                    self.core.port.wait(Some(longest));
                }
                (None, _) if !worked => core.watch_rings(),
                // One segment at most: an acknowledgment. Who sends to many has more to do than to receive.
                (None, Bulk::Ring(ring)) if report.sent <= 1 => self.gather(ring),
                (None, _) => {}
            }
        }
    }

    /// Whether the service or another thread has something for the shard to do.
    fn is_called(&self) -> bool {
        let inbox = self.core.directory.inbox(self.core.config.index);
        self.service.has_work() || !inbox.is_empty()
    }

    /// Lets the next segments of a stream come together, so that one turn, one acknowledgment and one system call are for all
    /// of them.
    fn gather(&self, ring: u16) {
        let core = &self.core;
        if core.port.rings() > SCAN_ALL_UP_TO {
            return;
        }
        let (mut last, mut seen) = (core.now, 0);
        loop {
            let waiting = core.port.waiting(ring.into());
            if waiting >= GATHERED || core.others_wait(ring) || self.is_called() {
                return;
            }
            let now = core.env.clock.now();
            if waiting > seen {
                (last, seen) = (now, waiting);
            }
            if now.since(last) >= GATHERING_QUIET || now.since(core.now) >= GATHERING_MAX {
                return;
            }
            std::hint::spin_loop();
        }
    }

    /// Tells the service that the end is near, and gives it the linger time to act.
    fn ask_to_stop(&mut self) {
        self.core.events.push_back(Event::Stopping);
        if self.core.phase == Phase::Running {
            self.core.phase = Phase::Asked {
                until: self.core.now + self.core.linger(),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_full_segments_by_one_ring_of_a_flow() {
        let seen = |arrivals: &[(u16, usize)]| {
            let mut bulk = Bulk::Nothing;
            for (ring, len) in arrivals {
                bulk.note(*ring, *ring > 1, *len);
            }
            bulk
        };
        assert_eq!(seen(&[]), Bulk::Nothing);
        assert_eq!(seen(&[(2, 1514)]), Bulk::Ring(2));
        assert_eq!(seen(&[(2, 67)]), Bulk::Mixed, "a message");
        assert_eq!(seen(&[(0, 1514)]), Bulk::Mixed, "a ring of many flows");
        assert_eq!(seen(&[(2, 1514), (3, 1514)]), Bulk::Mixed, "two flows");
        let mut bulk = seen(&[(2, 1514)]);
        bulk.note_data_sent();
        assert_eq!(bulk, Bulk::Mixed, "an answer");
    }
}
