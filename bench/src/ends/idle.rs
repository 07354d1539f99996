//! Memory of idle connections: both ends in memory on one thread, every allocation of which is counted.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use allocation_counter::measure;
use anyhow::{Result, ensure};
use bywash::{ConnOptions, Context, Event, MemoryPair, Port, Recv, Service, ShardConfig};

/// Where the first shard of a [`MemoryPair`] is.
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const PORT: u16 = 7;
/// Fewer than there are local ports towards one port.
const PER_PORT: usize = 32_768;
/// Connections that are being opened at once.
const OPENING: usize = 256;
const LIMIT: Duration = Duration::from_secs(60);

/// Bytes that one more idle connection takes at one end: the difference between `count` and twice as many.
pub(crate) fn bytes_each(count: usize) -> Result<f64> {
    let [few, many] = [bytes(count)?, bytes(2 * count)?];
    // Each connection has two ends here.
    Ok((many - few) as f64 / (2 * count) as f64)
}

/// Bytes that are allocated while so many connections stand idle, everything else included.
fn bytes(count: usize) -> Result<i64> {
    let config = ShardConfig {
        local_ports: 1024..=65535,
        ..ShardConfig::default()
    };
    let mut result = Ok(());
    let mut pair = None;
    let info = measure(|| {
        match MemoryPair::new(
            &config,
            Answerer {
                ports: count.div_ceil(PER_PORT),
            },
            Opener::new(count),
        ) {
            Ok(mut made) => {
                let ready = made.run_until(
                    |_, opener| opener.answered == count || opener.failure.is_some(),
                    LIMIT,
                );
                if !ready || made.b.service().failure.is_some() {
                    let failure = made.b.service().failure.clone();
                    result = Err(anyhow::anyhow!(
                        "{count} connections could not be opened: {failure:?}"
                    ));
                }
                pair = Some(made);
            }
            Err(error) => result = Err(error.into()),
        }
    });
    result?;
    drop(pair);
    ensure!(info.bytes_current > 0, "no allocation was seen");
    Ok(info.bytes_current)
}

struct Answerer {
    ports: usize,
}

impl Service for Answerer {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                for place in 0..self.ports {
                    // A port that is not listened on is a connection that the other end cannot open, and says so.
                    let _ = cx.listen(PORT + place as u16, ConnOptions::default());
                }
            }
            Event::Readable { conn } => {
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    // What is not taken is an answer that the other end misses.
                    let _ = cx.send(conn, frame.bytes());
                }
            }
            _ => {}
        }
    }
}

/// Opens connections, and asks once on each.
struct Opener {
    count: usize,
    opened: usize,
    answered: usize,
    failure: Option<String>,
}

impl Opener {
    const fn new(count: usize) -> Self {
        Self {
            count,
            opened: 0,
            answered: 0,
            failure: None,
        }
    }

    fn open<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        while self.opened < self.count && self.opened < self.answered + OPENING {
            let server = (SERVER, PORT + (self.opened / PER_PORT) as u16).into();
            if let Err(error) = cx.connect(server, ConnOptions::default()) {
                self.failure = Some(error.to_string());
                return;
            }
            self.opened += 1;
        }
    }
}

impl Service for Opener {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => self.open(cx),
            Event::Connected { conn } if cx.send(conn, &[7; 64]) != Ok(64) => {
                self.failure = Some("a request was not taken".to_owned());
            }
            Event::Readable { conn } => {
                while let Ok(Recv::Data(_)) = cx.recv(conn) {
                    self.answered += 1;
                }
                self.open(cx);
            }
            Event::Closed { reason, .. } => self.failure = Some(format!("closed: {reason:?}")),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_takes_some_bytes() {
        let bytes = bytes_each(1000).unwrap();
        assert!((100.0..10_000.0).contains(&bytes), "{bytes}");
    }
}
