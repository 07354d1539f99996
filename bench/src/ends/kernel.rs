//! The loads over the kernel's TCP sockets: each end a thread on its own core.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};
use nix::{libc, setsockopt_impl, sockopt_impl};

use super::bulk::{Bulk, Meter, patience};
use super::exchange::{Account, Exchange};
use super::{PATIENCE, Wait};
use crate::cpu::Sample;
use crate::latency::Latencies;
use crate::netns::End;

sockopt_impl!(
    /// Most bytes a second that a socket sends (`socket(7)`).
    MaxPacingRate, SetOnly, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, u64
);

/// What `read` is given at once, unless one message is read at a time.
const BUFFER: usize = 128 * 1024;
/// An answer that takes this long will not come.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Accepts one connection before `stop`.
fn accept(listener: &TcpListener, stop: &AtomicBool) -> Result<Option<TcpStream>> {
    listener.set_nonblocking(true)?;
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(Some(stream));
            }
            Err(_) if stop.load(Ordering::Acquire) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::WouldBlock && start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error).context("no client connected"),
        }
    }
}

fn listen(end: &End, port: u16, mss: Option<u16>) -> Result<TcpListener> {
    let listener = TcpListener::bind((end.address, port))
        .with_context(|| format!("cannot listen on {}:{port}", end.address))?;
    if let Some(mss) = mss {
        setsockopt(&listener, sockopt::TcpMaxSeg, &u32::from(mss)).context("TCP_MAXSEG")?;
    }
    Ok(listener)
}

/// A connected socket whose options were set before the handshake.
fn connect(server: SocketAddr, mss: Option<u16>) -> Result<TcpStream> {
    let socket = super::shorts::socket(false)?;
    if let Some(mss) = mss {
        setsockopt(&socket, sockopt::TcpMaxSeg, &u32::from(mss)).context("TCP_MAXSEG")?;
    }
    super::shorts::connect(&socket, server)?;
    Ok(TcpStream::from(socket))
}

/// Adds up what arrives, until it is over or the sender ends.
pub(super) fn sink(
    end: &End,
    port: u16,
    bulk: &Bulk,
    meter: &Meter,
    ready: &Sender<()>,
) -> Result<()> {
    let listener = listen(end, port, bulk.mss)?;
    // Whoever waited for this may have given up, and set `stop`.
    let _ = ready.send(());
    let Some(mut stream) = accept(&listener, &meter.stop)? else {
        return Ok(());
    };
    patience(&stream)?;
    let mut buffer = vec![0; BUFFER];
    while !meter.is_over() {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                meter.bytes.fetch_add(read as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) if meter.is_over() => break,
            Err(error) => return Err(error).context("the kernel's receiver"),
        }
    }
    Ok(())
}

/// Hands over messages until it is over.
pub(super) fn source(server: SocketAddr, bulk: &Bulk, meter: &Meter) -> Result<()> {
    let mut stream = connect(server, bulk.mss)?;
    if let Some(control) = bulk.control {
        setsockopt(&stream, sockopt::TcpCongestion, &OsString::from(control))
            .with_context(|| format!("TCP_CONGESTION {control}"))?;
    }
    if let Some(rate) = bulk.rate {
        setsockopt(&stream, MaxPacingRate, &rate).context("SO_MAX_PACING_RATE")?;
    }
    patience(&stream)?;
    let message = vec![0x5a; bulk.message];
    let mut taken = 0;
    while !meter.is_over() {
        match stream.write(&message[taken..]) {
            Ok(written) if taken + written == message.len() => taken = 0,
            Ok(written) => taken += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) if meter.is_over() => break,
            Err(error) => return Err(error).context("the kernel's sender"),
        }
    }
    Ok(())
}

/// Accepts one connection, and echoes until the other end closes it.
pub(super) fn answer(
    end: &End,
    port: u16,
    exchange: &Exchange,
    ready: &Sender<()>,
    stop: &AtomicBool,
) -> Result<()> {
    let listener = listen(end, port, None)?;
    // Whoever waited for this may have given up, and set `stop`.
    let _ = ready.send(());
    let Some(mut stream) = accept(&listener, stop)? else {
        return Ok(());
    };
    prepare(&stream, exchange.wait)?;
    let mut buffer = vec![0; exchange.read_at_once(BUFFER)];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => match write_all(&mut stream, &buffer[..read]) {
                Ok(()) => {}
                // A client that has what it wants leaves in the middle.
                Err(_) if stop.load(Ordering::Relaxed) => return Ok(()),
                Err(error) if is_gone(&error) => return Ok(()),
                Err(error) => return Err(error),
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error).context("the kernel's echo"),
        }
    }
}

/// Asks as the load wants.
pub(super) fn ask(server: SocketAddr, exchange: &Exchange) -> Result<Account> {
    let mut stream = connect(server, None)?;
    prepare(&stream, exchange.wait)?;
    let mut account = Account::new(exchange, Latencies::new()?);
    let before = Sample::now()?;
    let mut now = Instant::now();
    account.begin(now);
    let message = vec![7; exchange.size];
    let mut buffer = vec![0; exchange.read_at_once(BUFFER)];
    let mut last = now;
    while !account.is_over(now) {
        let due = account.due(now);
        send(&mut stream, &message, due, exchange.one_each)?;
        match stream.read(&mut buffer) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(read) => {
                now = Instant::now();
                last = now;
                account.answered(read, now);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                now = Instant::now();
                if now - last > TIMEOUT {
                    bail!("no answer within {TIMEOUT:?}");
                }
            }
            Err(error) => return Err(error).context("no answer"),
        }
    }
    account.end(now, before.until(&Sample::now()?));
    Ok(account)
}

/// Writes `count` messages: each by itself, or all by one call.
fn send(stream: &mut TcpStream, message: &[u8], count: usize, one_each: bool) -> Result<()> {
    match count {
        0 => Ok(()),
        count if one_each || count == 1 => (0..count).try_for_each(|_| write_all(stream, message)),
        count => write_all(stream, &message.repeat(count)),
    }
}

/// True if the other end has closed.
fn is_gone(error: &anyhow::Error) -> bool {
    let kind = error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind);
    matches!(
        kind,
        Some(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
    )
}

/// Writes all, also to a socket that does not block.
fn write_all(stream: &mut TcpStream, mut bytes: &[u8]) -> Result<()> {
    let start = Instant::now();
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock && start.elapsed() < TIMEOUT => {}
            Err(error) => return Err(error).context("writing failed"),
        }
    }
    Ok(())
}

fn prepare(stream: &TcpStream, wait: Wait) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(wait == Wait::Spin)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(())
}
