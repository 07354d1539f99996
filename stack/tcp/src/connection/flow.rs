//! The flow as a connection keeps it: 24 bytes over IPv4, with the addresses in a box over IPv6.

use alloc::boxed::Box;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bywash_wire::{Tuple, VlanId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    /// Both ends, this one first; the IPv4 addresses then mean nothing.
    v6: Option<Box<[Ipv6Addr; 2]>>,
    v4: [Ipv4Addr; 2],
    ports: [u16; 2],
    vlan: Option<VlanId>,
}

impl Flow {
    /// The protocol is TCP, whatever `tuple` says.
    pub(super) fn new(tuple: &Tuple) -> Self {
        let (v4, v6) = match (tuple.local, tuple.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => ([local, remote], None),
            (local, remote) => {
                let wide = |address| match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                };
                let both = Box::new([wide(local), wide(remote)]);
                ([Ipv4Addr::UNSPECIFIED; 2], Some(both))
            }
        };
        Self {
            v6,
            v4,
            ports: [tuple.local_port, tuple.remote_port],
            vlan: tuple.vlan,
        }
    }

    pub(super) fn is_v4(&self) -> bool {
        self.v6.is_none()
    }

    pub(super) fn tuple(&self) -> Tuple {
        let [local, remote] = match &self.v6 {
            None => self.v4.map(IpAddr::V4),
            Some(both) => both.map(IpAddr::V6),
        };
        Tuple {
            vlan: self.vlan,
            ..Tuple::tcp(local, self.ports[0], remote, self.ports[1])
        }
    }

    /// Whether `tuple` is this flow: compared without building one.
    #[inline]
    pub(super) fn is(&self, tuple: &Tuple) -> bool {
        let addresses = match (&self.v6, tuple.local, tuple.remote) {
            (None, IpAddr::V4(local), IpAddr::V4(remote)) => self.v4 == [local, remote],
            (Some(both), IpAddr::V6(local), IpAddr::V6(remote)) => **both == [local, remote],
            _ => false,
        };
        addresses
            && self.ports == [tuple.local_port, tuple.remote_port]
            && self.vlan == tuple.vlan
            && tuple.protocol == bywash_wire::PROTOCOL_TCP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let vlan = VlanId::new(5);
        let v4 = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>());
        let v6 = ["fd00::1", "fd00::2"].map(|text| text.parse::<IpAddr>());
        for both in [v4, v6] {
            let [Ok(local), Ok(remote)] = both else {
                panic!("addresses")
            };
            let tuple = Tuple {
                vlan,
                ..Tuple::tcp(local, 80, remote, 40_000)
            };
            let flow = Flow::new(&tuple);
            assert_eq!(flow.tuple(), tuple);
            assert_eq!(flow.is_v4(), tuple.is_v4());
            assert!(flow.is(&tuple) && !flow.is(&tuple.reversed()));
            let untagged = Tuple {
                vlan: None,
                ..tuple
            };
            assert!(!flow.is(&untagged));
        }
    }
}
