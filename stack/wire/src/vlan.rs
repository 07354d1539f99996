//! VLAN identifiers.

use core::fmt;
use core::num::NonZeroU16;

/// The VLAN that a frame's one tag names: an identifier of 1..=4094, and the kind of tag (802.1Q customer or 802.1ad service).
///
/// The kind is part of the identity: VLAN 5 of customer tags and VLAN 5 of service tags are two networks, and an answer
/// must carry the tag that the question carried. Priority and drop eligibility are not kept. Two bytes, as is its `Option`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct VlanId(NonZeroU16);

/// The identifier is 12 bits wide, which leaves room for the tag's kind above it.
const SERVICE: u16 = 0x1000;

impl VlanId {
    /// A VLAN of 802.1Q (customer) tags. `None` unless 1..=4094: 0 means "no VLAN", 4095 is reserved (802.1Q table 9-2).
    #[inline]
    pub const fn new(id: u16) -> Option<Self> {
        match NonZeroU16::new(id) {
            Some(id) if id.get() <= 4094 => Some(Self(id)),
            _ => None,
        }
    }

    /// The VLAN of 802.1ad (service) tags with this identifier.
    #[inline]
    #[must_use]
    pub const fn service(self) -> Self {
        Self(NonZeroU16::new(self.0.get() | SERVICE).expect("a bit is set"))
    }

    /// The 12-bit identifier, without the tag's kind.
    #[inline]
    pub const fn raw(self) -> u16 {
        self.0.get() & 0x0fff
    }

    /// Whether the tag is an 802.1ad service tag (EtherType 0x88a8) instead of an 802.1Q one (0x8100).
    #[inline]
    pub const fn is_service(self) -> bool {
        self.0.get() & SERVICE != 0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}",
            if self.is_service() { "s" } else { "" },
            self.raw()
        )
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
    fn service_tags_are_other_networks() {
        let customer = VlanId::new(4094).unwrap();
        let service = customer.service();
        assert_ne!(customer, service);
        assert_eq!(service.raw(), 4094);
        assert_eq!(service.service(), service);
        assert!(service.is_service() && !customer.is_service());
    }
}
