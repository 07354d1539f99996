//! VLAN identifiers.

use core::fmt;
use core::num::NonZeroU16;
use core::str::FromStr;

/// The VLAN that a frame's tags name: an 802.1Q customer tag, an 802.1ad service tag, or a customer tag inside a service tag
/// ("QinQ"). Identifiers are 1..=4094.
///
/// The kind is part of the identity: VLAN 5 of customer tags and VLAN 5 of service tags are two networks, and an answer
/// must carry the tags that the question carried. Priority and drop eligibility are not kept. Four bytes, as is its `Option`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VlanId {
    /// Identifier of the outer tag, and above it whether that is a service tag.
    outer: NonZeroU16,
    /// Identifier of a customer tag inside a service tag; 0: none.
    inner: u16,
}

/// The identifier is 12 bits wide, which leaves room for the tag's kind above it.
const SERVICE: u16 = 0x1000;

impl VlanId {
    /// A VLAN of 802.1Q (customer) tags. `None` unless 1..=4094: 0 means "no VLAN", 4095 is reserved (802.1Q table 9-2).
    #[inline]
    pub const fn new(id: u16) -> Option<Self> {
        match NonZeroU16::new(id) {
            Some(outer) if id <= 4094 => Some(Self { outer, inner: 0 }),
            _ => None,
        }
    }

    /// The VLAN of 802.1ad (service) tags with this identifier.
    #[inline]
    #[must_use]
    pub const fn service(self) -> Self {
        Self {
            outer: NonZeroU16::new(self.outer.get() | SERVICE).expect("a bit is set"),
            ..self
        }
    }

    /// The VLAN of a customer tag inside a service tag; `None` as for [`new`](Self::new).
    #[inline]
    pub const fn stacked(service: u16, customer: u16) -> Option<Self> {
        match (Self::new(service), Self::new(customer)) {
            (Some(outer), Some(_)) => Some(Self {
                inner: customer,
                ..outer.service()
            }),
            _ => None,
        }
    }

    /// The outer tag's 12-bit identifier, without the tag's kind.
    #[inline]
    pub const fn raw(self) -> u16 {
        self.outer.get() & 0x0fff
    }

    /// All of it as a number, different for each: for hashing.
    #[inline]
    pub const fn bits(self) -> u32 {
        (self.outer.get() as u32) << 16 | self.inner as u32
    }

    /// Whether the outer tag is an 802.1ad service tag (EtherType 0x88a8) instead of an 802.1Q one (0x8100).
    #[inline]
    pub const fn is_service(self) -> bool {
        self.outer.get() & SERVICE != 0
    }

    /// Identifier of the customer tag inside a service tag, if there is one.
    #[inline]
    pub const fn inner(self) -> Option<u16> {
        match self.inner {
            0 => None,
            id => Some(id),
        }
    }

    /// How many tags a frame of this VLAN carries: 1 or 2.
    #[inline]
    pub const fn tags(self) -> usize {
        if self.inner == 0 { 1 } else { 2 }
    }
}

/// `5`, `s5`, `s5.7`.
impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_service() { "s" } else { "" };
        write!(f, "{kind}{}", self.raw())?;
        match self.inner() {
            Some(inner) => write!(f, ".{inner}"),
            None => Ok(()),
        }
    }
}

/// A text that names no VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseVlanError;

impl fmt::Display for ParseVlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a VLAN is 5 (802.1Q), s5 (802.1ad), or s5.7 (the one in the other), of 1 to 4094",
        )
    }
}

impl core::error::Error for ParseVlanError {}

/// As it is shown.
impl FromStr for VlanId {
    type Err = ParseVlanError;

    fn from_str(text: &str) -> Result<Self, ParseVlanError> {
        // `u16` takes a sign, which no identifier has.
        let id = |text: &str| match text.starts_with('+') {
            true => None,
            false => text.parse().ok(),
        };
        let vlan = match text.strip_prefix('s') {
            None => id(text).and_then(Self::new),
            Some(tags) => match tags.split_once('.') {
                None => id(tags).and_then(Self::new).map(Self::service),
                Some((service, customer)) => id(service)
                    .zip(id(customer))
                    .and_then(|(service, customer)| Self::stacked(service, customer)),
            },
        };
        vlan.ok_or(ParseVlanError)
    }
}

impl fmt::Debug for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::VlanId;

    #[test]
    fn identifiers_are_1_to_4094() {
        assert!(
            VlanId::new(0).is_none()
                && VlanId::new(4095).is_none()
                && VlanId::new(0x1001).is_none()
        );
        assert_eq!(VlanId::new(1).unwrap().raw(), 1);
        assert_eq!(VlanId::new(4094).unwrap().raw(), 4094);
    }

    #[test]
    fn what_is_shown_is_read() {
        extern crate std;
        for text in ["5", "s5", "s5.7", "4094", "s4094.4094"] {
            let vlan: VlanId = text.parse().unwrap();
            assert_eq!(std::format!("{vlan}"), text);
        }
        for text in [
            "", "0", "4095", "s", "s0", "5.7", "s5.", "s5.0", "+5", "-5", "s5.7.9", "eth1.5",
        ] {
            assert!(text.parse::<VlanId>().is_err(), "{text}");
        }
    }

    #[test]
    fn service_tags_are_other_networks() {
        let customer = VlanId::new(4094).unwrap();
        let service = customer.service();
        assert_ne!(customer, service);
        assert_eq!(service.raw(), 4094);
        assert_eq!(service.service(), service);
        assert!(service.is_service() && !customer.is_service());
    }

    #[test]
    fn two_tags_are_another_network_than_each_of_them() {
        extern crate std;
        let stacked = VlanId::stacked(5, 7).unwrap();
        assert_ne!(Some(stacked), VlanId::new(5).map(VlanId::service));
        assert_ne!(Some(stacked), VlanId::stacked(5, 8));
        assert_eq!((stacked.raw(), stacked.inner()), (5, Some(7)));
        assert_eq!(std::format!("{stacked}"), "s5.7");
        for (service, customer) in [(0, 1), (1, 0), (4095, 1), (1, 4095)] {
            assert!(VlanId::stacked(service, customer).is_none());
        }
        assert_eq!(size_of::<Option<VlanId>>(), 4);
    }
}
