//! Counters of a port: everything that was refused, dropped or put off has one.

/// What the kernel counts for one socket (`XDP_STATISTICS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelStatistics {
    /// Packets dropped for other reasons than invalid descriptors or a full ring, a dry fill ring among them.
    pub rx_dropped: u64,
    /// Fill-ring descriptors that the kernel would not take.
    pub rx_invalid_descs: u64,
    /// TX descriptors that the kernel would not take. Such a frame is never completed.
    pub tx_invalid_descs: u64,
    /// Packets dropped because this RX ring was full.
    pub rx_ring_full: u64,
    /// Times the queue's fill ring was found empty.
    pub rx_fill_ring_empty_descs: u64,
    /// Times the TX ring was found empty.
    pub tx_ring_empty_descs: u64,
}

/// Counters of a port since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames given out by `receive`.
    pub received: u64,
    /// Frames posted by `transmit`.
    pub transmitted: u64,
    /// Completions reclaimed.
    pub completed: u64,
    /// Frames that `transmit` turned down: queued already, of another UMEM, empty, or with more header than headroom.
    /// A caller's mistake.
    pub tx_refused: u64,
    /// Frames that `transmit` turned down for want of room in the TX ring or under the cap on outstanding frames.
    pub tx_full: u64,
    /// System calls of `kick`.
    pub kicks: u64,
    /// Kicks that the kernel put off (EAGAIN, EBUSY, ENOBUFS) without taking a descriptor; repeated in the next turn.
    pub kicks_deferred: u64,
    /// Kicks that failed for another reason.
    pub kick_errors: u64,
    /// errno of the last failed kick; 0: none.
    pub last_kick_errno: i32,
    /// System calls that asked a zero-copy driver to look at the fill ring.
    pub rx_wakeups: u64,
    /// System calls that let the kernel poll the driver's NAPI.
    pub busy_polls: u64,
    /// Times that sent frames did not complete, and the kernel was called without its having asked.
    pub tx_stalls: u64,
    /// With `guard_tx`: frames that were as they had been posted when their completion came.
    pub tx_guarded: u64,
    /// With `guard_tx`: frames that were not. Always 0, or somebody rewrites what is being sent.
    pub tx_changed: u64,
    /// System calls of `wait` that failed for another reason than a signal.
    pub wait_errors: u64,
    /// Receive descriptors that named a chunk which the kernel did not have. Always 0, or the kernel is at fault.
    pub rx_bad_descriptors: u64,
    /// Completions of frames that were not outstanding. Always 0, or the kernel is at fault.
    pub completions_unexpected: u64,
    /// In-memory wire: frames that the fault hook dropped on their way to the peer.
    pub fault_dropped: u64,
    /// In-memory wire: frames of the peer dropped because the RX ring of this index was full.
    pub rx_ring_full: Vec<u64>,
    /// In-memory wire: frames of the peer dropped because the steering closure named a ring that there is not.
    pub steering_dropped: u64,
    /// The kernel's counters by ring index; `None` where it would not tell. Empty for a wire in memory.
    pub kernel: Vec<Option<KernelStatistics>>,
}
