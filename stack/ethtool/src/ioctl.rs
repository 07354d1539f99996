//! The kernel's answers.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::Ethtool;
use crate::wire::Request;

const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// A device of the network namespace in which this was made.
#[derive(Debug)]
pub struct Device {
    name: String,
    socket: OwnedFd,
}

impl Device {
    /// In the calling thread's network namespace. Whether there is such a device shows at the first request.
    ///
    /// # Errors
    /// No socket, or a name that no device can have.
    pub fn open(name: &str) -> io::Result<Self> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            name: name.to_owned(),
            // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
            socket: unsafe { OwnedFd::from_raw_fd(fd) },
        })
    }
}

impl Ethtool for Device {
    fn device(&self) -> &str {
        &self.name
    }

    fn call(&mut self, request: &mut Request) -> io::Result<()> {
        let mut name = [0; libc::IFNAMSIZ];
        for (to, from) in name.iter_mut().zip(self.name.bytes()) {
            *to = from as libc::c_char;
        }
        let mut frame = libc::ifreq {
            ifr_name: name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                ifru_data: request.bytes_mut().as_mut_ptr().cast(),
            },
        };
        // SAFETY: a `Request` is as long as what the kernel reads and writes for its command.
        match unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL, &raw mut frame) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
