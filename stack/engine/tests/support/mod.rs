//! Small services, and a pair of shards in virtual time over a faulty wire.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bywash_engine::clock::ManualClock;
use bywash_engine::config::ShardConfig;
use bywash_engine::context::{ConnOptions, Context};
use bywash_engine::memory::{ADDRESSES_B, MemoryPair};
use bywash_engine::service::{ConnId, ConnectError, Event, Recv, Service};
use bywash_engine::tcp::CloseReason;
use bywash_engine::xsk::{Fate, MemoryConfig, MemoryPort, Port};

pub(crate) const PORT: u16 = 7;

/// The bytes at `offset` of every stream in these tests: no period that a frame could hide in.
pub(crate) fn pattern(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Sends back what it receives, in order, however short its sends are.
#[derive(Default)]
pub(crate) struct Echo {
    pub(crate) accepted: usize,
    pub(crate) closed: BTreeMap<String, usize>,
    waiting: BTreeMap<ConnId, VecDeque<Vec<u8>>>,
    ended: BTreeMap<ConnId, bool>,
}

impl Echo {
    fn pump<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        let waiting = self.waiting.entry(conn).or_default();
        loop {
            while let Some(front) = waiting.front_mut() {
                let sent = cx.send(conn, front).expect("the connection is open");
                if sent < front.len() {
                    front.drain(..sent);
                    return;
                }
                waiting.pop_front();
            }
            match cx.recv(conn).expect("the connection is open") {
                Recv::Data(frame) => waiting.push_back(frame.bytes().to_vec()),
                Recv::Empty => return,
                Recv::End => {
                    if !self.ended.insert(conn, true).unwrap_or(false) {
                        cx.shutdown(conn).expect("the connection is open");
                    }
                    return;
                }
            }
        }
    }
}

impl Service for Echo {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                cx.listen(PORT, ConnOptions::default())
                    .expect("nobody else listens");
            }
            Event::Accepted { .. } => self.accepted += 1,
            Event::Readable { conn } | Event::Writable { conn } => self.pump(cx, conn),
            Event::Closed { conn, reason } => {
                self.waiting.remove(&conn);
                *self.closed.entry(reason.to_string()).or_default() += 1;
            }
            Event::Stopping => cx.stop(),
            _ => {}
        }
    }
}

struct Stream {
    sent: u64,
    received: u64,
    finished: bool,
}

/// Opens `connections`, sends `bytes` of the pattern over each in writes of `write`, checks what comes back.
pub(crate) struct Client {
    pub(crate) remote: SocketAddr,
    pub(crate) connections: usize,
    pub(crate) bytes: u64,
    pub(crate) write: usize,
    pub(crate) options: ConnOptions,
    /// Stop reading after this many bytes until `resume` is set.
    pub(crate) stall_after: Option<u64>,
    pub(crate) connected: usize,
    pub(crate) closed: Vec<CloseReason>,
    pub(crate) unreachable: usize,
    pub(crate) corrupt: bool,
    pub(crate) done: usize,
    streams: BTreeMap<ConnId, Stream>,
}

impl Client {
    pub(crate) fn new(connections: usize, bytes: u64, write: usize) -> Self {
        Self {
            remote: SocketAddr::new(ADDRESSES_B[0], PORT),
            connections,
            bytes,
            write,
            options: ConnOptions::default(),
            stall_after: None,
            connected: 0,
            closed: Vec::new(),
            unreachable: 0,
            corrupt: false,
            done: 0,
            streams: BTreeMap::new(),
        }
    }

    /// Everything came back and every connection has ended in order.
    pub(crate) fn is_complete(&self) -> bool {
        self.done == self.connections
    }

    pub(crate) fn received(&self) -> u64 {
        self.streams.values().map(|stream| stream.received).sum()
    }

    fn write<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        let Some(stream) = self.streams.get_mut(&conn) else {
            return;
        };
        while stream.sent < self.bytes {
            let len = (self.bytes - stream.sent).min(self.write as u64);
            let bytes: Vec<u8> = (stream.sent..stream.sent + len).map(pattern).collect();
            let sent = cx.send(conn, &bytes).expect("the connection is open");
            stream.sent += sent as u64;
            if sent < bytes.len() {
                return;
            }
        }
        if !stream.finished {
            stream.finished = true;
            cx.shutdown(conn).expect("the connection is open");
        }
    }

    pub(crate) fn read<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        let Some(stream) = self.streams.get_mut(&conn) else {
            return;
        };
        loop {
            if self
                .stall_after
                .is_some_and(|limit| stream.received >= limit)
            {
                return;
            }
            match cx.recv(conn).expect("the connection is open") {
                Recv::Data(frame) => {
                    for byte in frame.bytes() {
                        self.corrupt |= *byte != pattern(stream.received);
                        stream.received += 1;
                    }
                }
                Recv::Empty => return,
                Recv::End => return,
            }
        }
    }

    /// Begins one more connection.
    pub(crate) fn open<P: Port>(&mut self, cx: &mut Context<'_, P>) -> Result<(), ConnectError> {
        let conn = cx.connect(self.remote, self.options)?;
        let stream = Stream {
            sent: 0,
            received: 0,
            finished: false,
        };
        self.streams.insert(conn, stream);
        Ok(())
    }

    /// Reads on after a stall.
    pub(crate) fn resume<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        self.stall_after = None;
        let all: Vec<ConnId> = self.streams.keys().copied().collect();
        for conn in all {
            self.read(cx, conn);
        }
    }
}

impl Service for Client {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                for _ in 0..self.connections {
                    self.open(cx).expect("ports are free");
                }
            }
            Event::Connected { conn } => {
                self.connected += 1;
                self.write(cx, conn);
            }
            Event::Writable { conn } => self.write(cx, conn),
            Event::Readable { conn } => self.read(cx, conn),
            Event::Closed { conn, reason } => {
                self.closed.push(reason);
                let stream = self.streams.remove(&conn).expect("one of ours");
                let whole = stream.received == self.bytes && stream.sent == self.bytes;
                self.done += usize::from(whole && reason == CloseReason::Finished);
            }
            Event::Unreachable { .. } => self.unreachable += 1,
            Event::Stopping => cx.stop(),
            _ => {}
        }
    }
}

/// Chances in a thousand for each frame.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) drop: u64,
    pub(crate) late_completion: u64,
}

fn faulty(port: &mut MemoryPort, faults: Faults, seed: u64) {
    let mut state = seed | 1;
    port.set_fault_hook(move |_, _| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let dice = (state >> 20) % 1000;
        if dice < faults.drop {
            Fate::Drop
        } else if dice < faults.drop + faults.late_completion {
            Fate::DelayCompletion(3)
        } else {
            Fate::Deliver
        }
    });
}

/// Two shards in virtual time.
pub(crate) struct World<A: Service, B: Service> {
    pub(crate) clock: ManualClock,
    pub(crate) pair: MemoryPair<A, B>,
    pub(crate) seconds: f64,
}

impl<A: Service, B: Service> World<A, B> {
    pub(crate) fn new(config: &ShardConfig, a: A, b: B, faults: Faults, seed: u64) -> Self {
        let clock = ManualClock::new();
        let (mut port_a, mut port_b) = MemoryPort::pair(&MemoryConfig::default());
        faulty(&mut port_a, faults, seed);
        faulty(&mut port_b, faults, seed.wrapping_add(77));
        let pair = MemoryPair::seeded(config, (port_a, port_b), a, b, &clock, seed);
        Self {
            clock,
            pair,
            seconds: 0.0,
        }
    }

    /// A world whose client loses its `nth` frame, which is complete only `reclaims` turns later.
    pub(crate) fn losing_late(a: A, b: B, nth: u64, reclaims: u32) -> Self {
        let clock = ManualClock::new();
        let (mut port_a, port_b) = MemoryPort::pair(&MemoryConfig::default());
        port_a.set_fault_hook(move |sequence, _| {
            if sequence == nth {
                Fate::DropDelayCompletion(reclaims)
            } else {
                Fate::Deliver
            }
        });
        let config = ShardConfig::default();
        let pair = MemoryPair::seeded(&config, (port_a, port_b), a, b, &clock, 1);
        Self {
            clock,
            pair,
            seconds: 0.0,
        }
    }

    /// Turns, with 20 us between turns that did something and a millisecond between idle ones.
    pub(crate) fn run(&mut self, limit: Duration, mut done: impl FnMut(&A, &B) -> bool) -> bool {
        let limit = limit.as_secs_f64();
        let start = self.seconds;
        while self.seconds - start < limit {
            if done(self.pair.a.service(), self.pair.b.service()) {
                return true;
            }
            let step = if self.pair.turn() { 20 } else { 1000 };
            self.clock.advance(Duration::from_micros(step));
            self.seconds += step as f64 / 1e6;
        }
        false
    }
}
