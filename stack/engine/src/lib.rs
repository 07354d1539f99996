//! The polling engine of Bywash: one *shard* per pinned core and NIC queue, seven stages a turn.
//!
//! ```text
//!   kernel                       shard                                                   application
//! NIC -> XDP demux --+  1 reclaim   completion ring -> free frames
//!                    |  2 refill    free frames -> fill ring
//!                    +->3 ingress   RX rings -> wire::decode -> flow table -> Connection::on_segment
//!                       4 timers    wheel -> Connection::on_timeout
//!                       5 deliver   Connection::poll_event ->  Service::on_event  <-> Context (send, recv, connect, ..)
//!                       6 egress    Connection::poll_transmit -> header into headroom -> TX ring
//! NIC <---------------- 7 kick      wake the kernel once, if the ring asks
//! ```
//!
//! Contents: [`service`] (what an application implements and may call), [`shard`] (the loop; its
//! stages are one file each under `stages/`), [`engine`] (shards on a device), [`memory`] (two
//! shards over the in-memory wire), [`remote`] (handles for other threads), [`host`] (everything
//! that is asked of the kernel: routes, neighbours, ports, locks, the control socket).
#![forbid(unsafe_code)]

mod challenges;
pub mod clock;
pub mod config;
pub mod context;
pub mod control;
pub mod engine;
pub mod fast_open;
pub mod host;
pub mod memory;
pub mod random;
pub mod remote;
pub mod report;
mod run;
pub mod service;
pub mod shard;
pub mod steering;

mod api;
pub mod defence;
mod directory;
mod flows;
mod idle;
mod listeners;
mod local_ports;
mod path_mtus;
mod paths;
pub mod patrol;
mod payload;
mod pools;
mod pulse;
mod settings;
mod slab;
mod snapshot;
mod stages;
mod syn_alarm;
mod time_waits;
mod wheel;

pub use bywash_tcp as tcp;
pub use bywash_wire as wire;
pub use bywash_xsk as xsk;
