//! TCP around the kernel: the public API and the `bywash` command.
//!
//! An XDP program leads the packets of *our* ports past the kernel into AF_XDP rings; a polling
//! engine on a pinned core runs TCP over those very buffers. Two faces:
//!
//! - a [`Service`] runs on the shard's own thread, to completion, with no queue in between: the
//!   fast face. [`Engine::start`] runs one per shard of a device; [`MemoryPair`] runs two against
//!   each other over a wire in memory, without root;
//! - [`TcpListener`] and [`TcpStream`] are handles for other threads, shaped like those of
//!   [`std::net`], with payload still readable where the NIC wrote it ([`TcpStream::read_lease`]).
//!
//! ```no_run
//! use std::io::{Read, Write};
//!
//! use bywash::{EngineConfig, Stack};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let stack = Stack::start(EngineConfig::new("veth0"))?;
//! let listener = stack.listen(7)?;
//! let (mut stream, peer) = listener.accept()?;
//! println!("{peer} connected");
//! let mut buffer = [0; 4096];
//! loop {
//!     match stream.read(&mut buffer)? {
//!         0 => break,
//!         n => stream.write_all(&buffer[..n])?,
//!     }
//! }
//! drop(stream);
//! stack.stop()?;
//! # Ok(())
//! # }
//! ```
//!
//! A service does the same without a thread in between: [`echo::Echo`] is the model to copy.
#![forbid(unsafe_code)]

pub mod echo;
pub mod iperf3;
pub mod seams;

mod listener;
mod stack;
mod stream;

pub use bywash_engine::config::{Discard, IdlePolicy, PoolLimits, PoolPolicy, ShardConfig};
pub use bywash_engine::context::{ConnOptions, Context};
pub use bywash_engine::engine::{
    Engine, EngineConfig, EngineDescription, EngineError, OnDeath, StartError, XdpLimits, XdpMode,
    XdpRate, XdpSettings, XdpSynLimits,
};
pub use bywash_engine::host::{VlanChoice, WantedVlan};
pub use bywash_engine::memory::MemoryPair;
pub use bywash_engine::remote::{Failure, FailureCode, Lease, Readiness, Remote, RemoteConfig};
pub use bywash_engine::service::{
    ConnError, ConnId, ConnectError, Event, ListenError, ListenerId, Luggage, Recv, Service,
};
pub use bywash_engine::tcp::{CloseReason, CongestionControl, EcnMode};
pub use bywash_engine::xsk::{Frame, PoolClass, Port};
pub use listener::TcpListener;
pub use stack::Stack;
pub use stream::TcpStream;

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
