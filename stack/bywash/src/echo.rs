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
//! does not read stops itself, and no byte is ever dropped or copied aside for it.

use std::sync::mpsc::Sender;

use bywash_engine::context::{ConnOptions, Context};
use bywash_engine::service::{ConnId, Event, ListenError, Recv, Service};
use bywash_engine::xsk::{Frame, Port};

/// Sends back what it receives, on every connection to one port.
pub struct Echo {
    port: u16,
    options: ConnOptions,
    /// Told once, at the start, whether this shard listens.
    listening: Sender<Result<(), ListenError>>,
    /// By the index of the connection's id: what the send side had no room for.
    held: Vec<Option<(ConnId, Frame)>>,
}

impl Echo {
    /// Echoes on `port`; `listening` gets one message from each shard.
    pub fn new(
        port: u16,
        options: ConnOptions,
        listening: Sender<Result<(), ListenError>>,
    ) -> Self {
        Self { port, options, listening, held: Vec::new() }
    }

    fn take_held(&mut self, conn: ConnId) -> Option<Frame> {
        let place = self.held.get_mut(conn.index as usize)?;
        place.take_if(|(owner, _)| *owner == conn).map(|(_, frame)| frame)
    }

    fn hold(&mut self, conn: ConnId, frame: Frame) {
        let index = conn.index as usize;
        if self.held.len() <= index {
            self.held.resize_with(index + 1, || None);
        }
        self.held[index] = Some((conn, frame));
    }

    /// Echoes until there is nothing to read or no room to send.
    fn pump<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        let mut next = self.take_held(conn);
        loop {
            let mut frame = match next.take() {
                Some(frame) => frame,
                None => match cx.recv(conn) {
                    Ok(Recv::Data(frame)) => frame,
                    Ok(Recv::End) => {
                        // Unknown: it closed in this very turn, and `Closed` follows.
                        let _ = cx.shutdown(conn);
                        return;
                    }
                    Ok(Recv::Empty) | Err(_) => return,
                },
            };
            let Ok(sent) = cx.send(conn, frame.bytes()) else { return };
            if sent < frame.len() {
                frame.advance(sent);
                self.hold(conn, frame);
                return;
            }
        }
    }
}

impl Service for Echo {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                let outcome = cx.listen(self.port, self.options).map(drop);
                let failed = outcome.is_err();
                // Nobody waits for it any more if the starter was interrupted.
                let _ = self.listening.send(outcome);
                if failed {
                    cx.stop();
                }
            }
            Event::Readable { conn } | Event::Writable { conn } => self.pump(cx, conn),
            Event::Closed { conn, .. } => drop(self.take_held(conn)),
            Event::Stopping => cx.stop(),
            Event::Accepted { .. }
            | Event::Connected { .. }
            | Event::Unreachable { .. }
            | Event::Timer { .. } => {}
        }
    }
}
