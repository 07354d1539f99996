//! Two remote services over the in-memory wire: the pair on one thread, the applications on others.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::*;
use crate::config::ShardConfig;
use crate::context::ConnOptions;
use crate::memory::{ADDRESSES_A, ADDRESSES_B, MemoryPair};

/// So long that only a hang reaches it.
const LIMIT: Duration = Duration::from_secs(60);

/// A pair that turns on its own thread until it is dropped.
struct Rig {
    a: Remote,
    b: Remote,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Rig {
    fn new(config: RemoteConfig) -> Self {
        let (a, b) = (Remote::new(1, config), Remote::new(1, config));
        let services = (a.service(0), b.service(0));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let shard = ShardConfig::default();
                let mut pair = MemoryPair::new(&shard, services.0, services.1).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    if !pair.turn() {
                        std::thread::yield_now();
                    }
                }
            }
        });
        Self {
            a,
            b,
            stop,
            thread: Some(thread),
        }
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// A connection from b to port `port` of a: a's end, then b's.
    fn connected(&self, listener: &RemoteListener) -> (RemoteStream, RemoteStream) {
        let peer = SocketAddr::new(ADDRESSES_A[0], listener.port());
        let b = self.b.connect(peer, ConnOptions::default()).unwrap();
        b.wait_connected(within()).unwrap();
        let (a, from) = listener.accept(within()).unwrap();
        assert_eq!(b.addresses().unwrap(), (from, peer));
        assert_eq!(a.addresses().unwrap(), (peer, from));
        (a, b)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.end();
    }
}

fn within() -> Patience {
    Patience::Until(Instant::now() + LIMIT)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: never");
        std::thread::yield_now();
    }
}

fn write_all(stream: &RemoteStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let n = stream.write(bytes, within()).unwrap();
        bytes = &bytes[n..];
    }
}

fn read_to_end(stream: &RemoteStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(lease) = stream.next(within()).unwrap() {
        all.extend_from_slice(&lease);
    }
    all
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[test]
fn a_megabyte_goes_both_ways_at_once() {
    let rig = Rig::new(RemoteConfig::default());
    let listener = rig.a.listen(7, ConnOptions::default()).unwrap();
    let (a, b) = rig.connected(&listener);
    let (there, back) = (pattern(1 << 20), pattern(777_777));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            write_all(&b, &there);
            b.shutdown_write().unwrap();
            b.wait_drained(within()).unwrap();
        });
        scope.spawn(|| {
            write_all(&a, &back);
            a.shutdown_write().unwrap();
        });
        let at_a = scope.spawn(|| read_to_end(&a));
        assert!(read_to_end(&b) == back);
        assert!(at_a.join().unwrap() == there);
    });
    assert!(a.readiness().contains(Readiness::HANG_UP));
}

#[test]
fn an_idle_reader_holds_its_share_and_closes_the_window() {
    let leases = 4;
    let rig = Rig::new(RemoteConfig {
        leases,
        ..RemoteConfig::default()
    });
    let listener = rig.a.listen(7, ConnOptions::default()).unwrap();
    let (a, b) = rig.connected(&listener);
    let data = pattern(8 << 20);
    // Far more than window, send buffer and write credit hold together: writing must stop.
    let mut written = 0;
    let refused = loop {
        match b.write(
            &data[written..],
            Patience::Until(Instant::now() + Duration::from_secs(2)),
        ) {
            Ok(n) => written += n,
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::TimedOut);
    assert!(written < data.len());
    let mut held = Vec::new();
    for _ in 0..leases {
        held.push(a.next(within()).unwrap().unwrap());
    }
    // All are lent; the rest waits in the receive queue.
    let none = a.next(Patience::NonBlocking).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::WouldBlock);
    assert!(!a.readiness().contains(Readiness::READABLE));
    let mut got: Vec<u8> = held
        .iter()
        .flat_map(|lease| lease.iter().copied())
        .collect();
    // As leases come back, the shard lends on.
    held.clear();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            write_all(&b, &data[written..]);
            b.shutdown_write().unwrap();
        });
        got.extend(read_to_end(&a));
    });
    assert!(got == data);
}

#[test]
fn a_non_blocking_connect_becomes_writable_or_fails() {
    let rig = Rig::new(RemoteConfig::default());
    let listener = rig.a.listen(7, ConnOptions::default()).unwrap();
    let good = SocketAddr::new(ADDRESSES_A[1], 7);
    let stream = rig.b.connect(good, ConnOptions::default()).unwrap();
    eventually("writable", || {
        stream.readiness().contains(Readiness::WRITABLE)
    });
    assert!(!stream.readiness().contains(Readiness::READABLE));
    assert!(stream.take_error().is_none());
    let (accepted, peer) = listener.accept(within()).unwrap();
    assert_eq!(peer.ip(), ADDRESSES_B[1]);
    stream.write(b"x", Patience::NonBlocking).unwrap();
    eventually("readable", || {
        accepted.readiness().contains(Readiness::READABLE)
    });

    let closed = rig
        .b
        .connect(SocketAddr::new(ADDRESSES_A[0], 8), ConnOptions::default())
        .unwrap();
    eventually("error", || closed.readiness().contains(Readiness::ERROR));
    let error = closed.take_error().unwrap();
    assert_eq!(error.code, FailureCode::Refused);
    assert!(error.text.contains("10.0.0.1:8"), "{error}");
    // SO_ERROR gives it once; calls go on failing.
    assert!(closed.take_error().is_none());
    assert!(!closed.readiness().contains(Readiness::ERROR));
    assert_eq!(
        closed.write(b"x", within()).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
}

#[test]
fn a_port_is_listened_on_once_and_again_after_the_drop() {
    let rig = Rig::new(RemoteConfig::default());
    let first = rig.a.listen(7, ConnOptions::default()).unwrap();
    let error = rig.a.listen(7, ConnOptions::default()).unwrap_err();
    assert_eq!(error.code, FailureCode::NotStarted);
    assert!(error.text.contains("port 7"), "{error}");
    assert_eq!(
        first.accept(Patience::NonBlocking).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    drop(first);
    rig.a.listen(7, ConnOptions::default()).unwrap();
}

#[test]
fn dropping_a_listener_resets_whom_nobody_accepted() {
    let rig = Rig::new(RemoteConfig::default());
    let listener = rig.a.listen(7, ConnOptions::default()).unwrap();
    let peer = SocketAddr::new(ADDRESSES_A[0], 7);
    let stream = rig.b.connect(peer, ConnOptions::default()).unwrap();
    stream.wait_connected(within()).unwrap();
    eventually("queued", || {
        listener.readiness().contains(Readiness::READABLE)
    });
    drop(listener);
    let error = stream.next(within()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn an_abort_is_a_reset_for_the_peer_and_a_drop_is_an_end() {
    let rig = Rig::new(RemoteConfig::default());
    let listener = rig.a.listen(7, ConnOptions::default()).unwrap();
    let (a, b) = rig.connected(&listener);
    a.abort();
    assert_eq!(
        b.next(within()).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );

    let (a, b) = rig.connected(&listener);
    write_all(&a, b"last words");
    drop(a);
    assert_eq!(read_to_end(&b), b"last words");
}

#[test]
fn places_are_used_again_and_old_names_find_nothing() {
    let rig = Rig::new(RemoteConfig {
        connections: 2,
        ..RemoteConfig::default()
    });
    let listener = rig.a.listen(7, ConnOptions::default()).unwrap();
    for round in 0..20 {
        let (a, b) = rig.connected(&listener);
        write_all(&b, &[round]);
        drop(b);
        assert_eq!(read_to_end(&a), [round]);
        // The shard frees the place when it gets to it.
        drop(a);
    }
}

#[test]
fn whoever_waits_is_told_that_the_engine_is_gone() {
    let mut rig = Rig::new(RemoteConfig::default());
    let listener = rig.a.listen(7, ConnOptions::default()).unwrap();
    let (a, b) = rig.connected(&listener);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| a.next(within()).unwrap_err().kind());
        let acceptor = scope.spawn(|| listener.accept(within()).unwrap_err().kind());
        rig.end();
        assert_eq!(reader.join().unwrap(), ErrorKind::ConnectionAborted);
        assert_eq!(acceptor.join().unwrap(), ErrorKind::ConnectionAborted);
    });
    assert!(b.write(b"x", within()).is_err());
    assert!(rig.a.listen(8, ConnOptions::default()).is_err());
    let peer = SocketAddr::new(ADDRESSES_A[0], 7);
    assert!(rig.b.connect(peer, ConnOptions::default()).is_err());
}

#[test]
fn a_lease_outlives_its_connection() {
    let rig = Rig::new(RemoteConfig::default());
    let listener = rig.a.listen(7, ConnOptions::default()).unwrap();
    let (a, b) = rig.connected(&listener);
    write_all(&b, b"kept");
    let mut lease = a.next(within()).unwrap().unwrap();
    drop(a);
    drop(b);
    drop(rig);
    lease.advance(1);
    assert_eq!(&*lease, b"ept");
    lease.advance(9);
    assert!(lease.is_empty());
}
