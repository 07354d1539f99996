//! What the program does beside steering: how much it lets strangers send, and whether it marks the pools it sends to.
//!
//! Limits are for what anybody can send without a connection. Each is a token bucket for each CPU, and as a NIC queue has one CPU, for
//! each shard; what is beyond it is dropped before it takes a frame, a place in a ring, or a turn of the shard's.

use crate::abi::{Config, LIMITS, Limit, MARK_DIRTY, STRICT};

/// What the program does beside steering. The default limits, and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Packets to flow pools set their slot's byte in [`Demux::dirty_slots`]. Costs a look-up and at most one store a packet.
    ///
    /// [`Demux::dirty_slots`]: crate::Demux::dirty_slots
    pub dirty_slots: bool,
    /// Segments of no flow in the flow table are dropped, but for SYNs to listening ports, other SYNs (which want a RST), and, at
    /// the rate of [`Limits::ack`], what may end a handshake by SYN cookie.
    ///
    /// Only for an engine that puts every connection into the table *before* it sends its SYN or SYN-ACK, those without a pool
    /// with the primary's slot: all other segments of a connection that is not there are lost. And only where peers may hang: a
    /// stranger's FIN or RST gets no answer.
    pub strict: bool,
    /// Rates.
    pub limits: Limits,
    /// When the two limits on SYNs hold.
    pub syn_limits: SynLimits,
}

/// When [`Limits::syn_prefix`] and [`Limits::syn`] hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SynLimits {
    /// While the engine says that handshakes are begun and not ended ([`Demux::limit_syns`]): who opens many connections and
    /// uses them is not limited, a flood is as soon as it is seen.
    ///
    /// [`Demux::limit_syns`]: crate::Demux::limit_syns
    #[default]
    OnAlarm,
    /// Always, also for those who end their handshakes.
    Always,
}

/// Rates for what strangers send; `None`: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// SYNs to listening ports from one IPv4 /24 or IPv6 /64.
    pub syn_prefix: Option<Rate>,
    /// All SYNs to listening ports, after those that `syn_prefix` has dropped.
    pub syn: Option<Rate>,
    /// With [`Settings::strict`]: segments to listening ports, of no flow, that have ACK and none of SYN, FIN and RST.
    pub ack: Option<Rate>,
    /// ICMP errors that quote a segment of ours.
    pub icmp: Option<Rate>,
}

impl Default for Limits {
    /// Generous: no honest sender should ever meet one, and a flood should still leave most of the core to connections.
    ///
    /// A prefix may hold one busy load generator or a carrier's address translation. Linux has 28,232 local ports for one peer
    /// address and port and reuses each after a second at the earliest, so one host of its opens at most 28,000 connections a
    /// second to a port: 30,000. 100,000 SYNs a second that are answered by cookies cost some fifth of a core, and as many ACKs
    /// may end the handshakes. Who opens more and uses them meets no limit: [`SynLimits::OnAlarm`]. A connection heeds an ICMP error once in a round trip at most: 10,000. Bursts are what may come after a
    /// pause of 0.1 to 0.3 seconds.
    fn default() -> Self {
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        Self {
            syn_prefix: rate(30_000, 8_192),
            syn: rate(100_000, 16_384),
            ack: rate(100_000, 16_384),
            icmp: rate(10_000, 1_024),
        }
    }
}

/// A token bucket's measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Packets a second, on average: 1 or more.
    pub per_second: u32,
    /// Packets at once, after a pause. At least a hundredth of `per_second`, and 1: the program's clock moves every 10 ms or
    /// faster.
    pub burst: u32,
}

/// Steps of the clock that the program reads (`CONFIG_HZ` is 100 at the least), each second.
const CLOCK_STEPS: u32 = 100;

impl Rate {
    fn limit(self) -> Limit {
        // Above one a nanosecond there is no limit to keep.
        let interval = 1_000_000_000 / u64::from(self.per_second.max(1));
        Limit {
            interval,
            // The first of a burst is no wait.
            burst: interval * u64::from(self.burst.saturating_sub(1)),
        }
    }

    fn refusal(self, name: &str) -> Option<String> {
        let least = (self.per_second / CLOCK_STEPS).max(1);
        if self.per_second == 0 {
            return Some(format!(
                "the limit `{name}` lets nothing pass: 1 a second is the least"
            ));
        }
        (self.burst < least).then(|| {
            format!(
                "the limit `{name}` of {} a second needs a burst of {least} or more, not {}",
                self.per_second, self.burst
            )
        })
    }
}

impl Settings {
    /// What is wrong with them.
    pub(crate) fn refusal(&self) -> Option<String> {
        let mut rates = self.limits.named().into_iter();
        rates.find_map(|(name, rate)| rate?.refusal(name))
    }

    /// The configuration with these settings; `alarmed`: while [`crate::Demux::limit_syns`] holds.
    pub(crate) fn apply(&self, config: Config, alarmed: bool) -> Config {
        let flag = |on, bit| if on { bit } else { 0 };
        let limits = match alarmed || self.syn_limits == SynLimits::Always {
            true => self.limits,
            false => Limits {
                syn_prefix: None,
                syn: None,
                ..self.limits
            },
        };
        Config {
            flags: flag(self.dirty_slots, MARK_DIRTY) | flag(self.strict, STRICT),
            limits: limits.to_abi(),
            ..config
        }
    }
}

impl Limits {
    /// No limit on anything.
    pub const NONE: Self = Self {
        syn_prefix: None,
        syn: None,
        ack: None,
        icmp: None,
    };

    /// In the order of `BYWASH_LIMIT_*` in `bpf/abi.h`.
    fn named(&self) -> [(&'static str, Option<Rate>); LIMITS] {
        [
            ("syn_prefix", self.syn_prefix),
            ("syn", self.syn),
            ("ack", self.ack),
            ("icmp", self.icmp),
        ]
    }

    /// As the program reads them.
    pub fn to_abi(&self) -> [Limit; LIMITS] {
        self.named()
            .map(|(_, rate)| rate.map_or(Limit::default(), Rate::limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_an_interval_and_a_burst_lasts_for_one_less() {
        let rate = Rate {
            per_second: 1000,
            burst: 11,
        };
        assert_eq!(
            rate.limit(),
            Limit {
                interval: 1_000_000,
                burst: 10_000_000
            }
        );
        assert_eq!(Limits::NONE.to_abi(), [Limit::default(); LIMITS]);
    }

    #[test]
    fn the_defaults_are_accepted_and_what_cannot_work_is_named() {
        assert_eq!(Settings::default().refusal(), None);
        let with = |per_second, burst| Settings {
            limits: Limits {
                icmp: Some(Rate { per_second, burst }),
                ..Limits::NONE
            },
            ..Settings::default()
        };
        for (per_second, burst, says) in [
            (0, 1, "lets nothing pass"),
            (1, 0, "a burst of 1 or more"),
            (10_000, 99, "a burst of 100 or more"),
        ] {
            let refusal = with(per_second, burst).refusal().expect("a refusal");
            assert!(
                refusal.contains("`icmp`") && refusal.contains(says),
                "{refusal}"
            );
        }
        assert_eq!(with(10_000, 100).refusal(), None);
    }

    #[test]
    fn limits_on_syns_wait_for_an_alarm_unless_they_always_hold_and_others_hold_at_once() {
        let on_alarm = Settings::default();
        let always = Settings {
            syn_limits: SynLimits::Always,
            ..on_alarm
        };
        let all = Limits::default().to_abi();
        let limits =
            |settings: Settings, alarmed| settings.apply(Config::default(), alarmed).limits;
        assert!(all.iter().all(|limit| limit.interval > 0));
        for (settings, alarmed) in [(on_alarm, true), (always, true), (always, false)] {
            assert_eq!(limits(settings, alarmed), all);
        }
        let [syn_prefix, syn, rest @ ..] = limits(on_alarm, false);
        assert_eq!([syn_prefix, syn], [Limit::default(); 2]);
        assert_eq!(rest, all[2..]);
    }
}
