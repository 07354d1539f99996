//! What the tests of the algorithms share: ACKs as a path without loss would bring them.

use super::*;

pub(super) const MSS: u32 = 1_000;

/// An ACK of `delivered` bytes with `flight` on the way before, of which nothing else is known.
pub(super) fn sample(delivered: u32, flight: u32) -> AckSample {
    AckSample {
        now: Instant::ZERO,
        mss: MSS,
        delivered,
        acked: delivered,
        lost: 0,
        flight_before: flight,
        flight: flight.saturating_sub(delivered),
        rtt: None,
        srtt: Duration::from_millis(100),
        rate: RateSample::default(),
        cwnd_limited: false,
        raises: true,
        ecn_echo: false,
        sack: true,
        recovery: Recovery::Open,
    }
}

/// Rounds of ACKs of a segment each.
#[derive(Default)]
pub(super) struct Rounds {
    now: Instant,
    delivered: u64,
}

impl Rounds {
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// The ACKs of a round of `n` segments, spread over `rtt_ms`, which is also the time that each measures.
    pub(super) fn next(&mut self, n: u32, rtt_ms: u64) -> Vec<AckSample> {
        let rtt = Duration::from_millis(rtt_ms);
        let prior = self.delivered;
        (0..n)
            .map(|_| {
                self.now += rtt / n;
                self.delivered += u64::from(MSS);
                AckSample {
                    now: self.now,
                    rtt: Some(rtt),
                    srtt: rtt,
                    rate: RateSample {
                        delivered: n * MSS,
                        interval: rtt,
                        rtt: Some(rtt),
                        prior_delivered: prior,
                        total_delivered: self.delivered,
                        flight_at_send: n * MSS,
                        is_delivery: true,
                        ..RateSample::default()
                    },
                    ..sample(MSS, n * MSS)
                }
            })
            .collect()
    }
}

#[test]
fn initial_window_by_segment_size() {
    assert_eq!(initial_window(1_460), 14_600);
    assert_eq!(initial_window(536), 5_360);
    assert_eq!(initial_window(9_000), 18_000);
}

#[test]
fn the_algorithm_changes_and_the_window_stays() {
    let mut controller = Controller::new(CongestionControl::Cubic, MSS, 1);
    controller.on_ack(&sample(10 * MSS, 10 * MSS));
    for algorithm in [
        CongestionControl::Reno,
        CongestionControl::Bbr,
        CongestionControl::Bbr,
        CongestionControl::Cubic,
    ] {
        controller.switch(algorithm, 1);
        assert_eq!(
            (controller.algorithm(), controller.window()),
            (algorithm, 20 * MSS)
        );
    }
}

#[test]
fn every_algorithm_survives_a_snapshot() {
    for algorithm in CongestionControl::ALL {
        let mut controller = Controller::new(algorithm, MSS, 7);
        let mut rounds = Rounds::default();
        for n in [10, 20, 30] {
            for ack in rounds.next(n, 40) {
                controller.on_ack(&ack);
            }
        }
        let mut bytes = Vec::new();
        crate::snapshot::begin(&mut bytes);
        controller.save(&mut bytes);
        let mut reader = Reader::open(&bytes).expect("a header");
        assert_eq!(Controller::load(&mut reader), Ok(controller));
    }
}
