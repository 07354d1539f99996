//! The kernel's AF_XDP on a veth, in copy mode. Needs root, and fails without.

mod lab;

use core::time::Duration;
use std::sync::mpsc;
use std::thread;

use bywash_xsk::{
    BindMode, Frame, Mode, PoolClass, Port, RingSizes, TxBudget, UmemConfig, XskConfig, XskError,
    XskPort,
};
use lab::{DEVICE, ETHERNET, Lab, Redirect, drop_capability, ethernet, frame_for};

/// Small, so that limits are reached.
fn config() -> XskConfig {
    XskConfig {
        umem: UmemConfig {
            chunk_size: 2048,
            rx_frames: 512,
            tx_frames: 512,
            headroom: 128,
            ..UmemConfig::default()
        },
        rings: RingSizes {
            primary: 128,
            control: 8,
            tx: 512,
            fill: 512,
        },
        pools: vec![PoolClass { pools: 3, ring: 16 }],
        mode: BindMode::Copy,
        lease_cap: 128,
        fill_reserve: 64,
        ..XskConfig::new(DEVICE, 0)
    }
}

/// Opens a port; teardown of a former test's may take long on a busy machine.
fn open(config: &XskConfig) -> XskPort {
    let config = XskConfig {
        bind_patience: Duration::from_secs(20),
        ..config.clone()
    };
    XskPort::open(&config).unwrap_or_else(|error| panic!("{error}"))
}

fn open_error(config: &XskConfig) -> XskError {
    XskPort::open(config)
        .map(|port| port.mode())
        .expect_err("it should not open")
}

fn tx_frame(port: &XskPort, payload: &[u8]) -> Frame {
    let mut frame = port.umem().alloc_tx().expect("a TX frame is free");
    frame.tail_mut().expect("a fresh frame")[..payload.len()].copy_from_slice(payload);
    frame.extend(payload.len());
    frame
        .head_mut(ETHERNET)
        .expect("headroom")
        .copy_from_slice(&ethernet());
    frame
}

/// Waits until `count` frames have come by this ring.
fn receive(port: &mut XskPort, ring: usize, count: usize) -> Vec<Frame> {
    let mut out = Vec::new();
    for _ in 0..200 {
        let missing = count - out.len();
        port.receive(ring, &mut out, missing);
        if out.len() == count {
            return out;
        }
        port.wait(Some(Duration::from_millis(25)));
    }
    panic!(
        "{} of {count} frames came: {:?}",
        out.len(),
        port.statistics()
    );
}

/// Waits until nothing is outstanding.
fn reclaim_all(port: &mut XskPort) {
    for _ in 0..200 {
        port.kick();
        port.reclaim();
        let statistics = port.statistics();
        if statistics.completed == statistics.transmitted {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("completions are missing: {:?}", port.statistics());
}

fn attach(port: &XskPort) -> Redirect {
    let redirect = Redirect::attach();
    for (ring, socket) in port.sockets() {
        redirect.set(ring, socket);
    }
    redirect
}

#[test]
fn frames_reach_a_packet_socket_and_complete() {
    let lab = Lab::new();
    let peer = lab.peer();
    lab.here(|| {
        let mut port = open(&XskConfig {
            tx_budget: Some(64),
            ..config()
        });
        assert_eq!(port.mode(), Mode::Copy);
        assert_ne!(port.tx_budget(), TxBudget::KernelDefault);
        for n in 0..300u32 {
            let frame = tx_frame(&port, &n.to_be_bytes());
            assert!(port.transmit(&frame, ETHERNET));
        }
        assert!(peer.is_quiet(), "nothing goes out before the kick");
        assert_eq!(
            port.kick(),
            300usize.div_ceil(port.tx_budget().descriptors() as usize)
        );
        for n in 0..300u32 {
            let got = peer.receive();
            assert_eq!(got[..ETHERNET], ethernet());
            assert_eq!(got[ETHERNET..ETHERNET + 4], n.to_be_bytes());
        }
        reclaim_all(&mut port);
        assert_eq!(port.kick(), 0, "nothing is left to do");
        let ledger = port.umem().audit().expect("adds up");
        assert_eq!(ledger.tx_free, 512);
        let statistics = port.statistics();
        let kernel = statistics.kernel[0].expect("the kernel tells");
        assert_eq!(
            (kernel.tx_invalid_descs, statistics.completions_unexpected),
            (0, 0)
        );
        assert_eq!((statistics.kick_errors, statistics.tx_refused), (0, 0));
    });
}

#[test]
fn more_frames_than_a_completion_ring_holds_complete() {
    let lab = Lab::new();
    let peer = lab.peer();
    lab.here(|| {
        let mut port = open(&config());
        for round in 0..25u8 {
            for n in 0..100u8 {
                assert!(port.transmit(&tx_frame(&port, &[round, n]), ETHERNET));
            }
            port.kick();
            for n in 0..100 {
                assert_eq!(peer.receive()[ETHERNET..][..2], [round, n]);
            }
            reclaim_all(&mut port);
        }
        assert_eq!(port.umem().audit().expect("adds up").tx_free, 512);
    });
}

#[test]
fn the_kernels_own_budget_takes_more_calls() {
    let lab = Lab::new();
    let peer = lab.peer();
    lab.here(|| {
        let mut port = open(&XskConfig {
            tx_budget: None,
            ..config()
        });
        assert_eq!(port.tx_budget(), TxBudget::KernelDefault);
        for n in 0..100u8 {
            let frame = tx_frame(&port, &[n]);
            assert!(port.transmit(&frame, ETHERNET));
        }
        assert_eq!(port.kick(), 4);
        for n in 0..100 {
            assert_eq!(peer.receive()[ETHERNET], n);
        }
    });
}

#[test]
fn a_sent_frame_is_free_after_both_releases() {
    let lab = Lab::new();
    let peer = lab.peer();
    lab.here(|| {
        let mut port = open(&config());
        let mut kept = tx_frame(&port, b"kept");
        let dropped = tx_frame(&port, b"dropped");
        assert!(port.transmit(&kept, ETHERNET) && port.transmit(&dropped, ETHERNET));
        drop(dropped);
        assert!(kept.is_queued() && kept.bytes_mut().is_none() && kept.head_mut(1).is_none());
        assert!(!port.transmit(&kept, ETHERNET), "queued already");
        assert_eq!(port.statistics().tx_refused, 1);
        assert_eq!(port.umem().tx_free(), 510);
        port.kick();
        reclaim_all(&mut port);
        assert_eq!(port.umem().tx_free(), 511);
        // A retransmission: the same frame with another header.
        kept.head_mut(ETHERNET).expect("not queued")[6] = 4;
        assert!(port.transmit(&kept, ETHERNET));
        port.kick();
        let frames = [peer.receive(), peer.receive(), peer.receive()];
        assert_eq!(frames.each_ref().map(|frame| frame[6]), [2, 2, 4]);
        assert_eq!(frames[2][ETHERNET..], *b"kept");
        reclaim_all(&mut port);
        drop(kept);
        assert_eq!(port.umem().audit().expect("adds up").tx_free, 512);
    });
}

#[test]
fn the_cap_on_outstanding_frames_holds() {
    let lab = Lab::new();
    lab.here(|| {
        let mut port = open(&XskConfig {
            tx_outstanding_max: Some(10),
            ..config()
        });
        let frames: Vec<Frame> = (0..12u8).map(|n| tx_frame(&port, &[n])).collect();
        assert_eq!(port.tx_space(), 10);
        let posted = frames
            .iter()
            .filter(|frame| port.transmit(frame, ETHERNET))
            .count();
        assert_eq!(
            (posted, port.tx_space(), port.statistics().tx_full),
            (10, 0, 2)
        );
        port.kick();
        assert_eq!(port.tx_space(), 0, "sent is not completed");
        reclaim_all(&mut port);
        assert_eq!(port.tx_space(), 10);
    });
}

#[test]
fn each_ring_receives_what_is_redirected_to_it() {
    let lab = Lab::new();
    let peer = lab.peer();
    lab.here(|| {
        let mut port = open(&config());
        assert_eq!(port.rings(), 5);
        assert_eq!(port.sockets().count(), 5);
        let _redirect = attach(&port);
        assert_eq!(
            port.umem().ledger().fill,
            512,
            "the fill ring is full from the start"
        );
        for n in 0..40u8 {
            peer.send(&frame_for(n % 5, &[n; 40]));
        }
        for ring in 0..5u8 {
            let frames = receive(&mut port, usize::from(ring), 8);
            for (turn, frame) in (0..).zip(&frames) {
                assert_eq!(frame.bytes(), frame_for(ring, &[turn * 5 + ring; 40]));
                assert!(frame.headroom() >= 256, "XDP's own headroom");
            }
            let ledger = port.umem().audit().expect("adds up");
            assert_eq!(
                (ledger.held, ledger.fill),
                (8, 512 - 8 * (u32::from(ring) + 1))
            );
            drop(frames);
        }
        assert_eq!(port.umem().rx_free(), 40);
        assert_eq!(port.refill(), 40);
        assert_eq!(
            port.refill(),
            0,
            "it is full, and not looked at again so soon"
        );
        assert_eq!(port.umem().audit().expect("adds up").fill, 512);
    });
}

#[test]
fn more_packets_than_frames_pass_through() {
    let lab = Lab::new();
    let peer = lab.peer();
    lab.here(|| {
        let mut port = open(&config());
        let _redirect = attach(&port);
        for round in 0..60u32 {
            for n in 0..50u8 {
                peer.send(&frame_for(0, &[&round.to_be_bytes()[..], &[n]].concat()));
            }
            for (n, frame) in (0u8..).zip(receive(&mut port, 0, 50)) {
                assert_eq!(frame.bytes()[ETHERNET + 1..][..4], round.to_be_bytes());
                assert_eq!(frame.bytes()[ETHERNET + 5], n);
            }
            assert_eq!(port.refill(), 50);
        }
        assert_eq!(port.statistics().received, 3000);
        assert_eq!(port.statistics().rx_bad_descriptors, 0);
    });
}

#[test]
fn a_full_ring_drops_for_itself_only_and_is_counted() {
    let lab = Lab::new();
    let peer = lab.peer();
    lab.here(|| {
        let mut port = open(&config());
        let _redirect = attach(&port);
        // The control ring holds eight.
        for n in 0..30u8 {
            peer.send(&frame_for(1, &[n]));
        }
        peer.send(&frame_for(2, b"unharmed"));
        receive(&mut port, 2, 1);
        let frames = receive(&mut port, 1, 8);
        assert_eq!(
            frames.last().map(|frame| frame.bytes()[ETHERNET + 1]),
            Some(7)
        );
        let kernel = port.statistics().kernel;
        let full: Vec<u64> = kernel
            .iter()
            .map(|ring| ring.expect("the kernel tells").rx_ring_full)
            .collect();
        assert_eq!(full, [0, 22, 0, 0, 0]);
    });
}

#[test]
fn a_dry_fill_ring_is_counted() {
    let lab = Lab::new();
    let peer = lab.peer();
    lab.here(|| {
        let mut port = open(&config());
        let _redirect = attach(&port);
        let mut held = Vec::new();
        while held.len() < 512 {
            for _ in 0..64 {
                peer.send(&frame_for(0, b"held"));
            }
            held.extend(receive(&mut port, 0, 64));
        }
        assert_eq!(port.refill(), 0, "everything is held");
        peer.send(&frame_for(0, b"lost"));
        let lost = |port: &XskPort| {
            port.statistics().kernel[0]
                .expect("the kernel tells")
                .rx_fill_ring_empty_descs
        };
        for _ in 0..200 {
            if lost(&port) > 0 {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(lost(&port), 1);
        held.clear();
        assert_eq!(port.refill(), 512);
        peer.send(&frame_for(0, b"found"));
        assert_eq!(
            receive(&mut port, 0, 1)[0].bytes()[ETHERNET + 1..],
            *b"found"
        );
    });
}

#[test]
fn a_received_frame_is_sent_back_and_returns_to_the_receive_frames() {
    let lab = Lab::new();
    let peer = lab.peer();
    lab.here(|| {
        let mut port = open(&config());
        let _redirect = attach(&port);
        peer.send(&frame_for(0, b"there and back"));
        let mut frame = receive(&mut port, 0, 1).remove(0);
        frame.bytes_mut().expect("a received frame is ours")[6] = 8;
        assert!(port.transmit(&frame, 0));
        drop(frame);
        port.kick();
        let back = peer.receive();
        assert_eq!(
            (back[6], &back[ETHERNET + 1..]),
            (8, &b"there and back"[..])
        );
        reclaim_all(&mut port);
        assert_eq!((port.umem().rx_free(), port.umem().tx_free()), (1, 512));
    });
}

#[test]
fn leases_and_frames_outlive_the_port() {
    let lab = Lab::new();
    let peer = lab.peer();
    lab.here(|| {
        let mut port = open(&config());
        let redirect = attach(&port);
        peer.send(&frame_for(0, b"frame"));
        peer.send(&frame_for(0, b"lease"));
        let mut frames = receive(&mut port, 0, 2);
        let view = port.umem().view();
        let desc = frames.remove(1).lend();
        let lease = thread::spawn(move || view.open(desc).expect("it opens")).join();
        let lease = lease.expect("the thread ends");
        assert_eq!(port.umem().ledger().leased, 1);
        drop(redirect);
        drop(port);
        assert_eq!(frames[0].bytes()[ETHERNET + 1..], *b"frame");
        assert_eq!(lease[ETHERNET + 1..], *b"lease");
    });
}

#[test]
fn a_returned_lease_is_collected_by_reclaim() {
    let lab = Lab::new();
    let peer = lab.peer();
    lab.here(|| {
        let mut port = open(&config());
        let _redirect = attach(&port);
        peer.send(&frame_for(0, b"lease"));
        let view = port.umem().view();
        let desc = receive(&mut port, 0, 1).remove(0).lend();
        thread::spawn(move || drop(view.open(desc)))
            .join()
            .expect("the thread ends");
        assert_eq!(port.umem().rx_free(), 0);
        port.reclaim();
        assert_eq!(port.umem().rx_free(), 1);
    });
}

#[test]
fn wait_ends_by_packet_by_waker_and_by_time() {
    let lab = Lab::new();
    let peer = lab.peer();
    lab.here(|| {
        let mut port = open(&config());
        let _redirect = attach(&port);
        port.wait(Some(Duration::from_millis(1)));
        let mut out = Vec::new();
        thread::scope(|scope| {
            // A ring other than the first, and no time limit: only the packet can end it.
            scope.spawn(|| peer.send(&frame_for(3, b"up")));
            while out.is_empty() {
                port.wait(None);
                port.receive(3, &mut out, 1);
            }
        });
        let waker = port.waker();
        waker.wake();
        port.wait(None);
        let (asleep, about_to_sleep) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                about_to_sleep.recv().expect("the sleeper lives");
                thread::sleep(Duration::from_millis(20));
                waker.wake();
            });
            asleep.send(()).expect("the waker lives");
            port.wait(None);
        });
        assert_eq!(port.statistics().wait_errors, 0);
    });
}

#[test]
fn a_bind_waits_for_the_former_owner() {
    let lab = Lab::new();
    lab.here(|| {
        let mut port = Some(open(&config()));
        let busy = open_error(&XskConfig {
            bind_patience: Duration::ZERO,
            ..config()
        });
        assert!(
            matches!(busy, XskError::QueueBusy { queue: 0, .. }),
            "{busy}"
        );
        assert!(
            busy.to_string()
                .contains("queue 0 of bwx0 still has an owner"),
            "{busy}"
        );
        // Closed and opened at once: the kernel still has the old one.
        for _ in 0..5 {
            drop(port.take());
            port = Some(open(&config()));
        }
    });
}

#[test]
fn a_bind_is_repeated_while_the_queue_is_owned() {
    let lab = Lab::new();
    let (opened, is_open) = mpsc::channel();
    let (trying, may_close) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            lab.here(move || {
                let port = open(&config());
                opened.send(()).expect("the test lives");
                may_close.recv().expect("the test lives");
                thread::sleep(Duration::from_millis(50));
                drop(port);
            });
        });
        lab.here(move || {
            is_open.recv().expect("the first opens");
            trying.send(()).expect("the first lives");
            let port = open(&config());
            assert!(port.bind_wait() > Duration::ZERO);
        });
    });
}

#[test]
fn errors_say_whose_fault_it_is() {
    let lab = Lab::new();
    lab.here(|| {
        let error = open_error(&XskConfig::new("bwx-missing", 0));
        assert!(matches!(error, XskError::NoSuchInterface(_)), "{error}");
        let error = open_error(&XskConfig {
            queue: 77,
            ..config()
        });
        assert!(
            matches!(error, XskError::NoSuchQueue { queue: 77, .. }),
            "{error}"
        );
        let error = open_error(&XskConfig {
            mode: BindMode::ZeroCopy,
            ..config()
        });
        assert!(
            matches!(error, XskError::NoZeroCopy { .. }),
            "veth has no zero copy: {error}"
        );
        let auto = open(&XskConfig {
            mode: BindMode::Auto,
            ..config()
        });
        assert_eq!(auto.mode(), Mode::Copy, "and says so");
    });
}

#[test]
fn missing_rights_are_named() {
    const CAP_NET_RAW: u32 = 13;
    const CAP_IPC_LOCK: u32 = 14;
    let lab = Lab::new();
    lab.here(|| {
        drop_capability(CAP_IPC_LOCK);
        // 512 MiB: more than any usual limit.
        let umem = UmemConfig {
            rx_frames: 1 << 17,
            tx_frames: 1 << 17,
            ..config().umem
        };
        let error = open_error(&XskConfig { umem, ..config() });
        match error {
            XskError::MemoryLock { bytes, limit } => assert!(bytes == 512 << 20 && limit < bytes),
            error => panic!("RLIMIT_MEMLOCK of this shell should be below 512 MiB: {error}"),
        }
        drop_capability(CAP_NET_RAW);
        let error = open_error(&config());
        assert!(matches!(error, XskError::Permission { .. }), "{error}");
        assert!(error.to_string().contains("CAP_NET_RAW"), "{error}");
    });
}

#[test]
fn a_device_that_goes_down_is_an_error_and_the_kick_stays_owed() {
    let lab = Lab::new();
    let peer = lab.peer();
    lab.here(|| {
        let mut port = open(&config());
        assert!(port.transmit(&tx_frame(&port, b"late"), ETHERNET));
        lab.set("down");
        port.kick();
        let statistics = port.statistics();
        assert_eq!(
            (statistics.kick_errors, statistics.last_kick_errno),
            (1, libc::ENETDOWN)
        );
        // The wait itself repeats the kick.
        port.wait(Some(Duration::ZERO));
        assert_eq!(port.statistics().kick_errors, 2);
        lab.set("up");
        port.wait(Some(Duration::ZERO));
        assert_eq!(peer.receive()[ETHERNET..], *b"late");
    });
}
