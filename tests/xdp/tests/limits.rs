//! What strangers may send. No test waits: rates are so low that no second packet becomes due, or the accounts are set back by hand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use bywash_xdp::{Counter, Demux, FlowValue, Limits, Mode, Rate, abi, slot};
use bywash_xdp_tests::link::Link;
use bywash_xdp_tests::packet::{OUR_V4, PEER_V4, PEER_V6, Packet, flags};
use bywash_xdp_tests::setup::{HELD, KERNELS, LOCAL, PORT, Setup, flow};
use libbpf_rs::{MapCore, MapFlags};

/// One a second, and so many at once: a test is over long before the next is due.
fn few(burst: u32) -> Option<Rate> {
    Some(Rate {
        per_second: 1,
        burst,
    })
}

fn setup(limits: Limits) -> Result<Setup> {
    // Accounts are by CPU: this thread stays on one.
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(0)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus)?;
    let mut setup = Setup::new()?;
    setup.demux.limits(&limits)?;
    Ok(setup)
}

fn syn_from(source: impl Into<IpAddr>) -> Packet {
    let source = source.into();
    let base = match source {
        IpAddr::V4(_) => Packet::v4(PORT),
        IpAddr::V6(_) => Packet::v6(PORT),
    };
    Packet {
        source,
        flags: flags::SYN,
        ..base
    }
}

#[test]
fn syns_of_one_prefix_beyond_the_burst_are_shed_and_no_other_prefix_notices() -> Result<()> {
    let setup = setup(Limits {
        syn_prefix: few(4),
        ..Limits::NONE
    })?;
    let v4 = |octet, host| syn_from(Ipv4Addr::new(10, 2, octet, host));
    let v6 = |subnet, host| syn_from(Ipv6Addr::new(0xfd00, 0, 0, subnet, 0, 0, 0, host));
    for round in 0..6_u8 {
        let expected = match round < 4 {
            true => Counter::RedirectSyn,
            false => Counter::DropSynPrefixLimit,
        };
        // Other hosts and other ports, but one network.
        let port = 1000 + u16::from(round);
        for packet in [v4(1, round), v6(1, u16::from(round))] {
            setup.expect_packet(
                &Packet {
                    source_port: port,
                    ..packet
                },
                expected,
            );
        }
        // Networks beside it, each with an account of its own.
        setup.expect_packet(&v4(100 + round, 1), Counter::RedirectSyn);
        setup.expect_packet(&v6(100 + u16::from(round), 1), Counter::RedirectSyn);
    }
    // What is no SYN to a listener is not counted, nor are flows that are known.
    for packet in [v4(1, 1), v6(1, 1)] {
        setup.expect_packet(&packet.clone().flags(flags::ACK), Counter::RedirectPort);
        for (port, counter) in [
            (HELD, Counter::RedirectPort),
            (LOCAL, Counter::RedirectLocalRange),
            (KERNELS, Counter::PassNotOurPort),
        ] {
            setup.expect_packet(
                &Packet {
                    port,
                    ..packet.clone()
                },
                counter,
            );
        }
        setup.expect_packet(&packet, Counter::DropSynPrefixLimit);
        let value = FlowValue {
            slot: slot(0, 2),
            generation: 0,
            queue: 0,
        };
        setup.demux.flow(&flow(&packet, None), value)?;
        setup.expect_packet(&packet, Counter::RedirectFlow);
    }
    Ok(())
}

#[test]
fn all_syns_together_have_a_limit_and_what_a_prefix_is_refused_does_not_count() -> Result<()> {
    let setup = setup(Limits {
        syn_prefix: few(2),
        syn: few(5),
        ..Limits::NONE
    })?;
    let from = |network| syn_from(Ipv4Addr::new(10, 3, network, 1));
    for _ in 0..2 {
        setup.expect_packet(&from(1), Counter::RedirectSyn);
    }
    for _ in 0..10 {
        setup.expect_packet(&from(1), Counter::DropSynPrefixLimit);
    }
    for network in 2..5 {
        setup.expect_packet(&from(network), Counter::RedirectSyn);
    }
    for network in 5..9 {
        setup.expect_packet(&from(network), Counter::DropSynLimit);
    }
    Ok(())
}

/// Sets an account back, as if time had passed.
fn let_pass(setup: &Setup, seconds: u64) -> Result<()> {
    let maps = setup.demux.object();
    let map = maps.maps().find(|map| map.name() == "accounts");
    let map = map.context("no map `accounts`")?;
    let key = 1_u32.to_ne_bytes();
    let values = map.lookup_percpu(&key, MapFlags::ANY)?.context("a value")?;
    let earlier: Vec<Vec<u8>> = values
        .iter()
        .map(|value| {
            let due = u64::from_ne_bytes(value.as_slice().try_into().expect("8 octets"));
            let earlier = due.saturating_sub(seconds * 1_000_000_000);
            earlier.to_ne_bytes().to_vec()
        })
        .collect();
    Ok(map.update_percpu(&key, &earlier, MapFlags::ANY)?)
}

#[test]
fn tokens_come_back_one_each_interval_and_never_more_than_the_burst() -> Result<()> {
    let setup = setup(Limits {
        syn: Some(Rate {
            per_second: 1,
            burst: 1000,
        }),
        ..Limits::NONE
    })?;
    let syn = syn_from(PEER_V4);
    let passed = |count: usize| -> Result<()> {
        for _ in 0..count {
            setup.expect_packet(&syn, Counter::RedirectSyn);
        }
        setup.expect_packet(&syn, Counter::DropSynLimit);
        Ok(())
    };
    // A thousand, less what the first few have got back while the test ran: so the clock is left out by emptying it first.
    while setup.demux.fate(0, &syn.build())?.counter == Counter::RedirectSyn {}
    let_pass(&setup, 3)?;
    // Two or three: the clock runs on between two packets, and the last second is not over.
    let back = (0..)
        .map(|_| setup.demux.fate(0, &syn.build()).expect("a run").counter)
        .take_while(|counter| *counter == Counter::RedirectSyn)
        .count();
    assert!((2..=4).contains(&back), "{back} of 3");
    let_pass(&setup, 1_000_000_000)?;
    passed(1000)?;
    Ok(())
}

#[test]
fn a_limit_that_is_replaced_by_a_looser_one_is_forgotten() -> Result<()> {
    let mut setup = setup(Limits {
        syn: few(2),
        ..Limits::NONE
    })?;
    let syn = syn_from(PEER_V6);
    for _ in 0..2 {
        setup.expect_packet(&syn, Counter::RedirectSyn);
    }
    setup.expect_packet(&syn, Counter::DropSynLimit);
    // The account is seconds ahead; this limit never lets it be more than two milliseconds.
    setup.demux.limits(&Limits {
        syn: Some(Rate {
            per_second: 1_000,
            burst: 1_000,
        }),
        ..Limits::NONE
    })?;
    setup.expect_packet(&syn, Counter::RedirectSyn);
    setup.demux.limits(&Limits::NONE)?;
    for _ in 0..20 {
        setup.expect_packet(&syn, Counter::RedirectSyn);
    }
    Ok(())
}

#[test]
fn icmp_errors_have_a_limit_and_other_icmp_has_none() -> Result<()> {
    let setup = setup(Limits {
        icmp: few(3),
        ..Limits::NONE
    })?;
    let packet = Packet::v4(PORT);
    let error = |kind| packet.clone().icmp(kind, &packet.clone().reversed(), 28);
    for _ in 0..3 {
        setup.expect_packet(&error(8), Counter::PassNotTcp);
        setup.expect_packet(&error(3), Counter::RedirectIcmp);
    }
    setup.expect_packet(&error(3), Counter::DropIcmpLimit);
    setup.expect_packet(&error(8), Counter::PassNotTcp);
    setup.expect_packet(&packet, Counter::RedirectPort);
    Ok(())
}

#[test]
fn a_strict_program_drops_segments_of_flows_that_are_not_in_the_table() -> Result<()> {
    let mut setup = setup(Limits {
        ack: few(4),
        ..Limits::NONE
    })?;
    setup.demux.flags(abi::STRICT)?;
    let value = FlowValue {
        slot: slot(0, 0),
        generation: 0,
        queue: 0,
    };
    let bits = [
        flags::RST,
        flags::RST | flags::ACK,
        flags::FIN | flags::ACK,
        flags::SYN | flags::ACK,
        0,
        0xff,
    ];
    for packet in Packet::both(PORT) {
        for bits in bits {
            setup.expect_packet(&packet.clone().flags(bits), Counter::DropNoFlow);
        }
        // Could be the end of a handshake by cookie, with data or without.
        setup.expect_packet(&packet.clone().flags(flags::ACK), Counter::RedirectPort);
        setup.expect_packet(
            &packet.clone().flags(flags::ACK | 0x08),
            Counter::RedirectPort,
        );
        setup.expect_packet(&packet.clone().flags(flags::SYN), Counter::RedirectSyn);
    }
    for packet in Packet::both(PORT) {
        setup.expect_packet(&packet.clone().flags(flags::ACK), Counter::DropAckLimit);
        // A flow in the table gets everything, however it is flagged.
        setup.demux.flow(&flow(&packet, None), value)?;
        for bits in bits {
            setup.expect_packet(&packet.clone().flags(bits), Counter::RedirectFlow);
        }
        setup.expect(
            1,
            &packet.clone().flags(flags::ACK).build(),
            Counter::RedirectOtherQueue,
        );
    }
    for port in [HELD, LOCAL] {
        for packet in Packet::both(port) {
            setup.expect_packet(&packet.clone().flags(flags::ACK), Counter::DropNoFlow);
            setup.expect_packet(
                &packet.clone().flags(flags::SYN | flags::ACK),
                Counter::DropNoFlow,
            );
            // Wants a RST.
            let counter = match port {
                HELD => Counter::RedirectPort,
                _ => Counter::RedirectLocalRange,
            };
            setup.expect_packet(&packet.flags(flags::SYN), counter);
        }
    }
    for packet in Packet::both(KERNELS) {
        setup.expect_packet(&packet, Counter::PassNotOurPort);
    }
    Ok(())
}

#[test]
fn the_loader_refuses_rates_that_cannot_work_and_takes_new_ones() -> Result<()> {
    let link = Link::new()?;
    let mut config = link.config(Mode::Auto);
    config.settings.limits.ack = Some(Rate {
        per_second: 0,
        burst: 1,
    });
    let refused = Demux::attach(&config).expect_err("nothing would pass");
    assert!(refused.to_string().contains("`ack`"), "{refused}");
    link.nothing_left();

    let demux = Demux::attach(&link.config(Mode::Auto))?;
    demux.add_address(OUR_V4.into())?;
    let mut settings = link.config(Mode::Auto).settings;
    settings.limits.syn = None;
    settings.strict = true;
    demux.set_settings(&settings)?;
    settings.limits.syn = Some(Rate {
        per_second: 1_000_000,
        burst: 1,
    });
    let refused = demux
        .set_settings(&settings)
        .expect_err("too small a burst");
    assert!(refused.to_string().contains("10000 or more"), "{refused}");
    demux.detach()?;
    Ok(())
}
