//! The timers of a connection: named deadlines, and the earliest of them.
//!
//! ```text
//!  turn     Retransmit, Persist or Linger: no two of them have a meaning at once
//!  ack      DelayedAck
//!  patient  KeepAlive, User: in a box, made when one of them is armed first
//! ```

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::NonZeroU64;

use crate::snapshot::{Code, Reader, SnapshotError};
use crate::time::Instant;

/// A timer's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Timer {
    /// Something sent is not acknowledged (RFC 6298).
    Retransmit,
    /// Data waits, and neither a segment in flight nor the peer's window will bring an ACK (RFC 9293 3.8.6.1).
    Persist,
    /// Data received is not acknowledged (RFC 9293 3.8.6.3).
    DelayedAck,
    /// 2 MSL in TIME-WAIT, or the wait for the peer's FIN in FIN-WAIT-2 after nobody can read any more.
    Linger,
    /// The peer is silent (RFC 9293 3.8.4).
    KeepAlive,
    /// The user's patience with unacknowledged data (RFC 9293 3.9.1).
    User,
}

impl Timer {
    /// In the order in which they are served when several are due.
    pub(crate) const ALL: [Self; 6] = [
        Self::User,
        Self::Linger,
        Self::Retransmit,
        Self::Persist,
        Self::KeepAlive,
        Self::DelayedAck,
    ];
}

/// Eight bytes: an instant plus one, so that zero is free to mean "not armed".
type Deadline = Option<NonZeroU64>;

/// Those that only some connections have, by their settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Patient {
    keep_alive: Deadline,
    user: Deadline,
}

/// All deadlines of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Timers {
    /// Of the timer `whose`: a segment in flight, one that must wait though nothing is in flight, and the end of a connection
    /// with neither.
    turn: Deadline,
    ack: Deadline,
    patient: Option<Box<Patient>>,
    whose: Timer,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            turn: None,
            ack: None,
            patient: None,
            whose: Timer::Retransmit,
        }
    }
}

impl Timers {
    /// Sets the deadline, whatever it was.
    pub(crate) fn arm(&mut self, timer: Timer, at: Instant) {
        let at = NonZeroU64::new(at.as_nanos().saturating_add(1));
        match timer {
            Timer::DelayedAck => self.ack = at,
            Timer::KeepAlive => self.patient().keep_alive = at,
            Timer::User => self.patient().user = at,
            Timer::Retransmit | Timer::Persist | Timer::Linger => {
                debug_assert!(
                    self.turn.is_none() || self.whose == timer,
                    "{timer:?} while {:?} is armed",
                    self.whose
                );
                self.turn = at;
                self.whose = timer;
            }
        }
    }

    pub(crate) fn disarm(&mut self, timer: Timer) {
        match timer {
            Timer::DelayedAck => self.ack = None,
            Timer::Retransmit | Timer::Persist | Timer::Linger => {
                if self.whose == timer {
                    self.turn = None;
                }
            }
            Timer::KeepAlive | Timer::User => {
                let Some(patient) = &mut self.patient else {
                    return;
                };
                match timer {
                    Timer::KeepAlive => patient.keep_alive = None,
                    _ => patient.user = None,
                }
            }
        }
    }

    pub(crate) fn disarm_all(&mut self) {
        *self = Self::default();
    }

    fn patient(&mut self) -> &mut Patient {
        self.patient.get_or_insert_with(Box::default)
    }

    fn armed(&self, timer: Timer) -> Deadline {
        match timer {
            Timer::DelayedAck => self.ack,
            Timer::KeepAlive => self.patient.as_ref()?.keep_alive,
            Timer::User => self.patient.as_ref()?.user,
            Timer::Retransmit | Timer::Persist | Timer::Linger => {
                self.turn.filter(|_| self.whose == timer)
            }
        }
    }

    pub(crate) fn deadline(&self, timer: Timer) -> Option<Instant> {
        self.armed(timer)
            .map(|at| Instant::from_nanos(at.get() - 1))
    }

    pub(crate) fn is_armed(&self, timer: Timer) -> bool {
        self.armed(timer).is_some()
    }

    /// Whether the timer is due at `now`; if so it is not armed any more.
    pub(crate) fn expire(&mut self, timer: Timer, now: Instant) -> bool {
        let due = self
            .armed(timer)
            .is_some_and(|at| at.get() - 1 <= now.as_nanos());
        if due {
            self.disarm(timer);
        }
        due
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        let near = [self.turn, self.ack].into_iter().flatten().min();
        let earliest = match &self.patient {
            None => near,
            Some(patient) => {
                let far = [patient.keep_alive, patient.user];
                far.into_iter().chain([near]).flatten().min()
            }
        }?;
        Some(Instant::from_nanos(earliest.get() - 1))
    }
}

impl Code for Timers {
    fn save(&self, out: &mut Vec<u8>) {
        for timer in Timer::ALL {
            self.armed(timer).map_or(0, NonZeroU64::get).save(out);
        }
    }

    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let mut timers = Self::default();
        for timer in Timer::ALL {
            if let Some(at) = u64::load(input)?.checked_sub(1) {
                let shared = !matches!(timer, Timer::DelayedAck | Timer::KeepAlive | Timer::User);
                if shared && timers.turn.is_some() {
                    return Err(SnapshotError::Corrupt);
                }
                timers.arm(timer, Instant::from_nanos(at));
            }
        }
        Ok(timers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    #[test]
    fn the_earliest_counts_and_fires_once() {
        let mut timers = Timers::default();
        assert_eq!(timers.next(), None);
        let soon = Instant::ZERO;
        let later = soon + Duration::from_secs(1);
        timers.arm(Timer::Retransmit, later);
        timers.arm(Timer::DelayedAck, soon);
        assert_eq!(timers.next(), Some(soon));
        assert!(!timers.expire(Timer::Retransmit, soon));
        assert!(timers.expire(Timer::DelayedAck, soon));
        assert!(!timers.expire(Timer::DelayedAck, soon));
        assert_eq!(timers.next(), Some(later));
        timers.disarm(Timer::Retransmit);
        assert!(!timers.is_armed(Timer::Retransmit) && timers.next().is_none());
    }
}
