//! A ring against an oracle: two queues, one for what was released and one for what was not.
//!
//! One body, driven twice: by proptest here, and by the bytes of a fuzzer (`tests/fuzz`).

use core::cell::UnsafeCell;
use std::collections::VecDeque;
use std::sync::Arc;

#[cfg(test)]
use proptest::prelude::*;

use super::*;

/// Ring memory of our own.
pub(super) struct OwnRing {
    producer: AtomicU32,
    consumer: AtomicU32,
    flags: AtomicU32,
    entries: Box<[UnsafeCell<u64>]>,
}

// SAFETY: the entries are reached through a `Producer` and a `Consumer` only, which keep off each other's.
unsafe impl Send for OwnRing {}
// SAFETY: as above.
unsafe impl Sync for OwnRing {}

// SAFETY: the pointers go into the `Arc` that travels along.
unsafe impl Send for Memory<u64> {}

fn memory(ring: &Arc<OwnRing>) -> Memory<u64> {
    let entries: *mut u64 = ring.entries.as_ptr().cast_mut().cast();
    Memory {
        producer: NonNull::from(&ring.producer),
        consumer: NonNull::from(&ring.consumer),
        flags: NonNull::from(&ring.flags),
        entries: NonNull::new(entries).expect("a slice has an address"),
        size: ring.entries.len() as u32,
        _backing: Backing::Own {
            _ring: Arc::clone(ring),
        },
    }
}

/// Both sides of an empty ring whose cursors are at `start`.
fn pair(size: u32, start: u32) -> (Arc<OwnRing>, Producer<u64>, Consumer<u64>) {
    let ring = Arc::new(OwnRing {
        producer: AtomicU32::new(start),
        consumer: AtomicU32::new(start),
        flags: AtomicU32::new(0),
        entries: (0..size).map(|_| UnsafeCell::new(u64::MAX)).collect(),
    });
    let (producer, consumer) = (Producer::over(memory(&ring)), Consumer::over(memory(&ring)));
    (ring, producer, consumer)
}

#[derive(Clone, Debug)]
enum Step {
    /// Ask for `want`, write as many of the granted as `part` of 255 says.
    Put {
        want: u32,
        part: u8,
    },
    ReleasePut,
    Take {
        want: u32,
        part: u8,
    },
    ReleaseTaken,
}

#[cfg(test)]
fn step() -> impl Strategy<Value = Step> {
    let want = || prop_oneof![0u32..6, 0u32..80, Just(u32::MAX)];
    prop_oneof![
        3 => (want(), any::<u8>()).prop_map(|(want, part)| Step::Put { want, part }),
        2 => Just(Step::ReleasePut),
        3 => (want(), any::<u8>()).prop_map(|(want, part)| Step::Take { want, part }),
        2 => Just(Step::ReleaseTaken),
    ]
}

#[cfg(test)]
fn start() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), (0u32..200).prop_map(|n| n.wrapping_sub(100))]
}

/// What a ring is, without arithmetic.
#[derive(Default)]
struct Oracle {
    unreleased: VecDeque<u64>,
    released: VecDeque<u64>,
    /// Taken, but the producer does not know.
    taken: usize,
}

impl Oracle {
    fn free(&self, size: u32) -> usize {
        size as usize - self.unreleased.len() - self.released.len() - self.taken
    }
}

fn body(size: u32, start: u32, steps: &[Step]) {
    let (_ring, mut producer, mut consumer) = pair(size, start);
    let mut oracle = Oracle::default();
    let mut next = 0u64;
    for step in steps {
        match *step {
            Step::Put { want, part } => {
                let granted = producer.acquire(want);
                assert_eq!(granted as usize, oracle.free(size).min(want as usize));
                for _ in 0..granted * u32::from(part) / 255 {
                    producer.put(next);
                    oracle.unreleased.push_back(next);
                    next += 1;
                }
            }
            Step::ReleasePut => {
                producer.release();
                oracle.released.append(&mut oracle.unreleased);
            }
            Step::Take { want, part } => {
                let granted = consumer.acquire(want);
                assert_eq!(granted as usize, oracle.released.len().min(want as usize));
                for _ in 0..granted * u32::from(part) / 255 {
                    assert_eq!(Some(consumer.take()), oracle.released.pop_front());
                    oracle.taken += 1;
                }
            }
            Step::ReleaseTaken => {
                consumer.release();
                oracle.taken = 0;
            }
        }
        assert_eq!(producer.free() as usize, oracle.free(size));
        assert_eq!(
            producer.pending() as usize,
            oracle.released.len() + oracle.taken
        );
    }
}

/// A fuzzer's bytes as the size of a ring, where its cursors start, and steps; see [`crate::fuzzing::rings`].
#[cfg(feature = "fuzzing")]
pub(crate) fn run(data: &[u8]) {
    let Some((&[size_log, near, a, b, c, d], rest)) = data.split_first_chunk::<6>() else {
        return;
    };
    let start = u32::from_le_bytes([a, b, c, d]);
    // Half of them just before or behind the wrap.
    let start = if near % 2 == 0 {
        start
    } else {
        (start % 200).wrapping_sub(100)
    };
    let wants = |byte: u8| match byte {
        255 => u32::MAX,
        few => u32::from(few % 80),
    };
    let steps: Vec<Step> = rest
        .chunks(3)
        .take(300)
        .map(|chunk| {
            let at = |index: usize| chunk.get(index).copied().unwrap_or(0);
            let (want, part) = (wants(at(1)), at(2));
            match at(0) % 8 {
                0..=2 => Step::Put { want, part },
                3 => Step::ReleasePut,
                4..=6 => Step::Take { want, part },
                _ => Step::ReleaseTaken,
            }
        })
        .collect();
    body(1 << (size_log % 7), start, &steps);
}

/// A fuzzer's bytes as what the other side of both kinds of ring writes into its cursors, whatever it likes; see
/// [`crate::fuzzing::hostile_rings`].
#[cfg(feature = "fuzzing")]
pub(crate) fn run_hostile(data: &[u8]) {
    let (ring, mut producer, mut consumer) = pair(8, 5);
    for chunk in data.chunks_exact(6).take(100) {
        let cursor = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        // The cursor that the other side of each owns.
        if chunk[4] % 2 == 0 {
            ring.consumer.store(cursor, Ordering::Release);
        } else {
            ring.producer.store(cursor, Ordering::Release);
        }
        let want = u32::from(chunk[5]);
        let room = producer.acquire(want);
        assert!(room <= want.min(8) && producer.free() <= 8 && producer.pending() <= 8);
        for entry in 0..room {
            producer.put(entry.into());
        }
        producer.release();
        let filled = consumer.acquire(want);
        assert!(filled <= want.min(8));
        for _ in 0..filled {
            consumer.take();
        }
        consumer.release();
    }
}

#[cfg(test)]
proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_its_oracle(
        size_log in 0u32..7,
        start in start(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        body(1 << size_log, start, &steps);
    }
}

/// Both sides in threads of their own, over the wrap at 2^32: nothing is lost, doubled or torn.
#[test]
fn carries_everything_between_threads() {
    const COUNT: u64 = 200_000;
    let (_ring, mut producer, mut consumer) = pair(64, u32::MAX - 1000);
    let sender = std::thread::spawn(move || {
        let mut next = 0;
        while next < COUNT {
            let batch = (COUNT - next).min(next % 17 + 1) as u32;
            for _ in 0..producer.acquire(batch) {
                producer.put(next);
                next += 1;
            }
            producer.release();
            std::thread::yield_now();
        }
    });
    let mut expected = 0;
    while expected < COUNT {
        for _ in 0..consumer.acquire((expected % 23 + 1) as u32) {
            assert_eq!(consumer.take(), expected);
            expected += 1;
        }
        consumer.release();
        std::thread::yield_now();
    }
    sender.join().expect("the sender ends");
    assert_eq!(consumer.acquire(1), 0);
}

/// A consumer's cursor that is ahead of ours grants nothing, and a producer's far ahead not more than a ring.
#[test]
fn nonsense_of_the_other_side_is_bounded() {
    let (ring, mut producer, mut consumer) = pair(8, 5);
    ring.consumer.store(6, Ordering::Release);
    producer.seen = 6;
    assert_eq!(producer.acquire(8), 0);
    assert_eq!(producer.free(), 0);
    ring.producer.store(5000, Ordering::Release);
    assert_eq!(consumer.acquire(100), 8);
}

#[test]
fn reads_the_wakeup_flag() {
    let (ring, producer, _consumer) = pair(8, 0);
    assert!(!producer.needs_wakeup());
    ring.flags
        .store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
    assert!(producer.needs_wakeup());
}

#[test]
#[should_panic(expected = "put without acquire")]
fn a_full_ring_takes_nothing() {
    let (_ring, mut producer, _consumer) = pair(2, 0);
    for entry in 0..3 {
        producer.put(entry);
    }
}

#[test]
#[should_panic(expected = "take without acquire")]
fn an_empty_ring_gives_nothing() {
    let (_ring, _producer, mut consumer) = pair(2, 0);
    consumer.take();
}
