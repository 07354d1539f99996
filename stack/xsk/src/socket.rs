//! One AF_XDP socket: the options, mappings and binds, as the kernel wants them in order.
//!
//! ```text
//! primary:    socket  UMEM_REG  fill+completion+RX+TX ring sizes  mmap x4  (fill the fill ring)  bind(interface, queue, flags)
//! pools:      socket            RX ring size                      mmap                           bind(SHARED_UMEM of the primary)
//! ```
//! A closed socket holds its queue for another 7-20 ms, because the kernel frees it in a work queue; a bind that meets it
//! gets EBUSY and is repeated. Closing itself takes 12-15 ms, so sockets are made once and never per connection.

use core::mem::MaybeUninit;
use core::time::Duration;
use std::ffi::{CString, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Instant;

use crate::busy_poll::{BusyPoll, BusyPollConfig};
use crate::config::{BindMode, XskConfig};
use crate::error::XskError;
use crate::region::Region;
use crate::ring::{CompletionRing, FillRing, RxRing, TxRing};
use crate::statistics::KernelStatistics;
use crate::tx_checksum::{METADATA_LEN, TxChecksum, registration_error};

/// `XDP_MAX_TX_SKB_BUDGET` of if_xdp.h (Linux 6.17), which libc does not have yet.
const XDP_MAX_TX_SKB_BUDGET: c_int = 9;

// asm-generic/socket.h (Linux 5.11), which libc lacks on some targets.
const SO_PREFER_BUSY_POLL: c_int = 69;
const SO_BUSY_POLL_BUDGET: c_int = 70;

/// Descriptors that one `sendto` takes in copy mode unless told otherwise (`TX_BATCH_SIZE`).
pub(crate) const KERNEL_TX_BUDGET: u32 = 32;

/// Waits between two binds: the first is what a teardown takes at best.
const BIND_RETRY_FIRST: Duration = Duration::from_millis(2);
const BIND_RETRY_LONGEST: Duration = Duration::from_millis(50);

/// How packets get between the device and the UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The kernel copies them; sending always needs a system call.
    Copy,
    /// The device reads and writes the UMEM.
    ZeroCopy,
}

/// How a queue was had.
pub(crate) struct Bound {
    /// How long a former owner had to be waited for; zero: there was none.
    pub(crate) waited: Duration,
    /// What the kernel said to zero copy, where copying will do as well.
    pub(crate) zero_copy_refusal: Option<io::Error>,
}

/// An AF_XDP socket without its rings; they are mapped from it and must be dropped first.
pub(crate) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    pub(crate) fn new() -> Result<Self, XskError> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(XskError::last(
                "socket(AF_XDP), which needs a kernel with CONFIG_XDP_SOCKETS,",
            ));
        }
        // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    fn set<T>(&self, name: c_int, value: &T) -> io::Result<()> {
        self.set_at(libc::SOL_XDP, name, value)
    }

    fn set_at<T>(&self, level: c_int, name: c_int, value: &T) -> io::Result<()> {
        let len = size_of::<T>() as libc::socklen_t;
        let value = core::ptr::from_ref(value).cast();
        // SAFETY: `value` is readable for `len` bytes.
        match unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, value, len) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// # Safety
    /// `T` is the C struct of option `name`: integers only.
    unsafe fn ask<T>(&self, name: c_int) -> io::Result<T> {
        // SAFETY: the caller's promise.
        unsafe { self.ask_at(libc::SOL_XDP, name) }
    }

    /// # Safety
    /// As for `ask`.
    unsafe fn ask_at<T>(&self, level: c_int, name: c_int) -> io::Result<T> {
        let mut value = MaybeUninit::<T>::zeroed();
        let mut len = size_of::<T>() as libc::socklen_t;
        let at = value.as_mut_ptr().cast();
        // SAFETY: `value` is writable for `len` bytes.
        match unsafe { libc::getsockopt(self.fd.as_raw_fd(), level, name, at, &mut len) } {
            // SAFETY: zeroed, and written as far as the kernel knows the struct; the caller says that it is integers.
            0 => Ok(unsafe { value.assume_init() }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Gives the kernel the memory. Room for TX metadata before each packet it gets only if checksums are left to it.
    pub(crate) fn register(
        &self,
        region: &Region,
        chunk_size: u32,
        checksum: TxChecksum,
    ) -> Result<(), XskError> {
        let (flags, tx_metadata_len) = match checksum {
            TxChecksum::Software => (0, 0),
            TxChecksum::Kernel => (libc::XDP_UMEM_TX_METADATA_LEN, METADATA_LEN as u32),
        };
        let registration = libc::xdp_umem_reg {
            addr: region.base() as u64,
            len: region.bytes() as u64,
            chunk_size,
            // XDP's own 256 bytes are before each received packet anyway.
            headroom: 0,
            flags,
            tx_metadata_len,
        };
        self.set(libc::XDP_UMEM_REG, &registration)
            .map_err(|error| match error.raw_os_error() {
                // Pages beyond RLIMIT_MEMLOCK (`xdp_umem_account_pages`).
                Some(libc::ENOBUFS) => XskError::MemoryLock {
                    bytes: region.bytes() as u64,
                    limit: memory_lock_limit(),
                },
                _ => registration_error(error, checksum),
            })
    }

    fn set_ring(
        &self,
        name: c_int,
        call: &'static str,
        size: u32,
    ) -> Result<libc::xdp_mmap_offsets, XskError> {
        self.set(name, &size)
            .map_err(|error| XskError::from_errno(call, error))?;
        // SAFETY: the option's struct, of integers.
        unsafe { self.ask(libc::XDP_MMAP_OFFSETS) }
            .map_err(|error| XskError::from_errno("XDP_MMAP_OFFSETS", error))
    }

    pub(crate) fn rx_ring(&self, size: u32) -> Result<RxRing, XskError> {
        let offsets = self.set_ring(libc::XDP_RX_RING, "XDP_RX_RING", size)?;
        RxRing::map(self.fd.as_fd(), &offsets.rx, size, libc::XDP_PGOFF_RX_RING)
    }

    pub(crate) fn tx_ring(&self, size: u32) -> Result<TxRing, XskError> {
        let offsets = self.set_ring(libc::XDP_TX_RING, "XDP_TX_RING", size)?;
        TxRing::map(self.fd.as_fd(), &offsets.tx, size, libc::XDP_PGOFF_TX_RING)
    }

    pub(crate) fn fill_ring(&self, size: u32) -> Result<FillRing, XskError> {
        let offsets = self.set_ring(libc::XDP_UMEM_FILL_RING, "XDP_UMEM_FILL_RING", size)?;
        FillRing::map(
            self.fd.as_fd(),
            &offsets.fr,
            size,
            libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t,
        )
    }

    pub(crate) fn completion_ring(&self, size: u32) -> Result<CompletionRing, XskError> {
        let name = libc::XDP_UMEM_COMPLETION_RING;
        let offsets = self.set_ring(name, "XDP_UMEM_COMPLETION_RING", size)?;
        let page_offset = libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t;
        CompletionRing::map(self.fd.as_fd(), &offsets.cr, size, page_offset)
    }

    /// Raises what one `sendto` takes in copy mode. `false`: this kernel has no such option. Needs the TX ring.
    pub(crate) fn set_tx_budget(&self, budget: u32) -> Result<bool, XskError> {
        match self.set(XDP_MAX_TX_SKB_BUDGET, &budget) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
            Err(error) => Err(XskError::System {
                call: "XDP_MAX_TX_SKB_BUDGET",
                source: error,
            }),
        }
    }

    fn bind(&self, address: &libc::sockaddr_xdp) -> io::Result<()> {
        let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
        let address = core::ptr::from_ref(address).cast();
        // SAFETY: `address` is readable for `len` bytes.
        match unsafe { libc::bind(self.fd.as_raw_fd(), address, len) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Binds the owner of a queue.
    ///
    /// With neither of its flags the kernel would try zero copy too, then copy, and keep the reason to itself: so both are
    /// asked for by name.
    pub(crate) fn bind_primary(&self, config: &XskConfig, ifindex: u32) -> Result<Bound, XskError> {
        let mut waited = Duration::ZERO;
        let mut zero_copy_refusal = None;
        if config.mode != BindMode::Copy {
            match self.bind_patiently(config, ifindex, libc::XDP_ZEROCOPY, &mut waited) {
                Ok(()) => {
                    return Ok(Bound {
                        waited,
                        zero_copy_refusal,
                    });
                }
                Err(error) if config.mode == BindMode::ZeroCopy => {
                    return Err(bind_error(config, error, waited));
                }
                Err(error) => zero_copy_refusal = Some(error),
            }
        }
        self.bind_patiently(config, ifindex, libc::XDP_COPY, &mut waited)
            .map_err(|error| bind_error(config, error, waited))?;
        Ok(Bound {
            waited,
            zero_copy_refusal,
        })
    }

    /// Waits while a former owner of the queue is still there, in all at most as long as configured.
    fn bind_patiently(
        &self,
        config: &XskConfig,
        ifindex: u32,
        mode: u16,
        waited: &mut Duration,
    ) -> io::Result<()> {
        let address = address(mode | libc::XDP_USE_NEED_WAKEUP, ifindex, config.queue, 0);
        let before = *waited;
        let begin = Instant::now();
        let mut pause = BIND_RETRY_FIRST;
        loop {
            let Err(error) = self.bind(&address) else {
                return Ok(());
            };
            if error.raw_os_error() != Some(libc::EBUSY) || *waited >= config.bind_patience {
                return Err(error);
            }
            std::thread::sleep(pause);
            *waited = before + begin.elapsed();
            pause = (pause * 2).min(BIND_RETRY_LONGEST);
        }
    }

    /// Binds another socket to the queue of a bound one, whose mode it gets. Any further flag would be EINVAL.
    pub(crate) fn bind_shared(
        &self,
        config: &XskConfig,
        ifindex: u32,
        primary: &Self,
    ) -> Result<(), XskError> {
        let shared_fd = primary.fd.as_raw_fd() as u32;
        self.bind(&address(
            libc::XDP_SHARED_UMEM,
            ifindex,
            config.queue,
            shared_fd,
        ))
        .map_err(|error| XskError::from_errno("bind of a pool to the primary's queue", error))
    }

    pub(crate) fn mode(&self) -> Result<Mode, XskError> {
        // SAFETY: the option's struct, of integers.
        let options: libc::xdp_options = unsafe { self.ask(libc::XDP_OPTIONS) }
            .map_err(|error| XskError::from_errno("XDP_OPTIONS", error))?;
        let zero_copy = options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
        Ok(if zero_copy {
            Mode::ZeroCopy
        } else {
            Mode::Copy
        })
    }

    /// Lets system calls on this bound socket poll the driver's NAPI, where the driver names one.
    pub(crate) fn busy_poll(&self, config: BusyPollConfig) -> BusyPoll {
        match self.try_busy_poll(config) {
            Ok(napi) => BusyPoll::On { napi },
            Err(reason) => BusyPoll::Unavailable { reason },
        }
    }

    fn try_busy_poll(&self, config: BusyPollConfig) -> Result<u32, String> {
        // SAFETY: the option is an unsigned int.
        let napi: u32 = unsafe { self.ask_at(libc::SOL_SOCKET, libc::SO_INCOMING_NAPI_ID) }
            .map_err(|error| format!("SO_INCOMING_NAPI_ID: {error}"))?;
        if napi == 0 {
            return Err(
                "the driver names no NAPI for this queue (SO_INCOMING_NAPI_ID is 0)".to_owned(),
            );
        }
        let options = [
            (SO_PREFER_BUSY_POLL, "SO_PREFER_BUSY_POLL", 1),
            (libc::SO_BUSY_POLL, "SO_BUSY_POLL", config.time_us),
            (
                SO_BUSY_POLL_BUDGET,
                "SO_BUSY_POLL_BUDGET",
                config.budget.into(),
            ),
        ];
        for (option, name, value) in options {
            self.set_at(libc::SOL_SOCKET, option, &value)
                .map_err(|error| format!("{name} = {value}: {error}"))?;
        }
        Ok(napi)
    }

    /// Takes [`busy_poll`](Self::busy_poll) back.
    pub(crate) fn no_busy_poll(&self) -> io::Result<()> {
        self.set_at(libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, &0u32)?;
        self.set_at(libc::SOL_SOCKET, libc::SO_BUSY_POLL, &0u32)
    }

    /// The kernel's counters; `None` if it would not tell. It takes the lock that sending in copy mode holds.
    pub(crate) fn statistics(&self) -> Option<KernelStatistics> {
        // SAFETY: the option's struct, of integers.
        let counters: libc::xdp_statistics = unsafe { self.ask(libc::XDP_STATISTICS) }.ok()?;
        Some(KernelStatistics {
            rx_dropped: counters.rx_dropped,
            rx_invalid_descs: counters.rx_invalid_descs,
            tx_invalid_descs: counters.tx_invalid_descs,
            rx_ring_full: counters.rx_ring_full,
            rx_fill_ring_empty_descs: counters.rx_fill_ring_empty_descs,
            tx_ring_empty_descs: counters.tx_ring_empty_descs,
        })
    }

    /// Makes the kernel look at the TX ring.
    pub(crate) fn wake_tx(&self) -> io::Result<()> {
        let (nothing, nowhere) = (core::ptr::null(), core::ptr::null());
        // SAFETY: no bytes and no address.
        match unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                nothing,
                0,
                libc::MSG_DONTWAIT,
                nowhere,
                0,
            )
        } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes a zero-copy driver look at the fill ring, and with busy polling runs the driver. It has no result: the rings tell
    /// whether it worked.
    pub(crate) fn wake_rx(&self) {
        let (nothing, nowhere, no_len) = (
            core::ptr::null_mut(),
            core::ptr::null_mut(),
            core::ptr::null_mut(),
        );
        // SAFETY: no bytes and no address.
        unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                nothing,
                0,
                libc::MSG_DONTWAIT,
                nowhere,
                no_len,
            )
        };
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn address(flags: u16, ifindex: u32, queue: u32, shared_umem_fd: u32) -> libc::sockaddr_xdp {
    libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared_umem_fd,
    }
}

fn bind_error(config: &XskConfig, error: io::Error, waited: Duration) -> XskError {
    let interface = config.interface.clone();
    let queue = config.queue;
    match error.raw_os_error() {
        Some(libc::EBUSY) => XskError::QueueBusy {
            interface,
            queue,
            waited_ms: waited.as_millis() as u64,
        },
        Some(libc::ENETDOWN) => XskError::InterfaceDown { interface },
        Some(libc::ENODEV) => XskError::NoSuchInterface(interface),
        Some(libc::EINVAL | libc::EOPNOTSUPP) if config.mode == BindMode::ZeroCopy => {
            XskError::NoZeroCopy {
                interface,
                queue,
                source: error,
            }
        }
        Some(libc::EINVAL) => XskError::NoSuchQueue { interface, queue },
        _ => XskError::from_errno("bind(AF_XDP)", error),
    }
}

/// The index of an interface in this thread's network namespace.
pub(crate) fn interface_index(name: &str) -> Result<u32, XskError> {
    let unknown = || XskError::NoSuchInterface(name.to_owned());
    let c_name = CString::new(name).map_err(|_| unknown())?;
    // SAFETY: a C string.
    match unsafe { libc::if_nametoindex(c_name.as_ptr()) } {
        0 => Err(unknown()),
        index => Ok(index),
    }
}

fn memory_lock_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is writable. It cannot fail with a valid resource and pointer; 0 would be shown if it did.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    limit.rlim_cur
}
