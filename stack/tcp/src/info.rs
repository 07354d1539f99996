//! What a connection can say about itself, in the manner of Linux's `TCP_INFO`.

use crate::congestion::{CongestionControl, CongestionFigures};
use crate::fast_open::FastOpenStatus;
use crate::loss::RecoveryInfo;
use crate::snapshot::code;
use crate::state::State;
use crate::time::Instant;

/// What kept the last call of `poll_transmit` from sending more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LimitedBy {
    /// There was nothing (more) to send.
    #[default]
    Application,
    /// The congestion window was full.
    CongestionWindow,
    /// The peer's window was full.
    ReceiveWindow,
    /// The segment due for retransmission still lies in the transmit ring.
    TransmitQueue,
    /// The pacing rate is used up.
    Pacing,
    /// Nagle's rule holds the rest back.
    Nagle,
    /// There is no frame to cut a segment into.
    Frames,
}

impl LimitedBy {
    /// A short name, for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::CongestionWindow => "cwnd",
            Self::ReceiveWindow => "rwnd",
            Self::TransmitQueue => "tx-queue",
            Self::Pacing => "pacing",
            Self::Nagle => "nagle",
            Self::Frames => "frames",
        }
    }
}

code!(
    enum LimitedBy {
        Application = 0,
        CongestionWindow = 1,
        ReceiveWindow = 2,
        TransmitQueue = 3,
        Pacing = 4,
        Nagle = 5,
        Frames = 6,
    }
);

/// A picture of one connection. Times in nanoseconds, sizes in bytes, counters since the connection was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// State of RFC 9293 3.3.2.
    pub state: State,
    /// Smoothed round-trip time; 0 before the first measurement.
    pub rtt_ns: u64,
    /// Its mean deviation.
    pub rttvar_ns: u64,
    /// Smallest round-trip time seen; 0 before the first measurement.
    pub rtt_ns_min: u64,
    /// Present retransmission time-out, back-off included.
    pub rto_ns: u64,
    /// Congestion window.
    pub cwnd: u32,
    /// Slow-start threshold; `u32::MAX` before the first loss.
    pub ssthresh: u32,
    /// Window the peer offers, scaled.
    pub snd_wnd: u32,
    /// Window we offer, scaled.
    pub rcv_wnd: u32,
    /// Payload of a full segment to the peer, less the options of every segment.
    pub mss: u32,
    /// Shift of the peer's windows.
    pub snd_wscale: u8,
    /// Shift of our windows.
    pub rcv_wscale: u8,
    /// Whether every segment carries timestamps.
    pub timestamps: bool,
    /// Whether we may send SACK blocks.
    pub sack: bool,
    /// Bytes sent and not acknowledged.
    pub in_flight: u32,
    /// Bytes accepted from the application and not yet sent.
    pub unsent: u64,
    /// Bytes received in order and not yet read.
    pub unread: u64,
    /// Bytes received out of order, waiting for what is missing.
    pub held_out_of_order: u64,
    /// Payload bytes received in order.
    pub bytes_in: u64,
    /// Payload bytes sent, retransmissions not counted.
    pub bytes_out: u64,
    /// Payload bytes that the peer has acknowledged.
    pub bytes_acked: u64,
    /// Segments received.
    pub segments_in: u64,
    /// Segments sent, pure acknowledgments and retransmissions included.
    pub segments_out: u64,
    /// Segments sent again.
    pub retransmissions: u64,
    /// Times the retransmission timer ran out.
    pub timeouts: u64,
    /// Times fast recovery was entered.
    pub fast_recoveries: u64,
    /// Retransmissions put off because the segment's last transmission was not completed.
    pub retransmit_blocked: u64,
    /// Segments that could not be cut for lack of a frame; they are tried again.
    pub split_failed: u64,
    /// Segments received out of order.
    pub out_of_order: u64,
    /// Duplicate acknowledgments received.
    pub dup_acks: u64,
    /// Segments sent with SACK blocks.
    pub sack_sent: u64,
    /// Challenge ACKs sent (RFC 5961).
    pub challenge_acks: u64,
    /// Window probes sent.
    pub window_probes: u64,
    /// Small payloads copied behind their neighbour.
    pub copied_small: u64,
    /// The congestion control algorithm.
    pub congestion: CongestionControl,
    /// Where in its course it is, in words: "slow start", "probe bandwidth: cruise".
    pub congestion_phase: &'static str,
    /// What it says of itself.
    pub congestion_figures: CongestionFigures,
    /// Bytes a second at which segments leave; `None`: as fast as the windows let them.
    pub pacing_rate: Option<u64>,
    /// Payload bytes that were believed lost.
    pub bytes_lost: u64,
    /// Whether both ends do ECN (RFC 3168).
    pub ecn: bool,
    /// Packets received that carried a congestion mark.
    pub ecn_marks: u64,
    /// Acknowledgments received that echoed one.
    pub ecn_echoes: u64,
    /// Time since something was last sent that takes sequence space.
    pub sent_before_ns: u64,
    /// Time since data last came, or since the handshake ended.
    pub received_before_ns: u64,
    /// Time since anything acceptable last came.
    pub heard_before_ns: u64,
    /// Time with something to send or on the way; and of it the time in which the peer's window, or the send buffer, was
    /// what held us back.
    pub busy_ns: u64,
    /// See `busy_ns`.
    pub rwnd_limited_ns: u64,
    /// See `busy_ns`.
    pub sndbuf_limited_ns: u64,
    /// Bytes delivered per second by the latest sample; 0 before the first.
    pub delivery_rate: u64,
    /// That sample says what the application had, not what the path can do.
    pub delivery_rate_app_limited: bool,
    /// What became of TCP Fast Open (RFC 7413).
    pub fast_open: FastOpenStatus,
    /// Bytes that came, or went, with the SYN, whether they were taken or not.
    pub syn_data: u32,
    /// Loss recovery.
    pub recovery: RecoveryInfo,
    /// What keeps us from sending more.
    pub limited_by: LimitedBy,
}

/// The little of [`Info`] that a policy about idle and slow peers needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// When the peer was last heard.
    pub heard_at: Instant,
    /// Payload bytes that the peer has acknowledged.
    pub acked: u64,
    /// Something waits to be sent or acknowledged.
    pub waits: bool,
}
