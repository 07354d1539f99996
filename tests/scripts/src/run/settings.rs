//! Addresses, MTU and tolerances: what the options at the head of a script choose.

use std::net::IpAddr;
use std::path::Path;

use super::{Failure, Options};
use crate::script::{Micros, Script};

/// Cookies of Linux's server for the player's default addresses and the test key of its suites.
pub(super) const TFO_COOKIE_V4: &str = "3021b9d889017eeb";
/// The same over IPv6.
pub(super) const TFO_COOKIE_V6: &str = "c1d1e9742a47a9bc";
/// Those of a key of zeros, `TFO_COOKIE_ZERO` in the suites.
pub(super) const TFO_COOKIE_ZERO_V4: &str = "b7c12350a90dc8f5";
/// The same over IPv6.
pub(super) const TFO_COOKIE_ZERO_V6: &str = "82af1a8f9a205c34";

/// What packets and sockets are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Family {
    /// IPv4 sockets and packets.
    #[default]
    V4,
    /// IPv6 sockets and packets.
    V6,
    /// IPv6 sockets, IPv4 packets.
    Mapped,
}

/// A script's surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Sockets and packets.
    pub family: Family,
    /// The stack's address.
    pub local: IpAddr,
    /// The script's address.
    pub remote: IpAddr,
    /// Largest datagram.
    pub mtu: u16,
    /// How far an event may be from its time.
    pub tolerance_us: Micros,
    /// One packet of the script is one packet of the stack, not several of the same kind in a row.
    pub strict_segments: bool,
    /// Microseconds of a tick of the stack's timestamps, whose values are compared then; 0: only echoes are.
    pub timestamp_tick_us: Micros,
}

impl Settings {
    pub(super) fn of(script: &Script, options: &Options) -> Result<Self, Failure> {
        let mut family = options.family;
        let mut mtu = None;
        let mut tolerance_us = 4000;
        let mut strict_segments = false;
        let mut timestamp_tick_us = 0;
        for (name, value) in &script.options {
            let number = || {
                value.parse::<u64>().map_err(|_| Failure::Unsupported {
                    line: 1,
                    what: format!("--{name}={value} is no number"),
                })
            };
            match name.as_str() {
                "ip_version" => {
                    family = match value.as_str() {
                        "ipv4" => Family::V4,
                        "ipv6" => Family::V6,
                        "ipv4_mapped_ipv6" => Family::Mapped,
                        _ => family,
                    }
                }
                "mtu" => mtu = Some(number()?),
                "tolerance_usecs" => tolerance_us = number()? as Micros,
                "strict_segments" => strict_segments = true,
                "tcp_ts_tick_usecs" => timestamp_tick_us = number()? as Micros,
                // About machines, wires and memory that are not here.
                "mss" | "send_omit_free" | "non_fatal" | "local_ip" | "remote_ip"
                | "gateway_ip" | "speed" | "tolerance_percent" | "netmask_ip" | "use_expect"
                | "define" | "D" | "verbose" => {}
                _ => {
                    return Err(Failure::Unsupported {
                        line: 1,
                        what: format!("--{name}"),
                    });
                }
            }
        }
        let headers = if family == Family::V6 { 60 } else { 40 };
        // The MTU that leaves 1460 octets in either family, unless the script says otherwise.
        let mtu = mtu.unwrap_or(1460 + headers);
        let (local, remote) = match family {
            Family::V4 | Family::Mapped => ("192.168.0.1", "192.0.2.1"),
            Family::V6 => ("fd3d:a0b:17d6::1", "fd3d:fa7b:d17d::1"),
        };
        let address = |text: &str| text.parse().expect("an address");
        Ok(Self {
            family,
            local: address(local),
            remote: address(remote),
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            tolerance_us: options.tolerance_us.unwrap_or(tolerance_us),
            strict_segments,
            timestamp_tick_us,
        })
    }

    /// The words for the plug-in.
    pub(super) fn flags(&self, sysctls: &Path) -> String {
        format!(
            "local={},mtu={},sysctls={}",
            self.local,
            self.mtu,
            sysctls.display()
        )
    }

    /// An address as the sockets of this family are told it.
    pub(super) fn for_socket(&self, ip: IpAddr) -> IpAddr {
        match (self.family, ip) {
            (Family::Mapped, IpAddr::V4(ip)) => ip.to_ipv6_mapped().into(),
            _ => ip,
        }
    }
}
