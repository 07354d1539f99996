//! The user time-out (RFC 9293 3.9.1): how long data may wait for its acknowledgment before the connection is given up; and the
//! option by which two ends tell each other theirs (RFC 5482), off by default.
//!
//! With the option the longer of the two patiences counts, within limits: nobody can make us give up sooner than we would, nor
//! hold us for ever.

use bywash_wire::{Options, Segment};

use super::Connection;
use crate::payload::Payload;
use crate::time::{Duration, Instant};
use crate::timer::Timer;

/// L_LIMIT of RFC 5482 3.1: what R2 must be at least (RFC 9293 3.8.3).
const LEAST: Duration = Duration::from_secs(100);

/// U_LIMIT of RFC 5482 3.1.
const MOST: Duration = Duration::from_secs(3_600);

/// What is told to the peer while the application has set nothing: about what 15 retransmissions take.
const OURS: Duration = Duration::from_secs(900);

impl<P: Payload> Connection<P> {
    /// How long data may wait. Without the option that is the application's business alone.
    fn patience(&self) -> Option<Duration> {
        let own = self.config.user_timeout;
        let theirs = self.rare.as_ref().and_then(|rare| rare.peer_user_timeout);
        let Some(theirs) = theirs.filter(|_| self.config.user_timeout_option) else {
            return own;
        };
        // RFC 5482 3.1: min(U_LIMIT, max(ADV_UTO, REMOTE_UTO, L_LIMIT)).
        Some(own.unwrap_or(OURS).max(theirs).max(LEAST).min(MOST))
    }

    /// Starts the user's patience if it is not running.
    pub(super) fn arm_user_timeout(&mut self, now: Instant) {
        if self.timers.is_armed(Timer::User) {
            return;
        }
        if let Some(patience) = self.patience() {
            self.timers.arm(Timer::User, now + patience);
        }
    }

    /// The option of our SYN.
    pub(super) fn user_timeout_option(&self) -> Option<u16> {
        self.config.user_timeout_option.then(|| {
            let own = self.config.user_timeout.unwrap_or(OURS);
            Options::user_timeout_field(own.as_nanos().div_ceil(1_000_000_000).max(1))
        })
    }

    /// The peer says how long it waits, in any segment that was believed (RFC 5482 3.1).
    pub(super) fn note_user_timeout(&mut self, segment: &Segment) {
        if let Some(seconds) = segment.options.user_timeout_seconds()
            && self.config.user_timeout_option
        {
            self.rare().peer_user_timeout = Some(Duration::from_secs(seconds.into()));
        }
    }
}
