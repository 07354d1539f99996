//! How an engine is wanted, what it became, and why it is none.

use std::net::IpAddr;
use std::time::Duration;

use bywash_ethtool::QueueError;
use bywash_guard::{GuardError, OnDeath};
use bywash_wire::ChecksumPolicy;
use bywash_xdp::{AttachError, DemuxError, Mode as XdpMode, Settings as XdpSettings};
use bywash_xsk::{
    BindMode, BusyPoll, BusyPollConfig, Mode, PoolClass, RingSizes, TxChecksum, XskError,
};

use crate::config::ShardConfig;
use crate::host::control::ControlError;
use crate::host::cores::CoreError;
use crate::host::{
    DeviceError, HostError, LockError, NapiError, QueueSteering, VlanChoice, VlanDevice,
};

/// How long an engine may stand still before its program is detached: far above any turn, and the
/// first retransmissions of its peers still find it back.
const WATCHDOG: Duration = Duration::from_secs(5);

/// How to run an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Interface name in the calling thread's network namespace.
    pub device: String,
    /// VLANs on it that are served beside untagged frames.
    pub vlans: VlanChoice,
    /// Shards: one for each of the device's queues `0..shards`.
    pub shards: u32,
    /// Cores to pin them to; `None`: the highest-numbered ones that this process may use.
    pub cores: Option<Vec<usize>>,
    /// Copy or zero copy.
    pub mode: BindMode,
    /// Native or generic XDP.
    pub xdp: XdpMode,
    /// What the XDP program does beside steering.
    pub xdp_settings: XdpSettings,
    /// Flow pools of a shard, by the size of their rings.
    pub pools: Vec<PoolClass>,
    /// Sizes of the rings that all flows of a queue share. A larger RX ring or fill ring takes as many RX frames.
    pub rings: RingSizes,
    /// Frames of a shard for sending.
    pub tx_frames: u32,
    /// Bytes of a frame, 2048 or 4096; `None`: what MTU and driver need.
    pub chunk_size: Option<u32>,
    /// Watch over frames on their way to the device: nobody may change one before its completion, or read it afterwards
    /// ([`bywash_xsk::XskConfig::guard_tx`]). For tests and for a first run on a new device; costs two hashes a frame.
    pub guard_tx: bool,
    /// Busy polling of the driver's NAPI by the shards, where the driver names one; `None`: interrupts.
    pub busy_poll: Option<BusyPollConfig>,
    /// Who completes the checksums of sent segments; in zero-copy mode always software.
    pub tx_checksum: TxChecksum,
    /// What is accepted as a TCP checksum on receive; `None`: what suits the device, which is
    /// [`ChecksumPolicy::FullOrPseudo`] where a peer's kernel may hand over half-summed segments
    /// (veth, tun, virtio), and else [`ChecksumPolicy::Full`].
    pub rx_checksum: Option<ChecksumPolicy>,
    /// How the NIC is told which queue a flow goes to; other than none it lets an engine have fewer
    /// shards than the device has queues.
    pub queue_steering: QueueSteering,
    /// Let threads of their own run the device's NAPI (`/sys/class/net/<device>/threaded`), off the
    /// shards' cores; undone at the end.
    pub threaded_napi: bool,
    /// Detach the program when a shard makes no progress for this long (at least a second), so that
    /// the host is not cut off by an engine that hangs or is stopped; attached again when it goes
    /// on. A forked process watches ([`bywash_guard`]). `None`: never.
    pub watchdog: Option<Duration>,
    /// What happens to the program when the engine's process dies.
    pub on_death: OnDeath,
    /// Defaults of every shard; index, MTU and checksum policy are filled in from the device.
    pub shard: ShardConfig,
}

impl EngineConfig {
    /// One shard with the defaults.
    pub fn new(device: impl Into<String>) -> Self {
        Self {
            device: device.into(),
            vlans: VlanChoice::None,
            shards: 1,
            cores: None,
            mode: BindMode::Auto,
            xdp: XdpMode::Auto,
            xdp_settings: XdpSettings::default(),
            pools: vec![PoolClass::small(16)],
            rings: RingSizes::default(),
            tx_frames: 8192,
            chunk_size: None,
            guard_tx: false,
            busy_poll: None,
            tx_checksum: TxChecksum::Software,
            rx_checksum: None,
            queue_steering: QueueSteering::None,
            threaded_napi: false,
            watchdog: Some(WATCHDOG),
            on_death: OnDeath::Keep,
            shard: ShardConfig::default(),
        }
    }
}

/// What an engine runs on, as found and as the kernel confirmed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineDescription {
    /// Interface name.
    pub device: String,
    /// The device's own addresses at the start.
    pub addresses: Vec<IpAddr>,
    /// The VLANs on it that are served, at the start.
    pub vlans: Vec<VlanDevice>,
    /// Driver, if known.
    pub driver: Option<String>,
    /// Copy or zero copy, read back from the kernel.
    pub bind_mode: Mode,
    /// What the kernel said to zero copy, and what most likely stands in its way, if frames are copied although zero copy
    /// was tried.
    pub zero_copy_refusal: Option<String>,
    /// Bytes of a frame.
    pub chunk_size: u32,
    /// `native` or `generic`.
    pub xdp_mode: &'static str,
    /// What the driver said to native XDP, if it is generic for that reason.
    pub native_refusal: Option<String>,
    /// What became of busy polling.
    pub busy_poll: BusyPoll,
    /// Who completes the checksums of sent segments.
    pub tx_checksum: TxChecksum,
    /// Shards, and the core of each.
    pub cores: Vec<usize>,
    /// MTU at the start, bytes.
    pub mtu: u16,
    /// What is accepted as a TCP checksum on receive.
    pub checksum: ChecksumPolicy,
}

/// Why an engine could not be started. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The device is not fit.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Another engine has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The XDP program could not be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A map of the demultiplexer refused.
    #[error(transparent)]
    Demux(#[from] DemuxError),
    /// The AF_XDP sockets could not be had.
    #[error("{device} queue {queue}: {error}")]
    Xsk {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
        /// What failed.
        error: XskError,
    },
    /// Zero copy was insisted on and is not to be had.
    #[error(
        "{device} queue {queue}: zero copy is required and was refused: {source}: {hint}; run without --require-zero-copy to have frames copied"
    )]
    NoZeroCopy {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        source: std::io::Error,
        /// What most likely stands in the way.
        hint: String,
    },
    /// A size of chunks that the MTU does not fit, or that there is not.
    #[error(
        "chunks of {chunk} bytes: {device} has MTU {mtu}, which needs {needed}; leave the size to the engine, or say 2048 or 4096"
    )]
    ChunkSize {
        /// The device.
        device: String,
        /// Its MTU.
        mtu: u16,
        /// What was asked for.
        chunk: u32,
        /// What it needs.
        needed: u32,
    },
    /// Cores.
    #[error(transparent)]
    Cores(#[from] CoreError),
    /// The NIC cannot be told which queue a flow goes to.
    #[error(transparent)]
    Queues(#[from] QueueError),
    /// NAPI does not run in threads.
    #[error(transparent)]
    Napi(#[from] NapiError),
    /// The kernel's routes and neighbours.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Packets that reach the other queues would be lost.
    #[error(
        "{device} has {queues} receive queues and the engine {shards} shard(s): packets of the other queues would reach nobody; \
         run with --shards {queues}, or with --queue-steering where the driver can, or give it fewer queues: `ethtool -L {device} combined {shards}` \
         (veth: `ethtool -L {device} rx {shards} tx {shards}`)"
    )]
    QueuesWithoutShard {
        /// The device.
        device: String,
        /// Its queues in use.
        queues: u32,
        /// The shards asked for.
        shards: u32,
    },
    /// The MTU does not fit a chunk.
    #[error(
        "MTU {mtu} of {device} is beyond single-buffer XDP (at most {most}): lower it with `ip link set {device} mtu {most}`"
    )]
    Mtu {
        /// The device.
        device: String,
        /// Its MTU.
        mtu: u16,
        /// The largest that fits.
        most: u32,
    },
    /// The NIC takes the tags out of received frames before XDP sees them.
    #[error(
        "{device} takes VLAN tags out of the frames that it receives, so that XDP cannot tell VLANs apart: \
         ethtool -K {device} rxvlan off (and rx-vlan-stag-hw-parse off for 802.1ad)"
    )]
    TagsStripped {
        /// The device.
        device: String,
    },
    /// No shard at all.
    #[error("an engine has at least one shard")]
    NoShard,
    /// There is no process to watch over the engine.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// A thread could not be made.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
    /// A shard's thread died before it ran.
    #[error("shard {0} ended before it ran; its panic message is above")]
    ShardDied(u32),
}

/// Why an engine did not end cleanly.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A shard panicked. The device is in order again all the same.
    #[error("shard {0} panicked; its message is above")]
    Panicked(u32),
    /// The device was deleted, or moved to another network namespace. Its connections are lost.
    #[error("{0} is gone: it was deleted, or moved to another network namespace")]
    DeviceGone(String),
    /// Program, pins or mount could not be removed.
    #[error(transparent)]
    Detach(#[from] bywash_xdp::DetachError),
}
