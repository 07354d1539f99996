//! Payloads as the engine has them: counted, queued until completed, sometimes without a frame to cut into.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use bywash_tcp::Payload;
use bywash_wire::Tuple;

/// The flow of all targets.
pub(crate) fn tuple() -> Tuple {
    let [ours, theirs] = [1, 2].map(|host| IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)));
    Tuple::tcp(ours, 80, theirs, 40_000)
}

/// What all frames of a run share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Desk {
    /// Frames alive.
    pub(crate) alive: Rc<Cell<usize>>,
    /// There is no frame to cut into.
    pub(crate) exhausted: Rc<Cell<bool>>,
    /// Small frames may be copied behind others.
    pub(crate) appends: bool,
    /// Transmissions so far, and how many of them are completed.
    pub(crate) posted: Rc<Cell<u64>>,
    pub(crate) completed: Rc<Cell<u64>>,
}

/// A payload.
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    /// Number of its latest transmission.
    posted: u64,
    desk: Desk,
}

impl Desk {
    pub(crate) fn frame(&self, bytes: &[u8]) -> Frame {
        self.alive.set(self.alive.get() + 1);
        Frame {
            bytes: bytes.to_vec(),
            posted: 0,
            desk: self.clone(),
        }
    }

    /// All transmissions are completed.
    pub(crate) fn complete(&self) {
        self.completed.set(self.posted.get());
    }
}

impl Frame {
    /// It is posted for transmission: queued until [`Desk::complete`].
    pub(crate) fn post(&mut self) {
        assert!(
            !self.is_queued(),
            "offered while its transmission is queued"
        );
        self.desk.posted.set(self.desk.posted.get() + 1);
        self.posted = self.desk.posted.get();
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame of {}", self.bytes.len())
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.desk.alive.set(self.desk.alive.get() - 1);
    }
}

impl Payload for Frame {
    fn len(&self) -> usize {
        self.bytes.len()
    }
    fn advance(&mut self, n: usize) {
        self.bytes.drain(..n);
    }
    fn truncate(&mut self, n: usize) {
        assert!(n <= self.bytes.len());
        self.bytes.truncate(n);
    }
    fn split_off(&mut self, at: usize) -> Option<Self> {
        assert!(at > 0 && at < self.bytes.len());
        if self.desk.exhausted.get() {
            return None;
        }
        Some(self.desk.frame(&self.bytes.split_off(at)))
    }
    fn append(&mut self, other: &Self) -> bool {
        if self.desk.appends && !self.is_queued() {
            self.bytes.extend_from_slice(&other.bytes);
        }
        self.desk.appends && !self.is_queued()
    }
    fn is_queued(&self) -> bool {
        self.posted > self.desk.completed.get()
    }
}
