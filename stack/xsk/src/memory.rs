//! A wire in memory: two ports in one thread, no system call and no copy.
//!
//! ```text
//!  A: transmit -> TX ring --kick--> fault hook --> B's steering --> B's RX ring --receive--> foreign Frame
//!  A: reclaim  <- completions <------------------------------------------------------------- its drop
//! ```
//! What the receiver gets are the sender's own bytes. The sender's completion comes when the receiver has dropped the
//! frame, so a frame stays queued as long as the peer's application reads it: much longer than on most devices, and as
//! AF_XDP allows. RX chunks are never used, and `refill` has nothing to do; all limits of the rings hold.

use core::time::Duration;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::config::{MemoryConfig, pool_rings};
use crate::error::XskError;
use crate::frame::Frame;
use crate::port::Port;
use crate::statistics::Statistics;
use crate::umem::Umem;
use crate::waker::Waker;

/// What a fault hook does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fate {
    /// It arrives.
    #[default]
    Deliver,
    /// It is lost: never seen by the peer, completed at once.
    Drop,
    /// It is lost, and its completion is late by so many `reclaim`s.
    DropDelayCompletion(u32),
    /// It arrives, and its completion is late: not before this many further `reclaim`s after the peer has dropped it.
    DelayCompletion(u32),
}

type Steering = Box<dyn Fn(&[u8]) -> usize>;
type FaultHook = Box<dyn FnMut(u64, &[u8]) -> Fate>;

/// The RX rings of one port; the other port delivers into them.
struct RxRings {
    rings: Vec<RxRing>,
    /// `None`: all to ring 0.
    steering: Option<Steering>,
    /// Frames for which `steering` named no ring.
    steering_dropped: u64,
}

struct RxRing {
    frames: VecDeque<Frame>,
    size: usize,
    full: u64,
}

impl RxRings {
    fn new(config: &MemoryConfig) -> Self {
        let sizes = [config.rings.primary, config.rings.control]
            .into_iter()
            .chain(pool_rings(&config.pools));
        let rings = sizes.map(|size| RxRing {
            frames: VecDeque::new(),
            size: size as usize,
            full: 0,
        });
        Self {
            rings: rings.collect(),
            steering: None,
            steering_dropped: 0,
        }
    }

    /// Whether all frames went into ring 0 at once: nothing chooses another, and it was empty and has room.
    fn takes_all(&mut self, frames: &mut VecDeque<Frame>) -> bool {
        match self.rings.first_mut() {
            Some(ring)
                if self.steering.is_none()
                    && ring.frames.is_empty()
                    && frames.len() <= ring.size =>
            {
                std::mem::swap(&mut ring.frames, frames);
                true
            }
            _ => false,
        }
    }

    /// A frame that finds no ring or no room is dropped, and so completed.
    fn deliver(&mut self, frame: Frame) {
        let index = match &self.steering {
            Some(steering) => steering(frame.bytes()),
            None => 0,
        };
        match self.rings.get_mut(index) {
            None => self.steering_dropped += 1,
            Some(ring) if ring.frames.len() >= ring.size => ring.full += 1,
            Some(ring) => ring.frames.push_back(frame),
        }
    }
}

/// A completion that a fault hook holds back.
struct Late {
    chunk: u32,
    reclaims: u32,
}

/// One end of a wire in memory.
pub struct MemoryPort {
    umem: Rc<Umem>,
    rx: Rc<RefCell<RxRings>>,
    peer_rx: Rc<RefCell<RxRings>>,
    tx: VecDeque<Frame>,
    tx_ring_size: usize,
    outstanding: usize,
    outstanding_max: usize,
    /// `None`: all are delivered.
    fault: Option<FaultHook>,
    /// Frames that the fault hook has seen.
    sequence: u64,
    /// By chunk: reclaims that its completion is to wait, as the hook said when it was sent.
    delays: Vec<u32>,
    late: Vec<Late>,
    waker: Waker,
    statistics: Statistics,
}

impl MemoryPort {
    /// Both ends of a wire.
    ///
    /// # Panics
    /// If the configuration cannot work, or the kernel has no memory for it: see [`MemoryPort::try_pair`].
    pub fn pair(config: &MemoryConfig) -> (Self, Self) {
        Self::try_pair(config).unwrap_or_else(|error| panic!("a wire in memory: {error}"))
    }

    /// Both ends of a wire, or why not.
    pub fn try_pair(config: &MemoryConfig) -> Result<(Self, Self), XskError> {
        if config.tx_outstanding_max == Some(0) || config.rings.tx == 0 {
            return Err(XskError::Config(
                "a TX ring or tx_outstanding_max of 0 would never send".to_owned(),
            ));
        }
        let (umem, peer_umem) = (Umem::new(&config.umem)?, Umem::new(&config.umem)?);
        umem.join(&peer_umem);
        peer_umem.join(&umem);
        let rx = Rc::new(RefCell::new(RxRings::new(config)));
        let peer_rx = Rc::new(RefCell::new(RxRings::new(config)));
        let rings = rx.borrow().rings.len();
        umem.count_rings(rings);
        peer_umem.count_rings(rings);
        let port = Self::new(config, umem, Rc::clone(&rx), Rc::clone(&peer_rx));
        Ok((port, Self::new(config, peer_umem, peer_rx, rx)))
    }

    fn new(
        config: &MemoryConfig,
        umem: Rc<Umem>,
        rx: Rc<RefCell<RxRings>>,
        peer_rx: Rc<RefCell<RxRings>>,
    ) -> Self {
        Self {
            umem,
            rx,
            peer_rx,
            tx: VecDeque::with_capacity(config.rings.tx as usize),
            tx_ring_size: config.rings.tx as usize,
            outstanding: 0,
            outstanding_max: config.tx_outstanding_max.unwrap_or(config.umem.tx_frames) as usize,
            fault: None,
            sequence: 0,
            delays: vec![0; config.umem.frames() as usize],
            late: Vec::new(),
            waker: Waker::without_sleep(),
            statistics: Statistics::default(),
        }
    }

    /// Picks the RX ring of each frame that *arrives* at this end. At first all go to ring 0. A ring that there is not
    /// drops the frame, counted.
    pub fn set_steering(&mut self, steering: impl Fn(&[u8]) -> usize + 'static) {
        self.rx.borrow_mut().steering = Some(Box::new(steering));
    }

    /// Decides about each frame that *leaves* this end; `u64` counts them from 0. At first all are delivered.
    pub fn set_fault_hook(&mut self, hook: impl FnMut(u64, &[u8]) -> Fate + 'static) {
        self.fault = Some(Box::new(hook));
    }

    fn complete(&mut self, chunk: u32) {
        let was_outstanding = self.umem.completed(self.umem.address(chunk));
        debug_assert!(was_outstanding);
        self.outstanding -= 1;
        self.statistics.completed += 1;
    }

    /// Completions whose delay is over.
    fn complete_late(&mut self) -> usize {
        let mut completed = 0;
        let mut index = 0;
        while index < self.late.len() {
            if self.late[index].reclaims == 0 {
                let chunk = self.late.remove(index).chunk;
                self.complete(chunk);
                completed += 1;
            } else {
                self.late[index].reclaims -= 1;
                index += 1;
            }
        }
        completed
    }
}

impl Port for MemoryPort {
    fn umem(&self) -> &Rc<Umem> {
        &self.umem
    }

    fn reclaim(&mut self) -> usize {
        self.umem.collect_leases();
        let mut completed = self.complete_late();
        while let Some(chunk) = self.umem.next_foreign_done() {
            match core::mem::take(&mut self.delays[chunk as usize]) {
                0 => {
                    self.complete(chunk);
                    completed += 1;
                }
                // This reclaim is the first one that goes by.
                reclaims => self.late.push(Late {
                    chunk,
                    reclaims: reclaims - 1,
                }),
            }
        }
        completed
    }

    /// Nothing: received frames are the peer's.
    fn refill(&mut self) -> usize {
        0
    }

    fn rings(&self) -> usize {
        self.rx.borrow().rings.len()
    }

    fn ring_size(&self, ring: usize) -> u32 {
        self.rx.borrow().rings[ring].size as u32
    }

    /// The frames are the other end's, and so is their account.
    fn held(&self, ring: usize) -> usize {
        self.umem.peer().map_or(0, |peer| peer.held_of_ring(ring))
    }

    fn receive(&mut self, ring: usize, out: &mut Vec<Frame>, budget: usize) -> usize {
        let mut rx = self.rx.borrow_mut();
        let frames = &mut rx.rings[ring].frames;
        let count = budget.min(frames.len());
        for frame in frames.drain(..count) {
            frame.umem().charge(frame.id(), ring);
            out.push(frame);
        }
        self.statistics.received += count as u64;
        count
    }

    fn tx_space(&self) -> usize {
        let ring = self.tx_ring_size - self.tx.len();
        ring.min(self.outstanding_max - self.outstanding)
    }

    fn transmit(&mut self, frame: &Frame, header_len: usize) -> bool {
        if !frame.may_be_sent(&self.umem, header_len) {
            self.statistics.tx_refused += 1;
            return false;
        }
        if self.tx_space() == 0 {
            self.statistics.tx_full += 1;
            return false;
        }
        self.umem.posted(frame.id());
        // At most the headroom, which fits.
        self.tx.push_back(frame.foreign_twin(header_len as u16));
        self.outstanding += 1;
        self.statistics.transmitted += 1;
        true
    }

    /// Delivers everything posted; never a system call.
    fn kick(&mut self) -> usize {
        let mut peer_rx = self.peer_rx.borrow_mut();
        let sent = self.tx.len();
        if self.fault.is_none() && peer_rx.takes_all(&mut self.tx) {
            self.sequence += sent as u64;
            return 0;
        }
        while let Some(frame) = self.tx.pop_front() {
            let fate = match &mut self.fault {
                Some(fault) => fault(self.sequence, frame.bytes()),
                None => Fate::Deliver,
            };
            self.sequence += 1;
            match fate {
                Fate::Deliver => peer_rx.deliver(frame),
                Fate::Drop => self.statistics.fault_dropped += 1,
                Fate::DropDelayCompletion(reclaims) => {
                    self.delays[frame.id() as usize] = reclaims;
                    self.statistics.fault_dropped += 1;
                }
                Fate::DelayCompletion(reclaims) => {
                    self.delays[frame.id() as usize] = reclaims;
                    peer_rx.deliver(frame);
                }
            }
        }
        0
    }

    /// Returns at once: both ends are in this thread, so nothing arrives while it sleeps. Time is the caller's.
    fn wait(&mut self, _timeout: Option<Duration>) {
        self.waker.end_sleep();
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn statistics(&self) -> Statistics {
        let rx = self.rx.borrow();
        Statistics {
            rx_ring_full: rx.rings.iter().map(|ring| ring.full).collect(),
            steering_dropped: rx.steering_dropped,
            ..self.statistics.clone()
        }
    }
}
