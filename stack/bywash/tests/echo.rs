//! The echo service against a peer that sends everything before it reads anything.

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::Duration;

use bywash::echo::Echo;
use bywash::{
    CloseReason, ConnId, ConnOptions, Context, Event, MemoryPair, Port, Recv, Service, ShardConfig,
};
use bywash_engine::memory::ADDRESSES_A;

/// So long that only a hang reaches it.
const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 7;
/// Far more than all windows and buffers between both ends hold.
const BYTES: usize = 32 << 20;

fn byte(position: usize) -> u8 {
    (position * 31 + position / 251) as u8
}

/// Sends [`BYTES`], reads only when told to, and checks what comes back.
#[derive(Default)]
struct Talker {
    conn: Option<ConnId>,
    sent: usize,
    received: usize,
    reading: bool,
    wrong: Option<usize>,
    ended: bool,
    closed: Option<CloseReason>,
}

impl Talker {
    fn push<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        while self.sent < BYTES {
            let until = BYTES.min(self.sent + 8192);
            let bytes: Vec<u8> = (self.sent..until).map(byte).collect();
            let n = cx.send(conn, &bytes).expect("an open connection");
            self.sent += n;
            if n < bytes.len() {
                return;
            }
        }
        cx.shutdown(conn).expect("an open connection");
    }

    fn pull<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        while self.reading {
            match cx.recv(conn) {
                Ok(Recv::Data(frame)) => {
                    for (i, got) in frame.bytes().iter().enumerate() {
                        if *got != byte(self.received + i) {
                            self.wrong.get_or_insert(self.received + i);
                        }
                    }
                    self.received += frame.len();
                }
                Ok(Recv::End) => {
                    self.ended = true;
                    return;
                }
                Ok(Recv::Empty) | Err(_) => return,
            }
        }
    }
}

impl Service for Talker {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                let echo = SocketAddr::new(ADDRESSES_A[1], PORT);
                cx.connect(echo, ConnOptions::default())
                    .expect("a place for a connection");
            }
            Event::Connected { conn } => {
                self.conn = Some(conn);
                self.push(cx, conn);
            }
            Event::Writable { conn } => self.push(cx, conn),
            Event::Readable { conn } => self.pull(cx, conn),
            Event::Closed { reason, .. } => self.closed = Some(reason),
            _ => {}
        }
    }
}

#[test]
fn a_peer_that_does_not_read_stops_itself_and_loses_nothing() {
    let (listening, outcomes) = channel();
    let echo = Echo::new(PORT, ConnOptions::default(), listening);
    let config = ShardConfig::default();
    let mut pair = MemoryPair::new(&config, echo, Talker::default()).expect("memory for a wire");
    // No end in sight: it stops sending although there is more.
    let (mut before, mut same) = (0, 0);
    let stuck = pair.run_until(
        |_, talker| {
            same = if talker.sent > before || talker.sent == 0 {
                0
            } else {
                same + 1
            };
            before = talker.sent;
            same > 100_000
        },
        LIMIT,
    );
    assert!(stuck, "{before} bytes sent");
    assert!(before < BYTES);
    assert!(outcomes.try_recv().is_ok_and(|outcome| outcome.is_ok()));

    pair.b.service_mut().reading = true;
    pair.b.with_context(|talker, cx| {
        let conn = talker.conn.expect("it is connected");
        talker.pull(cx, conn);
    });
    assert!(pair.run_until(|_, talker| talker.ended, LIMIT));
    let talker = pair.b.service();
    assert_eq!(
        (talker.sent, talker.received, talker.wrong),
        (BYTES, BYTES, None)
    );
    // Our side closed first: it waits for old segments to die, and says so when they have.
    assert_eq!(talker.closed, None);
}

#[test]
fn a_port_that_cannot_be_had_is_reported() {
    let (first, first_outcome) = channel();
    let (second, second_outcome) = channel();
    let echo = Echo::new(PORT, ConnOptions::default(), first);
    let zero = Echo::new(0, ConnOptions::default(), second);
    let config = ShardConfig::default();
    let mut pair = MemoryPair::new(&config, echo, zero).expect("memory for a wire");
    pair.turn();
    assert!(
        first_outcome
            .try_recv()
            .is_ok_and(|outcome| outcome.is_ok())
    );
    assert!(
        second_outcome
            .try_recv()
            .is_ok_and(|outcome| outcome.is_err())
    );
}
