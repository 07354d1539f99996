//! Handshakes that are begun and not ended: when they are many, the demultiplexer is asked to limit SYNs.
//!
//! ```text
//!  open:  + each SYN of the control ring    - each connection accepted    - FORGIVEN a second
//!         │
//!         └── more than the backlog ──> SYNs are limited in XDP, until CALM has passed without that
//! ```
//!
//! The limits alone cannot tell a flood from a load generator that opens 100,000 connections a second and uses each: both send as
//! many SYNs. What a flood does not do is to end its handshakes, whether it never answers or resets. So honest senders are not
//! limited however fast they are, and a flood costs what `backlog` SYNs cost before it is.

use bywash_tcp::time::{Duration, Instant};
use bywash_xsk::Port;

use crate::shard::Core;

/// SYNs a second that may come to nothing: answering them costs some fiftieth of a core.
const FORGIVEN: u64 = 10_000;

/// How long the limits hold after the last sign of a flood.
const CALM: Duration = Duration::from_secs(10);

/// What the shard knows of handshakes that were not ended.
pub(crate) struct SynAlarm {
    /// SYNs, less connections accepted, less what time has forgiven.
    open: u64,
    /// Until when time has been forgiven.
    at: Instant,
    /// Until when SYNs are limited, if they are.
    until: Option<Instant>,
}

impl SynAlarm {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            open: 0,
            at: now,
            until: None,
        }
    }

    /// A handshake has ended as it should.
    pub(crate) fn on_accepted(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// True: SYNs are to be limited, and were not.
    fn on_syns(&mut self, now: Instant, count: u64, backlog: u64) -> bool {
        let forgiven = now.since(self.at).as_nanos().saturating_mul(FORGIVEN) / 1_000_000_000;
        if forgiven > 0 {
            self.open = self.open.saturating_sub(forgiven);
            // What is less than one stays for the next time.
            self.at += Duration::from_nanos(forgiven * (1_000_000_000 / FORGIVEN));
        }
        // Beyond the backlog it is a flood, however large: its end is to be seen soon.
        self.open = (self.open + count).min(2 * backlog);
        self.open > backlog && self.until.replace(now + CALM).is_none()
    }

    /// True: the limits are to end.
    fn is_over(&mut self, now: Instant) -> bool {
        self.until
            .take_if(|until| now.as_nanos() >= until.as_nanos())
            .is_some()
    }
}

impl<P: Port> Core<P> {
    /// So many SYNs came by the control ring.
    pub(crate) fn count_syns(&mut self, count: usize) {
        let backlog = u64::from(self.config.backlog);
        if self.syn_alarm.on_syns(self.now, count as u64, backlog) {
            self.counters.syn_alarms += 1;
            tracing::warn!(
                shard = self.config.index,
                "handshakes are begun and not ended: SYNs are limited"
            );
            self.env.steering.limit_syns();
        }
    }

    /// Ends the limits when there has been no flood for a while.
    pub(crate) fn end_syn_alarm(&mut self) {
        if self.syn_alarm.is_over(self.now) {
            tracing::info!(shard = self.config.index, "SYNs are limited no longer");
            self.env.steering.unlimit_syns();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKLOG: u64 = 1024;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn who_ends_his_handshakes_is_never_limited() {
        let mut alarm = SynAlarm::new(at(0));
        // A million connections within a second, 64 at once.
        for batch in 0..15_625 {
            let now = Instant::from_nanos(batch * 64_000);
            assert!(!alarm.on_syns(now, 64, BACKLOG));
            (0..64).for_each(|_| alarm.on_accepted());
        }
        assert!(!alarm.is_over(at(1_000_000)), "there was no alarm");
    }

    #[test]
    fn a_flood_is_limited_once_and_until_it_has_been_over_for_a_while() {
        let mut alarm = SynAlarm::new(at(0));
        assert!(!alarm.on_syns(at(0), BACKLOG, BACKLOG));
        assert!(alarm.on_syns(at(0), 1, BACKLOG));
        for second in 0..5 {
            assert!(!alarm.is_over(at(second * 1000)));
            assert!(!alarm.on_syns(at(second * 1000), 30_000, BACKLOG), "once");
        }
        // The flood's last SYNs came at 4 s. An honest one afterwards keeps nothing up.
        assert!(!alarm.on_syns(at(6000), 1, BACKLOG));
        assert!(!alarm.is_over(at(13_999)));
        assert!(alarm.is_over(at(14_000)));
        assert!(!alarm.is_over(at(14_000)), "once");
        assert!(!alarm.on_syns(at(14_000), BACKLOG, BACKLOG));
        assert!(alarm.on_syns(at(14_000), 1, BACKLOG), "the next flood");
    }

    #[test]
    fn what_comes_to_nothing_slowly_is_forgiven_however_often_it_is_looked_at() {
        let mut alarm = SynAlarm::new(at(0));
        // 9,000 a second for ten seconds, looked at each 11 us and more.
        for syn in 0..90_000 {
            let now = Instant::from_nanos(syn * 111_111);
            assert!(!alarm.on_syns(now, 1, BACKLOG), "SYN {syn}");
        }
        // 12,000 a second are too many in the end.
        let begin = 10_000_000_000;
        let limited = (0..12_000 * 10)
            .any(|syn| alarm.on_syns(Instant::from_nanos(begin + syn * 83_333), 1, BACKLOG));
        assert!(limited);
    }
}
