//! The payload handle that TCP queues: a window of a frame, with the sum of its bytes.

use bywash_tcp::Payload;
use bywash_wire::checksum::{self, Sum};
use bywash_xsk::{Frame, Umem};

/// Bytes of one segment where they lie in the UMEM.
///
/// Sending side: the sum is computed while the bytes are copied in, so that a (re)transmission
/// writes only the header. Receiving side: the sum is not kept.
#[derive(Debug)]
pub(crate) struct FramePayload {
    pub(crate) frame: Frame,
    /// Ones' complement sum of the window; `None` once the window changed without it.
    sum: Option<Sum>,
}

impl FramePayload {
    /// A received segment's payload; the window of `frame` is the payload.
    pub(crate) fn received(frame: Frame) -> Self {
        Self { frame, sum: None }
    }

    /// An empty frame that application data will be appended to.
    pub(crate) fn empty(frame: Frame) -> Self {
        Self {
            frame,
            sum: Some(Sum::ZERO),
        }
    }

    /// Copies as much of `bytes` behind the window as fits under `limit` bytes of payload, summing
    /// in the same pass. Returns how many were taken: 0 if the frame is still queued or full.
    pub(crate) fn fill(&mut self, bytes: &[u8], limit: usize) -> usize {
        let have = self.frame.len();
        let so_far = self.sum();
        let Some(tail) = self.frame.tail_mut() else {
            return 0;
        };
        let n = bytes.len().min(tail.len()).min(limit.saturating_sub(have));
        let added = checksum::copy_and_sum(&mut tail[..n], &bytes[..n]);
        self.frame.extend(n);
        self.frame.umem().count_copied(n);
        self.sum = Some(so_far.then(added));
        n
    }

    /// Sum of the payload; computed again only where a partial ACK or a cut changed the window.
    pub(crate) fn sum(&mut self) -> Sum {
        let frame = &self.frame;
        *self.sum.get_or_insert_with(|| checksum::sum(frame.bytes()))
    }
}

/// Frames that cuts leave for ACKs, SYNs and RSTs. Cuts may take what application data may not, as they are how lost data goes
/// on when a path has become narrower; but their frames are free only when their bytes are acknowledged. Without a rest, a
/// full send buffer that is cut would take the last frame, and the peer's own data would not be acknowledged until ours is.
fn cuts_leave(umem: &Umem) -> usize {
    (umem.config().tx_frames / 64).max(2) as usize
}

impl Payload for FramePayload {
    fn len(&self) -> usize {
        self.frame.len()
    }

    fn advance(&mut self, n: usize) {
        self.frame.advance(n);
        self.sum = None;
    }

    fn truncate(&mut self, n: usize) {
        if n < self.frame.len() {
            self.frame.truncate(n);
            self.sum = None;
        }
    }

    fn split_off(&mut self, at: usize) -> Option<Self> {
        let umem = self.frame.umem();
        if umem.tx_free() <= cuts_leave(umem) {
            return None;
        }
        let frame = umem.alloc_tx()?;
        let mut rest = Self::empty(frame);
        let tail = &self.frame.bytes()[at..];
        let taken = rest.fill(tail, tail.len());
        debug_assert_eq!(taken, tail.len(), "a segment fits into a fresh frame");
        self.frame.umem().count_recut(taken);
        self.truncate(at);
        Some(rest)
    }

    fn append(&mut self, other: &Self) -> bool {
        let bytes = other.frame.bytes();
        match self.frame.tail_mut() {
            Some(tail) if tail.len() >= bytes.len() => {
                tail[..bytes.len()].copy_from_slice(bytes);
            }
            _ => return false,
        }
        self.frame.extend(bytes.len());
        self.frame.umem().count_copied(bytes.len());
        self.frame.umem().count_recut(bytes.len());
        self.sum = None;
        true
    }

    fn is_queued(&self) -> bool {
        self.frame.is_queued()
    }
}

#[cfg(test)]
mod tests {
    use bywash_xsk::UmemConfig;

    use super::*;

    #[test]
    fn cuts_leave_frames_for_acknowledgments() {
        let config = UmemConfig {
            tx_frames: 16,
            ..UmemConfig::default()
        };
        let umem = Umem::new(&config).expect("memory");
        let mut payload = FramePayload::empty(umem.alloc_tx().expect("a frame"));
        payload.fill(&[7; 100], 100);
        let mut pieces = Vec::new();
        while let Some(rest) = payload.split_off(payload.len() - 1) {
            pieces.push(rest);
        }
        assert_eq!((pieces.len(), umem.tx_free()), (13, 2));
        assert_eq!(payload.len(), 87, "a cut that fails changes nothing");
    }
}
