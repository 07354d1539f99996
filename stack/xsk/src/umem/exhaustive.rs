//! Every state that three chunks can be in, and every step out of each: none is lost, none has two owners.
//!
//! A state is what an outsider knows of the chunks, with the order of the free lists. Breadth first from the beginning: each
//! state is made anew by the shortest way to it, and left by every step there is. Steps that are not allowed there are tried
//! as well, and must change nothing.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::region::RxLease;

const CHUNKS: usize = 3;
const SIZE: u64 = 4096;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Loan {
    #[default]
    None,
    /// A desc is on its way.
    Lent,
    /// Somebody reads.
    Opened,
    /// Given back, not collected.
    Returned,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Chunk {
    kernel: bool,
    token: bool,
    queued: bool,
    loan: Loan,
}

impl Chunk {
    fn is_free(&self) -> bool {
        *self == Self::default()
    }
}

/// What an outsider knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    chunks: [Chunk; CHUNKS],
    /// Free lists, the next one last.
    rx_free: Vec<usize>,
    tx_free: Vec<usize>,
    /// Returned loans, the newest last.
    returned: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Fill,
    Receive(usize),
    Alloc,
    /// For the first time, or again after its completion.
    Post(usize),
    Complete(usize),
    Drop(usize),
    Lend(usize),
    TakeBack(usize),
    Open(usize),
    Return(usize),
    Collect,
}

fn all_steps() -> Vec<Step> {
    let of_chunk = [
        Step::Receive,
        Step::Post,
        Step::Complete,
        Step::Drop,
        Step::Lend,
        Step::TakeBack,
        Step::Open,
        Step::Return,
    ];
    let of_chunks = of_chunk.into_iter().flat_map(|step| (0..CHUNKS).map(step));
    [Step::Fill, Step::Alloc, Step::Collect]
        .into_iter()
        .chain(of_chunks)
        .collect()
}

impl State {
    fn new(rx: usize) -> Self {
        Self {
            rx_free: (0..rx).rev().collect(),
            tx_free: (rx..CHUNKS).rev().collect(),
            ..Self::default()
        }
    }

    fn free_if_over(&mut self, chunk: usize, rx: usize) {
        if self.chunks[chunk].is_free() {
            match chunk < rx {
                true => self.rx_free.push(chunk),
                false => self.tx_free.push(chunk),
            }
        }
    }

    /// The state behind a step; `None`: it is not allowed here.
    fn after(&self, step: Step, rx: usize) -> Option<Self> {
        let mut next = self.clone();
        let of = |chunk: usize| self.chunks[chunk];
        match step {
            Step::Fill => {
                let chunk = next.rx_free.pop()?;
                next.chunks[chunk].kernel = true;
            }
            Step::Alloc => {
                let chunk = next.tx_free.pop()?;
                next.chunks[chunk].token = true;
            }
            Step::Receive(chunk) if of(chunk).kernel => {
                next.chunks[chunk].kernel = false;
                next.chunks[chunk].token = true;
            }
            Step::Post(chunk) if of(chunk).token && !of(chunk).queued => {
                next.chunks[chunk].queued = true;
            }
            Step::Complete(chunk) if of(chunk).queued => {
                next.chunks[chunk].queued = false;
                next.free_if_over(chunk, rx);
            }
            Step::Drop(chunk) if of(chunk).token => {
                next.chunks[chunk].token = false;
                next.free_if_over(chunk, rx);
            }
            Step::Lend(chunk) if of(chunk).token => {
                next.chunks[chunk].token = false;
                next.chunks[chunk].loan = Loan::Lent;
            }
            Step::TakeBack(chunk) if of(chunk).loan == Loan::Lent => {
                next.chunks[chunk].loan = Loan::None;
                next.chunks[chunk].token = true;
            }
            Step::Open(chunk) if of(chunk).loan == Loan::Lent => {
                next.chunks[chunk].loan = Loan::Opened;
            }
            Step::Return(chunk) if of(chunk).loan == Loan::Opened => {
                next.chunks[chunk].loan = Loan::Returned;
                next.returned.push(chunk);
            }
            Step::Collect => {
                for chunk in std::mem::take(&mut next.returned).into_iter().rev() {
                    next.chunks[chunk].loan = Loan::None;
                    next.free_if_over(chunk, rx);
                }
            }
            _ => return None,
        }
        Some(next)
    }

    fn ledger(&self) -> Ledger {
        let count =
            |is: fn(&Chunk) -> bool| self.chunks.iter().filter(|chunk| is(chunk)).count() as u32;
        Ledger {
            frames: CHUNKS as u32,
            rx_free: self.rx_free.len() as u32,
            tx_free: self.tx_free.len() as u32,
            fill: count(|chunk| chunk.kernel),
            held: count(|chunk| chunk.token && !chunk.queued),
            held_queued: count(|chunk| chunk.token && chunk.queued),
            tx_outstanding: count(|chunk| chunk.queued && !chunk.token && chunk.loan == Loan::None),
            leased: count(|chunk| chunk.loan != Loan::None),
        }
    }
}

/// The real thing, with all that is held of it.
struct World {
    umem: Rc<Umem>,
    frames: [Option<Frame>; CHUNKS],
    descs: [Option<LeaseDesc>; CHUNKS],
    /// Descs that have had their time.
    stale: Vec<LeaseDesc>,
    opened: [Option<RxLease>; CHUNKS],
}

impl World {
    fn new(rx: usize) -> Self {
        let umem = Umem::new(&UmemConfig {
            chunk_size: SIZE as u32,
            rx_frames: rx as u32,
            tx_frames: (CHUNKS - rx) as u32,
            headroom: 64,
            ..UmemConfig::default()
        })
        .expect("a UMEM");
        umem.count_rings(1);
        Self {
            umem,
            frames: Default::default(),
            descs: Default::default(),
            stale: Vec::new(),
            opened: Default::default(),
        }
    }

    /// Tries a step. Whether anything happened.
    fn try_step(&mut self, step: Step) -> bool {
        match step {
            Step::Fill => self.umem.give_to_kernel().is_some(),
            Step::Alloc => self.keep(self.umem.alloc_tx()),
            Step::Receive(chunk) => {
                let frame = self.umem.take_from_kernel(chunk as u64 * SIZE + 256, 60, 0);
                self.keep(frame)
            }
            Step::Post(chunk) => match &self.frames[chunk] {
                Some(frame) if frame.may_be_sent(&self.umem, 14) => {
                    self.umem.posted(frame.id());
                    true
                }
                _ => false,
            },
            Step::Complete(chunk) => self.umem.completed(chunk as u64 * SIZE),
            Step::Drop(chunk) => self.frames[chunk].take().is_some(),
            Step::Lend(chunk) => {
                let desc = self.frames[chunk].take().map(Frame::lend);
                self.stale.extend(desc);
                self.descs[chunk] = desc;
                desc.is_some()
            }
            Step::TakeBack(chunk) => {
                let frame = self.descs[chunk].and_then(|desc| self.umem.take_back(desc));
                self.keep(frame)
            }
            Step::Open(chunk) => {
                let lease = self.descs[chunk].and_then(|desc| self.umem.view().open(desc));
                let opened = lease.is_some();
                if opened {
                    self.opened[chunk] = lease;
                }
                opened
            }
            Step::Return(chunk) => self.opened[chunk].take().is_some(),
            Step::Collect => {
                self.umem.collect_leases();
                true
            }
        }
    }

    fn keep(&mut self, frame: Option<Frame>) -> bool {
        let Some(frame) = frame else { return false };
        let place = &mut self.frames[frame.id() as usize];
        assert!(place.is_none(), "chunk {} has two tokens", frame.id());
        *place = Some(frame);
        true
    }

    fn check(&mut self, state: &State, rx: usize, way: &[Step]) {
        let ledger = self
            .umem
            .audit()
            .unwrap_or_else(|error| panic!("{error} after {way:?}"));
        assert_eq!(ledger, state.ledger(), "after {way:?}");
        let held =
            (0..rx).filter(|chunk| !state.chunks[*chunk].is_free() && !state.chunks[*chunk].kernel);
        assert_eq!(self.umem.held_of_ring(0), held.count(), "after {way:?}");
        for (chunk, known) in state.chunks.iter().enumerate() {
            let Some(frame) = &mut self.frames[chunk] else {
                assert!(!known.token, "chunk {chunk} lost its token after {way:?}");
                continue;
            };
            assert!(known.token, "after {way:?}");
            let may_write = frame.head_mut(14).is_some();
            assert_eq!(may_write, !known.queued, "chunk {chunk} after {way:?}");
        }
    }
}

/// Every reachable state of `rx` RX chunks and the rest TX chunks. Returns how many states and steps there are.
fn explore(rx: usize) -> (usize, usize) {
    let steps = all_steps();
    let mut ways: BTreeMap<State, Vec<Step>> = BTreeMap::new();
    let mut queue = VecDeque::from([State::new(rx)]);
    ways.insert(State::new(rx), Vec::new());
    let mut taken = 0;
    while let Some(state) = queue.pop_front() {
        let way = ways[&state].clone();
        let replay = || {
            let mut world = World::new(rx);
            for step in &way {
                assert!(world.try_step(*step), "{step:?} on {way:?}");
            }
            world
        };
        let mut here = replay();
        here.check(&state, rx, &way);
        let stale: Vec<LeaseDesc> = here.stale.clone();
        for desc in stale {
            let chunk = desc.chunk as usize;
            let is_live = state.chunks[chunk].loan == Loan::Lent && here.descs[chunk] == Some(desc);
            if !is_live {
                assert!(
                    here.umem.view().open(desc).is_none(),
                    "a stale desc after {way:?}"
                );
            }
        }
        for step in &steps {
            match state.after(*step, rx) {
                // Tried one after the other on the same chunks: none of them may change a thing.
                None => {
                    assert!(!here.try_step(*step), "{step:?} was possible after {way:?}");
                    here.check(&state, rx, &way);
                }
                Some(next) => {
                    taken += 1;
                    let mut world = replay();
                    assert!(world.try_step(*step), "{step:?} was refused after {way:?}");
                    let further = [&way[..], &[*step]].concat();
                    world.check(&next, rx, &further);
                    if !ways.contains_key(&next) {
                        ways.insert(next.clone(), further);
                        queue.push_back(next);
                    }
                }
            }
        }
    }
    (ways.len(), taken)
}

#[test]
fn no_way_loses_a_chunk_or_gives_it_two_owners() {
    for (rx, least) in [(1, 1200), (2, 1200)] {
        let (states, steps) = explore(rx);
        println!(
            "{rx} RX, {} TX chunks: {states} states, {steps} steps",
            CHUNKS - rx
        );
        assert!(
            states > least,
            "only {states} states: the exploration has shrunk"
        );
    }
}
