//! The array that tells user space which pools to look into, as the program writes it and as an engine reads it.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use bywash_xdp::abi::MARK_DIRTY;
use bywash_xdp::{Counter, Demux, FlowKey, FlowValue, Mode, SLOTS_PER_QUEUE, slot};
use bywash_xdp_tests::link::Link;
use bywash_xdp_tests::packet::{OUR_V4, OUR_V6, Packet};
use bywash_xdp_tests::run::{Harness, QUEUES};
use bywash_xsk::MappedArray;
use libbpf_rs::MapCore;

const PORT: u16 = 8080;
const LEN: usize = (QUEUES * SLOTS_PER_QUEUE) as usize;

fn set(array: &MappedArray) -> Vec<usize> {
    let mut set = Vec::new();
    array.drain(0..LEN, |slot| set.push(slot));
    set
}

fn mapped(demux: &Harness) -> Result<MappedArray> {
    let map = demux.object().maps().find(|map| map.name() == "dirty");
    Ok(MappedArray::map(
        map.context("no map `dirty`")?.as_fd(),
        LEN,
    )?)
}

#[test]
fn a_packet_to_a_pool_sets_its_slots_byte_and_no_other() -> Result<()> {
    let demux = Harness::new()?;
    demux.address(OUR_V4.into())?;
    demux.address(OUR_V6.into())?;
    demux.listen(PORT)?;
    let mut sockets = Vec::new();
    for queue in 0..2 {
        for ring in [0, 1, 2, SLOTS_PER_QUEUE - 1] {
            sockets.push(demux.socket(slot(queue, ring))?);
        }
    }
    let v4 = Packet::v4(PORT);
    let v6 = Packet::v6(PORT);
    for (packet, queue, ring) in [(&v4, 0, 2), (&v6, 1, SLOTS_PER_QUEUE - 1)] {
        let key = FlowKey::new(
            packet.destination,
            PORT,
            packet.source,
            packet.source_port,
            None,
            6,
        );
        let value = FlowValue {
            slot: slot(queue, ring),
            generation: 0,
            queue,
        };
        demux.flow(&key, value)?;
    }
    let array = mapped(&demux)?;
    let expect = |queue, packet: &Packet, counter| -> Result<()> {
        assert_eq!(demux.fate(queue, &packet.build())?.counter, counter);
        Ok(())
    };
    // Nobody asked for it.
    expect(0, &v4, Counter::RedirectFlow)?;
    assert_eq!(set(&array), []);

    let mut demux = demux;
    demux.flags(MARK_DIRTY)?;
    let expect = |queue, packet: &Packet, counter| -> Result<()> {
        assert_eq!(demux.fate(queue, &packet.build())?.counter, counter);
        Ok(())
    };
    expect(0, &v4, Counter::RedirectFlow)?;
    expect(0, &v4, Counter::RedirectFlow)?;
    assert_eq!(set(&array), [2]);
    assert_eq!(set(&array), []);
    expect(1, &v6, Counter::RedirectFlow)?;
    expect(0, &v4, Counter::RedirectFlow)?;
    assert_eq!(set(&array), [2, LEN / 2 - 1]);
    // The primary and the control ring are looked into in any case.
    expect(1, &v4, Counter::RedirectOtherQueue)?;
    let stranger = Packet {
        source_port: 1,
        ..v4
    };
    expect(0, &stranger, Counter::RedirectPort)?;
    expect(0, &stranger.flags(2), Counter::RedirectSyn)?;
    expect(0, &Packet::v4(22), Counter::PassNotOurPort)?;
    assert_eq!(set(&array), []);
    Ok(())
}

#[test]
fn an_engine_maps_the_array_of_an_attached_program() -> Result<()> {
    let link = Link::with_queues(3)?;
    let mut config = link.config(Mode::Auto);
    config.queues = 3;
    config.settings.dirty_slots = true;
    let demux = Demux::attach(&config)?;
    let slots = demux.dirty_slots();
    assert_eq!(slots.len, 3 * SLOTS_PER_QUEUE as usize);
    let array = MappedArray::map(slots.fd, slots.len)?;
    array.drain(0..slots.len, |slot| panic!("{slot} is set"));
    assert!(
        MappedArray::map(slots.fd, slots.len + 4096).is_err(),
        "longer than the map"
    );
    demux.detach()?;
    link.nothing_left();
    Ok(())
}
