//! CUBIC (RFC 9438): congestion avoidance by the time since the last reduction instead of by ACKs.
//!
//! ```text
//!  W_max ------------------------ plateau --------.
//!           concave  .-'''''''''''''''''-.        convex: W_cubic(t) = C (t - K)^3 + W_max
//!                  .'                     '-->
//!  0.7 W_max ----+  t = 0             t = K = cbrt((W_max - cwnd_epoch) / C)
//! ```
//! Where that is slower than Reno would be, it grows as Reno (4.3). Windows are in bytes, C and the cube in segments.
//! Floating point serves the formula only: what is stored is whole numbers.

use super::AckSample;
use crate::snapshot::code;
use crate::time::{Duration, Instant};

/// RFC 9438 5: in segments a second cubed.
const C: f64 = 0.4;
/// Multiplicative decrease (4.6), as tenths.
pub(super) const BETA_TENTHS: u32 = 7;
/// Growth a round trip in the Reno-friendly region (4.3): `3 (1 - beta) / (1 + beta)`.
const ALPHA: f64 = 9.0 / 17.0;
/// Fractions of a byte are kept in this unit.
const FRACTION: f64 = 65_536.0;

/// The time since a reduction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Epoch {
    /// When congestion avoidance began; `None`: it has not since the last reduction.
    start: Option<Instant>,
    /// Bytes of the Reno-friendly window, in 1/65536.
    w_est: u64,
    /// K in microseconds.
    k: u32,
    /// Window before the last reduction, in bytes; 0: none yet.
    w_max: u32,
    /// Microseconds of the epoch that have been used to grow; time without use of the window does not count (5.8).
    used: u32,
    /// Fraction of a byte of the window.
    fraction: u16,
}

code!(struct Epoch { start, w_est, k, w_max, used, fraction });

impl Epoch {
    pub(super) fn w_max(&self) -> u32 {
        self.w_max
    }

    /// The window `cwnd` is about to be reduced (4.6), with fast convergence (4.7).
    pub(super) fn on_congestion(&mut self, cwnd: u32) {
        let w_max = if cwnd < self.w_max {
            (u64::from(cwnd) * u64::from(10 + BETA_TENTHS) / 20) as u32
        } else {
            cwnd
        };
        *self = Self {
            w_max,
            ..Self::default()
        };
    }

    /// 4.8: after a time-out the plateau is where avoidance begins.
    pub(super) fn on_timeout(&mut self) {
        *self = Self::default();
    }

    /// 4.9: the reduction was for nothing. The plateau is the window that was restored; a new epoch begins at it.
    pub(super) fn on_undo(&mut self, cwnd: u32) {
        *self = Self {
            w_max: self.w_max.max(cwnd),
            ..Self::default()
        };
    }

    /// Time passes in which the window is not used: it must not count (5.8).
    pub(super) fn pause(&mut self, now: Instant) {
        if self.start.is_some() {
            self.start = now.checked_sub(Duration::from_micros(self.used.into()));
        }
    }

    /// An ACK in congestion avoidance: the window that `cwnd` becomes. `prior`: the window before the last reduction.
    pub(super) fn on_ack(&mut self, sample: &AckSample, cwnd: u32, prior: u32) -> u32 {
        let start = match self.start {
            Some(start) => start,
            None => self.begin(sample, cwnd),
        };
        let elapsed = sample.now.since(start);
        self.used = u32::try_from(elapsed.as_micros()).unwrap_or(u32::MAX);
        let (mss, acked) = (f64::from(sample.mss), f64::from(sample.delivered));
        let window = f64::from(cwnd) + f64::from(self.fraction) / FRACTION;

        // 4.3: once the window is what it was before the reduction, Reno's own slope.
        let estimate = self.w_est as f64 / FRACTION;
        let alpha = if estimate >= f64::from(prior) {
            1.0
        } else {
            ALPHA
        };
        let estimate = estimate + alpha * mss * acked / window;
        self.w_est = (estimate * FRACTION) as u64;

        let next = if self.w_cubic(elapsed, mss) < estimate {
            window.max(estimate)
        } else {
            // 4.2: towards where the curve is in a round trip, and at most half as much again.
            let target = self
                .w_cubic(elapsed + sample.srtt, mss)
                .clamp(window, 1.5 * window);
            window + (target - window) / window * acked
        };
        let whole = next as u32;
        self.fraction = ((next - f64::from(whole)) * FRACTION) as u16;
        whole
    }

    fn begin(&mut self, sample: &AckSample, cwnd: u32) -> Instant {
        self.w_max = self.w_max.max(cwnd);
        let gap = f64::from(self.w_max - cwnd) / f64::from(sample.mss);
        self.k = (cube_root(gap / C) * 1e6) as u32;
        self.w_est = u64::from(cwnd) << 16;
        self.start = Some(sample.now);
        sample.now
    }

    /// The curve, in bytes (4.2, figure 1).
    fn w_cubic(&self, t: Duration, mss: f64) -> f64 {
        let from_k = (t.as_nanos() as f64 / 1e3 - f64::from(self.k)) / 1e6;
        C * from_k * from_k * from_k * mss + f64::from(self.w_max)
    }
}

/// By Newton's method, for what is not negative. Without std there is none in floating point.
fn cube_root(x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    // At or above the root the sequence falls, and at once: 2^40 segments take 50 steps, once a reduction.
    let mut root = x.max(1.0);
    loop {
        let next = (2.0 * root + x / (root * root)) / 3.0;
        if next >= root * (1.0 - 1e-12) {
            return next;
        }
        root = next;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MSS, sample};
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Runs congestion avoidance from `cwnd`: each round trip acknowledges a window in two-segment ACKs. Calls `check` with
    /// the time in seconds and the window in segments at the end of each round.
    fn run(
        epoch: &mut Epoch,
        cwnd: u32,
        prior: u32,
        rtt: u64,
        secs: u64,
        mut check: impl FnMut(f64, f64),
    ) {
        let (mut now, mut window) = (Instant::from_nanos(1), cwnd);
        let start = now;
        while now.since(start) < Duration::from_secs(secs) {
            let acks = (window / (2 * MSS)).max(1);
            for _ in 0..acks {
                let ack = AckSample {
                    now,
                    srtt: ms(rtt),
                    ..sample(2 * MSS, window)
                };
                window = epoch.on_ack(&ack, window, prior);
                now += ms(rtt) / acks;
            }
            check(
                now.since(start).as_nanos() as f64 / 1e9,
                f64::from(window) / f64::from(MSS),
            );
        }
    }

    #[test]
    fn cube_roots() {
        for x in [0.0, 1e-3, 0.5, 1.0, 8.0, 27.0, 1_000.0, 1e12] {
            let root = cube_root(x);
            assert!(
                (root * root * root - x).abs() <= x * 1e-9 + 1e-12,
                "{x}: {root}"
            );
        }
    }

    #[test]
    fn the_window_follows_the_formula() {
        // Reduced from 1000 segments at 100 ms: K = cbrt(300 / 0.4) = 9.0856 s.
        let mut epoch = Epoch::default();
        epoch.on_congestion(1_000 * MSS);
        let k = 9.0856;
        run(&mut epoch, 700 * MSS, 1_000 * MSS, 100, 15, |t, window| {
            // An ACK aims a round trip ahead, so the window at `t` is the curve's within a round's growth.
            let curve = |t: f64| C * (t - k) * (t - k) * (t - k) + 1_000.0;
            assert!(
                window >= curve(t - 0.2) - 1.0 && window <= curve(t + 0.2) + 1.0,
                "{window} segments at {t} s, the curve has {}",
                curve(t)
            );
        });
        assert!((f64::from(epoch.k) / 1e6 - k).abs() < 1e-3, "{}", epoch.k);
    }

    #[test]
    fn on_short_paths_it_grows_as_reno() {
        // RFC 9438 5.1: with 10 segments at 1 ms the cubic curve is hardly moving. 9/17 segments a round trip, until the
        // window is what it was; then one.
        let mut epoch = Epoch::default();
        epoch.on_congestion(100 * MSS);
        let mut last = (0.0, 70.0);
        let mut slopes = (0.0, 0.0);
        run(&mut epoch, 70 * MSS, 100 * MSS, 1, 1, |t, window| {
            if t > 0.03 && t < 0.04 {
                slopes.0 = (window - last.1) / (t - last.0) / 1_000.0;
            }
            if t > 0.09 && t < 0.10 {
                slopes.1 = (window - last.1) / (t - last.0) / 1_000.0;
            }
            last = (t, window);
        });
        assert!((slopes.0 - 9.0 / 17.0).abs() < 0.05, "{slopes:?}");
        assert!((slopes.1 - 1.0).abs() < 0.1, "{slopes:?}");
    }

    #[test]
    fn fast_convergence_releases_room() {
        let mut epoch = Epoch::default();
        epoch.on_congestion(1_000 * MSS);
        assert_eq!(epoch.w_max(), 1_000 * MSS);
        epoch.on_congestion(800 * MSS);
        assert_eq!(epoch.w_max(), 680 * MSS);
        epoch.on_congestion(900 * MSS);
        assert_eq!(epoch.w_max(), 900 * MSS);
    }

    #[test]
    fn idle_time_does_not_grow_the_window() {
        let mut epoch = Epoch::default();
        epoch.on_congestion(1_000 * MSS);
        let at = |secs: u64| Instant::ZERO + Duration::from_secs(secs);
        let ack = |secs| AckSample {
            now: at(secs),
            srtt: ms(100),
            ..sample(MSS, 700 * MSS)
        };
        let grown = epoch.on_ack(&ack(10), 700 * MSS, 1_000 * MSS);
        epoch.on_ack(&ack(11), grown, 1_000 * MSS);
        epoch.pause(at(1_000));
        assert_eq!(epoch.start, Some(at(999)));
    }
}
