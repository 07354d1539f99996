//! What is sent next.
//!
//! The order: a RST that is owed; a tail loss probe; the oldest of what is believed lost; new data as far as congestion
//! window, peer's window and Nagle's rule let it; acknowledgments that nothing carried; a probe of the window or of an idle
//! peer. Only `None` ends a turn: it is then that the timers of waiting (delayed ACK, persist) are set.

use bywash_wire::{Ecn as Codepoint, Flags, Options, SackBlocks, Segment, SeqNumber, Timestamps};

use super::{Connection, TIMESTAMPS_LEN, Transmit};
use crate::chrono::Doing;
use crate::info::LimitedBy;
use crate::pacing::{Pace, Pacer, RATE_MIN};
use crate::payload::Payload;
use crate::state::Phase;
use crate::time::Instant;

/// Bytes of the longest burst that ends without PSH on the way: what Linux's segmentation offload takes at once.
const BURST_MAX: u64 = 65_536;

impl<P: Payload> Connection<P> {
    /// The next segment to send; call until `None`. A segment returned counts as sent.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit<'_, P>> {
        self.control.clock = now;
        if let Some(rare) = &mut self.rare
            && let Some((seq, acknowledges)) = rare.reset.take()
        {
            return Some(self.reset_segment(seq, acknowledges));
        }
        if let Phase::Closed(_) = self.phase {
            return None;
        }
        if let Some(index) = self.probe_to_send() {
            return Some(self.transmit_probe(index, now));
        }
        if let Some(rare) = &mut self.rare
            && let Some(pacer) = &mut rare.pacer
        {
            pacer.begin();
        }
        let pace = self.pace();
        if let Some((index, again)) = self.next_to_send(now)
            && (self.may_leave(now, pace) || self.snd.record(index).syn)
        {
            return Some(self.transmit_record(index, now, again));
        }
        if self.takes_pure_ack() {
            return Some(self.pure_ack(now, self.acceptable_seq()));
        }
        if core::mem::take(&mut self.control.probe) {
            return Some(self.pure_ack(now, self.probe_seq()));
        }
        self.delay_ack(now);
        None
    }

    /// When `poll_transmit` will have something that pacing holds back now. `None`: it holds nothing back.
    pub fn next_send(&self) -> Option<Instant> {
        self.rare.as_ref()?.pacer.as_ref()?.wake()
    }

    /// Whether a retransmission is due whose frame still waits for the completion of its last transmission. Nothing tells
    /// the connection when that comes: the owner calls `poll_transmit` again when completions have come, or else the next
    /// ACK or the retransmission timer does.
    pub fn awaits_completion(&self) -> bool {
        self.control.blocked
    }

    fn pacer(&mut self) -> &mut Pacer {
        self.rare().pacer.get_or_insert_default()
    }

    /// The rate at which segments leave now; `None`: as fast as the windows let them.
    pub(super) fn pace(&self) -> Option<Pace> {
        let paced = self.config.pacing || self.congestion.needs_pacing();
        let own = if paced {
            let rate = self.congestion.pacing_rate(self.rtt.srtt());
            rate.map(|rate| rate.max(RATE_MIN))
        } else {
            None
        };
        let rate = match (own, self.config.max_pacing_rate) {
            (Some(own), Some(most)) => own.min(most),
            (own, most) => own.or(most)?,
        };
        Some(Pace {
            rate,
            mss: self.segment_limit() as u32,
        })
    }

    /// Whether pacing lets a segment leave now.
    fn may_leave(&mut self, now: Instant, pace: Option<Pace>) -> bool {
        let allowed = pace.is_none_or(|pace| self.pacer().allows(now, pace));
        if !allowed {
            self.stop(LimitedBy::Pacing);
        }
        allowed
    }

    /// The segment with sequence space that may go next, and whether it was sent before.
    fn next_to_send(&mut self, now: Instant) -> Option<(usize, bool)> {
        self.judge_probe();
        if let Some(index) = self.lost_to_send() {
            return Some((index, true));
        }
        if let Some(index) = self.new_to_send(now) {
            return Some((index, false));
        }
        // F-RTO has nothing to try its question on.
        let ended = self.loss.on_nothing_new(self.snd.nxt);
        let index = ended.then(|| self.lost_to_send())??;
        Some((index, true))
    }

    /// The segment that a tail loss probe sends: a new one if the peer's window takes it, whatever the congestion window
    /// says, else the last one again (RFC 8985 7.3).
    fn probe_to_send(&mut self) -> Option<usize> {
        if !core::mem::take(&mut self.loss.probe_due) || self.snd.is_marked() {
            return None;
        }
        let limit = self.segment_limit() as u32;
        if let Some(index) = self.snd.first_unsent() {
            let desired = self.snd.record(index).len.min(limit);
            if let Some(sendable) = self.window_takes(desired)
                && (sendable == self.snd.record(index).len || self.split(index, sendable))
            {
                return Some(index);
            }
        }
        let last = self.snd.sent_records().checked_sub(1)?;
        let record = self.snd.record(last);
        if record.payload.as_ref().is_some_and(P::is_queued) {
            // It has not left yet: there is nothing to ask about.
            return None;
        }
        // Of a segment that the path does not take any more its end goes.
        let excess = record.len.saturating_sub(limit);
        if excess == 0 {
            return Some(last);
        }
        self.split(last, excess).then_some(last + 1)
    }

    fn transmit_probe(&mut self, index: usize, now: Instant) -> Transmit<'_, P> {
        let again = index < self.snd.sent_records();
        let record = self.snd.record(index);
        let nxt = if again { self.snd.nxt } else { record.end() };
        self.loss.on_probe_sent(nxt, again);
        self.transmit_record(index, now, again)
    }

    /// The oldest segment that is believed lost, if it may go now.
    fn lost_to_send(&mut self) -> Option<usize> {
        if self.loss.holds_retransmissions() {
            return None;
        }
        let index = self.snd.next_lost()?;
        let record = self.snd.record(index);
        if !record.syn && !self.phase.is_synchronised() {
            // Data that went with a SYN, or before the handshake's end: the SYN first.
            return None;
        }
        if record.payload.as_ref().is_some_and(P::is_queued) {
            if !self.control.blocked {
                self.control.blocked = true;
                self.count(|counts| &mut counts.retransmit_blocked);
            }
            self.limited_by = LimitedBy::TransmitQueue;
            return None;
        }
        // The oldest always goes: it is what recovery waits for, and at a closed window it is the probe.
        if index > 0 {
            if self.snd.pipe() + record.len > self.congestion.window() {
                self.stop(LimitedBy::CongestionWindow);
                return None;
            }
            if record.end().after(self.snd.una + self.snd.wnd) {
                self.stop(LimitedBy::ReceiveWindow);
                return None;
            }
        }
        self.control.blocked = false;
        let limit = self.segment_limit() as u32;
        if record.len > limit && !self.split(index, limit) {
            return None;
        }
        Some(index)
    }

    /// The next segment never sent, if it may go now, cut to what may go.
    fn new_to_send(&mut self, now: Instant) -> Option<usize> {
        let Some(index) = self.snd.first_unsent() else {
            if self.snd.pipe() < self.congestion.window() {
                self.snd.rate.on_app_limited(self.snd.pipe());
            }
            self.control.holds.on_empty();
            self.stop(LimitedBy::Application);
            return None;
        };
        let record = self.snd.record(index);
        if record.syn {
            return Some(index);
        }
        if !self.phase.transfers() || (record.fin && !self.phase.is_synchronised()) {
            return None;
        }
        let (len, fin) = (record.len, record.fin);
        if !self.snd.is_outstanding() && self.snd.usable_window() > 0 {
            self.restart_after_idle(now);
        }
        self.age_path_mtu(now);
        if self.cut_probe(index) {
            return Some(index);
        }
        let limit = self.segment_limit() as u32;
        let desired = len.min(limit);
        let pipe = self.data_on_the_way();
        if pipe > 0 && pipe + desired > self.congestion.window() {
            self.stop(LimitedBy::CongestionWindow);
            return None;
        }
        let Some(sendable) = self.window_takes(desired) else {
            self.stop(LimitedBy::ReceiveWindow);
            self.arm_persist(now);
            return None;
        };
        if sendable == len && !fin && self.is_held(now, index, len) {
            self.stop(LimitedBy::Nagle);
            return None;
        }
        if sendable < len && !self.split(index, sendable) {
            self.stop(LimitedBy::Frames);
            // No frame to cut into: tried again when the next ACK comes, or else when the timer runs out.
            self.arm_persist(now);
            return None;
        }
        Some(index)
    }

    /// How much of `desired` bytes the peer's window takes, if that is worth a segment: sender's silly-window avoidance
    /// (RFC 9293 3.8.6.2.1). A FIN takes no buffer and so needs no window of its own.
    fn window_takes(&self, desired: u32) -> Option<u32> {
        let usable = self.snd.usable_window();
        if desired <= usable {
            return Some(desired);
        }
        let worth = usable > 0 && (self.control.override_sws || usable >= self.snd.max_wnd / 2);
        worth.then_some(usable)
    }

    /// Nothing is on the way. RFC 5681 4.1: after silence of more than a time-out the old window proves nothing.
    fn restart_after_idle(&mut self, now: Instant) {
        let moment = self.moment(now);
        let long = now.since(self.control.sent_at) > self.rtt.rto(&self.config);
        if long && self.config.slow_start_after_idle {
            self.congestion.on_idle(moment);
            self.control.sent_at = now;
        } else {
            self.congestion.on_resume(moment);
        }
    }

    fn stop(&mut self, limit: LimitedBy) {
        (self.control.burst, self.control.burst_left) = (0, 0);
        if !self.control.blocked {
            self.limited_by = limit;
        }
        // Until the next ACK tells the controller.
        self.control.cwnd_limited |= limit == LimitedBy::CongestionWindow;
        // The handshake is not what the application waits for (as in Linux).
        let idle =
            !self.phase.is_synchronised() || (!self.snd.is_outstanding() && !self.snd.has_unsent());
        let doing = match limit {
            _ if idle => Doing::Idle,
            LimitedBy::ReceiveWindow => Doing::ReceiveWindow,
            LimitedBy::Application if self.control.want_writable => Doing::SendBuffer,
            _ => Doing::Busy,
        };
        self.chrono.switch(self.control.clock, doing);
    }

    pub(super) fn split(&mut self, index: usize, at: u32) -> bool {
        let done = self.snd.split(index, at);
        if !done {
            self.count(|counts| &mut counts.split_failed);
        }
        done
    }

    fn transmit_record(&mut self, index: usize, now: Instant, again: bool) -> Transmit<'_, P> {
        let record = self.snd.record(index);
        let (seq, len, syn, fin) = (record.seq, record.len, record.syn, record.fin);
        let mut segment = if syn {
            self.syn_segment(now)
        } else {
            self.data_segment(now, len)
        };
        let early = if syn {
            self.attach_data(&mut segment, again)
        } else {
            0
        };
        let (len, end) = (len + early, seq + len + early + u32::from(early > 0));
        segment.seq = seq;
        segment.payload_len = len as usize;
        self.add_urgent(&mut segment);
        if fin {
            segment.flags.insert(Flags::FIN);
        }
        // RFC 9293 3.9.1.2: push where what the application wrote ends, and where a burst ends: the receiver's GRO need not
        // wait for more, and on the wire this is what Linux's segmentation offload sends.
        if !again && self.snd.is_last(index) && self.control.holds.is_finished() {
            self.snd.mark_pushed(index);
        }
        let ends_burst = if again {
            self.snd.resends_burst_end(index, now)
        } else {
            !syn && len > 0 && self.ends_burst(index)
        };
        if !syn && len > 0 && (ends_burst || self.snd.record(index).push) {
            segment.flags.insert(Flags::PSH);
        }
        self.snd.on_sent(index, now);
        if early > 0 {
            self.snd.on_sent(index + 1, now);
        }
        if let Some(pace) = self.pace() {
            self.pacer().on_sent(now, len, pace);
        }
        self.loss.on_sent(now, end, len, again);
        self.on_record_sent(now, index, end, len, again);
        if segment.flags.contains(Flags::ACK) {
            self.on_ack_sent();
        }
        let (ecn, flags) = if syn {
            (Codepoint::NotEct, Flags::default())
        } else {
            self.ecn.on_segment_sent(len > 0 && !again)
        };
        segment.flags.insert(flags);
        self.counters.segments_out += 1;
        Transmit {
            segment,
            payload: self.snd.payload_mut(index + usize::from(early > 0)),
            retransmission: again,
            ecn,
        }
    }

    /// Whether the new segment at `index` ends a burst, which is two segments at least.
    fn ends_burst(&mut self, index: usize) -> bool {
        if self.control.burst_left == 0 {
            self.control.burst = 0;
            self.control.burst_left = self.burst_segments();
        }
        self.control.burst += 1;
        self.control.burst_left -= 1;
        if self.control.burst_left > 0 && !self.is_last_for_now(index) {
            return false;
        }
        self.control.burst_left = 0;
        let several = self.control.burst > 1;
        self.snd.note_burst(index, several);
        several
    }

    /// Whether nothing may go after the segment at `index`: nothing is there, or the windows are full.
    fn is_last_for_now(&self, index: usize) -> bool {
        if self.snd.is_last(index) {
            return true;
        }
        let limit = self.segment_limit() as u32;
        let (this, next) = (self.snd.record(index), self.snd.record(index + 1));
        let desired = next.len.min(limit);
        let end = this.end() + desired;
        self.data_on_the_way() + this.len + desired > self.congestion.window()
            || end.after(self.snd.una + self.snd.wnd)
    }

    /// How many segments a burst has that begins now: as many as Linux puts into one packet for segmentation offload
    /// (`tcp_tso_autosize`, `tcp_cwnd_test`). That is a millisecond's worth, more on short paths, at least two, and not more
    /// than half the window. At least one.
    fn burst_segments(&self) -> u8 {
        let mss = self.segment_limit() as u64;
        let rate = self.congestion.pacing_rate(self.rtt.srtt());
        let by_rate = rate.map_or(BURST_MAX, |rate| rate >> 10);
        let by_path = BURST_MAX
            .checked_shr((self.rtt.min().as_micros() >> 9).min(64) as u32)
            .unwrap_or(0);
        let bytes = (by_rate + by_path).min(BURST_MAX);
        let segments = (bytes / mss).max(self.config.burst_segments_min.into());
        let window = u64::from(self.congestion.window());
        let free = window.saturating_sub(self.data_on_the_way().into());
        let most = (window / mss / 2).min(free / mss);
        segments.min(most).clamp(1, u8::MAX.into()) as u8
    }

    fn on_record_sent(
        &mut self,
        now: Instant,
        index: usize,
        end: SeqNumber,
        len: u32,
        again: bool,
    ) {
        self.control.sent_at = now;
        if again {
            self.count(|counts| &mut counts.retransmissions);
            self.set_timers_after_resending(now, index);
        } else {
            self.counters.bytes_out += u64::from(len);
            if len > 0 && (len as usize) < self.segment_limit() {
                self.control.small_end = Some(end);
            }
            if len > 0 {
                self.rcv.ack.on_data_sent(now);
            }
            self.on_data_sent();
            self.set_timers_after_sending(now);
        }
        self.arm_user_timeout(now);
    }

    /// The SYN-ACK of a connection in SYN-RECEIVED, which counts as sent: for SYN cookies.
    pub(crate) fn handshake_segment(&mut self, now: Instant) -> Segment {
        match self.poll_transmit(now) {
            Some(transmit) => transmit.segment,
            None => unreachable!("a fresh connection sends its SYN first"),
        }
    }

    /// The options go into every SYN; in a SYN-ACK only those that the peer's SYN had.
    fn syn_segment(&mut self, now: Instant) -> Segment {
        let answers = self.phase != Phase::SynSent;
        let mut segment = self.empty_segment(if answers {
            Flags::SYN | Flags::ACK
        } else {
            Flags::SYN
        });
        if answers {
            segment.flags.insert(self.ecn.syn_ack_flags());
        } else {
            segment.ack = SeqNumber::default();
            let again = self.control.syn_lost;
            let flags = self.ecn.on_syn_sent(self.config.ecn, again);
            segment.flags.insert(flags);
        }
        segment.window = self.rcv.offer_unscaled();
        segment.options = Options {
            // RFC 6691: never less for the options that segments may carry.
            mss: Some(self.config.mss),
            window_scale: self.agreed.window_scale.then(|| self.window_shift()),
            sack_permitted: self.agreed.sack,
            timestamps: self.timestamps_option(now),
            user_timeout: self.user_timeout_option(),
            fast_open: None,
            sack: SackBlocks::EMPTY,
        };
        self.add_fast_open(&mut segment.options);
        segment
    }

    fn data_segment(&mut self, now: Instant, len: u32) -> Segment {
        let mut segment = self.empty_segment(Flags::ACK);
        segment.window = self.rcv.offer();
        segment.options.timestamps = self.timestamps_option(now);
        if self.agreed.sack {
            self.add_sack(&mut segment.options, len);
        }
        segment
    }

    fn timestamps_option(&self, now: Instant) -> Option<Timestamps> {
        self.agreed.timestamps.then(|| Timestamps {
            value: self.timestamp(now),
            // Before the peer's SYN this is zero, as RFC 7323 3.2 demands.
            echo: self.agreed.ts_recent,
        })
    }

    fn pure_ack(&mut self, now: Instant, seq: SeqNumber) -> Transmit<'_, P> {
        let mut segment = self.data_segment(now, 0);
        segment.seq = seq;
        segment.flags.insert(self.ecn.on_segment_sent(false).1);
        self.on_ack_sent();
        self.counters.segments_out += 1;
        Transmit {
            segment,
            payload: None,
            retransmission: false,
            ecn: Codepoint::NotEct,
        }
    }

    fn reset_segment(&mut self, seq: SeqNumber, acknowledges: bool) -> Transmit<'_, P> {
        let mut segment = self.empty_segment(Flags::RST);
        segment.seq = seq;
        if acknowledges {
            segment.flags.insert(Flags::ACK);
            // RFC 7323 3.2: a RST should have them too.
            segment.options.timestamps = self.timestamps_option(self.control.clock);
        } else {
            segment.ack = SeqNumber::default();
        }
        self.counters.segments_out += 1;
        Transmit {
            segment,
            payload: None,
            retransmission: false,
            ecn: Codepoint::NotEct,
        }
    }

    /// Bytes of payload in one segment now: the MSS less the options that every segment carries (RFC 6691 3). It may shrink
    /// when the handshake ends; segments queued before are then cut.
    pub fn segment_limit(&self) -> usize {
        let options = if self.agreed.timestamps {
            TIMESTAMPS_LEN
        } else {
            0
        };
        usize::from(self.agreed.mss - options)
    }
}
