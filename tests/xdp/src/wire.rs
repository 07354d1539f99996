//! A raw socket: frames as they stand.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

/// A device of the calling thread's network namespace.
pub struct Wire {
    socket: OwnedFd,
    address: LinkAddr,
}

impl Wire {
    /// Opens it: needs root.
    pub fn open(device: &str) -> Result<Self> {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let mut interfaces = nix::ifaddrs::getifaddrs()?;
        let address = interfaces.find_map(|one| {
            let address = *one.address?.as_link_addr()?;
            (one.interface_name == device).then_some(address)
        });
        let address = address.with_context(|| format!("no device {device}"))?;
        Ok(Self { socket, address })
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        sendto(
            self.socket.as_raw_fd(),
            frame,
            &self.address,
            MsgFlags::empty(),
        )?;
        Ok(())
    }
}
