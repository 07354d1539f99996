//! A BPF array map in our memory: what an XDP program stores there is read without a system call.
//!
//! ```text
//! XDP program, on the core of the NIC queue         a shard, on its own core
//!    byte[slot] is 0? ─> store 1  ──────────┐          load a word of 8 bytes, relaxed: 0, nothing to do
//!    redirect the packet                    └────────>     not 0: swap 0 into it, and look into each slot whose byte was set
//!    end of the NAPI cycle: publish the ring
//! ```
//! The map must have been made with `BPF_F_MMAPABLE` (Linux 5.5).

use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::XskError;

/// Octets of a word: the array is read by words.
const WORD: usize = size_of::<AtomicU64>();

/// An array map, mapped for reading and writing until it is dropped; the descriptor may be closed before.
#[derive(Debug)]
pub struct MappedArray {
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: a shared mapping that is tied to no thread and lives as long as the value; it is reached by atomics only.
unsafe impl Send for MappedArray {}
// SAFETY: as above.
unsafe impl Sync for MappedArray {}

impl MappedArray {
    /// Maps the first `len` octets of the array behind `fd`: entries lie side by side, each rounded up to 8 octets.
    ///
    /// # Errors
    /// If `len` is 0 or no multiple of 8, or the kernel refuses: the map is shorter, or not made to be mapped.
    pub fn map(fd: BorrowedFd<'_>, len: usize) -> Result<Self, XskError> {
        if len == 0 || !len.is_multiple_of(WORD) {
            return Err(XskError::Config(format!(
                "{len} octets of a BPF array: a multiple of {WORD} can be mapped"
            )));
        }
        // SAFETY: a new mapping at an address of the kernel's choice; the result is checked.
        let base = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(XskError::last("mmap of a BPF array"));
        }
        let base = NonNull::new(base.cast()).expect("mmap without MAP_FIXED does not map page 0");
        Ok(Self {
            base,
            words: len / WORD,
        })
    }

    /// The array by words. Octet `n` is octet `n % 8` of word `n / 8`, in the order of [`u64::to_ne_bytes`].
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, `words * 8` octets long and lives as long as `self`; atomics may be shared with
        // whoever else maps the memory or, like the kernel, writes to it.
        unsafe { core::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }

    /// Clears the octets of `range`, and calls `on_set` with the index of each that was not 0.
    ///
    /// A word without a set octet costs one relaxed load, and its cache line stays shared with the core that writes it.
    ///
    /// # Panics
    /// If the range is not within the array or does not begin and end at multiples of 8.
    #[inline]
    pub fn drain(&self, range: Range<usize>, mut on_set: impl FnMut(usize)) {
        assert!(
            range.start.is_multiple_of(WORD) && range.end.is_multiple_of(WORD),
            "{range:?} cuts a word"
        );
        let words = &self.words()[range.start / WORD..range.end / WORD];
        for (index, word) in words.iter().enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // Acquire: looks into the rings are not moved before it.
            let octets = word.swap(0, Ordering::Acquire).to_ne_bytes();
            let first = range.start + index * WORD;
            for (offset, octet) in octets.into_iter().enumerate() {
                if octet != 0 {
                    on_set(first + offset);
                }
            }
        }
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: the mapping of `map`, which nobody uses any more: references to it do not outlive `self`.
        let unmapped = unsafe { libc::munmap(self.base.as_ptr().cast(), self.words * WORD) };
        debug_assert_eq!(unmapped, 0, "munmap of a whole mapping");
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};

    use super::*;

    /// A memory file stands for the map: to mmap they are alike.
    fn file(len: i64) -> OwnedFd {
        // SAFETY: the name is a C string; the result is checked.
        let fd = unsafe { libc::memfd_create(c"array".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0, "memfd_create");
        // SAFETY: the kernel has just given us this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::ftruncate(fd.as_raw_fd(), len) }, 0);
        fd
    }

    fn drained(array: &MappedArray, range: Range<usize>) -> Vec<usize> {
        let mut set = Vec::new();
        array.drain(range, |index| set.push(index));
        set
    }

    #[test]
    fn set_octets_are_told_once_and_cleared() {
        let fd = file(4096);
        let (ours, theirs) = (
            MappedArray::map(fd.as_fd(), 2048).expect("a mapping"),
            MappedArray::map(fd.as_fd(), 4096).expect("a second one"),
        );
        drop(fd);
        let set = |octet: usize| {
            let mut bytes = [0; WORD];
            bytes[octet % WORD] = 1;
            theirs.words()[octet / WORD].fetch_or(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        };
        for octet in [0, 7, 8, 1023, 1024, 2047] {
            set(octet);
        }
        assert_eq!(drained(&ours, 0..1024), [0, 7, 8, 1023]);
        assert_eq!(drained(&ours, 0..1024), []);
        assert_eq!(drained(&ours, 1024..2048), [1024, 2047]);
        set(7);
        assert_eq!(drained(&ours, 8..2048), []);
        assert_eq!(drained(&ours, 0..8), [7]);
    }

    #[test]
    fn lengths_that_cannot_be_mapped_are_refused() {
        let fd = file(4096);
        for len in [0, 7, 12] {
            assert!(matches!(
                MappedArray::map(fd.as_fd(), len),
                Err(XskError::Config(_))
            ));
        }
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        assert!(MappedArray::map(null.as_fd(), 8).is_err());
    }

    #[test]
    #[should_panic(expected = "cuts a word")]
    fn a_range_that_cuts_a_word_is_a_mistake() {
        let fd = file(4096);
        let array = MappedArray::map(fd.as_fd(), 64).expect("a mapping");
        array.drain(0..9, |_| {});
    }
}
