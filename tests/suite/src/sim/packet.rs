//! Packets as the wire sees them: what a demultiplexer and a router must read, and what a router and a stranger write.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bywash::seams::wire::VlanId;
use bywash::seams::wire::checksum::sum;

use super::dice::mix;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// A flow from the receiver's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    /// Destination address.
    pub local: IpAddr,
    /// Source address.
    pub remote: IpAddr,
    /// Destination port.
    pub local_port: u16,
    /// Source port.
    pub remote_port: u16,
}

impl Ports {
    /// What RSS hashes.
    pub fn hash(&self) -> u64 {
        let address = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 ^ ip.to_bits() as u64,
        };
        let ports = u64::from(self.local_port) << 16 | u64::from(self.remote_port);
        mix(mix(address(self.local)) ^ address(self.remote)) ^ mix(ports)
    }

    /// The flow from the other side.
    pub fn reversed(&self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
            local_port: self.remote_port,
            remote_port: self.local_port,
        }
    }
}

struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &'a [u8],
}

/// Reads an IP header without judging it.
fn ip(packet: &[u8]) -> Option<Ip<'_>> {
    if packet.first()? >> 4 == 4 {
        let header = packet.get(..20)?;
        let at = |i: usize| Ipv4Addr::new(header[i], header[i + 1], header[i + 2], header[i + 3]);
        Some(Ip {
            source: at(12).into(),
            destination: at(16).into(),
            protocol: header[9],
            payload: packet.get(usize::from(header[0] & 15) * 4..)?,
        })
    } else {
        let header = packet.get(..40)?;
        let at = |i: usize| {
            let octets: [u8; 16] = header[i..i + 16].try_into().expect("16 octets");
            Ipv6Addr::from(octets)
        };
        Some(Ip {
            source: at(8).into(),
            destination: at(24).into(),
            protocol: header[6],
            payload: &packet[40..],
        })
    }
}

fn ports(ip: &Ip<'_>) -> Option<Ports> {
    let ports = ip.payload.get(..4)?;
    Some(Ports {
        local: ip.destination,
        remote: ip.source,
        local_port: u16::from_be_bytes([ports[2], ports[3]]),
        remote_port: u16::from_be_bytes([ports[0], ports[1]]),
    })
}

/// Where the IP packet begins: behind Ethernet's header and the tags.
fn ip_at(frame: &[u8]) -> usize {
    let mut at = ETHERNET;
    while matches!(frame.get(at - 2..at), Some([0x81, 0x00] | [0x88, 0xa8])) {
        at += 4;
    }
    at
}

fn packet_of(frame: &[u8]) -> Option<&[u8]> {
    let at = ip_at(frame);
    matches!(frame.get(at - 2..at)?, [0x08, 0x00] | [0x86, 0xdd]).then(|| &frame[at..])
}

/// Whether the frame's tags are those of this VLAN, whatever their priorities.
pub fn is_of_vlan(frame: &[u8], vlan: Option<VlanId>) -> bool {
    let tags = frame.get(12..ip_at(frame) - 2).unwrap_or_default();
    let tags = tags.chunks_exact(4).map(|tag| {
        let id = u16::from_be_bytes([tag[2], tag[3]]) & 0xfff;
        (tag[0] == 0x88, id)
    });
    let outer = vlan.map(|vlan| (vlan.is_service(), vlan.raw()));
    let inner = vlan.and_then(VlanId::inner).map(|id| (false, id));
    tags.eq(outer.into_iter().chain(inner))
}

/// The flow of a TCP frame as its receiver sees it, and whether it is a SYN without ACK; right or damaged.
pub fn flow_of(frame: &[u8]) -> Option<(Ports, bool)> {
    let ip = ip(packet_of(frame)?)?;
    if ip.protocol != 6 {
        return None;
    }
    let is_syn = ip.payload.get(13).is_some_and(|flags| flags & 0x12 == 0x02);
    Some((ports(&ip)?, is_syn))
}

/// Of an ICMP error: the flow that it quotes, as its receiver sees that flow's answers.
pub fn quoted_flow(frame: &[u8]) -> Option<Ports> {
    let ip_header = ip(packet_of(frame)?)?;
    if !matches!(ip_header.protocol, 1 | 58) {
        return None;
    }
    let quoted = ip(ip_header.payload.get(8..)?)?;
    (quoted.protocol == 6)
        .then(|| ports(&quoted))?
        .map(|flow| flow.reversed())
}

/// Bytes of the IP packet in a frame.
pub fn ip_len(frame: &[u8]) -> usize {
    frame.len().saturating_sub(ip_at(frame))
}

/// The answer of a router whose next link takes no more than `mtu` bytes: ICMP type 3 code 4 (RFC 1191 4), ICMPv6 type 2
/// (RFC 4443 3.2), with as much of the packet as fits into 576 and 1280 bytes.
pub fn too_big(frame: &[u8], mtu: u16) -> Option<Box<[u8]>> {
    let packet = packet_of(frame)?;
    let mut out = Vec::new();
    out.extend_from_slice(&frame[6..12]);
    out.extend_from_slice(&frame[..6]);
    out.extend_from_slice(&frame[12..ip_at(frame)]);
    if packet[0] >> 4 == 4 {
        let quote = &packet[..packet.len().min(576 - 28)];
        let len = (28 + quote.len()) as u16;
        let mut header = [0; 20];
        header[0] = 0x45;
        header[2..4].copy_from_slice(&len.to_be_bytes());
        header[8..10].copy_from_slice(&[64, 1]);
        header[12..16].copy_from_slice(&[10, 0, 0, 254]);
        header[16..20].copy_from_slice(&packet[12..16]);
        let check = sum(&header).finish().to_be_bytes();
        header[10..12].copy_from_slice(&check);
        let mut icmp = vec![3, 4, 0, 0, 0, 0];
        icmp.extend_from_slice(&mtu.to_be_bytes());
        icmp.extend_from_slice(quote);
        let check = sum(&icmp).finish().to_be_bytes();
        icmp[2..4].copy_from_slice(&check);
        out.extend_from_slice(&header);
        out.extend_from_slice(&icmp);
    } else {
        let quote = &packet[..packet.len().min(1280 - 48)];
        let len = (8 + quote.len()) as u16;
        let router = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 254).octets();
        let mut icmp = vec![2, 0, 0, 0, 0, 0];
        icmp.extend_from_slice(&mtu.to_be_bytes());
        icmp.extend_from_slice(quote);
        let mut pseudo = Vec::new();
        pseudo.extend_from_slice(&router);
        pseudo.extend_from_slice(&packet[8..24]);
        pseudo.extend_from_slice(&u32::from(len).to_be_bytes());
        pseudo.extend_from_slice(&[0, 0, 0, 58]);
        pseudo.extend_from_slice(&icmp);
        let check = sum(&pseudo).finish().to_be_bytes();
        icmp[2..4].copy_from_slice(&check);
        out.extend_from_slice(&[0x60, 0, 0, 0]);
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&[58, 64]);
        out.extend_from_slice(&router);
        out.extend_from_slice(&packet[8..24]);
        out.extend_from_slice(&icmp);
    }
    Some(out.into())
}

/// Marks an ECN-capable packet as having met congestion (RFC 3168 5); `false`: it is not capable.
pub fn mark(frame: &mut [u8]) -> bool {
    let at = ip_at(frame);
    if packet_of(frame).is_none() || frame.len() < at + 20 {
        return false;
    }
    if frame[at] >> 4 == 4 {
        if frame[at + 1] & 3 == 0 {
            return false;
        }
        frame[at + 1] |= 3;
        let header_len = usize::from(frame[at] & 15) * 4;
        frame[at + 10..at + 12].fill(0);
        let check = sum(&frame[at..at + header_len]).finish().to_be_bytes();
        frame[at + 10..at + 12].copy_from_slice(&check);
    } else {
        // The traffic class lies across the first two octets; its last two bits are bits 5 and 4 of the second.
        if frame[at + 1] & 0x30 == 0 {
            return false;
        }
        frame[at + 1] |= 0x30;
    }
    true
}

/// Makes the TCP checksum of a whole IPv4 frame right again.
///
/// # Panics
/// If it is no such frame.
pub fn fix_checksum(frame: &mut [u8]) {
    let packet = &mut frame[ETHERNET..];
    assert_eq!(packet[0], 0x45, "IPv4 without options");
    packet[10..12].fill(0);
    let check = sum(&packet[..20]).finish().to_be_bytes();
    packet[10..12].copy_from_slice(&check);
    packet[36..38].fill(0);
    let mut summed = packet[12..20].to_vec();
    summed.extend_from_slice(&[0, 6]);
    summed.extend_from_slice(&(packet.len() as u16 - 20).to_be_bytes());
    summed.extend_from_slice(&packet[20..]);
    let check = sum(&summed).finish().to_be_bytes();
    packet[36..38].copy_from_slice(&check);
}
