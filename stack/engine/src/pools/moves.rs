//! A flow that changes rings keeps its order.
//!
//! A flow is moved by one store into the demultiplexer's flow table. Packets that came before it lie in the old ring
//! (`from`), packets behind it in the new one (`to`), and nothing says which of the two the shard sees first: the kernel
//! publishes all rings that a NAPI cycle touched at the cycle's end (`xdp_do_flush` walks its list, last touched first),
//! so in the one cycle during which the store was made, newer packets may show before older ones.
//!
//! ```text
//!   NAPI cycles of the queue:   ... k-1 |      k: from from | store | to to       | k+1 ...
//!   published at the end of k:                                    to, then from (or the other way round)
//! ```
//! Two facts end the doubt, neither of them a guess about time:
//! 1. A segment that starts at RCV.NXT follows on what TCP has: nothing older is missing, wherever it may be. It is passed
//!    on. All others that come by `to` are **parked** until what is before them has come.
//! 2. Cycles of a queue follow each other, and each publishes once at its end. So when `to` is found to have grown *twice*
//!    since the store, in different turns, the second time was by a cycle after k: k is over, and all it brought by `from`
//!    is visible. Once `from` has been drained after that, what is parked is not waiting for anything in a ring: a packet
//!    was lost on the wire, and TCP is told, in order.
//!
//! What remains is a flow that loses a packet on the wire just then and sends no more: [`PATIENCE`] ends that.

use std::collections::VecDeque;

use bywash_tcp::time::{Duration, Instant};
use bywash_xsk::Frame;

/// How long a parked frame waits when no fact ends the doubt: long against a NAPI cycle (64 packets, under 100 us here)
/// that is held up by the host's scheduler, short against any retransmission time-out.
pub(crate) const PATIENCE: Duration = Duration::from_millis(10);
/// The same for a flow that came from another shard, whose core may have been taken away for a while: still short against a
/// retransmission time-out.
const PATIENCE_WITH_SHARDS: Duration = Duration::from_millis(100);
/// From here on `from` is no ring: with the shard that hands over. There are 1024 rings at most.
pub(crate) const FIRST_SHARD: u16 = 1 << 15;
/// How long a flow that receives nothing is remembered as moving.
const MEMORY: Duration = Duration::from_secs(1);
/// Frames that one flow may have parked: what a ring of usual size would hold.
const PARKED_MOST: usize = 256;

/// What is known of the NAPI cycle during which the flow was moved. One step a turn at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// `to` may still show what was published before the move.
    Fresh,
    /// What `to` shows from now on was published after the move.
    Drained,
    /// `to` has grown once: perhaps by the cycle of the move.
    Grown,
    /// `to` has grown again: that cycle is over.
    Over,
    /// And `from` was drained since: no packet of the flow is in it.
    None,
}

/// What a turn has found in a move's rings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// Packets came by `to`.
    pub(crate) in_to: bool,
    /// All that `to` showed was read.
    pub(crate) to_drained: bool,
    /// All that `from` showed was read; never, if it is no ring.
    pub(crate) from_drained: bool,
}

/// Keeps a frame of a flow that changes rings, which does not follow on what TCP has, if it came by the new ring: what is
/// before it may lie in the old one. `Some`: it did not.
pub(crate) fn park(
    moves: &mut VecDeque<Move>,
    conn: u32,
    frame: Frame,
    ring: u16,
    now: Instant,
) -> Option<Frame> {
    let mut moves = moves.iter_mut();
    match moves.find(|one| one.conn == conn && one.to == ring) {
        None => Some(frame),
        Some(one) => {
            one.park(frame, now);
            None
        }
    }
}

/// One flow between two rings.
pub(crate) struct Move {
    /// The connection's place in the slab.
    pub(crate) conn: u32,
    pub(crate) from: u16,
    pub(crate) to: u16,
    /// The turn of the store.
    turn: u64,
    comes_from_a_shard: bool,
    doubt: Doubt,
    parked: VecDeque<Frame>,
    until: Instant,
}

/// What becomes of a move at the end of ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on.
    Wait,
    /// It is over: what is parked is passed on.
    Done,
    /// Patience or room has run out.
    Forced,
}

impl Move {
    /// The flow's packets go to `to` from now on.
    pub(crate) fn new(conn: u32, from: u16, to: u16, turn: u64, now: Instant) -> Self {
        Self {
            conn,
            from,
            to,
            turn,
            comes_from_a_shard: from >= FIRST_SHARD,
            doubt: Doubt::Fresh,
            parked: VecDeque::new(),
            until: now + MEMORY,
        }
    }

    fn park(&mut self, frame: Frame, now: Instant) {
        if self.parked.is_empty() {
            self.until = now
                + match self.comes_from_a_shard {
                    true => PATIENCE_WITH_SHARDS,
                    false => PATIENCE,
                };
        }
        self.parked.push_back(frame);
    }

    pub(crate) fn first_parked(&self) -> Option<&Frame> {
        self.parked.front()
    }

    /// The parked frame that came first.
    pub(crate) fn unpark(&mut self) -> Option<Frame> {
        self.parked.pop_front()
    }

    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// It is known otherwise that nothing more comes by `from`.
    pub(crate) fn resolve(&mut self) {
        self.doubt = Doubt::None;
    }

    /// When it must be looked at even if nothing arrives.
    pub(crate) fn wakeup(&self) -> Option<Instant> {
        (!self.parked.is_empty()).then_some(self.until)
    }

    /// Learns from what a turn found, after the rings were read.
    ///
    /// A flow that came from another shard has no `from` among the rings, and no cycle tells when the last of its frames
    /// has come the long way: [`resolve`](Self::resolve) does.
    pub(crate) fn learn(&mut self, found: Found, turn: u64, now: Instant) -> Verdict {
        self.doubt = match self.doubt {
            // Rings may have been read before the store in that turn.
            Doubt::Fresh if found.to_drained && turn != self.turn => Doubt::Drained,
            Doubt::Drained if found.in_to => Doubt::Grown,
            Doubt::Grown if found.in_to => Doubt::Over,
            Doubt::Over if found.from_drained => Doubt::None,
            same => same,
        };
        if self.doubt == Doubt::None {
            return Verdict::Done;
        }
        let is_late = now.as_nanos() >= self.until.as_nanos();
        match self.parked.len() {
            0 if is_late => Verdict::Done,
            n if n >= PARKED_MOST || (n > 0 && is_late) => Verdict::Forced,
            _ => Verdict::Wait,
        }
    }
}
