//! An engine: the shards of one device, with everything that they need of the host.
//!
//! ```text
//! Engine::start   device -> lock -> demultiplexer attached -> guard -> host thread -> shards (thread each) -> control socket
//! Engine::join    shards end -> guard ends -> demultiplexer detached -> sockets closed -> lock given back
//! ```
//! The demultiplexer goes before the sockets: from then on the kernel answers for our ports, and no
//! packet falls into a ring that nobody reads. Closing the sockets takes some 15 ms each.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub use bywash_guard::OnDeath;
use bywash_wire::ChecksumPolicy;
use bywash_xdp::abi::FLOWS_PER_QUEUE;
pub use bywash_xdp::pin::{Scope as PinScope, scope as pin_scope};
use bywash_xdp::{AttachConfig, Demux, SLOTS_PER_QUEUE};
pub use bywash_xdp::{
    Limits as XdpLimits, Mode as XdpMode, Rate as XdpRate, Settings as XdpSettings,
    SynLimits as XdpSynLimits,
};
use bywash_xsk::{
    BindMode, BusyPoll, KernelModes, Marks, Mode, PoolClass, TxChecksum, UmemConfig, XskConfig,
    XskError, XskPort,
};
use crossbeam::channel::{Receiver, Sender, bounded};

mod config;
mod live;
mod watchdog;

pub use config::{EngineConfig, EngineDescription, EngineError, StartError};
use live::Follower;
pub(crate) use live::LiveDevice;
use watchdog::Watchdog;
pub(crate) use watchdog::WatchdogStatus;

use crate::clock::MonotonicClock;
use crate::config::{PoolPolicy, ShardConfig};
use crate::control;
use crate::directory::Directory;
use crate::host::queues::{DeviceQueues, QueueSteering};
use crate::host::zero_copy;
use crate::host::{ControlServer, Device, EngineLock, Host, ThreadedNapi, VlanChoice};
use crate::paths::mtu_of_chunk;
use crate::pools::FIRST_POOL;
use crate::pools::scan::SCAN_ALL_UP_TO;
use crate::random::SystemRandom;
use crate::service::Service;
use crate::shard::{Environment, Shard};
use crate::steering::{DemuxSteering, EnginePorts, demultiplexed};

/// veth's receive ring has 256 entries, and what does not fit is dropped: a little less may be on
/// its way there at a time (drivers/net/veth.c, `VETH_RING_SIZE`).
const VETH_OUTSTANDING: u32 = 224;
/// Headroom for 118 bytes of headers and the 24 of a request to complete the checksum.
const HEADROOM_WITH_REQUEST: u32 = 192;
/// How the kernel's generic mode is called in an [`EngineDescription`].
const GENERIC: &str = "generic";
/// Chunk sizes: half a page for the usual MTU, and the largest that there is.
const CHUNK_SMALL: u32 = 2048;
const CHUNK_LARGE: u32 = 4096;

/// What the shard threads share with the engine's handle.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    ended: AtomicU32,
    /// The device is gone: that is why it stops.
    gone: AtomicBool,
}

impl Shared {
    /// Asks every shard to end.
    fn stop(&self, directory: &Directory) {
        self.stop.store(true, Ordering::Relaxed);
        for shard in 0..directory.shards() {
            directory.inbox(shard).wake();
        }
    }
}

/// Says that a shard has ended, also when it panics, and then ends the others.
struct EndGuard {
    shared: Arc<Shared>,
    directory: Arc<Directory>,
    shard: u32,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.directory.pulse(self.shard).end();
        self.shared.ended.fetch_add(1, Ordering::Release);
        self.shared.stop(&self.directory);
    }
}

/// A running engine. Dropping it stops it and waits for its end.
pub struct Engine<S> {
    description: EngineDescription,
    shared: Arc<Shared>,
    directory: Arc<Directory>,
    threads: Vec<JoinHandle<S>>,
    /// Dropped to let the ended shards close their sockets.
    release: Option<Sender<()>>,
    demux: Option<Arc<Demux>>,
    watchdog: Option<Watchdog>,
    control: Option<ControlServer>,
    host: Option<Host>,
    napi: Option<ThreadedNapi>,
    // Last: the lock stands for everything above.
    _lock: EngineLock,
}

impl<S: Service + Send + 'static> Engine<S> {
    /// Starts the shards; `make` gives each its service. Returns when every shard has run its first
    /// turn, in which its service got `Started`.
    pub fn start(config: EngineConfig, mut make: impl FnMut(u32) -> S) -> Result<Self, StartError> {
        let device = Device::open_with(&config.device, &config.vlans)?;
        check(&config, &device)?;
        let cores = crate::host::cores::choose(config.shards as usize, config.cores.as_deref())?;
        let lock = EngineLock::acquire(&device)?;
        let demux = Arc::new(attach(&config, &device)?);
        // After the program: some devices have NAPI only with one.
        let napi = match config.threaded_napi {
            true => ThreadedNapi::enable(&device, &cores)?,
            false => None,
        };
        let directory = Arc::new(Directory::new(config.shards));
        // Before the sockets: from here on a stopped engine would cut its ports off.
        let watchdog = Watchdog::start(&config, &demux, &directory)?;
        let shared = Arc::new(Shared::default());
        let live = Arc::new(LiveDevice::new(&device));
        let follower = Follower {
            device: device.name.clone(),
            live: live.clone(),
            demux: Arc::downgrade(&demux),
            directory: directory.clone(),
            shared: shared.clone(),
        };
        let host = Host::spawn(&device, move |event| follower.on_event(event))?;
        let (release, released) = bounded::<()>(0);
        let checksum = checksum_policy(&config, &device);
        let mut engine = Self {
            description: describe(&config, &device, &demux, &cores, checksum),
            shared,
            directory,
            threads: Vec::new(),
            release: Some(release),
            demux: Some(demux.clone()),
            watchdog,
            control: None,
            host: Some(host),
            napi,
            _lock: lock,
        };
        let ports = Arc::new(Mutex::new(EnginePorts::new(
            &device.name,
            device_queues(&config, &device)?,
        )));
        let clock = MonotonicClock::new();
        for (index, core) in (0..config.shards).zip(cores) {
            let seed = ShardSeed {
                zero_copy_hint: zero_copy_hint(&engine.description),
                xsk: xsk_config(&config, &device, index),
                shard: shard_config(&config, &device, checksum, index),
                core,
                clock,
                demux: demux.clone(),
                ports: ports.clone(),
                directory: engine.directory.clone(),
                shared: engine.shared.clone(),
                released: released.clone(),
            };
            // On an error the engine is dropped, which undoes what stands so far.
            let modes = engine.start_shard(seed, make(index))?;
            engine.note_modes(&config, modes);
        }
        // Every service has asked for its ports.
        demux.settle()?;
        engine.control = Some(ControlServer::start(
            &engine._lock,
            control::handler(
                engine.description.clone(),
                engine.directory.clone(),
                demux,
                live,
                ports,
                engine.watchdog.as_ref().map(Watchdog::status),
            ),
        )?);
        Ok(engine)
    }

    /// Keeps what the kernel made of our wishes, and says where that is less.
    fn note_modes(&mut self, config: &EngineConfig, modes: KernelModes) {
        let device = self.description.device.as_str();
        tracing::info!(
            device,
            mode = control::mode_name(modes.bind),
            chunk_size = self.description.chunk_size,
            tx_budget = modes.tx_budget.descriptors(),
            tx_checksum = ?modes.tx_checksum,
            busy_poll = %modes.busy_poll,
            "a queue is bound"
        );
        if let BusyPoll::Unavailable { reason } = &modes.busy_poll {
            tracing::warn!(
                device,
                "busy poll unavailable: {reason}; frames come by interrupts"
            );
        }
        if modes.tx_checksum != config.tx_checksum {
            tracing::warn!(
                device,
                "checksums are computed in software: in zero-copy mode a driver may ignore the request"
            );
        }
        if let Some(said) = modes.zero_copy_refusal {
            let hint = zero_copy_hint(&self.description);
            tracing::info!(
                device,
                said,
                hint,
                "frames are copied: zero copy was refused"
            );
            self.description.zero_copy_refusal = Some(format!("{said}: {hint}"));
        }
        self.description.bind_mode = modes.bind;
        self.description.busy_poll = modes.busy_poll;
        self.description.tx_checksum = modes.tx_checksum;
    }

    fn start_shard(&mut self, seed: ShardSeed, service: S) -> Result<KernelModes, StartError> {
        let index = seed.shard.index;
        let directory = self.directory.clone();
        let routes = match &self.host {
            Some(host) => host.routes(move || directory.inbox(index).wake()),
            None => return Err(StartError::ShardDied(index)),
        };
        let (ready, is_ready) = bounded(1);
        let thread = std::thread::Builder::new()
            .name(format!("bywash-shard-{index}"))
            .spawn(move || seed.run(service, Box::new(routes), &ready))
            .map_err(StartError::Thread)?;
        self.threads.push(thread);
        is_ready.recv().map_err(|_| StartError::ShardDied(index))?
    }

    /// What it runs on.
    pub fn description(&self) -> &EngineDescription {
        &self.description
    }

    /// Asks every shard to end: services get `Stopping`, connections are closed, and reset after
    /// the linger time.
    pub fn stop(&self) {
        self.shared.stop(&self.directory);
    }

    /// Whether every shard has ended.
    pub fn is_finished(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire) as usize == self.threads.len()
    }

    /// Waits until every shard has ended by itself or after [`stop`](Self::stop), removes what the
    /// engine has attached, pinned and mounted, and gives the services back.
    pub fn join(mut self) -> Result<Vec<S>, EngineError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<Vec<S>, EngineError> {
        while !self.is_finished() {
            std::thread::park_timeout(Duration::from_millis(2));
        }
        // Answers need shards; changes need the demultiplexer, and the guard holds its link.
        self.control = None;
        self.host = None;
        self.napi = None;
        self.watchdog = None;
        let detached = match self.demux.take().map(Arc::try_unwrap) {
            Some(Ok(demux)) => demux.detach().map_err(EngineError::from),
            // A shard that has ended holds it still: the last holder's drop detaches.
            Some(Err(_)) | None => Ok(()),
        };
        self.release = None;
        let mut services = Vec::new();
        let mut panicked = None;
        for (index, thread) in self.threads.drain(..).enumerate() {
            match thread.join() {
                Ok(service) => services.push(service),
                Err(_) => panicked = Some(index as u32),
            }
        }
        match panicked {
            Some(index) => Err(EngineError::Panicked(index)),
            None if self.shared.gone.load(Ordering::Relaxed) => {
                Err(EngineError::DeviceGone(self.description.device.clone()))
            }
            None => detached.map(|()| services),
        }
    }
}

impl<S> Drop for Engine<S> {
    fn drop(&mut self) {
        self.shared.stop(&self.directory);
        self.control = None;
        self.host = None;
        self.napi = None;
        self.watchdog = None;
        self.demux = None;
        self.release = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a shard panicked");
            }
        }
    }
}

/// Everything that a shard's thread needs to build its shard.
struct ShardSeed {
    xsk: XskConfig,
    /// What to say if zero copy is insisted on and refused.
    zero_copy_hint: String,
    shard: ShardConfig,
    core: usize,
    clock: MonotonicClock,
    demux: Arc<Demux>,
    ports: Arc<Mutex<EnginePorts>>,
    directory: Arc<Directory>,
    shared: Arc<Shared>,
    released: Receiver<()>,
}

impl ShardSeed {
    fn run<S: Service>(
        self,
        service: S,
        routes: Box<dyn crate::host::Routes>,
        ready: &Sender<Result<KernelModes, StartError>>,
    ) -> S {
        let guard = EndGuard {
            shared: self.shared.clone(),
            directory: self.directory.clone(),
            shard: self.shard.index,
        };
        let port = match self.open() {
            Ok(port) => port,
            Err(error) => {
                // The receiver waits for exactly this message.
                if ready.send(Err(error)).is_err() {
                    tracing::error!("the engine's start was given up");
                }
                return service;
            }
        };
        let modes = port.modes().clone();
        let Self {
            shard,
            clock,
            demux,
            ports,
            directory,
            shared,
            released,
            ..
        } = self;
        let queue = shard.index;
        let environment = Environment {
            clock: Box::new(clock),
            random: Box::new(SystemRandom),
            routes,
            steering: Box::new(DemuxSteering::new(demux, ports, queue)),
        };
        directory.pulse(queue).beat();
        let mut shard = Shard::with_directory(shard, port, service, environment, directory);
        shard.turn();
        if ready.send(Ok(modes)).is_err() {
            tracing::error!("the engine's start was given up");
        }
        shard.run(&shared.stop);
        let (service, port, environment) = shard.into_parts();
        drop(environment);
        drop(guard);
        // Ends with an error when the engine lets go; nothing is ever sent.
        let _closed = released.recv();
        drop(port);
        service
    }

    fn open(&self) -> Result<XskPort, StartError> {
        crate::host::cores::pin(self.core)?;
        let queue = self.xsk.queue;
        let failed = |error| {
            let device = self.xsk.interface.clone();
            match error {
                XskError::NoZeroCopy { source, .. } => StartError::NoZeroCopy {
                    device,
                    queue,
                    source,
                    hint: self.zero_copy_hint.clone(),
                },
                error => StartError::Xsk {
                    device,
                    queue,
                    error,
                },
            }
        };
        let mut port = XskPort::open(&self.xsk).map_err(failed)?;
        for (ring, fd) in port.sockets() {
            self.demux.set_socket(queue, ring as u32, fd)?;
        }
        if marks_rings(&self.xsk.pools) {
            let marks = self.demux.dirty_slots();
            let slots = SLOTS_PER_QUEUE as usize;
            let first = queue as usize * slots;
            let marks = Marks::map(marks.fd, marks.len, first..first + slots).map_err(failed)?;
            port.set_marks(marks);
        }
        Ok(port)
    }
}

fn check(config: &EngineConfig, device: &Device) -> Result<(), StartError> {
    let shards = config.shards;
    if shards == 0 {
        return Err(StartError::NoShard);
    }
    device.check_queue(shards - 1)?;
    if !config.queue_steering.serves(shards, device.rx_queues) {
        return Err(StartError::QueuesWithoutShard {
            device: device.name.clone(),
            queues: device.rx_queues,
            shards,
        });
    }
    if config.vlans != VlanChoice::None && strips_tags(device) {
        return Err(StartError::TagsStripped {
            device: device.name.clone(),
        });
    }
    let most = largest_mtu(device.driver.as_deref());
    if device.mtu > most {
        return Err(StartError::Mtu {
            device: device.name.clone(),
            mtu: device.mtu,
            most: most.into(),
        });
    }
    let needed = chunk_size(
        &EngineConfig {
            chunk_size: None,
            ..config.clone()
        },
        device,
    );
    match config.chunk_size {
        Some(chunk) if chunk < needed || !matches!(chunk, CHUNK_SMALL | CHUNK_LARGE) => {
            Err(StartError::ChunkSize {
                device: device.name.clone(),
                mtu: device.mtu,
                chunk,
                needed,
            })
        }
        _ => Ok(()),
    }
}

/// Whether received frames come without their tags. A veth's setting says nothing: what its peer puts into the frames stays there,
/// and what it leaves to the hardware was never in them (`bywash doctor` says so).
fn strips_tags(device: &Device) -> bool {
    if device.driver.as_deref() == Some("veth") {
        return false;
    }
    let answer = bywash_ethtool::Device::open(&device.name)
        .and_then(|mut ethtool| bywash_ethtool::rx_vlan_offload(&mut ethtool));
    answer.unwrap_or_else(|error| {
        tracing::warn!(device = device.name, %error, "the driver does not say whether it takes VLAN tags out of frames: if it does, VLANs will not be seen");
        false
    })
}

/// Whether there are so many rings that XDP marks those it sends packets to.
fn marks_rings(pools: &[PoolClass]) -> bool {
    let pools: u32 = pools.iter().map(|class| class.pools).sum();
    FIRST_POOL + pools as usize > SCAN_ALL_UP_TO
}

/// What is known before the sockets are open; they tell the rest.
fn describe(
    config: &EngineConfig,
    device: &Device,
    demux: &Demux,
    cores: &[usize],
    checksum: ChecksumPolicy,
) -> EngineDescription {
    EngineDescription {
        device: device.name.clone(),
        addresses: device.addresses.clone(),
        vlans: device.vlans.clone(),
        driver: device.driver.clone(),
        bind_mode: Mode::Copy,
        zero_copy_refusal: None,
        chunk_size: chunk_size(config, device),
        xdp_mode: demux.mode().name(),
        native_refusal: native_refusal(device, demux),
        busy_poll: BusyPoll::Off,
        tx_checksum: TxChecksum::Software,
        cores: cores.to_vec(),
        mtu: device.mtu,
        checksum,
    }
}

/// What most likely stands in the way where zero copy is refused.
fn zero_copy_hint(description: &EngineDescription) -> String {
    let generic = description.xdp_mode == GENERIC;
    zero_copy::hint(description.driver.as_deref(), generic)
}

/// One shard's part of the configuration.
fn shard_config(
    config: &EngineConfig,
    device: &Device,
    checksum: ChecksumPolicy,
    index: u32,
) -> ShardConfig {
    ShardConfig {
        index,
        shards: config.shards,
        mtu: device.mtu,
        checksum,
        pools: if config.pools.is_empty() {
            PoolPolicy::Shared
        } else {
            config.shard.pools
        },
        // Where every flow stands in the demultiplexer's table, it must never be full.
        max_connections: match config.xdp_settings.strict {
            true => config.shard.max_connections.min(FLOWS_PER_QUEUE),
            false => config.shard.max_connections,
        },
        ..config.shard.clone()
    }
}

fn attach(config: &EngineConfig, device: &Device) -> Result<Demux, StartError> {
    let demux = Demux::attach(&AttachConfig {
        interface: device.name.clone(),
        ifindex: device.ifindex,
        pin_dir: bywash_xdp::pin::directory(&device.key()),
        queues: config.shards,
        mode: config.xdp,
        settings: XdpSettings {
            dirty_slots: config.xdp_settings.dirty_slots || marks_rings(&config.pools),
            ..config.xdp_settings
        },
    })?;
    let tags: Vec<_> = device
        .vlans
        .iter()
        .map(|one| demultiplexed(one.vlan))
        .collect();
    demux.set_vlans(&tags)?;
    for address in device.served() {
        demux.add_address(address)?;
    }
    Ok(demux)
}

/// Why generic XDP is what it became, told at once: it is several times slower.
fn native_refusal(device: &Device, demux: &Demux) -> Option<String> {
    let refusal = demux.native_refusal()?.to_string();
    tracing::warn!(
        device = device.name,
        refusal,
        "generic XDP: the driver refused native"
    );
    Some(refusal)
}

/// Tells the NIC where flows go, as far as that is done at the start.
fn device_queues(
    config: &EngineConfig,
    device: &Device,
) -> Result<Option<DeviceQueues>, StartError> {
    if config.queue_steering == QueueSteering::None {
        return Ok(None);
    }
    let ethtool = bywash_ethtool::Device::open(&device.name).map_err(|source| {
        bywash_ethtool::QueueError::System {
            device: device.name.clone(),
            what: "a socket to ask its driver by",
            source,
        }
    })?;
    Ok(DeviceQueues::open(
        config.queue_steering,
        Box::new(ethtool),
        config.shards,
        device.rx_queues,
    )?)
}

fn xsk_config(config: &EngineConfig, device: &Device, queue: u32) -> XskConfig {
    let rings = config.rings.clone();
    let base = XskConfig::new(device.name.clone(), queue);
    let fill_reserve = base.fill_reserve.min(rings.fill);
    let rx_frames = rings.primary
        + rings.control
        + config.pools.iter().map(PoolClass::frames).sum::<u64>() as u32
        + config.shard.lease_cap
        + fill_reserve;
    let veth = device.driver.as_deref() == Some("veth");
    XskConfig {
        umem: UmemConfig {
            chunk_size: chunk_size(config, device),
            rx_frames,
            tx_frames: config.tx_frames,
            headroom: match config.tx_checksum {
                TxChecksum::Software => UmemConfig::default().headroom,
                TxChecksum::Kernel => HEADROOM_WITH_REQUEST,
            },
            ..UmemConfig::default()
        },
        rings,
        fill_reserve,
        pools: config.pools.clone(),
        mode: config.mode,
        busy_poll: config.busy_poll,
        tx_checksum: config.tx_checksum,
        guard_tx: config.guard_tx,
        lease_cap: config.shard.lease_cap,
        tx_outstanding_max: veth.then_some(VETH_OUTSTANDING),
        ..base
    }
}

/// As configured; else the least that the MTU fits into, by this driver's reckoning.
fn chunk_size(config: &EngineConfig, device: &Device) -> u32 {
    let coarse =
        config.mode != BindMode::Copy && zero_copy::needs_large_chunks(device.driver.as_deref());
    let fits = match device.mtu <= mtu_of_chunk(CHUNK_SMALL) && !coarse {
        true => CHUNK_SMALL,
        false => CHUNK_LARGE,
    };
    config.chunk_size.unwrap_or(fits)
}

/// Largest MTU whose frames come through: one frame of a page holds XDP's room, the link header and a datagram, or less where the
/// driver is known to take less. virtio_net keeps room in its page for its header and an skb's end: in copy mode it drops what is
/// longer than 3494 without a word, although it takes the program up to 3506 (Linux 6.1: any). igb takes 3072 bytes with
/// Ethernet, two tags and checksum. What a veth wants for its skb head in native mode (`veth_xdp_set`) its own check finds.
#[must_use]
pub fn largest_mtu(driver: Option<&str>) -> u16 {
    match driver {
        Some("virtio_net") => 3494,
        Some("igb") => 3046,
        _ => mtu_of_chunk(CHUNK_LARGE),
    }
}

/// As configured; else by the device: its peer's kernel may hand over frames with only the
/// pseudo-header summed.
fn checksum_policy(config: &EngineConfig, device: &Device) -> ChecksumPolicy {
    let fits = match device.driver.as_deref() {
        Some("veth" | "tun" | "virtio_net") => ChecksumPolicy::FullOrPseudo,
        _ => ChecksumPolicy::Full,
    };
    config.rx_checksum.unwrap_or(fits)
}
