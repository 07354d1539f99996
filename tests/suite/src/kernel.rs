//! The kernel's TCP as a peer, and what it counts.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::pings::{Pings, lost_by_the_link};
use crate::{LIMIT, Side};

/// Bytes in which nothing repeats soon, so that no mix-up goes unseen: xorshift64 by `seed`.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.draw().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// xorshift64: what a test does is decided by its seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Of this seed, spread over all bits.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.draw() % limit as u64) as usize
    }
}

/// SHA-256 in lower-case hexadecimal, as the command prints it.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Connects with the limits that every test's socket has. Call it on a thread of a side.
///
/// # Errors
/// As [`TcpStream::connect_timeout`] has them.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends what is drawn from `seed` in rounds of at most `most` bytes, and checks that each comes back.
///
/// # Errors
/// What the socket says, or that the answer is not what was sent.
pub fn converse(stream: &mut TcpStream, seed: u64, rounds: usize, most: usize) -> io::Result<()> {
    let mut random = Random::new(seed);
    for round in 0..rounds {
        let sent = noise(random.draw(), 1 + random.below(most));
        stream.write_all(&sent)?;
        let mut answer = vec![0; sent.len()];
        stream.read_exact(&mut answer)?;
        if answer != sent {
            return Err(io::Error::other(format!(
                "round {round}: what came back is not what was sent"
            )));
        }
    }
    Ok(())
}

/// Closes our direction and checks that the peer closes its own without another byte.
///
/// # Errors
/// What the socket says, or that there was more.
pub fn part(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest)? {
        0 => Ok(()),
        n => Err(io::Error::other(format!("{n} bytes that were never sent"))),
    }
}

/// One whole conversation with an echo server from `side`.
#[track_caller]
pub fn echo_once(side: &Side, server: SocketAddr) {
    let outcome = side.inside(move || {
        let mut stream = connect(server)?;
        converse(&mut stream, u64::from(server.port()), 20, 5000)?;
        part(stream)
    });
    outcome.unwrap_or_else(|error| panic!("echo by {server}: {error}"));
}

/// An echo server of the kernel's TCP, for as long as it is held.
pub struct KernelEcho {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl KernelEcho {
    /// On a port of this side's IPv4 address.
    #[track_caller]
    pub fn start(side: &Side, port: u16) -> Self {
        let address = SocketAddr::new(side.v4.into(), port);
        let listener = side.inside(move || TcpListener::bind(address));
        let listener =
            listener.unwrap_or_else(|error| panic!("the kernel's TCP on {address}: {error}"));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = side.spawn(move || {
            listener.set_nonblocking(true).expect("a listener of ours");
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drop(std::thread::spawn(move || echo(stream))),
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for KernelEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of its has been printed.
            let _ = thread.join();
        }
    }
}

/// The client's checks say what is wrong.
fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 8192];
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(LIMIT));
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

/// What the kernel does for everybody else, all the while: pings both ways, and its own TCP on the host's address.
pub struct Bystanders {
    sides: [Side; 2],
    lost_before: u64,
    pings: [Pings; 2],
    stop: Arc<AtomicBool>,
    talks: Arc<AtomicU64>,
    client: JoinHandle<io::Result<()>>,
    _service: KernelEcho,
}

/// A port of the kernel's, on the same address as the engine.
const KERNEL_PORT: u16 = 2222;

impl Bystanders {
    /// Begins.
    #[track_caller]
    pub fn start(host: &Side, peer: &Side) -> Self {
        let lost_before = lost_by_the_link(host, peer);
        let pings = [
            Pings::start(host, peer.v4.into()),
            Pings::start(peer, host.v6.into()),
        ];
        let service = KernelEcho::start(host, KERNEL_PORT);
        let address = service.address();
        let stop = Arc::new(AtomicBool::new(false));
        let talks = Arc::new(AtomicU64::new(0));
        let client = peer.spawn({
            let (stop, talks) = (stop.clone(), talks.clone());
            move || {
                let mut lasting = connect(address)?;
                while !stop.load(Ordering::Relaxed) {
                    // One connection that lasts, and new ones beside it.
                    converse(&mut lasting, talks.load(Ordering::Relaxed), 5, 20_000)?;
                    let mut new = connect(address)?;
                    converse(&mut new, 7, 2, 2000)?;
                    part(new)?;
                    talks.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20));
                }
                part(lasting)
            }
        });
        Self {
            sides: [host.clone(), peer.clone()],
            lost_before,
            pings,
            stop,
            talks,
            client,
            _service: service,
        }
    }

    /// Conversations with the kernel's service so far.
    pub fn talks(&self) -> u64 {
        self.talks.load(Ordering::Relaxed)
    }

    /// Waits until there have been `more` conversations: time in which the kernel served.
    #[track_caller]
    pub fn wait_for(&self, more: u64) {
        let wanted = self.talks() + more;
        let deadline = std::time::Instant::now() + LIMIT;
        while self.talks() < wanted {
            assert!(
                !self.client.is_finished(),
                "the kernel's service was disturbed"
            );
            assert!(
                std::time::Instant::now() < deadline,
                "the kernel's service does not go on"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends, and checks that nobody was disturbed.
    #[track_caller]
    pub fn undisturbed(self) {
        self.stop.store(true, Ordering::Relaxed);
        let outcome = self.client.join().expect("no panic");
        outcome.unwrap_or_else(|error| {
            panic!("the kernel's TCP on the same address was disturbed: {error}")
        });
        assert!(
            self.talks.load(Ordering::Relaxed) > 0,
            "the kernel's service was never asked"
        );
        let tallies = self.pings.map(Pings::end);
        let lost: usize = tallies.iter().map(|tally| tally.lost.len()).sum();
        // What the pair drops for want of room, it counts; that is nobody's doing. Bystanders are used on links that do not.
        let [host, peer] = &self.sides;
        let by_the_link = lost_by_the_link(host, peer) - self.lost_before;
        println!(
            "{} pings, {lost} lost; {by_the_link} packets lost by the link",
            tallies.iter().map(|tally| tally.sent).sum::<u64>()
        );
        assert!(
            tallies.iter().all(|tally| tally.sent > 0),
            "nobody was pinged: {tallies:?}"
        );
        assert!(
            lost as u64 <= by_the_link,
            "pings were lost, and the link itself lost {by_the_link} packets: {tallies:?}"
        );
    }
}

/// A counter of `/proc/net/snmp`, such as `Tcp` `OutRsts`, in this side's namespace.
#[track_caller]
pub fn counter(side: &Side, protocol: &'static str, name: &'static str) -> u64 {
    side.inside(move || {
        // Not /proc/net, which is that of the process's first thread.
        let text = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("counters");
        let mut rows = text
            .lines()
            .filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
        let names = rows.next().expect("names").split_whitespace();
        let values = rows.next().expect("values").split_whitespace();
        let value = names
            .zip(values)
            .find(|(one, _)| *one == name)
            .expect("a counter of this name")
            .1;
        value.parse().expect("a number")
    })
}
