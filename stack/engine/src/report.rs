//! What a shard and an engine say of themselves: the content of `ss`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use bywash_wire::DropReason;
use bywash_xsk::Port;
use serde::{Deserialize, Serialize};

use crate::shard::Core;

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
    pub(crate) tx_frames_wanted: u64,
    pub(crate) partial_checksums: u64,
    pub(crate) icmp_errors: u64,
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
            tx_frames_wanted: 0,
            partial_checksums: 0,
            icmp_errors: 0,
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
    /// What keeps it from sending more.
    pub limited_by: String,
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
    /// Flow pools in use and in all.
    pub pools_used: u32,
    /// Flow pools in all.
    pub pools_total: u32,
    /// Frames.
    pub frames: FrameReport,
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
    /// Addresses of the device.
    pub addresses: Vec<IpAddr>,
    /// `copy` or `zero-copy`, as read back from the kernel.
    pub bind_mode: String,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// Who watches over it; `None`: nobody.
    #[serde(default)]
    pub watchdog: Option<WatchdogReport>,
    /// Shards.
    pub shards: Vec<ShardReport>,
    /// Counters of the demultiplexer by name.
    pub xdp: BTreeMap<String, u64>,
}

impl<P: Port> Core<P> {
    /// A picture of the shard. Walks all connections: for the control path.
    pub(crate) fn report(&self) -> ShardReport {
        let (pools_used, pools_total) = self.pools.usage();
        ShardReport {
            shard: self.config.index,
            connections: self
                .conns
                .iter()
                .map(|(_, conn)| connection(conn))
                .collect(),
            listeners: self
                .listeners
                .iter()
                .map(|(port, listener)| ListenerReport {
                    port,
                    half_open: listener.half_open,
                    accepted: listener.accepted,
                })
                .collect(),
            pools_used: pools_used as u32,
            pools_total: pools_total as u32,
            frames: self.frames(),
            counters: self.named_counters(),
            drops: DropReason::ALL
                .iter()
                .zip(&self.counters.drops)
                .filter(|(_, count)| **count > 0)
                .map(|(reason, count)| (reason.name().to_owned(), *count))
                .collect(),
        }
    }

    fn frames(&self) -> FrameReport {
        let umem = self.port.umem();
        FrameReport {
            rx_total: u64::from(umem.config().rx_frames),
            rx_free: umem.rx_free() as u64,
            tx_total: u64::from(umem.config().tx_frames),
            tx_free: umem.tx_free() as u64,
        }
    }

    fn named_counters(&self) -> BTreeMap<String, u64> {
        let own = &self.counters;
        let port = self.port.statistics();
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
            ("tx-frames-wanted", own.tx_frames_wanted),
            ("partial-checksums", own.partial_checksums),
            ("icmp-errors", own.icmp_errors),
            ("frames-received", port.received),
            ("frames-transmitted", port.transmitted),
            ("frames-completed", port.completed),
            ("tx-refused", port.tx_refused),
            ("tx-ring-full", port.tx_full),
            ("kicks", port.kicks),
            ("kicks-deferred", port.kicks_deferred),
            ("kick-errors", port.kick_errors),
            (
                "rx-ring-full",
                kernel(|k| k.rx_ring_full) + port.rx_ring_full.iter().sum::<u64>(),
            ),
            ("fill-ring-empty", kernel(|k| k.rx_fill_ring_empty_descs)),
            ("rx-dropped", kernel(|k| k.rx_dropped)),
            ("tx-invalid-descriptors", kernel(|k| k.tx_invalid_descs)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }
}

fn connection(conn: &crate::shard::Conn) -> ConnectionReport {
    let tuple = conn.tcp.tuple();
    let info = conn.tcp.info();
    ConnectionReport {
        local: SocketAddr::new(tuple.local, tuple.local_port),
        remote: SocketAddr::new(tuple.remote, tuple.remote_port),
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
        limited_by: format!("{:?}", info.limited_by),
    }
}
