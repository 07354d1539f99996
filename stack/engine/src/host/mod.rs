//! Everything that the engine asks of the kernel beside moving packets.
//!
//! ```text
//!                shard 0           shard 1                      bywash ss, bywash doctor
//!                KernelRoutes      KernelRoutes                     |
//!                   |  ^  resolve?    |  ^  Ready/Unreachable       |  one JSON line each way
//!                   v  |  (channels)  v  |                          v
//!                +--------------------------+             +-------------------+
//!                | thread "bywash-host"     |  HostEvent  | thread            |
//!                |  RTM_GETROUTE, GETNEIGH  | ----------> | "bywash-control"  |
//!                |  NTF_USE; multicast      |   engine    | control.sock      |
//!                +--------------------------+             +-------------------+
//!                            | rtnetlink
//!                     kernel: addresses, routes, ARP, ND, dummy sockets on our ports
//! ```
//!
//! Addresses, routes, ARP, neighbour discovery and DHCP stay the kernel's. The engine asks for the
//! kernel's own decision and listens for changes; it never decides where a packet goes by itself.
//!
//! - [`device`]: the network device that an engine drives, as it is at the start.
//! - [`vlans`]: the VLANs on it that are served too.
//! - [`lock`]: one engine per device; the directory `/run/bywash/<key>/`.
//! - [`path`]: what a shard needs to address a frame, and the trait by which it asks.
//! - [`thread`]: the host thread; [`kernel_routes`]: a shard's end of it. Its parts: `resolver` (what
//!   is known, and whom to tell), `routes` and `neighbours` (questions to the kernel), `monitor` (its
//!   announcements), [`netlink`] (the socket).
//! - [`ports`]: dummy kernel sockets that keep the kernel off our ports.
//! - [`control`]: the control socket, both ends.
//! - [`queues`]: which queue the NIC puts a flow on.
//! - [`zero_copy`]: what single drivers want of zero copy.
//! - [`cores`]: which core a shard is pinned to; [`napi`]: where the device's receive work runs.

pub mod control;
pub mod cores;
pub mod device;
pub mod kernel_routes;
pub mod lock;
pub mod napi;
pub mod netdev;
pub mod netlink;
pub mod path;
pub mod ports;
pub mod queues;
pub mod thread;
pub mod vlans;
pub mod zero_copy;

mod monitor;
mod neighbours;
mod resolver;
mod routes;

pub use control::{ControlServer, EngineInfo};
pub use device::{Device, DeviceError};
pub use kernel_routes::KernelRoutes;
pub use lock::{EngineLock, LockError};
pub use napi::{NapiError, ThreadedNapi};
pub use path::{Path, Resolution, Routes, StaticRoutes, Unreachable};
pub use ports::{PortError, PortReservations, RangeReport};
pub use queues::QueueSteering;
pub use thread::{Host, HostError, HostEvent};
pub use vlans::{VlanChoice, VlanDevice, WantedVlan};
