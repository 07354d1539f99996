//! A shard's end of the host thread: a table of its own, and a channel each way.
//!
//! ```text
//! resolve(r): in the table? answer. Else note Pending, send the question, wake the host thread
//! poll():     one atomic load; if set, take the updates into the table and name the remotes
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::Receiver;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::path::{Resolution, Routes, Unreachable};
use super::thread::{Command, Mailbox};

/// Questions of one shard that may be open at a time. Segments from invented addresses make
/// questions too: beyond this, they get [`Unreachable::Busy`] at once, and known remotes are
/// unharmed.
pub(super) const OPEN_QUESTIONS: usize = 4096;

/// What the host thread tells a shard.
#[derive(Clone, Debug)]
pub(super) enum Update {
    /// What is known of a remote now.
    Known {
        remote: IpAddr,
        resolution: Resolution,
        touched: Arc<AtomicBool>,
    },
    /// The host thread follows this remote no longer.
    Forgotten(IpAddr),
    /// The host thread follows no remote any longer.
    AllForgotten,
    /// Own addresses.
    Sources(Arc<[IpAddr]>),
}

#[derive(Debug)]
struct Known {
    resolution: Resolution,
    /// Tells the host thread that the remote is in use; there is none before the first answer.
    touched: Option<Arc<AtomicBool>>,
}

/// The kernel's routes and neighbours, as one shard sees them. May be moved to the shard's thread.
#[derive(Debug)]
pub struct KernelRoutes {
    shard: u64,
    mailbox: Mailbox,
    updates: Receiver<Update>,
    news: Arc<AtomicBool>,
    table: HashMap<IpAddr, Known, RandomState>,
    open: usize,
    sources: Arc<[IpAddr]>,
}

impl KernelRoutes {
    pub(super) fn new(
        shard: u64,
        mailbox: Mailbox,
        updates: Receiver<Update>,
        news: Arc<AtomicBool>,
        sources: Arc<[IpAddr]>,
    ) -> Self {
        Self {
            shard,
            mailbox,
            updates,
            news,
            table: HashMap::default(),
            open: 0,
            sources,
        }
    }

    fn take_in(&mut self, update: Update, changed: &mut Vec<IpAddr>) {
        match update {
            Update::Known {
                remote,
                resolution,
                touched,
            } => {
                // Another shard's remote, if it is not in the table.
                if let Some(known) = self.table.get_mut(&remote) {
                    if known.touched.replace(touched).is_none() {
                        self.open -= 1;
                    }
                    known.resolution = resolution;
                    changed.push(remote);
                }
            }
            Update::Forgotten(remote) => {
                if let Some(known) = self.table.remove(&remote) {
                    self.open -= usize::from(known.touched.is_none());
                    changed.push(remote);
                }
            }
            Update::AllForgotten => {
                changed.extend(self.table.drain().map(|(remote, _)| remote));
                self.open = 0;
            }
            Update::Sources(sources) => self.sources = sources,
        }
    }
}

impl Routes for KernelRoutes {
    fn resolve(&mut self, remote: IpAddr) -> Resolution {
        match self.table.entry(remote) {
            Entry::Occupied(entry) => {
                let known = entry.get();
                // Looked at first: a store would pull the cache line from the other shards' cores.
                if let Some(touched) = &known.touched
                    && !touched.load(Ordering::Relaxed)
                {
                    touched.store(true, Ordering::Relaxed);
                }
                known.resolution.clone()
            }
            Entry::Vacant(_) if self.open >= OPEN_QUESTIONS => {
                Resolution::Unreachable(Unreachable::Busy)
            }
            Entry::Vacant(entry) => {
                if !self.mailbox.send(Command::Resolve {
                    shard: self.shard,
                    remote,
                }) {
                    return Resolution::Unreachable(Unreachable::Failed(
                        "the host thread has ended".into(),
                    ));
                }
                self.open += 1;
                entry.insert(Known {
                    resolution: Resolution::Pending,
                    touched: None,
                });
                Resolution::Pending
            }
        }
    }

    fn poll(&mut self, changed: &mut Vec<IpAddr>) {
        // Relaxed first: the common case is one load of a line that nobody writes.
        if !self.news.load(Ordering::Relaxed) || !self.news.swap(false, Ordering::Acquire) {
            return;
        }
        while let Ok(update) = self.updates.try_recv() {
            self.take_in(update, changed);
        }
    }

    fn sources(&self) -> &[IpAddr] {
        &self.sources
    }
}

impl Drop for KernelRoutes {
    fn drop(&mut self) {
        // If the host thread has ended, there is nobody to tell.
        self.mailbox.send(Command::Leave { shard: self.shard });
    }
}
