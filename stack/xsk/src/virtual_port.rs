//! A queue whose device is code: what the engine sends comes out as frames, bytes go in as received frames.
//!
//! ```text
//!  engine: VirtualPort                              whoever plays the device: VirtualQueue
//!  refill   -> fill ring       -------------------> a free chunk for each `receive(ring, bytes)`
//!  receive  <- RX ring         <------------------- bytes, written where the engine reads them
//!  transmit -> TX ring --kick---------------------> `transmitted()`: a frame to read
//!  reclaim  <- completion ring <------------------- its drop
//! ```
//! [`crate::memory`] joins two engines without a copy and without anything between them. Here the two ends of a wire
//! meet in somebody's code, which may delay, lose, double or damage what passes, lets the fill ring run dry, holds
//! completions back, or does not look when it is kicked. All rings have their limits, and RX chunks are really used.

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

/// Bytes before a received packet, as the kernel leaves them for XDP.
const XDP_HEADROOM: u64 = 256;

/// What happened to bytes that were given to [`VirtualQueue::receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// They stand in the RX ring.
    Queued,
    /// The fill ring was empty.
    NoFrame,
    /// The RX ring was full.
    RingFull,
    /// They do not fit into a chunk, or there is no such ring.
    Refused,
}

struct RxRing {
    descs: VecDeque<(u64, Box<[u8]>)>,
    size: usize,
    full: u64,
}

struct State {
    umem: Rc<Umem>,
    fill: VecDeque<u64>,
    fill_size: usize,
    rx: Vec<RxRing>,
    /// Posted by `transmit`, not yet kicked.
    posted: VecDeque<Frame>,
    /// Kicked: the device's.
    sent: VecDeque<Frame>,
    deaf: bool,
    statistics: Statistics,
}

/// The engine's end of a queue whose device is code.
pub struct VirtualPort {
    state: Rc<RefCell<State>>,
    umem: Rc<Umem>,
    tx_ring_size: usize,
    outstanding: usize,
    outstanding_max: usize,
    waker: Waker,
}

/// The device's end of the same queue. Clones are the same end.
#[derive(Clone)]
pub struct VirtualQueue {
    state: Rc<RefCell<State>>,
}

impl VirtualPort {
    /// A queue: the engine's end and the device's.
    pub fn open(config: &MemoryConfig) -> Result<(Self, VirtualQueue), XskError> {
        if config.tx_outstanding_max == Some(0) || config.rings.tx == 0 {
            return Err(XskError::Config(
                "a TX ring or tx_outstanding_max of 0 would never send".to_owned(),
            ));
        }
        let umem = Umem::new(&config.umem)?;
        let rx = [config.rings.primary, config.rings.control]
            .into_iter()
            .chain(pool_rings(&config.pools))
            .map(|size| RxRing {
                descs: VecDeque::new(),
                size: size as usize,
                full: 0,
            });
        let rx: Vec<RxRing> = rx.collect();
        umem.count_rings(rx.len());
        let state = Rc::new(RefCell::new(State {
            umem: Rc::clone(&umem),
            fill: VecDeque::new(),
            fill_size: config.rings.fill as usize,
            rx,
            posted: VecDeque::new(),
            sent: VecDeque::new(),
            deaf: false,
            statistics: Statistics::default(),
        }));
        let port = Self {
            state: Rc::clone(&state),
            umem,
            tx_ring_size: config.rings.tx as usize,
            outstanding: 0,
            outstanding_max: config.tx_outstanding_max.unwrap_or(config.umem.tx_frames) as usize,
            waker: Waker::without_sleep(),
        };
        Ok((port, VirtualQueue { state }))
    }
}

impl Port for VirtualPort {
    fn umem(&self) -> &Rc<Umem> {
        &self.umem
    }

    fn reclaim(&mut self) -> usize {
        self.umem.collect_leases();
        let mut completed = 0;
        while let Some(chunk) = self.umem.next_foreign_done() {
            let was_outstanding = self.umem.completed(self.umem.address(chunk));
            debug_assert!(was_outstanding);
            completed += 1;
        }
        self.outstanding -= completed;
        self.state.borrow_mut().statistics.completed += completed as u64;
        completed
    }

    fn refill(&mut self) -> usize {
        let mut state = self.state.borrow_mut();
        let mut filled = 0;
        while state.fill.len() < state.fill_size
            && let Some(address) = self.umem.give_to_kernel()
        {
            state.fill.push_back(address);
            filled += 1;
        }
        filled
    }

    fn rings(&self) -> usize {
        self.state.borrow().rx.len()
    }

    fn ring_size(&self, ring: usize) -> u32 {
        self.state.borrow().rx[ring].size as u32
    }

    fn held(&self, ring: usize) -> usize {
        self.umem.held_of_ring(ring)
    }

    fn receive(&mut self, ring: usize, out: &mut Vec<Frame>, budget: usize) -> usize {
        let mut state = self.state.borrow_mut();
        let mut count = 0;
        while count < budget
            && let Some((address, bytes)) = state.rx[ring].descs.pop_front()
        {
            let frame = self.umem.take_from_kernel(address + XDP_HEADROOM, 0, ring);
            let mut frame = frame.expect("the chunk came from the fill ring");
            let tail = frame.tail_mut().expect("a received chunk is not queued");
            tail[..bytes.len()].copy_from_slice(&bytes);
            frame.extend(bytes.len());
            out.push(frame);
            count += 1;
        }
        state.statistics.received += count as u64;
        count
    }

    fn tx_space(&self) -> usize {
        let ring = self.tx_ring_size - self.state.borrow().posted.len();
        ring.min(self.outstanding_max - self.outstanding)
    }

    fn transmit(&mut self, frame: &Frame, header_len: usize) -> bool {
        let space = self.tx_space();
        let mut state = self.state.borrow_mut();
        if !frame.may_be_sent(&self.umem, header_len) {
            state.statistics.tx_refused += 1;
            return false;
        }
        if space == 0 {
            state.statistics.tx_full += 1;
            return false;
        }
        self.umem.posted(frame.id());
        // At most the headroom, which fits.
        state
            .posted
            .push_back(frame.foreign_twin(header_len as u16));
        self.outstanding += 1;
        state.statistics.transmitted += 1;
        true
    }

    fn kick(&mut self) -> usize {
        let state = &mut *self.state.borrow_mut();
        if state.posted.is_empty() {
            return 0;
        }
        state.statistics.kicks += 1;
        if state.deaf {
            state.statistics.kicks_deferred += 1;
        } else {
            state.sent.append(&mut state.posted);
        }
        1
    }

    /// Returns at once: time is the caller's.
    fn wait(&mut self, _timeout: Option<Duration>) {
        self.waker.end_sleep();
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn statistics(&self) -> Statistics {
        let state = self.state.borrow();
        Statistics {
            rx_ring_full: state.rx.iter().map(|ring| ring.full).collect(),
            ..state.statistics.clone()
        }
    }
}

impl VirtualQueue {
    /// The queue's memory: for its ledger.
    pub fn umem(&self) -> Rc<Umem> {
        Rc::clone(&self.state.borrow().umem)
    }

    /// A packet arrives and goes into an RX ring.
    pub fn receive(&self, ring: usize, bytes: Box<[u8]>) -> Received {
        let state = &mut *self.state.borrow_mut();
        let room = u64::from(state.umem.chunk_size()) - XDP_HEADROOM;
        let Some(rx) = state.rx.get_mut(ring) else {
            return Received::Refused;
        };
        if bytes.len() as u64 > room {
            return Received::Refused;
        }
        if rx.descs.len() >= rx.size {
            rx.full += 1;
            return Received::RingFull;
        }
        let Some(address) = state.fill.pop_front() else {
            return Received::NoFrame;
        };
        rx.descs.push_back((address, bytes));
        Received::Queued
    }

    /// The next frame that the engine has sent and kicked, to be read; dropping it completes it.
    pub fn transmitted(&self) -> Option<Frame> {
        self.state.borrow_mut().sent.pop_front()
    }

    /// Whether kicks have no effect, as when the kernel answers EAGAIN. What was posted waits for the next kick that has.
    pub fn set_deaf(&self, deaf: bool) {
        self.state.borrow_mut().deaf = deaf;
    }

    /// Frames posted and not taken by a kick.
    pub fn posted(&self) -> usize {
        self.state.borrow().posted.len()
    }

    /// Packets in RX rings that the engine has not read.
    pub fn unread(&self) -> usize {
        self.state.borrow().rx.iter().map(|r| r.descs.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PoolClass, RingSizes, UmemConfig};

    fn small() -> (VirtualPort, VirtualQueue) {
        let config = MemoryConfig {
            umem: UmemConfig {
                rx_frames: 4,
                tx_frames: 4,
                ..UmemConfig::default()
            },
            rings: RingSizes {
                primary: 2,
                control: 2,
                tx: 2,
                fill: 3,
            },
            pools: vec![PoolClass { pools: 1, ring: 2 }],
            tx_outstanding_max: None,
        };
        VirtualPort::open(&config).expect("memory")
    }

    #[test]
    fn what_arrives_takes_a_filled_chunk_and_gives_it_back() {
        let (mut port, queue) = small();
        assert_eq!(queue.receive(0, [1].into()), Received::NoFrame);
        assert_eq!(port.refill(), 3);
        assert_eq!(queue.receive(0, [1, 2].into()), Received::Queued);
        assert_eq!(queue.receive(0, [3].into()), Received::Queued);
        assert_eq!(queue.receive(0, [4].into()), Received::RingFull);
        assert_eq!(queue.receive(2, [5].into()), Received::Queued);
        assert_eq!(queue.receive(1, [6].into()), Received::NoFrame);
        assert_eq!(queue.receive(3, [7].into()), Received::Refused);
        assert_eq!(queue.receive(0, vec![0; 1793].into()), Received::Refused);
        let mut out = Vec::new();
        assert_eq!(port.receive(0, &mut out, 8), 2);
        assert_eq!(out[0].bytes(), [1, 2]);
        assert_eq!(queue.umem().audit().expect("whole").held, 2);
        drop(out);
        assert_eq!(port.refill(), 3);
        assert_eq!(port.statistics().rx_ring_full, [1, 0, 0]);
    }

    #[test]
    fn a_frame_is_complete_when_the_device_drops_it() {
        let (mut port, queue) = small();
        let send = |port: &mut VirtualPort, byte| {
            let mut frame = port.umem().alloc_tx().expect("free");
            frame.tail_mut().expect("not queued")[0] = byte;
            frame.extend(1);
            port.transmit(&frame, 0)
        };
        assert!(send(&mut port, 1) && send(&mut port, 2));
        assert!(!send(&mut port, 3), "the ring is full");
        assert!(queue.transmitted().is_none(), "not kicked");
        queue.set_deaf(true);
        port.kick();
        assert!(queue.transmitted().is_none(), "deaf");
        queue.set_deaf(false);
        port.kick();
        let frame = queue.transmitted().expect("kicked");
        assert_eq!(frame.bytes(), [1]);
        assert_eq!(port.reclaim(), 0);
        drop(frame);
        assert_eq!(port.reclaim(), 1);
        assert_eq!(queue.umem().ledger().tx_outstanding, 1);
        assert_eq!((port.tx_space(), queue.posted()), (2, 0));
    }
}
