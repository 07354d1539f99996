//! A test mode that proves a rule instead of trusting it: nobody changes a frame that is being sent, and nobody reads it
//! once its completion has come.
//!
//! ```text
//! post        seal: a hash of every byte that the descriptor names
//! completion  the hash must be the same; then the header is overwritten with nonsense
//! ```
//! Whoever rewrites a header too early is counted. A driver that reads a frame after it has completed it sends the
//! nonsense, and the peer's checksums say so.

use std::hash::{DefaultHasher, Hasher};

/// What the header of a completed frame becomes.
pub(crate) const POISON: u8 = 0xDB;

/// What a posted descriptor named, and a hash of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Where in its chunk the header begins.
    pub(crate) start: u16,
    /// Bytes before the payload.
    pub(crate) header_len: u16,
    /// Header and payload.
    pub(crate) len: u16,
    /// Hash of those bytes.
    hash: u64,
}

impl Seal {
    /// Of `bytes`, which begin at `start` in their chunk.
    pub(crate) fn new(start: u16, header_len: u16, bytes: &[u8]) -> Self {
        Self {
            start,
            header_len,
            // A chunk has at most 4096.
            len: bytes.len() as u16,
            hash: hash(bytes),
        }
    }

    /// Whether `bytes` are still those.
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        bytes.len() == usize::from(self.len) && hash(bytes) == self.hash
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// The seals of all frames under way, by chunk.
pub(crate) struct TxGuard {
    seals: Box<[Option<Seal>]>,
}

impl TxGuard {
    pub(crate) fn new(chunks: u32) -> Self {
        Self {
            seals: vec![None; chunks as usize].into(),
        }
    }

    pub(crate) fn seal(&mut self, chunk: u32, seal: Seal) {
        self.seals[chunk as usize] = Some(seal);
    }

    /// The seal of a chunk whose completion has come.
    pub(crate) fn open(&mut self, chunk: u32) -> Option<Seal> {
        self.seals.get_mut(chunk as usize)?.take()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::config::UmemConfig;
    use crate::umem::Umem;

    fn umem() -> Rc<Umem> {
        let config = UmemConfig {
            rx_frames: 1,
            tx_frames: 2,
            ..UmemConfig::default()
        };
        Umem::new(&config).expect("memory")
    }

    /// A frame of 54 + 5 bytes as a port would post it.
    fn posted(umem: &Rc<Umem>, guard: &mut TxGuard) -> u32 {
        let mut frame = umem.alloc_tx().expect("a frame");
        frame.tail_mut().expect("free")[..5].copy_from_slice(b"bytes");
        frame.extend(5);
        frame.head_mut(54).expect("headroom").fill(7);
        let chunk = frame.id();
        umem.posted(chunk);
        guard.seal(chunk, umem.seal(&frame, 54));
        chunk
    }

    #[test]
    fn an_untouched_frame_keeps_its_seal_and_loses_its_header() {
        let (umem, mut guard) = (umem(), TxGuard::new(3));
        let chunk = posted(&umem, &mut guard);
        let seal = guard.open(chunk).expect("it was sealed");
        assert!(umem.completed(umem.address(chunk)));
        assert!(umem.break_seal(chunk, &seal), "nobody has touched it");
        let mut frame = umem.alloc_tx().expect("it is free again");
        assert_eq!(frame.id(), chunk);
        assert!(
            frame
                .head_mut(54)
                .expect("free")
                .iter()
                .all(|byte| *byte == POISON)
        );
        assert!(guard.open(chunk).is_none(), "opened once");
    }

    #[test]
    fn a_header_that_changes_on_its_way_is_found() {
        let (umem, mut guard) = (umem(), TxGuard::new(3));
        let chunk = posted(&umem, &mut guard);
        let seal = guard.open(chunk).expect("it was sealed");
        assert!(umem.completed(umem.address(chunk)));
        // As a faulty retransmission would: one byte of the header.
        let mut frame = umem.alloc_tx().expect("it is free again");
        frame.head_mut(20).expect("free")[3] ^= 1;
        drop(frame);
        assert!(!umem.break_seal(chunk, &seal));
    }
}
