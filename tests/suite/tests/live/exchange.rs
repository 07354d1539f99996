//! What a cell does: two connections, one opened by each end, with data in both directions of both at once.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bywash::Stack;
use bywash_tests::kernel::{self, noise, sha256};
use bywash_tests::{Bed, LIMIT};

use nix::sys::socket::{setsockopt, sockopt};

use crate::cell::Cell;

/// Where we listen, and where the kernel does.
pub(crate) const PORTS: (u16, u16) = (7000, 7001);
/// How long a cell may take. None takes a tenth on an idle machine.
pub(crate) const CELL_TIME: Duration = Duration::from_secs(60);

/// Bytes of one direction of one connection, and what they are.
pub(crate) struct Stretch {
    pub(crate) bytes: Vec<u8>,
    hash: String,
}

impl Stretch {
    pub(crate) fn new(seed: u64, len: usize) -> Self {
        let bytes = noise(seed, len);
        let hash = sha256(&bytes);
        Self { bytes, hash }
    }
}

/// One end of a connection: sends all of `out`, and reads to the end what must be `back`. Answers when that had come.
fn end<S: Sync>(
    stream: &S,
    shut: impl Fn(&S) -> io::Result<()> + Send,
    (out, back): (&Stretch, &Stretch),
    deadline: Instant,
) -> io::Result<Instant>
where
    for<'a> &'a S: Read + Write,
{
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let mut writer = stream;
            for piece in out.bytes.chunks(64 * 1024) {
                if Instant::now() > deadline {
                    return Err(io::Error::other("sending has not ended in time"));
                }
                writer.write_all(piece)?;
            }
            shut(stream)
        });
        let mut reader = stream;
        let mut arrived = Vec::with_capacity(back.bytes.len());
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match reader.read(&mut buffer)? {
                0 => break,
                n => arrived.extend_from_slice(&buffer[..n]),
            }
            if Instant::now() > deadline {
                let so_far = format!("{} bytes have arrived in time", arrived.len());
                return Err(io::Error::other(so_far));
            }
        }
        let came = Instant::now();
        sender.join().expect("it does not panic")?;
        if sha256(&arrived) == back.hash {
            return Ok(came);
        }
        let differ = arrived.iter().zip(&back.bytes).position(|(a, b)| a != b);
        let (n, of) = (arrived.len(), back.bytes.len());
        Err(io::Error::other(format!(
            "{n} of {of} bytes arrived; the first wrong one: {differ:?}"
        )))
    })
}

/// Our end of a connection.
pub(crate) fn our_end(
    stream: &bywash::TcpStream,
    stretches: (&Stretch, &Stretch),
    deadline: Instant,
) -> io::Result<Instant> {
    stream.set_read_timeout(Some(LIMIT));
    stream.set_write_timeout(Some(LIMIT));
    let shut = |stream: &bywash::TcpStream| stream.shutdown(Shutdown::Write);
    end(stream, shut, stretches, deadline)
}

/// The next connection that we accept, which somebody has opened already.
pub(crate) fn accept(
    listener: &bywash::TcpListener,
    deadline: Instant,
) -> io::Result<bywash::TcpStream> {
    listener.set_nonblocking(true);
    until(deadline, || Ok(listener.accept()?.0))
}

/// What `accept` answers when it no longer says that there is nothing.
fn until<T>(deadline: Instant, accept: impl Fn() -> io::Result<T>) -> io::Result<T> {
    loop {
        match accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        if Instant::now() > deadline {
            return Err(io::Error::other("no connection to accept"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The two connections: of each our end and the kernel's. The first was opened by the kernel.
struct Connections {
    ours: [bywash::TcpStream; 2],
    theirs: [TcpStream; 2],
}

impl Connections {
    fn open(bed: &Bed, cell: &Cell, stack: &Stack, deadline: Instant) -> io::Result<Self> {
        let listener = stack.listen(PORTS.0)?;
        let at = SocketAddr::new(bed.host.address(cell.v6), PORTS.0);
        let first_theirs = bed.peer.inside(move || kernel::connect(at))?;
        // Not by sysctl: a namespace may only choose what the administrator's list allows.
        let theirs = OsString::from(cell.theirs);
        setsockopt(&first_theirs, sockopt::TcpCongestion, &theirs)?;
        let first_ours = accept(&listener, deadline)?;
        let at = SocketAddr::new(bed.peer.address(cell.v6), PORTS.1);
        let listener = bed.peer.inside(move || TcpListener::bind(at))?;
        setsockopt(&listener, sockopt::TcpCongestion, &theirs)?;
        let second_ours = bywash::TcpStream::connect_timeout(stack.remote(), at, LIMIT)?;
        // Our ACK may have been lost.
        listener.set_nonblocking(true)?;
        let second_theirs = until(deadline, || Ok(listener.accept()?.0))?;
        second_theirs.set_nonblocking(false)?;
        second_theirs.set_read_timeout(Some(LIMIT))?;
        second_theirs.set_write_timeout(Some(LIMIT))?;
        Ok(Self {
            ours: [first_ours, second_ours],
            theirs: [first_theirs, second_theirs],
        })
    }

    fn agreed(&self, bed: &Bed, cell: &Cell) -> Result<(), String> {
        for (by_us, side, port) in [(false, "dport", PORTS.0), (true, "sport", PORTS.1)] {
            let filter = ["-Htino", "state", "connected", side, "=", &port.to_string()];
            let said = bed.peer.run("ss", &filter).ok().stdout;
            cell.agreed(&said, by_us)?;
        }
        Ok(())
    }

    /// `len` bytes in each direction of both. Answers when we had received all, and when the kernel had.
    fn transfer(&self, seed: u64, len: usize, deadline: Instant) -> Result<[Instant; 2], String> {
        let stretches: [Stretch; 4] =
            std::array::from_fn(|n| Stretch::new(seed * 4 + n as u64, len));
        let results = std::thread::scope(|scope| {
            let ends = [0, 1].map(|n| {
                let (out, back) = (&stretches[2 * n], &stretches[2 * n + 1]);
                let ours = move || our_end(&self.ours[n], (out, back), deadline);
                let theirs = move || {
                    let shut = |stream: &TcpStream| stream.shutdown(Shutdown::Write);
                    end(&self.theirs[n], shut, (back, out), deadline)
                };
                [scope.spawn(ours), scope.spawn(theirs)]
            });
            ends.map(|pair| pair.map(|thread| thread.join().expect("it does not panic")))
        });
        let opened = ["opened by the kernel", "opened by us"];
        let mut came = [Instant::now() - CELL_TIME; 2];
        for (by, pair) in opened.iter().zip(results) {
            for (n, result) in pair.into_iter().enumerate() {
                let whose = ["our", "the kernel's"][n];
                let at = result.map_err(|error| format!("{whose} end of the one {by}: {error}"))?;
                came[n] = came[n].max(at);
            }
        }
        Ok(came)
    }
}

/// Runs a cell on its bed: `len` bytes in each of the four directions. Answers how long it took from the first SYN on until
/// we had received all, and until the kernel had.
///
/// # Errors
/// What went wrong, in words.
pub(crate) fn run(bed: &Bed, cell: &Cell, len: usize) -> Result<[Duration; 2], String> {
    let config = cell.config(bed);
    let stack = bed
        .host
        .inside(move || Stack::start(config))
        .map_err(|error| format!("the engine does not start: {error}"))?;
    let start = Instant::now();
    let deadline = start + CELL_TIME;
    let connections = Connections::open(bed, cell, &stack, deadline)
        .map_err(|error| format!("no connection: {error}"))?;
    connections.agreed(bed, cell)?;
    let came = connections.transfer(cell.seed, len, deadline)?;
    drop(connections);
    stack
        .stop()
        .map_err(|error| format!("the engine does not end: {error}"))?;
    Ok(came.map(|at| at - start))
}
