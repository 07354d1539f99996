//! The links that lead to remotes: the device itself and the VLANs on it, with their addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bywash_wire::VlanId;

use super::{Resolver, Timer};
use crate::host::device::{LinkState, addresses};
use crate::host::kernel_routes::Update;
use crate::host::neighbours::Hop;
use crate::host::netlink::NetlinkError;
use crate::host::routes::Via;
use crate::host::thread::HostEvent;
use crate::host::vlans::{self, VlanChoice, VlanDevice};

/// Links change in bursts; wait this long before looking whether VLANs are among them.
const VLAN_SETTLE: Duration = Duration::from_millis(20);

impl Resolver {
    /// Own addresses now.
    pub(in crate::host) fn sources(&self) -> Arc<[IpAddr]> {
        self.sources.iter().copied().collect()
    }

    /// The device itself, or a VLAN on it.
    pub(super) fn network(&self, ifindex: u32) -> Option<(LinkState, Option<VlanId>)> {
        if ifindex == self.ifindex {
            return Some((self.link, None));
        }
        let vlan = self.vlans.get(&ifindex)?;
        Some((vlan.link(), Some(vlan.vlan)))
    }

    pub(super) fn read_addresses(&mut self) -> Result<(), NetlinkError> {
        self.addresses = addresses(&mut self.requests, self.ifindex)?;
        self.tell_addresses();
        Ok(())
    }

    pub(super) fn look_at_vlans_soon(&mut self, now: Instant) {
        if self.wanted_vlans != VlanChoice::None && !self.looking_at_vlans {
            self.looking_at_vlans = true;
            self.set_timer(now + VLAN_SETTLE, Timer::Vlans);
        }
    }

    /// Looks at the VLANs that are wanted, and follows what has changed.
    pub(super) fn read_vlans(&mut self, now: Instant) -> Result<(), NetlinkError> {
        let found = vlans::look(&mut self.requests, self.ifindex, &self.wanted_vlans)?;
        let found = by_index(found.vlans);
        if found == self.vlans {
            return Ok(());
        }
        self.vlans = found;
        let now_there = self.vlans.values().cloned().collect();
        self.events.push(HostEvent::Vlans(now_there));
        self.tell_addresses();
        self.tell_all();
        self.schedule_all();
        self.reroute_soon(now);
        Ok(())
    }

    /// Reports addresses that have come or gone, of the device and of its VLANs together: one may be in both.
    pub(super) fn tell_addresses(&mut self) {
        let tagged = self.vlans.values().flat_map(|vlan| &vlan.addresses);
        let found: BTreeSet<IpAddr> = self.addresses.iter().chain(tagged).copied().collect();
        if found == self.sources {
            return;
        }
        self.events.extend(
            self.sources
                .difference(&found)
                .copied()
                .map(HostEvent::AddressRemoved),
        );
        self.events.extend(
            found
                .difference(&self.sources)
                .copied()
                .map(HostEvent::AddressAdded),
        );
        self.sources = found;
        self.updates.push(Update::Sources(self.sources()));
    }
}

pub(super) fn by_index(vlans: Vec<VlanDevice>) -> BTreeMap<u32, VlanDevice> {
    vlans.into_iter().map(|vlan| (vlan.ifindex, vlan)).collect()
}

impl Via {
    /// Whom frames go to, and where.
    pub(super) fn hop(&self) -> Hop {
        Hop {
            ifindex: self.ifindex,
            address: self.next_hop,
        }
    }
}
