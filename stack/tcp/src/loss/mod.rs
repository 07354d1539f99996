//! Loss detection: which segments are believed lost, when recovery begins and ends, and whether it was needed.
//!
//! ```text
//!            ACK                              reorder timer      probe timer        retransmission timer
//!             v                                    v                  v                      v
//!  snd: what arrived -> undo? -> RACK: lost? ------+      last segment again      all lost, SACKs kept
//!                        |          v                                                        v
//!                        |    Open -> Recovery (PRR) --------> Open          any ->        Loss (F-RTO) -> Open
//!                        +--> Open, window as before
//! ```
//! The interface is events in and marks out: what is marked in the send queue `transmit` sends again, as far as the
//! congestion window lets it, the oldest outstanding segment always. Neither `snd` nor `transmit` knows why it was marked.
//!
//! With SACK it is RACK-TLP (RFC 8985): time, not counting, finds losses, and what it needs is in `snd`'s scoreboard,
//! [`reordering`] and [`tlp`]. Without SACK it is NewReno (RFC 6582), where duplicate ACKs are counted ([`newreno`]). The
//! window in recovery is [`prr`]'s, its way back [`undo`]'s. Limited transmit (RFC 3042) needs no line of code: what is
//! known to have arrived is not on the way, so new data may follow.
//!
//! Recorded choices. The reorder timer waits for the earliest segment that is due (the RFC: for the latest), so that each
//! has its own full window. The retransmission timer starts anew at every partial acknowledgment ("slow but steady", RFC 6582
//! 4): with a floor of 200 ms the other choice turns each burst loss on a short path into a time-out. SACK blocks in a
//! duplicate ACK make it one even if the window changed with it (RFC 6675 2). After a time-out SACK marks are kept, unless
//! the oldest segment bears one (RFC 2018 8 would have them dropped): as Linux; else everything is sent twice.

mod info;
mod newreno;
mod prr;
mod reordering;
mod timers;
mod tlp;
mod trouble;
mod undo;

use alloc::boxed::Box;

use bywash_wire::SeqNumber;

pub use info::{RecoveryInfo, RecoveryPhase};
pub(crate) use timers::{Expects, TimeoutContext};

use crate::congestion::{AckSample, Controller, Moment, Recovery};
use crate::payload::Payload;
use crate::snapshot::code;
use crate::snd::{Acked, Arrival, Detected, SendQueue};
use crate::time::{Duration, Instant};
use prr::{Prr, Step};
use reordering::DUPLICATE_THRESHOLD;
use tlp::Answer;
use trouble::{Trouble, count};
use undo::{Frto, Undo};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// From the first loss to the acknowledgment of `recover`.
    Recovery,
    /// From a time-out to the acknowledgment of `recover`.
    Loss,
}

code!(
    enum Phase {
        Open = 0,
        Recovery = 1,
        Loss = 2,
    }
);

/// What an ACK brings besides what it acknowledges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckContext {
    pub(crate) arrival: Arrival,
    /// Its number.
    pub(crate) ack: SeqNumber,
    /// A duplicate by RFC 5681 2, or with SACK blocks.
    pub(crate) duplicate: bool,
    /// Payload of a full segment.
    pub(crate) mss: u32,
    /// The round-trip time it measures.
    pub(crate) rtt: Option<Duration>,
    /// The smoothed one.
    pub(crate) srtt: Duration,
    /// The congestion window was what stopped the last transmissions.
    pub(crate) cwnd_limited: bool,
    /// It carries ECE.
    pub(crate) ecn_echo: bool,
    /// Selective acknowledgments are agreed on.
    pub(crate) sack: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LossDetection {
    phase: Phase,
    /// What the retransmission timer is running for.
    pub(crate) expects: Expects,
    /// A tail loss probe is to be sent.
    pub(crate) probe_due: bool,
    /// `snd.nxt` when recovery began; the initial sequence number before.
    recover: SeqNumber,
    trouble: Option<Box<Trouble>>,
}

code!(struct LossDetection { phase, expects, probe_due, recover, trouble });

impl LossDetection {
    pub(crate) fn new(iss: SeqNumber) -> Self {
        Self {
            phase: Phase::Open,
            expects: Expects::Acknowledgment,
            probe_due: false,
            recover: iss,
            trouble: None,
        }
    }

    fn trouble(&mut self) -> &mut Trouble {
        self.trouble.get_or_insert_default()
    }

    /// An ACK was worked into the queue. When the reorder timer shall run out, if it shall.
    pub(crate) fn on_ack<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        congestion: &mut Controller,
        acked: &Acked,
        context: &AckContext,
    ) -> Option<Instant> {
        if self.phase == Phase::Open {
            self.on_una(snd.una);
        }
        let calm = self.phase == Phase::Open
            && !snd.is_troubled()
            && !context.duplicate
            && acked.duplicate.is_none()
            && self
                .trouble
                .as_ref()
                .is_none_or(|trouble| trouble.is_calm());
        if calm {
            self.tell(snd, congestion, acked, acked.delivered.bytes, context);
            return None;
        }
        self.on_ack_in_trouble(snd, congestion, acked, context)
    }

    /// Sequence numbers that are kept move along, or two gigabytes later they would seem to lie ahead.
    fn on_una(&mut self, una: SeqNumber) {
        if una.after(self.recover) {
            self.recover = una - 1;
        }
        if let Some(trouble) = &mut self.trouble {
            trouble.undo = trouble.undo.filter(|undo| !undo.is_stale(una));
            trouble.reordering.on_una(una);
        }
    }

    fn on_ack_in_trouble<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        congestion: &mut Controller,
        acked: &Acked,
        context: &AckContext,
    ) -> Option<Instant> {
        let twin = self.trouble().on_ack(acked, snd.una, snd.nxt, context.mss);
        self.on_probe_answer(snd, congestion, acked, context, twin);
        let fresh = if context.sack {
            acked.fresh
        } else {
            self.count_duplicates(snd, acked, context)
        };
        let leaving = match self.phase {
            Phase::Open => {
                self.undo_if_refuted(snd, congestion, context);
                false
            }
            Phase::Recovery => self.on_ack_in_recovery(snd, congestion, acked, context),
            Phase::Loss => {
                self.on_ack_after_timeout(snd, congestion, acked, context);
                false
            }
        };
        let found = self.detect(snd, context, leaving);
        if leaving && snd.tally().lost > 0 {
            // Recovery ends, and the next begins.
            congestion.on_exit_recovery(Self::moment(snd, context));
            self.phase = Phase::Open;
        }
        let enters = match self.phase {
            Phase::Open => snd.tally().lost > 0,
            // A retransmission was lost in its turn.
            Phase::Loss => found.resent > 0,
            Phase::Recovery => false,
        };
        if enters {
            self.enter_recovery(snd, congestion, acked, context);
        }
        // Without SACK, duplicates have told already of a part of what is acknowledged now.
        let delivered = if context.sack || self.phase != Phase::Open {
            acked.delivered.bytes
        } else {
            fresh.min(acked.bytes)
        };
        self.tell(snd, congestion, acked, delivered, context);
        if leaving && !enters {
            self.leave_recovery(snd, congestion, context);
        }
        self.regulate(
            snd,
            congestion,
            fresh,
            acked.seq_len > 0 && found.lost == 0,
            context.mss,
        );
        found.wait
    }

    /// An ACK in fast recovery. Whether that is over, if nothing else is lost.
    fn on_ack_in_recovery<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        congestion: &mut Controller,
        acked: &Acked,
        context: &AckContext,
    ) -> bool {
        let whole = snd.una.at_or_after(self.recover);
        if self.undo_if_refuted(snd, congestion, context) {
            return false;
        }
        // RFC 4015, also for a part of it: a delayed segment, not its retransmission, has filled the hole.
        let preceded = acked.seq_len > 0
            && (whole || snd.tally().resent == 0)
            && self
                .undo()
                .is_some_and(|undo| undo.is_preceded_by(&context.arrival));
        if preceded {
            snd.unmark_lost();
            self.undo_reduction(snd, congestion, context);
            return false;
        }
        whole
    }

    /// An ACK after a time-out: F-RTO (RFC 5682 3.1), Eifel (RFC 4015), or plain go-back-N.
    fn on_ack_after_timeout<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        congestion: &mut Controller,
        acked: &Acked,
        context: &AckContext,
    ) {
        let whole = snd.una.at_or_after(self.recover);
        let advanced = acked.seq_len > 0;
        let eifel = advanced
            && self
                .undo()
                .is_some_and(|undo| undo.is_refuted() || undo.is_preceded_by(&context.arrival));
        let frto = self.trouble().frto;
        // RFC 5682 3.1, step 3.b: something sent before the time-out, and only once, has arrived. Without SACK the first
        // acknowledgment says nothing of that: where the retransmission fills a hole, it covers what had arrived behind it
        // before the time-out (2.1, step 2.b).
        let tells = match frto {
            Frto::Off => false,
            Frto::Watching => context.sack,
            Frto::Probing => context.sack || advanced,
        };
        let original = tells
            && acked
                .original
                .is_some_and(|end| end.at_or_before(self.recover));
        if (eifel || original) && self.undo().is_some() {
            count(&mut self.trouble().counts.spurious_timeouts, 1);
            snd.unmark_lost();
            self.undo_reduction(snd, congestion, context);
            return;
        }
        if whole {
            self.phase = Phase::Open;
            let trouble = self.trouble();
            trouble.frto = Frto::Off;
            trouble.reordering.on_recovered();
            return;
        }
        let next = match frto {
            Frto::Off => Frto::Off,
            // Step 3.a, or the second acknowledgment has told nothing.
            Frto::Probing if snd.nxt.after(self.recover) => Frto::Off,
            // Step 2.b: new data, if there is any and the peer's window takes it.
            Frto::Watching | Frto::Probing
                if advanced && snd.has_unsent() && snd.usable_window() > 0 =>
            {
                self.recover = snd.nxt;
                Frto::Probing
            }
            // Step 2 goes on waiting if SACK blocks say what the duplicate was for.
            Frto::Watching if !advanced && context.sack => Frto::Watching,
            // The first acknowledgment was a duplicate (RFC 5682 2.1, step 2.a), or there is nothing new.
            Frto::Watching | Frto::Probing => Frto::Off,
        };
        self.trouble().frto = next;
    }

    /// Marks what is lost.
    fn detect<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        context: &AckContext,
        leaving: bool,
    ) -> Detected {
        if !context.sack {
            // NewReno has marked already.
            return Detected::default();
        }
        let hasty = self.phase != Phase::Open && !leaving;
        self.detect_by_time(
            snd,
            context.arrival.now,
            hasty,
            context.arrival.min_rtt,
            context.srtt,
        )
    }

    fn detect_by_time<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        now: Instant,
        hasty: bool,
        min_rtt: Duration,
        srtt: Duration,
    ) -> Detected {
        let sacked = snd.tally().sacked;
        let trouble = self.trouble();
        let window = trouble.reordering.window(hasty, sacked, min_rtt, srtt);
        let found = snd.detect_lost(now, window);
        count(&mut trouble.counts.lost, found.lost);
        count(&mut trouble.counts.lost_resent, found.resent);
        found
    }

    fn enter_recovery<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        congestion: &mut Controller,
        acked: &Acked,
        context: &AckContext,
    ) {
        let moment = Self::moment(snd, context);
        // RFC 9937 6.1: what was on the way before this ACK, less what it will never see delivered, being SACKed already.
        let flight =
            (moment.flight + acked.seq_len + acked.sacked).saturating_sub(snd.sacked_bytes());
        self.begin_recovery(snd, congestion, moment, flight);
    }

    fn begin_recovery<P: Payload>(
        &mut self,
        snd: &SendQueue<P>,
        congestion: &mut Controller,
        moment: Moment,
        flight: u32,
    ) {
        self.phase = Phase::Recovery;
        self.recover = snd.nxt;
        congestion.on_enter_recovery(moment);
        let trouble = self.trouble();
        count(&mut trouble.counts.fast_recoveries, 1);
        trouble.undo = Some(Undo::new(snd.una, snd.tally().resent));
        trouble.frto = Frto::Off;
        trouble.prr = (!congestion.regulates_recovery()).then(|| Prr::new(flight));
    }

    fn leave_recovery<P: Payload>(
        &mut self,
        snd: &SendQueue<P>,
        congestion: &mut Controller,
        context: &AckContext,
    ) {
        self.phase = Phase::Open;
        let trouble = self.trouble();
        trouble.prr = None;
        trouble.reordering.on_recovered();
        congestion.on_exit_recovery(Self::moment(snd, context));
    }

    /// In fast recovery: how much may leave (RFC 9937 6.2).
    fn regulate<P: Payload>(
        &mut self,
        snd: &SendQueue<P>,
        congestion: &mut Controller,
        delivered: u32,
        safe: bool,
        mss: u32,
    ) {
        if self.phase != Phase::Recovery || congestion.regulates_recovery() {
            return;
        }
        let ssthresh = congestion.ssthresh();
        if let Some(prr) = &mut self.trouble().prr {
            congestion.set_recovery_window(prr.window(Step {
                delivered,
                pipe: snd.pipe(),
                ssthresh,
                mss,
                safe,
            }));
        }
    }

    fn undo(&self) -> Option<&Undo> {
        self.trouble.as_ref()?.undo.as_ref()
    }

    /// D-SACKs have told that every retransmission was a duplicate: the window is as before. Whether that was so.
    fn undo_if_refuted<P: Payload>(
        &mut self,
        snd: &SendQueue<P>,
        congestion: &mut Controller,
        context: &AckContext,
    ) -> bool {
        let refuted = self.undo().is_some_and(Undo::is_refuted);
        if refuted {
            self.undo_reduction(snd, congestion, context);
        }
        refuted
    }

    fn undo_reduction<P: Payload>(
        &mut self,
        snd: &SendQueue<P>,
        congestion: &mut Controller,
        context: &AckContext,
    ) {
        congestion.on_undo(Self::moment(snd, context));
        self.phase = Phase::Open;
        let trouble = self.trouble();
        count(&mut trouble.counts.undone, 1);
        // What seemed lost was late.
        trouble.reordering.seen = true;
        trouble.reordering.on_recovered();
        trouble.undo = None;
        trouble.prr = None;
        trouble.frto = Frto::Off;
    }

    /// What a tail loss probe's answer says (RFC 8985 7.4.2).
    fn on_probe_answer<P: Payload>(
        &mut self,
        snd: &SendQueue<P>,
        congestion: &mut Controller,
        acked: &Acked,
        context: &AckContext,
        twin: bool,
    ) {
        let trouble = self.trouble();
        let Some(probe) = trouble.probe else { return };
        let answer = probe.answer(context.ack, acked, context.duplicate, twin);
        if answer == Answer::Open {
            return;
        }
        trouble.probe = None;
        if answer == Answer::Repaired && self.phase == Phase::Open {
            count(&mut self.trouble().counts.probe_repairs, 1);
            let moment = Self::moment(snd, context);
            congestion.on_enter_recovery(moment);
            congestion.on_exit_recovery(moment);
        }
    }

    /// The controller's sample of one ACK.
    fn tell<P: Payload>(
        &self,
        snd: &mut SendQueue<P>,
        congestion: &mut Controller,
        acked: &Acked,
        delivered: u32,
        context: &AckContext,
    ) {
        let now = context.arrival.now;
        let rate = snd.sample(now, &acked.delivered, context.arrival.min_rtt);
        congestion.on_ack(&AckSample {
            now,
            mss: context.mss,
            delivered,
            acked: acked.bytes,
            lost: snd.rate.lost.wrapping_sub(acked.lost_before),
            flight_before: acked.pipe_before,
            flight: snd.pipe(),
            rtt: context.rtt,
            srtt: context.srtt,
            rate,
            cwnd_limited: context.cwnd_limited,
            // RFC 5681 3.1 and 3042: duplicates let one new segment go each, in place of what has arrived, and the window
            // stays. Where segments overtake each other they are the usual course of things (as in Linux).
            raises: acked.seq_len > 0
                || self
                    .trouble
                    .as_ref()
                    .is_some_and(|trouble| trouble.reordering.degree > DUPLICATE_THRESHOLD),
            ecn_echo: context.ecn_echo,
            sack: context.sack,
            recovery: match self.phase {
                Phase::Open => Recovery::Open,
                Phase::Recovery => Recovery::Fast,
                Phase::Loss => Recovery::AfterTimeout,
            },
        });
    }

    fn moment<P: Payload>(snd: &SendQueue<P>, context: &AckContext) -> Moment {
        Moment {
            now: context.arrival.now,
            mss: context.mss,
            flight: snd.flight(),
        }
    }

    /// Bytes before `end` were sent; `again`: not for the first time.
    pub(crate) fn on_sent(&mut self, now: Instant, end: SeqNumber, bytes: u32, again: bool) {
        let Some(trouble) = &mut self.trouble else {
            return;
        };
        if let Some(prr) = &mut trouble.prr {
            prr.on_sent(bytes);
        }
        if again {
            trouble.counts.resent_bytes += u64::from(bytes);
            count(&mut trouble.counts.resent, 1);
            // What is sent again while nothing is wrong is a tail loss probe, which no reduction has caused.
            if self.phase != Phase::Open
                && let Some(undo) = &mut trouble.undo
            {
                undo.on_resent(now, end);
            }
        }
    }

    /// F-RTO waits: nothing is sent again until the next acknowledgment, if new data went instead.
    pub(crate) fn holds_retransmissions(&self) -> bool {
        self.phase == Phase::Loss
            && self
                .trouble
                .as_ref()
                .is_some_and(|trouble| trouble.frto == Frto::Probing)
    }

    /// Nothing new could be sent: F-RTO ends, unless new data is on the way already.
    pub(crate) fn on_nothing_new(&mut self, nxt: SeqNumber) -> bool {
        let ends = self.holds_retransmissions() && nxt == self.recover;
        if ends {
            self.trouble().frto = Frto::Off;
        }
        ends
    }
}
