//! One counter for every verdict of the program: the Rust half of `enum bywash_counter` in `bpf/abi.h`.

use core::fmt;

/// What happens to the packet that a [`Counter`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Left to the kernel.
    Pass,
    /// Handed to an AF_XDP socket of ours.
    Redirect,
    /// Ours, and thrown away.
    Drop,
}

macro_rules! counters {
    ($( $(#[$doc:meta])* $variant:ident = $value:literal, $verdict:ident, $name:literal; )*) => {
        /// Index into the `counters` map. The name's first word is the verdict.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Counter { $( $(#[$doc])* $variant = $value, )* }

        impl Counter {
            /// Every counter, in the order of the map.
            pub const ALL: &'static [Counter] = &[ $( Counter::$variant, )* ];

            /// The name that `bywash ss` and `doctor` print, for example `drop-empty-slot`.
            pub const fn name(self) -> &'static str {
                match self { $( Counter::$variant => $name, )* }
            }

            /// What happened to the packet.
            pub const fn verdict(self) -> Verdict {
                match self { $( Counter::$variant => Verdict::$verdict, )* }
            }
        }
    };
}

counters! {
    /// Neither IPv4 nor IPv6: ARP, LLDP and so on, or a frame shorter than its Ethernet header.
    PassNotIp = 0, Pass, "pass-not-ip";
    /// Sent to a broadcast or multicast MAC address; TCP is never that.
    PassGroupMac = 1, Pass, "pass-group-mac";
    /// A VLAN tag that is not one of ours.
    PassVlanForeign = 2, Pass, "pass-vlan-foreign";
    /// Tags stacked otherwise than one customer tag inside one service tag (IEEE 802.1ad).
    PassVlanStacked = 3, Pass, "pass-vlan-stacked";
    /// IP of another protocol: UDP and so on, and ICMP but for errors that quote a segment of ours.
    PassNotTcp = 4, Pass, "pass-not-tcp";
    /// TCP, but the port is not ours.
    PassNotOurPort = 5, Pass, "pass-not-our-port";
    /// TCP to a port of ours on an address that is not: another address of the host, or traffic that it forwards.
    PassNotOurAddress = 6, Pass, "pass-not-our-address";
    /// IP that is malformed or cut before its port can be known: the kernel judges and counts it.
    PassMalformedIp = 7, Pass, "pass-malformed-ip";
    /// IPv6 with more than six extension headers, or a routing header that has not reached its end.
    PassExtensions = 8, Pass, "pass-extensions";
    /// A fragment other than the first: it holds no port.
    PassFragment = 9, Pass, "pass-fragment";
    /// To the pool of its flow.
    RedirectFlow = 10, Redirect, "redirect-flow";
    /// Of a flow with a pool, arrived on another queue than the pool's: to the arriving queue's primary.
    RedirectOtherQueue = 11, Redirect, "redirect-other-queue";
    /// SYN to a listening port: to the control pool.
    RedirectSyn = 12, Redirect, "redirect-syn";
    /// Any other segment to a listening port, or to one with connections left: to the primary.
    RedirectPort = 13, Redirect, "redirect-port";
    /// To a port of the local range: to the primary.
    RedirectLocalRange = 14, Redirect, "redirect-local-range";
    /// ICMP error that quotes a segment from an address and port of ours: to the primary.
    RedirectIcmp = 15, Redirect, "redirect-icmp";
    /// Ours, but no socket is in the slot: the engine is starting, or dead.
    DropEmptySlot = 16, Drop, "drop-empty-slot";
    /// Ours, but arrived on a queue that has no shard.
    DropNoShard = 17, Drop, "drop-no-shard";
    /// First fragment of a segment to a port of ours.
    DropFirstFragment = 18, Drop, "drop-first-fragment";
    /// To a port of ours, but shorter than a TCP header.
    DropTcpTruncated = 19, Drop, "drop-tcp-truncated";
    /// Data offset below 5, or beyond the end of the packet.
    DropTcpDataOffset = 20, Drop, "drop-tcp-data-offset";
    /// From port 0, which no connection can have (RFC 6335, section 6).
    DropTcpPortZero = 21, Drop, "drop-tcp-port-zero";
    /// SYN to a listening port, of more than one network may send: [`Limits::syn_prefix`](crate::Limits::syn_prefix).
    DropSynPrefixLimit = 22, Drop, "drop-syn-prefix-limit";
    /// SYN to a listening port, of more than all networks together may send: [`Limits::syn`](crate::Limits::syn).
    DropSynLimit = 23, Drop, "drop-syn-limit";
    /// Segment of no flow in the table, where every flow of ours is: [`Settings::strict`](crate::Settings::strict).
    DropNoFlow = 24, Drop, "drop-no-flow";
    /// The same, and could have been the end of a handshake, but there were too many: [`Limits::ack`](crate::Limits::ack).
    DropAckLimit = 25, Drop, "drop-ack-limit";
    /// ICMP error that quotes a segment of ours, of too many: [`Limits::icmp`](crate::Limits::icmp).
    DropIcmpLimit = 26, Drop, "drop-icmp-limit";
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const _: () = assert!(Counter::ALL.len() == 27);
