//! What loss recovery can say about itself.

use super::{LossDetection, Phase};
use crate::payload::Payload;
use crate::snd::SendQueue;

/// How far recovery is; the names are those of Linux's `tcpi_ca_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RecoveryPhase {
    /// Nothing is wrong.
    #[default]
    Open,
    /// Something is SACKed, or was sent again as a probe; nothing is believed lost.
    Disorder,
    /// Fast recovery.
    Recovery,
    /// After a retransmission time-out.
    Loss,
}

/// Loss recovery of one connection. Segments are the sender's own; counters since the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RecoveryInfo {
    /// How far recovery is.
    pub phase: RecoveryPhase,
    /// Segments that the peer holds out of order, as its SACK blocks say.
    pub sacked_now: u32,
    /// Segments believed lost, sent again or not (`tcpi_lost`).
    pub lost_now: u32,
    /// Retransmissions on the way (`tcpi_retrans`).
    pub resent_now: u32,
    /// Bytes believed to be on the way (the pipe of RFC 6675).
    pub pipe: u32,
    /// The farthest that a segment was overtaken, in segments; 3 before any was (`tcpi_reordering`).
    pub reordering: u32,
    /// Acknowledgments that told of reordering (`tcpi_reord_seen`).
    pub reordered: u64,
    /// Payload bytes sent again (`tcpi_bytes_retrans`).
    pub resent_bytes: u64,
    /// Segments that were believed lost.
    pub lost: u64,
    /// Retransmissions among them.
    pub lost_resent: u64,
    /// Segments that the peer has reported as duplicates (D-SACK, `tcpi_dsack_dups`).
    pub duplicates: u64,
    /// Reductions of the window that were undone, having been needless.
    pub undone: u64,
    /// Time-outs among those.
    pub spurious_timeouts: u64,
    /// Tail loss probes sent.
    pub probes: u64,
    /// Losses that only a probe's answer told of.
    pub probe_repairs: u64,
    /// Times the peer took SACK blocks back.
    pub reneges: u64,
}

impl LossDetection {
    /// Times fast recovery was entered.
    pub(crate) fn fast_recoveries(&self) -> u64 {
        let trouble = self.trouble.as_deref().copied().unwrap_or_default();
        trouble.counts.fast_recoveries.into()
    }

    pub(crate) fn info<P: Payload>(&self, snd: &SendQueue<P>) -> RecoveryInfo {
        let trouble = self.trouble.as_deref().copied().unwrap_or_default();
        let (tally, counts) = (snd.tally(), trouble.counts);
        RecoveryInfo {
            phase: match self.phase {
                Phase::Open if snd.is_marked() || trouble.duplicates > 0 => RecoveryPhase::Disorder,
                Phase::Open => RecoveryPhase::Open,
                Phase::Recovery => RecoveryPhase::Recovery,
                Phase::Loss => RecoveryPhase::Loss,
            },
            sacked_now: tally.sacked,
            lost_now: tally.lost,
            resent_now: tally.resent,
            pipe: snd.pipe(),
            reordering: trouble.reordering.degree,
            reordered: counts.reordered.into(),
            resent_bytes: counts.resent_bytes,
            lost: counts.lost.into(),
            lost_resent: counts.lost_resent.into(),
            duplicates: counts.duplicates.into(),
            undone: counts.undone.into(),
            spurious_timeouts: counts.spurious_timeouts.into(),
            probes: counts.probes.into(),
            probe_repairs: counts.probe_repairs.into(),
            reneges: counts.reneges.into(),
        }
    }
}
