//! Local ports of active opens (RFC 6056).
//!
//! Which port comes next must not be guessed from outside, and two opens to one destination should not get one port soon
//! after each other. The RFC's algorithm 4 (double hash): where the search begins is a keyed hash of the destination, plus a
//! counter that destinations share by another keyed hash.

/// Counters that destinations share: the more, the less one destination's peer learns of opens to others.
const COUNTERS: usize = 256;

/// How many ports are looked at for a free one, before one is taken whose TIME-WAIT gives way: where all are in TIME-WAIT, which
/// is what a client that closes first comes to, an open must not look at each.
const LOOK: u16 = 64;

/// What a port is, towards one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortUse {
    /// Nobody has it.
    Free,
    /// In TIME-WAIT, and a new connection may take its place (RFC 6191).
    GivesWay,
    /// A connection has it, or what is left of one.
    Taken,
}

/// The local ports of active opens that belong to this shard: every `shards`-th of the range, so
/// that shards need not agree on each one.
pub(crate) struct LocalPorts {
    first: u16,
    count: u16,
    step: u16,
    counters: Box<[u32; COUNTERS]>,
    /// The range stands in the demultiplexer and is reserved in the kernel.
    pub(crate) reserved: bool,
}

impl LocalPorts {
    pub(crate) fn new(range: &std::ops::RangeInclusive<u16>, index: u32, shards: u32) -> Self {
        let first = u32::from(*range.start()) + index;
        let end = u32::from(*range.end());
        let count = if first > end {
            0
        } else {
            (end - first) / shards + 1
        };
        Self {
            first: first as u16,
            count: count as u16,
            step: shards as u16,
            counters: Box::new([0; COUNTERS]),
            reserved: false,
        }
    }

    /// The next port towards a destination that is free, or gives way if no free one is near; each is tried once. `hash` is
    /// a keyed hash of local address, remote address and remote port.
    pub(crate) fn pick(
        &mut self,
        hash: u64,
        mut use_of: impl FnMut(u16) -> PortUse,
    ) -> Option<u16> {
        if self.count == 0 {
            return None;
        }
        let counter = &mut self.counters[(hash >> 32) as usize % COUNTERS];
        let begin = u64::from(hash as u32) + u64::from(*counter);
        let mut chosen = None;
        for tried in 0..self.count {
            let place = (begin + u64::from(tried)) % u64::from(self.count);
            let port = self.first + place as u16 * self.step;
            match use_of(port) {
                PortUse::Free => {
                    chosen = Some((tried, port));
                    break;
                }
                PortUse::GivesWay => chosen = chosen.or(Some((tried, port))),
                PortUse::Taken => {}
            }
            if tried >= LOOK && chosen.is_some() {
                break;
            }
        }
        let (tried, port) = chosen?;
        *counter = counter.wrapping_add(u32::from(tried) + 1);
        Some(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken_if(taken: bool) -> PortUse {
        match taken {
            true => PortUse::Taken,
            false => PortUse::Free,
        }
    }

    /// Ports in TIME-WAIT are the last choice as long as a free one is near, and cost no search through all when none is.
    #[test]
    fn what_gives_way_is_taken_after_a_short_search() {
        let mut ports = LocalPorts::new(&(61440..=65535), 0, 1);
        let first = ports.pick(7, |_| PortUse::Free).expect("all are free");
        let behind = |offset: u32| (61440 + (u32::from(first) - 61440 + offset) % 4096) as u16;
        let near = behind(32);
        let only_near = |port| match port == near {
            true => PortUse::Free,
            false => PortUse::GivesWay,
        };
        assert_eq!(ports.pick(7, only_near), Some(near));
        let (mut seen, mut looked) = (std::collections::BTreeSet::new(), 0);
        for _ in 0..4096 {
            let port = ports.pick(7, |_| {
                looked += 1;
                PortUse::GivesWay
            });
            seen.insert(port.expect("it gives way"));
        }
        assert_eq!(seen.len(), 4096, "each in its turn");
        assert!(looked <= 4096 * (u32::from(LOOK) + 1), "{looked}");
        // Far behind others that are taken.
        let far = behind(3000);
        let use_of = |port| match port == far {
            true => PortUse::GivesWay,
            false => PortUse::Taken,
        };
        assert_eq!(ports.pick(7, use_of), Some(far));
    }

    #[test]
    fn shards_share_a_range_without_overlap() {
        let range = 60000..=60010;
        let mut seen = Vec::new();
        for index in 0..3 {
            let mut ports = LocalPorts::new(&range, index, 3);
            let mut mine = Vec::new();
            while let Some(port) = ports.pick(7, |port| taken_if(mine.contains(&port))) {
                mine.push(port);
            }
            seen.extend(mine);
        }
        seen.sort_unstable();
        assert_eq!(seen, range.collect::<Vec<_>>());
    }

    #[test]
    fn an_empty_share_gives_no_port() {
        let mut ports = LocalPorts::new(&(60000..=60000), 1, 2);
        assert_eq!(ports.pick(1, |_| PortUse::Free), None);
    }

    /// Every port is tried, wherever the search begins and wherever the counter wraps.
    #[test]
    fn the_last_free_port_is_found() {
        let range = 61440..=65535;
        for hash in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            let mut ports = LocalPorts::new(&range, 0, 1);
            *ports.counters = [u32::MAX - 3; COUNTERS];
            assert_eq!(
                ports.pick(hash, |port| taken_if(port != 62000)),
                Some(62000),
                "{hash:x}"
            );
        }
    }

    #[test]
    fn one_destination_gets_other_ports_one_after_the_other() {
        let mut ports = LocalPorts::new(&(61440..=65535), 0, 1);
        let picked: Vec<_> = (0..4096)
            .map(|_| ports.pick(99, |_| PortUse::Free))
            .collect();
        let different: std::collections::BTreeSet<_> = picked.iter().collect();
        assert_eq!(different.len(), 4096);
        let other = ports.pick(98, |_| PortUse::Free);
        assert_ne!(
            picked.first(),
            Some(&other),
            "another destination begins elsewhere"
        );
    }
}
