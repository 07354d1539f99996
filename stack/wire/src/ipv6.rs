//! The IPv6 header and its extension headers (RFC 8200 3, 4).
//!
//! ```text
//!  0 version|traffic class: DSCP, ECN|flow label
//!  4 payload length   6 next header   7 hop limit
//!  8 source          24 destination  40 extension headers, then TCP
//! ```
//!
//! Extension headers are a chain of unknown length that the sender chooses, so the walk is bounded: at most
//! [`MAX_EXTENSION_HEADERS`], and no octet is read twice. Fragments are not ours, so a fragment header ends the walk, also
//! that of an "atomic" fragment (RFC 6946), which no TCP sends.

use core::net::{IpAddr, Ipv6Addr};
use core::ops::Range;

use crate::ip::Packet;
use crate::tuple::PROTOCOL_TCP;
use crate::{DropReason, Ecn};

/// Octets of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Extension headers walked before a packet is given up. RFC 8200 4.1 lets each kind occur once, destination options twice.
pub const MAX_EXTENSION_HEADERS: usize = 6;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Parses the packet at the front of `bytes`, which must carry `protocol`; what lies behind its payload length is Ethernet
/// padding.
#[inline(always)]
pub(crate) fn parse(bytes: &[u8], protocol: u8) -> Result<Packet, DropReason> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(DropReason::FrameTooShort);
    };
    if header[0] >> 4 != 6 {
        return Err(DropReason::BadIpVersion);
    }
    let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let Some(payload) = rest.get(..payload_len) else {
        return Err(DropReason::BadIpLength);
    };
    let skipped = if header[6] == protocol {
        0
    } else {
        walk(header[6], payload, protocol)?
    };
    let [
        ..,
        s0,
        s1,
        s2,
        s3,
        s4,
        s5,
        s6,
        s7,
        s8,
        s9,
        s10,
        s11,
        s12,
        s13,
        s14,
        s15,
    ] = *header.first_chunk::<24>().expect("24 < 40");
    let source = Ipv6Addr::from([
        s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15,
    ]);
    let destination = Ipv6Addr::from(*header.last_chunk::<16>().expect("16 < 40"));
    check_addresses(source, destination)?;
    Ok(Packet {
        source: IpAddr::V6(source),
        destination: IpAddr::V6(destination),
        ecn: Ecn::from_bits(header[1] >> 4),
        hop_limit: header[7],
        payload: Range {
            start: HEADER_LEN + skipped,
            end: HEADER_LEN + payload_len,
        },
    })
}

/// Walks the extension headers in front of `protocol`; the answer is how many octets they take.
#[cold]
fn walk(first: u8, payload: &[u8], protocol: u8) -> Result<usize, DropReason> {
    let mut next = first;
    let mut rest = payload;
    for index in 0..=MAX_EXTENSION_HEADERS {
        match next {
            next if next == protocol => return Ok(payload.len() - rest.len()),
            FRAGMENT => return Err(DropReason::Fragment),
            // RFC 8200 4.1: hop-by-hop options stand first or nowhere.
            HOP_BY_HOP if index > 0 => return Err(DropReason::BadExtensionHeader),
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {}
            _ => return Err(DropReason::NotTcp),
        }
        if index == MAX_EXTENSION_HEADERS {
            break;
        }
        // Length in units of 8 octets, the first not counted.
        let (extension, behind) = rest
            .get(1)
            .and_then(|len| rest.split_at_checked(8 + 8 * usize::from(*len)))
            .ok_or(DropReason::BadExtensionHeader)?;
        match next {
            // RFC 8200 4.4: with segments left we are a router on the way, which we never are.
            ROUTING if extension[3] != 0 => return Err(DropReason::BadExtensionHeader),
            ROUTING => {}
            _ => check_options(&extension[2..])?,
        }
        next = extension[0];
        rest = behind;
    }
    Err(DropReason::ExtensionHeaderChainTooLong)
}

/// RFC 8200 4.2: we know no option but padding, and an unknown one is skipped only if its two high bits are zero.
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    const PAD1: u8 = 0;
    while let Some((&kind, rest)) = options.split_first() {
        if kind == PAD1 {
            options = rest;
            continue;
        }
        if kind & 0xc0 != 0 {
            return Err(DropReason::BadExtensionHeader);
        }
        options = rest
            .split_first()
            .and_then(|(&len, rest)| rest.get(usize::from(len)..))
            .ok_or(DropReason::BadExtensionHeader)?;
    }
    Ok(())
}

/// RFC 4291 2.5.2, 2.5.3, 2.7 say what may not be a source; TCP goes to unicast only. IPv4-mapped addresses do not belong on
/// a wire (Linux drops such sources too): here they would pass for the IPv4 flow that they name.
#[inline]
fn check_addresses(source: Ipv6Addr, destination: Ipv6Addr) -> Result<(), DropReason> {
    if not_unicast(source) || source == destination {
        return Err(DropReason::BadSourceAddress);
    }
    if not_unicast(destination) {
        return Err(DropReason::BadDestinationAddress);
    }
    Ok(())
}

#[inline]
const fn not_unicast(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    // `::` and `::1`, multicast ff00::/8, mapped ::ffff:0:0/96.
    bits <= 1 || bits >> 120 == 0xff || bits >> 32 == 0xffff
}

/// Writes the fixed header into `header`, which has exactly [`HEADER_LEN`] octets. The flow label is zero.
///
/// # Panics
/// If `payload_len` is above 65535.
#[inline]
pub(crate) fn write(
    header: &mut [u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    ecn: Ecn,
    hop_limit: u8,
    payload_len: usize,
) {
    let header = header
        .first_chunk_mut::<HEADER_LEN>()
        .expect("room for an IPv6 header");
    let payload_len = u16::try_from(payload_len).expect("an IPv6 payload is at most 65535 octets");
    header[0] = 0x60;
    header[1] = ecn.bits() << 4;
    header[2..4].copy_from_slice(&[0, 0]);
    header[4..6].copy_from_slice(&payload_len.to_be_bytes());
    header[6] = PROTOCOL_TCP;
    header[7] = hop_limit;
    header[8..24].copy_from_slice(&source.octets());
    header[24..40].copy_from_slice(&destination.octets());
}
