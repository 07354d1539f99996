//! The life of frames against a model, over a wire in memory, with the ledger checked after each step.

use std::collections::VecDeque;

use bywash_xsk::{
    Fate, Frame, LeaseDesc, MemoryConfig, MemoryPort, Port, RingSizes, RxLease, UmemConfig,
};
use proptest::prelude::*;

const CHUNKS: u32 = 6;
const RING: u32 = 4;
const OUTSTANDING: u32 = 5;
const HEADER: usize = 2;

fn config() -> MemoryConfig {
    MemoryConfig {
        umem: UmemConfig {
            chunk_size: 2048,
            rx_frames: 0,
            tx_frames: CHUNKS,
            headroom: 64,
            ..UmemConfig::default()
        },
        rings: RingSizes {
            primary: 3,
            control: 1,
            tx: RING,
            fill: 1,
        },
        pools: Vec::new(),
        tx_outstanding_max: Some(OUTSTANDING),
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc,
    Transmit(usize),
    Kick,
    Receive,
    DropReceived(usize),
    DropSent(usize),
    LendReceived(usize),
    LendSent(usize),
    Open(usize),
    TakeBack(usize),
    DropLease(usize),
    Reclaim,
    /// Leases come back without completions.
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    let which = || 0usize..8;
    prop_oneof![
        4 => Just(Step::Alloc),
        4 => which().prop_map(Step::Transmit),
        3 => Just(Step::Kick),
        3 => Just(Step::Receive),
        2 => which().prop_map(Step::DropReceived),
        2 => which().prop_map(Step::DropSent),
        2 => which().prop_map(Step::LendReceived),
        1 => which().prop_map(Step::LendSent),
        3 => which().prop_map(Step::Open),
        1 => which().prop_map(Step::TakeBack),
        2 => which().prop_map(Step::DropLease),
        2 => Just(Step::Reclaim),
        1 => Just(Step::Collect),
    ]
}

/// What happens to the frame with this sequence number, the same for model and wire.
fn fate(sequence: u64) -> Fate {
    match sequence % 6 {
        2 => Fate::DropDelayCompletion((sequence % 4) as u32),
        3 => Fate::Drop,
        4 => Fate::DelayCompletion((sequence % 3) as u32),
        _ => Fate::Deliver,
    }
}

/// Who may still read a chunk, as the model has it. `id` is the chunk, `mark` what was written to it.
#[derive(Clone, Copy, Default)]
struct Chunk {
    /// Own token, own desc or own lease.
    own: bool,
    /// Sent and not reclaimed.
    outstanding: bool,
    mark: u8,
}

#[derive(Default)]
struct Model {
    chunks: [Chunk; CHUNKS as usize],
    tx_ring: VecDeque<u32>,
    rx_ring: VecDeque<u32>,
    sequence: u64,
    delays: [u32; CHUNKS as usize],
    /// Chunks whose foreign token is gone: reclaims they still wait for.
    done: Vec<(u32, u32)>,
    /// Returned own leases that are not collected.
    returned: Vec<u32>,
    /// Returned foreign leases that are not collected.
    returned_foreign: Vec<u32>,
    rx_full: u64,
    dropped: u64,
}

impl Model {
    fn free(&self) -> usize {
        self.chunks
            .iter()
            .filter(|chunk| !chunk.own && !chunk.outstanding)
            .count()
    }

    fn outstanding(&self) -> usize {
        self.chunks.iter().filter(|chunk| chunk.outstanding).count()
    }

    fn foreign_gone(&mut self, id: u32) {
        let delay = core::mem::take(&mut self.delays[id as usize]);
        self.done.push((id, delay));
    }

    fn kick(&mut self) {
        while let Some(id) = self.tx_ring.pop_front() {
            let sequence = self.sequence;
            self.sequence += 1;
            match fate(sequence) {
                Fate::Drop => {
                    self.dropped += 1;
                    self.done.push((id, 0));
                    continue;
                }
                Fate::DropDelayCompletion(reclaims) => {
                    self.dropped += 1;
                    self.done.push((id, reclaims));
                    continue;
                }
                Fate::DelayCompletion(reclaims) => self.delays[id as usize] = reclaims,
                Fate::Deliver => {}
            }
            if self.rx_ring.len() == 3 {
                self.rx_full += 1;
                self.foreign_gone(id);
            } else {
                self.rx_ring.push_back(id);
            }
        }
    }

    fn collect(&mut self) {
        for id in core::mem::take(&mut self.returned) {
            self.chunks[id as usize].own = false;
        }
        for id in core::mem::take(&mut self.returned_foreign) {
            self.foreign_gone(id);
        }
    }

    fn reclaim(&mut self) -> usize {
        self.collect();
        let mut completed = 0;
        for (id, reclaims) in core::mem::take(&mut self.done) {
            match reclaims.checked_sub(1) {
                Some(left) => self.done.push((id, left)),
                None => {
                    self.chunks[id as usize].outstanding = false;
                    completed += 1;
                }
            }
        }
        completed
    }
}

/// The wire, everything that is held of it, and the model.
struct World {
    sender: MemoryPort,
    receiver: MemoryPort,
    sent: Vec<Frame>,
    received: Vec<Frame>,
    /// Desc, whether it is the receiver's, and the chunk.
    descs: Vec<(LeaseDesc, bool, u32)>,
    opened: Vec<(RxLease, bool, u32)>,
    model: Model,
    next_mark: u8,
}

fn pick<T>(from: &mut Vec<T>, which: usize) -> Option<T> {
    (which < from.len()).then(|| from.swap_remove(which))
}

impl World {
    fn new() -> Self {
        let (mut sender, receiver) = MemoryPort::pair(&config());
        sender.set_fault_hook(|sequence, _| fate(sequence));
        let (sent, received, descs, opened) = Default::default();
        Self {
            sender,
            receiver,
            sent,
            received,
            descs,
            opened,
            model: Model::default(),
            next_mark: 1,
        }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Alloc => self.alloc()?,
            Step::Transmit(which) => self.transmit(which)?,
            Step::Kick => {
                prop_assert_eq!(self.sender.kick(), 0);
                self.model.kick();
            }
            Step::Receive => {
                let count = self.receiver.receive(0, &mut self.received, 2);
                prop_assert_eq!(count, self.model.rx_ring.len().min(2));
                for frame in &self.received[self.received.len() - count..] {
                    prop_assert_eq!(Some(frame.id()), self.model.rx_ring.pop_front());
                }
            }
            Step::DropReceived(which) => {
                if let Some(frame) = pick(&mut self.received, which) {
                    self.model.foreign_gone(frame.id());
                }
            }
            Step::DropSent(which) => {
                if let Some(frame) = pick(&mut self.sent, which) {
                    self.model.chunks[frame.id() as usize].own = false;
                }
            }
            Step::LendReceived(which) => {
                if let Some(frame) = pick(&mut self.received, which) {
                    let id = frame.id();
                    self.descs.push((frame.lend(), true, id));
                }
            }
            Step::LendSent(which) => {
                if let Some(frame) = pick(&mut self.sent, which) {
                    let id = frame.id();
                    self.descs.push((frame.lend(), false, id));
                }
            }
            Step::Open(which) => self.open(which)?,
            Step::TakeBack(which) => self.take_back(which)?,
            Step::DropLease(which) => {
                if let Some((_lease, foreign, id)) = pick(&mut self.opened, which) {
                    let returned = if foreign {
                        &mut self.model.returned_foreign
                    } else {
                        &mut self.model.returned
                    };
                    returned.push(id);
                }
            }
            Step::Reclaim => {
                prop_assert_eq!(self.sender.reclaim(), self.model.reclaim());
            }
            Step::Collect => {
                let expected = self.model.returned.len() + self.model.returned_foreign.len();
                prop_assert_eq!(self.sender.umem().collect_leases(), expected);
                self.model.collect();
            }
        }
        self.check()
    }

    fn alloc(&mut self) -> Result<(), TestCaseError> {
        let frame = self.sender.umem().alloc_tx();
        prop_assert_eq!(frame.is_some(), self.model.free() > 0);
        if let Some(mut frame) = frame {
            let chunk = &mut self.model.chunks[frame.id() as usize];
            prop_assert!(
                !chunk.own && !chunk.outstanding,
                "{} was not free",
                frame.id()
            );
            self.next_mark = self.next_mark.wrapping_add(1);
            *chunk = Chunk {
                own: true,
                outstanding: false,
                mark: self.next_mark,
            };
            frame.tail_mut().expect("fresh frames may be written")[..3].fill(self.next_mark);
            frame.extend(3);
            frame
                .head_mut(HEADER)
                .expect("fresh frames have headroom")
                .fill(self.next_mark);
            self.sent.push(frame);
        }
        Ok(())
    }

    fn transmit(&mut self, which: usize) -> Result<(), TestCaseError> {
        let Some(frame) = self.sent.get(which) else {
            return Ok(());
        };
        let chunk = &mut self.model.chunks[frame.id() as usize];
        let room = self.model.tx_ring.len() < RING as usize;
        let queued = chunk.outstanding;
        chunk.outstanding = true;
        let capped = self.model.outstanding() > OUTSTANDING as usize;
        let expected = !queued && room && !capped;
        self.model.chunks[frame.id() as usize].outstanding = queued || expected;
        prop_assert_eq!(self.sender.transmit(frame, HEADER), expected);
        if expected {
            self.model.tx_ring.push_back(frame.id());
        }
        Ok(())
    }

    fn open(&mut self, which: usize) -> Result<(), TestCaseError> {
        let Some((desc, foreign, id)) = pick(&mut self.descs, which) else {
            return Ok(());
        };
        let port = if foreign {
            &self.receiver
        } else {
            &self.sender
        };
        let view = port.umem().view();
        let lease = view.open(desc);
        prop_assert!(lease.is_some());
        prop_assert!(view.open(desc).is_none(), "opened twice");
        prop_assert!(
            port.umem().take_back(desc).is_none(),
            "taken back while open"
        );
        self.opened.extend(lease.map(|lease| (lease, foreign, id)));
        Ok(())
    }

    fn take_back(&mut self, which: usize) -> Result<(), TestCaseError> {
        let Some((desc, foreign, id)) = pick(&mut self.descs, which) else {
            return Ok(());
        };
        let port = if foreign {
            &self.receiver
        } else {
            &self.sender
        };
        let frame = port.umem().take_back(desc);
        prop_assert_eq!(frame.as_ref().map(Frame::id), Some(id));
        prop_assert!(
            port.umem().view().open(desc).is_none(),
            "opened after it was taken back"
        );
        if foreign {
            self.received.extend(frame)
        } else {
            self.sent.extend(frame)
        }
        Ok(())
    }

    /// Everything that can be seen from outside agrees with the model.
    fn check(&mut self) -> Result<(), TestCaseError> {
        let umem = self.sender.umem();
        let ledger = umem
            .audit()
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        self.receiver
            .umem()
            .audit()
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(umem.tx_free(), self.model.free());
        prop_assert_eq!((ledger.tx_outstanding + ledger.held_queued) as usize, {
            let leased = |id: u32| {
                self.descs
                    .iter()
                    .any(|(_, foreign, desc)| !foreign && *desc == id)
                    || self
                        .opened
                        .iter()
                        .any(|(_, foreign, lease)| !foreign && *lease == id)
                    || self.model.returned.contains(&id)
            };
            (0..CHUNKS)
                .filter(|id| self.model.chunks[*id as usize].outstanding && !leased(*id))
                .count()
        });
        let space = (RING as usize - self.model.tx_ring.len())
            .min(OUTSTANDING as usize - self.model.outstanding());
        prop_assert_eq!(self.sender.tx_space(), space);
        for frame in &mut self.sent {
            let chunk = &self.model.chunks[frame.id() as usize];
            prop_assert_eq!(frame.is_queued(), chunk.outstanding);
            prop_assert_eq!(frame.bytes(), &[chunk.mark; 3]);
            prop_assert_eq!(frame.bytes_mut().is_none(), chunk.outstanding);
            prop_assert_eq!(frame.head_mut(HEADER).is_none(), chunk.outstanding);
            prop_assert_eq!(frame.tail_mut().is_none(), chunk.outstanding);
        }
        for frame in &mut self.received {
            let mark = self.model.chunks[frame.id() as usize].mark;
            prop_assert_eq!(frame.bytes(), &[mark; HEADER + 3]);
            prop_assert!(frame.bytes_mut().is_none() && frame.is_queued());
        }
        for (lease, foreign, id) in &self.opened {
            let mark = self.model.chunks[*id as usize].mark;
            let len = if *foreign { HEADER + 3 } else { 3 };
            prop_assert_eq!(&**lease, vec![mark; len]);
        }
        prop_assert_eq!(self.sender.statistics().fault_dropped, self.model.dropped);
        prop_assert_eq!(
            self.receiver.statistics().rx_ring_full[0],
            self.model.rx_full
        );
        Ok(())
    }

    /// When everybody lets go, everything is free.
    fn end(mut self) -> Result<(), TestCaseError> {
        self.sent.clear();
        for (desc, foreign, _) in self.descs.drain(..) {
            let port = if foreign {
                &self.receiver
            } else {
                &self.sender
            };
            prop_assert!(port.umem().take_back(desc).is_some());
        }
        self.opened.clear();
        self.received.clear();
        self.sender.kick();
        while self.receiver.receive(0, &mut self.received, usize::MAX) > 0 {}
        self.received.clear();
        for _ in 0..4 {
            self.sender.reclaim();
        }
        let ledger = self
            .sender
            .umem()
            .audit()
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(ledger.tx_free, CHUNKS);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn frames_live_as_the_model_says(steps in prop::collection::vec(step(), 1..150)) {
        let mut world = World::new();
        for step in steps {
            world.step(step)?;
        }
        world.end()?;
    }
}
