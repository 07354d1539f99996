//! The peer's window is closed, or too small to be worth a segment: who moves next?
//!
//! With something in flight the retransmission timer keeps the conversation alive. With nothing in flight a lost window
//! update would silence both ends for ever, so the persist timer probes (RFC 9293 3.8.6.1). The same timer is the sender's
//! override of silly-window avoidance (3.8.6.2.1): once it has run out, what the window takes is sent, however little.

use super::Connection;
use crate::payload::Payload;
use crate::time::Instant;
use crate::timer::Timer;

impl<P: Payload> Connection<P> {
    /// Data waits for the window, or for a frame to be cut into: something must come of it even if nothing arrives.
    pub(super) fn arm_persist(&mut self, now: Instant) {
        if self.snd.is_outstanding() || self.timers.is_armed(Timer::Persist) {
            return;
        }
        let config = &self.config;
        let base = self
            .rtt
            .rto(config)
            .max(config.persist_min)
            .min(config.persist_max);
        let wait = base
            .backed_off(self.control.persist_backoff.into())
            .min(config.persist_max);
        self.timers.arm(Timer::Persist, now + wait);
        self.arm_user_timeout(now);
    }

    pub(super) fn on_persist_timeout(&mut self, now: Instant) {
        if self.snd.is_outstanding() || !self.snd.has_unsent() {
            return;
        }
        if self.snd.usable_window() > 0 {
            self.control.override_sws = true;
            // Or the application keeps it back, and has done so for long enough.
            self.push();
            self.push_out();
            return;
        }
        // Probes are answered by ACKs that keep the window closed, as long as the peer likes (RFC 9293 3.8.6.1): only
        // silence ends this.
        if self.control.probes >= self.config.retries {
            self.give_up();
            return;
        }
        // With nobody left who waits for it, a peer that keeps its window closed is not fed for ever (Linux's
        // `tcp_orphan_retries`): a defence against peers that hold memory in this way.
        if self.control.orphaned && self.control.persist_backoff >= self.config.orphan_retries {
            self.abort_with_reset();
            return;
        }
        self.control.probes = self.control.probes.saturating_add(1);
        self.control.persist_backoff = self.control.persist_backoff.saturating_add(1);
        self.control.probe = true;
        self.count(|counts| &mut counts.window_probes);
        self.arm_persist(now);
    }

    /// An acknowledgment told us the peer's window.
    pub(super) fn on_window_seen(&mut self) {
        if self.snd.usable_window() > 0 && self.control.persist_backoff > 0 {
            self.control.persist_backoff = 0;
            self.timers.disarm(Timer::Persist);
        }
    }

    /// Data is on its way again.
    pub(super) fn on_data_sent(&mut self) {
        self.control.override_sws = false;
        self.control.persist_backoff = 0;
        self.timers.disarm(Timer::Persist);
    }
}
