//! Bywash without a kernel: two shards on the calling thread over the in-memory wire, one sending as much as it can.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bywash::{ConnId, ConnOptions, Context, Event, MemoryPair, Port, Recv, Service, ShardConfig};

/// Port of the sink.
const PORT: u16 = 5201;
/// Address of the first shard of a [`MemoryPair`]. Its first turn comes first, so that it listens before the source connects.
const SINK: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
/// What the source hands over at once: iperf3's default block.
const BLOCK: usize = 128 * 1024;

/// Connects and sends the same block again and again.
struct Source {
    block: Vec<u8>,
    /// Bytes of the block that were taken already.
    taken: usize,
    failure: Option<String>,
}

/// Accepts and reads in place.
#[derive(Default)]
struct Sink {
    received: u64,
    failure: Option<String>,
}

impl Source {
    fn pump<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        loop {
            match cx.send(conn, &self.block[self.taken..]) {
                Ok(sent) => {
                    let whole = self.taken + sent == self.block.len();
                    self.taken = if whole { 0 } else { self.taken + sent };
                    if !whole {
                        return; // Writable follows
                    }
                }
                Err(error) => {
                    self.failure = Some(error.to_string());
                    return;
                }
            }
        }
    }
}

impl Service for Source {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                let sink = (SINK, PORT).into();
                if let Err(error) = cx.connect(sink, ConnOptions::default()) {
                    self.failure = Some(error.to_string());
                }
            }
            Event::Connected { conn } | Event::Writable { conn } => self.pump(cx, conn),
            Event::Closed { reason, .. } => self.failure = Some(format!("closed: {reason:?}")),
            Event::Unreachable { reason, .. } => {
                self.failure = Some(format!("unreachable: {reason:?}"))
            }
            Event::Accepted { .. }
            | Event::Readable { .. }
            | Event::Timer { .. }
            | Event::Stopping => {}
        }
    }
}

impl Service for Sink {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                if let Err(error) = cx.listen(PORT, ConnOptions::default()) {
                    self.failure = Some(error.to_string());
                }
            }
            Event::Readable { conn } => {
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    self.received += frame.len() as u64;
                }
            }
            Event::Closed { reason, .. } => self.failure = Some(format!("closed: {reason:?}")),
            _ => {}
        }
    }
}

/// Payload bytes that arrived, and the time it took, for a run of at least the given length.
pub(crate) fn bulk(mtu: u16, duration: Duration) -> Result<(u64, Duration)> {
    let config = ShardConfig {
        mtu,
        ..ShardConfig::default()
    };
    let source = Source {
        block: (0..BLOCK).map(|at| at as u8).collect(),
        taken: 0,
        failure: None,
    };
    let mut pair =
        MemoryPair::new(&config, Sink::default(), source).context("no in-memory wire")?;
    let limit = Duration::from_secs(2);
    if !pair.run_until(|sink, _| sink.received > 0, limit) {
        bail!(
            "nothing arrived over the in-memory wire within {limit:?}{}",
            failures(&pair)
        );
    }
    let before = pair.a.service().received;
    let start = Instant::now();
    while start.elapsed() < duration {
        for _ in 0..64 {
            pair.turn();
        }
    }
    let elapsed = start.elapsed();
    let bytes = pair.a.service().received - before;
    let failures = failures(&pair);
    if !failures.is_empty() {
        bail!("the transfer in memory failed{failures}");
    }
    Ok((bytes, elapsed))
}

fn failures(pair: &MemoryPair<Sink, Source>) -> String {
    let both = [&pair.a.service().failure, &pair.b.service().failure];
    both.into_iter()
        .flatten()
        .map(|failure| format!(": {failure}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive() {
        let (bytes, _) = bulk(1500, Duration::from_millis(20)).unwrap();
        assert!(bytes > 1 << 20, "only {bytes} bytes arrived");
    }
}
