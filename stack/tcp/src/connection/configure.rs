//! Settings that change while a connection lives.

use alloc::sync::Arc;

use super::Connection;
use crate::config::Config;
use crate::payload::Payload;
use crate::time::Instant;
use crate::timer::Timer;

impl<P: Payload> Connection<P> {
    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Changes settings. What the SYNs said stays said: `mss`, `window_scale`, `timestamps` and `sack` have no effect any
    /// more. Timers that run keep their deadline, but for keep-alive and the user time-out, which start anew.
    pub fn configure(&mut self, now: Instant, change: impl FnOnce(&mut Config)) {
        let before = self.config.clone();
        change(Arc::make_mut(&mut self.config));
        let after = self.config.clone();
        if before.nagle != after.nagle {
            self.set_nagle(after.nagle);
        }
        if before.congestion != after.congestion {
            let seed = self.snd.nxt.raw() ^ self.agreed.ts_offset;
            self.congestion.switch(after.congestion, seed);
        }
        if before.receive_buffer != after.receive_buffer
            || before.receive_buffer_max != after.receive_buffer_max
        {
            self.rcv.set_buffer(&after, now);
        }
        if before.keep_alive != after.keep_alive && self.phase.is_synchronised() {
            match after.keep_alive {
                Some(keep_alive) => {
                    let due = self.control.heard_at + keep_alive.idle;
                    self.timers.arm(Timer::KeepAlive, due.max(now));
                }
                None => self.timers.disarm(Timer::KeepAlive),
            }
        }
        if before.user_timeout != after.user_timeout && self.timers.is_armed(Timer::User) {
            self.timers.disarm(Timer::User);
            self.arm_user_timeout(now);
        }
    }
}
