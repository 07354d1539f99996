//! ICMP errors about our segments (RFC 9293 3.9.2.2), and what is not believed of them (RFC 5927).
//!
//! Whoever can send a packet can forge an ICMP error, so an error counts only if it quotes a segment that is in flight (RFC
//! 5927 4.1). What says that the peer cannot be reached is a hint while the connection is synchronised, named if TCP gives
//! up by itself later; it ends an open that has not been answered, as Linux does. What says that a packet was too big
//! makes segments smaller at once.

use bywash_wire::{DropReason, IcmpError, IcmpKind};

use super::{Connection, Disposition, PEER_MSS_MIN};
use crate::path_mtu::{Headers, PathMtu};
use crate::payload::Payload;
use crate::state::{Input, Opened, Phase};
use crate::time::Instant;

const IGNORED: Disposition = Disposition::Dropped(DropReason::IcmpIgnored);

impl<P: Payload> Connection<P> {
    /// An ICMP error quotes a segment of this connection: `error.tuple` is its tuple.
    ///
    /// After [`IcmpKind::PacketTooBig`] was accepted, [`path_mtu`](Self::path_mtu) is what later connections to the same host
    /// should begin with.
    pub fn on_icmp(&mut self, now: Instant, error: IcmpError) -> Disposition {
        self.control.clock = now;
        // RFC 5927 4.1. Something that was acknowledged has arrived, whatever a router says.
        let in_flight = error.seq.at_or_after(self.snd.una) && error.seq.before(self.snd.nxt);
        if !in_flight || matches!(self.phase, Phase::Closed(_)) {
            return IGNORED;
        }
        match error.kind {
            IcmpKind::PacketTooBig { mtu } => self.on_packet_too_big(now, mtu),
            // In SYN-RECEIVED only of what was opened early: its application waits for an answer (as Linux has it).
            kind if matches!(
                self.phase,
                Phase::SynSent | Phase::SynReceived(Opened::Early)
            ) =>
            {
                let refused = kind == IcmpKind::PortUnreachable;
                self.transition(if refused {
                    Input::Reset
                } else {
                    Input::Unreachable
                });
                Disposition::Accepted
            }
            // RFC 9293 3.9.2.2: soft errors must not end a connection; RFC 5927 6.2: hard ones in these states neither.
            _ => {
                self.control.soft_error = true;
                Disposition::Accepted
            }
        }
    }

    /// IP packet, in bytes, that our segments are kept within now.
    pub fn path_mtu(&self) -> u16 {
        self.agreed
            .mss
            .saturating_add(Headers::of(self.flow.is_v4()).len)
    }

    /// Begins with a path MTU, in bytes of IP packet, that another connection to the same host has learnt at `learnt_at`. It
    /// ages as if this one had.
    pub fn assume_path_mtu(&mut self, mtu: u16, learnt_at: Instant) {
        self.on_packet_too_big(learnt_at, mtu.max(1).into());
    }

    /// Nobody answers any more; if a router said why, that is the reason.
    pub(super) fn give_up(&mut self) {
        self.transition(if self.control.soft_error {
            Input::Unreachable
        } else {
            Input::TimedOut
        });
    }

    /// RFC 1191 6, RFC 8201 5.
    fn on_packet_too_big(&mut self, now: Instant, mtu: u32) -> Disposition {
        let used = self.agreed.mss;
        let Some(mss) = Headers::of(self.flow.is_v4()).mss_of_report(mtu, used) else {
            return IGNORED;
        };
        self.rare()
            .path
            .get_or_insert_with(|| PathMtu::new(used, now))
            .on_report(mss, now);
        self.shrink_segments(mss);
        Disposition::Accepted
    }

    /// Segments get smaller. Those in flight that are too long cannot arrive: they go again at once, cut.
    pub(super) fn shrink_segments(&mut self, mss: u16) {
        self.change_mss(mss.max(PEER_MSS_MIN));
        let limit = self.segment_limit() as u32;
        self.loss.on_resegmented(&mut self.snd, limit);
        self.resend_long_syn(limit);
    }

    /// The first hop's limit has changed: see [`set_mss`](Self::set_mss).
    pub(super) fn limit_mss(&mut self, mss: u16) {
        let mss = mss.max(PEER_MSS_MIN);
        if let Some(path) = self.path_mut() {
            path.ceiling = path.ceiling.min(mss);
        }
        self.change_mss(self.agreed.mss.min(mss));
    }

    pub(super) fn path_mut(&mut self) -> Option<&mut PathMtu> {
        self.rare.as_mut()?.path.as_mut()
    }

    pub(super) fn change_mss(&mut self, mss: u16) {
        self.agreed.mss = mss;
        let moment = self.moment(self.control.clock);
        self.congestion.on_mss(moment);
    }

    /// A report is not believed for ever (RFC 1191 6.3).
    pub(super) fn age_path_mtu(&mut self, now: Instant) {
        if let Some(path) = self.path_mut()
            && path.is_stale(now)
        {
            let ceiling = path.ceiling;
            if path.rejuvenate(now) {
                self.rare().path = None;
                self.change_mss(ceiling);
            }
        }
    }
}
