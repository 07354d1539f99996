//! How many challenge ACKs (RFC 5961) a shard sends for all its connections together.
//!
//! A plain limit would be a side channel: who can make the shard send challenges on a connection of his own could count how many
//! are left of the common limit, and so find out whether his forged segments hit another connection (CVE-2016-5696). So
//! each second has a limit of its own, drawn between half and one and a half of what is configured, as in Linux.

use bywash_tcp::time::Instant;

use crate::random::Random;

#[derive(Debug)]
pub(crate) struct Challenges {
    per_second: u32,
    left: u32,
    second: Option<u64>,
}

impl Challenges {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            left: 0,
            second: None,
        }
    }

    /// Whether one more may be sent now.
    pub(crate) fn take(&mut self, now: Instant, random: &mut dyn Random) -> bool {
        let second = now.as_nanos() / 1_000_000_000;
        if self.second != Some(second) {
            self.second = Some(second);
            let spread = random.next_u64() % u64::from(self.per_second.max(1));
            self.left = self.per_second / 2 + spread as u32;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    #[test]
    fn each_second_has_a_limit_that_nobody_can_guess() {
        let mut random = SeededRandom(7);
        let mut challenges = Challenges::new(100);
        let mut counts = Vec::new();
        for second in 0..20 {
            let now = Instant::from_nanos(second * 1_000_000_000);
            let sent = (0..1_000).filter(|_| challenges.take(now, &mut random));
            counts.push(sent.count());
        }
        assert!(
            counts.iter().all(|count| (50..150).contains(count)),
            "{counts:?}"
        );
        counts.sort_unstable();
        counts.dedup();
        assert!(counts.len() > 10, "{counts:?}");
    }

    #[test]
    fn none_at_all_is_a_limit_too() {
        let mut challenges = Challenges::new(0);
        assert!(!challenges.take(Instant::ZERO, &mut SeededRandom(1)));
    }
}
