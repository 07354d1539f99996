//! SEGMENT ARRIVES (RFC 9293 3.10.7), in the RFC's order of checks, behind a fast path for what nearly always arrives.

use bywash_wire::{DropReason, Flags, Segment, SeqNumber};

use super::{Connection, Disposition};
use crate::event::Pending;
use crate::payload::Payload;
use crate::rcv::Received;
use crate::state::{Input, Phase};
use crate::time::{Duration, Instant};
use crate::timer::Timer;

/// After this silence a timestamp that looks old may be new: the peer's clock has gone half around (RFC 7323 5.5).
const TS_RECENT_LIFETIME: Duration = Duration::from_secs(24 * 24 * 3_600);

/// A segment as it is being worked off: what is left of it.
struct Arrival<'a, P> {
    segment: &'a Segment,
    seq: SeqNumber,
    payload: Option<P>,
    syn: bool,
    fin: bool,
}

impl<P: Payload> Arrival<'_, P> {
    fn len(&self) -> u32 {
        self.payload
            .as_ref()
            .map_or(0, |payload| payload.len() as u32)
    }

    /// SEG.LEN.
    fn seq_len(&self) -> u32 {
        self.len() + u32::from(self.syn) + u32::from(self.fin)
    }

    fn end(&self) -> SeqNumber {
        self.seq + self.seq_len()
    }

    fn has(&self, flags: Flags) -> bool {
        self.segment.flags.contains(flags)
    }
}

/// How a segment lies to the receive window.
enum Fit {
    Acceptable,
    /// The window is closed, but the segment is where it should be: its header counts, its data does not.
    HeaderOnly,
    Unacceptable,
}

/// One check's verdict: go on, or the segment is done with.
type Check = core::ops::ControlFlow<Disposition>;
const NEXT: Check = Check::Continue(());

const fn done(reason: DropReason) -> Check {
    Check::Break(Disposition::Dropped(reason))
}

impl<P: Payload> Connection<P> {
    /// SEGMENT ARRIVES (RFC 9293 3.10.7). `payload` holds the segment's data; its length is what counts.
    ///
    /// What is to be sent in return comes from `poll_transmit`. A connection that is over drops everything: the owner
    /// answers with [`reset_for`](crate::reset_for).
    pub fn on_segment(
        &mut self,
        now: Instant,
        segment: &Segment,
        payload: Option<P>,
    ) -> Disposition {
        self.control.clock = now;
        self.counters.segments_in += 1;
        let payload = payload.filter(|payload| !payload.is_empty());
        match self.phase {
            Phase::Closed(_) => return Disposition::Dropped(DropReason::Closed),
            Phase::SynSent => return self.on_segment_syn_sent(now, segment, payload),
            Phase::Established => {
                let len = payload.as_ref().map_or(0, |payload| payload.len() as u32);
                if self.is_predicted(segment, len) {
                    return self.on_predicted(now, segment, payload);
                }
            }
            _ => {}
        }
        self.on_unpredicted(now, segment, payload)
    }

    /// The whole of RFC 9293 3.10.7.4.
    fn on_unpredicted(
        &mut self,
        now: Instant,
        segment: &Segment,
        payload: Option<P>,
    ) -> Disposition {
        let arrival = Arrival {
            seq: segment.seq,
            payload,
            syn: segment.flags.contains(Flags::SYN),
            fin: segment.flags.contains(Flags::FIN),
            segment,
        };
        match self.on_arrival(now, arrival) {
            Check::Break(disposition) => disposition,
            Check::Continue(()) => Disposition::Accepted,
        }
    }

    /// Header prediction: the next segment in order, nothing unusual, nothing waiting. Timestamps are allowed for.
    fn is_predicted(&self, segment: &Segment, len: u32) -> bool {
        let mut flags = segment.flags;
        flags.remove(Flags::PSH);
        flags == Flags::ACK
            && segment.seq == self.rcv.nxt
            && len <= self.rcv.window()
            && self.rcv.ooo.is_empty()
            && self.rcv.fin.is_none()
            && !self.control.orphaned
            && segment.ack.at_or_after(self.snd.una)
            && segment.ack.at_or_before(self.snd.nxt)
            && match segment.options.timestamps {
                Some(timestamps) => !self.is_older(timestamps.value),
                None => true,
            }
    }

    fn on_predicted(&mut self, now: Instant, segment: &Segment, payload: Option<P>) -> Disposition {
        self.update_ts_recent(now, segment, segment.seq);
        self.on_acceptable_ack(now, segment, payload.is_none());
        let Some(payload) = payload else {
            return Disposition::Accepted;
        };
        self.on_data(segment.seq, payload)
    }

    fn on_arrival(&mut self, now: Instant, mut arrival: Arrival<'_, P>) -> Check {
        if let Phase::SynReceived(_) = self.phase
            && arrival.syn
            && arrival.seq == self.rcv.irs
        {
            if !arrival.has(Flags::ACK) {
                // The SYN once more: the SYN-ACK was lost.
                self.snd.mark_lost(0);
                return Check::Break(Disposition::Accepted);
            }
            // A simultaneous open: the SYN is known, its acknowledgment of ours is the news (RFC 9293 3.5, figure 8).
            arrival.syn = false;
            arrival.seq += 1;
        }
        self.check_paws(now, &arrival)?;
        self.check_sequence(now, &mut arrival)?;
        self.check_reset(now, &arrival)?;
        self.check_syn(now, &arrival)?;
        self.check_ack(now, &arrival)?;
        self.update_ts_recent(now, arrival.segment, arrival.seq);
        // Urgent data is data (RFC 6093 recommends to ignore the pointer): no sixth step.
        self.process_text(arrival)
    }

    /// RFC 7323 5.3 R1. A segment without the option passes, as in Linux.
    fn check_paws(&mut self, now: Instant, arrival: &Arrival<'_, P>) -> Check {
        let old = arrival
            .segment
            .options
            .timestamps
            .is_some_and(|ts| self.is_older(ts.value));
        let stale = now.since(self.agreed.ts_recent_at) > TS_RECENT_LIFETIME;
        if !old || stale || arrival.has(Flags::RST) {
            return NEXT;
        }
        self.acknowledge_unacceptable(now, arrival);
        done(DropReason::Paws)
    }

    /// First check: the sequence number.
    fn check_sequence(&mut self, now: Instant, arrival: &mut Arrival<'_, P>) -> Check {
        match self.fit(arrival) {
            Fit::Acceptable => NEXT,
            Fit::HeaderOnly => NEXT,
            Fit::Unacceptable => {
                if arrival.has(Flags::RST) {
                    return done(DropReason::BadReset);
                }
                // RFC 9293 3.10.7.4: a FIN once more in TIME-WAIT restarts the wait.
                if self.phase == Phase::TimeWait && arrival.fin {
                    self.timers.arm(Timer::Linger, now + self.config.msl * 2);
                }
                self.acknowledge_unacceptable(now, arrival);
                done(
                    if arrival.len() > 0 && arrival.end().at_or_before(self.rcv.nxt) {
                        DropReason::DuplicateData
                    } else {
                        DropReason::UnacceptableSequence
                    },
                )
            }
        }
    }

    /// The four cases of RFC 9293 3.10.7.4, with two allowances that Linux makes too: an empty segment may stand on the
    /// right edge (the peer has used the window up and some of that was lost), and so may a bare FIN, which needs no buffer.
    fn fit(&self, arrival: &Arrival<'_, P>) -> Fit {
        let (nxt, window) = (self.rcv.nxt, self.rcv.window());
        let edge = nxt + window;
        let from_nxt = arrival.seq.at_or_after(nxt);
        if arrival.seq_len() == 0 {
            return if from_nxt && arrival.seq.at_or_before(edge) {
                Fit::Acceptable
            } else {
                Fit::Unacceptable
            };
        }
        if window == 0 {
            return match arrival.seq == nxt {
                true if arrival.len() == 0 => Fit::Acceptable,
                true => Fit::HeaderOnly,
                false => Fit::Unacceptable,
            };
        }
        // Any of it within the window: the RFC asks for the first or the last number, which leaves out segments that stick
        // out at both ends.
        if arrival.seq.before(edge) && arrival.end().after(nxt) {
            Fit::Acceptable
        } else {
            Fit::Unacceptable
        }
    }

    /// An unacceptable segment is answered with an ACK. An empty one may itself be such an answer: those are rate
    /// limited, so that two ends that disagree cannot answer each other for ever.
    fn acknowledge_unacceptable(&mut self, now: Instant, arrival: &Arrival<'_, P>) {
        if arrival.seq_len() == 0 || arrival.syn {
            self.challenge(now);
        } else {
            self.rcv.debt.now = true;
        }
    }

    /// Second check: RST (RFC 5961 3.2: only the exact number is believed; in the window it is questioned).
    fn check_reset(&mut self, now: Instant, arrival: &Arrival<'_, P>) -> Check {
        if !arrival.has(Flags::RST) {
            return NEXT;
        }
        if arrival.seq != self.rcv.nxt {
            self.challenge(now);
            return done(DropReason::BadReset);
        }
        if self.transition(Input::Reset) {
            return Check::Break(Disposition::Accepted);
        }
        // TIME-WAIT does not believe a RST (RFC 1337).
        done(DropReason::BadReset)
    }

    /// Fourth check: SYN (RFC 5961 4.2: questioned, whatever its number).
    fn check_syn(&mut self, now: Instant, arrival: &Arrival<'_, P>) -> Check {
        if !arrival.syn {
            return NEXT;
        }
        self.challenge(now);
        done(DropReason::UnexpectedSyn)
    }

    /// Fifth check: the acknowledgment.
    fn check_ack(&mut self, now: Instant, arrival: &Arrival<'_, P>) -> Check {
        if !arrival.has(Flags::ACK) {
            return done(DropReason::MissingAck);
        }
        let segment = arrival.segment;
        let ack = segment.ack;
        if let Phase::SynReceived(_) = self.phase {
            if !(ack.after(self.snd.una) && ack.at_or_before(self.snd.nxt)) {
                self.control.reset = Some((ack, false));
                return done(DropReason::BadAck);
            }
            self.on_acceptable_ack(now, segment, false);
            self.set_send_window(arrival.seq, ack, self.scaled_window(segment));
            self.transition(Input::SynAcked);
            return NEXT;
        }
        // RFC 5961 5.2: an acknowledgment of what was never sent, or older than any window, is questioned.
        if ack.after(self.snd.nxt) || ack.before(self.snd.una - self.snd.max_wnd) {
            self.challenge(now);
            return done(DropReason::BadAck);
        }
        if ack.at_or_after(self.snd.una) {
            self.on_acceptable_ack(now, segment, arrival.seq_len() == 0);
        }
        // LAST-ACK ends here.
        if let Phase::Closed(_) = self.phase {
            return Check::Break(Disposition::Accepted);
        }
        NEXT
    }

    fn is_older(&self, value: u32) -> bool {
        self.agreed.timestamps && (value.wrapping_sub(self.agreed.ts_recent) as i32) < 0
    }

    /// RFC 7323 4.3 (2): the timestamp to echo is that of the segment that the next acknowledgment is for.
    fn update_ts_recent(&mut self, now: Instant, segment: &Segment, seq: SeqNumber) {
        if let Some(timestamps) = segment.options.timestamps
            && self.agreed.timestamps
            && seq.at_or_before(self.rcv.last_ack)
        {
            self.agreed.ts_recent = timestamps.value;
            self.agreed.ts_recent_at = now;
        }
    }

    /// Seventh and eighth step: text and FIN.
    fn process_text(&mut self, mut arrival: Arrival<'_, P>) -> Check {
        let seq_len = arrival.seq_len();
        if seq_len == 0 {
            return NEXT;
        }
        if !self.phase.receives() {
            // CLOSE-WAIT and later: the peer has said FIN.
            self.rcv.debt.now = true;
            return done(DropReason::DataAfterFin);
        }
        if self.control.orphaned && arrival.len() > 0 && arrival.end().after(self.rcv.nxt) {
            // RFC 9293 3.6.1: nobody can read this any more, and the peer must know.
            self.abort_with_reset();
            return done(DropReason::DataAfterClose);
        }
        let cut = self.trim(&mut arrival);
        if arrival.fin && self.rcv.fin.is_none() {
            self.rcv.fin = Some(arrival.seq + arrival.len());
            if arrival.payload.is_none() && arrival.seq != self.rcv.nxt {
                self.rcv.debt.duplicates = self.rcv.debt.duplicates.saturating_add(1);
            }
        }
        let disposition = match arrival.payload {
            Some(payload) => self.on_data(arrival.seq, payload),
            None => Disposition::Accepted,
        };
        if self.rcv.fin_is_next() {
            self.rcv.on_fin();
            self.events.raise(Pending::READABLE);
            self.transition(Input::PeerFin);
        }
        match cut {
            Some(reason) if disposition == Disposition::Accepted => done(reason),
            _ => Check::Break(disposition),
        }
    }

    /// Cuts off what was received before and what lies beyond the window or the FIN. The reason, if data was lost by it.
    fn trim(&mut self, arrival: &mut Arrival<'_, P>) -> Option<DropReason> {
        let nxt = self.rcv.nxt;
        let old = nxt.distance_from(arrival.seq);
        if old > 0 {
            match &mut arrival.payload {
                Some(payload) if payload.len() > old as usize => payload.advance(old as usize),
                _ => arrival.payload = None,
            }
            arrival.seq = nxt;
        }
        let (end, reason) = match self.rcv.fin {
            Some(fin) if fin.before(nxt + self.rcv.window()) => (fin, DropReason::DataAfterFin),
            _ => (nxt + self.rcv.window(), DropReason::BeyondWindow),
        };
        let room = end.distance_from(arrival.seq).max(0) as u32;
        if arrival.len() <= room {
            return None;
        }
        arrival.fin = false;
        // The peer should know where the window ends, at once.
        self.rcv.debt.now = true;
        match &mut arrival.payload {
            Some(payload) if room > 0 => payload.truncate(room as usize),
            _ => arrival.payload = None,
        }
        Some(reason)
    }

    /// Hands data to the receiving half.
    fn on_data(&mut self, seq: SeqNumber, payload: P) -> Disposition {
        let before = self.rcv.nxt;
        let received = self.rcv.on_data(seq, payload);
        match received {
            Received::InOrder => {
                let bytes = self.rcv.nxt.distance_from(before) as u32;
                self.counters.bytes_in += u64::from(bytes);
                self.events.raise(Pending::READABLE);
                Disposition::Accepted
            }
            Received::OutOfOrder => {
                self.counters.out_of_order = self.counters.out_of_order.saturating_add(1);
                Disposition::Accepted
            }
            Received::Dropped(reason) => Disposition::Dropped(reason),
        }
    }

    /// SYN-SENT (RFC 9293 3.10.7.3).
    fn on_segment_syn_sent(
        &mut self,
        now: Instant,
        segment: &Segment,
        payload: Option<P>,
    ) -> Disposition {
        let acks = segment.flags.contains(Flags::ACK);
        let acceptable =
            acks && segment.ack.after(self.snd.una) && segment.ack.at_or_before(self.snd.nxt);
        if acks && !acceptable {
            if !segment.flags.contains(Flags::RST) {
                self.control.reset = Some((segment.ack, false));
            }
            return Disposition::Dropped(DropReason::BadAck);
        }
        if segment.flags.contains(Flags::RST) {
            if !acceptable {
                return Disposition::Dropped(DropReason::BadReset);
            }
            self.transition(Input::Reset);
            return Disposition::Accepted;
        }
        if !segment.flags.contains(Flags::SYN) {
            return Disposition::Dropped(DropReason::BadFlags);
        }
        self.on_peer_syn(now, segment);
        if !acceptable {
            // Both called at once: our SYN goes again, with an acknowledgment.
            self.transition(Input::Syn);
            self.snd.mark_lost(0);
            return Disposition::Accepted;
        }
        self.on_syn_ack(now, segment, payload)
    }

    /// Our SYN is acknowledged by the peer's.
    fn on_syn_ack(&mut self, now: Instant, segment: &Segment, payload: Option<P>) -> Disposition {
        self.on_new_ack(now, segment);
        self.transition(Input::SynAcked);
        // The window in which data may follow on a SYN-ACK is the one that our SYN offered.
        self.rcv.offer_unscaled();
        self.rcv.debt.now = true;
        let arrival = Arrival {
            seq: segment.seq + 1,
            payload,
            syn: false,
            fin: segment.flags.contains(Flags::FIN),
            segment,
        };
        match self.process_text(arrival) {
            Check::Break(disposition) => disposition,
            Check::Continue(()) => Disposition::Accepted,
        }
    }
}

#[cfg(test)]
#[path = "prediction_tests.rs"]
mod tests;
