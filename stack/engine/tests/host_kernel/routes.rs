//! Where packets go, according to the kernel.

use bywash_engine::host::{Device, Host, HostEvent, Resolution, Routes, Unreachable};
use crossbeam::channel::unbounded;

use crate::lab::{Lab, PATIENCE, Rig, address, ready, shard, sysctl, until};

#[test]
fn a_remote_on_the_link_is_its_own_next_hop() {
    let lab = Lab::new();
    let mut rig = Rig::new(&lab);
    assert_eq!(
        rig.routes.resolve(address("192.0.2.2")),
        Resolution::Pending
    );
    for (remote, source) in [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")] {
        let path = rig.path(remote);
        assert_eq!(path.source, address(source));
        assert_eq!(path.source_mac, rig.device.mac);
        assert_eq!(path.destination_mac.to_string(), lab.far_mac());
        assert_eq!((path.mtu, path.vlan), (1500, None));
    }
}

#[test]
fn a_link_local_remote_is_reached_over_our_device() {
    let lab = Lab::new();
    lab.far("address add fe80::99/64 dev bwh1 nodad");
    let mut rig = Rig::new(&lab);
    let path = rig.path("fe80::99");
    assert!(
        matches!(path.source, std::net::IpAddr::V6(source) if source.is_unicast_link_local()),
        "{path:?}"
    );
    assert_eq!(path.destination_mac.to_string(), lab.far_mac());
}

#[test]
fn a_remote_behind_a_gateway_has_the_gateways_mac_and_the_routes_mtu() {
    let lab = Lab::new();
    lab.near("route add 198.51.100.0/24 via 192.0.2.254 mtu 1400");
    lab.near("route add 2001:db8:1::/64 via 2001:db8::2 mtu 1300");
    let mut rig = Rig::new(&lab);
    for (remote, mtu) in [("198.51.100.9", 1400), ("2001:db8:1::9", 1300)] {
        let path = rig.path(remote);
        assert_eq!(
            (path.destination_mac.to_string(), path.mtu),
            (lab.far_mac(), mtu)
        );
    }
}

#[test]
fn ipv4_may_go_by_an_ipv6_gateway() {
    let lab = Lab::new();
    lab.near("route add 198.51.100.0/24 via inet6 2001:db8::2");
    let mut rig = Rig::new(&lab);
    let path = rig.path("198.51.100.9");
    assert_eq!(
        (path.destination_mac.to_string(), path.source),
        (lab.far_mac(), address("192.0.2.1"))
    );
}

#[test]
fn the_routes_preferred_source_is_given() {
    let lab = Lab::new();
    lab.near("address add 192.0.2.9/24 dev bwh0");
    lab.near("route add 198.51.100.0/24 via 192.0.2.254 src 192.0.2.9");
    let mut rig = Rig::new(&lab);
    assert_eq!(rig.path("198.51.100.9").source, address("192.0.2.9"));
    assert_eq!(rig.path("192.0.2.2").source, address("192.0.2.1"));
}

#[test]
fn a_changed_route_is_told_without_being_asked() {
    let lab = Lab::new();
    lab.near("route add 198.51.100.0/24 via 192.0.2.254 mtu 1400");
    lab.near("neighbour add 192.0.2.50 lladdr 02:00:00:00:00:50 dev bwh0 nud permanent");
    let mut rig = Rig::new(&lab);
    assert_eq!(rig.path("198.51.100.9").mtu, 1400);
    assert_eq!(rig.path("192.0.2.2").mtu, 1500);
    lab.near("route change 198.51.100.0/24 via 192.0.2.50 mtu 1300");
    rig.changed("198.51.100.9");
    let path = rig.path("198.51.100.9");
    assert_eq!(
        (path.destination_mac.to_string().as_str(), path.mtu),
        ("02:00:00:00:00:50", 1300)
    );
    // A policy rule is a change of routes as well.
    lab.near("route add unreachable 198.51.100.9/32 table 77");
    lab.near("rule add to 198.51.100.9 lookup 77");
    rig.changed("198.51.100.9");
    assert!(matches!(
        rig.refusal("198.51.100.9"),
        Unreachable::NoRoute(_)
    ));
}

#[test]
fn a_neighbour_that_appears_late_is_found() {
    let lab = Lab::new();
    let mut rig = Rig::new(&lab);
    for remote in ["192.0.2.77", "2001:db8::77"] {
        assert_eq!(rig.routes.resolve(address(remote)), Resolution::Pending);
    }
    // The kernel is at it now, in vain so far.
    rig.path("192.0.2.2");
    lab.far("address add 192.0.2.77/24 dev bwh1");
    lab.far("address add 2001:db8::77/64 dev bwh1 nodad");
    for remote in ["192.0.2.77", "2001:db8::77"] {
        assert_eq!(rig.path(remote).destination_mac.to_string(), lab.far_mac());
    }
}

#[test]
fn no_answer_is_a_refusal_that_is_soon_forgotten() {
    let lab = Lab::new();
    let mut rig = Rig::new(&lab);
    for remote in ["192.0.2.66", "2001:db8::66"] {
        assert_eq!(
            rig.refusal(remote),
            Unreachable::NoNeighbour {
                next_hop: address(remote)
            }
        );
        rig.changed(remote);
        assert_eq!(rig.routes.resolve(address(remote)), Resolution::Pending);
    }
    // And when somebody is there at last, nothing stands in the way.
    lab.far("address add 192.0.2.66/24 dev bwh1");
    assert_eq!(
        rig.path("192.0.2.66").destination_mac.to_string(),
        lab.far_mac()
    );
}

#[test]
fn a_silent_gateway_is_named() {
    let lab = Lab::new();
    lab.near("route add 198.51.100.0/24 via 192.0.2.250");
    let mut rig = Rig::new(&lab);
    let refusal = rig.refusal("198.51.100.9");
    assert_eq!(
        refusal,
        Unreachable::NoNeighbour {
            next_hop: address("192.0.2.250")
        }
    );
    assert!(refusal.to_string().contains("192.0.2.250"));
}

#[test]
fn no_route_is_a_refusal_until_there_is_one() {
    let lab = Lab::new();
    lab.near("route add blackhole 198.18.1.0/24");
    lab.near("route add prohibit 198.18.2.0/24");
    lab.near("route add unreachable 2001:db8:9::/64");
    let mut rig = Rig::new(&lab);
    for remote in [
        "203.0.113.1",
        "2001:db8:7::1",
        "198.18.1.1",
        "198.18.2.1",
        "2001:db8:9::1",
    ] {
        let refusal = rig.refusal(remote);
        assert!(
            matches!(refusal, Unreachable::NoRoute(_)),
            "{remote}: {refusal:?}"
        );
    }
    lab.near("route add default via 192.0.2.254");
    assert_eq!(
        rig.path("203.0.113.1").destination_mac.to_string(),
        lab.far_mac()
    );
}

#[test]
fn a_route_over_another_device_names_it() {
    let lab = Lab::new();
    lab.near("link add bwhx type veth peer name bwhy");
    lab.near("address add 198.18.0.1/24 dev bwhx");
    lab.near("link set bwhx up");
    lab.near("link set bwhy up");
    let mut rig = Rig::new(&lab);
    assert_eq!(
        rig.refusal("198.18.0.2"),
        Unreachable::OtherDevice {
            name: "bwhx".into()
        }
    );
}

#[test]
fn what_is_no_host_on_a_wire_is_refused() {
    let lab = Lab::new();
    let mut rig = Rig::new(&lab);
    for own in ["192.0.2.1", "2001:db8::1", "127.0.0.1", "::1"] {
        assert_eq!(rig.refusal(own), Unreachable::OwnAddress, "{own}");
    }
    for group in [
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "192.0.2.255",
        "0.0.0.0",
        "::",
    ] {
        assert_eq!(rig.refusal(group), Unreachable::NotUnicast, "{group}");
    }
}

#[test]
fn a_neighbour_that_changes_or_goes_is_told() {
    let lab = Lab::new();
    let mut rig = Rig::new(&lab);
    rig.path("192.0.2.2");
    lab.near("neighbour replace 192.0.2.2 lladdr 02:00:00:00:00:99 dev bwh0 nud permanent");
    rig.changed("192.0.2.2");
    assert_eq!(
        rig.path("192.0.2.2").destination_mac.to_string(),
        "02:00:00:00:00:99"
    );
    lab.near("neighbour delete 192.0.2.2 dev bwh0");
    rig.changed("192.0.2.2");
    assert_eq!(
        rig.path("192.0.2.2").destination_mac.to_string(),
        lab.far_mac()
    );
}

#[test]
fn every_shard_is_told_what_it_asked_and_no_more() {
    let lab = Lab::new();
    let mut rig = Rig::new(&lab);
    let path = rig.path("192.0.2.2");
    let (mut second, wakes) = shard(&rig.host);
    let mut changed = Vec::new();
    assert_eq!(
        until(&mut second, &wakes, address("192.0.2.2"), ready),
        path
    );
    assert_eq!(second.sources(), rig.device.addresses);
    // The first shard's remote is not the second's business.
    rig.path("2001:db8::2");
    second.poll(&mut changed);
    assert!(!changed.contains(&address("2001:db8::2")));
    // Both hear of a change.
    lab.near("neighbour replace 192.0.2.2 lladdr 02:00:00:00:00:99 dev bwh0 nud permanent");
    rig.changed("192.0.2.2");
    let moved = until(&mut second, &wakes, address("192.0.2.2"), |r| {
        ready(r).filter(|found| *found != path)
    });
    assert_eq!(rig.path("192.0.2.2"), moved);
    let questions = rig
        .host
        .counters()
        .into_iter()
        .find(|(name, _)| *name == "host-questions")
        .unwrap();
    assert_eq!(questions.1, 3);
}

#[test]
fn after_the_host_thread_has_ended_new_remotes_are_refused() {
    let lab = Lab::new();
    let mut rig = Rig::new(&lab);
    let path = rig.path("192.0.2.2");
    let Rig {
        host, mut routes, ..
    } = rig;
    drop(host);
    assert_eq!(
        routes.resolve(address("192.0.2.2")),
        Resolution::Ready(path)
    );
    let refused = routes.resolve(address("192.0.2.254"));
    assert!(
        matches!(refused, Resolution::Unreachable(Unreachable::Failed(_))),
        "{refused:?}"
    );
}

#[test]
fn questions_that_stay_open_are_limited() {
    let lab = Lab::new();
    lab.near("address add 10.0.0.1/8 dev bwh0");
    let mut rig = Rig::new(&lab);
    rig.path("192.0.2.2");
    let mut changed = Vec::new();
    let mut asked = 0_u32;
    let refused = loop {
        // Nobody is there; without `poll` no answer is taken in.
        let remote = std::net::Ipv4Addr::from(0x0a01_0000 + asked).into();
        match rig.routes.resolve(remote) {
            Resolution::Pending => asked += 1,
            other => break other,
        }
    };
    assert_eq!(
        (refused, asked),
        (Resolution::Unreachable(Unreachable::Busy), 4096)
    );
    // Known remotes are unharmed, and there is room again once answers are taken in.
    rig.path("192.0.2.2");
    rig.routes.poll(&mut changed);
    assert_eq!(
        rig.path("192.0.2.254").destination_mac.to_string(),
        lab.far_mac()
    );
}

#[test]
fn a_stale_entry_in_use_is_probed_and_a_wrong_one_healed() {
    let lab = Lab::new();
    // Else the kernel waits for five seconds for a confirmation by TCP.
    sysctl(&lab.near, "net.ipv4.neigh.bwh0.delay_first_probe_time", "1");
    lab.near("neighbour add 192.0.2.2 lladdr 02:00:00:00:00:66 dev bwh0 nud stale");
    let mut rig = Rig::new(&lab);
    // What the kernel would use, at once; but its probes of it fail, and then it asks everybody.
    assert_eq!(
        rig.path("192.0.2.2").destination_mac.to_string(),
        "02:00:00:00:00:66"
    );
    let right = lab.far_mac();
    rig.until("192.0.2.2", |r| {
        ready(r).filter(|path| path.destination_mac.to_string() == right)
    });
}

#[test]
fn lost_announcements_are_made_good() {
    let lab = Lab::new();
    let (entered, inside) = unbounded();
    let (release, gate) = unbounded();
    let (send, events) = unbounded();
    let (device, host) = lab.inside(move || {
        let device = Device::open("bwh0").unwrap();
        let on_event = move |event| {
            // Holds the host thread up while announcements pile up.
            if event == HostEvent::MtuChanged(1400) {
                entered.send(()).unwrap();
                gate.recv().unwrap();
            }
            send.send(event).unwrap_or_default();
        };
        (device.clone(), Host::spawn(&device, on_event).unwrap())
    });
    let (mut routes, wakes) = shard(&host);
    let path = until(&mut routes, &wakes, address("192.0.2.2"), ready);
    assert_eq!(path.source_mac, device.mac);
    lab.near("link set bwh0 mtu 1400");
    inside.recv().unwrap();
    let burst: String = (0..12_000_u32)
        .map(|n| {
            format!(
                "route add 198.18.{}.{}/32 via 192.0.2.254\n",
                n >> 8,
                n & 255
            )
        })
        .collect();
    lab.near_batch(&burst);
    lab.near("address add 198.51.100.7/24 dev bwh0");
    lab.near("neighbour replace 192.0.2.2 lladdr 02:00:00:00:00:99 dev bwh0 nud permanent");
    release.send(()).unwrap();
    while events.recv_timeout(PATIENCE).unwrap() != HostEvent::AddressAdded(address("198.51.100.7"))
    {
    }
    let moved = |r: &Resolution| {
        ready(r).filter(|path| path.destination_mac.to_string() == "02:00:00:00:00:99")
    };
    until(&mut routes, &wakes, address("192.0.2.2"), moved);
    let lost = host
        .counters()
        .into_iter()
        .find(|(name, _)| *name == "host-announcements-lost")
        .unwrap()
        .1;
    assert!(lost > 0, "the burst was too small: nothing was lost");
}
