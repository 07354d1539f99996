//! How fast the path delivers (draft-cheng-iccrg-delivery-rate-estimation-02; section 4.1 of draft-ietf-ccwg-bbr-06).
//!
//! Each transmission is stamped with what had been delivered by then. When it is acknowledged, by number or by SACK block,
//! the bytes delivered since that stamp, over the time that they took, are a sample of the rate:
//!
//! ```text
//!  sent:  first_sent_at ----- send interval ----- sent_at                    rate = bytes / max(send, ack interval)
//!  acked:       delivered_at --------- ack interval --------- now
//! ```
//! The longer of the two intervals counts, so that neither a burst sent nor ACKs compressed on the way back make the path
//! look faster than it is. A sample of a flight that the application, and not the window, ended, says only how much the
//! application had: it is marked.

use crate::rtt::RTT_MAX;
use crate::snapshot::code;
use crate::time::{Duration, Instant};

/// What was known when a segment was sent; stands in its record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// When the first segment of the sampled flight was sent.
    pub(crate) first_sent_at: Instant,
    /// When `delivered` was last changed.
    pub(crate) delivered_at: Instant,
    /// Payload bytes delivered by then.
    pub(crate) delivered: u64,
    /// Payload bytes marked lost by then, wrapping.
    pub(crate) lost: u32,
    /// Bytes on the way, this segment included.
    pub(crate) flight: u32,
    /// The application had run out of data.
    pub(crate) app_limited: bool,
}

code!(struct Stamp { first_sent_at, delivered_at, delivered, lost, flight, app_limited });

/// What one acknowledgment delivers, collected record by record, before the sample is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// Payload bytes, each counted at its first acknowledgment of either kind.
    pub(crate) bytes: u32,
    /// Stamp and time of the transmission sent last among those delivered; whether its record was sent only once.
    newest: Option<(Stamp, Instant, bool)>,
}

impl Delivered {
    /// A record of `bytes` payload bytes, last sent at `sent_at`, is acknowledged for the first time, by number or by SACK
    /// block; `once`: it was never sent again.
    pub(crate) fn add(&mut self, bytes: u32, sent_at: Instant, stamp: &Stamp, once: bool) {
        self.bytes += bytes;
        // The one with the most delivered before it; among equals the one sent last.
        let newer = self
            .newest
            .is_none_or(|(newest, at, _)| (stamp.delivered, sent_at) >= (newest.delivered, at));
        if newer && bytes > 0 {
            self.newest = Some((*stamp, sent_at, once));
        }
    }
}

/// One sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RateSample {
    /// Bytes delivered over `interval`.
    pub(crate) delivered: u32,
    /// Zero: no sample.
    pub(crate) interval: Duration,
    /// Round-trip time of the segment sent last; `None` if that was sent more than once (Karn's rule).
    pub(crate) rtt: Option<Duration>,
    /// Bytes delivered in all when that segment was sent: rounds are counted with it.
    pub(crate) prior_delivered: u64,
    /// Bytes delivered in all, this acknowledgment included.
    pub(crate) total_delivered: u64,
    /// Bytes marked lost between that segment's transmission and now.
    pub(crate) lost: u32,
    /// Bytes on the way when that segment was sent, itself included.
    pub(crate) flight_at_send: u32,
    /// The first flight found since the last sample that lost too much.
    pub(crate) excess: Option<Excess>,
    /// Something was delivered by this acknowledgment.
    pub(crate) is_delivery: bool,
    /// The application limited the flight: the path may be faster.
    pub(crate) app_limited: bool,
}

impl RateSample {
    /// Bytes a second; `None`: no sample.
    pub(crate) fn rate(&self) -> Option<u64> {
        // At most 2^32 * 2^30: no overflow.
        (u64::from(self.delivered) * 1_000_000_000).checked_div(self.interval.as_nanos())
    }
}

/// A flight that lost too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    /// Bytes on the way at which its losses became too many.
    pub(crate) flight: u32,
    /// The application limited it.
    pub(crate) app_limited: bool,
}

code!(struct Excess { flight, app_limited });

/// A larger share of a flight lost is too much (BBR.LossThresh of draft-ietf-ccwg-bbr-06, 2 %).
const LOSS_PERCENT: u64 = 2;

/// How much was on the way when losses passed the threshold, somewhere within the segment of `bytes` that was lost last
/// (InflightAtLoss, 5.5.10.2).
fn flight_at_excess(flight: u32, lost: u32, bytes: u32) -> u32 {
    let before = u64::from(flight.saturating_sub(bytes));
    let lost_before = u64::from(lost.saturating_sub(bytes));
    let prefix = (before * LOSS_PERCENT).saturating_sub(lost_before * 100) / (100 - LOSS_PERCENT);
    u32::try_from(before + prefix).unwrap_or(u32::MAX)
}

/// The flight that is sampled: known as long as something is on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flight {
    /// When payload was delivered last.
    delivered_at: Instant,
    /// When the first segment of the present sample's flight was sent.
    first_sent_at: Instant,
}

code!(struct Flight { delivered_at, first_sent_at });

/// What a connection has delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeliveryRate {
    /// Payload bytes acknowledged so far, by number or by SACK block.
    pub(crate) delivered: u64,
    /// Until so much is delivered, samples are the application's; 0: they are not.
    app_limited_until: u64,
    /// The latest sample's rate in bytes a second; 0: none yet.
    pub(crate) latest: u64,
    /// Payload bytes marked lost so far, wrapping.
    pub(crate) lost: u32,
    /// The latest sample was the application's.
    pub(crate) latest_app_limited: bool,
    /// See [`RateSample::excess`].
    excess: Option<Excess>,
}

code!(struct DeliveryRate {
    delivered, app_limited_until, latest, lost, latest_app_limited, excess
});

impl DeliveryRate {
    /// The stamp for a transmission now; `pipe`: bytes on the way, without it; `bytes`: its own.
    pub(crate) fn stamp(&self, flight: &mut Flight, now: Instant, pipe: u32, bytes: u32) -> Stamp {
        if pipe == 0 {
            // A flight begins: idle time before it belongs to no sample.
            flight.first_sent_at = now;
            flight.delivered_at = now;
        }
        Stamp {
            first_sent_at: flight.first_sent_at,
            delivered_at: flight.delivered_at,
            delivered: self.delivered,
            lost: self.lost,
            flight: pipe.saturating_add(bytes),
            app_limited: self.app_limited_until != 0,
        }
    }

    /// The application has nothing more to send while the window has room; `flight`: bytes on the way.
    pub(crate) fn on_app_limited(&mut self, flight: u32) {
        self.app_limited_until = self.delivered.saturating_add(flight.into()).max(1);
    }

    /// A transmission of `bytes` of payload is believed lost.
    pub(crate) fn on_lost(&mut self, bytes: u32, stamp: &Stamp) {
        self.lost = self.lost.wrapping_add(bytes);
        let since = self.lost.wrapping_sub(stamp.lost);
        if self.excess.is_none() && u64::from(since) * 100 > u64::from(stamp.flight) * LOSS_PERCENT
        {
            self.excess = Some(Excess {
                flight: flight_at_excess(stamp.flight, since, bytes),
                app_limited: stamp.app_limited,
            });
        }
    }

    /// Takes the sample of an acknowledgment that delivered `acked`, after its losses were marked. `min_rtt`: the smallest
    /// round-trip time seen; no true sample is taken over less.
    pub(crate) fn sample(
        &mut self,
        flight: &mut Flight,
        now: Instant,
        acked: &Delivered,
        min_rtt: Duration,
    ) -> RateSample {
        if acked.bytes > 0 {
            self.delivered = self.delivered.saturating_add(acked.bytes.into());
            flight.delivered_at = now;
        }
        if self.app_limited_until != 0 && self.delivered > self.app_limited_until {
            self.app_limited_until = 0;
        }
        let mut sample = RateSample {
            total_delivered: self.delivered,
            is_delivery: acked.bytes > 0,
            excess: self.excess.take(),
            ..RateSample::default()
        };
        let Some((stamp, sent_at, once)) = acked.newest else {
            return sample;
        };
        flight.first_sent_at = sent_at;
        sample.prior_delivered = stamp.delivered;
        sample.lost = self.lost.wrapping_sub(stamp.lost);
        sample.flight_at_send = stamp.flight;
        sample.app_limited = stamp.app_limited;
        let rtt = now.since(sent_at);
        sample.rtt = once.then_some(rtt).filter(|rtt| *rtt <= RTT_MAX);
        let send = sent_at.since(stamp.first_sent_at);
        let ack = now.since(stamp.delivered_at);
        let interval = send.max(ack);
        // A sample over less than a round trip is one of a retransmission whose first transmission was acknowledged.
        // Nor is one over a leap of the clock.
        if interval < min_rtt || rtt > RTT_MAX {
            return sample;
        }
        sample.interval = interval;
        sample.delivered =
            u32::try_from(self.delivered.saturating_sub(stamp.delivered)).unwrap_or(u32::MAX);
        if let Some(rate) = sample.rate()
            && (!sample.app_limited || self.latest_app_limited || rate >= self.latest)
        {
            self.latest = rate;
            self.latest_app_limited = sample.app_limited;
        }
        sample
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn ack(parts: &[(u32, Instant, Stamp)]) -> Delivered {
        let mut acked = Delivered::default();
        for (bytes, sent_at, stamp) in parts {
            acked.add(*bytes, *sent_at, stamp, true);
        }
        acked
    }

    #[test]
    fn a_steady_stream_is_measured_exactly() {
        // A segment of 1000 bytes a millisecond over 10 ms: 1 MB/s, from the second round on.
        let (mut rate, mut flight) = (DeliveryRate::default(), Flight::default());
        let mut sent = Vec::new();
        for t in 0..40 {
            let pipe = (t.min(10) * 1_000) as u32;
            if t >= 10 {
                let (sent_at, stamp) = sent[t - 10];
                let sample = rate.sample(
                    &mut flight,
                    at(t as u64),
                    &ack(&[(1_000, sent_at, stamp)]),
                    ms(10),
                );
                assert_eq!(sample.rtt, Some(ms(10)));
                if t >= 20 {
                    assert_eq!(sample.rate(), Some(1_000_000));
                }
            }
            let stamp = rate.stamp(&mut flight, at(t as u64), pipe, 1_000);
            sent.push((at(t as u64), stamp));
        }
        assert_eq!(rate.latest, 1_000_000);
        assert_eq!(rate.delivered, 30_000);
    }

    #[test]
    fn compressed_acks_do_not_make_the_path_faster() {
        let (mut rate, mut flight) = (DeliveryRate::default(), Flight::default());
        let sent: Vec<_> = (0..10)
            .map(|t| {
                (
                    1_000,
                    at(t),
                    rate.stamp(&mut flight, at(t), t as u32 * 1_000, 1_000),
                )
            })
            .collect();
        // All ACKs come at once: what counts is the time of sending plus a round trip.
        let sample = rate.sample(&mut flight, at(20), &ack(&sent), ms(10));
        assert_eq!(sample.interval, ms(20));
        assert_eq!(sample.delivered, 10_000);
        assert_eq!(sample.flight_at_send, 10_000);
    }

    #[test]
    fn samples_of_an_idle_application_are_marked_until_its_flight_is_delivered() {
        let (mut rate, mut flight) = (DeliveryRate::default(), Flight::default());
        let first = rate.stamp(&mut flight, at(0), 0, 1_000);
        rate.on_app_limited(1_000);
        let second = rate.stamp(&mut flight, at(1), 1_000, 1_000);
        assert!(!first.app_limited && second.app_limited);
        rate.sample(&mut flight, at(10), &ack(&[(1_000, at(0), first)]), ms(10));
        let third = rate.stamp(&mut flight, at(10), 1_000, 1_000);
        assert!(third.app_limited);
        let sample = rate.sample(&mut flight, at(11), &ack(&[(1_000, at(1), second)]), ms(10));
        assert!(sample.app_limited);
        assert!(!rate.stamp(&mut flight, at(11), 1_000, 1_000).app_limited);
    }

    #[test]
    fn a_sample_shorter_than_the_path_is_none() {
        let (mut rate, mut flight) = (DeliveryRate::default(), Flight::default());
        rate.stamp(&mut flight, at(0), 0, 1_000);
        // Sent again at 30 ms; what is acknowledged at 31 ms is the first transmission.
        let again = rate.stamp(&mut flight, at(30), 0, 1_000);
        let mut acked = Delivered::default();
        acked.add(1_000, at(30), &again, false);
        let sample = rate.sample(&mut flight, at(31), &acked, ms(10));
        assert_eq!((sample.rate(), sample.rtt), (None, None));
        assert!(sample.is_delivery);
    }

    #[test]
    fn losses_since_the_transmission_are_told() {
        let (mut rate, mut flight) = (DeliveryRate::default(), Flight::default());
        rate.on_lost(500, &Stamp::default());
        rate.sample(&mut flight, at(0), &Delivered::default(), ms(10));
        let stamps: Vec<_> = (0..100)
            .map(|i| rate.stamp(&mut flight, at(0), i * 1_000, 1_000))
            .collect();
        rate.on_lost(1_000, &stamps[97]);
        let sample = rate.sample(
            &mut flight,
            at(10),
            &ack(&[(1_000, at(0), stamps[96])]),
            ms(10),
        );
        assert_eq!((sample.lost, sample.excess), (1_000, None));
        rate.on_lost(1_000, &stamps[98]);
        rate.on_lost(1_000, &stamps[99]);
        let sample = rate.sample(
            &mut flight,
            at(11),
            &ack(&[(1_000, at(0), stamps[96])]),
            ms(10),
        );
        assert_eq!(sample.lost, 3_000);
        // Two of 99 are too many, from the second half of the second on: x = 98000 + p with 1000 + p = 2 % of x.
        let excess = sample.excess.map(|excess| excess.flight);
        assert_eq!(excess, Some(98_000 + 979));
    }
}
