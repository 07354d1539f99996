//! ICMP errors about TCP segments (RFC 792, RFC 4443): what a router, or the peer's host, says of a segment that we sent.
//!
//! ```text
//! Ethernet | IP | type code checksum | rest: MTU | IP header of our packet | ports, sequence number ...
//!                 `---- ICMP header, 8 octets ---'`------ quotation -------------------------------'
//! ```
//!
//! Every error quotes the packet that it is about: its IP header and at least 8 octets behind it, which for TCP are the ports
//! and the sequence number. That names the connection, and the number lets TCP ask whether such a segment is in flight,
//! which somebody who guesses cannot know (RFC 5927 4.1). Nothing else of the quotation is believed.
//!
//! Both families are reduced to what TCP does about it ([`IcmpKind`]). Replies, redirects and neighbour discovery are the
//! kernel's; source quench is obsolete and ignored (RFC 6633).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::{pseudo_header, sum};
use crate::tuple::PROTOCOL_TCP;
use crate::{DropReason, SeqNumber, Tuple, VlanId, ethernet, ipv4, ipv6};

const PROTOCOL_ICMP_V4: u8 = 1;
const PROTOCOL_ICMP_V6: u8 = 58;

/// Octets in front of the quotation.
const HEADER_LEN: usize = 8;

/// Octets of TCP that every error quotes: ports and sequence number.
const QUOTED_TCP_LEN: usize = 8;

/// What an ICMP error says, in the words that both families share.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IcmpKind {
    /// The packet does not fit a link on the way and may not be fragmented.
    PacketTooBig {
        /// IP packet that would fit, in bytes; 0 from a router that does not say (before RFC 1191).
        mtu: u32,
    },
    /// No way to the network or the host, now (codes 0, 1, 5 to 7, 11, 12 of RFC 792 and RFC 1122; 0 and 3 of RFC 4443).
    HostUnreachable,
    /// The host is there but nothing there takes TCP, or the port (RFC 792 codes 2, 3; RFC 4443 code 4).
    PortUnreachable,
    /// An administrator forbids it (RFC 1812 codes 9, 10, 13 to 15; RFC 4443 codes 1, 2, 5, 6).
    Prohibited,
    /// The hop limit ran out on the way, or fragments went missing.
    TimeExceeded,
    /// Something in the header is not understood.
    ParameterProblem,
}

impl IcmpKind {
    /// The name that counters and logs use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PacketTooBig { .. } => "packet-too-big",
            Self::HostUnreachable => "host-unreachable",
            Self::PortUnreachable => "port-unreachable",
            Self::Prohibited => "prohibited",
            Self::TimeExceeded => "time-exceeded",
            Self::ParameterProblem => "parameter-problem",
        }
    }
}

/// An ICMP error about a segment that we sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcmpError {
    /// The flow as we see it: `local` sent the quoted segment.
    pub tuple: Tuple,
    /// Sequence number of the quoted segment.
    pub seq: SeqNumber,
    /// What is wrong.
    pub kind: IcmpKind,
    /// Who says so: a router, or the peer itself.
    pub reporter: IpAddr,
}

/// Decodes an Ethernet frame that carries an ICMP error about a TCP segment of ours.
///
/// Never panics, whatever the bytes.
///
/// # Errors
/// Why the packet is to be dropped: the reasons of [`decode`](crate::decode) for link and IP; `NotTcp` for a packet that is
/// not ICMP either; `BadIcmp`; `IcmpNotForTcp`.
#[cold]
pub fn decode_icmp(frame: &[u8]) -> Result<IcmpError, DropReason> {
    let link = ethernet::parse(frame)?;
    let bytes = &frame[link.header_len..];
    match link.ethertype {
        ethernet::ETHERTYPE_IPV4 => {
            let packet = ipv4::parse(bytes, PROTOCOL_ICMP_V4)?;
            let message = &bytes[packet.payload.clone()];
            if sum(message).finish() != 0 {
                return Err(DropReason::BadIcmp);
            }
            let (kind, quoted) = parse_message(message, kind_v4)?;
            finish(
                kind,
                quote_v4(quoted)?,
                packet.source,
                packet.destination,
                link.vlan,
            )
        }
        ethernet::ETHERTYPE_IPV6 => {
            let packet = ipv6::parse(bytes, PROTOCOL_ICMP_V6)?;
            let message = &bytes[packet.payload.clone()];
            let (source, destination) = (packet.source, packet.destination);
            let pseudo = pseudo_header(source, destination, PROTOCOL_ICMP_V6, message.len());
            if pseudo.then(sum(message)).finish() != 0 {
                return Err(DropReason::BadIcmp);
            }
            let (kind, quoted) = parse_message(message, kind_v6)?;
            finish(kind, quote_v6(quoted)?, source, destination, link.vlan)
        }
        _ => Err(DropReason::NotIp),
    }
}

/// The header, judged by `kind` from type, code and the rest of the header; and the quotation.
fn parse_message(
    message: &[u8],
    kind: fn(u8, u8, u32) -> Option<IcmpKind>,
) -> Result<(IcmpKind, &[u8]), DropReason> {
    let Some((&[kind_octet, code, _, _, r0, r1, r2, r3], quoted)) =
        message.split_first_chunk::<HEADER_LEN>()
    else {
        return Err(DropReason::BadIcmp);
    };
    let rest = u32::from_be_bytes([r0, r1, r2, r3]);
    let kind = kind(kind_octet, code, rest).ok_or(DropReason::IcmpNotForTcp)?;
    Ok((kind, quoted))
}

fn kind_v4(kind: u8, code: u8, rest: u32) -> Option<IcmpKind> {
    Some(match (kind, code) {
        // RFC 1191 4: the MTU stands in the low half.
        (3, 4) => IcmpKind::PacketTooBig { mtu: rest & 0xffff },
        (3, 2 | 3) => IcmpKind::PortUnreachable,
        (3, 9 | 10 | 13..=15) => IcmpKind::Prohibited,
        (3, _) => IcmpKind::HostUnreachable,
        (11, _) => IcmpKind::TimeExceeded,
        (12, _) => IcmpKind::ParameterProblem,
        _ => return None,
    })
}

fn kind_v6(kind: u8, code: u8, rest: u32) -> Option<IcmpKind> {
    Some(match (kind, code) {
        (1, 4) => IcmpKind::PortUnreachable,
        (1, 1 | 2 | 5 | 6) => IcmpKind::Prohibited,
        (1, _) => IcmpKind::HostUnreachable,
        (2, _) => IcmpKind::PacketTooBig { mtu: rest },
        (3, _) => IcmpKind::TimeExceeded,
        (4, _) => IcmpKind::ParameterProblem,
        _ => return None,
    })
}

/// What a quotation says of the packet: its addresses, and the 8 octets of TCP.
struct Quote {
    source: IpAddr,
    destination: IpAddr,
    tcp: [u8; QUOTED_TCP_LEN],
}

/// The header checksum is not looked at: the packet's fields changed on the way, and boxes are careless about it.
fn quote_v4(quoted: &[u8]) -> Result<Quote, DropReason> {
    let header = quoted
        .first_chunk::<{ ipv4::HEADER_LEN }>()
        .ok_or(DropReason::BadIcmp)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let first_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
    if header[0] >> 4 != 4 || header_len < ipv4::HEADER_LEN || !first_fragment {
        return Err(DropReason::BadIcmp);
    }
    if header[9] != PROTOCOL_TCP {
        return Err(DropReason::IcmpNotForTcp);
    }
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    Ok(Quote {
        source: IpAddr::V4(Ipv4Addr::new(s0, s1, s2, s3)),
        destination: IpAddr::V4(Ipv4Addr::new(d0, d1, d2, d3)),
        tcp: quoted_tcp(quoted, header_len)?,
    })
}

/// We send no extension headers, so a quotation that has them is of no packet of ours.
fn quote_v6(quoted: &[u8]) -> Result<Quote, DropReason> {
    let header = quoted
        .first_chunk::<{ ipv6::HEADER_LEN }>()
        .ok_or(DropReason::BadIcmp)?;
    if header[0] >> 4 != 6 {
        return Err(DropReason::BadIcmp);
    }
    if header[6] != PROTOCOL_TCP {
        return Err(DropReason::IcmpNotForTcp);
    }
    let source: [u8; 16] = *header[8..].first_chunk().expect("8 + 16 < 40");
    let destination: [u8; 16] = *header.last_chunk().expect("16 < 40");
    Ok(Quote {
        source: IpAddr::V6(Ipv6Addr::from(source)),
        destination: IpAddr::V6(Ipv6Addr::from(destination)),
        tcp: quoted_tcp(quoted, ipv6::HEADER_LEN)?,
    })
}

fn quoted_tcp(quoted: &[u8], at: usize) -> Result<[u8; QUOTED_TCP_LEN], DropReason> {
    quoted
        .get(at..)
        .and_then(|tcp| tcp.first_chunk())
        .copied()
        .ok_or(DropReason::BadIcmp)
}

fn finish(
    kind: IcmpKind,
    quote: Quote,
    reporter: IpAddr,
    destination: IpAddr,
    vlan: Option<VlanId>,
) -> Result<IcmpError, DropReason> {
    // An error goes to the sender of what it quotes (RFC 1122 3.2.2).
    if quote.source != destination {
        return Err(DropReason::BadIcmp);
    }
    let [l0, l1, r0, r1, q0, q1, q2, q3] = quote.tcp;
    let (local_port, remote_port) = (u16::from_be_bytes([l0, l1]), u16::from_be_bytes([r0, r1]));
    // Port 0 names nothing (RFC 6335 6): no segment of ours has it, so that is not what the error is about.
    if local_port == 0 || remote_port == 0 {
        return Err(DropReason::BadIcmp);
    }
    Ok(IcmpError {
        tuple: Tuple {
            vlan,
            ..Tuple::tcp(quote.source, local_port, quote.destination, remote_port)
        },
        seq: SeqNumber::new(u32::from_be_bytes([q0, q1, q2, q3])),
        kind,
        reporter,
    })
}
