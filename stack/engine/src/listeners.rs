//! The ports of one shard: who listens, and which local ports active opens may use.

use std::collections::HashMap;

use bywash_tcp::{Config as TcpConfig, Listener};
use bywash_wire::Tuple;

use crate::paths::{MSS_BELOW_MTU_V4, MSS_BELOW_MTU_V6};

/// One listening port of a shard.
pub(crate) struct PortListener {
    /// The LISTEN state for each family: their segment sizes differ. Connections share its settings.
    v4: Listener,
    v6: Listener,
    /// As it was asked for: for another MTU.
    config: TcpConfig,
    /// Connections in SYN-RECEIVED that came here.
    pub(crate) half_open: u32,
    /// Connections accepted since the start.
    pub(crate) accepted: u64,
}

impl PortListener {
    fn new(config: &TcpConfig, mtu: u16) -> Self {
        let (v4, v6) = listeners(config, mtu);
        Self {
            v4,
            v6,
            config: config.clone(),
            half_open: 0,
            accepted: 0,
        }
    }

    /// The LISTEN state that a SYN of this tuple meets.
    pub(crate) fn listener(&self, tuple: &Tuple) -> &Listener {
        if tuple.is_v4() { &self.v4 } else { &self.v6 }
    }
}

/// The LISTEN states of both families for a device of this MTU.
fn listeners(config: &TcpConfig, mtu: u16) -> (Listener, Listener) {
    let listener = |headers: u16| {
        Listener::new(TcpConfig {
            mss: config.mss.min(mtu.saturating_sub(headers)),
            ..config.clone()
        })
    };
    (listener(MSS_BELOW_MTU_V4), listener(MSS_BELOW_MTU_V6))
}

/// Listening ports by number.
#[derive(Default)]
pub(crate) struct Listeners {
    by_port: HashMap<u16, PortListener, foldhash::fast::RandomState>,
}

impl Listeners {
    pub(crate) fn contains(&self, port: u16) -> bool {
        self.by_port.contains_key(&port)
    }

    pub(crate) fn insert(&mut self, port: u16, config: &TcpConfig, mtu: u16) {
        self.by_port.insert(port, PortListener::new(config, mtu));
    }

    /// Connections that come from now on know the device's new MTU.
    pub(crate) fn set_mtu(&mut self, mtu: u16) {
        for listener in self.by_port.values_mut() {
            (listener.v4, listener.v6) = listeners(&listener.config, mtu);
        }
    }

    pub(crate) fn remove(&mut self, port: u16) -> bool {
        self.by_port.remove(&port).is_some()
    }

    pub(crate) fn by_port(&mut self, port: u16) -> Option<&mut PortListener> {
        self.by_port.get_mut(&port)
    }

    /// Connections in SYN-RECEIVED of a port; `None` if nobody listens there.
    pub(crate) fn half_open(&self, port: u16) -> Option<u32> {
        self.by_port.get(&port).map(|listener| listener.half_open)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, &PortListener)> {
        self.by_port
            .iter()
            .map(|(port, listener)| (*port, listener))
    }
}

/// The local ports of active opens that belong to this shard: every `shards`-th of the range, so
/// that shards need not agree on each one.
pub(crate) struct LocalPorts {
    first: u16,
    count: u16,
    step: u16,
    next: u16,
    /// The range stands in the demultiplexer and is reserved in the kernel.
    pub(crate) reserved: bool,
}

impl LocalPorts {
    /// `start` is any number; it decides which port is tried first (RFC 6056 wants no order that
    /// a peer can guess from outside).
    pub(crate) fn new(
        range: &std::ops::RangeInclusive<u16>,
        index: u32,
        shards: u32,
        start: u64,
    ) -> Self {
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
            next: (start % u64::from(count.max(1))) as u16,
            reserved: false,
        }
    }

    /// The next port for which `taken` says no, each tried once.
    pub(crate) fn pick(&mut self, mut taken: impl FnMut(u16) -> bool) -> Option<u16> {
        for _ in 0..self.count {
            let port = self.first + self.next * self.step;
            self.next = (self.next + 1) % self.count;
            if !taken(port) {
                return Some(port);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_a_range_without_overlap() {
        let range = 60000..=60010;
        let mut seen = Vec::new();
        for index in 0..3 {
            let mut ports = LocalPorts::new(&range, index, 3, 7);
            let mut mine = Vec::new();
            while let Some(port) = ports.pick(|port| mine.contains(&port)) {
                mine.push(port);
            }
            seen.extend(mine);
        }
        seen.sort_unstable();
        assert_eq!(seen, range.collect::<Vec<_>>());
    }

    #[test]
    fn an_empty_share_gives_no_port() {
        let mut ports = LocalPorts::new(&(60000..=60000), 1, 2, 0);
        assert_eq!(ports.pick(|_| false), None);
    }
}
