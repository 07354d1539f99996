//! One side's totals and the peer's results, put together.

use bywash_engine::tcp::CongestionControl;

use super::cpu::CpuUse;
use super::message::{Results, StreamResults, stream_id, stream_label};
use super::meter::{Total, rate};
use super::report::{CpuUtilization, End, SenderExtremes, SideTotal, StreamEnd, Sum};

/// What our side measured.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) totals: Vec<Total>,
    /// Measured time.
    pub(super) seconds: f64,
    pub(super) cpu: CpuUse,
    pub(super) congestion: CongestionControl,
}

impl Outcome {
    /// As the peer is told.
    pub(super) fn results(&self) -> Results {
        let stream = |(index, total): (u32, &Total)| StreamResults {
            id: stream_id(index),
            bytes: total.bytes,
            retransmits: if total.sender {
                i64::try_from(total.retransmits).unwrap_or(i64::MAX)
            } else {
                -1
            },
            jitter: 0.0,
            errors: 0,
            packets: 0,
            start_time: 0.0,
            end_time: self.seconds,
        };
        let sends = self.totals.iter().any(|total| total.sender);
        Results {
            cpu_util_total: self.cpu.total,
            cpu_util_user: self.cpu.user,
            cpu_util_system: self.cpu.system,
            sender_has_retransmits: if sends { 1 } else { -1 },
            congestion_used: Some(self.congestion.to_string()),
            streams: (0..).zip(&self.totals).map(stream).collect(),
        }
    }

    /// As the user is told. Without the peer's results its side shows no bytes.
    pub(super) fn end(&self, peer: Option<&Results>) -> End {
        let streams: Vec<StreamEnd> = (0..)
            .zip(&self.totals)
            .map(|(index, total)| self.stream(index, total, peer))
            .collect();
        let first = self.totals.first().is_some_and(|total| total.sender);
        let both = self.totals.iter().any(|total| total.sender != first);
        let sent = |sender| sum(&streams, sender, |stream| &stream.sender);
        let received = |sender| sum(&streams, sender, |stream| &stream.receiver);
        let remote = peer.map_or_else(CpuUse::default, |results| CpuUse {
            total: results.cpu_util_total,
            user: results.cpu_util_user,
            system: results.cpu_util_system,
        });
        let (ours, theirs) = (
            Some(self.congestion.to_string()),
            peer.and_then(|results| results.congestion_used.clone()),
        );
        let (sender_name, receiver_name) = if first {
            (ours, theirs)
        } else {
            (theirs, ours)
        };
        End {
            sum_sent: sent(first),
            sum_received: received(first),
            sum_sent_bidir_reverse: both.then(|| sent(!first)),
            sum_received_bidir_reverse: both.then(|| received(!first)),
            streams,
            cpu_utilization_percent: CpuUtilization::new(self.cpu, remote),
            sender_tcp_congestion: sender_name,
            receiver_tcp_congestion: receiver_name,
        }
    }

    fn stream(&self, index: u32, total: &Total, peer: Option<&Results>) -> StreamEnd {
        let theirs = peer.and_then(|results| {
            results
                .streams
                .iter()
                .find(|stream| stream.id == stream_id(index))
        });
        let side = |bytes, seconds, extremes| SideTotal {
            socket: stream_label(index),
            start: 0.0,
            end: seconds,
            seconds,
            bytes,
            bits_per_second: rate(bytes, seconds),
            extremes,
            sender: total.sender,
        };
        // Servers before 3.1.5 tell no end time: then our own stands in.
        let their_seconds = theirs.map_or(0.0, |t| t.end_time);
        let their_seconds = if their_seconds > 0.0 {
            their_seconds
        } else {
            self.seconds
        };
        let their_bytes = theirs.map_or(0, |t| t.bytes);
        if total.sender {
            let extremes = SenderExtremes {
                retransmits: total.retransmits,
                max_snd_cwnd: total.max_cwnd,
                max_snd_wnd: total.max_snd_wnd,
                max_rtt: total.max_rtt,
                min_rtt: total.min_rtt,
                mean_rtt: total.mean_rtt,
            };
            StreamEnd {
                sender: side(total.bytes, self.seconds, Some(extremes)),
                receiver: side(their_bytes, their_seconds, None),
            }
        } else {
            let counted = theirs.and_then(|t| u64::try_from(t.retransmits).ok());
            let extremes = counted.map(|retransmits| SenderExtremes {
                retransmits,
                ..SenderExtremes::default()
            });
            StreamEnd {
                sender: side(their_bytes, their_seconds, extremes),
                receiver: side(total.bytes, self.seconds, None),
            }
        }
    }
}

/// One side of all streams of one direction.
fn sum(streams: &[StreamEnd], sender: bool, side: impl Fn(&StreamEnd) -> &SideTotal) -> Sum {
    let sides: Vec<&SideTotal> = streams
        .iter()
        .filter(|s| s.sender.sender == sender)
        .map(side)
        .collect();
    let seconds = sides.first().map_or(0.0, |total| total.seconds);
    let bytes = sides.iter().map(|total| total.bytes).sum();
    let counts = sides
        .iter()
        .filter_map(|total| total.extremes.as_ref())
        .map(|extremes| extremes.retransmits);
    let counted = sides.iter().any(|total| total.extremes.is_some());
    Sum {
        start: 0.0,
        end: seconds,
        seconds,
        bytes,
        bits_per_second: rate(bytes, seconds),
        retransmits: counted.then(|| counts.sum()),
        omitted: None,
        sender,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(senders: &[bool]) -> Outcome {
        let total = |sender: &bool| Total {
            sender: *sender,
            bytes: 1000,
            retransmits: 2,
            ..Total::default()
        };
        Outcome {
            totals: senders.iter().map(total).collect(),
            seconds: 2.0,
            cpu: CpuUse::default(),
            congestion: CongestionControl::Cubic,
        }
    }

    #[test]
    fn the_sides_of_a_stream_meet_by_its_id() {
        let client = outcome(&[true, true]);
        let mut server = outcome(&[false, false]).results();
        server.streams[1].bytes = 900;
        server.streams[1].end_time = 4.0;
        server.streams.reverse();
        let end = client.end(Some(&server));
        assert_eq!(
            (end.streams[1].sender.bytes, end.streams[1].receiver.bytes),
            (1000, 900)
        );
        assert_eq!(end.streams[1].receiver.bits_per_second, 1800.0);
        assert_eq!((end.sum_sent.bytes, end.sum_received.bytes), (2000, 1900));
        assert_eq!(
            (end.sum_sent.retransmits, end.sum_received.retransmits),
            (Some(4), None)
        );
    }

    #[test]
    fn a_receiver_shows_the_peer_s_retransmissions() {
        let end = outcome(&[false]).end(Some(&outcome(&[true]).results()));
        assert_eq!(end.sum_sent.retransmits, Some(2));
        assert_eq!(
            (end.sum_sent.sender, end.sum_sent.bits_per_second),
            (false, 4000.0)
        );
    }

    #[test]
    fn both_directions_are_apart() {
        let end = outcome(&[true, false]).end(Some(&outcome(&[false, true]).results()));
        let reverse = end.sum_sent_bidir_reverse.expect("both directions");
        assert_eq!(
            (end.sum_sent.bytes, reverse.bytes, reverse.sender),
            (1000, 1000, false)
        );
    }

    #[test]
    fn without_the_peer_s_results_ours_still_show() {
        let end = outcome(&[true]).end(None);
        assert_eq!((end.sum_sent.bytes, end.sum_received.bytes), (1000, 0));
    }
}
