//! How deep the fill ring is kept in copy mode.
//!
//! ```text
//!   kernel takes here                      we put here
//!        ▼                                     ▼
//!        c c c c c c c c c c c c c c c c c c c c · · · · · · · ·      a ring of 4096
//!        └────────────── depth ────────────────┘
//! ```
//! The kernel takes chunks in the order in which they were put, so every chunk in the ring is written once before the first
//! is written again. With all 4096 of them each packet meets a chunk that no cache remembers, on the sender's core and on ours.
//! So as long as bursts are short the ring is kept as deep as a burst can be: twice the 256 entries of a veth's queue. It is
//! filled whole as soon as one burst has taken more than half of that, and becomes shallow again when bursts have been short
//! for long.
//!
//! The kernel's cursor is looked at seldom: it lies in a cache line that the sender's core writes for each packet.
//!
//! In zero-copy mode the driver holds chunks of its own, and the ring is kept full.

/// Entries while bursts are short.
const SHALLOW: u32 = 512;
/// Received frames from one look at the kernel's cursor to the next.
const LOOK_EVERY: u64 = 32;
/// Looks in a row that find three quarters of the depth left, after which half of it is enough.
const CALM_LOOKS: u32 = 4096;

/// The depth, and when it was last looked at.
#[derive(Debug)]
pub(crate) struct FillDepth {
    /// Entries of the ring.
    size: u32,
    depth: u32,
    /// Frames received at the last look.
    looked_at: u64,
    /// Chunks that were wanted at the last look and not there.
    short: u32,
    calm: u32,
}

impl FillDepth {
    /// For a ring of `size` entries.
    pub(crate) fn new(size: u32) -> Self {
        Self {
            size,
            depth: size.min(SHALLOW),
            looked_at: 0,
            short: 0,
            calm: 0,
        }
    }

    /// Entries that the kernel is to find.
    pub(crate) fn frames(&self) -> u32 {
        self.depth
    }

    /// Whether the ring is to be looked at, after so many frames received in all.
    pub(crate) fn is_due(&self, received: u64) -> bool {
        self.short > 0 || received - self.looked_at >= LOOK_EVERY
    }

    /// The kernel has `left` entries. Returns how many to add.
    pub(crate) fn on_look(&mut self, received: u64, left: u32) -> u32 {
        self.looked_at = received;
        if left < self.depth / 2 {
            self.depth = self.size;
            self.calm = 0;
        } else if left < self.depth - self.depth / 4 {
            self.calm = 0;
        } else {
            self.calm += 1;
            if self.calm == CALM_LOOKS {
                self.calm = 0;
                self.depth = (self.depth / 2).max(self.size.min(SHALLOW));
            }
        }
        self.short = self.depth.saturating_sub(left);
        self.short
    }

    /// So many were added: fewer than wanted, if all others are held.
    pub(crate) fn on_filled(&mut self, added: u32) {
        self.short = self.short.saturating_sub(added);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look that finds `taken` entries gone, and fills up.
    fn burst(depth: &mut FillDepth, received: &mut u64, taken: u32) -> u32 {
        *received += u64::from(taken);
        assert!(depth.is_due(*received));
        let wanted = depth.on_look(*received, depth.frames() - taken);
        depth.on_filled(wanted);
        wanted
    }

    #[test]
    fn short_bursts_are_given_back_one_for_one() {
        let (mut depth, mut received) = (FillDepth::new(4096), 0);
        for taken in [32, 64, 256] {
            assert_eq!(burst(&mut depth, &mut received, taken), taken);
        }
        assert!(!depth.is_due(received + 31));
        assert!(depth.is_due(received + 32));
    }

    #[test]
    fn a_long_burst_fills_the_ring_whole_and_calm_makes_it_shallow_again() {
        let (mut depth, mut received) = (FillDepth::new(4096), 0);
        assert_eq!(burst(&mut depth, &mut received, 257), 4096 - (512 - 257));
        for expected in [2048, 1024, 512, 512] {
            for _ in 0..CALM_LOOKS {
                burst(&mut depth, &mut received, 32);
            }
            assert_eq!(depth.frames(), expected);
        }
    }

    /// A burst in between begins the count anew.
    #[test]
    fn calm_is_in_a_row() {
        let (mut depth, mut received) = (FillDepth::new(4096), 0);
        burst(&mut depth, &mut received, 300);
        for _ in 0..3 {
            for _ in 1..CALM_LOOKS {
                burst(&mut depth, &mut received, 32);
            }
            burst(&mut depth, &mut received, 1500);
        }
        assert_eq!(depth.frames(), 4096);
    }

    /// Chunks that others hold are put in as soon as they are free, without waiting for packets.
    #[test]
    fn what_was_short_is_made_up_for() {
        let mut depth = FillDepth::new(1024);
        assert_eq!(depth.on_look(100, 412), 100);
        depth.on_filled(40);
        assert!(depth.is_due(100));
        assert_eq!(depth.on_look(100, 452), 60);
        depth.on_filled(60);
        assert!(!depth.is_due(100));
    }

    #[test]
    fn a_small_ring_is_kept_full() {
        let (mut depth, mut received) = (FillDepth::new(256), 0);
        assert_eq!(depth.frames(), 256);
        assert_eq!(burst(&mut depth, &mut received, 200), 200);
        assert_eq!(depth.frames(), 256);
    }
}
