//! What a shard does when a turn found nothing to do.

use std::time::Duration;

use bywash_tcp::time::Instant;

use crate::config::IdlePolicy;

/// A sleeping shard looks up this often even if nothing wakes it: a wake-up that the kernel lost
/// costs this much and not for ever.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// Remembers since when there has been nothing to do.
pub(crate) struct Idle {
    policy: IdlePolicy,
    since: Option<Instant>,
}

impl Idle {
    pub(crate) fn new(policy: IdlePolicy) -> Self {
        Self {
            policy,
            since: None,
        }
    }

    /// Call after every turn. `Some(t)`: sleep, at most for `t`. The next deadline is asked for only before a sleep.
    pub(crate) fn after_turn(
        &mut self,
        now: Instant,
        worked: bool,
        next_timer: impl FnOnce() -> Option<Instant>,
    ) -> Option<Duration> {
        if worked {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let patience = match self.policy {
            IdlePolicy::Spin => return None,
            IdlePolicy::SpinThenSleep(patience) => patience,
            IdlePolicy::Sleep => Duration::ZERO,
        };
        let idle_for = Duration::from_nanos(now.as_nanos().saturating_sub(since.as_nanos()));
        if idle_for < patience {
            return None;
        }
        let until_timer = next_timer().map_or(LONGEST_SLEEP, |at| {
            Duration::from_nanos(at.as_nanos().saturating_sub(now.as_nanos()))
        });
        Some(until_timer.min(LONGEST_SLEEP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(micros * 1000)
    }

    #[test]
    fn spins_first_and_sleeps_until_the_timer() {
        let mut idle = Idle::new(IdlePolicy::SpinThenSleep(Duration::from_micros(50)));
        assert_eq!(idle.after_turn(at(0), false, || None), None);
        assert_eq!(idle.after_turn(at(49), false, || None), None);
        assert_eq!(
            idle.after_turn(at(50), false, || Some(at(80))),
            Some(Duration::from_micros(30))
        );
        assert_eq!(idle.after_turn(at(60), true, || None), None);
        assert_eq!(idle.after_turn(at(100), false, || None), None);
        assert_eq!(
            idle.after_turn(at(200), false, || None),
            Some(LONGEST_SLEEP)
        );
    }

    #[test]
    fn spin_never_sleeps() {
        let mut idle = Idle::new(IdlePolicy::Spin);
        assert_eq!(idle.after_turn(at(0), false, || None), None);
        assert_eq!(idle.after_turn(at(1_000_000), false, || None), None);
    }
}
