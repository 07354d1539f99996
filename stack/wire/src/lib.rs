//! Ethernet, VLAN, IPv4, IPv6 and TCP: bytes to values and back. `no_std`, no allocation, no `unsafe`, no dependencies.
//!
//! [`decode`] takes a received frame to a [`Decoded`]: flow, segment, and where the payload lies. [`emit`] writes the headers of
//! a segment in front of a payload. Neither copies payload, and what is dropped has a [`DropReason`].
//!
//! | module | noun |
//! |---|---|
//! | `decode`, `emit` | a whole frame |
//! | [`ethernet`], [`ipv4`], [`ipv6`], [`tcp`], [`options`] | one header each |
//! | [`checksum`] | the Internet checksum, summed in parts |
//! | `tuple`, `mac`, `vlan`, `ecn`, `seq` | the values that headers hold |
//! | `drop_reason` | why a packet went no further, for the whole stack |
#![no_std]
#![forbid(unsafe_code)]

pub mod checksum;
mod decode;
mod drop_reason;
mod ecn;
mod emit;
pub mod ethernet;
mod ip;
pub mod ipv4;
pub mod ipv6;
mod mac;
pub mod options;
mod seq;
pub mod tcp;
mod tuple;
mod vlan;
mod words;

pub use decode::{ChecksumPolicy, Decoded, decode};
pub use drop_reason::DropReason;
pub use ecn::Ecn;
pub use emit::{emit, header_len};
pub use ethernet::Link;
pub use mac::MacAddr;
pub use options::{Options, SackBlocks, Timestamps};
pub use seq::SeqNumber;
pub use tcp::{Flags, Segment};
pub use tuple::{PROTOCOL_TCP, Tuple};
pub use vlan::VlanId;
