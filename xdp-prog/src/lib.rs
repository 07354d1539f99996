//! Loader and map ABI of the XDP demultiplexer.
//!
//! ```text
//!            bpf/demux.bpf.c  (committed compiled: bpf/demux.bpf.o)
//! NIC queue ──> XDP ──┬── not ours ───────────> PASS: the kernel's
//!                     ├── a flow of ours ─────> its slot       ┐
//!                     ├── SYN to a listener ──> control slot   ├ XSKMAP -> AF_XDP socket
//!                     ├── other, port ours ───> primary slot   │ (empty slot: DROP)
//!                     ├── ICMP error for us ──> primary slot   ┘
//!                     ├── malformed, ours ────> DROP
//!                     └── beyond a limit ─────> DROP
//! ```
//!
//! [`Demux`] loads the program, attaches it by a pinned `bpf_link` and edits its maps while it runs. What program and loader share
//! stands in [`abi`] and, for C, in `bpf/abi.h`; [`Counter`] names every verdict. The data path is not here: packets go from the
//! program straight into the rings of `bywash-xsk`.

#![forbid(unsafe_code)]

pub mod abi;
mod attach;
mod counter;
mod demux;
mod error;
mod inherit;
mod interface;
mod object;
pub mod pin;
mod settings;
mod vlan;

pub use abi::{FlowKey, FlowValue, RING_CONTROL, RING_PRIMARY, SLOTS_PER_QUEUE, slot};
pub use attach::Reattached;
pub use counter::{Counter, Verdict};
pub use demux::{AttachConfig, AttachedMode, Demux, DirtySlots, Mode};
pub use error::{AttachError, DemuxError, DetachError, PinError};
pub use settings::{Limits, Rate, Settings, SynLimits};
pub use vlan::Vlan;
