//! Stage 4: deadlines. After ingress, so that a fresh ACK cancels a time-out.

use std::cmp::Reverse;

use bywash_xsk::Port;

use crate::service::Event;
use crate::shard::Core;

impl<P: Port> Core<P> {
    /// Timing wheel -> `Connection::on_timeout`; the service's own timers become events.
    pub(crate) fn timers(&mut self) -> usize {
        let now = self.now;
        let mut fired = self.expire_time_waits() + self.patrol();
        self.end_syn_alarm();
        let Self {
            wheel,
            conns,
            dirty,
            ..
        } = self;
        wheel.advance(now, |index| {
            let Some(conn) = conns.by_index(index) else {
                return;
            };
            conn.tcp.on_timeout(now);
            if !conn.dirty {
                conn.dirty = true;
                dirty.push_back(index);
            }
            fired += 1;
        });
        while let Some(Reverse((at, token))) = self.service_timers.peek().copied() {
            if at > now.as_nanos() {
                break;
            }
            self.service_timers.pop();
            self.events.push_back(Event::Timer { token });
            fired += 1;
        }
        fired
    }
}
