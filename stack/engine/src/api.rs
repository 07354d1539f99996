//! What a service asks of the shard: the bodies behind [`Context`](crate::context::Context).

use std::net::SocketAddr;

use bywash_tcp::{Config as TcpConfig, Connection, Info, Readiness, SendError};
use bywash_wire::Tuple;
use bywash_xsk::Port;

use crate::context::ConnOptions;
use crate::host::Resolution;
use crate::local_ports::LocalPorts;
use crate::payload::FramePayload;
use crate::service::{ConnError, ConnId, ConnectError, Follows, ListenError, ListenerId, Recv};
use crate::shard::{Conn, Core, Origin, Pressure, peer_of};
use crate::steering::ListenRefused;

/// Window in segments that a connection keeps when frames are short: enough for an ACK clock.
const HIGH_PRESSURE_SEGMENTS: usize = 4;

impl<P: Port> Core<P> {
    pub(crate) fn listen(
        &mut self,
        port: u16,
        options: ConnOptions,
    ) -> Result<ListenerId, ListenError> {
        let config = self.config_with(options);
        self.listen_with(port, &config)
    }

    pub(crate) fn listen_with(
        &mut self,
        port: u16,
        config: &TcpConfig,
    ) -> Result<ListenerId, ListenError> {
        if port == 0 {
            return Err(ListenError::Zero);
        }
        if self.listeners.contains(port) {
            return Err(ListenError::InUse(port));
        }
        self.env
            .steering
            .listen(port)
            .map_err(|refused| match refused {
                ListenRefused::Taken(text) => ListenError::Taken(text),
                ListenRefused::Demux(cause) => ListenError::Steering { port, cause },
            })?;
        let early = config
            .fast_open
            .then(|| self.config.fast_open.server.clone());
        self.listeners.insert(port, config, self.config.mtu, early);
        Ok(ListenerId { port })
    }

    pub(crate) fn unlisten(&mut self, listener: ListenerId) {
        if self.listeners.remove(listener.port) {
            self.env.steering.unlisten(listener.port);
        }
    }

    pub(crate) fn connect(
        &mut self,
        remote: SocketAddr,
        options: ConnOptions,
    ) -> Result<ConnId, ConnectError> {
        let config = self.config_with(options);
        self.connect_with(remote, config)
    }

    pub(crate) fn connect_with(
        &mut self,
        remote: SocketAddr,
        config: TcpConfig,
    ) -> Result<ConnId, ConnectError> {
        let ip = remote.ip();
        if remote.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
            return Err(ConnectError::BadAddress(remote));
        }
        if self.conns.len() >= self.config.max_connections as usize {
            return Err(ConnectError::Full(self.config.max_connections));
        }
        if !self.local_ports.reserved {
            let range = self.config.local_ports.clone();
            let ours = self
                .env
                .steering
                .local_ports(range)
                .map_err(ConnectError::Range)?;
            self.local_ports = LocalPorts::new(&ours, self.config.index, self.config.shards);
            self.local_ports.reserved = true;
        }
        let sources = self.env.routes.sources();
        let Some(source) = sources
            .iter()
            .copied()
            .find(|own| own.is_ipv4() == ip.is_ipv4())
        else {
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(ConnectError::NoSource { family, remote });
        };
        let index = match self.env.routes.resolve(ip) {
            Resolution::Ready(path) => {
                let tuple = self
                    .choose_tuple(&path, remote)
                    .ok_or(ConnectError::NoPort(remote))?;
                let tcp = self.active_connection(&config, tuple, path.mtu);
                self.adopt(tcp, Origin::Active, config.receive_limit(), None)
            }
            Resolution::Pending | Resolution::Unreachable(_) => {
                // Address and port are chosen when the path is known; this connection is a
                // placeholder that no segment reaches.
                let tuple = Tuple::tcp(source, 0, ip, remote.port());
                let tcp = self.active_connection(&config, tuple, self.config.mtu);
                let buffer = config.receive_limit();
                self.adopt(tcp, Origin::Active, buffer, Some(Box::new(config)))
            }
        };
        let id = self.conns.id_of(index).expect("just adopted");
        self.find_path(index);
        Ok(id)
    }

    pub(crate) fn send(
        &mut self,
        id: ConnId,
        bytes: &[u8],
        follows: Follows,
    ) -> Result<usize, ConnError> {
        let umem = self.port.umem().clone();
        let reserve = self.config.control_frames as usize;
        let conn = self.conns.by_id(id).ok_or(ConnError::Unknown)?;
        if conn.opening.is_some() {
            conn.wants_writable = true;
            return Ok(0);
        }
        conn.tcp.lend_for_sending(&mut self.spare);
        let mut taken = 0;
        let mut starved = false;
        while taken < bytes.len() {
            let room = conn.tcp.send_room();
            if room == 0 {
                break;
            }
            let rest = &bytes[taken..];
            let rest = &rest[..rest.len().min(room)];
            // Only the first piece can find a segment that is not full: what is queued here is, or it was the last piece.
            if taken == 0 {
                taken = append_to_tail(&mut conn.tcp, rest);
                if taken > 0 {
                    continue;
                }
            }
            if umem.tx_free() <= reserve {
                starved = true;
                break;
            }
            let Some(frame) = umem.alloc_tx() else {
                starved = true;
                break;
            };
            match queue_segment(&mut conn.tcp, FramePayload::empty(frame), rest) {
                Ok(n) => taken += n,
                Err(SendError::Closed(_)) => return Err(ConnError::SendClosed),
                Err(SendError::Full(_) | SendError::TooLong(_)) => break,
            }
        }
        if taken < bytes.len() {
            owe_writable(conn, starved)?;
            if starved {
                self.starve(id.index);
            }
        } else {
            match follows {
                Follows::Anything => conn.tcp.push(),
                Follows::More => conn.tcp.announce_more(),
                Follows::Record => {
                    conn.tcp.push();
                    conn.tcp.end_record();
                }
            }
        }
        if taken > 0 {
            self.mark_ready(id.index);
        }
        Ok(taken)
    }

    pub(crate) fn recv(&mut self, id: ConnId) -> Result<Recv, ConnError> {
        let conn = self.conns.by_id(id).ok_or(ConnError::Unknown)?;
        if let Some(payload) = conn.tcp.recv() {
            // A window update may be due, or the end of a connection that waited for its reader.
            if conn.ended.is_some() {
                self.mark_dirty(id.index);
            } else if !conn.ready {
                conn.ready = true;
                self.ready.push_back(id.index);
            }
            return Ok(Recv::Data(payload.frame));
        }
        Ok(if conn.tcp.at_end() {
            Recv::End
        } else {
            Recv::Empty
        })
    }

    pub(crate) fn mark_urgent(&mut self, id: ConnId) -> Result<(), ConnError> {
        let conn = self.conns.by_id(id).ok_or(ConnError::Unknown)?;
        conn.tcp.mark_urgent();
        Ok(())
    }

    pub(crate) fn urgent_mark(&mut self, id: ConnId) -> Result<Option<usize>, ConnError> {
        let conn = self.conns.by_id(id).ok_or(ConnError::Unknown)?;
        Ok(conn.tcp.urgent_mark())
    }

    pub(crate) fn shutdown(&mut self, id: ConnId) -> Result<(), ConnError> {
        let now = self.now;
        self.conns
            .by_id(id)
            .ok_or(ConnError::Unknown)?
            .tcp
            .close(now);
        self.mark_dirty(id.index);
        Ok(())
    }

    pub(crate) fn close(&mut self, id: ConnId) -> Result<(), ConnError> {
        let now = self.now;
        let conn = self.conns.by_id(id).ok_or(ConnError::Unknown)?;
        if conn.tcp.readiness().contains(Readiness::READABLE) && !conn.tcp.at_end() {
            // Unread data makes this a RST, which would overtake what was sent in this turn.
            self.send_now(id.index);
        }
        let conn = self.conns.by_id(id).ok_or(ConnError::Unknown)?;
        conn.tcp.orphan(now);
        conn.abandoned = true;
        self.mark_dirty(id.index);
        Ok(())
    }

    pub(crate) fn abort(&mut self, id: ConnId) -> Result<(), ConnError> {
        self.conns.by_id(id).ok_or(ConnError::Unknown)?.tcp.abort();
        self.mark_dirty(id.index);
        Ok(())
    }

    pub(crate) fn set_nagle(&mut self, id: ConnId, on: bool) -> Result<(), ConnError> {
        self.conns
            .by_id(id)
            .ok_or(ConnError::Unknown)?
            .tcp
            .set_nagle(on);
        self.mark_ready(id.index);
        Ok(())
    }

    pub(crate) fn set_cork(&mut self, id: ConnId, on: bool) -> Result<(), ConnError> {
        let conn = self.conns.by_id(id).ok_or(ConnError::Unknown)?;
        conn.tcp.set_cork(on);
        self.mark_ready(id.index);
        Ok(())
    }

    pub(crate) fn push_out(&mut self, id: ConnId) -> Result<(), ConnError> {
        let conn = self.conns.by_id(id).ok_or(ConnError::Unknown)?;
        conn.tcp.push_out();
        self.mark_ready(id.index);
        Ok(())
    }

    pub(crate) fn set_quick_ack(&mut self, id: ConnId, on: bool) -> Result<(), ConnError> {
        let conn = self.conns.by_id(id).ok_or(ConnError::Unknown)?;
        conn.tcp.set_quick_ack(on);
        self.mark_ready(id.index);
        Ok(())
    }

    pub(crate) fn info(&mut self, id: ConnId) -> Result<Info, ConnError> {
        let conn = self.conns.by_id(id).ok_or(ConnError::Unknown)?;
        Ok(conn.tcp.info_at(self.now))
    }

    pub(crate) fn addresses(&mut self, id: ConnId) -> Result<(SocketAddr, SocketAddr), ConnError> {
        let tuple = self.conns.by_id(id).ok_or(ConnError::Unknown)?.tcp.tuple();
        Ok((
            SocketAddr::new(tuple.local, tuple.local_port),
            peer_of(&tuple),
        ))
    }

    /// Tells the connection how many unread bytes it may announce at the present pressure.
    pub(crate) fn limit_window(&mut self, index: u32) {
        let few = HIGH_PRESSURE_SEGMENTS * usize::from(self.config.mtu);
        let pressure = self.pressure_on(index);
        let room = self.room_of(index);
        if let Some(conn) = self.conns.by_index(index) {
            let whole = conn.receive_buffer;
            let limit = match pressure {
                Pressure::None => whole,
                Pressure::Half => whole / 2,
                Pressure::High => whole.min(few),
                Pressure::Full => 0,
            };
            conn.tcp.set_receive_limit(limit.min(room));
        }
    }

    fn config_with(&self, options: ConnOptions) -> TcpConfig {
        let mut config = self.config.tcp.clone();
        if let Some(congestion) = options.congestion {
            config.congestion = congestion;
        }
        config.max_pacing_rate = options.max_pacing_rate.or(config.max_pacing_rate);
        if let Some(nagle) = options.nagle {
            config.nagle = nagle;
        }
        if let Some(mss) = options.mss {
            config.mss = mss;
        }
        if let Some(on) = options.fast_open {
            config.fast_open = on;
        }
        if let Some(bytes) = options.receive_buffer {
            config.receive_buffer = bytes;
            config.receive_buffer_max = bytes;
        }
        if let Some(bytes) = options.receive_buffer_max {
            config.receive_buffer_max = bytes;
        }
        if let Some(bytes) = options.send_buffer {
            config.send_buffer = bytes;
        }
        config
    }
}

/// Continues the last segment that has not been sent: small writes share a segment and a frame.
fn append_to_tail(tcp: &mut Connection<FramePayload>, bytes: &[u8]) -> usize {
    let limit = tcp.segment_limit();
    let Some(tail) = tcp.unsent_tail() else {
        return 0;
    };
    let n = tail.fill(bytes, limit);
    if n > 0 {
        tcp.extended(n);
    }
    n
}

/// Begins a segment with as much of `bytes` as it may hold.
fn queue_segment(
    tcp: &mut Connection<FramePayload>,
    mut payload: FramePayload,
    bytes: &[u8],
) -> Result<usize, SendError<FramePayload>> {
    let n = payload.fill(bytes, tcp.segment_limit());
    tcp.send(payload).map(|()| n)
}

/// Remembers to tell the application when there is room. A sending side that is closed for good
/// never has any.
fn owe_writable(conn: &mut Conn, starved: bool) -> Result<(), ConnError> {
    let closed = conn.tcp.send_room() == 0 && conn.tcp.readiness().contains(Readiness::WRITABLE);
    if closed && !starved {
        return Err(ConnError::SendClosed);
    }
    conn.wants_writable = true;
    conn.tcp.want_writable();
    Ok(())
}
