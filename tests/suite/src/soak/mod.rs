//! The soak: for a long time many connections of all kinds over a link whose faults change, and what they use stays what it is.
//!
//! ```text
//!  namespace of the host              the link emulator            namespace of the peer
//!   engine A: the server     <──  delay, loss, duplicates,  ──>   300 of 500: programs on the kernel's TCP
//!   50 of 500: clients of     ──  reordering, bit flips;    ──>   the kernel's echo server
//!   the kernel's echo         <── drawn anew every 2 s      ──    engine B: 150 of 500, clients of A
//! ```
//!
//! Everything runs in this process, so that its memory and its descriptors are those of both engines and of all programs. Once a
//! second both are looked at, and the frames of the engines; a quarter's median must not leave that of the first quarter.

mod engines;
mod programs;
mod samples;
mod talk;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bywash_link::{Impairment, Link};

use crate::kernel::{KernelEcho, Random};
use crate::{Bed, Shape};

use engines::Engines;
use samples::Samples;

/// Where A and the kernel's echo server listen.
const PORT: u16 = 7;
/// How long the faults stay the same.
const WEATHER: Duration = Duration::from_secs(2);
/// How long the last conversations may take to end, with loss and back-off.
const CLOSING_TIME: Duration = Duration::from_secs(240);

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// For how long, before the last conversations end.
    pub length: Duration,
    /// Connections at a time.
    pub connections: usize,
    /// Decides who does what, and the faults.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Connections that ended as they should.
    pub connections: u64,
    /// Bytes that arrived, all as they were sent.
    pub bytes: u64,
    /// What went wrong, in sentences.
    pub failures: Vec<String>,
    /// What was used, over time.
    pub table: String,
}

/// What all ends of all connections write into.
#[derive(Debug, Default)]
pub(crate) struct Book {
    stop: AtomicBool,
    number: AtomicU64,
    connections: AtomicU64,
    bytes: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Book {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A number that no other connection has.
    fn next(&self) -> u32 {
        self.number.fetch_add(1, Ordering::Relaxed) as u32
    }

    /// One that ended as it should, by its client's end, with the bytes that came there.
    fn well(&self, bytes: u64) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.more(bytes);
    }

    /// Bytes that came at another end.
    fn more(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn failure(&self, what: String) {
        self.failures
            .lock()
            .expect("no panic while held")
            .push(what);
    }
}

/// Runs it. Needs root.
///
/// # Panics
/// If the two namespaces or the engines cannot be had.
pub fn run(options: &Options) -> Outcome {
    let mut random = Random::new(options.seed);
    let shape = Shape {
        link: Some(weather(&mut random)),
        ..Shape::default()
    };
    let bed = Bed::new(shape);
    let book = Arc::new(Book::default());
    let echo = KernelEcho::start(&bed.peer, PORT);
    let counts = Counts::of(options.connections);
    let calm = samples::descriptors();
    let engines = Engines::start(&bed, &book, &counts, echo.address());
    engines.begin();
    let server = SocketAddr::new(bed.host.v4.into(), PORT);
    let programs = programs::start(&bed.peer, server, counts.programs, &book, &mut random);
    let mut samples = Samples::default();
    let start = Instant::now();
    let mut changed = start;
    while start.elapsed() < options.length {
        std::thread::sleep(Duration::from_secs(1).min(options.length));
        samples.take(start.elapsed(), &engines);
        if changed.elapsed() >= WEATHER {
            bed.set_link(weather(&mut random));
            changed = Instant::now();
        }
    }
    book.stop.store(true, Ordering::Relaxed);
    // The last ones need not wait for luck.
    bed.set_link(Link::both(clear(), options.seed));
    for program in programs {
        if program.join().is_err() {
            book.failure("a program panicked".to_owned());
        }
    }
    let mut failures = engines.end(CLOSING_TIME);
    let left = samples::descriptors_once_closed(calm);
    if left > calm {
        failures.push(format!("{calm} descriptors before, {left} at the end"));
    }
    drop(echo);
    failures.extend(samples.growth());
    failures.append(&mut book.failures.lock().expect("no panic while held"));
    Outcome {
        connections: book.connections.load(Ordering::Relaxed),
        bytes: book.bytes.load(Ordering::Relaxed),
        failures,
        table: samples.table(),
    }
}

/// Who has how many connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    programs: usize,
    between_engines: usize,
    to_kernel: usize,
}

impl Counts {
    fn of(all: usize) -> Self {
        let to_kernel = all / 10;
        let between_engines = all * 3 / 10;
        Self {
            programs: all - to_kernel - between_engines,
            between_engines,
            to_kernel,
        }
    }
}

fn clear() -> Impairment {
    Impairment {
        delay: Duration::from_micros(200),
        ..Impairment::default()
    }
}

/// Faults for a while: some of them, each up to what TCP is known to live with.
fn weather(random: &mut Random) -> Link {
    let mut some = |most: f64| match random.below(2) {
        0 => 0.0,
        _ => most * random.below(1000) as f64 / 1000.0,
    };
    let (loss, duplicate, reorder, corrupt) = (some(0.02), some(0.02), some(0.03), some(0.005));
    let impairment = Impairment {
        delay: Duration::from_micros(100 + random.below(5000) as u64),
        jitter: Duration::from_micros(random.below(1000) as u64),
        loss,
        duplicate,
        reorder,
        corrupt,
        ..Impairment::default()
    };
    Link::both(impairment, random.draw())
}
