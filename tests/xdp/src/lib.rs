//! Tests of the demultiplexer: its verdict on every kind of packet, and its loader.
//!
//! ```text
//! packet ──> bytes ──┬──> program under BPF_PROG_TEST_RUN (run) ──> action, counter
//!                    └──> model ────────────────────────────────> action, counter   the same?
//! ```
//!
//! The program is loaded here by libbpf, not by the loader that embedders use: a second loader that shows that the object is
//! portable. Packets are built without `bywash-wire`, so that a mistake there cannot hide one here. Everything needs root: without
//! the rights the tests fail, they do not skip.

pub mod link;
pub mod model;
pub mod mutant;
pub mod namespace;
pub mod packet;
pub mod peer;
pub mod random;
pub mod run;
pub mod setup;
pub mod wire;
