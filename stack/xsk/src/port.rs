//! What the engine sees of a queue, whatever is behind it.
//!
//! One turn calls `reclaim`, `refill`, `receive` for every ring, `transmit` for every segment and `kick` once.

use core::time::Duration;
use std::rc::Rc;

use crate::busy_poll::BusyPoll;
use crate::frame::Frame;
use crate::statistics::Statistics;
use crate::tx_checksum::PartialChecksum;
use crate::umem::Umem;
use crate::waker::Waker;

/// A queue: one UMEM, RX rings by index (0 primary, 1 control, 2.. flow pools), one TX ring.
pub trait Port {
    /// The queue's memory.
    fn umem(&self) -> &Rc<Umem>;

    /// Takes what the completion ring has, and the frames that leases gave back. Returns the completions.
    fn reclaim(&mut self) -> usize;

    /// Moves free RX frames to the fill ring, as many as the kernel is to find there. Returns how many. A port may look at the ring
    /// once for several packets only.
    fn refill(&mut self) -> usize;

    /// Number of RX rings.
    fn rings(&self) -> usize;

    /// Entries of a ring.
    ///
    /// # Panics
    /// If there is no such ring.
    fn ring_size(&self, ring: usize) -> u32;

    /// Frames that came by this ring and are still held: by the caller, by queues, by leases.
    ///
    /// # Panics
    /// If there is no such ring.
    fn held(&self, ring: usize) -> usize;

    /// Appends the rings that packets were sent to since the last call, where XDP marks them. `false`: it does not, and
    /// every ring must be looked at.
    fn take_marked(&mut self, out: &mut Vec<u16>) -> bool {
        let _ = out;
        false
    }

    /// Appends at most `budget` received frames of a ring to `out`, in their order. Returns how many.
    ///
    /// # Panics
    /// If there is no such ring.
    fn receive(&mut self, ring: usize, out: &mut Vec<Frame>, budget: usize) -> usize;

    /// Whether `receive` may find something: a look at the rings' cursors, for a caller that waits for a packet and for nothing
    /// else. `true` where that is not cheaper than to receive.
    fn may_have_arrivals(&self) -> bool {
        true
    }

    /// Frames that `receive` would find in a ring: a look at its cursor. `usize::MAX` where that is not known.
    ///
    /// # Panics
    /// If there is no such ring.
    fn waiting(&self, _ring: usize) -> usize {
        usize::MAX
    }

    /// Frames that `transmit` will take now: room in the TX ring and under the cap on outstanding frames.
    fn tx_space(&self) -> usize;

    /// Posts the `header_len` bytes before the frame's window and the window itself. The frame counts as queued until its
    /// completion was reclaimed. `kick` makes the kernel look.
    ///
    /// `false`: nothing was done, because there is no room (see `tx_space`), or because the frame cannot be sent: it is
    /// queued already, belongs to another UMEM, has fewer than `header_len` bytes of headroom, or would be empty. The
    /// statistics tell the two apart.
    fn transmit(&mut self, frame: &Frame, header_len: usize) -> bool;

    /// Whether [`transmit_partial`](Self::transmit_partial) takes frames: somebody behind the port completes checksums.
    fn completes_checksums(&self) -> bool {
        false
    }

    /// As `transmit`, for a packet whose checksum is still to be completed. `false` also where nobody would.
    fn transmit_partial(
        &mut self,
        _frame: &mut Frame,
        _header_len: usize,
        _checksum: PartialChecksum,
    ) -> bool {
        false
    }

    /// What became of busy polling; `None`: there is no driver behind this port.
    fn busy_poll(&self) -> Option<&BusyPoll> {
        None
    }

    /// Something that people should know of and that has not been told yet.
    fn complaint(&mut self) -> Option<&'static str> {
        None
    }

    /// Hands everything posted to the kernel, with a system call only if it asks for one. Returns the number of system
    /// calls (0 or 1; in copy mode one for each budget's worth of descriptors). What the kernel could not take now is
    /// remembered: the next `kick` repeats it.
    fn kick(&mut self) -> usize;

    /// Sleeps until a packet is there, the waker is used or the time is over; `None`: no limit. May return early.
    fn wait(&mut self, timeout: Option<Duration>);

    /// The handle by which other threads end a `wait`.
    fn waker(&self) -> Waker;

    /// All counters. For the control path: it asks the kernel once a ring.
    fn statistics(&self) -> Statistics;
}
