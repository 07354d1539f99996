//! A segment in, headers out: into the headroom in front of a payload that already lies in its frame.
//!
//! ```text
//! | headroom ... [ Ethernet | IP | TCP + options ] | payload ... |
//!                ^-- header_len() octets ---------^   summed when it was copied
//! ```

use core::net::IpAddr;

use crate::checksum::{Sum, pseudo_header};
use crate::{Ecn, Link, Segment, Tuple, ethernet, ipv4, ipv6, tcp};

/// Octets of all headers of a segment: Ethernet with tag, IP, TCP with options. 54..=118.
#[inline]
pub const fn header_len(link: &Link, tuple: &Tuple, segment: &Segment) -> usize {
    link.header_len() + ip_header_len(tuple) + segment.header_len()
}

#[inline]
const fn ip_header_len(tuple: &Tuple) -> usize {
    if tuple.is_v4() {
        ipv4::HEADER_LEN
    } else {
        ipv6::HEADER_LEN
    }
}

/// Writes all headers of a segment from `tuple.local` to `tuple.remote` into `header`, checksums included.
///
/// `payload` is the sum of the `segment.payload_len` octets that follow. IPv4: don't-fragment set, identification 0.
/// The frame carries `link.vlan`'s tag; `tuple.vlan` is not looked at. Frames below Ethernet's minimum are not padded here.
///
/// # Panics
/// If `header` is not exactly [`header_len`] octets, the tuple's addresses are of different families, or the segment does not
/// fit into one IP packet.
#[inline]
pub fn emit(
    header: &mut [u8],
    link: &Link,
    tuple: &Tuple,
    ecn: Ecn,
    hop_limit: u8,
    segment: &Segment,
    payload: Sum,
) {
    let (tcp, pseudo, sum) = write(header, link, tuple, ecn, hop_limit, segment);
    let checksum = pseudo.then(sum).then(payload).finish();
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
}

/// As [`emit`], but the checksum field gets the pseudo header's sum only: for a sender behind us that completes it. Returns
/// where the TCP header begins in `header`, the first octet that the checksum covers; the field is 16 octets behind it.
///
/// # Panics
/// As [`emit`].
#[inline]
pub fn emit_partial(
    header: &mut [u8],
    link: &Link,
    tuple: &Tuple,
    ecn: Ecn,
    hop_limit: u8,
    segment: &Segment,
) -> usize {
    let (tcp, pseudo, _) = write(header, link, tuple, ecn, hop_limit, segment);
    tcp[16..18].copy_from_slice(&pseudo.partial().to_be_bytes());
    link.header_len() + ip_header_len(tuple)
}

/// All headers with a TCP checksum of 0; the TCP header again, the pseudo header's sum and the TCP header's.
#[inline(always)]
fn write<'a>(
    header: &'a mut [u8],
    link: &Link,
    tuple: &Tuple,
    ecn: Ecn,
    hop_limit: u8,
    segment: &Segment,
) -> (&'a mut [u8], Sum, Sum) {
    assert_eq!(
        header.len(),
        header_len(link, tuple, segment),
        "a header of another length"
    );
    let (ethernet, rest) = header.split_at_mut(link.header_len());
    let (ip, tcp) = rest.split_at_mut(ip_header_len(tuple));
    let segment_len = tcp.len() + segment.payload_len;
    match (tuple.local, tuple.remote) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            link.write(ethernet, ethernet::ETHERTYPE_IPV4);
            ipv4::write(
                ip,
                source,
                destination,
                ecn,
                hop_limit,
                ipv4::HEADER_LEN + segment_len,
            );
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            link.write(ethernet, ethernet::ETHERTYPE_IPV6);
            ipv6::write(ip, source, destination, ecn, hop_limit, segment_len);
        }
        _ => panic!("a flow between two address families"),
    }
    let sum = tcp::write(tcp, tuple.local_port, tuple.remote_port, segment);
    let pseudo = pseudo_header(tuple.local, tuple.remote, tuple.protocol, segment_len);
    (tcp, pseudo, sum)
}
