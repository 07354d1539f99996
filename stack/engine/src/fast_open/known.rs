//! What is known of servers that were tried: their cookies, and where it came to nothing.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use bywash_tcp::FastOpenOffer;
use bywash_tcp::time::{Duration, Instant};
use bywash_wire::FastOpenCookie;
use hashbrown::HashMap;

/// Pause after the first failure; each further one doubles it.
const PAUSE: Duration = Duration::from_secs(120);
/// Doublings at most: some six days.
const PAUSE_DOUBLINGS: u32 = 12;

/// From where to where: cookies are for an address of ours, and services of one host need not all do it (RFC 7413 4.1.3.1).
pub(super) type Path = (IpAddr, SocketAddr);

#[derive(Debug, Default)]
struct Server {
    /// Its cookie, and the segment size that it takes.
    cookie: Option<(FastOpenCookie, u16)>,
    failures: u32,
    /// Not tried before.
    pause_until: Option<Instant>,
}

/// Servers by path, the latest `most` of them.
#[derive(Debug)]
pub(crate) struct KnownServers {
    most: usize,
    servers: HashMap<Path, Server, foldhash::fast::RandomState>,
    /// In the order in which they became known: who has been longest gives way.
    order: VecDeque<Path>,
}

impl KnownServers {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            servers: HashMap::default(),
            order: VecDeque::new(),
        }
    }

    /// What to try with the server now; `None`: nothing.
    pub(super) fn offer(&self, path: Path, now: Instant) -> Option<FastOpenOffer> {
        let Some(server) = self.servers.get(&path) else {
            return Some(FastOpenOffer::Ask);
        };
        if server.pause_until.is_some_and(|until| now < until) {
            return None;
        }
        Some(match server.cookie {
            Some((cookie, mss)) => FastOpenOffer::Show { cookie, mss },
            None => FastOpenOffer::Ask,
        })
    }

    /// The server has given a cookie.
    pub(super) fn remember(&mut self, path: Path, cookie: FastOpenCookie, mss: u16) {
        if let Some(server) = self.entry(path) {
            *server = Server {
                cookie: Some((cookie, mss)),
                ..Server::default()
            };
        }
    }

    /// It came to nothing: the server did not take the data, or nobody answered the SYN (RFC 7413 4.1.3.1). It is not tried for a
    /// while, and then anew; a cookie that was not taken is forgotten.
    pub(super) fn fail(&mut self, path: Path, now: Instant, keep_cookie: bool) {
        let Some(server) = self.entry(path) else {
            return;
        };
        let pause = PAUSE * (1 << server.failures.min(PAUSE_DOUBLINGS));
        server.failures = server.failures.saturating_add(1);
        server.pause_until = Some(now + pause);
        if !keep_cookie {
            server.cookie = None;
        }
    }

    /// The server took the data with the cookie that it had given.
    pub(super) fn succeed(&mut self, path: Path) {
        if let Some(server) = self.servers.get_mut(&path) {
            server.failures = 0;
            server.pause_until = None;
        }
    }

    fn entry(&mut self, path: Path) -> Option<&mut Server> {
        if self.most == 0 {
            return None;
        }
        if !self.servers.contains_key(&path) {
            if self.order.len() >= self.most
                && let Some(oldest) = self.order.pop_front()
            {
                self.servers.remove(&oldest);
            }
            self.order.push_back(path);
        }
        Some(self.servers.entry(path).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(port: u16) -> Path {
        let own = "192.0.2.1".parse().unwrap();
        (own, SocketAddr::new("192.0.2.2".parse().unwrap(), port))
    }

    fn cookie() -> FastOpenCookie {
        FastOpenCookie::new(b"biscuits").unwrap()
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn first_asked_then_shown() {
        let mut known = KnownServers::new(10);
        assert_eq!(known.offer(path(80), at(0)), Some(FastOpenOffer::Ask));
        known.remember(path(80), cookie(), 1_460);
        let show = FastOpenOffer::Show {
            cookie: cookie(),
            mss: 1_460,
        };
        assert_eq!(known.offer(path(80), at(1)), Some(show));
        assert_eq!(known.offer(path(81), at(1)), Some(FastOpenOffer::Ask));
    }

    #[test]
    fn each_failure_doubles_the_pause_and_a_success_ends_it() {
        let mut known = KnownServers::new(10);
        known.remember(path(80), cookie(), 1_460);
        let mut now = 0;
        for pause in [120, 240, 480] {
            known.fail(path(80), at(now), true);
            assert_eq!(known.offer(path(80), at(now + pause - 1)), None);
            now += pause;
            let offer = known.offer(path(80), at(now));
            assert!(
                matches!(offer, Some(FastOpenOffer::Show { .. })),
                "{offer:?}"
            );
        }
        known.succeed(path(80));
        known.fail(path(80), at(now), false);
        assert_eq!(known.offer(path(80), at(now + 119)), None);
        assert_eq!(
            known.offer(path(80), at(now + 120)),
            Some(FastOpenOffer::Ask)
        );
        for _ in 0..100 {
            known.fail(path(80), at(now), false);
        }
        let week = 7 * 24 * 3_600;
        assert_eq!(
            known.offer(path(80), at(now + week)),
            Some(FastOpenOffer::Ask)
        );
    }

    #[test]
    fn who_has_been_known_longest_gives_way() {
        let mut known = KnownServers::new(2);
        for port in [1, 2, 1, 3] {
            known.remember(path(port), cookie(), 1_460);
        }
        assert_eq!(known.offer(path(1), at(0)), Some(FastOpenOffer::Ask));
        assert_ne!(known.offer(path(3), at(0)), Some(FastOpenOffer::Ask));
        assert_eq!((known.servers.len(), known.order.len()), (2, 2));
        let mut none = KnownServers::new(0);
        none.remember(path(1), cookie(), 1_460);
        assert_eq!(none.offer(path(1), at(0)), Some(FastOpenOffer::Ask));
    }
}
