//! What a flow is named by.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr};

use crate::VlanId;

/// IANA protocol number of TCP: [`Tuple::protocol`] of everything this crate decodes.
pub const PROTOCOL_TCP: u8 = 6;

/// A flow as one end sees it. `local` is this end: the *destination* of a packet just decoded, the *source* of one emitted.
///
/// Both addresses are of one family. An IPv6 tuple never holds an IPv4-mapped address: [`decode`](crate::decode) drops
/// such packets, so mapped form is free to be the key of IPv4 flows elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// Our address.
    pub local: IpAddr,
    /// The peer's address, of the same family.
    pub remote: IpAddr,
    /// Our port, host order.
    pub local_port: u16,
    /// The peer's port, host order.
    pub remote_port: u16,
    /// The VLAN of the link that the flow runs over.
    pub vlan: Option<VlanId>,
    /// IANA protocol number.
    pub protocol: u8,
}

impl Tuple {
    /// A TCP flow without a VLAN.
    pub const fn tcp(local: IpAddr, local_port: u16, remote: IpAddr, remote_port: u16) -> Self {
        Self {
            local,
            remote,
            local_port,
            remote_port,
            vlan: None,
            protocol: PROTOCOL_TCP,
        }
    }

    /// The same flow as the other end sees it.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
            local_port: self.remote_port,
            remote_port: self.local_port,
            vlan: self.vlan,
            protocol: self.protocol,
        }
    }

    /// Whether the flow runs over IPv4; else IPv6.
    #[inline]
    pub const fn is_v4(&self) -> bool {
        self.local.is_ipv4()
    }
}

/// The all-zero TCP tuple: 0.0.0.0:0 to 0.0.0.0:0. A starting point for tests and struct updates, no flow on a wire.
impl Default for Tuple {
    fn default() -> Self {
        let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self::tcp(unspecified, 0, unspecified, 0)
    }
}

/// `10.0.0.1:80 <-> 10.0.0.2:40000`, then ` vlan 5` and ` protocol 17` where they say anything.
impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_end(f, self.local, self.local_port)?;
        f.write_str(" <-> ")?;
        fmt_end(f, self.remote, self.remote_port)?;
        if let Some(vlan) = self.vlan {
            write!(f, " vlan {vlan}")?;
        }
        if self.protocol != PROTOCOL_TCP {
            write!(f, " protocol {}", self.protocol)?;
        }
        Ok(())
    }
}

fn fmt_end(f: &mut fmt::Formatter<'_>, address: IpAddr, port: u16) -> fmt::Result {
    match address {
        IpAddr::V4(address) => write!(f, "{address}:{port}"),
        IpAddr::V6(address) => write!(f, "[{address}]:{port}"),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn display_and_reverse() {
        let v4 = Tuple::tcp(
            "10.0.0.1".parse().unwrap(),
            80,
            "10.0.0.2".parse().unwrap(),
            40000,
        );
        assert_eq!(v4.to_string(), "10.0.0.1:80 <-> 10.0.0.2:40000");
        assert_eq!(v4.reversed().to_string(), "10.0.0.2:40000 <-> 10.0.0.1:80");
        let v6 = Tuple {
            vlan: VlanId::new(5),
            protocol: 17,
            ..Tuple::tcp("fe80::1".parse().unwrap(), 1, "fe80::2".parse().unwrap(), 2)
        };
        assert_eq!(
            v6.to_string(),
            "[fe80::1]:1 <-> [fe80::2]:2 vlan 5 protocol 17"
        );
        assert_eq!(v6.reversed().reversed(), v6);
        assert!(v4.is_v4() && !v6.is_v4());
    }
}
