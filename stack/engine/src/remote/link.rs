//! What application threads and shards share beside the connections: queues, tables, wake-ups.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bywash_xsk::{RegionView, Waker};
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use crossbeam::queue::ArrayQueue;

use super::handle::{RemoteListener, RemoteStream};
use super::message::{Accepted, Command, Failure, FailureCode, ListenerIndex, RemoteId};
use super::service::RemoteService;
use super::signal::Signal;
use super::slot::Slot;
use crate::context::ConnOptions;

/// When the leases of all connections together fall to this many, a sleeping shard is woken to
/// collect them: it may have closed windows because of them.
const LEASES_LOW: u32 = 512;

/// Bounds of the queues between application threads and one shard.
#[derive(Clone, Copy, Debug)]
pub struct RemoteConfig {
    /// Received frames of one connection that may be lent at a time.
    pub leases: u32,
    /// Commands that may wait for a shard.
    pub commands: usize,
    /// Accepted connections of a listener, for each shard, that the application has not taken yet.
    pub accept_queue: usize,
    /// Connections of one shard that have handles at a time.
    pub connections: usize,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self {
            leases: 128,
            commands: 4096,
            accept_queue: 4096,
            connections: 65536,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection's place: the generation survives its takers.
#[derive(Debug, Default)]
struct Place {
    generation: u32,
    slot: Option<Arc<Slot>>,
}

#[derive(Debug, Default)]
struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
}

/// The way to one shard.
#[derive(Debug)]
pub(super) struct ShardLink {
    pub(super) shard: u32,
    pub(super) config: RemoteConfig,
    pub(super) region: OnceLock<RegionView>,
    waker: OnceLock<Waker>,
    commands: Sender<Command>,
    receiver: Mutex<Option<Receiver<Command>>>,
    table: Mutex<Table>,
    /// The service is gone; set under the table's lock.
    gone: AtomicBool,
    /// Leases lent by this shard and not yet dropped.
    lent: AtomicU32,
}

impl ShardLink {
    fn new(shard: u32, config: RemoteConfig) -> Self {
        let (commands, receiver) = bounded(config.commands);
        Self {
            shard,
            config,
            region: OnceLock::new(),
            waker: OnceLock::new(),
            commands,
            receiver: Mutex::new(Some(receiver)),
            table: Mutex::default(),
            gone: AtomicBool::new(false),
            lent: AtomicU32::new(0),
        }
    }

    /// The shard's end of the command queue; there is one.
    pub(super) fn take_receiver(&self) -> Option<Receiver<Command>> {
        lock(&self.receiver).take()
    }

    /// Called by the service when its shard starts. Commands sent before are found by its first
    /// turn without a wake-up.
    pub(super) fn attach(&self, waker: Waker, region: RegionView) {
        // A service starts once, so neither cell is set yet.
        let _ = self.region.set(region);
        let _ = self.waker.set(waker);
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    /// Queues a command and wakes the shard; waits while the queue is full.
    pub(super) fn send(&self, command: Command) -> Result<(), Failure> {
        let command = match self.commands.try_send(command) {
            Ok(()) => {
                self.wake();
                return Ok(());
            }
            Err(TrySendError::Disconnected(_)) => return Err(Failure::stopped()),
            Err(TrySendError::Full(command)) => command,
        };
        self.wake();
        self.commands
            .send(command)
            .map_err(|_| Failure::stopped())?;
        self.wake();
        Ok(())
    }

    /// Takes a place for a new connection.
    pub(super) fn allocate(&self) -> Result<Arc<Slot>, Failure> {
        let mut table = lock(&self.table);
        if self.is_gone() {
            return Err(Failure::stopped());
        }
        let index = match table.free.pop() {
            Some(index) => index,
            None if table.places.len() < self.config.connections => {
                table.places.push(Place::default());
                table.places.len() as u32 - 1
            }
            None => {
                return Err(Failure::new(
                    FailureCode::NotStarted,
                    format!(
                        "all {} places for connections with handles are taken: close some, or raise RemoteConfig::connections",
                        self.config.connections
                    ),
                ));
            }
        };
        let place = &mut table.places[index as usize];
        let id = RemoteId {
            shard: self.shard,
            index,
            generation: place.generation,
        };
        let slot = Arc::new(Slot::new(id, self.config.leases));
        place.slot = Some(Arc::clone(&slot));
        Ok(slot)
    }

    pub(super) fn slot(&self, id: RemoteId) -> Option<Arc<Slot>> {
        let table = lock(&self.table);
        let place = table.places.get(id.index as usize)?;
        if place.generation != id.generation {
            return None;
        }
        place.slot.clone()
    }

    /// Called by the shard once neither side uses the place any more.
    pub(super) fn release(&self, id: RemoteId) {
        let mut table = lock(&self.table);
        if let Some(place) = table.places.get_mut(id.index as usize)
            && place.generation == id.generation
            && place.slot.take().is_some()
        {
            place.generation = place.generation.wrapping_add(1);
            table.free.push(id.index);
        }
    }

    /// Whether the service has ended.
    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn lease_lent(&self) {
        self.lent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lease_returned(&self) {
        if self.lent.fetch_sub(1, Ordering::Relaxed) == LEASES_LOW + 1 {
            self.wake();
        }
    }

    /// The service is gone: whoever waits is told, and nobody begins to wait any more.
    pub(super) fn end(&self) {
        let table = lock(&self.table);
        self.gone.store(true, Ordering::Relaxed);
        for slot in table.places.iter().filter_map(|place| place.slot.as_ref()) {
            slot.fail(Failure::stopped());
        }
    }
}

/// One port, listened on by every shard.
#[derive(Debug)]
pub(super) struct ListenerShared {
    pub(super) index: ListenerIndex,
    pub(super) port: u16,
    /// One per shard, so that a shard that stops listening can empty its own.
    pub(super) queues: Vec<ArrayQueue<Accepted>>,
    pub(super) signal: Signal,
    /// Shards that have answered the `Listen` command.
    answers: AtomicU32,
    failed: AtomicBool,
    failure: Mutex<Option<Failure>>,
    /// Connections reset because the queue was full.
    pub(super) overflows: AtomicU64,
}

impl ListenerShared {
    pub(super) fn answer(&self, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome {
            self.fail(failure);
        }
        self.answers.fetch_add(1, Ordering::AcqRel);
        self.signal.notify();
    }

    pub(super) fn fail(&self, failure: Failure) {
        lock(&self.failure).get_or_insert(failure);
        self.failed.store(true, Ordering::Release);
        self.signal.notify();
    }

    pub(super) fn is_ready(&self) -> bool {
        self.failed() || self.queues.iter().any(|queue| !queue.is_empty())
    }

    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        lock(&self.failure).clone()
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) links: Vec<Arc<ShardLink>>,
    config: RemoteConfig,
    listeners: Mutex<Vec<Option<Arc<ListenerShared>>>>,
    next_shard: AtomicU32,
}

impl Shared {
    pub(super) fn listener(&self, index: ListenerIndex) -> Option<Arc<ListenerShared>> {
        lock(&self.listeners).get(index.0 as usize)?.clone()
    }

    /// A shard is gone: no listener can go on.
    pub(super) fn end_listeners(&self) {
        for listener in lock(&self.listeners).iter().flatten() {
            listener.fail(Failure::stopped());
        }
    }

    pub(super) fn forget_listener(&self, index: ListenerIndex) {
        if let Some(place) = lock(&self.listeners).get_mut(index.0 as usize) {
            *place = None;
        }
    }
}

/// The application's side of an engine whose shards run [`RemoteService`]s. Clones are the same.
#[derive(Clone, Debug)]
pub struct Remote {
    pub(super) shared: Arc<Shared>,
}

impl Remote {
    /// Queues for an engine of `shards` shards.
    pub fn new(shards: u32, config: RemoteConfig) -> Self {
        let links = (0..shards)
            .map(|shard| Arc::new(ShardLink::new(shard, config)))
            .collect();
        Self {
            shared: Arc::new(Shared {
                links,
                config,
                listeners: Mutex::default(),
                next_shard: AtomicU32::new(0),
            }),
        }
    }

    /// The service that shard `shard` must run.
    ///
    /// # Panics
    ///
    /// If there is no such shard, or its service was made before.
    pub fn service(&self, shard: u32) -> RemoteService {
        let link = Arc::clone(&self.shared.links[shard as usize]);
        let commands = link.take_receiver().expect("each shard has one service");
        RemoteService::new(Arc::clone(&self.shared), link, commands)
    }

    /// Listens on `port` on every shard; waits until all of them do.
    pub fn listen(&self, port: u16, options: ConnOptions) -> Result<RemoteListener, Failure> {
        let shared = {
            let mut listeners = lock(&self.shared.listeners);
            let index = match listeners.iter().position(Option::is_none) {
                Some(free) => free,
                None => {
                    listeners.push(None);
                    listeners.len() - 1
                }
            };
            let listener = Arc::new(ListenerShared {
                index: ListenerIndex(index as u32),
                port,
                queues: (0..self.shared.links.len())
                    .map(|_| ArrayQueue::new(self.shared.config.accept_queue))
                    .collect(),
                signal: Signal::default(),
                answers: AtomicU32::new(0),
                failed: AtomicBool::new(false),
                failure: Mutex::new(None),
                overflows: AtomicU64::new(0),
            });
            listeners[index] = Some(Arc::clone(&listener));
            listener
        };
        // From here on its drop tells the shards, also if one of them refuses.
        let listener = RemoteListener::new(Arc::clone(&self.shared), Arc::clone(&shared));
        // A service that ends after this look finds the listener in the table, and tells it.
        if self.shared.links.iter().any(|link| link.is_gone()) {
            return Err(Failure::stopped());
        }
        for link in &self.shared.links {
            link.send(Command::Listen {
                listener: shared.index,
                port,
                options,
            })?;
        }
        let shards = self.shared.links.len() as u32;
        shared.signal.wait(None, || {
            shared.failed() || shared.answers.load(Ordering::Acquire) == shards
        });
        match shared.failure() {
            Some(failure) => Err(failure),
            None => Ok(listener),
        }
    }

    /// Begins a connection on the next shard in turn and returns at once; the handle says when it
    /// is established ([`RemoteStream::wait_connected`], or readiness).
    pub fn connect(
        &self,
        remote: SocketAddr,
        options: ConnOptions,
    ) -> Result<RemoteStream, Failure> {
        self.connect_with(remote, options, &[])
            .map(|(stream, _)| stream)
    }

    /// The same, with what is written first: with TCP Fast Open (`options.fast_open`) and a cookie at hand it goes with the SYN,
    /// else it follows the handshake. Also how much of it was taken: at most [`CHUNK_BYTES`](super::CHUNK_BYTES).
    pub fn connect_with(
        &self,
        remote: SocketAddr,
        options: ConnOptions,
        first: &[u8],
    ) -> Result<(RemoteStream, usize), Failure> {
        let turn = self.shared.next_shard.fetch_add(1, Ordering::Relaxed) as usize;
        let link = &self.shared.links[turn % self.shared.links.len()];
        let slot = link.allocate()?;
        let conn = slot.id;
        // A fresh slot has all its chunks.
        let first = match first {
            [] => None,
            bytes => slot.fill_chunk(bytes),
        };
        let stream = RemoteStream::new(Arc::clone(link), slot);
        link.send(Command::Connect {
            conn,
            remote,
            options,
            first: first.map(|(chunk, len)| (chunk, len as u32)),
        })?;
        Ok((stream, first.map_or(0, |(_, len)| len)))
    }
}
