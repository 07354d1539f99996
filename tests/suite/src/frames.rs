//! Frames written by hand, right and wrong ones, and their way onto the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use crate::kernel::Random;

/// TCP flags.
pub mod flags {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Synchronise.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
    /// The urgent pointer counts.
    pub const URG: u8 = 32;
}

/// The link address in what `ip -j link show` says of a device.
///
/// # Panics
/// If it says none.
pub fn mac(link: &serde_json::Value) -> [u8; 6] {
    let text = link["address"].as_str().expect("a link address");
    let mut bytes = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"));
    std::array::from_fn(|_| bytes.next().expect("six bytes"))
}

/// A TCP segment in a frame, with everything a sender may choose.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Link addresses: destination, source.
    pub macs: ([u8; 6], [u8; 6]),
    /// Addresses of one family: source, destination.
    pub addresses: (IpAddr, IpAddr),
    /// Ports: source, destination.
    pub ports: (u16, u16),
    /// Sequence and acknowledgement number.
    pub numbers: (u32, u32),
    /// See [`flags`].
    pub flags: u8,
    /// Options, padded to a multiple of four.
    pub options: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
}

pub(crate) fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum()
}

pub(crate) fn fold(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

impl Segment {
    /// Offset of the TCP header in the frame.
    pub fn tcp_at(&self) -> usize {
        14 + if self.addresses.0.is_ipv4() { 20 } else { 40 }
    }

    /// The frame, with right lengths and checksums.
    pub fn frame(&self) -> Vec<u8> {
        let tcp = self.tcp();
        let mut frame = [self.macs.0, self.macs.1].concat();
        match self.addresses {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([8, 0]);
                let length = u16::try_from(20 + tcp.len())
                    .expect("a packet")
                    .to_be_bytes();
                let mut ip = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, 6, 0, 0];
                ip.extend(source.octets());
                ip.extend(destination.octets());
                let checksum = fold(sum(&ip));
                ip[10..12].copy_from_slice(&checksum);
                frame.extend(ip);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd]);
                let length = u16::try_from(tcp.len()).expect("a packet").to_be_bytes();
                frame.extend([0x60, 0, 0, 0, length[0], length[1], 6, 64]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            other => panic!("{other:?} are of two families"),
        }
        frame.extend(tcp);
        frame
    }

    fn tcp(&self) -> Vec<u8> {
        let mut tcp = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        tcp.extend([self.numbers.0.to_be_bytes(), self.numbers.1.to_be_bytes()].concat());
        let words = u8::try_from(5 + self.options.len() / 4).expect("options of at most 40 bytes");
        tcp.extend([words << 4, self.flags, 0x20, 0, 0, 0, 0, 0]);
        tcp.extend(&self.options);
        tcp.extend(&self.payload);
        let (source, destination) = match self.addresses {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                (source.octets().to_vec(), destination.octets().to_vec())
            }
            (source, destination) => (octets6(source).to_vec(), octets6(destination).to_vec()),
        };
        let pseudo = sum(&source) + sum(&destination) + 6 + tcp.len() as u32;
        let checksum = fold(pseudo + sum(&tcp));
        tcp[16..18].copy_from_slice(&checksum);
        tcp
    }
}

fn octets6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => Ipv4Addr::to_ipv6_mapped(&address).octets(),
        IpAddr::V6(address) => Ipv6Addr::octets(&address),
    }
}

/// Damages a frame: bits, bytes, lengths, its end. The link addresses stay, so that it arrives.
pub fn mutate(frame: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = 12 + random.below(frame.len().saturating_sub(12).max(1));
        match random.below(6) {
            0 if at < frame.len() => frame[at] ^= 1 << random.below(8),
            1 if at < frame.len() => frame[at] = random.draw() as u8,
            2 => frame.truncate(at.max(14)),
            3 => frame.extend(vec![random.draw() as u8; random.below(64)]),
            4 if at < frame.len() => frame[at] = [0, 0xff, 0x7f, 0x80][random.below(4)],
            _ if at < frame.len() => drop(frame.remove(at)),
            _ => {}
        }
    }
}

/// What raw sockets call a device of the calling thread's network namespace.
///
/// # Panics
/// If there is no such device.
pub(crate) fn device_address(device: &str) -> LinkAddr {
    let mut interfaces = nix::ifaddrs::getifaddrs().expect("the interfaces");
    let address = interfaces.find_map(|one| {
        let address = one.address?;
        address
            .as_link_addr()
            .copied()
            .filter(|_| one.interface_name == device)
    });
    address.unwrap_or_else(|| panic!("no device {device}"))
}

/// A raw socket on a device of the calling thread's network namespace.
pub struct Wire {
    socket: OwnedFd,
    address: LinkAddr,
}

impl Wire {
    /// Opens it.
    ///
    /// # Panics
    /// If there is no such device, or no right.
    pub fn open(device: &str) -> Self {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .expect("a raw socket");
        Self {
            socket,
            address: device_address(device),
        }
    }

    /// The device's own link address.
    pub fn mac(&self) -> [u8; 6] {
        self.address.addr().expect("an Ethernet device")
    }

    /// Sends one frame, as it stands; answers whether the device took it.
    pub fn send(&self, frame: &[u8]) -> bool {
        sendto(
            self.socket.as_raw_fd(),
            frame,
            &self.address,
            MsgFlags::empty(),
        )
        .is_ok()
    }
}
