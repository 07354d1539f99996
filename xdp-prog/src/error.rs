//! Errors of the loader: each says what is wrong, whose it is, and what to do next.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use crate::vlan::Vlan;

/// Why the demultiplexer could not be attached. Nothing of ours is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The caller's configuration cannot be right.
    #[error("cannot attach to {interface}: {reason}")]
    Config {
        /// The interface as the caller named it.
        interface: String,
        /// What is wrong with the configuration.
        reason: String,
    },
    /// No such interface in this network namespace.
    #[error(
        "no interface {interface} (index {ifindex}) in this network namespace: `ip link show` lists them"
    )]
    UnknownInterface {
        /// The interface as the caller named it.
        interface: String,
        /// Its index as the caller gave it.
        ifindex: u32,
    },
    /// The kernel refused an operation for want of rights.
    #[error(
        "{operation} was refused: attaching XDP needs CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN; run as root"
    )]
    NotPrivileged {
        /// What was tried.
        operation: &'static str,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The kernel does not tell about the link.
    #[error("the XDP program's link on {interface} cannot be examined")]
    Link {
        /// The interface as the caller named it.
        interface: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The program was removed by its own end.
    #[error("the XDP program was removed already")]
    Detached,
    /// The program is no longer on the interface.
    #[error(
        "the XDP program is not on {interface} any more: attach it again, or, if the interface has gone, start anew"
    )]
    NotAttached {
        /// The interface as the caller named it.
        interface: String,
    },
    /// A live Bywash engine owns the interface.
    #[error(
        "{interface} is owned by another Bywash engine ({owner}): stop that one first, or use another interface"
    )]
    AlreadyRunning {
        /// The interface as the caller named it.
        interface: String,
        /// What the other engine wrote about itself, for example `pid 4711`.
        owner: String,
    },
    /// An XDP program that is not ours is attached.
    #[error(
        "{interface} already has an XDP program ({found}): `ip link show dev {interface}` and `bpftool net` tell whose it is; \
         remove it with `ip link set dev {interface} xdp off` (or xdpgeneric off), or stop the program that owns its link"
    )]
    OtherProgram {
        /// The interface as the caller named it.
        interface: String,
        /// Program id and mode.
        found: String,
    },
    /// The driver refused the program, and the interface's MTU is beyond what a single buffer holds.
    #[error(
        "the driver of {interface} refused the program: MTU {mtu} is beyond single-buffer XDP (about 3498 on veth with 4 KiB pages, where \
         the peer's MTU counts as well): lower it with `ip link set dev {interface} mtu 1500`, likewise on a veth's peer"
    )]
    MtuTooLarge {
        /// The interface as the caller named it.
        interface: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The driver has fewer receive queues than its peer sends on (veth).
    #[error(
        "the driver of {interface} lacks queues for XDP: a veth needs as many receive queues as its peer has transmit queues, and a NIC \
         spare transmit queues; see `ethtool -l {interface}` and set both ends with `ethtool -L`"
    )]
    Queues {
        /// The interface as the caller named it.
        interface: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The driver has no XDP in the mode asked for, or an offload stands in its way.
    #[error(
        "{interface} does not take XDP in {mode} mode: use mode auto or generic, or turn off the offload that stands in the way (LRO, HW \
         GRO: `ethtool -K {interface} lro off rx-gro-hw off`); MTU is {mtu}"
    )]
    ModeRefused {
        /// The interface as the caller named it.
        interface: String,
        /// The mode that was tried.
        mode: &'static str,
        /// The interface's MTU in bytes.
        mtu: u32,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The kernel cannot make a bpf_link for XDP.
    #[error(
        "{interface}: this kernel has no bpf_link for XDP, which came with Linux 5.9: use a newer kernel"
    )]
    NoLink {
        /// The interface as the caller named it.
        interface: String,
    },
    /// The object could not be loaded: a kernel too old, or a defect of ours.
    #[error("loading the XDP program failed at {step}: Linux 5.15 or newer is needed")]
    Load {
        /// Which part of the load.
        step: &'static str,
        /// aya's error, with the verifier's words where there are any.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The attach failed for another reason.
    #[error("attaching the XDP program to {interface} in {mode} mode failed")]
    Attach {
        /// The interface as the caller named it.
        interface: String,
        /// The mode that was tried.
        mode: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A directory, mount or pin under `/run/bywash` failed.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The kernel could not be asked about the interface.
    #[error("asking the kernel about {interface} by netlink failed")]
    Netlink {
        /// The interface as the caller named it.
        interface: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A map refused its first entry.
    #[error(transparent)]
    Map(#[from] DemuxError),
}

/// A directory, mount or pin that could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}: the engine keeps its link and maps in a bpffs there, which needs a writable /run and CAP_SYS_ADMIN", path.display())]
pub struct PinError {
    /// What was tried: "mount bpffs on".
    pub step: &'static str,
    /// The path, in the mount namespace that is used.
    pub path: PathBuf,
    /// The kernel's error.
    #[source]
    pub source: io::Error,
}

/// A change to the running program's maps that was refused. The program runs on unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemuxError {
    /// No such queue or ring.
    #[error(
        "queue {queue}, ring {ring} is outside the program's {queues} queues of {} rings",
        crate::SLOTS_PER_QUEUE
    )]
    Slot {
        /// Queue as given.
        queue: u32,
        /// Ring as given.
        ring: u32,
        /// Queues the program was attached for.
        queues: u32,
    },
    /// Port 0 names no service.
    #[error("port 0 cannot be ours: choose one from 1 to 65535")]
    PortZero,
    /// More `unlisten` than `listen`, or more `release_port` than `hold_port`.
    #[error("port {0} is not listened to, or not held: a call is missing or doubled")]
    PortNotOurs(u16),
    /// A VLAN identifier outside 1 to 4094.
    #[error("{0} is no VLAN: identifiers are 1 to 4094; untagged frames are always ours")]
    Vlan(Vlan),
    /// Settings that cannot work.
    #[error("{0}")]
    Settings(String),
    /// An address that no TCP connection can have as its local one.
    #[error("{0} cannot be a local address of TCP: unspecified and multicast addresses are not")]
    Address(core::net::IpAddr),
    /// The table is full.
    #[error("the table `{map}` is full ({entries} entries): remove some first")]
    Full {
        /// Name of the map.
        map: &'static str,
        /// Its size.
        entries: u32,
    },
    /// The kernel refused the operation.
    #[error("{operation} failed in map `{map}`")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// Name of the map.
        map: &'static str,
        /// aya's error.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// The end was not clean: what is left, and how to remove it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DetachError {
    /// A pin, mount or directory could not be removed.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The program is still attached a second after its last reference was closed.
    #[error(
        "the XDP program (id {program}) is still attached: `bpftool link` names the process or pin that holds it"
    )]
    StillAttached {
        /// Id of the program.
        program: u32,
    },
    /// The kernel could not be asked whether the program has gone.
    #[error("asking the kernel about the interface by netlink failed")]
    Netlink(#[source] io::Error),
}

/// The errno below an error of aya's, which nests the `io::Error` at varying depth.
pub(crate) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        cause = error.source();
    }
    None
}
