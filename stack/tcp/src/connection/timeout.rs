//! Timers that ran out.

use bywash_wire::SeqNumber;

use super::Connection;
use crate::loss::{Expects, TimeoutContext};
use crate::payload::Payload;
use crate::snd::Acked;
use crate::state::Input;
use crate::time::{Duration, Instant};
use crate::timer::Timer;

/// How soon a retransmission is tried again that the transmit queue blocked (Linux's `TCP_RESOURCE_PROBE_INTERVAL`).
const BLOCKED_RETRY_MAX: Duration = Duration::from_millis(500);

/// Least time that a peer has which seems to have taken SACK blocks back.
const RENEGING_WAIT_MIN: Duration = Duration::from_millis(10);

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
            Timer::Retransmit => match core::mem::take(&mut self.loss.expects) {
                Expects::Acknowledgment => self.on_retransmit_timeout(now),
                Expects::Probe => self.on_probe_timeout(now),
                Expects::Reordering => self.on_reorder_timeout(now),
            },
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
            self.count(|counts| &mut counts.retransmit_blocked);
            self.timers
                .arm(Timer::Retransmit, now + rto.min(BLOCKED_RETRY_MAX));
            return;
        }
        let synchronised = self.phase.is_synchronised();
        // RFC 9293 3.8.6 (SHLD-17): a peer that has shrunk its window to nothing, but lives, is probed and not given up.
        let alive = now.since(self.control.heard_at) < self.config.rto_max;
        let probing = synchronised && self.snd.wnd == 0 && alive;
        let limit = if synchronised && self.control.orphaned {
            self.config.retries.min(self.config.orphan_retries)
        } else if synchronised {
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
        self.count(|counts| &mut counts.timeouts);
        self.rtt.back_off();
        self.suspect_black_hole(now);
        let context = self.timeout_context(now, again);
        self.loss
            .on_timeout(&mut self.snd, &mut self.congestion, &context);
        self.ecn.on_reduced(self.snd.nxt);
        self.timers
            .arm(Timer::Retransmit, now + self.rtt.rto(&self.config));
    }

    fn timeout_context(&self, now: Instant, again: bool) -> TimeoutContext {
        TimeoutContext {
            moment: self.moment(now),
            srtt: self.rtt.srtt(),
            min_rtt: self.rtt.min(),
            sack: self.agreed.sack,
            again,
            handshake: !self.phase.is_synchronised(),
        }
    }

    /// RFC 8985 7.3: `poll_transmit` sends the probe; the retransmission timer follows.
    fn on_probe_timeout(&mut self, now: Instant) {
        if !self.snd.is_outstanding() {
            return;
        }
        self.loss.probe_due = true;
        self.timers
            .arm(Timer::Retransmit, now + self.rtt.rto(&self.config));
    }

    /// RFC 8985 6.2, step 5.
    fn on_reorder_timeout(&mut self, now: Instant) {
        let context = self.timeout_context(now, false);
        let wait = self
            .loss
            .on_reorder_timeout(&mut self.snd, &mut self.congestion, &context);
        self.loss.expects = Expects::Reordering;
        self.expect_reordering(now, wait);
    }

    /// When the retransmission time-out of what is oldest is due, as if no other timer had taken its place.
    fn retransmission_due(&self, now: Instant) -> Instant {
        let since = self.snd.record(0).sent_at;
        (since + self.rtt.rto(&self.config)).max(now)
    }

    /// The retransmission time-out takes the timer, if another deadline has it.
    fn expect_acknowledgment(&mut self, now: Instant) {
        if self.loss.expects == Expects::Acknowledgment && self.timers.is_armed(Timer::Retransmit) {
            return;
        }
        self.loss.expects = Expects::Acknowledgment;
        if self.snd.is_outstanding() {
            let at = self.retransmission_due(now);
            self.timers.arm(Timer::Retransmit, at);
        } else {
            self.timers.disarm(Timer::Retransmit);
        }
    }

    /// The reorder timer takes the timer if something waits for it; else it gives it back.
    fn expect_reordering(&mut self, now: Instant, wait: Option<Instant>) {
        if let Some(at) = wait {
            self.loss.expects = Expects::Reordering;
            self.timers.arm(Timer::Retransmit, at);
        } else if self.loss.expects == Expects::Reordering {
            self.expect_acknowledgment(now);
        }
    }

    /// A tail loss probe takes the timer if one makes sense, but never beyond `limit`. False: none does.
    fn expect_probe(&mut self, now: Instant, limit: Instant) -> bool {
        let wait = self
            .loss
            .probe_wait(&self.snd, self.rtt.srtt(), &self.config)
            .filter(|_| self.agreed.sack && self.phase.is_synchronised());
        let Some(wait) = wait else { return false };
        let at = now + wait;
        self.loss.expects = Expects::Probe;
        self.timers.arm(
            Timer::Retransmit,
            if limit > now { at.min(limit) } else { at },
        );
        true
    }

    /// Segments were sent for the first time (RFC 6298 5.1, RFC 8985 7.2).
    pub(super) fn set_timers_after_sending(&mut self, now: Instant) {
        if self.loss.expects == Expects::Reordering && self.timers.is_armed(Timer::Retransmit) {
            return;
        }
        let due = self.retransmission_due(now);
        if !self.expect_probe(now, due) {
            self.expect_acknowledgment(now);
        }
    }

    /// The oldest segment was sent again: its time-out begins anew.
    pub(super) fn set_timers_after_resending(&mut self, now: Instant, index: usize) {
        let waits = self.timers.is_armed(Timer::Retransmit);
        if waits && (index > 0 || self.loss.expects == Expects::Reordering) {
            return;
        }
        self.loss.expects = Expects::Acknowledgment;
        self.timers
            .arm(Timer::Retransmit, now + self.rtt.rto(&self.config));
    }

    pub(super) fn set_timers_after_ack(
        &mut self,
        now: Instant,
        acked: &Acked,
        wait: Option<Instant>,
    ) {
        if !self.snd.is_outstanding() {
            // RFC 6298 5.2.
            self.loss.expects = Expects::Acknowledgment;
            self.loss.probe_due = false;
            self.timers.disarm(Timer::Retransmit);
            return;
        }
        if acked.seq_len > 0 || acked.restarts_timer {
            let at = now + self.rtt.rto(&self.config);
            if !self.expect_probe(now, at) {
                // RFC 6298 5.3.
                self.loss.expects = Expects::Acknowledgment;
                self.timers.arm(Timer::Retransmit, at);
            }
        } else if self.loss.expects == Expects::Probe && self.snd.is_marked() {
            self.expect_acknowledgment(now);
        }
        self.expect_reordering(now, wait);
        if acked.reneged {
            // RFC 2018 8: the peer may have thrown away what it named. It gets half a round trip to make up for it, then
            // the retransmission timer forgets all blocks (as in Linux).
            let wait = (self.rtt.srtt() / 2).max(RENEGING_WAIT_MIN);
            self.loss.expects = Expects::Acknowledgment;
            self.timers.arm(Timer::Retransmit, now + wait);
        }
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
        if self.snd.is_outstanding() || self.timers.is_armed(Timer::Persist) {
            // Data in flight, or the persist timer, asks the same question, and its own patience counts (as in Linux).
            self.timers.arm(Timer::KeepAlive, now + keep_alive.interval);
            return;
        }
        if self.control.probes >= keep_alive.probes {
            // A peer that was only cut off for a while should know (RFC 9293 3.8.4 leaves it open; as Linux).
            self.owe_reset(self.snd.nxt, true);
            self.give_up();
            return;
        }
        self.control.probes = self.control.probes.saturating_add(1);
        self.control.probe = true;
        self.timers.arm(Timer::KeepAlive, now + keep_alive.interval);
    }

    /// The number of a probe: one before the window, so that any peer answers with its ACK (RFC 9293 3.8.4; Linux probes
    /// closed windows in the same way instead of with a byte of data, which would have to be cut off a segment).
    pub(super) fn probe_seq(&self) -> SeqNumber {
        self.snd.una - 1
    }
}
