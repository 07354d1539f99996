//! What is left of a connection in TIME-WAIT: enough to answer its peer, and no more.
//!
//! A server that closes first has a minute of these for each connection, so they are kept apart from connections and are a
//! tenth of their size. They answer as RFC 9293 3.10.7.4 says for TIME-WAIT, do not believe a RST (RFC 1337), and give way to
//! a new incarnation by RFC 6191.

use bywash_wire::{DropReason, Flags, Options, Segment, SeqNumber, Timestamps, Tuple};

use crate::time::{Duration, Instant};

/// Least time between two answers to segments that carry nothing: two ends that disagree do not answer each other for ever
/// (Linux's `tcp_invalid_ratelimit`).
const ANSWER_INTERVAL: Duration = Duration::from_millis(500);

/// A connection in TIME-WAIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeWait {
    pub(crate) tuple: Tuple,
    pub(crate) snd_nxt: SeqNumber,
    pub(crate) rcv_nxt: SeqNumber,
    /// The window in bytes that the peer may still believe in, and its field.
    pub(crate) window: u32,
    pub(crate) window_field: u16,
    /// Start of our timestamp clock, and TS.Recent, if timestamps were agreed on.
    pub(crate) timestamps: Option<(u32, u32)>,
    /// How long TIME-WAIT lasts.
    pub(crate) time: Duration,
    pub(crate) until: Instant,
    pub(crate) answered_at: Option<Instant>,
}

/// What a segment to a connection in TIME-WAIT leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimeWaitAnswer {
    /// Nothing is sent.
    Drop(DropReason),
    /// This is sent.
    Acknowledge(Segment),
    /// The connection has given way: give the segment to the listener.
    NewIncarnation,
}

impl TimeWait {
    /// The connection's addresses and ports.
    pub fn tuple(&self) -> &Tuple {
        &self.tuple
    }

    /// When it is over. A FIN that comes once more moves this.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Initial sequence number for an active open that takes this one's place (RFC 6191 3, Linux's distance of a window and
    /// two), and whether that is safe `now`: timestamps were agreed on, and our clock for them has moved on.
    pub fn successor(&self, now: Instant) -> Option<SeqNumber> {
        let began = self.until.as_nanos().saturating_sub(self.time.as_nanos());
        let moved = now.as_nanos() >= began + 1_000_000_000;
        (self.timestamps.is_some() && moved).then(|| self.snd_nxt + 65_537)
    }

    /// SEGMENT ARRIVES in TIME-WAIT.
    pub fn on_segment(&mut self, now: Instant, segment: &Segment) -> TimeWaitAnswer {
        if self.accepts_new_incarnation(segment) {
            return TimeWaitAnswer::NewIncarnation;
        }
        if segment.flags.contains(Flags::RST) {
            return TimeWaitAnswer::Drop(DropReason::BadReset);
        }
        let old = match (self.timestamps, segment.options.timestamps) {
            (Some((_, recent)), Some(theirs)) => (theirs.value.wrapping_sub(recent) as i32) < 0,
            _ => false,
        };
        let length = segment.sequence_len();
        if segment.flags.contains(Flags::FIN) && !old && segment.seq + length == self.rcv_nxt {
            // RFC 9293 3.10.7.4, eighth: the last acknowledgment was lost; the wait begins anew.
            self.until = now + self.time;
            return TimeWaitAnswer::Acknowledge(self.acknowledgment(now));
        }
        let edge = self.rcv_nxt + self.window;
        let empty_and_expected = length == 0
            && !old
            && segment.seq.at_or_after(self.rcv_nxt)
            && segment.seq.at_or_before(edge);
        if empty_and_expected {
            // The peer's acknowledgment of our last one, or a probe of nothing.
            return TimeWaitAnswer::Drop(DropReason::UnacceptableSequence);
        }
        if length == 0 || segment.flags.contains(Flags::SYN) {
            let recently = self
                .answered_at
                .is_some_and(|at| now.since(at) < ANSWER_INTERVAL);
            if recently {
                return TimeWaitAnswer::Drop(DropReason::UnacceptableSequence);
            }
            self.answered_at = Some(now);
        }
        TimeWaitAnswer::Acknowledge(self.acknowledgment(now))
    }

    /// RFC 9293 3.6.1, RFC 6191 2: a SYN that cannot be an old one.
    fn accepts_new_incarnation(&self, segment: &Segment) -> bool {
        if !segment.flags.contains(Flags::SYN) || segment.flags.intersects(Flags::ACK | Flags::RST)
        {
            return false;
        }
        match (self.timestamps, segment.options.timestamps) {
            (Some((_, recent)), Some(theirs)) => (theirs.value.wrapping_sub(recent) as i32) > 0,
            _ => segment.seq.after(self.rcv_nxt),
        }
    }

    fn acknowledgment(&self, now: Instant) -> Segment {
        let timestamps = self.timestamps.map(|(offset, recent)| Timestamps {
            value: (now.as_millis() as u32).wrapping_add(offset),
            echo: recent,
        });
        Segment {
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags: Flags::ACK,
            window: self.window_field,
            options: Options {
                timestamps,
                ..Options::NONE
            },
            ..Segment::default()
        }
    }
}
