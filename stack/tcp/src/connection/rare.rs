//! What most connections never have: kept in a box, so that the others stay small.

use alloc::boxed::Box;

use bywash_wire::SeqNumber;

use super::Connection;
use crate::fast_open::FastOpenState;
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
    /// Data on the SYN was tried, or a cookie asked for (RFC 7413).
    pub(super) fast_open: Option<FastOpenState>,
}

code!(struct Rare { path, challenged_at, urgent_in, urgent_out, peer_user_timeout, fast_open });

impl<P: Payload> Connection<P> {
    /// The box, made if it is not there.
    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_with(Box::default)
    }
}
