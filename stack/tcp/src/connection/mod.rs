//! The connection: a coordinator over parts that can be read alone.
//!
//! ```text
//!  on_segment -> `on_segment.rs`: acceptability, RST, SYN, ACK, data, FIN      RFC 9293 3.10.7
//!                  | ACK: `on_ack.rs`: snd -> rtt, loss -> congestion | data: rcv -> reassembly
//!                  v                                          v
//!  on_timeout -> `timeout.rs`                 events, debts of acknowledgment
//!                  v                                          v
//!  poll_transmit <- `transmit.rs`: what loss marked, what the windows let pass, the ACKs owed
//!  in bursts: `follow.rs` behind on_segment, `train.rs` behind poll_transmit: what is as the segment before
//! ```
//! Every change of state goes through [`Connection::transition`], which asks [`Phase::after`].

mod acknowledge;
mod api;
mod checks;
mod configure;
mod fast_open;
mod flow;
mod follow;
mod hold;
mod icmp;
mod info;
mod on_ack;
mod on_segment;
mod persist;
mod probe_mtu;
mod rare;
mod timeout;
mod train;
mod transmit;
mod urgent;
mod user_timeout;

use alloc::boxed::Box;
use alloc::sync::Arc;

use bywash_wire::options::MAX_WINDOW_SCALE;
use bywash_wire::{DropReason, Ecn as Codepoint, Flags, Segment, SeqNumber, Tuple};

use crate::chrono::Chrono;
use crate::config::Config;
use crate::congestion::{Controller, Moment};
use crate::ecn::Ecn;
use crate::event::{CloseReason, Pending};
use crate::info::LimitedBy;
use crate::loss::LossDetection;
use crate::payload::Payload;
use crate::rcv::Receiver;
use crate::rtt::RttEstimator;
use crate::snapshot::code;
use crate::snd::SendQueue;
use crate::state::{Input, Opened, Phase};
use crate::time::Instant;
use crate::timer::{Timer, Timers};
use flow::Flow;
use hold::Holds;
pub use train::Train;

/// Least segment size believed of a peer (Linux's `TCP_MIN_SND_MSS`): a smaller one would make us send headers only.
const PEER_MSS_MIN: u16 = 48;

/// Bytes of the timestamps option with its padding (RFC 7323 appendix A).
const TIMESTAMPS_LEN: u16 = 12;

/// One TCP connection: time and segments in, segments and events out.
///
/// The order of calls in a turn: `on_segment` for all segments that have arrived, `on_timeout` if `next_timeout` has
/// passed, then `poll_event` and the application's `recv`, `send`, `close`; then `poll_transmit` until it gives `None`,
/// and only then `next_timeout`. Acknowledgments are decided in `poll_transmit`, so that a burst gets one.
///
/// `on_segment` and `poll_transmit` take constant time but for the segments they acknowledge.
#[derive(Debug)]
pub struct Connection<P: Payload> {
    phase: Phase,
    events: Pending,
    /// What stopped the last transmissions.
    limited_by: LimitedBy,
    pub(crate) snd: SendQueue<P>,
    pub(crate) rcv: Receiver<P>,
    agreed: Agreed,
    control: Control,
    timers: Timers,
    congestion: Controller,
    ecn: Ecn,
    chrono: Chrono,
    loss: LossDetection,
    rtt: RttEstimator,
    counters: Counters,
    rare: Option<Box<rare::Rare>>,
    flow: Flow,
    config: Arc<Config>,
}

/// What the two ends agreed on in the handshake. Before that: what we offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Agreed {
    /// Payload of a segment without options: the lesser of what we and the peer can do.
    mss: u16,
    /// Shift of the peer's window field.
    snd_wscale: u8,
    window_scale: bool,
    timestamps: bool,
    sack: bool,
    /// Start of our timestamp clock.
    ts_offset: u32,
    /// TS.Recent (RFC 7323 4.3), and when it was set, in [ages](checks::age).
    ts_recent: u32,
    ts_recent_at: u32,
}

code!(struct Agreed {
    mss, snd_wscale, window_scale, timestamps, sack, ts_offset, ts_recent, ts_recent_at
});

impl Agreed {
    /// Whether a handshake could have ended so.
    fn is_possible(&self) -> bool {
        self.mss >= PEER_MSS_MIN && self.snd_wscale <= MAX_WINDOW_SCALE
    }
}

/// The coordinator's own variables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Control {
    /// The latest moment that any call named.
    clock: Instant,
    /// When the peer was last heard.
    heard_at: Instant,
    /// When data was last sent.
    sent_at: Instant,
    /// End of the last small segment (Minshall's variable for Nagle's rule).
    small_end: Option<SeqNumber>,
    /// Time-outs since the peer last acknowledged something new.
    attempts: u8,
    /// Probes (of the window, or keep-alive) since the peer was last heard.
    probes: u8,
    persist_backoff: u8,
    /// A probe is to be sent.
    probe: bool,
    /// The SWS override time-out has passed: send what the window takes.
    override_sws: bool,
    /// Nagle's rule is on.
    nagle: bool,
    /// The FIN is queued.
    fin_queued: bool,
    /// Nobody will read any more.
    orphaned: bool,
    /// The application waits for room.
    want_writable: bool,
    /// The SYN was lost.
    syn_lost: bool,
    /// The congestion window was what stopped the last transmissions.
    cwnd_limited: bool,
    /// The lost segment still lies in the transmit queue, and that was counted.
    blocked: bool,
    /// New segments of the present burst that were sent, and that may follow.
    burst: u8,
    burst_left: u8,
    /// What keeps the last segment back while it is not full.
    holds: Holds,
    /// An ICMP error said that the peer cannot be reached, and nothing has been acknowledged since.
    soft_error: bool,
}

code!(struct Control {
    clock, heard_at, sent_at, small_end, attempts, probes,
    persist_backoff, probe, override_sws, nagle, fin_queued, orphaned, want_writable, syn_lost,
    cwnd_limited, blocked, burst, burst_left, holds,
    soft_error
});

/// What is counted of every segment; see [`Info`](crate::Info), and [`rare`] for the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    bytes_in: u64,
    bytes_out: u64,
    segments_in: u64,
    segments_out: u64,
}

code!(struct Counters { bytes_in, bytes_out, segments_in, segments_out });

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// All of it was of use.
    Accepted,
    /// It, or its payload, was dropped; what its header said may have been used.
    Dropped(DropReason),
}

/// A segment to be sent; returned means sent.
#[derive(Debug)]
pub struct Transmit<'a, P> {
    /// The header; `payload_len` is the payload's length.
    pub segment: Segment,
    /// The payload: the whole handle. `None`: an empty segment.
    pub payload: Option<&'a mut P>,
    /// Whether it was sent before.
    pub retransmission: bool,
    /// The codepoint for the IP header.
    pub ecn: Codepoint,
}

/// Why `send` did not take a payload, which comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError<P> {
    /// The send buffer is full; a `Writable` event follows.
    Full(P),
    /// More than `segment_limit` bytes.
    TooLong(P),
    /// This end was closed, or the connection is over.
    Closed(P),
}

impl<P> SendError<P> {
    /// The payload.
    pub fn into_payload(self) -> P {
        match self {
            Self::Full(payload) | Self::TooLong(payload) | Self::Closed(payload) => payload,
        }
    }
}

impl<P: Payload> Connection<P> {
    /// An active open (RFC 9293 3.10.1): a connection in SYN-SENT, whose SYN `poll_transmit` gives.
    ///
    /// `tuple.local` is this end. `iss` and `ts_offset` are the initial sequence number (RFC 6528) and the start of the
    /// timestamp clock (RFC 7323 5.4), both unguessable.
    pub fn connect(
        config: &Config,
        tuple: Tuple,
        iss: SeqNumber,
        ts_offset: u32,
        now: Instant,
    ) -> Self {
        Self::connect_shared(&Arc::new(config.clone()), tuple, iss, ts_offset, now)
    }

    /// [`connect`](Self::connect) with settings that other connections have too: they are kept once.
    pub fn connect_shared(
        config: &Arc<Config>,
        tuple: Tuple,
        iss: SeqNumber,
        ts_offset: u32,
        now: Instant,
    ) -> Self {
        Self::new(config, tuple, Phase::SynSent, iss, ts_offset, now)
    }

    /// A passive open that met a SYN: a connection in SYN-RECEIVED.
    pub(crate) fn accept(
        config: &Arc<Config>,
        tuple: Tuple,
        syn: &Segment,
        iss: SeqNumber,
        ts_offset: u32,
        now: Instant,
    ) -> Self {
        let phase = Phase::SynReceived(Opened::Passively);
        let mut connection = Self::new(config, tuple, phase, iss, ts_offset, now);
        connection.counters.segments_in = 1;
        connection.on_peer_syn(now, syn);
        connection
    }

    fn new(
        config: &Arc<Config>,
        tuple: Tuple,
        phase: Phase,
        iss: SeqNumber,
        ts_offset: u32,
        now: Instant,
    ) -> Self {
        let control = Control {
            clock: now,
            heard_at: now,
            sent_at: now,
            nagle: config.nagle,
            ..Control::default()
        };
        Self {
            phase,
            events: Pending::default(),
            limited_by: LimitedBy::default(),
            snd: SendQueue::new(iss),
            rcv: Receiver::new(config, now),
            agreed: Agreed {
                mss: config.mss.max(PEER_MSS_MIN),
                snd_wscale: 0,
                window_scale: config.window_scale,
                timestamps: config.timestamps,
                sack: config.sack,
                ts_offset,
                ts_recent: 0,
                ts_recent_at: checks::age(now),
            },
            control,
            timers: Timers::default(),
            congestion: Controller::new(
                config.congestion,
                config.mss.into(),
                iss.raw() ^ ts_offset,
            ),
            ecn: Ecn::default(),
            chrono: Chrono::default(),
            loss: LossDetection::new(iss),
            rtt: RttEstimator::new(),
            counters: Counters::default(),
            rare: None,
            flow: Flow::new(&tuple),
            config: config.clone(),
        }
    }

    /// Takes what the peer's SYN says: its number and its options.
    fn on_peer_syn(&mut self, now: Instant, syn: &Segment) {
        self.rcv.on_syn(syn.seq);
        let options = &syn.options;
        // RFC 9293 3.7.1: without the option 536 octets, over IPv6 1220.
        let default = if self.flow.is_v4() { 536 } else { 1220 };
        let peer = options.mss.unwrap_or(default).max(PEER_MSS_MIN);
        self.agreed.mss = self.agreed.mss.min(peer);
        // RFC 7323 2.2: scaling only if both SYNs carry the option.
        self.agreed.window_scale &= options.window_scale.is_some();
        if self.agreed.window_scale {
            self.agreed.snd_wscale = options.window_scale.unwrap_or(0).min(MAX_WINDOW_SCALE);
            self.rcv.wscale = self.window_shift();
        }
        self.ecn.on_peer_syn(self.config.ecn, syn.flags);
        self.agreed.sack &= options.sack_permitted;
        self.agreed.timestamps &= options.timestamps.is_some();
        if let Some(timestamps) = options.timestamps {
            self.agreed.ts_recent = timestamps.value;
            self.agreed.ts_recent_at = checks::age(now);
        }
        self.note_user_timeout(syn);
        self.note_fast_open(syn, peer);
        self.control.heard_at = now;
        // The window field of a SYN is not scaled.
        self.set_send_window(syn.seq, syn.ack, u32::from(syn.window));
    }

    /// The least shift by which the window field covers the receive buffer, grown to its maximum.
    fn window_shift(&self) -> u8 {
        let field = usize::from(u16::MAX);
        (0..MAX_WINDOW_SCALE)
            .find(|shift| self.config.receive_limit() <= field << shift)
            .unwrap_or(MAX_WINDOW_SCALE)
    }

    fn set_send_window(&mut self, seq: SeqNumber, ack: SeqNumber, window: u32) {
        self.snd.wnd = window;
        self.snd.max_wnd = self.snd.max_wnd.max(window);
        self.snd.wl1 = seq;
        self.snd.wl2 = ack;
    }

    /// Applies `input` to the state, with what entering the new state entails. False: it changes nothing.
    fn transition(&mut self, input: Input) -> bool {
        let Some(next) = self.phase.after(input) else {
            return false;
        };
        let was_early = self.phase == Phase::SynReceived(Opened::Early);
        self.phase = next;
        let now = self.control.clock;
        match next {
            Phase::Established => self.on_established(now, was_early),
            Phase::SynReceived(Opened::Early) => self.on_early(now),
            Phase::CloseWait => self.events.raise(Pending::PEER_CLOSED),
            Phase::Closing => self.events.raise(Pending::PEER_CLOSED),
            Phase::FinWait2 if self.control.orphaned => {
                self.timers.arm(Timer::Linger, now + self.config.fin_wait_2);
            }
            Phase::TimeWait => {
                if input == Input::PeerFin {
                    self.events.raise(Pending::PEER_CLOSED);
                }
                self.timers.disarm_all();
                self.snd.clear();
                self.timers.arm(Timer::Linger, now + self.config.msl * 2);
            }
            Phase::Closed(reason) => {
                self.timers.disarm_all();
                self.snd.clear();
                // What has arrived in order stays readable, unless the application itself gave up.
                self.rcv.clear(reason == CloseReason::Aborted);
                self.events.raise(Pending::CLOSED);
            }
            Phase::SynSent
            | Phase::SynReceived(_)
            | Phase::FinWait1
            | Phase::FinWait2
            | Phase::LastAck => {}
        }
        true
    }

    /// What was measured of the round trip was not one.
    pub(crate) fn forget_round_trip(&mut self) {
        self.rtt = RttEstimator::new();
    }

    /// `was_early`: the application has had the connection since the SYN.
    fn on_established(&mut self, now: Instant, was_early: bool) {
        if was_early {
            self.events.raise(Pending::CONFIRMED);
        } else {
            self.events.raise(Pending::CONNECTED);
            self.rcv.ack.on_established(now);
            let moment = self.moment(now);
            self.congestion
                .on_established(moment, self.control.syn_lost);
        }
        self.settle_syn_data();
        if self.control.syn_lost {
            self.rtt.on_syn_lost();
        }
        if let Some(keep_alive) = self.config.keep_alive {
            self.timers.arm(Timer::KeepAlive, now + keep_alive.idle);
        }
        self.begin_probing(now);
        // A close in SYN-RECEIVED has waited for this.
        if self.control.fin_queued {
            self.transition(Input::Close);
        }
    }

    /// The circumstances of an event, for the congestion controller.
    fn moment(&self, now: Instant) -> Moment {
        Moment {
            now,
            mss: self.segment_limit() as u32,
            flight: self.snd.flight(),
        }
    }

    /// Ends the connection with a RST where there is a peer that believes in it (RFC 9293 3.10.5).
    fn abort_with_reset(&mut self) {
        let tell = matches!(
            self.phase,
            Phase::SynReceived(_)
                | Phase::Established
                | Phase::FinWait1
                | Phase::FinWait2
                | Phase::CloseWait
        );
        if tell {
            self.owe_reset(self.snd.nxt, true);
        }
        self.transition(Input::Abort);
    }

    /// The value of our timestamp clock: milliseconds (RFC 7323 5.4 allows 1 ms to 1 s).
    fn timestamp(&self, now: Instant) -> u32 {
        (now.as_millis() as u32).wrapping_add(self.agreed.ts_offset)
    }

    /// Whether both ends have said FIN or the connection is over.
    fn is_hung_up(&self) -> bool {
        matches!(
            self.phase,
            Phase::Closed(_) | Phase::Closing | Phase::LastAck | Phase::TimeWait
        )
    }

    fn empty_segment(&self, flags: Flags) -> Segment {
        Segment {
            seq: self.snd.nxt,
            ack: self.rcv.nxt,
            flags,
            ..Segment::default()
        }
    }
}
