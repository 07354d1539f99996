//! What the program in `bpf/demux.bpf.c` and this loader agree on, byte for byte: the Rust half of `bpf/abi.h`.
//!
//! Sizes and offsets are asserted on both sides at compile time; `tests/abi.rs` reads `abi.h` and compares names and values.

use core::mem::{offset_of, size_of};
use core::net::IpAddr;

use crate::vlan::Vlan;

/// Version of maps and structs. A program of another version is never driven by this loader.
pub const ABI_VERSION: u32 = 2;

/// XSKMAP slots of one queue: primary, control and flow pools. A slot costs the kernel one pointer and one byte of [`DirtySlots`],
/// so there are more than the 16 pools a shard makes by default.
///
/// [`DirtySlots`]: crate::DirtySlots
pub const SLOTS_PER_QUEUE: u32 = 1024;

/// Entries of the flow table for each queue. The table is preallocated: 104 bytes an entry and 16 a bucket, so 1.9 MiB a queue.
/// By default only promoted and dedicated flows stand in it, at most one for each pool; the room is for engines that put every
/// flow there.
pub const FLOWS_PER_QUEUE: u32 = 16_384;

/// Ring 0 of a queue: the shard's primary socket.
pub const RING_PRIMARY: u32 = 0;

/// Ring 1 of a queue: the control pool (SYNs to our listening ports). Flow pools follow from 2.
pub const RING_CONTROL: u32 = 1;

/// XSKMAP index of a queue's ring; `ring` is below [`SLOTS_PER_QUEUE`].
pub const fn slot(queue: u32, ring: u32) -> u32 {
    queue * SLOTS_PER_QUEUE + ring
}

/// Bit in a port's entry: SYNs to this TCP port go to the control pool.
pub const PORT_TCP_LISTEN: u32 = 1;

/// Bit in a port's entry: this TCP port is ours; segments that are no SYN to a listener go to the primary.
pub const PORT_TCP_OURS: u32 = 2;

/// Key of the flow table: what `Tuple` is to the stack, as bytes. `local` is the packet's destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Our address; IPv4 as `::ffff:a.b.c.d`.
    pub local: [u8; 16],
    /// The peer's address, in the same form.
    pub remote: [u8; 16],
    /// Our port, network byte order.
    pub local_port: [u8; 2],
    /// The peer's port, network byte order.
    pub remote_port: [u8; 2],
    /// IP protocol number << 24 | [`Vlan::bits`], in host byte order; without tags, or with priority tags, which IEEE 802.1Q treats
    /// alike, the bits are 0.
    pub link: u32,
}

impl FlowKey {
    /// The key of packets from `remote` to `local`; ports in host byte order.
    pub fn new(
        local: IpAddr,
        local_port: u16,
        remote: IpAddr,
        remote_port: u16,
        vlan: Option<Vlan>,
        protocol: u8,
    ) -> Self {
        Self {
            local: address_bytes(local),
            remote: address_bytes(remote),
            local_port: local_port.to_be_bytes(),
            remote_port: remote_port.to_be_bytes(),
            link: u32::from(protocol) << 24 | vlan.map_or(0, Vlan::bits),
        }
    }

    /// The 40 bytes as the kernel's hash table sees them.
    pub fn to_bytes(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[0..16].copy_from_slice(&self.local);
        bytes[16..32].copy_from_slice(&self.remote);
        bytes[32..34].copy_from_slice(&self.local_port);
        bytes[34..36].copy_from_slice(&self.remote_port);
        bytes[36..40].copy_from_slice(&self.link.to_ne_bytes());
        bytes
    }
}

/// Where a flow's packets go.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowValue {
    /// XSKMAP index, see [`slot`].
    pub slot: u32,
    /// The owner's count of the slot's re-use. The program does not read it: it is for whoever lists or repairs the table.
    pub generation: u32,
    /// Queue the slot's socket is bound to. A packet that arrives on another queue goes to that queue's primary instead.
    pub queue: u32,
}

impl FlowValue {
    /// The words of the map's value.
    pub const fn to_words(self) -> [u32; 3] {
        [self.slot, self.generation, self.queue]
    }

    /// The value from the map's words.
    pub const fn from_words([slot, generation, queue]: [u32; 3]) -> Self {
        Self {
            slot,
            generation,
            queue,
        }
    }
}

/// Bit in [`Config::flags`]: packets to flow pools set their slot's byte in the `dirty` map.
pub const MARK_DIRTY: u32 = 1;

/// Bit in [`Config::flags`]: segments of flows that are not in the table are dropped.
pub const STRICT: u32 = 2;

/// Bit in a `vlans` entry: a customer tag alone is ours.
pub const VLAN_CUSTOMER: u32 = 1;
/// Bit in a `vlans` entry: a service tag alone is ours.
pub const VLAN_SERVICE: u32 = 2;
/// Bit in a `vlans` entry: a service tag with some customer tag inside it is ours.
pub const VLAN_STACKED: u32 = 4;

/// How many limits a [`Config`] has: `syn_prefix`, `syn`, `ack`, `icmp` of [`Limits`](crate::Limits), in this order.
pub const LIMITS: usize = 4;

/// A rate as the program keeps it. All zero: no limit.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Nanoseconds between two packets that come evenly.
    pub interval: u64,
    /// How far ahead of that packets may come, nanoseconds.
    pub burst: u64,
}

/// The single entry of the `config` map. All zero (as created): nothing is ours and every packet passes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// [`ABI_VERSION`] once the loader has filled the entry.
    pub abi_version: u32,
    /// [`MARK_DIRTY`], [`STRICT`].
    pub flags: u32,
    /// Queues that have a shard: 0 up to `queues - 1`.
    pub queues: u32,
    /// First port of the range that is ours for active opens, host byte order.
    pub local_port_first: u16,
    /// Last port of that range. First beyond last, or both zero: no range.
    pub local_port_last: u16,
    /// What strangers may send.
    pub limits: [Limit; LIMITS],
}

impl Config {
    /// Octets of the entry.
    pub const LEN: usize = 80;

    /// Where the limits start in it.
    const LIMITS_AT: usize = 16;

    /// The entry's bytes.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..4].copy_from_slice(&self.abi_version.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.queues.to_ne_bytes());
        bytes[12..14].copy_from_slice(&self.local_port_first.to_ne_bytes());
        bytes[14..16].copy_from_slice(&self.local_port_last.to_ne_bytes());
        for (bytes, limit) in bytes[Self::LIMITS_AT..]
            .chunks_exact_mut(16)
            .zip(self.limits)
        {
            bytes[..8].copy_from_slice(&limit.interval.to_ne_bytes());
            bytes[8..].copy_from_slice(&limit.burst.to_ne_bytes());
        }
        bytes
    }

    /// What [`Config::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let long = |at: usize| {
            let bytes = bytes[at..at + 8].try_into();
            u64::from_ne_bytes(bytes.expect("8 octets"))
        };
        let limit = |index: usize| Limit {
            interval: long(Self::LIMITS_AT + 16 * index),
            burst: long(Self::LIMITS_AT + 16 * index + 8),
        };
        Self {
            abi_version: word(0),
            flags: word(4),
            queues: word(8),
            local_port_first: half(12),
            local_port_last: half(14),
            limits: core::array::from_fn(limit),
        }
    }
}

/// An address as the maps hold it: IPv6, or IPv4 mapped to `::ffff:a.b.c.d`.
pub fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

// The same figures as the _Static_asserts of bpf/abi.h.
const _: () = assert!(size_of::<FlowKey>() == 40);
const _: () = assert!(offset_of!(FlowKey, remote) == 16);
const _: () = assert!(offset_of!(FlowKey, local_port) == 32);
const _: () = assert!(offset_of!(FlowKey, remote_port) == 34);
const _: () = assert!(offset_of!(FlowKey, link) == 36);
const _: () = assert!(size_of::<FlowValue>() == 12);
const _: () = assert!(offset_of!(FlowValue, generation) == 4);
const _: () = assert!(offset_of!(FlowValue, queue) == 8);
const _: () = assert!(size_of::<Config>() == Config::LEN);
const _: () = assert!(offset_of!(Config, queues) == 8);
const _: () = assert!(offset_of!(Config, local_port_first) == 12);
const _: () = assert!(offset_of!(Config, local_port_last) == 14);
const _: () = assert!(offset_of!(Config, limits) == Config::LIMITS_AT);
const _: () = assert!(SLOTS_PER_QUEUE.is_power_of_two());
