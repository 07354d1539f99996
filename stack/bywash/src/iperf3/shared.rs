//! What the shards of a server share: which test runs, and what its streams have counted.
//!
//! ```text
//!   shard 0: control connection ---- phase ----> ActiveTest <---- phase ---- shard 1: streams 1, 3
//!            stream 0, 2 ---------- counts ----> StreamCell <--- counts ----
//! ```
//!
//! A SYN is answered by the shard whose queue it reaches, so a test's streams may land on any shard;
//! the cookie tells which test they belong to. The mutexes are taken when a connection opens with a
//! cookie and when a test begins or ends. While it runs a shard stores its streams' counts into cells
//! that it alone writes, and the shard with the control connection reads them once an interval.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bywash_engine::service::Time;
use bywash_engine::tcp::Info;

use super::error::Iperf3Error;
use super::message::{Cookie, Parameters};
use super::meter::Sample;
use super::options::ServerOptions;
use super::report::{Report, Role};

/// Counts of one stream, written by the shard that holds its connection.
#[derive(Debug, Default)]
pub struct StreamCell {
    bytes: AtomicU64,
    retransmits: AtomicU64,
    cwnd: AtomicU32,
    snd_wnd: AtomicU32,
    rtt_us: AtomicU32,
    rttvar_us: AtomicU32,
    mss: AtomicU32,
    sender: AtomicBool,
    /// When the connection came, which gives the streams their order.
    pub(super) opened: Time,
    /// Local and remote address.
    pub(super) addresses: Option<(SocketAddr, SocketAddr)>,
}

impl StreamCell {
    /// A stream whose connection came at `opened`.
    pub fn new(opened: Time, addresses: Option<(SocketAddr, SocketAddr)>) -> Self {
        Self {
            opened,
            addresses,
            ..Self::default()
        }
    }

    /// Only one thread writes, and a reader needs no other memory to be in step: `Relaxed` will do.
    pub(super) fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_info(&self, info: &Info) {
        let micros = |ns: u64| u32::try_from(ns / 1000).unwrap_or(u32::MAX);
        self.retransmits
            .store(info.retransmissions, Ordering::Relaxed);
        self.cwnd.store(info.cwnd, Ordering::Relaxed);
        self.snd_wnd.store(info.snd_wnd, Ordering::Relaxed);
        self.rtt_us.store(micros(info.rtt_ns), Ordering::Relaxed);
        self.rttvar_us
            .store(micros(info.rttvar_ns), Ordering::Relaxed);
        self.mss.store(info.mss, Ordering::Relaxed);
    }

    /// What has been counted so far.
    pub fn sample(&self) -> Sample {
        Sample {
            bytes: self.bytes.load(Ordering::Relaxed),
            retransmits: self.retransmits.load(Ordering::Relaxed),
            cwnd: self.cwnd.load(Ordering::Relaxed),
            snd_wnd: self.snd_wnd.load(Ordering::Relaxed),
            rtt_us: self.rtt_us.load(Ordering::Relaxed),
            rttvar_us: self.rttvar_us.load(Ordering::Relaxed),
            mss: self.mss.load(Ordering::Relaxed),
        }
    }

    /// Whether we send on it; settled before the test's phase becomes [`Phase::Running`].
    pub fn is_sender(&self) -> bool {
        self.sender.load(Ordering::Relaxed)
    }

    pub(super) fn set_sender(&self, sender: bool) {
        self.sender.store(sender, Ordering::Relaxed);
    }
}

/// Writes that all senders of one side may still make.
#[derive(Debug, Default)]
pub struct Quota {
    left: Option<AtomicU64>,
}

impl Quota {
    /// Bytes that a claim is worth about: streams share a small amount fairly, and tiny writes do not
    /// touch the counter each.
    const CLAIM: usize = 128 * 1024;

    /// `blocks` writes in all, or without limit.
    pub fn new(blocks: Option<u64>) -> Self {
        Self {
            left: blocks.map(AtomicU64::new),
        }
    }

    /// How many writes of `length` bytes the caller may make now; 0 when the amount is reached.
    pub fn claim(&self, length: usize) -> u64 {
        let wanted = (Self::CLAIM / length.max(1)).max(1) as u64;
        let Some(left) = &self.left else {
            return wanted;
        };
        let mut granted = 0;
        // A subtraction that stops at zero; it succeeds sooner or later, so the result says nothing.
        let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            granted = left.min(wanted);
            Some(left - granted)
        });
        granted
    }
}

/// How far a test is, as every shard must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Parameters are being told: no stream is expected.
    Preparing,
    /// Connections with the test's cookie become its streams.
    Collecting,
    /// Senders send.
    Running,
    /// Streams tell their last counts and close.
    Over,
}

/// The test that runs.
#[derive(Debug)]
pub struct ActiveTest {
    /// What its connections open with.
    pub cookie: Cookie,
    /// Which test of this server it is, from 1.
    pub number: u64,
    phase: AtomicU8,
    parameters: OnceLock<(Parameters, Quota)>,
    streams: Mutex<Vec<Arc<StreamCell>>>,
    closed: AtomicU32,
}

impl ActiveTest {
    fn new(cookie: Cookie, number: u64) -> Self {
        Self {
            cookie,
            number,
            phase: AtomicU8::new(Phase::Preparing as u8),
            parameters: OnceLock::new(),
            streams: Mutex::default(),
            closed: AtomicU32::new(0),
        }
    }

    /// How far it is. Pairs with `set_phase`: what was settled before a phase is seen with it.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Preparing,
            1 => Phase::Collecting,
            2 => Phase::Running,
            _ => Phase::Over,
        }
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Settles what is tested and lets streams come.
    pub(super) fn collect(&self, parameters: Parameters) {
        let quota = Quota::new(parameters.blocks());
        if self.parameters.set((parameters, quota)).is_ok() {
            self.set_phase(Phase::Collecting);
        }
    }

    /// What is tested, from [`Phase::Collecting`] on.
    pub fn parameters(&self) -> Option<&Parameters> {
        self.parameters.get().map(|(parameters, _)| parameters)
    }

    /// What senders may still send.
    pub(super) fn quota(&self) -> Option<&Quota> {
        self.parameters.get().map(|(_, quota)| quota)
    }

    /// Adds a stream; false if no (more) streams are expected.
    pub(super) fn add(&self, cell: &Arc<StreamCell>) -> bool {
        let Some(parameters) = self.parameters() else {
            return false;
        };
        let mut streams = lock(&self.streams);
        let wanted =
            self.phase() == Phase::Collecting && streams.len() < parameters.streams() as usize;
        if wanted {
            streams.push(Arc::clone(cell));
        }
        wanted
    }

    /// All streams in the order in which they came, once they are complete.
    pub(super) fn complete(&self) -> Option<Vec<Arc<StreamCell>>> {
        let wanted = self.parameters()?.streams() as usize;
        let mut streams = lock(&self.streams).clone();
        if streams.len() < wanted {
            return None;
        }
        // Shards note their streams in any order; the clock is the same for all.
        streams.sort_by_key(|cell| cell.opened);
        Some(streams)
    }

    /// A shard has told the last counts of `count` streams.
    pub(super) fn note_closed(&self, count: u32) {
        self.closed.fetch_add(count, Ordering::Release);
    }

    /// Whether all shards have told their last counts.
    pub(super) fn all_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) as usize >= lock(&self.streams).len()
    }
}

/// What a connection with a cookie is.
#[derive(Debug)]
pub(super) enum Welcome {
    /// The control connection of a new test.
    Control(Arc<ActiveTest>),
    /// Perhaps a stream of the test that runs.
    Same(Arc<ActiveTest>),
    /// Another client's, while a test runs.
    Busy,
}

/// One server over all its shards.
pub struct ServerState {
    options: ServerOptions,
    current: Mutex<Option<Arc<ActiveTest>>>,
    report: Mutex<Report>,
    failure: Mutex<Option<Iperf3Error>>,
    finished: AtomicBool,
    listening: AtomicU32,
    shards: AtomicU32,
    tests: AtomicU64,
}

impl ServerState {
    /// A server that reports to `out`. Give each shard a [`Server`](super::Server) made of it.
    pub fn new(options: ServerOptions, out: Box<dyn Write + Send>) -> Arc<Self> {
        let report = Mutex::new(Report::new(Role::Server, options.json, out));
        Arc::new(Self {
            options,
            current: Mutex::default(),
            report,
            failure: Mutex::default(),
            finished: AtomicBool::new(false),
            listening: AtomicU32::new(0),
            shards: AtomicU32::new(0),
            tests: AtomicU64::new(0),
        })
    }

    /// What was asked of the server.
    pub fn options(&self) -> &ServerOptions {
        &self.options
    }

    /// Whether the server has done what it was to do (`-1`), or has failed.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Whether every shard listens.
    pub fn all_listening(&self) -> bool {
        let shards = self.shards.load(Ordering::Acquire);
        shards > 0 && self.listening.load(Ordering::Acquire) == shards
    }

    /// How many tests have begun.
    pub fn tests(&self) -> u64 {
        self.tests.load(Ordering::Relaxed)
    }

    /// Why the server failed, once.
    pub fn take_failure(&self) -> Option<Iperf3Error> {
        lock(&self.failure).take()
    }

    pub(super) fn note_listening(&self, shards: u32) {
        self.shards.store(shards, Ordering::Release);
        self.listening.fetch_add(1, Ordering::Release);
    }

    pub(super) fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    pub(super) fn fail(&self, error: Iperf3Error) {
        lock(&self.failure).get_or_insert(error);
        self.finish();
    }

    /// Decides what a connection is by its cookie; the first one of a free server begins a test.
    pub(super) fn welcome(&self, cookie: Cookie) -> Welcome {
        let mut current = lock(&self.current);
        match &*current {
            Some(test) if test.cookie == cookie => Welcome::Same(Arc::clone(test)),
            Some(_) => Welcome::Busy,
            None => {
                let number = self.tests.fetch_add(1, Ordering::Relaxed) + 1;
                let test = Arc::new(ActiveTest::new(cookie, number));
                *current = Some(Arc::clone(&test));
                Welcome::Control(test)
            }
        }
    }

    /// The test is over: the next client may come.
    pub(super) fn release(&self, test: &Arc<ActiveTest>) {
        test.set_phase(Phase::Over);
        let mut current = lock(&self.current);
        if current
            .as_ref()
            .is_some_and(|running| Arc::ptr_eq(running, test))
        {
            *current = None;
        }
    }

    /// Tells something; a failure to write ends the server.
    pub(super) fn report(&self, tell: impl FnOnce(&mut Report)) {
        let mut report = lock(&self.report);
        tell(&mut report);
        if let Some(error) = report.failure() {
            self.fail(Iperf3Error::Output(error));
        }
    }
}

/// A thread that panicked leaves data behind that is whole: every update here is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> Arc<ServerState> {
        ServerState::new(ServerOptions::default(), Box::new(std::io::sink()))
    }

    fn cell(nanos: u64) -> Arc<StreamCell> {
        Arc::new(StreamCell::new(Time::from_nanos(nanos), None))
    }

    #[test]
    fn one_test_at_a_time_and_the_cookie_decides() {
        let state = state();
        let (ours, other) = (Cookie::from_random(&[1; 36]), Cookie::from_random(&[2; 36]));
        let Welcome::Control(test) = state.welcome(ours) else {
            panic!("a free server takes the first")
        };
        assert!(matches!(state.welcome(other), Welcome::Busy));
        assert!(matches!(state.welcome(ours), Welcome::Same(_)));
        state.release(&test);
        assert_eq!(test.phase(), Phase::Over);
        assert!(matches!(state.welcome(other), Welcome::Control(test) if test.number == 2));
    }

    #[test]
    fn streams_are_taken_while_they_are_expected_and_ordered_by_arrival() {
        let test = ActiveTest::new(Cookie::from_random(&[1; 36]), 1);
        assert!(!test.add(&cell(0)), "before the parameters");
        test.collect(Parameters {
            parallel: 2,
            ..Parameters::default()
        });
        assert!(test.add(&cell(20)));
        assert!(test.complete().is_none());
        assert!(test.add(&cell(10)));
        assert!(!test.add(&cell(30)), "one too many");
        let order: Vec<u64> = test
            .complete()
            .expect("complete")
            .iter()
            .map(|c| c.opened.as_nanos())
            .collect();
        assert_eq!(order, [10, 20]);
        test.note_closed(1);
        assert!(!test.all_closed());
        test.note_closed(1);
        assert!(test.all_closed());
    }

    #[test]
    fn a_quota_is_given_out_to_the_last_block() {
        let quota = Quota::new(Some(10_000));
        let mut sum = 0;
        while let granted @ 1.. = quota.claim(16) {
            sum += granted;
        }
        assert_eq!(sum, 10_000);
        assert_eq!(Quota::new(Some(5)).claim(1 << 20), 1);
        assert!(Quota::new(None).claim(1) > 0);
    }
}
