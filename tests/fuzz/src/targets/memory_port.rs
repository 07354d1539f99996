//! The wire in memory against queues of bytes: two ports, frames that are held, withheld completions, losses, steering to rings
//! that are small or not there. After every step the ledgers of both memories add up; at the end every frame is free.

use std::collections::VecDeque;

use bywash_xsk::{Fate, Frame, MemoryConfig, MemoryPort, PoolClass, Port, RingSizes, UmemConfig};

use crate::Input;

const TX: usize = 12;
const RINGS: [usize; 3] = [4, 2, 3];

/// One end: the port, what the application holds, and what the model knows of it.
struct End {
    port: MemoryPort,
    /// Frames to send again, or to drop.
    kept: Vec<Frame>,
    received: Vec<(Frame, Vec<u8>)>,
    /// Posted and not kicked: bytes, fate, ring.
    posted: VecDeque<(Vec<u8>, Fate, usize)>,
    /// In the RX rings of this end.
    rings: [VecDeque<Vec<u8>>; 3],
}

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let config = MemoryConfig {
        umem: UmemConfig {
            rx_frames: 2,
            tx_frames: TX as u32,
            populate: false,
            ..UmemConfig::default()
        },
        rings: RingSizes {
            primary: RINGS[0] as u32,
            control: RINGS[1] as u32,
            tx: 6,
            fill: 2,
        },
        pools: vec![PoolClass {
            pools: 1,
            ring: RINGS[2] as u32,
        }],
        tx_outstanding_max: Some(10),
    };
    let (a, b) = MemoryPort::pair(&config);
    let mut ends = [a, b].map(End::new);
    let mut number = 0;
    for _ in 0..300 {
        if input.is_empty() {
            break;
        }
        let side = usize::from(input.below(2));
        step(&mut ends, side, &mut input, &mut number);
        for end in &ends {
            end.port.umem().audit().expect("the ledger adds up");
        }
    }
    finish(ends);
}

impl End {
    fn new(mut port: MemoryPort) -> Self {
        port.set_steering(|bytes| usize::from(bytes[0] & 3));
        // The fate stands in the frame itself.
        port.set_fault_hook(|_, bytes| fate(bytes[1]));
        Self {
            port,
            kept: Vec::new(),
            received: Vec::new(),
            posted: VecDeque::new(),
            rings: Default::default(),
        }
    }
}

fn fate(byte: u8) -> Fate {
    match byte & 7 {
        0 => Fate::Drop,
        1 => Fate::DropDelayCompletion(u32::from(byte >> 4)),
        2 => Fate::DelayCompletion(u32::from(byte >> 4)),
        _ => Fate::Deliver,
    }
}

fn step(ends: &mut [End; 2], side: usize, input: &mut Input<'_>, number: &mut u8) {
    let end = &mut ends[side];
    match input.below(10) {
        0..=2 => {
            *number = number.wrapping_add(1);
            let bytes = [input.byte(), input.byte(), *number, side as u8];
            if let Some(mut frame) = end.port.umem().alloc_tx() {
                frame.tail_mut().expect("a fresh frame")[..4].copy_from_slice(&bytes);
                frame.extend(4);
                post(end, &frame);
                if input.below(2) == 0 {
                    end.kept.push(frame);
                }
            }
        }
        3 => {
            // A retransmission; refused while the first is queued.
            if let Some(frame) = end.kept.pop() {
                post(end, &frame);
                end.kept.insert(0, frame);
            }
        }
        4 => kick(ends, side),
        5 | 6 => receive(
            end,
            usize::from(input.below(3)),
            usize::from(input.below(4)),
        ),
        7 => drop(end.received.pop()),
        8 => {
            end.port.reclaim();
        }
        _ => drop(end.kept.pop()),
    }
}

fn post(end: &mut End, frame: &Frame) {
    let room = end.port.tx_space();
    let queued = frame.is_queued();
    let taken = end.port.transmit(frame, 0);
    assert_eq!(taken, room > 0 && !queued);
    if taken {
        let bytes = frame.bytes().to_vec();
        let ring = usize::from(bytes[0] & 3);
        end.posted.push_back((bytes.clone(), fate(bytes[1]), ring));
    }
}

fn kick(ends: &mut [End; 2], side: usize) {
    ends[side].port.kick();
    while let Some((bytes, fate, ring)) = ends[side].posted.pop_front() {
        let lost = matches!(fate, Fate::Drop | Fate::DropDelayCompletion(_));
        if let Some(queue) = ends[1 - side].rings.get_mut(ring)
            && queue.len() < RINGS[ring]
            && !lost
        {
            queue.push_back(bytes);
        }
    }
}

fn receive(end: &mut End, ring: usize, budget: usize) {
    let mut out = Vec::new();
    let count = end.port.receive(ring, &mut out, budget);
    assert_eq!(count, out.len());
    assert_eq!(count, budget.min(end.rings[ring].len()));
    for frame in out {
        let expected = end.rings[ring].pop_front().expect("counted above");
        assert_eq!(frame.bytes(), expected);
        end.received.push((frame, expected));
    }
    // Nobody writes into what is held.
    for (frame, expected) in &end.received {
        assert_eq!(frame.bytes(), expected);
    }
}

fn finish(mut ends: [End; 2]) {
    for side in 0..2 {
        kick(&mut ends, side);
    }
    for end in &mut ends {
        for ring in 0..RINGS.len() {
            receive(end, ring, usize::MAX);
        }
        end.received.clear();
        end.kept.clear();
    }
    // The longest delay of a completion is 15 reclaims.
    for end in &mut ends {
        for _ in 0..20 {
            end.port.reclaim();
        }
        let ledger = end.port.umem().audit().expect("the ledger adds up");
        assert_eq!(ledger.tx_free as usize, TX, "{ledger:?}");
    }
}
