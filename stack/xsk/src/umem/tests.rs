//! The kernel's side of a chunk's life, against a model: the addresses that go into and come out of the rings.

use std::os::fd::AsRawFd;

use proptest::prelude::*;

use super::*;

const RX: u32 = 5;
const TX: u32 = 4;
const RINGS: usize = 3;

fn small() -> Rc<Umem> {
    Umem::new(&UmemConfig {
        chunk_size: 4096,
        rx_frames: RX,
        tx_frames: TX,
        headroom: 64,
        ..UmemConfig::default()
    })
    .expect("a UMEM")
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Fill,
    /// The kernel fills the n-th chunk that it has with this many bytes.
    Receive(usize, u32),
    Alloc,
    Post(usize),
    /// The n-th posted chunk completes.
    Complete(usize),
    Drop(usize),
    Lend(usize),
    TakeBack(usize),
    /// The n-th desc is opened and read elsewhere.
    Return(usize),
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    let which = || 0usize..6;
    prop_oneof![
        3 => Just(Step::Fill),
        3 => (which(), 0u32..2000).prop_map(|(which, len)| Step::Receive(which, len)),
        3 => Just(Step::Alloc),
        3 => which().prop_map(Step::Post),
        3 => which().prop_map(Step::Complete),
        2 => which().prop_map(Step::Drop),
        2 => which().prop_map(Step::Lend),
        1 => which().prop_map(Step::TakeBack),
        2 => which().prop_map(Step::Return),
        1 => Just(Step::Collect),
    ]
}

/// Sets of chunks, as an outsider would keep them.
#[derive(Default)]
struct Model {
    kernel: Vec<u32>,
    frames: Vec<Frame>,
    outstanding: Vec<u32>,
    descs: Vec<(LeaseDesc, u32)>,
    returned: Vec<u32>,
    /// The ring that each RX chunk came by last.
    came_by: [usize; RX as usize],
}

impl Model {
    fn free(&self, range: core::ops::Range<u32>) -> usize {
        let used = |chunk: &u32| {
            self.kernel.contains(chunk)
                || self.frames.iter().any(|frame| frame.id() == *chunk)
                || self.outstanding.contains(chunk)
                || self.descs.iter().any(|(_, lent)| lent == chunk)
                || self.returned.contains(chunk)
        };
        range.filter(|chunk| !used(chunk)).count()
    }

    fn step(&mut self, umem: &Rc<Umem>, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Fill => {
                let address = umem.give_to_kernel();
                prop_assert_eq!(address.is_some(), self.free(0..RX) > 0);
                self.kernel
                    .extend(address.map(|address| (address / 4096) as u32));
            }
            Step::Receive(which, len) if which < self.kernel.len() => {
                let chunk = self.kernel.swap_remove(which);
                let frame =
                    umem.take_from_kernel(u64::from(chunk) * 4096 + 256, len, len as usize % RINGS);
                self.came_by[chunk as usize] = len as usize % RINGS;
                let frame = frame.ok_or_else(|| TestCaseError::fail("not received"))?;
                prop_assert_eq!(
                    (frame.id(), frame.headroom(), frame.len()),
                    (chunk, 256, len as usize)
                );
                self.frames.push(frame);
            }
            Step::Alloc => {
                let free = self.free(RX..RX + TX);
                let frame = umem.alloc_tx();
                prop_assert_eq!(frame.is_some(), free > 0);
                self.frames.extend(frame);
            }
            Step::Post(which) if which < self.frames.len() => {
                let frame = &self.frames[which];
                let queued = self.outstanding.contains(&frame.id());
                prop_assert_eq!(frame.may_be_sent(umem, 1), !queued);
                if !queued {
                    umem.posted(frame.id());
                    self.outstanding.push(frame.id());
                }
            }
            Step::Complete(which) if which < self.outstanding.len() => {
                let address = u64::from(self.outstanding.swap_remove(which)) * 4096 + 17;
                prop_assert!(umem.completed(address));
                prop_assert!(!umem.completed(address), "completed twice");
            }
            Step::Drop(which) if which < self.frames.len() => drop(self.frames.swap_remove(which)),
            Step::Lend(which) if which < self.frames.len() => {
                let frame = self.frames.swap_remove(which);
                let chunk = frame.id();
                self.descs.push((frame.lend(), chunk));
            }
            Step::TakeBack(which) if which < self.descs.len() => {
                let (desc, _) = self.descs.swap_remove(which);
                self.frames.extend(umem.take_back(desc));
            }
            Step::Return(which) if which < self.descs.len() => {
                let (desc, chunk) = self.descs.swap_remove(which);
                let view = umem.view();
                let reader = std::thread::spawn(move || view.open(desc).is_some());
                prop_assert!(reader.join().is_ok_and(|opened| opened));
                self.returned.push(chunk);
            }
            Step::Collect => {
                prop_assert_eq!(umem.collect_leases(), self.returned.len());
                self.returned.clear();
            }
            _ => {}
        }
        Ok(())
    }

    fn check(&self, umem: &Rc<Umem>) -> Result<(), TestCaseError> {
        let ledger = umem
            .audit()
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        let queued = |chunk: u32| self.outstanding.contains(&chunk);
        let held_queued = self
            .frames
            .iter()
            .filter(|frame| queued(frame.id()))
            .count();
        let leased: Vec<u32> = self
            .descs
            .iter()
            .map(|(_, chunk)| *chunk)
            .chain(self.returned.iter().copied())
            .collect();
        let leased_queued = leased.iter().filter(|chunk| queued(**chunk)).count();
        let expected = Ledger {
            frames: RX + TX,
            rx_free: self.free(0..RX) as u32,
            tx_free: self.free(RX..RX + TX) as u32,
            fill: self.kernel.len() as u32,
            held: (self.frames.len() - held_queued) as u32,
            held_queued: held_queued as u32,
            tx_outstanding: (self.outstanding.len() - held_queued - leased_queued) as u32,
            leased: leased.len() as u32,
        };
        prop_assert_eq!(ledger, expected);
        let held = (0..RX)
            .filter(|chunk| !self.kernel.contains(chunk) && self.free(*chunk..chunk + 1) == 0);
        let mut by_ring = [0; RINGS];
        for chunk in held {
            by_ring[self.came_by[chunk as usize]] += 1;
        }
        prop_assert_eq!([0, 1, 2].map(|ring| umem.held_of_ring(ring)), by_ring);
        Ok(())
    }
}

proptest! {
    #[test]
    fn every_chunk_has_the_holder_that_the_model_says(steps in prop::collection::vec(step(), 1..200)) {
        let umem = small();
        umem.count_rings(RINGS);
        let mut model = Model::default();
        for step in steps {
            model.step(&umem, step)?;
            model.check(&umem)?;
        }
    }
}

#[test]
fn descriptors_that_the_kernel_cannot_mean_change_nothing() {
    let umem = small();
    let address = umem.give_to_kernel().expect("an RX chunk");
    let other = address + 4096;
    let bad = [
        (other, 60),
        (address + 4000, 97),
        (address, 4097),
        (address, u32::MAX),
        (9 * 4096, 60),
        (u64::MAX, 60),
    ];
    for (address, len) in bad {
        assert!(
            umem.take_from_kernel(address, len, 0).is_none(),
            "{address} {len}",
        );
    }
    assert!(!umem.completed(address) && !umem.completed(u64::MAX));
    assert_eq!(umem.audit().expect("adds up").fill, 1);
    assert!(
        umem.take_from_kernel(address + 4000, 96, 0).is_some(),
        "up to the chunk's end",
    );
}

#[test]
fn the_memory_keeps_its_size() {
    let umem = small();
    for size in [0, 4096, 1 << 20] {
        // SAFETY: no pointers.
        let result = unsafe { libc::ftruncate(umem.memfd().as_raw_fd(), size) };
        assert_eq!(result, -1);
        assert_eq!(
            std::io::Error::last_os_error().raw_os_error(),
            Some(libc::EPERM)
        );
    }
}

#[test]
fn a_ledger_that_does_not_add_up_says_so() {
    let ledger = small().ledger();
    let wrong = Ledger {
        held: ledger.held + 1,
        ..ledger
    };
    assert_eq!(ledger.check(), Ok(()));
    assert_eq!(wrong.check(), Err(LedgerError { ledger: wrong }));
    let umem = small();
    umem.held_by[holder::HELD].set(1);
    umem.held_by[holder::FILL].set(u32::MAX);
    assert!(umem.audit().is_err());
}
