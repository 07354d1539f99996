//! What the state machine knows of the bytes it carries: next to nothing.
//!
//! A connection never looks at payload. It holds *handles*, one per segment, cuts them at the ends when segments overlap,
//! and drops them when they are acknowledged or read. In the engine a handle is a slice of a frame in memory shared with
//! the NIC; in tests it is a `Vec<u8>`.

use alloc::vec::Vec;

/// Payloads up to this many bytes may be copied behind their neighbour so as not to hold a whole frame each (copybreak).
///
/// The value is that of the kernel drivers' usual `rx_copybreak`: a copy of four cache lines costs less than a frame
/// that is missing from the ring.
pub const COPYBREAK: usize = 256;

/// A handle to the payload of one segment. Dropping it releases the bytes.
pub trait Payload: Sized {
    /// Bytes in the handle.
    fn len(&self) -> usize;

    /// Drops the first `n` bytes, `n <= len`.
    fn advance(&mut self, n: usize);

    /// Keeps the first `n` bytes, `n <= len`.
    fn truncate(&mut self, n: usize);

    /// Takes the bytes from `at` on into a handle of their own, `0 < at < len`. This is a copy into a new frame.
    /// `None`: no frame is free now and nothing has changed; try later.
    fn split_off(&mut self, at: usize) -> Option<Self>;

    /// Copies `other`'s bytes behind ours if there is room and nobody else sees ours. `false`: nothing was done.
    fn append(&mut self, other: &Self) -> bool;

    /// A transmission of this handle has not been completed: the bytes in front of it, its header, must not be
    /// written. The connection then does not offer it for transmission again.
    fn is_queued(&self) -> bool;

    /// Whether no bytes are left.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes on the heap: always room, never queued. For tests, and for users without frames.
impl Payload for Vec<u8> {
    fn len(&self) -> usize {
        self.len()
    }

    fn advance(&mut self, n: usize) {
        self.drain(..n);
    }

    fn truncate(&mut self, n: usize) {
        self.truncate(n);
    }

    fn split_off(&mut self, at: usize) -> Option<Self> {
        Some(self.split_off(at))
    }

    fn append(&mut self, other: &Self) -> bool {
        self.extend_from_slice(other);
        true
    }

    fn is_queued(&self) -> bool {
        false
    }
}
