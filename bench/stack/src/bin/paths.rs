//! The hot paths, each a function of its own that callgrind finds by name: `bench/instructions.sh` counts their instructions.
//!
//! ```text
//!  path_decode        bytes of a full frame -> Decoded, checksums verified
//!  path_segment_out   A: send, poll_transmit           path_emit   header into the frame, checksum
//!  path_segment_in    B: on_segment, recv              path_ack_in A: on_segment of the ACK
//!  path_timer         B: on_timeout of the delayed ACK, and the ACK
//!  path_ring_turn     a shard's turn over a queue with 32 segments of 1448 bytes: rings, decode, flow table, TCP, service, ACKs
//!  path_idle_turn     a shard's turn with nothing to do
//! ```
//! Input, clock and randomness are fixed: the same binary executes the same instructions, but for the seed of the shard's hash table.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use bywash::seams::tcp::time::{Duration, Instant};
use bywash::seams::tcp::{Config, Connection, ListenOutcome, Listener, Payload};
use bywash::seams::wire::{
    ChecksumPolicy, Ecn, Flags, Link, MacAddr, Segment, SeqNumber, Timestamps, Tuple, checksum,
    decode, emit, header_len,
};
use bywash::seams::{
    Environment, ManualClock, MemoryConfig, NoSteering, Path, Received, SeededRandom, Shard,
    StaticRoutes, VirtualPort, VirtualQueue,
};
use bywash::{ConnOptions, Context, Event, Port, Recv, Service, ShardConfig};

/// Times that each path runs, or rounds in which it does.
const TIMES: usize = 1000;
/// Segments of a shard's turn.
const BURST: usize = 32;
/// Payload of a segment at MTU 1500 with timestamps.
const PAYLOAD: u16 = 1448;
const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const PORT: u16 = 7;

/// A handle without bytes: TCP does not look at them.
struct Handle(u16);

impl Payload for Handle {
    fn len(&self) -> usize {
        self.0.into()
    }

    fn advance(&mut self, n: usize) {
        self.0 -= n as u16;
    }

    fn truncate(&mut self, n: usize) {
        self.0 = n as u16;
    }

    fn split_off(&mut self, at: usize) -> Option<Self> {
        let rest = self.0 - at as u16;
        self.0 = at as u16;
        Some(Self(rest))
    }

    fn append(&mut self, _: &Self) -> bool {
        false
    }

    fn is_queued(&self) -> bool {
        false
    }
}

type Tcp = Connection<Handle>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("paths: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let frame = frame(
        &Segment {
            flags: Flags::ACK,
            payload_len: PAYLOAD.into(),
            ..Segment::default()
        },
        &Tuple::tcp(B, 40_000, A, PORT),
    );
    for _ in 0..TIMES {
        ensure!(path_decode(&frame), "the frame is damaged");
    }
    connections()?;
    let turns = shard()?;
    // By which the script divides.
    for (path, calls) in [
        ("decode", TIMES),
        ("segment_out", 2 * TIMES),
        ("emit", 2 * TIMES),
        ("segment_in", 2 * TIMES),
        ("ack_in", TIMES),
        ("timer", TIMES),
        ("ring_turn", turns),
        ("idle_turn", TIMES),
    ] {
        println!("{path} {calls}");
    }
    Ok(())
}

/// Two ends of TCP, a segment and its ACK at a time.
fn connections() -> Result<()> {
    let (mut a, mut b) = established()?;
    let mut header = [0; 128];
    for round in 0..TIMES {
        let now = Instant::ZERO + Duration::from_micros(1000 + 100 * round as u64);
        // Two segments, as the receiver acknowledges every second.
        for _ in 0..2 {
            let segment = path_segment_out(&mut a, now)?;
            path_emit(&mut header, &segment);
            path_segment_in(&mut b, now, &segment)?;
        }
        let ack = b.poll_transmit(now).context("an ACK is due")?.segment;
        path_ack_in(&mut a, now, &ack);
    }
    // From here on one segment at a time, not pushed, and its ACK may wait.
    let (mut now, mut delayed) = (Instant::ZERO + Duration::from_secs(1), 0);
    for _ in 0..2 * TIMES {
        if a.send(Handle(PAYLOAD)).is_err() {
            bail!("the send queue is full");
        }
        let segment = a.poll_transmit(now).context("a segment may leave")?.segment;
        b.set_quick_ack(false); // until the next delayed ACK
        b.on_segment(now, &segment, Some(Handle(PAYLOAD)));
        b.recv().context("data waits")?;
        let early = b.poll_transmit(now).map(|early| early.segment);
        let ack = match early {
            Some(early) => early,
            None => {
                now = b.next_timeout().context("a delayed ACK has a timer")?;
                delayed += 1;
                path_timer(&mut b, now)?
            }
        };
        a.on_segment(now, &ack, None);
        now += Duration::from_millis(1);
        if delayed == TIMES {
            return Ok(());
        }
    }
    bail!("only {delayed} ACKs were delayed")
}

fn established() -> Result<(Tcp, Tcp)> {
    let config = Config {
        mss: PAYLOAD + 12,
        ..Config::default()
    };
    let (now, tuple) = (Instant::ZERO, Tuple::tcp(A, 40_000, B, PORT));
    let mut a = Tcp::connect(&config, tuple, SeqNumber::new(1), 0, now);
    let syn = a.poll_transmit(now).context("a SYN")?.segment;
    let listener = Listener::new(config);
    let reversed = Tuple::tcp(B, PORT, A, 40_000);
    let ListenOutcome::Connection(mut b) =
        listener.on_segment(now, reversed, &syn, SeqNumber::new(2), 0)
    else {
        bail!("the SYN was not taken")
    };
    let syn_ack = b.poll_transmit(now).context("a SYN-ACK")?.segment;
    a.on_segment(now, &syn_ack, None);
    let ack = a.poll_transmit(now).context("an ACK")?.segment;
    b.on_segment(now, &ack, None);
    Ok((a, b))
}

#[inline(never)]
fn path_decode(frame: &[u8]) -> bool {
    black_box(decode(black_box(frame), ChecksumPolicy::Full)).is_ok()
}

#[inline(never)]
fn path_segment_out(a: &mut Tcp, now: Instant) -> Result<Segment> {
    if a.send(black_box(Handle(PAYLOAD))).is_err() {
        bail!("the send queue is full");
    }
    a.push();
    Ok(a.poll_transmit(now).context("a segment may leave")?.segment)
}

#[inline(never)]
fn path_emit(header: &mut [u8], segment: &Segment) {
    let (link, tuple) = (link(), Tuple::tcp(A, 40_000, B, PORT));
    let len = header_len(&link, &tuple, segment);
    emit(
        &mut header[..len],
        &link,
        &tuple,
        Ecn::NotEct,
        64,
        segment,
        black_box(checksum::sum(&[])),
    );
}

#[inline(never)]
fn path_segment_in(b: &mut Tcp, now: Instant, segment: &Segment) -> Result<()> {
    b.on_segment(now, black_box(segment), Some(Handle(PAYLOAD)));
    while b.poll_event().is_some() {}
    black_box(b.recv().context("data waits")?);
    Ok(())
}

#[inline(never)]
fn path_ack_in(a: &mut Tcp, now: Instant, segment: &Segment) {
    a.on_segment(now, black_box(segment), None);
    while a.poll_event().is_some() {}
}

#[inline(never)]
fn path_timer(b: &mut Tcp, due: Instant) -> Result<Segment> {
    b.on_timeout(due);
    Ok(b.poll_transmit(due).context("the delayed ACK")?.segment)
}

fn link() -> Link {
    Link {
        source_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        destination_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        vlan: None,
    }
}

/// A frame from B's side, with zeroes as payload.
fn frame(segment: &Segment, tuple: &Tuple) -> Box<[u8]> {
    let link = link();
    let header = header_len(&link, tuple, segment);
    let mut frame = vec![0; header + segment.payload_len];
    let (head, body) = frame.split_at_mut(header);
    emit(
        head,
        &link,
        tuple,
        Ecn::NotEct,
        64,
        segment,
        checksum::sum(body),
    );
    frame.into()
}

/// A shard that reads, over a queue whose device is code, with one connection. Returns how many turns had segments.
fn shard() -> Result<usize> {
    let (port, queue) = VirtualPort::open(&MemoryConfig::default())?;
    let clock = ManualClock::new();
    let path = Path {
        source: A,
        source_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        destination_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        vlan: None,
        mtu: 1500,
    };
    let env = Environment {
        clock: Box::new(clock.clone()),
        random: Box::new(SeededRandom(1)),
        routes: Box::new(StaticRoutes::new(vec![A]).with_default(path)),
        steering: Box::new(NoSteering),
    };
    let mut shard = Shard::new(ShardConfig::default(), port, Sink::default(), env);
    // Listens, and fills the fill ring.
    shard.start();
    shard.turn();
    let tuple = Tuple::tcp(B, 40_000, A, PORT);
    let mut peer = Peer::open(&mut shard, &queue, &tuple)?;
    let mut turns = 0;
    for round in 0..TIMES {
        clock.advance(std::time::Duration::from_micros(100));
        for _ in 0..BURST {
            peer.send(&queue, &tuple)?;
        }
        while queue.unread() > 0 {
            path_ring_turn(&mut shard);
            turns += 1;
        }
        peer.take(&queue)?;
        // What the answers' completions and ACKs cost is not this path's.
        while shard.turn().worked() {}
        let expected = (round + 1) * BURST * usize::from(PAYLOAD);
        let read = shard.service().read;
        ensure!(
            read == expected,
            "{read} bytes were read instead of {expected}"
        );
        ensure!(path_idle_turn(&mut shard), "a turn found something to do");
    }
    Ok(turns)
}

type OurShard = Shard<VirtualPort, Sink>;

/// Reads in place.
#[derive(Default)]
struct Sink {
    read: usize,
}

impl Service for Sink {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                cx.listen(PORT, ConnOptions::default())
                    .expect("the port is free");
            }
            Event::Readable { conn } => {
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    self.read += frame.len();
                }
            }
            _ => {}
        }
    }
}

#[inline(never)]
fn path_ring_turn(shard: &mut OurShard) {
    black_box(shard.turn());
}

/// Says whether it was one: else it would be the same function as [`path_ring_turn`], and the compiler keeps one of two.
#[inline(never)]
fn path_idle_turn(shard: &mut OurShard) -> bool {
    !black_box(shard.turn()).worked()
}

/// The other end of the connection, as bytes.
struct Peer {
    next: SeqNumber,
    /// What it has heard, to be acknowledged.
    heard: SeqNumber,
    stamp: u32,
}

impl Peer {
    fn open(shard: &mut OurShard, queue: &VirtualQueue, tuple: &Tuple) -> Result<Self> {
        let syn = Segment {
            seq: SeqNumber::new(100),
            flags: Flags::SYN,
            window: u16::MAX,
            options: options(1, 0, true),
            ..Segment::default()
        };
        give(queue, frame(&syn, tuple))?;
        shard.turn();
        let answer = queue.transmitted().context("no SYN-ACK")?;
        let decoded = decode(answer.bytes(), ChecksumPolicy::Full)
            .map_err(|reason| anyhow::anyhow!("{reason:?}"))?;
        let mut peer = Self {
            next: SeqNumber::new(101),
            heard: decoded.segment.seq + 1,
            stamp: decoded
                .segment
                .options
                .timestamps
                .map_or(0, |stamps| stamps.value),
        };
        drop(answer);
        let ack = peer.segment(0);
        give(queue, frame(&ack, tuple))?;
        shard.turn();
        Ok(peer)
    }

    fn segment(&mut self, payload: usize) -> Segment {
        let segment = Segment {
            seq: self.next,
            ack: self.heard,
            flags: Flags::ACK,
            window: u16::MAX,
            payload_len: payload,
            options: options(2, self.stamp, false),
            ..Segment::default()
        };
        self.next += payload as u32;
        segment
    }

    fn send(&mut self, queue: &VirtualQueue, tuple: &Tuple) -> Result<()> {
        let segment = self.segment(PAYLOAD.into());
        give(queue, frame(&segment, tuple))
    }

    /// Hears what came back.
    fn take(&mut self, queue: &VirtualQueue) -> Result<()> {
        while let Some(answer) = queue.transmitted() {
            let decoded = decode(answer.bytes(), ChecksumPolicy::Full)
                .map_err(|reason| anyhow::anyhow!("{reason:?}"))?;
            let end = decoded.segment.seq + decoded.segment.payload_len as u32;
            if end.after(self.heard) {
                self.heard = end;
            }
            if let Some(stamps) = decoded.segment.options.timestamps {
                self.stamp = stamps.value;
            }
        }
        Ok(())
    }
}

fn options(value: u32, echo: u32, syn: bool) -> bywash::seams::wire::Options {
    bywash::seams::wire::Options {
        mss: syn.then_some(1460),
        window_scale: syn.then_some(7),
        timestamps: Some(Timestamps { value, echo }),
        ..Default::default()
    }
}

fn give(queue: &VirtualQueue, frame: Box<[u8]>) -> Result<()> {
    let taken = queue.receive(0, frame);
    ensure!(taken == Received::Queued, "the queue answered {taken:?}");
    Ok(())
}
