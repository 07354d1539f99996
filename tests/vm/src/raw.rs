//! AF_XDP sockets of our own, so that what Bywash and its doctor say is held against the kernel itself.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_xdp_rx_ring_size, set_xdp_tx_ring_size, set_xdp_umem_completion_ring_size,
    set_xdp_umem_fill_ring_size, set_xdp_umem_reg, xdp_options,
};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XdpOptionsFlags, XdpUmemReg,
    XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use crate::Outcome;

pub(crate) type Flags = SocketAddrXdpFlags;

const CHUNK: u32 = 4096;
const CHUNKS: u32 = 64;
/// A closed socket holds its queue a little longer; an engine's many sockets hold it longest.
const BUSY: Duration = Duration::from_secs(2);

fn socket() -> Result<OwnedFd, Errno> {
    socket_with(
        AddressFamily::XDP,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// A socket with memory and all four rings; none is mapped, for no frame is to come.
fn owner(memory: &[u8]) -> Result<OwnedFd, Errno> {
    let socket = socket()?;
    set_xdp_umem_reg(
        &socket,
        XdpUmemReg {
            addr: (memory.as_ptr() as u64).next_multiple_of(u64::from(CHUNK)),
            len: u64::from(CHUNK * CHUNKS),
            chunk_size: CHUNK,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        },
    )?;
    set_xdp_umem_fill_ring_size(&socket, CHUNKS)?;
    set_xdp_umem_completion_ring_size(&socket, CHUNKS)?;
    set_xdp_rx_ring_size(&socket, CHUNKS)?;
    set_xdp_tx_ring_size(&socket, CHUNKS)?;
    Ok(socket)
}

fn is_zero_copy(socket: &OwnedFd) -> Result<bool, Errno> {
    Ok(xdp_options(socket)?.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
}

/// Binds queue 0 of a device of this thread's namespace with these flags, and as many RX-only sockets beside it. For each
/// socket, whether the kernel says zero copy; or what it says instead of binding.
pub(crate) fn try_bind(
    device: &str,
    flags: Flags,
    receivers: usize,
) -> Outcome<Result<Vec<bool>, Errno>> {
    // One chunk more, to begin at a page.
    let memory = vec![0; (CHUNK * (CHUNKS + 1)) as usize];
    let begin = Instant::now();
    loop {
        let owner = owner(&memory).map_err(|error| format!("a socket with memory: {error}"))?;
        let index = if_nametoindex(device).map_err(|error| format!("{device}: {error}"))?;
        match bind(&owner, &SocketAddrXdp::new(flags, index, 0)) {
            Ok(()) => return Ok(with_receivers(&owner, index, receivers)),
            Err(Errno::BUSY) if begin.elapsed() < BUSY => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Ok(Err(error)),
        }
    }
}

fn with_receivers(owner: &OwnedFd, index: u32, receivers: usize) -> Result<Vec<bool>, Errno> {
    let mut all = vec![is_zero_copy(owner)?];
    let mut open = Vec::new();
    for _ in 0..receivers {
        let receiver = socket()?;
        set_xdp_rx_ring_size(&receiver, CHUNKS)?;
        let address = SocketAddrXdpWithSharedUmem {
            addr: SocketAddrXdp::new(Flags::XDP_SHARED_UMEM, index, 0),
            shared_umem_fd: owner.as_fd(),
        };
        bind(&receiver, &address)?;
        all.push(is_zero_copy(&receiver)?);
        open.push(receiver);
    }
    Ok(all)
}
