//! What most connections never have: kept in a box, so that the others stay small.

use alloc::boxed::Box;

use bywash_wire::SeqNumber;

use super::Connection;
use crate::fast_open::FastOpenState;
use crate::pacing::Pacer;
use crate::path_mtu::PathMtu;
use crate::payload::Payload;
use crate::snapshot::code;
use crate::time::{Duration, Instant};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rare {
    /// The path is narrower than promised.
    pub(super) path: Option<PathMtu>,
    /// When an answer to something unacceptable was last owed.
    pub(super) challenged_at: Option<Instant>,
    /// The number behind the peer's urgent data.
    pub(super) urgent_in: Option<SeqNumber>,
    /// The number behind ours.
    pub(super) urgent_out: Option<SeqNumber>,
    /// How long the peer waits for acknowledgments, as it says (RFC 5482).
    pub(super) peer_user_timeout: Option<Duration>,
    /// A RST to send: its number, and whether it acknowledges.
    pub(super) reset: Option<(SeqNumber, bool)>,
    /// Of a connection that is or was paced.
    pub(super) pacer: Option<Pacer>,
    pub(super) counts: Counts,
    /// Data on the SYN was tried, or a cookie asked for (RFC 7413).
    pub(super) fast_open: Option<FastOpenState>,
}

code!(struct Rare {
    path, challenged_at, urgent_in, urgent_out, peer_user_timeout, reset, pacer, counts, fast_open
});

/// What is counted of what is rare; see [`Info`](crate::Info).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) retransmissions: u32,
    pub(super) timeouts: u32,
    pub(super) retransmit_blocked: u32,
    pub(super) split_failed: u32,
    pub(super) out_of_order: u32,
    pub(super) dup_acks: u32,
    pub(super) sack_sent: u32,
    pub(super) challenge_acks: u32,
    pub(super) window_probes: u32,
}

code!(struct Counts {
    retransmissions, timeouts, retransmit_blocked, split_failed, out_of_order, dup_acks, sack_sent, challenge_acks,
    window_probes
});

impl<P: Payload> Connection<P> {
    /// The box, made if it is not there.
    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_with(Box::default)
    }

    /// Counts one more of what `counter` names.
    pub(super) fn count(&mut self, counter: fn(&mut Counts) -> &mut u32) {
        let counter = counter(&mut self.rare().counts);
        *counter = counter.saturating_add(1);
    }

    pub(super) fn counts(&self) -> Counts {
        self.rare
            .as_ref()
            .map_or(Counts::default(), |rare| rare.counts)
    }

    /// A RST is to be sent, with this number.
    pub(super) fn owe_reset(&mut self, seq: SeqNumber, acknowledges: bool) {
        self.rare().reset = Some((seq, acknowledges));
    }

    pub(super) fn owes_reset(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.reset.is_some())
    }
}
