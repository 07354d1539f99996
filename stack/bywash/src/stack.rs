//! An engine whose connections are used from other threads.

use std::net::SocketAddr;

use bywash_engine::engine::{Engine, EngineConfig, EngineDescription, EngineError, StartError};
use bywash_engine::remote::{Failure, Remote, RemoteConfig, RemoteService};

use crate::listener::TcpListener;
use crate::stream::TcpStream;

/// A device with a running engine, and the way to its connections from any thread.
///
/// Dropping it without [`stop`](Self::stop) ends the engine as well, with nowhere to report a
/// failure to.
pub struct Stack {
    engine: Engine<RemoteService>,
    remote: Remote,
}

impl Stack {
    /// Attaches to the device and starts its shards; returns when all of them run.
    ///
    /// # Errors
    ///
    /// What stands in the way on this machine, with the remedy in the text.
    pub fn start(config: EngineConfig) -> Result<Self, StartError> {
        let remote = Remote::new(config.shards, RemoteConfig::default());
        let engine = Engine::start(config, |shard| remote.service(shard))?;
        Ok(Self { engine, remote })
    }

    /// The device as the engine found it, and how it is driven.
    pub fn description(&self) -> &EngineDescription {
        self.engine.description()
    }

    /// Queues to the shards; clones can be given to other threads.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Listens on `port` on every address of the device.
    ///
    /// # Errors
    ///
    /// The port is taken, by us or by the kernel.
    pub fn listen(&self, port: u16) -> Result<TcpListener, Failure> {
        TcpListener::bind(&self.remote, port)
    }

    /// Connects and waits until the handshake is complete.
    ///
    /// # Errors
    ///
    /// No source address, no route, no neighbour, refused, timed out.
    pub fn connect(&self, remote: SocketAddr) -> std::io::Result<TcpStream> {
        TcpStream::connect(&self.remote, remote)
    }

    /// Ends the engine: connections are closed in order, and reset if that takes too long; then
    /// the device is given back to the kernel alone.
    ///
    /// # Errors
    ///
    /// What an engine's thread failed of, or what could not be detached.
    pub fn stop(self) -> Result<(), EngineError> {
        self.engine.stop();
        self.engine.join().map(drop)
    }

    /// Asks the engine to end without waiting: blocked calls of all handles return an error.
    pub fn interrupt(&self) {
        self.engine.stop();
    }

    /// Whether the engine has ended by itself.
    pub fn is_finished(&self) -> bool {
        self.engine.is_finished()
    }
}
