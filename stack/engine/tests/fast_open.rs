//! TCP Fast Open (RFC 7413) between two shards: cookies, limits, what is remembered of servers.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bywash_engine::clock::ManualClock;
use bywash_engine::config::ShardConfig;
use bywash_engine::context::{ConnOptions, Context};
use bywash_engine::defence::SynCookies;
use bywash_engine::fast_open::{FastOpenConfig, FastOpenKeys, FastOpenServer};
use bywash_engine::memory::{ADDRESSES_B, MemoryPair};
use bywash_engine::service::{ConnId, Event, ListenerId, Recv, Service};
use bywash_engine::tcp::{CloseReason, FastOpenStatus, State};
use bywash_engine::xsk::{Fate, MemoryConfig, MemoryPort, Port};

const PORT: u16 = 7;
const ETHERNET: usize = 14;

fn options() -> ConnOptions {
    ConnOptions {
        fast_open: Some(true),
        ..ConnOptions::default()
    }
}

/// Echoes, and notes in which state it was first asked.
#[derive(Default)]
struct Echo {
    accepted: usize,
    early: usize,
    read: Vec<u8>,
    closed: Vec<CloseReason>,
}

impl Service for Echo {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                cx.listen(PORT, options()).expect("free");
            }
            Event::Accepted { .. } => self.accepted += 1,
            Event::Readable { conn } => {
                let state = cx.info(conn).expect("alive").state;
                self.early += usize::from(state == State::SynReceived);
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    self.read.extend_from_slice(frame.bytes());
                    cx.send(conn, frame.bytes()).expect("open");
                }
            }
            Event::Closed { reason, .. } => self.closed.push(reason),
            _ => {}
        }
    }
}

/// Asks, and keeps what it hears.
#[derive(Default)]
struct Caller {
    conns: Vec<ConnId>,
    heard: Vec<u8>,
    connected: usize,
}

impl Service for Caller {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Connected { .. } => self.connected += 1,
            Event::Readable { conn } => {
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    self.heard.extend_from_slice(frame.bytes());
                }
            }
            _ => {}
        }
    }
}

impl Caller {
    /// Connects and sends in one turn.
    fn call<P: Port>(&mut self, cx: &mut Context<'_, P>, family: usize, request: &[u8]) {
        let server = SocketAddr::new(ADDRESSES_B[family], PORT);
        let conn = cx.connect(server, options()).expect("a path");
        assert_eq!(cx.send(conn, request), Ok(request.len()));
        self.conns.push(conn);
    }
}

/// Which frames of the client's are lost.
type Loss = fn(&Sent) -> bool;

struct World {
    pair: MemoryPair<Caller, Echo>,
    clock: ManualClock,
    lost: Rc<Cell<Loss>>,
}

/// What a frame of the client's holds.
struct Sent {
    syn: bool,
    data: usize,
}

fn sent(frame: &[u8]) -> Sent {
    let tcp = if frame[12] == 8 {
        ETHERNET + 20
    } else {
        ETHERNET + 40
    };
    let header = usize::from(frame[tcp + 12] >> 4) * 4;
    Sent {
        syn: frame[tcp + 13] & 2 != 0,
        data: frame.len() - tcp - header,
    }
}

fn nothing(_: &Sent) -> bool {
    false
}

impl World {
    fn new(config: &ShardConfig) -> Self {
        let clock = ManualClock::new();
        let lost = Rc::new(Cell::new(nothing as Loss));
        let (mut near, far) = MemoryPort::pair(&MemoryConfig::default());
        let fate = Rc::clone(&lost);
        near.set_fault_hook(move |_, frame| {
            if fate.get()(&sent(frame)) {
                Fate::Drop
            } else {
                Fate::Deliver
            }
        });
        let ports = (near, far);
        let (caller, echo) = (Caller::default(), Echo::default());
        let pair = MemoryPair::seeded(config, ports, caller, echo, &clock, 1);
        Self { pair, clock, lost }
    }

    fn call(&mut self, family: usize, request: &[u8]) {
        self.pair
            .a
            .with_context(|caller, cx| caller.call(cx, family, request));
        self.run(Duration::from_millis(20));
    }

    fn run(&mut self, time: Duration) {
        let step = Duration::from_millis(1);
        for _ in 0..time.as_millis() {
            while self.pair.turn() {}
            self.clock.advance(step);
        }
        while self.pair.turn() {}
    }

    /// Nothing happens for so many seconds; both shards know the time then.
    fn wait(&mut self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.run(Duration::from_millis(1));
    }

    /// The client's counter.
    fn client(&self, name: &str) -> u64 {
        self.pair.a.report().counters[&format!("fast-open-{name}")]
    }

    fn server(&self, name: &str) -> u64 {
        self.pair.b.report().counters[&format!("fast-open-{name}")]
    }

    fn status(&mut self) -> FastOpenStatus {
        self.pair.a.with_context(|caller, cx| {
            let conn = *caller.conns.last().expect("called");
            cx.info(conn).expect("alive").fast_open
        })
    }

    fn pending(&self) -> u32 {
        self.pair.b.report().listeners[0].early.expect("it is on")
    }
}

#[test]
fn the_second_connection_needs_no_handshake_first() {
    for family in [0, 1] {
        let mut world = World::new(&ShardConfig::default());
        world.call(family, b"one");
        assert_eq!(world.status(), FastOpenStatus::CookieOnly);
        assert_eq!(world.pair.b.service().early, 0);
        world.call(family, b"two");
        assert_eq!(world.status(), FastOpenStatus::Accepted);
        assert_eq!(world.pair.b.service().early, 1, "read in SYN-RECEIVED");
        assert_eq!(world.pair.b.service().read, b"onetwo");
        assert_eq!(world.pair.a.service().heard, b"onetwo");
        assert_eq!(
            (
                world.server("granted"),
                world.server("accepted"),
                world.client("tried"),
                world.client("acked")
            ),
            (1, 1, 2, 1)
        );
        assert_eq!(
            (world.server("wrong-cookies"), world.client("failed")),
            (0, 0)
        );
        assert_eq!(world.pending(), 0);
    }
}

#[test]
fn who_does_not_want_it_does_not_meet_it() {
    let mut world = World::new(&ShardConfig::default());
    world.call(0, b"one");
    world.pair.b.with_context(|_, cx| {
        let listener = ListenerId { port: PORT };
        cx.set_fast_open(listener, None);
    });
    world.call(0, b"two");
    assert_eq!(world.status(), FastOpenStatus::DataNotAcked);
    assert_eq!(world.pair.a.service().heard, b"onetwo");
    // It is not tried again for a while.
    world.call(0, b"three");
    assert_eq!((world.client("tried"), world.client("failed")), (2, 1));
    assert_eq!(world.status(), FastOpenStatus::Unused);
    assert_eq!(world.pair.a.service().heard, b"onetwothree");
}

#[test]
fn a_path_that_swallows_it_is_remembered() {
    let mut world = World::new(&ShardConfig::default());
    world.call(0, b"one");
    world.lost.set(|sent| sent.syn && sent.data > 0);
    world.call(0, b"two");
    world.run(Duration::from_millis(1_500));
    assert_eq!(world.status(), FastOpenStatus::SynRetransmitted);
    assert_eq!(world.pair.a.service().heard, b"onetwo");
    world.call(0, b"three");
    assert_eq!(world.status(), FastOpenStatus::Unused, "at once, as ever");
    assert_eq!(world.pair.a.service().heard, b"onetwothree");
    world.lost.set(nothing);
    world.wait(120);
    world.call(0, b"four");
    assert_eq!(
        world.status(),
        FastOpenStatus::Accepted,
        "the cookie was kept"
    );
}

#[test]
fn cookies_are_good_for_two_periods() {
    let config = ShardConfig {
        fast_open: FastOpenConfig {
            rotation: Duration::from_secs(100),
            ..FastOpenConfig::default()
        },
        ..ShardConfig::default()
    };
    let mut world = World::new(&config);
    for (wait, status, granted) in [
        (0, FastOpenStatus::CookieOnly, 1),
        (0, FastOpenStatus::Accepted, 1),
        // Made with the key before: taken, and a newer one comes along.
        (100, FastOpenStatus::Accepted, 2),
        (0, FastOpenStatus::Accepted, 2),
        (200, FastOpenStatus::DataNotAcked, 3),
        (0, FastOpenStatus::Accepted, 3),
    ] {
        world.wait(wait);
        world.call(1, b".");
        assert_eq!(world.status(), status);
        assert_eq!(world.server("granted"), granted);
    }
    assert_eq!(world.server("wrong-cookies"), 1);
    assert_eq!(world.client("failed"), 0, "a new cookie is no failure");
}

#[test]
fn no_more_than_so_many_are_open_before_their_handshake_has_ended() {
    let config = ShardConfig {
        fast_open: FastOpenConfig {
            server: FastOpenServer {
                pending: 2,
                ..FastOpenServer::default()
            },
            ..FastOpenConfig::default()
        },
        ..ShardConfig::default()
    };
    let mut world = World::new(&config);
    world.call(0, b"0");
    world.call(1, b"0");
    // Forged addresses: nobody ever acknowledges the SYN-ACK.
    world.lost.set(|sent| !sent.syn);
    for request in [b"1", b"2", b"3"] {
        world.call(0, request);
    }
    assert_eq!(world.pair.b.service().read, b"0012");
    assert_eq!((world.server("over-limit"), world.pending()), (1, 2));
    // The live owners of those addresses reset what they do not know; that does not free the places.
    world.lost.set(|_| false);
    world.pair.a.with_context(|caller, cx| {
        for conn in &caller.conns[2..4] {
            cx.abort(*conn).expect("alive");
        }
    });
    world.run(Duration::from_millis(20));
    assert_eq!(world.pair.b.service().closed, [CloseReason::Reset; 2]);
    assert_eq!(world.pending(), 0);
    world.call(1, b"4");
    assert_eq!(
        (world.server("over-limit"), world.server("accepted")),
        (2, 2)
    );
    // A minute later they do; two minutes after its failure the client asks again.
    world.wait(121);
    world.call(1, b"5");
    world.call(1, b"6");
    assert_eq!(
        (world.server("over-limit"), world.server("accepted")),
        (2, 3)
    );
}

#[test]
fn under_syn_cookies_data_is_ignored() {
    let config = ShardConfig {
        syn_cookies: SynCookies::Always,
        ..ShardConfig::default()
    };
    let mut world = World::new(&config);
    for _ in 0..2 {
        world.call(0, b"x");
        assert_eq!(world.status(), FastOpenStatus::CookieOnly);
    }
    assert_eq!(world.pair.a.service().heard, b"xx");
    assert_eq!((world.server("granted"), world.server("accepted")), (0, 0));
}

#[test]
fn servers_with_the_same_keys_take_each_others_cookies() {
    let keys = |current, previous| Some(FastOpenKeys::new(current, previous));
    let mut world = World::new(&ShardConfig::default());
    let set = |world: &mut World, keys| {
        let server = FastOpenServer {
            keys,
            ..FastOpenServer::default()
        };
        world.pair.b.with_context(|_, cx| {
            let listener = ListenerId { port: PORT };
            cx.set_fast_open(listener, Some(server));
        });
    };
    set(&mut world, keys([1; 16], None));
    world.call(0, b"a");
    set(&mut world, keys([2; 16], Some([1; 16])));
    world.call(0, b"b");
    assert_eq!(world.status(), FastOpenStatus::Accepted);
    set(&mut world, keys([2; 16], None));
    world.call(0, b"c");
    assert_eq!(
        world.status(),
        FastOpenStatus::Accepted,
        "the newer cookie came along"
    );
    set(&mut world, keys([3; 16], None));
    world.call(0, b"d");
    assert_eq!(world.status(), FastOpenStatus::DataNotAcked);
    assert_eq!(world.pair.a.service().heard, b"abcd");
}

#[test]
fn without_cookies_any_data_is_taken() {
    let config = ShardConfig {
        fast_open: FastOpenConfig {
            server: FastOpenServer {
                without_cookie: true,
                ..FastOpenServer::default()
            },
            ..FastOpenConfig::default()
        },
        ..ShardConfig::default()
    };
    let mut world = World::new(&config);
    world.call(0, b"x");
    assert_eq!(world.server("accepted"), 1);
    assert_eq!(world.pair.b.service().accepted, 1);
    assert_eq!(world.pair.a.service().heard, b"x");
}
