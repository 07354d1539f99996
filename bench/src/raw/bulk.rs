//! One-way bulk transfer of raw frames: what any TCP over this wire could reach at best.
//!
//! ```text
//! a: copy payload, post, kick  ── frames of MTU size ──>  b: look at each (or verify its checksum), give it back
//!    count what is acknowledged <── one small frame for two ──
//! ```
//!
//! The sender keeps at most a window of frames unacknowledged, so that the veth's receive ring of 256 is never overrun.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bywash_xdp::Mode;

use super::frame::{ETHERNET, HEADER, Template, acknowledged, sum, verify};
use super::port::{BATCH, Lost, RawPort};
use super::{PORT_A, PORT_B, join, route};
use crate::cpu::{CoreTime, Sample};
use crate::netns::{End, Testbed};

/// What the application would hand over again and again: iperf3's default block.
const SOURCE_BYTES: usize = 128 * 1024;
/// With nothing acknowledged for this long, the frames in flight were lost.
const LOSS_TIMEOUT: Duration = Duration::from_millis(20);

/// What the receiver does with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// Nothing but the header's numbers: the wire alone.
    Header,
    /// Verifies IPv4 and TCP checksum, so that every byte is read, as a TCP without checksum offload must.
    Verify,
}

impl Touch {
    /// As the tables say it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Touch::Header => "header only",
            Touch::Verify => "checksum verified",
        }
    }
}

/// One run's shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Largest IP datagram in bytes.
    pub(crate) mtu: u16,
    /// Frames in flight at most.
    pub(crate) window: usize,
    /// What the receiver does.
    pub(crate) touch: Touch,
    /// Native or generic XDP.
    pub(crate) mode: Mode,
    /// How long to send.
    pub(crate) duration: Duration,
}

/// What one run measured.
#[derive(Clone, Debug)]
pub(crate) struct Bulk {
    /// Payload bytes that arrived.
    pub(crate) bytes: u64,
    /// Frames that arrived.
    pub(crate) frames: u64,
    /// Time from first send to last.
    pub(crate) elapsed: Duration,
    /// Frames that were sent and never acknowledged.
    pub(crate) lost: u64,
    /// System calls of the sender that sent something.
    pub(crate) kicks: u64,
    /// `native` or `generic`.
    pub(crate) mode: &'static str,
    /// All cores' time.
    pub(crate) cores: Vec<CoreTime>,
    /// Both ends' offloads while both programs were attached.
    pub(crate) offloads: [String; 2],
}

struct Sent {
    elapsed: Duration,
    lost: u64,
    kicks: u64,
    mode: &'static str,
    cores: Vec<CoreTime>,
}

/// Sends from `a` to `b` for the given time.
pub(crate) fn run(bed: &Testbed, shape: &Shape) -> Result<Bulk> {
    let ready = Barrier::new(3);
    let stop = AtomicBool::new(false);
    let frames = AtomicU64::new(0);
    thread::scope(|scope| {
        let receiver = bed.b.spawn(scope, |entered| {
            let port = entered.and_then(|()| RawPort::open(&bed.b, PORT_B, shape.mode));
            ready.wait();
            receive(port?, &bed.b, &bed.a, shape.touch, &stop, &frames)
        });
        let sender = bed.a.spawn(scope, |entered| {
            let port = entered.and_then(|()| RawPort::open(&bed.a, PORT_A, shape.mode));
            ready.wait();
            let sent = port.and_then(|port| send(port, &bed.a, &bed.b, shape));
            stop.store(true, Ordering::Release);
            sent
        });
        ready.wait();
        let offloads = [bed.a.offloads()?, bed.b.offloads()?];
        let sent = join(sender)?;
        let lost = join(receiver)?;
        ensure!(
            lost.invalid == 0,
            "the kernel refused {} descriptors",
            lost.invalid
        );
        let frames = frames.load(Ordering::Relaxed);
        Ok(Bulk {
            bytes: frames * payload_len(shape.mtu) as u64,
            frames,
            elapsed: sent.elapsed,
            lost: sent.lost.max(lost.received),
            kicks: sent.kicks,
            mode: sent.mode,
            cores: sent.cores,
            offloads,
        })
    })
}

const fn payload_len(mtu: u16) -> usize {
    mtu as usize + ETHERNET - HEADER
}

fn send(mut port: RawPort, own: &End, peer: &End, shape: &Shape) -> Result<Sent> {
    let payload = payload_len(shape.mtu);
    let template = Template::new(&route(own, peer, PORT_A, PORT_B), payload);
    let source: Vec<u8> = (0..SOURCE_BYTES).map(|at| ((at * 31) >> 3) as u8).collect();
    let chunks: Vec<(&[u8], u64)> = source
        .chunks_exact(payload)
        .map(|chunk| (chunk, sum(chunk)))
        .collect();
    let mut chunks = chunks.iter().cycle();
    let (mut sent, mut acked, mut lost) = (0_u32, 0_u32, 0_u64);
    let mut in_flight = 0_usize;
    let before = Sample::now()?;
    let start = Instant::now();
    let mut progress = start;
    loop {
        let now = Instant::now();
        port.reclaim();
        let mut newest = acked;
        port.receive(|frame| newest = acknowledged(frame))?;
        let newly = newest.wrapping_sub(acked);
        acked = newest;
        in_flight = in_flight.saturating_sub(newly as usize);
        if newly > 0 || in_flight == 0 {
            progress = now;
        } else if now - progress > LOSS_TIMEOUT {
            lost += in_flight as u64;
            in_flight = 0;
        }
        if now - start >= shape.duration {
            break;
        }
        let burst = (shape.window - in_flight).min(port.sendable()).min(BATCH);
        for (chunk, chunk_sum) in chunks.by_ref().take(burst) {
            let seq = sent.wrapping_mul(payload as u32);
            port.post(HEADER + payload, |frame| {
                template.write(frame, seq, 0, chunk, *chunk_sum)
            })?;
            sent = sent.wrapping_add(1);
        }
        in_flight += burst;
        if port.is_unfinished() {
            port.kick()?;
        }
    }
    let elapsed = start.elapsed();
    let cores = before.until(&Sample::now()?);
    let (kicks, mode) = (port.kicks(), port.mode());
    port.close()?;
    Ok(Sent {
        elapsed,
        lost,
        kicks,
        mode,
        cores,
    })
}

fn receive(
    mut port: RawPort,
    own: &End,
    peer: &End,
    touch: Touch,
    stop: &AtomicBool,
    frames: &AtomicU64,
) -> Result<Lost> {
    let template = Template::new(&route(own, peer, PORT_B, PORT_A), 0);
    let (mut received, mut unacknowledged, mut bad) = (0_u32, 0_usize, 0_u64);
    while !stop.load(Ordering::Acquire) {
        port.reclaim();
        unacknowledged += port.receive(|frame| {
            if touch == Touch::Verify && !verify(frame) {
                bad += 1;
            }
        })?;
        let acks = (unacknowledged / 2).min(port.sendable());
        for _ in 0..acks {
            unacknowledged -= 2;
            received = received.wrapping_add(2);
            port.post(HEADER, |frame| template.write(frame, 0, received, &[], 0))?;
        }
        if acks > 0 {
            frames.fetch_add(2 * acks as u64, Ordering::Relaxed);
        }
        if port.is_unfinished() {
            port.kick()?;
        }
    }
    ensure!(bad == 0, "{bad} frames arrived with a wrong checksum");
    let lost = port.lost()?;
    port.close()?;
    Ok(lost)
}
