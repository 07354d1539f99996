//! The other end: the guest kernel's TCP, or Bywash's own from another thread.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use sha2::{Digest, Sha256};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use crate::Outcome;

/// No call may take longer: the guest is slow, but it does not hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of one write.
const BLOCK: usize = 64 << 10;

/// Bytes that no wire could make up: a 64-bit linear congruential sequence.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            // Knuth's MMIX constants.
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let word = self.0.rotate_left(32).to_ne_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// A stream socket, whoever's.
pub(crate) trait Stream: Read + Write + Send + Sized + 'static {
    fn twin(&self) -> Outcome<Self>;
    fn end(&self) -> Outcome<()>;
}

impl Stream for TcpStream {
    fn twin(&self) -> Outcome<Self> {
        self.try_clone().map_err(|error| error.to_string())
    }

    fn end(&self) -> Outcome<()> {
        self.shutdown(Shutdown::Write)
            .map_err(|error| format!("shutdown: {error}"))
    }
}

impl Stream for bywash::TcpStream {
    fn twin(&self) -> Outcome<Self> {
        Ok(self.clone())
    }

    fn end(&self) -> Outcome<()> {
        self.shutdown(Shutdown::Write)
            .map_err(|error| format!("shutdown: {error}"))
    }
}

/// A connection of the kernel's TCP, from this thread's namespace.
pub(crate) fn connect(to: SocketAddr) -> Outcome<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)
        .map_err(|error| format!("connect to {to}: {error}"))?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .and_then(|()| stream.set_nodelay(true))
        .map_err(|error| error.to_string())?;
    Ok(stream)
}

/// Messages of many sizes, each sent when the one before has come back.
pub(crate) fn ping_pong<S: Stream>(mut stream: S, rounds: usize) -> Outcome<()> {
    let mut noise = Noise::new(7);
    for round in 0..rounds {
        let mut sent = vec![0; 1 + round * 97 % 9000];
        noise.fill(&mut sent);
        let mut back = vec![0; sent.len()];
        stream
            .write_all(&sent)
            .and_then(|()| stream.read_exact(&mut back))
            .map_err(|error| format!("round {round} of {} bytes: {error}", sent.len()))?;
        if sent != back {
            return Err(format!("round {round}: other bytes came back"));
        }
    }
    stream.end()
}

/// Sends `bytes` and reads them back at the same time; both directions must have one SHA-256.
pub(crate) fn there_and_back<S: Stream>(stream: S, bytes: u64, seed: u64) -> Outcome<()> {
    there_and_back_while(stream, seed, |sent| sent < bytes).map(drop)
}

/// As [`there_and_back`], for as long as `more` says of what was sent; gives how much that was.
pub(crate) fn there_and_back_while<S: Stream>(
    stream: S,
    seed: u64,
    more: impl Fn(u64) -> bool,
) -> Outcome<u64> {
    let mut reader = stream.twin()?;
    let reading = std::thread::spawn(move || -> Outcome<(u64, [u8; 32])> {
        let (mut hash, mut count, mut block) = (Sha256::new(), 0, vec![0; BLOCK]);
        loop {
            let n = reader
                .read(&mut block)
                .map_err(|error| format!("read after {count} bytes: {error}"))?;
            if n == 0 {
                return Ok((count, hash.finalize().into()));
            }
            hash.update(&block[..n]);
            count += n as u64;
        }
    });
    let sent = push_while(stream, seed, more);
    let (count, back) = reading
        .join()
        .map_err(|_| "the reading thread panicked".to_owned())??;
    let (bytes, sent) = sent?;
    match count == bytes && sent == back {
        true => Ok(bytes),
        false => Err(format!(
            "{bytes} bytes went out, {count} came back{}",
            if count == bytes { ", other ones" } else { "" }
        )),
    }
}

/// Sends `bytes` and ends the direction.
pub(crate) fn push<S: Stream>(stream: S, bytes: u64, seed: u64) -> Outcome<()> {
    push_while(stream, seed, |sent| sent < bytes).map(drop)
}

/// Sends blocks for as long as `more` says of what was sent, and ends the direction; gives how much that was and its SHA-256.
fn push_while<S: Stream>(
    mut stream: S,
    seed: u64,
    more: impl Fn(u64) -> bool,
) -> Outcome<(u64, [u8; 32])> {
    let (mut hash, mut noise, mut block) = (Sha256::new(), Noise::new(seed), vec![0; BLOCK]);
    let mut sent = 0;
    while more(sent) {
        noise.fill(&mut block);
        hash.update(&block);
        stream
            .write_all(&block)
            .map_err(|error| format!("write after {sent} bytes: {error}"))?;
        sent += BLOCK as u64;
    }
    stream.end()?;
    Ok((sent, hash.finalize().into()))
}

/// Segments of no connection, with a checksum that is wrong: whoever receives them has work and nothing else.
pub(crate) fn flood(to: std::net::Ipv4Addr, port: u16, count: usize) -> Outcome<()> {
    let raw = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::Tcp,
    )
    .map_err(|error| format!("a raw socket: {error}"))?;
    let mut segment = [0u8; 64];
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    // Data offset 5; ACK.
    segment[12..14].copy_from_slice(&[0x50, 0x10]);
    let to = SockaddrIn::from(std::net::SocketAddrV4::new(to, 0));
    let mut sent = 0;
    while sent < count {
        segment[..2].copy_from_slice(&(1024 + sent as u16).to_be_bytes());
        match sendto(raw.as_raw_fd(), &segment, &to, MsgFlags::empty()) {
            Ok(_) => sent += 1,
            Err(nix::errno::Errno::ENOBUFS) => std::thread::yield_now(),
            Err(error) => return Err(format!("after {sent} raw segments: {error}")),
        }
    }
    Ok(())
}

/// Many connections at a time, each with a message of its own before any ends.
pub(crate) fn crowd(to: SocketAddr, connections: usize, bytes: usize) -> Outcome<Vec<TcpStream>> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        streams.push(connect(to)?);
    }
    let message = |seed: usize| {
        let mut bytes = vec![0; bytes];
        Noise::new(seed as u64).fill(&mut bytes);
        bytes
    };
    for (index, stream) in streams.iter_mut().enumerate() {
        stream
            .write_all(&message(index))
            .map_err(|error| format!("connection {index}, write: {error}"))?;
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        let mut back = vec![0; bytes];
        stream
            .read_exact(&mut back)
            .map_err(|error| format!("connection {index}, read: {error}"))?;
        if back != message(index) {
            return Err(format!("connection {index}: another one's bytes came back"));
        }
    }
    Ok(streams)
}
