//! Knobs of a shard and of an engine, each with its unit and default.

use std::ops::RangeInclusive;
use std::time::Duration;

use bywash_tcp::Config as TcpConfig;
use bywash_wire::ChecksumPolicy;

use crate::defence::SynCookies;
use crate::fast_open::FastOpenConfig;
use crate::patrol::Reap;

/// What a shard does when a turn found nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Never sleep: lowest latency, a whole core.
    Spin,
    /// Look for work this long, then sleep until a frame, a command or a timer.
    SpinThenSleep(Duration),
    /// Sleep at once.
    Sleep,
}

/// Which flows get an RX ring of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolPolicy {
    /// None: all flows read from the primary's ring.
    Shared,
    /// Each new flow while slots last, from its first segment on.
    Dedicated,
    /// A flow that has received this many bytes, while slots last.
    PromoteAfter(u64),
}

/// What becomes of packets beyond a flow pool's credit or rate. Each is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Discard {
    /// The packet is dropped, as a full ring would have it: the newest goes.
    Packet,
    /// Its payload is dropped; what it acknowledges counts.
    Data,
    /// The peer is held back: beyond the rate packets wait in the ring, towards the credit the window closes, so that a
    /// sender that keeps to its window loses nothing. What comes all the same is treated as by `Data`.
    #[default]
    Window,
}

/// What each flow pool may bring and hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Received frames that came by the pool and are held: unread, out of order, or lent to the application. `None`: the
    /// shard's `lease_cap`, as long as frames are plenty, and an equal part of it when they are not.
    pub credit: Option<u32>,
    /// Packets per second, after a ring's worth at once. `None`: no limit.
    pub rate: Option<u32>,
    /// What becomes of what is beyond.
    pub discard: Discard,
    /// A flow that has received nothing for this long gives its ring to another that wants one.
    pub idle_after: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            credit: None,
            rate: None,
            discard: Discard::Window,
            idle_after: Duration::from_secs(1),
        }
    }
}

/// Default receive buffer: 181 full segments of a 1500-byte MTU. That is below the 256 entries of
/// veth's ring and of a flow pool's, so one flow's window never overruns them; enough for 10 Gbit/s
/// at 200 us. Longer paths want more ([`ConnOptions::receive_buffer`](crate::context::ConnOptions));
/// windows do not tune themselves yet.
pub const RECEIVE_BUFFER: usize = 256 * 1024;

/// One shard.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard of the engine this is, from 0.
    pub index: u32,
    /// How many shards the engine has.
    pub shards: u32,
    /// Defaults of every connection.
    pub tcp: TcpConfig,
    /// Largest IP datagram that the device sends, in bytes.
    pub mtu: u16,
    /// What is accepted as a TCP checksum on receive.
    pub checksum: ChecksumPolicy,
    /// What happens when there is nothing to do.
    pub idle: IdlePolicy,
    /// Which flows get rings of their own.
    pub pools: PoolPolicy,
    /// What each of those rings may bring and hold.
    pub pool_limits: PoolLimits,
    /// Frames taken from one RX ring in one turn.
    pub ingress_budget: usize,
    /// Segments one connection may send in one turn before the next one's go.
    pub egress_quantum: usize,
    /// Frames that application data may never take, kept for ACKs, SYNs and RSTs.
    pub control_frames: u32,
    /// RX frames that applications and reassembly queues may hold in all; the advertised windows
    /// shrink as this fills.
    pub lease_cap: u32,
    /// Connections in SYN-RECEIVED that one listener may have; SYNs beyond are answered as `syn_cookies` says.
    pub backlog: u32,
    /// When SYNs are answered by cookies.
    pub syn_cookies: SynCookies,
    /// Limits and keys of TCP Fast Open, for those who do it.
    pub fast_open: FastOpenConfig,
    /// Connections that the shard holds at most.
    pub max_connections: u32,
    /// Connections in TIME-WAIT that the shard remembers; beyond it the oldest is forgotten (Linux's `tcp_max_tw_buckets`).
    pub max_time_waits: u32,
    /// Which connections the shard ends by itself.
    pub reap: Reap,
    /// Local ports of active opens.
    pub local_ports: RangeInclusive<u16>,
    /// RSTs per second that answer segments of no connection.
    pub resets_per_second: u32,
    /// Challenge ACKs (RFC 5961) per second of all connections together; each second's limit is drawn between half and one and
    /// a half of this. Each connection has a limit of its own besides (`TcpConfig::challenge_interval`).
    pub challenges_per_second: u32,
    /// How long a stopping shard waits for its connections to close before it resets them.
    pub linger: Duration,
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            index: 0,
            shards: 1,
            tcp: TcpConfig {
                // Whatever the device's MTU allows.
                mss: u16::MAX,
                receive_buffer: RECEIVE_BUFFER,
                receive_buffer_max: RECEIVE_BUFFER,
                ..TcpConfig::default()
            },
            mtu: 1500,
            checksum: ChecksumPolicy::Full,
            idle: IdlePolicy::SpinThenSleep(Duration::from_micros(50)),
            pools: PoolPolicy::PromoteAfter(256 * 1024),
            pool_limits: PoolLimits::default(),
            ingress_budget: 256,
            egress_quantum: 32,
            control_frames: 256,
            lease_cap: 4096,
            backlog: 1024,
            syn_cookies: SynCookies::WhenFull,
            fast_open: FastOpenConfig::default(),
            max_connections: 1 << 20,
            max_time_waits: 1 << 18,
            reap: Reap::default(),
            local_ports: 61440..=65535,
            resets_per_second: 1000,
            challenges_per_second: 1000,
            linger: Duration::from_secs(1),
        }
    }
}
