//! Why a packet went no further.
//!
//! One list for the whole stack, so that every layer counts into one array and a reader of the counters sees one
//! vocabulary. The demultiplexer in XDP has a list of its own, for what it drops before the stack sees it.

use core::fmt;

macro_rules! drop_reasons {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped. Counters are arrays of [`COUNT`](DropReason::COUNT) indexed by [`index`](DropReason::index).
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])+ $variant,)+ }

        impl DropReason {
            /// Every reason, in the order of [`index`](Self::index).
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The counter's name, in lower case with hyphens. Names are stable, indices are not.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

drop_reasons! {
    // What `decode` finds, from the outside in.

    /// The frame ends inside a header that it must have.
    FrameTooShort = "frame-too-short",
    /// Sent to a link-layer group address; TCP is between two hosts (RFC 1122 4.2.3.10).
    LinkMulticast = "link-multicast",
    /// VLAN tags stacked otherwise than one customer tag inside one service tag.
    VlanTagStack = "vlan-tag-stack",
    /// A VLAN that is reserved, or not configured here.
    UnknownVlan = "unknown-vlan",
    /// Neither IPv4 nor IPv6 by EtherType.
    NotIp = "not-ip",
    /// The IP version contradicts the EtherType.
    BadIpVersion = "bad-ip-version",
    /// IPv4 header length below 20 or beyond the packet.
    BadIpHeaderLength = "bad-ip-header-length",
    /// IP total or payload length contradicts the headers or the frame.
    BadIpLength = "bad-ip-length",
    /// IPv4 header checksum wrong.
    BadIpChecksum = "bad-ip-checksum",
    /// A fragment. Fragments are the kernel's; TCP with path MTU discovery sends none.
    Fragment = "fragment",
    /// An IPv6 extension header is cut off, out of place, or demands that the packet be discarded.
    BadExtensionHeader = "bad-extension-header",
    /// More IPv6 extension headers than we walk.
    ExtensionHeaderChainTooLong = "extension-header-chain-too-long",
    /// An IP packet of another protocol.
    NotTcp = "not-tcp",
    /// A source address that no host may send from: multicast, broadcast, unspecified, loopback, IPv4-mapped, or the destination's own.
    BadSourceAddress = "bad-source-address",
    /// A destination that TCP may not be sent to: multicast, broadcast, unspecified, loopback, IPv4-mapped.
    BadDestinationAddress = "bad-destination-address",
    /// TCP data offset below 20 octets or beyond the segment.
    BadDataOffset = "bad-data-offset",
    /// TCP checksum wrong.
    BadTcpChecksum = "bad-tcp-checksum",
    /// Source or destination port zero.
    PortZero = "port-zero",

    // What `decode_icmp` finds.

    /// An ICMP message that is cut off, wrongly summed, or quotes a packet that this host cannot have sent.
    BadIcmp = "bad-icmp",
    /// An ICMP message that is no error about a TCP segment: the kernel's business, or of an obsolete kind (source quench,
    /// RFC 6633).
    IcmpNotForTcp = "icmp-not-for-tcp",

    // What the TCP state machine refuses.

    /// An ICMP error that quotes no segment in flight (RFC 5927 4.1), or that the state does not believe.
    IcmpIgnored = "icmp-ignored",
    /// An ICMP error about a flow that we do not know.
    IcmpNoConnection = "icmp-no-connection",

    /// The segment lies outside the receive window as a whole (RFC 9293 3.10.7.4, first check).
    UnacceptableSequence = "unacceptable-sequence",
    /// All data of the segment was received before.
    DuplicateData = "duplicate-data",
    /// Data beyond the right edge of the window, cut off.
    BeyondWindow = "beyond-window",
    /// Out-of-order data with no room left in the reassembly queue.
    ReassemblyFull = "reassembly-full",
    /// Acknowledges data never sent, or is older than any acknowledgment could be (RFC 5961 5).
    BadAck = "bad-ack",
    /// No ACK flag where every segment must have one (RFC 9293 3.10.7.4, fifth check).
    MissingAck = "missing-ack",
    /// Timestamp older than one already seen (RFC 7323 5).
    Paws = "paws",
    /// SYN on a synchronised connection: answered by a challenge ACK (RFC 5961 4).
    UnexpectedSyn = "unexpected-syn",
    /// RST that does not hit the next expected sequence number (RFC 5961 3), or that the state does not believe.
    BadReset = "bad-reset",
    /// Flags that make no sense together or in this state, such as SYN with FIN.
    BadFlags = "bad-flags",
    /// Data on a connection whose receiving side the application has closed.
    DataAfterClose = "data-after-close",
    /// Data behind the peer's own FIN.
    DataAfterFin = "data-after-fin",
    /// The connection is in CLOSED, or waits in TIME-WAIT for no such segment.
    Closed = "closed",
    /// The listener holds as many unaccepted or half-open connections as it may.
    ListenQueueFull = "listen-queue-full",
    /// Nobody listens on the destination port.
    NoListener = "no-listener",
    /// Not a SYN, and of no connection that we know.
    NoConnection = "no-connection",

    // What the engine cannot do.

    /// The destination address is not one of ours.
    NotOurAddress = "not-our-address",
    /// The connection holds as many receive frames as it may.
    NoReceiveCredit = "no-receive-credit",
    /// The flow's pool holds as many receive frames as it may.
    PoolCredit = "pool-credit",
    /// More packets by the flow's pool than its rate allows.
    PoolRateLimited = "pool-rate-limited",
    /// No free transmit frame.
    NoTransmitFrame = "no-transmit-frame",
    /// No room in the transmit ring.
    TransmitRingFull = "transmit-ring-full",
    /// No slot for another connection.
    ConnectionTableFull = "connection-table-full",
    /// No route to the destination.
    NoRoute = "no-route",
    /// The next hop's link-layer address is not known (yet).
    NoNeighbour = "no-neighbour",
    /// The queue to the shard that owns the flow is full.
    HandOverFull = "hand-over-full",
    /// A RST that was due was not sent: too many of late.
    ResetRateLimited = "reset-rate-limited",
    /// The engine is stopping.
    Stopping = "stopping",
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// This reason's place in [`ALL`](Self::ALL), below [`COUNT`](Self::COUNT).
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for DropReason {}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn indices_and_names_identify() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            let name = reason.name();
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{name}"
            );
            assert!(
                DropReason::ALL[..index]
                    .iter()
                    .all(|other| other.name() != name),
                "{name} twice"
            );
        }
    }
}
