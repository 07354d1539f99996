//! When to acknowledge: the debts of acknowledgment, and how long they may wait (RFC 9293 3.8.6.3, RFC 5681 4.2).
//!
//! ```text
//!   at once:  more than one full segment; out of order, or a gap filled; while quick ACKs are left;
//!             all read and the peer had pushed; a duplicate, a challenge, a wider window; a FIN after ours
//!   delayed:  everything else, by the ACK time-out: 40 ms that adapts to how data comes
//! ```
//! It is Linux's policy, because peers are tuned to it. A connection begins with quick ACKs, while the peer's congestion window
//! is small, and gets them again after a silence. It becomes *interactive* when its own data answers the peer's within the ACK
//! time-out: then the next answer will carry the acknowledgment, so everything may wait.
//!
//! Acknowledgments are decided at the end of a burst, in `poll_transmit`, so a burst gets one.

use crate::snapshot::code;
use crate::time::{Duration, Instant};

/// ACKs without delay at most, at the start and after a silence (Linux's `TCP_MAX_QUICKACKS`).
const QUICK_MAX: u32 = 16;

/// Duplicate ACKs owed at most: more say nothing more.
const DUPLICATES_MAX: u8 = 64;

/// Longest delay of an acknowledgment (Linux's `TCP_DELACK_MAX`; RFC 9293 3.8.6.3 allows 500 ms).
const DELAY_MAX: Duration = Duration::from_millis(200);

/// What is owed to the peer in acknowledgments, and what is known of its ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AckPolicy {
    /// When data last came, or the handshake ended.
    data_at: Instant,
    /// Bytes received in order since the last acknowledgment.
    bytes: u32,
    /// ACK time-out in microseconds; zero before the first data.
    timeout_us: u32,
    /// Acknowledge in the next segment, at once.
    now: bool,
    /// A challenge ACK is owed, if the shard permits it.
    pub(crate) challenge: bool,
    /// Pure ACKs owed, one for each segment out of order (RFC 5681 4.2).
    duplicates: u8,
    /// ACKs without delay that are left.
    quick: u8,
    /// Our data answers the peer's.
    interactive: bool,
    /// Segments since the last acknowledgment that look like the end of a write: pushed, or not full. Counts to two.
    pushed: u8,
    /// The application has read since the last acknowledgment, which made room that the peer may not know of.
    read: bool,
}

code!(struct AckPolicy {
    data_at, bytes, timeout_us, now, challenge, duplicates, quick, interactive, pushed, read
});

/// A segment with data, as the policy sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) len: u32,
    /// It has the PSH flag.
    pub(crate) push: bool,
    /// The peer's segment size.
    pub(crate) full: u32,
    /// Our window.
    pub(crate) window: u32,
    pub(crate) rto: Duration,
    /// ACK time-out to begin with.
    pub(crate) delay: Duration,
}

fn micros(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}

impl AckPolicy {
    /// When data last came, or the handshake ended.
    pub(crate) fn data_at(&self) -> Instant {
        self.data_at
    }

    /// The handshake is over.
    pub(crate) fn on_established(&mut self, now: Instant) {
        self.data_at = now;
    }

    /// Data has arrived in order.
    pub(crate) fn on_data(&mut self, now: Instant, arrived: Arrived) {
        self.bytes = self.bytes.saturating_add(arrived.len);
        if arrived.push || arrived.len < arrived.full {
            self.pushed = (self.pushed + 1).min(2);
        }
        let least = micros(arrived.delay);
        let silence = micros(now.since(self.data_at));
        if self.timeout_us == 0 {
            self.timeout_us = least;
            self.grant_quick(QUICK_MAX, arrived.window, arrived.full);
        } else if silence <= least / 2 {
            self.timeout_us = self.timeout_us / 2 + least / 2;
        } else if silence < self.timeout_us {
            self.timeout_us = (self.timeout_us / 2 + silence).min(micros(arrived.rto));
        } else if silence > micros(arrived.rto) {
            // The peer begins anew with a small window.
            self.grant_quick(QUICK_MAX, arrived.window, arrived.full);
        }
        self.data_at = now;
    }

    /// The peer has closed its direction: our own FIN may follow soon and carry the acknowledgment. Not so of a peer that has
    /// never sent data (as Linux has it).
    pub(crate) fn on_fin(&mut self) {
        self.bytes = self.bytes.saturating_add(1);
        self.now |= self.timeout_us == 0;
        self.interactive = true;
    }

    /// Something is wrong with what comes: the peer should know quickly, for `most` ACKs.
    pub(crate) fn quicken(&mut self, most: u32, window: u32, full: u32, delay: Duration) {
        self.grant_quick(most, window, full);
        self.interactive = false;
        self.timeout_us = micros(delay);
    }

    /// What the application wants: that what waits is acknowledged now, or that everything may wait. It holds until the
    /// connection's own ways say otherwise (as Linux's `TCP_QUICKACK`).
    pub(crate) fn prefer(&mut self, quick: bool) {
        self.interactive = !quick;
        self.now |= quick && self.bytes > 0;
    }

    /// At most as many as the peer can need to fill half our window.
    fn grant_quick(&mut self, most: u32, window: u32, full: u32) {
        let wanted = (window / (2 * full.max(1))).max(2).min(most);
        self.quick = self.quick.max(wanted as u8);
    }

    /// Acknowledge in the next segment.
    pub(crate) fn demand(&mut self) {
        self.now = true;
    }

    /// A segment out of order is answered by an ACK of its own.
    pub(crate) fn demand_duplicate(&mut self) {
        self.duplicates = self.duplicates.saturating_add(1).min(DUPLICATES_MAX);
    }

    /// A gap is filled: the acknowledgment that says so says more than the duplicates owed until then, which after it would
    /// seem to tell of another loss.
    pub(crate) fn forget_duplicates(&mut self) {
        self.duplicates = 0;
    }

    /// The application has read.
    pub(crate) fn on_read(&mut self) {
        self.read = true;
    }

    /// Our data goes out.
    pub(crate) fn on_data_sent(&mut self, now: Instant) {
        if micros(now.since(self.data_at)) < self.timeout_us {
            self.interactive = true;
        }
    }

    /// The delayed acknowledgment has to go: nothing carried it.
    pub(crate) fn on_timer(&mut self, rto: Duration, delay: Duration) {
        self.now = true;
        if self.interactive {
            self.interactive = false;
            self.timeout_us = micros(delay);
        } else {
            self.timeout_us = self.timeout_us.saturating_mul(2).min(micros(rto));
        }
    }

    /// How long data in order may wait for its acknowledgment.
    pub(crate) fn delay(&self, srtt: Option<Duration>, delay: Duration) -> Duration {
        let most = srtt.map_or(DELAY_MAX, |srtt| srtt.max(delay).min(DELAY_MAX));
        Duration::from_micros(self.timeout_us.into())
            .min(most.max(delay))
            .max(delay.min(DELAY_MAX))
    }

    pub(crate) fn is_in_debt(&self) -> bool {
        self.bytes > 0
    }

    pub(crate) fn has_read(&self) -> bool {
        self.read
    }

    /// Whether an acknowledgment must go now; `emptied`: nothing is left to read. Duplicates are asked for separately.
    pub(crate) fn is_due(&self, full: u32, emptied: bool) -> bool {
        self.now || self.challenge || (self.bytes > 0 && self.is_data_due(full, emptied))
    }

    fn is_data_due(&self, full: u32, emptied: bool) -> bool {
        let quick = self.quick > 0 && !self.interactive;
        // The end of a write: the peer may wait for our acknowledgment before it writes again.
        let answered =
            self.read && emptied && (self.pushed >= 2 || (self.pushed == 1 && !self.interactive));
        self.bytes > full || quick || answered
    }

    /// Whether a duplicate acknowledgment is owed; takes it off if this one, at `nxt`, is one. Progress is acknowledged first:
    /// only what repeats an acknowledgment is a duplicate, and the peer counts those.
    pub(crate) fn take_duplicate(&mut self, repeats: bool) -> bool {
        let owed = self.duplicates > 0;
        if owed && repeats {
            self.duplicates -= 1;
        }
        owed
    }

    /// A segment with an acknowledgment is being sent.
    pub(crate) fn on_ack_sent(&mut self) {
        if self.bytes > 0 {
            self.quick = self.quick.saturating_sub(1);
        }
        self.bytes = 0;
        self.now = false;
        self.challenge = false;
        self.pushed = 0;
        self.read = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(40);
    const RTO: Duration = Duration::from_millis(200);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + ms(1_000 + millis)
    }

    fn arrived(len: u32) -> Arrived {
        Arrived {
            len,
            push: false,
            full: 1_000,
            window: 60_000,
            rto: RTO,
            delay: DELAY,
        }
    }

    fn acked(policy: &mut AckPolicy, emptied: bool) -> bool {
        let due = policy.is_due(1_000, emptied);
        if due {
            policy.on_ack_sent();
        }
        due
    }

    /// A policy whose quick ACKs are used up at time zero.
    fn steady() -> AckPolicy {
        let mut policy = AckPolicy::default();
        for _ in 0..QUICK_MAX {
            policy.on_data(at(0), arrived(1_000));
            assert!(acked(&mut policy, false), "quick");
        }
        policy
    }

    #[test]
    fn after_the_quick_start_every_second_full_segment() {
        let mut policy = steady();
        for _ in 0..3 {
            policy.on_data(at(1), arrived(1_000));
            assert!(!acked(&mut policy, false));
            policy.on_data(at(1), arrived(1_000));
            assert!(acked(&mut policy, false));
        }
    }

    #[test]
    fn few_quick_acks_for_a_small_window() {
        let mut policy = AckPolicy::default();
        let small = Arrived {
            window: 3_000,
            ..arrived(1_000)
        };
        for quick in [true, true, false] {
            policy.on_data(at(0), small);
            assert_eq!(acked(&mut policy, false), quick);
        }
    }

    #[test]
    fn silence_brings_quick_acks_back() {
        let mut policy = steady();
        policy.on_data(at(100), arrived(1_000));
        assert!(!acked(&mut policy, false));
        policy.on_ack_sent();
        policy.on_data(at(301), arrived(1_000));
        assert!(acked(&mut policy, false));
    }

    #[test]
    fn the_end_of_a_write_is_acknowledged_once_it_is_read() {
        let mut policy = steady();
        policy.on_data(at(1), arrived(300));
        assert!(!acked(&mut policy, false));
        policy.on_read();
        assert!(!acked(&mut policy, false), "there is more to read");
        assert!(acked(&mut policy, true));

        policy.on_data(at(2), arrived(300));
        policy.on_data_sent(at(3));
        policy.on_read();
        assert!(!acked(&mut policy, true), "an answer will carry it");
        policy.on_data(at(3), arrived(300));
        policy.on_read();
        assert!(acked(&mut policy, true), "two writes");
    }

    #[test]
    fn the_application_may_ask_for_haste_or_patience() {
        let mut policy = AckPolicy::default();
        policy.on_data(at(0), arrived(300));
        policy.prefer(false);
        assert!(!acked(&mut policy, false), "quick no more");
        policy.prefer(true);
        assert!(acked(&mut policy, false));
        policy.prefer(true);
        assert!(!acked(&mut policy, false), "nothing is owed");
    }

    #[test]
    fn the_time_out_adapts_between_its_bounds() {
        let mut policy = steady();
        assert_eq!(policy.delay(Some(ms(100)), DELAY), DELAY);
        policy.on_timer(RTO, DELAY);
        assert_eq!(policy.delay(Some(ms(100)), DELAY), ms(80));
        policy.on_timer(RTO, DELAY);
        assert_eq!(policy.delay(Some(ms(100)), DELAY), ms(100), "a round trip");
        assert_eq!(policy.delay(None, DELAY), ms(160));
        policy.on_timer(RTO, DELAY);
        policy.on_timer(RTO, DELAY);
        assert_eq!(policy.delay(None, DELAY), ms(200));
        for _ in 0..30 {
            policy.on_data(at(10), arrived(1));
        }
        assert_eq!(policy.delay(None, DELAY), DELAY);
    }
}
