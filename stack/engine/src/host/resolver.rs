//! What the host thread knows: which remotes are asked for, the route of each, the next hops, and
//! which shards to tell.
//!
//! ```text
//! remotes:    198.51.100.9 -> Via(192.0.2.254)   198.51.100.7 -> Via(192.0.2.254)   192.0.2.7 -> Via(192.0.2.7)
//! neighbours: 192.0.2.254  -> Known(mac), remotes {..9, ..7}                        192.0.2.7 -> Trying, remotes {itself}
//! ```
//!
//! A remote's resolution follows from link, route and next hop; whenever one of these changes it is
//! worked out anew, and shards hear of it only if it differs from what they were told last.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

mod networks;

use self::networks::by_index;
use super::device::{Device, LinkState};
use super::kernel_routes::Update;
use super::monitor::Change;
use super::neighbours::{self, Answer, BELIEF, Duty, Finding, Hop, Neighbour};
use super::netlink::{NetlinkError, Requests};
use super::path::{Path, Resolution, Unreachable};
use super::routes::{Decision, decide};
use super::thread::HostEvent;
use super::vlans::{VlanChoice, VlanDevice};

/// Remotes followed at a time. Beyond it everything is forgotten and those in use are asked for
/// again, at about 20 us each. 262144 entries take some 60 MB.
const REMOTES_MAX: usize = 1 << 18;

/// A change of the routing table is followed by more; wait this long for the end of the burst.
const ROUTE_SETTLE: Duration = Duration::from_millis(10);

/// Remotes that are routed anew between two looks at the queue of questions.
const REROUTE_BATCH: usize = 64;

/// After a failed reading of link or addresses, all is read again after this time.
const RESYNC: Duration = Duration::from_millis(100);

/// How often it is looked which remotes are in use.
const SWEEP: Duration = Duration::from_secs(30);

/// A remote that no shard has resolved for this many sweeps is forgotten. Whoever still holds its
/// path is told and may ask again.
const IDLE_SWEEPS: u8 = 10;

/// What has happened, for `doctor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) questions: u64,
    pub(super) route_queries: u64,
    pub(super) neighbour_queries: u64,
    pub(super) neighbour_uses: u64,
    pub(super) failed_queries: u64,
    pub(super) announcements_lost: u64,
    pub(super) table_overflows: u64,
}

struct Remote {
    decision: Decision,
    told: Option<Resolution>,
    touched: Arc<AtomicBool>,
    idle: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Neighbour(Hop),
    /// Forget a remote without a route.
    Remote(IpAddr),
    Reroute,
    /// Look at the VLANs again.
    Vlans,
    Resync,
    Sweep,
}

/// See the module's head. Speaks to the kernel; leaves telling the shards to its owner.
pub(super) struct Resolver {
    ifindex: u32,
    link: LinkState,
    requests: Requests,
    /// Of the device itself.
    addresses: BTreeSet<IpAddr>,
    wanted_vlans: VlanChoice,
    /// By interface index.
    vlans: BTreeMap<u32, VlanDevice>,
    /// The device's addresses and those in its VLANs, as they were told.
    sources: BTreeSet<IpAddr>,
    remotes: HashMap<IpAddr, Remote>,
    neighbours: HashMap<Hop, Neighbour>,
    /// Earliest first. An entry whose subject has moved on is passed over when it comes up.
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    gone: bool,
    rerouting: bool,
    looking_at_vlans: bool,
    to_reroute: Vec<IpAddr>,
    /// For the shards; taken by the owner.
    pub(super) updates: Vec<Update>,
    /// For the engine; taken by the owner.
    pub(super) events: Vec<HostEvent>,
    pub(super) counts: Counts,
}

impl Resolver {
    /// With what `device` was when it was looked up, and `link` and `addresses` as they are now: what differs is reported.
    pub(super) fn new(
        device: &Device,
        link: LinkState,
        addresses: BTreeSet<IpAddr>,
        requests: Requests,
    ) -> Result<Self, NetlinkError> {
        let mut resolver = Self {
            ifindex: device.ifindex,
            link: LinkState {
                up: true,
                carrier: device.carrier,
                mtu: device.mtu,
                mac: device.mac,
            },
            requests,
            addresses,
            wanted_vlans: device.wanted_vlans.clone(),
            vlans: by_index(device.vlans.clone()),
            sources: device.served(),
            remotes: HashMap::new(),
            neighbours: HashMap::new(),
            timers: BinaryHeap::new(),
            gone: false,
            rerouting: false,
            looking_at_vlans: false,
            to_reroute: Vec::new(),
            updates: Vec::new(),
            events: Vec::new(),
            counts: Counts::default(),
        };
        let now = Instant::now();
        resolver.set_timer(now + SWEEP, Timer::Sweep);
        resolver.on_link(Some(link), now);
        resolver.read_vlans(now)?;
        resolver.tell_addresses();
        resolver.updates.push(Update::Sources(resolver.sources()));
        Ok(resolver)
    }

    /// A shard asks. What is known already is the return value, for that shard alone.
    pub(super) fn on_question(&mut self, remote: IpAddr, now: Instant) -> Option<Update> {
        self.counts.questions += 1;
        if let Some(known) = self.remotes.get(&remote) {
            known.touched.store(true, Ordering::Relaxed);
            let resolution = known.told.clone()?;
            return Some(Update::Known {
                remote,
                resolution,
                touched: Arc::clone(&known.touched),
            });
        }
        if self.remotes.len() >= REMOTES_MAX {
            self.counts.table_overflows += 1;
            self.remotes.clear();
            self.neighbours.clear();
            self.to_reroute.clear();
            self.updates.push(Update::AllForgotten);
            // The asking shard forgets its question with the rest, and asks again.
            return None;
        }
        let decision = self.decide(remote);
        let touched = Arc::new(AtomicBool::new(true));
        self.remotes.insert(
            remote,
            Remote {
                decision: decision.clone(),
                told: None,
                touched,
                idle: 0,
            },
        );
        self.follow(remote, &decision, now);
        self.tell(remote);
        None
    }

    /// The kernel announced something.
    pub(super) fn on_change(&mut self, change: Change, now: Instant) {
        if let Err(error) = self.take_in(change, now) {
            self.counts.failed_queries += 1;
            tracing::warn!("link and addresses are read again soon: {error}");
            self.set_timer(now + RESYNC, Timer::Resync);
        }
    }

    fn take_in(&mut self, change: Change, now: Instant) -> Result<(), NetlinkError> {
        match change {
            Change::Link(link) => self.on_link(Some(link), now),
            Change::LinkGone => self.on_link(None, now),
            Change::Addresses => {
                self.read_addresses()?;
                self.reroute_soon(now);
            }
            Change::Elsewhere => self.look_at_vlans_soon(now),
            Change::Routes => self.reroute_soon(now),
            Change::Neighbour(hop, finding) => self.on_finding(hop, finding, now),
            Change::Lost => {
                self.counts.announcements_lost += 1;
                self.resync(now)?;
            }
        }
        Ok(())
    }

    /// Reads everything anew that announcements would have told.
    fn resync(&mut self, now: Instant) -> Result<(), NetlinkError> {
        let link = LinkState::ask(&mut self.requests, self.ifindex)?;
        self.on_link(link, now);
        if link.is_some() {
            self.read_addresses()?;
            self.read_vlans(now)?;
        }
        let hops: Vec<Hop> = self.neighbours.keys().copied().collect();
        for hop in hops {
            self.read_neighbour(hop, now);
        }
        self.reroute_soon(now);
        Ok(())
    }

    /// Does what is due; gives the time until something is due again.
    pub(super) fn on_time(&mut self, now: Instant) -> Option<Duration> {
        while let Some(Reverse((due, timer))) = self.timers.peek().copied() {
            if due > now {
                break;
            }
            self.timers.pop();
            match timer {
                Timer::Neighbour(hop) => self.on_neighbour_timer(hop, due, now),
                Timer::Remote(remote) => {
                    let dead = self
                        .remotes
                        .get(&remote)
                        .is_some_and(|known| matches!(known.decision, Decision::No(_)));
                    if dead && self.link.up {
                        self.forget(remote);
                    }
                }
                Timer::Reroute => {
                    self.rerouting = false;
                    self.to_reroute = self.remotes.keys().copied().collect();
                }
                Timer::Vlans => {
                    self.looking_at_vlans = false;
                    if let Err(error) = self.read_vlans(now) {
                        self.counts.failed_queries += 1;
                        tracing::warn!("the device's VLANs are read again soon: {error}");
                        self.look_at_vlans_soon(now);
                    }
                }
                Timer::Resync => {
                    if let Err(error) = self.resync(now) {
                        self.counts.failed_queries += 1;
                        tracing::debug!("link and addresses still cannot be read: {error}");
                        self.set_timer(now + RESYNC, Timer::Resync);
                    }
                }
                Timer::Sweep => {
                    self.sweep();
                    self.set_timer(now + SWEEP, Timer::Sweep);
                }
            }
        }
        for _ in 0..REROUTE_BATCH {
            let Some(remote) = self.to_reroute.pop() else {
                break;
            };
            self.reroute(remote, now);
        }
        if !self.to_reroute.is_empty() {
            return Some(Duration::ZERO);
        }
        self.timers
            .peek()
            .map(|Reverse((due, _))| due.saturating_duration_since(now))
    }

    fn set_timer(&mut self, due: Instant, timer: Timer) {
        self.timers.push(Reverse((due, timer)));
    }

    fn reroute_soon(&mut self, now: Instant) {
        if !self.rerouting {
            self.rerouting = true;
            self.set_timer(now + ROUTE_SETTLE, Timer::Reroute);
        }
    }

    /// The kernel's decision; a failing question is a decision too, and soon forgotten.
    fn decide(&mut self, remote: IpAddr) -> Decision {
        self.counts.route_queries += 1;
        let Self {
            requests,
            vlans,
            ifindex,
            ..
        } = self;
        let is_vlan = |index| vlans.contains_key(&index);
        decide(requests, *ifindex, is_vlan, remote).unwrap_or_else(|error| {
            self.counts.failed_queries += 1;
            Decision::No(Unreachable::Failed(error.to_string().into()))
        })
    }

    fn reroute(&mut self, remote: IpAddr, now: Instant) {
        if !self.remotes.contains_key(&remote) {
            return;
        }
        let decision = self.decide(remote);
        let Some(known) = self.remotes.get_mut(&remote) else {
            return;
        };
        let former = std::mem::replace(&mut known.decision, decision.clone());
        if former != decision {
            self.leave(remote, &former);
        }
        self.follow(remote, &decision, now);
        self.tell(remote);
    }

    /// Follows the next hop of a fresh decision.
    fn follow(&mut self, remote: IpAddr, decision: &Decision, now: Instant) {
        match decision {
            Decision::No(_) => self.set_timer(now + BELIEF, Timer::Remote(remote)),
            Decision::Via(via) => {
                let hop = via.hop();
                let fresh = !self.neighbours.contains_key(&hop);
                let neighbour = self
                    .neighbours
                    .entry(hop)
                    .or_insert_with(|| Neighbour::new(now));
                neighbour.remotes.insert(remote);
                if fresh && self.link.up {
                    self.serve_neighbour(hop, now);
                }
            }
        }
    }

    fn leave(&mut self, remote: IpAddr, decision: &Decision) {
        if let Decision::Via(via) = decision
            && let Some(neighbour) = self.neighbours.get_mut(&via.hop())
        {
            neighbour.remotes.remove(&remote);
            if neighbour.remotes.is_empty() {
                self.neighbours.remove(&via.hop());
            }
        }
    }

    fn forget(&mut self, remote: IpAddr) {
        if let Some(known) = self.remotes.remove(&remote) {
            self.leave(remote, &known.decision);
            self.updates.push(Update::Forgotten(remote));
        }
    }

    fn sweep(&mut self) {
        let mut idle = Vec::new();
        for (remote, known) in &mut self.remotes {
            known.idle = if known.touched.swap(false, Ordering::Relaxed) {
                0
            } else {
                known.idle + 1
            };
            if known.idle >= IDLE_SWEEPS {
                idle.push(*remote);
            }
        }
        for remote in idle {
            self.forget(remote);
        }
    }

    fn on_neighbour_timer(&mut self, hop: Hop, due: Instant, now: Instant) {
        let Some(neighbour) = self
            .neighbours
            .get_mut(&hop)
            .filter(|hop| hop.scheduled == Some(due))
        else {
            return;
        };
        neighbour.scheduled = None;
        // While the link is down nothing can be asked; timers are set again when it comes up.
        if self.link.up {
            self.serve_neighbour(hop, now);
        }
    }

    /// Does what a next hop is due for.
    fn serve_neighbour(&mut self, hop: Hop, now: Instant) {
        let Some(neighbour) = self.neighbours.get_mut(&hop) else {
            return;
        };
        let before = neighbour.answer();
        let duty = neighbour.on_time(now);
        if neighbour.answer() != before {
            self.tell_all_over(hop);
        }
        match duty {
            None => {}
            Some(Duty::Ask) => self.read_neighbour(hop, now),
            Some(Duty::Probe) => self.make_use(hop, now),
            Some(Duty::Forget) => {
                let remotes = self
                    .neighbours
                    .remove(&hop)
                    .map(|neighbour| neighbour.remotes)
                    .unwrap_or_default();
                for remote in remotes {
                    self.forget(remote);
                }
            }
        }
        self.schedule(hop);
    }

    fn schedule(&mut self, hop: Hop) {
        let Some(neighbour) = self.neighbours.get_mut(&hop).filter(|_| self.link.up) else {
            return;
        };
        let due = neighbour.due();
        // An older timer finds itself superseded when it runs.
        if due != neighbour.scheduled {
            neighbour.scheduled = due;
            self.timers
                .extend(due.map(|due| Reverse((due, Timer::Neighbour(hop)))));
        }
    }

    /// Reads the kernel's entry; has the kernel resolve it if there is none.
    fn read_neighbour(&mut self, hop: Hop, now: Instant) {
        self.counts.neighbour_queries += 1;
        match neighbours::ask(&mut self.requests, hop) {
            Ok(finding) => {
                self.on_finding(hop, finding, now);
                let trying = self
                    .neighbours
                    .get(&hop)
                    .is_some_and(|hop| hop.answer() == Answer::Trying);
                if trying && finding != Finding::Resolving {
                    self.make_use(hop, now);
                }
            }
            Err(error) => self.on_refusal(hop, &error, now),
        }
    }

    fn make_use(&mut self, hop: Hop, now: Instant) {
        self.counts.neighbour_uses += 1;
        match neighbours::make_use(&mut self.requests, hop) {
            Ok(()) => {
                if let Some(neighbour) = self.neighbours.get_mut(&hop) {
                    neighbour.on_used();
                }
            }
            Err(error) => self.on_refusal(hop, &error, now),
        }
    }

    fn on_refusal(&mut self, hop: Hop, error: &NetlinkError, now: Instant) {
        self.counts.failed_queries += 1;
        tracing::debug!("the kernel does not resolve {}: {error}", hop.address);
        if let Some(neighbour) = self.neighbours.get_mut(&hop) {
            neighbour.on_refused(now);
            self.tell_all_over(hop);
            self.schedule(hop);
        }
    }

    fn on_finding(&mut self, hop: Hop, finding: Finding, now: Instant) {
        let Some(neighbour) = self.neighbours.get_mut(&hop) else {
            return;
        };
        let changed = neighbour.on_finding(finding, now);
        self.schedule(hop);
        if changed {
            self.tell_all_over(hop);
        }
    }

    fn tell_all_over(&mut self, hop: Hop) {
        let Some(neighbour) = self.neighbours.get(&hop) else {
            return;
        };
        let remotes: Vec<IpAddr> = neighbour.remotes.iter().copied().collect();
        for remote in remotes {
            self.tell(remote);
        }
    }

    fn tell_all(&mut self) {
        let remotes: Vec<IpAddr> = self.remotes.keys().copied().collect();
        for remote in remotes {
            self.tell(remote);
        }
    }

    /// Tells the shards about a remote if there is news. A question that is still open is no news.
    fn tell(&mut self, remote: IpAddr) {
        let Some(known) = self.remotes.get(&remote) else {
            return;
        };
        let resolution = self.resolution(&known.decision);
        let Some(known) = self.remotes.get_mut(&remote) else {
            return;
        };
        if known.told.as_ref() == Some(&resolution)
            || (known.told.is_none() && resolution == Resolution::Pending)
        {
            return;
        }
        known.told = Some(resolution.clone());
        self.updates.push(Update::Known {
            remote,
            resolution,
            touched: Arc::clone(&known.touched),
        });
    }

    fn resolution(&self, decision: &Decision) -> Resolution {
        if !self.link.up {
            return Resolution::Unreachable(Unreachable::LinkDown);
        }
        let via = match decision {
            Decision::No(unreachable) => return Resolution::Unreachable(unreachable.clone()),
            Decision::Via(via) => via,
        };
        // A VLAN that has gone is a link that is down, until the kernel's routes say otherwise.
        let Some((link, vlan)) = self.network(via.ifindex).filter(|(link, _)| link.up) else {
            return Resolution::Unreachable(Unreachable::LinkDown);
        };
        match self
            .neighbours
            .get(&via.hop())
            .map_or(Answer::Trying, Neighbour::answer)
        {
            Answer::Trying => Resolution::Pending,
            Answer::Silent => Resolution::Unreachable(Unreachable::NoNeighbour {
                next_hop: via.next_hop,
            }),
            Answer::Mac(destination_mac) => Resolution::Ready(Path {
                source: via.source,
                source_mac: link.mac,
                destination_mac,
                vlan,
                mtu: via.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
            }),
        }
    }

    fn on_link(&mut self, link: Option<LinkState>, now: Instant) {
        let former = self.link;
        let gone = LinkState {
            up: false,
            carrier: false,
            ..former
        };
        self.link = link.unwrap_or(gone);
        if link.is_none() && !std::mem::replace(&mut self.gone, true) {
            self.events.push(HostEvent::DeviceGone);
        }
        if self.link == former {
            return;
        }
        match (former.running(), self.link.running()) {
            (false, true) => self.events.push(HostEvent::LinkUp),
            (true, false) => self.events.push(HostEvent::LinkDown),
            _ => {}
        }
        if self.link.mtu != former.mtu {
            self.events.push(HostEvent::MtuChanged(self.link.mtu));
            self.look_at_vlans_soon(now);
        }
        if self.link.mac != former.mac {
            self.events.push(HostEvent::MacChanged(self.link.mac));
        }
        self.tell_all();
        if self.link.up && !former.up {
            self.schedule_all();
        }
        self.reroute_soon(now);
    }

    fn schedule_all(&mut self) {
        let hops: Vec<Hop> = self.neighbours.keys().copied().collect();
        for hop in hops {
            self.schedule(hop);
        }
    }
}
