//! The ports of one shard on which somebody listens.

use std::collections::HashMap;

use bywash_tcp::{Config as TcpConfig, Listener};
use bywash_wire::Tuple;

use crate::fast_open::{Early, FastOpenServer};
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
    /// The service has no room for more: SYNs are dropped.
    pub(crate) shut: bool,
    /// Fast Open (RFC 7413); `None`: it does not.
    pub(crate) early: Option<Early>,
}

impl PortListener {
    fn new(config: &TcpConfig, mtu: u16, early: Option<FastOpenServer>) -> Self {
        let (v4, v6) = listeners(config, mtu);
        Self {
            v4,
            v6,
            config: config.clone(),
            half_open: 0,
            accepted: 0,
            shut: false,
            early: early.map(Early::new),
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

    pub(crate) fn insert(
        &mut self,
        port: u16,
        config: &TcpConfig,
        mtu: u16,
        early: Option<FastOpenServer>,
    ) {
        self.by_port
            .insert(port, PortListener::new(config, mtu, early));
    }

    /// The account of a port's connections that were opened early, if that is done there.
    pub(crate) fn early(&mut self, port: u16) -> Option<&mut Early> {
        self.by_port.get_mut(&port)?.early.as_mut()
    }

    /// From now on Fast Open is done so.
    pub(crate) fn set_early(&mut self, port: u16, server: Option<FastOpenServer>) {
        let Some(listener) = self.by_port.get_mut(&port) else {
            return;
        };
        match (&mut listener.early, server) {
            (Some(early), Some(server)) => early.server = server,
            (early, server) => *early = server.map(Early::new),
        }
    }

    /// Connections that come from now on have these settings.
    pub(crate) fn configure(&mut self, port: u16, config: &TcpConfig, mtu: u16) {
        if let Some(listener) = self.by_port.get_mut(&port) {
            (listener.v4, listener.v6) = listeners(config, mtu);
            listener.config = config.clone();
        }
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

    /// Whether the service has no room for more connections of a port.
    pub(crate) fn is_shut(&self, port: u16) -> bool {
        self.by_port
            .get(&port)
            .is_some_and(|listener| listener.shut)
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
