//! Ethernet II frames, untagged, with one VLAN tag, or with a customer tag inside a service tag.
//!
//! ```text
//! destination 6 | source 6 | [ TPID 2 | priority 3 bits, DEI 1, VLAN 12 ] ... | EtherType 2 | packet ...
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
    /// The tags that the frame carries. These count on emit, not the tuple's.
    pub vlan: Option<VlanId>,
}

impl Link {
    /// Octets of the Ethernet header: 14, and 4 for each tag.
    #[inline]
    pub const fn header_len(&self) -> usize {
        match self.vlan {
            None => HEADER_LEN,
            Some(vlan) => HEADER_LEN + TAG_LEN * vlan.tags(),
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
        let tags = rest.len() / TAG_LEN;
        let (tags, end) = rest.split_at_mut(tags * TAG_LEN);
        if let Some(vlan) = self.vlan {
            let outer = if vlan.is_service() {
                TPID_SERVICE
            } else {
                TPID_CUSTOMER
            };
            let inner = vlan.inner().map(|id| (TPID_CUSTOMER, id));
            let all = [Some((outer, vlan.raw())), inner];
            for (tag, (tpid, id)) in tags
                .chunks_exact_mut(TAG_LEN)
                .zip(all.into_iter().flatten())
            {
                tag[..2].copy_from_slice(&tpid.to_be_bytes());
                tag[2..].copy_from_slice(&id.to_be_bytes());
            }
        }
        end.copy_from_slice(&ethertype.to_be_bytes());
    }
}

/// What an Ethernet header says.
pub(crate) struct Parsed {
    pub(crate) source: MacAddr,
    pub(crate) destination: MacAddr,
    pub(crate) vlan: Option<VlanId>,
    pub(crate) ethertype: u16,
    /// 14, 18 or 22.
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
    let (vlan, ethertype, tags_len) = parse_tags(ethertype, rest)?;
    Ok(Parsed {
        source,
        destination,
        vlan,
        ethertype,
        header_len: HEADER_LEN + tags_len,
    })
}

/// The VLAN of the tags at the front of `bytes`, the first of which has this TPID; the EtherType behind them; and their octets.
#[cold]
fn parse_tags(tpid: u16, bytes: &[u8]) -> Result<(Option<VlanId>, u16, usize), DropReason> {
    let tag = |at: usize| -> Result<(u16, u16), DropReason> {
        let tag = bytes
            .get(at..)
            .and_then(|bytes| bytes.first_chunk::<TAG_LEN>());
        let &[tci0, tci1, next0, next1] = tag.ok_or(DropReason::FrameTooShort)?;
        let id = u16::from_be_bytes([tci0, tci1]) & 0x0fff;
        Ok((id, u16::from_be_bytes([next0, next1])))
    };
    // Service tag, customer tag, what follows, octets.
    let (service, customer, ethertype, len) = match (tpid, tag(0)?) {
        (TPID_SERVICE, (service, TPID_CUSTOMER)) => {
            let (customer, next) = tag(TAG_LEN)?;
            (service, customer, next, 2 * TAG_LEN)
        }
        (TPID_SERVICE, (service, next)) => (service, 0, next, TAG_LEN),
        (_, (customer, next)) => (0, customer, next, TAG_LEN),
    };
    if is_tag(ethertype) {
        return Err(DropReason::VlanTagStack);
    }
    // Identifier 0 marks a priority tag, which names no VLAN (802.1Q 6.9.1): as if it were not there. 4095 is reserved.
    let vlan = match (service, customer) {
        (0, 0) => return Ok((None, ethertype, len)),
        (0, customer) => VlanId::new(customer),
        (service, 0) => VlanId::new(service).map(VlanId::service),
        (service, customer) => VlanId::stacked(service, customer),
    };
    Ok((Some(vlan.ok_or(DropReason::UnknownVlan)?), ethertype, len))
}

/// The tags of the standards. 0x9100, an outer tag from before 802.1ad, is not known: such a frame counts as not IP.
#[inline]
const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, TPID_CUSTOMER | TPID_SERVICE)
}
