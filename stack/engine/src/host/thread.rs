//! The thread "bywash-host": sockets to the kernel on one side, channels to the shards on the other.
//!
//! It sleeps in `poll` on the kernel's announcements and an eventfd that shards write when they have
//! asked something, and wakes shards when there is something to tell.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bywash_wire::MacAddr;
use crossbeam::channel::{Receiver, Sender, unbounded};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::device::{Device, LinkState, addresses};
use super::kernel_routes::{KernelRoutes, Update};
use super::monitor::Monitor;
use super::netlink::{NetlinkError, Requests};
use super::resolver::{Counts, Resolver};
use super::vlans::VlanDevice;

/// Something about the device changed that concerns the engine as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// The device, or a VLAN on it, has a new address (past duplicate address detection): segments to it are ours.
    AddressAdded(IpAddr),
    /// An address is gone.
    AddressRemoved(IpAddr),
    /// The VLANs that are wanted and there, as they are now.
    Vlans(Vec<VlanDevice>),
    /// The device is up and has carrier.
    LinkUp,
    /// The device is down or has lost its carrier.
    LinkDown,
    /// New MTU in bytes. Paths follow by themselves.
    MtuChanged(u16),
    /// New MAC address. Paths follow by themselves.
    MacChanged(MacAddr),
    /// The device was removed, or moved to another network namespace.
    DeviceGone,
    /// The host thread has ended with this error; paths change no more, and new ones are refused.
    Failed(String),
}

/// Why the host thread could not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel could not be asked.
    #[error("cannot ask the kernel for routes and neighbours: {0}")]
    Netlink(#[from] NetlinkError),
    /// The device went away between `Device::open` and now.
    #[error("the device {0} is gone")]
    Gone(String),
    /// No thread or file descriptor.
    #[error("cannot start the host thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What shards and the engine send to the host thread.
pub(super) enum Command {
    Join { shard: u64, peer: Peer },
    Leave { shard: u64 },
    Resolve { shard: u64, remote: IpAddr },
    Stop,
}

/// A shard, seen from the host thread.
pub(super) struct Peer {
    updates: Sender<Update>,
    news: Arc<AtomicBool>,
    waker: Box<dyn Fn() + Send>,
    told: bool,
}

/// The way to the host thread.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    /// Set while a wake-up is under way, so that a burst of questions costs one system call.
    waking: Arc<AtomicBool>,
}

impl Mailbox {
    /// Whether the host thread still takes commands.
    pub(super) fn send(&self, command: Command) -> bool {
        if self.commands.send(command).is_err() {
            return false;
        }
        if !self.waking.swap(true, Ordering::AcqRel) && self.wake.write(1).is_err() {
            // The counter is full: a wake-up is pending anyhow.
            self.waking.store(false, Ordering::Release);
        }
        true
    }
}

/// Counters of the host thread, readable from anywhere.
#[derive(Debug, Default)]
struct Shared {
    counters: [AtomicU64; COUNTERS.len()],
    sources: std::sync::Mutex<Arc<[IpAddr]>>,
}

const COUNTERS: [&str; 7] = [
    "host-questions",
    "host-route-queries",
    "host-neighbour-queries",
    "host-neighbour-uses",
    "host-failed-queries",
    "host-announcements-lost",
    "host-table-overflows",
];

/// The host thread. Dropping it ends the thread; every [`KernelRoutes`] made from it then keeps what
/// it knows and refuses new remotes.
#[derive(Debug)]
pub struct Host {
    mailbox: Mailbox,
    shared: Arc<Shared>,
    next_shard: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts the thread. Its sockets are opened here, so it works in the calling thread's network
    /// namespace, which must be the device's. `on_event` is called on the host thread and must not
    /// block for long; what changed since `device` was looked up comes as first events.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn spawn(
        device: &Device,
        on_event: impl Fn(HostEvent) + Send + 'static,
    ) -> Result<Self, HostError> {
        // Listen first, read afterwards: nothing falls between.
        let monitor = Monitor::open(device.ifindex)?;
        let mut requests = Requests::open()?;
        let link = LinkState::ask(&mut requests, device.ifindex)?;
        let link = link.ok_or_else(|| HostError::Gone(device.name.clone()))?;
        let sources = addresses(&mut requests, device.ifindex)?;
        let resolver = Resolver::new(device, link, sources, requests)?;

        let (commands, inbox) = unbounded();
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let wake = Arc::new(wake.map_err(std::io::Error::from)?);
        let mailbox = Mailbox {
            commands,
            wake,
            waking: Arc::new(AtomicBool::new(false)),
        };
        let shared = Arc::new(Shared::default());
        let mut worker = Worker {
            monitor,
            resolver,
            inbox,
            mailbox: mailbox.clone(),
            shared: Arc::clone(&shared),
            peers: BTreeMap::new(),
            on_event: Box::new(on_event),
        };
        worker.deliver();
        let thread = std::thread::Builder::new()
            .name("bywash-host".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self {
            mailbox,
            shared,
            next_shard: AtomicU64::new(0),
            thread: Some(thread),
        })
    }

    /// The routes for one more shard. `waker` is called on the host thread whenever
    /// [`super::Routes::poll`] would have something to report; it must not block.
    #[must_use]
    pub fn routes(&self, waker: impl Fn() + Send + 'static) -> KernelRoutes {
        let shard = self.next_shard.fetch_add(1, Ordering::Relaxed);
        let (updates, incoming) = unbounded();
        let news = Arc::new(AtomicBool::new(false));
        let peer = Peer {
            updates,
            news: Arc::clone(&news),
            waker: Box::new(waker),
            told: false,
        };
        // If the thread has ended, the first `resolve` says so.
        self.mailbox.send(Command::Join { shard, peer });
        let sources = self
            .shared
            .sources
            .lock()
            .map_or_else(|poisoned| poisoned.into_inner().clone(), |s| s.clone());
        KernelRoutes::new(shard, self.mailbox.clone(), incoming, news, sources)
    }

    /// Counters by name: questions of shards, questions to the kernel, and what went wrong.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let values = self
            .shared
            .counters
            .iter()
            .map(|counter| counter.load(Ordering::Relaxed));
        COUNTERS.into_iter().zip(values).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.mailbox.send(Command::Stop);
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the host thread panicked");
        }
    }
}

struct Worker {
    monitor: Monitor,
    resolver: Resolver,
    inbox: Receiver<Command>,
    mailbox: Mailbox,
    shared: Arc<Shared>,
    peers: BTreeMap<u64, Peer>,
    on_event: Box<dyn Fn(HostEvent) + Send>,
}

/// Commands taken between two looks at the kernel's announcements.
const COMMAND_BATCH: usize = 256;

impl Worker {
    fn run(mut self) {
        if let Err(error) = self.work() {
            tracing::error!("the host thread ends: {error}");
            (self.on_event)(HostEvent::Failed(error.to_string()));
        }
    }

    fn work(&mut self) -> Result<(), NetlinkError> {
        let mut changes = Vec::new();
        loop {
            self.monitor.read(&mut changes)?;
            let now = Instant::now();
            for change in changes.drain(..) {
                self.resolver.on_change(change, now);
            }
            if self.take_commands(now) == Flow::Stop {
                return Ok(());
            }
            let idle = self.resolver.on_time(now);
            self.deliver();
            let timeout = if self.inbox.is_empty() {
                idle
            } else {
                Some(Duration::ZERO)
            };
            self.sleep(timeout)?;
        }
    }

    fn take_commands(&mut self, now: Instant) -> Flow {
        for _ in 0..COMMAND_BATCH {
            match self.inbox.try_recv() {
                Ok(Command::Resolve { shard, remote }) => {
                    let known = self.resolver.on_question(remote, now);
                    if let Some((peer, update)) = self.peers.get_mut(&shard).zip(known) {
                        peer.tell(update);
                    }
                }
                Ok(Command::Join { shard, mut peer }) => {
                    peer.tell(Update::Sources(self.resolver.sources()));
                    self.peers.insert(shard, peer);
                }
                Ok(Command::Leave { shard }) => {
                    self.peers.remove(&shard);
                }
                Ok(Command::Stop) => return Flow::Stop,
                Err(_) => break,
            }
        }
        Flow::On
    }

    /// Hands updates to all shards, wakes those that have any, and reports events.
    fn deliver(&mut self) {
        // First, so that whoever is told of something finds it counted.
        self.shared.keep_counts(&self.resolver.counts);
        for update in self.resolver.updates.drain(..) {
            if let Update::Sources(sources) = &update {
                self.shared.keep_sources(sources);
            }
            for peer in self.peers.values_mut() {
                peer.tell(update.clone());
            }
        }
        for peer in self.peers.values_mut() {
            peer.wake();
        }
        for event in self.resolver.events.drain(..) {
            (self.on_event)(event);
        }
    }

    fn sleep(&self, timeout: Option<Duration>) -> Result<(), NetlinkError> {
        let mut fds = [
            PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.mailbox.wake.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = timeout.map_or(PollTimeout::NONE, |time| {
            // Rounded up, or the last millisecond would be spun through; but zero stays zero.
            let milliseconds = time.as_nanos().div_ceil(1_000_000);
            PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(NetlinkError::Socket(error.into())),
        }
        // The flag is cleared before the inbox is read: a command sent from now on wakes again.
        match self.mailbox.wake.read() {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(error) => return Err(NetlinkError::Socket(error.into())),
        }
        // A swap, so as to see what a sender put in before it found the flag set.
        self.mailbox.waking.swap(false, Ordering::AcqRel);
        Ok(())
    }
}

#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Stop,
}

impl Peer {
    fn tell(&mut self, update: Update) {
        // A shard that has dropped its end says Leave; until then nobody reads.
        self.told |= self.updates.send(update).is_ok();
    }

    fn wake(&mut self) {
        if std::mem::take(&mut self.told) {
            self.news.store(true, Ordering::Release);
            (self.waker)();
        }
    }
}

impl Shared {
    fn keep_sources(&self, sources: &Arc<[IpAddr]>) {
        match self.sources.lock() {
            Ok(mut kept) => kept.clone_from(sources),
            Err(poisoned) => poisoned.into_inner().clone_from(sources),
        }
    }

    fn keep_counts(&self, counts: &Counts) {
        let values = [
            counts.questions,
            counts.route_queries,
            counts.neighbour_queries,
            counts.neighbour_uses,
            counts.failed_queries,
            counts.announcements_lost,
            counts.table_overflows,
        ];
        for (counter, value) in self.counters.iter().zip(values) {
            counter.store(value, Ordering::Relaxed);
        }
    }
}
