//! Programs on the kernel's TCP, a thread each: one conversation after the other with the engine.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::Linger};

use super::Book;
use super::talk::{Kind, Order};
use crate::Side;
use crate::kernel::Random;
use crate::sim::pattern::Stream;

/// What a program waits for one byte, through any weather.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of one call.
const PIECE: usize = 8192;

/// Starts `count` of them.
pub(super) fn start(
    side: &Side,
    server: SocketAddr,
    count: usize,
    book: &Arc<Book>,
    random: &mut Random,
) -> Vec<JoinHandle<()>> {
    (0..count)
        .map(|_| {
            let (book, mut random) = (book.clone(), Random::new(random.draw()));
            side.spawn(move || {
                while !book.stopping() {
                    let order = Order::draw(book.next(), &mut random);
                    match converse(server, &order, &mut random) {
                        Ok(bytes) => book.well(bytes),
                        Err(error) => book.failure(format!("kernel, {order:?}: {error}")),
                    }
                    std::thread::sleep(Duration::from_millis(random.below(100) as u64));
                }
            })
        })
        .collect()
}

/// Answers the bytes that came.
fn converse(server: SocketAddr, order: &Order, random: &mut Random) -> io::Result<u64> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&order.bytes())?;
    let own = Stream::new(order.number, 0);
    let mut talk = Conversation {
        order,
        sent: 0,
        received: 0,
        pause: match random.below(8) {
            0 => Duration::from_millis(5),
            _ => Duration::ZERO,
        },
    };
    let think = Order::think(random).unwrap_or_default();
    match order.kind {
        Kind::Abort => {
            talk.send(&mut stream, own, order.up)?;
            reset(stream)?;
            return Ok(0);
        }
        Kind::Refuse => return talk.refused(&mut stream, own).map(|()| 0),
        Kind::Echo => {
            // Ping-pong, in pieces that the buffers of both ends hold.
            while talk.sent < order.up {
                let piece = (1 + random.below(PIECE) as u64).min(order.up - talk.sent);
                talk.send(&mut stream, own, talk.sent + piece)?;
                talk.receive(&mut stream, talk.sent)?;
            }
        }
        Kind::Bulk => {
            // Both directions at once: another thread sends.
            let mut other = stream.try_clone()?;
            let (up, order) = (order.up, *order);
            let sender = std::thread::Builder::new().stack_size(64 * 1024);
            let sender = sender.spawn(move || -> io::Result<()> {
                let mut talk = Conversation {
                    order: &order,
                    sent: 0,
                    received: 0,
                    pause: Duration::ZERO,
                };
                talk.send(&mut other, own, up)?;
                std::thread::sleep(think);
                other.shutdown(Shutdown::Write)
            })?;
            let received = talk.receive(&mut stream, order.down);
            sender.join().expect("no panic")?;
            received?;
        }
    }
    if order.kind == Kind::Echo {
        std::thread::sleep(think);
        stream.shutdown(Shutdown::Write)?;
    }
    match stream.read(&mut [0; 1])? {
        0 => Ok(talk.received),
        _ => Err(io::Error::other("more came than was asked for")),
    }
}

struct Conversation<'a> {
    order: &'a Order,
    sent: u64,
    received: u64,
    /// Between two reads.
    pause: Duration,
}

impl Conversation<'_> {
    fn send(&mut self, stream: &mut TcpStream, bytes: Stream, until: u64) -> io::Result<()> {
        let mut piece = [0; PIECE];
        while self.sent < until {
            let count = (until - self.sent).min(PIECE as u64) as usize;
            bytes.fill(self.sent, &mut piece[..count]);
            stream.write_all(&piece[..count])?;
            self.sent += count as u64;
        }
        Ok(())
    }

    fn receive(&mut self, stream: &mut TcpStream, until: u64) -> io::Result<()> {
        let mut piece = [0; PIECE];
        while self.received < until {
            let most = (until - self.received).min(PIECE as u64) as usize;
            let count = match stream.read(&mut piece[..most])? {
                0 => return Err(io::Error::other(format!("ended after {}", self.received))),
                count => count,
            };
            let stream = self.order.answer();
            if stream
                .first_difference(self.received, &piece[..count])
                .is_some()
            {
                return Err(io::Error::other("what came is not what was sent"));
            }
            self.received += count as u64;
            std::thread::sleep(self.pause);
        }
        Ok(())
    }

    /// Sends until the server's RST is there.
    fn refused(&mut self, stream: &mut TcpStream, bytes: Stream) -> io::Result<()> {
        let sent = self.send(stream, bytes, self.order.up);
        let end = sent.and_then(|()| stream.read(&mut [0; 1]));
        match end {
            Err(error)
                if [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()) =>
            {
                Ok(())
            }
            other => Err(io::Error::other(format!("not reset but {other:?}"))),
        }
    }
}

/// Closes it by RST.
fn reset(stream: TcpStream) -> io::Result<()> {
    let at_once = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, Linger, &at_once)?;
    drop(stream);
    Ok(())
}
