//! Congestion control: how many bytes may be on the way, and how fast they may leave.
//!
//! A [`Controller`] is told what was acknowledged and what was lost, and answers with a window and a pacing rate. It knows
//! nothing of segments, sequence numbers or timers; which segment is lost is the business of `loss`.
//!
//! ```text
//!  every ACK      on_ack(AckSample) ----------------------+          +--> window()       bytes that may be on the way
//!  loss found     on_enter_recovery .. on_exit_recovery --+          +--> ssthresh()     also: what PRR works towards
//!  time-out       on_timeout -----------------------------+Controller+--> pacing_rate()
//!  was spurious   on_undo --------------------------------+          +--> regulates_recovery()
//!  ECE            on_ecn_echo ----------------------------+
//!  idle, MSS, ..  on_idle, on_mss, on_established --------+
//! ```
//! The order within one ACK: `loss` marks, and enters recovery if it must; then `on_ack`, always, also in recovery and for
//! duplicates that deliver nothing; then, in recovery, proportional rate reduction sets the window with
//! [`set_recovery_window`](Controller::set_recovery_window), unless the algorithm regulates itself; then recovery is left if
//! it is over. An algorithm is chosen at run time and without another type parameter.

mod newreno;

use alloc::vec::Vec;

use crate::rate::RateSample;
use crate::snapshot::{Code, Reader, SnapshotError};
use crate::time::{Duration, Instant};
pub(crate) use newreno::NewReno;

/// How far loss recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Nothing is being repaired.
    Open,
    /// Fast recovery.
    Fast,
    /// After a time-out, until everything sent before it is acknowledged.
    AfterTimeout,
}

/// What an acknowledgment tells a controller, after loss detection has looked at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckSample {
    pub(crate) now: Instant,
    /// Payload of a full segment.
    pub(crate) mss: u32,
    /// Payload bytes delivered by this ACK: acknowledged for the first time, by number or by SACK block.
    pub(crate) delivered: u32,
    /// Bytes by which `snd.una` moved.
    pub(crate) acked: u32,
    /// Bytes that this ACK made believed lost.
    pub(crate) lost: u32,
    /// Bytes on the way before this ACK, and after it and its losses.
    pub(crate) flight_before: u32,
    pub(crate) flight: u32,
    /// The round-trip time measured by this ACK.
    pub(crate) rtt: Option<Duration>,
    pub(crate) rate: RateSample,
    /// The window, not the application, limited what was on the way.
    pub(crate) cwnd_limited: bool,
    /// The ACK carried ECE (RFC 3168 6.1.2).
    pub(crate) ecn_echo: bool,
    /// Selective acknowledgments are agreed on.
    pub(crate) sack: bool,
    pub(crate) recovery: Recovery,
}

/// The circumstances of an event that is no acknowledgment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) now: Instant,
    /// Payload of a full segment.
    pub(crate) mss: u32,
    /// Bytes sent and not acknowledged (FlightSize of RFC 5681), before any of them was marked lost by this event.
    pub(crate) flight: u32,
}

/// The algorithm of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    NewReno(NewReno),
}

/// Initial window (RFC 6928 2): ten segments, within bounds for odd segment sizes.
pub(crate) fn initial_window(mss: u32) -> u32 {
    (10 * mss).min((2 * mss).max(14_600))
}

impl Controller {
    pub(crate) fn new(mss: u32) -> Self {
        Self::NewReno(NewReno::new(mss))
    }

    /// The congestion window in bytes.
    pub(crate) fn window(&self) -> u32 {
        let Self::NewReno(reno) = self;
        reno.window()
    }

    /// The slow-start threshold; in recovery what the window shall come down to.
    pub(crate) fn ssthresh(&self) -> u32 {
        let Self::NewReno(reno) = self;
        reno.ssthresh()
    }

    /// Bytes a second at which segments may leave; `None`: as fast as the window lets them.
    pub(crate) fn pacing_rate(&self) -> Option<u64> {
        None
    }

    /// Whether the algorithm sets its own window in recovery (BBR), so that nobody else may.
    pub(crate) fn regulates_recovery(&self) -> bool {
        false
    }

    /// An acknowledgment came.
    pub(crate) fn on_ack(&mut self, sample: &AckSample) {
        let Self::NewReno(reno) = self;
        reno.on_ack(sample);
    }

    /// Fast recovery begins: the window is reduced. Also called, and left at once, for a loss that a tail loss probe has
    /// repaired (RFC 8985 7.4.2).
    pub(crate) fn on_enter_recovery(&mut self, moment: Moment) {
        let Self::NewReno(reno) = self;
        reno.on_enter_recovery(moment);
    }

    /// Sets the window in fast recovery, as PRR (RFC 6937) or NewReno (RFC 6582) has computed it.
    pub(crate) fn set_recovery_window(&mut self, bytes: u32) {
        let Self::NewReno(reno) = self;
        reno.set_window(bytes);
    }

    /// Fast recovery is over.
    pub(crate) fn on_exit_recovery(&mut self, moment: Moment) {
        let Self::NewReno(reno) = self;
        reno.on_exit_recovery(moment);
    }

    /// The retransmission timer ran out; `again`: for data that was sent again because of it before.
    pub(crate) fn on_timeout(&mut self, moment: Moment, again: bool) {
        let Self::NewReno(reno) = self;
        reno.on_timeout(moment, again);
    }

    /// The reduction by the last `on_enter_recovery` or `on_timeout` was for nothing (RFC 3522, 4015, 5682, DSACK): the
    /// window is again what it was before.
    pub(crate) fn on_undo(&mut self, _moment: Moment) {
        let Self::NewReno(reno) = self;
        reno.on_undo();
    }

    /// The peer echoes a congestion mark (RFC 3168 6.1.2); at most once a window of data, and not in recovery.
    pub(crate) fn on_ecn_echo(&mut self, moment: Moment) {
        let Self::NewReno(reno) = self;
        reno.on_enter_recovery(moment);
    }

    /// Sending begins again after more than a time-out of silence.
    pub(crate) fn on_idle(&mut self, moment: Moment) {
        let Self::NewReno(reno) = self;
        reno.on_idle(moment);
    }

    /// The segment size changed (path MTU discovery).
    pub(crate) fn on_mss(&mut self, moment: Moment) {
        let Self::NewReno(reno) = self;
        reno.on_mss(moment);
    }

    /// The handshake is complete and the segment size known; `syn_lost`: the SYN had to be sent again.
    pub(crate) fn on_established(&mut self, moment: Moment, syn_lost: bool) {
        let Self::NewReno(reno) = self;
        reno.on_established(moment, syn_lost);
    }
}

impl Code for Controller {
    fn save(&self, out: &mut Vec<u8>) {
        let Self::NewReno(reno) = self;
        out.push(0);
        reno.save(out);
    }

    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        match u8::load(input)? {
            0 => Ok(Self::NewReno(NewReno::load(input)?)),
            _ => Err(SnapshotError::Corrupt),
        }
    }
}
