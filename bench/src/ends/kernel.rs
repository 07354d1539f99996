//! Ping-pong over the kernel's TCP sockets: each end on its own core, blocking or spinning.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cpu::{CoreTime, Sample};
use crate::latency::{Latencies, WARM_UP};
use crate::netns::{End, Testbed};
use crate::raw::join;

/// An answer that takes this long will not come.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How a socket waits for data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// In `read`: the kernel wakes the thread.
    Block,
    /// Non-blocking `read` again and again.
    Spin,
}

impl Wait {
    /// As the tables say it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Wait::Block => "blocking sockets",
            Wait::Spin => "spin",
        }
    }
}

/// What one run measured.
pub(crate) struct Ping {
    /// Round-trip times.
    pub(crate) latencies: Latencies,
    /// All cores' time.
    pub(crate) cores: Vec<CoreTime>,
}

/// One byte there and back between kernel sockets, for the given time.
pub(crate) fn ping(bed: &Testbed, wait: Wait, duration: Duration) -> Result<Ping> {
    let ready = Barrier::new(2);
    thread::scope(|scope| {
        let server = bed.b.spawn(scope, |entered| {
            let listener = entered.and_then(|()| listen(&bed.b));
            ready.wait();
            answer(&listener?, wait)
        });
        let client = bed.a.spawn(scope, |entered| {
            ready.wait();
            entered.and_then(|()| ask(SocketAddr::new(bed.b.ip(), PORT), wait, duration))
        });
        let ping = join(client);
        join(server)?;
        ping
    })
}

/// One byte there and back between a kernel socket at `client` and whatever echoes at `server`, for the given time.
pub(crate) fn ping_to(
    client: &End,
    server: SocketAddr,
    wait: Wait,
    duration: Duration,
) -> Result<Ping> {
    thread::scope(|scope| {
        join(client.spawn(scope, |entered| {
            entered.and_then(|()| ask(server, wait, duration))
        }))
    })
}

/// Port of the kernel's echo server.
pub(crate) const PORT: u16 = 7007;

/// Listens in the namespace that the calling thread is in.
pub(crate) fn listen(end: &End) -> Result<TcpListener> {
    TcpListener::bind((end.address, PORT))
        .with_context(|| format!("cannot listen on {}:{PORT}", end.address))
}

/// Accepts one connection within two seconds, and echoes until the other end closes it.
pub(crate) fn answer(listener: &TcpListener, wait: Wait) -> Result<()> {
    listener.set_nonblocking(true)?;
    let start = Instant::now();
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock && start.elapsed() < TIMEOUT => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error).context("no ping-pong client connected"),
        }
    };
    prepare(&stream, wait)?;
    let mut byte = [0; 1];
    while read(&mut stream, &mut byte)? {
        stream.write_all(&byte).context("answering failed")?;
    }
    Ok(())
}

fn ask(server: SocketAddr, wait: Wait, duration: Duration) -> Result<Ping> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)
        .with_context(|| format!("cannot connect to {server}"))?;
    prepare(&stream, wait)?;
    let mut latencies = Latencies::new()?;
    let before = Sample::now()?;
    let start = Instant::now();
    let mut now = start;
    let mut byte = [7; 1];
    while now - start < duration {
        let asked = now;
        stream.write_all(&byte).context("asking failed")?;
        if !read(&mut stream, &mut byte)? {
            bail!("the server closed the connection");
        }
        now = Instant::now();
        if asked - start >= WARM_UP {
            latencies.record(now - asked);
        }
    }
    let cores = before.until(&Sample::now()?);
    Ok(Ping { latencies, cores })
}

fn prepare(stream: &TcpStream, wait: Wait) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(wait == Wait::Spin)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(())
}

/// Reads one byte; false at the end of the stream.
fn read(stream: &mut TcpStream, byte: &mut [u8; 1]) -> Result<bool> {
    let mut spins = 0_u32;
    let mut since = None;
    loop {
        match stream.read(byte) {
            Ok(read) => return Ok(read > 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // A blocking socket says this after its time-out; a spinning one looks at the clock now and then.
                spins += 1;
                if spins.is_multiple_of(1 << 16)
                    && since.get_or_insert_with(Instant::now).elapsed() > TIMEOUT
                {
                    bail!("no answer within {TIMEOUT:?}");
                }
            }
            Err(error) => return Err(error).context("no answer"),
        }
    }
}
