//! SEGMENT ARRIVES (RFC 9293 3.10.7), in the RFC's order of checks, behind a fast path for what nearly always arrives.

use bywash_wire::{DropReason, Ecn as Codepoint, Flags, Segment, SeqNumber};

use super::{Connection, Disposition};
use crate::event::Pending;
use crate::payload::Payload;
use crate::rcv::Received;
use crate::state::{Input, Phase};
use crate::time::Instant;

/// A segment as it is being worked off: what is left of it.
pub(super) struct Arrival<'a, P> {
    pub(super) segment: &'a Segment,
    pub(super) seq: SeqNumber,
    pub(super) payload: Option<P>,
    pub(super) syn: bool,
    pub(super) fin: bool,
}

impl<P: Payload> Arrival<'_, P> {
    pub(super) fn len(&self) -> u32 {
        self.payload
            .as_ref()
            .map_or(0, |payload| payload.len() as u32)
    }

    /// SEG.LEN.
    pub(super) fn seq_len(&self) -> u32 {
        self.len() + u32::from(self.syn) + u32::from(self.fin)
    }

    pub(super) fn end(&self) -> SeqNumber {
        self.seq + self.seq_len()
    }

    pub(super) fn has(&self, flags: Flags) -> bool {
        self.segment.flags.contains(flags)
    }
}

/// One check's verdict: go on, or the segment is done with.
pub(super) type Check = core::ops::ControlFlow<Disposition>;
pub(super) const NEXT: Check = Check::Continue(());

pub(super) const fn done(reason: DropReason) -> Check {
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

    /// [`on_segment`](Self::on_segment), with the codepoint of the packet that brought it (RFC 3168).
    pub fn on_packet(
        &mut self,
        now: Instant,
        ecn: Codepoint,
        segment: &Segment,
        payload: Option<P>,
    ) -> Disposition {
        let has_data = payload.as_ref().is_some_and(|payload| !payload.is_empty());
        let disposition = self.on_segment(now, segment, payload);
        // Only what was accepted can be a mark for us: another's packets could make us slow.
        if disposition == Disposition::Accepted && has_data && self.ecn.on_data(ecn, segment.flags)
        {
            self.rcv.ack.demand();
        }
        disposition
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
            && segment.options.user_timeout.is_none()
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
        let push = segment.flags.contains(Flags::PSH);
        self.on_data(segment.seq, payload, push)
    }

    fn on_arrival(&mut self, now: Instant, mut arrival: Arrival<'_, P>) -> Check {
        if let Phase::SynReceived(_) = self.phase
            && arrival.syn
            && arrival.seq == self.rcv.irs
            && !arrival.has(Flags::RST)
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
        self.check_sequence(now, &arrival)?;
        self.check_reset(now, &arrival)?;
        self.check_syn(now, &arrival)?;
        self.check_ack(now, &arrival)?;
        self.update_ts_recent(now, arrival.segment, arrival.seq);
        self.note_urgent(arrival.segment, arrival.segment.seq);
        self.note_user_timeout(arrival.segment);
        self.process_text(arrival)
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
                self.owe_reset(ack, false);
                return done(DropReason::BadAck);
            }
            self.on_acceptable_ack(now, segment, false);
            self.set_send_window(arrival.seq, ack, self.scaled_window(segment));
            self.transition(Input::SynAcked);
            if segment.flags.contains(Flags::SYN) {
                // A simultaneous open: our own SYN-ACK may not have been sent, if both of the peer's came at once, and is not
                // sent once our SYN is acknowledged; or it is lost. The peer would wait for a retransmission time-out.
                self.rcv.ack.demand();
            }
            return NEXT;
        }
        // RFC 5961 5.2: an acknowledgment of what was never sent, or older than any window, is questioned.
        if ack.after(self.snd.nxt) || ack.before(self.snd.una - self.oldest_ack()) {
            self.challenge(now);
            return done(DropReason::BadAck);
        }
        if ack.at_or_after(self.snd.una) {
            self.on_acceptable_ack(now, segment, arrival.seq_len() == 0);
        } else {
            self.on_old_ack(now, segment);
        }
        // LAST-ACK ends here.
        if let Phase::Closed(_) = self.phase {
            return Check::Break(Disposition::Accepted);
        }
        NEXT
    }

    /// Seventh and eighth step: text and FIN.
    fn process_text(&mut self, mut arrival: Arrival<'_, P>) -> Check {
        let seq_len = arrival.seq_len();
        if seq_len == 0 {
            return NEXT;
        }
        if !self.phase.receives() {
            // CLOSE-WAIT and later: the peer has said FIN.
            self.rcv.ack.demand();
            return done(DropReason::DataAfterFin);
        }
        if self.control.orphaned && arrival.len() > 0 && arrival.end().after(self.rcv.nxt) {
            // RFC 9293 3.6.1: nobody can read this any more, and the peer must know.
            self.abort_with_reset();
            // With the number that the peer has acknowledged: it may not have our FIN yet, and a RST is believed only at
            // exactly the number that is expected (RFC 5961 3.2).
            self.owe_reset(arrival.segment.ack, false);
            return done(DropReason::DataAfterClose);
        }
        let cut = self.trim(&mut arrival);
        if arrival.fin && self.rcv.fin.is_none() {
            self.rcv.fin = Some(arrival.seq + arrival.len());
            if arrival.payload.is_none() && arrival.seq != self.rcv.nxt {
                self.rcv.ack.demand_duplicate();
            }
        }
        let push = arrival.has(Flags::PSH);
        let disposition = match arrival.payload {
            Some(payload) => self.on_data(arrival.seq, payload, push),
            None => Disposition::Accepted,
        };
        if self.rcv.fin_is_next() {
            // At a closed window the peer may be asking, and after our own FIN there is nothing to wait for.
            if self.phase != Phase::Established || self.rcv.window() == 0 {
                self.rcv.ack.demand();
            }
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
            if arrival.len() > 0 {
                self.rcv.note_duplicate(arrival.seq, nxt);
            }
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
        self.rcv.ack.demand();
        match &mut arrival.payload {
            Some(payload) if room > 0 => payload.truncate(room as usize),
            _ => arrival.payload = None,
        }
        Some(reason)
    }

    /// Hands data to the receiving half.
    pub(super) fn on_data(&mut self, seq: SeqNumber, payload: P, push: bool) -> Disposition {
        let before = self.rcv.nxt;
        let context = self.receive_context(push);
        let received = self.rcv.on_data(seq, payload, context);
        match received {
            Received::InOrder => {
                let bytes = self.rcv.nxt.distance_from(before) as u32;
                self.counters.bytes_in += u64::from(bytes);
                self.events.raise(Pending::READABLE);
                Disposition::Accepted
            }
            Received::OutOfOrder => {
                self.count(|counts| &mut counts.out_of_order);
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
                self.owe_reset(segment.ack, false);
                // The peer remembers an earlier connection (RFC 9293 3.5.1), in TIME-WAIT perhaps, which the reset ends: the SYN
                // behind it is new to the peer. Once, without waiting for the time-out: a peer that answers so again, or
                // somebody who forges such ACKs, does not set our pace.
                if self.snd.record(0).transmissions == 1 {
                    self.snd.mark_lost(0);
                }
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
        self.on_syn_acked(now, segment);
        self.transition(Input::SynAcked);
        // The window in which data may follow on a SYN-ACK is the one that our SYN offered.
        self.rcv.offer_unscaled();
        self.rcv.ack.demand();
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
pub(super) mod tests;
