//! Two shards over the in-memory wire, both on the calling thread: tests, the demonstration
//! without root, and the measurement of what the code itself costs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bywash_wire::MacAddr;
use bywash_xsk::{MemoryConfig, MemoryPort, XskError};

use crate::clock::{Clock, MonotonicClock};
use crate::config::{PoolPolicy, ShardConfig};
use crate::host::{Path, StaticRoutes};
use crate::random::{Random, SeededRandom, SystemRandom};
use crate::service::Service;
use crate::shard::{Environment, Shard};
use crate::steering::NoSteering;

/// Addresses of the first shard.
pub const ADDRESSES_A: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
];
/// Addresses of the second shard.
pub const ADDRESSES_B: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
];
const MAC_A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const MAC_B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// Two shards that are each other's only neighbour. The shards are those of an engine; only port,
/// routes and steering differ.
pub struct MemoryPair<A: Service, B: Service> {
    /// The shard at 10.0.0.1.
    pub a: Shard<MemoryPort, A>,
    /// The shard at 10.0.0.2.
    pub b: Shard<MemoryPort, B>,
}

impl<A: Service, B: Service> MemoryPair<A, B> {
    /// Real clock, real randomness. `config.mtu` must fit the wire's frames (2048-byte chunks).
    pub fn new(config: &ShardConfig, a: A, b: B) -> Result<Self, XskError> {
        Self::with_memory(config, &MemoryConfig::default(), a, b)
    }

    /// [`new`](Self::new) over a wire of the given size.
    pub fn with_memory(
        config: &ShardConfig,
        memory: &MemoryConfig,
        a: A,
        b: B,
    ) -> Result<Self, XskError> {
        let clock = || Box::new(MonotonicClock::new()) as Box<dyn Clock>;
        let random = || Box::new(SystemRandom) as Box<dyn Random>;
        let ports = MemoryPort::try_pair(memory)?;
        Ok(Self::with(
            config,
            ports,
            a,
            b,
            [clock(), clock()],
            [random(), random()],
        ))
    }

    /// Everything from outside given: a test sets the clock, the seed and the wire's faults.
    pub fn seeded(
        config: &ShardConfig,
        ports: (MemoryPort, MemoryPort),
        a: A,
        b: B,
        clock: &(impl Clock + Clone + 'static),
        seed: u64,
    ) -> Self {
        let random = |seed| Box::new(SeededRandom(seed)) as Box<dyn Random>;
        let clocks = [
            Box::new(clock.clone()) as Box<dyn Clock>,
            Box::new(clock.clone()),
        ];
        Self::with(config, ports, a, b, clocks, [random(seed), random(!seed)])
    }

    fn with(
        config: &ShardConfig,
        ports: (MemoryPort, MemoryPort),
        a: A,
        b: B,
        [clock_a, clock_b]: [Box<dyn Clock>; 2],
        [random_a, random_b]: [Box<dyn Random>; 2],
    ) -> Self {
        // There is no flow table here that could point a flow at a ring.
        let config = ShardConfig {
            pools: PoolPolicy::Shared,
            ..config.clone()
        };
        let routes = |own: [IpAddr; 2], source_mac, destination_mac| {
            let path = Path {
                source: own[0],
                source_mac,
                destination_mac,
                vlan: None,
                mtu: config.mtu,
            };
            Box::new(StaticRoutes::new(own.to_vec()).with_default(path))
        };
        let environment = |clock, random, routes| Environment {
            clock,
            random,
            routes,
            steering: Box::new(NoSteering),
        };
        let routes_a = routes(ADDRESSES_A, MAC_A, MAC_B);
        let routes_b = routes(ADDRESSES_B, MAC_B, MAC_A);
        let mut pair = Self {
            a: Shard::new(
                config.clone(),
                ports.0,
                a,
                environment(clock_a, random_a, routes_a),
            ),
            b: Shard::new(
                config.clone(),
                ports.1,
                b,
                environment(clock_b, random_b, routes_b),
            ),
        };
        // Whoever listens does so before the other's first segment.
        pair.a.start();
        pair.b.start();
        pair
    }

    /// A turn of each. Whether either did anything.
    pub fn turn(&mut self) -> bool {
        let a = self.a.turn().worked();
        let b = self.b.turn().worked();
        a || b
    }

    /// Turns until `done` or for at most `limit` of wall-clock time. Whether it got done.
    pub fn run_until(&mut self, mut done: impl FnMut(&A, &B) -> bool, limit: Duration) -> bool {
        let start = std::time::Instant::now();
        loop {
            for _ in 0..64 {
                if done(self.a.service(), self.b.service()) {
                    return true;
                }
                self.turn();
            }
            if start.elapsed() > limit {
                return false;
            }
        }
    }
}
