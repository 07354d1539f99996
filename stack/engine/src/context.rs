//! What a [`Service`](crate::service::Service) may do while it is called.

use std::net::SocketAddr;
use std::time::Duration;

use bywash_tcp::time::Instant;
use bywash_tcp::{CongestionControl, Info};
use bywash_xsk::{Port, RegionView, Waker};

use crate::service::{ConnError, ConnId, ConnectError, Follows, ListenError, ListenerId, Recv};
use crate::shard::Core;

/// The shard as its service sees it, between ingress and egress of one turn.
pub struct Context<'a, P: Port> {
    core: &'a mut Core<P>,
}

/// Per-connection choices at `listen` and `connect`; `None` means the shard's default.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnOptions {
    /// Nagle's algorithm (RFC 9293 3.7.4); `Some(false)` is TCP_NODELAY.
    pub nagle: Option<bool>,
    /// TCP Fast Open (RFC 7413; TCP_FASTOPEN, TCP_FASTOPEN_CONNECT): a listener gives cookies and takes data that comes with a
    /// SYN; an active open asks for a cookie, or shows the one it has, with what is sent before the turn ends. Only for
    /// requests that may be repeated: data on a SYN may be delivered twice.
    pub fast_open: Option<bool>,
    /// Largest payload of a segment, in bytes (TCP_MAXSEG).
    pub mss: Option<u16>,
    /// Receive buffer in bytes (SO_RCVBUF).
    pub receive_buffer: Option<usize>,
    /// To how many bytes the receive buffer grows by itself on paths that can use it; without it, a given `receive_buffer`
    /// stays fixed.
    pub receive_buffer_max: Option<usize>,
    /// Send buffer in bytes (SO_SNDBUF).
    pub send_buffer: Option<usize>,
    /// Congestion control algorithm (TCP_CONGESTION).
    pub congestion: Option<CongestionControl>,
    /// Most bytes a second to send (SO_MAX_PACING_RATE).
    pub max_pacing_rate: Option<u64>,
}

impl<'a, P: Port> Context<'a, P> {
    pub(crate) fn new(core: &'a mut Core<P>) -> Self {
        Self { core }
    }

    pub(crate) fn core(&self) -> &Core<P> {
        self.core
    }

    pub(crate) fn core_mut(&mut self) -> &mut Core<P> {
        self.core
    }

    /// Time of this turn.
    pub fn now(&self) -> Instant {
        self.core.now
    }

    /// Which shard this is, from 0, and how many the engine has.
    pub fn shard(&self) -> (u32, u32) {
        (self.core.config.index, self.core.config.shards)
    }

    /// Accepts connections to `port` on every address of the device. Every shard of an engine
    /// must listen for itself: a SYN is answered by the shard whose queue it reaches.
    pub fn listen(&mut self, port: u16, options: ConnOptions) -> Result<ListenerId, ListenError> {
        self.core.listen(port, options)
    }

    /// Stops accepting; established connections stay.
    pub fn unlisten(&mut self, listener: ListenerId) {
        self.core.unlisten(listener);
    }

    /// Begins a connection; `Connected`, `Unreachable` or `Closed` follows. With Fast Open (`ConnOptions::fast_open`) and a cookie
    /// of the server at hand, what [`send`](Self::send) takes in the same turn goes with the SYN; if the path is not known
    /// yet, `Writable` says when that is.
    pub fn connect(
        &mut self,
        remote: SocketAddr,
        options: ConnOptions,
    ) -> Result<ConnId, ConnectError> {
        self.core.connect(remote, options)
    }

    /// Has the connection fetched into the processor's cache: worth a call some hundred nanoseconds before the first of several
    /// sends to connections that have not been heard of lately.
    pub fn prefetch(&self, conn: ConnId) {
        self.core.conns.prefetch(conn.index);
    }

    /// Copies and sums as much of `bytes` as the send buffer and the TX frames take. If that is
    /// less than all, a `Writable` event follows when there is room.
    pub fn send(&mut self, conn: ConnId, bytes: &[u8]) -> Result<usize, ConnError> {
        self.core.send(conn, bytes, Follows::Anything)
    }

    /// [`send`](Self::send), and says what will follow (like `MSG_MORE` and `MSG_EOR`). It counts once all bytes are taken.
    pub fn send_followed(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
        follows: Follows,
    ) -> Result<usize, ConnError> {
        self.core.send(conn, bytes, follows)
    }

    /// The next bytes of the stream, lent where the NIC wrote them.
    pub fn recv(&mut self, conn: ConnId) -> Result<Recv, ConnError> {
        self.core.recv(conn)
    }

    /// Marks what was sent last as urgent (RFC 6093: in line; new applications should not use it).
    pub fn mark_urgent(&mut self, conn: ConnId) -> Result<(), ConnError> {
        self.core.mark_urgent(conn)
    }

    /// Bytes to be read until the peer's urgent data has been read; `None`: there is none ahead.
    pub fn urgent_mark(&mut self, conn: ConnId) -> Result<Option<usize>, ConnError> {
        self.core.urgent_mark(conn)
    }

    /// Closes our direction after everything sent (FIN); the peer's stays readable.
    pub fn shutdown(&mut self, conn: ConnId) -> Result<(), ConnError> {
        self.core.shutdown(conn)
    }

    /// Closes both directions: FIN after everything sent, and what still arrives is not wanted.
    /// `Closed` follows.
    pub fn close(&mut self, conn: ConnId) -> Result<(), ConnError> {
        self.core.close(conn)
    }

    /// Resets the connection at once (RST). `Closed` follows.
    pub fn abort(&mut self, conn: ConnId) -> Result<(), ConnError> {
        self.core.abort(conn)
    }

    /// Switches Nagle's algorithm.
    pub fn set_nagle(&mut self, conn: ConnId, on: bool) -> Result<(), ConnError> {
        self.core.set_nagle(conn, on)
    }

    /// Keeps segments back that are not full until this is switched off, each at most for a time-out (like `TCP_CORK`).
    pub fn set_cork(&mut self, conn: ConnId, on: bool) -> Result<(), ConnError> {
        self.core.set_cork(conn, on)
    }

    /// Lets go what is queued now, whatever cork, `Follows::More` or Nagle's rule keeps back.
    pub fn push_out(&mut self, conn: ConnId) -> Result<(), ConnError> {
        self.core.push_out(conn)
    }

    /// Acknowledges at once what waits for that, or lets everything wait: until the ways of the connection say otherwise
    /// (like `TCP_QUICKACK`).
    pub fn set_quick_ack(&mut self, conn: ConnId, on: bool) -> Result<(), ConnError> {
        self.core.set_quick_ack(conn, on)
    }

    /// Calls back with [`Event::Timer`](crate::service::Event::Timer) after `after`.
    pub fn set_timer(&mut self, after: Duration, token: u64) {
        self.core.set_service_timer(after, token);
    }

    /// State, RTT, windows, counters of a connection (like `TCP_INFO`).
    pub fn info(&mut self, conn: ConnId) -> Result<Info, ConnError> {
        self.core.info(conn)
    }

    /// Local and remote address and port of a connection.
    pub fn addresses(&mut self, conn: ConnId) -> Result<(SocketAddr, SocketAddr), ConnError> {
        self.core.addresses(conn)
    }

    /// What wakes this shard from another thread.
    pub fn waker(&self) -> Waker {
        self.core.port.waker()
    }

    /// What another thread needs to read frames that were lent to it.
    pub fn region(&self) -> RegionView {
        self.core.port.umem().view()
    }

    /// Ends the shard: connections are closed, and reset if they are still open after the
    /// configured linger time.
    pub fn stop(&mut self) {
        self.core.stop();
    }
}
