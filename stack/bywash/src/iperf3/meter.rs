//! From running counts to intervals and totals.
//!
//! A stream only counts up. The meter remembers where the measured time and the present interval
//! began, so nobody resets a counter that another thread writes: the end of the omitted time moves
//! the origin, an interval is a difference.

use bywash_engine::service::Time;

use super::message::stream_label;
use super::report::{Interval, SenderFigures, StreamInterval, Sum};

/// What a stream has counted, and how it stands, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Payload bytes given to the stack, or taken from it.
    pub bytes: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Congestion window in bytes.
    pub cwnd: u32,
    /// The peer's window in bytes.
    pub snd_wnd: u32,
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: u32,
    /// Its deviation.
    pub rttvar_us: u32,
    /// Largest segment payload in bytes, options of every segment not counted.
    pub mss: u32,
}

/// What one stream did in the measured time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Total {
    /// Whether we sent.
    pub sender: bool,
    /// Payload bytes.
    pub bytes: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Largest congestion window seen, in bytes.
    pub max_cwnd: u32,
    /// Largest window of the peer seen, in bytes.
    pub max_snd_wnd: u32,
    /// Round-trip times in microseconds: largest, smallest, mean of the intervals' samples.
    pub max_rtt: u32,
    /// Smallest.
    pub min_rtt: u32,
    /// Mean.
    pub mean_rtt: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct StreamMeter {
    origin: Sample,
    previous: Sample,
    figures: Total,
    rtt_sum: u64,
    rtt_count: u32,
}

/// All streams of a test on one side.
#[derive(Clone, Debug)]
pub struct Meter {
    origin: Time,
    previous: Time,
    omitting: bool,
    streams: Vec<StreamMeter>,
}

impl Meter {
    /// Starts at `now`; `senders` says for each stream whether we send on it.
    pub fn new(now: Time, omitting: bool, senders: impl IntoIterator<Item = bool>) -> Self {
        let stream = |sender| StreamMeter {
            figures: Total {
                sender,
                ..Total::default()
            },
            ..StreamMeter::default()
        };
        Self {
            origin: now,
            previous: now,
            omitting,
            streams: senders.into_iter().map(stream).collect(),
        }
    }

    /// The omitted time is over: what was counted so far does not count.
    pub fn end_omit(&mut self, now: Time, samples: &[Sample]) {
        (self.origin, self.previous, self.omitting) = (now, now, false);
        for (stream, sample) in self.streams.iter_mut().zip(samples) {
            let sender = stream.figures.sender;
            *stream = StreamMeter {
                origin: *sample,
                previous: *sample,
                figures: Total {
                    sender,
                    ..Total::default()
                },
                ..StreamMeter::default()
            };
        }
    }

    /// Whether the time since the last interval is worth a line: something moved, or it was at least a
    /// tenth of the interval `every_ns`. (A test that ends just behind an interval would show an empty
    /// one; one that ends in the same turn has no length, and so no rate.)
    pub fn is_worth_showing(&self, now: Time, every_ns: u64, samples: &[Sample]) -> bool {
        let elapsed = now.since(self.previous).as_nanos();
        let pairs = self.streams.iter().zip(samples);
        let moved = pairs
            .into_iter()
            .any(|(stream, sample)| sample.bytes > stream.previous.bytes);
        elapsed.saturating_mul(10) >= every_ns || (moved && elapsed > 0)
    }

    /// Closes the interval that began at the last call.
    pub fn interval(&mut self, now: Time, samples: &[Sample]) -> Interval {
        let start = seconds_between(self.origin, self.previous);
        let end = seconds_between(self.origin, now);
        let seconds = seconds_between(self.previous, now);
        let omitted = self.omitting;
        let streams: Vec<StreamInterval> = self
            .streams
            .iter_mut()
            .zip(samples)
            .zip(0..)
            .map(|((stream, sample), index)| {
                let bytes = sample.bytes - stream.previous.bytes;
                let sender = stream.figures.sender;
                let figures = sender.then(|| stream.on_sender_sample(sample));
                stream.previous = *sample;
                StreamInterval {
                    socket: stream_label(index),
                    start,
                    end,
                    seconds,
                    bytes,
                    bits_per_second: rate(bytes, seconds),
                    sender_figures: figures,
                    omitted,
                    sender,
                }
            })
            .collect();
        self.previous = now;
        Interval::new(streams, |streams, sender| {
            sum(streams, sender, (start, end, seconds), omitted)
        })
    }

    /// What each stream did since the origin.
    pub fn totals(&self, samples: &[Sample]) -> Vec<Total> {
        let total = |(stream, sample): (&StreamMeter, &Sample)| Total {
            bytes: sample.bytes - stream.origin.bytes,
            retransmits: sample.retransmits.saturating_sub(stream.origin.retransmits),
            mean_rtt: stream
                .rtt_sum
                .checked_div(u64::from(stream.rtt_count))
                .unwrap_or(0) as u32,
            ..stream.figures
        };
        self.streams.iter().zip(samples).map(total).collect()
    }

    /// Seconds of measured time until `now`.
    pub fn seconds(&self, now: Time) -> f64 {
        seconds_between(self.origin, now)
    }
}

impl StreamMeter {
    fn on_sender_sample(&mut self, sample: &Sample) -> SenderFigures {
        let total = &mut self.figures;
        total.max_cwnd = total.max_cwnd.max(sample.cwnd);
        total.max_snd_wnd = total.max_snd_wnd.max(sample.snd_wnd);
        total.max_rtt = total.max_rtt.max(sample.rtt_us);
        if sample.rtt_us > 0 {
            total.min_rtt = if total.min_rtt == 0 {
                sample.rtt_us
            } else {
                total.min_rtt.min(sample.rtt_us)
            };
            self.rtt_sum += u64::from(sample.rtt_us);
            self.rtt_count += 1;
        }
        SenderFigures {
            retransmits: sample.retransmits.saturating_sub(self.previous.retransmits),
            snd_cwnd: sample.cwnd,
            snd_wnd: sample.snd_wnd,
            rtt: sample.rtt_us,
            rttvar: sample.rttvar_us,
            mss: sample.mss,
        }
    }
}

fn sum(streams: &[StreamInterval], sender: bool, times: (f64, f64, f64), omitted: bool) -> Sum {
    let of_side = || streams.iter().filter(|stream| stream.sender == sender);
    let bytes = of_side().map(|stream| stream.bytes).sum();
    let retransmits = of_side()
        .filter_map(|stream| stream.sender_figures.as_ref())
        .map(|f| f.retransmits)
        .sum();
    let (start, end, seconds) = times;
    Sum {
        start,
        end,
        seconds,
        bytes,
        bits_per_second: rate(bytes, seconds),
        retransmits: sender.then_some(retransmits),
        omitted: Some(omitted),
        sender,
    }
}

/// Bits a second; 0 for no time at all.
pub(super) fn rate(bytes: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        bytes as f64 * 8.0 / seconds
    } else {
        0.0
    }
}

fn seconds_between(from: Time, to: Time) -> f64 {
    to.since(from).as_nanos() as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_nanos(millis * 1_000_000)
    }

    fn sample(bytes: u64, retransmits: u64) -> Sample {
        Sample {
            bytes,
            retransmits,
            rtt_us: 100,
            cwnd: 5000,
            ..Sample::default()
        }
    }

    #[test]
    fn intervals_are_differences_and_totals_are_not() {
        let mut meter = Meter::new(at(500), false, [true, true]);
        let first = meter.interval(at(1500), &[sample(1000, 1), sample(500, 0)]);
        assert_eq!((first.sum.bytes, first.sum.retransmits), (1500, Some(1)));
        assert_eq!((first.streams[0].start, first.streams[0].end), (0.0, 1.0));
        let second = meter.interval(at(2500), &[sample(1600, 4), sample(500, 0)]);
        assert_eq!((second.streams[0].bytes, second.streams[1].bytes), (600, 0));
        assert_eq!(second.streams[0].bits_per_second, 4800.0);
        assert_eq!(
            second.streams[0]
                .sender_figures
                .as_ref()
                .map(|f| f.retransmits),
            Some(3)
        );
        let totals = meter.totals(&[sample(1700, 4), sample(500, 0)]);
        assert_eq!(
            (totals[0].bytes, totals[0].retransmits, totals[0].mean_rtt),
            (1700, 4, 100)
        );
        assert_eq!(meter.seconds(at(2600)), 2.1);
    }

    #[test]
    fn what_is_omitted_does_not_count() {
        let mut meter = Meter::new(at(0), true, [true]);
        let shown = meter.interval(at(1000), &[sample(900, 3)]);
        assert!(shown.streams[0].omitted);
        meter.end_omit(at(1000), &[sample(1000, 3)]);
        let counted = meter.interval(at(2000), &[sample(1500, 5)]);
        assert!(!counted.streams[0].omitted);
        assert_eq!(
            (counted.streams[0].start, counted.streams[0].bytes),
            (0.0, 500)
        );
        let total = meter.totals(&[sample(1500, 5)])[0];
        assert_eq!((total.bytes, total.retransmits), (500, 2));
    }

    #[test]
    fn both_directions_are_summed_apart() {
        let mut meter = Meter::new(at(0), false, [true, false]);
        let interval = meter.interval(at(1000), &[sample(10, 0), sample(30, 0)]);
        assert_eq!((interval.sum.bytes, interval.sum.sender), (10, true));
        let reverse = interval.sum_bidir_reverse.expect("both directions");
        assert_eq!(
            (reverse.bytes, reverse.sender, reverse.retransmits),
            (30, false, None)
        );
    }

    #[test]
    fn a_short_empty_interval_is_not_shown() {
        let mut meter = Meter::new(at(0), false, [false]);
        meter.interval(at(1000), &[sample(10, 0)]);
        let second = 1_000_000_000;
        assert!(!meter.is_worth_showing(at(1050), second, &[sample(10, 0)]));
        assert!(meter.is_worth_showing(at(1050), second, &[sample(11, 0)]));
        assert!(meter.is_worth_showing(at(1100), second, &[sample(10, 0)]));
        assert!(!meter.is_worth_showing(at(1000), second, &[sample(11, 0)]));
    }
}
