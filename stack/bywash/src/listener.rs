//! A listening port, for threads other than the shard's.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use bywash_engine::context::ConnOptions;
use bywash_engine::remote::{Failure, Patience, Readiness, Remote, RemoteListener};

use crate::stream::TcpStream;

/// A port that every shard of an engine accepts connections on. Dropping it stops that and
/// resets the connections that nobody has accepted.
#[derive(Debug)]
pub struct TcpListener {
    remote: RemoteListener,
    nonblocking: AtomicBool,
}

impl TcpListener {
    /// Listens on `port` of every address of the engine's device.
    ///
    /// # Errors
    ///
    /// The port is taken, or the engine has stopped; the text names the remedy.
    pub fn bind(remote: &Remote, port: u16) -> Result<Self, Failure> {
        Self::bind_with(remote, port, ConnOptions::default())
    }

    /// As [`bind`](Self::bind), with choices for every connection accepted.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn bind_with(remote: &Remote, port: u16, options: ConnOptions) -> Result<Self, Failure> {
        let remote = remote.listen(port, options)?;
        Ok(Self {
            remote,
            nonblocking: AtomicBool::new(false),
        })
    }

    /// The next connection, and the address of its peer.
    ///
    /// # Errors
    ///
    /// `WouldBlock` in non-blocking mode; the engine has stopped.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let patience = if self.nonblocking.load(Ordering::Relaxed) {
            Patience::NonBlocking
        } else {
            Patience::Forever
        };
        let (stream, peer) = self.remote.accept(patience)?;
        Ok((TcpStream::new(stream), peer))
    }

    /// Whether [`accept`](Self::accept) returns at once instead of waiting.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.nonblocking.store(nonblocking, Ordering::Relaxed);
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.remote.port()
    }

    /// Readable while `accept` would return at once: a level.
    pub fn readiness(&self) -> Readiness {
        self.remote.readiness()
    }

    /// Connections that were reset because they were not accepted in time.
    pub fn overflows(&self) -> u64 {
        self.remote.overflows()
    }
}
