//! One AF_XDP socket by xsk-rs behind our demux: what the stack's own port is measured against.
//!
//! Frames of the UMEM are either receive frames, which circle fill ring -> RX ring -> here, or send frames, which circle
//! here -> TX ring -> completion ring. A descriptor is moved, never copied: whoever holds it owns the frame.

use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bywash_xdp::pin;
use bywash_xdp::{AttachConfig, Demux, Mode, Settings};
use xsk_rs::config::{BindFlags, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use crate::netns::End;

/// Receive frames: twice the 256 entries of a veth's receive ring, so that the fill ring never runs empty, and no more, so that they
/// stay in the core's cache.
const RX_FRAMES: u32 = 512;
/// Send frames: more than the largest window.
const TX_FRAMES: u32 = 256;
/// Frames taken or given at once.
pub(super) const BATCH: usize = 32;
/// A dead socket's queue stays busy for some 20 ms; longer means that someone else holds it.
const BIND_PATIENCE: Duration = Duration::from_secs(1);

/// An attached demux with one socket in the primary's slot.
pub(super) struct RawPort {
    umem: Umem,
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    free: Vec<FrameDesc>,
    batch: [FrameDesc; BATCH],
    unfinished: usize,
    kicks: u64,
    demux: Demux,
}

/// Frames that an AF_XDP socket lost, by `XDP_STATISTICS`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lost {
    /// No free frame, or RX ring full.
    pub(super) received: u64,
    /// Descriptors that the kernel refused.
    pub(super) invalid: u64,
}

impl RawPort {
    /// Attaches and binds, copy mode with need_wakeup, on queue 0. `port` becomes ours. The calling thread must be in `end`'s namespace.
    pub(super) fn open(end: &End, port: u16, mode: Mode) -> Result<Self> {
        let ifindex = nix::net::if_::if_nametoindex(end.device)
            .with_context(|| format!("no interface {}", end.device))?;
        let demux = Demux::attach(&AttachConfig {
            interface: end.device.to_owned(),
            ifindex,
            pin_dir: pin::directory(&pin::key(ifindex)?),
            queues: 1,
            mode,
            settings: Settings::default(),
        })?;
        let (umem, mut frames, (tx, rx, queues)) = bind(end.device)?;
        let (mut fill, completion) = queues.context("libxdp gave no fill and completion ring")?;
        let free = frames.split_off(RX_FRAMES as usize);
        // SAFETY: these descriptors are this UMEM's, and nobody else holds them.
        let filled = unsafe { fill.produce(&frames) };
        ensure!(
            filled == frames.len(),
            "the fill ring took {filled} of {} frames",
            frames.len()
        );
        // SAFETY: the queue owns the file descriptor and outlives the borrow.
        let socket = unsafe { BorrowedFd::borrow_raw(tx.fd().as_raw_fd()) };
        demux.set_socket(0, bywash_xdp::RING_PRIMARY, socket)?;
        demux.set_socket(0, bywash_xdp::RING_CONTROL, socket)?;
        demux.add_address(end.ip())?;
        demux.set_local_ports(Some(port..=port))?;
        Ok(Self {
            umem,
            tx,
            rx,
            fill,
            completion,
            free,
            batch: [FrameDesc::default(); BATCH],
            unfinished: 0,
            kicks: 0,
            demux,
        })
    }

    /// `native` or `generic`, as the kernel reports it.
    pub(super) fn mode(&self) -> &'static str {
        self.demux.mode().name()
    }

    /// Takes finished send frames back.
    pub(super) fn reclaim(&mut self) {
        // SAFETY: the batch's old descriptors are not in use; consume overwrites the first `taken`.
        let taken = unsafe { self.completion.consume(&mut self.batch) };
        self.free.extend_from_slice(&self.batch[..taken]);
        self.unfinished -= taken;
    }

    /// Frames that may be sent now.
    pub(super) fn sendable(&self) -> usize {
        self.free.len()
    }

    /// Posts one frame of `len` bytes that `write` fills; it leaves with the next [`RawPort::kick`]. Call only if
    /// [`RawPort::sendable`] is not zero.
    pub(super) fn post(&mut self, len: usize, write: impl FnOnce(&mut [u8])) -> Result<()> {
        let mut frame = self.free.pop().context("no free send frame")?;
        // SAFETY: the descriptor came from the free list: neither the kernel nor anyone else uses its frame.
        let mut data = unsafe { self.umem.data_mut(&mut frame) };
        data.cursor().set_pos(len);
        write(data.contents_mut());
        // SAFETY: as above; the frame is the kernel's until it comes back by the completion ring.
        let posted = unsafe { self.tx.produce_one(&frame) };
        ensure!(
            posted == 1,
            "the TX ring is full although it has twice the room for all send frames"
        );
        self.unfinished += 1;
        Ok(())
    }

    /// True if frames were posted whose completion is outstanding: in copy mode they wait for a kick, or for the peer.
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished > 0
    }

    /// One system call that sends what was posted. On veth it also runs the peer's receive softirq on this core.
    pub(super) fn kick(&mut self) -> Result<()> {
        self.kicks += 1;
        self.tx
            .wakeup()
            .context("sendto on the AF_XDP socket failed")
    }

    /// System calls that sent something, so far.
    pub(super) const fn kicks(&self) -> u64 {
        self.kicks
    }

    /// Hands each waiting frame, at most a batch, to `each`, and gives it back to the fill ring. Returns how many there were.
    pub(super) fn receive(&mut self, mut each: impl FnMut(&[u8])) -> Result<usize> {
        // SAFETY: the batch's old descriptors are not in use; consume overwrites the first `taken`.
        let taken = unsafe { self.rx.consume(&mut self.batch) };
        if taken == 0 {
            return Ok(0);
        }
        for frame in &self.batch[..taken] {
            // SAFETY: the RX ring handed the frame over, so the kernel no longer writes it.
            each(unsafe { self.umem.data(frame) }.contents());
        }
        // SAFETY: the frames are this UMEM's, and `each` could not keep them.
        let filled = unsafe { self.fill.produce(&self.batch[..taken]) };
        ensure!(
            filled == taken,
            "the fill ring is full although it has twice the room for all receive frames"
        );
        Ok(taken)
    }

    /// Losses since the socket was made.
    pub(super) fn lost(&self) -> Result<Lost> {
        let statistics = self
            .rx
            .fd()
            .xdp_statistics()
            .context("XDP_STATISTICS failed")?;
        Ok(Lost {
            received: statistics.rx_dropped() + statistics.rx_ring_full(),
            invalid: statistics.tx_invalid_descs() + statistics.rx_invalid_descs(),
        })
    }

    /// Closes the socket and detaches the demux; says so if something stayed.
    pub(super) fn close(self) -> Result<()> {
        let Self { demux, .. } = self;
        Ok(demux.detach()?)
    }
}

type Bound = (
    Umem,
    Vec<FrameDesc>,
    (TxQueue, RxQueue, Option<(FillQueue, CompQueue)>),
);

/// UMEM and socket; tries again while a socket that was just closed still holds the queue.
fn bind(device: &str) -> Result<Bound> {
    // Twice the frames: the kernel publishes what it took from a ring later than it hands the frame on, so a ring that is just large
    // enough looks full for a while.
    let ring = |frames: u32| QueueSize::new(2 * frames.next_power_of_two()).context("ring size");
    let umem_config = UmemConfig::builder()
        .frame_size(2048.try_into().context("frame size")?)
        .fill_queue_size(ring(RX_FRAMES)?)
        .comp_queue_size(ring(TX_FRAMES)?)
        .build()?;
    let socket_config = SocketConfig::builder()
        .rx_queue_size(ring(RX_FRAMES)?)
        .tx_queue_size(ring(TX_FRAMES)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    let interface = device.parse().context("interface name")?;
    let count = NonZeroU32::new(RX_FRAMES + TX_FRAMES).context("no frames")?;
    let start = Instant::now();
    loop {
        let (umem, frames) = Umem::new(umem_config, count, false)?;
        // SAFETY: the UMEM is new and not shared, and INHIBIT_PROG_LOAD is set.
        match unsafe { Socket::new(socket_config, &umem, &interface, 0) } {
            Ok(queues) => return Ok((umem, frames, queues)),
            Err(error) if start.elapsed() > BIND_PATIENCE => {
                return Err(error).with_context(|| {
                    format!("cannot bind an AF_XDP socket to queue 0 of {device}")
                });
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}
