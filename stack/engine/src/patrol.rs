//! Connections that hold memory without using it, by policy: the idle, and those that read too slowly.
//!
//! TCP itself waits for ever for a peer that keeps its window closed and answers probes (RFC 9293 3.8.6.1), and for one that
//! says nothing while nothing is owed. A server may want its memory back. The patrol looks at a few connections a turn, all of
//! them once in five seconds, so a limit is kept to within that time and costs nothing per packet.

use bywash_tcp::time::{Duration, Instant};
use bywash_xsk::Port;

use crate::shard::{Conn, Core};

/// Time in which every connection is looked at once.
const ROUND: Duration = Duration::from_secs(5);

/// Connections looked at in one turn at most.
const BUDGET: u64 = 64;

/// What a shard does not put up with. The default puts up with everything, as RFC 9293 demands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reap {
    /// Nothing was heard of the peer for this long: the connection is reset.
    pub idle: Option<std::time::Duration>,
    /// The peer takes what waits for it more slowly than this.
    pub slow: Option<SlowReader>,
}

/// When a peer reads too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowReader {
    /// Bytes that it must acknowledge in each period in which data waits for it all the time.
    pub bytes: u64,
    /// The period.
    pub period: std::time::Duration,
}

/// Where the patrol is.
#[derive(Debug)]
pub(crate) struct Patrol {
    next: u32,
    at: Instant,
}

/// What a connection had got done when the patrol last began to watch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    acked: u64,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stay,
    Idle,
    Slow,
}

impl Patrol {
    pub(crate) fn new(now: Instant) -> Self {
        Self { next: 0, at: now }
    }
}

impl<P: Port> Core<P> {
    fn reaps(&self) -> bool {
        self.config.reap != Reap::default()
    }

    /// When the patrol wants to go on, if it has anything to do.
    pub(crate) fn next_patrol(&self) -> Option<Instant> {
        let all = self.conns.places() as u64;
        let step = Duration::from_nanos(ROUND.as_nanos() / all.clamp(1, 500));
        (self.reaps() && self.conns.len() > 0).then(|| self.patrol.at + step)
    }

    /// Looks at those whose turn it is. Returns how many were reset.
    pub(crate) fn patrol(&mut self) -> usize {
        let all = self.conns.places() as u64;
        if !self.reaps() || all == 0 {
            self.patrol.at = self.now;
            return 0;
        }
        let passed = self.now.since(self.patrol.at).as_nanos();
        let due = (u128::from(passed) * u128::from(all) / u128::from(ROUND.as_nanos())) as u64;
        if due == 0 {
            return 0;
        }
        self.patrol.at = self.now;
        let mut reaped = 0;
        for _ in 0..due.min(BUDGET).min(all) {
            let index = self.patrol.next;
            self.patrol.next = (index + 1) % all as u32;
            reaped += usize::from(self.judge(index));
        }
        reaped
    }

    fn judge(&mut self, index: u32) -> bool {
        let (reap, now) = (self.config.reap, self.now);
        let Some(conn) = self.conns.by_index(index) else {
            return false;
        };
        let counter = match verdict(&reap, conn, now) {
            Verdict::Stay => return false,
            Verdict::Idle => &mut self.counters.reaped_idle,
            Verdict::Slow => &mut self.counters.reaped_slow,
        };
        *counter += 1;
        conn.tcp.abort();
        self.mark_dirty(index);
        true
    }
}

fn verdict(reap: &Reap, conn: &mut Conn, now: Instant) -> Verdict {
    if conn.tcp.is_closed() {
        return Verdict::Stay;
    }
    let activity = conn.tcp.activity();
    let over = |since: Instant, limit: std::time::Duration| {
        u128::from(now.since(since).as_nanos()) >= limit.as_nanos()
    };
    if reap.idle.is_some_and(|idle| over(activity.heard_at, idle)) {
        return Verdict::Idle;
    }
    let Some(slow) = reap.slow.filter(|_| activity.waits) else {
        conn.progress = None;
        return Verdict::Stay;
    };
    let fresh = Progress {
        acked: activity.acked,
        since: now,
    };
    let watched = **conn.progress.get_or_insert_with(|| Box::new(fresh));
    if !over(watched.since, slow.period) {
        return Verdict::Stay;
    }
    if activity.acked - watched.acked < slow.bytes {
        return Verdict::Slow;
    }
    conn.progress = Some(Box::new(fresh));
    Verdict::Stay
}
