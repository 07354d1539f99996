//! What a shard and an engine say of themselves: the content of `ss`.

mod sender;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use bywash_tcp::LimitedBy;
use bywash_tcp::time::Instant;
use bywash_wire::{DropReason, Tuple};
use bywash_xsk::{Port, Statistics};
use serde::{Deserialize, Serialize};

use crate::fast_open::FastOpenCounters;
use crate::host::VlanDevice;
use crate::pools::Pool;
use crate::shard::Core;
pub use sender::SenderReport;

/// Counters of a shard since its start.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    pub(crate) turns: u64,
    pub(crate) sleeps: u64,
    pub(crate) segments_in: u64,
    pub(crate) segments_out: u64,
    pub(crate) resets_out: u64,
    pub(crate) connections_opened: u64,
    pub(crate) connections_closed: u64,
    pub(crate) handed_over: u64,
    pub(crate) taken_over: u64,
    pub(crate) promoted: u64,
    pub(crate) promotions_failed: u64,
    pub(crate) demoted: u64,
    pub(crate) frames_parked: u64,
    pub(crate) moves_forced: u64,
    pub(crate) rings_marked: u64,
    pub(crate) resteered_away: u64,
    pub(crate) resteered_here: u64,
    pub(crate) resteers_by_nic: u64,
    pub(crate) resteers_declined: u64,
    pub(crate) resteers_failed: u64,
    pub(crate) connections_lost: u64,
    pub(crate) markers_lost: u64,
    pub(crate) tx_frames_wanted: u64,
    pub(crate) partial_checksums: u64,
    pub(crate) paths_lost: u64,
    pub(crate) icmp_errors: u64,
    pub(crate) challenges_withheld: u64,
    pub(crate) time_waits_cut: u64,
    pub(crate) reaped_idle: u64,
    pub(crate) reaped_slow: u64,
    pub(crate) cookies_sent: u64,
    pub(crate) cookies_taken: u64,
    pub(crate) syn_alarms: u64,
    pub(crate) fast_open: FastOpenCounters,
    pub(crate) drops: [u64; DropReason::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            turns: 0,
            sleeps: 0,
            segments_in: 0,
            segments_out: 0,
            resets_out: 0,
            connections_opened: 0,
            connections_closed: 0,
            handed_over: 0,
            taken_over: 0,
            promoted: 0,
            promotions_failed: 0,
            demoted: 0,
            frames_parked: 0,
            moves_forced: 0,
            rings_marked: 0,
            resteered_away: 0,
            resteered_here: 0,
            resteers_by_nic: 0,
            resteers_declined: 0,
            resteers_failed: 0,
            connections_lost: 0,
            markers_lost: 0,
            tx_frames_wanted: 0,
            partial_checksums: 0,
            paths_lost: 0,
            icmp_errors: 0,
            challenges_withheld: 0,
            time_waits_cut: 0,
            reaped_idle: 0,
            reaped_slow: 0,
            cookies_sent: 0,
            cookies_taken: 0,
            syn_alarms: 0,
            fast_open: FastOpenCounters::default(),
            drops: [0; DropReason::COUNT],
        }
    }
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// The VLAN in which its segments come, as in `5`, `s5` or `s5.7`; `None`: untagged.
    #[serde(default)]
    pub vlan: Option<String>,
    /// State in the spelling of RFC 9293: `ESTABLISHED`, `FIN-WAIT-1`, ..
    pub state: String,
    /// RX ring of its own, if it has one.
    pub pool: Option<u32>,
    /// Smoothed round-trip time, us.
    pub rtt_us: u64,
    /// Retransmission time-out, us.
    pub rto_us: u64,
    /// Congestion window, bytes.
    pub cwnd: u32,
    /// Slow-start threshold, bytes.
    pub ssthresh: u32,
    /// Window that the peer offers, bytes.
    pub snd_wnd: u32,
    /// Window that we offer, bytes.
    pub rcv_wnd: u32,
    /// Largest payload of a segment, bytes.
    pub mss: u32,
    /// Sent and not acknowledged, bytes.
    pub in_flight: u32,
    /// Accepted from the application and not yet sent, bytes.
    pub unsent: u64,
    /// Received and not yet read, bytes.
    pub unread: u64,
    /// Payload received in order, bytes.
    pub bytes_in: u64,
    /// Payload acknowledged by the peer, bytes.
    pub bytes_acked: u64,
    /// Segments sent again.
    pub retransmissions: u64,
    /// Segments received out of order.
    pub out_of_order: u64,
    /// What keeps it from sending more: `application`, `cwnd`, `rwnd`, `pacing`, `nagle`, `frames` or `tx-queue`.
    pub limited_by: String,
    /// The sending half in detail.
    #[serde(default)]
    pub sender: SenderReport,
}

/// One listening port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerReport {
    /// The port.
    pub port: u16,
    /// Connections in SYN-RECEIVED.
    pub half_open: u32,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Connections opened early by TCP Fast Open whose handshake has not ended; `None`: it is off.
    #[serde(default)]
    pub early: Option<u32>,
}

/// Frames of a UMEM by holder; `rx` and `tx` are budgets that do not mix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameReport {
    /// Receive frames in all.
    pub rx_total: u64,
    /// Receive frames on the free list.
    pub rx_free: u64,
    /// Transmit frames in all.
    pub tx_total: u64,
    /// Transmit frames on the free list.
    pub tx_free: u64,
    /// With the kernel for receiving: fill ring, driver, and RX rings that are not read yet.
    #[serde(default)]
    pub fill: u64,
    /// Held by connections, queues or the application, and not being sent.
    #[serde(default)]
    pub held: u64,
    /// Sent, and not yet completed.
    #[serde(default)]
    pub outstanding: u64,
    /// Lent to another thread.
    #[serde(default)]
    pub leased: u64,
}

/// The ring of one flow. Counters are since the shard's start, whoever had the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReport {
    /// Its index among the shard's rings.
    pub ring: u32,
    /// Its entries.
    pub size: u32,
    /// Our end and the peer's, of the flow that has it.
    pub flow: Option<(SocketAddr, SocketAddr)>,
    /// Counts the owners of all pools: which one this is.
    pub generation: u32,
    /// Flows that have had it.
    pub owners: u64,
    /// Frames that came by it.
    pub frames: u64,
    /// Frames that came by it and are held now.
    pub held: u64,
    /// Frames that it may hold now.
    pub credit: u64,
    /// Packets refused, wholly or their payload, because it held as many as it may.
    pub beyond_credit: u64,
    /// Packets refused, wholly or their payload, beyond its rate.
    pub beyond_rate: u64,
    /// Packets that the kernel dropped because it was full.
    pub ring_full: u64,
    /// Since packets were last found in it, or it was given out, us.
    pub idle_us: u64,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReport {
    /// Number of the shard.
    pub shard: u32,
    /// Connections.
    pub connections: Vec<ConnectionReport>,
    /// Listening ports.
    pub listeners: Vec<ListenerReport>,
    /// Flow pools: rings of single flows.
    #[serde(default)]
    pub pools: Vec<PoolReport>,
    /// Flow pools in use.
    pub pools_used: u32,
    /// Connections in TIME-WAIT of which the service knows the end: not among `connections`.
    #[serde(default)]
    pub time_waits: u64,
    /// Flow pools in all.
    pub pools_total: u32,
    /// Frames.
    pub frames: FrameReport,
    /// What busy polling is now; `None`: there is no driver.
    #[serde(default)]
    pub busy_poll: Option<String>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
    /// Dropped packets by reason; reasons that did not occur are left out.
    pub drops: BTreeMap<String, u64>,
}

/// The watchdog of an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchdogReport {
    /// Milliseconds without progress after which the program is detached; `None`: never, the guard
    /// is there for the engine's death.
    pub limit_ms: Option<u64>,
    /// `keep` or `detach`: what happens to the program when the engine dies.
    pub on_death: String,
    /// Process id of the guard; `None`: there is none now, the log says why.
    pub guard: Option<u32>,
    /// Times that the program was detached because the engine stood still.
    pub detached: u64,
    /// Guards that ended without a word and were replaced.
    pub guards_lost: u64,
}

/// One engine: what the control socket answers to `ss`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineReport {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Interface name.
    pub device: String,
    /// Addresses that are served now: the device's and those in its VLANs.
    pub addresses: Vec<IpAddr>,
    /// The VLANs that are served, as far as they are there now.
    #[serde(default)]
    pub vlans: Vec<VlanReport>,
    /// `up` or `down`: whether the device is up and has carrier.
    pub link: String,
    /// MTU of the device now, bytes.
    pub mtu: u16,
    /// MAC address of the device now.
    pub mac: String,
    /// `copy` or `zero-copy`, as read back from the kernel.
    pub bind_mode: String,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// Why frames are copied although zero copy was tried.
    #[serde(default)]
    pub zero_copy_refusal: Option<String>,
    /// Bytes of a frame.
    #[serde(default)]
    pub chunk_size: u32,
    /// Why XDP is generic although native was asked for first.
    pub native_refusal: Option<String>,
    /// `off`, `on (NAPI 7)`, or why not.
    pub busy_poll: String,
    /// `software` or `kernel`: who completes the checksums of sent segments.
    pub tx_checksum: String,
    /// `verify`, `verify-or-pseudo` or `trust`: what is accepted as a checksum on receive.
    pub rx_checksum: String,
    /// `none`, `rss`, or `ntuple` with its rules: how the NIC is told which queue a flow goes to.
    pub queue_steering: String,
    /// Who watches over it; `None`: nobody.
    #[serde(default)]
    pub watchdog: Option<WatchdogReport>,
    /// Shards.
    pub shards: Vec<ShardReport>,
    /// Counters of the demultiplexer by name.
    pub xdp: BTreeMap<String, u64>,
}

/// A VLAN of an engine's device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanReport {
    /// Its tags: `5`, `s5` or `s5.7`.
    pub vlan: String,
    /// The interface that has its addresses.
    pub device: String,
    /// `up` or `down`.
    pub link: String,
    /// Bytes of IP packet that its frames carry.
    pub mtu: u16,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl From<&VlanDevice> for VlanReport {
    fn from(one: &VlanDevice) -> Self {
        Self {
            vlan: one.vlan.to_string(),
            device: one.name.clone(),
            link: match one.up && one.carrier {
                true => "up",
                false => "down",
            }
            .to_owned(),
            mtu: one.mtu,
            addresses: one.addresses.clone(),
        }
    }
}

impl<P: Port> Core<P> {
    /// A picture of the shard. Walks all connections: for the control path.
    pub(crate) fn report(&self) -> ShardReport {
        let (pools_used, pools_total) = self.pools.usage();
        // The kernel is asked once a ring.
        let statistics = self.port.statistics();
        ShardReport {
            shard: self.config.index,
            connections: self
                .conns
                .iter()
                .map(|(_, conn)| connection(conn, self.now))
                .collect(),
            listeners: self
                .listeners
                .iter()
                .map(|(port, listener)| ListenerReport {
                    port,
                    half_open: listener.half_open,
                    accepted: listener.accepted,
                    early: listener.early.as_ref().map(|early| early.pending),
                })
                .collect(),
            pools: self.pool_reports(&statistics),
            pools_used: pools_used as u32,
            time_waits: self.time_waits.len() as u64,
            pools_total: pools_total as u32,
            frames: self.frames(),
            busy_poll: self.port.busy_poll().map(ToString::to_string),
            counters: self.named_counters(&statistics),
            drops: DropReason::ALL
                .iter()
                .zip(&self.counters.drops)
                .filter(|(_, count)| **count > 0)
                .map(|(reason, count)| (reason.name().to_owned(), *count))
                .collect(),
        }
    }

    fn pool_reports(&self, statistics: &Statistics) -> Vec<PoolReport> {
        let ring_full = |ring: usize| {
            let kernel = statistics.kernel.get(ring).copied().flatten();
            let own = statistics.rx_ring_full.get(ring).copied().unwrap_or(0);
            kernel.map_or(0, |kernel| kernel.rx_ring_full) + own
        };
        let credit = self.pools.credit(self.config.lease_cap, self.pressure) as u64;
        let report = |(ring, pool): (usize, &Pool)| PoolReport {
            ring: ring as u32,
            size: pool.ring_size,
            flow: pool
                .owner
                .and_then(|owner| self.conns.peek(owner))
                .map(|conn| ends(&conn.tcp.tuple())),
            generation: pool.generation,
            owners: pool.counters.owners,
            frames: pool.counters.frames,
            held: self.port.held(ring) as u64,
            credit,
            beyond_credit: pool.counters.beyond_credit,
            beyond_rate: pool.counters.beyond_rate,
            ring_full: ring_full(ring),
            idle_us: self
                .now
                .as_nanos()
                .saturating_sub(pool.last_used.as_nanos())
                / 1000,
        };
        self.pools.iter().map(report).collect()
    }

    fn frames(&self) -> FrameReport {
        let umem = self.port.umem();
        let ledger = umem.ledger();
        FrameReport {
            rx_total: u64::from(umem.config().rx_frames),
            rx_free: umem.rx_free() as u64,
            tx_total: u64::from(umem.config().tx_frames),
            tx_free: umem.tx_free() as u64,
            fill: ledger.fill.into(),
            held: ledger.held.into(),
            outstanding: (ledger.held_queued + ledger.tx_outstanding).into(),
            leased: ledger.leased.into(),
        }
    }

    fn named_counters(&self, port: &Statistics) -> BTreeMap<String, u64> {
        let own = &self.counters;
        let kernel = |field: fn(&bywash_xsk::KernelStatistics) -> u64| {
            port.kernel.iter().flatten().map(field).sum::<u64>()
        };
        [
            ("turns", own.turns),
            ("sleeps", own.sleeps),
            ("segments-in", own.segments_in),
            ("segments-out", own.segments_out),
            ("resets-out", own.resets_out),
            ("connections-opened", own.connections_opened),
            ("connections-closed", own.connections_closed),
            ("handed-over", own.handed_over),
            ("taken-over", own.taken_over),
            ("promoted", own.promoted),
            ("promotions-failed", own.promotions_failed),
            ("demoted", own.demoted),
            ("frames-parked", own.frames_parked),
            ("moves-forced", own.moves_forced),
            ("rings-marked", own.rings_marked),
            ("resteered-away", own.resteered_away),
            ("resteered-here", own.resteered_here),
            ("resteers-by-nic", own.resteers_by_nic),
            ("resteers-declined", own.resteers_declined),
            ("resteers-failed", own.resteers_failed),
            ("connections-lost", own.connections_lost),
            ("markers-lost", own.markers_lost),
            ("tx-frames-wanted", own.tx_frames_wanted),
            ("partial-checksums", own.partial_checksums),
            ("paths-lost", own.paths_lost),
            ("icmp-errors", own.icmp_errors),
            ("challenges-withheld", own.challenges_withheld),
            ("time-waits-cut", own.time_waits_cut),
            ("reaped-idle", own.reaped_idle),
            ("reaped-slow-reader", own.reaped_slow),
            ("syn-cookies-sent", own.cookies_sent),
            ("syn-cookies-taken", own.cookies_taken),
            ("syn-alarms", own.syn_alarms),
            ("frames-received", port.received),
            ("frames-transmitted", port.transmitted),
            ("frames-completed", port.completed),
            ("tx-refused", port.tx_refused),
            ("tx-ring-full", port.tx_full),
            ("kicks", port.kicks),
            ("rx-wakeups", port.rx_wakeups),
            ("kicks-deferred", port.kicks_deferred),
            ("kick-errors", port.kick_errors),
            ("busy-polls", port.busy_polls),
            ("tx-stalls", port.tx_stalls),
            ("tx-guarded", port.tx_guarded),
            ("tx-changed", port.tx_changed),
            ("payload-bytes-copied", self.port.umem().copied()),
            ("payload-bytes-recut", self.port.umem().recut()),
            (
                "rx-ring-full",
                kernel(|k| k.rx_ring_full) + port.rx_ring_full.iter().sum::<u64>(),
            ),
            ("fill-ring-empty", kernel(|k| k.rx_fill_ring_empty_descs)),
            ("rx-dropped", kernel(|k| k.rx_dropped)),
            ("tx-invalid-descriptors", kernel(|k| k.tx_invalid_descs)),
        ]
        .into_iter()
        .chain(own.fast_open.named())
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }
}

/// Our end and the peer's.
fn ends(tuple: &Tuple) -> (SocketAddr, SocketAddr) {
    (
        SocketAddr::new(tuple.local, tuple.local_port),
        SocketAddr::new(tuple.remote, tuple.remote_port),
    )
}

fn connection(conn: &crate::shard::Conn, now: Instant) -> ConnectionReport {
    let (local, remote) = ends(&conn.tcp.tuple());
    let info = conn.tcp.info_at(now);
    ConnectionReport {
        local,
        remote,
        vlan: conn.tcp.tuple().vlan.map(|vlan| vlan.to_string()),
        state: info.state.to_string(),
        pool: conn.pool.map(u32::from),
        rtt_us: info.rtt_ns / 1000,
        rto_us: info.rto_ns / 1000,
        cwnd: info.cwnd,
        ssthresh: info.ssthresh,
        snd_wnd: info.snd_wnd,
        rcv_wnd: info.rcv_wnd,
        mss: info.mss,
        in_flight: info.in_flight,
        unsent: info.unsent,
        unread: info.unread,
        bytes_in: info.bytes_in,
        bytes_acked: info.bytes_acked,
        retransmissions: info.retransmissions,
        out_of_order: info.out_of_order,
        limited_by: if conn.starved {
            LimitedBy::Frames
        } else {
            info.limited_by
        }
        .name()
        .to_owned(),
        sender: SenderReport::new(&info),
    }
}
