//! The network device that an engine drives, as it is when the engine starts.
//!
//! Everything comes from rtnetlink, asked in the calling thread's network namespace. sysfs only
//! supplies what rtnetlink lacks, with care: a sysfs shows the devices of the namespace in which it
//! was mounted (`ip netns exec` mounts its own), so `/sys/class/net/<name>` may be a stranger of the
//! same name and is believed only if index and MAC address agree.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bywash_wire::{MacAddr, VlanId};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::netlink::{NetlinkError, Requests};
use super::vlans::{self, VlanChoice, VlanDevice};

/// Longest name of an interface without the closing zero (`IFNAMSIZ` - 1).
const NAME_MAX: usize = 15;

/// Why a device cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No interface of that name in this network namespace.
    #[error("there is no interface {name} in this network namespace; there are: {existing}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// Names that exist, comma-separated.
        existing: String,
    },
    /// The interface is administratively down.
    #[error("{name} is down: ip link set {name} up")]
    Down {
        /// The interface.
        name: String,
    },
    /// Not an Ethernet device.
    #[error("{name} is not an Ethernet device ({layer}): Bywash speaks Ethernet only")]
    NotEthernet {
        /// The interface.
        name: String,
        /// Its link layer.
        layer: String,
    },
    /// The interface has no usable address.
    #[error(
        "{name} has no address that can be used (tentative ones do not count): ip address add <address>/<length> dev {name}"
    )]
    NoAddress {
        /// The interface.
        name: String,
    },
    /// No VLAN device of the kernel on the interface has these tags.
    #[error(
        "there is no VLAN device for vlan {vlan} on {name} (there are: {existing}): {remedy}, and give it an address; \
         or name the interface that has the VLAN's addresses: --vlan {vlan}=INTERFACE"
    )]
    NoVlan {
        /// The interface.
        name: String,
        /// The tags asked for.
        vlan: VlanId,
        /// VLAN devices that there are, comma-separated.
        existing: String,
        /// The commands that make one.
        remedy: String,
    },
    /// The interface named for a VLAN does not exist.
    #[error("there is no interface {device} for vlan {vlan} in this network namespace")]
    NoVlanDevice {
        /// The tags.
        vlan: VlanId,
        /// The interface asked for.
        device: String,
    },
    /// The interface named for a VLAN is the engine's own, which is untagged.
    #[error(
        "vlan {vlan} cannot be {name} itself, whose frames carry no tag: name the interface that has the VLAN's addresses"
    )]
    VlanIsBase {
        /// The interface.
        name: String,
        /// The tags.
        vlan: VlanId,
    },
    /// Two VLANs of one interface, or two interfaces of one VLAN.
    #[error("{first} and {second}: a VLAN has one interface, and an interface one VLAN")]
    VlanTwice {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// A receive queue that the device does not have.
    #[error(
        "{name} has {queues} receive queue(s), numbered from 0: there is no queue {queue} (more: ethtool -L {name})"
    )]
    QueueOutOfRange {
        /// The interface.
        name: String,
        /// The queue asked for.
        queue: u32,
        /// Queues that there are.
        queues: u32,
    },
    /// The kernel could not be asked.
    #[error("cannot ask the kernel about {name}: {error}")]
    Netlink {
        /// The interface.
        name: String,
        /// What went wrong.
        error: NetlinkError,
    },
    /// The network namespace of this thread cannot be told.
    #[error("cannot read /proc/thread-self/ns/net: {0}")]
    Namespace(io::Error),
}

/// A device as it was found; what changes later comes as [`super::HostEvent`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Interface name.
    pub name: String,
    /// Interface index, unique in its namespace.
    pub ifindex: u32,
    /// Inode of the network namespace (as `/proc/self/ns/net` shows it).
    pub netns: u64,
    /// MAC address.
    pub mac: MacAddr,
    /// Bytes of IP packet that a frame carries.
    pub mtu: u16,
    /// Carrier: the far end is there. A device without carrier may be opened.
    pub carrier: bool,
    /// Kind of virtual device (`veth`, `bond`, `tun`, ...); `None` for hardware.
    pub kind: Option<String>,
    /// Name of the driver (`ice`, `virtio_net`); of a virtual device its kind; `None` if unknown.
    pub driver: Option<String>,
    /// Receive queues in use; where only rtnetlink could be asked, the number that the device was
    /// made with, which may be more.
    pub rx_queues: u32,
    /// Own unicast addresses, IPv4 first, IPv6 link-local ones included, tentative ones left out.
    pub addresses: Vec<IpAddr>,
    /// Which VLANs on it are wanted.
    pub wanted_vlans: VlanChoice,
    /// Those that are there.
    pub vlans: Vec<VlanDevice>,
}

impl Device {
    /// As [`open_with`](Self::open_with), for untagged frames only.
    ///
    /// # Errors
    /// See [`DeviceError`]; each names its remedy.
    pub fn open(name: &str) -> Result<Self, DeviceError> {
        Self::open_with(name, &VlanChoice::None)
    }

    /// Looks up an interface of the calling thread's network namespace, with the VLANs on it that are
    /// wanted, and checks that an engine can use it.
    ///
    /// # Errors
    /// See [`DeviceError`]; each names its remedy.
    pub fn open_with(name: &str, wanted_vlans: &VlanChoice) -> Result<Self, DeviceError> {
        let failed = |error| DeviceError::Netlink {
            name: name.to_owned(),
            error,
        };
        let mut requests = Requests::open().map_err(failed)?;
        let link = find(&mut requests, name)?;
        let state = LinkState::of(&link);
        if link.header.link_layer_type != LinkLayerType::Ether {
            let layer = format!("{:?}", link.header.link_layer_type).to_lowercase();
            return Err(DeviceError::NotEthernet {
                name: name.to_owned(),
                layer,
            });
        }
        if !state.up {
            return Err(DeviceError::Down {
                name: name.to_owned(),
            });
        }
        let ifindex = link.header.index;
        let addresses: Vec<_> = addresses(&mut requests, ifindex)
            .map_err(failed)?
            .into_iter()
            .collect();
        let found = vlans::look(&mut requests, ifindex, wanted_vlans).map_err(failed)?;
        vlans::check(name, &found, wanted_vlans)?;
        // A trunk may have addresses in its VLANs alone.
        if addresses.is_empty() && found.vlans.iter().all(|vlan| vlan.addresses.is_empty()) {
            return Err(DeviceError::NoAddress {
                name: name.to_owned(),
            });
        }
        let kind = kind(&link);
        Ok(Self {
            netns: network_namespace().map_err(DeviceError::Namespace)?,
            mac: state.mac,
            mtu: state.mtu,
            carrier: state.carrier,
            driver: driver(&link, kind.as_deref()),
            rx_queues: rx_queues(&link, name, state.mac),
            name: name.to_owned(),
            ifindex,
            kind,
            addresses,
            wanted_vlans: wanted_vlans.clone(),
            vlans: found.vlans,
        })
    }

    /// All addresses that an engine serves: its own, and those in its VLANs.
    #[must_use]
    pub fn served(&self) -> BTreeSet<IpAddr> {
        let tagged = self.vlans.iter().flat_map(|vlan| &vlan.addresses);
        self.addresses.iter().chain(tagged).copied().collect()
    }

    /// `<namespace inode>-<interface index>`: names this device on this host for as long as it
    /// exists; the name of its directory under `/run/bywash`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}-{}", self.netns, self.ifindex)
    }

    /// Checks that a receive queue exists.
    ///
    /// # Errors
    /// [`DeviceError::QueueOutOfRange`], the caller's fault.
    pub fn check_queue(&self, queue: u32) -> Result<(), DeviceError> {
        if queue < self.rx_queues {
            return Ok(());
        }
        Err(DeviceError::QueueOutOfRange {
            name: self.name.clone(),
            queue,
            queues: self.rx_queues,
        })
    }
}

/// Inode of the calling thread's network namespace.
///
/// # Errors
/// If `/proc` is not there.
pub fn network_namespace() -> io::Result<u64> {
    // A thread may have entered another namespace than the process's first thread.
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

fn find(requests: &mut Requests, name: &str) -> Result<LinkMessage, DeviceError> {
    let failed = |error| DeviceError::Netlink {
        name: name.to_owned(),
        error,
    };
    if !name.is_empty() && name.len() <= NAME_MAX {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        match requests.ask(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => {
                if let Some(link) = links(answers).next() {
                    return Ok(link);
                }
            }
            Err(NetlinkError::Kernel(Errno::ENODEV)) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let all = requests
        .dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))
        .map_err(failed)?;
    let existing: Vec<_> = links(all).map(|link| interface_name(&link)).collect();
    Err(DeviceError::Unknown {
        name: name.to_owned(),
        existing: existing.join(", "),
    })
}

pub(super) fn links(answers: Vec<RouteNetlinkMessage>) -> impl Iterator<Item = LinkMessage> {
    answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    })
}

/// Name of the interface in a link message; `#<index>` if the message has none.
pub(super) fn interface_name(link: &LinkMessage) -> String {
    let name = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
    name.unwrap_or_else(|| format!("#{}", link.header.index))
}

/// Name of the interface with this index; `#<index>` if it is gone.
pub(super) fn name_of(requests: &mut Requests, ifindex: u32) -> Result<String, NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    match requests.ask(RouteNetlinkMessage::GetLink(message), 0) {
        Ok(answers) => Ok(links(answers)
            .next()
            .map_or_else(|| format!("#{ifindex}"), |link| interface_name(&link))),
        Err(NetlinkError::Kernel(Errno::ENODEV)) => Ok(format!("#{ifindex}")),
        Err(error) => Err(error),
    }
}

/// What may change about a link while an engine runs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkState {
    pub(super) up: bool,
    pub(super) carrier: bool,
    pub(super) mtu: u16,
    pub(super) mac: MacAddr,
}

impl LinkState {
    pub(super) fn of(link: &LinkMessage) -> Self {
        let mut state = Self {
            up: link.header.flags.contains(LinkFlags::Up),
            carrier: link.header.flags.contains(LinkFlags::LowerUp),
            mtu: 0,
            mac: MacAddr([0; 6]),
        };
        for attribute in &link.attributes {
            match attribute {
                // An IP packet has at most 65535 bytes, whatever the device would carry.
                LinkAttribute::Mtu(mtu) => state.mtu = u16::try_from(*mtu).unwrap_or(u16::MAX),
                LinkAttribute::Address(address) => {
                    state.mac = address.as_slice().try_into().map_or(state.mac, MacAddr);
                }
                _ => {}
            }
        }
        state
    }

    /// Whether frames can flow.
    pub(super) fn running(self) -> bool {
        self.up && self.carrier
    }

    /// The state now; `None` if the device is gone.
    pub(super) fn ask(requests: &mut Requests, ifindex: u32) -> Result<Option<Self>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        match requests.ask(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => Ok(links(answers).next().map(|link| Self::of(&link))),
            Err(NetlinkError::Kernel(Errno::ENODEV)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The usable unicast addresses of an interface.
pub(super) fn addresses(
    requests: &mut Requests,
    ifindex: u32,
) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let all = requests.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let ours = all.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(message) if message.header.index == ifindex => {
            own_address(message)
        }
        _ => None,
    });
    Ok(ours.collect())
}

/// The address that a message is about, if segments to it would be ours: unicast, and past
/// duplicate address detection (RFC 4862 5.4: a tentative address is not assigned yet).
pub(super) fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let flags = message.header.flags;
    if flags.contains(AddressHeaderFlags::Dadfailed)
        || (flags.contains(AddressHeaderFlags::Tentative)
            && !flags.contains(AddressHeaderFlags::Optimistic))
    {
        return None;
    }
    message_address(message)
}

/// The unicast address that a message is about, whatever its state.
pub(super) fn message_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link IFA_ADDRESS is the peer and IFA_LOCAL is us.
            AddressAttribute::Local(local) => return usable(*local),
            AddressAttribute::Address(other) => address = Some(*other),
            _ => {}
        }
    }
    address.and_then(usable)
}

fn usable(address: IpAddr) -> Option<IpAddr> {
    (!address.is_multicast() && !address.is_unspecified()).then_some(address)
}

fn kind(link: &LinkMessage) -> Option<String> {
    let infos = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        })?;
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

/// Driver by way of the parent on its bus: unlike `/sys/class/net`, `/sys/bus` is the same in all
/// network namespaces.
fn driver(link: &LinkMessage, kind: Option<&str>) -> Option<String> {
    let mut bus = None;
    let mut parent = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::ParentDevBusName(name) => bus = Some(name),
            LinkAttribute::ParentDevName(name) => parent = Some(name),
            _ => {}
        }
    }
    let (Some(bus), Some(parent)) = (bus, parent) else {
        return kind.map(str::to_owned);
    };
    let target = fs::read_link(format!("/sys/bus/{bus}/devices/{parent}/driver")).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

fn rx_queues(link: &LinkMessage, name: &str, mac: MacAddr) -> u32 {
    let directory = Path::new("/sys/class/net").join(name);
    let index = link.header.index;
    if let Some(queues) = sysfs_rx_queues(&directory, index, mac) {
        return queues;
    }
    // `/sys` is another namespace's, as after `nsenter --net`.
    let look = || sysfs_rx_queues(&directory, index, mac);
    if let Some(queues) = with_own_sysfs(MsFlags::MS_RDONLY, look) {
        return queues;
    }
    let made_with = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::NumRxQueues(queues) => Some(*queues),
            _ => None,
        });
    made_with.unwrap_or(1)
}

/// Looks with a `/sys` that shows the calling thread's network namespace: mounted in a mount
/// namespace of a thread of its own, with which it goes. `None` also where rights are missing.
fn with_own_sysfs<T: Send>(flags: MsFlags, look: impl FnOnce() -> Option<T> + Send) -> Option<T> {
    let mounted = || -> nix::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let nothing = None::<&str>;
        mount(
            nothing,
            "/",
            nothing,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            nothing,
        )?;
        mount(Some("sysfs"), "/sys", Some("sysfs"), flags, nothing)
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| match mounted() {
            Ok(()) => look(),
            Err(error) => {
                tracing::debug!(%error, "no sysfs of this network namespace");
                None
            }
        });
        thread.join().ok().flatten()
    })
}

/// Works in the device's directory of a sysfs that shows it and may be written; `None`: there is none.
/// The MAC address is not compared, because it may have changed: the index must do.
pub(super) fn on_sysfs<T: Send>(
    device: &Device,
    work: impl FnOnce(&Path) -> T + Send,
) -> Option<T> {
    let directory = Path::new("/sys/class/net").join(&device.name);
    // That of the thread's namespace, if its directory is of this namespace: `ip netns exec` mounts it.
    if shows(&directory, device.ifindex, Some(device.mac)) {
        return Some(work(&directory));
    }
    with_own_sysfs(MsFlags::empty(), || {
        shows(&directory, device.ifindex, None).then(|| work(&directory))
    })
}

/// Whether a sysfs directory is that of the device with this index and, if given, MAC address.
fn shows(directory: &Path, ifindex: u32, mac: Option<MacAddr>) -> bool {
    let read = |name: &str| fs::read_to_string(directory.join(name));
    let same_index = read("ifindex").is_ok_and(|index| index.trim().parse() == Ok(ifindex));
    let same_mac = mac
        .is_none_or(|mac| read("address").is_ok_and(|address| address.trim() == mac.to_string()));
    same_index && same_mac
}

/// Queues in use according to sysfs; `None` if this sysfs does not show the device in question.
fn sysfs_rx_queues(directory: &Path, ifindex: u32, mac: MacAddr) -> Option<u32> {
    if !shows(directory, ifindex, Some(mac)) {
        return None;
    }
    let entries = fs::read_dir(directory.join("queues")).ok()?;
    let queues = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"))
        .count();
    u32::try_from(queues).ok().filter(|queues| *queues > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::address::AddressHeaderFlags;

    fn message(flags: AddressHeaderFlags, attributes: Vec<AddressAttribute>) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.flags = flags;
        message.attributes = attributes;
        message
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_local_end_of_a_point_to_point_link_is_ours() {
        let attributes = vec![
            AddressAttribute::Address(ip("192.0.2.9")),
            AddressAttribute::Local(ip("192.0.2.1")),
        ];
        assert_eq!(
            own_address(&message(AddressHeaderFlags::empty(), attributes)),
            Some(ip("192.0.2.1"))
        );
    }

    #[test]
    fn link_local_counts_and_tentative_does_not() {
        let attributes = || vec![AddressAttribute::Address(ip("fe80::1"))];
        assert_eq!(
            own_address(&message(AddressHeaderFlags::Permanent, attributes())),
            Some(ip("fe80::1"))
        );
        assert_eq!(
            own_address(&message(AddressHeaderFlags::Tentative, attributes())),
            None
        );
        assert_eq!(
            own_address(&message(AddressHeaderFlags::Dadfailed, attributes())),
            None
        );
        let optimistic = AddressHeaderFlags::Tentative | AddressHeaderFlags::Optimistic;
        assert_eq!(
            own_address(&message(optimistic, attributes())),
            Some(ip("fe80::1"))
        );
    }

    #[test]
    fn multicast_is_left_out() {
        let attributes = vec![AddressAttribute::Address(ip("ff02::1"))];
        assert_eq!(
            own_address(&message(AddressHeaderFlags::empty(), attributes)),
            None
        );
    }

    #[test]
    fn an_unknown_interface_is_answered_with_those_that_exist() {
        for name in [
            "",
            "nosuchdevice0",
            "a-name-much-longer-than-an-interface-may-have",
        ] {
            let error = Device::open(name).unwrap_err();
            let DeviceError::Unknown { existing, .. } = &error else {
                panic!("{error:?}")
            };
            assert!(existing.split(", ").any(|name| name == "lo"), "{error}");
        }
    }

    #[test]
    fn sysfs_is_believed_only_about_the_same_device() {
        let directory = Path::new("/sys/class/net/lo");
        let index: u32 = fs::read_to_string(directory.join("ifindex"))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        assert_eq!(sysfs_rx_queues(directory, index, MacAddr([0; 6])), Some(1));
        assert_eq!(
            sysfs_rx_queues(directory, index, MacAddr([0, 0, 0, 0, 0, 1])),
            None
        );
        assert_eq!(sysfs_rx_queues(directory, index + 1, MacAddr([0; 6])), None);
    }
}
