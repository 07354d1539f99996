//! A frame in, a segment out: one pass from the outside in.

use core::net::Ipv4Addr;
use core::ops::Range;

use crate::checksum::{pseudo_header, sum};
use crate::ip::Packet;
use crate::tuple::PROTOCOL_TCP;
use crate::{DropReason, Ecn, Flags, MacAddr, Options, Segment, Tuple, ethernet, ipv4, ipv6, tcp};

/// How the TCP checksum of received segments is judged. The IPv4 header's checksum is always verified.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ChecksumPolicy {
    /// It must be right.
    #[default]
    Full,
    /// It must be right, or be exactly the sum of the pseudo header: what a kernel leaves for a NIC to complete, and what
    /// arrives where there is no NIC (veth, tun, virtio). Such a packet never crossed a wire.
    FullOrPseudo,
    /// Not looked at: something else has verified it.
    Trusted,
}

/// What a frame says, if it carries a whole TCP segment between two hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// Sender on the link.
    pub source_mac: MacAddr,
    /// Receiver on the link: never a group address; whether it is ours is the caller's question.
    pub destination_mac: MacAddr,
    /// The flow as the receiver sees it: `local` is the packet's destination.
    pub tuple: Tuple,
    /// ECN codepoint of the IP header.
    pub ecn: Ecn,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// The segment.
    pub segment: Segment,
    /// Where the payload lies in the frame, without Ethernet padding. Its length is `segment.payload_len`.
    pub payload: Range<usize>,
    /// The checksum field held the pseudo header's sum only ([`ChecksumPolicy::FullOrPseudo`]): the bytes are unverified.
    pub partial_checksum: bool,
}

/// Decodes an Ethernet frame that carries TCP over IPv4 or IPv6.
///
/// Never panics, whatever the bytes.
///
/// # Errors
/// Why the packet is to be dropped: the first reason found from the outside in. The TCP checksum is judged after the header's
/// shape and before the ports, so a damaged port counts as a bad checksum.
#[inline]
pub fn decode(frame: &[u8], policy: ChecksumPolicy) -> Result<Decoded, DropReason> {
    let link = ethernet::parse(frame)?;
    let bytes = &frame[link.header_len..];
    // The rest once for each family: where they met, every octet of an address would be put together from two places.
    match link.ethertype {
        ethernet::ETHERTYPE_IPV4 => {
            decode_segment(bytes, &link, &ipv4::parse(bytes, PROTOCOL_TCP)?, policy)
        }
        ethernet::ETHERTYPE_IPV6 => {
            decode_segment(bytes, &link, &ipv6::parse(bytes, PROTOCOL_TCP)?, policy)
        }
        _ => Err(DropReason::NotIp),
    }
}

/// The segment in the IP packet that begins with `bytes`.
#[inline(always)]
fn decode_segment(
    bytes: &[u8],
    link: &ethernet::Parsed,
    packet: &Packet,
    policy: ChecksumPolicy,
) -> Result<Decoded, DropReason> {
    let end = link.header_len + packet.payload.end;
    let bytes = &bytes[packet.payload.clone()];
    let header = tcp::parse(bytes)?;
    let pseudo = || pseudo_header(packet.source, packet.destination, PROTOCOL_TCP, bytes.len());
    let partial_checksum = match policy {
        ChecksumPolicy::Trusted => false,
        // The cheap question first: a match answers both, since what is accepted is the same in either order.
        ChecksumPolicy::FullOrPseudo if header.checksum == pseudo().partial() => true,
        ChecksumPolicy::Full | ChecksumPolicy::FullOrPseudo => {
            if pseudo().then(sum(bytes)).finish() != 0 {
                return Err(DropReason::BadTcpChecksum);
            }
            false
        }
    };
    if header.source_port == 0 || header.destination_port == 0 {
        return Err(DropReason::PortZero);
    }
    // Put together where the caller wants it, and not moved there afterwards.
    let mut result = Ok(Decoded {
        source_mac: link.source,
        destination_mac: link.destination,
        tuple: Tuple {
            local: packet.destination,
            remote: packet.source,
            local_port: header.destination_port,
            remote_port: header.source_port,
            vlan: link.vlan,
            protocol: PROTOCOL_TCP,
        },
        ecn: packet.ecn,
        hop_limit: packet.hop_limit,
        payload: Range {
            start: end - header.segment.payload_len,
            end,
        },
        segment: header.segment,
        partial_checksum,
    });
    if let (Some(list), Ok(decoded)) = (header.unusual_options, &mut result) {
        let syn = decoded.segment.flags.contains(Flags::SYN);
        decoded.segment.options = Options::parse(list, syn);
    }
    result
}

/// The flow of an untagged frame with TCP over IPv4 without options, read without a check of any kind: to fetch what will be
/// needed before the frame is decoded. `None` for all other frames, and perhaps nonsense for broken ones.
#[inline]
pub fn glance(frame: &[u8]) -> Option<Tuple> {
    let header = frame.get(ethernet::HEADER_LEN..)?.first_chunk::<24>()?;
    if frame[12..14] != ethernet::ETHERTYPE_IPV4.to_be_bytes()
        || header[0] != 0x45
        || header[9] != PROTOCOL_TCP
    {
        return None;
    }
    let address = |at: usize| {
        Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into()
    };
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    Some(Tuple::tcp(address(16), port(22), address(12), port(20)))
}
