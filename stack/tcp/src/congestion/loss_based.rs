//! Reno (RFC 5681) and CUBIC (RFC 9438): the window grows until a segment is lost.
//!
//! Both share slow start with HyStart++ (RFC 9406), validation of the window (RFC 7661) and the reaction to loss; they
//! differ in how fast congestion avoidance grows and in how much a loss takes. Recorded choices: slow start grows by all
//! bytes acknowledged, not by one segment an ACK (RFC 3465 without its limit L, as Linux does), because receivers that
//! acknowledge once a burst would make it crawl otherwise; after a time-out, when one ACK may cover what arrived long ago,
//! the limit of one segment stands. And CUBIC reduces from the window, as Linux does, not from what was on the way (RFC
//! 9438 4.6 allows that if a window in disuse does not grow, which validation sees to).

use super::cubic::{self, Epoch};
use super::hystart::{HyStart, Verdict};
use super::validation::Validation;
use super::window::Window;
use super::{AckSample, Moment, Recovery, initial_window};
use crate::snapshot::{Code, Reader, SnapshotError, code};
use crate::time::{Duration, Instant};
use alloc::boxed::Box;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Law {
    Reno,
    Cubic,
}

code!(
    enum Law {
        Reno = 0,
        Cubic = 1,
    }
);

/// What the window grows by.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Growth {
    /// The first slow start, before either law has its way.
    First(HyStart, Law),
    /// Bytes acknowledged towards the next segment, of Reno.
    Credit(u32),
    /// The time since the last reduction, of CUBIC: in a box, made when slow start ends.
    Epoch(Box<Epoch>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LossBased {
    pub(super) window: Window,
    validation: Validation,
    growth: Growth,
}

code!(struct LossBased { window, validation, growth });

impl LossBased {
    pub(super) fn new(law: Law, mss: u32) -> Self {
        Self {
            window: Window::new(mss),
            validation: Validation::new(),
            growth: Growth::First(HyStart::new(), law),
        }
    }

    /// The same path under another law: what is known of it stays.
    pub(super) fn with_law(law: Law, window: Window) -> Self {
        let growth = if window.ssthresh == u32::MAX {
            Growth::First(HyStart::new(), law)
        } else {
            Growth::fresh(law)
        };
        Self {
            window,
            validation: Validation::new(),
            growth,
        }
    }

    pub(super) fn law(&self) -> Law {
        match self.growth {
            Growth::First(_, law) => law,
            Growth::Credit(_) => Law::Reno,
            Growth::Epoch(_) => Law::Cubic,
        }
    }

    pub(super) fn phase(&self) -> &'static str {
        match &self.growth {
            Growth::First(hystart, _) if hystart.is_conservative() => "conservative slow start",
            _ if self.window.is_slow_start() => "slow start",
            _ => "congestion avoidance",
        }
    }

    pub(super) fn is_validated(&self) -> bool {
        self.validation.is_validated()
    }

    /// Where the curve has its plateau, of CUBIC.
    pub(super) fn w_max(&self) -> Option<u32> {
        match &self.growth {
            Growth::Epoch(epoch) => Some(epoch.w_max()),
            Growth::First(..) | Growth::Credit(_) => None,
        }
    }

    /// Twice the rate of the window in slow start, else 1.2 times it, as Linux paces.
    pub(super) fn pacing_rate(&self, srtt: Duration) -> Option<u64> {
        let percent = if self.window.cwnd < self.window.ssthresh / 2 {
            200
        } else {
            120
        };
        let nanos = srtt.as_nanos();
        // A window is at most 2^30 bytes: no overflow.
        (u64::from(self.window.cwnd) * 10_000_000 * percent).checked_div(nanos)
    }

    pub(super) fn on_ack(&mut self, sample: &AckSample) {
        if sample.recovery == Recovery::Fast {
            return self.validation.on_recovery_ack(sample);
        }
        // RFC 3168 6.1.2: an ACK that echoes a mark does not let the window grow.
        let may_grow = self.validation.on_ack(sample, self.window.cwnd) && !sample.ecn_echo;
        self.expire(sample.now, sample.mss);
        if sample.delivered == 0 || !sample.raises {
            return;
        }
        if !may_grow {
            if let Growth::Epoch(epoch) = &mut self.growth {
                epoch.pause(sample.now);
            }
        } else if self.window.is_slow_start() {
            self.slow_start(sample);
        } else {
            self.avoid(sample);
        }
    }

    fn slow_start(&mut self, sample: &AckSample) {
        let bytes = match sample.recovery {
            Recovery::AfterTimeout => sample.acked.min(sample.mss),
            Recovery::Open | Recovery::Fast => sample.delivered,
        };
        let Growth::First(hystart, _) = &mut self.growth else {
            // One acknowledgment may cover a whole window, most of which lies beyond the threshold.
            let room = self.window.ssthresh - self.window.cwnd;
            return self.window.grow(bytes.min(room));
        };
        match hystart.on_ack(sample, bytes) {
            Verdict::Grow(bytes) => self.window.grow(bytes),
            Verdict::Over => {
                self.window.ssthresh = self.window.cwnd;
                self.growth = Growth::fresh(self.law());
            }
        }
    }

    fn avoid(&mut self, sample: &AckSample) {
        match &mut self.growth {
            Growth::First(..) => self.growth = Growth::fresh(self.law()),
            Growth::Credit(credit) => {
                // RFC 5681 3.1: one segment a window, counted by bytes.
                *credit = credit.saturating_add(sample.delivered);
                if *credit >= self.window.cwnd {
                    *credit -= self.window.cwnd;
                    self.window.grow(sample.mss);
                }
            }
            Growth::Epoch(epoch) => {
                let next = epoch.on_ack(sample, self.window.cwnd, self.window.prior_cwnd);
                self.window.set(next);
            }
        }
    }

    /// The share of the window that a loss leaves.
    fn reduced(&self, bytes: u32, mss: u32) -> u32 {
        let left = match self.law() {
            // RFC 5681 3.1, equation 4.
            Law::Reno => bytes / 2,
            // RFC 9438 4.6.
            Law::Cubic => (u64::from(bytes) * u64::from(cubic::BETA_TENTHS) / 10) as u32,
        };
        left.max(2 * mss)
    }

    /// The threshold comes down; the window stays as it is.
    fn reduce(&mut self, moment: Moment) {
        self.window.remember();
        let in_use = self.validation.on_congestion(moment, self.window.cwnd);
        let basis = in_use.unwrap_or(match self.law() {
            // RFC 5681 3.1: FlightSize.
            Law::Reno => moment.flight,
            Law::Cubic => self.window.cwnd,
        });
        self.window.ssthresh = self.reduced(basis, moment.mss);
        if self.law() == Law::Reno || !matches!(self.growth, Growth::Epoch(_)) {
            self.growth = Growth::fresh(self.law());
        }
        if let Growth::Epoch(epoch) = &mut self.growth {
            epoch.on_congestion(self.window.cwnd);
        }
    }

    pub(super) fn on_enter_recovery(&mut self, moment: Moment) {
        self.reduce(moment);
        self.window.cwnd = self.window.ssthresh;
    }

    /// RFC 3168 6.1.2: as a loss, but nothing is to be repaired.
    pub(super) fn on_ecn_echo(&mut self, moment: Moment) {
        self.on_enter_recovery(moment);
        if let Some(basis) = self.validation.on_recovered() {
            self.window.ssthresh = self.reduced(basis, moment.mss);
            self.window.cwnd = self.window.ssthresh;
        }
    }

    pub(super) fn on_exit_recovery(&mut self, moment: Moment) {
        if let Some(basis) = self.validation.on_recovered() {
            self.window.ssthresh = self.reduced(basis, moment.mss);
        }
        // RFC 9937 6.2: what proportional rate reduction has worked towards, whatever is on the way at the end (as Linux).
        self.window.cwnd = self.window.ssthresh;
    }

    pub(super) fn on_timeout(&mut self, moment: Moment, again: bool) {
        // RFC 5681 3.1: the threshold stands when the same data is lost again.
        if !again {
            self.reduce(moment);
            self.validation.on_recovered();
        }
        if let Growth::Epoch(epoch) = &mut self.growth {
            epoch.on_timeout();
        }
        // The loss window.
        self.window.cwnd = moment.mss;
    }

    pub(super) fn on_undo(&mut self) {
        self.window.undo();
        if let Growth::Epoch(epoch) = &mut self.growth {
            epoch.on_undo(self.window.cwnd);
        }
    }

    /// RFC 5681 4.1: the restart window.
    pub(super) fn on_idle(&mut self, moment: Moment) {
        // As Linux: slow start may go back to near the old window.
        let near = self.window.cwnd - self.window.cwnd / 4;
        if self.window.ssthresh != u32::MAX {
            self.window.ssthresh = self.window.ssthresh.max(near);
        }
        self.window.cwnd = self.window.cwnd.min(initial_window(moment.mss));
        if let Growth::Epoch(epoch) = &mut self.growth {
            epoch.pause(moment.now);
        }
    }

    /// Sending begins again after a pause, with the window kept (RFC 7661 4.4).
    pub(super) fn on_resume(&mut self, moment: Moment) {
        self.expire(moment.now, moment.mss);
        if let Growth::Epoch(epoch) = &mut self.growth {
            epoch.pause(moment.now);
        }
    }

    fn expire(&mut self, now: Instant, mss: u32) {
        if let Some(window) = self.validation.expire(now, self.window.cwnd, mss) {
            let near = self.window.cwnd - self.window.cwnd / 4;
            self.window.ssthresh = self.window.ssthresh.max(near);
            self.window.cwnd = window;
        }
    }
}

impl Growth {
    fn fresh(law: Law) -> Self {
        match law {
            Law::Reno => Self::Credit(0),
            Law::Cubic => Self::Epoch(Box::default()),
        }
    }
}

impl Code for Growth {
    fn save(&self, out: &mut alloc::vec::Vec<u8>) {
        match self {
            Self::First(hystart, law) => (0_u8, (*hystart, *law)).save(out),
            Self::Credit(credit) => (1_u8, *credit).save(out),
            Self::Epoch(epoch) => (2_u8, **epoch).save(out),
        }
    }

    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        Ok(match u8::load(input)? {
            0 => {
                let (hystart, law) = Code::load(input)?;
                Self::First(hystart, law)
            }
            1 => Self::Credit(Code::load(input)?),
            2 => Self::Epoch(Box::new(Code::load(input)?)),
            _ => return Err(SnapshotError::Corrupt),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MSS, Rounds, sample};
    use super::*;

    fn moment(flight: u32) -> Moment {
        Moment {
            now: Instant::ZERO,
            mss: MSS,
            flight,
        }
    }

    #[test]
    fn slow_start_then_avoidance() {
        let mut reno = LossBased::new(Law::Reno, MSS);
        reno.on_ack(&sample(10 * MSS, 10 * MSS));
        assert_eq!(reno.window.cwnd, 20 * MSS);
        reno.on_enter_recovery(moment(20 * MSS));
        assert_eq!(
            (reno.window.ssthresh, reno.window.cwnd),
            (10 * MSS, 10 * MSS)
        );
        reno.on_exit_recovery(moment(20 * MSS));
        assert_eq!(reno.window.cwnd, 10 * MSS);
        for _ in 0..9 {
            reno.on_ack(&sample(MSS, 10 * MSS));
            assert_eq!(reno.window.cwnd, 10 * MSS);
        }
        reno.on_ack(&sample(MSS, 10 * MSS));
        assert_eq!(reno.window.cwnd, 11 * MSS);
    }

    #[test]
    fn cubic_keeps_seven_tenths() {
        let mut cubic = LossBased::new(Law::Cubic, MSS);
        cubic.on_ack(&sample(10 * MSS, 10 * MSS));
        cubic.on_enter_recovery(moment(20 * MSS));
        assert_eq!(
            (cubic.window.cwnd, cubic.w_max()),
            (14 * MSS, Some(20 * MSS))
        );
    }

    #[test]
    fn duplicates_do_not_widen_the_window() {
        for law in [Law::Reno, Law::Cubic] {
            let mut control = LossBased::new(law, MSS);
            control.on_ack(&AckSample {
                raises: false,
                ..sample(MSS, 10 * MSS)
            });
            assert_eq!(control.window.cwnd, 10 * MSS);
        }
    }

    #[test]
    fn a_second_time_out_keeps_the_threshold() {
        let mut reno = LossBased::new(Law::Reno, MSS);
        reno.on_timeout(moment(10 * MSS), false);
        assert_eq!((reno.window.cwnd, reno.window.ssthresh), (MSS, 5 * MSS));
        reno.on_timeout(moment(MSS), true);
        assert_eq!((reno.window.cwnd, reno.window.ssthresh), (MSS, 5 * MSS));
        reno.on_ack(&AckSample {
            recovery: Recovery::AfterTimeout,
            ..sample(9 * MSS, MSS)
        });
        assert_eq!(reno.window.cwnd, 2 * MSS);
    }

    #[test]
    fn what_was_reduced_for_nothing_is_given_back() {
        for law in [Law::Reno, Law::Cubic] {
            let mut control = LossBased::new(law, MSS);
            control.on_ack(&sample(10 * MSS, 10 * MSS));
            control.on_timeout(moment(20 * MSS), false);
            control.on_timeout(moment(MSS), true);
            control.on_undo();
            assert_eq!(
                (control.window.cwnd, control.window.ssthresh),
                (20 * MSS, u32::MAX)
            );
        }
    }

    #[test]
    fn slow_start_ends_where_the_round_trip_time_rises() {
        let (mut cubic, mut rounds) = (LossBased::new(Law::Cubic, MSS), Rounds::default());
        for rtt in [40, 40, 50, 52, 52, 52, 52, 52] {
            let segments = cubic.window.cwnd / MSS;
            for ack in rounds.next(segments, rtt) {
                cubic.on_ack(&ack);
            }
        }
        assert!(!cubic.window.is_slow_start());
        // Without HyStart++ it would be 10 * 2^8 segments.
        assert!(cubic.window.cwnd < 200 * MSS, "{}", cubic.window.cwnd);
    }

    #[test]
    fn a_window_not_used_neither_grows_nor_is_the_basis_of_a_reduction() {
        let (mut reno, mut rounds) = (LossBased::new(Law::Reno, MSS), Rounds::default());
        for _ in 0..4 {
            let segments = reno.window.cwnd / MSS;
            for ack in rounds.next(segments, 100) {
                reno.on_ack(&ack);
            }
        }
        let mut cwnd = 0;
        for round in 0..30 {
            for ack in rounds.next(10, 100) {
                reno.on_ack(&ack);
            }
            // The busy rounds are remembered for the sampling period.
            if round == 15 {
                cwnd = reno.window.cwnd;
            }
        }
        assert_eq!(reno.window.cwnd, cwnd);
        assert!(!reno.is_validated());
        reno.on_enter_recovery(moment(8 * MSS));
        assert_eq!(reno.window.ssthresh, 5 * MSS);
    }

    #[test]
    fn after_silence_it_starts_from_the_restart_window() {
        let mut cubic = LossBased::new(Law::Cubic, MSS);
        cubic.on_ack(&sample(10 * MSS, 10 * MSS));
        cubic.on_ack(&sample(20 * MSS, 20 * MSS));
        cubic.on_enter_recovery(moment(40 * MSS));
        cubic.on_exit_recovery(moment(40 * MSS));
        assert_eq!(cubic.window.cwnd, 28 * MSS);
        cubic.on_idle(moment(0));
        assert_eq!(
            (cubic.window.cwnd, cubic.window.ssthresh),
            (10 * MSS, 28 * MSS)
        );
    }
}
