//! Who holds which chunk.
//!
//! ```text
//!            refill            receive
//! FREE (rx) -------> KERNEL ------------+            two releases, in either order:
//!            alloc_tx                   v              - the token drops, or the lease comes back
//! FREE (tx) ----------------------->  TOKEN            - the completion is reclaimed
//!                                    /     \         the second one makes the chunk free
//!                            lend   v       v  transmit
//!                              LEASED       TOKEN|QUEUED
//! ```
//! RX chunks are the first ones, TX chunks the rest; each kind has a free list of its own, so that neither can starve the
//! other. All of this belongs to one thread; what other threads may do is in [`crate::region`].

use core::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::config::UmemConfig;
use crate::error::XskError;
use crate::frame::Frame;
use crate::region::{FOREIGN, LeaseDesc, Region, RegionView};
use crate::tx_guard::{POISON, Seal};

/// An own token exists.
const TOKEN: u8 = 1;
/// A completion is outstanding: the kernel, or the peer of a wire in memory, reads the chunk.
const QUEUED: u8 = 2;
/// In the fill ring, the driver, or an RX ring that nobody has read yet.
const KERNEL: u8 = 4;
/// Lent to another thread.
const LEASED: u8 = 8;

/// The chunk came by no ring, or is not held any more.
const NO_RING: u16 = u16::MAX;

/// Indices of the holders in `Umem::held_by`.
mod holder {
    pub(super) const FREE: usize = 0;
    pub(super) const FILL: usize = 1;
    pub(super) const HELD: usize = 2;
    pub(super) const HELD_QUEUED: usize = 3;
    pub(super) const TX_OUTSTANDING: usize = 4;
    pub(super) const LEASED: usize = 5;
    pub(super) const COUNT: usize = 6;
}

/// The one holder that a chunk in this state is counted under.
const fn holder_of(state: u8) -> usize {
    if state & LEASED != 0 {
        holder::LEASED
    } else if state & KERNEL != 0 {
        holder::FILL
    } else {
        match state {
            0 => holder::FREE,
            TOKEN => holder::HELD,
            QUEUED => holder::TX_OUTSTANDING,
            _ => holder::HELD_QUEUED,
        }
    }
}

/// A stack of free chunks: the last one freed is the likeliest to be in cache.
struct FreeList {
    chunks: Box<[Cell<u32>]>,
    len: Cell<u32>,
}

impl FreeList {
    /// All of `range`, the lowest on top.
    fn full(range: core::ops::Range<u32>) -> Self {
        let len = range.len() as u32;
        Self {
            chunks: range.rev().map(Cell::new).collect(),
            len: Cell::new(len),
        }
    }

    fn push(&self, chunk: u32) {
        let len = self.len.get();
        self.chunks[len as usize].set(chunk);
        self.len.set(len + 1);
    }

    fn pop(&self) -> Option<u32> {
        let len = self.len.get().checked_sub(1)?;
        self.len.set(len);
        Some(self.chunks[len as usize].get())
    }
}

/// The other end of a wire in memory: its bytes for views, its states for loans that are taken back.
struct Peer {
    region: Arc<Region>,
    umem: Weak<Umem>,
}

/// The memory of one queue: a memfd mapping and the state of each chunk. One thread's, in an `Rc`.
pub struct Umem {
    region: Arc<Region>,
    /// The other end of a wire in memory.
    peer: OnceCell<Peer>,
    config: UmemConfig,
    chunk_shift: u32,
    states: Box<[Cell<u8>]>,
    /// The receive ring that each chunk came by, while it is held.
    ring_of: Box<[Cell<u16>]>,
    /// Chunks that came by each receive ring and are still held; the port sets its length.
    held_of_ring: OnceCell<Box<[Cell<u32>]>>,
    rx_free: FreeList,
    tx_free: FreeList,
    held_by: [Cell<u32>; holder::COUNT],
    /// Bytes of payload that were copied into this memory, and those of them that had been in it before.
    copied: Cell<u64>,
    recut: Cell<u64>,
    /// Own chunks whose foreign token is gone, in that order: the completion ring of a wire in memory.
    foreign_done: RefCell<VecDeque<u32>>,
}

/// Cache lines of a frame that are fetched before it is looked at: Ethernet, IP and TCP headers with their options.
const HEADER_LINES: usize = 2;

impl Umem {
    /// Maps the memory; all chunks are free.
    pub fn new(config: &UmemConfig) -> Result<Rc<Self>, XskError> {
        let region = Region::new(config)?;
        let frames = config.frames();
        let held_by: [Cell<u32>; holder::COUNT] = Default::default();
        held_by[holder::FREE].set(frames);
        Ok(Rc::new(Self {
            region,
            peer: OnceCell::new(),
            config: config.clone(),
            chunk_shift: config.chunk_size.trailing_zeros(),
            states: (0..frames).map(|_| Cell::new(0)).collect(),
            ring_of: (0..frames).map(|_| Cell::new(NO_RING)).collect(),
            held_of_ring: OnceCell::new(),
            rx_free: FreeList::full(0..config.rx_frames),
            tx_free: FreeList::full(config.rx_frames..frames),
            held_by,
            copied: Cell::new(0),
            recut: Cell::new(0),
            foreign_done: RefCell::default(),
        }))
    }

    /// How the memory is cut up.
    pub fn config(&self) -> &UmemConfig {
        &self.config
    }

    pub(crate) fn chunk_size(&self) -> u32 {
        self.config.chunk_size
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Makes the other end's leases known to this end's views.
    pub(crate) fn join(&self, peer: &Rc<Umem>) {
        let joined = self.peer.set(Peer {
            region: Arc::clone(&peer.region),
            umem: Rc::downgrade(peer),
        });
        debug_assert!(joined.is_ok(), "a UMEM is one end of one wire");
    }

    /// Begins to count what is held of each of the `rings` that the chunks of this memory are received by: our own rings, or
    /// those of the other end of a wire in memory. Once, by the port.
    pub(crate) fn count_rings(&self, rings: usize) {
        let set = self
            .held_of_ring
            .set((0..rings).map(|_| Cell::new(0)).collect());
        debug_assert!(set.is_ok(), "one port has this memory");
    }

    /// Chunks of this memory that came by a ring and are still held.
    pub(crate) fn held_of_ring(&self, ring: usize) -> usize {
        self.held_of_ring
            .get()
            .map_or(0, |held| held[ring].get() as usize)
    }

    /// The other end's memory, of a wire in memory.
    pub(crate) fn peer(&self) -> Option<Rc<Umem>> {
        self.peer.get()?.umem.upgrade()
    }

    /// The chunk has come by this ring.
    pub(crate) fn charge(&self, chunk: u32, ring: usize) {
        if let Some(held) = self.held_of_ring.get() {
            self.ring_of[chunk as usize].set(ring as u16);
            held[ring].set(held[ring].get() + 1);
        }
    }

    /// Nobody holds the chunk any more.
    fn discharge(&self, chunk: u32) {
        let ring = self.ring_of[chunk as usize].replace(NO_RING);
        if ring != NO_RING
            && let Some(held) = self.held_of_ring.get()
        {
            let held = &held[usize::from(ring)];
            held.set(held.get() - 1);
        }
    }

    /// The memory's file, sealed in its size.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.region.memfd()
    }

    /// What other threads need to open leases.
    pub fn view(&self) -> RegionView {
        RegionView::new(
            Arc::clone(&self.region),
            self.peer.get().map(|peer| Arc::clone(&peer.region)),
        )
    }

    /// A free TX frame: an empty window behind the configured headroom. `None`: none is free now.
    pub fn alloc_tx(self: &Rc<Self>) -> Option<Frame> {
        let chunk = self.tx_free.pop()?;
        self.set(chunk, TOKEN);
        Some(Frame::new(
            Rc::clone(self),
            chunk,
            self.config.headroom as u16,
            0,
        ))
    }

    /// A free RX frame with an empty window at its start: for packets that come by another way than a ring, such as from
    /// another queue's engine. `None`: none is free now.
    pub fn alloc_rx(self: &Rc<Self>) -> Option<Frame> {
        let chunk = self.rx_free.pop()?;
        self.set(chunk, TOKEN);
        Some(Frame::new(Rc::clone(self), chunk, 0, 0))
    }

    /// RX chunks that are neither free nor with the kernel: applications, queues and leases hold them.
    pub fn rx_held(&self) -> usize {
        let kernel = self.held_by[holder::FILL].get();
        (self.config.rx_frames - kernel) as usize - self.rx_free()
    }

    /// Free RX chunks: those that `refill` has not given to the kernel.
    pub fn rx_free(&self) -> usize {
        self.rx_free.len.get() as usize
    }

    /// Free TX chunks: what `alloc_tx` can give out.
    pub fn tx_free(&self) -> usize {
        self.tx_free.len.get() as usize
    }

    /// Takes the frames back whose leases were dropped since the last call, in any thread. Returns how many. A port does
    /// this in `reclaim`; without a lease it costs one load.
    pub fn collect_leases(&self) -> usize {
        self.region.collect(|chunk, foreign| {
            if foreign {
                self.foreign_released(chunk);
            } else {
                let state = self.states[chunk as usize].get();
                debug_assert!(state & LEASED != 0);
                self.set_or_free(chunk, state & !LEASED);
            }
        })
    }

    /// Undoes a [`Frame::lend`] that nobody has opened: for descs that could not be delivered. `None`: it was opened or
    /// taken back before, or never made.
    pub fn take_back(self: &Rc<Self>, desc: LeaseDesc) -> Option<Frame> {
        if desc.chunk & FOREIGN != 0 {
            // The owner's state has not changed by the loan: the chunk was queued, and is.
            let owner = self.peer.get()?.umem.upgrade()?;
            return owner
                .region
                .take_back(&desc)
                .then(|| Frame::new(owner, desc.chunk, desc.offset, desc.len));
        }
        if !self.region.take_back(&desc) {
            return None;
        }
        let state = self.states[desc.chunk as usize].get();
        self.set(desc.chunk, (state & !LEASED) | TOKEN);
        Some(Frame::new(
            Rc::clone(self),
            desc.chunk,
            desc.offset,
            desc.len,
        ))
    }

    /// Notes that `n` bytes of payload were copied into a frame of this memory.
    pub fn count_copied(&self, n: usize) {
        self.copied.set(self.copied.get() + n as u64);
    }

    /// Notes that `n` of those bytes were copied from one frame of this memory to another, because a segment was cut or joined.
    pub fn count_recut(&self, n: usize) {
        self.recut.set(self.recut.get() + n as u64);
    }

    /// Bytes of payload that were copied into this memory: what is sent once, what is received never.
    pub fn copied(&self) -> u64 {
        self.copied.get()
    }

    /// Those of them that were copied again, because a segment was cut or joined.
    pub fn recut(&self) -> u64 {
        self.recut.get()
    }

    /// How many chunks each holder has now. Constant time.
    pub fn ledger(&self) -> Ledger {
        let held_by = |index: usize| self.held_by[index].get();
        Ledger {
            frames: self.config.frames(),
            rx_free: self.rx_free.len.get(),
            tx_free: self.tx_free.len.get(),
            fill: held_by(holder::FILL),
            held: held_by(holder::HELD),
            held_queued: held_by(holder::HELD_QUEUED),
            tx_outstanding: held_by(holder::TX_OUTSTANDING),
            leased: held_by(holder::LEASED),
        }
    }

    /// [`Ledger::check`], and a count of every chunk's state against it. For simulation and tests: it looks at all chunks.
    pub fn audit(&self) -> Result<Ledger, LedgerError> {
        let ledger = self.ledger();
        ledger.check()?;
        let mut counted = [0u32; holder::COUNT];
        for state in &self.states {
            counted[holder_of(state.get())] += 1;
        }
        let free = ledger.rx_free + ledger.tx_free;
        let listed = [
            free,
            ledger.fill,
            ledger.held,
            ledger.held_queued,
            ledger.tx_outstanding,
            ledger.leased,
        ];
        if counted == listed {
            Ok(ledger)
        } else {
            Err(LedgerError { ledger })
        }
    }

    fn set(&self, chunk: u32, state: u8) {
        let old = self.states[chunk as usize].replace(state);
        let (from, to) = (
            &self.held_by[holder_of(old)],
            &self.held_by[holder_of(state)],
        );
        from.set(from.get() - 1);
        to.set(to.get() + 1);
    }

    /// The two-release rule: when neither token, lease nor completion is left, the chunk is free.
    fn set_or_free(&self, chunk: u32, state: u8) {
        self.set(chunk, state);
        if state == 0 {
            if chunk < self.config.rx_frames {
                self.discharge(chunk);
                self.rx_free.push(chunk);
            } else {
                self.tx_free.push(chunk);
            }
        }
    }

    pub(crate) fn address(&self, chunk: u32) -> u64 {
        u64::from(chunk) << self.chunk_shift
    }

    /// The chunk that an address of the kernel's is in.
    pub(crate) fn chunk_at(&self, address: u64) -> Option<u32> {
        u32::try_from(address >> self.chunk_shift)
            .ok()
            .filter(|chunk| *chunk < self.config.frames())
    }

    /// Fetches what a received frame's headers need: chunk state and two lines of the frame.
    pub(crate) fn prefetch(&self, address: u64) {
        if let Some(chunk) = self.chunk_at(address) {
            crate::prefetch(&self.states[chunk as usize]);
            let within = (address - self.address(chunk)) as usize;
            let headers = self.region.chunk(chunk).wrapping_add(within);
            crate::prefetch::lines_at(headers, HEADER_LINES);
        }
    }

    pub(crate) fn is_queued(&self, chunk: u32) -> bool {
        self.states[chunk as usize].get() & QUEUED != 0
    }

    /// FREE -> KERNEL: the address of a chunk for the fill ring.
    pub(crate) fn give_to_kernel(&self) -> Option<u64> {
        let chunk = self.rx_free.pop()?;
        self.set(chunk, KERNEL);
        Some(self.address(chunk))
    }

    /// KERNEL -> TOKEN: the frame of a receive descriptor. `None`: the kernel does not have this chunk, or the window is
    /// not within it; then nothing has changed.
    pub(crate) fn take_from_kernel(
        self: &Rc<Self>,
        address: u64,
        len: u32,
        ring: usize,
    ) -> Option<Frame> {
        let chunk = self.chunk_at(address)?;
        let start = (address - self.address(chunk)) as u32;
        if self.states[chunk as usize].get() != KERNEL || len > self.config.chunk_size - start {
            return None;
        }
        self.set(chunk, TOKEN);
        self.charge(chunk, ring);
        // Both are at most 4096.
        Some(Frame::new(Rc::clone(self), chunk, start as u16, len as u16))
    }

    /// TOKEN -> TOKEN|QUEUED. The caller has seen that it is not queued.
    pub(crate) fn posted(&self, chunk: u32) {
        let state = self.states[chunk as usize].get();
        debug_assert_eq!(state, TOKEN);
        self.set(chunk, state | QUEUED);
    }

    /// A completion for this address. `false`: none was outstanding; then nothing has changed.
    pub(crate) fn completed(&self, address: u64) -> bool {
        match self.chunk_at(address) {
            Some(chunk) if self.is_queued(chunk) => {
                self.set_or_free(chunk, self.states[chunk as usize].get() & !QUEUED);
                true
            }
            _ => false,
        }
    }

    /// Seals a frame that has just been posted with a header of this length before its window.
    pub(crate) fn seal(&self, frame: &Frame, header_len: usize) -> Seal {
        let start = frame.headroom() - header_len;
        let bytes = self.chunk_bytes(frame.id(), start, header_len + frame.len());
        Seal::new(start as u16, header_len as u16, bytes)
    }

    /// Whether a chunk that was completed just now is still as it was sealed; overwrites its header.
    pub(crate) fn break_seal(&self, chunk: u32, seal: &Seal) -> bool {
        let start = usize::from(seal.start);
        let held = seal.holds(self.chunk_bytes(chunk, start, seal.len.into()));
        debug_assert!(!self.is_queued(chunk));
        // SAFETY: within the chunk, as the seal was made of these bytes. Its completion has come, so the kernel reads it no
        // more. A token may exist, but these bytes are before its window, and nobody has borrowed them: such a borrow is of a
        // frame that is not queued, and this one was until now.
        unsafe {
            let header = self.region.chunk(chunk).add(start);
            core::ptr::write_bytes(header, POISON, seal.header_len.into());
        }
        held
    }

    fn chunk_bytes(&self, chunk: u32, start: usize, len: usize) -> &[u8] {
        assert!(start + len <= self.config.chunk_size as usize);
        // SAFETY: within the chunk. The callers have a TX chunk that is posted, or was until this moment: nobody writes it.
        unsafe { core::slice::from_raw_parts(self.region.chunk(chunk).add(start), len) }
    }

    pub(crate) fn token_released(&self, chunk: u32) {
        let state = self.states[chunk as usize].get();
        debug_assert!(state & TOKEN != 0);
        self.set_or_free(chunk, state & !TOKEN);
    }

    /// The peer has done with our chunk: its completion may be reclaimed.
    pub(crate) fn foreign_released(&self, chunk: u32) {
        self.discharge(chunk);
        self.foreign_done.borrow_mut().push_back(chunk);
    }

    /// The next chunk that the peer has done with.
    pub(crate) fn next_foreign_done(&self) -> Option<u32> {
        self.foreign_done.borrow_mut().pop_front()
    }

    /// TOKEN -> LEASED, or a lease on the peer's behalf, which the owner's state knows as queued. Returns the generation.
    pub(crate) fn lend(&self, chunk: u32, foreign: bool) -> u32 {
        if !foreign {
            let state = self.states[chunk as usize].get();
            debug_assert!(state & TOKEN != 0);
            self.set(chunk, (state & !TOKEN) | LEASED);
        }
        self.region.lend(chunk, foreign)
    }
}

impl core::fmt::Debug for Umem {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Umem")
            .field("config", &self.config)
            .field("ledger", &self.ledger())
            .finish()
    }
}

/// Chunks by holder. Each chunk has exactly one, so they add up to `frames`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// All chunks.
    pub frames: u32,
    /// Free RX chunks.
    pub rx_free: u32,
    /// Free TX chunks.
    pub tx_free: u32,
    /// With the kernel for receiving: fill ring, driver, and RX rings that are not read yet.
    pub fill: u32,
    /// A [`Frame`] exists, and nothing is outstanding.
    pub held: u32,
    /// A [`Frame`] exists, and a completion is outstanding.
    pub held_queued: u32,
    /// Only a completion is outstanding.
    pub tx_outstanding: u32,
    /// Lent to another thread.
    pub leased: u32,
}

impl Ledger {
    /// Whether the holders add up.
    pub fn check(&self) -> Result<(), LedgerError> {
        let holders = [
            self.rx_free,
            self.tx_free,
            self.fill,
            self.held,
            self.held_queued,
            self.tx_outstanding,
            self.leased,
        ];
        let sum: u64 = holders.iter().map(|n| u64::from(*n)).sum();
        if sum == u64::from(self.frames) {
            Ok(())
        } else {
            Err(LedgerError { ledger: *self })
        }
    }
}

/// The holders of a UMEM's chunks do not add up: a chunk was lost or freed twice. A fault in this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bywash-xsk: the chunks' holders do not add up: {ledger:?}")]
pub struct LedgerError {
    /// The numbers that do not add up.
    pub ledger: Ledger,
}

#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod tests;
