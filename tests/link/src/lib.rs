//! A link emulator: what a wide-area path does to packets, decided by a seed.
//!
//! ```text
//!  device A ── AF_PACKET ──> Lane: lose? ─ rate and queue ─ delay, jitter ─ reorder? duplicate? damage? ──> AF_PACKET ── device B
//!  device A <── AF_PACKET ── Lane (the same, with its own figures) <── AF_PACKET ── device B
//! ```
//!
//! | module | noun |
//! |---|---|
//! | [`impairment`] | what a direction does to packets, and how that is written on a command line |
//! | [`lane`] | one direction: packets and times in, packets and times out; no socket, no clock |
//! | [`chance`] | draws that depend on nothing but seed, direction, packet number and kind of fault |
//! | [`bridge`] | the loop over two devices |
//! | `packet` | packet sockets: frames as they would be on a wire, with their tags and checksums |
//! | [`tagger`] | VLANs of a device, for kernels that have none |
//! | [`lab`] | two namespaces and the emulated link between them |
//!
//! A packet's fate depends on the seed, its direction and its number in that direction, never on time: two runs that
//! bring the same packets in the same order lose the same ones. Turning one fault on leaves the draws of the others as they were.

pub mod bridge;
pub mod chance;
pub mod impairment;
pub mod lab;
pub mod lane;
mod mark;
mod packet;
pub mod tagger;

pub use bridge::{Bridge, Counts};
pub use impairment::{Impairment, Link};
pub use lane::{Fates, Lane};
pub use tagger::{Tagger, Tags};
