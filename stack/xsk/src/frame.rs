//! The token for one chunk.
//!
//! ```text
//! chunk:  |<- headroom ->|<---- window ---->|<- tailroom ->|
//!                        start         start+len
//! ```
//! Whoever has the `Frame` has the chunk's bytes: to read always, to write while no completion is outstanding. There is
//! at most one own token of a chunk. On a wire in memory the receiver has a second, *foreign* one for the sender's chunk:
//! the sender's completion is outstanding as long as it lives, so both can only read.

use core::mem::ManuallyDrop;
use std::rc::Rc;

use crate::region::{FOREIGN, LeaseDesc};
use crate::umem::Umem;

/// Move-only token for one UMEM chunk with a window of bytes. Dropping it gives the chunk back, once no completion is
/// outstanding either.
pub struct Frame {
    umem: Rc<Umem>,
    /// Index, and `FOREIGN` if the chunk is the peer's.
    chunk: u32,
    start: u16,
    len: u16,
}

// Queues and connections hold many of them: two words, and an `Option` costs nothing.
const _: () = assert!(size_of::<Frame>() == 16);
const _: () = assert!(size_of::<Option<Frame>>() == 16);

impl Frame {
    /// The caller has just made the chunk's state say that this token exists (and, for a foreign one, that the owner's
    /// completion is outstanding), and `start + len` is within the chunk.
    pub(crate) fn new(umem: Rc<Umem>, chunk: u32, start: u16, len: u16) -> Self {
        debug_assert!(u32::from(start) + u32::from(len) <= umem.chunk_size());
        Self {
            umem,
            chunk,
            start,
            len,
        }
    }

    /// A foreign token for the same bytes and the `header_len` before them.
    pub(crate) fn foreign_twin(&self, header_len: u16) -> Self {
        let start = self.start - header_len;
        Self::new(
            Rc::clone(&self.umem),
            self.chunk | FOREIGN,
            start,
            self.len + header_len,
        )
    }

    /// Whether a port with this memory can send the frame behind a header of this length: its own chunk, nothing
    /// outstanding, the header within the chunk, at least one byte. Every descriptor that passes is one the kernel takes.
    pub(crate) fn may_be_sent(&self, umem: &Rc<Umem>, header_len: usize) -> bool {
        Rc::ptr_eq(&self.umem, umem)
            && !self.is_queued()
            && header_len <= self.headroom()
            && header_len + self.len() > 0
    }

    /// The memory that the chunk is of.
    pub fn umem(&self) -> &Rc<Umem> {
        &self.umem
    }

    /// Index of the chunk in its UMEM.
    pub fn id(&self) -> u32 {
        self.chunk & !FOREIGN
    }

    pub(crate) fn is_foreign(&self) -> bool {
        self.chunk & FOREIGN != 0
    }

    /// Where in the UMEM the window begins.
    pub(crate) fn address(&self) -> u64 {
        self.umem.address(self.id()) + u64::from(self.start)
    }

    fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset <= self.umem.chunk_size() as usize);
        // SAFETY: `offset` is at most the chunk's size.
        unsafe { self.umem.region().chunk(self.id()).add(offset) }
    }

    /// `len` bytes of the chunk to write, or `None` while a completion is outstanding.
    fn writable(&mut self, offset: usize, len: usize) -> Option<&mut [u8]> {
        if self.is_queued() {
            return None;
        }
        assert!(offset + len <= self.umem.chunk_size() as usize);
        // SAFETY: within the chunk. Nothing is outstanding, so neither kernel nor peer has the chunk; a foreign token is
        // always queued. This is then the only token, and it is borrowed mutably.
        Some(unsafe { core::slice::from_raw_parts_mut(self.at(offset), len) })
    }

    /// The window.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the window is within the chunk. A token exists, so the chunk is not with the kernel for receiving; every
        // way to write it needs this token mutably, or another token, which is then read-only.
        unsafe {
            core::slice::from_raw_parts(self.at(usize::from(self.start)), usize::from(self.len))
        }
    }

    /// The window to write; `None` while queued.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        self.writable(usize::from(self.start), usize::from(self.len))
    }

    /// Bytes in the window.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether the window is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes before the window.
    pub fn headroom(&self) -> usize {
        usize::from(self.start)
    }

    /// Bytes behind the window.
    pub fn tailroom(&self) -> usize {
        self.umem.chunk_size() as usize - usize::from(self.start) - usize::from(self.len)
    }

    /// Takes `n` bytes off the window's front.
    ///
    /// # Panics
    /// If the window has fewer.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.len(), "advance by {n} of {}", self.len());
        self.start += n as u16;
        self.len -= n as u16;
    }

    /// Keeps the window's first `n` bytes; all, if there are no more.
    pub fn truncate(&mut self, n: usize) {
        if n < self.len() {
            self.len = n as u16;
        }
    }

    /// Narrows the window to `part` of it.
    ///
    /// # Panics
    /// If that is not within it.
    #[inline]
    pub fn set_window(&mut self, part: core::ops::Range<usize>) {
        assert!(
            part.start <= part.end && part.end <= self.len(),
            "{part:?} of {}",
            self.len()
        );
        self.start += part.start as u16;
        self.len = (part.end - part.start) as u16;
    }

    /// The `n` bytes before the window; `None` while queued or with less headroom.
    pub fn head_mut(&mut self, n: usize) -> Option<&mut [u8]> {
        let start = self.headroom().checked_sub(n)?;
        self.writable(start, n)
    }

    /// All bytes behind the window; `None` while queued. [`Frame::extend`] takes them into the window.
    pub fn tail_mut(&mut self) -> Option<&mut [u8]> {
        self.writable(
            usize::from(self.start) + usize::from(self.len),
            self.tailroom(),
        )
    }

    /// Takes the `n` bytes behind the window into it.
    ///
    /// # Panics
    /// If the chunk has fewer.
    pub fn extend(&mut self, n: usize) {
        assert!(n <= self.tailroom(), "extend by {n} of {}", self.tailroom());
        self.len += n as u16;
    }

    /// Whether a completion is outstanding: the bytes must not change. Always so for a frame received over a wire in
    /// memory, whose bytes are the sender's.
    pub fn is_queued(&self) -> bool {
        self.umem.is_queued(self.id())
    }

    /// Gives the frame to whoever opens the desc, in any thread; it comes back by [`Umem::collect_leases`].
    pub fn lend(self) -> LeaseDesc {
        let generation = self.umem.lend(self.id(), self.is_foreign());
        let desc = LeaseDesc {
            chunk: self.chunk,
            generation,
            offset: self.start,
            len: self.len,
        };
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped or used again, so the `Rc` is moved out once. The chunk is the lease's now.
        drop(unsafe { core::ptr::read(&this.umem) });
        desc
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if self.is_foreign() {
            self.umem.foreign_released(self.id());
        } else {
            self.umem.token_released(self.chunk);
        }
    }
}

impl core::fmt::Debug for Frame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Frame")
            .field("id", &self.id())
            .field("foreign", &self.is_foreign())
            .field("start", &self.start)
            .field("len", &self.len)
            .field("queued", &self.is_queued())
            .finish()
    }
}
