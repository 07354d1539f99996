//! The two engines: one serves and asks the kernel's echo server, the other asks the first.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bywash::{
    CloseReason, ConnId, ConnOptions, Context, Engine, EngineConfig, Event, Port, Service,
};
use serde_json::Value;

use super::talk::{Kind, Next, Order, Talk};
use super::{Book, Counts, PORT};
use crate::bywash::binary;
use crate::kernel::Random;
use crate::process::Running;
use crate::{Bed, LIMIT, Side};

/// Timers whose token has this bit begin a connection; others wake a slow reader.
const BEGIN: u64 = 1 << 63;
/// Nobody is silent for so long but whose RST was lost: there is nothing to send it again.
const SILENCE: Duration = Duration::from_secs(20);
/// Looks for the word to begin, and tries again where there is no port.
const LOOK: Duration = Duration::from_millis(50);

/// Serves, if it is told to, and has clients.
struct Soaker {
    book: Arc<Book>,
    may_begin: Arc<AtomicBool>,
    serves: bool,
    server: SocketAddr,
    clients: usize,
    /// Its server knows echo only.
    echo_only: bool,
    random: Random,
    talks: HashMap<ConnId, Talk>,
}

impl Soaker {
    fn begin<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        if self.book.stopping() {
            return;
        }
        if !self.may_begin.load(Ordering::Relaxed) {
            return cx.set_timer(LOOK, BEGIN);
        }
        let mut order = Order::draw(self.book.next(), &mut self.random);
        if self.echo_only {
            order = Order {
                kind: Kind::Echo,
                up: order.up + 1,
                down: order.up + 1,
                ..order
            };
        }
        match cx.connect(self.server, ConnOptions::default()) {
            Ok(conn) => {
                let slow = self.random.below(8) == 0;
                let think = Order::think(&mut self.random);
                let talk = Talk::client(order, !self.echo_only, slow, think);
                self.talks.insert(conn, talk);
            }
            // Ports rest for a minute after their connections.
            Err(bywash::ConnectError::NoPort(_)) => cx.set_timer(LOOK, BEGIN),
            Err(error) => {
                self.book.failure(format!("cannot connect: {error}"));
                cx.set_timer(LOOK, BEGIN);
            }
        }
    }

    fn advance<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        let Some(talk) = self.talks.get_mut(&conn) else {
            return;
        };
        if let Next::Pause(pause) = talk.advance(cx, conn, &self.book) {
            let token = u64::from(conn.index) << 31 | u64::from(conn.generation & 0x7fff_ffff);
            cx.set_timer(pause, token & !BEGIN);
        }
    }

    /// After a connection of ours: the next one, in a while.
    fn ended<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId, why: &str, in_order: bool) {
        let Some(talk) = self.talks.remove(&conn) else {
            return;
        };
        let was_ours = talk.is_client();
        talk.end(why, in_order, &self.book);
        if was_ours {
            let rest = Duration::from_millis(1 + self.random.below(200) as u64);
            cx.set_timer(rest, BEGIN);
        }
    }
}

impl Service for Soaker {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                if self.serves {
                    let listening = cx.listen(PORT, ConnOptions::default());
                    listening.expect("nobody else listens");
                }
                for _ in 0..self.clients {
                    cx.set_timer(LOOK, BEGIN);
                }
            }
            Event::Accepted { conn, .. } => {
                let slow = self.random.below(8) == 0;
                self.talks.insert(conn, Talk::server(slow));
            }
            Event::Connected { conn } | Event::Readable { conn } | Event::Writable { conn } => {
                self.advance(cx, conn);
            }
            Event::Timer { token } if token & BEGIN != 0 => self.begin(cx),
            Event::Timer { token } => {
                let conn = ConnId {
                    index: (token >> 31) as u32,
                    generation: (token & 0x7fff_ffff) as u32,
                };
                self.advance(cx, conn);
            }
            Event::Closed { conn, reason } => {
                let in_order = reason == CloseReason::Finished;
                self.ended(cx, conn, &reason.to_string(), in_order);
            }
            Event::Unreachable { conn, reason } => {
                self.book.failure(format!("unreachable: {reason:?}"));
                self.ended(cx, conn, "unreachable", false);
            }
            Event::Stopping => cx.stop(),
        }
    }
}

/// Both, until [`Engines::end`].
pub(super) struct Engines {
    engines: [Engine<Soaker>; 2],
    devices: [String; 2],
    may_begin: Arc<AtomicBool>,
}

impl Engines {
    pub(super) fn start(bed: &Bed, book: &Arc<Book>, counts: &Counts, echo: SocketAddr) -> Self {
        let may_begin = Arc::new(AtomicBool::new(false));
        let begin = |side: &Side, serves: bool, server: SocketAddr, clients: usize| {
            let mut config = EngineConfig::new(side.device.clone());
            config.shard.reap.idle = Some(SILENCE);
            let (book, may_begin) = (book.clone(), may_begin.clone());
            side.inside(move || {
                let make = |shard: u32| Soaker {
                    book: book.clone(),
                    may_begin: may_begin.clone(),
                    serves,
                    server,
                    clients,
                    echo_only: serves,
                    random: Random::new(u64::from(shard) << 1 | u64::from(serves)),
                    talks: HashMap::new(),
                };
                Engine::start(config, make).expect("the device is free")
            })
        };
        let a = SocketAddr::new(bed.host.v4.into(), PORT);
        Self {
            engines: [
                begin(&bed.host, true, echo, counts.to_kernel),
                begin(&bed.peer, false, a, counts.between_engines),
            ],
            devices: [&bed.host, &bed.peer].map(|side| side.device.clone()),
            may_begin,
        }
    }

    /// Lets the clients begin.
    pub(super) fn begin(&self) {
        self.may_begin.store(true, Ordering::Relaxed);
    }

    /// What `ss` says of both.
    pub(super) fn reports(&self) -> [Value; 2] {
        let asked = Running::start(Command::new(binary()).args(["ss", "--json"])).wait(LIMIT);
        let all: Value = asked.json();
        let all = all.as_array().expect("engines");
        self.devices.each_ref().map(|device| {
            let own =
                |one: &&Value| one["pid"] == std::process::id() && one["device"] == device.as_str();
            let own = all.iter().find(own);
            own.unwrap_or_else(|| panic!("ss does not show {device}"))
                .clone()
        })
    }

    /// Waits until nobody is connected any more and all frames are back; what is not as it should be.
    pub(super) fn end(self, limit: Duration) -> Vec<String> {
        let deadline = Instant::now() + limit;
        let mut failures = loop {
            let left: Vec<String> = self.reports().iter().filter_map(left).collect();
            if left.is_empty() || Instant::now() > deadline {
                break left;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        for engine in self.engines {
            engine.stop();
            if let Err(error) = engine.join() {
                failures.push(format!("an engine did not end well: {error}"));
            }
        }
        failures
    }
}

/// What an engine still has that it should not.
fn left(report: &Value) -> Option<String> {
    let mut all = Vec::new();
    for shard in report["shards"].as_array().expect("shards") {
        let connections = shard["connections"].as_array().expect("connections");
        let number = |kind: &str| shard["frames"][kind].as_u64().unwrap_or(u64::MAX);
        let busy = number("tx_total") - number("tx_free");
        let held = number("held") + number("leased");
        if !connections.is_empty() || busy + held > 0 {
            let states: Vec<_> = connections.iter().map(|one| &one["state"]).collect();
            all.push(format!(
                "{}: {} connections ({states:?}), {busy} TX frames, {held} frames held",
                report["device"],
                connections.len()
            ));
        }
    }
    (!all.is_empty()).then(|| all.join("; "))
}
