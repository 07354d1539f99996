//! Simulation: the production engine and TCP in worlds where everything can go wrong, each decided by one seed.
//!
//! ```text
//!  seed -> Scenario { hosts, plans, faults } -> World -> Outcome { failures, hash, .. }
//!
//!   App  App     the applications: [`app`], after [`plan`]s       checked by the oracle, [`book`]
//!   Shard Shard  the engine's own, over VirtualPorts: [`host`]    ledger and duties checked after every turn, [`world`]
//!     \   /
//!     Demux      RSS, ports, flow table: [`host`]
//!       |
//!      wire      [`network`], [`stranger`], [`hostile`], after [`faults`]      every frame read by the watcher, [`tap`]
//! ```
//! A world has a time of faults and then peace, in which every connection that no application and no death has broken must
//! carry all it was to carry and end in order, and every frame must come back ([`verdict`]).
//!
//! `cargo run --release -p bywash-tests --bin sim -- --from N --seeds M` runs worlds, `--seed N -v` shows one.

pub mod app;
pub mod book;
pub mod dice;
pub mod faults;
pub mod happen;
pub mod host;
pub mod hostile;
pub mod network;
pub mod packet;
pub mod pattern;
pub mod plan;
pub mod runner;
pub mod scenario;
pub mod stranger;
pub mod tables;
pub mod tap;
pub mod trace;
pub mod verdict;
pub mod world;

pub use runner::{run, run_many};
pub use scenario::Scenario;
pub use verdict::Outcome;
pub use world::World;
