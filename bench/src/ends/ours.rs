//! A ping-pong client on the stack itself: a service on the shard's thread, as an embedder would write it.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use bywash::{
    ConnId, ConnOptions, Context, Engine, EngineConfig, Event, IdlePolicy, Port, Recv, Service,
};
use bywash_xdp::Mode;

use crate::cpu::{CoreTime, Sample};
use crate::latency::{Latencies, WARM_UP};
use crate::netns::End;
use crate::raw::join;

/// What a run may take on top of its length, to attach, connect and close.
const GRACE: Duration = Duration::from_secs(5);

/// What one run measured.
pub(crate) struct Ping {
    /// Round-trip times, between the service's own calls.
    pub(crate) latencies: Latencies,
    /// All cores' time.
    pub(crate) cores: Vec<CoreTime>,
}

struct Client {
    server: SocketAddr,
    duration: Duration,
    start: Instant,
    asked: Instant,
    /// Taken when the result is sent.
    latencies: Option<Latencies>,
    before: Option<Sample>,
    done: Sender<Result<Ping>>,
}

impl Client {
    fn ask<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        self.asked = Instant::now();
        match cx.send(conn, &[7]) {
            Ok(1) => {}
            Ok(_) => self.fail(cx, "no room for one byte"),
            Err(error) => self.fail(cx, &error.to_string()),
        }
    }

    fn answered<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        let now = Instant::now();
        if self.asked - self.start >= WARM_UP
            && let Some(latencies) = &mut self.latencies
        {
            latencies.record(now - self.asked);
        }
        if now - self.start < self.duration {
            return self.ask(cx, conn);
        }
        if let Some(latencies) = self.latencies.take() {
            let result = self.cores().map(|cores| Ping { latencies, cores });
            self.finish(cx, result);
        }
        // It may have closed in this very turn: Closed follows either way.
        let _ = cx.close(conn);
    }

    fn cores(&self) -> Result<Vec<CoreTime>> {
        let before = self
            .before
            .as_ref()
            .ok_or_else(|| anyhow!("the run never began"))?;
        Ok(before.until(&Sample::now()?))
    }

    fn fail<P: Port>(&mut self, cx: &mut Context<'_, P>, why: &str) {
        self.latencies = None;
        self.finish(cx, Err(anyhow!("ping-pong with {}: {why}", self.server)));
    }

    fn finish<P: Port>(&mut self, cx: &mut Context<'_, P>, result: Result<Ping>) {
        // The receiver is gone only if it waited too long, and said so.
        let _ = self.done.send(result);
        cx.stop();
    }
}

impl Service for Client {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                let options = ConnOptions {
                    nagle: Some(false),
                    ..ConnOptions::default()
                };
                if let Err(error) = cx.connect(self.server, options) {
                    self.fail(cx, &error.to_string());
                }
            }
            Event::Connected { conn } => match Sample::now() {
                Ok(sample) => {
                    self.before = Some(sample);
                    self.start = Instant::now();
                    self.ask(cx, conn);
                }
                Err(error) => self.fail(cx, &format!("{error:#}")),
            },
            Event::Readable { conn } => {
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    drop(frame);
                    self.answered(cx, conn);
                }
            }
            Event::Closed { reason, .. } if self.latencies.is_some() => {
                self.fail(cx, &format!("closed: {reason:?}"))
            }
            Event::Unreachable { reason, .. } => self.fail(cx, &format!("unreachable: {reason:?}")),
            Event::Stopping => cx.stop(),
            _ => {}
        }
    }
}

/// One byte there and back between a service at `client` and whatever echoes at `server`, for the given time.
pub(crate) fn ping(
    client: &End,
    server: SocketAddr,
    idle: Option<IdlePolicy>,
    xdp: Mode,
    duration: Duration,
) -> Result<Ping> {
    thread::scope(|scope| {
        join(client.spawn_unpinned(scope, |entered| {
            entered?;
            run(client, server, idle, xdp, duration)
        }))
    })
}

fn run(
    client: &End,
    server: SocketAddr,
    idle: Option<IdlePolicy>,
    xdp: Mode,
    duration: Duration,
) -> Result<Ping> {
    let (done, result) = mpsc::channel();
    let mut config = EngineConfig::new(client.device);
    config.cores = Some(vec![client.core]);
    config.xdp = xdp;
    if let Some(idle) = idle {
        config.shard.idle = idle;
    }
    let mut latencies = Some(Latencies::new()?);
    let engine = Engine::start(config, |_| Client {
        server,
        duration,
        start: Instant::now(),
        asked: Instant::now(),
        latencies: latencies.take(),
        before: None,
        done: done.clone(),
    })?;
    let result = result.recv_timeout(duration + GRACE);
    engine.stop();
    engine.join()?;
    match result {
        Ok(result) => result,
        Err(_) => bail!("no ping-pong with {server} within {:?}", duration + GRACE),
    }
}
