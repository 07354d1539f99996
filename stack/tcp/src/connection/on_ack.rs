//! An acceptable acknowledgment: the queue, the estimators, loss detection and the congestion window learn of it.
//!
//! ```text
//!  on_segment -> on_acceptable_ack -> window update
//!                  |- moves snd.una -> snd.on_ack -> rtt, loss -> congestion; timers; room for the application
//!                  `- duplicate     -> loss -> congestion
//! ```

use bywash_wire::Segment;

use super::Connection;
use crate::loss::AckContext;
use crate::payload::Payload;
use crate::state::Input;
use crate::time::{Duration, Instant};
use crate::timer::Timer;

impl<P: Payload> Connection<P> {
    /// `snd.una <= segment.ack <= snd.nxt`; `empty`: the segment takes no sequence space.
    pub(super) fn on_acceptable_ack(&mut self, now: Instant, segment: &Segment, empty: bool) {
        let ack = segment.ack;
        self.control.heard_at = now;
        self.control.probes = 0;
        let window = self.scaled_window(segment);
        let news = ack.after(self.snd.una);
        // RFC 5681 2: a duplicate acknowledgment; with SACK blocks the window may change (RFC 6675 2).
        let duplicate = !news
            && empty
            && self.snd.is_outstanding()
            && (window == self.snd.wnd || !segment.options.sack.is_empty());
        // RFC 9293 3.10.7.4: only a newer segment updates the window.
        if self.snd.wl1.before(segment.seq)
            || (self.snd.wl1 == segment.seq && self.snd.wl2.at_or_before(ack))
        {
            self.set_send_window(segment.seq, ack, window);
        }
        if news {
            self.on_new_ack(now, segment);
        } else if duplicate {
            self.counters.dup_acks = self.counters.dup_acks.saturating_add(1);
            let context = self.ack_context(now, None);
            self.loss
                .on_duplicate(&mut self.snd, &mut self.congestion, context);
        }
        self.on_window_seen();
    }

    /// The acknowledgment moves `snd.una`.
    pub(super) fn on_new_ack(&mut self, now: Instant, segment: &Segment) {
        let acked = self.snd.on_ack(segment.ack, now);
        let rtt = acked.rtt.or_else(|| self.echoed_rtt(now, segment));
        if let Some(rtt) = rtt {
            self.rtt.on_sample(rtt, &self.config);
        }
        self.control.attempts = 0;
        self.control.soft_error = false;
        self.control.blocked = false;
        let context = self.ack_context(now, rtt);
        self.loss
            .on_ack(&mut self.snd, &mut self.congestion, &acked, context);
        if self.congestion.is_probing_rtt() {
            self.snd.rate.on_app_limited(self.snd.pipe());
        }
        // RFC 6298 5.2 and 5.3.
        if self.snd.is_outstanding() {
            self.timers
                .arm(Timer::Retransmit, now + self.rtt.rto(&self.config));
        } else {
            self.timers.disarm(Timer::Retransmit);
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

    /// What loss detection and congestion control must know of an ACK besides what it acknowledges.
    fn ack_context(&mut self, now: Instant, rtt: Option<Duration>) -> AckContext {
        AckContext {
            now,
            mss: self.segment_limit() as u32,
            rtt,
            srtt: self.rtt.srtt(),
            min_rtt: self.rtt.min(),
            cwnd_limited: core::mem::take(&mut self.control.cwnd_limited),
            ecn_echo: false,
            sack: self.agreed.sack,
        }
    }

    /// The round-trip time by the echoed timestamp (RFC 7323 4.1), for acknowledgments of what was sent more than once.
    fn echoed_rtt(&self, now: Instant, segment: &Segment) -> Option<Duration> {
        let echo = segment
            .options
            .timestamps
            .filter(|_| self.agreed.timestamps)?
            .echo;
        let millis = self.timestamp(now).wrapping_sub(echo) as i32;
        // An echo from the future is an error of the peer's.
        u64::try_from(millis)
            .ok()
            .map(|millis| Duration::from_millis(millis.max(1)))
    }

    pub(super) fn scaled_window(&self, segment: &Segment) -> u32 {
        u32::from(segment.window) << self.agreed.snd_wscale
    }
}
