//! TCP Fast Open (RFC 7413) as a shard does it: cookies made and checked, limits kept, servers remembered.
//!
//! ```text
//!  SYN with option or data ──► answer_fast_open: listener's settings, limit, cookie? ──► tcp: refuse | grant | accept
//!  connect ──► offer_fast_open: cookie of that server? ──► tcp: ask | show          (nothing for a while after a failure)
//!  handshake ended ──► settle_fast_open: the listener's account; what the server has given or refused
//! ```
//! Off unless `ConnOptions::fast_open` (or `tcp.fast_open` in the defaults) says otherwise, at each end.
//!
//! **Data on a SYN may be delivered twice** (RFC 7413 2.1, 6.1). A service that listens so must be able to bear a repeated
//! request: a network may double the SYN, and a client whose server was restarted may send it to both.
//!
//! A flood of SYNs with stolen cookies costs connections instead of half-open places. So a listener has at most
//! [`FastOpenServer::pending`] connections that were opened early and not yet confirmed, and a RST in that time gives the place back
//! only after a minute: else whoever forges from a live host's address would have it freed by that host's RST (RFC 7413 5.1). While
//! SYNs are answered by SYN cookies, data on them is ignored.

mod keys;
mod known;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bywash_tcp::time::{Duration as TcpDuration, Instant};
use bywash_tcp::{CloseReason, Connection, FastOpenAnswer, FastOpenOffer, FastOpenStatus, State};
use bywash_wire::{Decoded, FastOpen, Tuple};
use bywash_xsk::{Frame, Port};

use crate::context::Context;
use crate::host::Resolution;
use crate::payload::FramePayload;
use crate::service::ListenerId;
use crate::shard::{Core, Origin, Pressure, peer_of};
use crate::stages::ingress::payload_of;
use keys::Verdict;
pub use keys::{FastOpenKeys, KEY_LEN};
pub(crate) use known::KnownServers;

/// How long a RST keeps the place of the connection that it ended (as Linux).
const RESET_KEEPS: TcpDuration = TcpDuration::from_secs(60);

/// What a shard's listeners and active opens share.
#[derive(Clone, Debug)]
pub struct FastOpenConfig {
    /// For listeners that say nothing else.
    pub server: FastOpenServer,
    /// How long a key makes cookies before the next one does; cookies are good for one to two of these. Default a day. Keys that
    /// were given stay.
    pub rotation: Duration,
    /// Servers remembered. Default 4096, some 120 bytes each.
    pub known_servers: usize,
}

impl Default for FastOpenConfig {
    fn default() -> Self {
        Self {
            server: FastOpenServer::default(),
            rotation: Duration::from_secs(24 * 3_600),
            known_servers: 4096,
        }
    }
}

/// How a listener does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FastOpenServer {
    /// Connections that may be open before their handshake has ended; SYNs beyond get the usual handshake. Default 256.
    pub pending: u32,
    /// Keys of its own; `None`: those of the engine, drawn at its start and changed by time.
    pub keys: Option<FastOpenKeys>,
    /// Take data from SYNs that show no cookie, too. Anybody can forge those: only for networks in which nobody would. Default off.
    pub without_cookie: bool,
}

impl Default for FastOpenServer {
    fn default() -> Self {
        Self {
            pending: 256,
            keys: None,
            without_cookie: false,
        }
    }
}

/// A listener's account.
#[derive(Debug)]
pub(crate) struct Early {
    pub(crate) server: FastOpenServer,
    /// Connections opened early and not confirmed.
    pub(crate) pending: u32,
    /// Until when the places of those that a RST has ended are kept; no more than `server.pending`.
    reset: VecDeque<Instant>,
}

impl Early {
    pub(crate) fn new(server: FastOpenServer) -> Self {
        Self {
            server,
            pending: 0,
            reset: VecDeque::new(),
        }
    }

    /// Whether another one may be opened early.
    fn has_room(&mut self, now: Instant) -> bool {
        while self.reset.front().is_some_and(|until| *until <= now) {
            self.reset.pop_front();
        }
        self.pending as usize + self.reset.len() < self.server.pending as usize
    }

    fn release(&mut self, now: Instant, reset: bool) {
        self.pending = self.pending.saturating_sub(1);
        if reset && self.reset.len() < self.server.pending as usize {
            self.reset.push_back(now + RESET_KEEPS);
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FastOpenCounters {
    /// Cookies given.
    pub(crate) granted: u64,
    /// Connections opened early.
    pub(crate) accepted: u64,
    /// Cookies that were not ours, or too old.
    pub(crate) wrong: u64,
    /// Not opened early because too many were, or for want of frames.
    pub(crate) over_limit: u64,
    /// Active opens that asked for a cookie or showed one.
    pub(crate) tried: u64,
    /// Active opens whose data on the SYN was taken.
    pub(crate) acked: u64,
    /// ... was not taken, or whose SYN was lost.
    pub(crate) failed: u64,
}

impl FastOpenCounters {
    /// Names as `ss` shows them.
    pub(crate) fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("fast-open-granted", self.granted),
            ("fast-open-accepted", self.accepted),
            ("fast-open-wrong-cookies", self.wrong),
            ("fast-open-over-limit", self.over_limit),
            ("fast-open-tried", self.tried),
            ("fast-open-acked", self.acked),
            ("fast-open-failed", self.failed),
        ]
    }
}

impl<P: Port> Core<P> {
    /// What the SYN in `decoded` gets, which a listener will make a connection of. `frame` holds its data.
    pub(crate) fn answer_fast_open(
        &mut self,
        decoded: &Decoded,
        frame: Frame,
    ) -> FastOpenAnswer<FramePayload> {
        let (tuple, now) = (decoded.tuple, self.now);
        let asked = decoded.segment.options.fast_open;
        let has_data = !decoded.payload.is_empty();
        let calm = self.pressure != Pressure::Full && self.may_hold_frames();
        let Some(early) = self.listeners.early(tuple.local_port) else {
            return FastOpenAnswer::Refuse;
        };
        if asked.is_none() && !(has_data && early.server.without_cookie) {
            return FastOpenAnswer::Refuse;
        }
        let (has_room, without_cookie) = (early.has_room(now), early.server.without_cookie);
        let keys = early.server.keys.clone();
        if !has_room || !calm {
            self.counters.fast_open.over_limit += 1;
            return FastOpenAnswer::Refuse;
        }
        let keys = keys.unwrap_or_else(|| self.fast_open_keys());
        let shown = asked.and_then(|option| option.cookie);
        let verdict = match shown {
            _ if without_cookie => Verdict::Current,
            Some(cookie) => keys.judge(&cookie, &tuple),
            None => Verdict::Wrong,
        };
        let newest = asked
            .filter(|_| verdict != Verdict::Current)
            .map(|option| FastOpen {
                cookie: keys.cookie(&tuple),
                ..option
            });
        let counters = &mut self.counters.fast_open;
        counters.granted += u64::from(newest.is_some());
        if verdict == Verdict::Wrong {
            counters.wrong += u64::from(shown.is_some());
            return newest.map_or(FastOpenAnswer::Refuse, FastOpenAnswer::Grant);
        }
        counters.accepted += 1;
        FastOpenAnswer::Accept {
            payload: has_data.then(|| payload_of(frame, decoded)),
            cookie: newest,
        }
    }

    /// The engine's own keys at this time.
    fn fast_open_keys(&mut self) -> FastOpenKeys {
        let rotation = self.config.fast_open.rotation.as_nanos();
        let rotation = TcpDuration::from_nanos(u64::try_from(rotation).unwrap_or(u64::MAX));
        let random = self.env.random.as_mut();
        FastOpenKeys::at(self.directory.fast_open_secret(random), self.now, rotation)
    }

    /// What is to be settled of a fresh connection: an active open's attempt, or the place at its listener of one that was
    /// opened early.
    pub(crate) fn begin_fast_open(
        &mut self,
        tcp: &Connection<FramePayload>,
        origin: Origin,
    ) -> bool {
        let status = tcp.fast_open_status();
        if !matches!(tcp.state(), State::SynSent | State::SynReceived) {
            // It has come from another shard: settled there.
            return false;
        }
        match origin {
            Origin::Active => status != FastOpenStatus::Unused,
            Origin::HalfOpen(port) | Origin::Accepted(port) => {
                let accepted = status == FastOpenStatus::Accepted;
                if accepted && let Some(early) = self.listeners.early(port) {
                    early.pending += 1;
                }
                accepted
            }
        }
    }

    /// What an active open of this flow tries.
    pub(crate) fn offer_fast_open(&mut self, tuple: &Tuple) -> Option<FastOpenOffer> {
        let offer = self
            .known_servers
            .offer((tuple.local, peer_of(tuple)), self.now)?;
        self.counters.fast_open.tried += 1;
        Some(offer)
    }

    /// The handshake of a connection that did Fast Open has ended: by its completion, or with the connection.
    pub(crate) fn settle_fast_open(&mut self, index: u32, end: Option<CloseReason>) {
        let now = self.now;
        let Some(conn) = self.conns.by_index(index).filter(|conn| conn.fast_open) else {
            return;
        };
        conn.fast_open = false;
        let (status, grant) = (conn.tcp.fast_open_status(), conn.tcp.fast_open_grant());
        let tuple = conn.tcp.tuple();
        if let Origin::Accepted(port) | Origin::HalfOpen(port) = conn.origin {
            if let Some(early) = self.listeners.early(port) {
                early.release(now, end == Some(CloseReason::Reset));
            }
            return;
        }
        let path = (tuple.local, peer_of(&tuple));
        let counters = &mut self.counters.fast_open;
        counters.acked += u64::from(status == FastOpenStatus::Accepted);
        let unheard = matches!(end, Some(CloseReason::TimedOut | CloseReason::Unreachable));
        match (status, grant) {
            (_, Some((cookie, mss))) => self.known_servers.remember(path, cookie, mss),
            (FastOpenStatus::Accepted, None) => self.known_servers.succeed(path),
            (FastOpenStatus::DataNotAcked, None) => {
                counters.failed += 1;
                self.known_servers.fail(path, now, false);
            }
            (FastOpenStatus::SynRetransmitted, None) => {
                counters.failed += 1;
                self.known_servers.fail(path, now, true);
            }
            (FastOpenStatus::Sent, None) if unheard => {
                counters.failed += 1;
                self.known_servers.fail(path, now, true);
            }
            (
                FastOpenStatus::Sent
                | FastOpenStatus::CookieOnly
                | FastOpenStatus::Granted
                | FastOpenStatus::Unused,
                None,
            ) => {}
        }
    }
}

impl<P: Port> Context<'_, P> {
    /// Whether an active open with Fast Open to `remote` could send data with its SYN now.
    pub fn has_fast_open_cookie(&mut self, remote: SocketAddr) -> bool {
        let core = self.core_mut();
        let source = match core.env.routes.resolve(remote.ip()) {
            Resolution::Ready(path) => core.source_of(&path, remote.ip()),
            Resolution::Pending | Resolution::Unreachable(_) => None,
        };
        source.is_some_and(|source| {
            let offer = core.known_servers.offer((source, remote), core.now);
            matches!(offer, Some(FastOpenOffer::Show { .. }))
        })
    }

    /// How `listener` does TCP Fast Open (RFC 7413); `None`: not at all. Data on a SYN may be delivered twice: only for services
    /// that bear a repeated request.
    pub fn set_fast_open(&mut self, listener: ListenerId, server: Option<FastOpenServer>) {
        self.core_mut().listeners.set_early(listener.port, server);
    }
}
