//! The arithmetic of a ring, written once for all four.
//!
//! ```text
//!                    consumer          producer
//!                       v                 v
//!   entries:  . . . . . x x x x x x x x x . . . . .      both only grow, wrap at 2^32, and index by their low bits
//!                       |-- to consume -->|-- free, round to the consumer -->
//! ```
//! Each side owns one cursor and reads the other's. Three steps on either side: `acquire` asks how many entries may be
//! used, `put` or `take` use them, `release` tells the other side. The other side's cursor is on its cache line, so it is
//! read only if the last value seen is not enough.
//!
//! | ring | producer | consumer | entry |
//! |---|---|---|---|
//! | fill | this crate | kernel | address |
//! | completion | kernel | this crate | address |
//! | RX | kernel | this crate | descriptor |
//! | TX | this crate | kernel | descriptor |

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::XskError;

/// A packet in a ring (`struct xdp_desc`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) options: u32,
}

pub(crate) type FillRing = Producer<u64>;
pub(crate) type CompletionRing = Consumer<u64>;
pub(crate) type RxRing = Consumer<Descriptor>;
pub(crate) type TxRing = Producer<Descriptor>;

/// A mapping of the kernel's ring memory. It must go before its socket is closed: as long as it is there, the kernel keeps
/// the socket, and so the queue.
struct Mapping {
    base: NonNull<c_void>,
    bytes: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping; the pointers into it are in the same `Memory` and are not used after this.
        let result = unsafe { libc::munmap(self.base.as_ptr(), self.bytes) };
        debug_assert_eq!(result, 0);
    }
}

/// A forked child (an engine's guard is one, and an embedder may have others) that had a ring mapped would keep its socket,
/// and so the queue, for as long as it lives.
pub(crate) fn keep_from_children(base: NonNull<c_void>, bytes: usize) -> Result<(), XskError> {
    // SAFETY: a mapping of ours of this size; the advice changes nothing in this process.
    match unsafe { libc::madvise(base.as_ptr(), bytes, libc::MADV_DONTFORK) } {
        0 => Ok(()),
        _ => Err(XskError::last("madvise(MADV_DONTFORK)")),
    }
}

/// Whose memory the pointers of a ring point into.
enum Backing {
    Kernel {
        _mapping: Mapping,
    },
    #[cfg(any(test, feature = "fuzzing"))]
    Own {
        _ring: std::sync::Arc<tests::OwnRing>,
    },
}

/// Where a ring's cursors and entries are.
struct Memory<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    _backing: Backing,
}

impl<T: Copy> Memory<T> {
    /// Maps a ring of `size` entries that the socket was told to make. `page_offset` is the kernel's name for it.
    fn map(
        fd: BorrowedFd<'_>,
        offsets: &libc::xdp_ring_offset,
        size: u32,
        page_offset: libc::off_t,
    ) -> Result<Self, XskError> {
        let bytes = offsets.desc as usize + size as usize * size_of::<T>();
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; the result is checked.
        let base = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                bytes,
                protection,
                flags,
                fd.as_raw_fd(),
                page_offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(XskError::last("mmap of a ring"));
        }
        let base = NonNull::new(base).expect("mmap without MAP_FIXED does not map page 0");
        let mapping = Mapping { base, bytes };
        keep_from_children(base, bytes)?;
        let at = |offset: u64| {
            // SAFETY: the kernel's offsets are within the mapping, whose size follows from the largest of them.
            unsafe { base.cast::<u8>().add(offset as usize) }
        };
        Ok(Self {
            producer: at(offsets.producer).cast(),
            consumer: at(offsets.consumer).cast(),
            flags: at(offsets.flags).cast(),
            entries: at(offsets.desc).cast(),
            size,
            _backing: Backing::Kernel { _mapping: mapping },
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: aligned, valid as long as the backing, and accessed by both sides as an atomic only.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.consumer.as_ref() }
    }

    /// Whether the kernel sleeps on this ring until a system call wakes it.
    fn needs_wakeup(&self) -> bool {
        // SAFETY: as for `producer`; the kernel writes it, we only read.
        let flags = unsafe { self.flags.as_ref() };
        flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn entry(&self, cursor: u32) -> *mut T {
        let index = cursor & (self.size - 1);
        // SAFETY: the size is a power of two, so the index is within the entries.
        unsafe { self.entries.as_ptr().add(index as usize) }
    }
}

/// The side that writes entries.
pub(crate) struct Producer<T> {
    memory: Memory<T>,
    /// Next entry to write.
    local: u32,
    /// What the consumer knows of: entries before this one.
    released: u32,
    /// The consumer's cursor when it was last looked at.
    seen: u32,
}

impl<T: Copy> Producer<T> {
    pub(crate) fn map(
        fd: BorrowedFd<'_>,
        offsets: &libc::xdp_ring_offset,
        size: u32,
        page_offset: libc::off_t,
    ) -> Result<Self, XskError> {
        Memory::map(fd, offsets, size, page_offset).map(Self::over)
    }

    fn over(memory: Memory<T>) -> Self {
        let local = memory.producer().load(Ordering::Relaxed);
        let seen = memory.consumer().load(Ordering::Acquire);
        Self {
            memory,
            local,
            released: local,
            seen,
        }
    }

    /// Free entries, if the consumer is at `consumer`. A consumer that claims to be ahead of us gets nothing.
    fn free_at(&self, consumer: u32) -> u32 {
        self.memory
            .size
            .saturating_sub(self.local.wrapping_sub(consumer))
    }

    /// How many entries may be `put` now, at most `want`.
    pub(crate) fn acquire(&mut self, want: u32) -> u32 {
        if self.free_at(self.seen) < want {
            // Acquire: the consumer has read the entries that we are about to overwrite.
            self.seen = self.memory.consumer().load(Ordering::Acquire);
        }
        self.free_at(self.seen).min(want)
    }

    /// Free entries now.
    pub(crate) fn free(&self) -> u32 {
        self.free_at(self.memory.consumer().load(Ordering::Relaxed))
    }

    /// Writes the next entry.
    ///
    /// # Panics
    /// Without an `acquire` that granted it.
    pub(crate) fn put(&mut self, entry: T) {
        assert!(self.free_at(self.seen) > 0, "put without acquire");
        // SAFETY: within the entries, and the consumer does not look behind `released` nor has it this entry any more.
        unsafe { self.memory.entry(self.local).write(entry) };
        self.local = self.local.wrapping_add(1);
    }

    /// Shows the consumer everything put so far.
    pub(crate) fn release(&mut self) {
        if self.released != self.local {
            // Release: the entries come before the cursor.
            self.memory.producer().store(self.local, Ordering::Release);
            self.released = self.local;
        }
    }

    /// Released entries that the consumer has not taken yet.
    pub(crate) fn pending(&self) -> u32 {
        let consumer = self.memory.consumer().load(Ordering::Relaxed);
        self.released.wrapping_sub(consumer).min(self.memory.size)
    }

    pub(crate) fn needs_wakeup(&self) -> bool {
        self.memory.needs_wakeup()
    }
}

/// The side that reads entries.
pub(crate) struct Consumer<T> {
    memory: Memory<T>,
    /// Next entry to read.
    local: u32,
    /// What the producer knows of: entries before this one are its own again.
    released: u32,
    /// The producer's cursor when it was last looked at.
    seen: u32,
}

impl<T: Copy> Consumer<T> {
    pub(crate) fn map(
        fd: BorrowedFd<'_>,
        offsets: &libc::xdp_ring_offset,
        size: u32,
        page_offset: libc::off_t,
    ) -> Result<Self, XskError> {
        Memory::map(fd, offsets, size, page_offset).map(Self::over)
    }

    fn over(memory: Memory<T>) -> Self {
        let local = memory.consumer().load(Ordering::Relaxed);
        let seen = memory.producer().load(Ordering::Acquire);
        Self {
            memory,
            local,
            released: local,
            seen,
        }
    }

    /// Entries to read, as far as the producer was seen; never more than there are in a ring.
    fn filled(&self) -> u32 {
        self.seen.wrapping_sub(self.local).min(self.memory.size)
    }

    /// The next entry, if the producer has written one; it stays.
    pub(crate) fn peek(&self) -> Option<T> {
        // Acquire: the producer has written the entry that we are about to read.
        let seen = self.memory.producer().load(Ordering::Acquire);
        (seen != self.local).then(|| {
            // SAFETY: as in `take`.
            unsafe { self.memory.entry(self.local).read() }
        })
    }

    /// How many entries the producer has written that were not taken yet.
    pub(crate) fn waiting(&self) -> u32 {
        let seen = self.memory.producer().load(Ordering::Relaxed);
        seen.wrapping_sub(self.local).min(self.memory.size)
    }

    /// How many entries may be `take`n now, at most `want`.
    pub(crate) fn acquire(&mut self, want: u32) -> u32 {
        if self.filled() < want {
            // Acquire: the producer has written the entries that we are about to read.
            self.seen = self.memory.producer().load(Ordering::Acquire);
        }
        self.filled().min(want)
    }

    /// Reads the next entry.
    ///
    /// # Panics
    /// Without an `acquire` that granted it.
    pub(crate) fn take(&mut self) -> T {
        assert!(self.filled() > 0, "take without acquire");
        // SAFETY: within the entries, written by the producer before its cursor passed it, and not written again before we
        // release it. Every bit pattern is a valid entry.
        let entry = unsafe { self.memory.entry(self.local).read() };
        self.local = self.local.wrapping_add(1);
        entry
    }

    /// Gives the producer everything taken so far.
    pub(crate) fn release(&mut self) {
        if self.released != self.local {
            // Release: our reads come before the cursor.
            self.memory.consumer().store(self.local, Ordering::Release);
            self.released = self.local;
        }
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod tests;
