//! The loop that carries frames between two devices.
//!
//! Both ends are AF_PACKET sockets that bypass the queueing discipline and do not see what they send themselves. Frames come
//! with the kernel's virtio header (`PACKET_VNET_HDR`), which says what a device was expected to do to them: a checksum that
//! was left to do is done here, as a NIC would; a train of segments that was left to cut (TSO, GSO) is no packet of
//! any wire, so it is dropped and counted, and the remedy is printed once.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, sendmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::{setsockopt_impl, sockopt_impl};
use serde::Serialize;

use crate::impairment::Link;
use crate::lane::{Fates, Lane};

sockopt_impl!(
    /// Do not receive what the socket's own device sends (`packet(7)`).
    IgnoreOutgoing, SetOnly, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, bool
);
sockopt_impl!(
    /// Send past the queueing discipline (`packet(7)`).
    QdiscBypass, SetOnly, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, bool
);
sockopt_impl!(
    /// Frames begin with a `struct virtio_net_hdr` (linux/virtio_net.h).
    VnetHdr, SetOnly, libc::SOL_PACKET, libc::PACKET_VNET_HDR, bool
);

/// Length of `struct virtio_net_hdr`: flags, gso_type, then hdr_len, gso_size, csum_start, csum_offset of 16 bits each.
const VNET: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;

/// Where UDP's checksum is in its header (TCP's: 16).
const UDP_CHECKSUM: usize = 6;

/// Largest frame that a socket may give: a train of segments, with its headers.
const LARGEST: usize = 1 << 17;

/// Frames taken from one device before the other has its turn.
const BURST: usize = 64;

/// Socket buffer in bytes: a burst at some Gbit/s while the loop is elsewhere.
const BUFFER: usize = 8 << 20;

/// How long the loop sleeps at most: it looks at `stop` as often.
const GLANCE: Duration = Duration::from_millis(50);

/// What passed in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// What the emulated direction did.
    #[serde(flatten)]
    pub fates: Fates,
    /// Trains of segments that nobody had cut: dropped.
    pub uncut: u64,
    /// Frames that the device at the far end did not take: larger than its MTU, down, or its ring full.
    pub refused: u64,
    /// Frames still on their way at the end.
    pub underway: u64,
}

/// A device and what arrives on it.
struct End {
    name: String,
    socket: OwnedFd,
    lane: Lane,
    uncut: u64,
    /// Frames that this device did not take.
    refused: u64,
}

/// Two devices of the calling thread's network namespace and the emulated link between them.
pub struct Bridge {
    ends: [End; 2],
    buffer: Vec<u8>,
    start: Instant,
}

impl Bridge {
    /// Opens both devices. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// No such device, no right; the message says what to do.
    pub fn open(first: &str, second: &str, link: &Link) -> Result<Self> {
        if first == second {
            bail!("a link has two ends: `{first}` was given twice");
        }
        let end = |name: &str, impairment, number| -> Result<End> {
            Ok(End {
                name: name.to_owned(),
                socket: open(name)?,
                lane: Lane::new(impairment, link.seed, number),
                uncut: 0,
                refused: 0,
            })
        };
        Ok(Self {
            ends: [end(first, link.forth, 0)?, end(second, link.back, 1)?],
            buffer: vec![0; LARGEST],
            start: Instant::now(),
        })
    }

    /// Changes what the link does from now on; the seed stays.
    pub fn set_link(&mut self, link: &Link) {
        self.ends[0].lane.set_impairment(link.forth);
        self.ends[1].lane.set_impairment(link.back);
    }

    /// Carries frames until `stop` is set or `limit` is over. May be called again: what is on its way stays there.
    ///
    /// # Errors
    /// A device that has gone.
    pub fn run(&mut self, stop: &AtomicBool, limit: Option<Duration>) -> Result<()> {
        let end = limit.map(|limit| Instant::now() + limit);
        while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
            let took = self.take(0)? + self.take(1)?;
            self.give(0)?;
            self.give(1)?;
            if took == 0 {
                self.sleep(end)?;
            }
        }
        Ok(())
    }

    /// What passed: from the first device to the second, and back.
    pub fn counts(&self) -> [Counts; 2] {
        [0, 1].map(|from| Counts {
            fates: self.ends[from].lane.fates(),
            uncut: self.ends[from].uncut,
            refused: self.ends[1 - from].refused,
            underway: self.ends[from].lane.underway() as u64,
        })
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Takes what has arrived on device `from`.
    fn take(&mut self, from: usize) -> Result<usize> {
        for taken in 0..BURST {
            let end = &mut self.ends[from];
            let length = match recv(
                end.socket.as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(length) => length,
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(taken),
                // Said once when the device goes down; it may come up again.
                Err(Errno::ENETDOWN) => return Ok(taken),
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot receive from {}", end.name));
                }
            };
            let Some((header, frame)) = self.buffer[..length].split_at_mut_checked(VNET) else {
                continue;
            };
            let field = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
            let (is_train, start, offset) = (header[1] != 0, field(6), field(8));
            if is_train {
                end.uncut += 1;
                if end.uncut == 1 {
                    eprintln!(
                        "a train of segments came from {}: dropped. Run `ethtool -K DEV tso off gso off gro off` on its peer",
                        end.name
                    );
                }
                continue;
            }
            if header[0] & NEEDS_CHECKSUM != 0 {
                finish_checksum(frame, start, offset);
            }
            let now = self.start.elapsed().as_nanos() as u64;
            end.lane.offer(now, frame);
        }
        Ok(BURST)
    }

    /// Gives the far device what came in at `from` and is due.
    fn give(&mut self, from: usize) -> Result<()> {
        let now = self.now();
        let [first, second] = &mut self.ends;
        let (near, far) = if from == 0 {
            (first, second)
        } else {
            (second, first)
        };
        while let Some(frame) = near.lane.due(now) {
            let parts = [IoSlice::new(&[0; VNET]), IoSlice::new(&frame)];
            match sendmsg::<()>(
                far.socket.as_raw_fd(),
                &parts,
                &[],
                MsgFlags::MSG_DONTWAIT,
                None,
            ) {
                Ok(_) => {}
                Err(
                    Errno::ENOBUFS
                    | Errno::EAGAIN
                    | Errno::EMSGSIZE
                    | Errno::EINVAL
                    | Errno::ENETDOWN,
                ) => far.refused += 1,
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot send to {}", far.name));
                }
            }
        }
        Ok(())
    }

    /// Until something arrives or is due.
    fn sleep(&self, end: Option<Instant>) -> Result<()> {
        let now = self.now();
        let due = self.ends.iter().filter_map(|end| end.lane.next_due()).min();
        let mut wait = GLANCE;
        if let Some(due) = due {
            wait = wait.min(Duration::from_nanos(due.saturating_sub(now)));
        }
        if let Some(end) = end {
            wait = wait.min(end.saturating_duration_since(Instant::now()));
        }
        let mut fds = self
            .ends
            .each_ref()
            .map(|end| PollFd::new(end.socket.as_fd(), PollFlags::POLLIN));
        match ppoll(&mut fds, Some(TimeSpec::from_duration(wait)), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for packets"),
        }
    }
}

fn open(name: &str) -> Result<OwnedFd> {
    let mut interfaces = nix::ifaddrs::getifaddrs().context("cannot list the devices")?;
    let address: LinkAddr = interfaces
        .find_map(|one| {
            let address = one.address?;
            address
                .as_link_addr()
                .copied()
                .filter(|_| one.interface_name == name)
        })
        .with_context(|| {
            format!("there is no device `{name}` in this network namespace: see `ip link`")
        })?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // Bound to no protocol it hears nothing; binding to the device starts it.
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        flags,
        SockProtocol::EthAll,
    );
    let fd = fd.context("cannot open a packet socket: run as root, or with CAP_NET_RAW")?;
    setsockopt(&fd, VnetHdr, &true).context("PACKET_VNET_HDR")?;
    setsockopt(&fd, IgnoreOutgoing, &true)
        .context("PACKET_IGNORE_OUTGOING (Linux 4.20 or later)")?;
    setsockopt(&fd, QdiscBypass, &true).context("PACKET_QDISC_BYPASS")?;
    setsockopt(&fd, sockopt::RcvBufForce, &BUFFER).context("SO_RCVBUFFORCE")?;
    bind(fd.as_raw_fd(), &address).with_context(|| format!("cannot bind to {name}"))?;
    // Until it was bound it heard every device.
    let mut scratch = [0; 256];
    while recv(fd.as_raw_fd(), &mut scratch, MsgFlags::MSG_DONTWAIT).is_ok() {}
    Ok(fd)
}

/// Does the sum that the sender left to its device: from `start` to the end, into the field at `offset` from there, which
/// holds the sum of the pseudo header (linux/virtio_net.h). What does not fit into the frame is left alone.
fn finish_checksum(frame: &mut [u8], start: usize, offset: usize) {
    let Some(field) = start.checked_add(offset) else {
        return;
    };
    if field + 2 > frame.len() {
        return;
    }
    let mut sum: u64 = frame[start..]
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    // RFC 768: UDP writes a sum of zero in its other form, for 0 means that there is none.
    let value = match !(sum as u16) {
        0 if offset == UDP_CHECKSUM => 0xffff,
        value => value,
    };
    frame[field..field + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_left_to_the_device_is_done() {
        // UDP 1 -> 2 of one byte over 10.0.0.1 -> 10.0.0.2, worked out by hand: pseudo header 0x1400+3+17+9.
        let pseudo: u16 = 0x0a00 + 0x0001 + 0x0a00 + 0x0002 + 17 + 9;
        let mut frame = vec![0_u8; 34];
        frame.extend([0, 1, 0, 2, 0, 9]);
        frame.extend(pseudo.to_be_bytes());
        frame.push(0x61);
        finish_checksum(&mut frame, 34, 6);
        let whole = u32::from(pseudo) + 1 + 2 + 9 + 0x6100;
        let folded = (whole & 0xffff) + (whole >> 16);
        assert_eq!(frame[40..42], (!(folded as u16)).to_be_bytes());
    }

    #[test]
    fn a_header_that_points_outside_is_harmless() {
        let mut frame = vec![7; 40];
        finish_checksum(&mut frame, 38, 6);
        finish_checksum(&mut frame, usize::MAX, 6);
        assert_eq!(frame, vec![7; 40]);
    }

    #[test]
    fn devices_that_are_none_are_named() {
        let link = Link::default();
        let error = Bridge::open("nosuch0", "nosuch1", &link).err();
        assert!(format!("{:#}", error.expect("an error")).contains("nosuch0"));
        let error = Bridge::open("lo", "lo", &link).err();
        assert!(format!("{:#}", error.expect("an error")).contains("two ends"));
    }
}
