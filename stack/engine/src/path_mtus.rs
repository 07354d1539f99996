//! Path MTUs by destination, as ICMP errors have taught them (RFC 1191 6, RFC 8201 5.2), or searches that had ended when their
//! connection did (RFC 4821 5.2): what one connection has learnt, the next to the same host begins with. Entries age after ten minutes, as Linux's do (`mtu_expires`).

use std::net::IpAddr;

use bywash_tcp::time::{Duration, Instant};
use hashbrown::HashMap;

/// How long an entry is believed (RFC 1191 6.3).
const AGE: Duration = Duration::from_secs(600);

/// Entries at most. Each took an ICMP error that quoted a segment in flight, so only a peer of ours can make one; without
/// room the connection itself still obeys, and the next one learns for itself.
const ENTRIES_MAX: usize = 4096;

/// What was learnt, and when.
#[derive(Debug, Default)]
pub(crate) struct PathMtus {
    by_remote: HashMap<IpAddr, (u16, Instant), foldhash::fast::RandomState>,
}

impl PathMtus {
    /// IP packets to `remote` of more than `mtu` bytes do not arrive.
    pub(crate) fn learn(&mut self, remote: IpAddr, mtu: u16, now: Instant) {
        if self.by_remote.len() >= ENTRIES_MAX && !self.by_remote.contains_key(&remote) {
            self.by_remote.retain(|_, (_, at)| now.since(*at) <= AGE);
            if self.by_remote.len() >= ENTRIES_MAX {
                return;
            }
        }
        self.by_remote.insert(remote, (mtu, now));
    }

    /// What is believed of the path to `remote`, and since when.
    pub(crate) fn of(&mut self, remote: IpAddr, now: Instant) -> Option<(u16, Instant)> {
        let (mtu, at) = *self.by_remote.get(&remote)?;
        if now.since(at) > AGE {
            self.by_remote.remove(&remote);
            return None;
        }
        Some((mtu, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn an_entry_is_believed_for_ten_minutes() {
        let mut mtus = PathMtus::default();
        let now = Instant::ZERO;
        mtus.learn(host(1), 1_400, now);
        assert_eq!(mtus.of(host(1), now + AGE), Some((1_400, now)));
        assert_eq!(mtus.of(host(2), now), None);
        let later = now + AGE + Duration::from_nanos(1);
        assert_eq!(mtus.of(host(1), later), None);
        assert!(mtus.by_remote.is_empty());
    }

    #[test]
    fn the_table_does_not_grow_without_end() {
        let mut mtus = PathMtus::default();
        let now = Instant::ZERO;
        for number in 0..2 * ENTRIES_MAX as u32 {
            mtus.learn(host(number), 1_400, now);
        }
        assert_eq!(mtus.by_remote.len(), ENTRIES_MAX);
        assert_eq!(mtus.of(host(5_000), now), None);
        let later = now + AGE * 2;
        mtus.learn(host(5_000), 1_300, later);
        assert_eq!(mtus.of(host(5_000), later), Some((1_300, later)));
    }
}
