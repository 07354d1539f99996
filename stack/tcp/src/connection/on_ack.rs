//! An acceptable acknowledgment: the queue, the estimators, loss detection and the congestion window learn of it.
//!
//! ```text
//!  on_segment -> on_acceptable_ack -> window update
//!                  |- moves snd.una -> snd.on_ack  --+
//!                  |- SACK blocks   -> snd.on_sack --+--> rtt, loss -> congestion; timers; room for the application
//!                  `- duplicate     -----------------+
//! ```

use bywash_wire::{Flags, Segment};

use super::Connection;
use crate::loss::AckContext;
use crate::payload::Payload;
use crate::rtt::{RTT_MAX, RttSample};
use crate::snd::{Acked, Arrival};
use crate::state::Input;
use crate::time::{Duration, Instant};
use crate::timer::Timer;

impl<P: Payload> Connection<P> {
    /// `snd.una <= segment.ack <= snd.nxt`; `empty`: the segment takes no sequence space.
    pub(super) fn on_acceptable_ack(&mut self, now: Instant, segment: &Segment, empty: bool) {
        let ack = segment.ack;
        self.control.heard_at = now;
        self.control.probes = 0;
        self.control.holds.on_ack();
        self.ecn.on_ack(segment.flags);
        let recoveries = self.loss.fast_recoveries();
        let window = self.scaled_window(segment);
        let news = ack.after(self.snd.una);
        // RFC 5681 2: a duplicate acknowledgment; with SACK blocks the window may change (RFC 6675 2).
        let duplicate = !news
            && empty
            && self.snd.is_outstanding()
            && (window == self.snd.wnd || !segment.options.sack.is_empty());
        // RFC 9293 3.10.7.4: only a newer segment updates the window. One that acknowledges more is newer, whatever its number (as
        // in Linux): `snd.una` moves by it, and an old window counted from there would end where the peer never said.
        if news
            || self.snd.wl1.before(segment.seq)
            || (self.snd.wl1 == segment.seq && self.snd.wl2.at_or_before(ack))
        {
            self.set_send_window(segment.seq, ack, window);
        }
        let mut acked = self.snd.begin_ack();
        let arrival = self.ack_arrival(now, segment);
        if news {
            self.snd.on_ack(&mut acked, ack, &arrival);
        }
        if self.agreed.sack && !segment.options.sack.is_empty() {
            self.snd
                .on_sack(&mut acked, ack, &segment.options.sack, &arrival);
        }
        if duplicate {
            self.count(|counts| &mut counts.dup_acks);
        }
        if news || duplicate || acked.sacked > 0 || acked.duplicate.is_some() {
            self.on_acked(segment, &acked, arrival, duplicate);
        }
        self.on_congestion_echo(now, recoveries, acked.pipe_before);
        self.on_window_seen();
    }

    /// What the ACK says of congestion (RFC 3168 6.1.2). `recoveries`: their number before it; a reduction for a loss is
    /// told to the peer as one for a mark is, and the two count as one. `flight`: bytes on the way before it, which is what met
    /// the mark; after it there may be none.
    fn on_congestion_echo(&mut self, now: Instant, recoveries: u64, flight: u32) {
        if self.loss.fast_recoveries() != recoveries {
            self.ecn.on_reduced(self.snd.nxt);
        } else if self.ecn.demands_reduction(self.snd.una) {
            let mut moment = self.moment(now);
            moment.flight = moment.flight.max(flight);
            self.congestion.on_ecn_echo(moment);
            self.ecn.on_reduced(self.snd.nxt);
        }
    }

    /// `segment.ack < snd.una`: overtaken on its way. What its SACK blocks name has still arrived.
    pub(super) fn on_old_ack(&mut self, now: Instant, segment: &Segment) {
        if !self.agreed.sack || segment.options.sack.is_empty() {
            return;
        }
        let mut acked = self.snd.begin_ack();
        let arrival = self.ack_arrival(now, segment);
        self.snd
            .on_sack(&mut acked, segment.ack, &segment.options.sack, &arrival);
        if acked.sacked > 0 || acked.duplicate.is_some() {
            self.on_acked(segment, &acked, arrival, false);
        }
    }

    /// The acknowledgment of the SYN moves `snd.una`.
    pub(super) fn on_syn_acked(&mut self, now: Instant, segment: &Segment) {
        let mut acked = self.snd.begin_ack();
        let arrival = self.ack_arrival(now, segment);
        self.snd.on_ack(&mut acked, segment.ack, &arrival);
        self.on_acked(segment, &acked, arrival, false);
    }

    fn ack_arrival(&self, now: Instant, segment: &Segment) -> Arrival {
        Arrival {
            now,
            echo: self.echo(segment),
            min_rtt: self.rtt.min(),
        }
    }

    /// The acknowledgment has been worked into the queue.
    fn on_acked(&mut self, segment: &Segment, acked: &Acked, arrival: Arrival, duplicate: bool) {
        let now = arrival.now;
        let advanced = acked.seq_len > 0;
        let rtt = acked
            .rtt
            .or_else(|| self.echoed_rtt(&arrival).filter(|_| advanced))
            .filter(|rtt| *rtt <= RTT_MAX);
        if let Some(rtt) = rtt {
            let sample = RttSample {
                now,
                rtt,
                newest: acked.rtt_newest.unwrap_or(rtt),
                una: self.snd.una,
                nxt: self.snd.nxt,
            };
            self.rtt.on_sample(&sample, &self.config);
        }
        if advanced {
            self.control.attempts = 0;
            self.control.soft_error = false;
            self.control.blocked = false;
        }
        let context = AckContext {
            arrival: Arrival {
                min_rtt: self.rtt.min(),
                ..arrival
            },
            ack: segment.ack,
            duplicate,
            mss: self.segment_limit() as u32,
            rtt,
            srtt: self.rtt.srtt(),
            cwnd_limited: core::mem::take(&mut self.control.cwnd_limited),
            ecn_echo: self.ecn.has_heard(),
            sack: self.agreed.sack,
        };
        let wait = self
            .loss
            .on_ack(&mut self.snd, &mut self.congestion, acked, &context);
        if self.congestion.is_probing_rtt() {
            self.snd.rate.on_app_limited(self.snd.pipe());
        }
        self.set_timers_after_ack(now, acked, wait);
        if !advanced {
            return;
        }
        self.timers.disarm(Timer::User);
        if self.snd.is_outstanding() || self.snd.has_unsent() {
            self.arm_user_timeout(now);
        }
        self.tell_writable();
        if acked.fin {
            self.transition(Input::FinAcked);
        }
    }

    /// The echoed timestamp as milliseconds of our own clock.
    fn echo(&self, segment: &Segment) -> Option<u32> {
        let timestamps = segment
            .options
            .timestamps
            .filter(|_| self.agreed.timestamps)?;
        Some(timestamps.echo.wrapping_sub(self.agreed.ts_offset))
    }

    /// The round-trip time by the echoed timestamp (RFC 7323 4.1), for acknowledgments of what was sent more than once.
    fn echoed_rtt(&self, arrival: &Arrival) -> Option<Duration> {
        let millis = (arrival.now.as_millis() as u32).wrapping_sub(arrival.echo?) as i32;
        // An echo from the future is an error of the peer's.
        u64::try_from(millis)
            .ok()
            .map(|millis| Duration::from_millis(millis.max(1)))
    }

    /// The window that the segment offers. RFC 7323 2.2: that of a segment with SYN is never scaled, not even in the SYN-ACK
    /// that ends a simultaneous open, when both options are known already.
    pub(super) fn scaled_window(&self, segment: &Segment) -> u32 {
        let window = u32::from(segment.window);
        if segment.flags.contains(Flags::SYN) {
            return window;
        }
        window << self.agreed.snd_wscale
    }
}
