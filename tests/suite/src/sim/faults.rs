//! Everything that can go wrong in a world, as one value.
//!
//! | fault | where |
//! |---|---|
//! | loss (uniform, bursty), delay, jitter, reordering, duplication, corruption, truncation, rate and queue limits | [`LinkFaults`] |
//! | late and withheld completions, a full TX ring (kicks without effect), lost wake-ups, snapshots, stolen time | [`HostFaults`] |
//! | MTU changes, outages, peer death, clock jumps, other steering, stops, listeners that go | [`Happening`] |
//! | floods, garbage, forged segments | [`Stranger`] |
//! | a peer that means ill | [`Hostility`] |
//! | application stalls, slow readers, frames held, aborts | [`EndPlan`](super::plan::EndPlan): what applications intend |
//! | frame starvation, small rings and buffers, late routes | [`HostShape`](super::scenario::HostShape): what hosts are like |
//!
//! Chances are in ten-thousandths, times in nanoseconds of the world's clock. A world has a time of faults and then a time of
//! peace ("quiesce"), in which [`Faults::none`] holds and everything must come to a good end.

/// Nanoseconds of a microsecond, a millisecond, a second.
pub const US: u64 = 1_000;
/// See [`US`].
pub const MS: u64 = 1_000_000;
/// See [`US`].
pub const SEC: u64 = 1_000_000_000;

/// All faults of a world during its time of faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// What the wire does to frames, by the host that sends them.
    pub links: [LinkFaults; 2],
    /// What the hosts' devices and kernels do to their engines.
    pub hosts: [HostFaults; 2],
    /// What happens once, at its time.
    pub happenings: Vec<(u64, Happening)>,
    /// A third party that sends into the wire.
    pub stranger: Stranger,
    /// A host whose segments are rewritten to do harm, and how.
    pub hostile: Option<(usize, Hostility)>,
}

/// How a peer means ill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hostility {
    /// Its MSS option is far too small, or 0.
    TinyMss,
    /// Its windows shrink, and grow again.
    ShrinkingWindow,
    /// Its window is 0 throughout.
    ClosedWindow,
    /// It acknowledges what has not arrived (Savage et al. 1999).
    OptimisticAcks,
    /// Each acknowledgment comes in pieces (RFC 3465 2.3).
    DividedAcks,
    /// It SACKs what it does not have, and takes back what it has (RFC 2018 8).
    Reneging,
}

impl Hostility {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::TinyMss,
        Self::ShrinkingWindow,
        Self::ClosedWindow,
        Self::OptimisticAcks,
        Self::DividedAcks,
        Self::Reneging,
    ];
}

/// One direction of the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkFaults {
    /// Which frames are lost.
    pub loss: Loss,
    /// Time from one host to the other. Stays in peace: it is no fault.
    pub delay: u64,
    /// Up to this much is added to each frame's delay, in order: a frame does not overtake for it.
    pub jitter: u64,
    /// Frames that are held up by as much as `reordering_by`, so that others overtake them.
    pub reordering: u32,
    /// See `reordering`.
    pub reordering_by: u64,
    /// Frames that arrive twice, the second time up to a delay later.
    pub duplication: u32,
    /// Frames of which one bit behind the Ethernet header is turned over.
    pub corruption: u32,
    /// Frames of which the end is missing.
    pub truncation: u32,
    /// Bits a second that pass; 0: no limit. Stays in peace.
    pub rate: u64,
    /// Frames that wait for the rate before others are dropped.
    pub queue: usize,
    /// Frames that wait for the rate before ECN-capable ones are marked.
    pub mark_at: usize,
}

/// Which frames a link loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// None.
    None,
    /// Each with this chance.
    Uniform(u32),
    /// Gilbert and Elliott's two states: nothing is lost in the good one, `lost` in the bad one; `worse` and `better` are the
    /// chances at each frame to change into the bad and the good one.
    Bursty {
        /// Good to bad.
        worse: u32,
        /// Bad to good.
        better: u32,
        /// Loss in the bad state.
        lost: u32,
    },
}

/// What a host's device and kernel do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFaults {
    /// Frames sent whose completion is late.
    pub late_completion: u32,
    /// By how much at most. Far more than a round trip: the completion is withheld.
    pub late_completion_by: u64,
    /// Turns whose kick has no effect: what was posted waits for the next kick that has one.
    pub deaf: u32,
    /// Arrivals that wake nobody: the shard comes to look only when a timer or another arrival wakes it, or after 100 ms.
    pub lost_wakeup: u32,
    /// Turns after which a random connection is turned into bytes and back.
    pub snapshot: u32,
    /// Turns that come this much later than they should, at most: the core was taken away.
    pub stolen_time: u64,
    /// How often that happens.
    pub stolen: u32,
}

/// Something that happens once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// Nothing that this host sends arrives for so long.
    Outage {
        /// The host.
        host: usize,
        /// How long.
        lasts: u64,
    },
    /// From now on packets longer than this that the host sends are dropped on their way.
    Mtu {
        /// The sending host.
        host: usize,
        /// Bytes of IP packet that still pass.
        mtu: u16,
        /// Whether the router says so: ICMP "fragmentation needed", ICMPv6 "packet too big".
        tells: bool,
    },
    /// The host's clock leaps ahead.
    ClockJump {
        /// The host.
        host: usize,
        /// By how much.
        by: u64,
    },
    /// RSS of the host spreads flows over its queues in another way.
    Respread {
        /// The host.
        host: usize,
    },
    /// The host is gone without a word, with all it knew; 5 s to 20 s later there is a new one at its address.
    Death {
        /// The host.
        host: usize,
        /// When the new one comes.
        reborn_after: u64,
    },
    /// The host's shards are stopped in order: connections are closed, and reset when they linger too long. A new engine comes.
    Stop {
        /// The host.
        host: usize,
        /// When the new one comes; longer than the shards linger.
        reborn_after: u64,
    },
    /// The host's services stop accepting connections, and never take it up again.
    Unlisten {
        /// The host.
        host: usize,
    },
}

/// What a third party sends to host 1, from addresses that nobody has or in the name of host 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stranger {
    /// SYNs from addresses that nobody answers at, a second.
    pub syns: u64,
    /// Frames of random bytes behind plausible headers, a second.
    pub garbage: u64,
    /// Right segments of existing connections with forged numbers, a second: RST, SYN, data, ACK.
    pub forged: u64,
}

impl LinkFaults {
    /// A wire that only takes its time.
    pub fn delay(delay: u64) -> Self {
        Self {
            loss: Loss::None,
            delay,
            jitter: 0,
            reordering: 0,
            reordering_by: 0,
            duplication: 0,
            corruption: 0,
            truncation: 0,
            rate: 0,
            queue: usize::MAX,
            mark_at: usize::MAX,
        }
    }

    /// The same wire in peace.
    pub fn at_peace(&self) -> Self {
        Self {
            rate: self.rate,
            queue: self.queue,
            mark_at: self.mark_at,
            ..Self::delay(self.delay)
        }
    }
}

impl Faults {
    /// No faults on a wire of this delay.
    pub fn none(delay: u64) -> Self {
        Self {
            links: [LinkFaults::delay(delay), LinkFaults::delay(delay)],
            hosts: Default::default(),
            happenings: Vec::new(),
            stranger: Stranger::default(),
            hostile: None,
        }
    }
}
