//! One connection as shared between its application threads and its shard.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bywash_tcp::Readiness;
use crossbeam::queue::ArrayQueue;

use super::message::{Failure, RemoteId, StreamEvent};
use super::signal::Signal;

/// Bytes of one write chunk: eleven full segments, so that the queueing of a command is paid once
/// for many of them, and small enough that a connection's chunks stay in the L2 cache.
pub const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks of a connection: with [`CHUNK_BYTES`] its write credit, 256 KiB.
pub const CHUNKS: u32 = 16;

/// Level state of a connection; bits are only ever set.
#[derive(Clone, Copy)]
pub(super) struct Status(u32);

impl Status {
    pub(super) const CONNECTED: Self = Self(1);
    /// The shard holds it no more.
    pub(super) const CLOSED: Self = Self(2);
    /// `failure` says why.
    pub(super) const FAILED: Self = Self(4);
    /// Our side was shut down.
    pub(super) const SHUT: Self = Self(8);
    /// The peer's FIN stands in, or has left, the incoming queue.
    pub(super) const ENDED: Self = Self(16);
    /// Everything was acknowledged, our FIN included.
    pub(super) const DRAINED: Self = Self(32);

    pub(super) fn has(self, bit: Self) -> bool {
        self.0 & bit.0 != 0
    }
}

/// Local and remote address.
pub(super) type Addresses = (SocketAddr, SocketAddr);

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: RemoteId,
    pub(super) signal: Signal,
    /// Leases lent and `End`; never full, because `outstanding` bounds the leases.
    pub(super) incoming: ArrayQueue<StreamEvent>,
    /// Leases lent and not yet dropped by the application, those in `incoming` included.
    pub(super) outstanding: AtomicU32,
    /// The shard stopped lending because of `outstanding`; who clears it sends `Resume`.
    pub(super) stalled: AtomicBool,
    status: AtomicU32,
    free_chunks: AtomicU32,
    chunks: Box<[Mutex<Vec<u8>>]>,
    failure: Mutex<Option<Failure>>,
    addresses: Mutex<Option<Addresses>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    pub(super) fn new(id: RemoteId, leases: u32) -> Self {
        Self {
            id,
            signal: Signal::default(),
            incoming: ArrayQueue::new(leases as usize + 1),
            outstanding: AtomicU32::new(0),
            stalled: AtomicBool::new(false),
            status: AtomicU32::new(0),
            free_chunks: AtomicU32::new((1 << CHUNKS) - 1),
            chunks: (0..CHUNKS).map(|_| Mutex::new(Vec::new())).collect(),
            failure: Mutex::new(None),
            addresses: Mutex::new(None),
        }
    }

    pub(super) fn status(&self) -> Status {
        Status(self.status.load(Ordering::Acquire))
    }

    /// Sets a status bit and wakes whoever waits for it.
    pub(super) fn set(&self, bit: Status) {
        self.status.fetch_or(bit.0, Ordering::AcqRel);
        self.signal.notify();
    }

    /// The first failure stays; later ones follow from it.
    pub(super) fn fail(&self, failure: Failure) {
        lock(&self.failure).get_or_insert(failure);
        self.set(Status(Status::FAILED.0 | Status::CLOSED.0));
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        lock(&self.failure).clone()
    }

    pub(super) fn set_addresses(&self, addresses: Addresses) {
        *lock(&self.addresses) = Some(addresses);
    }

    pub(super) fn addresses(&self) -> Option<Addresses> {
        *lock(&self.addresses)
    }

    pub(super) fn has_chunk(&self) -> bool {
        self.free_chunks.load(Ordering::Acquire) != 0
    }

    /// Takes a free chunk and copies the front of `bytes` into it.
    /// Returns the chunk and how many bytes it took.
    pub(super) fn fill_chunk(&self, bytes: &[u8]) -> Option<(u32, usize)> {
        let taken = self
            .free_chunks
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |mask| {
                (mask != 0).then(|| mask & (mask - 1))
            });
        let chunk = taken.ok()?.trailing_zeros();
        let n = bytes.len().min(CHUNK_BYTES);
        let mut buffer = lock(&self.chunks[chunk as usize]);
        buffer.clear();
        buffer.extend_from_slice(&bytes[..n]);
        Some((chunk, n))
    }

    /// Runs `read` on the bytes of a chunk that a `Write` command named.
    pub(super) fn with_chunk<R>(&self, chunk: u32, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.chunks
            .get(chunk as usize)
            .map(|buffer| read(&lock(buffer)))
    }

    /// Gives a chunk back to the writer.
    pub(super) fn release_chunk(&self, chunk: u32) {
        self.free_chunks.fetch_or(1 << chunk, Ordering::AcqRel);
        self.signal.notify();
    }

    /// What a call would find now.
    pub(super) fn readiness(&self) -> Readiness {
        let status = self.status();
        let mut ready = Readiness::NONE;
        let over = status.has(Status::CLOSED);
        if !self.incoming.is_empty() || status.has(Status::ENDED) || over {
            ready.insert(Readiness::READABLE);
        }
        if over || (status.has(Status::CONNECTED) && (self.has_chunk() || status.has(Status::SHUT)))
        {
            ready.insert(Readiness::WRITABLE);
        }
        if over || (status.has(Status::ENDED) && status.has(Status::SHUT)) {
            ready.insert(Readiness::HANG_UP);
        }
        if status.has(Status::FAILED) {
            ready.insert(Readiness::ERROR);
        }
        ready
    }
}
