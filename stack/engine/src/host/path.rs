//! How a shard addresses a frame to a remote host: the answer, and the trait by which it asks.
//!
//! A shard must not wait. It asks [`Routes::resolve`] and gets what is known now; if that is
//! [`Resolution::Pending`], a question has gone out, and [`Routes::poll`] names the remote as soon
//! as the answer is there:
//!
//! ```text
//! resolve(r) -> Pending        the question is on its way to the kernel
//! poll(changed)                changed = [r]
//! resolve(r) -> Ready(path)    put path into the headers; good until `changed` names r again
//! ```

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use bywash_wire::{MacAddr, VlanId};

/// All that a frame to one remote host needs below TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The source address that the kernel prefers for this remote (`RTA_PREFSRC`). An active open
    /// takes it as its local address after checking that it is one of [`Routes::sources`]; an
    /// accepted connection keeps the address that the peer called.
    pub source: IpAddr,
    /// MAC address of our device.
    pub source_mac: MacAddr,
    /// MAC address of the next hop: the remote itself on the link, else the gateway.
    pub destination_mac: MacAddr,
    /// The VLAN that the kernel's route leads into; `None`: frames carry no tag.
    pub vlan: Option<VlanId>,
    /// Bytes of IP packet that fit: the device's MTU, or the route's `mtu` metric if smaller.
    pub mtu: u16,
}

/// Why there is no path to a remote host. The text names the remedy where there is one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// The kernel has no route, or one of type unreachable, prohibit or blackhole.
    #[error("no route to the host: see `ip route get` (kernel: {0})")]
    NoRoute(Arc<str>),
    /// The kernel would send through a device that is not this engine's.
    #[error(
        "the route leaves through {name}, not through this engine's device (if {name} is in a VLAN on it: --vlan)"
    )]
    OtherDevice {
        /// Name of that device, or `#<index>` if it has none.
        name: Arc<str>,
    },
    /// The next hop does not answer ARP or neighbour discovery.
    #[error("no answer to address resolution from the next hop {next_hop}")]
    NoNeighbour {
        /// The remote itself, or the gateway.
        next_hop: IpAddr,
    },
    /// The remote address is one of this host's own: the kernel does not put that on a wire.
    #[error("the address is one of this host's own")]
    OwnAddress,
    /// Multicast, broadcast or unspecified: TCP has no such peer (RFC 9293 3.9.2.3).
    #[error("not a unicast address")]
    NotUnicast,
    /// The device is down or gone.
    #[error("the device is down or gone")]
    LinkDown,
    /// Too many questions of this shard are open; known remotes are unharmed. This question was not
    /// put, so `poll` will not name the remote: ask again later, or give up.
    #[error("too many questions for routes and neighbours are open: try again")]
    Busy,
    /// The question itself failed.
    #[error("the kernel could not be asked: {0}")]
    Failed(Arc<str>),
}

impl Unreachable {
    /// Whether this is the answer to the question, and not a failure to ask it.
    #[must_use]
    pub fn is_verdict(&self) -> bool {
        !matches!(self, Self::Busy | Self::Failed(_))
    }
}

/// What is known now about the way to a remote host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Frames can be sent.
    Ready(Path),
    /// Not known yet; [`Routes::poll`] will name the remote. Whoever holds an older path for this
    /// remote goes on using it meanwhile.
    Pending,
    /// No frame can be sent now. The finding is forgotten after about a second (named by `poll`
    /// then), and the next `resolve` tries afresh.
    Unreachable(Unreachable),
}

/// The way to a remote host, asked by a shard. Nothing here blocks or calls the kernel.
pub trait Routes {
    /// What is known about `remote`: a look-up in a table of this shard. An unknown remote gives
    /// `Pending`, and a question goes out.
    fn resolve(&mut self, remote: IpAddr) -> Resolution;

    /// Takes in what has changed since the last call and appends each remote concerned to
    /// `changed` (answers to open questions included; a remote may appear twice). To be called once
    /// a turn; costs one atomic load when nothing happened.
    fn poll(&mut self, changed: &mut Vec<IpAddr>);

    /// The addresses of our device, IPv6 link-local ones included, and those in its VLANs, as of the last `poll`.
    fn sources(&self) -> &[IpAddr];
}

/// Paths that never change: for the in-memory wire and for tests.
///
/// Every remote without an entry of its own has the default path, if there is one.
#[derive(Clone, Debug, Default)]
pub struct StaticRoutes {
    sources: Vec<IpAddr>,
    default: Option<Path>,
    paths: HashMap<IpAddr, Path>,
}

impl StaticRoutes {
    /// No path yet; `sources` are the addresses that this end calls its own.
    #[must_use]
    pub fn new(sources: Vec<IpAddr>) -> Self {
        Self {
            sources,
            default: None,
            paths: HashMap::new(),
        }
    }

    /// The path to every remote that has no entry of its own. `path.source` is replaced by the
    /// first own address of the remote's family.
    #[must_use]
    pub fn with_default(mut self, path: Path) -> Self {
        self.default = Some(path);
        self
    }

    /// The path to one remote, as it stands.
    #[must_use]
    pub fn with(mut self, remote: IpAddr, path: Path) -> Self {
        self.paths.insert(remote, path);
        self
    }
}

impl Routes for StaticRoutes {
    fn resolve(&mut self, remote: IpAddr) -> Resolution {
        if let Some(path) = self.paths.get(&remote) {
            return Resolution::Ready(*path);
        }
        let source = self
            .sources
            .iter()
            .find(|source| source.is_ipv4() == remote.is_ipv4());
        match (self.default, source) {
            (Some(path), Some(source)) => Resolution::Ready(Path {
                source: *source,
                ..path
            }),
            _ => Resolution::Unreachable(Unreachable::NoRoute("static table has no entry".into())),
        }
    }

    fn poll(&mut self, _changed: &mut Vec<IpAddr>) {}

    fn sources(&self) -> &[IpAddr] {
        &self.sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(source: &str, last: u8) -> Path {
        Path {
            source: source.parse().unwrap(),
            source_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            destination_mac: MacAddr([2, 0, 0, 0, 0, last]),
            vlan: None,
            mtu: 1500,
        }
    }

    #[test]
    fn static_routes_prefer_the_entry_over_the_default() {
        let near: IpAddr = "192.0.2.2".parse().unwrap();
        let mut routes = StaticRoutes::new(vec!["192.0.2.1".parse().unwrap()])
            .with_default(path("0.0.0.0", 9))
            .with(near, path("192.0.2.7", 2));
        assert_eq!(
            routes.resolve(near),
            Resolution::Ready(path("192.0.2.7", 2))
        );
        let far = routes.resolve("198.51.100.1".parse().unwrap());
        assert_eq!(far, Resolution::Ready(path("192.0.2.1", 9)));
    }

    #[test]
    fn static_routes_have_no_way_to_the_other_family() {
        let mut routes =
            StaticRoutes::new(vec!["192.0.2.1".parse().unwrap()]).with_default(path("0.0.0.0", 9));
        let answer = routes.resolve("2001:db8::1".parse().unwrap());
        assert!(
            matches!(answer, Resolution::Unreachable(Unreachable::NoRoute(_))),
            "{answer:?}"
        );
    }
}
