//! Whether a segment is acceptable at all: the first four checks of RFC 9293 3.10.7.4, PAWS (RFC 7323 5), and the challenges
//! of RFC 5961 to what only somebody who guesses would send.
//!
//! A challenge ACK asks the peer "is this you?": a peer that really has lost its state answers with a RST at exactly the right
//! number. Challenges are limited twice, as in Linux: one in half a second for each connection, and by the shard for all
//! of them together, which [`challenge_due`](Connection::challenge_due) and
//! [`withhold_challenge`](Connection::withhold_challenge) are for.

use bywash_wire::{DropReason, Flags, Segment, SeqNumber};

use super::Connection;
use super::on_segment::{Arrival, Check, NEXT, done};
use crate::payload::Payload;
use crate::state::{Input, Phase};
use crate::time::{Duration, Instant};
use crate::timer::Timer;

/// After this silence a timestamp that looks old may be new: the peer's clock has gone half around (RFC 7323 5.5).
const TS_RECENT_LIFETIME: Duration = Duration::from_secs(24 * 24 * 3_600);

/// A moment in units of 2^30 ns, a little more than a second: 32 bits last for 146 years.
pub(super) const fn age(now: Instant) -> u32 {
    (now.as_nanos() >> 30) as u32
}

/// ACKs without delay for a peer that sends what we have (Linux's `TCP_MAX_QUICKACKS`).
const QUICK_ACKS: u32 = 16;

impl<P: Payload> Connection<P> {
    /// RFC 7323 5.3 R1. A segment without the option passes, as in Linux, and so does a RST (R1).
    pub(super) fn check_paws(&mut self, now: Instant, arrival: &Arrival<'_, P>) -> Check {
        let timestamps = arrival.segment.options.timestamps;
        let old = timestamps.is_some_and(|timestamps| self.is_older(timestamps.value));
        if !old || self.is_ts_recent_stale(now) || arrival.has(Flags::RST) {
            return NEXT;
        }
        self.acknowledge_unacceptable(now, arrival);
        done(DropReason::Paws)
    }

    /// First check: the sequence number.
    pub(super) fn check_sequence(&mut self, now: Instant, arrival: &Arrival<'_, P>) -> Check {
        if self.fits(arrival) || self.is_reset_behind_fin(arrival) {
            return NEXT;
        }
        if arrival.has(Flags::RST) {
            return done(DropReason::BadReset);
        }
        // RFC 9293 3.10.7.4: a FIN once more in TIME-WAIT restarts the wait.
        if self.phase == Phase::TimeWait && arrival.fin {
            self.timers.arm(Timer::Linger, now + self.config.msl * 2);
        }
        self.acknowledge_unacceptable(now, arrival);
        self.use_late_ack(now, arrival);
        let seen = arrival.len() > 0 && arrival.end().at_or_before(self.rcv.nxt);
        done(if seen {
            DropReason::DuplicateData
        } else {
            DropReason::UnacceptableSequence
        })
    }

    /// What ends where our last acknowledgment ends was sent again because that was lost. What it acknowledges itself may be news
    /// (Linux's rule): without it a simultaneous close with losses waits for a time-out.
    fn use_late_ack(&mut self, now: Instant, arrival: &Arrival<'_, P>) {
        let ack = arrival.segment.ack;
        let late = arrival.end().at_or_after(self.rcv.last_ack)
            && arrival.end().at_or_before(self.rcv.nxt)
            && arrival.seq_len() > 0;
        if late
            && arrival.has(Flags::ACK)
            && !arrival.syn
            && self.phase.is_synchronised()
            && ack.after(self.snd.una)
            && ack.at_or_before(self.snd.nxt)
        {
            self.on_acceptable_ack(now, arrival.segment, false);
        }
    }

    /// The four cases of RFC 9293 3.10.7.4, with allowances that Linux makes too: an empty segment may stand on the right edge
    /// (the peer has used the window up and some of that was lost), or behind our last acknowledgment (it was sent before
    /// what overtook it); a bare FIN needs no buffer; at a closed window the header of what is next counts, its data not.
    fn fits(&self, arrival: &Arrival<'_, P>) -> bool {
        let (nxt, window) = (self.rcv.nxt, self.rcv.window());
        let edge = nxt + window;
        if arrival.has(Flags::RST) {
            // RFC 5961 3.2: the number alone counts.
            return arrival.seq == nxt || (arrival.seq.after(nxt) && arrival.seq.before(edge));
        }
        if arrival.seq_len() == 0 {
            let first = self.rcv.last_ack;
            return arrival.seq.at_or_after(first) && arrival.seq.at_or_before(edge);
        }
        if window == 0 {
            return arrival.seq == nxt;
        }
        // Any of it within the window: the RFC asks for the first or the last number, which leaves out segments that stick
        // out at both ends.
        arrival.seq.before(edge) && arrival.end().after(nxt)
    }

    /// A RST with the number of the peer's FIN, which some send when their process dies between the two and which they do not
    /// repeat when challenged (Linux's `tcp_reset_check`).
    fn is_reset_behind_fin(&self, arrival: &Arrival<'_, P>) -> bool {
        arrival.has(Flags::RST)
            && arrival.seq + 1 == self.rcv.nxt
            && matches!(
                self.phase,
                Phase::CloseWait | Phase::LastAck | Phase::Closing
            )
    }

    /// An unacceptable segment is answered with an ACK. An empty one may itself be such an answer: those are rate
    /// limited, so that two ends that disagree cannot answer each other for ever.
    fn acknowledge_unacceptable(&mut self, now: Instant, arrival: &Arrival<'_, P>) {
        if arrival.syn {
            return self.challenge(now);
        }
        if arrival.seq_len() == 0 {
            if self.may_answer(now) {
                self.rcv.ack.demand();
            }
            return;
        }
        if arrival.seq.before(self.rcv.nxt) {
            self.rcv.quicken(QUICK_ACKS, self.config.delayed_ack);
            if arrival.len() > 0 {
                let data_end = arrival.seq + arrival.len();
                let end = if data_end.after(self.rcv.nxt) {
                    self.rcv.nxt
                } else {
                    data_end
                };
                self.rcv.note_duplicate(arrival.seq, end);
            }
        }
        self.rcv.ack.demand();
    }

    /// Second check: RST (RFC 5961 3.2: only the exact number is believed; in the window it is questioned).
    pub(super) fn check_reset(&mut self, now: Instant, arrival: &Arrival<'_, P>) -> Check {
        if !arrival.has(Flags::RST) {
            return NEXT;
        }
        // A peer that has sent beyond a hole may count from there: it knows what we hold (Linux's rule).
        let exact = arrival.seq == self.rcv.nxt
            || self.is_reset_behind_fin(arrival)
            || (self.agreed.sack && self.rcv.ooo.end() == Some(arrival.seq));
        if !exact {
            self.challenge(now);
            return done(DropReason::BadReset);
        }
        if self.transition(Input::Reset) {
            return Check::Break(super::Disposition::Accepted);
        }
        // TIME-WAIT does not believe a RST (RFC 1337).
        done(DropReason::BadReset)
    }

    /// Fourth check: SYN (RFC 5961 4.2: questioned, whatever its number).
    pub(super) fn check_syn(&mut self, now: Instant, arrival: &Arrival<'_, P>) -> Check {
        if !arrival.syn {
            return NEXT;
        }
        self.challenge(now);
        done(DropReason::UnexpectedSyn)
    }

    /// How far behind `snd.una` an acknowledgment may lie without being questioned (RFC 5961 5.2: MAX.SND.WND), but never
    /// before the first number that we sent.
    pub(super) fn oldest_ack(&self) -> u32 {
        let acked = u32::try_from(self.snd.rate.delivered).unwrap_or(u32::MAX);
        self.snd.max_wnd.min(acked.saturating_add(1))
    }

    /// Whether `value` is older than TS.Recent. A TS.Recent of zero is that of peers whose SYN carries no clock yet: nothing
    /// is older (as in Linux).
    pub(super) fn is_older(&self, value: u32) -> bool {
        self.agreed.timestamps
            && self.agreed.ts_recent != 0
            && (value.wrapping_sub(self.agreed.ts_recent) as i32) < 0
    }

    /// RFC 7323 5.5: after 24 days of silence TS.Recent proves nothing.
    fn is_ts_recent_stale(&self, now: Instant) -> bool {
        let age = age(now).saturating_sub(self.agreed.ts_recent_at);
        u64::from(age) << 30 > TS_RECENT_LIFETIME.as_nanos()
    }

    /// RFC 7323 4.3 (2): the timestamp to echo is that of the segment that the next acknowledgment is for.
    pub(super) fn update_ts_recent(&mut self, now: Instant, segment: &Segment, seq: SeqNumber) {
        if let Some(timestamps) = segment.options.timestamps
            && self.agreed.timestamps
            && seq.at_or_before(self.rcv.last_ack)
            && (!self.is_older(timestamps.value) || self.is_ts_recent_stale(now))
        {
            self.agreed.ts_recent = timestamps.value;
            self.agreed.ts_recent_at = age(now);
        }
    }

    /// Whether another answer to something unacceptable may be owed now (Linux's `tcp_invalid_ratelimit`).
    fn may_answer(&mut self, now: Instant) -> bool {
        let interval = self.config.challenge_interval;
        let last = &mut self.rare().challenged_at;
        let allowed = last.is_none_or(|last| now.since(last) >= interval);
        if allowed {
            *last = Some(now);
        }
        allowed
    }

    /// Owes a challenge ACK, if the limit permits.
    pub(super) fn challenge(&mut self, now: Instant) {
        if self.may_answer(now) {
            self.rcv.ack.challenge = true;
            self.count(|counts| &mut counts.challenge_acks);
        }
    }

    /// Whether the next segments include a challenge ACK (RFC 5961). A shard that limits them for all its connections together
    /// asks before `poll_transmit`, and [withholds](Self::withhold_challenge) what is too much.
    pub fn challenge_due(&self) -> bool {
        self.rcv.ack.challenge
    }

    /// Sends no challenge ACK; an acknowledgment that is owed for another reason goes all the same.
    pub fn withhold_challenge(&mut self) {
        self.rcv.ack.challenge = false;
    }
}
