//! The stack behind packetdrill's plug-in interface: `libbywash_packetdrill.so`.
//!
//! packetdrill plays a script of packets and system calls against a TCP. Given
//! `--so_filename=/abs/libbywash_packetdrill.so --so_flags="local=ADDR"`, it loads this library, calls
//! [`abi::packetdrill_interface_init`] once, and then this stack instead of the kernel's:
//!
//! ```text
//!  script's system calls (two threads)          script's packets: IP datagrams
//!            |                                        |              ^
//!        abi: C functions over raw pointers, the only unsafe code    |
//!            |                                        |              |
//!        gate: one lock; blocking calls sleep, and time waits for those it has woken
//!            |                                        v              |
//!  sockets: descriptors, options, poll, epoll    machine: Ethernet header on and off
//!            |  Context                               |              |
//!        Shard<MemoryPort>: the production engine and TCP, in virtual time
//! ```
//!
//! Nothing here is a second stack: segments pass `bywash-wire`, `bywash-tcp` and a shard of `bywash-engine`, whose
//! port is the in-memory wire and whose routes are static.
//!
//! | module | noun |
//! |---|---|
//! | [`abi`] | packetdrill's table of functions |
//! | [`flags`], [`sysctl`] | what the command line and the kernel's parameters choose |
//! | [`gate`] | one lock around all, and the order of time and threads |
//! | [`machine`], `segmentation` | shard, far end of the wire, clock; injected segments longer than a frame |
//! | [`sockets`] | system calls on top of a shard: a service |
#![deny(unsafe_code)]

pub mod abi;
pub mod flags;
pub mod gate;
pub mod machine;
mod segmentation;
pub mod sockets;
pub mod sysctl;
