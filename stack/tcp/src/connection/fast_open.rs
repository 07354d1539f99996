//! Data on the SYN (RFC 7413 4.2), at both ends.
//!
//! The send queue holds the SYN and the data behind it as two segments, though they leave as one packet. So everything that can
//! go wrong is what it always is: a SYN that is lost goes again alone (RFC 7413 4.2.2), data that the SYN-ACK does not
//! acknowledge is sent after it, and a SYN-ACK that acknowledges both takes both off the queue.
//!
//! At the other end such a connection is in SYN-RECEIVED like any other, but [`Opened::Early`](crate::state::Opened): it has been
//! given to the application, which reads and writes. Its FIN waits for the handshake, as a close in SYN-RECEIVED does anyway.

use bywash_wire::{FastOpen, FastOpenCookie, Flags, Options, Segment};

use super::Connection;
use crate::event::Pending;
use crate::fast_open::{FastOpenAnswer, FastOpenOffer, FastOpenState, FastOpenStatus};
use crate::payload::Payload;
use crate::state::{Input, Opened, Phase};
use crate::time::Instant;

impl<P: Payload> Connection<P> {
    /// Tries Fast Open with an active open whose SYN was not sent yet: what is queued when the first `poll_transmit` is called
    /// may go with the SYN. See the warning at [`FastOpenOffer`].
    pub fn fast_open(&mut self, offer: FastOpenOffer) {
        if self.phase != Phase::SynSent || self.snd.is_outstanding() {
            return;
        }
        let (cookie, mss) = match offer {
            FastOpenOffer::Ask => (None, 0),
            FastOpenOffer::Show { cookie, mss } => (Some(cookie), mss),
        };
        self.rare().fast_open = Some(FastOpenState {
            option: Some(FastOpen {
                cookie,
                experimental: false,
            }),
            mss,
            status: FastOpenStatus::CookieOnly,
            ..FastOpenState::default()
        });
    }

    /// The cookie that the server has given, and the payload without options that it takes in a segment: what to show the next
    /// time (RFC 7413 4.1.3).
    pub fn fast_open_grant(&self) -> Option<(FastOpenCookie, u16)> {
        let state = self.fast_open_state()?;
        state.granted.map(|cookie| (cookie, state.granted_mss))
    }

    /// What became of it.
    pub fn fast_open_status(&self) -> FastOpenStatus {
        self.fast_open_state()
            .map_or(FastOpenStatus::Unused, |state| state.status)
    }

    /// Whether data that is queued now can leave with the SYN.
    pub fn takes_syn_data(&self) -> bool {
        self.phase == Phase::SynSent
            && !self.snd.is_outstanding()
            && self
                .fast_open_state()
                .is_some_and(|state| state.option.is_some_and(|option| option.cookie.is_some()))
    }

    pub(super) fn fast_open_state(&self) -> Option<&FastOpenState> {
        self.rare.as_ref()?.fast_open.as_ref()
    }

    fn fast_open_mut(&mut self) -> Option<&mut FastOpenState> {
        self.rare.as_mut()?.fast_open.as_mut()
    }

    /// A listener's decision about the SYN `syn`, whose connection this is.
    pub(crate) fn answer_fast_open(
        &mut self,
        now: Instant,
        syn: &Segment,
        answer: FastOpenAnswer<P>,
    ) {
        let (option, accepted) = match answer {
            FastOpenAnswer::Refuse => return,
            FastOpenAnswer::Grant(option) => (Some(option), None),
            FastOpenAnswer::Accept { payload, cookie } => (cookie, Some(payload)),
        };
        let mut state = FastOpenState {
            option,
            status: FastOpenStatus::Granted,
            ..FastOpenState::default()
        };
        if let Some(payload) = &accepted {
            state.status = FastOpenStatus::Accepted;
            state.syn_data = payload.as_ref().map_or(0, |payload| payload.len() as u32);
        }
        self.rare().fast_open = Some(state);
        let Some(payload) = accepted else { return };
        self.control.clock = now;
        if self.snd.wnd > 0 {
            // The window counts from behind our SYN, which is on its way: `snd.una` is one before that.
            self.snd.wnd += 1;
        }
        self.transition(Input::EarlyData);
        if let Some(payload) = payload.filter(|payload| !payload.is_empty()) {
            // The window that a SYN finds is not told to anybody: it is what the SYN-ACK will say.
            self.rcv.offer_unscaled();
            // The SYN-ACK acknowledges it; it teaches nothing of how the peer's data comes (as Linux has it).
            let policy = self.rcv.ack;
            self.on_data(self.rcv.nxt, payload, syn.flags.contains(Flags::PSH));
            self.rcv.ack = policy;
        }
    }

    /// The application is told now, and may send what an initial window holds (RFC 7413 4.2.2).
    pub(super) fn on_early(&mut self, now: Instant) {
        self.events.raise(Pending::CONNECTED);
        self.rcv.ack.on_established(now);
        let moment = self.moment(now);
        self.congestion.on_established(moment, false);
    }

    /// What is on the way, for the congestion window: before the handshake ends without the SYN-ACK, so that data gets all of
    /// the initial window.
    pub(super) fn data_on_the_way(&self) -> u32 {
        let early = self.phase == Phase::SynReceived(Opened::Early);
        self.snd.pipe().saturating_sub(u32::from(early))
    }

    /// The option of the SYN or SYN-ACK that is being sent: of the first one only.
    pub(super) fn add_fast_open(&self, options: &mut Options) {
        if self.snd.record(0).transmissions > 0 {
            return;
        }
        options.fast_open = self.fast_open_state().and_then(|state| state.option);
        let without = Options {
            fast_open: None,
            ..*options
        };
        if options.fast_open.is_some() && options.emitted_len() == without.emitted_len() {
            // The longest cookie and all else do not fit 40 octets; the user time-out is the least of them.
            options.user_timeout = None;
        }
    }

    /// A SYN is being sent: the bytes of the segment behind it that go with it. None: it asks for a cookie instead of showing one.
    pub(super) fn attach_data(&mut self, syn: &mut Segment, again: bool) -> u32 {
        let Some(state) = self.fast_open_state().copied() else {
            return 0;
        };
        if self.phase != Phase::SynSent {
            return 0;
        }
        if again {
            // RFC 7413 4.2.2: it may have been the option or the data that did not pass.
            self.set_fast_open_status(FastOpenStatus::SynRetransmitted);
            return 0;
        }
        if state.option.is_none_or(|option| option.cookie.is_none()) {
            return 0;
        }
        // RFC 7413 4.1.3: never more than the server takes in one segment, the SYN's options included.
        let limit = usize::from(self.agreed.mss.min(state.mss))
            .saturating_sub(syn.options.emitted_len()) as u32;
        let len = self.cut_first_data(limit);
        if len == 0 {
            syn.options.fast_open = Some(FastOpen::default());
            return 0;
        }
        let data_end = self.snd.record(1).end();
        if let Some(state) = self.fast_open_mut() {
            state.status = FastOpenStatus::Sent;
            state.syn_data = len;
            state.data_end = data_end;
        }
        len
    }

    /// Cuts the first segment of data to at most `limit` bytes. Its length; 0: there is none, or no frame to cut into.
    fn cut_first_data(&mut self, limit: u32) -> u32 {
        if limit == 0 || self.snd.is_last(0) {
            return 0;
        }
        let len = self.snd.record(1).len;
        if len <= limit {
            len
        } else if self.split(1, limit) {
            limit
        } else {
            0
        }
    }

    fn set_fast_open_status(&mut self, status: FastOpenStatus) {
        if let Some(state) = self.fast_open_mut() {
            state.status = status;
        }
    }

    /// The SYN-ACK: the cookie in it is for the next time, if one was wanted.
    pub(super) fn note_fast_open(&mut self, syn_ack: &Segment, mss: u16) {
        let cookie = syn_ack.options.fast_open.and_then(|option| option.cookie);
        if self.phase != Phase::SynSent || !syn_ack.flags.contains(Flags::ACK) {
            return;
        }
        if let Some(state) = self.fast_open_mut() {
            state.granted = cookie;
            state.granted_mss = mss;
        }
    }

    /// The handshake has ended. Data on our SYN that was not acknowledged with it is sent again at once; nobody was congested
    /// (RFC 7413 4.2.2; Linux's `tcp_rcv_fastopen_synack`).
    pub(super) fn settle_syn_data(&mut self) {
        let una = self.snd.una;
        let Some(state) = self.fast_open_mut().filter(|state| state.syn_data > 0) else {
            return;
        };
        match state.status {
            FastOpenStatus::Sent | FastOpenStatus::SynRetransmitted => {}
            _ => return,
        }
        if una.at_or_after(state.data_end) {
            state.status = FastOpenStatus::Accepted;
            return;
        }
        let end = state.data_end;
        if state.status == FastOpenStatus::Sent {
            state.status = FastOpenStatus::DataNotAcked;
        }
        self.loss
            .on_undelivered(&mut self.snd, |record| record.seq.before(end));
    }

    /// The path has turned out narrower than a SYN with data in it: the SYN did not arrive (Linux's `tcp_simple_retransmit`).
    pub(super) fn resend_long_syn(&mut self, limit: u32) {
        let long = self
            .fast_open_state()
            .is_some_and(|state| state.status == FastOpenStatus::Sent && state.syn_data > limit);
        if long && self.phase == Phase::SynSent {
            self.snd.mark_lost(0);
        }
    }
}
