//! The wire in memory, windows of frames, leases across threads.

use std::sync::mpsc;
use std::thread;

use bywash_xsk::{
    Fate, Frame, LeaseDesc, MemoryConfig, MemoryPort, PoolClass, Port, RingSizes, Umem, UmemConfig,
};

fn small() -> MemoryConfig {
    MemoryConfig {
        umem: UmemConfig {
            chunk_size: 2048,
            rx_frames: 4,
            tx_frames: 16,
            headroom: 100,
            ..UmemConfig::default()
        },
        rings: RingSizes {
            primary: 4,
            control: 2,
            tx: 8,
            fill: 8,
        },
        pools: vec![PoolClass { pools: 1, ring: 2 }],
        tx_outstanding_max: None,
    }
}

fn frame_with(port: &MemoryPort, bytes: &[u8]) -> Frame {
    let mut frame = port.umem().alloc_tx().expect("a TX frame is free");
    frame.tail_mut().expect("a fresh frame")[..bytes.len()].copy_from_slice(bytes);
    frame.extend(bytes.len());
    frame
}

fn receive_all(port: &mut MemoryPort, ring: usize) -> Vec<Frame> {
    let mut out = Vec::new();
    port.receive(ring, &mut out, usize::MAX);
    out
}

#[test]
fn a_frame_crosses_uncopied_and_completes_when_it_is_dropped() {
    let (mut a, mut b) = MemoryPort::pair(&small());
    let mut frame = frame_with(&a, b"payload");
    frame
        .head_mut(4)
        .expect("headroom")
        .copy_from_slice(b"head");
    assert!(a.transmit(&frame, 4));
    assert!(
        receive_all(&mut b, 0).is_empty(),
        "nothing arrives before the kick"
    );
    a.kick();
    let received = receive_all(&mut b, 0);
    assert_eq!(received[0].bytes(), b"headpayload");
    assert_eq!(
        received[0].bytes()[4..].as_ptr(),
        frame.bytes().as_ptr(),
        "the same memory"
    );
    assert_eq!(a.reclaim(), 0, "the peer still reads it");
    assert!(frame.is_queued());
    drop(received);
    assert!(
        frame.is_queued(),
        "a completion counts when it is reclaimed"
    );
    assert_eq!(a.reclaim(), 1);
    assert!(frame.bytes_mut().is_some());
}

#[test]
fn a_received_frame_outlives_token_ports_and_umem_of_its_sender() {
    let (mut a, mut b) = MemoryPort::pair(&small());
    let frame = frame_with(&a, b"left behind");
    assert!(a.transmit(&frame, 0));
    drop(frame);
    a.kick();
    let free = a.umem().tx_free();
    let received = receive_all(&mut b, 0);
    a.reclaim();
    assert_eq!(
        a.umem().tx_free(),
        free,
        "the chunk is not reused while it is read"
    );
    drop(a);
    drop(b);
    assert_eq!(received[0].bytes(), b"left behind");
}

#[test]
fn a_foreign_frame_is_advanced_and_cut_but_never_written() {
    let (mut a, mut b) = MemoryPort::pair(&small());
    assert!(a.transmit(&frame_with(&a, b"0123456789"), 0));
    a.kick();
    let mut received = receive_all(&mut b, 0).remove(0);
    received.advance(2);
    received.truncate(5);
    assert_eq!(received.bytes(), b"23456");
    assert!(received.bytes_mut().is_none());
    assert!(received.head_mut(1).is_none());
    assert!(received.tail_mut().is_none());
    assert!(!b.transmit(&received, 0), "it is not this port's memory");
    assert_eq!(b.statistics().tx_refused, 1);
}

#[test]
fn frames_that_cannot_be_sent_are_refused_and_counted() {
    let (mut a, _b) = MemoryPort::pair(&small());
    let frame = frame_with(&a, b"x");
    assert!(!a.transmit(&frame, 101), "more header than headroom");
    let empty = a.umem().alloc_tx().expect("a TX frame");
    assert!(!a.transmit(&empty, 0), "no bytes");
    assert!(a.transmit(&frame, 100));
    assert!(!a.transmit(&frame, 0), "queued already");
    let other = Umem::new(&small().umem).expect("a UMEM");
    assert!(
        !a.transmit(&other.alloc_tx().expect("a TX frame"), 1),
        "another UMEM's"
    );
    assert_eq!((a.statistics().tx_refused, a.statistics().tx_full), (4, 0));
}

#[test]
fn steering_picks_the_ring_and_each_ring_is_bounded() {
    let (mut a, mut b) = MemoryPort::pair(&small());
    b.set_steering(|bytes| usize::from(bytes[0]));
    assert_eq!(b.rings(), 3);
    let frames: Vec<Frame> = [1u8, 1, 1, 2, 0, 9]
        .iter()
        .map(|ring| frame_with(&a, &[*ring]))
        .collect();
    for frame in &frames {
        assert!(a.transmit(frame, 0));
    }
    a.kick();
    let counts = [0, 1, 2].map(|ring| receive_all(&mut b, ring).len());
    assert_eq!(counts, [1, 2, 1]);
    let statistics = b.statistics();
    assert_eq!(statistics.rx_ring_full, [0, 1, 0]);
    assert_eq!(statistics.steering_dropped, 1);
    assert_eq!(statistics.received, 4);
    assert_eq!(a.reclaim(), 6, "dropped frames complete too");
}

#[test]
fn tx_space_is_ring_room_and_outstanding_cap() {
    let mut config = small();
    config.tx_outstanding_max = Some(10);
    let (mut a, mut b) = MemoryPort::pair(&config);
    b.set_steering(|_| 0);
    let frames: Vec<Frame> = (0..12).map(|n| frame_with(&a, &[n])).collect();
    let posted = |a: &mut MemoryPort, frames: &[Frame]| {
        frames.iter().filter(|frame| a.transmit(frame, 0)).count()
    };
    assert_eq!(a.tx_space(), 8);
    assert_eq!(posted(&mut a, &frames), 8, "the ring");
    a.kick();
    assert_eq!(a.tx_space(), 2);
    assert_eq!(posted(&mut a, &frames[8..]), 2, "the cap");
    a.kick();
    // Four fit into the RX ring, the rest was dropped there and completes.
    assert_eq!(a.reclaim(), 6);
    assert_eq!(a.tx_space(), 6);
    assert_eq!(a.statistics().tx_full, 4 + 2);
    drop(receive_all(&mut b, 0));
    assert_eq!(a.reclaim(), 4);
}

#[test]
fn the_fault_hook_decides() {
    let (mut a, mut b) = MemoryPort::pair(&small());
    a.set_fault_hook(|sequence, bytes| {
        assert_eq!(u64::from(bytes[0]), sequence);
        [Fate::Deliver, Fate::Drop, Fate::DelayCompletion(2)][sequence as usize]
    });
    let frames: Vec<Frame> = (0..3).map(|n| frame_with(&a, &[n])).collect();
    for frame in &frames {
        assert!(a.transmit(frame, 0));
    }
    a.kick();
    let received = receive_all(&mut b, 0);
    assert_eq!(
        received
            .iter()
            .map(|frame| frame.bytes()[0])
            .collect::<Vec<_>>(),
        [0, 2]
    );
    assert_eq!(a.reclaim(), 1, "the lost one, at once");
    assert_eq!(a.statistics().fault_dropped, 1);
    drop(received);
    assert_eq!(a.reclaim(), 1, "the plain one");
    assert!(frames[2].is_queued());
    assert_eq!(a.reclaim(), 0, "two reclaims go by");
    assert_eq!(a.reclaim(), 1);
    assert!(!frames[2].is_queued());
}

#[test]
fn windows_move_as_they_say() {
    let umem = Umem::new(&small().umem).expect("a UMEM");
    let mut frame = umem.alloc_tx().expect("a TX frame");
    assert_eq!(
        (frame.headroom(), frame.len(), frame.tailroom()),
        (100, 0, 1948)
    );
    assert!(frame.is_empty());
    frame.extend(1948);
    assert_eq!((frame.len(), frame.tailroom()), (1948, 0));
    assert_eq!(frame.tail_mut().map(|tail| tail.len()), Some(0));
    frame.advance(1948);
    assert_eq!(
        (frame.headroom(), frame.len(), frame.tailroom()),
        (2048, 0, 0)
    );
    assert_eq!(frame.head_mut(2048).map(|head| head.len()), Some(2048));
    assert!(frame.head_mut(2049).is_none());
    frame.truncate(5);
    assert_eq!(frame.len(), 0);
}

#[test]
#[should_panic(expected = "extend by 1949 of 1948")]
fn a_window_stays_in_its_chunk() {
    let umem = Umem::new(&small().umem).expect("a UMEM");
    umem.alloc_tx().expect("a TX frame").extend(1949);
}

#[test]
#[should_panic(expected = "advance by 1 of 0")]
fn a_window_does_not_advance_behind_its_end() {
    let umem = Umem::new(&small().umem).expect("a UMEM");
    umem.alloc_tx().expect("a TX frame").advance(1);
}

#[test]
fn stale_and_invented_descs_open_nothing() {
    let umem = Umem::new(&small().umem).expect("a UMEM");
    let view = umem.view();
    let frame = umem.alloc_tx().expect("a TX frame");
    let desc = frame.lend();
    let forged = [
        LeaseDesc {
            generation: desc.generation.wrapping_add(1),
            ..desc
        },
        LeaseDesc {
            generation: desc.generation.wrapping_sub(1),
            ..desc
        },
        LeaseDesc {
            chunk: desc.chunk + 1,
            ..desc
        },
        LeaseDesc {
            chunk: 1_000_000,
            ..desc
        },
        LeaseDesc {
            chunk: u32::MAX,
            ..desc
        },
        LeaseDesc {
            chunk: desc.chunk | 1 << 31,
            ..desc
        },
        LeaseDesc {
            offset: 2000,
            len: 49,
            ..desc
        },
        LeaseDesc {
            offset: u16::MAX,
            len: u16::MAX,
            ..desc
        },
    ];
    for desc in forged {
        assert!(view.open(desc).is_none(), "{desc:?}");
        assert!(umem.take_back(desc).is_none(), "{desc:?}");
    }
    drop(view.open(desc).expect("the true one opens"));
    assert!(view.open(desc).is_none(), "once");
    assert_eq!(umem.collect_leases(), 1);
    let again = umem.alloc_tx().expect("a TX frame");
    assert_eq!(again.id(), desc.chunk, "last freed, first used");
    let second = again.lend();
    assert!(view.open(desc).is_none(), "the first loan is over");
    assert!(view.open(second).is_some());
}

#[test]
fn leases_are_read_and_dropped_in_other_threads() {
    const ROUNDS: u32 = 20_000;
    const THREADS: usize = 3;
    let umem = Umem::new(&UmemConfig {
        chunk_size: 2048,
        rx_frames: 0,
        tx_frames: 64,
        headroom: 0,
        ..UmemConfig::default()
    })
    .expect("a UMEM");
    let (senders, readers): (Vec<_>, Vec<_>) = (0..THREADS)
        .map(|_| {
            let (sender, receiver) = mpsc::channel::<(LeaseDesc, u32)>();
            let view = umem.view();
            let reader = thread::spawn(move || {
                let mut sum = 0u64;
                for (desc, stamp) in receiver {
                    let lease = view.open(desc).expect("lent to this thread");
                    assert!(view.open(desc).is_none());
                    assert_eq!(
                        &*lease,
                        stamp.to_ne_bytes().repeat(100),
                        "changed while lent"
                    );
                    sum += u64::from(stamp);
                }
                sum
            });
            (sender, reader)
        })
        .unzip();
    let mut stamp = 0;
    while stamp < ROUNDS {
        umem.collect_leases();
        let Some(mut frame) = umem.alloc_tx() else {
            thread::yield_now();
            continue;
        };
        let bytes = stamp.to_ne_bytes().repeat(100);
        frame.tail_mut().expect("nothing outstanding")[..bytes.len()].copy_from_slice(&bytes);
        frame.extend(bytes.len());
        senders[stamp as usize % THREADS]
            .send((frame.lend(), stamp))
            .expect("the reader lives");
        stamp += 1;
    }
    drop(senders);
    let sum: u64 = readers
        .into_iter()
        .map(|reader| reader.join().expect("a reader ends well"))
        .sum();
    assert_eq!(sum, u64::from(ROUNDS) * u64::from(ROUNDS - 1) / 2);
    umem.collect_leases();
    assert_eq!(umem.audit().expect("adds up").tx_free, 64);
}

#[test]
fn a_lease_outlives_its_umem() {
    let umem = Umem::new(&small().umem).expect("a UMEM");
    let mut frame = umem.alloc_tx().expect("a TX frame");
    frame.tail_mut().expect("a fresh frame")[0] = 7;
    frame.extend(1);
    let lease = umem.view().open(frame.lend()).expect("it opens");
    drop(umem);
    assert_eq!(&*lease, [7]);
}

#[test]
fn umems_that_cannot_work_are_refused_by_name() {
    let good = UmemConfig::default();
    let bad = [
        (
            UmemConfig {
                chunk_size: 6144,
                ..good.clone()
            },
            "chunk_size 6144",
        ),
        (
            UmemConfig {
                headroom: 2048,
                ..good.clone()
            },
            "headroom 2048",
        ),
        (
            UmemConfig {
                rx_frames: 0,
                tx_frames: 0,
                ..good.clone()
            },
            "without frames",
        ),
        (
            UmemConfig {
                rx_frames: u32::MAX,
                ..good
            },
            "are more than",
        ),
    ];
    for (config, words) in bad {
        let error = Umem::new(&config).expect_err("it cannot work").to_string();
        assert!(
            error.starts_with("caller: ") && error.contains(words),
            "{error}"
        );
    }
}

#[test]
fn a_wake_ends_the_next_wait() {
    let (mut a, _b) = MemoryPort::pair(&small());
    let waker = a.waker();
    thread::spawn(move || waker.wake())
        .join()
        .expect("the thread ends");
    a.wait(None);
}
