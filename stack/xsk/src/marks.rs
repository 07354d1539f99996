//! The demultiplexer's marks: which RX rings have had something sent to them, a byte each, in memory shared with XDP.
//!
//! With many rings it is cheaper to look at their marks, 64 to a cache line, than at each ring's cursor. A mark says that
//! a packet is on its way; the ring may show it a little later.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::XskError;

/// Marks of one queue's rings.
pub struct Marks {
    base: NonNull<c_void>,
    bytes: usize,
    /// First word of the queue, and how many there are.
    words: core::ops::Range<usize>,
}

impl Marks {
    /// Maps an array of `bytes` bytes, of which those in `ring_bytes` are this queue's.
    ///
    /// # Errors
    /// The range is not within the array or not of whole 8-byte words, or the kernel would not map it.
    pub fn map(
        fd: BorrowedFd<'_>,
        bytes: usize,
        ring_bytes: core::ops::Range<usize>,
    ) -> Result<Self, XskError> {
        let whole = |at: usize| at.is_multiple_of(size_of::<AtomicU64>());
        if ring_bytes.end > bytes
            || ring_bytes.start > ring_bytes.end
            || !whole(ring_bytes.start)
            || !whole(ring_bytes.end)
        {
            return Err(XskError::Config(format!(
                "marks {ring_bytes:?} are not words of an array of {bytes} bytes"
            )));
        }
        // SAFETY: a new mapping at an address of the kernel's choice; the result is checked.
        let base = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(XskError::last("mmap of the rings' marks"));
        }
        let base = NonNull::new(base).expect("mmap without MAP_FIXED does not map page 0");
        let word = |at: usize| at / size_of::<AtomicU64>();
        Ok(Self {
            base,
            bytes,
            words: word(ring_bytes.start)..word(ring_bytes.end),
        })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        debug_assert!((index + 1) * size_of::<AtomicU64>() <= self.bytes);
        // SAFETY: within the mapping, which lives as long as `self`, and aligned. The other side stores single bytes.
        unsafe { self.base.cast::<AtomicU64>().add(index).as_ref() }
    }

    /// Appends the marked ones of the first `rings` rings to `out` and takes their marks away.
    pub fn take(&self, rings: usize, out: &mut Vec<u16>) {
        for (place, index) in self.words.clone().enumerate() {
            let first = place * size_of::<AtomicU64>();
            if first >= rings {
                break;
            }
            let word = self.word(index);
            // Nothing hangs on the order of mark and ring: a ring that was marked is looked at for a while.
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let marks = word.swap(0, Ordering::Relaxed).to_ne_bytes();
            let marked = (first..rings).zip(marks).filter(|(_, mark)| *mark != 0);
            out.extend(marked.map(|(ring, _)| ring as u16));
        }
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        // SAFETY: our own mapping; `word` borrows `self`.
        let result = unsafe { libc::munmap(self.base.as_ptr(), self.bytes) };
        debug_assert_eq!(result, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// Memory as the map has it, written as XDP writes it: by single bytes.
    fn array(bytes: u64) -> std::fs::File {
        let path = format!("/proc/self/fd/{}", {
            // SAFETY: the name is a C string; the result is checked.
            let fd = unsafe { libc::memfd_create(c"marks".as_ptr(), libc::MFD_CLOEXEC) };
            assert!(fd >= 0);
            fd
        });
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .expect("memfd");
        file.set_len(bytes).expect("room");
        file
    }

    #[test]
    fn marks_of_one_queue_are_taken_once() {
        let file = array(8192);
        let marks = Marks::map(file.as_fd(), 8192, 1024..2048).expect("mapped");
        for at in [
            3,
            1024 + 2,
            1024 + 7,
            1024 + 8,
            1024 + 500,
            1024 + 1023,
            2048,
        ] {
            file.write_all_at(&[1], at).expect("written");
        }
        let mut out = Vec::new();
        marks.take(501, &mut out);
        assert_eq!(out, [2, 7, 8, 500]);
        out.clear();
        marks.take(1024, &mut out);
        assert_eq!(out, [1023]);
        out.clear();
        marks.take(1024, &mut out);
        assert_eq!(out, [0u16; 0]);
        let mut others = [0; 2];
        file.read_exact_at(&mut others[..1], 3).expect("read");
        file.read_exact_at(&mut others[1..], 2048).expect("read");
        assert_eq!(others, [1, 1], "another queue's marks are left alone");
    }

    #[test]
    fn a_range_that_is_not_there_is_refused() {
        let file = array(4096);
        for range in [0..4100, 4..12, 0..12] {
            assert!(Marks::map(file.as_fd(), 4096, range).is_err());
        }
    }
}
