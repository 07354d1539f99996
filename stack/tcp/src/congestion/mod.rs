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

mod bbr;
mod cubic;
mod hystart;
mod loss_based;
mod name;
#[cfg(test)]
mod tests;
mod validation;
mod window;

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::rate::RateSample;
use crate::snapshot::{Code, Reader, SnapshotError, code};
use crate::time::{Duration, Instant};
use bbr::Bbr;
use loss_based::{Law, LossBased};
pub use name::{CongestionControl, UnknownCongestionControl};
use window::Window;

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

code!(
    enum Recovery {
        Open = 0,
        Fast = 1,
        AfterTimeout = 2,
    }
);

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
    /// The round-trip time measured by this ACK; `rate.rtt` is that of the segment sent last.
    pub(crate) rtt: Option<Duration>,
    /// The smoothed round-trip time.
    pub(crate) srtt: Duration,
    pub(crate) rate: RateSample,
    /// The window, not the application, limited what was on the way.
    pub(crate) cwnd_limited: bool,
    /// The window may grow by it: `snd.una` moved, or the path is known to reorder.
    pub(crate) raises: bool,
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

/// Round trips counted by what is delivered: a round ends when something is acknowledged that was sent after it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Round {
    /// Bytes delivered in all when the round began, wrapping.
    began: u32,
}

code!(struct Round { began });

impl Round {
    /// Whether this ACK ends the round; the next one then begins.
    fn is_over(&mut self, sample: &AckSample) -> bool {
        let rate = &sample.rate;
        let over = (rate.prior_delivered as u32).wrapping_sub(self.began) < 1 << 31;
        if rate.is_delivery && over {
            self.began = rate.total_delivered as u32;
            return true;
        }
        false
    }
}

/// What an algorithm says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CongestionFigures {
    /// Reno.
    Reno {
        /// The window is in use (RFC 7661).
        validated: bool,
    },
    /// CUBIC.
    Cubic {
        /// The window is in use (RFC 7661).
        validated: bool,
        /// Where the curve has its plateau, in bytes; 0 before the first loss.
        w_max: u32,
    },
    /// BBR.
    Bbr {
        /// What the path is taken to carry, in bytes a second.
        bandwidth: u64,
        /// Its least round-trip time lately in nanoseconds; 0: not measured.
        min_rtt_ns: u64,
    },
}

/// The algorithm of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    LossBased(LossBased),
    /// Large, and few connections have it.
    Bbr(Box<Bbr>),
}

/// Initial window (RFC 6928 2): ten segments, within bounds for odd segment sizes.
pub(crate) fn initial_window(mss: u32) -> u32 {
    (10 * mss).min((2 * mss).max(14_600))
}

impl Controller {
    /// `seed`: any number that differs from flow to flow.
    pub(crate) fn new(algorithm: CongestionControl, mss: u32, seed: u32) -> Self {
        match algorithm {
            CongestionControl::Cubic => Self::LossBased(LossBased::new(Law::Cubic, mss)),
            CongestionControl::Reno => Self::LossBased(LossBased::new(Law::Reno, mss)),
            CongestionControl::Bbr => Self::Bbr(Box::new(Bbr::new(Window::new(mss), seed))),
        }
    }

    /// Changes the algorithm; the window stays.
    pub(crate) fn switch(&mut self, algorithm: CongestionControl, seed: u32) {
        if algorithm == self.algorithm() {
            return;
        }
        let window = match self {
            Self::LossBased(control) => control.window,
            // BBR knows no threshold: the window that fills the pipe is one.
            Self::Bbr(bbr) if bbr.has_filled_pipe() => Window {
                ssthresh: bbr.window.cwnd,
                ..bbr.window
            },
            Self::Bbr(bbr) => bbr.window,
        };
        *self = match algorithm {
            CongestionControl::Cubic => Self::LossBased(LossBased::with_law(Law::Cubic, window)),
            CongestionControl::Reno => Self::LossBased(LossBased::with_law(Law::Reno, window)),
            CongestionControl::Bbr => Self::Bbr(Box::new(Bbr::new(window, seed))),
        };
    }

    pub(crate) fn algorithm(&self) -> CongestionControl {
        match self {
            Self::LossBased(control) => match control.law() {
                Law::Reno => CongestionControl::Reno,
                Law::Cubic => CongestionControl::Cubic,
            },
            Self::Bbr(_) => CongestionControl::Bbr,
        }
    }

    /// Where in its course the algorithm is, in words.
    pub(crate) fn phase(&self) -> &'static str {
        match self {
            Self::LossBased(control) => control.phase(),
            Self::Bbr(bbr) => bbr.phase(),
        }
    }

    pub(crate) fn figures(&self) -> CongestionFigures {
        match self {
            Self::LossBased(control) => {
                let validated = control.is_validated();
                match control.law() {
                    Law::Reno => CongestionFigures::Reno { validated },
                    Law::Cubic => CongestionFigures::Cubic {
                        validated,
                        w_max: control.w_max().unwrap_or(0),
                    },
                }
            }
            Self::Bbr(bbr) => CongestionFigures::Bbr {
                bandwidth: bbr.bandwidth(),
                min_rtt_ns: bbr.min_rtt().map_or(0, Duration::as_nanos),
            },
        }
    }

    fn variables(&self) -> &Window {
        match self {
            Self::LossBased(control) => &control.window,
            Self::Bbr(bbr) => &bbr.window,
        }
    }

    /// The congestion window in bytes.
    pub(crate) fn window(&self) -> u32 {
        self.variables().cwnd
    }

    /// The slow-start threshold; in recovery what the window shall come down to.
    pub(crate) fn ssthresh(&self) -> u32 {
        self.variables().ssthresh
    }

    /// Bytes a second at which segments should leave, by the smoothed round-trip time; `None`: not known yet.
    pub(crate) fn pacing_rate(&self, srtt: Duration) -> Option<u64> {
        match self {
            Self::LossBased(control) => control.pacing_rate(srtt),
            Self::Bbr(bbr) => Some(bbr.pacing_rate(srtt)),
        }
    }

    /// Whether the algorithm relies on pacing.
    pub(crate) fn needs_pacing(&self) -> bool {
        matches!(self, Self::Bbr(_))
    }

    /// Whether little is sent on purpose now, so that rate samples say nothing of the path.
    pub(crate) fn is_probing_rtt(&self) -> bool {
        matches!(self, Self::Bbr(bbr) if bbr.is_probing_rtt())
    }

    /// Whether the algorithm sets its own window in recovery (BBR), so that nobody else may.
    pub(crate) fn regulates_recovery(&self) -> bool {
        matches!(self, Self::Bbr(_))
    }

    /// An acknowledgment came.
    pub(crate) fn on_ack(&mut self, sample: &AckSample) {
        match self {
            Self::LossBased(control) => control.on_ack(sample),
            Self::Bbr(bbr) => bbr.on_ack(sample),
        }
    }

    /// Fast recovery begins: the window is reduced. Also called, and left at once, for a loss that a tail loss probe has
    /// repaired (RFC 8985 7.4.2).
    pub(crate) fn on_enter_recovery(&mut self, moment: Moment) {
        match self {
            Self::LossBased(control) => control.on_enter_recovery(moment),
            Self::Bbr(bbr) => bbr.on_enter_recovery(),
        }
    }

    /// Sets the window in fast recovery, as PRR (RFC 6937) or NewReno (RFC 6582) has computed it; without effect if the
    /// algorithm regulates itself.
    pub(crate) fn set_recovery_window(&mut self, bytes: u32) {
        if let Self::LossBased(control) = self {
            control.window.set(bytes);
        }
    }

    /// Fast recovery is over.
    pub(crate) fn on_exit_recovery(&mut self, moment: Moment) {
        match self {
            Self::LossBased(control) => control.on_exit_recovery(moment),
            Self::Bbr(bbr) => bbr.on_exit_recovery(moment),
        }
    }

    /// The retransmission timer ran out; `again`: for data that was sent again because of it before.
    pub(crate) fn on_timeout(&mut self, moment: Moment, again: bool) {
        match self {
            Self::LossBased(control) => control.on_timeout(moment, again),
            Self::Bbr(bbr) => bbr.on_timeout(moment),
        }
    }

    /// The reduction by the last `on_enter_recovery` or `on_timeout` was for nothing (RFC 3522, 4015, 5682, DSACK): the
    /// window is again what it was before.
    pub(crate) fn on_undo(&mut self, moment: Moment) {
        match self {
            Self::LossBased(control) => control.on_undo(),
            Self::Bbr(bbr) => bbr.on_undo(moment),
        }
    }

    /// The peer echoes a congestion mark (RFC 3168 6.1.2); at most once a window of data, and not in recovery.
    pub(crate) fn on_ecn_echo(&mut self, moment: Moment) {
        match self {
            Self::LossBased(control) => control.on_ecn_echo(moment),
            Self::Bbr(bbr) => bbr.on_ecn_echo(moment),
        }
    }

    /// Sending begins again after more than a time-out of silence, and the old window is not to be trusted (RFC 5681 4.1).
    pub(crate) fn on_idle(&mut self, moment: Moment) {
        match self {
            Self::LossBased(control) => control.on_idle(moment),
            Self::Bbr(bbr) => bbr.on_resume(moment),
        }
    }

    /// Sending begins again with nothing on the way, and the window is kept (RFC 7661 4.4).
    pub(crate) fn on_resume(&mut self, moment: Moment) {
        match self {
            Self::LossBased(control) => control.on_resume(moment),
            Self::Bbr(bbr) => bbr.on_resume(moment),
        }
    }

    fn variables_mut(&mut self) -> &mut Window {
        match self {
            Self::LossBased(control) => &mut control.window,
            Self::Bbr(bbr) => &mut bbr.window,
        }
    }

    /// The segment size changed (path MTU discovery).
    pub(crate) fn on_mss(&mut self, moment: Moment) {
        self.variables_mut().on_mss(moment);
    }

    /// The handshake is complete and the segment size known; `syn_lost`: the SYN had to be sent again.
    pub(crate) fn on_established(&mut self, moment: Moment, syn_lost: bool) {
        self.variables_mut().on_established(moment, syn_lost);
    }
}

impl Code for Controller {
    fn save(&self, out: &mut Vec<u8>) {
        match self {
            Self::LossBased(control) => {
                out.push(0);
                control.save(out);
            }
            Self::Bbr(bbr) => {
                out.push(1);
                bbr.save(out);
            }
        }
    }

    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        match u8::load(input)? {
            0 => Ok(Self::LossBased(Code::load(input)?)),
            1 => Ok(Self::Bbr(Box::new(Code::load(input)?))),
            _ => Err(SnapshotError::Corrupt),
        }
    }
}
