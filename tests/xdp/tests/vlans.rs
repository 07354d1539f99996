//! Tags: a customer's, a service's, and both, are three networks.

use anyhow::Result;
use bywash_xdp::{Counter, FlowValue, Vlan, abi, slot};
use bywash_xdp_tests::packet::Packet;
use bywash_xdp_tests::setup::{PORT, Setup, VLAN, flow};

const CUSTOMER: u16 = 0x8100;
const SERVICE: u16 = 0x88a8;

#[test]
fn tags_of_our_vlans_are_ours_and_others_pass() -> Result<()> {
    let setup = Setup::new()?;
    for packet in Packet::both(PORT) {
        let tagged = |control| packet.clone().tag(CUSTOMER, control);
        setup.expect_packet(&tagged(VLAN), Counter::RedirectPort);
        // Priority and DEI are not part of the identifier.
        setup.expect_packet(&tagged(0xf000 | VLAN), Counter::RedirectPort);
        setup.expect_packet(&tagged(VLAN + 1), Counter::PassVlanForeign);
        setup.expect_packet(&tagged(0xfff), Counter::PassVlanForeign);
        // A priority tag names no VLAN.
        setup.expect_packet(&tagged(0), Counter::RedirectPort);
        setup.expect_packet(&tagged(0xe000), Counter::RedirectPort);
        // The same number on other kinds of tags.
        let service = packet.clone().tag(SERVICE, VLAN);
        setup.expect_packet(&service, Counter::PassVlanForeign);
        setup.expect_packet(&service.tag(CUSTOMER, VLAN), Counter::PassVlanForeign);
    }
    let frame = Packet::v4(PORT).tag(CUSTOMER, VLAN).build();
    for len in 14..18 {
        setup.expect(0, &frame[..len], Counter::PassNotIp);
    }
    let frame = Packet::v4(PORT).tag(SERVICE, VLAN).tag(CUSTOMER, 1).build();
    for len in 14..22 {
        setup.expect(0, &frame[..len], Counter::PassNotIp);
    }
    Ok(())
}

#[test]
fn each_kind_of_vlan_is_configured_by_itself() -> Result<()> {
    let setup = Setup::new()?;
    let alone = Packet::v4(PORT).tag(SERVICE, VLAN);
    let pair = |customer| Packet::v4(PORT).tag(SERVICE, VLAN).tag(CUSTOMER, customer);
    setup.demux.vlan(VLAN, abi::VLAN_SERVICE)?;
    setup.expect_packet(&alone, Counter::RedirectPort);
    setup.expect_packet(&pair(7), Counter::PassVlanForeign);
    setup.expect_packet(
        &Packet::v4(PORT).tag(CUSTOMER, VLAN),
        Counter::PassVlanForeign,
    );
    setup.demux.vlan(VLAN, abi::VLAN_STACKED)?;
    setup.expect_packet(&pair(7), Counter::PassVlanForeign);
    setup.demux.vlan_pair(Vlan::Stacked {
        service: VLAN,
        customer: 7,
    })?;
    setup.expect_packet(&pair(7), Counter::RedirectPort);
    setup.expect_packet(&pair(8), Counter::PassVlanForeign);
    setup.expect_packet(&alone, Counter::PassVlanForeign);
    // Either tag may be a priority tag, which names no VLAN.
    setup.expect_packet(&pair(0), Counter::PassVlanForeign);
    setup.demux.vlan(VLAN, abi::VLAN_SERVICE)?;
    setup.expect_packet(&pair(0), Counter::RedirectPort);
    let inner = Packet::v4(PORT).tag(SERVICE, 0).tag(CUSTOMER, 7);
    setup.expect_packet(&inner, Counter::PassVlanForeign);
    setup.demux.vlan(7, abi::VLAN_CUSTOMER)?;
    setup.expect_packet(&inner, Counter::RedirectPort);
    let neither = Packet::v4(PORT).tag(SERVICE, 0).tag(CUSTOMER, 0);
    setup.expect_packet(&neither, Counter::RedirectPort);
    Ok(())
}

#[test]
fn other_stacks_of_tags_pass() -> Result<()> {
    let setup = Setup::new()?;
    for packet in Packet::both(PORT) {
        for (outer, inner) in [
            (CUSTOMER, CUSTOMER),
            (CUSTOMER, SERVICE),
            (SERVICE, SERVICE),
        ] {
            let two = packet.clone().tag(outer, VLAN).tag(inner, VLAN);
            setup.expect_packet(&two, Counter::PassVlanStacked);
        }
        for third in [CUSTOMER, SERVICE] {
            let two = packet.clone().tag(SERVICE, VLAN).tag(CUSTOMER, VLAN);
            setup.expect_packet(&two.tag(third, VLAN), Counter::PassVlanStacked);
        }
        // The outer tag from before IEEE 802.1ad is no tag here.
        setup.expect_packet(&packet.tag(0x9100, VLAN), Counter::PassNotIp);
    }
    Ok(())
}

#[test]
fn a_flow_of_a_vlan_is_another_than_that_of_any_other() -> Result<()> {
    let setup = Setup::new()?;
    let every = abi::VLAN_CUSTOMER | abi::VLAN_SERVICE | abi::VLAN_STACKED;
    let stacked = Vlan::Stacked {
        service: VLAN,
        customer: VLAN,
    };
    setup.demux.vlan(VLAN, every)?;
    setup.demux.vlan_pair(stacked)?;
    let value = FlowValue {
        slot: slot(0, 2),
        generation: 0,
        queue: 0,
    };
    for base in Packet::both(PORT) {
        let packets = [
            (None, base.clone()),
            (Some(Vlan::Customer(VLAN)), base.clone().tag(CUSTOMER, VLAN)),
            (Some(Vlan::Service(VLAN)), base.clone().tag(SERVICE, VLAN)),
            (
                Some(stacked),
                base.clone().tag(SERVICE, VLAN).tag(CUSTOMER, VLAN),
            ),
        ];
        for (index, (vlan, _)) in packets.iter().enumerate() {
            setup.demux.flow(&flow(&base, *vlan), value)?;
            for (other, (_, packet)) in packets.iter().enumerate() {
                let expected = match other <= index {
                    true => Counter::RedirectFlow,
                    false => Counter::RedirectPort,
                };
                setup.expect_packet(packet, expected);
            }
        }
    }
    Ok(())
}
