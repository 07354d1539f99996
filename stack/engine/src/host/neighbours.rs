//! Next hops: the kernel's neighbour entries, and how long we wait for one.
//!
//! ARP and neighbour discovery are the kernel's. We read its entry for a next hop; where there is
//! none, `RTM_NEWNEIGH` with `NTF_USE` makes the kernel resolve it as if it had a packet to send.
//!
//! ```text
//!               valid entry                        entry lost
//!  Trying ------------------------> Known(mac) --------------------> Trying
//!    | FAILED after our NTF_USE,      | STALE for 30 s: NTF_USE, so that the kernel
//!    v or 4 s                         v probes it (else our traffic would never)
//!  Silent -- after 1 s forgotten    Known
//! ```

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bywash_wire::MacAddr;
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::netlink::{NetlinkError, Requests};

/// First pause before the kernel is asked again; doubled each time. An answer on the link takes well
/// under a millisecond, and is announced besides: asking again is for lost announcements.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Longest pause before the kernel is asked again.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The kernel gives up after three solicitations a second apart and says FAILED; if it says
/// nothing, this is the end.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long "no answer" is believed. The kernel's own senders try again at once; a second spares it
/// a question per connection attempt.
pub(super) const BELIEF: Duration = Duration::from_secs(1);

/// How long a STALE entry in use goes without a probe.
const STALE_PROBE: Duration = Duration::from_secs(30);

/// What the kernel's neighbour table says about a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Usable; `stale` if the kernel has not confirmed it of late and is not about to.
    Valid { mac: MacAddr, stale: bool },
    /// The kernel is at it.
    Resolving,
    /// The kernel has tried in vain.
    Failed,
    /// There is no entry.
    Absent,
}

/// What a next hop's timer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Read the entry; if it is neither valid nor being resolved, say `NTF_USE`.
    Ask,
    /// Say `NTF_USE`, so that the kernel probes a stale entry.
    Probe,
    /// Forget this next hop and what leads over it.
    Forget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Trying {
        since: Instant,
        next: Instant,
        pause: Duration,
        used: bool,
    },
    Known {
        mac: MacAddr,
        probe: Option<Instant>,
    },
    Silent {
        until: Instant,
    },
}

/// What is known of a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Frames go to this address.
    Mac(MacAddr),
    /// Not known yet.
    Trying,
    /// It does not answer.
    Silent,
}

/// A next hop in use, and the remotes behind it. Pure state: its owner talks to the kernel.
#[derive(Debug)]
pub(super) struct Neighbour {
    state: State,
    /// When the timer runs that its owner has set for it.
    pub(super) scheduled: Option<Instant>,
    /// The remotes whose route leads over this next hop.
    pub(super) remotes: HashSet<IpAddr>,
}

impl Neighbour {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: trying(now),
            scheduled: None,
            remotes: HashSet::new(),
        }
    }

    pub(super) fn answer(&self) -> Answer {
        match self.state {
            State::Trying { .. } => Answer::Trying,
            State::Known { mac, .. } => Answer::Mac(mac),
            State::Silent { .. } => Answer::Silent,
        }
    }

    /// When [`Neighbour::on_time`] is to be called next.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Trying { next, .. } => Some(next),
            State::Known { probe, .. } => probe,
            State::Silent { until } => Some(until),
        }
    }

    /// What is to be done now; sets the next time.
    pub(super) fn on_time(&mut self, now: Instant) -> Option<Duty> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        match &mut self.state {
            State::Trying {
                since, next, pause, ..
            } => {
                if now.duration_since(*since) >= PATIENCE {
                    self.state = State::Silent {
                        until: now + BELIEF,
                    };
                    return None;
                }
                *next = now + *pause;
                *pause = (*pause * 2).min(LONGEST_PAUSE);
                Some(Duty::Ask)
            }
            State::Known { probe, .. } => {
                *probe = Some(now + STALE_PROBE);
                Some(Duty::Probe)
            }
            State::Silent { .. } => Some(Duty::Forget),
        }
    }

    /// The kernel was told `NTF_USE`: a FAILED from now on is its verdict on our question.
    pub(super) fn on_used(&mut self) {
        if let State::Trying { used, .. } = &mut self.state {
            *used = true;
        }
    }

    /// The kernel refused to resolve it, or to probe it: an entry that is known stays.
    pub(super) fn on_refused(&mut self, now: Instant) {
        if matches!(self.state, State::Trying { .. }) {
            self.state = State::Silent {
                until: now + BELIEF,
            };
        }
    }

    /// Takes in what the kernel says. Whether [`Neighbour::answer`] has changed.
    pub(super) fn on_finding(&mut self, finding: Finding, now: Instant) -> bool {
        let before = self.answer();
        self.state = match (self.state, finding) {
            (State::Known { probe, .. }, Finding::Valid { mac, stale: true }) => State::Known {
                mac,
                probe: probe.or(Some(now + STALE_PROBE)),
            },
            // Coming into use while stale: the kernel's own traffic would start a probe now.
            (_, Finding::Valid { mac, stale: true }) => State::Known {
                mac,
                probe: Some(now),
            },
            (_, Finding::Valid { mac, stale: false }) => State::Known { mac, probe: None },
            (State::Trying { used: true, .. }, Finding::Failed) => State::Silent {
                until: now + BELIEF,
            },
            (State::Known { .. }, _) => trying(now),
            (other, _) => other,
        };
        self.answer() != before
    }
}

fn trying(now: Instant) -> State {
    State::Trying {
        since: now,
        next: now,
        pause: FIRST_PAUSE,
        used: false,
    }
}

/// A next hop: the same address may be one in each VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Hop {
    /// The interface that the kernel has it on.
    pub(super) ifindex: u32,
    pub(super) address: IpAddr,
}

/// The next hop that a message of the kernel is about, and what it says.
pub(super) fn finding(message: &NeighbourMessage) -> Option<(Hop, Finding)> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let ifindex = message.header.ifindex;
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                address = Some(IpAddr::V4(*ip))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                address = Some(IpAddr::V6(*ip))
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok().map(MacAddr)
            }
            _ => {}
        }
    }
    let valid = |stale| mac.map_or(Finding::Absent, |mac| Finding::Valid { mac, stale });
    let finding = match message.header.state {
        NeighbourState::Incomplete => Finding::Resolving,
        NeighbourState::Failed => Finding::Failed,
        NeighbourState::Stale => valid(true),
        NeighbourState::Reachable
        | NeighbourState::Delay
        | NeighbourState::Probe
        | NeighbourState::Noarp
        | NeighbourState::Permanent => valid(false),
        _ => Finding::Absent,
    };
    // Bridge forwarding entries come in the same messages and have no IP address.
    address.map(|address| (Hop { ifindex, address }, finding))
}

fn question(Hop { ifindex, address }: Hop) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.header.ifindex = ifindex;
    message
        .attributes
        .push(NeighbourAttribute::Destination(address.into()));
    message
}

/// Reads the kernel's entry for a next hop.
pub(super) fn ask(requests: &mut Requests, hop: Hop) -> Result<Finding, NetlinkError> {
    let message = RouteNetlinkMessage::GetNeighbour(question(hop));
    let answers = match requests.ask(message, 0) {
        Ok(answers) => answers,
        Err(NetlinkError::Kernel(Errno::ENOENT)) => return Ok(Finding::Absent),
        Err(error) => return Err(error),
    };
    let found = answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewNeighbour(message) => finding(message),
        _ => None,
    });
    Ok(found
        .filter(|(about, _)| *about == hop)
        .map_or(Finding::Absent, |(_, finding)| finding))
}

/// Makes the kernel resolve a next hop, or probe it if the entry is stale.
pub(super) fn make_use(requests: &mut Requests, hop: Hop) -> Result<(), NetlinkError> {
    let mut message = question(hop);
    message.header.flags = NeighbourFlags::Use;
    requests
        .ask(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE)
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);
    const HOP: Hop = Hop {
        ifindex: 3,
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
    };

    fn message(state: NeighbourState, mac: Option<Vec<u8>>) -> NeighbourMessage {
        let mut message = question(HOP);
        message.header.state = state;
        message
            .attributes
            .extend(mac.map(NeighbourAttribute::LinkLayerAddress));
        message
    }

    #[test]
    fn states_of_the_kernel_are_told_apart() {
        let mac = || Some(MAC.0.to_vec());
        let fresh = Finding::Valid {
            mac: MAC,
            stale: false,
        };
        for (state, mac, expected) in [
            (NeighbourState::Reachable, mac(), fresh),
            (NeighbourState::Permanent, mac(), fresh),
            (NeighbourState::Probe, mac(), fresh),
            (NeighbourState::Delay, mac(), fresh),
            (
                NeighbourState::Stale,
                mac(),
                Finding::Valid {
                    mac: MAC,
                    stale: true,
                },
            ),
            (NeighbourState::Incomplete, None, Finding::Resolving),
            (NeighbourState::Failed, None, Finding::Failed),
            (NeighbourState::None, None, Finding::Absent),
            // Not an Ethernet address.
            (
                NeighbourState::Reachable,
                Some(vec![1, 2, 3, 4]),
                Finding::Absent,
            ),
        ] {
            let found = finding(&message(state, mac));
            assert_eq!(found, Some((HOP, expected)), "{state:?}");
        }
    }

    #[test]
    fn proxies_and_bridge_entries_are_not_next_hops() {
        let entry = message(NeighbourState::Reachable, Some(MAC.0.to_vec()));
        let mut proxy = entry.clone();
        proxy.header.flags = NeighbourFlags::Proxy;
        assert_eq!(finding(&proxy), None);
        let mut bridge = entry;
        bridge.attributes.remove(0);
        assert_eq!(finding(&bridge), None);
    }

    #[test]
    fn a_next_hop_that_never_answers_becomes_silent_and_is_forgotten() {
        let start = Instant::now();
        let mut now = start;
        let mut neighbour = Neighbour::new(now);
        let mut asked = 0;
        loop {
            match neighbour.on_time(now) {
                Some(Duty::Ask) => asked += 1,
                Some(duty) => panic!("{duty:?}"),
                None => break,
            }
            now = neighbour.due().unwrap();
        }
        assert_eq!(neighbour.answer(), Answer::Silent);
        assert!((8..20).contains(&asked), "{asked} questions");
        assert!(now - start >= PATIENCE && now - start <= PATIENCE + LONGEST_PAUSE);
        assert_eq!(neighbour.on_time(now), None);
        assert_eq!(neighbour.on_time(now + BELIEF), Some(Duty::Forget));
    }

    #[test]
    fn an_old_failure_is_not_the_answer_to_our_question() {
        let now = Instant::now();
        let mut neighbour = Neighbour::new(now);
        assert!(!neighbour.on_finding(Finding::Failed, now));
        neighbour.on_used();
        assert!(neighbour.on_finding(Finding::Failed, now));
        assert_eq!(neighbour.answer(), Answer::Silent);
        assert!(neighbour.on_finding(
            Finding::Valid {
                mac: MAC,
                stale: false
            },
            now
        ));
        assert_eq!(neighbour.answer(), Answer::Mac(MAC));
    }

    #[test]
    fn a_stale_entry_is_probed_when_it_comes_into_use_and_now_and_then() {
        let mut now = Instant::now();
        let mut neighbour = Neighbour::new(now);
        assert!(neighbour.on_finding(
            Finding::Valid {
                mac: MAC,
                stale: true
            },
            now
        ));
        assert_eq!(neighbour.on_time(now), Some(Duty::Probe));
        assert_eq!(neighbour.on_time(now), None);
        // Confirmed: nothing to do. Stale again: in 30 seconds, not put off by more announcements.
        assert!(!neighbour.on_finding(
            Finding::Valid {
                mac: MAC,
                stale: false
            },
            now
        ));
        assert_eq!(neighbour.due(), None);
        assert!(!neighbour.on_finding(
            Finding::Valid {
                mac: MAC,
                stale: true
            },
            now
        ));
        let due = neighbour.due().unwrap();
        assert_eq!(due, now + STALE_PROBE);
        now += STALE_PROBE / 2;
        assert!(!neighbour.on_finding(
            Finding::Valid {
                mac: MAC,
                stale: true
            },
            now
        ));
        assert_eq!(neighbour.due(), Some(due));
    }

    #[test]
    fn a_lost_entry_is_asked_for_again_and_a_new_mac_is_a_change() {
        let now = Instant::now();
        for lost in [Finding::Failed, Finding::Absent, Finding::Resolving] {
            let mut neighbour = Neighbour::new(now);
            neighbour.on_finding(
                Finding::Valid {
                    mac: MAC,
                    stale: false,
                },
                now,
            );
            assert!(neighbour.on_finding(lost, now), "{lost:?}");
            assert_eq!(neighbour.answer(), Answer::Trying);
            assert_eq!(neighbour.on_time(now), Some(Duty::Ask));
        }
        let mut neighbour = Neighbour::new(now);
        neighbour.on_finding(
            Finding::Valid {
                mac: MAC,
                stale: false,
            },
            now,
        );
        let other = MacAddr([2, 0, 0, 0, 0, 8]);
        assert!(neighbour.on_finding(
            Finding::Valid {
                mac: other,
                stale: false
            },
            now
        ));
        assert!(!neighbour.on_finding(
            Finding::Valid {
                mac: other,
                stale: false
            },
            now
        ));
    }
}
