//! Ping-pong of 64 bytes on each of many flows at once, between two shards of ours over the wire.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use bywash::echo::Echo;
use bywash::{
    ConnId, ConnOptions, Context, EngineConfig, Event, PoolClass, PoolPolicy, Port, Recv, Service,
};
use bywash_xdp::Mode;

use super::{PATIENCE, Wait, engine_config, first, is_ready, run_engine};
use crate::cpu::{CoreTime, Sample};
use crate::latency::WARM_UP;
use crate::netns::{End, Testbed};
use crate::raw::join;

const PORT: u16 = 7;
const SIZE: usize = 64;
/// Entries of a flow's own ring: one request is on its way at a time.
const RING: u32 = 32;

/// One run's shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Many {
    /// Connections, each with one request on its way.
    pub(crate) flows: usize,
    /// Whether each has a ring of its own at the server.
    pub(crate) dedicated: bool,
    /// Native or generic XDP.
    pub(crate) xdp: Mode,
    /// How long.
    pub(crate) duration: Duration,
}

/// What one run measured.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    /// Answers, all flows together.
    pub(crate) answers: u64,
    /// In this time.
    pub(crate) elapsed: Duration,
    /// All cores' time.
    pub(crate) cores: Vec<CoreTime>,
}

/// Asks from `a`, answers at `b`.
pub(crate) fn run(bed: &Testbed, many: &Many) -> Result<Counted> {
    let stop = AtomicBool::new(false);
    let (ready, listening) = mpsc::channel();
    thread::scope(|scope| {
        let answering = bed.b.spawn_unpinned(scope, |entered| {
            entered.and_then(|()| answer(&bed.b, many, &ready, &stop))
        });
        let counted = match is_ready(&listening) {
            true => join(bed.a.spawn_unpinned(scope, |entered| {
                entered.and_then(|()| ask(&bed.a, SocketAddr::new(bed.b.ip(), PORT), many))
            })),
            false => Err(anyhow!("the echo server was not ready in time")),
        };
        stop.store(true, Ordering::Release);
        join(answering)?;
        counted
    })
}

fn config(end: &End, many: &Many, dedicated: bool) -> EngineConfig {
    let mut config = engine_config(end, Wait::Spin, many.xdp);
    config.shard.pools = PoolPolicy::Shared;
    if dedicated {
        config.pools = vec![PoolClass {
            pools: many.flows as u32,
            ring: RING,
        }];
        config.shard.pools = PoolPolicy::Dedicated;
    }
    config
}

fn answer(end: &End, many: &Many, ready: &mpsc::Sender<()>, stop: &AtomicBool) -> Result<()> {
    let (listening, told) = mpsc::channel();
    let make = |_| Echo::new(PORT, options(), listening.clone());
    run_engine(config(end, many, many.dedicated), make, ready, stop)?;
    Ok(told.recv().context("the echo service said nothing")??)
}

fn options() -> ConnOptions {
    ConnOptions {
        nagle: Some(false),
        ..ConnOptions::default()
    }
}

fn ask(end: &End, server: SocketAddr, many: &Many) -> Result<Counted> {
    let (ready, _started) = mpsc::channel();
    let never = AtomicBool::new(false);
    let begun = Instant::now();
    let make = |_| Client {
        server,
        flows: many.flows,
        duration: many.duration,
        conns: Vec::with_capacity(many.flows),
        begun,
        start: None,
        answers: 0,
        result: None,
    };
    let client = first(run_engine(config(end, many, false), make, &ready, &never)?)?;
    client
        .result
        .context("the client was ended before its time")?
}

struct Client {
    server: SocketAddr,
    flows: usize,
    duration: Duration,
    conns: Vec<ConnId>,
    begun: Instant,
    /// Behind the warm-up.
    start: Option<(Instant, Sample)>,
    answers: u64,
    result: Option<Result<Counted>>,
}

impl Client {
    fn ask<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        if cx.send(conn, &[7; SIZE]) != Ok(SIZE) {
            self.finish(cx, Err(anyhow!("no room for one request")));
        }
    }

    fn finish<P: Port>(&mut self, cx: &mut Context<'_, P>, result: Result<Counted>) {
        self.result.get_or_insert(result);
        cx.stop();
    }

    fn connect<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        if let Err(error) = cx.connect(self.server, options()) {
            self.finish(cx, Err(anyhow!("{error}")));
        }
    }

    /// All flows stand: from here on it counts.
    fn begin(&mut self, now: Instant) -> Result<()> {
        self.start = Some((now + WARM_UP, Sample::now()?));
        Ok(())
    }

    fn counted(&self, now: Instant) -> Result<Counted> {
        let (start, before) = self.start.as_ref().context("the run never began")?;
        ensure!(self.answers > 0, "not one answer came");
        Ok(Counted {
            answers: self.answers,
            elapsed: now - *start,
            cores: before.until(&Sample::now()?),
        })
    }
}

impl Service for Client {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        if self.result.is_some() {
            return;
        }
        match event {
            Event::Started => self.connect(cx),
            Event::Connected { conn } => {
                self.conns.push(conn);
                if self.conns.len() < self.flows {
                    // One after the other, so that each finds a ring.
                    return self.connect(cx);
                }
                if let Err(error) = self.begin(Instant::now()) {
                    return self.finish(cx, Err(error));
                }
                for place in 0..self.conns.len() {
                    self.ask(cx, self.conns[place]);
                }
            }
            Event::Readable { conn } => {
                let mut bytes = 0;
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    bytes += frame.len();
                }
                // One request is on its way, so an answer comes whole.
                if bytes == SIZE {
                    let counts = self
                        .start
                        .as_ref()
                        .is_some_and(|(start, _)| Instant::now() >= *start);
                    self.answers += u64::from(counts);
                    self.ask(cx, conn);
                } else if bytes > 0 {
                    self.finish(cx, Err(anyhow!("{bytes} bytes instead of {SIZE}")));
                }
            }
            Event::Closed { reason, .. } => self.finish(cx, Err(anyhow!("closed: {reason:?}"))),
            Event::Unreachable { reason, .. } => {
                self.finish(cx, Err(anyhow!("unreachable: {reason:?}")))
            }
            Event::Stopping => cx.stop(),
            _ => {}
        }
    }

    fn on_turn<P: Port>(&mut self, cx: &mut Context<'_, P>) -> usize {
        if self.result.is_some() {
            return 0;
        }
        let now = Instant::now();
        let over = match &self.start {
            Some((start, _)) => now >= *start + self.duration,
            None => now - self.begun > 3 * PATIENCE,
        };
        if over {
            let counted = self.counted(now);
            self.finish(cx, counted);
        }
        0
    }
}
