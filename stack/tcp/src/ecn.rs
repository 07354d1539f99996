//! Explicit congestion notification (RFC 3168): routers mark instead of dropping.
//!
//! ```text
//!  sender: data ECT(0) ---> router: CE ---> receiver: ECE on every ACK
//!     ^   reduces once, and says CWR on the next new data  ---> receiver: ECE ends
//!     +------------------------- ECE --------------------------+
//! ```
//! Agreed in the handshake: SYN with ECE and CWR, SYN-ACK with ECE alone (6.1.1). Retransmissions, pure ACKs, probes and
//! control segments are never ECT (6.1.4 to 6.1.6): their loss would go unnoticed.

use alloc::boxed::Box;
use alloc::vec::Vec;

use bywash_wire::{Ecn as Codepoint, Flags, SeqNumber};

use crate::snapshot::{Code, Reader, SnapshotError, code};

/// Whether congestion marks are asked for; the values of Linux's `tcp_ecn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum EcnMode {
    /// Neither asked for nor accepted.
    Off,
    /// Asked for on active opens, and accepted.
    On,
    /// Accepted if the peer asks.
    #[default]
    Accept,
}

code!(
    enum EcnMode {
        Off = 0,
        On = 1,
        Accept = 2,
    }
);

/// Of a connection; in a box, and only of one that has asked or agreed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ecn(Option<Box<Marks>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Marks {
    /// Both ends do it; else our SYN has asked.
    agreed: bool,
    /// We have seen CE and say so until the peer says CWR.
    echo: bool,
    /// We have reduced the window and must say so.
    cwr_due: bool,
    /// The ACK being worked off carries ECE.
    heard: bool,
    /// `snd.nxt` at the last reduction, until something behind it is acknowledged.
    reduced: Option<SeqNumber>,
    /// Packets received with CE, and ACKs with ECE.
    marks_in: u32,
    echoes_in: u32,
}

code!(struct Marks { agreed, echo, cwr_due, heard, reduced, marks_in, echoes_in });

impl Code for Ecn {
    fn save(&self, out: &mut Vec<u8>) {
        self.0.save(out);
    }

    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        Ok(Self(Code::load(input)?))
    }
}

const BOTH: Flags = Flags::ECE.union(Flags::CWR);
const NONE: Flags = Flags::from_bits(0);

impl Ecn {
    fn agreed(&mut self) -> Option<&mut Marks> {
        self.0.as_deref_mut().filter(|marks| marks.agreed)
    }

    /// Both ends do it.
    pub(crate) fn is_agreed(&self) -> bool {
        self.0.as_ref().is_some_and(|marks| marks.agreed)
    }

    /// Packets received with CE, and ACKs with ECE.
    pub(crate) fn counts(&self) -> (u32, u32) {
        self.0
            .as_ref()
            .map_or((0, 0), |marks| (marks.marks_in, marks.echoes_in))
    }

    /// The flags of our SYN; `again`: the first one was not answered, perhaps for these flags (6.1.1.1).
    pub(crate) fn on_syn_sent(&mut self, mode: EcnMode, again: bool) -> Flags {
        let asks = mode == EcnMode::On && !again;
        self.0 = asks.then(Box::default);
        if asks { BOTH } else { NONE }
    }

    /// The flags of our SYN-ACK.
    pub(crate) fn syn_ack_flags(&self) -> Flags {
        if self.is_agreed() { Flags::ECE } else { NONE }
    }

    /// The peer's SYN or SYN-ACK.
    pub(crate) fn on_peer_syn(&mut self, mode: EcnMode, flags: Flags) {
        let ece = flags.contains(Flags::ECE);
        let cwr = flags.contains(Flags::CWR);
        let agreed = if flags.contains(Flags::ACK) {
            self.0.is_some() && ece && !cwr
        } else {
            mode != EcnMode::Off && ece && cwr
        };
        self.0 = agreed.then(|| {
            Box::new(Marks {
                agreed: true,
                ..Marks::default()
            })
        });
    }

    /// The codepoint and the additional flags of a segment; `new_data`: it has payload that was never sent before.
    pub(crate) fn on_segment_sent(&mut self, new_data: bool) -> (Codepoint, Flags) {
        let mut flags = NONE;
        let Some(marks) = self.agreed() else {
            return (Codepoint::NotEct, flags);
        };
        if marks.echo {
            flags.insert(Flags::ECE);
        }
        if !new_data {
            return (Codepoint::NotEct, flags);
        }
        if core::mem::take(&mut marks.cwr_due) {
            flags.insert(Flags::CWR);
        }
        (Codepoint::Ect0, flags)
    }

    /// Data arrived and was accepted. `true`: the first mark since the last CWR, which is worth an ACK at once.
    pub(crate) fn on_data(&mut self, codepoint: Codepoint, flags: Flags) -> bool {
        let Some(marks) = self.agreed() else {
            return false;
        };
        if flags.contains(Flags::CWR) {
            marks.echo = false;
        }
        if codepoint != Codepoint::Ce {
            return false;
        }
        marks.marks_in = marks.marks_in.saturating_add(1);
        !core::mem::replace(&mut marks.echo, true)
    }

    /// An acceptable ACK begins to be worked off.
    pub(crate) fn on_ack(&mut self, flags: Flags) {
        if let Some(marks) = self.agreed() {
            marks.heard = flags.contains(Flags::ECE);
            marks.echoes_in = marks.echoes_in.saturating_add(marks.heard.into());
        }
    }

    /// Whether the ACK being worked off carries ECE.
    pub(crate) fn has_heard(&self) -> bool {
        self.0.as_ref().is_some_and(|marks| marks.heard)
    }

    /// Whether the window is to be reduced for the ACK: once a window of data (6.1.2).
    pub(crate) fn demands_reduction(&mut self, una: SeqNumber) -> bool {
        let Some(marks) = self.agreed() else {
            return false;
        };
        if marks.reduced.is_some_and(|end| una.after(end)) {
            marks.reduced = None;
        }
        marks.heard && marks.reduced.is_none()
    }

    /// The window was reduced, for whatever reason: the peer is told with the next new data.
    pub(crate) fn on_reduced(&mut self, nxt: SeqNumber) {
        if let Some(marks) = self.agreed() {
            marks.cwr_due = true;
            marks.reduced = Some(nxt);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed() -> Ecn {
        let mut ecn = Ecn::default();
        ecn.on_peer_syn(EcnMode::Accept, Flags::SYN | BOTH);
        assert!(ecn.is_agreed());
        ecn
    }

    #[test]
    fn who_agrees_with_whom() {
        use EcnMode::{Accept, Off, On};
        for (active, passive, agree) in [
            (Off, On, false),
            (Accept, On, false),
            (On, Off, false),
            (On, Accept, true),
            (On, On, true),
        ] {
            let (mut a, mut b) = (Ecn::default(), Ecn::default());
            let syn = Flags::SYN | a.on_syn_sent(active, false);
            b.on_peer_syn(passive, syn);
            let syn_ack = Flags::SYN | Flags::ACK | b.syn_ack_flags();
            a.on_peer_syn(active, syn_ack);
            assert_eq!(
                (a.is_agreed(), b.is_agreed()),
                (agree, agree),
                "{active:?} {passive:?}"
            );
        }
    }

    #[test]
    fn a_mirror_of_our_flags_is_no_agreement() {
        let mut ecn = Ecn::default();
        ecn.on_syn_sent(EcnMode::On, false);
        ecn.on_peer_syn(EcnMode::On, Flags::SYN | Flags::ACK | BOTH);
        assert!(!ecn.is_agreed());
    }

    #[test]
    fn a_lost_syn_is_repeated_without() {
        let mut ecn = Ecn::default();
        assert_eq!(ecn.on_syn_sent(EcnMode::On, false), BOTH);
        assert_eq!(ecn.on_syn_sent(EcnMode::On, true), NONE);
        ecn.on_peer_syn(EcnMode::On, Flags::SYN | Flags::ACK | Flags::ECE);
        assert!(!ecn.is_agreed());
    }

    #[test]
    fn a_mark_is_echoed_until_cwr() {
        let mut ecn = agreed();
        assert!(ecn.on_data(Codepoint::Ce, Flags::ACK));
        assert!(!ecn.on_data(Codepoint::Ce, Flags::ACK));
        for _ in 0..3 {
            assert_eq!(ecn.on_segment_sent(false), (Codepoint::NotEct, Flags::ECE));
        }
        ecn.on_data(Codepoint::Ect0, Flags::ACK | Flags::CWR);
        assert_eq!(ecn.on_segment_sent(false), (Codepoint::NotEct, NONE));
        // CWR and a new mark in one.
        assert!(ecn.on_data(Codepoint::Ce, Flags::ACK | Flags::CWR));
        assert_eq!(ecn.counts(), (3, 0));
    }

    #[test]
    fn one_reduction_a_window() {
        let mut ecn = agreed();
        let at = SeqNumber::new;
        ecn.on_ack(Flags::ACK | Flags::ECE);
        assert!(ecn.demands_reduction(at(100)));
        ecn.on_reduced(at(1_000));
        assert_eq!(ecn.on_segment_sent(true), (Codepoint::Ect0, Flags::CWR));
        assert_eq!(ecn.on_segment_sent(true), (Codepoint::Ect0, NONE));
        for una in [200, 1_000] {
            ecn.on_ack(Flags::ACK | Flags::ECE);
            assert!(!ecn.demands_reduction(at(una)));
        }
        ecn.on_ack(Flags::ACK);
        assert!(!ecn.demands_reduction(at(1_100)));
        ecn.on_ack(Flags::ACK | Flags::ECE);
        assert!(ecn.demands_reduction(at(1_200)));
    }
}
