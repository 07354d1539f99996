//! What both IP versions say about a packet.

use core::net::IpAddr;
use core::ops::Range;

use crate::Ecn;

/// An IP packet that carries TCP and is whole.
pub(crate) struct Packet {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ecn: Ecn,
    pub(crate) hop_limit: u8,
    /// The TCP segment, in the packet's bytes.
    pub(crate) payload: Range<usize>,
}
