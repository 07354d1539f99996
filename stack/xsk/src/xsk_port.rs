//! A queue of a device.
//!
//! ```text
//! ring 0   primary socket: RX  TX  + the queue's fill and completion ring
//! ring 1   control pool:   RX
//! ring 2.. flow pools:     RX                     one UMEM, one fill ring for all
//! ```
//! Only the primary has a TX ring: with a second one on the queue, zero-copy drivers walk a list for each packet.
//!
//! **Sending in copy mode** is done by the `sendto` itself, some 32 descriptors a call. A call that could not take all (no
//! memory, the device's queue is full, the completion ring is) leaves the rest in the ring, and nobody but us comes back
//! to them: as long as the ring is not empty, each `kick` tries again, and `wait` sleeps a millisecond at most.

use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::time::Instant;

use crate::busy_poll::{BusyPoll, BusyPollConfig, TxWatch};
use crate::config::{XskConfig, pool_rings};
use crate::error::XskError;
use crate::fill_depth::FillDepth;
use crate::frame::Frame;
use crate::marks::Marks;
use crate::port::Port;
use crate::ring::{CompletionRing, Descriptor, FillRing, RxRing, TxRing};
use crate::socket::{KERNEL_TX_BUDGET, Mode, Socket, interface_index};
use crate::statistics::Statistics;
use crate::tx_checksum::{METADATA_LEN, PartialChecksum, TxChecksum};
use crate::tx_guard::TxGuard;
use crate::umem::Umem;
use crate::waker::Waker;

/// Longest sleep while descriptors wait in the TX ring: nothing but another kick moves them.
const OWED_KICK_PAUSE: Duration = Duration::from_millis(1);

/// The receiver that may poll the driver where the primary must not: the control pool's, which has no TX ring.
const RECEIVING_POLLER: usize = 1;

/// Up to this many rings are looked at by `may_have_arrivals`.
const GLANCED_RINGS: usize = 64;

/// How many descriptors one `sendto` takes in copy mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxBudget {
    /// The kernel's own 32, as configured.
    KernelDefault,
    /// As many as configured.
    Raised(u32),
    /// The kernel's own 32, because this kernel cannot be told otherwise (before 6.17).
    Unavailable,
}

impl TxBudget {
    /// Descriptors of one call.
    pub fn descriptors(self) -> u32 {
        match self {
            Self::Raised(budget) => budget,
            Self::KernelDefault | Self::Unavailable => KERNEL_TX_BUDGET,
        }
    }
}

/// An RX ring and the socket it is mapped from, dropped in this order.
struct Receiver {
    rx: RxRing,
    size: u32,
    socket: Socket,
}

impl Receiver {
    fn new(socket: Socket, size: u32) -> Result<Self, XskError> {
        Ok(Self {
            rx: socket.rx_ring(size)?,
            size,
            socket,
        })
    }
}

/// What was asked of the kernel, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelModes {
    /// Copy or zero copy, as the kernel tells it (`XDP_OPTIONS`).
    pub bind: Mode,
    /// What one `sendto` takes in copy mode.
    pub tx_budget: TxBudget,
    /// What the kernel said to zero copy, where it was tried and frames are copied instead.
    pub zero_copy_refusal: Option<String>,
    /// Who completes the checksums of sent packets: software in zero-copy mode, whatever was asked for.
    pub tx_checksum: TxChecksum,
    /// Busy polling.
    pub busy_poll: BusyPoll,
}

/// A queue of a device, served by AF_XDP sockets.
///
/// The field order matters: the rings are unmapped before their socket closes, or the kernel would keep it.
pub struct XskPort {
    fill: FillRing,
    completion: CompletionRing,
    tx: TxRing,
    /// By ring index; the first is the primary.
    receivers: Vec<Receiver>,
    umem: Rc<Umem>,
    modes: KernelModes,
    tx_watch: TxWatch,
    complaint: Option<&'static str>,
    outstanding: u32,
    outstanding_max: u32,
    waker: Waker,
    marks: Option<Marks>,
    /// The sockets and the waker, for `wait`.
    poll_fds: Vec<libc::pollfd>,
    bind_wait: Duration,
    /// What was asked for.
    busy_poll: Option<BusyPollConfig>,
    guard: Option<TxGuard>,
    fill_depth: FillDepth,
    statistics: Statistics,
}

impl XskPort {
    /// Makes the memory, the sockets and the rings, fills the fill ring and binds, in the calling thread's network
    /// namespace. No packet comes before an XDP program redirects to one of the [`XskPort::sockets`].
    pub fn open(config: &XskConfig) -> Result<Self, XskError> {
        config.check()?;
        let ifindex = interface_index(&config.interface)?;
        let primary = Socket::new()?;
        let umem = Umem::new(&config.umem)?;
        primary.register(umem.region(), config.umem.chunk_size, config.tx_checksum)?;
        let mut fill = primary.fill_ring(config.rings.fill)?;
        let completion = primary.completion_ring(completion_size(config))?;
        let tx = primary.tx_ring(config.rings.tx)?;
        let tx_budget = set_tx_budget(&primary, config)?;
        let primary = Receiver::new(primary, config.rings.primary)?;
        // Some drivers want buffers at bind.
        let fill_depth = FillDepth::new(config.rings.fill);
        fill_up(&umem, &mut fill, fill_depth.frames());
        let bound = primary.socket.bind_primary(config, ifindex)?;
        let bind = primary.socket.mode()?;
        let modes = KernelModes {
            bind,
            zero_copy_refusal: bound.zero_copy_refusal.map(|error| error.to_string()),
            tx_budget,
            tx_checksum: match bind {
                Mode::Copy => config.tx_checksum,
                Mode::ZeroCopy => TxChecksum::Software,
            },
            busy_poll: match config.busy_poll {
                Some(wanted) => primary.socket.busy_poll(wanted),
                None => BusyPoll::Off,
            },
        };
        let mut receivers = vec![primary];
        for size in core::iter::once(config.rings.control).chain(pool_rings(&config.pools)) {
            let receiver = Receiver::new(Socket::new()?, size)?;
            receiver
                .socket
                .bind_shared(config, ifindex, &receivers[0].socket)?;
            receivers.push(receiver);
        }
        umem.count_rings(receivers.len());
        let waker = Waker::new()?;
        Ok(Self {
            poll_fds: poll_fds(&receivers, &waker),
            fill,
            completion,
            tx,
            receivers,
            umem,
            modes,
            tx_watch: TxWatch::default(),
            complaint: None,
            outstanding: 0,
            outstanding_max: config.tx_outstanding_max.unwrap_or(config.rings.tx),
            waker,
            marks: None,
            bind_wait: bound.waited,
            busy_poll: config.busy_poll,
            guard: config.guard_tx.then(|| TxGuard::new(config.umem.frames())),
            fill_depth,
            statistics: Statistics::default(),
        })
    }

    /// Each ring's index and socket, for the XSKMAP.
    pub fn sockets(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.receivers
            .iter()
            .map(|receiver| receiver.socket.as_fd())
            .enumerate()
    }

    /// Where XDP marks the rings that it sends packets to.
    pub fn set_marks(&mut self, marks: Marks) {
        self.marks = Some(marks);
    }

    /// Copy or zero copy, as the kernel tells it.
    pub fn mode(&self) -> Mode {
        self.modes.bind
    }

    /// What one `sendto` takes in copy mode.
    pub fn tx_budget(&self) -> TxBudget {
        self.modes.tx_budget
    }

    /// Everything that was asked of the kernel, as it came out and is now.
    pub fn modes(&self) -> &KernelModes {
        &self.modes
    }

    /// How long the bind waited for a former owner of the queue; zero: there was none.
    pub fn bind_wait(&self) -> Duration {
        self.bind_wait
    }

    /// One `sendto`. `true`: the kernel took something, or all is well.
    fn send_once(&mut self) -> bool {
        let before = self.tx.pending();
        let result = self.receivers[0].socket.wake_tx();
        self.statistics.kicks += 1;
        let Err(error) = result else { return true };
        let errno = error.raw_os_error().unwrap_or(0);
        match errno {
            // The budget is used up, or nothing could be taken now.
            libc::EAGAIN | libc::EBUSY | libc::ENOBUFS => {
                let progress = self.tx.pending() < before;
                if !progress {
                    self.statistics.kicks_deferred += 1;
                }
                progress
            }
            _ => {
                self.statistics.kick_errors += 1;
                self.statistics.last_kick_errno = errno;
                false
            }
        }
    }

    /// Calls the kernel without its having asked, if sent frames do not come back, and ends a busy polling that may be why.
    fn watch_tx(&mut self) {
        let polls = self.modes.busy_poll.is_on();
        // In copy mode a completion is the peer's to give: a frame may lie in its queue.
        if !(polls || self.modes.bind == Mode::ZeroCopy) || !self.tx_watch.is_due() {
            return;
        }
        let (outstanding, completed) = (self.outstanding, self.statistics.completed);
        if !self
            .tx_watch
            .is_stalled(outstanding, completed, Instant::now())
        {
            return;
        }
        self.statistics.tx_stalls += 1;
        let by_sender = matches!(self.modes.busy_poll, BusyPoll::On { .. });
        if by_sender || polls && self.tx_watch.is_hopeless() {
            self.poll_less();
        } else if self.statistics.tx_stalls == 1 {
            self.complaint = Some(
                "sent frames do not complete and the driver does not ask to be woken: it is woken all the same (counted as tx-stalls)",
            );
        }
        self.send_once();
    }

    /// Sent frames do not come back: the socket that sends polls no more. The control pool's may go on, because it never
    /// sends; if that does not help either, nobody polls.
    fn poll_less(&mut self) {
        let former = self.poller();
        if self.receivers[former].socket.no_busy_poll().is_err() {
            self.modes.busy_poll = BusyPoll::Abandoned;
            self.complaint = Some(
                "sent frames do not complete under busy polling, and it cannot be switched off",
            );
            return;
        }
        let wanted = self.busy_poll.filter(|_| former == 0);
        let found = wanted.map(|wanted| self.receivers[RECEIVING_POLLER].socket.busy_poll(wanted));
        (self.modes.busy_poll, self.complaint) = match found {
            Some(BusyPoll::On { napi }) => (
                BusyPoll::ReceiveOnly { napi },
                Some(
                    "the driver does not send under busy polling: from now on only receiving polls it",
                ),
            ),
            _ => (
                BusyPoll::Abandoned,
                Some("sent frames do not complete under busy polling: it is switched off"),
            ),
        };
    }

    /// The receiver whose socket polls the driver.
    fn poller(&self) -> usize {
        match self.modes.busy_poll {
            BusyPoll::ReceiveOnly { .. } => RECEIVING_POLLER,
            _ => 0,
        }
    }

    /// Posts a frame whose header begins `header_len` bytes before its window.
    fn post(&mut self, frame: &Frame, header_len: usize, options: u32) -> bool {
        if self.outstanding == self.outstanding_max || self.tx.acquire(1) == 0 {
            self.statistics.tx_full += 1;
            return false;
        }
        // `may_be_sent`: the header is within the chunk, so this is one address before the window's.
        let address = frame.address() - header_len as u64;
        self.tx.put(Descriptor {
            address,
            len: (header_len + frame.len()) as u32,
            options,
        });
        self.umem.posted(frame.id());
        if let Some(guard) = &mut self.guard {
            guard.seal(frame.id(), self.umem.seal(frame, header_len));
        }
        self.outstanding += 1;
        self.statistics.transmitted += 1;
        true
    }

    fn poll(&mut self, timeout: Option<Duration>) {
        let limit = timeout.map(|timeout| libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let limit = limit
            .as_ref()
            .map_or(core::ptr::null(), core::ptr::from_ref);
        let count = self.poll_fds.len() as libc::nfds_t;
        // SAFETY: an array of `count` entries; the limit is null or readable; no signal mask.
        let result =
            unsafe { libc::ppoll(self.poll_fds.as_mut_ptr(), count, limit, core::ptr::null()) };
        if result < 0 && std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            self.statistics.wait_errors += 1;
        }
    }
}

/// Room for every frame that may be sent, so that sending never waits for the completion ring.
fn completion_size(config: &XskConfig) -> u32 {
    let outstanding_max = config.tx_outstanding_max.unwrap_or(config.rings.tx);
    config
        .umem
        .tx_frames
        .max(outstanding_max)
        .next_power_of_two()
}

fn set_tx_budget(primary: &Socket, config: &XskConfig) -> Result<TxBudget, XskError> {
    let Some(budget) = config.tx_budget else {
        return Ok(TxBudget::KernelDefault);
    };
    let available = primary.set_tx_budget(budget)?;
    Ok(if available {
        TxBudget::Raised(budget)
    } else {
        TxBudget::Unavailable
    })
}

/// Moves at most `most` free RX chunks to the fill ring. Returns how many.
fn fill_up(umem: &Umem, fill: &mut FillRing, most: u32) -> usize {
    let room = fill.acquire(most.min(umem.rx_free() as u32));
    let mut moved = 0;
    while moved < room
        && let Some(address) = umem.give_to_kernel()
    {
        fill.put(address);
        moved += 1;
    }
    fill.release();
    moved as usize
}

fn poll_fds(receivers: &[Receiver], waker: &Waker) -> Vec<libc::pollfd> {
    let sockets = receivers
        .iter()
        .map(|receiver| receiver.socket.as_fd().as_raw_fd());
    sockets
        .chain(waker.raw_fd())
        .map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect()
}

impl Port for XskPort {
    fn umem(&self) -> &Rc<Umem> {
        &self.umem
    }

    fn reclaim(&mut self) -> usize {
        self.umem.collect_leases();
        let count = self.completion.acquire(u32::MAX);
        let mut completed = 0;
        for _ in 0..count {
            let address = self.completion.take();
            if self.umem.completed(address) {
                completed += 1;
                if let (Some(guard), Some(chunk)) = (&mut self.guard, self.umem.chunk_at(address))
                    && let Some(seal) = guard.open(chunk)
                {
                    match self.umem.break_seal(chunk, &seal) {
                        true => self.statistics.tx_guarded += 1,
                        false => self.statistics.tx_changed += 1,
                    }
                }
            } else {
                self.statistics.completions_unexpected += 1;
            }
        }
        self.completion.release();
        self.outstanding -= completed;
        self.statistics.completed += u64::from(completed);
        completed as usize
    }

    fn refill(&mut self) -> usize {
        let moved = match self.modes.bind {
            Mode::ZeroCopy => fill_up(&self.umem, &mut self.fill, u32::MAX),
            Mode::Copy if self.fill_depth.is_due(self.statistics.received) => {
                let left = self.fill.pending();
                let wanted = self.fill_depth.on_look(self.statistics.received, left);
                let moved = fill_up(&self.umem, &mut self.fill, wanted);
                self.fill_depth.on_filled(moved as u32);
                moved
            }
            Mode::Copy => 0,
        };
        // A zero-copy driver that found the ring empty sleeps until it is told. The flag may have come after our last
        // look, so it is asked for as long as entries wait, not only when some are added.
        if self.modes.bind == Mode::ZeroCopy && self.fill.needs_wakeup() && self.fill.pending() > 0
        {
            self.receivers[0].socket.wake_rx();
            self.statistics.rx_wakeups += 1;
        } else if self.modes.busy_poll.is_on() {
            self.receivers[self.poller()].socket.wake_rx();
            self.statistics.busy_polls += 1;
        }
        moved
    }

    fn rings(&self) -> usize {
        self.receivers.len()
    }

    fn ring_size(&self, ring: usize) -> u32 {
        self.receivers[ring].size
    }

    fn held(&self, ring: usize) -> usize {
        self.umem.held_of_ring(ring)
    }

    fn take_marked(&mut self, out: &mut Vec<u16>) -> bool {
        let Some(marks) = &self.marks else {
            return false;
        };
        marks.take(self.receivers.len(), out);
        true
    }

    fn receive(&mut self, ring: usize, out: &mut Vec<Frame>, budget: usize) -> usize {
        let rx = &mut self.receivers[ring].rx;
        let count = rx.acquire(u32::try_from(budget).unwrap_or(u32::MAX));
        let mut received = 0;
        for _ in 0..count {
            let descriptor = rx.take();
            match self
                .umem
                .take_from_kernel(descriptor.address, descriptor.len, ring)
            {
                Some(frame) => {
                    out.push(frame);
                    received += 1;
                }
                None => self.statistics.rx_bad_descriptors += 1,
            }
        }
        rx.release();
        self.statistics.received += received as u64;
        received
    }

    fn waiting(&self, ring: usize) -> usize {
        self.receivers[ring].rx.waiting() as usize
    }

    fn may_have_arrivals(&self) -> bool {
        if self.receivers.len() > GLANCED_RINGS {
            return true;
        }
        self.receivers.iter().any(|receiver| {
            let Some(descriptor) = receiver.rx.peek() else {
                return false;
            };
            self.umem.prefetch(descriptor.address);
            true
        })
    }

    fn tx_space(&self) -> usize {
        self.tx.free().min(self.outstanding_max - self.outstanding) as usize
    }

    fn transmit(&mut self, frame: &Frame, header_len: usize) -> bool {
        if !frame.may_be_sent(&self.umem, header_len) {
            self.statistics.tx_refused += 1;
            return false;
        }
        self.post(frame, header_len, 0)
    }

    fn completes_checksums(&self) -> bool {
        self.modes.tx_checksum == TxChecksum::Kernel
    }

    fn transmit_partial(
        &mut self,
        frame: &mut Frame,
        header_len: usize,
        checksum: PartialChecksum,
    ) -> bool {
        let may_be_sent = self.completes_checksums() && frame.may_be_sent(&self.umem, header_len);
        let request = frame.head_mut(header_len + METADATA_LEN);
        let (true, Some(request)) = (may_be_sent, request) else {
            self.statistics.tx_refused += 1;
            return false;
        };
        request[..METADATA_LEN].copy_from_slice(&checksum.request());
        self.post(frame, header_len, libc::XDP_TX_METADATA)
    }

    fn busy_poll(&self) -> Option<&BusyPoll> {
        Some(&self.modes.busy_poll)
    }

    fn complaint(&mut self) -> Option<&'static str> {
        self.complaint.take()
    }

    fn kick(&mut self) -> usize {
        self.tx.release();
        self.watch_tx();
        let pending = self.tx.pending();
        if pending == 0 || !self.tx.needs_wakeup() {
            return 0;
        }
        // A zero-copy wake-up is good for the whole ring.
        let most = match self.modes.bind {
            Mode::ZeroCopy => 1,
            Mode::Copy => pending.div_ceil(self.modes.tx_budget.descriptors()),
        };
        let mut calls = 0;
        while calls < most {
            calls += 1;
            if !self.send_once() || self.tx.pending() == 0 {
                break;
            }
        }
        calls as usize
    }

    fn wait(&mut self, timeout: Option<Duration>) {
        self.kick();
        let owed = self.tx.pending() > 0;
        let timeout = match timeout {
            _ if !owed => timeout,
            None => Some(OWED_KICK_PAUSE),
            Some(timeout) => Some(timeout.min(OWED_KICK_PAUSE)),
        };
        // poll() itself wakes a zero-copy driver that sleeps on the fill ring.
        if self.waker.begin_sleep() {
            self.poll(timeout);
            self.waker.end_sleep();
        }
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn statistics(&self) -> Statistics {
        let kernel = self
            .receivers
            .iter()
            .map(|receiver| receiver.socket.statistics())
            .collect();
        Statistics {
            kernel,
            ..self.statistics.clone()
        }
    }
}

impl core::fmt::Debug for XskPort {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut debug = f.debug_struct("XskPort");
        debug
            .field("modes", &self.modes)
            .field("rings", &self.receivers.len());
        debug
            .field("outstanding", &self.outstanding)
            .field("umem", &self.umem)
            .finish()
    }
}
