//! The VLANs of a device that an engine serves beside untagged frames.
//!
//! ```text
//!   eth1        10.0.0.1   no tag       \
//!   eth1.5      10.5.0.1   tag 5         > one XDP program and one set of rings, on eth1
//!   eth1.9.7    10.97.0.1  tags s9.7    /
//! ```
//!
//! A VLAN device (802.1Q, 802.1ad, or a customer's on a provider's) is where the kernel keeps a VLAN's addresses, routes and
//! neighbours; the engine reads them there, and puts the tags on and reads them off by itself. Which device that is rtnetlink
//! tells: its kind is `vlan`, its link is ours. Where it is another, as with a bridge over a VLAN device, the user says so.
//!
//! IPv6 link-local addresses of VLANs stay the kernel's: one such address names a host of every link, and a remote is looked up
//! here without its link.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use bywash_wire::{MacAddr, VlanId};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkMessage, VlanProtocol,
};

use super::device::{DeviceError, LinkState, interface_name, links, own_address};
use super::netlink::{NetlinkError, Requests};

/// Bytes of a tag.
const TAG: u16 = 4;

/// Which VLANs of its device an engine serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VlanChoice {
    /// None: tagged frames are the kernel's.
    #[default]
    None,
    /// Those of all VLAN devices on it, also of such as are made later.
    All,
    /// These. They must be there at the start, and may go and come back later.
    These(Vec<WantedVlan>),
}

/// A VLAN to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedVlan {
    /// The tags.
    pub vlan: VlanId,
    /// Who has its addresses, routes and neighbours; `None`: the kernel's VLAN device on the engine's device.
    pub device: Option<String>,
}

/// A VLAN and the device that has its addresses, as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanDevice {
    /// The tags of its frames.
    pub vlan: VlanId,
    /// Interface name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// Administratively up.
    pub up: bool,
    /// Carrier.
    pub carrier: bool,
    /// Bytes of IP packet that a frame carries: the device's MTU, and for two tags no more than the MTU of the engine's device
    /// less a tag. Devices take one tag beyond their MTU; not all take two.
    pub mtu: u16,
    /// MAC address.
    pub mac: MacAddr,
    /// Own unicast addresses, without IPv6 link-local and tentative ones.
    pub addresses: Vec<IpAddr>,
}

impl VlanDevice {
    pub(super) fn link(&self) -> LinkState {
        LinkState {
            up: self.up,
            carrier: self.carrier,
            mtu: self.mtu,
            mac: self.mac,
        }
    }
}

/// `vlan 5 is eth1.5: 10.5.0.1`
impl fmt::Display for VlanDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        write!(f, "vlan {} is {}: ", self.vlan, self.name)?;
        match addresses.is_empty() {
            true => f.write_str("no address"),
            false => f.write_str(&addresses.join(" ")),
        }
    }
}

/// What there is of what is wanted.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) vlans: Vec<VlanDevice>,
    pub(super) missing: Vec<WantedVlan>,
    /// The kernel's VLAN devices on the engine's, by VLAN, wanted or not.
    pub(super) existing: BTreeMap<VlanId, String>,
}

/// Looks the wanted VLANs of the device `base` up.
pub(super) fn look(
    requests: &mut Requests,
    base: u32,
    choice: &VlanChoice,
) -> Result<Found, NetlinkError> {
    if *choice == VlanChoice::None {
        return Ok(Found::default());
    }
    let all = requests.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let all: Vec<LinkMessage> = links(all).collect();
    let addresses = requests.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    Ok(choose(&all, &addresses, base, choice))
}

/// The kernel's VLAN devices on the device `base`.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn vlan_devices(base: u32) -> Result<Vec<VlanDevice>, NetlinkError> {
    look(&mut Requests::open()?, base, &VlanChoice::All).map(|found| found.vlans)
}

fn choose(
    all: &[LinkMessage],
    addresses: &[RouteNetlinkMessage],
    base: u32,
    choice: &VlanChoice,
) -> Found {
    let by_vlan = kernels(all, base);
    let base_mtu = all
        .iter()
        .find(|link| link.header.index == base)
        .map_or(u16::MAX, |link| LinkState::of(link).mtu);
    let mut found = Found {
        existing: by_vlan
            .iter()
            .map(|(vlan, link)| (*vlan, interface_name(link)))
            .collect(),
        ..Found::default()
    };
    let mut take = |vlan: VlanId, link: &LinkMessage| {
        found.vlans.push(describe(vlan, link, addresses, base_mtu));
    };
    let wanted = match choice {
        VlanChoice::None => &[],
        VlanChoice::All => {
            by_vlan.iter().for_each(|(vlan, link)| take(*vlan, link));
            return found;
        }
        VlanChoice::These(wanted) => wanted.as_slice(),
    };
    let mut missing = Vec::new();
    for one in wanted {
        let link = match &one.device {
            None => by_vlan.get(&one.vlan).copied(),
            Some(name) => all.iter().find(|link| interface_name(link) == *name),
        };
        match link {
            Some(link) => take(one.vlan, link),
            None => missing.push(one.clone()),
        }
    }
    found.missing = missing;
    found
}

/// VLAN devices directly on `base`, and customers' on providers' there.
fn kernels(all: &[LinkMessage], base: u32) -> BTreeMap<VlanId, &LinkMessage> {
    let tagged: Vec<(u32, u32, VlanId, &LinkMessage)> = all
        .iter()
        .filter_map(|link| {
            let (parent, vlan) = tag(link)?;
            Some((link.header.index, parent, vlan, link))
        })
        .collect();
    let mut found = BTreeMap::new();
    for &(index, parent, vlan, link) in &tagged {
        if parent != base {
            continue;
        }
        found.insert(vlan, link);
        for &(_, inner_parent, inner, inner_link) in &tagged {
            if inner_parent == index && vlan.is_service() && !inner.is_service() {
                found.extend(
                    VlanId::stacked(vlan.raw(), inner.raw()).map(|stacked| (stacked, inner_link)),
                );
            }
        }
    }
    found
}

/// Of a VLAN device: the device below it, and its own tag.
fn tag(link: &LinkMessage) -> Option<(u32, VlanId)> {
    let (mut parent, mut is_vlan, mut id, mut service) = (None, false, None, false);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Link(index) => parent = Some(*index),
            // The device below is in another network namespace, and its index is of that one.
            LinkAttribute::LinkNetNsId(_) => return None,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => is_vlan = *kind == InfoKind::Vlan,
                        LinkInfo::Data(InfoData::Vlan(data)) => {
                            for one in data {
                                match one {
                                    InfoVlan::Id(number) => id = VlanId::new(*number),
                                    InfoVlan::Protocol(protocol) => {
                                        service = *protocol == VlanProtocol::Ieee8021Ad;
                                    }
                                    _ => {}
                                }
                            }
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if !is_vlan {
        return None;
    }
    let id = id?;
    Some((parent?, if service { id.service() } else { id }))
}

fn describe(
    vlan: VlanId,
    link: &LinkMessage,
    addresses: &[RouteNetlinkMessage],
    base_mtu: u16,
) -> VlanDevice {
    let ifindex = link.header.index;
    let state = LinkState::of(link);
    let mut own: Vec<IpAddr> = addresses
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == ifindex => {
                own_address(message)
            }
            _ => None,
        })
        .filter(|address| !is_link_local(*address))
        .collect();
    own.sort_unstable();
    own.dedup();
    let beyond_one = TAG * (vlan.tags() as u16 - 1);
    VlanDevice {
        vlan,
        name: interface_name(link),
        ifindex,
        up: state.up,
        carrier: state.carrier,
        mtu: state.mtu.min(base_mtu.saturating_sub(beyond_one)),
        mac: state.mac,
        addresses: own,
    }
}

/// Whether the address means something on one link only (RFC 4291 2.5.6).
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Checks that what was asked for can be served.
pub(super) fn check(base: &str, found: &Found, choice: &VlanChoice) -> Result<(), DeviceError> {
    let VlanChoice::These(_) = choice else {
        return Ok(());
    };
    if let Some(missing) = found.missing.first() {
        let names = found.existing.iter();
        let names: Vec<String> = names
            .map(|(vlan, name)| format!("{vlan} ({name})"))
            .collect();
        let existing = match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        };
        return Err(match &missing.device {
            None => DeviceError::NoVlan {
                name: base.to_owned(),
                vlan: missing.vlan,
                existing,
                remedy: remedy(base, missing.vlan),
            },
            Some(device) => DeviceError::NoVlanDevice {
                vlan: missing.vlan,
                device: device.clone(),
            },
        });
    }
    for (index, one) in found.vlans.iter().enumerate() {
        if one.name == base {
            return Err(DeviceError::VlanIsBase {
                name: base.to_owned(),
                vlan: one.vlan,
            });
        }
        let twice = |other: &VlanDevice| other.ifindex == one.ifindex || other.vlan == one.vlan;
        if let Some(other) = found.vlans[..index].iter().find(|other| twice(other)) {
            return Err(DeviceError::VlanTwice {
                first: format!("{}={}", other.vlan, other.name),
                second: format!("{}={}", one.vlan, one.name),
            });
        }
        if !one.up {
            return Err(DeviceError::Down {
                name: one.name.clone(),
            });
        }
        if one.addresses.is_empty() {
            return Err(DeviceError::NoAddress {
                name: one.name.clone(),
            });
        }
    }
    Ok(())
}

/// How to make a VLAN device.
fn remedy(base: &str, vlan: VlanId) -> String {
    let id = vlan.raw();
    match (vlan.is_service(), vlan.inner()) {
        (false, _) => format!("ip link add link {base} name {base}.{id} type vlan id {id}"),
        (true, None) => {
            format!("ip link add link {base} name {base}.{id} type vlan proto 802.1ad id {id}")
        }
        (true, Some(inner)) => format!(
            "ip link add link {base} name {base}.{id} type vlan proto 802.1ad id {id}; \
             ip link add link {base}.{id} name {base}.{id}.{inner} type vlan id {inner}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::address::AddressAttribute;
    use netlink_packet_route::link::LinkFlags;

    use super::*;

    fn link(index: u32, name: &str, mtu: u32) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, index as u8]),
        ];
        link
    }

    fn vlan(index: u32, name: &str, parent: u32, id: u16, protocol: VlanProtocol) -> LinkMessage {
        let mut link = link(index, name, 1500);
        link.attributes.push(LinkAttribute::Link(parent));
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![
                InfoVlan::Id(id),
                InfoVlan::Protocol(protocol),
            ])),
        ]));
        link
    }

    fn address(index: u32, text: &str) -> RouteNetlinkMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        let address = AddressAttribute::Address(text.parse().unwrap());
        message.attributes.push(address);
        RouteNetlinkMessage::NewAddress(message)
    }

    const Q: VlanProtocol = VlanProtocol::Ieee8021Q;
    const AD: VlanProtocol = VlanProtocol::Ieee8021Ad;

    /// eth1 (1) with 5, s9, s9.7 on it; 5 on 5, which no frame of ours can be in; and another device's 5.
    fn host() -> (Vec<LinkMessage>, Vec<RouteNetlinkMessage>) {
        let mut elsewhere = vlan(8, "c5", 1, 6, Q);
        elsewhere.attributes.push(LinkAttribute::LinkNetNsId(3));
        let links = vec![
            link(1, "eth1", 1500),
            vlan(2, "eth1.5", 1, 5, Q),
            vlan(3, "prov", 1, 9, AD),
            vlan(4, "cust", 3, 7, Q),
            vlan(5, "double", 2, 5, Q),
            link(6, "eth2", 1500),
            vlan(7, "eth2.5", 6, 5, Q),
            elsewhere,
        ];
        let addresses = vec![
            address(1, "10.0.0.1"),
            address(2, "fe80::1"),
            address(2, "2001:db8::1"),
            address(2, "10.5.0.1"),
            address(4, "10.97.0.1"),
        ];
        (links, addresses)
    }

    fn these(wanted: &[(&str, Option<&str>)]) -> VlanChoice {
        VlanChoice::These(
            wanted
                .iter()
                .map(|(vlan, device)| WantedVlan {
                    vlan: vlan.parse().unwrap(),
                    device: device.map(str::to_owned),
                })
                .collect(),
        )
    }

    #[test]
    fn the_kernels_vlan_devices_are_found_with_their_tags() {
        let (links, addresses) = host();
        let found = choose(&links, &addresses, 1, &VlanChoice::All);
        let shown: Vec<String> = found.vlans.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "vlan 5 is eth1.5: 10.5.0.1 2001:db8::1",
                "vlan s9 is prov: no address",
                "vlan s9.7 is cust: 10.97.0.1",
            ]
        );
        // The device takes one tag beyond its MTU.
        let mtus: Vec<u16> = found.vlans.iter().map(|one| one.mtu).collect();
        assert_eq!(mtus, [1500, 1500, 1496]);
        assert!(
            choose(&links, &addresses, 1, &VlanChoice::None)
                .vlans
                .is_empty()
        );
        check("eth1", &found, &VlanChoice::All).unwrap();
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_a_remedy() {
        let (mut links, addresses) = host();
        links.push(link(9, "br5", 9000));
        let refusal = |wanted: &[(&str, Option<&str>)]| {
            let choice = these(wanted);
            let found = choose(&links, &addresses, 1, &choice);
            check("eth1", &found, &choice).map_err(|error| error.to_string())
        };
        assert_eq!(refusal(&[("5", None), ("s9.7", None)]), Ok(()));
        assert_eq!(refusal(&[("5", Some("cust"))]), Ok(()));
        for (wanted, expected) in [
            (
                vec![("6", None)],
                "ip link add link eth1 name eth1.6 type vlan id 6",
            ),
            (vec![("s5", None)], "type vlan proto 802.1ad id 5"),
            (
                vec![("s9.8", None)],
                "link eth1.9 name eth1.9.8 type vlan id 8",
            ),
            (
                vec![("6", None)],
                "there are: 5 (eth1.5), s9 (prov), s9.7 (cust)",
            ),
            (vec![("6", Some("br6"))], "no interface br6"),
            (vec![("6", Some("br5"))], "br5 has no address"),
            (vec![("6", Some("eth1"))], "eth1 itself"),
            (
                vec![("5", None), ("5", Some("cust"))],
                "5=eth1.5 and 5=cust",
            ),
            (
                vec![("5", None), ("6", Some("eth1.5"))],
                "5=eth1.5 and 6=eth1.5",
            ),
        ] {
            let text = refusal(&wanted).unwrap_err();
            assert!(text.contains(expected), "{wanted:?}: {text}");
        }
    }

    #[test]
    fn a_vlan_device_that_is_down_is_refused() {
        let (mut links, addresses) = host();
        links[1].header.flags = LinkFlags::empty();
        let choice = these(&[("5", None)]);
        let found = choose(&links, &addresses, 1, &choice);
        let error = check("eth1", &found, &choice).unwrap_err().to_string();
        assert!(error.contains("ip link set eth1.5 up"), "{error}");
    }
}
