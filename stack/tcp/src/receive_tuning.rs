//! A receive buffer that follows the path: dynamic right-sizing, as Linux does it.
//!
//! The window must hold what the peer may send in a round trip, and nobody knows that in advance. So count what the
//! application reads in each round trip. If that is more than in any before, the peer is growing its congestion window, and
//! our window must stay ahead: twice what was read (losses take a round trip to mend), and twice the growth on top (slow start
//! doubles). The buffer only grows, up to its maximum; an application that does not read makes it no larger.

use crate::snapshot::code;
use crate::time::{Duration, Instant};

/// Segments of slack on top of two round trips' worth, for small variations (as Linux has it).
const SLACK_SEGMENTS: u64 = 16;

/// Segments expected in the first round trip: the initial window (RFC 6928).
const FIRST_SEGMENTS: u64 = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceiveTuning {
    /// Bytes that may wait to be read, as tuned by now.
    pub(crate) buffer: usize,
    /// The buffer's maximum.
    max: usize,
    /// What the owner allows; the lesser of both counts.
    pub(crate) cap: usize,
    /// The most that was read in a round trip.
    most: u64,
    /// Bytes read since `since`.
    read: u64,
    since: Instant,
}

code!(struct ReceiveTuning { buffer, max, cap, most, read, since });

impl ReceiveTuning {
    pub(crate) fn new(buffer: usize, max: usize, mss: u16, now: Instant) -> Self {
        let most = (FIRST_SEGMENTS * u64::from(mss)).min(buffer as u64).max(1);
        Self {
            buffer,
            max,
            cap: usize::MAX,
            most,
            read: 0,
            since: now,
        }
    }

    /// The application has read `bytes`.
    pub(crate) fn on_read(&mut self, now: Instant, bytes: usize, rtt: Duration, mss: u16) {
        self.read += bytes as u64;
        if now.since(self.since) < rtt {
            return;
        }
        if self.read > self.most {
            let base = 2 * self.read + SLACK_SEGMENTS * u64::from(mss);
            let growth = u128::from(base) * u128::from(self.read - self.most);
            let growth = u64::try_from(growth / u128::from(self.most)).unwrap_or(u64::MAX);
            let wanted = base.saturating_add(growth.saturating_mul(2));
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            self.buffer = self.buffer.max(wanted.min(self.max));
            self.most = self.read;
        }
        self.read = 0;
        self.since = now;
    }

    /// Bytes that may wait to be read.
    pub(crate) fn limit(&self) -> usize {
        self.buffer.min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(10);

    fn tuning() -> ReceiveTuning {
        ReceiveTuning::new(60_000, 1_000_000, 1_000, Instant::ZERO)
    }

    /// A round trip in which `bytes` are read.
    fn round(tuning: &mut ReceiveTuning, number: u32, bytes: usize) -> usize {
        let now = Instant::ZERO + RTT * number;
        tuning.on_read(now, bytes, RTT, 1_000);
        tuning.limit()
    }

    #[test]
    fn it_stays_ahead_of_slow_start_and_ends_at_its_maximum() {
        let mut tuning = tuning();
        let mut read = 10_000;
        for number in 1..20 {
            let limit = round(&mut tuning, number, read);
            assert!(limit >= (4 * read).min(60_000), "{limit} for {read}");
            read = (2 * read).min(limit);
        }
        assert_eq!(tuning.limit(), 1_000_000);
    }

    #[test]
    fn a_steady_reader_keeps_its_buffer() {
        let mut tuning = tuning();
        let first = round(&mut tuning, 1, 40_000);
        for number in 2..50 {
            assert_eq!(round(&mut tuning, number, 40_000), first);
        }
        assert_eq!(round(&mut tuning, 50, 1), first, "it never shrinks");
    }

    #[test]
    fn reads_within_a_round_trip_count_together() {
        let mut tuning = tuning();
        for part in 1..=9_u64 {
            let now = Instant::ZERO + Duration::from_millis(part);
            tuning.on_read(now, 20_000, RTT, 1_000);
            assert_eq!(tuning.limit(), 60_000);
        }
        assert!(round(&mut tuning, 1, 20_000) > 400_000);
    }

    #[test]
    fn the_owner_has_the_last_word() {
        let mut tuning = tuning();
        tuning.cap = 5_000;
        assert_eq!(round(&mut tuning, 1, 500_000), 5_000);
        tuning.cap = usize::MAX;
        assert_eq!(tuning.limit(), 1_000_000);
    }
}
