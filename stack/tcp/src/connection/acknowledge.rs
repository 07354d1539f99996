//! Acknowledgments on their way out: when one is owed, and what stands in it besides the number.

use bywash_wire::{Options, SackBlocks, SeqNumber};

use super::Connection;
use crate::payload::Payload;
use crate::rcv::Context;
use crate::state::Phase;
use crate::time::{Duration, Instant};
use crate::timer::Timer;

impl<P: Payload> Connection<P> {
    /// Whether an empty segment is owed; counts it as paid.
    pub(super) fn takes_pure_ack(&mut self) -> bool {
        if self.phase == Phase::SynSent {
            return false;
        }
        let repeats = self.rcv.last_ack == self.rcv.nxt;
        self.rcv.ack.take_duplicate(repeats)
            || self.rcv.owes_ack_now()
            || (self.rcv.ack.is_in_debt() && self.config.delayed_ack == Duration::ZERO)
            || (self.phase.receives() && self.rcv.owes_window_update())
    }

    /// Data that is acknowledged neither now nor by a segment that goes anyway is acknowledged later.
    pub(super) fn delay_ack(&mut self, now: Instant) {
        if self.rcv.ack.is_in_debt() && !self.timers.is_armed(Timer::DelayedAck) {
            let srtt = self.rtt.is_measured().then(|| self.rtt.srtt());
            let delay = self.rcv.ack.delay(srtt, self.config.delayed_ack);
            self.timers.arm(Timer::DelayedAck, now + delay);
        }
    }

    pub(super) fn on_delayed_ack_timeout(&mut self) {
        let rto = self.rtt.rto(&self.config);
        self.rcv.ack.on_timer(rto, self.config.delayed_ack);
    }

    /// What the receiving half must know of a segment that came now.
    pub(super) fn receive_context(&self, push: bool) -> Context {
        Context {
            now: self.control.clock,
            push,
            rto: self.rtt.rto(&self.config),
            ack_delay: self.config.delayed_ack,
            mss: self.config.mss.into(),
        }
    }

    /// SACK blocks as far as segment and header have room: data is never cut to make room for them.
    pub(super) fn add_sack(&mut self, options: &mut Options, len: u32) {
        if !self.rcv.has_sack_blocks() {
            return;
        }
        let blocks = self.rcv.sack_blocks();
        let room = usize::from(self.agreed.mss).saturating_sub(len as usize);
        for count in (1..=blocks.len()).rev() {
            options.sack = blocks.iter().take(count).collect();
            if options.emitted_len() <= room {
                self.count(|counts| &mut counts.sack_sent);
                return;
            }
        }
        options.sack = SackBlocks::EMPTY;
    }

    /// The number of a segment without data. A peer that has taken its window back would find `snd.nxt` beyond it and drop
    /// the acknowledgment; less than the window field can say is rounding (Linux's `tcp_acceptable_seq`).
    pub(super) fn acceptable_seq(&self) -> SeqNumber {
        let edge = self.snd.una + self.snd.wnd;
        let beyond = self.snd.nxt.distance_from(edge);
        if beyond < 1 << self.agreed.snd_wscale {
            self.snd.nxt
        } else {
            edge
        }
    }

    pub(super) fn on_ack_sent(&mut self) {
        self.rcv.on_ack_sent();
        self.timers.disarm(Timer::DelayedAck);
    }
}
