//! Connections opened, used once, and closed.

use anyhow::Result;
use bywash::seams::MemoryConfig;
use bywash::{ConnId, Context, Event, Port, Recv, Service, ShardConfig};
use std::time::Duration;

use crate::cost::{Cost, Effort, Progress, pair, prepare, run};
use crate::exchange::{A, LOCAL_PORTS, PORT, options};

/// Listening ports: so many that no tuple comes again while the end that closed first remembers it.
const PORTS: u16 = 64;
/// Bytes of a message.
const MESSAGE_MAX: usize = 1024;

/// A load of short connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Churn {
    /// Connections at once.
    pub at_once: usize,
    /// Bytes each way, at most 1024.
    pub message: usize,
}

/// Answers the first message and closes: it is this end that keeps TIME-WAIT.
struct Server {
    message: usize,
    received: u64,
    failure: Option<String>,
}

impl Service for Server {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                for place in 0..PORTS {
                    if let Err(error) = cx.listen(PORT + place, options()) {
                        self.failure = Some(error.to_string());
                    }
                }
            }
            Event::Readable { conn } => {
                let mut came = 0;
                while let Ok(Recv::Data(frame)) = cx.recv(conn) {
                    came += frame.len();
                }
                if came == 0 {
                    return; // The peer's FIN.
                }
                self.received += came as u64;
                let answer = cx
                    .send(conn, &[9; MESSAGE_MAX][..self.message])
                    .and_then(|_| cx.close(conn));
                if came != self.message || answer.is_err() {
                    self.failure = Some(format!("{came} bytes came; the answer: {answer:?}"));
                }
            }
            _ => {}
        }
    }
}

impl Progress for Server {
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

struct Client {
    load: Churn,
    opened: u64,
    done: u64,
    failure: Option<String>,
}

impl Client {
    fn open<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let port = PORT + (self.opened % u64::from(PORTS)) as u16;
        self.opened += 1;
        if let Err(error) = cx.connect((A, port).into(), options()) {
            self.failure = Some(error.to_string());
        }
    }

    fn read<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        loop {
            match cx.recv(conn) {
                Ok(Recv::Data(_)) => {}
                Ok(Recv::End) => break,
                Ok(Recv::Empty) | Err(_) => return,
            }
        }
        if let Err(error) = cx.close(conn) {
            self.failure = Some(error.to_string());
        }
    }
}

impl Service for Client {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => (0..self.load.at_once).for_each(|_| self.open(cx)),
            Event::Connected { conn } => {
                let message = &[7; MESSAGE_MAX][..self.load.message];
                if let Err(error) = cx.send(conn, message) {
                    self.failure = Some(error.to_string());
                }
            }
            Event::Readable { conn } => self.read(cx, conn),
            Event::Closed { reason, .. } => {
                if reason != bywash::CloseReason::Finished {
                    self.failure = Some(format!("closed: {reason:?}"));
                }
                self.done += 1;
                self.open(cx);
            }
            _ => {}
        }
    }
}

impl Progress for Client {
    fn operations(&self) -> u64 {
        self.done
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

/// Connect, a message each way, close by both ends. An operation is a connection.
///
/// # Errors
/// If the wire cannot be made, or a connection fails.
pub fn churn(load: Churn, effort: Effort) -> Result<Cost> {
    anyhow::ensure!(
        (1..=MESSAGE_MAX).contains(&load.message),
        "a message of {} bytes; 1 to {MESSAGE_MAX} are possible",
        load.message
    );
    let config = ShardConfig {
        local_ports: LOCAL_PORTS,
        ..ShardConfig::default()
    };
    let server = Server {
        message: load.message,
        received: 0,
        failure: None,
    };
    let client = Client {
        load,
        opened: 0,
        done: 0,
        failure: None,
    };
    let mut pair = pair(&config, &MemoryConfig::default(), server, client)?;
    prepare(&mut pair, Duration::from_secs(60), |_, client| {
        client.done > 20_000
    })?;
    run(&mut pair, effort)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_come_and_go() {
        let load = Churn {
            at_once: 16,
            message: 64,
        };
        let cost = churn(load, Effort::Operations(1000)).unwrap();
        assert!(cost.operations >= 1000, "{cost:?}");
        assert!(cost.bytes / 64 >= 950, "{cost:?}");
        // Three for the handshake, one of them with data; answer and FIN; the other FIN and its acknowledgment.
        let each = cost.packets as f64 / cost.operations as f64;
        assert!((5.0..10.0).contains(&each), "{each} packets a connection");
    }
}
