//! The memory of a UMEM, and leases: frames lent to other threads as plain data.
//!
//! ```text
//! owner thread                                 any thread
//! Frame::lend --> LeaseDesc (plain data) --> RegionView::open --> RxLease: Deref<[u8]>
//!                                                                    | drop
//! Umem::collect_leases <-- stack of returned chunks <----------------+
//! ```
//! Each chunk has one atomic *lease word*: generation, state, and, once returned, the next chunk of the stack.
//!
//! ```text
//! FREE --lend--> LENT --open--> OPENED --drop--> RETURNED --collect--> FREE
//! generation+1     \--take back (owner)------------------------------> FREE
//! ```
//! `open` is a compare-and-swap from LENT *of the desc's generation*, so a desc opens at most once, and a stale or
//! invented one opens nothing. While a chunk is not FREE its owner has no token for it, so nobody writes it and the lease
//! may be read from anywhere. An invented desc that hits a lent generation reads what that chunk holds and takes the
//! lease from its rightful owner, but breaks no memory rule: all threads that hold a view are in one trust domain.
//!
//! The table has two words a chunk. The second one is for a wire in memory, whose receiver lends the *sender's* chunk
//! while the sender's own token may be lent too.

use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use crate::config::UmemConfig;
use crate::error::XskError;

/// Set in a [`LeaseDesc`]'s chunk when it means a chunk of the peer's region.
pub(crate) const FOREIGN: u32 = 1 << 31;

const FREE: u64 = 0;
const LENT: u64 = 1;
const OPENED: u64 = 2;
const RETURNED: u64 = 3;

/// End of the stack of returned chunks; larger than any index (see `MAX_FRAMES`), and fits a word's 30 bits.
const NIL: u32 = (1 << 30) - 1;

/// A lease word: generation in the upper half, then two bits of state, then the next index of the stack.
const fn word(generation: u32, state: u64, next: u32) -> u64 {
    ((generation as u64) << 32) | (state << 30) | next as u64
}

const fn generation_of(word: u64) -> u32 {
    (word >> 32) as u32
}

const fn state_of(word: u64) -> u64 {
    (word >> 30) & 3
}

const fn next_of(word: u64) -> u32 {
    word as u32 & NIL
}

/// A lent frame as plain data: good for any queue, and for shared memory. Opens once, by [`RegionView::open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LeaseDesc {
    /// Index of the chunk.
    pub chunk: u32,
    /// Tells this loan from all others of the chunk (until 2^32 loans later).
    pub generation: u32,
    /// Where in the chunk the bytes begin.
    pub offset: u16,
    /// Number of bytes.
    pub len: u16,
}

/// The head of the return stack on a cache line of its own: other threads write it, the owner reads it every turn.
#[repr(align(64))]
struct Returned(AtomicU32);

/// One memfd mapping, cut into chunks, with its lease table.
pub(crate) struct Region {
    base: NonNull<u8>,
    bytes: usize,
    chunk_size: u32,
    chunks: u32,
    words: Box<[AtomicU64]>,
    returned: Returned,
    memfd: OwnedFd,
}

// SAFETY: `base` is a mapping that lives as long as the value and is tied to no thread. Access to its bytes goes through
// tokens and leases, which keep readers and writers of a chunk apart; everything else in here is atomic or constant.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    pub(crate) fn new(config: &UmemConfig) -> Result<Arc<Self>, XskError> {
        config.check()?;
        let bytes = config.bytes();
        let memfd = sealed_memfd(bytes)?;
        let populate = if config.populate {
            libc::MAP_POPULATE
        } else {
            0
        };
        // SAFETY: a new mapping at an address of the kernel's choice; the result is checked.
        let base = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | populate,
                memfd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(XskError::last("mmap of the UMEM"));
        }
        let base = NonNull::new(base.cast()).expect("mmap without MAP_FIXED does not map page 0");
        let words = (0..2 * config.frames())
            .map(|_| AtomicU64::new(word(0, FREE, 0)))
            .collect();
        let region = Arc::new(Self {
            base,
            bytes,
            chunk_size: config.chunk_size,
            chunks: config.frames(),
            words,
            returned: Returned(AtomicU32::new(NIL)),
            memfd,
        });
        crate::ring::keep_from_children(base.cast(), bytes)?;
        Ok(region)
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    /// First byte of a chunk; valid for reads and writes of `chunk_size` bytes as far as the tokens allow.
    pub(crate) fn chunk(&self, chunk: u32) -> *mut u8 {
        debug_assert!(chunk < self.chunks);
        // SAFETY: the chunk lies within the mapping.
        unsafe {
            self.base
                .as_ptr()
                .add(chunk as usize * self.chunk_size as usize)
        }
    }

    /// Index into the lease table.
    fn index(&self, chunk: u32, foreign: bool) -> u32 {
        if foreign { self.chunks + chunk } else { chunk }
    }

    /// Owner: FREE -> LENT. Returns the loan's generation.
    pub(crate) fn lend(&self, chunk: u32, foreign: bool) -> u32 {
        let slot = &self.words[self.index(chunk, foreign) as usize];
        let old = slot.load(Ordering::Relaxed);
        debug_assert_eq!(state_of(old), FREE);
        let generation = generation_of(old).wrapping_add(1);
        // Release: whoever opens the loan sees what was written to the chunk before.
        slot.store(word(generation, LENT, 0), Ordering::Release);
        generation
    }

    /// LENT -> `to`, if the desc means a loan of this table that nobody has opened.
    fn claim(&self, desc: &LeaseDesc, to: u64) -> Option<u32> {
        let chunk = desc.chunk & !FOREIGN;
        if chunk >= self.chunks || u32::from(desc.offset) + u32::from(desc.len) > self.chunk_size {
            return None;
        }
        let index = self.index(chunk, desc.chunk & FOREIGN != 0);
        self.words[index as usize]
            .compare_exchange(
                word(desc.generation, LENT, 0),
                word(desc.generation, to, 0),
                Ordering::Acquire,
                Ordering::Relaxed,
            )
            .ok()?;
        Some(index)
    }

    /// Owner: LENT -> FREE for a loan that nobody has opened.
    pub(crate) fn take_back(&self, desc: &LeaseDesc) -> bool {
        self.claim(desc, FREE).is_some()
    }

    /// OPENED -> RETURNED, and onto the stack.
    fn give_back(&self, index: u32) {
        let slot = &self.words[index as usize];
        let generation = generation_of(slot.load(Ordering::Relaxed));
        let mut head = self.returned.0.load(Ordering::Relaxed);
        loop {
            slot.store(word(generation, RETURNED, head), Ordering::Relaxed);
            // Release: the owner's swap sees the word, and everything that was read from the chunk came before.
            match self.returned.0.compare_exchange_weak(
                head,
                index,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Owner: empties the stack. `each` gets the chunk and whether it was the peer's loan. The whole stack is taken with
    /// one swap, so there is no pop that could meet a chunk which went round in the meantime (ABA).
    pub(crate) fn collect(&self, mut each: impl FnMut(u32, bool)) -> usize {
        // The common case costs one load of a line that stays shared.
        if self.returned.0.load(Ordering::Relaxed) == NIL {
            return 0;
        }
        let mut index = self.returned.0.swap(NIL, Ordering::Acquire);
        let mut collected = 0;
        while index != NIL {
            let slot = &self.words[index as usize];
            let old = slot.load(Ordering::Relaxed);
            debug_assert_eq!(state_of(old), RETURNED);
            slot.store(word(generation_of(old), FREE, 0), Ordering::Relaxed);
            let foreign = index >= self.chunks;
            each(if foreign { index - self.chunks } else { index }, foreign);
            index = next_of(old);
            collected += 1;
        }
        collected
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and no token or lease is left: each holds the region. Pages that an AF_XDP socket still
        // has are pinned by the kernel and outlive the mapping.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast::<c_void>(), self.bytes) };
        debug_assert_eq!(result, 0);
    }
}

/// A memfd of this size that can neither shrink nor grow: who maps it cannot be killed by another's truncate.
fn sealed_memfd(bytes: usize) -> Result<OwnedFd, XskError> {
    let size = libc::off_t::try_from(bytes).map_err(|_| {
        XskError::Config(format!("a UMEM of {bytes} bytes is beyond a file's size"))
    })?;
    // SAFETY: the name is a C string; the result is checked.
    let fd = unsafe {
        libc::memfd_create(
            c"bywash-umem".as_ptr(),
            libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
        )
    };
    if fd < 0 {
        return Err(XskError::last("memfd_create"));
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    let memfd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: no pointers; the result is checked.
    if unsafe { libc::ftruncate(memfd.as_raw_fd(), size) } != 0 {
        return Err(XskError::last("ftruncate of the UMEM"));
    }
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: no pointers; the result is checked.
    if unsafe { libc::fcntl(memfd.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(XskError::last("F_ADD_SEALS on the UMEM"));
    }
    Ok(memfd)
}

/// What other threads have of a UMEM: the right to open its leases.
#[derive(Clone)]
pub struct RegionView {
    own: Arc<Region>,
    /// The other end's memory, if the UMEM is one end of a wire in memory.
    peer: Option<Arc<Region>>,
}

impl core::fmt::Debug for RegionView {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RegionView").finish_non_exhaustive()
    }
}

impl RegionView {
    pub(crate) fn new(own: Arc<Region>, peer: Option<Arc<Region>>) -> Self {
        Self { own, peer }
    }

    /// The chunk of this memory that the bytes lie in, and how far behind its beginning: where the NIC, or the kernel, wrote
    /// them. `None`: they are somewhere else, so somebody has copied them.
    pub fn place_of(&self, bytes: &[u8]) -> Option<(u32, usize)> {
        let base = self.own.base() as usize;
        let at = (bytes.as_ptr() as usize).checked_sub(base)?;
        let size = self.own.chunk_size as usize;
        let inside =
            at.checked_add(bytes.len())? <= self.own.bytes() && at % size + bytes.len() <= size;
        inside.then_some(((at / size) as u32, at % size))
    }

    /// Opens a loan. `None`: it was opened or taken back before, or never made.
    pub fn open(&self, desc: LeaseDesc) -> Option<RxLease> {
        let region = if desc.chunk & FOREIGN != 0 {
            self.peer.as_ref()?
        } else {
            &self.own
        };
        let index = region.claim(&desc, OPENED)?;
        Some(RxLease {
            region: Arc::clone(region),
            index,
            offset: desc.offset,
            len: desc.len,
        })
    }
}

/// The right to read a lent frame in place, from any thread. Dropping it gives the frame back.
pub struct RxLease {
    region: Arc<Region>,
    index: u32,
    offset: u16,
    len: u16,
}

impl Deref for RxLease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let chunk = self.index % self.region.chunks;
        // SAFETY: `claim` checked that the window lies in the chunk. From LENT to the owner's collect there is no token by
        // which the chunk could be written, neither here nor (a free chunk only is given to it) in the kernel; and the word
        // stays OPENED as long as `self` lives. A foreign loan's chunk counts as queued for its owner, who then has no
        // mutable access either.
        unsafe {
            let start = self.region.chunk(chunk).add(usize::from(self.offset));
            core::slice::from_raw_parts(start, usize::from(self.len))
        }
    }
}

impl Drop for RxLease {
    fn drop(&mut self) {
        self.region.give_back(self.index);
    }
}

impl core::fmt::Debug for RxLease {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RxLease")
            .field("index", &self.index)
            .field("len", &self.len)
            .finish()
    }
}
