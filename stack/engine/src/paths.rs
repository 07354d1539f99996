//! From a connection to the link header of its segments, by way of [`Routes`](crate::host::Routes).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bywash_tcp::{Config as TcpConfig, Connection};
use bywash_wire::{DropReason, Link, Tuple};
use bywash_xsk::Port;

use crate::flows::Place;
use crate::host::vlans::is_link_local;
use crate::host::{Path, Resolution, Unreachable};
use crate::local_ports::PortUse;
use crate::shard::{Core, Origin};

impl<P: Port> Core<P> {
    /// Asks for the connection's path. It sends once the path is known.
    pub(crate) fn find_path(&mut self, index: u32) {
        let Some(conn) = self.conns.by_index(index) else {
            return;
        };
        let remote = conn.tcp.tuple().remote;
        match self.env.routes.resolve(remote) {
            Resolution::Ready(path) => self.set_path(index, &path),
            Resolution::Pending => self.pathless.entry(remote).or_default().push(index),
            Resolution::Unreachable(reason) => self.no_path(index, reason),
        }
    }

    /// Takes in answers and changes. Called once a turn.
    pub(crate) fn paths(&mut self) -> usize {
        let mut changed = std::mem::take(&mut self.changed);
        self.env.routes.poll(&mut changed);
        let count = changed.len();
        for remote in changed.drain(..) {
            let waiting = self.pathless.remove(&remote);
            // First answers are many and concern those that wait alone.
            let concerns_others = waiting.is_none() || self.outdated.remove(&remote);
            for index in waiting.into_iter().flatten() {
                self.find_path_of(index, remote);
            }
            if concerns_others {
                self.repath(remote);
            }
        }
        // Questions that could not be put are put again in the next turn.
        changed.append(&mut self.unasked);
        self.changed = changed;
        count
    }

    /// An index that waited may name another connection by now.
    fn find_path_of(&mut self, index: u32, remote: IpAddr) {
        if let Some(conn) = self.conns.by_index(index)
            && conn.link.is_none()
            && conn.tcp.tuple().remote == remote
        {
            self.find_path(index);
        }
    }

    /// The device's MTU changed. Segments of all connections shrink with it; those of new ones grow
    /// with it too, as far as a received frame fits a chunk.
    pub(crate) fn set_mtu(&mut self, mtu: u16) {
        let chunk = self.port.umem().config().chunk_size;
        let most = mtu_of_chunk(chunk);
        if mtu > most {
            tracing::warn!(
                mtu,
                most,
                "the MTU is beyond what the frames of this engine hold: it goes on with the most; restart it to use all"
            );
        }
        self.config.mtu = mtu.min(most);
        self.listeners.set_mtu(self.config.mtu);
        self.each_connection(|core, index| {
            let mtu = core.config.mtu;
            if let Some(conn) = core.conns.by_index(index)
                && conn.opening.is_none()
            {
                let mss = mss_for(mtu, &conn.tcp.tuple());
                conn.tcp.set_mss(mss);
                core.mark_dirty(index);
            }
        });
    }

    /// A known path changed under established connections: a new gateway, MAC address or MTU, or
    /// none any more. It walks all connections, which a route change is rare enough for.
    fn repath(&mut self, remote: IpAddr) {
        let resolution = self.env.routes.resolve(remote);
        match &resolution {
            Resolution::Ready(_) => {}
            Resolution::Unreachable(reason) if reason.is_verdict() => {}
            Resolution::Pending | Resolution::Unreachable(_) => {
                // The old path serves meanwhile, and may be wrong once the answer is there.
                self.outdated.insert(remote);
                return;
            }
        }
        let concerned: Vec<u32> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.tcp.tuple().remote == remote)
            .map(|(id, _)| id.index)
            .collect();
        for index in concerned {
            match &resolution {
                Resolution::Ready(path) => self.set_path(index, path),
                _ => self.lose_path(index, remote),
            }
        }
    }

    /// The way to the peer is gone: nothing is sent the old way. TCP's own time-outs decide how long
    /// to hope.
    fn lose_path(&mut self, index: u32, remote: IpAddr) {
        if let Some(conn) = self.conns.by_index(index)
            && conn.link.take().is_some()
        {
            self.counters.paths_lost += 1;
            self.pathless.entry(remote).or_default().push(index);
        }
    }

    fn set_path(&mut self, index: u32, path: &Path) {
        if let Some(conn) = self.conns.by_index(index)
            && conn.tcp.tuple().vlan.is_some()
            && is_link_local(conn.tcp.tuple().remote)
        {
            // The answer is about the device's own link: remotes are asked for without theirs.
            let reason = "IPv6 link-local peers in a VLAN are not served";
            return self.no_path(index, Unreachable::NoRoute(Arc::from(reason)));
        }
        if let Err(reason) = self.settle_opening(index, path) {
            return self.fail_opening(index, reason);
        }
        let Some(conn) = self.conns.by_index(index) else {
            return;
        };
        let tuple = conn.tcp.tuple();
        conn.link = Some(Link {
            source_mac: path.source_mac,
            destination_mac: path.destination_mac,
            // As the kernel's route has it. What comes may carry another tag: the tuple's.
            vlan: path.vlan,
        });
        let mss = mss_for(path.mtu.min(self.config.mtu), &tuple);
        if conn.opening.is_none() {
            conn.tcp.set_mss(mss);
            if let Some((mtu, learnt_at)) = self.path_mtus.of(tuple.remote, self.now) {
                conn.tcp.assume_path_mtu(mtu, learnt_at);
            }
        }
        self.mark_dirty(index);
    }

    /// An active open whose path was not known gets its local address and port now.
    fn settle_opening(&mut self, index: u32, path: &Path) -> Result<(), Unreachable> {
        let Some(conn) = self.conns.by_index(index) else {
            return Ok(());
        };
        // Given up in the turn in which its path was found: it stays so.
        if conn.tcp.is_closed() {
            return Ok(());
        }
        let Some(config) = conn.opening.take() else {
            return Ok(());
        };
        let remote = peer_address(&conn.tcp.tuple());
        let Some(tuple) = self.choose_tuple(path, remote) else {
            return Err(Unreachable::Failed(Arc::from(
                "no local port is free towards the peer",
            )));
        };
        let tcp = self.active_connection(&config, tuple, path.mtu);
        let fast_open = self.begin_fast_open(&tcp, Origin::Active);
        if let Some(conn) = self.conns.by_index(index) {
            conn.tcp = tcp;
            conn.fast_open = fast_open;
        }
        self.enlist(&tuple, index);
        Ok(())
    }

    /// A connection in SYN-SENT.
    pub(crate) fn active_connection(
        &mut self,
        config: &TcpConfig,
        tuple: Tuple,
        mtu: u16,
    ) -> Connection<crate::payload::FramePayload> {
        let mut config = config.clone();
        config.mss = config.mss.min(mss_for(mtu.min(self.config.mtu), &tuple));
        let iss = match self.place_of(&tuple) {
            Some(Place::TimeWait(index)) => {
                let old = self.time_waits.get(index);
                let iss = old.and_then(|one| one.successor(self.now));
                self.end_time_wait(index);
                iss
            }
            _ => None,
        };
        let iss = iss.unwrap_or_else(|| self.secrets.initial_sequence(&tuple, self.now));
        let offset = self.secrets.timestamp_offset(&tuple);
        let config = self.share(config);
        let mut tcp = Connection::connect_shared(&config, tuple, iss, offset, self.now);
        // A placeholder has no port yet.
        if config.fast_open
            && tuple.local_port != 0
            && let Some(offer) = self.offer_fast_open(&tuple)
        {
            tcp.fast_open(offer);
        }
        tcp
    }

    /// The settings, kept once for all active opens in a row that have the same.
    fn share(&mut self, config: TcpConfig) -> Arc<TcpConfig> {
        match &self.last_config {
            Some(last) if **last == config => Arc::clone(last),
            _ => Arc::clone(self.last_config.insert(Arc::new(config))),
        }
    }

    /// A tuple to `remote` with a local port that no connection uses towards it, from the address that
    /// the kernel prefers, or from one of this device's if that is another device's.
    pub(crate) fn choose_tuple(&mut self, path: &Path, remote: SocketAddr) -> Option<Tuple> {
        let source = self.source_of(path, remote.ip())?;
        let hash = self.secrets.local_port(source, remote);
        let Self {
            local_ports,
            flows,
            time_waits,
            conns,
            now,
            ..
        } = self;
        let (conns, time_waits) = (&*conns, &*time_waits);
        // The peer's segments come in the VLAN into which ours go.
        let tuple = |port| Tuple {
            vlan: path.vlan,
            ..Tuple::tcp(source, port, remote.ip(), remote.port())
        };
        // RFC 6191 3: with timestamps a new connection can take the place of one in TIME-WAIT.
        let gives_way = |index| {
            let one = time_waits.get(index);
            one.is_some_and(|one| one.successor(*now).is_some())
        };
        let chosen = local_ports.pick(hash, |port| {
            match flows.lookup(&tuple(port), conns, time_waits) {
                None => PortUse::Free,
                Some(Place::TimeWait(index)) if gives_way(index) => PortUse::GivesWay,
                Some(_) => PortUse::Taken,
            }
        });
        chosen.map(tuple)
    }

    /// Our address towards `remote`.
    pub(crate) fn source_of(&self, path: &Path, remote: IpAddr) -> Option<IpAddr> {
        let ours = self.env.routes.sources();
        if ours.contains(&path.source) {
            return Some(path.source);
        }
        let mut ours = ours.iter().copied();
        ours.find(|own| own.is_ipv4() == remote.is_ipv4())
    }

    fn no_path(&mut self, index: u32, reason: Unreachable) {
        let Some(conn) = self.conns.by_index(index) else {
            return;
        };
        if conn.opening.is_none() && conn.tcp.state() != bywash_tcp::State::SynReceived {
            // It had a path, and hopes for another; what is found out now is named again when it is
            // forgotten.
            let remote = conn.tcp.tuple().remote;
            self.pathless.entry(remote).or_default().push(index);
            if reason == Unreachable::Busy {
                self.unasked.push(remote);
            }
            return;
        }
        let drop_reason = match reason {
            Unreachable::NoNeighbour { .. } => DropReason::NoNeighbour,
            _ => DropReason::NoRoute,
        };
        match conn.origin {
            // Accepted: its service has it already, by Fast Open.
            Origin::Active | Origin::Accepted(_) => self.fail_opening(index, reason),
            Origin::HalfOpen(_) => {
                self.count_drop(drop_reason);
                self.forget(index);
            }
        }
    }
}

fn peer_address(tuple: &Tuple) -> SocketAddr {
    SocketAddr::new(tuple.remote, tuple.remote_port)
}

/// IPv4 and TCP header without options (RFC 6691).
pub(crate) const MSS_BELOW_MTU_V4: u16 = 40;
/// IPv6 and TCP header without options (RFC 8200 8.3).
pub(crate) const MSS_BELOW_MTU_V6: u16 = 60;

/// What XDP takes of a chunk before a received packet.
const XDP_HEADROOM: u32 = 256;
/// The most that a frame has besides its IP packet: Ethernet header and two VLAN tags.
const LINK_HEADER: u32 = 22;

/// The largest MTU whose frames fit a chunk of this size on receive.
pub(crate) fn mtu_of_chunk(chunk: u32) -> u16 {
    u16::try_from(chunk.saturating_sub(XDP_HEADROOM + LINK_HEADER)).unwrap_or(u16::MAX)
}

/// Largest payload without options in a datagram of `mtu` bytes.
fn mss_for(mtu: u16, tuple: &Tuple) -> u16 {
    mtu.saturating_sub(if tuple.is_v4() {
        MSS_BELOW_MTU_V4
    } else {
        MSS_BELOW_MTU_V6
    })
}
