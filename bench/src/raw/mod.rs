//! The ceiling: a pair of raw AF_XDP sockets through the same demux that the stack uses, without any TCP.

mod bulk;
mod frame;
mod ping;
mod port;
mod steering;

use std::thread::ScopedJoinHandle;

use anyhow::{Result, anyhow};

pub(crate) use bulk::{Shape, Touch, run as bulk};
pub(crate) use ping::run as ping;
pub(crate) use steering::Steering;

use crate::netns::End;
use frame::Route;

/// Port of the client's frames, in its demux's local range.
const PORT_A: u16 = 61_440;
/// Port of the server's frames, likewise.
const PORT_B: u16 = 61_441;

fn route(own: &End, peer: &End, source_port: u16, destination_port: u16) -> Route {
    Route {
        source: own.address,
        destination: peer.address,
        source_mac: own.mac,
        destination_mac: peer.mac,
        source_port,
        destination_port,
    }
}

/// A thread's result; its panic becomes an error, so that the testbed is still removed.
pub(crate) fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread
        .join()
        .map_err(|_| anyhow!("a measuring thread panicked; its message stands above"))?
}
