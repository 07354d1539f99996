//! From a seed to a world: what its hosts are like, what their applications intend, what goes wrong.

use std::ops::RangeInclusive;

use bywash::seams::tcp::time::Duration;
use bywash::seams::tcp::{Config, CongestionControl, EcnMode, KeepAlive, MtuProbing};
use bywash::seams::wire::VlanId;
use bywash::seams::{MemoryConfig, PoolClass, RingSizes, UmemConfig};
use bywash::{PoolPolicy, ShardConfig};

use super::app::BOTH;
use super::dice::Dice;
use super::faults::{
    Faults, Happening, HostFaults, Hostility, LinkFaults, Loss, MS, SEC, Stranger, US,
};
use super::plan::Plan;

/// A whole world before it begins.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where its chances come from.
    pub seed: u64,
    /// The two hosts.
    pub hosts: [HostShape; 2],
    /// Connections.
    pub plans: Vec<Plan>,
    /// What goes wrong until `peace`.
    pub faults: Faults,
    /// The VLAN of the wire.
    pub vlan: Option<VlanId>,
    /// World time at which all faults cease.
    pub peace: u64,
    /// How long after that everything must be over.
    pub patience: u64,
}

/// What a host is like.
#[derive(Clone, Debug)]
pub struct HostShape {
    /// Queues of its device, each with a shard.
    pub queues: usize,
    /// Configuration of its shards.
    pub shard: ShardConfig,
    /// Frames and rings of each queue.
    pub memory: MemoryConfig,
    /// What its clock shows at the start of the world, ns.
    pub clock: u64,
    /// Time until the kernel knows the path to the other host, ns; 0: it is known.
    pub route_takes: u64,
}

impl HostShape {
    /// One queue, plenty of everything, the defaults of the engine.
    pub fn plain() -> Self {
        Self {
            queues: 1,
            shard: ShardConfig {
                lease_cap: 1024,
                control_frames: 64,
                pools: PoolPolicy::Shared,
                ..ShardConfig::default()
            },
            memory: memory(2048, 2048, 1024),
            clock: SEC,
            route_takes: 0,
        }
    }
}

fn memory(chunk_size: u32, rx_frames: u32, tx_frames: u32) -> MemoryConfig {
    let ring = (rx_frames / 4).min(512);
    MemoryConfig {
        umem: UmemConfig {
            chunk_size,
            rx_frames,
            tx_frames,
            populate: false,
            ..UmemConfig::default()
        },
        rings: RingSizes {
            primary: ring,
            control: (ring / 4).max(4),
            tx: (tx_frames / 2).clamp(8, 512),
            fill: rx_frames / 2,
        },
        pools: vec![PoolClass {
            pools: 3,
            ring: (ring / 4).max(4),
        }],
        tx_outstanding_max: None,
    }
}

impl Scenario {
    /// Two plain hosts and these connections on a wire of this delay, without faults.
    pub fn plain(seed: u64, delay: u64, plans: Vec<Plan>) -> Self {
        Self {
            seed,
            hosts: [HostShape::plain(), HostShape::plain()],
            plans,
            faults: Faults::none(delay),
            vlan: None,
            peace: 0,
            patience: 1_800 * SEC,
        }
    }

    /// The world of a seed.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mtu = dice.pick(&[576, 1280, 1500, 1500, 1500, 1500, 1766, 3400]);
        let v6_share = if mtu < 1280 {
            0
        } else {
            dice.pick(&[0, 50, 100])
        };
        let hosts = [host(&mut dice.fork(), mtu), host(&mut dice.fork(), mtu)];
        let peace = dice.magnitude(50 * MS, 40 * SEC);
        let queues = [hosts[0].queues, hosts[1].queues];
        let plans = plans(&mut dice.fork(), queues, peace, v6_share);
        let faults = faults(&mut dice.fork(), mtu, peace);
        let vlan = vlan(&mut dice);
        let mut scenario = Self {
            seed,
            hosts,
            plans,
            faults,
            vlan,
            peace,
            patience: 1_800 * SEC,
        };
        if dice.one_in(40) {
            scenario.open_at_once();
        }
        scenario
    }

    /// Both ends of the first connection call `connect`, each to the one port that the other has; there is nothing else.
    fn open_at_once(&mut self) {
        self.plans.truncate(1);
        let plan = &mut self.plans[0];
        plan.both = true;
        plan.nobody = false;
        plan.shard = 0;
        plan.start = 0;
        for host in &mut self.hosts {
            host.queues = 1;
            host.shard.local_ports = BOTH..=BOTH;
        }
        // A new engine would not try again at the same moment.
        self.faults.happenings.retain(|(_, happening)| {
            !matches!(happening, Happening::Death { .. } | Happening::Stop { .. })
        });
    }

    /// Bytes that all connections mean to carry.
    pub fn bytes(&self) -> u64 {
        let ends = self.plans.iter().flat_map(|plan| &plan.ends);
        ends.map(|end| end.total()).sum()
    }
}

/// Mostly none; at times a customer's tag, a service's, or both.
fn vlan(dice: &mut Dice) -> Option<VlanId> {
    match dice.below(16) {
        0 => VlanId::new(dice.between(1, 4094) as u16),
        1 => VlanId::new(dice.between(1, 4094) as u16).map(VlanId::service),
        2 => VlanId::stacked(dice.between(1, 4094) as u16, dice.between(1, 4094) as u16),
        _ => None,
    }
}

fn plans(dice: &mut Dice, queues: [usize; 2], peace: u64, v6_share: u64) -> Vec<Plan> {
    let count = match dice.below(10) {
        0..=4 => dice.between(1, 4),
        5..=8 => dice.between(3, 12),
        _ => dice.between(13, 50),
    };
    // What a world carries is bounded, so that its time is.
    let bytes = dice.magnitude(2_000, 1_500_000) / count;
    (0..count)
        .map(|_| {
            let v6 = dice.below(100) < v6_share;
            let mut plan = Plan::random(dice, queues, bytes.max(1), v6);
            plan.start = if dice.one_in(3) {
                dice.below(peace)
            } else {
                dice.below(2 * MS)
            };
            plan
        })
        .collect()
}

fn tcp_config(dice: &mut Dice) -> Config {
    let mut config = Config {
        receive_buffer: 256 * 1024,
        ..Config::default()
    };
    config.timestamps = !dice.one_in(4);
    config.sack = !dice.one_in(4);
    config.window_scale = !dice.one_in(4);
    config.nagle = !dice.one_in(3);
    config.congestion = dice.pick(&CongestionControl::ALL);
    config.pacing = dice.one_in(4);
    config.ecn = dice.pick(&[EcnMode::Off, EcnMode::On, EcnMode::Accept]);
    if dice.one_in(6) {
        config.keep_alive = Some(KeepAlive {
            idle: Duration::from_millis(dice.magnitude(500, 20_000)),
            interval: Duration::from_millis(dice.magnitude(200, 5_000)),
            probes: dice.between(1, 9) as u8,
        });
    }
    if dice.one_in(8) {
        config.user_timeout = Some(Duration::from_millis(dice.magnitude(1_000, 120_000)));
    }
    config.user_timeout_option = dice.one_in(8);
    config.mtu_probing = dice.pick(&[MtuProbing::Off, MtuProbing::OnBlackHole, MtuProbing::Always]);
    if dice.one_in(3) {
        config.receive_buffer = dice.magnitude(3_000, 400_000) as usize;
    }
    if dice.one_in(3) {
        config.send_buffer = dice.magnitude(3_000, 400_000) as usize;
    }
    config
}

fn host(dice: &mut Dice, mtu: u16) -> HostShape {
    // 256 bytes of headroom, Ethernet and two tags come with it.
    let chunk = if mtu > 1766 { 4096 } else { 2048 };
    let starved = dice.one_in(6);
    let (rx, tx) = if starved {
        (dice.between(64, 256) as u32, dice.between(24, 96) as u32)
    } else {
        (1536, 768)
    };
    let pools = match dice.below(4) {
        0 => PoolPolicy::Shared,
        1 => PoolPolicy::Dedicated,
        _ => PoolPolicy::PromoteAfter(dice.magnitude(1, 100_000)),
    };
    let shard = ShardConfig {
        tcp: tcp_config(dice),
        mtu,
        pools,
        ingress_budget: dice.pick(&[256, 256, 64, 7]),
        egress_quantum: dice.pick(&[32, 32, 8, 1]),
        control_frames: tx / 8,
        lease_cap: rx / 3,
        backlog: dice.pick(&[1024, 1024, 16, 2]),
        local_ports: local_ports(dice),
        ..ShardConfig::default()
    };
    let clock_bits = dice.between(20, 60);
    HostShape {
        queues: dice.pick(&[1, 1, 2]),
        shard,
        memory: memory(chunk, rx, tx),
        // Anywhere, so that clocks of 32 bits wrap in some worlds.
        clock: SEC + dice.below(1 << clock_bits),
        route_takes: if dice.one_in(3) {
            dice.magnitude(10 * US, 100 * MS)
        } else {
            0
        },
    }
}

/// Mostly many ports; at times so few that one is used again while it is in TIME-WAIT.
fn local_ports(dice: &mut Dice) -> RangeInclusive<u16> {
    let last = if dice.one_in(5) {
        61_440 + dice.between(3, 9) as u16
    } else {
        65_535
    };
    61_440..=last
}

fn faults(dice: &mut Dice, mtu: u16, peace: u64) -> Faults {
    let delay = dice.magnitude(5 * US, 80 * MS);
    let mut links = [link(dice, delay), link(dice, delay)];
    if dice.one_in(4) {
        let rate = dice.magnitude(1_000_000, 1_000_000_000);
        let queue = dice.magnitude(4, 256) as usize;
        for link in &mut links {
            link.rate = rate;
            link.queue = queue;
            link.mark_at = (queue / 2).max(1);
        }
    }
    let mut hosts = [HostFaults::default(), HostFaults::default()];
    for host in &mut hosts {
        host_faults(dice, host);
    }
    let mut happenings = Vec::new();
    for _ in 0..dice.pick(&[0, 0, 0, 1, 1, 2, 4]) {
        happenings.push((dice.below(peace), happening(dice, mtu, peace)));
    }
    happenings.sort_by_key(|(at, _)| *at);
    let mut stranger = Stranger::default();
    let rate = |frames: u64| frames * SEC / peace + 1;
    if dice.one_in(8) {
        stranger.syns = dice.magnitude(1, rate(1000));
    }
    if dice.one_in(8) {
        stranger.garbage = dice.magnitude(1, rate(300));
    }
    if dice.one_in(6) {
        stranger.forged = dice.magnitude(1, rate(300));
    }
    let hostile = dice
        .one_in(12)
        .then(|| (dice.below(2) as usize, dice.pick(&Hostility::ALL)));
    Faults {
        links,
        hosts,
        happenings,
        stranger,
        hostile,
    }
}

fn link(dice: &mut Dice, delay: u64) -> LinkFaults {
    let mut link = LinkFaults::delay(delay);
    link.loss = match dice.below(6) {
        0..=1 => Loss::None,
        2..=4 => Loss::Uniform(dice.magnitude(5, 1_500) as u32),
        _ => Loss::Bursty {
            worse: dice.magnitude(5, 500) as u32,
            better: dice.magnitude(500, 5_000) as u32,
            lost: dice.between(3_000, 10_000) as u32,
        },
    };
    if dice.one_in(4) {
        link.jitter = dice.magnitude(US, 2 * delay + US);
    }
    if dice.one_in(3) {
        link.reordering = dice.magnitude(10, 2_000) as u32;
        link.reordering_by = dice.magnitude(10 * US, 3 * delay + 50 * US);
    }
    if dice.one_in(4) {
        link.duplication = dice.magnitude(10, 2_000) as u32;
    }
    if dice.one_in(4) {
        link.corruption = dice.magnitude(10, 1_000) as u32;
    }
    if dice.one_in(6) {
        link.truncation = dice.magnitude(10, 500) as u32;
    }
    link
}

fn host_faults(dice: &mut Dice, host: &mut HostFaults) {
    if dice.one_in(3) {
        host.late_completion = dice.magnitude(10, 10_000) as u32;
        host.late_completion_by = dice.magnitude(10 * US, 2 * SEC);
    }
    if dice.one_in(5) {
        host.deaf = dice.magnitude(10, 5_000) as u32;
    }
    if dice.one_in(5) {
        host.lost_wakeup = dice.magnitude(10, 2_000) as u32;
    }
    if dice.one_in(3) {
        host.snapshot = dice.magnitude(1, 1_000) as u32;
    }
    if dice.one_in(5) {
        host.stolen = dice.magnitude(1, 200) as u32;
        host.stolen_time = dice.magnitude(100 * US, 200 * MS);
    }
}

fn happening(dice: &mut Dice, mtu: u16, peace: u64) -> Happening {
    let host = dice.below(2) as usize;
    // IPv6 has no link below 1280 (RFC 8200 5).
    let least = if mtu < 1280 { 500 } else { 1280 };
    match dice.below(9) {
        8 => Happening::Stop {
            host,
            reborn_after: 2 * SEC + dice.below(3 * SEC),
        },
        0 | 1 => Happening::Outage {
            host,
            lasts: dice.magnitude(10 * MS, peace.clamp(20 * MS, 20 * SEC)),
        },
        2 => Happening::Mtu {
            host,
            mtu: (mtu - dice.below(300).min(u64::from(mtu) - 500) as u16).max(least),
            tells: !dice.one_in(3),
        },
        3 => Happening::ClockJump {
            host,
            by: dice.magnitude(MS, 7 * 24 * 3_600 * SEC),
        },
        4 | 5 => Happening::Respread { host },
        6 => Happening::Death {
            host,
            reborn_after: dice.between(10 * MS, 5 * SEC),
        },
        _ => Happening::Unlisten { host },
    }
}
