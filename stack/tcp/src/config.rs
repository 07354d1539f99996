//! What a connection is told at birth.

use crate::congestion::CongestionControl;
use crate::ecn::EcnMode;
use crate::snapshot::code;
use crate::time::Duration;

/// Settings of a connection. The default is what Linux does by default, except where a field says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Largest payload without options that we can receive and send, in bytes: link MTU less 40 (IPv4) or 60 (IPv6).
    /// Advertised in the MSS option (RFC 6691). Default 1460.
    pub mss: u16,
    /// Unread bytes we are willing to hold to begin with: the largest window advertised then. Default 1 MiB.
    pub receive_buffer: usize,
    /// To how many the buffer grows if the path can use them; not above `receive_buffer`: it stays as it is. Default 0: the
    /// owner of the memory must know what it can spare (Linux: 6 MiB, `tcp_rmem`).
    pub receive_buffer_max: usize,
    /// Payload handles we are willing to hold, in order and out of order together, whatever they carry. Default 4096.
    pub receive_segments: usize,
    /// Bytes accepted from the application and not yet acknowledged. Default 1 MiB.
    pub send_buffer: usize,
    /// Hold back a small segment while another small one is unacknowledged (RFC 9293 3.7.4, with Minshall's change,
    /// as in Linux). Default on.
    pub nagle: bool,
    /// Delay of an acknowledgment to begin with; it adapts between this and 200 ms (RFC 9293 3.8.6.3 allows 500 ms). Zero
    /// acknowledges at once. Default 40 ms.
    pub delayed_ack: Duration,
    /// Offer window scaling (RFC 7323 2); the shift follows from `receive_buffer`. Default on.
    pub window_scale: bool,
    /// Offer timestamps (RFC 7323 3). Default on.
    pub timestamps: bool,
    /// Offer selective acknowledgments (RFC 2018). Default on.
    pub sack: bool,
    /// Retransmission time-out before the first measurement (RFC 6298 2.1). Default 1 s.
    pub initial_rto: Duration,
    /// Least retransmission time-out. RFC 6298 2.4 says 1 s; 200 ms, as in Linux, is a recorded deviation.
    pub rto_min: Duration,
    /// Largest retransmission time-out, also after back-off. Default 120 s.
    pub rto_max: Duration,
    /// Least time between probes of a closed window, and the sender's SWS override time-out (RFC 9293 3.8.6.2.1 asks for
    /// 0.1 to 1 s). Default 200 ms.
    pub persist_min: Duration,
    /// Largest time between probes of a closed window. Default 60 s.
    pub persist_max: Duration,
    /// Maximum segment lifetime: TIME-WAIT lasts twice this. RFC 9293 says 2 min; 30 s, as in Linux, is a recorded
    /// deviation.
    pub msl: Duration,
    /// How long FIN-WAIT-2 lasts once nobody can read what the peer may still send. Default 60 s.
    pub fin_wait_2: Duration,
    /// Retransmissions of one segment before giving up. Default 15 (`tcp_retries2`), about 15 minutes.
    pub retries: u8,
    /// Retransmissions of a SYN or SYN-ACK before giving up. Default 6 (`tcp_syn_retries`), about 2 minutes.
    pub syn_retries: u8,
    /// The congestion control algorithm. Default CUBIC.
    pub congestion: CongestionControl,
    /// Space out segments in time also for algorithms that do not rely on it (BBR always does). Default off, as Linux
    /// without the `fq` queueing discipline.
    pub pacing: bool,
    /// Never send faster than so many bytes a second (`SO_MAX_PACING_RATE`). Default no limit.
    pub max_pacing_rate: Option<u64>,
    /// After silence of more than a time-out, begin with the initial window again (RFC 5681 4.1). Off: the window is kept
    /// and validated (RFC 7661). Default on, as Linux's `tcp_slow_start_after_idle`.
    pub slow_start_after_idle: bool,
    /// Least time between two answers of one connection to what is not acceptable: challenge ACKs (RFC 5961 7), and ACKs of
    /// empty segments outside the window. Default 500 ms (`tcp_invalid_ratelimit`).
    pub challenge_interval: Duration,
    /// Explicit congestion notification (RFC 3168). Default: accepted if the peer asks, as Linux's `tcp_ecn` 2.
    pub ecn: EcnMode,
    /// Retransmissions, and probes of a closed window, once nobody waits for the data any more. Default 8
    /// (`tcp_orphan_retries`).
    pub orphan_retries: u8,
    /// Path MTU discovery without ICMP (RFC 4821). Default: when a black hole is suspected.
    pub mtu_probing: MtuProbing,
    /// Give up once data has waited this long for its acknowledgment (RFC 9293 3.9.1, RFC 5482). Default none.
    pub user_timeout: Option<Duration>,
    /// Tell the peer our user time-out, and heed its own (RFC 5482). Default off, as in Linux, which does not know the option.
    pub user_timeout_option: bool,
    /// TCP Fast Open (RFC 7413): an active open asks for a cookie or shows the one it has, with data on the SYN; a listener
    /// gives and takes cookies. Data on a SYN may be delivered twice: only for requests that may be repeated. Default off.
    pub fast_open: bool,
    /// Segments of a burst at least, the last of which has PSH. Default 2 (`tcp_min_tso_segs`).
    pub burst_segments_min: u8,
    /// Probe an idle peer. Default off, as RFC 9293 3.8.4 demands.
    pub keep_alive: Option<KeepAlive>,
}

/// Whether larger segments are tried on paths that report nothing; the values of Linux's `tcp_mtu_probing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtuProbing {
    /// Never.
    Off,
    /// Once time-outs make a black hole likely.
    #[default]
    OnBlackHole,
    /// From the start, with segments of 1024 bytes at first.
    Always,
}

code!(
    enum MtuProbing {
        Off = 0,
        OnBlackHole = 1,
        Always = 2,
    }
);

/// When to probe an idle peer (RFC 9293 3.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe. Default 2 h.
    pub idle: Duration,
    /// Time between probes. Default 75 s.
    pub interval: Duration,
    /// Unanswered probes before the connection is given up. Default 9.
    pub probes: u8,
}

code!(struct KeepAlive { idle, interval, probes });
code!(struct Config {
    mss, receive_buffer, receive_buffer_max, receive_segments, send_buffer, nagle, delayed_ack, window_scale, timestamps,
    sack, initial_rto, rto_min, rto_max, persist_min, persist_max, msl, fin_wait_2, retries,
    syn_retries, congestion, pacing, max_pacing_rate, slow_start_after_idle, ecn, user_timeout, keep_alive,
    challenge_interval, orphan_retries, mtu_probing, user_timeout_option, fast_open, burst_segments_min
});

impl Config {
    /// Unread bytes that a connection may ever hold.
    pub fn receive_limit(&self) -> usize {
        self.receive_buffer.max(self.receive_buffer_max)
    }
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(7_200),
            interval: Duration::from_secs(75),
            probes: 9,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mss: 1460,
            receive_buffer: 1 << 20,
            receive_buffer_max: 0,
            receive_segments: 4096,
            send_buffer: 1 << 20,
            nagle: true,
            delayed_ack: Duration::from_millis(40),
            window_scale: true,
            timestamps: true,
            sack: true,
            initial_rto: Duration::from_secs(1),
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(120),
            persist_min: Duration::from_millis(200),
            persist_max: Duration::from_secs(60),
            msl: Duration::from_secs(30),
            fin_wait_2: Duration::from_secs(60),
            retries: 15,
            syn_retries: 6,
            congestion: CongestionControl::Cubic,
            pacing: false,
            max_pacing_rate: None,
            slow_start_after_idle: true,
            ecn: EcnMode::Accept,
            challenge_interval: Duration::from_millis(500),
            orphan_retries: 8,
            mtu_probing: MtuProbing::OnBlackHole,
            user_timeout: None,
            user_timeout_option: false,
            fast_open: false,
            burst_segments_min: 2,
            keep_alive: None,
        }
    }
}
