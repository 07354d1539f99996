//! One flow of as many bytes as go, handed over in messages of one size.
//!
//! ```text
//!  a: message, message, ...  ── TCP ──>  b: adds up what arrives in a Meter
//!                     the calling thread: warm-up | first reading ......... last reading | stop
//! ```
//!
//! Bytes are counted where they arrive, between two readings of the clock and of every core's time, so that neither beginning nor end
//! is in the figure.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use bywash::{CongestionControl, ConnId, ConnOptions, Context, Event, Port, Recv, Service};
use bywash_xdp::Mode;

use super::counters::Counters;
use super::{
    Wait, Who, engine_config, is_ready, kernel, rest, run_engine, smol_packet, wait_until,
};
use crate::cpu::{CoreTime, Sample};
use crate::netns::{End, Testbed};
use crate::raw::join;

/// Port of every transfer.
const PORT: u16 = 5201;
/// Time before the first reading: slow start, promotion to a ring of its own.
const WARM_UP: Duration = Duration::from_millis(200);
/// What a turn of the sender's service hands over at most, so that ACKs are not kept waiting.
const BYTES_A_TURN: usize = 256 * 1024;
/// The same for small messages.
const MESSAGES_A_TURN: usize = 512;

/// One transfer's shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bulk {
    /// Bytes that the sender hands over at once.
    pub(crate) message: usize,
    /// Largest payload of a segment, if not what the MTU gives.
    pub(crate) mss: Option<u16>,
    /// How the ends wait.
    pub(crate) wait: Wait,
    /// Congestion control of the sender, by the kernel's name; ours is CUBIC unless this is `reno` or `bbr`.
    pub(crate) control: Option<&'static str>,
    /// Most bytes a second.
    pub(crate) rate: Option<u64>,
    /// To how many bytes our buffers may grow; the kernel's do by themselves.
    pub(crate) window: Option<usize>,
    /// Whether threads run the NAPI of our devices, off our cores.
    pub(crate) threaded: bool,
    /// Our receive buffer in bytes, if not the default.
    pub(crate) receive_buffer: Option<usize>,
    /// Native or generic XDP.
    pub(crate) xdp: Mode,
    /// How long to measure.
    pub(crate) duration: Duration,
}

impl Bulk {
    /// iperf3's default block, cubic, at full speed.
    pub(crate) const fn new(xdp: Mode, duration: Duration) -> Self {
        Self {
            message: 128 * 1024,
            mss: None,
            wait: Wait::Spin,
            control: Some("cubic"),
            rate: None,
            window: None,
            threaded: false,
            receive_buffer: None,
            xdp,
            duration,
        }
    }
}

/// What one transfer measured.
#[derive(Clone, Debug)]
pub(crate) struct Moved {
    /// Payload bytes that arrived.
    pub(crate) bytes: u64,
    /// In this time.
    pub(crate) elapsed: Duration,
    /// Frames that the sender's device sent meanwhile; one for a train of segments that TSO leaves whole.
    pub(crate) frames: u64,
    /// What our engines counted meanwhile; zeroes without one.
    pub(crate) counters: Counters,
    /// All cores' time meanwhile.
    pub(crate) cores: Vec<CoreTime>,
    /// Both ends' offloads meanwhile.
    pub(crate) offloads: String,
}

impl Moved {
    /// Payload in Gbit/s.
    pub(crate) fn goodput(&self) -> f64 {
        self.bytes as f64 * 8e-9 / self.elapsed.as_secs_f64()
    }
}

/// What both ends and the measuring thread share.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Payload bytes that have arrived.
    pub(crate) bytes: AtomicU64,
    /// Set when it is over.
    pub(crate) stop: AtomicBool,
    /// Set when an end has ended by itself.
    pub(crate) ended: AtomicBool,
}

impl Meter {
    /// The measurement is over.
    pub(crate) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// Sends from `a` to `b` for the given time.
pub(crate) fn run(bed: &Testbed, [sender, receiver]: [Who; 2], bulk: &Bulk) -> Result<Moved> {
    let meter = Arc::new(Meter::default());
    let (ready, listening) = mpsc::channel();
    thread::scope(|scope| {
        let sink = {
            let meter = Arc::clone(&meter);
            let body = move |entered: Result<()>| {
                let done = entered.and_then(|()| sink(&bed.b, receiver, bulk, &meter, &ready));
                meter.ended.store(true, Ordering::Release);
                done
            };
            receiver.spawn(&bed.b, scope, body)
        };
        if !is_ready(&listening) {
            meter.stop.store(true, Ordering::Release);
            join(sink)?;
            return Err(anyhow!("the receiver was not ready in time"));
        }
        let source = {
            let meter = Arc::clone(&meter);
            let body = move |entered: Result<()>| {
                let done = entered.and_then(|()| {
                    source(
                        &bed.a,
                        (receiver.address(&bed.b), PORT),
                        sender,
                        bulk,
                        &meter,
                    )
                });
                meter.ended.store(true, Ordering::Release);
                done
            };
            sender.spawn(&bed.a, scope, body)
        };
        let moved = measure(bed, bulk.duration, &meter);
        meter.stop.store(true, Ordering::Release);
        // An end that failed says more than a measurement that found nothing.
        join(source)?;
        join(sink)?;
        moved
    })
}

fn measure(bed: &Testbed, duration: Duration, meter: &Meter) -> Result<Moved> {
    let bytes = || meter.bytes.load(Ordering::Relaxed);
    let ended = || meter.ended.load(Ordering::Acquire);
    wait_until("the first byte", || bytes() > 0, ended)?;
    let [a, b] = [bed.a.offloads()?, bed.b.offloads()?];
    rest(WARM_UP)?;
    let frames = bed.a.frames_sent()?;
    let counters = Counters::now()?;
    let (before, at, start) = (Sample::now()?, bytes(), Instant::now());
    rest(duration)?;
    let (arrived, elapsed) = (bytes() - at, start.elapsed());
    let cores = before.until(&Sample::now()?);
    if ended() {
        return Err(anyhow!(
            "an end of the wire ended in the middle of the transfer"
        ));
    }
    Ok(Moved {
        bytes: arrived,
        elapsed,
        frames: bed.a.frames_sent()? - frames,
        counters: Counters::now()?.since(counters),
        cores,
        offloads: format!("a: {a}; b: {b}"),
    })
}

fn sink(
    end: &End,
    who: Who,
    bulk: &Bulk,
    meter: &Arc<Meter>,
    ready: &mpsc::Sender<()>,
) -> Result<()> {
    match who {
        Who::Kernel => kernel::sink(end, PORT, bulk, meter, ready),
        Who::Smoltcp => smol_packet::sink(end, PORT, meter, ready),
        Who::Us => {
            let mut config = engine_config(end, bulk.wait, bulk.xdp);
            config.threaded_napi = bulk.threaded;
            let options = options(bulk);
            let make = |_| Sink {
                meter: Arc::clone(meter),
                options,
                failure: None,
            };
            for sink in run_engine(config, make, ready, &meter.stop)? {
                sink.failure
                    .map_or(Ok(()), |failure| Err(anyhow!("receiver: {failure}")))?;
            }
            Ok(())
        }
    }
}

fn source(
    end: &End,
    server: (Ipv4Addr, u16),
    who: Who,
    bulk: &Bulk,
    meter: &Arc<Meter>,
) -> Result<()> {
    match who {
        Who::Kernel => kernel::source(server.into(), bulk, meter),
        Who::Smoltcp => smol_packet::source(end, server, bulk, meter),
        Who::Us => {
            let mut config = engine_config(end, bulk.wait, bulk.xdp);
            config.threaded_napi = bulk.threaded;
            let options = options(bulk);
            let make = |_| Source {
                meter: Arc::clone(meter),
                server: server.into(),
                options,
                message: vec![0x5a; bulk.message],
                conn: None,
                taken: 0,
                failure: None,
            };
            let (ready, _listening) = mpsc::channel();
            for source in run_engine(config, make, &ready, &meter.stop)? {
                source
                    .failure
                    .map_or(Ok(()), |failure| Err(anyhow!("sender: {failure}")))?;
            }
            Ok(())
        }
    }
}

fn options(bulk: &Bulk) -> ConnOptions {
    let congestion = match bulk.control {
        Some("bbr") => Some(CongestionControl::Bbr),
        Some("reno") => Some(CongestionControl::Reno),
        _ => None,
    };
    ConnOptions {
        mss: bulk.mss,
        congestion,
        max_pacing_rate: bulk.rate,
        receive_buffer: bulk.receive_buffer,
        receive_buffer_max: bulk.window,
        send_buffer: bulk.window,
        ..ConnOptions::default()
    }
}

/// Connects and hands over the same message again and again.
struct Source {
    meter: Arc<Meter>,
    server: SocketAddr,
    options: ConnOptions,
    message: Vec<u8>,
    /// The connection, while it has room.
    conn: Option<ConnId>,
    /// Bytes of the message that were taken already.
    taken: usize,
    failure: Option<String>,
}

impl Service for Source {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                if let Err(error) = cx.connect(self.server, self.options) {
                    self.failure = Some(error.to_string());
                    cx.stop();
                }
            }
            Event::Connected { conn } | Event::Writable { conn } => self.conn = Some(conn),
            Event::Closed { reason, .. } => {
                self.conn = None;
                // At the end either end may be the first to go.
                if !self.meter.is_over() {
                    self.failure = Some(format!("closed: {reason:?}"));
                    cx.stop();
                }
            }
            Event::Unreachable { reason, .. } => {
                self.failure = Some(format!("unreachable: {reason:?}"));
                cx.stop();
            }
            Event::Stopping => {
                self.conn = None;
                cx.stop();
            }
            Event::Accepted { .. } | Event::Readable { .. } | Event::Timer { .. } => {}
        }
    }

    fn on_turn<P: Port>(&mut self, cx: &mut Context<'_, P>) -> usize {
        let Some(conn) = self.conn else { return 0 };
        let (mut messages, mut bytes) = (0, 0);
        while messages < MESSAGES_A_TURN && bytes < BYTES_A_TURN {
            match cx.send(conn, &self.message[self.taken..]) {
                Ok(sent) => {
                    let whole = self.taken + sent == self.message.len();
                    self.taken = if whole { 0 } else { self.taken + sent };
                    bytes += sent;
                    if !whole {
                        self.conn = None; // Writable follows
                        break;
                    }
                    messages += 1;
                }
                Err(error) => {
                    if !self.meter.is_over() {
                        self.failure = Some(error.to_string());
                    }
                    self.conn = None;
                    cx.stop();
                    break;
                }
            }
        }
        messages
    }

    fn has_work(&self) -> bool {
        self.conn.is_some()
    }
}

/// Accepts and reads in place.
struct Sink {
    meter: Arc<Meter>,
    options: ConnOptions,
    failure: Option<String>,
}

impl Service for Sink {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                if let Err(error) = cx.listen(PORT, self.options) {
                    self.failure = Some(error.to_string());
                    cx.stop();
                }
            }
            Event::Readable { conn } => {
                let mut bytes = 0;
                loop {
                    match cx.recv(conn) {
                        Ok(Recv::Data(frame)) => bytes += frame.len() as u64,
                        Ok(Recv::End) => {
                            // The sender has ended, and so the measurement.
                            let _ = cx.close(conn);
                            break;
                        }
                        Ok(Recv::Empty) | Err(_) => break,
                    }
                }
                self.meter.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Event::Stopping => cx.stop(),
            _ => {}
        }
    }
}

/// Bytes to a name that tables use: 1, 16, 1024 → `1 KiB`.
pub(crate) fn size_name(bytes: usize) -> String {
    match bytes {
        bytes if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => {
            format!("{} MiB", bytes >> 20)
        }
        bytes if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => {
            format!("{} KiB", bytes >> 10)
        }
        bytes => format!("{bytes} B"),
    }
}

/// A time-out of sockets, short enough that the end of the measurement is noticed.
pub(super) fn patience(stream: &std::net::TcpStream) -> Result<()> {
    let short = Some(Duration::from_millis(100));
    stream.set_read_timeout(short).context("SO_RCVTIMEO")?;
    stream.set_write_timeout(short).context("SO_SNDTIMEO")
}
