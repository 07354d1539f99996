//! A server's queue with flow table and NAPI cycles, a client's without, and two simple services.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use bywash_engine::clock::ManualClock;
use bywash_engine::config::ShardConfig;
use bywash_engine::context::{ConnOptions, Context};
use bywash_engine::host::{Path, StaticRoutes};
use bywash_engine::random::SeededRandom;
use bywash_engine::report::ShardReport;
use bywash_engine::service::{ConnId, Event, Luggage, Recv, Service};
use bywash_engine::shard::{Environment, Shard};
use bywash_engine::steering::{ListenRefused, NoSteering, Steering};
use bywash_engine::wire::{self, ChecksumPolicy, MacAddr, Tuple};
use bywash_engine::xsk::{
    Frame, MemoryConfig, PoolClass, Port, Received, RingSizes, UmemConfig, VirtualPort,
    VirtualQueue,
};

pub(crate) const PORT: u16 = 7;
pub(crate) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
/// Packets of one NAPI cycle.
const CYCLE: usize = 64;

/// The demultiplexer's flow table: flow to queue and ring.
pub(crate) type Flows = Rc<RefCell<HashMap<Tuple, (usize, usize)>>>;

/// One shard's hand on the flow table.
pub(crate) struct Table {
    pub(crate) flows: Flows,
    pub(crate) queue: usize,
    pub(crate) rules: Rules,
}

/// What a NIC with rules has been told: the queue of a flow, by the client's port. `None`: it takes no rules.
pub(crate) type Rules = Rc<RefCell<Option<HashMap<u16, usize>>>>;

impl Steering for Table {
    fn listen(&mut self, _: u16) -> Result<(), ListenRefused> {
        Ok(())
    }

    fn unlisten(&mut self, _: u16) {}

    fn local_ports(&mut self, range: RangeInclusive<u16>) -> Result<RangeInclusive<u16>, String> {
        Ok(range)
    }

    fn insert_flow(&mut self, tuple: &Tuple, ring: usize, _: u32) -> Result<(), String> {
        self.flows.borrow_mut().insert(*tuple, (self.queue, ring));
        Ok(())
    }

    fn remove_flow(&mut self, tuple: &Tuple) {
        self.flows.borrow_mut().remove(tuple);
    }

    fn recall(&mut self, tuple: &Tuple) -> bool {
        let mut rules = self.rules.borrow_mut();
        let former = rules
            .as_mut()
            .map(|rules| rules.insert(tuple.remote_port, self.queue));
        former == Some(None)
    }
}

/// Counts the bytes that come; keeps their frames if told to.
#[derive(Default)]
pub(crate) struct Sink {
    pub(crate) received: u64,
    pub(crate) accepted: usize,
    /// Connections may go to another shard.
    pub(crate) travels: bool,
    /// This one's frames are kept.
    pub(crate) keeps: Option<ConnId>,
    pub(crate) kept: Vec<Frame>,
    pub(crate) connections: Vec<ConnId>,
    pub(crate) by_connection: BTreeMap<ConnId, u64>,
}

impl Service for Sink {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                cx.listen(PORT, ConnOptions::default())
                    .expect("nobody else listens");
            }
            Event::Accepted { conn, .. } => {
                self.accepted += 1;
                self.connections.push(conn);
            }
            Event::Readable { conn } => {
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    self.received += frame.len() as u64;
                    *self.by_connection.entry(conn).or_default() += frame.len() as u64;
                    if self.keeps == Some(conn) {
                        self.kept.push(frame);
                    }
                }
            }
            _ => {}
        }
    }

    fn on_leave(&mut self, conn: ConnId) -> Option<Luggage> {
        self.travels.then(|| {
            let known = self.by_connection.remove(&conn).unwrap_or(0);
            Box::new(known) as Luggage
        })
    }

    fn on_arrive<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId, luggage: Luggage) {
        let known = *luggage.downcast::<u64>().expect("a count of bytes");
        self.by_connection.insert(conn, known);
        self.on_event(cx, Event::Readable { conn });
    }
}

/// Connects; each connection has so many bytes to send as the test says.
#[derive(Default)]
pub(crate) struct Source {
    pub(crate) connections: Vec<ConnId>,
    pub(crate) to_send: BTreeMap<ConnId, u64>,
    pub(crate) open: usize,
    wanted: usize,
}

impl Source {
    pub(crate) fn new(wanted: usize) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    fn pump<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        let left = self.to_send.entry(conn).or_default();
        while *left > 0 {
            let piece = [7; 1400];
            let len = piece.len().min(*left as usize);
            let taken = cx.send(conn, &piece[..len]).expect("open");
            *left -= taken as u64;
            if taken < len {
                return;
            }
        }
    }
}

impl Service for Source {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                for _ in 0..self.wanted {
                    let server = SocketAddr::new(SERVER, PORT);
                    let conn = cx.connect(server, ConnOptions::default()).expect("a path");
                    self.connections.push(conn);
                }
            }
            Event::Connected { conn } => {
                self.open += 1;
                self.pump(cx, conn);
            }
            Event::Writable { conn } => self.pump(cx, conn),
            _ => {}
        }
    }
}

/// When the client's completions come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completions {
    AtOnce,
    /// Some time later, in any order.
    Late,
    /// One in fifty never.
    Missing,
}

/// A cheap source of chance.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % sides
    }
}

pub(crate) fn memory(pools: &[PoolClass]) -> MemoryConfig {
    MemoryConfig {
        umem: UmemConfig {
            rx_frames: 16_384,
            tx_frames: 8192,
            ..UmemConfig::default()
        },
        rings: RingSizes {
            fill: 8192,
            ..RingSizes::default()
        },
        pools: pools.to_vec(),
        tx_outstanding_max: None,
    }
}

fn environment(
    clock: &ManualClock,
    own: IpAddr,
    last: u8,
    seed: u64,
    steering: Box<dyn Steering>,
) -> Environment {
    let path = Path {
        source: own,
        source_mac: MacAddr([2, 0, 0, 0, 0, last]),
        destination_mac: MacAddr([2, 0, 0, 0, 0, 3 - last]),
        vlan: None,
        mtu: 1500,
    };
    Environment {
        clock: Box::new(clock.clone()),
        random: Box::new(SeededRandom(seed)),
        routes: Box::new(StaticRoutes::new(vec![own]).with_default(path)),
        steering,
    }
}

/// A client, and a server of one or two shards behind the device.
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) client: Shard<VirtualPort, Source>,
    pub(crate) client_queue: VirtualQueue,
    pub(crate) servers: Vec<Shard<VirtualPort, Sink>>,
    queues: Vec<VirtualQueue>,
    pub(crate) flows: Flows,
    pub(crate) dice: Dice,
    /// On which queue a flow's packets arrive, by the client's port.
    pub(crate) rss: Box<dyn Fn(u16) -> usize>,
    pub(crate) rules: Rules,
    /// On the wire to the server.
    wire: VecDeque<Vec<u8>>,
    /// Of a thousand packets to the server, this many are lost.
    pub(crate) lost_per_mille: usize,
    pub(crate) ring_full: usize,
    /// What becomes of the client's frames once they are on the wire.
    pub(crate) completions: Completions,
    /// Frames of the client's whose completion has not come.
    pub(crate) withheld: Vec<Frame>,
    /// This shard stands still.
    pub(crate) frozen: Option<usize>,
    /// Allocations in the shards' turns, counted while it is `Some`.
    pub(crate) allocations: Option<u64>,
}

impl World {
    pub(crate) fn new(
        config: &ShardConfig,
        pools: &[PoolClass],
        shards: usize,
        connections: usize,
        seed: u64,
    ) -> Self {
        Self::with(
            config,
            &memory(pools),
            &memory(&[]),
            shards,
            connections,
            seed,
        )
    }

    /// With queues of these sizes: the servers', and the client's.
    pub(crate) fn with(
        config: &ShardConfig,
        servers: &MemoryConfig,
        client: &MemoryConfig,
        shards: usize,
        connections: usize,
        seed: u64,
    ) -> Self {
        let clock = ManualClock::new();
        let flows = Flows::default();
        let rules = Rules::default();
        let (client, client_queue) = VirtualPort::open(client).expect("memory");
        let client = Shard::new(
            ShardConfig::default(),
            client,
            Source::new(connections),
            environment(&clock, CLIENT, 2, seed, Box::new(NoSteering)),
        );
        let mut queues = Vec::new();
        let members = (0..shards).map(|queue| {
            let (port, device) = VirtualPort::open(servers).expect("memory");
            queues.push(device);
            let table = Table {
                flows: Rc::clone(&flows),
                queue,
                rules: Rc::clone(&rules),
            };
            let env = environment(&clock, SERVER, 1, seed + 1 + queue as u64, Box::new(table));
            (config.clone(), port, Sink::default(), env)
        });
        let mut servers = Shard::group(members.collect());
        // The fill rings are filled before anything arrives.
        for server in &mut servers {
            server.turn();
        }
        Self {
            clock,
            client,
            client_queue,
            servers,
            queues,
            flows,
            dice: Dice(seed | 1),
            rss: Box::new(|_| 0),
            rules,
            wire: VecDeque::new(),
            lost_per_mille: 0,
            ring_full: 0,
            completions: Completions::AtOnce,
            withheld: Vec::new(),
            frozen: None,
            allocations: None,
        }
    }

    /// The server's shards may run here.
    fn perhaps_turn(&mut self) {
        if self.dice.roll(2) == 0 {
            self.turn_servers();
        }
    }

    fn complete(&mut self, frame: Frame) {
        match self.completions {
            Completions::AtOnce => drop(frame),
            Completions::Late => self.withheld.push(frame),
            Completions::Missing if self.dice.roll(50) == 0 => self.withheld.push(frame),
            Completions::Missing => drop(frame),
        }
    }

    fn turn_servers(&mut self) {
        for (index, server) in self.servers.iter_mut().enumerate() {
            if self.frozen == Some(index) {
                continue;
            }
            let counted = allocation_counter::measure(|| {
                server.turn();
            });
            if let Some(allocations) = &mut self.allocations {
                *allocations += counted.count_total;
            }
        }
    }

    /// One NAPI cycle of one queue, with the shards running in between as chance will have it.
    fn cycle(&mut self, queue: usize, packets: Vec<Vec<u8>>) {
        let mut touched: Vec<(usize, Vec<Vec<u8>>)> = Vec::new();
        for packet in packets {
            let decoded = wire::decode(&packet, ChecksumPolicy::Full).expect("a TCP segment");
            let entry = self.flows.borrow().get(&decoded.tuple).copied();
            let is_syn = decoded.segment.flags.contains(wire::Flags::SYN);
            let ring = match entry {
                Some((own, ring)) if own == queue => ring,
                Some(_) => 0,
                None if is_syn => 1,
                None => 0,
            };
            match touched.iter_mut().find(|(one, _)| *one == ring) {
                Some((_, packets)) => packets.push(packet),
                None => touched.push((ring, vec![packet])),
            }
            if self.dice.roll(6) == 0 {
                self.perhaps_turn();
            }
        }
        // Last touched first, as the kernel has it; sometimes the other way round.
        if self.dice.roll(4) > 0 {
            touched.reverse();
        }
        for (ring, packets) in touched {
            for packet in packets {
                let fate = self.queues[queue].receive(ring, packet.into());
                self.ring_full += usize::from(fate != Received::Queued);
            }
            self.perhaps_turn();
        }
    }

    fn to_client(&self) {
        for queue in &self.queues {
            while let Some(frame) = queue.transmitted() {
                let fate = self.client_queue.receive(0, frame.bytes().into());
                assert_eq!(fate, Received::Queued);
            }
        }
    }

    /// Lets time pass, `step` between two rounds.
    pub(crate) fn run(&mut self, rounds: usize, step: Duration) {
        for _ in 0..rounds {
            self.clock.advance(step);
            self.client.turn();
            while let Some(frame) = self.client_queue.transmitted() {
                if self.dice.roll(1000) >= self.lost_per_mille {
                    self.wire.push_back(frame.bytes().to_vec());
                }
                self.complete(frame);
            }
            let mut by_queue: Vec<Vec<Vec<u8>>> = vec![Vec::new(); self.queues.len()];
            for packet in self.wire.drain(..) {
                let decoded = wire::decode(&packet, ChecksumPolicy::Full).expect("a TCP segment");
                let port = decoded.tuple.remote_port;
                let ruled = self
                    .rules
                    .borrow()
                    .as_ref()
                    .and_then(|all| all.get(&port).copied());
                by_queue[ruled.unwrap_or_else(|| (self.rss)(port))].push(packet);
            }
            for (queue, packets) in by_queue.into_iter().enumerate() {
                let mut packets = packets.into_iter().peekable();
                while packets.peek().is_some() {
                    self.cycle(queue, packets.by_ref().take(CYCLE).collect());
                }
            }
            if self.completions == Completions::Late {
                for _ in 0..self.dice.roll(self.withheld.len() / 4 + 2) {
                    if !self.withheld.is_empty() {
                        let which = self.dice.roll(self.withheld.len());
                        self.withheld.swap_remove(which);
                    }
                }
            }
            self.turn_servers();
            self.to_client();
        }
    }

    /// What the client sends next arrives so many times more, on the queue that RSS names.
    pub(crate) fn flood(&mut self, connection: usize, copies: usize) {
        self.send(connection, 1);
        self.clock.advance(Duration::from_millis(300));
        self.client.turn();
        let mut packet = None;
        while let Some(frame) = self.client_queue.transmitted() {
            packet = Some(frame.bytes().to_vec());
        }
        let packet = packet.expect("something is sent again");
        for _ in 0..copies {
            self.cycle((self.rss)(0), vec![packet.clone()]);
            self.turn_servers();
        }
    }

    /// Frames of a server's queue that are lent.
    pub(crate) fn lent(&self, queue: usize) -> u32 {
        self.queues[queue].umem().ledger().leased
    }

    /// Gives one connection more to send.
    pub(crate) fn send(&mut self, connection: usize, bytes: u64) {
        self.client.with_context(|source, cx| {
            let conn = source.connections[connection];
            *source.to_send.entry(conn).or_default() += bytes;
            source.pump(cx, conn);
        });
    }

    /// Runs until everything has arrived, or for so many rounds.
    pub(crate) fn settle(&mut self, bytes: u64, rounds: usize, step: Duration) {
        for _ in 0..rounds {
            if self.received() == bytes {
                return;
            }
            self.run(1, step);
        }
        panic!(
            "{} of {bytes} bytes arrived: {:#?}",
            self.received(),
            self.reports()
        );
    }

    pub(crate) fn received(&self) -> u64 {
        self.servers
            .iter()
            .map(|server| server.service().received)
            .sum()
    }

    pub(crate) fn reports(&self) -> Vec<ShardReport> {
        self.servers.iter().map(Shard::report).collect()
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.reports()
            .iter()
            .map(|report| report.counters[name])
            .sum()
    }

    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        let reports = self.reports();
        let counts = reports.iter().filter_map(|report| report.drops.get(reason));
        counts.sum()
    }

    /// Segments that reached a connection of the server out of order.
    pub(crate) fn out_of_order(&self) -> u64 {
        let reports = self.reports();
        let connections = reports.iter().flat_map(|report| &report.connections);
        connections.map(|conn| conn.out_of_order).sum()
    }

    /// Every frame has a holder, and no packet found a full ring.
    pub(crate) fn nothing_lost(&self) {
        for queue in &self.queues {
            queue.umem().audit().expect("the holders add up");
        }
        assert_eq!(self.ring_full, 0, "a ring of the test's was too small");
    }
}
