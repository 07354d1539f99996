//! Requests and answers over many connections.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Result;
use bywash::seams::{MemoryConfig, UmemConfig, tcp};
use bywash::{ConnId, ConnOptions, Context, Event, MemoryPair, Port, Recv, Service, ShardConfig};

use crate::cost::{Cost, Effort, Progress, pair, prepare, run};

/// Address of the end that listens: the first shard of a [`MemoryPair`].
pub(crate) const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
/// The first listening port; the others follow.
pub(crate) const PORT: u16 = 7000;
/// Local ports of the connecting end.
pub(crate) const LOCAL_PORTS: std::ops::RangeInclusive<u16> = 1024..=65535;
/// Connections to one listening port: fewer than there are local ports, so that a free one is soon found.
const PER_PORT: usize = 32_768;
/// Connections that are being opened at once.
const OPENING: usize = 512;
/// As TCP with a delay of 5 ms instead of 40 does it.
const DELAYED_ACK: tcp::time::Duration = tcp::time::Duration::from_millis(5);
/// For five million answers a second that wait so long.
const TX_FRAMES: u32 = 32_768;
/// How far ahead the asking end has its connections fetched into the cache.
const PREFETCHED: usize = 16;
/// Largest message.
const MESSAGE_MAX: usize = 1024;

/// A load of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Established connections; requests go to them in turn, in an order in which neighbours are far apart.
    pub connections: usize,
    /// Requests under way at once on all of them together. Not above `connections`: one on each of so many; above: several
    /// on each, a multiple.
    pub in_flight: usize,
    /// Bytes of a request and of its answer, at most 1024.
    pub message: usize,
}

/// Sends every byte back.
#[derive(Default)]
pub(crate) struct Echo {
    ports: usize,
    pub(crate) received: u64,
    pub(crate) failure: Option<String>,
}

impl Echo {
    pub(crate) fn on(ports: usize) -> Self {
        Self {
            ports,
            ..Self::default()
        }
    }
}

impl Service for Echo {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                for place in 0..self.ports {
                    if let Err(error) = cx.listen(PORT + place as u16, options()) {
                        self.failure = Some(error.to_string());
                    }
                }
            }
            Event::Readable { conn } => {
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    self.received += frame.len() as u64;
                    match cx.send(conn, frame.bytes()) {
                        Ok(sent) if sent == frame.len() => {}
                        other => self.failure = Some(format!("an answer was not taken: {other:?}")),
                    }
                }
            }
            Event::Closed { reason, .. } => self.failure = Some(format!("closed: {reason:?}")),
            _ => {}
        }
    }
}

impl Progress for Echo {
    fn operations(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        self.received
    }

    fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

/// Opens connections, then asks.
struct Asker {
    load: Exchange,
    request: [u8; MESSAGE_MAX],
    /// In the order in which they are asked.
    conns: Vec<ConnId>,
    asked_for: usize,
    next: usize,
    /// Bytes of an answer that have come; answers of one connection come in order, and not in pieces unless a segment cuts them.
    came: Vec<u16>,
    /// Requests go on being sent.
    asking: bool,
    done: u64,
    failure: Option<String>,
}

impl Asker {
    fn open<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        while self.asked_for < self.load.connections && self.asked_for < self.conns.len() + OPENING
        {
            let port = PORT + (self.asked_for / PER_PORT) as u16;
            if let Err(error) = cx.connect((A, port).into(), options()) {
                self.failure = Some(error.to_string());
                return;
            }
            self.asked_for += 1;
        }
    }

    fn ask<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        match cx.send(conn, &self.request[..self.load.message]) {
            Ok(sent) if sent == self.load.message => {}
            other => self.failure = Some(format!("a request was not taken: {other:?}")),
        }
    }

    fn next_conn(&mut self) -> ConnId {
        let conn = self.conns[self.next];
        self.next = (self.next + 1) % self.conns.len();
        conn
    }

    /// As an application does that knows whom it will write to.
    fn prefetch<P: Port>(&self, cx: &Context<'_, P>) {
        let soon = (self.next + PREFETCHED) % self.conns.len();
        cx.prefetch(self.conns[soon]);
    }

    fn begin<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        self.asking = true;
        for _ in 0..self.load.in_flight {
            let conn = self.next_conn();
            self.ask(cx, conn);
        }
    }
}

impl Service for Asker {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => self.open(cx),
            Event::Connected { conn } => {
                self.conns.push(conn);
                self.open(cx);
            }
            Event::Readable { conn } => {
                let mut came = 0;
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    came += frame.len();
                }
                let came = came + usize::from(self.came[conn.index as usize]);
                self.came[conn.index as usize] = (came % self.load.message) as u16;
                let answers = came / self.load.message;
                self.done += answers as u64;
                for _ in 0..answers * usize::from(self.asking) {
                    // Several on each: the next one goes where an answer came from.
                    let next = match self.load.in_flight > self.load.connections {
                        true => conn,
                        false => self.next_conn(),
                    };
                    self.ask(cx, next);
                    if self.load.connections > PREFETCHED {
                        self.prefetch(cx);
                    }
                }
            }
            Event::Closed { reason, .. } => self.failure = Some(format!("closed: {reason:?}")),
            _ => {}
        }
    }
}

impl Progress for Asker {
    fn operations(&self) -> u64 {
        self.done
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

pub(crate) fn options() -> ConnOptions {
    ConnOptions {
        nagle: Some(false),
        ..ConnOptions::default()
    }
}

/// Shuffles so that neighbours in time are not neighbours in memory; the same every time.
fn scatter(conns: &mut [ConnId]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for at in (1..conns.len()).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        conns.swap(at, (state >> 33) as usize % (at + 1));
    }
}

/// Transactions over established connections. An operation is a request with its answer.
///
/// # Errors
/// If the wire cannot be made, or a connection fails.
pub fn exchange(load: Exchange, effort: Effort) -> Result<Cost> {
    let mut pair = established(load)?;
    scatter(&mut pair.b.service_mut().conns);
    pair.b.with_context(|asker, cx| asker.begin(cx));
    // Every queue gets its size, every connection is past its first exchange.
    let warm = (2 * load.connections as u64).clamp(20_000, 1_000_000);
    prepare(&mut pair, Duration::from_secs(60), |_, asker| {
        asker.done > warm
    })?;
    run(&mut pair, effort)
}

fn established(load: Exchange) -> Result<MemoryPair<Echo, Asker>> {
    anyhow::ensure!(
        (1..=MESSAGE_MAX).contains(&load.message),
        "a message of {} bytes; 1 to {MESSAGE_MAX} are possible",
        load.message
    );
    anyhow::ensure!(
        load.in_flight <= load.connections || load.in_flight.is_multiple_of(load.connections),
        "in_flight is a multiple of the connections, or less than them"
    );
    let mut config = ShardConfig {
        local_ports: LOCAL_PORTS,
        ..ShardConfig::default()
    };
    // Over many connections no request brings the acknowledgment of the last answer soon, and until it comes each answer holds
    // its frame: at a million a second 40 ms would hold more than a shard has.
    config.tcp.delayed_ack = DELAYED_ACK;
    let memory = MemoryConfig {
        umem: UmemConfig {
            tx_frames: TX_FRAMES,
            ..UmemConfig::default()
        },
        ..MemoryConfig::default()
    };
    let ports = load.connections.div_ceil(PER_PORT);
    let asker = Asker {
        load,
        request: [7; MESSAGE_MAX],
        conns: Vec::with_capacity(load.connections),
        asked_for: 0,
        next: 0,
        came: vec![0; load.connections],
        asking: false,
        done: 0,
        failure: None,
    };
    let mut pair = pair(&config, &memory, Echo::on(ports), asker)?;
    prepare(&mut pair, Duration::from_secs(120), |_, asker| {
        asker.conns.len() == load.connections
    })?;
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_answered() {
        for (connections, in_flight) in [(1, 1), (8, 8), (8, 32), (100, 16)] {
            let load = Exchange {
                connections,
                in_flight,
                message: 64,
            };
            let cost = exchange(load, Effort::Operations(1000)).unwrap();
            assert!(cost.operations >= 1000, "{load:?}: {cost:?}");
            assert!(cost.bytes >= 64 * 900, "{load:?}: {cost:?}");
        }
    }
}
