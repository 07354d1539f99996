//! Busy polling: the shard's own system calls run the driver's NAPI, instead of interrupts.
//!
//! Since Linux 6.13 a socket knows its NAPI only where the driver names it for the queue (`netif_queue_set_napi`): veth,
//! i40e, ixgbe and others do not. There the options are taken and nothing happens, so the kernel is asked first:
//! `SO_INCOMING_NAPI_ID` is 0 if nobody would be polled.
//!
//! A socket that prefers busy polling is never woken to send: the NAPI that is polled is to do it. Where a driver sends by
//! another NAPI (virtio_net; igb with few vectors) nothing leaves at all. [`TxWatch`] notices; the preference then goes to a
//! socket that only receives, and if frames still do not come back, busy polling ends.

use core::time::Duration;
use std::time::Instant;

/// How long frames may be under way without one completion before that is a stall: far above what a driver waits to coalesce
/// (tens to hundreds of microseconds), and far below a retransmission time-out.
const STALL: Duration = Duration::from_millis(10);

/// Stalls in a row after which busy polling ends altogether: a tenth of a second.
const HOPELESS: u32 = 10;

/// Kicks between two looks at the clock.
const LOOK_EVERY: u32 = 64;

/// Busy polling as it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPollConfig {
    /// `SO_BUSY_POLL`, microseconds. A non-blocking socket polls once a call, however long this is; 0 would switch it off.
    pub time_us: u32,
    /// `SO_BUSY_POLL_BUDGET`: packets of one poll. The kernel's default is 8; more than it needs CAP_NET_ADMIN.
    pub budget: u16,
}

impl Default for BusyPollConfig {
    /// 20 us and 64 packets, as drivers are tested with.
    fn default() -> Self {
        Self {
            time_us: 20,
            budget: 64,
        }
    }
}

/// What became of the wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusyPoll {
    /// Nobody asked for it.
    Off,
    /// The kernel polls this NAPI when the port is read and kicked.
    On {
        /// Its id.
        napi: u32,
    },
    /// As `On`, but only by receiving calls: where the driver sends by another NAPI than it receives by, calls that send
    /// must not prefer polling, or nothing would leave.
    ReceiveOnly {
        /// Its id.
        napi: u32,
    },
    /// It was asked for and is not to be had; frames come by interrupts.
    Unavailable {
        /// Why.
        reason: String,
    },
    /// It was on, and sent frames did not come back: switched off again.
    Abandoned,
}

impl BusyPoll {
    /// Whether system calls poll the driver.
    pub fn is_on(&self) -> bool {
        matches!(self, Self::On { .. } | Self::ReceiveOnly { .. })
    }
}

impl core::fmt::Display for BusyPoll {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On { napi } => write!(f, "on (NAPI {napi})"),
            Self::ReceiveOnly { napi } => {
                write!(
                    f,
                    "on for receiving (NAPI {napi}); the driver sends by another"
                )
            }
            Self::Unavailable { reason } => write!(f, "unavailable: {reason}"),
            Self::Abandoned => f.write_str("abandoned: sent frames did not complete under it"),
        }
    }
}

/// Notices that sent frames do not come back.
#[derive(Debug, Default)]
pub(crate) struct TxWatch {
    kicks: u32,
    /// Completions at the last look that found frames under way, and when that was.
    last: Option<(u64, Instant)>,
    /// Stalls without a completion between them.
    in_a_row: u32,
}

impl TxWatch {
    /// Whether it is time to look. Cheap: once a turn.
    pub(crate) fn is_due(&mut self) -> bool {
        self.kicks = self.kicks.wrapping_add(1);
        self.kicks.is_multiple_of(LOOK_EVERY)
    }

    /// Whether nothing has helped for so long that busy polling as a whole is to blame, and not a slow moment.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.in_a_row >= HOPELESS
    }

    /// Looks: `true` if frames are under way and none has completed for [`STALL`].
    pub(crate) fn is_stalled(&mut self, outstanding: u32, completed: u64, now: Instant) -> bool {
        if outstanding == 0 {
            self.last = None;
            self.in_a_row = 0;
            return false;
        }
        match self.last {
            Some((before, since)) if before == completed => {
                let stalled = now.duration_since(since) >= STALL;
                if stalled {
                    // The next one is a stall of its own.
                    self.last = Some((completed, now));
                    self.in_a_row += 1;
                }
                stalled
            }
            _ => {
                self.last = Some((completed, now));
                self.in_a_row = 0;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_do_not_come_back_are_a_stall() {
        let mut watch = TxWatch::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(!watch.is_stalled(5, 10, at(0)));
        assert!(!watch.is_stalled(5, 10, at(9)));
        assert!(watch.is_stalled(7, 10, at(10)));
        // Told of once in each such time.
        assert!(!watch.is_stalled(7, 10, at(11)));
        assert!(watch.is_stalled(7, 10, at(20)));
        assert!(!watch.is_hopeless());
        for stall in 3..=u64::from(HOPELESS) {
            assert!(watch.is_stalled(7, 10, at(10 * stall)));
        }
        assert!(watch.is_hopeless());
        assert!(
            !watch.is_stalled(7, 11, at(200)) && !watch.is_hopeless(),
            "one came"
        );
    }

    #[test]
    fn one_completion_or_nothing_under_way_is_none() {
        let mut watch = TxWatch::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(!watch.is_stalled(5, 10, at(0)));
        assert!(!watch.is_stalled(5, 11, at(15)));
        assert!(!watch.is_stalled(5, 11, at(24)));
        assert!(!watch.is_stalled(0, 16, at(40)));
        // An idle time before the next frame is none either.
        assert!(!watch.is_stalled(1, 16, at(1000)));
        assert!(watch.is_stalled(1, 16, at(1010)));
    }

    #[test]
    fn the_clock_is_read_now_and_then() {
        let mut watch = TxWatch::default();
        let looks = (0..10 * LOOK_EVERY).filter(|_| watch.is_due()).count();
        assert_eq!(looks, 10);
    }
}
