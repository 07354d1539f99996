//! The kernel's own decision about where a packet to a remote host goes (`ip route get`).

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::device::name_of;
use super::netlink::{NetlinkError, Requests};
use super::path::Unreachable;

/// What the kernel decides for one remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Over our device.
    Via(Via),
    /// Not reachable for us.
    No(Unreachable),
}

/// A way over our device, or in a VLAN on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Via {
    /// The interface: ours, or the VLAN's.
    pub(super) ifindex: u32,
    /// The gateway, or the remote itself on the link. IPv4 may go by an IPv6 gateway (RFC 5549).
    pub(super) next_hop: IpAddr,
    /// Preferred source address.
    pub(super) source: IpAddr,
    /// The route's own MTU, if it has one.
    pub(super) mtu: Option<u16>,
}

/// Asks the kernel where packets to `remote` go. `ifindex` is our device, `is_vlan` knows those of VLANs on it.
///
/// # Errors
/// Failures of the socket; what the kernel refuses is a [`Decision::No`].
pub(super) fn decide(
    requests: &mut Requests,
    ifindex: u32,
    is_vlan: impl Fn(u32) -> bool,
    remote: IpAddr,
) -> Result<Decision, NetlinkError> {
    // The kernel says "no route" to 255.255.255.255 if it has no default route.
    if remote.is_unspecified() || remote.is_multicast() || remote == IpAddr::V4(Ipv4Addr::BROADCAST)
    {
        return Ok(Decision::No(Unreachable::NotUnicast));
    }
    let answers = match requests.ask(RouteNetlinkMessage::GetRoute(question(ifindex, remote)), 0) {
        Ok(answers) => answers,
        // No route; routes of type unreachable, prohibit and blackhole; a link-local address asked
        // for on a device without IPv6.
        Err(NetlinkError::Kernel(
            errno @ (Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
            | Errno::EACCES
            | Errno::EINVAL
            | Errno::ENETDOWN),
        )) => return Ok(Decision::No(Unreachable::NoRoute(errno.desc().into()))),
        Err(NetlinkError::Kernel(Errno::ENODEV)) => return Ok(Decision::No(Unreachable::LinkDown)),
        Err(error) => return Err(error),
    };
    let route = answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    });
    let Some(route) = route else {
        return Err(NetlinkError::Decode(format!(
            "no route in the answer about {remote}"
        )));
    };
    match interpret(&route, remote) {
        Found::Way(via) if via.ifindex == ifindex || is_vlan(via.ifindex) => Ok(Decision::Via(via)),
        Found::Way(via) => Ok(Decision::No(Unreachable::OtherDevice {
            name: name_of(requests, via.ifindex)?.into(),
        })),
        Found::No(unreachable) => Ok(Decision::No(unreachable)),
    }
}

fn question(ifindex: u32, remote: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    (
        message.header.address_family,
        message.header.destination_prefix_length,
    ) = match remote {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message
        .attributes
        .push(RouteAttribute::Destination(remote.into()));
    // Link-local addresses mean something on one link only (RFC 4007 6). For all others the kernel
    // decides freely: naming our device would hide that it would send elsewhere.
    if matches!(remote, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
        message.attributes.push(RouteAttribute::Oif(ifindex));
    }
    message
}

enum Found {
    Way(Via),
    No(Unreachable),
}

fn interpret(route: &RouteMessage, remote: IpAddr) -> Found {
    match route.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Found::No(Unreachable::OwnAddress),
        RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast => {
            return Found::No(Unreachable::NotUnicast);
        }
        other => {
            return Found::No(Unreachable::NoRoute(
                format!("route of type {other:?}").to_lowercase().into(),
            ));
        }
    }
    let mut device = None;
    let mut source = None;
    let mut next_hop = remote;
    let mut mtu = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(address) => next_hop = ip(address).unwrap_or(next_hop),
            RouteAttribute::Via(RouteVia::Inet(ip)) => next_hop = (*ip).into(),
            RouteAttribute::Via(RouteVia::Inet6(ip)) => next_hop = (*ip).into(),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Metrics(metrics) => mtu = metrics.iter().find_map(route_mtu),
            _ => {}
        }
    }
    let Some(ifindex) = device else {
        return Found::No(Unreachable::NoRoute("the route names no device".into()));
    };
    let Some(source) = source else {
        return Found::No(Unreachable::NoRoute(
            "no source address of the remote's family".into(),
        ));
    };
    Found::Way(Via {
        ifindex,
        next_hop,
        source,
        mtu,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn route_mtu(metric: &RouteMetric) -> Option<u16> {
    match metric {
        RouteMetric::Mtu(mtu) if *mtu != 0 => Some(u16::try_from(*mtu).unwrap_or(u16::MAX)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn route(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.kind = kind;
        message.attributes = attributes;
        message
    }

    fn source() -> RouteAttribute {
        RouteAttribute::PrefSource(address("192.0.2.1").into())
    }

    #[test]
    fn the_next_hop_is_the_gateway_or_the_remote_itself() {
        let remote = address("198.51.100.9");
        let on_link = route(RouteType::Unicast, vec![RouteAttribute::Oif(4), source()]);
        let Found::Way(via) = interpret(&on_link, remote) else {
            panic!()
        };
        assert_eq!(
            via,
            Via {
                ifindex: 4,
                next_hop: remote,
                source: address("192.0.2.1"),
                mtu: None
            }
        );

        let metrics = RouteAttribute::Metrics(vec![RouteMetric::Lock(4), RouteMetric::Mtu(1400)]);
        let gateway = RouteAttribute::Gateway(address("192.0.2.254").into());
        let routed = route(
            RouteType::Unicast,
            vec![RouteAttribute::Oif(4), gateway, source(), metrics],
        );
        let Found::Way(via) = interpret(&routed, remote) else {
            panic!()
        };
        let expected = Via {
            ifindex: 4,
            next_hop: address("192.0.2.254"),
            source: address("192.0.2.1"),
            mtu: Some(1400),
        };
        assert_eq!(via, expected);

        let by_ipv6 = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
        let routed = route(
            RouteType::Unicast,
            vec![RouteAttribute::Oif(4), by_ipv6, source()],
        );
        let Found::Way(via) = interpret(&routed, remote) else {
            panic!()
        };
        assert_eq!(via.next_hop, address("fe80::1"));
    }

    #[test]
    fn what_is_no_way_says_why() {
        let remote = address("198.51.100.9");
        for (kind, expected) in [
            (RouteType::Local, Unreachable::OwnAddress),
            (RouteType::Broadcast, Unreachable::NotUnicast),
            (RouteType::Anycast, Unreachable::NotUnicast),
            (
                RouteType::BlackHole,
                Unreachable::NoRoute("route of type blackhole".into()),
            ),
        ] {
            let message = route(kind, vec![RouteAttribute::Oif(4), source()]);
            assert!(
                matches!(interpret(&message, remote), Found::No(found) if found == expected),
                "{kind:?}"
            );
        }
        let no_source = route(RouteType::Unicast, vec![RouteAttribute::Oif(4)]);
        assert!(matches!(
            interpret(&no_source, remote),
            Found::No(Unreachable::NoRoute(_))
        ));
    }

    #[test]
    fn only_link_local_questions_name_our_device() {
        let names_device = |text: &str| {
            question(7, address(text))
                .attributes
                .contains(&RouteAttribute::Oif(7))
        };
        assert!(names_device("fe80::9"));
        assert!(!names_device("2001:db8::9") && !names_device("192.0.2.9"));
    }
}
