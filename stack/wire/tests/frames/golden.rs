//! Frames of other stacks, as hexadecimal, and what each one says.
//!
//! The fields that the tests expect were read off `tshark`'s dissection of the captured frames, or are the inputs that the others were built from,
//! not what our decoder says.

use bywash_wire::{
    ChecksumPolicy, Decoded, DropReason, Ecn, Flags, Link, MacAddr, Options, SackBlocks, Segment,
    SeqNumber, Timestamps, Tuple, VlanId, checksum, decode, emit, header_len,
};

/// Linux 6 SYN over IPv4, captured on a veth pair with offloads off.
pub(crate) const SYN_V4: &str = "\
    bab99e90a194a2bbe25f2d2808004500003c06fd400040061faf0a0700010a0700028c3a1f907d348240\
    00000000a002faf06a130000020405b40402080a9c7a872e000000000103030a";
/// Its SYN-ACK; identification 0, as we send.
pub(crate) const SYN_ACK_V4: &str = "\
    a2bbe25f2d28bab99e90a19408004500003c00004000400626ac0a0700020a0700011f908c3a3eabadb6\
    7d348241a012fe88e2ab0000020405b40402080a5bb03bac9c7a872e0103030a";
/// Seven octets, an odd number.
pub(crate) const DATA_V4: &str = "\
    bab99e90a194a2bbe25f2d2808004500003b06ff400040061fae0a0700010a0700028c3a1f907d348241\
    3eabadb78018003fd87100000101080a9c7a872f5bb03bac4279776173680a";
/// Three SACK blocks beside timestamps: a full option list.
pub(crate) const SACK_V4: &str = "\
    a2bbe25f2d28bab99e90a1940800450000501cfe40004006099a0a0700020a0700011f908c3a3eabadb7\
    7d352020f0100050475a00000101080a5bb03bb59c7a87350101051a7d3569a87d356f507d3547b87d35\
    4d607d3525c87d353118";
/// The same over IPv6.
pub(crate) const SYN_V6: &str = "\
    bab99e90a194a2bbe25f2d2886dd6003e41100280640fd070000000000000000000000000001fd070000\
    000000000000000000000002e7a41f900cb8dbcb00000000a002fd20c9960000020405a00402080a2da1\
    69ed000000000103030a";
/// Seven octets.
pub(crate) const DATA_V6: &str = "\
    bab99e90a194a2bbe25f2d2886dd6003e41100270640fd070000000000000000000000000001fd070000\
    000000000000000000000002e7a41f900cb8dbcc91499d5d80180040a9fe00000101080a2da169edadc9\
    37614279776173680a";
/// Two SACK blocks beside timestamps.
pub(crate) const SACK_V6: &str = "\
    a2bbe25f2d28bab99e90a19486dd600bac9200340640fd070000000000000000000000000002fd070000\
    0000000000000000000000011f90e7a491499d5d0cb90877d0100050301f00000101080aadc937632da1\
    69ed010105120cb94b670cb950fb0cb929ef0cb93517";
/// Built with scapy 2.5: priority 5, VLAN 100, TTL 63, ECT(0).
pub(crate) const VLAN_V4: &str = "\
    0200000000020200000000018100a06408004502003c000100003f06f7b5c0000201c00002029c400050\
    000003e800000000a002faf0288c0000020405b40402080a000000070000000001030307";
/// Built with scapy: 802.1ad tag 200, 802.1Q tag 100.
pub(crate) const DOUBLE_TAG: &str = "\
    02000000000202000000000188a800c881000064080045000028000100004006f6cbc0000201c0000202\
    9c4000500000000000000000500220006f4e0000";
/// Built with scapy: hop-by-hop with router alert, destination options with padding; DSCP 46, ECT(1); hop limit 5.
pub(crate) const EXTENSIONS_V6: &str = "\
    02000000000202000000000186dd6b9123450027000520010db800000000000000000000000120010db8\
    0000000000000000000000023c0005020000010006000104000000009c400050ffffffff000000015018\
    0001e45d00006f6464";
/// Built with scapy: IPv4 router alert (IHL 6); RST|ACK with an urgent pointer.
pub(crate) const IP_OPTIONS_V4: &str = "\
    02000000000202000000000108004600002c00010000400661c3c0000201c0000202940400000001ffff\
    0000000000000000501420000bc30009";

/// The bytes of a hexadecimal string.
pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2));
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

fn decoded(hex: &str) -> Decoded {
    decode(&bytes(hex), ChecksumPolicy::Full).expect("a good frame")
}

fn tuple(local: &str, local_port: u16, remote: &str, remote_port: u16) -> Tuple {
    Tuple::tcp(
        local.parse().unwrap(),
        local_port,
        remote.parse().unwrap(),
        remote_port,
    )
}

fn timestamps(value: u32, echo: u32) -> Option<Timestamps> {
    Some(Timestamps { value, echo })
}

fn sack(blocks: &[(u32, u32)]) -> SackBlocks {
    blocks
        .iter()
        .map(|&(start, end)| (SeqNumber::new(start), SeqNumber::new(end)))
        .collect()
}

#[test]
fn syn_over_ipv4() {
    let expected = Decoded {
        source_mac: MacAddr([0xa2, 0xbb, 0xe2, 0x5f, 0x2d, 0x28]),
        destination_mac: MacAddr([0xba, 0xb9, 0x9e, 0x90, 0xa1, 0x94]),
        tuple: tuple("10.7.0.2", 8080, "10.7.0.1", 35898),
        ecn: Ecn::NotEct,
        hop_limit: 64,
        segment: Segment {
            seq: SeqNumber::new(2100593216),
            flags: Flags::SYN,
            window: 64240,
            options: Options {
                mss: Some(1460),
                window_scale: Some(10),
                sack_permitted: true,
                timestamps: timestamps(2625275694, 0),
                ..Options::NONE
            },
            ..Segment::default()
        },
        payload: 74..74,
        partial_checksum: false,
    };
    assert_eq!(decoded(SYN_V4), expected);
}

#[test]
fn data_over_ipv4() {
    let frame = decoded(DATA_V4);
    assert_eq!(&bytes(DATA_V4)[frame.payload.clone()], b"Bywash\n");
    let expected = Segment {
        seq: SeqNumber::new(2100593217),
        ack: SeqNumber::new(1051438519),
        flags: Flags::PSH | Flags::ACK,
        window: 63,
        options: Options {
            timestamps: timestamps(2625275695, 1538276268),
            ..Options::NONE
        },
        payload_len: 7,
        ..Segment::default()
    };
    assert_eq!(frame.segment, expected);
}

#[test]
fn sack_over_ipv4() {
    let expected = Segment {
        seq: SeqNumber::new(1051438519),
        ack: SeqNumber::new(2100633632),
        flags: Flags::ACK,
        window: 80,
        options: Options {
            timestamps: timestamps(1538276277, 2625275701),
            sack: sack(&[
                (2100652456, 2100653904),
                (2100643768, 2100645216),
                (2100635080, 2100637976),
            ]),
            ..Options::NONE
        },
        ..Segment::default()
    };
    assert_eq!(decoded(SACK_V4).segment, expected);
}

#[test]
fn syn_and_data_over_ipv6() {
    let syn = decoded(SYN_V6);
    assert_eq!(syn.tuple, tuple("fd07::2", 8080, "fd07::1", 59300));
    assert_eq!(
        (syn.hop_limit, syn.ecn, syn.payload),
        (64, Ecn::NotEct, 94..94)
    );
    let expected = Segment {
        seq: SeqNumber::new(213441483),
        flags: Flags::SYN,
        window: 64800,
        options: Options {
            mss: Some(1440),
            window_scale: Some(10),
            sack_permitted: true,
            timestamps: timestamps(765553133, 0),
            ..Options::NONE
        },
        ..Segment::default()
    };
    assert_eq!(syn.segment, expected);

    let data = decoded(DATA_V6);
    assert_eq!(&bytes(DATA_V6)[data.payload.clone()], b"Bywash\n");
    assert_eq!(
        data.segment.options.timestamps,
        timestamps(765553133, 2915645281)
    );
}

#[test]
fn sack_over_ipv6() {
    let segment = decoded(SACK_V6).segment;
    assert_eq!(
        (segment.seq.raw(), segment.ack.raw(), segment.window),
        (2437520733, 213452919, 80)
    );
    assert_eq!(
        segment.options.timestamps,
        timestamps(2915645283, 765553133)
    );
    assert_eq!(
        segment.options.sack,
        sack(&[(213470055, 213471483), (213461487, 213464343)])
    );
}

#[test]
fn one_vlan_tag() {
    let frame = decoded(VLAN_V4);
    let expected = Tuple {
        vlan: VlanId::new(100),
        ..tuple("192.0.2.2", 80, "192.0.2.1", 40000)
    };
    assert_eq!(frame.tuple, expected);
    assert_eq!((frame.hop_limit, frame.ecn), (63, Ecn::Ect0));
    assert_eq!(frame.segment.options.window_scale, Some(7));

    let mut service = bytes(VLAN_V4);
    service[12..14].copy_from_slice(&[0x88, 0xa8]);
    let service = decode(&service, ChecksumPolicy::Full).unwrap();
    assert_eq!(service.tuple.vlan, VlanId::new(100).map(VlanId::service));

    // A priority tag names no VLAN.
    let mut priority = bytes(VLAN_V4);
    priority[14..16].copy_from_slice(&[0xa0, 0]);
    assert_eq!(
        decode(&priority, ChecksumPolicy::Full).unwrap().tuple.vlan,
        None
    );
}

#[test]
fn two_vlan_tags() {
    let frame = decoded(DOUBLE_TAG);
    assert_eq!(frame.tuple.vlan, VlanId::stacked(200, 100));
    let with_tag = |at: usize, tag: [u8; 2]| {
        let mut frame = bytes(DOUBLE_TAG);
        frame[at..at + 2].copy_from_slice(&tag);
        decode(&frame, ChecksumPolicy::Full).map(|decoded| decoded.tuple.vlan)
    };
    // A customer tag is no outer one, a service tag no inner one, and there is no third.
    assert_eq!(with_tag(12, [0x81, 0]), Err(DropReason::VlanTagStack));
    assert_eq!(with_tag(16, [0x88, 0xa8]), Err(DropReason::VlanTagStack));
    assert_eq!(with_tag(20, [0x81, 0]), Err(DropReason::VlanTagStack));
    // Priority tags name no VLAN.
    assert_eq!(with_tag(14, [0xe0, 0]), Ok(VlanId::new(100)));
    assert_eq!(
        with_tag(18, [0xe0, 0]),
        Ok(VlanId::new(200).map(VlanId::service))
    );
    assert_eq!(with_tag(14, [0x0f, 0xff]), Err(DropReason::UnknownVlan));
    assert_eq!(with_tag(18, [0x0f, 0xff]), Err(DropReason::UnknownVlan));
    for len in 14..22 {
        let cut = decode(&bytes(DOUBLE_TAG)[..len], ChecksumPolicy::Full);
        assert_eq!(cut, Err(DropReason::FrameTooShort));
    }
}

#[test]
fn ipv6_extension_headers() {
    let frame = decoded(EXTENSIONS_V6);
    assert_eq!(frame.tuple, tuple("2001:db8::2", 80, "2001:db8::1", 40000));
    assert_eq!((frame.hop_limit, frame.ecn), (5, Ecn::Ect1));
    assert_eq!(
        (
            frame.segment.seq.raw(),
            frame.segment.ack.raw(),
            frame.segment.window
        ),
        (u32::MAX, 1, 1)
    );
    assert_eq!(&bytes(EXTENSIONS_V6)[frame.payload], b"odd");
}

#[test]
fn ipv4_options_are_skipped() {
    let frame = decoded(IP_OPTIONS_V4);
    assert_eq!(frame.tuple, tuple("192.0.2.2", 65535, "192.0.2.1", 1));
    assert_eq!(
        (frame.segment.flags, frame.segment.urgent),
        (Flags::RST | Flags::ACK, 9)
    );
    assert_eq!(frame.payload, 58..58);
}

#[test]
fn ethernet_padding_is_cut() {
    for hex in [SYN_V4, DATA_V4, DATA_V6, VLAN_V4, IP_OPTIONS_V4] {
        let mut padded = bytes(hex);
        padded.extend([0x55; 7]);
        assert_eq!(decode(&padded, ChecksumPolicy::Full), Ok(decoded(hex)));
    }
}

/// What Linux wrote, octet for octet, but for what it chooses and we do not: identification and flow label.
#[test]
fn emits_what_linux_emits() {
    for hex in [
        SYN_V4, SYN_ACK_V4, DATA_V4, SACK_V4, SYN_V6, DATA_V6, SACK_V6,
    ] {
        let mut expected = bytes(hex);
        let frame = decoded(hex);
        let link = Link {
            source_mac: frame.source_mac,
            destination_mac: frame.destination_mac,
            vlan: frame.tuple.vlan,
        };
        let tuple = frame.tuple.reversed();
        let len = header_len(&link, &tuple, &frame.segment);
        assert_eq!(len, frame.payload.start);
        let mut header = vec![0xee; len];
        let payload = checksum::sum(&expected[frame.payload.clone()]);
        emit(
            &mut header,
            &link,
            &tuple,
            frame.ecn,
            frame.hop_limit,
            &frame.segment,
            payload,
        );
        if tuple.is_v4() {
            expected[18..20].fill(0);
            expected[24..26].fill(0);
            let sum = checksum::sum(&expected[14..34]).finish();
            expected[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            expected[15] &= 0xf0;
            expected[16..18].fill(0);
        }
        assert_eq!(header, expected[..len], "{hex}");
    }
}
