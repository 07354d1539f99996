//! Requests and answers of one size on one connection: one at a time, several in flight, or at a fixed rate.
//!
//! ```text
//!  closed loop   ask ... answer, ask ... answer         a time is from the call that sends to the call that reads
//!  open loop     due  due  due  due  due                a time is from when the request was *due*: what a slow answer keeps
//!                 ask ......... answer                  waiting counts as late (coordinated omission corrected)
//! ```

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use bywash::echo::Echo;
use bywash::{ConnId, ConnOptions, Context, Event, Port, Recv, Service};
use bywash_xdp::Mode;

use super::{Wait, Who, engine_config, first, is_ready, kernel, run_engine, smol_packet};
use crate::cpu::{CoreTime, Sample};
use crate::latency::{Latencies, WARM_UP};
use crate::netns::{End, Testbed};
use crate::raw::join;

/// Port of the echo server.
const PORT: u16 = 7007;

/// Bytes of options in each segment (RFC 7323), which the MSS counts (RFC 6691).
const TIMESTAMPS: u16 = 12;

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// So many in flight all the time.
    Depth(usize),
    /// One at the end of each interval, however long answers take.
    Every(Duration),
}

/// One run's shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    /// Bytes of request and answer.
    pub(crate) size: usize,
    /// When requests are sent.
    pub(crate) load: Load,
    /// Each message in a segment of its own: the kernel's ends read and write one at a time, and ours have segments of this size.
    pub(crate) one_each: bool,
    /// How the ends wait.
    pub(crate) wait: Wait,
    /// Native or generic XDP.
    pub(crate) xdp: Mode,
    /// How long.
    pub(crate) duration: Duration,
}

impl Exchange {
    /// How much `read` is given at once.
    pub(super) const fn read_at_once(&self, buffer: usize) -> usize {
        match self.one_each {
            true => self.size,
            false => buffer,
        }
    }

    fn options(&self) -> ConnOptions {
        ConnOptions {
            nagle: Some(false),
            mss: self.one_each.then_some(self.size as u16 + TIMESTAMPS),
            ..ConnOptions::default()
        }
    }
}

/// What one run measured.
#[derive(Debug)]
pub(crate) struct Exchanged {
    /// Times.
    pub(crate) latencies: Latencies,
    /// Answers a second.
    pub(crate) per_second: f64,
    /// Frames that the client's device sent, by request.
    pub(crate) frames_each: f64,
    /// All cores' time.
    pub(crate) cores: Vec<CoreTime>,
}

/// Asks from `a`, answers at `b`.
pub(crate) fn run(
    bed: &Testbed,
    [client, server]: [Who; 2],
    exchange: &Exchange,
) -> Result<Exchanged> {
    let stop = AtomicBool::new(false);
    let (ready, listening) = mpsc::channel();
    thread::scope(|scope| {
        let answering = server.spawn(&bed.b, scope, |entered| {
            entered?;
            match server {
                Who::Kernel => kernel::answer(&bed.b, PORT, exchange, &ready, &stop),
                Who::Us => answer(&bed.b, exchange, &ready, &stop),
                Who::Smoltcp => smol_packet::answer(&bed.b, PORT, &ready, &stop),
            }
        });
        let asked = match is_ready(&listening) {
            true => asking(bed, client, (server.address(&bed.b), PORT), exchange),
            false => Err(anyhow!("the echo server was not ready in time")),
        };
        stop.store(true, Ordering::Release);
        // A server that failed says more than a client without an answer.
        join(answering)?;
        asked
    })
}

fn asking(
    bed: &Testbed,
    client: Who,
    server: (Ipv4Addr, u16),
    exchange: &Exchange,
) -> Result<Exchanged> {
    let before = bed.a.frames_sent()?;
    let account = thread::scope(|scope| {
        join(client.spawn(&bed.a, scope, |entered| {
            entered?;
            match client {
                Who::Kernel => kernel::ask(server.into(), exchange),
                Who::Us => ask(&bed.a, server.into(), exchange),
                Who::Smoltcp => smol_packet::ask(&bed.a, server, exchange),
            }
        }))
    })?;
    let frames = bed.a.frames_sent()? - before;
    account.finish(frames)
}

fn answer(
    end: &End,
    exchange: &Exchange,
    ready: &mpsc::Sender<()>,
    stop: &AtomicBool,
) -> Result<()> {
    let (listening, told) = mpsc::channel();
    let config = engine_config(end, exchange.wait, exchange.xdp);
    let make = |_| Echo::new(PORT, exchange.options(), listening.clone());
    run_engine(config, make, ready, stop)?;
    Ok(told.recv().context("the echo service said nothing")??)
}

fn ask(end: &End, server: SocketAddr, exchange: &Exchange) -> Result<Account> {
    let config = engine_config(end, exchange.wait, exchange.xdp);
    let mut latencies = Some(Latencies::new()?);
    let make = |_| Client {
        server,
        options: exchange.options(),
        message: vec![7; exchange.size],
        conn: None,
        account: latencies
            .take()
            .map(|latencies| Account::new(exchange, latencies)),
        owed: 0,
        begun: None,
        before: None,
        failure: None,
        over: false,
    };
    let (ready, _started) = mpsc::channel();
    let never = AtomicBool::new(false);
    let client = first(run_engine(config, make, &ready, &never)?)?;
    if let Some(failure) = client.failure {
        return Err(anyhow!("the client: {failure}"));
    }
    client.account.context("the client has no account")
}

/// What is due, what is asked, and what came of it. The same for the kernel's client and for ours.
#[derive(Debug)]
pub(super) struct Account {
    size: usize,
    load: Load,
    duration: Duration,
    latencies: Latencies,
    start: Instant,
    /// When the next request is due, in an open loop.
    next: Instant,
    /// Requests to be sent at once, in a closed loop.
    free: usize,
    /// When those in flight were asked, or were due.
    asked: VecDeque<Instant>,
    /// Bytes of the next answer that have arrived.
    partial: usize,
    requests: u64,
    /// Answers behind the warm-up.
    answers: u64,
    elapsed: Duration,
    cores: Vec<CoreTime>,
}

impl Account {
    pub(super) fn new(exchange: &Exchange, latencies: Latencies) -> Self {
        let now = Instant::now();
        Self {
            size: exchange.size,
            load: exchange.load,
            duration: exchange.duration,
            latencies,
            start: now,
            next: now,
            free: match exchange.load {
                Load::Depth(depth) => depth,
                Load::Every(_) => 0,
            },
            asked: VecDeque::with_capacity(1024),
            partial: 0,
            requests: 0,
            answers: 0,
            elapsed: Duration::ZERO,
            cores: Vec::new(),
        }
    }

    /// The connection stands.
    pub(super) fn begin(&mut self, now: Instant) {
        self.start = now;
        self.next = now;
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        now - self.start >= self.duration
    }

    /// Whether nothing is to be done before an answer comes, so long after the beginning.
    fn waits_for_answers(&self, passed: Duration) -> bool {
        matches!(self.load, Load::Depth(_)) && self.free == 0 && passed < self.duration
    }

    /// How many requests to send now.
    pub(super) fn due(&mut self, now: Instant) -> usize {
        let mut due = 0;
        match self.load {
            Load::Depth(_) => {
                due = std::mem::take(&mut self.free);
                self.asked.extend(std::iter::repeat_n(now, due));
            }
            Load::Every(interval) => {
                while self.next <= now {
                    self.asked.push_back(self.next);
                    self.next += interval;
                    due += 1;
                }
            }
        }
        self.requests += due as u64;
        due
    }

    /// Bytes of answers have arrived.
    pub(super) fn answered(&mut self, bytes: usize, now: Instant) {
        self.partial += bytes;
        while self.partial >= self.size {
            self.partial -= self.size;
            let Some(asked) = self.asked.pop_front() else {
                return;
            };
            if asked - self.start >= WARM_UP {
                self.latencies.record(now - asked);
            }
            if now - self.start >= WARM_UP {
                self.answers += 1;
            }
            if matches!(self.load, Load::Depth(_)) {
                self.free += 1;
            }
        }
    }

    /// It is over. Requests that an open loop never saw answered count with the time that they have waited.
    pub(super) fn end(&mut self, now: Instant, cores: Vec<CoreTime>) {
        if matches!(self.load, Load::Every(_)) {
            for asked in self
                .asked
                .drain(..)
                .filter(|asked| *asked - self.start >= WARM_UP)
            {
                self.latencies.record(now - asked);
            }
        }
        self.elapsed = (now - self.start).saturating_sub(WARM_UP);
        self.cores = cores;
    }

    fn finish(self, frames: u64) -> Result<Exchanged> {
        anyhow::ensure!(self.answers > 0, "not one answer came");
        Ok(Exchanged {
            per_second: self.answers as f64 / self.elapsed.as_secs_f64(),
            frames_each: frames as f64 / self.requests as f64,
            latencies: self.latencies,
            cores: self.cores,
        })
    }
}

/// Our client.
struct Client {
    server: SocketAddr,
    options: ConnOptions,
    message: Vec<u8>,
    conn: Option<ConnId>,
    account: Option<Account>,
    /// Bytes of requests that the send buffer had no room for.
    owed: usize,
    /// Nanoseconds of the shard's clock at the first turn with a connection.
    begun: Option<u64>,
    before: Option<Sample>,
    failure: Option<String>,
    over: bool,
}

impl Client {
    /// Sends what is due and what is owed.
    fn pump<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId, now: Instant) -> usize {
        let Some(account) = &mut self.account else {
            return 0;
        };
        let due = account.due(now);
        self.owed += due * self.message.len();
        while self.owed > 0 {
            let size = self.message.len();
            let rest = match self.owed % size {
                0 => size,
                rest => rest,
            };
            match cx.send(conn, &self.message[size - rest..]) {
                Ok(sent) => {
                    self.owed -= sent;
                    if sent < rest {
                        break; // Writable follows
                    }
                }
                Err(error) => {
                    self.fail(cx, error.to_string());
                    break;
                }
            }
        }
        due
    }

    fn finish<P: Port>(&mut self, cx: &mut Context<'_, P>, now: Instant) {
        self.over = true;
        let cores = match (&self.before, Sample::now()) {
            (Some(before), Ok(after)) => before.until(&after),
            (_, Err(error)) => return self.fail(cx, format!("{error:#}")),
            (None, _) => Vec::new(),
        };
        if let Some(account) = &mut self.account {
            account.end(now, cores);
        }
        cx.stop();
    }

    fn fail<P: Port>(&mut self, cx: &mut Context<'_, P>, why: String) {
        self.failure.get_or_insert(why);
        self.over = true;
        cx.stop();
    }
}

impl Service for Client {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                if let Err(error) = cx.connect(self.server, self.options) {
                    self.fail(cx, error.to_string());
                }
            }
            Event::Connected { conn } => {
                match Sample::now() {
                    Ok(sample) => self.before = Some(sample),
                    Err(error) => return self.fail(cx, format!("{error:#}")),
                }
                self.conn = Some(conn);
                if let Some(account) = &mut self.account {
                    account.begin(Instant::now());
                }
            }
            Event::Readable { conn } if !self.over => {
                let mut bytes = 0;
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    bytes += frame.len();
                }
                let now = Instant::now();
                if let Some(account) = &mut self.account {
                    account.answered(bytes, now);
                }
                self.pump(cx, conn, now);
            }
            Event::Closed { reason, .. } if !self.over => {
                self.fail(cx, format!("closed: {reason:?}"))
            }
            Event::Unreachable { reason, .. } => self.fail(cx, format!("unreachable: {reason:?}")),
            Event::Stopping => cx.stop(),
            _ => {}
        }
    }

    fn on_turn<P: Port>(&mut self, cx: &mut Context<'_, P>) -> usize {
        let Some(conn) = self.conn.filter(|_| !self.over) else {
            return 0;
        };
        // A closed loop has nothing to ask before it is answered: the turn's own time is good enough, and the clock is not read.
        let turn = cx.now().as_nanos();
        let passed = Duration::from_nanos(turn - *self.begun.get_or_insert(turn));
        if self.owed == 0
            && self
                .account
                .as_ref()
                .is_some_and(|account| account.waits_for_answers(passed))
        {
            return 0;
        }
        let now = Instant::now();
        if self
            .account
            .as_ref()
            .is_some_and(|account| account.is_over(now))
        {
            self.finish(cx, now);
            return 1;
        }
        self.pump(cx, conn, now)
    }

    /// An open loop asks when it is time, which no frame announces.
    fn has_work(&self) -> bool {
        let open = self
            .account
            .as_ref()
            .is_some_and(|account| matches!(account.load, Load::Every(_)));
        open && self.conn.is_some() && !self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(load: Load) -> Account {
        let exchange = Exchange {
            size: 10,
            load,
            one_each: false,
            wait: Wait::Spin,
            xdp: Mode::Auto,
            duration: Duration::from_secs(1),
        };
        Account::new(&exchange, Latencies::new().unwrap())
    }

    /// A server that stands still for 100 ms delays everything that was due meanwhile, and all of it counts.
    #[test]
    fn an_open_loop_counts_from_when_a_request_was_due() {
        let mut account = account(Load::Every(Duration::from_millis(1)));
        let start = Instant::now();
        account.begin(start);
        let stalled = start + WARM_UP;
        let due = account.due(stalled);
        account.answered(due * 10, stalled);
        let late = stalled + Duration::from_millis(100);
        let due = account.due(late);
        assert_eq!(due, 100);
        account.answered(due * 10, late);
        assert!(account.latencies.quantile_us(0.5) > 45_000.0);
        assert!(account.latencies.quantile_us(1.0) >= 99_000.0);
    }

    /// What was never answered is not left out.
    #[test]
    fn unanswered_requests_count_at_the_end() {
        let mut account = account(Load::Every(Duration::from_millis(1)));
        let start = Instant::now();
        account.begin(start);
        account.due(start + Duration::from_secs(1));
        account.end(start + Duration::from_secs(1), Vec::new());
        assert_eq!(account.latencies.count(), 951);
    }

    #[test]
    fn a_closed_loop_keeps_its_depth() {
        let mut account = account(Load::Depth(4));
        let start = Instant::now();
        account.begin(start);
        assert_eq!(account.due(start), 4);
        assert_eq!(account.due(start), 0);
        account.answered(25, start); // two and a half
        assert_eq!(account.due(start), 2);
        account.answered(5, start);
        assert_eq!(account.due(start), 1);
    }
}
