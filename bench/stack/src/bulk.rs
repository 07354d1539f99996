//! One flow, as much as it can carry.

use std::time::Duration;

use anyhow::Result;
use bywash::seams::MemoryConfig;
use bywash::{ConnId, ConnOptions, Context, Event, Port, Recv, Service, ShardConfig};

use crate::cost::{Cost, Effort, Progress, pair, prepare, run};
use crate::exchange::A;

/// Port of the sink.
const PORT: u16 = 5201;
/// What the source hands over at once: iperf3's default block.
const BLOCK: usize = 128 * 1024;
/// Room before the payload in an IPv4 packet with timestamps.
const HEADERS: u16 = 20 + 20 + 12;

/// Connects and sends the same block again and again.
struct Source {
    block: Vec<u8>,
    /// Bytes of the block that were taken already.
    taken: usize,
    segment: u64,
    sent: u64,
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
                Ok(taken) => {
                    self.sent += taken as u64;
                    self.taken += taken;
                    if self.taken < self.block.len() {
                        return; // Writable follows
                    }
                    self.taken = 0;
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
                if let Err(error) = cx.connect((A, PORT).into(), ConnOptions::default()) {
                    self.failure = Some(error.to_string());
                }
            }
            Event::Connected { conn } | Event::Writable { conn } => self.pump(cx, conn),
            Event::Closed { reason, .. } => self.failure = Some(format!("closed: {reason:?}")),
            _ => {}
        }
    }
}

impl Progress for Source {
    fn operations(&self) -> u64 {
        self.sent / self.segment
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
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

impl Progress for Sink {
    fn operations(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        self.received
    }

    fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

/// One flow of segments with `segment` bytes of payload each, IPv4 with timestamps. An operation is a segment.
///
/// # Errors
/// If the wire cannot be made, or the connection fails.
pub fn bulk(segment: u16, effort: Effort) -> Result<Cost> {
    let config = ShardConfig {
        mtu: segment + HEADERS,
        ..ShardConfig::default()
    };
    let source = Source {
        block: (0..BLOCK).map(|at| at as u8).collect(),
        taken: 0,
        segment: segment.into(),
        sent: 0,
        failure: None,
    };
    let mut pair = pair(&config, &MemoryConfig::default(), Sink::default(), source)?;
    // Past slow start, and every queue has its size.
    prepare(&mut pair, Duration::from_secs(10), |sink, _| {
        sink.received > 64 << 20
    })?;
    run(&mut pair, effort)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_full() {
        let cost = bulk(1460, Effort::Operations(1000)).unwrap();
        assert!(cost.operations >= 1000 && cost.packets > cost.operations);
        let per_segment = cost.bytes / cost.operations;
        assert!((1300..1700).contains(&per_segment), "{cost:?}");
    }
}
