//! Many connections of the kernel's TCP to an echo server, on one thread: each asks, compares every byte that comes back, asks again.
//!
//! Every tenth asks for little, and its time is taken: what a request costs while the others carry data.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::kernel::{self, Random, noise};
use crate::{LIMIT, Side};

/// Bytes of a request that is timed.
const SMALL: usize = 64;
/// Bytes of any other.
const LARGE: usize = 16 << 10;
/// How often a wait looks around.
const GLANCE: u16 = 100;

/// What was done since the last look.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Bytes that came back, all as they were sent.
    pub bytes: u64,
    /// Round-trip times of the small requests, in order of their ends.
    pub latencies: Vec<Duration>,
    /// Exchanges of each flow.
    pub exchanges: Vec<u64>,
}

/// They go on until they are ended.
pub struct Flows {
    /// Their own ends.
    pub addresses: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
    progress: Arc<Mutex<Progress>>,
    thread: JoinHandle<io::Result<()>>,
}

impl Flows {
    /// Connects all of them from `side`, and begins.
    ///
    /// # Panics
    /// If one is not accepted.
    #[track_caller]
    pub fn start(side: &Side, server: SocketAddr, count: usize, seed: u64) -> Self {
        let mut flows: Vec<Flow> = side.inside(move || {
            let flow = |number| Flow::connect(server, number, seed);
            let flows: io::Result<_> = (0..count).map(flow).collect();
            flows.unwrap_or_else(|error| panic!("a connection to {server}: {error}"))
        });
        let address = |flow: &Flow| flow.stream.local_addr().expect("a connected socket");
        let addresses = flows.iter().map(address).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(Mutex::new(Progress {
            exchanges: vec![0; count],
            ..Progress::default()
        }));
        let (stopped, seen) = (stop.clone(), progress.clone());
        let thread = std::thread::spawn(move || -> io::Result<()> {
            run(&mut flows, &stopped, &seen)?;
            flows.into_iter().try_for_each(Flow::end)
        });
        Self {
            addresses,
            stop,
            progress,
            thread,
        }
    }

    /// What was done since this was asked last.
    pub fn take(&self) -> Progress {
        let mut progress = self.progress.lock().expect("no panic while held");
        let fresh = Progress {
            exchanges: vec![0; progress.exchanges.len()],
            ..Progress::default()
        };
        std::mem::replace(&mut *progress, fresh)
    }

    /// Waits until each flow has had an exchange more.
    ///
    /// # Panics
    /// If one has ended, or has none within the limit.
    #[track_caller]
    pub fn everyone_goes_on(&self) {
        let exchanges = || {
            let progress = self.progress.lock().expect("no panic while held");
            progress.exchanges.clone()
        };
        let before = exchanges();
        let deadline = Instant::now() + LIMIT;
        loop {
            let now = exchanges();
            let idle = now
                .iter()
                .zip(&before)
                .filter(|(now, before)| now <= before);
            let idle = idle.count();
            if idle == 0 {
                return;
            }
            assert!(!self.thread.is_finished(), "the flows have ended");
            assert!(
                Instant::now() < deadline,
                "{idle} of {} flows stand still",
                now.len()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends all in order.
    ///
    /// # Errors
    /// What a socket said, or that bytes came back that were not sent.
    pub fn end(self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")
    }
}

/// One connection with its present exchange.
struct Flow {
    stream: TcpStream,
    random: Random,
    size: usize,
    message: Vec<u8>,
    sent: usize,
    returned: usize,
    asked: Instant,
}

impl Flow {
    fn connect(server: SocketAddr, number: usize, seed: u64) -> io::Result<Self> {
        let stream = kernel::connect(server)?;
        stream.set_nonblocking(true)?;
        let mut random = Random::new(seed ^ (number as u64) << 32);
        let size = if number.is_multiple_of(10) {
            SMALL
        } else {
            LARGE
        };
        let message = noise(random.draw(), size);
        Ok(Self {
            stream,
            random,
            size,
            message,
            sent: 0,
            returned: 0,
            asked: Instant::now(),
        })
    }

    fn ask(&mut self) {
        self.message = noise(self.random.draw(), self.size);
        (self.sent, self.returned) = (0, 0);
        self.asked = Instant::now();
    }

    /// As far as it goes without waiting; true: what was asked has come back.
    fn advance(&mut self) -> io::Result<bool> {
        while self.sent < self.message.len() {
            match self.stream.write(&self.message[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let mut buffer = [0; LARGE];
        while self.returned < self.sent {
            let count = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::Error::other("the server ended the connection")),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            let wanted = self.message.get(self.returned..self.returned + count);
            if wanted != Some(&buffer[..count]) {
                return Err(io::Error::other("what came back is not what was sent"));
            }
            self.returned += count;
        }
        Ok(self.returned == self.message.len())
    }

    fn wanted(&self) -> PollFlags {
        match self.sent < self.message.len() {
            true => PollFlags::POLLIN | PollFlags::POLLOUT,
            false => PollFlags::POLLIN,
        }
    }

    fn end(self) -> io::Result<()> {
        self.stream.set_nonblocking(false)?;
        kernel::part(self.stream)
    }
}

/// Until it is stopped, and every exchange that has begun has ended.
fn run(flows: &mut [Flow], stop: &AtomicBool, progress: &Mutex<Progress>) -> io::Result<()> {
    let mut done = vec![false; flows.len()];
    let mut moved = Instant::now();
    while done.contains(&false) {
        let polled: Vec<PollFlags> = {
            let mut waiting: Vec<PollFd> = flows
                .iter()
                .map(|flow| PollFd::new(flow.stream.as_fd(), flow.wanted()))
                .collect();
            poll(&mut waiting, PollTimeout::from(GLANCE))?;
            let ready = |one: &PollFd| one.revents().unwrap_or(PollFlags::POLLERR);
            waiting.iter().map(ready).collect()
        };
        let stopping = stop.load(Ordering::Relaxed);
        for (number, flow) in flows.iter_mut().enumerate() {
            if polled[number].is_empty() || done[number] || !flow.advance()? {
                continue;
            }
            moved = Instant::now();
            let mut progress = progress.lock().expect("no panic while held");
            progress.bytes += flow.message.len() as u64;
            progress.exchanges[number] += 1;
            if flow.size == SMALL {
                progress.latencies.push(flow.asked.elapsed());
            }
            drop(progress);
            match stopping {
                true => done[number] = true,
                false => flow.ask(),
            }
        }
        if moved.elapsed() > LIMIT {
            return Err(io::Error::new(ErrorKind::TimedOut, "no flow goes on"));
        }
    }
    Ok(())
}
