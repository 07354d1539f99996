//! What a connection's sending half says of itself: how `bywash ss --info` answers "why is it not faster?".

use bywash_tcp::{CongestionFigures, Info};
use serde::{Deserialize, Serialize};

/// The sending half of one connection, in the manner of Linux's `TCP_INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderReport {
    /// Congestion control algorithm: `cubic`, `reno` or `bbr`.
    pub congestion: String,
    /// Where in its course it is.
    pub phase: String,
    /// CUBIC: window at its last reduction, bytes; 0 before the first.
    pub w_max: Option<u32>,
    /// Reno and CUBIC: the window is in use (RFC 7661).
    pub validated: Option<bool>,
    /// BBR: what the path is taken to carry, bytes a second.
    pub bandwidth: Option<u64>,
    /// Mean deviation of the round-trip time, us.
    pub rttvar_us: u64,
    /// Smallest round-trip time seen, us.
    pub rtt_us_min: u64,
    /// Rate of the latest delivery sample, bytes a second.
    pub delivery_rate: u64,
    /// That sample is the application's rate, not the path's.
    pub delivery_rate_app_limited: bool,
    /// Rate at which segments leave, bytes a second; none: as fast as the windows let them.
    pub pacing_rate: Option<u64>,
    /// Loss recovery: `Open`, `Disorder`, `Recovery` or `Loss`.
    pub recovery: String,
    /// Segments that the peer holds out of order.
    pub sacked_now: u32,
    /// Segments believed lost and not yet acknowledged.
    pub lost_now: u32,
    /// How far segments overtake each other on this path, in segments.
    pub reordering: u32,
    /// Segments that were believed lost.
    pub lost: u64,
    /// Reductions of the window that were needless, and undone.
    pub undone: u64,
    /// Retransmission time-outs.
    pub timeouts: u64,
    /// TCP Fast Open (RFC 7413): `-`, `cookie`, `granted`, `sent`, `accepted`, `not-acked` or `syn-lost`.
    #[serde(default)]
    pub fast_open: String,
    /// Bytes on the SYN, ours or the peer's.
    #[serde(default)]
    pub syn_data: u32,
    /// Both ends do ECN (RFC 3168).
    pub ecn: bool,
    /// Packets received with a congestion mark.
    pub ecn_marks: u64,
    /// Acknowledgments that echoed one.
    pub ecn_echoes: u64,
    /// Time with something to send or on the way, ms.
    pub busy_ms: u64,
    /// ... in which the peer's window was full, ms.
    pub rwnd_limited_ms: u64,
    /// ... in which the send buffer was full, and nothing else held it back, ms.
    pub sndbuf_limited_ms: u64,
}

impl SenderReport {
    pub(super) fn new(info: &Info) -> Self {
        let (mut w_max, mut validated, mut bandwidth) = (None, None, None);
        match info.congestion_figures {
            CongestionFigures::Reno { validated: used } => validated = Some(used),
            CongestionFigures::Cubic {
                validated: used,
                w_max: plateau,
            } => (validated, w_max) = (Some(used), Some(plateau)),
            CongestionFigures::Bbr { bandwidth: bw, .. } => bandwidth = Some(bw),
        }
        let recovery = &info.recovery;
        Self {
            congestion: info.congestion.to_string(),
            phase: info.congestion_phase.to_owned(),
            w_max,
            validated,
            bandwidth,
            rttvar_us: info.rttvar_ns / 1_000,
            rtt_us_min: info.rtt_ns_min / 1_000,
            delivery_rate: info.delivery_rate,
            delivery_rate_app_limited: info.delivery_rate_app_limited,
            pacing_rate: info.pacing_rate,
            recovery: format!("{:?}", recovery.phase),
            sacked_now: recovery.sacked_now,
            lost_now: recovery.lost_now,
            reordering: recovery.reordering,
            lost: recovery.lost,
            undone: recovery.undone,
            timeouts: info.timeouts,
            fast_open: info.fast_open.name().to_owned(),
            syn_data: info.syn_data,
            ecn: info.ecn,
            ecn_marks: info.ecn_marks,
            ecn_echoes: info.ecn_echoes,
            busy_ms: info.busy_ns / 1_000_000,
            rwnd_limited_ms: info.rwnd_limited_ns / 1_000_000,
            sndbuf_limited_ms: info.sndbuf_limited_ns / 1_000_000,
        }
    }
}
