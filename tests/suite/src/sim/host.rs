//! A host of a world: its shards, and what stands for its kernel, its device and its clock.
//!
//! ```text
//!  wire --> Demux: RSS picks the queue; flow table, ports, ICMP quotes pick the ring --> VirtualQueue --> Shard
//!  wire <-- VirtualQueue <-- Shard                     Routes, Clock, Random <-- the world
//! ```

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::rc::Rc;

use bywash::seams::tcp::time::Instant;
use bywash::seams::wire::{MacAddr, Tuple, VlanId};
use bywash::seams::{
    Clock, Environment, ListenRefused, Path, Resolution, Routes, SeededRandom, Shard, Steering,
    VirtualPort, VirtualQueue,
};

use super::app::App;
use super::book::SharedBook;
use super::dice::{Dice, mix};
use super::packet::{self, Ports};
use super::scenario::Scenario;

/// Addresses of host `host`: the family is the index.
pub fn addresses(host: usize) -> [IpAddr; 2] {
    let last = host as u8 + 1;
    [
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into())),
    ]
}

fn mac(host: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, host as u8 + 1])
}

/// A host's clock: the world sets it before each turn.
#[derive(Clone)]
pub struct HostClock(Rc<Cell<u64>>);

impl Clock for HostClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.get())
    }
}

/// The kernel's routes: one path, which is not known at first.
struct HostRoutes {
    clock: HostClock,
    sources: [IpAddr; 2],
    path: Path,
    /// Host time at which the kernel answers.
    known_at: u64,
    asked: BTreeSet<IpAddr>,
}

impl Routes for HostRoutes {
    fn resolve(&mut self, remote: IpAddr) -> Resolution {
        if self.clock.0.get() < self.known_at {
            self.asked.insert(remote);
            return Resolution::Pending;
        }
        let source = self.sources[usize::from(remote.is_ipv6())];
        Resolution::Ready(Path {
            source,
            ..self.path
        })
    }

    fn poll(&mut self, changed: &mut Vec<IpAddr>) {
        if self.clock.0.get() >= self.known_at && !self.asked.is_empty() {
            changed.extend(std::mem::take(&mut self.asked));
        }
    }

    fn sources(&self) -> &[IpAddr] {
        &self.sources
    }
}

/// The demultiplexer: what the XDP program does, for the ports of this host.
#[derive(Default)]
pub struct Demux {
    /// The host's own addresses.
    addresses: Vec<IpAddr>,
    /// The VLAN that is the engine's; frames of others are the kernel's.
    vlan: Option<VlanId>,
    listening: BTreeSet<u16>,
    /// Ports that were listened on and whose connections live on.
    held: BTreeSet<u16>,
    local: Option<RangeInclusive<u16>>,
    /// To (queue, ring).
    flows: HashMap<Ports, (usize, usize)>,
    /// Changes with RSS.
    pub salt: u64,
    queues: usize,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To this queue's ring.
    Ring(usize, usize),
    /// Not ours.
    Kernel,
}

impl Demux {
    /// The decision about a frame that arrives.
    pub fn verdict(&self, frame: &[u8]) -> Verdict {
        if !packet::is_of_vlan(frame, self.vlan) {
            return Verdict::Kernel;
        }
        if let Some(quoted) = packet::quoted_flow(frame) {
            let queue = self.queue(&quoted);
            return if self.is_ours(&quoted) {
                Verdict::Ring(queue, 0)
            } else {
                Verdict::Kernel
            };
        }
        let Some((ports, is_syn)) = packet::flow_of(frame) else {
            return Verdict::Kernel;
        };
        let queue = self.queue(&ports);
        if let Some((owner, ring)) = self.flows.get(&ports) {
            // The flow's ring is of another queue's socket: the packet goes to this queue's primary.
            let ring = if *owner == queue { *ring } else { 0 };
            return Verdict::Ring(queue, ring);
        }
        if is_syn && self.is_ours(&ports) && self.listening.contains(&ports.local_port) {
            return Verdict::Ring(queue, 1);
        }
        if self.is_ours(&ports) {
            Verdict::Ring(queue, 0)
        } else {
            Verdict::Kernel
        }
    }

    fn is_ours(&self, ports: &Ports) -> bool {
        let port = ports.local_port;
        let local = || self.local.as_ref().is_some_and(|all| all.contains(&port));
        let port = self.listening.contains(&port) || self.held.contains(&port) || local();
        port && self.addresses.contains(&ports.local)
    }

    fn queue(&self, ports: &Ports) -> usize {
        (mix(ports.hash() ^ self.salt) % self.queues as u64) as usize
    }
}

struct HostSteering {
    demux: Rc<RefCell<Demux>>,
    queue: usize,
}

fn ports_of(tuple: &Tuple) -> Ports {
    Ports {
        local: tuple.local,
        remote: tuple.remote,
        local_port: tuple.local_port,
        remote_port: tuple.remote_port,
    }
}

impl Steering for HostSteering {
    fn listen(&mut self, port: u16) -> Result<(), ListenRefused> {
        self.demux.borrow_mut().listening.insert(port);
        Ok(())
    }

    fn unlisten(&mut self, port: u16) {
        let mut demux = self.demux.borrow_mut();
        demux.listening.remove(&port);
        demux.held.insert(port);
    }

    fn local_ports(&mut self, range: RangeInclusive<u16>) -> Result<RangeInclusive<u16>, String> {
        self.demux.borrow_mut().local = Some(range.clone());
        Ok(range)
    }

    fn insert_flow(&mut self, tuple: &Tuple, ring: usize, _: u32) -> Result<(), String> {
        let mut demux = self.demux.borrow_mut();
        demux.flows.insert(ports_of(tuple), (self.queue, ring));
        Ok(())
    }

    fn remove_flow(&mut self, tuple: &Tuple) {
        self.demux.borrow_mut().flows.remove(&ports_of(tuple));
    }
}

/// One host.
pub struct Host {
    /// 0 or 1.
    pub index: usize,
    /// One shard a queue. Empty while the host is dead.
    pub shards: Vec<Shard<VirtualPort, App>>,
    /// The devices' ends of the shards' queues.
    pub queues: Vec<VirtualQueue>,
    /// Which packets go where.
    pub demux: Rc<RefCell<Demux>>,
    clock: HostClock,
    /// Host time less world time.
    ahead: u64,
    /// Host time at which its kernel knows all paths.
    known_at: u64,
}

impl Host {
    /// A host without shards.
    pub fn new(index: usize, scenario: &Scenario) -> Self {
        Self {
            index,
            shards: Vec::new(),
            queues: Vec::new(),
            demux: Rc::default(),
            clock: HostClock(Rc::default()),
            ahead: scenario.hosts[index].clock,
            known_at: 0,
        }
    }

    /// Boots: new shards, new memory, nothing remembered.
    pub fn boot(&mut self, scenario: &Scenario, book: &SharedBook, dice: &mut Dice, now: u64) {
        let shape = &scenario.hosts[self.index];
        self.set_clock(now);
        *self.demux.borrow_mut() = Demux {
            addresses: addresses(self.index).into(),
            vlan: scenario.vlan,
            queues: shape.queues,
            salt: dice.next_u64(),
            ..Demux::default()
        };
        let own = addresses(self.index);
        let path = Path {
            source: own[0],
            source_mac: mac(self.index),
            destination_mac: mac(1 - self.index),
            vlan: scenario.vlan,
            mtu: shape.shard.mtu,
        };
        self.known_at = self.clock.0.get() + shape.route_takes;
        let mut members = Vec::new();
        self.queues.clear();
        for queue in 0..shape.queues {
            let (port, device) = VirtualPort::open(&shape.memory).expect("memory for a queue");
            self.queues.push(device);
            let routes = HostRoutes {
                clock: self.clock.clone(),
                sources: own,
                path,
                known_at: self.known_at,
                asked: BTreeSet::new(),
            };
            let env = Environment {
                clock: Box::new(self.clock.clone()),
                random: Box::new(SeededRandom(dice.next_u64())),
                routes: Box::new(routes),
                steering: Box::new(HostSteering {
                    demux: Rc::clone(&self.demux),
                    queue,
                }),
            };
            let app = App::new(self.index, queue, now, Rc::clone(book));
            members.push((shape.shard.clone(), port, app, env));
        }
        self.shards = Shard::group(members);
        for shard in &mut self.shards {
            shard.start();
        }
    }

    /// Goes without a word.
    pub fn die(&mut self) {
        self.shards.clear();
    }

    /// Whether it has shards.
    pub fn is_alive(&self) -> bool {
        !self.shards.is_empty()
    }

    /// Whether its connections can send.
    pub fn knows_paths(&self) -> bool {
        self.clock.0.get() >= self.known_at
    }

    /// Shows the world's time, as far ahead as this host's clock is.
    pub fn set_clock(&mut self, now: u64) {
        self.clock.0.set(now + self.ahead);
    }

    /// From now on its clock is so much further ahead.
    pub fn leap(&mut self, by: u64) {
        self.ahead += by;
    }

    /// World time of a moment on this host's clock.
    pub fn world_time(&self, at: Instant) -> u64 {
        at.as_nanos().saturating_sub(self.ahead)
    }
}
