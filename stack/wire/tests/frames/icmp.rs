//! ICMP errors: good ones of both families, each kind, and what is wrong with the others.

use std::net::IpAddr;

use bywash_wire::{
    ChecksumPolicy, DropReason, Ecn, Flags, IcmpKind, Link, MacAddr, Segment, SeqNumber, Tuple,
    checksum, decode, decode_icmp, emit, header_len,
};
use proptest::prelude::*;

use crate::golden::{SYN_V4, SYN_V6, bytes};

const LINK: Link = Link {
    source_mac: MacAddr([2, 0, 0, 0, 0, 1]),
    destination_mac: MacAddr([2, 0, 0, 0, 0, 2]),
    vlan: None,
};
const ETHERNET: usize = 14;

/// A segment of ours as it leaves.
fn sent(tuple: &Tuple) -> Vec<u8> {
    let segment = Segment {
        seq: SeqNumber::new(0xdead_beef),
        flags: Flags::ACK,
        ..Segment::default()
    };
    let mut frame = vec![0; header_len(&LINK, tuple, &segment)];
    emit(
        &mut frame,
        &LINK,
        tuple,
        Ecn::NotEct,
        64,
        &segment,
        checksum::Sum::ZERO,
    );
    frame
}

fn tuple(v4: bool) -> Tuple {
    let (local, remote) = if v4 {
        ("192.0.2.1", "198.51.100.7")
    } else {
        ("2001:db8::1", "2001:db8:1::7")
    };
    Tuple::tcp(local.parse().unwrap(), 4_000, remote.parse().unwrap(), 80)
}

/// The router's answer to `quoted`, an IP packet.
fn error(v4: bool, kind: u8, code: u8, rest: u32, quoted: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(quoted);
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9];
    if v4 {
        let sum = checksum::sum(&message).finish();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut header = vec![0x45, 0];
        header.extend((20 + message.len() as u16).to_be_bytes());
        header.extend([0, 0, 0, 0, 64, 1, 0, 0, 203, 0, 113, 1, 192, 0, 2, 1]);
        let sum = checksum::sum(&header).finish();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend([0x08, 0x00]);
        frame.extend(header);
    } else {
        let (router, us): (IpAddr, IpAddr) = (
            "2001:db8:2::1".parse().unwrap(),
            "2001:db8::1".parse().unwrap(),
        );
        let pseudo = checksum::pseudo_header(router, us, 58, message.len());
        let sum = pseudo.then(checksum::sum(&message)).finish();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((message.len() as u16).to_be_bytes());
        frame.extend([58, 64]);
        for address in [router, us] {
            let IpAddr::V6(address) = address else {
                unreachable!("both are IPv6")
            };
            frame.extend(address.octets());
        }
    }
    frame.extend(message);
    frame
}

fn quoted(v4: bool) -> Vec<u8> {
    let tcp = if v4 { 20 } else { 40 };
    sent(&tuple(v4))[ETHERNET..][..tcp + 8].to_vec()
}

fn kind_of(v4: bool, kind: u8, code: u8, rest: u32) -> Result<IcmpKind, DropReason> {
    let error = decode_icmp(&error(v4, kind, code, rest, &quoted(v4)))?;
    assert_eq!(error.tuple, tuple(v4));
    assert_eq!(error.seq.raw(), 0xdead_beef);
    assert_ne!(error.reporter, error.tuple.remote);
    Ok(error.kind)
}

#[test]
fn every_kind_of_both_families() {
    let v4 = |kind, code, rest| kind_of(true, kind, code, rest);
    let v6 = |kind, code, rest| kind_of(false, kind, code, rest);
    let big = |mtu| Ok(IcmpKind::PacketTooBig { mtu });
    assert_eq!(v4(3, 4, 1_400), big(1_400));
    assert_eq!(v4(3, 4, 0xffff_0000), big(0), "a router before RFC 1191");
    assert_eq!(v6(2, 0, 100_000), big(100_000));
    for code in [0, 1, 5, 6, 7, 8, 11, 12, 200] {
        assert_eq!(v4(3, code, 0), Ok(IcmpKind::HostUnreachable));
    }
    for code in [2, 3] {
        assert_eq!(v4(3, code, 0), Ok(IcmpKind::PortUnreachable));
    }
    for code in [9, 10, 13, 14, 15] {
        assert_eq!(v4(3, code, 0), Ok(IcmpKind::Prohibited));
    }
    assert_eq!(v4(11, 0, 0), Ok(IcmpKind::TimeExceeded));
    assert_eq!(v4(12, 0, 0), Ok(IcmpKind::ParameterProblem));
    for code in [0, 3, 200] {
        assert_eq!(v6(1, code, 0), Ok(IcmpKind::HostUnreachable));
    }
    assert_eq!(v6(1, 4, 0), Ok(IcmpKind::PortUnreachable));
    for code in [1, 2, 5, 6] {
        assert_eq!(v6(1, code, 0), Ok(IcmpKind::Prohibited));
    }
    assert_eq!(v6(3, 1, 0), Ok(IcmpKind::TimeExceeded));
    assert_eq!(v6(4, 0, 0), Ok(IcmpKind::ParameterProblem));
    for kind in [0, 4, 5, 8, 13] {
        assert_eq!(v4(kind, 0, 0), Err(DropReason::IcmpNotForTcp), "{kind}");
    }
    for kind in [0, 127, 128, 129, 133, 136] {
        assert_eq!(v6(kind, 0, 0), Err(DropReason::IcmpNotForTcp), "{kind}");
    }
}

#[test]
fn a_quotation_must_be_of_a_segment_that_we_sent() {
    for v4 in [true, false] {
        let judge = |quoted: &[u8]| {
            let (kind, code) = if v4 { (3, 4) } else { (2, 0) };
            decode_icmp(&error(v4, kind, code, 1_400, quoted)).map(|error| error.kind)
        };
        let good = quoted(v4);
        for len in 0..good.len() {
            assert_eq!(judge(&good[..len]), Err(DropReason::BadIcmp), "{len}");
        }
        let mut other = good.clone();
        other[if v4 { 15 } else { 23 }] ^= 1;
        assert_eq!(judge(&other), Err(DropReason::BadIcmp), "another's address");
        let mut udp = good.clone();
        udp[if v4 { 9 } else { 6 }] = 17;
        assert_eq!(judge(&udp), Err(DropReason::IcmpNotForTcp));
        let mut version = good.clone();
        version[0] ^= 0x20;
        assert_eq!(judge(&version), Err(DropReason::BadIcmp));
        let ports = good.len() - 8;
        for port in [ports, ports + 2] {
            let mut zero = good.clone();
            zero[port..port + 2].fill(0);
            assert_eq!(judge(&zero), Err(DropReason::BadIcmp), "port 0");
        }
    }
    let mut fragment = quoted(true);
    fragment[7] = 1;
    let fragment = error(true, 3, 4, 1_400, &fragment);
    assert_eq!(decode_icmp(&fragment), Err(DropReason::BadIcmp));
    // Options in the quoted header are stepped over.
    let mut with_options = quoted(true);
    with_options[0] = 0x46;
    with_options.splice(20..20, [1, 1, 1, 0]);
    let decoded = decode_icmp(&error(true, 3, 4, 1_400, &with_options)).unwrap();
    assert_eq!(decoded.tuple, tuple(true));
}

#[test]
fn a_damaged_message_is_not_believed() {
    for v4 in [true, false] {
        let (kind, code) = if v4 { (3, 4) } else { (2, 0) };
        let good = error(v4, kind, code, 1_400, &quoted(v4));
        let first = ETHERNET + if v4 { 20 } else { 40 };
        for at in first..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(decode_icmp(&bad), Err(DropReason::BadIcmp), "octet {at}");
        }
        assert_eq!(
            decode(&good, ChecksumPolicy::Full).map(|decoded| decoded.tuple),
            Err(DropReason::NotTcp),
            "`decode` leaves it to `decode_icmp`"
        );
    }
    for tcp in [SYN_V4, SYN_V6] {
        assert_eq!(decode_icmp(&bytes(tcp)), Err(DropReason::NotTcp));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), v4: bool, at in 0_usize..200) {
        decode_icmp(&bytes).ok();
        let (kind, code) = if v4 { (3, 4) } else { (2, 0) };
        decode_icmp(&error(v4, kind, code, 0, &bytes)).ok();
        bytes.truncate(at);
        decode_icmp(&bytes).ok();
    }
}
