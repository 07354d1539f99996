//! The IPv4 header (RFC 791 3.1).
//!
//! ```text
//!  0 version|IHL   1 TOS: DSCP, ECN    2 total length
//!  4 identification                    6 flags|fragment offset
//!  8 time to live  9 protocol         10 header checksum
//! 12 source       16 destination      20 options up to IHL * 4
//! ```

use core::net::{IpAddr, Ipv4Addr};
use core::ops::Range;

use crate::checksum::sum;
use crate::ip::Packet;
use crate::tuple::PROTOCOL_TCP;
use crate::words::Words;
use crate::{DropReason, Ecn};

/// Octets of a header without options.
pub const HEADER_LEN: usize = 20;

const DONT_FRAGMENT: u16 = 0x4000;
/// More-fragments and the offset: any of them makes a fragment.
const FRAGMENT: u16 = 0x3fff;

/// Parses the packet at the front of `bytes`, which must carry `protocol`; what lies behind its total length is Ethernet
/// padding.
#[inline(always)]
pub(crate) fn parse(bytes: &[u8], protocol: u8) -> Result<Packet, DropReason> {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Err(DropReason::FrameTooShort);
    };
    if header[0] >> 4 != 4 {
        return Err(DropReason::BadIpVersion);
    }
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header_len < HEADER_LEN {
        return Err(DropReason::BadIpHeaderLength);
    }
    let Some(with_options) = bytes.get(..header_len) else {
        return Err(DropReason::BadIpHeaderLength);
    };
    // RFC 1122 3.2.1.2: verified on every packet, also where the TCP checksum is another's business.
    let checksum = match header_len {
        // Of a known length it takes no loop.
        HEADER_LEN => sum(header),
        _ => sum(with_options),
    };
    if checksum.finish() != 0 {
        return Err(DropReason::BadIpChecksum);
    }
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if total_len < header_len || total_len > bytes.len() {
        return Err(DropReason::BadIpLength);
    }
    if u16::from_be_bytes([header[6], header[7]]) & FRAGMENT != 0 {
        return Err(DropReason::Fragment);
    }
    if header[9] != protocol {
        return Err(DropReason::NotTcp);
    }
    let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
    let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    check_addresses(source, destination)?;
    Ok(Packet {
        source: IpAddr::V4(source),
        destination: IpAddr::V4(destination),
        ecn: Ecn::from_bits(header[1]),
        hop_limit: header[8],
        payload: Range {
            start: header_len,
            end: total_len,
        },
    })
}

/// RFC 1122 3.2.1.3 says which addresses may stand where; RFC 9293 3.9.2.3 keeps TCP to unicast. A packet to its own
/// sender is the LAND attack, and never comes from a wire.
#[inline(always)]
fn check_addresses(source: Ipv4Addr, destination: Ipv4Addr) -> Result<(), DropReason> {
    if not_unicast(source) || source == destination {
        return Err(DropReason::BadSourceAddress);
    }
    if not_unicast(destination) {
        return Err(DropReason::BadDestinationAddress);
    }
    Ok(())
}

/// 0/8 ("this network"), 127/8, 224/4, and the limited broadcast. A subnet's broadcast address only the routes know.
#[inline]
const fn not_unicast(address: Ipv4Addr) -> bool {
    address.octets()[0] == 0
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast()
}

/// Writes a header without options into `header`, which has exactly [`HEADER_LEN`] octets: DF set and identification
/// zero, which goes together (RFC 6864 4.1).
///
/// # Panics
/// If `total_len` is above 65535.
#[inline]
pub(crate) fn write(
    header: &mut [u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ecn: Ecn,
    hop_limit: u8,
    total_len: usize,
) {
    let total_len = u16::try_from(total_len).expect("an IPv4 packet is at most 65535 octets");
    let mut words = Words::new(header);
    words.put_halves(0x4500 | u16::from(ecn.bits()), total_len);
    words.put_halves(0, DONT_FRAGMENT);
    words.put_halves(u16::from(hop_limit) << 8 | u16::from(PROTOCOL_TCP), 0);
    words.put(source.to_bits());
    words.put(destination.to_bits());
    let checksum = words.sum().finish();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}
