//! A shard: one core, one queue, everything on it. It shares nothing with other shards.
//!
//! [`Core`] is all of a shard but the service, so that a [`Context`] can lend it to the service
//! while the service is being called. The stages of a turn are methods of `Core` and `Shard`, one
//! file each in `stages/`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bywash_tcp::Connection;
use bywash_tcp::time::Instant;
use bywash_wire::{DropReason, Link, Tuple};
use bywash_xsk::{Frame, Port};
use hashbrown::HashMap;

use crate::challenges::Challenges;
use crate::clock::Clock;
use crate::config::{PoolPolicy, ShardConfig};
use crate::context::Context;
use crate::defence::RateLimit;
use crate::directory::{ControlMessage, Directory};
use crate::fast_open::KnownServers;
use crate::flows::{FlowTable, Place};
use crate::host::Routes;
use crate::listeners::Listeners;
use crate::local_ports::LocalPorts;
use crate::path_mtus::PathMtus;
use crate::patrol::{Patrol, Progress};
use crate::payload::FramePayload;
use crate::pools::Pools;
pub(crate) use crate::pools::Pressure;
use crate::pools::moves::Move;
use crate::pools::scan::Scan;
use crate::random::{Random, Secrets};
use crate::report::Counters;
use crate::run::Bulk;
use crate::service::{ConnId, Event, Luggage, Service};
use crate::slab::Slab;
use crate::steering::Steering;
use crate::syn_alarm::SynAlarm;
use crate::time_waits::TimeWaits;
use crate::wheel::Wheel;

/// How long a shard that ends tries to get its RSTs into the TX ring.
const RESET_TIME: bywash_tcp::time::Duration = bywash_tcp::time::Duration::from_millis(100);

/// Everything that a shard takes from outside: a simulation gives its own.
pub struct Environment {
    /// Monotonic time, read once a turn.
    pub clock: Box<dyn Clock>,
    /// Sequence numbers, ports, hash keys.
    pub random: Box<dyn Random>,
    /// Paths to remote hosts.
    pub routes: Box<dyn Routes>,
    /// The demultiplexer and the kernel's port table.
    pub steering: Box<dyn Steering>,
}

/// How a connection came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// By `connect`.
    Active,
    /// By a SYN to this listening port; not yet reported as accepted.
    HalfOpen(u16),
    /// By a SYN to this listening port, and reported.
    Accepted(u16),
}

/// A connection with what the engine keeps beside TCP's own state.
pub(crate) struct Conn {
    pub(crate) tcp: Connection<FramePayload>,
    /// Link header of every segment; `None` until the next hop is known.
    pub(crate) link: Option<Link>,
    pub(crate) origin: Origin,
    /// RX ring that the demultiplexer sends the flow to, if it has one of its own.
    pub(crate) pool: Option<u16>,
    /// Stands in `Core::moves`: it is changing rings.
    pub(crate) moving: bool,
    /// Packets that came by another shard, less those that came here.
    pub(crate) away: u16,
    /// Unread bytes it may announce while frames are plenty.
    pub(crate) receive_buffer: usize,
    /// Bytes received before promotion; counts no further afterwards.
    pub(crate) received: u64,
    /// Stands in `Core::dirty`.
    pub(crate) dirty: bool,
    /// Stands in `Core::ready`.
    pub(crate) ready: bool,
    /// A `send` was short; a `Writable` event is owed.
    pub(crate) wants_writable: bool,
    /// Stands in `Core::starved`: the `send` was short for want of TX frames.
    pub(crate) starved: bool,
    /// Stands in `Core::blocked`: a retransmission waits for its frame's completion.
    pub(crate) blocked: bool,
    /// TCP is done with it.
    pub(crate) ended: Option<bywash_tcp::CloseReason>,
    /// The service was told of the end.
    pub(crate) told: bool,
    /// The service closed it and reads no more.
    pub(crate) abandoned: bool,
    /// What the patrol knows of a connection for whose peer data waits.
    pub(crate) progress: Option<Box<Progress>>,
    /// It did Fast Open, and what came of it is not settled.
    pub(crate) fast_open: bool,
    /// What an active open was asked for, kept until its path is known.
    pub(crate) opening: Option<Box<bywash_tcp::Config>>,
}

impl Conn {
    /// Whether the flow has brought so much that it is to have a ring of its own.
    #[inline]
    pub(crate) fn deserves_ring(&self, policy: PoolPolicy) -> bool {
        self.pool.is_none()
            && !self.moving
            && matches!(policy, PoolPolicy::PromoteAfter(bytes) if self.received > bytes)
    }
}

/// What one turn did. All zero: nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnReport {
    /// Completions taken from the completion ring.
    pub reclaimed: usize,
    /// Frames given to the fill ring.
    pub refilled: usize,
    /// Frames taken from the RX rings.
    pub received: usize,
    /// Deadlines that came.
    pub timers: usize,
    /// Events given to the service, messages taken from other threads.
    pub delivered: usize,
    /// Segments put into the TX ring.
    pub sent: usize,
    /// System calls that woke the kernel.
    pub kicks: usize,
}

impl TurnReport {
    /// Whether anything was done that may have made more work. Refilling alone does not.
    pub fn worked(&self) -> bool {
        self.reclaimed + self.received + self.timers + self.delivered + self.sent > 0
    }
}

/// A shard without its service.
pub struct Core<P: Port> {
    pub(crate) config: ShardConfig,
    pub(crate) port: P,
    pub(crate) env: Environment,
    pub(crate) secrets: Secrets,
    pub(crate) directory: Arc<Directory>,
    pub(crate) now: Instant,

    pub(crate) conns: Slab<Conn>,
    pub(crate) flows: FlowTable,
    pub(crate) time_waits: TimeWaits,
    pub(crate) patrol: Patrol,
    pub(crate) listeners: Listeners,
    pub(crate) local_ports: LocalPorts,
    pub(crate) pools: Pools,
    pub(crate) scan: Scan,
    /// Flows that change rings.
    pub(crate) moves: VecDeque<Move>,
    /// Connections whose packets come to another shard, and which: they may move.
    pub(crate) displaced: Vec<(u32, u32)>,
    /// Connections that came from other shards and whose service was not told yet.
    pub(crate) arrived: VecDeque<(ConnId, Luggage)>,
    /// The flow's ring that brought full segments in this turn, if no other ring brought any.
    pub(crate) bulk: Bulk,
    /// By ring: what the last turn that found something in it found.
    pub(crate) reads: Vec<Read>,
    /// Memory of queues that are empty.
    pub(crate) spare: bywash_tcp::Spare<FramePayload>,
    /// Settings of the latest active open.
    pub(crate) last_config: Option<Arc<bywash_tcp::Config>>,
    pub(crate) wheel: Wheel,
    pub(crate) service_timers: BinaryHeap<Reverse<(u64, u64)>>,

    /// Connections to which something happened: their events go to the service.
    pub(crate) dirty: VecDeque<u32>,
    /// Connections that may have something to send.
    pub(crate) ready: VecDeque<u32>,
    /// Connections whose application waits for TX frames.
    pub(crate) starved: Vec<u32>,
    /// Connections whose retransmission waits for a completion.
    pub(crate) blocked: Vec<u32>,
    /// Path MTUs that ICMP errors have taught.
    pub(crate) path_mtus: PathMtus,
    /// Servers that Fast Open was tried with.
    pub(crate) known_servers: KnownServers,
    /// Connections that wait for the path to their peer.
    pub(crate) pathless: HashMap<IpAddr, Vec<u32>, foldhash::fast::RandomState>,
    /// Remotes that could not be asked for, because too many questions were open.
    pub(crate) unasked: Vec<IpAddr>,
    /// Remotes whose connections use a path that was being asked for anew when it was last looked at.
    pub(crate) outdated: hashbrown::HashSet<IpAddr, foldhash::fast::RandomState>,
    /// Events that come from no connection's own queue.
    pub(crate) events: VecDeque<Event>,
    /// Frames of one ring, between `receive` and decode; kept for its allocation.
    pub(crate) batch: Vec<Frame>,
    /// Owners of pools whose windows must follow; kept for its allocation.
    pub(crate) pressed: Vec<u32>,
    /// Remotes whose path changed; kept for its allocation.
    pub(crate) changed: Vec<IpAddr>,

    pub(crate) counters: Counters,
    pub(crate) resets: RateLimit,
    pub(crate) challenges: Challenges,
    /// When a SYN was last answered by a cookie.
    pub(crate) last_cookie: Option<Instant>,
    pub(crate) syn_alarm: SynAlarm,
    pub(crate) phase: Phase,
    /// Share of the receive buffers that new windows may offer; shrinks as frames run out.
    pub(crate) pressure: Pressure,
}

/// Where a shard is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// The service was told to come to an end; if it has not by this time, it is stopped.
    Asked {
        until: Instant,
    },
    /// Connections are closing; whatever is open at this time is reset.
    Stopping {
        until: Instant,
    },
    /// Everything is reset; the RSTs leave, as far as the TX ring takes them until this time.
    Resetting {
        until: Instant,
    },
    Stopped,
}

/// What a turn found in a ring.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Read {
    pub(crate) turn: u64,
    /// It was read to its end.
    pub(crate) drained: bool,
}

impl<P: Port> Core<P> {
    fn new(config: ShardConfig, port: P, mut env: Environment, directory: Arc<Directory>) -> Self {
        let now = env.clock.now();
        let secrets = Secrets::new(env.random.as_mut());
        let local_ports = LocalPorts::new(&config.local_ports, config.index, config.shards);
        let pools = Pools::new(&port, &config, now);
        let scan = Scan::new(port.rings());
        let reads = vec![Read::default(); port.rings()];
        let resets = RateLimit::new(config.resets_per_second);
        let challenges = Challenges::new(config.challenges_per_second);
        let known_servers = KnownServers::new(config.fast_open.known_servers);
        Self {
            config,
            port,
            secrets,
            directory,
            now,
            conns: Slab::new(),
            flows: FlowTable::default(),
            time_waits: TimeWaits::default(),
            patrol: Patrol::new(now),
            listeners: Listeners::default(),
            local_ports,
            pools,
            scan,
            moves: VecDeque::new(),
            displaced: Vec::new(),
            arrived: VecDeque::new(),
            bulk: Bulk::Nothing,
            reads,
            spare: bywash_tcp::Spare::default(),
            last_config: None,
            wheel: Wheel::new(now),
            service_timers: BinaryHeap::new(),
            dirty: VecDeque::new(),
            ready: VecDeque::new(),
            starved: Vec::new(),
            blocked: Vec::new(),
            path_mtus: PathMtus::default(),
            known_servers,
            pathless: HashMap::default(),
            unasked: Vec::new(),
            outdated: hashbrown::HashSet::default(),
            events: VecDeque::new(),
            batch: Vec::new(),
            pressed: Vec::new(),
            changed: Vec::new(),
            counters: Counters::default(),
            resets,
            challenges,
            last_cookie: None,
            syn_alarm: SynAlarm::new(now),
            phase: Phase::Running,
            pressure: Pressure::None,
            env,
        }
    }

    /// Where the flow's state is.
    pub(crate) fn place_of(&self, tuple: &Tuple) -> Option<Place> {
        self.flows.lookup(tuple, &self.conns, &self.time_waits)
    }

    /// The flow's connection, if it is not in TIME-WAIT's own table.
    pub(crate) fn connection_of(&self, tuple: &Tuple) -> Option<u32> {
        match self.place_of(tuple) {
            Some(Place::Connection(index)) => Some(index),
            _ => None,
        }
    }

    pub(crate) fn count_drop(&mut self, reason: DropReason) {
        self.counters.drops[reason.index()] += 1;
    }

    /// Something happened to the connection: look at its events, then let it send.
    pub(crate) fn mark_dirty(&mut self, index: u32) {
        if let Some(conn) = self.conns.by_index(index)
            && !conn.dirty
        {
            conn.dirty = true;
            self.dirty.push_back(index);
        }
    }

    pub(crate) fn mark_ready(&mut self, index: u32) {
        if let Some(conn) = self.conns.by_index(index)
            && !conn.ready
        {
            conn.ready = true;
            self.ready.push_back(index);
        }
    }

    /// Takes the connection out of every table and gives its ring back.
    pub(crate) fn forget(&mut self, index: u32) {
        self.settle_fast_open(index, None);
        let Some(conn) = self.conns.remove(index) else {
            return;
        };
        let tuple = conn.tcp.tuple();
        // The next connection to the same host does not have to search again.
        if let Some((mtu, at)) = conn.tcp.found_path_mtu() {
            self.path_mtus.learn(tuple.remote, mtu, at);
        }
        if conn.opening.is_none() {
            self.flows.remove(&tuple, Place::Connection(index));
            if self.config.shards > 1 {
                self.directory.remove(&tuple);
            }
        }
        self.wheel.set(index, None);
        if let Some(ring) = conn.pool {
            self.env.steering.remove_flow(&tuple);
            self.pools.release(ring);
        }
        if conn.opening.is_none() {
            self.env.steering.closed(&tuple);
        }
        if conn.moving {
            self.forget_moves(index);
        }
        if let Origin::HalfOpen(port) = conn.origin
            && let Some(listener) = self.listeners.by_port(port)
        {
            // A listener that was closed and opened again counts from zero.
            listener.half_open = listener.half_open.saturating_sub(1);
        }
        self.counters.connections_closed += 1;
    }

    /// Time at which the shard must look again even if nothing arrives.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        let service = self
            .service_timers
            .peek()
            .map(|Reverse((at, _))| Instant::from_nanos(*at));
        let stopping = match self.phase {
            Phase::Asked { until } | Phase::Stopping { until } | Phase::Resetting { until } => {
                Some(until)
            }
            Phase::Running | Phase::Stopped => None,
        };
        [
            self.wheel.next_wakeup(),
            self.time_waits.next_wakeup(),
            self.next_patrol(),
            service,
            stopping,
            self.moves
                .iter()
                .filter_map(Move::wakeup)
                .min_by_key(|at| at.as_nanos()),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|at| at.as_nanos())
    }

    pub(crate) fn set_service_timer(&mut self, after: Duration, token: u64) {
        let at = self.now.as_nanos().saturating_add(after.as_nanos() as u64);
        self.service_timers.push(Reverse((at, token)));
    }

    pub(crate) fn stop(&mut self) {
        if matches!(self.phase, Phase::Running | Phase::Asked { .. }) {
            self.phase = Phase::Stopping {
                until: self.now + self.linger(),
            };
            self.each_connection(Self::close_orderly);
        }
    }

    pub(crate) fn linger(&self) -> bywash_tcp::time::Duration {
        bywash_tcp::time::Duration::from_nanos(self.config.linger.as_nanos() as u64)
    }

    /// Ends a stopping shard once every connection has closed. Those that have not by the end of the
    /// linger time are reset, and the shard runs on until their RSTs have left.
    fn settle(&mut self) {
        let now = self.now;
        let is_over = |until: Instant| now.as_nanos() >= until.as_nanos();
        match self.phase {
            Phase::Running | Phase::Stopped => return,
            Phase::Asked { until } => {
                if is_over(until) {
                    self.stop();
                }
                return;
            }
            Phase::Stopping { until } if is_over(until) => {
                self.phase = Phase::Resetting {
                    until: now + RESET_TIME,
                };
                self.each_connection(Self::reset);
            }
            Phase::Resetting { until } if is_over(until) => self.phase = Phase::Stopped,
            Phase::Stopping { .. } | Phase::Resetting { .. } => {}
        }
        self.each_connection(Self::forget_if_over);
        if self.conns.len() == 0 {
            self.phase = Phase::Stopped;
        }
    }

    fn close_orderly(&mut self, index: u32) {
        let now = self.now;
        if let Some(conn) = self.conns.by_index(index) {
            conn.tcp.close(now);
            self.mark_dirty(index);
        }
    }

    fn reset(&mut self, index: u32) {
        if let Some(conn) = self.conns.by_index(index) {
            conn.tcp.abort();
            self.mark_dirty(index);
        }
    }

    /// A stopping shard waits neither for TIME-WAIT nor for a reader.
    fn forget_if_over(&mut self, index: u32) {
        if let Some(conn) = self.conns.by_index(index)
            && (conn.tcp.state() == bywash_tcp::State::TimeWait || conn.tcp.is_closed())
        {
            self.forget(index);
        }
    }

    /// For what concerns all connections and is rare: the end, a change of frame pressure.
    pub(crate) fn each_connection(&mut self, mut visit: impl FnMut(&mut Self, u32)) {
        let all: Vec<u32> = self.conns.iter().map(|(id, _)| id.index).collect();
        for index in all {
            visit(self, index);
        }
    }
}

/// A shard with its service: call [`turn`](Self::turn) or [`run`](Self::run).
pub struct Shard<P: Port, S> {
    pub(crate) core: Core<P>,
    pub(crate) service: S,
    started: bool,
}

impl<P: Port, S: Service> Shard<P, S> {
    /// A shard of an engine with other shards.
    pub(crate) fn with_directory(
        config: ShardConfig,
        port: P,
        service: S,
        env: Environment,
        directory: Arc<Directory>,
    ) -> Self {
        let inbox = directory.inbox(config.index);
        inbox.open(port.waker(), port.umem().view());
        Self {
            core: Core::new(config, port, env, directory),
            service,
            started: false,
        }
    }

    /// A shard on its own.
    pub fn new(config: ShardConfig, port: P, service: S, env: Environment) -> Self {
        let directory = Arc::new(Directory::new(config.shards));
        Self::with_directory(config, port, service, env, directory)
    }

    /// The shards of one engine: they hand each other the frames that came to the wrong queue. Index and number of
    /// shards in their configurations are set here.
    pub fn group(members: Vec<(ShardConfig, P, S, Environment)>) -> Vec<Self> {
        let shards = members.len() as u32;
        let directory = Arc::new(Directory::new(shards));
        let with_index = members.into_iter().zip(0..);
        with_index
            .map(|((config, port, service, env), index)| {
                let config = ShardConfig {
                    index,
                    shards,
                    ..config
                };
                Self::with_directory(config, port, service, env, Arc::clone(&directory))
            })
            .collect()
    }

    /// The service.
    pub fn service(&self) -> &S {
        &self.service
    }

    /// The service, to change it between turns.
    pub fn service_mut(&mut self) -> &mut S {
        &mut self.service
    }

    /// A picture of the shard, as `ss` shows it. Walks all connections.
    pub fn report(&self) -> crate::report::ShardReport {
        self.core.report()
    }

    /// The service back, after the end.
    pub fn into_service(self) -> S {
        self.service
    }

    /// Service, port and surroundings, after the end.
    pub(crate) fn into_parts(self) -> (S, P, Environment) {
        (self.service, self.core.port, self.core.env)
    }

    /// Runs the service's part outside a turn: what it asks for takes effect with the next turn.
    pub fn with_context<R>(&mut self, f: impl FnOnce(&mut S, &mut Context<'_, P>) -> R) -> R {
        f(&mut self.service, &mut Context::new(&mut self.core))
    }

    /// Gives the service its `Started`, unless it has had it. The first turn does that by itself; where a peer on
    /// the same thread must find listeners from its own first turn on, it is done beforehand.
    pub fn start(&mut self) {
        if !self.started {
            self.started = true;
            self.service
                .on_event(&mut Context::new(&mut self.core), Event::Started);
        }
    }

    /// When the shard must be given a turn even if nothing arrives; `None`: nothing is due. A simulation moves
    /// its clock there. Connections that wait for their turn to send are not in it: see
    /// [`has_work`](Self::has_work).
    pub fn next_wakeup(&self) -> Option<Instant> {
        self.core.next_wakeup()
    }

    /// One pass of the loop; see the crate's documentation for the stages and their order.
    pub fn turn(&mut self) -> TurnReport {
        self.start();
        self.core.now = self.core.env.clock.now();
        self.core.bulk = Bulk::Nothing;
        let mut report = TurnReport {
            reclaimed: self.core.reclaim(),
            refilled: self.core.refill(),
            received: self.core.ingress(),
            timers: self.core.timers(),
            ..TurnReport::default()
        };
        report.delivered = self.deliver();
        report.sent = self.core.egress();
        report.kicks = self.core.kick();
        self.core.settle();
        self.core.counters.turns += 1;
        debug_assert_eq!(
            self.core.port.umem().ledger().check(),
            Ok(()),
            "a frame got lost"
        );
        report
    }

    /// Whether a turn has left something that needs no timer and no arrival to go on: a quantum was used up, a ring was
    /// full, the service is fed from elsewhere, or another shard has handed something over.
    pub fn has_work(&self) -> bool {
        let core = &self.core;
        !core.ready.is_empty()
            || !core.dirty.is_empty()
            || self.service.has_work()
            || !core.directory.inbox(core.config.index).is_empty()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.core.phase == Phase::Stopped
    }

    pub(crate) fn take_control(&mut self) -> Option<ControlMessage> {
        self.core
            .directory
            .inbox(self.core.config.index)
            .next_control()
    }
}

/// The peer of a tuple as the application names it.
pub(crate) fn peer_of(tuple: &bywash_wire::Tuple) -> SocketAddr {
    SocketAddr::new(tuple.remote, tuple.remote_port)
}
