//! The other end of the veth: the kernel's TCP in a namespace of its own.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{Pid, gettid};

use crate::namespace::{self, ip};

/// Our address in these tests.
pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
/// The peer's.
pub const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 2);

type Work = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own that does one task after another.
pub struct Peer {
    thread: Pid,
    tasks: Sender<Work>,
}

impl Peer {
    /// Starts the thread, and gives `bwd1` of the caller's namespace to its own, with an address.
    pub fn with_bwd1() -> Result<Self> {
        let peer = Self::start()?;
        let thread = peer.thread.to_string();
        ip(&["link", "set", "dev", "bwd1", "netns", &thread])?;
        peer.run(|| {
            ip(&["address", "add", &format!("{THEIRS}/24"), "dev", "bwd1"])?;
            ip(&["link", "set", "dev", "bwd1", "up"])?;
            Ok(())
        })?;
        Ok(peer)
    }

    fn start() -> Result<Self> {
        let (tasks, inbox) = channel::<Work>();
        let (identity, thread) = channel();
        std::thread::spawn(move || {
            namespace::enter();
            if identity.send(gettid()).is_err() {
                return;
            }
            while let Ok(work) = inbox.recv() {
                work();
            }
        });
        Ok(Self {
            thread: thread.recv()?,
            tasks,
        })
    }

    /// Has something done in its namespace; threads and processes that it starts are there as well.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (outbox, answer) = channel();
        let work: Work = Box::new(move || {
            // Nobody waits for it if the test has failed meanwhile.
            let _ = outbox.send(work());
        });
        self.tasks.send(work).ok().context("the peer has gone")?;
        answer.recv().context("the peer has gone")?
    }

    /// Connects to this port of [`OURS`], for so long; the answer is how it failed.
    pub fn connect(&self, port: u16, patience: Duration) -> Result<Option<ErrorKind>> {
        self.run(move || {
            let address = SocketAddr::from((OURS, port));
            let connected = TcpStream::connect_timeout(&address, patience);
            Ok(connected.err().map(|error| error.kind()))
        })
    }
}
