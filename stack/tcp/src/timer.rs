//! The timers of a connection: named deadlines in one small array, and the earliest of them.

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

const COUNT: usize = 6;

impl Timer {
    /// In the order in which they are served when several are due.
    pub(crate) const ALL: [Self; COUNT] = [
        Self::User,
        Self::Linger,
        Self::Retransmit,
        Self::Persist,
        Self::KeepAlive,
        Self::DelayedAck,
    ];
}

/// All deadlines of a connection. Eight bytes each: an instant plus one, so that zero is free to mean "not armed".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timers {
    deadlines: [Option<NonZeroU64>; COUNT],
}

impl Timers {
    /// Sets the deadline, whatever it was.
    pub(crate) fn arm(&mut self, timer: Timer, at: Instant) {
        self.deadlines[timer as usize] = NonZeroU64::new(at.as_nanos().saturating_add(1));
    }

    pub(crate) fn disarm(&mut self, timer: Timer) {
        self.deadlines[timer as usize] = None;
    }

    pub(crate) fn disarm_all(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn deadline(&self, timer: Timer) -> Option<Instant> {
        self.deadlines[timer as usize].map(|at| Instant::from_nanos(at.get() - 1))
    }

    pub(crate) fn is_armed(&self, timer: Timer) -> bool {
        self.deadlines[timer as usize].is_some()
    }

    /// Whether the timer is due at `now`; if so it is not armed any more.
    pub(crate) fn expire(&mut self, timer: Timer, now: Instant) -> bool {
        let due = self.deadlines[timer as usize].is_some_and(|at| at.get() - 1 <= now.as_nanos());
        if due {
            self.disarm(timer);
        }
        due
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        let earliest = self.deadlines.iter().flatten().min()?;
        Some(Instant::from_nanos(earliest.get() - 1))
    }
}

impl Code for Timers {
    fn save(&self, out: &mut Vec<u8>) {
        for at in self.deadlines {
            at.map_or(0, NonZeroU64::get).save(out);
        }
    }

    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let mut timers = Self::default();
        for at in &mut timers.deadlines {
            *at = NonZeroU64::new(u64::load(input)?);
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
