//! The maps of an attached program: what the loader accepts, and what the kernel's TCP on the other end of a veth sees of it.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Result;
use bywash_xdp::{Counter, Demux, DemuxError, FlowKey, FlowValue, Mode, SLOTS_PER_QUEUE, Vlan};
use bywash_xdp_tests::link::{Holder, Link};
use bywash_xdp_tests::namespace::ip;
use bywash_xdp_tests::peer::{OURS, Peer};
use socket2::{Domain, Socket, Type};

const HOLD: &str = env!("CARGO_BIN_EXE_hold");
const PORT: u16 = 8080;
/// How long an answer that must come may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for one that must not: on a veth it would come at once. The counters say the same without a clock.
const SILENCE: Duration = Duration::from_millis(300);

#[test]
fn sockets_go_only_into_slots_that_exist() -> Result<()> {
    let link = Link::new()?;
    let demux = Demux::attach(&link.config(Mode::Auto))?;
    let socket = Socket::new(Domain::from(44), Type::RAW, None)?;
    demux.set_socket(0, 1, socket.as_fd())?;
    demux.remove_socket(0, 1)?;
    demux.remove_socket(0, 1)?;
    for (queue, ring) in [(1, 0), (0, SLOTS_PER_QUEUE), (u32::MAX, u32::MAX)] {
        assert!(matches!(
            demux.set_socket(queue, ring, socket.as_fd()),
            Err(DemuxError::Slot { .. })
        ));
    }
    let udp = std::net::UdpSocket::bind("0.0.0.0:0")?;
    assert!(matches!(
        demux.set_socket(0, 0, udp.as_fd()),
        Err(DemuxError::Map { map: "xsks", .. })
    ));
    Ok(())
}

#[test]
fn calls_for_a_port_nest_and_port_zero_is_refused() -> Result<()> {
    let link = Link::new()?;
    let demux = Demux::attach(&link.config(Mode::Auto))?;
    assert!(matches!(demux.listen(0), Err(DemuxError::PortZero)));
    assert!(matches!(
        demux.unlisten(PORT),
        Err(DemuxError::PortNotOurs(PORT))
    ));
    demux.listen(PORT)?;
    demux.hold_port(PORT)?;
    demux.unlisten(PORT)?;
    assert!(matches!(
        demux.unlisten(PORT),
        Err(DemuxError::PortNotOurs(PORT))
    ));
    demux.release_port(PORT)?;
    assert!(matches!(
        demux.release_port(PORT),
        Err(DemuxError::PortNotOurs(PORT))
    ));
    assert!(matches!(
        demux.set_local_ports(Some(0..=9)),
        Err(DemuxError::PortZero)
    ));
    demux.set_local_ports(Some(50_000..=65_535))?;
    demux.set_local_ports(None)?;
    Ok(())
}

#[test]
fn addresses_and_vlans_are_checked() -> Result<()> {
    let link = Link::new()?;
    let demux = Demux::attach(&link.config(Mode::Auto))?;
    for address in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1"] {
        assert!(
            matches!(
                demux.add_address(address.parse()?),
                Err(DemuxError::Address(_))
            ),
            "{address}"
        );
    }
    demux.add_address(OURS.into())?;
    demux.add_address(OURS.into())?;
    demux.remove_address(OURS.into())?;
    demux.remove_address(OURS.into())?;
    let stacked = |service, customer| Vlan::Stacked { service, customer };
    for vlan in [
        Vlan::Customer(0),
        Vlan::Customer(4095),
        Vlan::Service(u16::MAX),
        stacked(1, 0),
        stacked(4095, 1),
    ] {
        let set = demux.set_vlans(&[Vlan::Customer(1), vlan]);
        assert!(matches!(set, Err(DemuxError::Vlan(wrong)) if wrong == vlan));
    }
    demux.set_vlans(&[
        Vlan::Customer(1),
        Vlan::Service(4094),
        stacked(1, 2),
        stacked(1, 3),
    ])?;
    demux.set_vlans(&[stacked(1, 3)])?;
    demux.set_vlans(&[])?;
    Ok(())
}

#[test]
fn a_flow_can_be_inserted_read_and_removed() -> Result<()> {
    let link = Link::new()?;
    let demux = Demux::attach(&link.config(Mode::Auto))?;
    let key = FlowKey::new(
        OURS.into(),
        PORT,
        Ipv4Addr::new(10, 1, 1, 2).into(),
        1,
        None,
        6,
    );
    let value = FlowValue {
        slot: 2,
        generation: 5,
        queue: 0,
    };
    assert_eq!(demux.flow(&key)?, None);
    demux.insert_flow(&key, value)?;
    assert_eq!(demux.flow(&key)?, Some(value));
    demux.remove_flow(&key)?;
    demux.remove_flow(&key)?;
    assert_eq!(demux.flow(&key)?, None);
    for wrong in [
        FlowValue { queue: 1, ..value },
        FlowValue {
            slot: SLOTS_PER_QUEUE,
            ..value
        },
    ] {
        assert!(matches!(
            demux.insert_flow(&key, wrong),
            Err(DemuxError::Slot { .. })
        ));
    }
    Ok(())
}

#[test]
fn a_full_flow_table_says_so() -> Result<()> {
    let link = Link::new()?;
    let demux = Demux::attach(&link.config(Mode::Auto))?;
    let value = FlowValue {
        slot: 2,
        generation: 0,
        queue: 0,
    };
    let insert = |peer: u32| {
        let key = FlowKey::new(
            OURS.into(),
            PORT,
            Ipv4Addr::from_bits(peer).into(),
            1,
            None,
            6,
        );
        demux.insert_flow(&key, value)
    };
    for peer in 0..bywash_xdp::abi::FLOWS_PER_QUEUE {
        insert(peer)?;
    }
    let refused = insert(u32::MAX).expect_err("full");
    assert!(
        matches!(refused, DemuxError::Full { map: "flows", .. }),
        "{refused:?}"
    );
    Ok(())
}

/// Shards of several threads share one `Demux`.
#[test]
fn threads_share_a_demux() -> Result<()> {
    let link = Link::new()?;
    let demux = Demux::attach(&link.config(Mode::Auto))?;
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for _ in 0..100 {
                    demux.listen(PORT).expect("listen");
                    demux.counters().expect("counters");
                    demux.unlisten(PORT).expect("unlisten");
                }
            });
        }
    });
    assert!(matches!(
        demux.unlisten(PORT),
        Err(DemuxError::PortNotOurs(PORT))
    ));
    Ok(())
}

/// Real packets of the kernel's TCP over the veth: the peer lives in a namespace of a second thread.
#[test]
fn a_dead_engines_port_is_silent_and_all_others_are_the_kernels() -> Result<()> {
    let link = Link::new()?;
    ip(&["address", "add", "10.1.1.1/24", "dev", "bwd0"])?;
    let peer = Peer::with_bwd1()?;
    // Nobody listens: the kernel resets both.
    assert_eq!(
        peer.connect(PORT, PATIENCE)?,
        Some(ErrorKind::ConnectionRefused)
    );
    assert_eq!(
        peer.connect(22, PATIENCE)?,
        Some(ErrorKind::ConnectionRefused)
    );
    // An engine listens, and is killed.
    Holder::start(HOLD, &["bwd0", "native", "8080"])?.kill()?;
    assert_eq!(
        peer.connect(PORT, SILENCE)?,
        Some(ErrorKind::TimedOut),
        "a dead engine's port"
    );
    assert_eq!(
        peer.connect(22, PATIENCE)?,
        Some(ErrorKind::ConnectionRefused)
    );

    let demux = Demux::attach(&link.config(Mode::Auto))?;
    assert!(demux.took_over());
    demux.add_address(OURS.into())?;
    demux.listen(PORT)?;
    assert_eq!(
        peer.connect(PORT, SILENCE)?,
        Some(ErrorKind::TimedOut),
        "no socket in the slot"
    );
    assert_eq!(
        peer.connect(22, PATIENCE)?,
        Some(ErrorKind::ConnectionRefused)
    );
    let counters = demux.counters()?;
    let count = |counter: Counter| counters[counter as usize];
    assert_eq!(count(Counter::DropEmptySlot).0, "drop-empty-slot");
    assert!(
        count(Counter::DropEmptySlot).1 >= 1 && count(Counter::PassNotOurPort).1 >= 1,
        "{counters:?}"
    );
    demux.unlisten(PORT)?;
    assert_eq!(
        peer.connect(PORT, PATIENCE)?,
        Some(ErrorKind::ConnectionRefused),
        "the kernel's again"
    );
    demux.detach()?;
    link.nothing_left();
    assert_eq!(
        peer.connect(PORT, PATIENCE)?,
        Some(ErrorKind::ConnectionRefused)
    );
    Ok(())
}
