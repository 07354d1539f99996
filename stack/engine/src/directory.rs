//! Which shard owns a flow, for engines with more than one, and the way there.
//!
//! A packet arrives on the queue that the NIC chose, which need not be the queue of its flow's
//! shard. The arriving shard looks the tuple up here and hands the frame over; nothing is dropped
//! for having come to the wrong queue. Only misses of a shard's own flow table come here.
//!
//! ```text
//!   arriving shard                      inbox                     owning shard
//!   Frame::lend ──► Handed ──► bounded queue of plain data ──► RegionView::open ──► copied into an own RX frame
//!        ▲                                                            │ dropped
//!        └───────────────────── Umem::collect_leases ◄────────────────┘
//! ```
//! The frame itself is the buffer: handing over allocates nothing, copies once, and is bounded by the queue and by the
//! arriving shard's `lease_cap`, as any other lease.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{OnceLock, RwLock};

use bywash_wire::Tuple;
use bywash_xsk::{LeaseDesc, RegionView, Waker};
use crossbeam::channel::Sender;
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::pulse::Pulse;
use crate::random::Random;
use crate::report::ShardReport;
use crate::service::Luggage;
use crate::shard::Origin;

/// Frames that may wait to be taken by another shard. A shard that is behind by this many is
/// overloaded; more would only add delay, and hold more of the arriving shard's frames.
pub(crate) const HANDOVER_CAPACITY: usize = 1024;
/// Connections that may be on their way to a shard.
const TRAVELLERS: usize = 64;
/// Questions are rare.
const CONTROL_CAPACITY: usize = 64;
const STRIPES: usize = 64;

/// What the control path asks of a shard.
#[derive(Debug)]
pub(crate) enum ControlMessage {
    /// Answer with the present state.
    Report(Sender<ShardReport>),
    /// The device's MTU is this now.
    Mtu(u16),
}

/// What one shard hands to another, in order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Handed {
    /// A frame of the shard that it arrived at, lent for as long as it takes to copy it.
    Frame {
        /// That shard.
        from: u32,
        /// To be opened by its view.
        desc: LeaseDesc,
    },
    /// Goes to the shard that a connection has come from, and back: behind every frame that was still handed there.
    Marker {
        /// The shard that it returns to.
        from: u32,
        /// The connection's place there.
        conn: u32,
    },
}

/// A connection on its way to another shard.
pub(crate) struct Traveller {
    /// The shard that it leaves.
    pub(crate) from: u32,
    /// It has been refused once.
    pub(crate) returned: bool,
    pub(crate) tuple: Tuple,
    /// In the format of `Connection::snapshot`. Its instants hold: the shards of an engine have one clock.
    pub(crate) bytes: Vec<u8>,
    /// What its service gave it.
    pub(crate) luggage: Luggage,
    pub(crate) origin: Origin,
    pub(crate) receive_buffer: usize,
    pub(crate) wants_writable: bool,
}

/// The way to one shard from other threads.
pub(crate) struct Inbox {
    frames: ArrayQueue<Handed>,
    travellers: ArrayQueue<Box<Traveller>>,
    control: ArrayQueue<ControlMessage>,
    waker: OnceLock<Waker>,
    view: OnceLock<RegionView>,
}

impl Inbox {
    fn new() -> Self {
        Self {
            frames: ArrayQueue::new(HANDOVER_CAPACITY),
            travellers: ArrayQueue::new(TRAVELLERS),
            control: ArrayQueue::new(CONTROL_CAPACITY),
            waker: OnceLock::new(),
            view: OnceLock::new(),
        }
    }

    /// Tells the inbox how to wake its shard, and how to read the frames that the shard lends; once, by the shard itself.
    pub(crate) fn open(&self, waker: Waker, view: RegionView) {
        // A second call could only come from a second shard with this index, which cannot be.
        assert!(
            self.waker.set(waker).is_ok() && self.view.set(view).is_ok(),
            "an inbox belongs to one shard"
        );
    }

    /// How the frames that this shard lends are read.
    pub(crate) fn view(&self) -> Option<&RegionView> {
        self.view.get()
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    /// False if the queue is full: the shard does not come to look.
    pub(crate) fn send(&self, message: ControlMessage) -> bool {
        let sent = self.control.push(message).is_ok();
        self.wake();
        sent
    }

    /// Sends a connection to the shard; back, if too many are on their way.
    pub(crate) fn send_traveller(&self, traveller: Box<Traveller>) -> Result<(), Box<Traveller>> {
        let sent = self.travellers.push(traveller);
        self.wake();
        sent
    }

    pub(crate) fn next_traveller(&self) -> Option<Box<Traveller>> {
        self.travellers.pop()
    }

    pub(crate) fn next_frame(&self) -> Option<Handed> {
        self.frames.pop()
    }

    pub(crate) fn next_control(&self) -> Option<ControlMessage> {
        // A pop that finds nothing costs a full fence, which waits for all stores under way; it is asked for in every turn.
        if self.control.is_empty() {
            return None;
        }
        self.control.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.control.is_empty() && self.travellers.is_empty()
    }
}

type Stripe = RwLock<HashMap<Tuple, u32, foldhash::fast::RandomState>>;

/// Owners of all flows of an engine, and every shard's inbox.
pub(crate) struct Directory {
    hasher: foldhash::fast::RandomState,
    stripes: Vec<CachePadded<Stripe>>,
    inboxes: Vec<CachePadded<Inbox>>,
    pulses: Vec<CachePadded<Pulse>>,
    fast_open_secret: OnceLock<(u64, u64)>,
}

impl Directory {
    pub(crate) fn new(shards: u32) -> Self {
        Self {
            hasher: foldhash::fast::RandomState::default(),
            stripes: (0..STRIPES)
                .map(|_| CachePadded::new(Stripe::default()))
                .collect(),
            inboxes: (0..shards)
                .map(|_| CachePadded::new(Inbox::new()))
                .collect(),
            pulses: (0..shards).map(|_| CachePadded::default()).collect(),
            fast_open_secret: OnceLock::new(),
        }
    }

    pub(crate) fn inbox(&self, shard: u32) -> &Inbox {
        &self.inboxes[shard as usize]
    }

    pub(crate) fn pulse(&self, shard: u32) -> &Pulse {
        &self.pulses[shard as usize]
    }

    /// What the keys of Fast Open cookies are made of: the same for all shards, as any of them may get the SYN that shows one.
    /// Drawn by the first that needs it.
    pub(crate) fn fast_open_secret(&self, random: &mut dyn Random) -> (u64, u64) {
        *self
            .fast_open_secret
            .get_or_init(|| (random.next_u64(), random.next_u64()))
    }

    pub(crate) fn shards(&self) -> u32 {
        self.inboxes.len() as u32
    }

    pub(crate) fn insert(&self, tuple: &Tuple, shard: u32) {
        let mut stripe = self
            .stripe(tuple)
            .write()
            .expect("no holder of a stripe panics");
        stripe.insert(*tuple, shard);
    }

    pub(crate) fn remove(&self, tuple: &Tuple) {
        let mut stripe = self
            .stripe(tuple)
            .write()
            .expect("no holder of a stripe panics");
        stripe.remove(tuple);
    }

    /// The flow is `to`'s, unless `from` does not own it any more.
    pub(crate) fn reassign(&self, tuple: &Tuple, from: u32, to: u32) {
        let mut stripe = self
            .stripe(tuple)
            .write()
            .expect("no holder of a stripe panics");
        if let Some(owner) = stripe.get_mut(tuple).filter(|owner| **owner == from) {
            *owner = to;
        }
    }

    pub(crate) fn owner(&self, tuple: &Tuple) -> Option<u32> {
        let stripe = self
            .stripe(tuple)
            .read()
            .expect("no holder of a stripe panics");
        stripe.get(tuple).copied()
    }

    /// False if that shard is too far behind.
    pub(crate) fn hand_over(&self, shard: u32, frame: Handed) -> bool {
        let inbox = self.inbox(shard);
        let taken = inbox.frames.push(frame).is_ok();
        inbox.wake();
        taken
    }

    fn stripe(&self, tuple: &Tuple) -> &Stripe {
        &self.stripes[self.hasher.hash_one(tuple) as usize % STRIPES]
    }
}
