//! The application's ends: a connection, a listener, a lease.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;
use std::{fmt, io};

use bywash_tcp::Readiness;
use bywash_xsk::{LeaseDesc, RxLease};

use super::link::{ListenerShared, ShardLink, Shared};
use super::message::{Accepted, Command, Failure, FailureCode, StreamEvent};
use super::slot::{Addresses, Slot, Status};

/// How long a call may wait.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// Not at all: `WouldBlock`.
    NonBlocking,
    /// Until it is done.
    Forever,
    /// Until then: `TimedOut`.
    Until(Instant),
}

/// Waits for `ready` as `patience` allows.
fn wait(slot: &Slot, patience: Patience, ready: impl Fn() -> bool) -> io::Result<()> {
    let deadline = match patience {
        Patience::NonBlocking if ready() => return Ok(()),
        Patience::NonBlocking => return Err(io::ErrorKind::WouldBlock.into()),
        Patience::Forever => None,
        Patience::Until(deadline) => Some(deadline),
    };
    if slot.signal.wait(deadline, ready) {
        Ok(())
    } else {
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// Received bytes, read in place. Dropping it gives the frame back to the shard.
pub struct Lease {
    bytes: Option<RxLease>,
    /// Bytes at the front that have been used up.
    used: usize,
    slot: Arc<Slot>,
    link: Arc<ShardLink>,
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
            .as_deref()
            .and_then(|bytes| bytes.get(self.used..))
            .unwrap_or_default()
    }
}

impl Lease {
    /// Drops `n` bytes from the front, or all of them if there are fewer.
    pub fn advance(&mut self, n: usize) {
        self.used += n.min(self.len());
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("conn", &self.slot.id)
            .field("len", &self.len())
            .finish()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.bytes.take());
        let left = self.slot.outstanding.fetch_sub(1, Ordering::SeqCst) - 1;
        self.link.lease_returned();
        // Half, so that the shard lends a batch for one command.
        if left <= self.link.config.leases / 2
            && self.slot.stalled.load(Ordering::SeqCst)
            && self.slot.stalled.swap(false, Ordering::SeqCst)
        {
            // A shard that is gone lends nothing more: there is nobody to tell.
            let _ = self.link.send(Command::Resume { conn: self.slot.id });
        }
    }
}

/// A connection as seen from any thread. All calls take `&self`: one thread may read while another
/// writes. Dropping it closes the connection in order, after everything written.
#[derive(Debug)]
pub struct RemoteStream {
    link: Arc<ShardLink>,
    slot: Arc<Slot>,
    /// `StreamEvent::End` was taken from the queue.
    ended: AtomicBool,
    /// `Abort` was the last command.
    aborted: AtomicBool,
    error_taken: AtomicBool,
}

impl RemoteStream {
    pub(super) fn new(link: Arc<ShardLink>, slot: Arc<Slot>) -> Self {
        Self {
            link,
            slot,
            ended: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            error_taken: AtomicBool::new(false),
        }
    }

    /// Waits until the handshake is complete.
    pub fn wait_connected(&self, patience: Patience) -> io::Result<()> {
        wait(&self.slot, patience, || {
            let status = self.slot.status();
            status.has(Status::CONNECTED) || status.has(Status::CLOSED)
        })?;
        self.check()
    }

    fn check(&self) -> io::Result<()> {
        match self.slot.failure() {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    }

    fn open(&self, desc: LeaseDesc) -> io::Result<Lease> {
        let bytes = self.link.region.get().and_then(|region| region.open(desc));
        match bytes {
            Some(bytes) => Ok(Lease {
                bytes: Some(bytes),
                used: 0,
                slot: Arc::clone(&self.slot),
                link: Arc::clone(&self.link),
            }),
            // Only if a desc was opened twice: a defect of ours, but not worth a panic of theirs.
            None => Err(io::Error::other(format!("lease {desc:?} opens nothing"))),
        }
    }

    /// The next bytes of the stream where they were received; `None` at its end.
    ///
    /// # Errors
    ///
    /// `WouldBlock` or `TimedOut` by `patience`; the connection's failure, after all data that
    /// came before it.
    pub fn next(&self, patience: Patience) -> io::Result<Option<Lease>> {
        loop {
            if self.ended.load(Ordering::Acquire) {
                return Ok(None);
            }
            // Read before the queue: what came before the close is in the queue then.
            let over = self.slot.status().has(Status::CLOSED);
            match self.slot.incoming.pop() {
                Some(StreamEvent::Data { lease }) => return self.open(lease).map(Some),
                Some(StreamEvent::End) => self.ended.store(true, Ordering::Release),
                None if over => return self.check().map(|()| None),
                None => wait(&self.slot, patience, || {
                    !self.slot.incoming.is_empty()
                        || self.ended.load(Ordering::Acquire)
                        || self.slot.status().has(Status::CLOSED)
                })?,
            }
        }
    }

    /// Copies the front of `bytes` into one of the connection's chunks and returns how much it
    /// took: at most [`CHUNK_BYTES`](super::CHUNK_BYTES).
    ///
    /// # Errors
    ///
    /// `WouldBlock` or `TimedOut` while the write credit is used up or the handshake is not
    /// complete; `BrokenPipe` after `shutdown`; the connection's failure.
    pub fn write(&self, bytes: &[u8], patience: Patience) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            let status = self.slot.status();
            if status.has(Status::FAILED) {
                self.check()?;
            }
            if status.has(Status::CLOSED) || status.has(Status::SHUT) {
                return Err(io::Error::new(
                    io::ErrorKind::BrokenPipe,
                    "the sending side of the connection is closed",
                ));
            }
            if status.has(Status::CONNECTED)
                && let Some((chunk, taken)) = self.slot.fill_chunk(bytes)
            {
                let write = Command::Write {
                    conn: self.slot.id,
                    chunk,
                    len: taken as u32,
                };
                self.link.send(write)?;
                return Ok(taken);
            }
            wait(&self.slot, patience, || {
                let status = self.slot.status();
                status.has(Status::CLOSED)
                    || status.has(Status::SHUT)
                    || (status.has(Status::CONNECTED) && self.slot.has_chunk())
            })?;
        }
    }

    /// FIN after everything written so far; the peer's direction stays readable.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.check()?;
        if !self.slot.status().has(Status::SHUT) {
            self.slot.set(Status::SHUT);
            self.link.send(Command::Shutdown { conn: self.slot.id })?;
        }
        Ok(())
    }

    /// After [`shutdown_write`](Self::shutdown_write): waits until the peer has acknowledged
    /// every byte and our FIN.
    pub fn wait_drained(&self, patience: Patience) -> io::Result<()> {
        self.link.send(Command::Drain { conn: self.slot.id })?;
        wait(&self.slot, patience, || {
            let status = self.slot.status();
            status.has(Status::DRAINED) || status.has(Status::CLOSED)
        })?;
        if self.slot.status().has(Status::DRAINED) {
            Ok(())
        } else {
            self.check()
        }
    }

    /// Switches Nagle's algorithm off (`true`) or on, as TCP_NODELAY does.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.check()?;
        Ok(self.link.send(Command::SetNagle {
            conn: self.slot.id,
            on: !nodelay,
        })?)
    }

    /// Resets the connection (RST); what was written and not sent is lost. Further calls fail.
    pub fn abort(&self) {
        if !self.aborted.swap(true, Ordering::Relaxed) {
            let failure = Failure::new(FailureCode::Aborted, "the connection was aborted here");
            self.slot.fail(failure);
            // A shard that is gone has closed everything already.
            let _ = self.link.send(Command::Abort { conn: self.slot.id });
        }
    }

    /// Local and remote address.
    ///
    /// # Errors
    ///
    /// `NotConnected` before the handshake is complete.
    pub fn addresses(&self) -> io::Result<Addresses> {
        self.slot
            .addresses()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// What is ready now: a level, nothing is taken by asking.
    pub fn readiness(&self) -> Readiness {
        let mut ready = self.slot.readiness();
        if self.error_taken.load(Ordering::Relaxed) {
            ready = without_error(ready);
        }
        ready
    }

    /// The pending error, once (SO_ERROR). Reads and writes keep failing with it.
    pub fn take_error(&self) -> Option<Failure> {
        let failure = self.slot.failure()?;
        (!self.error_taken.swap(true, Ordering::Relaxed)).then_some(failure)
    }
}

fn without_error(ready: Readiness) -> Readiness {
    let mut rest = Readiness::NONE;
    for bit in [Readiness::READABLE, Readiness::WRITABLE, Readiness::HANG_UP] {
        if ready.contains(bit) {
            rest.insert(bit);
        }
    }
    rest
}

impl Drop for RemoteStream {
    fn drop(&mut self) {
        if !self.aborted.load(Ordering::Relaxed) {
            // A shard that is gone has closed everything already.
            let _ = self.link.send(Command::Close { conn: self.slot.id });
        }
    }
}

/// A port that every shard listens on. Dropping it ends that; connections already accepted by
/// the application stay, those still in the queue are reset.
#[derive(Debug)]
pub struct RemoteListener {
    shared: Arc<Shared>,
    listener: Arc<ListenerShared>,
    next_shard: AtomicU32,
}

impl RemoteListener {
    pub(super) fn new(shared: Arc<Shared>, listener: Arc<ListenerShared>) -> Self {
        Self {
            shared,
            listener,
            next_shard: AtomicU32::new(0),
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.listener.port
    }

    /// Takes from the shards' queues in turn, so that a busy one cannot starve the others.
    fn pop(&self) -> Option<Accepted> {
        let queues = &self.listener.queues;
        let first = self.next_shard.fetch_add(1, Ordering::Relaxed) as usize;
        (0..queues.len()).find_map(|i| queues[(first + i) % queues.len()].pop())
    }

    /// The next connection with its peer's address; of one shard, in the order in which the
    /// handshakes were completed.
    pub fn accept(&self, patience: Patience) -> io::Result<(RemoteStream, SocketAddr)> {
        loop {
            let failed = self.listener.failed();
            if let Some(accepted) = self.pop() {
                let link = &self.shared.links[accepted.conn.shard as usize];
                // A connection that was reset in the queue is still handed out, with its error.
                if let Some(slot) = link.slot(accepted.conn) {
                    return Ok((RemoteStream::new(Arc::clone(link), slot), accepted.peer));
                }
                continue;
            }
            if failed {
                return Err(self
                    .listener
                    .failure()
                    .unwrap_or_else(Failure::stopped)
                    .into());
            }
            let ready = || self.listener.is_ready();
            match patience {
                Patience::NonBlocking => return Err(io::ErrorKind::WouldBlock.into()),
                Patience::Forever => {
                    self.listener.signal.wait(None, ready);
                }
                Patience::Until(deadline) => {
                    if !self.listener.signal.wait(Some(deadline), ready) {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
            }
        }
    }

    /// Readable: `accept` returns at once.
    pub fn readiness(&self) -> Readiness {
        let mut ready = Readiness::NONE;
        if self.listener.is_ready() {
            ready.insert(Readiness::READABLE);
        }
        if self.listener.failed() {
            ready.insert(Readiness::ERROR);
        }
        ready
    }

    /// Connections reset because the application did not take them in time.
    pub fn overflows(&self) -> u64 {
        self.listener.overflows.load(Ordering::Relaxed)
    }
}

impl Drop for RemoteListener {
    fn drop(&mut self) {
        for link in &self.shared.links {
            // A shard that is gone listens no more.
            let _ = link.send(Command::Unlisten {
                listener: self.listener.index,
            });
        }
        self.shared.forget_listener(self.listener.index);
    }
}
