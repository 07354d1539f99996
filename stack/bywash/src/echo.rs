//! The echo protocol (RFC 862) as a run-to-completion service.
//!
//! ```text
//! Readable -> recv -> frame --send--> all of it taken: next frame
//!                               |
//!                               +---> a part: hold the frame, stop reading
//! Writable -> send the rest of the held frame -> read on
//! ```
//!
//! While a frame is held nothing more is read, so the peer's window closes: a peer that sends and
//! does not read stops itself, and no byte is ever dropped or copied aside for it. It is held as a
//! lease, because a service goes to its shard's thread and back, and a frame cannot.

use std::sync::mpsc::Sender;

use bywash_engine::context::{ConnOptions, Context};
use bywash_engine::service::{ConnId, Event, ListenError, Luggage, Recv, Service};
use bywash_engine::xsk::{LeaseDesc, Port, RegionView, RxLease};

/// Sends back what it receives, on every connection to one port.
pub struct Echo {
    port: u16,
    options: ConnOptions,
    /// Told once, at the start, whether this shard listens.
    listening: Sender<Result<(), ListenError>>,
    region: Option<RegionView>,
    /// By the index of the connection's id: what the send side had no room for.
    held: Vec<Option<Held>>,
}

struct Held {
    conn: ConnId,
    bytes: RxLease,
    sent: usize,
}

impl Echo {
    /// Echoes on `port`; `listening` gets one message from each shard.
    pub fn new(
        port: u16,
        options: ConnOptions,
        listening: Sender<Result<(), ListenError>>,
    ) -> Self {
        Self {
            port,
            options,
            listening,
            region: None,
            held: Vec::new(),
        }
    }

    /// Sends what is held. False: there is still no room.
    fn push_held<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) -> bool {
        let Some(place) = self.held.get_mut(conn.index as usize) else {
            return true;
        };
        let Some(held) = place.as_mut().filter(|held| held.conn == conn) else {
            return true;
        };
        match cx.send(conn, &held.bytes[held.sent..]) {
            Ok(n) => held.sent += n,
            // Closing: `Closed` follows.
            Err(_) => held.sent = held.bytes.len(),
        }
        let done = held.sent == held.bytes.len();
        if done {
            *place = None;
        }
        done
    }

    /// Echoes until there is nothing to read or no room to send.
    fn pump<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        if !self.push_held(cx, conn) {
            return;
        }
        loop {
            let mut frame = match cx.recv(conn) {
                Ok(Recv::Data(frame)) => frame,
                Ok(Recv::End) => {
                    // Unknown: it closed in this very turn, and `Closed` follows.
                    let _ = cx.shutdown(conn);
                    return;
                }
                Ok(Recv::Empty) | Err(_) => return,
            };
            let Ok(sent) = cx.send(conn, frame.bytes()) else {
                return;
            };
            if sent < frame.len() {
                frame.advance(sent);
                self.hold(conn, frame.lend());
                return;
            }
        }
    }

    fn hold(&mut self, conn: ConnId, desc: LeaseDesc) {
        let bytes = self.region.as_ref().and_then(|region| region.open(desc));
        let Some(bytes) = bytes else {
            // We have just lent it, and `Started` has set the region: nothing else can open it.
            unreachable!("a lease of our own opens once");
        };
        self.keep(Held {
            conn,
            bytes,
            sent: 0,
        });
    }

    fn keep(&mut self, held: Held) {
        let index = held.conn.index as usize;
        if self.held.len() <= index {
            self.held.resize_with(index + 1, || None);
        }
        self.held[index] = Some(held);
    }
}

impl Service for Echo {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                self.region = Some(cx.region());
                let outcome = cx.listen(self.port, self.options).map(drop);
                let failed = outcome.is_err();
                // Nobody waits for it any more if the starter was interrupted.
                let _ = self.listening.send(outcome);
                if failed {
                    cx.stop();
                }
            }
            Event::Readable { conn } | Event::Writable { conn } => self.pump(cx, conn),
            Event::Closed { conn, .. } => {
                if let Some(place) = self.held.get_mut(conn.index as usize) {
                    // A later connection cannot be in that place yet: its events come after this.
                    *place = None;
                }
            }
            Event::Stopping => cx.stop(),
            Event::Accepted { .. }
            | Event::Connected { .. }
            | Event::Unreachable { .. }
            | Event::Timer { .. } => {}
        }
    }

    /// All that there is to know of a connection is what could not be sent yet, and a lease may be read anywhere.
    fn on_leave(&mut self, conn: ConnId) -> Option<Luggage> {
        let place = self.held.get_mut(conn.index as usize);
        let held = place.and_then(|place| place.take_if(|held| held.conn == conn));
        Some(Box::new(held))
    }

    fn on_arrive<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId, luggage: Luggage) {
        let held = luggage.downcast::<Option<Held>>();
        if let Some(held) = held.ok().and_then(|held| *held) {
            self.keep(Held { conn, ..held });
        }
        self.pump(cx, conn);
    }
}
