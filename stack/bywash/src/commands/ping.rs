//! Ping-pong: one message there, the same one back, and how long that takes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bywash::{ConnId, ConnOptions, Context, Event, Port, Recv, Service};
use hdrhistogram::Histogram;

use crate::failure::Failure;

/// Longest round trip that is told apart, in nanoseconds; longer ones count as this.
const LONGEST: u64 = 60_000_000_000;

/// Round-trip times in nanoseconds, to three digits.
pub(crate) fn histogram() -> Result<Histogram<u64>, Failure> {
    Ok(Histogram::new_with_bounds(1, LONGEST, 3)?)
}

/// Percentiles in microseconds, on one line.
pub(crate) fn percentiles(times: &Histogram<u64>) -> String {
    let us = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1000.0;
    format!(
        "{} round trips: p50 {:.1} us, p90 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, max {:.1} us",
        times.len(),
        us(0.5),
        us(0.9),
        us(0.99),
        us(0.999),
        times.max() as f64 / 1000.0,
    )
}

/// From the kernel's TCP to an echo server, a tenth as often unmeasured before.
pub(crate) fn kernel(peer: SocketAddr, count: u64, size: usize) -> Result<Histogram<u64>, Failure> {
    let mut stream = TcpStream::connect_timeout(&peer, Duration::from_secs(5))
        .map_err(|error| Failure::new(format!("cannot connect to {peer}"), &error))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let message = vec![0x5a; size];
    let mut answer = vec![0; size];
    let mut times = histogram()?;
    for round in 0..count + count / 10 {
        let start = Instant::now();
        stream
            .write_all(&message)
            .and_then(|()| stream.read_exact(&mut answer))
            .map_err(|error| Failure::new(format!("{peer} does not echo"), &error))?;
        if answer != message {
            let error = io::Error::from(io::ErrorKind::InvalidData);
            return Err(Failure::new(
                format!("{peer} sends back something else"),
                &error,
            ));
        }
        if round >= count / 10 {
            times.saturating_record(start.elapsed().as_nanos() as u64);
        }
    }
    Ok(times)
}

/// The same as a service, run to completion.
pub(crate) struct Pinger {
    peer: SocketAddr,
    message: Vec<u8>,
    /// Round trips still to make, of which the last `measured` count.
    left: u64,
    measured: u64,
    sent_at: Instant,
    /// Bytes of the present answer still to come.
    missing: usize,
    /// Bytes of the present message that the send buffer has taken.
    sent: usize,
    pub(crate) times: Histogram<u64>,
    pub(crate) outcome: Option<Result<(), String>>,
}

impl Pinger {
    pub(crate) fn new(peer: SocketAddr, count: u64, size: usize) -> Result<Self, Failure> {
        Ok(Self {
            peer,
            message: vec![0x5a; size],
            left: count + count / 10,
            measured: count,
            sent_at: Instant::now(),
            missing: 0,
            sent: 0,
            times: histogram()?,
            outcome: None,
        })
    }

    fn ping<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        self.sent_at = Instant::now();
        self.missing = self.message.len();
        self.sent = 0;
        self.push(cx, conn);
    }

    fn push<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        match cx.send(conn, &self.message[self.sent..]) {
            Ok(n) => self.sent += n,
            Err(error) => self.outcome = Some(Err(error.to_string())),
        }
    }

    fn pull<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        loop {
            match cx.recv(conn) {
                Ok(Recv::Data(frame)) => {
                    self.missing = self.missing.saturating_sub(frame.len());
                    if self.missing > 0 {
                        continue;
                    }
                    self.left -= 1;
                    if self.left < self.measured {
                        self.times
                            .saturating_record(self.sent_at.elapsed().as_nanos() as u64);
                    }
                    if self.left == 0 {
                        self.outcome = Some(Ok(()));
                        // Unknown: closed already, which is what is wanted.
                        let _ = cx.close(conn);
                        return;
                    }
                    self.ping(cx, conn);
                }
                Ok(Recv::End) => {
                    self.outcome
                        .get_or_insert(Err("the peer closed".to_owned()));
                    return;
                }
                // `Closed` follows and says why.
                Ok(Recv::Empty) | Err(_) => return,
            }
        }
    }
}

impl Service for Pinger {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                let options = ConnOptions {
                    nagle: Some(false),
                    ..ConnOptions::default()
                };
                if let Err(error) = cx.connect(self.peer, options) {
                    self.outcome = Some(Err(error.to_string()));
                }
            }
            Event::Connected { conn } => self.ping(cx, conn),
            Event::Readable { conn } => self.pull(cx, conn),
            Event::Writable { conn } => self.push(cx, conn),
            Event::Closed { reason, .. } => {
                self.outcome.get_or_insert(Err(reason.to_string()));
            }
            Event::Unreachable { reason, .. } => {
                self.outcome = Some(Err(reason.to_string()));
            }
            Event::Accepted { .. } | Event::Timer { .. } | Event::Stopping => {}
        }
    }
}
