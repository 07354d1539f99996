//! Every setting of TCP from a service's side: at `listen` and `connect`, and while a connection lives.
//!
//! [`ConnOptions`](crate::context::ConnOptions) names the few settings that most applications want; a sockets
//! API has an option for nearly every field of [`bywash_tcp::Config`], and sets them at any time.

use std::net::SocketAddr;

use bywash_tcp::{Config as TcpConfig, Readiness};
use bywash_xsk::Port;

use crate::context::Context;
use crate::service::{ConnError, ConnId, ConnectError, ListenError, ListenerId};
use crate::shard::Core;

impl<P: Port> Core<P> {
    pub(crate) fn configure(
        &mut self,
        id: ConnId,
        change: impl FnOnce(&mut TcpConfig),
    ) -> Result<(), ConnError> {
        let now = self.now;
        let conn = self.conns.by_id(id).ok_or(ConnError::Unknown)?;
        conn.tcp.configure(now, change);
        conn.receive_buffer = conn.tcp.config().receive_limit();
        self.limit_window(id.index);
        self.mark_ready(id.index);
        Ok(())
    }
}

impl<P: Port> Context<'_, P> {
    /// The shard's default settings of a connection.
    pub fn tcp_config(&self) -> &TcpConfig {
        &self.core().config.tcp
    }

    /// [`listen`](Self::listen) with every setting given. The segment size is cut to what the device carries.
    ///
    /// # Errors
    /// As `listen`.
    pub fn listen_with(
        &mut self,
        port: u16,
        config: &TcpConfig,
    ) -> Result<ListenerId, ListenError> {
        self.core_mut().listen_with(port, config)
    }

    /// Changes the settings of the connections that a listener will get from now on.
    pub fn configure_listener(&mut self, listener: ListenerId, config: &TcpConfig) {
        let core = self.core_mut();
        core.listeners
            .configure(listener.port, config, core.config.mtu);
    }

    /// Lets connections in, or not: a service whose queue is full does not want more. SYNs are dropped meanwhile, which peers
    /// send again; handshakes that have begun go on.
    pub fn set_listener_open(&mut self, listener: ListenerId, open: bool) {
        if let Some(entry) = self.core_mut().listeners.by_port(listener.port) {
            entry.shut = !open;
        }
    }

    /// [`connect`](Self::connect) with every setting given. The segment size is cut to what the path carries.
    ///
    /// # Errors
    /// As `connect`.
    pub fn connect_with(
        &mut self,
        remote: SocketAddr,
        config: TcpConfig,
    ) -> Result<ConnId, ConnectError> {
        self.core_mut().connect_with(remote, config)
    }

    /// Changes settings of a living connection: see [`bywash_tcp::Connection::configure`] for what takes effect when.
    ///
    /// # Errors
    /// The id names no connection.
    pub fn configure(
        &mut self,
        conn: ConnId,
        change: impl FnOnce(&mut TcpConfig),
    ) -> Result<(), ConnError> {
        self.core_mut().configure(conn, change)
    }

    /// The level bits that poll(2) is built on.
    ///
    /// # Errors
    /// The id names no connection.
    pub fn readiness(&mut self, conn: ConnId) -> Result<Readiness, ConnError> {
        let conn = self.core_mut().conns.by_id(conn);
        Ok(conn.ok_or(ConnError::Unknown)?.tcp.readiness())
    }
}
