//! Every reason that `decode` can give, each from a good frame with one thing changed.

use bywash_wire::{ChecksumPolicy, DropReason, Options, Timestamps, checksum, decode};

use crate::golden::{DATA_V4, DATA_V6, EXTENSIONS_V6, SYN_V4, SYN_V6, VLAN_V4, bytes};

const IP: usize = 14;
const TCP_V4: usize = IP + 20;

/// The frame after `change`, with the IPv4 header's checksum made right again.
fn v4(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = bytes(DATA_V4);
    change(&mut frame);
    let header = usize::from(frame[IP] & 15) * 4;
    frame[IP + 10..IP + 12].fill(0);
    let sum = checksum::sum(&frame[IP..IP + header]).finish();
    frame[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn v6(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = bytes(DATA_V6);
    change(&mut frame);
    frame
}

/// `DATA_V6` with `extensions` in front of TCP, the first of them of kind `first`.
fn v6_with(first: u8, extensions: &[u8]) -> Vec<u8> {
    v6(|frame| {
        frame[IP + 6] = first;
        let payload_len =
            u16::from_be_bytes([frame[IP + 4], frame[IP + 5]]) + extensions.len() as u16;
        frame[IP + 4..IP + 6].copy_from_slice(&payload_len.to_be_bytes());
        frame.splice(IP + 40..IP + 40, extensions.iter().copied());
    })
}

#[track_caller]
fn dropped(frame: &[u8], reason: DropReason) {
    assert_eq!(
        decode(frame, ChecksumPolicy::Full).map(|decoded| decoded.tuple),
        Err(reason)
    );
}

#[test]
fn ethernet() {
    for len in 0..14 {
        dropped(&bytes(SYN_V4)[..len], DropReason::FrameTooShort);
    }
    dropped(&bytes(VLAN_V4)[..17], DropReason::FrameTooShort);
    dropped(&v4(|frame| frame[0] |= 1), DropReason::LinkMulticast);
    dropped(
        &v4(|frame| frame[..6].fill(0xff)),
        DropReason::LinkMulticast,
    );
    dropped(
        &v4(|frame| frame[12..14].copy_from_slice(&[0x08, 0x06])),
        DropReason::NotIp,
    );
    let mut reserved = bytes(VLAN_V4);
    reserved[14..16].fill(0xff);
    dropped(&reserved, DropReason::UnknownVlan);
}

#[test]
fn ipv4() {
    dropped(&bytes(SYN_V4)[..IP + 19], DropReason::FrameTooShort);
    dropped(&v4(|frame| frame[IP] = 0x65), DropReason::BadIpVersion);
    dropped(&v4(|frame| frame[IP] = 0x44), DropReason::BadIpHeaderLength);
    dropped(
        &v4(|frame| frame.truncate(IP + 21))[..],
        DropReason::BadIpLength,
    );
    let mut cut = v4(|frame| frame[IP] = 0x46);
    cut.truncate(IP + 23);
    dropped(&cut, DropReason::BadIpHeaderLength);
    dropped(
        &v4(|frame| frame[IP + 2..IP + 4].fill(0)),
        DropReason::BadIpLength,
    );
    dropped(&v4(|frame| frame[IP + 3] += 1), DropReason::BadIpLength);
    let mut wrong = bytes(DATA_V4);
    wrong[IP + 8] -= 1;
    dropped(&wrong, DropReason::BadIpChecksum);
    assert_eq!(
        decode(&wrong, ChecksumPolicy::Trusted),
        Err(DropReason::BadIpChecksum)
    );
    dropped(&v4(|frame| frame[IP + 6] = 0x20), DropReason::Fragment);
    dropped(&v4(|frame| frame[IP + 7] = 1), DropReason::Fragment);
    dropped(&v4(|frame| frame[IP + 9] = 17), DropReason::NotTcp);
    for source in [
        [224, 0, 0, 1],
        [255; 4],
        [0; 4],
        [0, 1, 2, 3],
        [127, 1, 2, 3],
        [10, 7, 0, 2],
    ] {
        dropped(
            &v4(|frame| frame[IP + 12..IP + 16].copy_from_slice(&source)),
            DropReason::BadSourceAddress,
        );
    }
    for destination in [[239, 0, 0, 1], [255; 4], [0; 4], [127, 0, 0, 1]] {
        let frame = v4(|frame| frame[IP + 16..IP + 20].copy_from_slice(&destination));
        dropped(&frame, DropReason::BadDestinationAddress);
    }
}

#[test]
fn ipv6() {
    dropped(&bytes(SYN_V6)[..IP + 39], DropReason::FrameTooShort);
    dropped(&v6(|frame| frame[IP] = 0x45), DropReason::BadIpVersion);
    dropped(&v6(|frame| frame[IP + 5] += 1), DropReason::BadIpLength);
    dropped(&v6(|frame| frame[IP + 6] = 58), DropReason::NotTcp);
    dropped(&v6(|frame| frame[IP + 6] = 59), DropReason::NotTcp);
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    for source in ["ff02::1", "::", "::1", "::ffff:10.0.0.1", "fd07::2"] {
        let frame = v6(|frame| frame[IP + 8..IP + 24].copy_from_slice(&address(source)));
        dropped(&frame, DropReason::BadSourceAddress);
    }
    for destination in ["ff02::1", "::", "::1", "::ffff:10.0.0.1"] {
        let frame = v6(|frame| frame[IP + 24..IP + 40].copy_from_slice(&address(destination)));
        dropped(&frame, DropReason::BadDestinationAddress);
    }
}

#[test]
fn ipv6_extension_headers() {
    const TCP: u8 = 6;
    const ROUTING: u8 = 43;
    const OPTIONS: u8 = 60;
    let accepted = |frame: &[u8]| assert!(decode(frame, ChecksumPolicy::Full).is_ok());
    let bad = |frame: &[u8]| dropped(frame, DropReason::BadExtensionHeader);

    dropped(
        &v6_with(44, &[TCP, 0, 0, 0, 0, 0, 0, 1]),
        DropReason::Fragment,
    );
    accepted(&v6_with(ROUTING, &[TCP, 0, 0, 0, 0, 0, 0, 0]));
    bad(&v6_with(ROUTING, &[TCP, 0, 0, 1, 0, 0, 0, 0]));
    // Hop-by-hop behind another header.
    bad(&v6_with(
        OPTIONS,
        &[0, 0, 1, 4, 0, 0, 0, 0, TCP, 0, 1, 4, 0, 0, 0, 0],
    ));
    // Longer than the packet.
    bad(&v6_with(OPTIONS, &[TCP, 200, 1, 4, 0, 0, 0, 0]));
    // Unknown options: 0x1e says skip, 0x5e, 0x9e and 0xde say discard.
    accepted(&v6_with(OPTIONS, &[TCP, 0, 0x1e, 4, 1, 2, 3, 4]));
    for option in [0x5e, 0x9e, 0xde] {
        bad(&v6_with(OPTIONS, &[TCP, 0, option, 4, 1, 2, 3, 4]));
    }
    // An option that is longer than its header, and one without a length.
    bad(&v6_with(OPTIONS, &[TCP, 0, 0x1e, 5, 1, 2, 3, 4]));
    bad(&v6_with(OPTIONS, &[TCP, 0, 0, 0, 0, 0, 0, 0x1e]));

    let chain = |count: usize| {
        let mut headers = [OPTIONS, 0, 1, 4, 0, 0, 0, 0].repeat(count);
        headers[8 * (count - 1)] = TCP;
        v6_with(OPTIONS, &headers)
    };
    accepted(&chain(6));
    dropped(&chain(7), DropReason::ExtensionHeaderChainTooLong);
    dropped(&bytes(EXTENSIONS_V6)[..60], DropReason::BadIpLength);
}

#[test]
fn tcp() {
    dropped(
        &v4(|frame| frame[TCP_V4 + 12] = 0x40),
        DropReason::BadDataOffset,
    );
    dropped(
        &v4(|frame| frame[TCP_V4 + 12] = 0xf0),
        DropReason::BadDataOffset,
    );
    // An IP packet too short for any TCP header.
    dropped(&v4(|frame| frame[IP + 3] = 39), DropReason::BadDataOffset);
    dropped(
        &v4(|frame| frame[TCP_V4 + 33] ^= 1),
        DropReason::BadTcpChecksum,
    );
    for (at, value) in [(0, [0x8c, 0x3a]), (2, [0x1f, 0x90])] {
        let frame = v4(|frame| {
            assert_eq!(frame[TCP_V4 + at..TCP_V4 + at + 2], value);
            // Moving the port's value into the urgent pointer keeps the checksum right.
            frame.copy_within(TCP_V4 + at..TCP_V4 + at + 2, TCP_V4 + 18);
            frame[TCP_V4 + at..TCP_V4 + at + 2].fill(0);
        });
        dropped(&frame, DropReason::PortZero);
    }
}

/// The options of a SYN or ACK with this option list, which is padded with end-of-list.
fn options(syn: bool, list: &[u8]) -> Options {
    let frame = v4(|frame| {
        frame.truncate(TCP_V4 + 20);
        frame.extend(list);
        frame.resize(TCP_V4 + 20 + list.len().next_multiple_of(4), 0);
        let total_len = (frame.len() - IP) as u16;
        frame[IP + 2..IP + 4].copy_from_slice(&total_len.to_be_bytes());
        frame[TCP_V4 + 12] = (((frame.len() - TCP_V4) / 4) as u8) << 4;
        frame[TCP_V4 + 13] = if syn { 0x02 } else { 0x10 };
    });
    decode(&frame, ChecksumPolicy::Trusted)
        .expect("odd options do not drop a segment")
        .segment
        .options
}

#[test]
fn odd_option_lists() {
    let mss = |mss| Options {
        mss: Some(mss),
        ..Options::NONE
    };
    let timestamps = [8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let with_timestamps = Options {
        timestamps: Some(Timestamps { value: 1, echo: 2 }),
        ..Options::NONE
    };

    assert_eq!(options(true, &[2, 4, 5, 0xb4]), mss(1460));
    // Unknown, and known with the wrong length: skipped.
    assert_eq!(options(true, &[99, 3, 7, 1, 2, 4, 5, 0xb4]), mss(1460));
    assert_eq!(options(true, &[2, 3, 7, 1, 2, 4, 5, 0xb4]), mss(1460));
    // Length 0, length 1, length beyond the end, no length: the list ends there.
    assert_eq!(options(true, &[2, 4, 5, 0xb4, 99, 0, 4, 2]), mss(1460));
    assert_eq!(options(true, &[2, 4, 5, 0xb4, 99, 1, 4, 2]), mss(1460));
    assert_eq!(options(true, &[2, 4, 5, 0xb4, 99, 5, 4, 2]), mss(1460));
    assert_eq!(options(true, &[2, 4, 5, 0xb4, 1, 1, 1, 4]), mss(1460));
    // Nothing counts behind the end of the list.
    assert_eq!(options(true, &[0, 1, 1, 1, 2, 4, 5, 0xb4]), Options::NONE);
    // The last of two counts; a zero does not.
    assert_eq!(options(true, &[2, 4, 0, 1, 2, 4, 0, 2]), mss(2));
    assert_eq!(options(true, &[2, 4, 0, 0]), Options::NONE);
    // RFC 7323 2.3.
    assert_eq!(options(true, &[3, 3, 15]).window_scale, Some(14));
    // Not on other segments than SYN.
    assert_eq!(
        options(false, &[2, 4, 5, 0xb4, 3, 3, 1, 4, 2]),
        Options::NONE
    );
    // Timestamps anywhere.
    for before in [&[][..], &[1], &[1, 1], &[1, 1, 1]] {
        assert_eq!(
            options(false, &[before, &timestamps].concat()),
            with_timestamps
        );
    }
    assert_eq!(
        options(true, &[&[1, 1], &timestamps[..]].concat()),
        with_timestamps
    );
    // SACK of no whole number of blocks; SACK on SYN.
    assert_eq!(options(false, &[5, 6, 0, 0, 0, 1]), Options::NONE);
    assert_eq!(
        options(true, &[5, 10, 0, 0, 0, 1, 0, 0, 0, 2]),
        Options::NONE
    );
    assert_eq!(
        options(false, &[5, 10, 0, 0, 0, 1, 0, 0, 0, 2]).sack.len(),
        1
    );
}
