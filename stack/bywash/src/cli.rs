//! The command line: what can be said, and what it means for an engine.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use bywash::{CongestionControl, EcnMode, EngineConfig, IdlePolicy, PoolPolicy};
use bywash_engine::config::{Discard, PoolLimits};
use bywash_engine::engine::{OnDeath, XdpMode};
use bywash_engine::host::QueueSteering;
use bywash_engine::wire::ChecksumPolicy;
use bywash_engine::xsk::{BindMode, BusyPollConfig, PoolClass, TxChecksum};
use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

mod vlan;

use self::vlan::{VlanArg, vlan, vlan_choice};

/// TCP around the kernel: a polling engine over AF_XDP for the ports that are ours; everything
/// else stays with the kernel.
#[derive(Debug, Parser)]
#[command(name = "bywash", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// More of what happens, on standard error (-v info, -vv debug, -vvv trace)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// What to log, instead of -v: off, error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<LevelFilter>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure throughput; speaks the protocol of the stock iperf3
    #[command(name = "iperf3")]
    Iperf3(Iperf3Args),
    /// Send back what is received
    Echo(EchoArgs),
    /// Receive one file over one connection, then end
    Recv(RecvArgs),
    /// Send one file over one connection, then end
    Send(SendArgs),
    /// Show the connections, rings and drops of every engine on this host
    Ss(SsArgs),
    /// Say what holds on this machine for a device, and how to change what does not
    Doctor(DoctorArgs),
    /// Put a fresh copy of the XDP program in the place of a running engine's; nothing is lost
    Reload(ReloadArgs),
    /// Show both ends at work over the in-memory wire: no root, no NIC
    Demo(DemoArgs),
}

/// How a device is driven.
#[derive(Debug, Args)]
pub(crate) struct DeviceArgs {
    /// Network device
    #[arg(long, value_name = "DEVICE", help_heading = "Device")]
    pub(crate) dev: String,
    /// VLANs on it to serve beside untagged frames: 5 (802.1Q), s5 (802.1ad), s5.7 (the one in the other), by the addresses and
    /// routes of the kernel's VLAN device; 5=br5 by those of br5; or all, which follows VLAN devices as they come and go
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = vlan, help_heading = "Device")]
    vlan: Vec<VlanArg>,
    /// Queues to drive, from queue 0 on; each gets a core
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Device",
          value_parser = clap::value_parser!(u32).range(1..=256))]
    shards: u32,
    /// Cores for the shards, in their order, as in 2,3 [default: chosen by the engine]
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Device"
    )]
    cores: Option<Vec<usize>>,
    /// RX rings of their own for single flows, per shard: how many, with 256 entries each; or by class, as in 12,4x2048
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = pool_class, help_heading = "Device")]
    pools: Option<Vec<PoolClass>>,
    /// Which flows get one: shared (none), dedicated, or promote-after=BYTES
    #[arg(long, value_name = "POLICY", value_parser = pool_policy, help_heading = "Device")]
    pool_policy: Option<PoolPolicy>,
    /// Received frames that one such ring's flow may hold: unread, out of order, or lent
    #[arg(long, value_name = "FRAMES", help_heading = "Device")]
    pool_credit: Option<u32>,
    /// Packets per second by one such ring, after a ring's worth at once
    #[arg(long, value_name = "PACKETS", help_heading = "Device",
          value_parser = clap::value_parser!(u32).range(1..))]
    pool_rate: Option<u32>,
    /// What becomes of packets beyond credit or rate
    #[arg(long, value_enum, default_value_t = DiscardArg::Window, help_heading = "Device")]
    pool_discard: DiscardArg,
    /// A flow that has received nothing for this long gives its ring to another that wants one
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "1", help_heading = "Device")]
    pool_idle: Duration,
    /// Congestion control algorithm: cubic, reno or bbr [default: cubic]
    #[arg(short = 'C', long, value_name = "NAME", help_heading = "TCP")]
    pub(crate) congestion: Option<CongestionControl>,
    /// Space segments out in time, also with cubic and reno (bbr always does)
    #[arg(long, help_heading = "TCP")]
    pacing: bool,
    /// Never send faster on one connection than BITS per second, as in 100M (powers of 1000)
    #[arg(long, value_name = "BITS", value_parser = bits, help_heading = "TCP")]
    fq_rate: Option<u64>,
    /// Explicit congestion notification (RFC 3168)
    #[arg(long, value_enum, default_value_t = EcnArg::Accept, help_heading = "TCP")]
    ecn: EcnArg,
    /// When there is nothing to do: spin, sleep, or spin-then-sleep=MICROSECONDS
    #[arg(long, value_name = "POLICY", value_parser = idle_policy, help_heading = "Device")]
    idle: Option<IdlePolicy>,
    /// How frames reach us
    #[arg(long, value_enum, default_value_t = ModeArg::Auto, help_heading = "Device")]
    mode: ModeArg,
    /// End with an error instead of running in copy mode
    #[arg(long, help_heading = "Device")]
    require_zero_copy: bool,
    /// Bytes of a frame [default: what MTU and driver need]
    #[arg(long, value_name = "BYTES", value_parser = chunk_size, help_heading = "Device")]
    chunk_size: Option<u32>,
    /// Frames for sending, per shard [default: 8192]
    #[arg(long, value_name = "N", help_heading = "Device",
          value_parser = clap::value_parser!(u32).range(512..=1_048_576))]
    tx_frames: Option<u32>,
    /// Watch over every frame until the device has completed it, and count it if somebody changes it on the way
    /// (tx-changed); for tests and a first run on a new NIC
    #[arg(long, help_heading = "Device")]
    guard_tx: bool,
    /// Where the demultiplexer is attached
    #[arg(long, value_enum, default_value_t = XdpArg::Auto, help_heading = "Device")]
    xdp: XdpArg,
    /// Run the driver's NAPI from the shards, MICROSECONDS as SO_BUSY_POLL has it; the log says where
    /// a driver cannot
    #[arg(long, value_name = "MICROSECONDS", help_heading = "Device",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    busy_poll: Option<u32>,
    /// Packets of one busy poll
    #[arg(long, value_name = "N", default_value_t = 64, requires = "busy_poll", help_heading = "Device",
          value_parser = clap::value_parser!(u16).range(1..))]
    busy_poll_budget: u16,
    /// Who completes the checksums of what is sent
    #[arg(long, value_enum, default_value_t = TxChecksumArg::Software, help_heading = "Device")]
    tx_checksum: TxChecksumArg,
    /// What is accepted as a checksum of what is received [default: as suits the device]
    #[arg(long, value_enum, help_heading = "Device")]
    rx_checksum: Option<RxChecksumArg>,
    /// How the NIC is told which queue a flow goes to
    #[arg(long, value_enum, default_value_t = QueueSteeringArg::None, help_heading = "Device")]
    queue_steering: QueueSteeringArg,
    /// Run the device's NAPI in threads, off the shards' cores; undone at the end
    #[arg(long, help_heading = "Device")]
    threaded_napi: bool,
    /// Drop segments of unknown connections in XDP: cheaper under a flood, but each connection costs
    /// a system call, a shard has 16384 at most, and strangers get no RST
    #[arg(long, help_heading = "Device")]
    strict: bool,
    /// Give the ports back to the kernel when the engine makes no progress for SECONDS (1 or more),
    /// until it goes on; or off
    #[arg(long, value_name = "SECONDS", value_parser = watchdog, default_value = "5", help_heading = "Device")]
    watchdog: Watchdog,
    /// What packets to our ports meet when the engine has died
    #[arg(long, value_enum, default_value_t = OnDeathArg::Keep, help_heading = "Device")]
    on_death: OnDeathArg,
}

/// `None`: no watchdog. A type of its own, because clap makes an optional argument of a bare `Option`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watchdog(Option<Duration>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TxChecksumArg {
    /// We do
    Software,
    /// The kernel, or the device where that can; software in zero-copy mode
    Kernel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RxChecksumArg {
    /// It must be right
    Verify,
    /// It must be right, or the pseudo header's alone, as a kernel on the same host leaves it
    VerifyOrPseudo,
    /// Not looked at: the NIC has verified it
    Trust,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum QueueSteeringArg {
    /// Not at all: every queue needs a shard
    None,
    /// RSS indirection leads all traffic to the shards' queues, until the end
    Rss,
    /// Rules lead the ports of a single shard, and every active open, to the shard's queue
    Ntuple,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnDeathArg {
    /// Silence, until the next engine: peers retransmit instead of being reset
    Keep,
    /// The kernel, which resets the peers
    Detach,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DiscardArg {
    /// The packet is dropped
    Packet,
    /// Its payload is dropped, its acknowledgment counts
    Data,
    /// The window closes, and beyond the rate packets wait: a sender that keeps to its window loses nothing
    Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EcnArg {
    /// Neither asked for nor accepted
    Off,
    /// Asked for, and accepted
    On,
    /// Accepted if the peer asks
    Accept,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    /// Zero-copy if the driver can, else copy; the ready line says which
    Auto,
    /// The kernel copies each frame
    Copy,
    /// The NIC writes into our memory
    ZeroCopy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum XdpArg {
    /// In the driver if it can, else generic; the ready line says which
    Auto,
    /// In the driver
    Native,
    /// In the kernel's network stack, slower
    Generic,
}

impl DeviceArgs {
    /// The engine that these options describe; `Err` says which two contradict each other.
    pub(crate) fn engine(&self) -> Result<EngineConfig, String> {
        let mut config = EngineConfig::new(&*self.dev);
        config.shards = self.shards;
        if let Some(cores) = &self.cores {
            if cores.len() != self.shards as usize {
                return Err(format!(
                    "--cores names {} cores for {} shards: name one core per shard",
                    cores.len(),
                    self.shards
                ));
            }
            config.cores = Some(cores.clone());
        }
        if let Some(pools) = &self.pools {
            config.pools = pools
                .iter()
                .copied()
                .filter(|class| class.pools > 0)
                .collect();
        }
        if let Some(policy) = self.pool_policy {
            config.shard.pools = policy;
        }
        config.shard.pool_limits = PoolLimits {
            credit: self.pool_credit,
            rate: self.pool_rate,
            discard: match self.pool_discard {
                DiscardArg::Packet => Discard::Packet,
                DiscardArg::Data => Discard::Data,
                DiscardArg::Window => Discard::Window,
            },
            idle_after: self.pool_idle,
        };
        if let Some(idle) = self.idle {
            config.shard.idle = idle;
        }
        self.set_tcp(&mut config.shard.tcp);
        config.vlans = vlan_choice(&self.vlan)?;
        config.mode = match (self.mode, self.require_zero_copy) {
            (ModeArg::Copy, true) => {
                return Err("--require-zero-copy contradicts --mode copy: drop one".to_owned());
            }
            (_, true) | (ModeArg::ZeroCopy, false) => BindMode::ZeroCopy,
            (ModeArg::Copy, false) => BindMode::Copy,
            (ModeArg::Auto, false) => BindMode::Auto,
        };
        config.xdp = match self.xdp {
            XdpArg::Auto => XdpMode::Auto,
            XdpArg::Native => XdpMode::Native,
            XdpArg::Generic => XdpMode::Generic,
        };
        self.set_kernel_modes(&mut config);
        config.xdp_settings.strict = self.strict;
        config.watchdog = self.watchdog.0;
        config.on_death = match self.on_death {
            OnDeathArg::Keep => OnDeath::Keep,
            OnDeathArg::Detach => OnDeath::Detach,
        };
        Ok(config)
    }
}

impl DeviceArgs {
    fn set_kernel_modes(&self, config: &mut EngineConfig) {
        config.busy_poll = self.busy_poll.map(|time_us| BusyPollConfig {
            time_us,
            budget: self.busy_poll_budget,
        });
        config.tx_checksum = match self.tx_checksum {
            TxChecksumArg::Software => TxChecksum::Software,
            TxChecksumArg::Kernel => TxChecksum::Kernel,
        };
        config.rx_checksum = self.rx_checksum.map(|policy| match policy {
            RxChecksumArg::Verify => ChecksumPolicy::Full,
            RxChecksumArg::VerifyOrPseudo => ChecksumPolicy::FullOrPseudo,
            RxChecksumArg::Trust => ChecksumPolicy::Trusted,
        });
        config.chunk_size = self.chunk_size;
        config.tx_frames = self.tx_frames.unwrap_or(config.tx_frames);
        config.guard_tx = self.guard_tx;
        config.threaded_napi = self.threaded_napi;
        config.queue_steering = match self.queue_steering {
            QueueSteeringArg::None => QueueSteering::None,
            QueueSteeringArg::Rss => QueueSteering::Rss,
            QueueSteeringArg::Ntuple => QueueSteering::Ntuple,
        };
    }
}

impl DeviceArgs {
    fn set_tcp(&self, tcp: &mut bywash_engine::tcp::Config) {
        tcp.congestion = self.congestion.unwrap_or_default();
        tcp.pacing = self.pacing;
        tcp.max_pacing_rate = self.fq_rate.map(|bits| bits.div_ceil(8));
        tcp.ecn = match self.ecn {
            EcnArg::Off => EcnMode::Off,
            EcnArg::On => EcnMode::On,
            EcnArg::Accept => EcnMode::Accept,
        };
    }
}

fn chunk_size(text: &str) -> Result<u32, String> {
    match text {
        "2048" => Ok(2048),
        "4096" => Ok(4096),
        _ => Err("say 2048 or 4096".to_owned()),
    }
}

/// Bits a second, with the suffixes that iperf3 knows for rates (powers of 1000). Zero would send nothing, for ever.
fn bits(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.chars().last() {
        Some('k' | 'K') => (&text[..text.len() - 1], 1_000),
        Some('m' | 'M') => (&text[..text.len() - 1], 1_000_000),
        Some('g' | 'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let rate = number::<u64>(digits, "bits per second, with K, M or G behind it")?
        .checked_mul(unit)
        .ok_or_else(|| format!("{text:?} bits are more than can be counted"))?;
    if rate < 8 {
        return Err("a rate needs at least 8 bits per second".to_owned());
    }
    Ok(rate)
}

fn watchdog(text: &str) -> Result<Watchdog, String> {
    if text == "off" {
        return Ok(Watchdog(None));
    }
    let limit = seconds(text).map_err(|error| format!("{error}, and not off"))?;
    if limit < Duration::from_secs(1) {
        return Err("an idle engine needs 1 second to show that it is well".to_owned());
    }
    Ok(Watchdog(Some(limit)))
}

fn number<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a number of {what}"))
}

/// `COUNT`, or `COUNTxENTRIES`.
fn pool_class(text: &str) -> Result<PoolClass, String> {
    let (pools, ring) = match text.split_once('x') {
        None => (text, None),
        Some((pools, ring)) => (pools, Some(ring)),
    };
    let class = PoolClass::small(number(pools, "pools")?);
    let ring = ring.map_or(Ok(class.ring), |ring| number(ring, "ring entries"))?;
    if !ring.is_power_of_two() {
        return Err(format!("a ring of {ring} entries: say a power of two"));
    }
    Ok(PoolClass { ring, ..class })
}

fn pool_policy(text: &str) -> Result<PoolPolicy, String> {
    match text.split_once('=') {
        None if text == "shared" => Ok(PoolPolicy::Shared),
        None if text == "dedicated" => Ok(PoolPolicy::Dedicated),
        Some(("promote-after", bytes)) => Ok(PoolPolicy::PromoteAfter(number(bytes, "bytes")?)),
        _ => Err("say shared, dedicated or promote-after=BYTES".to_owned()),
    }
}

fn idle_policy(text: &str) -> Result<IdlePolicy, String> {
    match text.split_once('=') {
        None if text == "spin" => Ok(IdlePolicy::Spin),
        None if text == "sleep" => Ok(IdlePolicy::Sleep),
        Some(("spin-then-sleep", us)) => Ok(IdlePolicy::SpinThenSleep(Duration::from_micros(
            number(us, "microseconds")?,
        ))),
        _ => Err("say spin, sleep or spin-then-sleep=MICROSECONDS".to_owned()),
    }
}

/// Bytes, with the suffixes that iperf3 knows (powers of 1024).
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.chars().last() {
        Some('k' | 'K') => (&text[..text.len() - 1], 10),
        Some('m' | 'M') => (&text[..text.len() - 1], 20),
        Some('g' | 'G') => (&text[..text.len() - 1], 30),
        Some('t' | 'T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    number::<u64>(digits, "bytes, with K, M, G or T behind it")?
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text:?} bytes are more than can be counted"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let complaint = || format!("{text:?} is not a number of seconds");
    let value: f64 = text.parse().map_err(|_| complaint())?;
    Duration::try_from_secs_f64(value).map_err(|_| complaint())
}

/// A TCP port that can be listened on or connected to.
fn port() -> impl clap::builder::TypedValueParser<Value = u16> {
    clap::value_parser!(u16).range(1..)
}

/// `bywash iperf3`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("role").required(true).args(["server", "client"]))]
pub(crate) struct Iperf3Args {
    /// Run a server
    #[arg(short, long)]
    pub(crate) server: bool,
    /// Run a client against the server at HOST
    #[arg(short, long, value_name = "HOST")]
    pub(crate) client: Option<String>,
    /// Port of the server
    #[arg(short, long, value_name = "PORT", default_value_t = bywash::iperf3::options::DEFAULT_PORT,
          value_parser = port())]
    pub(crate) port: u16,
    /// Server: end after one test
    #[arg(short = '1', long, conflicts_with = "client")]
    pub(crate) one_off: bool,
    /// Seconds between reports; 0 for none
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds, default_value = "1")]
    pub(crate) interval: Duration,
    /// One JSON document instead of lines
    #[arg(short = 'J', long)]
    pub(crate) json: bool,
    /// Client: seconds to send for [default: 10]
    #[arg(short, long, value_name = "SECONDS", conflicts_with_all = ["server", "bytes"])]
    pub(crate) time: Option<u32>,
    /// Client: bytes to send instead of a time, as in 64M
    #[arg(short = 'n', long, value_name = "BYTES", value_parser = bytes, conflicts_with = "server")]
    pub(crate) bytes: Option<u64>,
    /// Client: the server sends
    #[arg(short = 'R', long, conflicts_with = "server")]
    pub(crate) reverse: bool,
    /// Client: both send
    #[arg(long, conflicts_with_all = ["server", "reverse"])]
    pub(crate) bidir: bool,
    /// Client: number of streams
    #[arg(
        short = 'P',
        long,
        value_name = "N",
        default_value_t = 1,
        conflicts_with = "server"
    )]
    pub(crate) parallel: u32,
    /// Client: bytes of one write, as in 128K
    #[arg(short, long, value_name = "BYTES", value_parser = bytes, conflicts_with = "server")]
    pub(crate) length: Option<u64>,
    /// Client: no Nagle (TCP_NODELAY)
    #[arg(short = 'N', long, conflicts_with = "server")]
    pub(crate) no_delay: bool,
    /// Client: largest segment payload in bytes
    #[arg(short = 'M', long, value_name = "BYTES", conflicts_with = "server",
          value_parser = clap::value_parser!(u16).range(88..=9216))]
    pub(crate) set_mss: Option<u16>,
    /// Client: seconds at the start that are shown and not counted
    #[arg(
        short = 'O',
        long,
        value_name = "SECONDS",
        default_value_t = 0,
        conflicts_with = "server"
    )]
    pub(crate) omit: u32,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// `bywash echo`
#[derive(Debug, Args)]
pub(crate) struct EchoArgs {
    /// Port to serve
    #[arg(short, long, value_name = "PORT", default_value_t = 7, value_parser = port())]
    pub(crate) port: u16,
    /// Give and take TCP Fast Open cookies (RFC 7413): data that comes with a SYN is echoed at once. A doubled SYN is echoed
    /// twice
    #[arg(long)]
    pub(crate) fast_open: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// `bywash recv`
#[derive(Debug, Args)]
pub(crate) struct RecvArgs {
    /// Where the bytes go; appears, or is replaced, when the last one has arrived
    pub(crate) file: PathBuf,
    /// Port to accept the connection on
    #[arg(short, long, value_name = "PORT", value_parser = port())]
    pub(crate) port: u16,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// `bywash send`
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// What to send
    pub(crate) file: PathBuf,
    /// Name or address of the receiver
    pub(crate) host: String,
    /// Port of the receiver
    #[arg(short, long, value_name = "PORT", value_parser = port())]
    pub(crate) port: u16,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// `bywash ss`
#[derive(Debug, Args)]
pub(crate) struct SsArgs {
    /// One JSON array of engine reports
    #[arg(long)]
    pub(crate) json: bool,
    /// Of each connection why it is not faster: congestion control, rates, losses, where its time went
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) info: bool,
    /// The rings of single flows too: who has them, what they bring and hold
    #[arg(long, conflicts_with = "json")]
    pub(crate) pools: bool,
}

/// `bywash doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Network device
    #[arg(long, value_name = "DEVICE")]
    pub(crate) dev: String,
    /// One JSON array of findings, or of changes with --tune
    #[arg(long, conflicts_with = "apply")]
    pub(crate) json: bool,
    /// Print the commands that would mend what can be mended
    #[arg(long)]
    pub(crate) tune: bool,
    /// Run those commands, and record them for --revert
    #[arg(long, requires = "tune")]
    pub(crate) apply: bool,
    /// Undo what --tune --apply has changed for this device
    #[arg(long, conflicts_with_all = ["tune", "apply", "json"])]
    pub(crate) revert: bool,
    /// Print what to do, step by step, and what must be seen, when Bywash runs on this device for the first time
    #[arg(long, conflicts_with_all = ["tune", "apply", "json", "revert"])]
    pub(crate) first_run: bool,
    /// Tune for an engine that polls its queues itself
    #[arg(long)]
    pub(crate) busy_poll: bool,
}

/// `bywash reload`
#[derive(Debug, Args)]
pub(crate) struct ReloadArgs {
    /// Network device of the engine
    #[arg(long, value_name = "DEVICE")]
    pub(crate) dev: String,
}

/// `bywash demo`
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Seconds for each direction of throughput
    #[arg(long, value_name = "SECONDS", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(crate) time: u32,
    /// Round trips of the ping-pong
    #[arg(long, value_name = "N", default_value_t = 20_000,
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) count: u64,
    /// Bytes of a ping
    #[arg(long, value_name = "BYTES", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) size: u32,
    /// Only the ping-pong, from the kernel's TCP to the echo server at HOST:PORT
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) ping_pong: Option<String>,
}

/// Logging goes to standard error; standard output is for results.
pub(crate) fn start_log(cli: &Cli) {
    let level = cli.log.unwrap_or(match cli.verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    });
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

#[cfg(test)]
mod tests;
