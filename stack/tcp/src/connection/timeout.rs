//! Timers that ran out.

use bywash_wire::SeqNumber;

use super::Connection;
use crate::payload::Payload;
use crate::state::Input;
use crate::time::{Duration, Instant};
use crate::timer::Timer;

/// How soon a retransmission is tried again that the transmit queue blocked (Linux's `TCP_RESOURCE_PROBE_INTERVAL`).
const BLOCKED_RETRY_MAX: Duration = Duration::from_millis(500);

impl<P: Payload> Connection<P> {
    /// Serves every timer that is due. To be called at or after [`next_timeout`](Self::next_timeout); earlier does no harm.
    pub fn on_timeout(&mut self, now: Instant) {
        self.control.clock = now;
        for timer in Timer::ALL {
            if self.timers.expire(timer, now) {
                self.on_timer(timer, now);
            }
        }
    }

    /// When [`on_timeout`](Self::on_timeout) is due; to be asked after `poll_transmit` has given `None`.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn on_timer(&mut self, timer: Timer, now: Instant) {
        match timer {
            Timer::Retransmit => self.on_retransmit_timeout(now),
            Timer::Persist => self.on_persist_timeout(now),
            Timer::DelayedAck => self.on_delayed_ack_timeout(),
            Timer::Linger => {
                self.transition(Input::Expired);
            }
            Timer::KeepAlive => self.on_keep_alive(now),
            Timer::User => self.give_up(),
        }
    }

    /// RFC 6298 5.4 to 5.7.
    fn on_retransmit_timeout(&mut self, now: Instant) {
        if !self.snd.is_outstanding() {
            return;
        }
        let rto = self.rtt.rto(&self.config);
        if self
            .snd
            .record(0)
            .payload
            .as_ref()
            .is_some_and(P::is_queued)
        {
            // The segment has not even left: it is not lost, and its header must not be touched. Linux's rule too.
            self.counters.retransmit_blocked = self.counters.retransmit_blocked.saturating_add(1);
            self.timers
                .arm(Timer::Retransmit, now + rto.min(BLOCKED_RETRY_MAX));
            return;
        }
        let synchronised = self.phase.is_synchronised();
        // RFC 9293 3.8.6 (SHLD-17): a peer that has shrunk its window to nothing, but lives, is probed and not given up.
        let alive = now.since(self.control.heard_at) < self.config.rto_max;
        let probing = synchronised && self.snd.wnd == 0 && alive;
        let limit = if synchronised {
            self.config.retries
        } else {
            self.config.syn_retries
        };
        if self.control.attempts >= limit && !probing {
            self.give_up();
            return;
        }
        let again = self.control.attempts > 0;
        self.control.attempts = self.control.attempts.saturating_add(1);
        self.control.syn_lost |= !synchronised;
        self.counters.timeouts = self.counters.timeouts.saturating_add(1);
        self.rtt.back_off();
        let mss = self.segment_limit() as u32;
        self.loss
            .on_timeout(&mut self.snd, &mut self.congestion, now, again, mss);
        self.timers
            .arm(Timer::Retransmit, now + self.rtt.rto(&self.config));
    }

    /// RFC 9293 3.8.4.
    fn on_keep_alive(&mut self, now: Instant) {
        let Some(keep_alive) = self.config.keep_alive else {
            return;
        };
        let due = self.control.heard_at + keep_alive.idle;
        if due > now {
            self.timers.arm(Timer::KeepAlive, due);
            return;
        }
        if self.control.probes >= keep_alive.probes {
            self.give_up();
            return;
        }
        // Data in flight, or the persist timer, asks the same question.
        if !self.snd.is_outstanding() && !self.timers.is_armed(Timer::Persist) {
            self.control.probes = self.control.probes.saturating_add(1);
            self.control.probe = true;
        }
        self.timers.arm(Timer::KeepAlive, now + keep_alive.interval);
    }

    /// Starts the user's patience if it is not running.
    pub(super) fn arm_user_timeout(&mut self, now: Instant) {
        if let Some(patience) = self.config.user_timeout
            && !self.timers.is_armed(Timer::User)
        {
            self.timers.arm(Timer::User, now + patience);
        }
    }

    /// The number of a probe: one before the window, so that any peer answers with its ACK (RFC 9293 3.8.4; Linux probes
    /// closed windows in the same way instead of with a byte of data, which would have to be cut off a segment).
    pub(super) fn probe_seq(&self) -> SeqNumber {
        self.snd.una - 1
    }
}
