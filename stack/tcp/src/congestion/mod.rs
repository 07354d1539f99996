//! Congestion control: how many bytes may be on the way.
//!
//! A [`Controller`] is told what was acknowledged and what was lost, and answers with a window. It knows nothing of
//! segments, sequence numbers or timers; which segment is lost is the business of `loss`. There is one algorithm now;
//! the enum is where the next one comes in, chosen at run time and without another type parameter.

mod newreno;

use alloc::vec::Vec;

use crate::snapshot::{Code, Reader, SnapshotError};
pub(crate) use newreno::NewReno;

/// What an acknowledgment tells a controller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckSample {
    /// Bytes newly acknowledged.
    pub(crate) acked: u32,
    /// Bytes on the way before.
    pub(crate) flight: u32,
    /// The window, not the application, limited what was on the way.
    pub(crate) cwnd_limited: bool,
    /// Still repairing after a time-out.
    pub(crate) after_timeout: bool,
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

    pub(crate) fn ssthresh(&self) -> u32 {
        let Self::NewReno(reno) = self;
        reno.ssthresh()
    }

    /// New data was acknowledged outside of fast recovery.
    pub(crate) fn on_ack(&mut self, sample: AckSample, mss: u32) {
        let Self::NewReno(reno) = self;
        reno.on_ack(sample, mss);
    }

    /// Fast recovery begins with `flight` bytes on the way.
    pub(crate) fn on_loss(&mut self, flight: u32, mss: u32) {
        let Self::NewReno(reno) = self;
        reno.on_loss(flight, mss);
    }

    /// A segment has left the network during fast recovery, unknown which.
    pub(crate) fn on_recovery_duplicate(&mut self, mss: u32) {
        let Self::NewReno(reno) = self;
        reno.on_recovery_duplicate(mss);
    }

    /// An acknowledgment of a part of what was on the way when fast recovery began.
    pub(crate) fn on_partial_ack(&mut self, acked: u32, mss: u32) {
        let Self::NewReno(reno) = self;
        reno.on_partial_ack(acked, mss);
    }

    /// Fast recovery is over, with `flight` bytes on the way.
    pub(crate) fn on_recovered(&mut self, flight: u32, mss: u32) {
        let Self::NewReno(reno) = self;
        reno.on_recovered(flight, mss);
    }

    /// The retransmission timer ran out; `again`: for data that was sent again because of it before.
    pub(crate) fn on_timeout(&mut self, flight: u32, again: bool, mss: u32) {
        let Self::NewReno(reno) = self;
        reno.on_timeout(flight, again, mss);
    }

    /// Nothing was sent for longer than a time-out.
    pub(crate) fn on_idle(&mut self, mss: u32) {
        let Self::NewReno(reno) = self;
        reno.on_idle(mss);
    }

    /// The handshake is complete and the segment size known; `syn_lost`: the SYN had to be sent again.
    pub(crate) fn on_established(&mut self, mss: u32, syn_lost: bool) {
        let Self::NewReno(reno) = self;
        reno.on_established(mss, syn_lost);
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
