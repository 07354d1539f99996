//! A connection, for threads other than the shard's.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bywash_engine::context::ConnOptions;
use bywash_engine::remote::{Lease, Patience, Readiness, Remote, RemoteStream};

/// A connection of an engine, used like [`std::net::TcpStream`]. When the last clone is dropped,
/// it is closed in order, after everything written.
#[derive(Clone, Debug)]
pub struct TcpStream {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    remote: RemoteStream,
    /// Received bytes of which [`Read::read`] has taken only a part.
    partial: Mutex<Option<Lease>>,
    /// `partial` holds something; for readiness, which must not wait for a reader.
    has_partial: AtomicBool,
    nonblocking: AtomicBool,
    read_shut: AtomicBool,
    read_timeout: Mutex<Option<Duration>>,
    write_timeout: Mutex<Option<Duration>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn until(timeout: Option<Duration>) -> Patience {
    match timeout.and_then(|timeout| Instant::now().checked_add(timeout)) {
        Some(deadline) => Patience::Until(deadline),
        None => Patience::Forever,
    }
}

impl TcpStream {
    pub(crate) fn new(remote: RemoteStream) -> Self {
        Self {
            inner: Arc::new(Inner {
                remote,
                partial: Mutex::new(None),
                has_partial: AtomicBool::new(false),
                nonblocking: AtomicBool::new(false),
                read_shut: AtomicBool::new(false),
                read_timeout: Mutex::new(None),
                write_timeout: Mutex::new(None),
            }),
        }
    }

    /// Connects and waits until the handshake is complete.
    ///
    /// # Errors
    ///
    /// No source address, no route, no neighbour, refused, timed out; the text names the peer.
    pub fn connect(remote: &Remote, peer: SocketAddr) -> io::Result<Self> {
        let stream = Self::begin_connect(remote, peer, ConnOptions::default())?;
        stream.inner.remote.wait_connected(Patience::Forever)?;
        Ok(stream)
    }

    /// As [`connect`](Self::connect), but gives up after `timeout`.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), and `TimedOut`.
    pub fn connect_timeout(
        remote: &Remote,
        peer: SocketAddr,
        timeout: Duration,
    ) -> io::Result<Self> {
        let stream = Self::begin_connect(remote, peer, ConnOptions::default())?;
        stream.inner.remote.wait_connected(until(Some(timeout)))?;
        Ok(stream)
    }

    /// Connects with TCP Fast Open (RFC 7413) and waits until the handshake is complete: with a cookie of the server at hand
    /// `request` goes with the SYN, as far as it fits, else behind the handshake. Also how much of it was taken; the rest is to be
    /// written as usual.
    ///
    /// The server may get a request that goes so **twice** (RFC 7413 2.1): only for requests that may be repeated.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn connect_fast_open(
        remote: &Remote,
        peer: SocketAddr,
        request: &[u8],
    ) -> io::Result<(Self, usize)> {
        let options = ConnOptions {
            fast_open: Some(true),
            ..ConnOptions::default()
        };
        let (stream, taken) = remote.connect_with(peer, options, request)?;
        let stream = Self::new(stream);
        stream.inner.remote.wait_connected(Patience::Forever)?;
        Ok((stream, taken))
    }

    /// Begins to connect and returns at once. The stream becomes writable when the handshake is
    /// complete; [`take_error`](Self::take_error) says why it failed.
    ///
    /// # Errors
    ///
    /// The engine has stopped, or has no place for another handle.
    pub fn begin_connect(
        remote: &Remote,
        peer: SocketAddr,
        options: ConnOptions,
    ) -> io::Result<Self> {
        Ok(Self::new(remote.connect(peer, options)?))
    }

    /// The peer's address and port.
    ///
    /// # Errors
    ///
    /// `NotConnected` before the handshake is complete.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.inner.remote.addresses()?.1)
    }

    /// Our address and port.
    ///
    /// # Errors
    ///
    /// As [`peer_addr`](Self::peer_addr).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.inner.remote.addresses()?.0)
    }

    /// `Write`: FIN after everything written. `Read`: reads return the end from now on, and what
    /// still arrives is left unread, so that the peer's window closes.
    ///
    /// # Errors
    ///
    /// The connection's failure, if it has failed.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write {
            self.inner.read_shut.store(true, Ordering::Relaxed);
        }
        if how != Shutdown::Read {
            self.inner.remote.shutdown_write()?;
        }
        Ok(())
    }

    /// After `shutdown(Write)`: waits until the peer has acknowledged every byte and our FIN.
    ///
    /// # Errors
    ///
    /// `TimedOut` after `timeout`; the connection's failure.
    pub fn wait_acknowledged(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.inner.remote.wait_drained(until(timeout))
    }

    /// Resets the connection (RST): what was written and not sent is lost, and all clones fail with
    /// `ConnectionAborted`.
    pub fn abort(&self) {
        self.inner.remote.abort();
    }

    /// TCP_NODELAY: `true` switches Nagle's algorithm off.
    ///
    /// # Errors
    ///
    /// The connection's failure.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.inner.remote.set_nodelay(nodelay)
    }

    /// Whether calls return `WouldBlock` instead of waiting.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.inner.nonblocking.store(nonblocking, Ordering::Relaxed);
    }

    /// How long a read waits; `None` for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        *lock(&self.inner.read_timeout) = timeout;
    }

    /// How long a write waits for room; `None` for ever.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        *lock(&self.inner.write_timeout) = timeout;
    }

    /// What is ready now, as poll would say: a level.
    pub fn readiness(&self) -> Readiness {
        let mut ready = self.inner.remote.readiness();
        if self.inner.has_partial.load(Ordering::Relaxed)
            || self.inner.read_shut.load(Ordering::Relaxed)
        {
            ready.insert(Readiness::READABLE);
        }
        ready
    }

    /// The pending error, once (SO_ERROR); reads and writes keep failing with it.
    pub fn take_error(&self) -> Option<io::Error> {
        self.inner.remote.take_error().map(io::Error::from)
    }

    /// The next received bytes where the NIC wrote them, uncopied; `None` at the end of the
    /// stream. Drop leases soon: the connection has a bounded number of them, and the peer's
    /// window closes when they are used up.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, `TimedOut`; the connection's failure, after all bytes before it.
    pub fn read_lease(&self) -> io::Result<Option<Lease>> {
        let mut partial = lock(&self.inner.partial);
        self.next_lease(&mut partial)
    }

    fn next_lease(&self, partial: &mut Option<Lease>) -> io::Result<Option<Lease>> {
        if self.inner.read_shut.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if let Some(lease) = partial.take() {
            self.inner.has_partial.store(false, Ordering::Relaxed);
            return Ok(Some(lease));
        }
        self.inner
            .remote
            .next(self.patience(&self.inner.read_timeout))
    }

    fn patience(&self, timeout: &Mutex<Option<Duration>>) -> Patience {
        if self.inner.nonblocking.load(Ordering::Relaxed) {
            Patience::NonBlocking
        } else {
            until(*lock(timeout))
        }
    }
}

impl Read for &TcpStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut partial = lock(&self.inner.partial);
        let Some(mut lease) = self.next_lease(&mut partial)? else {
            return Ok(0);
        };
        let n = lease.len().min(buffer.len());
        buffer[..n].copy_from_slice(&lease[..n]);
        lease.advance(n);
        if !lease.is_empty() {
            *partial = Some(lease);
            self.inner.has_partial.store(true, Ordering::Relaxed);
        }
        Ok(n)
    }
}

impl Write for &TcpStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner
            .remote
            .write(bytes, self.patience(&self.inner.write_timeout))
    }

    /// What was written is on its way already; see [`TcpStream::wait_acknowledged`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for TcpStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self).flush()
    }
}
