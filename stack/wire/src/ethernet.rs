//! Ethernet II frames, untagged or with one VLAN tag.
//!
//! ```text
//! destination 6 | source 6 | [ TPID 2 | priority 3 bits, DEI 1, VLAN 12 ] | EtherType 2 | packet ...
//! ```

use crate::{DropReason, MacAddr, VlanId};

/// Octets of the header without tag.
pub const HEADER_LEN: usize = 14;
/// Octets of a VLAN tag.
pub const TAG_LEN: usize = 4;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Tag protocol identifier of 802.1Q customer tags.
pub const TPID_CUSTOMER: u16 = 0x8100;
/// Tag protocol identifier of 802.1ad service tags.
pub const TPID_SERVICE: u16 = 0x88a8;

/// The link-layer half of a path: what [`emit`](crate::emit) puts in front of the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Link {
    /// Our MAC address.
    pub source_mac: MacAddr,
    /// The next hop's MAC address.
    pub destination_mac: MacAddr,
    /// The tag that the frame carries. This one counts on emit, not the tuple's.
    pub vlan: Option<VlanId>,
}

impl Link {
    /// Octets of the Ethernet header: 14, or 18 with a tag.
    #[inline]
    pub const fn header_len(&self) -> usize {
        if self.vlan.is_some() {
            HEADER_LEN + TAG_LEN
        } else {
            HEADER_LEN
        }
    }

    /// Writes the Ethernet header into `header`, which has exactly [`header_len`](Self::header_len) octets.
    #[inline]
    pub(crate) fn write(&self, header: &mut [u8], ethertype: u16) {
        let (macs, rest) = header
            .split_first_chunk_mut::<12>()
            .expect("room for an Ethernet header");
        macs[..6].copy_from_slice(&self.destination_mac.0);
        macs[6..].copy_from_slice(&self.source_mac.0);
        let ethertype = ethertype.to_be_bytes();
        match self.vlan {
            None => rest.copy_from_slice(&ethertype),
            Some(vlan) => {
                let tpid = if vlan.is_service() {
                    TPID_SERVICE
                } else {
                    TPID_CUSTOMER
                };
                rest[..2].copy_from_slice(&tpid.to_be_bytes());
                rest[2..4].copy_from_slice(&vlan.raw().to_be_bytes());
                rest[4..].copy_from_slice(&ethertype);
            }
        }
    }
}

/// What an Ethernet header says.
pub(crate) struct Parsed {
    pub(crate) source: MacAddr,
    pub(crate) destination: MacAddr,
    pub(crate) vlan: Option<VlanId>,
    pub(crate) ethertype: u16,
    /// 14 or 18.
    pub(crate) header_len: usize,
}

/// Parses the front of a frame.
#[inline(always)]
pub(crate) fn parse(frame: &[u8]) -> Result<Parsed, DropReason> {
    let Some((&[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1], rest)) =
        frame.split_first_chunk::<HEADER_LEN>()
    else {
        return Err(DropReason::FrameTooShort);
    };
    let destination = MacAddr([d0, d1, d2, d3, d4, d5]);
    // RFC 1122 3.3.6, 4.2.3.10: nothing that was broadcast or multicast on the link is for TCP.
    if destination.is_multicast() {
        return Err(DropReason::LinkMulticast);
    }
    let source = MacAddr([s0, s1, s2, s3, s4, s5]);
    let ethertype = u16::from_be_bytes([t0, t1]);
    if !is_tag(ethertype) {
        return Ok(Parsed {
            source,
            destination,
            vlan: None,
            ethertype,
            header_len: HEADER_LEN,
        });
    }
    let Some(&[tci0, tci1, inner0, inner1]) = rest.first_chunk::<TAG_LEN>() else {
        return Err(DropReason::FrameTooShort);
    };
    let inner = u16::from_be_bytes([inner0, inner1]);
    if is_tag(inner) {
        return Err(DropReason::DoubleVlanTag);
    }
    let vlan = parse_tag(ethertype, u16::from_be_bytes([tci0, tci1]))?;
    Ok(Parsed {
        source,
        destination,
        vlan,
        ethertype: inner,
        header_len: HEADER_LEN + TAG_LEN,
    })
}

/// The tags of the standards. 0x9100, an outer tag from before 802.1ad, is not known: such a frame counts as not IP.
#[inline]
const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, TPID_CUSTOMER | TPID_SERVICE)
}

/// The VLAN of a tag. Identifier 0 marks a priority tag, which names no VLAN (802.1Q 6.9.1); 4095 is reserved.
#[inline]
fn parse_tag(tpid: u16, tci: u16) -> Result<Option<VlanId>, DropReason> {
    let id = tci & 0x0fff;
    if id == 0 {
        return Ok(None);
    }
    let vlan = VlanId::new(id).ok_or(DropReason::UnknownVlan)?;
    Ok(Some(if tpid == TPID_SERVICE {
        vlan.service()
    } else {
        vlan
    }))
}
