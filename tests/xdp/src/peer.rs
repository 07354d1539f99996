//! The other end of the veth: the kernel's TCP in a namespace of its own.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{Pid, gettid};

use crate::namespace::{self, ip};

/// Our address in these tests; the peer's is 10.1.1.2.
pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);

/// What a [`Peer`] can do.
pub enum Task {
    /// Address and state of bwd1.
    Up,
    /// To this port of [`OURS`], for so long; the answer is how it failed.
    Connect(u16, Duration),
}

/// A thread in a network namespace of its own that does one task after another.
pub struct Peer {
    /// Its thread, by which an interface can be moved into its namespace.
    pub thread: Pid,
    tasks: Sender<Task>,
    answers: Receiver<Result<Option<ErrorKind>>>,
}

impl Peer {
    /// Starts the thread.
    pub fn start() -> Result<Self> {
        let (tasks, inbox) = channel();
        let (outbox, answers) = channel();
        let (identity, thread) = channel();
        std::thread::spawn(move || {
            namespace::enter();
            // The test ends when it has heard enough: a closed channel ends the thread.
            let mut open = identity.send(gettid()).is_ok();
            while open && let Ok(task) = inbox.recv() {
                open = outbox.send(Self::perform(&task)).is_ok();
            }
        });
        Ok(Self {
            thread: thread.recv()?,
            tasks,
            answers,
        })
    }

    /// Has a task done.
    pub fn ask(&self, task: Task) -> Result<Option<ErrorKind>> {
        self.tasks.send(task).ok().context("the peer has gone")?;
        self.answers.recv()?
    }

    fn perform(task: &Task) -> Result<Option<ErrorKind>> {
        match task {
            Task::Up => {
                ip(&["address", "add", "10.1.1.2/24", "dev", "bwd1"])?;
                ip(&["link", "set", "dev", "bwd1", "up"])?;
                Ok(None)
            }
            Task::Connect(port, patience) => {
                let address = SocketAddr::from((OURS, *port));
                Ok(TcpStream::connect_timeout(&address, *patience)
                    .err()
                    .map(|error| error.kind()))
            }
        }
    }
}
