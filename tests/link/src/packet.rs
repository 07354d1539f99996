//! Packet sockets: whole frames of a device, as they would be on a wire.
//!
//! What the kernel keeps beside a frame is put into it: a checksum that was left to the device (`PACKET_VNET_HDR`), and the outer
//! VLAN tag, which the kernel takes out before packet sockets see the frame (`PACKET_AUXDATA`).
//!
//! ```text
//!  received   virtio header 10 | addresses 12 |          | EtherType and the rest      tag beside
//!  frame                         addresses 12 | tag 4    | EtherType and the rest
//! ```

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind,
    recv, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use nix::{setsockopt_impl, sockopt_impl};

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
sockopt_impl!(
    /// A `struct tpacket_auxdata` comes with each frame (`packet(7)`).
    AuxData, SetOnly, libc::SOL_PACKET, libc::PACKET_AUXDATA, bool
);

/// Length of `struct virtio_net_hdr`: flags, gso_type, then hdr_len, gso_size, csum_start, csum_offset of 16 bits each.
const VNET: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;

/// Where UDP's checksum is in its header (TCP's: 16).
const UDP_CHECKSUM: usize = 6;

/// `struct tpacket_auxdata` (linux/if_packet.h): status, len, snaplen of 32 bits, mac, net, vlan_tci, vlan_tpid of 16.
const AUX: usize = 20;
const AUX_TCI: usize = 16;
const AUX_TPID: usize = 18;
/// `TP_STATUS_VLAN_VALID`, `TP_STATUS_VLAN_TPID_VALID`.
const HAS_TAG: u32 = 1 << 4;
const HAS_TPID: u32 = 1 << 6;

/// Both addresses of an Ethernet header.
const ADDRESSES: usize = 12;
/// A VLAN tag.
pub(crate) const TAG: usize = 4;

/// Largest frame that a socket may give: a train of segments, with its headers.
const LARGEST: usize = 1 << 17;

/// Socket buffer in bytes: a burst at some Gbit/s while the loop is elsewhere.
const BUFFER: usize = 8 << 20;

/// What a socket gave.
pub(crate) enum Received<'a> {
    /// A frame.
    Frame(&'a mut [u8]),
    /// A train of segments that nobody has cut: no packet of any wire.
    Train,
    /// Nothing now.
    Nothing,
}

/// A device's packet socket, past its queueing discipline and deaf to what it sends itself.
pub(crate) struct PacketSocket {
    pub(crate) name: String,
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl PacketSocket {
    /// Opens a device of the calling thread's network namespace. Needs CAP_NET_RAW.
    pub(crate) fn open(name: &str) -> Result<Self> {
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
        setsockopt(&fd, AuxData, &true).context("PACKET_AUXDATA")?;
        setsockopt(&fd, IgnoreOutgoing, &true)
            .context("PACKET_IGNORE_OUTGOING (Linux 4.20 or later)")?;
        setsockopt(&fd, QdiscBypass, &true).context("PACKET_QDISC_BYPASS")?;
        setsockopt(&fd, sockopt::RcvBufForce, &BUFFER).context("SO_RCVBUFFORCE")?;
        bind(fd.as_raw_fd(), &address).with_context(|| format!("cannot bind to {name}"))?;
        // Until it was bound it heard every device.
        let mut scratch = [0; 256];
        while recv(fd.as_raw_fd(), &mut scratch, MsgFlags::MSG_DONTWAIT).is_ok() {}
        Ok(Self {
            name: name.to_owned(),
            fd,
            buffer: vec![0; LARGEST],
        })
    }

    /// For `poll`.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The next frame that has arrived.
    pub(crate) fn receive(&mut self) -> Result<Received<'_>> {
        let mut header = [0; VNET];
        let (addresses, rest) = self.buffer.split_at_mut(ADDRESSES + TAG);
        let mut control = nix::cmsg_space!([u8; AUX]);
        let (length, tag) = {
            let mut parts = [
                IoSliceMut::new(&mut header),
                IoSliceMut::new(&mut addresses[..ADDRESSES]),
                IoSliceMut::new(rest),
            ];
            let message = recvmsg::<()>(
                self.fd.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::MSG_DONTWAIT,
            );
            match message {
                Ok(message) => {
                    let tag = message.cmsgs().context("PACKET_AUXDATA")?.find_map(tag_of);
                    (message.bytes, tag)
                }
                // ENETDOWN is said once when the device goes down; it may come up again.
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => {
                    return Ok(Received::Nothing);
                }
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot receive from {}", self.name));
                }
            }
        };
        let Some(length) = length
            .checked_sub(VNET)
            .filter(|length| *length >= ADDRESSES)
        else {
            return Ok(Received::Nothing);
        };
        let field = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
        if header[1] != 0 {
            return Ok(Received::Train);
        }
        let end = length + TAG;
        // Without the tag, as the sender's offsets count.
        self.buffer.copy_within(..ADDRESSES, TAG);
        if header[0] & NEEDS_CHECKSUM != 0 {
            finish_checksum(&mut self.buffer[TAG..end], field(6), field(8));
        }
        let Some(tag) = tag else {
            return Ok(Received::Frame(&mut self.buffer[TAG..end]));
        };
        self.buffer.copy_within(TAG..TAG + ADDRESSES, 0);
        self.buffer[ADDRESSES..ADDRESSES + TAG].copy_from_slice(&tag);
        Ok(Received::Frame(&mut self.buffer[..end]))
    }

    /// Sends a frame, in parts. Whether the device took it: it may be too large for it, or the device down or its ring full.
    pub(crate) fn send(&self, parts: [&[u8]; 3]) -> Result<bool> {
        let [one, two, three] = parts.map(IoSlice::new);
        let parts = [IoSlice::new(&[0; VNET]), one, two, three];
        let sent = sendmsg::<()>(
            self.fd.as_raw_fd(),
            &parts,
            &[],
            MsgFlags::MSG_DONTWAIT,
            None,
        );
        match sent {
            Ok(_) => Ok(true),
            Err(
                Errno::ENOBUFS | Errno::EAGAIN | Errno::EMSGSIZE | Errno::EINVAL | Errno::ENETDOWN,
            ) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot send to {}", self.name)),
        }
    }
}

/// The outer tag that the kernel has taken out.
fn tag_of(message: ControlMessageOwned) -> Option<[u8; TAG]> {
    let ControlMessageOwned::Unknown(one) = message else {
        return None;
    };
    let is_aux = one.cmsg_header.cmsg_level == libc::SOL_PACKET
        && one.cmsg_header.cmsg_type == libc::PACKET_AUXDATA;
    tag_in(&one.data_bytes).filter(|_| is_aux)
}

fn tag_in(aux: &[u8]) -> Option<[u8; TAG]> {
    let status = u32::from_ne_bytes(*aux.first_chunk()?);
    let field = |at: usize| Some(u16::from_ne_bytes([*aux.get(at)?, *aux.get(at + 1)?]));
    if status & HAS_TAG == 0 {
        return None;
    }
    let tpid = match status & HAS_TPID {
        0 => 0x8100,
        _ => field(AUX_TPID)?,
    };
    let [[a, b], [c, d]] = [tpid.to_be_bytes(), field(AUX_TCI)?.to_be_bytes()];
    Some([a, b, c, d])
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
    fn the_tag_beside_a_frame_is_read() {
        let aux = |status: u32, tci: u16, tpid: u16| {
            let mut bytes = status.to_ne_bytes().to_vec();
            bytes.resize(AUX_TCI, 0);
            bytes.extend([tci, tpid].iter().flat_map(|field| field.to_ne_bytes()));
            assert_eq!(bytes.len(), AUX);
            bytes
        };
        assert_eq!(tag_in(&aux(HAS_TPID, 5, 0x88a8)), None);
        assert_eq!(tag_in(&aux(HAS_TAG, 5, 0)), Some([0x81, 0, 0, 5]));
        let both = aux(HAS_TAG | HAS_TPID, 0x2005, 0x88a8);
        assert_eq!(tag_in(&both), Some([0x88, 0xa8, 0x20, 5]));
        assert_eq!(tag_in(&both[..17]), None);
    }
}
