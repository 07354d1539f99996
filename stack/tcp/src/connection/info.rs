//! The picture of a connection that `ss` and the tests look at.

use super::Connection;
use crate::info::{Activity, Info};
use crate::payload::Payload;
use crate::time::Instant;

impl<P: Payload> Connection<P> {
    /// What a policy about idle and slow peers must know: cheap, for many connections.
    pub fn activity(&self) -> Activity {
        Activity {
            heard_at: self.control.heard_at,
            acked: self.snd.bytes_acked(),
            waits: self.snd.is_outstanding() || self.snd.unsent() > 0,
        }
    }

    /// A picture of the connection, in the manner of `TCP_INFO` (STATUS of RFC 9293 3.10.6), as of the last event.
    pub fn info(&self) -> Info {
        self.info_at(self.control.clock)
    }

    /// The same as of `now`: spans of time that go on are counted up to then.
    pub fn info_at(&self, now: Instant) -> Info {
        let counters = &self.counters;
        let counts = self.counts();
        let rate = &self.snd.rate;
        let (busy_ns, rwnd_limited_ns, sndbuf_limited_ns) = self.chrono.totals(now);
        let (ecn_marks, ecn_echoes) = self.ecn.counts();
        Info {
            state: self.phase.state(),
            rtt_ns: self.rtt.srtt().as_nanos(),
            rttvar_ns: self.rtt.rttvar().as_nanos(),
            rtt_ns_min: self.rtt.min().as_nanos(),
            rto_ns: self.rtt.rto(&self.config).as_nanos(),
            cwnd: self.congestion.window(),
            ssthresh: self.congestion.ssthresh(),
            snd_wnd: self.snd.wnd,
            rcv_wnd: self.rcv.window(),
            mss: self.segment_limit() as u32,
            snd_wscale: self.agreed.snd_wscale,
            rcv_wscale: self.rcv.wscale,
            timestamps: self.agreed.timestamps,
            sack: self.agreed.sack,
            in_flight: self.snd.flight(),
            unsent: self.snd.unsent() as u64,
            unread: self.rcv.queued() as u64,
            held_out_of_order: self.rcv.ooo.bytes() as u64,
            bytes_in: counters.bytes_in,
            bytes_out: counters.bytes_out,
            bytes_acked: self.snd.bytes_acked(),
            segments_in: counters.segments_in,
            segments_out: counters.segments_out,
            retransmissions: counts.retransmissions.into(),
            timeouts: counts.timeouts.into(),
            fast_recoveries: self.loss.fast_recoveries(),
            retransmit_blocked: counts.retransmit_blocked.into(),
            split_failed: counts.split_failed.into(),
            out_of_order: counts.out_of_order.into(),
            dup_acks: counts.dup_acks.into(),
            sack_sent: counts.sack_sent.into(),
            challenge_acks: counts.challenge_acks.into(),
            window_probes: counts.window_probes.into(),
            copied_small: self.rcv.copied_small().into(),
            congestion: self.congestion.algorithm(),
            congestion_phase: self.congestion.phase(),
            congestion_figures: self.congestion.figures(),
            pacing_rate: self.pace().map(|pace| pace.rate),
            bytes_lost: rate.lost.into(),
            ecn: self.ecn.is_agreed(),
            ecn_marks: ecn_marks.into(),
            ecn_echoes: ecn_echoes.into(),
            sent_before_ns: now.since(self.control.sent_at).as_nanos(),
            received_before_ns: now.since(self.rcv.ack.data_at()).as_nanos(),
            heard_before_ns: now.since(self.control.heard_at).as_nanos(),
            busy_ns,
            rwnd_limited_ns,
            sndbuf_limited_ns,
            delivery_rate: rate.latest,
            delivery_rate_app_limited: rate.latest_app_limited,
            fast_open: self.fast_open_status(),
            syn_data: self.fast_open_state().map_or(0, |state| state.syn_data),
            recovery: self.loss.info(&self.snd),
            limited_by: self.limited_by,
        }
    }
}
