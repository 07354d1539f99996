//! What the retransmission timer runs for, and what loss detection does when it has run out.
//!
//! There is one timer for three deadlines, of which at most one makes sense at a time (as in Linux): while segments wait to
//! be declared lost, the reorder timer; else, with nothing wrong, the tail loss probe; else the retransmission time-out,
//! which also follows each of the other two.

use bywash_wire::SeqNumber;

use super::tlp::{Probe, probe_timeout};
use super::trouble::count;
use super::undo::{Frto, Undo};
use super::{LossDetection, Phase};
use crate::config::Config;
use crate::congestion::{Controller, Moment};
use crate::payload::Payload;
use crate::snapshot::code;
use crate::snd::{Record, SendQueue};
use crate::time::{Duration, Instant};

/// Which deadline the retransmission timer is armed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Expects {
    /// RFC 6298.
    #[default]
    Acknowledgment,
    /// RFC 8985 7.
    Probe,
    /// RFC 8985 6.2, step 5.
    Reordering,
}

code!(
    enum Expects {
        Acknowledgment = 0,
        Probe = 1,
        Reordering = 2,
    }
);

/// The circumstances of a time-out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeoutContext {
    pub(crate) moment: Moment,
    pub(crate) srtt: Duration,
    pub(crate) min_rtt: Duration,
    pub(crate) sack: bool,
    /// For the same data as the time-out before.
    pub(crate) again: bool,
    /// The SYN waits for its acknowledgment.
    pub(crate) handshake: bool,
}

impl LossDetection {
    /// The retransmission timer ran out (RFC 6298 5.4, RFC 8985 6.3).
    pub(crate) fn on_timeout<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        congestion: &mut Controller,
        context: &TimeoutContext,
    ) {
        let repairing = match self.phase {
            Phase::Open => false,
            // The window was reduced for these losses; a second reduction would count them twice (as in Linux).
            Phase::Recovery => self.recover.after(snd.una),
            Phase::Loss => context.again,
        };
        congestion.on_timeout(context.moment, repairing);
        // Without SACK nothing would ever tell that the rest is lost too.
        let recent = if context.sack {
            context.srtt
        } else {
            Duration::ZERO
        };
        let before = snd.tally().lost;
        let reneged = snd.mark_timed_out(context.moment.now, recent);
        let lost = snd.tally().lost.saturating_sub(before);
        let watches = self.phase == Phase::Open || context.again;
        self.phase = Phase::Loss;
        // RFC 6582 3.2, step 4.
        self.recover = snd.nxt;
        let trouble = self.trouble();
        count(&mut trouble.counts.lost, lost);
        count(&mut trouble.counts.reneges, u32::from(reneged));
        trouble.prr = None;
        trouble.probe = None;
        trouble.duplicates = 0;
        if !repairing {
            trouble.undo = (!context.handshake && !reneged).then(|| Undo::new(snd.una, 0));
        }
        trouble.frto = if watches && !context.handshake && !reneged {
            Frto::Watching
        } else {
            Frto::Off
        };
    }

    /// The reorder timer ran out (RFC 8985 6.2, step 5): what is due is lost. When it shall run out next.
    pub(crate) fn on_reorder_timeout<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        congestion: &mut Controller,
        context: &TimeoutContext,
    ) -> Option<Instant> {
        let hasty = self.phase != Phase::Open;
        let found = self.detect_by_time(
            snd,
            context.moment.now,
            hasty,
            context.min_rtt,
            context.srtt,
        );
        if found.lost > 0 {
            if self.phase != Phase::Recovery {
                let flight = context.moment.flight.saturating_sub(snd.sacked_bytes());
                self.begin_recovery(snd, congestion, context.moment, flight);
            }
            self.regulate(snd, congestion, 0, false, context.moment.mss);
        }
        found.wait
    }

    /// Segments have become smaller than some that are on the way: those cannot arrive and go again, cut. Nobody was
    /// congested, so the window stays (RFC 1191 6.5, as Linux's `tcp_simple_retransmit`).
    pub(crate) fn on_resegmented<P: Payload>(&mut self, snd: &mut SendQueue<P>, limit: u32) {
        self.on_undelivered(snd, |record| record.len > limit);
    }

    /// What `is_lost` says of what is on the way is known, and is no sign of congestion.
    pub(crate) fn on_undelivered<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        is_lost: impl Fn(&Record<P>) -> bool,
    ) {
        let mut lost = 0;
        for index in 0..snd.sent_records() {
            if is_lost(snd.record(index)) {
                lost += u32::from(snd.mark_lost(index));
            }
        }
        if lost == 0 {
            return;
        }
        count(&mut self.trouble().counts.lost, lost);
        if self.phase == Phase::Open {
            self.phase = Phase::Loss;
            self.recover = snd.nxt;
            self.trouble().undo = None;
            self.trouble().frto = Frto::Off;
        }
    }

    /// The segment that recovery has begun for was a probe of the path MTU, and nothing else is lost: nobody was congested, so
    /// the window is as before (RFC 4821 7.6), and the segment goes again as after [`on_resegmented`](Self::on_resegmented).
    pub(crate) fn on_lost_probe<P: Payload>(
        &mut self,
        snd: &SendQueue<P>,
        congestion: &mut Controller,
        moment: Moment,
    ) {
        let tally = snd.tally();
        if self.phase != Phase::Recovery || (tally.lost, tally.resent) != (1, 0) {
            return;
        }
        congestion.on_undo(moment);
        self.phase = Phase::Loss;
        self.recover = snd.nxt;
        let trouble = self.trouble();
        trouble.undo = None;
        trouble.prr = None;
        trouble.frto = Frto::Off;
    }

    /// How long until a tail loss probe goes, if one makes sense: with SACK, nothing wrong, and none on the way.
    pub(crate) fn probe_wait<P: Payload>(
        &self,
        snd: &SendQueue<P>,
        srtt: Duration,
        config: &Config,
    ) -> Option<Duration> {
        let may = self.phase == Phase::Open
            && snd.is_outstanding()
            && !snd.is_marked()
            && !self.is_probing();
        may.then(|| probe_timeout(srtt, snd.sent_records(), config))
    }

    /// Whether a probe is on the way: one at a time.
    pub(crate) fn is_probing(&self) -> bool {
        self.trouble
            .as_ref()
            .is_some_and(|trouble| trouble.probe.is_some())
    }

    /// A probe was sent, `snd.nxt` is behind it; `again`: no new data.
    pub(crate) fn on_probe_sent(&mut self, nxt: SeqNumber, again: bool) {
        let trouble = self.trouble();
        trouble.probe = Some(Probe { end: nxt, again });
        count(&mut trouble.counts.probes, 1);
    }
}
