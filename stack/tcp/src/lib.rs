//! TCP as a state machine: no clock, no sockets, no frames.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod config;
mod congestion;
mod connection;
mod event;
mod info;
mod listener;
mod loss;
mod payload;
mod rcv;
mod reassembly;
mod reset;
mod rtt;
mod snapshot;
mod snd;
mod state;
pub mod time;
mod timer;

pub use config::{Config, KeepAlive};
pub use connection::{Connection, Disposition, SendError, Transmit};
pub use event::{CloseReason, Event, Readiness};
pub use info::{Info, LimitedBy};
pub use listener::{ListenOutcome, Listener};
pub use payload::{COPYBREAK, Payload};
pub use reset::reset_for;
pub use snapshot::SnapshotError;
pub use state::State;
