//! Connections that are opened, used once and closed: so many at a time, again and again.
//!
//! ```text
//!  client: connect ── request ──>                       close ── next one
//!  server:            <── answer ── close (first, so that TIME-WAIT lies here and no port of the client's is spent)
//! ```
//!
//! Nobody sleeps: the kernel's ends look into their epoll again and again, ours turn. The kernel's are written for few calls: edges
//! instead of a call for each change of interest, an attempt to read behind `accept`, no call to make an accepted socket
//! non-blocking. Measured at 64 at once: 27,083 connections a second, 21,832 where they sleep in `epoll_wait`, 23,556 with
//! `TCP_DEFER_ACCEPT`.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bywash::{ConnId, ConnOptions, Context, Event, PoolClass, PoolPolicy, Port, Recv, Service};
use bywash_xdp::Mode;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage,
    connect as connect_to, recv, socket as new_socket,
};

use super::{Wait, Who, engine_config, first, is_ready, run_engine};
use crate::cpu::{CoreTime, Sample};
use crate::netns::{End, Testbed};
use crate::raw::join;

/// Port of the server.
const PORT: u16 = 8080;
/// Bytes of request and answer.
pub(crate) const SIZE: usize = 64;
/// A server that does not answer for this long is given up.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One run's shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shorts {
    /// Connections at a time.
    pub(crate) at_once: usize,
    /// Whether each of our connections gets a ring of its own.
    pub(crate) dedicated: bool,
    /// Native or generic XDP.
    pub(crate) xdp: Mode,
    /// How long.
    pub(crate) duration: Duration,
}

/// What one run measured. Parts are means, in microseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    /// Connections that were opened, used and closed.
    pub(crate) done: u64,
    /// In this time.
    pub(crate) elapsed: Duration,
    /// The call that begins a connection: port, route, memory.
    pub(crate) begin_us: f64,
    /// From there to the client's `Connected`, or the return of `connect`.
    pub(crate) handshake_us: f64,
    /// Request to answer.
    pub(crate) use_us: f64,
    /// Answer to the end of the connection at the client.
    pub(crate) close_us: f64,
    /// All cores' time.
    pub(crate) cores: Vec<CoreTime>,
}

/// Sums of the parts, as they go on.
#[derive(Clone, Copy, Debug, Default)]
struct Parts([Duration; 4]);

impl Parts {
    fn add(&mut self, part: usize, time: Duration) {
        self.0[part] += time;
    }

    fn counted(self, done: u64, elapsed: Duration, cores: Vec<CoreTime>) -> Result<Counted> {
        ensure!(done > 0, "not one connection was served");
        let [begin_us, handshake_us, use_us, close_us] =
            self.0.map(|sum| sum.as_secs_f64() * 1e6 / done as f64);
        Ok(Counted {
            done,
            elapsed,
            begin_us,
            handshake_us,
            use_us,
            close_us,
            cores,
        })
    }
}

/// Clients at `a`, server at `b`.
pub(crate) fn run(bed: &Testbed, [client, server]: [Who; 2], shorts: &Shorts) -> Result<Counted> {
    let stop = AtomicBool::new(false);
    let (ready, listening) = mpsc::channel();
    thread::scope(|scope| {
        let serving = server.spawn(&bed.b, scope, |entered| {
            entered?;
            match server {
                Who::Us => our_server(&bed.b, shorts, &ready, &stop),
                Who::Kernel | Who::Smoltcp => kernel_server(&bed.b, &ready, &stop),
            }
        });
        let address = SocketAddr::new(bed.b.ip(), PORT);
        let counted = match is_ready(&listening) {
            false => Err(anyhow!("the server was not ready in time")),
            true => join(client.spawn(&bed.a, scope, move |entered| {
                entered?;
                match client {
                    Who::Us => our_client(&bed.a, address, shorts),
                    Who::Kernel | Who::Smoltcp => kernel_client(address, shorts),
                }
            })),
        };
        stop.store(true, Ordering::Release);
        join(serving)?;
        counted
    })
}

/// A TCP socket that is not connected yet.
pub(super) fn socket(non_blocking: bool) -> Result<OwnedFd> {
    let mut flags = SockFlag::SOCK_CLOEXEC;
    flags.set(SockFlag::SOCK_NONBLOCK, non_blocking);
    new_socket(
        AddressFamily::Inet,
        SockType::Stream,
        flags,
        SockProtocol::Tcp,
    )
    .context("no socket")
}

/// Connects; one that does not block goes on by itself.
pub(super) fn connect(socket: &OwnedFd, server: SocketAddr) -> Result<()> {
    match connect_to(socket.as_raw_fd(), &SockaddrStorage::from(server)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot connect to {server}")),
    }
}

/// Events that are there; none if a signal came. Never sleeps, as our ends do not: waking a core costs the waker more than a look.
fn look(epoll: &Epoll, events: &mut [EpollEvent]) -> Result<usize> {
    match epoll.wait(events, EpollTimeout::ZERO) {
        Ok(count) => Ok(count),
        Err(Errno::EINTR) => Ok(0),
        Err(error) => Err(error).context("epoll_wait"),
    }
}

fn kernel_server(end: &End, ready: &mpsc::Sender<()>, stop: &AtomicBool) -> Result<()> {
    let listener = TcpListener::bind((end.address, PORT)).context("cannot listen")?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, u64::MAX))?;
    let _ = ready.send(());
    let mut events = vec![EpollEvent::empty(); 256];
    while !stop.load(Ordering::Relaxed) {
        let count = look(&epoll, &mut events)?;
        for event in &events[..count] {
            if event.data() == u64::MAX {
                accept_all(&listener, &epoll, &mut streams)?;
                continue;
            }
            // What is answered, or gone, is closed, which also takes it from the epoll.
            if let Some(place) = streams.get_mut(event.data() as usize) {
                *place = place.take().and_then(answer);
            }
        }
    }
    Ok(())
}

/// Accepts what there is. What has been asked already is answered at once; the rest waits in the epoll.
fn accept_all(
    listener: &TcpListener,
    epoll: &Epoll,
    streams: &mut Vec<Option<TcpStream>>,
) -> Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("accept"),
        };
        let Some(stream) = answer(stream) else {
            continue;
        };
        let number = stream.as_raw_fd() as usize;
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        if streams.len() <= number {
            streams.resize_with(number + 1, || None);
        }
        streams[number] = Some(stream);
    }
}

/// Answers a request and closes; gives the stream back if there is none yet. A client that has gone, as it does at the end of the
/// run, needs no answer.
fn answer(mut stream: TcpStream) -> Option<TcpStream> {
    let mut buffer = [0; SIZE];
    match recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
        Ok(read) => {
            let _ = stream.write_all(&buffer[..read]);
            None
        }
        Err(Errno::EAGAIN) => Some(stream),
        Err(_) => None,
    }
}

/// One of the kernel client's connections.
struct Open {
    stream: TcpStream,
    since: Instant,
    part: Part,
}

/// What a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Handshake,
    Answer,
    End,
}

fn kernel_client(server: SocketAddr, shorts: &Shorts) -> Result<Counted> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut parts = Parts::default();
    let mut open = Vec::new();
    for place in 0..shorts.at_once {
        open.push(begin(&epoll, server, place, &mut parts)?);
    }
    let (before, start, mut done) = (Sample::now()?, Instant::now(), 0);
    let mut last = start;
    let mut events = vec![EpollEvent::empty(); 256];
    // On a busy machine a short run goes on until something was done.
    while start.elapsed() < shorts.duration || done == 0 {
        let count = look(&epoll, &mut events)?;
        ensure!(
            last.elapsed() < TIMEOUT,
            "no connection was served within {TIMEOUT:?}"
        );
        for event in &events[..count] {
            let place = event.data() as usize;
            if go_on(&mut open[place], event.events(), &mut parts)? {
                done += 1;
                last = Instant::now();
                open[place] = begin(&epoll, server, place, &mut parts)?;
            }
        }
    }
    parts.counted(done, start.elapsed(), before.until(&Sample::now()?))
}

/// What has happened to a connection, all of it, as it is told once. True: it is over.
fn go_on(open: &mut Open, events: EpollFlags, parts: &mut Parts) -> Result<bool> {
    let Open {
        stream,
        since,
        part,
    } = open;
    let now = Instant::now();
    if *part == Part::Handshake && events.contains(EpollFlags::EPOLLOUT) {
        parts.add(1, now - *since);
        // A handshake that has failed says so here.
        stream.write_all(&[7; SIZE]).context("asking")?;
        (*part, *since) = (Part::Answer, now);
    }
    if *part == Part::Answer && events.contains(EpollFlags::EPOLLIN) {
        let mut buffer = [0; SIZE];
        let read = stream.read(&mut buffer).context("reading the answer")?;
        ensure!(read == SIZE, "an answer of {read} bytes");
        parts.add(2, now - *since);
        (*part, *since) = (Part::End, now);
    }
    // The server has closed, and all that it sent was read.
    let over = *part == Part::End && events.contains(EpollFlags::EPOLLRDHUP);
    if over {
        parts.add(3, now - *since);
    }
    Ok(over)
}

fn begin(epoll: &Epoll, server: SocketAddr, place: usize, parts: &mut Parts) -> Result<Open> {
    let start = Instant::now();
    let socket = socket(true)?;
    connect(&socket, server)?;
    let since = Instant::now();
    parts.add(0, since - start);
    let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP;
    // Each change is told once: no call to say what is waited for next.
    let interest = interest | EpollFlags::EPOLLET;
    epoll.add(&socket, EpollEvent::new(interest, place as u64))?;
    Ok(Open {
        stream: TcpStream::from(socket),
        since,
        part: Part::Handshake,
    })
}

fn our_config(end: &End, shorts: &Shorts) -> bywash::EngineConfig {
    let mut config = engine_config(end, Wait::Spin, shorts.xdp);
    if shorts.dedicated {
        config.pools = vec![PoolClass::small(shorts.at_once.max(16) as u32)];
        config.shard.pools = PoolPolicy::Dedicated;
    } else {
        config.shard.pools = PoolPolicy::Shared;
    }
    config
}

fn our_server(
    end: &End,
    shorts: &Shorts,
    ready: &mpsc::Sender<()>,
    stop: &AtomicBool,
) -> Result<()> {
    let failed = Arc::new(AtomicU64::new(0));
    let make = |_| Server {
        failed: Arc::clone(&failed),
    };
    run_engine(our_config(end, shorts), make, ready, stop)?;
    match failed.load(Ordering::Relaxed) {
        0 => Ok(()),
        _ => bail!("our server could not listen on port {PORT}"),
    }
}

/// Answers once and closes.
struct Server {
    failed: Arc<AtomicU64>,
}

impl Service for Server {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started if cx.listen(PORT, ConnOptions::default()).is_err() => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                cx.stop();
            }
            Event::Readable { conn } => {
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    // A client that has gone, as it does at the end of the run, needs no answer; one that has not, and gets none,
                    // says so.
                    let _ = cx.send(conn, frame.bytes());
                }
                // The client may be gone already.
                let _ = cx.close(conn);
            }
            Event::Stopping => cx.stop(),
            _ => {}
        }
    }
}

fn our_client(end: &End, server: SocketAddr, shorts: &Shorts) -> Result<Counted> {
    let never = AtomicBool::new(false);
    let (ready, _started) = mpsc::channel();
    let make = |_| Client {
        server,
        at_once: shorts.at_once,
        duration: shorts.duration,
        start: Instant::now(),
        last: Instant::now(),
        open: Vec::new(),
        parts: Parts::default(),
        done: 0,
        before: None,
        result: None,
    };
    let client = first(run_engine(our_config(end, shorts), make, &ready, &never)?)?;
    client
        .result
        .context("our client was ended before its time")?
}

/// Our client: so many connections at a time.
struct Client {
    server: SocketAddr,
    at_once: usize,
    duration: Duration,
    start: Instant,
    last: Instant,
    /// By the index of the connection: since when it is in its present part.
    open: Vec<Instant>,
    parts: Parts,
    done: u64,
    before: Option<Sample>,
    result: Option<Result<Counted>>,
}

impl Client {
    fn begin<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let start = Instant::now();
        let options = ConnOptions {
            nagle: Some(false),
            ..ConnOptions::default()
        };
        match cx.connect(self.server, options) {
            Ok(conn) => {
                let now = Instant::now();
                self.parts.add(0, now - start);
                self.mark(conn, now);
            }
            Err(error) => self.finish(cx, Err(anyhow!("{error}"))),
        }
    }

    /// Begins a part; returns how long the one before took.
    fn mark(&mut self, conn: ConnId, now: Instant) -> Duration {
        let index = conn.index as usize;
        if self.open.len() <= index {
            self.open.resize(index + 1, now);
        }
        now - std::mem::replace(&mut self.open[index], now)
    }

    fn finish<P: Port>(&mut self, cx: &mut Context<'_, P>, result: Result<Counted>) {
        self.result.get_or_insert(result);
        cx.stop();
    }
}

impl Service for Client {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        if self.result.is_some() {
            return;
        }
        let now = Instant::now();
        match event {
            Event::Started => {
                match Sample::now() {
                    Ok(sample) => self.before = Some(sample),
                    Err(error) => return self.finish(cx, Err(error)),
                }
                (self.start, self.last) = (now, now);
                (0..self.at_once).for_each(|_| self.begin(cx));
            }
            Event::Connected { conn } => {
                let took = self.mark(conn, now);
                self.parts.add(1, took);
                if cx.send(conn, &[7; SIZE]) != Ok(SIZE) {
                    self.finish(cx, Err(anyhow!("no room for one request")));
                }
            }
            Event::Readable { conn } => loop {
                match cx.recv(conn) {
                    Ok(Recv::Data(_)) => {
                        let took = self.mark(conn, now);
                        self.parts.add(2, took);
                    }
                    Ok(Recv::End) => {
                        // `Closed` follows either way.
                        let _ = cx.close(conn);
                        break;
                    }
                    Ok(Recv::Empty) | Err(_) => break,
                }
            },
            Event::Closed { conn, .. } => {
                let took = self.mark(conn, now);
                self.parts.add(3, took);
                self.done += 1;
                self.last = now;
                self.begin(cx);
            }
            Event::Unreachable { reason, .. } => {
                self.finish(cx, Err(anyhow!("unreachable: {reason:?}")))
            }
            Event::Stopping => cx.stop(),
            _ => {}
        }
    }

    fn on_turn<P: Port>(&mut self, cx: &mut Context<'_, P>) -> usize {
        let now = Instant::now();
        if self.result.is_none() && self.before.is_some() && now - self.last > TIMEOUT {
            self.finish(
                cx,
                Err(anyhow!("no connection was served within {TIMEOUT:?}")),
            );
        }
        // On a busy machine a short run goes on until something was done.
        let is_over = now - self.start >= self.duration && self.done > 0;
        if self.result.is_none() && is_over {
            let cores = match (&self.before, Sample::now()) {
                (Some(before), Ok(after)) => Ok(before.until(&after)),
                (_, Err(error)) => Err(error),
                (None, _) => Ok(Vec::new()),
            };
            let result =
                cores.and_then(|cores| self.parts.counted(self.done, now - self.start, cores));
            self.finish(cx, result);
        }
        0
    }
}
