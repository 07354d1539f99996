//! Ethernet, VLAN, IPv4, IPv6, TCP, and the ICMP errors about it: bytes to values and back. `no_std`, no allocation, no `unsafe`.
//!
//! [`decode`] takes a received frame to a [`Decoded`]: flow, segment, and where the payload lies. [`emit`] writes the headers
//! of a segment in front of a payload. Neither copies payload, and what is dropped has a [`DropReason`].
//!
//! ```text
//! frame --decode--> Decoded { tuple, segment, payload: Range, .. } --> tcp
//! headroom <--emit-- Link, Tuple, Segment, Sum of the payload      <-- tcp
//! ```
//!
//! | module | noun |
//! |---|---|
//! | `decode`, `emit` | a whole frame |
//! | `icmp` | an ICMP error that quotes a segment of ours |
//! | [`ethernet`], [`ipv4`], [`ipv6`], [`tcp`], [`options`] | one header each |
//! | [`checksum`] | the Internet checksum, summed in parts |
//! | `words` | a header written and summed word by word |
//! | `fast_open` | the Fast Open option and its cookie |
//! | `tuple`, `mac`, `vlan`, `ecn`, `seq` | the values that headers hold |
//! | `drop_reason` | why a packet went no further, for the whole stack |
//!
//! # Why no zerocopy
//! Its derives do compile under `forbid(unsafe_code)`. They would give references to fixed headers, which `split_first_chunk` and
//! `from_be_bytes` read just as well in one bounds check; what is hard here (options, extension headers, lengths that
//! contradict each other) they leave to us, and emitting wants words to sum, not fields to set. It would also put `syn` into every embedder's build.
//!
//! # Example
//! ```
//! use bywash_wire::{ChecksumPolicy, Ecn, Flags, Link, MacAddr, Segment, Tuple, checksum, decode, emit, header_len};
//!
//! let tuple = Tuple::tcp("192.0.2.1".parse()?, 80, "192.0.2.2".parse()?, 40000);
//! let link = Link { source_mac: MacAddr([2, 0, 0, 0, 0, 1]), destination_mac: MacAddr([2, 0, 0, 0, 0, 2]), vlan: None };
//! let segment = Segment { flags: Flags::PSH | Flags::ACK, payload_len: 5, ..Segment::default() };
//!
//! let mut frame = [0; 59];
//! let (header, body) = frame.split_at_mut(header_len(&link, &tuple, &segment));
//! let sum = checksum::copy_and_sum(body, b"hello");
//! emit(header, &link, &tuple, Ecn::NotEct, 64, &segment, sum);
//!
//! let decoded = decode(&frame, ChecksumPolicy::Full).expect("a right frame");
//! assert_eq!(decoded.tuple, tuple.reversed());
//! assert_eq!(&frame[decoded.payload], b"hello");
//! # Ok::<(), core::net::AddrParseError>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

pub mod checksum;
mod decode;
mod drop_reason;
mod ecn;
mod emit;
pub mod ethernet;
mod fast_open;
mod icmp;
mod ip;
pub mod ipv4;
pub mod ipv6;
mod mac;
pub mod options;
mod run;
mod seq;
pub mod tcp;
mod tuple;
mod vlan;
mod words;

pub use decode::{ChecksumPolicy, Decoded, decode, glance};
pub use drop_reason::DropReason;
pub use ecn::Ecn;
pub use emit::{emit, emit_partial, header_len};
pub use ethernet::Link;
pub use fast_open::{FastOpen, FastOpenCookie};
pub use icmp::{IcmpError, IcmpKind, decode_icmp};
pub use mac::MacAddr;
pub use options::{Options, SackBlocks, Timestamps};
pub use run::{Follower, Run, Template};
pub use seq::SeqNumber;
pub use tcp::{Flags, Segment};
pub use tuple::{PROTOCOL_TCP, Tuple};
pub use vlan::{ParseVlanError, VlanId};
