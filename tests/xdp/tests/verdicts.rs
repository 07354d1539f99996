//! Every counter by at least one packet that must move it, and the rules that say which.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use bywash_xdp::{Counter, FlowValue, RING_CONTROL, slot};
use bywash_xdp_tests::packet::{PEER_PORT, PEER_V4, PEER_V6, Packet, extension, flags};
use bywash_xdp_tests::run::{Action, Harness, QUEUES};
use bywash_xdp_tests::setup::{HELD, KERNELS, LOCAL, PORT, Setup, VLAN, flow};

#[test]
fn segments_to_a_listener_go_to_the_primary_and_syns_to_the_control_pool() -> Result<()> {
    let setup = Setup::new()?;
    for packet in Packet::both(PORT) {
        for (bits, counter) in [
            (flags::ACK, Counter::RedirectPort),
            (flags::SYN, Counter::RedirectSyn),
            (flags::SYN | flags::FIN, Counter::RedirectSyn),
            (flags::SYN | flags::RST, Counter::RedirectSyn),
            (flags::SYN | flags::ACK, Counter::RedirectPort),
            (flags::RST, Counter::RedirectPort),
            (flags::FIN | flags::ACK, Counter::RedirectPort),
            (0, Counter::RedirectPort),
            (0xff, Counter::RedirectPort),
            // ECN's SYN (RFC 3168, section 6.1.1).
            (flags::SYN | 0xc0, Counter::RedirectSyn),
        ] {
            setup.expect_packet(&packet.clone().flags(bits), counter);
        }
    }
    Ok(())
}

#[test]
fn a_held_port_and_the_local_range_take_everything_to_the_primary() -> Result<()> {
    let setup = Setup::new()?;
    for bits in [flags::ACK, flags::SYN, flags::SYN | flags::ACK] {
        for packet in Packet::both(HELD) {
            setup.expect_packet(&packet.flags(bits), Counter::RedirectPort);
        }
        for port in [50_000, LOCAL, 50_010] {
            setup.expect_packet(&Packet::v4(port).flags(bits), Counter::RedirectLocalRange);
            setup.expect_packet(&Packet::v6(port).flags(bits), Counter::RedirectLocalRange);
        }
    }
    for port in [49_999, 50_011] {
        setup.expect_packet(&Packet::v4(port), Counter::PassNotOurPort);
    }
    Ok(())
}

#[test]
fn the_whole_port_space_can_be_the_local_range_but_for_port_zero() -> Result<()> {
    let mut setup = Setup::new()?;
    setup.demux.local_ports(1..=65_535)?;
    for port in [1, 1024, 65_535] {
        setup.expect_packet(&Packet::v4(port), Counter::RedirectLocalRange);
    }
    setup.expect_packet(&Packet::v4(PORT), Counter::RedirectPort);
    // Even a loader that makes a mistake cannot make port 0 ours.
    setup.demux.local_ports(0..=65_535)?;
    setup.demux.listen(0)?;
    setup.expect_packet(&Packet::v4(0), Counter::PassNotOurPort);
    setup.expect_packet(&Packet::v6(0), Counter::PassNotOurPort);
    // First beyond last: no range.
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "the loader's way to say none, besides 0 to 0"
    )]
    setup.demux.local_ports(2..=1)?;
    for port in [1, 2, LOCAL] {
        setup.expect_packet(&Packet::v4(port), Counter::PassNotOurPort);
    }
    Ok(())
}

#[test]
fn what_is_not_ours_passes() -> Result<()> {
    let setup = Setup::new()?;
    for packet in Packet::both(KERNELS) {
        setup.expect_packet(&packet, Counter::PassNotOurPort);
    }
    // Ours by port, but forwarded, or to another address of this host.
    for packet in Packet::both(PORT) {
        let transit = Packet {
            destination: packet.source,
            source: packet.destination,
            ..packet
        };
        setup.expect_packet(&transit, Counter::PassNotOurAddress);
    }
    for protocol in [1, 17, 58, 50, 59, 132] {
        for packet in Packet::both(PORT) {
            setup.expect_packet(&Packet { protocol, ..packet }, Counter::PassNotTcp);
        }
    }
    for address in [
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(10, 1, 1, 255),
        Ipv4Addr::new(224, 0, 0, 1),
    ] {
        let packet = Packet {
            destination: address.into(),
            ..Packet::v4(PORT)
        };
        setup.expect_packet(&packet, Counter::PassNotOurAddress);
    }
    let mut arp = Packet::v4(PORT).build();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    setup.expect(0, &arp, Counter::PassNotIp);
    setup.expect(0, &arp[..14], Counter::PassNotIp);
    for mac in [
        [0xff; 6],
        [0x01, 0, 0x5e, 0, 0, 1],
        [0x33, 0x33, 0, 0, 0, 1],
    ] {
        let group = Packet {
            mac,
            ..Packet::v4(PORT)
        };
        setup.expect_packet(&group, Counter::PassGroupMac);
    }
    Ok(())
}

#[test]
fn a_new_program_passes_everything() -> Result<()> {
    let demux = Harness::new()?;
    for packet in Packet::both(PORT).into_iter().chain(Packet::both(0)) {
        let fate = demux.fate(0, &packet.build())?;
        assert_eq!(fate.action, Action::Pass);
        assert_eq!(fate.counter, Counter::PassNotOurPort);
    }
    Ok(())
}

#[test]
fn a_flow_goes_to_its_slot_and_no_other_packet_does() -> Result<()> {
    let setup = Setup::new()?;
    for port in [PORT, HELD, LOCAL] {
        for packet in Packet::both(port) {
            let value = FlowValue {
                slot: slot(0, 2),
                generation: 7,
                queue: 0,
            };
            setup.demux.flow(&flow(&packet, None), value)?;
            for bits in [flags::ACK, flags::SYN, flags::RST] {
                setup.expect_packet(&packet.clone().flags(bits), Counter::RedirectFlow);
            }
            // One part of the tuple changed at a time.
            let other_port = Packet {
                source_port: PEER_PORT + 1,
                ..packet.clone()
            };
            let other_peer = Packet {
                source: match packet.source {
                    IpAddr::V4(_) => Ipv4Addr::new(10, 1, 1, 3).into(),
                    IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3).into(),
                },
                ..packet.clone()
            };
            let other_vlan = packet.clone().tag(0x8100, VLAN);
            let by_port = if port == LOCAL {
                Counter::RedirectLocalRange
            } else {
                Counter::RedirectPort
            };
            for other in [other_port, other_peer, other_vlan] {
                setup.expect_packet(&other, by_port);
            }
        }
    }
    Ok(())
}

#[test]
fn a_flow_on_another_queue_goes_to_the_arriving_queues_primary() -> Result<()> {
    let setup = Setup::new()?;
    for packet in Packet::both(PORT) {
        let value = FlowValue {
            slot: slot(0, 2),
            generation: 1,
            queue: 0,
        };
        setup.demux.flow(&flow(&packet, None), value)?;
        setup.expect(0, &packet.build(), Counter::RedirectFlow);
        setup.expect(1, &packet.build(), Counter::RedirectOtherQueue);
        // Queue 2 has a shard but no socket yet: the arriving queue's primary is what is empty.
        setup.expect(2, &packet.build(), Counter::DropEmptySlot);
    }
    Ok(())
}

#[test]
fn the_generation_is_the_owners_and_changes_no_verdict() -> Result<()> {
    let setup = Setup::new()?;
    let packet = Packet::v4(PORT);
    for generation in [0, 1, u32::MAX] {
        let value = FlowValue {
            slot: slot(0, 2),
            generation,
            queue: 0,
        };
        setup.demux.flow(&flow(&packet, None), value)?;
        setup.expect_packet(&packet, Counter::RedirectFlow);
    }
    // Re-pointing a flow is one update, also to a slot of another queue.
    let value = FlowValue {
        slot: slot(1, 2),
        generation: 0,
        queue: 1,
    };
    setup.demux.flow(&flow(&packet, None), value)?;
    setup.expect(1, &packet.build(), Counter::RedirectFlow);
    setup.expect(0, &packet.build(), Counter::RedirectOtherQueue);
    Ok(())
}

#[test]
fn an_empty_slot_drops_and_a_closing_socket_empties_its_slot() -> Result<()> {
    let setup = Setup::new()?;
    // Nothing in queue 2.
    setup.expect(2, &Packet::v4(PORT).build(), Counter::DropEmptySlot);
    setup.expect(
        2,
        &Packet::v4(PORT).flags(flags::SYN).build(),
        Counter::DropEmptySlot,
    );
    setup.expect(2, &Packet::v6(LOCAL).build(), Counter::DropEmptySlot);
    let control = setup.demux.socket(slot(2, RING_CONTROL))?;
    setup.expect(2, &Packet::v4(PORT).build(), Counter::DropEmptySlot);
    setup.expect(
        2,
        &Packet::v4(PORT).flags(flags::SYN).build(),
        Counter::RedirectSyn,
    );
    drop(control);
    setup.expect(
        2,
        &Packet::v4(PORT).flags(flags::SYN).build(),
        Counter::DropEmptySlot,
    );
    // A flow's slot that is empty, or beyond the map, does not fall back to the primary.
    let packet = Packet::v4(PORT);
    for empty in [slot(0, 3), slot(QUEUES, 0), u32::MAX] {
        let value = FlowValue {
            slot: empty,
            generation: 0,
            queue: 0,
        };
        setup.demux.flow(&flow(&packet, None), value)?;
        setup.expect_packet(&packet, Counter::DropEmptySlot);
    }
    Ok(())
}

#[test]
fn a_queue_without_a_shard_drops_what_is_ours_and_passes_the_rest() -> Result<()> {
    let setup = Setup::new()?;
    let queue = QUEUES - 1;
    for packet in Packet::both(PORT) {
        let value = FlowValue {
            slot: slot(0, 2),
            generation: 0,
            queue: 0,
        };
        setup.demux.flow(&flow(&packet, None), value)?;
        setup.expect(queue, &packet.build(), Counter::DropNoShard);
        setup.expect(
            queue,
            &packet.flags(flags::SYN).build(),
            Counter::DropNoShard,
        );
    }
    setup.expect(queue, &Packet::v4(KERNELS).build(), Counter::PassNotOurPort);
    Ok(())
}

#[test]
fn options_and_extension_headers_are_walked() -> Result<()> {
    let setup = Setup::new()?;
    for ip_options in (0..=40).step_by(4) {
        for tcp_options in (0..=40).step_by(4) {
            let packet = Packet {
                ip_options,
                tcp_options,
                ..Packet::v4(PORT)
            };
            setup.expect_packet(&packet, Counter::RedirectPort);
            let kernels = Packet {
                port: KERNELS,
                ..packet
            };
            setup.expect_packet(&kernels, Counter::PassNotOurPort);
        }
    }
    let mut packet = Packet::v6(PORT);
    for (count, number) in [
        extension::HOP_BY_HOP,
        extension::DESTINATION,
        extension::ROUTING,
        extension::DESTINATION,
        extension::DESTINATION,
        extension::DESTINATION,
    ]
    .into_iter()
    .enumerate()
    {
        packet = packet.extension_with(number, &vec![0; 6 + 8 * count]);
        setup.expect_packet(&packet, Counter::RedirectPort);
    }
    // The seventh is one too many.
    setup.expect_packet(
        &packet.extension(extension::DESTINATION),
        Counter::PassExtensions,
    );
    // Six of the largest: the verifier's bounds hold.
    let mut long = Packet {
        payload: 0,
        ..Packet::v6(PORT)
    };
    long = long.extension_with(extension::DESTINATION, &vec![0; 2046]);
    setup.expect_packet(&long, Counter::RedirectPort);
    Ok(())
}

#[test]
fn a_routing_header_that_has_not_ended_is_the_routers() -> Result<()> {
    let setup = Setup::new()?;
    let ended = Packet::v6(PORT).extension_with(extension::ROUTING, &[4, 0, 0, 0, 0, 0]);
    setup.expect_packet(&ended, Counter::RedirectPort);
    let on_the_way = Packet::v6(PORT).extension_with(extension::ROUTING, &[4, 1, 0, 0, 0, 0]);
    setup.expect_packet(&on_the_way, Counter::PassExtensions);
    setup.expect_packet(
        &Packet::v6(PORT).extension(extension::ESP),
        Counter::PassNotTcp,
    );
    Ok(())
}

#[test]
fn first_fragments_to_a_port_of_ours_drop_and_all_others_pass() -> Result<()> {
    const MORE: u16 = 0x2000;
    const DONT: u16 = 0x4000;
    let setup = Setup::new()?;
    let v4 = |port, fragment| Packet {
        fragment,
        ..Packet::v4(port)
    };
    setup.expect_packet(&v4(PORT, MORE), Counter::DropFirstFragment);
    setup.expect_packet(&v4(HELD, MORE | DONT), Counter::DropFirstFragment);
    setup.expect_packet(&v4(LOCAL, MORE), Counter::DropFirstFragment);
    setup.expect_packet(&v4(KERNELS, MORE), Counter::PassNotOurPort);
    setup.expect_packet(&v4(PORT, DONT), Counter::RedirectPort);
    // The reserved bit says nothing about fragments.
    setup.expect_packet(&v4(PORT, 0x8000), Counter::RedirectPort);
    for offset in [1, 2, 0x1fff] {
        setup.expect_packet(&v4(PORT, offset), Counter::PassFragment);
        setup.expect_packet(&v4(PORT, MORE | offset), Counter::PassFragment);
    }
    // Offset in the upper 13 bits, more fragments in the lowest.
    let v6 = |port, field: u16| {
        let [high, low] = field.to_be_bytes();
        Packet::v6(port).extension_with(extension::FRAGMENT, &[high, low, 0, 0, 0, 1])
    };
    setup.expect_packet(&v6(PORT, 1), Counter::DropFirstFragment);
    setup.expect_packet(&v6(LOCAL, 1), Counter::DropFirstFragment);
    setup.expect_packet(&v6(KERNELS, 1), Counter::PassNotOurPort);
    // An atomic fragment: nothing follows it, and still no TCP of ours makes one.
    setup.expect_packet(&v6(PORT, 0), Counter::DropFirstFragment);
    for field in [8, 9, 0xfff8, 0xfff9] {
        setup.expect_packet(&v6(PORT, field), Counter::PassFragment);
    }
    let behind = v6(PORT, 1).extension(extension::DESTINATION);
    setup.expect_packet(&behind, Counter::DropFirstFragment);
    // To another address a fragment of any kind is the kernel's.
    let transit = Packet {
        destination: PEER_V4.into(),
        ..v4(PORT, MORE)
    };
    setup.expect_packet(&transit, Counter::PassNotOurAddress);
    let transit = Packet {
        destination: PEER_V6.into(),
        ..v6(PORT, 1)
    };
    setup.expect_packet(&transit, Counter::PassNotOurAddress);
    Ok(())
}

#[test]
fn tcp_from_port_zero_to_us_drops() -> Result<()> {
    let setup = Setup::new()?;
    for packet in Packet::both(PORT) {
        setup.expect_packet(
            &Packet {
                source_port: 0,
                ..packet
            },
            Counter::DropTcpPortZero,
        );
    }
    for packet in Packet::both(KERNELS) {
        setup.expect_packet(
            &Packet {
                source_port: 0,
                ..packet
            },
            Counter::PassNotOurPort,
        );
    }
    Ok(())
}

/// The tests of this crate must name every counter, so that none is forgotten when one is added.
#[test]
fn every_counter_has_a_test() -> Result<()> {
    let sources = [
        include_str!("verdicts.rs"),
        include_str!("malformed.rs"),
        include_str!("vlans.rs"),
        include_str!("icmp.rs"),
        include_str!("limits.rs"),
    ]
    .concat();
    let all: HashSet<String> = Counter::ALL
        .iter()
        .map(|counter| format!("Counter::{counter:?}"))
        .collect();
    let missing: Vec<_> = all.iter().filter(|name| !sources.contains(*name)).collect();
    assert!(missing.is_empty(), "no test names {missing:?}");
    let names: HashSet<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
    assert_eq!(names.len(), Counter::ALL.len(), "names are unique");
    for counter in Counter::ALL {
        let (verdict, _) = counter
            .name()
            .split_once('-')
            .context("a name of two words")?;
        assert_eq!(verdict, format!("{:?}", counter.verdict()).to_lowercase());
    }
    Ok(())
}
