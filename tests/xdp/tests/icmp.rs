//! ICMP: errors about our segments are ours, and everything else is the kernel's.

use anyhow::Result;
use bywash_xdp::{Counter, FlowValue, slot};
use bywash_xdp_tests::packet::{OUR_V4, OUR_V6, Packet, extension};
use bywash_xdp_tests::run::QUEUES;
use bywash_xdp_tests::setup::{HELD, KERNELS, LOCAL, PORT, Setup, VLAN, flow};

const UNREACHABLE: u8 = 3;
const TOO_BIG_V6: u8 = 2;

/// From an address of the network: `packet` was ours, and did not get there.
fn error(kind: u8, packet: &Packet) -> Packet {
    packet.clone().icmp(kind, &packet.clone().reversed(), 576)
}

fn kind_of(packet: &Packet) -> u8 {
    match packet.source.is_ipv4() {
        true => UNREACHABLE,
        false => TOO_BIG_V6,
    }
}

#[test]
fn errors_that_quote_a_port_of_ours_go_to_the_primary() -> Result<()> {
    let setup = Setup::new()?;
    for port in [PORT, HELD, LOCAL] {
        for kind in [3, 11, 12] {
            setup.expect_packet(&error(kind, &Packet::v4(port)), Counter::RedirectIcmp);
        }
        for kind in 1..=4 {
            setup.expect_packet(&error(kind, &Packet::v6(port)), Counter::RedirectIcmp);
        }
        for packet in Packet::both(port) {
            let error = error(kind_of(&packet), &packet).build();
            setup.expect(1, &error, Counter::RedirectIcmp);
            setup.expect(2, &error, Counter::DropEmptySlot);
            setup.expect(QUEUES - 1, &error, Counter::DropNoShard);
        }
    }
    // The primary of the queue that it came on, also where the flow has a pool, here or elsewhere.
    for packet in Packet::both(PORT) {
        let value = FlowValue {
            slot: slot(0, 2),
            generation: 0,
            queue: 0,
        };
        setup.demux.flow(&flow(&packet, None), value)?;
        setup.expect(
            1,
            &error(kind_of(&packet), &packet).build(),
            Counter::RedirectIcmp,
        );
    }
    Ok(())
}

#[test]
fn tags_options_and_extension_headers_do_not_hide_an_error() -> Result<()> {
    let setup = Setup::new()?;
    for packet in Packet::both(PORT) {
        let error = error(kind_of(&packet), &packet);
        setup.expect_packet(&error.clone().tag(0x8100, VLAN), Counter::RedirectIcmp);
        setup.expect_packet(
            &error.clone().tag(0x8100, VLAN + 1),
            Counter::PassVlanForeign,
        );
    }
    let v4 = error(UNREACHABLE, &Packet::v4(PORT));
    let outer = Packet {
        ip_options: 12,
        ..v4
    };
    setup.expect_packet(&outer, Counter::RedirectIcmp);
    let with_options = Packet {
        ip_options: 40,
        ..Packet::v4(PORT)
    };
    setup.expect_packet(&error(UNREACHABLE, &with_options), Counter::RedirectIcmp);
    let v6 = error(TOO_BIG_V6, &Packet::v6(PORT));
    let outer = v6
        .extension(extension::HOP_BY_HOP)
        .extension(extension::DESTINATION);
    setup.expect_packet(&outer, Counter::RedirectIcmp);
    Ok(())
}

#[test]
fn all_other_icmp_is_the_kernels() -> Result<()> {
    let setup = Setup::new()?;
    let passes = |packet: &Packet| setup.expect_packet(packet, Counter::PassNotTcp);
    // Echo, redirect, source quench (RFC 6633), timestamps; echo, neighbour discovery, redirect.
    for kind in [0, 4, 5, 8, 13, 14, 30] {
        passes(&error(kind, &Packet::v4(PORT)));
    }
    for kind in [0, 5, 127, 128, 129, 133, 134, 135, 136, 137, 255] {
        passes(&error(kind, &Packet::v6(PORT)));
    }
    for packet in Packet::both(PORT) {
        let kind = kind_of(&packet);
        // About the kernel's port; about another protocol; about a packet that was not ours; sent to another than it is about.
        let kernels = Packet {
            port: KERNELS,
            ..packet.clone()
        };
        passes(&error(kind, &kernels));
        let udp = Packet {
            protocol: 17,
            ..packet.clone()
        };
        passes(&packet.clone().icmp(kind, &udp.reversed(), 576));
        passes(&packet.clone().icmp(kind, &packet, 576));
        let elsewhere = Packet {
            destination: packet.source,
            ..packet.clone()
        };
        passes(&elsewhere.icmp(kind, &packet.clone().reversed(), 576));
        // In the other family's protocol.
        let crossed = Packet {
            protocol: if packet.source.is_ipv4() { 58 } else { 1 },
            ..error(kind, &packet)
        };
        passes(&crossed);
    }
    // A later fragment of ours: its ports are not there.
    let later = Packet {
        fragment: 5,
        ..Packet::v4(PORT)
    };
    passes(&Packet::v4(PORT).icmp(UNREACHABLE, &later.reversed(), 576));
    // We send no extension headers.
    let extended = Packet::v6(PORT).extension(extension::DESTINATION);
    passes(&Packet::v6(PORT).icmp(TOO_BIG_V6, &extended.reversed(), 576));
    // Errors in fragments.
    let fragment = Packet {
        fragment: 0x2000,
        ..error(UNREACHABLE, &Packet::v4(PORT))
    };
    passes(&fragment);
    passes(&error(TOO_BIG_V6, &Packet::v6(PORT)).extension(extension::FRAGMENT));
    let later = Packet {
        fragment: 0x0001,
        ..error(UNREACHABLE, &Packet::v4(PORT))
    };
    setup.expect_packet(&later, Counter::PassFragment);
    Ok(())
}

/// RFC 792 has routers quote the IP header and eight octets.
#[test]
fn eight_octets_of_the_segment_are_enough_and_fewer_are_not() -> Result<()> {
    let setup = Setup::new()?;
    for (packet, header) in Packet::both(PORT).into_iter().zip([20, 40]) {
        for len in 0..header + 20 {
            let cut = packet
                .clone()
                .icmp(kind_of(&packet), &packet.clone().reversed(), len);
            let expected = match len < header + 8 {
                true => Counter::PassNotTcp,
                false => Counter::RedirectIcmp,
            };
            setup.expect_packet(&cut, expected);
            // Padding is not part of the quotation.
            setup.expect_packet(&Packet { padding: 46, ..cut }, expected);
        }
        // Not even the ICMP header.
        for len in 0..8 {
            let body = Some(vec![kind_of(&packet); len]);
            let protocol = if header == 20 { 1 } else { 58 };
            setup.expect_packet(
                &Packet {
                    body,
                    protocol,
                    ..packet.clone()
                },
                Counter::PassNotTcp,
            );
        }
    }
    Ok(())
}

#[test]
fn quoted_headers_that_lie_are_the_kernels() -> Result<()> {
    let setup = Setup::new()?;
    let frame = error(UNREACHABLE, &Packet::v4(PORT)).build();
    let quoted = 14 + 20 + 8;
    for (at, octet) in [(0, 0x55), (0, 0x44), (0, 0x4f), (9, 17), (7, 1), (12, 11)] {
        let mut frame = frame.clone();
        frame[quoted + at] = octet;
        setup.expect(0, &frame, Counter::PassNotTcp);
    }
    assert_eq!(frame[quoted + 12..quoted + 16], OUR_V4.octets());
    let frame = error(TOO_BIG_V6, &Packet::v6(PORT)).build();
    let quoted = 14 + 40 + 8;
    for (at, octet) in [(0, 0x40), (6, 17), (8, 0xfc), (23, 9)] {
        let mut frame = frame.clone();
        frame[quoted + at] = octet;
        setup.expect(0, &frame, Counter::PassNotTcp);
    }
    assert_eq!(frame[quoted + 8..quoted + 24], OUR_V6.octets());
    Ok(())
}
