//! Which VLAN a frame is in, as its tags say.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use crate::abi::{VLAN_CUSTOMER, VLAN_SERVICE, VLAN_STACKED};

/// A frame's VLAN: an 802.1Q customer tag, an 802.1ad service tag, or a customer tag inside a service tag ("QinQ"). Three networks
/// that have nothing to do with each other, even under one number. Identifiers are 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Vlan {
    /// One tag, EtherType 0x8100.
    Customer(u16),
    /// One tag, EtherType 0x88a8.
    Service(u16),
    /// Two tags.
    Stacked {
        /// The outer tag's.
        service: u16,
        /// The inner tag's.
        customer: u16,
    },
}

impl Vlan {
    /// Whether the identifiers are such: 0 means no VLAN, and 4095 is reserved (IEEE 802.1Q, table 9-2).
    pub const fn is_valid(self) -> bool {
        const fn valid(id: u16) -> bool {
            1 <= id && id <= 4094
        }
        match self {
            Vlan::Customer(id) | Vlan::Service(id) => valid(id),
            Vlan::Stacked { service, customer } => valid(service) && valid(customer),
        }
    }

    /// Whether two tags name it.
    pub(crate) const fn is_pair(self) -> bool {
        matches!(self, Vlan::Stacked { .. })
    }

    /// Identifier of the outer tag.
    pub(crate) const fn outer(self) -> u16 {
        match self {
            Vlan::Customer(id) | Vlan::Service(id) => id,
            Vlan::Stacked { service, .. } => service,
        }
    }

    /// Both identifiers as the maps hold them: service tag << 12 | customer tag, 0 for a tag that is not there.
    pub const fn bits(self) -> u32 {
        let (service, customer) = match self {
            Vlan::Customer(id) => (0, id),
            Vlan::Service(id) => (id, 0),
            Vlan::Stacked { service, customer } => (service, customer),
        };
        ((service & 0x0fff) as u32) << 12 | (customer & 0x0fff) as u32
    }
}

/// What the `vlans` map says of outer tags, for these VLANs to be ours.
pub(crate) fn outer_bits(vlans: &BTreeSet<Vlan>) -> BTreeMap<u16, u32> {
    let mut bits = BTreeMap::new();
    for vlan in vlans {
        *bits.entry(vlan.outer()).or_default() |= match vlan {
            Vlan::Customer(_) => VLAN_CUSTOMER,
            Vlan::Service(_) => VLAN_SERVICE,
            Vlan::Stacked { .. } => VLAN_STACKED,
        };
    }
    bits
}

/// `5`, `s5`, `s5.7`.
impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Vlan::Customer(id) => write!(f, "{id}"),
            Vlan::Service(id) => write!(f, "s{id}"),
            Vlan::Stacked { service, customer } => write!(f, "s{service}.{customer}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Vlan;

    #[test]
    fn no_two_vlans_have_the_same_bits() {
        let (customer, service) = (Vlan::Customer(5), Vlan::Service(5));
        let stacked = Vlan::Stacked {
            service: 5,
            customer: 5,
        };
        assert_eq!(
            [customer.bits(), service.bits(), stacked.bits()],
            [0x5, 0x5000, 0x5005]
        );
        assert_eq!(
            [customer, service, stacked].map(|vlan| vlan.to_string()),
            ["5", "s5", "s5.5"]
        );
    }

    #[test]
    fn identifiers_are_1_to_4094() {
        for id in [0, 4095, u16::MAX] {
            assert!(!Vlan::Customer(id).is_valid() && !Vlan::Service(id).is_valid());
            for (service, customer) in [(1, id), (id, 1)] {
                assert!(!Vlan::Stacked { service, customer }.is_valid());
            }
        }
        for id in [1, 4094] {
            assert!(Vlan::Customer(id).is_valid() && Vlan::Service(id).is_valid());
        }
    }
}
