//! Everything that a shard takes from outside, for whoever brings their own: a simulation, a test, another device.
//!
//! An [`Environment`] is clock, randomness, routes and steering, each behind a trait; a [`Port`](crate::Port) is the queue. With
//! [`VirtualPort`] the device itself is code, and a [`Shard`] is driven turn by turn:
//!
//! ```
//! use bywash::seams::{
//!     Environment, ManualClock, MemoryConfig, NoSteering, SeededRandom, Shard, StaticRoutes, VirtualPort,
//! };
//! use bywash::{ShardConfig, echo::Echo};
//!
//! let (port, queue) = VirtualPort::open(&MemoryConfig::default())?;
//! let env = Environment {
//!     clock: Box::new(ManualClock::new()),
//!     random: Box::new(SeededRandom(1)),
//!     routes: Box::new(StaticRoutes::new(vec!["192.0.2.1".parse()?])),
//!     steering: Box::new(NoSteering),
//! };
//! let (listening, told) = std::sync::mpsc::channel();
//! let echo = Echo::new(7, Default::default(), listening);
//! let mut shard = Shard::new(ShardConfig::default(), port, echo, env);
//! shard.turn();
//! told.recv()??;
//! assert!(queue.transmitted().is_none(), "nobody has called");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use bywash_engine::clock::{Clock, ManualClock};
pub use bywash_engine::host::{Path, Resolution, Routes, StaticRoutes, Unreachable};
pub use bywash_engine::random::{Random, SeededRandom};
pub use bywash_engine::report::ShardReport;
pub use bywash_engine::shard::{Environment, Shard, TurnReport};
pub use bywash_engine::steering::{ListenRefused, NoSteering, Steering};
pub use bywash_engine::xsk::{
    Ledger, MemoryConfig, PoolClass, Received, RingSizes, Umem, UmemConfig, VirtualPort,
    VirtualQueue,
};

/// The engines of this host and what they say of themselves, by their control sockets.
pub use bywash_engine::host::control;
/// TCP without an engine.
pub use bywash_engine::tcp;
/// Frames as values.
pub use bywash_engine::wire;
/// UMEM, rings and sockets: the AF_XDP port itself.
pub use bywash_engine::xsk;
