//! Packets that are cut or lie about their lengths: the kernel judges what IP cannot deliver, and no other packet is taken wrongly.

use anyhow::Result;
use bywash_xdp::{Counter, RING_CONTROL, RING_PRIMARY, abi, slot};
use bywash_xdp_tests::packet::{OUR_V4, OUR_V6, Packet, extension};
use bywash_xdp_tests::run::{Action, Harness};
use socket2::Socket;

const PORT: u16 = 8080;
const KERNELS: u16 = 22;

fn setup() -> Result<(Harness, [Socket; 2])> {
    let demux = Harness::new()?;
    demux.address(OUR_V4.into())?;
    demux.address(OUR_V6.into())?;
    demux.listen(PORT)?;
    demux.vlan(100, abi::VLAN_CUSTOMER)?;
    let primary = demux.socket(slot(0, RING_PRIMARY))?;
    let control = demux.socket(slot(0, RING_CONTROL))?;
    Ok((demux, [primary, control]))
}

fn kinds(port: u16) -> Vec<Packet> {
    let options = Packet {
        ip_options: 12,
        tcp_options: 20,
        ..Packet::v4(port)
    };
    let extensions = Packet::v6(port)
        .extension(extension::HOP_BY_HOP)
        .extension_with(extension::DESTINATION, &[0; 14]);
    let mut kinds = vec![options, extensions];
    kinds.extend(Packet::both(port));
    let tagged: Vec<_> = kinds
        .iter()
        .map(|packet| packet.clone().tag(0x8100, 100))
        .collect();
    kinds.extend(tagged);
    kinds
}

/// The bytes end before the lengths in the headers say so.
#[test]
fn a_frame_cut_anywhere_is_the_kernels() -> Result<()> {
    let (demux, _sockets) = setup()?;
    for packet in kinds(PORT) {
        let frame = packet.build();
        for len in 14..frame.len() {
            let fate = demux.fate(0, &frame[..len])?;
            let counter = if len < packet.ip_offset() {
                Counter::PassNotIp
            } else {
                Counter::PassMalformedIp
            };
            assert_eq!(
                (fate.action, fate.counter),
                (Action::Pass, counter),
                "{packet:?} cut to {len}"
            );
        }
        assert_eq!(demux.fate(0, &frame)?.counter, Counter::RedirectPort);
    }
    Ok(())
}

/// IP's own length ends early, with and without bytes (Ethernet's padding) behind it: whether the port can be known decides.
#[test]
fn a_segment_shorter_than_its_header_drops_once_its_port_is_known() -> Result<()> {
    let (demux, _sockets) = setup()?;
    for packet in kinds(PORT) {
        let whole = packet.build();
        let tcp = packet.tcp_offset();
        let header = 20 + packet.tcp_options;
        for len in 0..whole.len() - tcp {
            let frame = with_ip_length(&packet, &whole, len);
            let expected = match len {
                0..4 => Counter::PassMalformedIp,
                4..20 => Counter::DropTcpTruncated,
                _ if len < header => Counter::DropTcpDataOffset,
                _ => Counter::RedirectPort,
            };
            assert_eq!(
                demux.fate(0, &frame)?.counter,
                expected,
                "{packet:?}, {len} octets of TCP, padded"
            );
            assert_eq!(
                demux.fate(0, &frame[..tcp + len])?.counter,
                expected,
                "{packet:?}, {len} octets of TCP"
            );
        }
    }
    Ok(())
}

#[test]
fn the_same_cuts_to_a_port_of_the_kernels_all_pass() -> Result<()> {
    let (demux, _sockets) = setup()?;
    for packet in kinds(KERNELS) {
        let whole = packet.build();
        for len in 0..whole.len() - packet.tcp_offset() {
            let frame = with_ip_length(&packet, &whole, len);
            assert_eq!(
                demux.fate(0, &frame)?.action,
                Action::Pass,
                "{packet:?}, {len} octets of TCP"
            );
        }
    }
    Ok(())
}

#[test]
fn a_data_offset_below_five_or_beyond_the_end_drops() -> Result<()> {
    let (demux, _sockets) = setup()?;
    for packet in kinds(PORT) {
        let segment = 20 + packet.tcp_options + packet.payload;
        for offset in 0..16_u8 {
            let mut frame = packet.build();
            // The reserved bits below do not matter.
            frame[packet.tcp_offset() + 12] = offset << 4 | 0x0f;
            let sound = offset >= 5 && usize::from(offset) * 4 <= segment;
            let expected = if sound {
                Counter::RedirectPort
            } else {
                Counter::DropTcpDataOffset
            };
            assert_eq!(
                demux.fate(0, &frame)?.counter,
                expected,
                "{packet:?}, data offset {offset}"
            );
        }
    }
    Ok(())
}

#[test]
fn ip_headers_that_lie_are_the_kernels() -> Result<()> {
    let (demux, _sockets) = setup()?;
    let v4 = Packet::v4(PORT).build();
    let v6 = Packet::v6(PORT).build();
    let long = word(v4.len() - 14 + 1);
    let long_v6 = word(v6.len() - 54 + 1);
    let lies: [(&[u8], usize, &[u8]); 13] = [
        (&v4, 14, &[0x55]),       // version 5
        (&v4, 14, &[0x65]),       // IPv6's version
        (&v4, 14, &[0x44]),       // header of 16 octets
        (&v4, 14, &[0x40]),       // header of none
        (&v4, 14, &[0x4f]),       // header beyond the packet
        (&v4, 16, &[0, 0]), // total length of none (TCP segmentation offload does not come here)
        (&v4, 16, &[0, 19]), // shorter than its header
        (&v4, 16, &long),   // longer than the frame
        (&v4, 16, &[0xff, 0xff]), // longer than any frame
        (&v6, 14, &[0x40]), // IPv4's version
        (&v6, 18, &long_v6), // longer than the frame
        (&v6, 18, &[0xff, 0xff]), // longer than any frame
        (&v6, 18, &[0, 0]), // a jumbogram, or no port
    ];
    for (frame, at, lie) in lies {
        let mut frame = frame.to_vec();
        frame[at..at + lie.len()].copy_from_slice(lie);
        let fate = demux.fate(0, &frame)?;
        assert_eq!(fate.counter, Counter::PassMalformedIp, "{lie:02x?} at {at}");
    }
    Ok(())
}

#[test]
fn extension_headers_that_lie_are_the_kernels() -> Result<()> {
    let (demux, _sockets) = setup()?;
    let packet = Packet::v6(PORT)
        .extension(extension::HOP_BY_HOP)
        .extension(extension::DESTINATION);
    for header in [54, 62] {
        for len in [6, 100, 255] {
            let mut frame = packet.build();
            frame[header + 1] = len;
            assert_eq!(
                demux.fate(0, &frame)?.counter,
                Counter::PassMalformedIp,
                "length {len} at {header}"
            );
        }
    }
    // TCP named where options stand: the ports are then what the options hold.
    let mut frame = packet.build();
    frame[20] = 6;
    assert_eq!(demux.fate(0, &frame)?.action, Action::Pass);
    Ok(())
}

/// An IPv4-mapped address in an IPv6 packet would name an IPv4 flow.
#[test]
fn mapped_addresses_on_the_wire_are_no_ipv4_flow() -> Result<()> {
    let (demux, _sockets) = setup()?;
    let mapped = OUR_V4.to_ipv6_mapped();
    for packet in [
        Packet {
            destination: mapped.into(),
            ..Packet::v6(PORT)
        },
        Packet {
            source: mapped.into(),
            ..Packet::v6(PORT)
        },
    ] {
        assert_eq!(
            demux.fate(0, &packet.build())?.counter,
            Counter::PassMalformedIp
        );
    }
    Ok(())
}

#[test]
fn padding_behind_the_packet_changes_nothing() -> Result<()> {
    let (demux, _sockets) = setup()?;
    for packet in kinds(PORT) {
        for padding in [1, 6, 46] {
            let padded = Packet {
                padding,
                payload: 0,
                ..packet.clone()
            };
            assert_eq!(
                demux.fate(0, &padded.build())?.counter,
                Counter::RedirectPort
            );
        }
    }
    Ok(())
}

/// The frame with IP's length such that `len` octets of TCP remain.
fn with_ip_length(packet: &Packet, frame: &[u8], len: usize) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let ip = packet.ip_offset();
    let (at, base) = if packet.source.is_ipv4() {
        (ip + 2, ip)
    } else {
        (ip + 4, ip + 40)
    };
    frame[at..at + 2].copy_from_slice(&word(packet.tcp_offset() + len - base));
    frame
}

fn word(value: usize) -> [u8; 2] {
    u16::try_from(value).expect("16 bits").to_be_bytes()
}
