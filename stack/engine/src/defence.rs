//! What a shard does about peers that mean it ill: handshakes without state, answers with a limit.
//!
//! A SYN costs a connection until the listener's half-open places are taken. From then on it is answered by a SYN cookie
//! ([`bywash_tcp::CookieInput`]): a header is sent and nothing is kept; the ACK that acknowledges a cookie makes the
//! connection. So a flood of SYNs costs frames in the TX ring and time, never memory, and those who mean it well still get in.

use bywash_tcp::time::{Duration, Instant};
use bywash_wire::{Decoded, DropReason, Ecn, Flags, Link, Segment};
use bywash_xsk::Port;

use crate::payload::FramePayload;
use crate::shard::{Core, Origin};
use crate::stages::egress::post_header;

/// How long after the last cookie an ACK may still acknowledge one: two epochs of 64 s.
const COOKIE_LIFE: Duration = Duration::from_secs(128);

/// How long after the last cookie segments of nobody get no RST: some retransmissions of the first data.
const COOKIE_GRACE: Duration = Duration::from_secs(10);

/// When a listener answers SYNs by cookies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SynCookies {
    /// When its half-open places (`backlog`) are taken, as Linux does.
    #[default]
    WhenFull,
    /// Never: SYNs beyond the backlog are dropped, and peers send them again.
    Never,
    /// For every SYN, as `net.ipv4.tcp_syncookies=2`: for tests.
    Always,
}

/// A token bucket for answers that a peer could demand without limit: a second's worth at once, refilled each second.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_second: u32,
    tokens: u32,
    second: u64,
}

impl RateLimit {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            tokens: per_second,
            second: 0,
        }
    }

    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let second = now.as_nanos() / 1_000_000_000;
        if second != self.second {
            self.second = second;
            self.tokens = self.per_second;
        }
        let had = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        had
    }
}

impl<P: Port> Core<P> {
    /// Whether a SYN to this port is to be answered without a connection.
    pub(crate) fn wants_cookie(&self, half_open: u32) -> bool {
        match self.config.syn_cookies {
            SynCookies::WhenFull => half_open >= self.config.backlog,
            SynCookies::Always => true,
            SynCookies::Never => false,
        }
    }

    /// Answers a SYN without keeping anything of it.
    pub(crate) fn send_cookie(&mut self, decoded: &Decoded) {
        let tuple = decoded.tuple;
        let offset = self.secrets.timestamp_offset(&tuple);
        let Some(entry) = self.listeners.by_port(tuple.local_port) else {
            return;
        };
        let reply = entry.listener(&tuple).cookie_reply::<FramePayload>(
            self.now,
            tuple,
            &decoded.segment,
            offset,
            |input| self.secrets.cookie(&tuple, input),
        );
        self.last_cookie = Some(self.now);
        if self.send_back(decoded, &reply) {
            self.counters.cookies_sent += 1;
        }
    }

    /// Makes the connection that an ACK of a cookie completes. Its index; `None` if the segment is no such ACK.
    pub(crate) fn take_cookie(&mut self, decoded: &Decoded) -> Option<u32> {
        let recent = self
            .last_cookie
            .is_some_and(|at| self.now.since(at) < COOKIE_LIFE);
        if !recent || decoded.segment.flags.contains(Flags::SYN) {
            return None;
        }
        let tuple = decoded.tuple;
        let offset = self.secrets.timestamp_offset(&tuple);
        let full = self.conns.len() >= self.config.max_connections as usize;
        let entry = self.listeners.by_port(tuple.local_port)?;
        let listener = entry.listener(&tuple);
        let tcp = listener.on_cookie_ack::<FramePayload>(
            self.now,
            tuple,
            &decoded.segment,
            offset,
            |input| self.secrets.cookie(&tuple, input),
        )?;
        if full {
            self.count_drop(DropReason::ConnectionTableFull);
            return None;
        }
        let buffer = listener.config().receive_buffer;
        entry.half_open += 1;
        self.counters.cookies_taken += 1;
        let index = self.adopt(tcp, Origin::HalfOpen(tuple.local_port), buffer, None);
        self.find_path(index);
        Some(index)
    }

    /// Whether this may be a segment of somebody who was sent a cookie, behind the one that acknowledges it: that one may be
    /// lost or late, and will come again. A RST would end what has hardly begun.
    pub(crate) fn may_follow_cookie(&self, flags: Flags) -> bool {
        let recent = self
            .last_cookie
            .is_some_and(|at| self.now.since(at) < COOKIE_GRACE);
        recent && flags.contains(Flags::ACK) && !flags.intersects(Flags::SYN | Flags::RST)
    }

    /// Sends a segment of no connection back to where `decoded` came from. There is no state to
    /// keep a path in, and the sender's own link header is as good as what the kernel would say.
    pub(crate) fn send_back(&mut self, decoded: &Decoded, segment: &Segment) -> bool {
        let link = Link {
            source_mac: decoded.destination_mac,
            destination_mac: decoded.source_mac,
            vlan: decoded.tuple.vlan,
        };
        if self.port.tx_space() == 0 {
            self.count_drop(DropReason::TransmitRingFull);
            return false;
        }
        if post_header(&mut self.port, &link, &decoded.tuple, Ecn::NotEct, segment) {
            self.counters.segments_out += 1;
            true
        } else {
            self.count_drop(DropReason::NoTransmitFrame);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_limit_refills_each_second() {
        let mut limit = RateLimit::new(2);
        let at = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        assert!(limit.take(at(0)) && limit.take(at(1)) && !limit.take(at(999)));
        assert!(limit.take(at(1000)));
    }
}
