//! Addresses and the link itself change while an engine runs.

use bywash_engine::host::{Device, Host, HostEvent, Routes, Unreachable};
use crossbeam::channel::unbounded;

use crate::lab::{Lab, Rig, address};

#[test]
fn addresses_that_come_and_go_are_events() {
    let lab = Lab::new();
    let mut rig = Rig::new(&lab);
    for text in ["192.0.2.33", "2001:db8::33"] {
        let ip = address(text);
        let length = if ip.is_ipv4() { 24 } else { 64 };
        assert!(!rig.routes.sources().contains(&ip));
        lab.near(&format!("address add {text}/{length} dev bwh0"));
        rig.event(&HostEvent::AddressAdded(ip));
        rig.path("192.0.2.2");
        let mut changed = Vec::new();
        while !rig.routes.sources().contains(&ip) {
            rig.routes.poll(&mut changed);
        }
        lab.near(&format!("address delete {text}/{length} dev bwh0"));
        rig.event(&HostEvent::AddressRemoved(ip));
        while rig.routes.sources().contains(&ip) {
            rig.routes.poll(&mut changed);
        }
    }
}

#[test]
fn a_tentative_address_is_not_ours_before_detection_is_done() {
    let lab = Lab::new();
    crate::lab::sysctl(&lab.near, "net.ipv6.conf.bwh0.accept_dad", "1");
    crate::lab::sysctl(&lab.far, "net.ipv6.conf.bwh1.accept_dad", "0");
    let rig = Rig::new(&lab);
    // Somebody else has it: detection fails, and no event may come.
    lab.near("address add 2001:db8::2/64 dev bwh0");
    lab.near("address add 2001:db8::44/64 dev bwh0");
    rig.event(&HostEvent::AddressAdded(address("2001:db8::44")));
    let rest: Vec<_> = rig.events.try_iter().collect();
    assert!(
        !rest.contains(&HostEvent::AddressAdded(address("2001:db8::2"))),
        "{rest:?}"
    );
}

#[test]
fn a_link_that_goes_down_and_comes_back_is_followed() {
    let lab = Lab::new();
    let mut rig = Rig::new(&lab);
    let path = rig.path("192.0.2.2");
    lab.near("link set bwh0 down");
    rig.event(&HostEvent::LinkDown);
    rig.until("192.0.2.2", |resolution| {
        matches!(
            resolution,
            bywash_engine::host::Resolution::Unreachable(Unreachable::LinkDown)
        )
        .then_some(())
    });
    lab.near("link set bwh0 up");
    rig.event(&HostEvent::LinkUp);
    assert_eq!(rig.path("192.0.2.2"), path);
}

#[test]
fn a_lost_carrier_is_an_event() {
    let lab = Lab::new();
    let rig = Rig::new(&lab);
    lab.far("link set bwh1 down");
    rig.event(&HostEvent::LinkDown);
    lab.far("link set bwh1 up");
    rig.event(&HostEvent::LinkUp);
}

#[test]
fn mtu_and_mac_reach_the_paths() {
    let lab = Lab::new();
    let mut rig = Rig::new(&lab);
    rig.path("192.0.2.2");
    lab.near("link set bwh0 mtu 1400");
    rig.event(&HostEvent::MtuChanged(1400));
    rig.until("192.0.2.2", |r| {
        crate::lab::ready(r).filter(|path| path.mtu == 1400)
    });
    lab.near("link set bwh0 address 02:00:00:00:00:11");
    let mac = bywash_engine::wire::MacAddr([2, 0, 0, 0, 0, 0x11]);
    rig.event(&HostEvent::MacChanged(mac));
    rig.until("192.0.2.2", |r| {
        crate::lab::ready(r).filter(|path| path.source_mac == mac)
    });
}

#[test]
fn a_removed_device_is_an_event() {
    let lab = Lab::new();
    let mut rig = Rig::new(&lab);
    rig.path("192.0.2.2");
    lab.near("link delete bwh0");
    rig.event(&HostEvent::DeviceGone);
    assert_eq!(rig.refusal("192.0.2.254"), Unreachable::LinkDown);
}

#[test]
fn what_changed_before_the_thread_started_is_reported() {
    let lab = Lab::new();
    let device = lab.inside(|| Device::open("bwh0").unwrap());
    lab.near("address add 198.18.7.3/24 dev bwh0");
    lab.near("address delete 192.0.2.1/24 dev bwh0");
    lab.near("link set bwh0 mtu 1400");
    let (send, events) = unbounded();
    let host = lab.inside(|| Host::spawn(&device, move |event| drop(send.send(event))).unwrap());
    drop(host);
    let events: Vec<_> = events.iter().collect();
    for expected in [
        HostEvent::AddressAdded(address("198.18.7.3")),
        HostEvent::AddressRemoved(address("192.0.2.1")),
        HostEvent::MtuChanged(1400),
    ] {
        assert!(
            events.contains(&expected),
            "{expected:?} is not among {events:?}"
        );
    }
}
