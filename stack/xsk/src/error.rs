//! What can go wrong when a port is opened: whose fault it is, and what to do next.

use std::io;

/// Why a UMEM or a port could not be made. Every text starts with whose fault it is.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// A value of the configuration that cannot work.
    #[error("caller: {0}")]
    Config(String),

    /// The UMEM's receive part is smaller than the sum of what may hold receive frames.
    #[error(
        "caller: {rx_frames} RX frames are fewer than {need} = {terms}; lower {term} ({value}, the largest term) or raise rx_frames"
    )]
    TooFewRxFrames {
        /// RX frames of the configuration.
        rx_frames: u32,
        /// Sum of all terms.
        need: u64,
        /// Name of the largest term.
        term: String,
        /// Frames of the largest term.
        value: u64,
        /// The whole sum, spelt out.
        terms: String,
    },

    /// There is no interface of this name in the thread's network namespace.
    #[error(
        "caller: no interface {0} in this network namespace; check the name and the namespace of the calling thread"
    )]
    NoSuchInterface(String),

    /// The process may not do this.
    #[error(
        "system: {call} is not permitted; AF_XDP needs CAP_NET_RAW (and the XDP program CAP_NET_ADMIN and CAP_BPF): run as root or grant them"
    )]
    Permission {
        /// The call that was refused.
        call: &'static str,
    },

    /// The kernel would not lock the UMEM's pages.
    #[error(
        "system: RLIMIT_MEMLOCK is {limit} bytes and the UMEM needs {bytes}; raise it (ulimit -l, LimitMEMLOCK=) or grant CAP_IPC_LOCK"
    )]
    MemoryLock {
        /// Size of the UMEM in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },

    /// Another socket owns the queue, or one that just closed is still being torn down.
    #[error(
        "system: queue {queue} of {interface} still has an owner after {waited_ms} ms; end the other AF_XDP program, or use another queue"
    )]
    QueueBusy {
        /// Interface name.
        interface: String,
        /// Queue number.
        queue: u32,
        /// How long the bind was retried.
        waited_ms: u64,
    },

    /// The interface has no such queue.
    #[error(
        "caller: {interface} has no queue {queue}, or its driver refuses this ring layout; `ethtool -l {interface}` lists the queues"
    )]
    NoSuchQueue {
        /// Interface name.
        interface: String,
        /// Queue number.
        queue: u32,
    },

    /// Zero copy was required and cannot be had.
    #[error(
        "system: {interface} cannot do zero copy on queue {queue}: {source}; run in copy mode (mode auto or copy), or use a NIC whose driver has AF_XDP zero copy"
    )]
    NoZeroCopy {
        /// Interface name.
        interface: String,
        /// Queue number.
        queue: u32,
        /// The kernel's answer to the bind.
        source: io::Error,
    },

    /// The interface is down.
    #[error("system: {interface} is down; `ip link set {interface} up` first")]
    InterfaceDown {
        /// Interface name.
        interface: String,
    },

    /// Any other system call that failed.
    #[error("system: {call} failed: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl XskError {
    /// The error of the system call that has just failed in this thread.
    pub(crate) fn last(call: &'static str) -> Self {
        Self::from_errno(call, io::Error::last_os_error())
    }

    pub(crate) fn from_errno(call: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Permission { call },
            _ => Self::System { call, source },
        }
    }
}
