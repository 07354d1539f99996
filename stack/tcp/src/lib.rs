//! TCP as a state machine: no clock, no sockets, no frames.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod config;
mod connection;
mod event;
mod info;
mod listener;
mod payload;
mod reset;
mod snapshot;
mod state;
pub mod time;

pub use config::{Config, KeepAlive};
pub use connection::{Connection, Disposition, SendError, Transmit};
pub use event::{CloseReason, Event, Readiness};
pub use info::{Info, LimitedBy};
pub use listener::{ListenOutcome, Listener};
pub use payload::{COPYBREAK, Payload};
pub use reset::reset_for;
pub use snapshot::SnapshotError;
pub use state::State;
