//! Handles for application threads other than the shard's own.
//!
//! ```text
//!   application threads                                  shard's thread
//!   RemoteStream::write --chunk--> [ Slot: 16 chunks ]
//!            |                                           RemoteService::on_turn
//!            +-- Command::Write{conn, chunk, len} -----> command queue -> Context::send (copy + sum)
//!   RemoteStream::next  <-- StreamEvent::Data{lease} --- [ Slot: incoming ] <- Context::recv, Frame::lend
//!            |  RegionView::open: read where the NIC wrote
//!            +-- lease dropped ------------------------> frame free again; Command::Resume if stalled
//!   RemoteListener::accept <-- Accepted{conn, peer} ---- [ listener queue ]
//! ```
//!
//! Everything that crosses is plain data: numbers, addresses, and names made of an index and a
//! generation. There are no closures and no pointers in it, so that a later issue can put the same
//! messages into memory shared with another process.
//!
//! Every queue is bounded, and every bound pushes back instead of dropping:
//! - received frames: at most [`RemoteConfig::leases`] of a connection are lent at a time. Beyond
//!   that, data stays in the connection's receive queue and the advertised window closes;
//! - written bytes: at most [`CHUNKS`] chunks of [`CHUNK_BYTES`] wait per connection. Then a
//!   blocking call blocks and a non-blocking one says `WouldBlock`;
//! - commands: a full queue makes the application wait for the shard, never the shard for it.
//!
//! Readiness is a level ([`Readiness`]), readable at any time without taking anything; connecting
//! in progress and the pending error are states of the connection. `poll`, `epoll` and `mio` can be
//! built on that.

mod handle;
mod link;
mod local;
mod message;
mod service;
mod signal;
mod slot;
#[cfg(test)]
mod tests;

pub use handle::{Lease, Patience, RemoteListener, RemoteStream};
pub use link::{Remote, RemoteConfig};
pub use message::{Accepted, Command, Failure, FailureCode, ListenerIndex, RemoteId, StreamEvent};
pub use service::RemoteService;
pub use slot::{CHUNK_BYTES, CHUNKS};

pub use bywash_tcp::Readiness;
