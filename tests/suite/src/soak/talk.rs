//! What the two ends of a connection say to each other: an order by who opens it, then bytes that depend on connection, direction and
//! place, so that any other byte is seen.

use std::time::Duration;

use bywash::{ConnId, Context, Port, Recv};

use super::Book;
use crate::kernel::Random;
use crate::sim::pattern::Stream;

/// Bytes of an order on the wire.
pub(super) const ORDER: usize = 24;

/// What is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Both send what the order says, at once, then FIN.
    Bulk,
    /// What is sent comes back.
    Echo,
    /// Who opened it resets it, after what it sends.
    Abort,
    /// The server resets it at once.
    Refuse,
}

const KINDS: [Kind; 4] = [Kind::Bulk, Kind::Echo, Kind::Abort, Kind::Refuse];

/// What the opening end asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) kind: Kind,
    /// Which connection: names the streams.
    pub(super) number: u32,
    /// Bytes that the client sends.
    pub(super) up: u64,
    /// Bytes that the server sends.
    pub(super) down: u64,
}

impl Order {
    /// Anything: large and small transfers in one or both directions, nothing at all, conversations, ends by RST.
    pub(super) fn draw(number: u32, random: &mut Random) -> Self {
        let size = |random: &mut Random| {
            let magnitude = random.below(18);
            (random.draw() & ((2 << magnitude) - 1)) % 200_000
        };
        let (up, down) = (size(random), size(random));
        let (kind, up, down) = match random.below(12) {
            0 => (Kind::Abort, up, 0),
            1 => (Kind::Refuse, up, 0),
            2 => (Kind::Bulk, 0, 0),
            3 | 4 => (Kind::Bulk, up, 0),
            5 | 6 => (Kind::Bulk, 0, down),
            7 | 8 => (Kind::Bulk, up, down),
            _ => (Kind::Echo, up, up),
        };
        Self {
            kind,
            number,
            up,
            down,
        }
    }

    pub(super) fn bytes(&self) -> [u8; ORDER] {
        let mut bytes = [0; ORDER];
        bytes[0] = KINDS
            .iter()
            .position(|kind| *kind == self.kind)
            .unwrap_or(0) as u8;
        bytes[4..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.up.to_be_bytes());
        bytes[16..].copy_from_slice(&self.down.to_be_bytes());
        bytes
    }

    fn parse(bytes: &[u8; ORDER]) -> Self {
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        Self {
            kind: KINDS[usize::from(bytes[0]) % KINDS.len()],
            number: u32::from_be_bytes(bytes[4..8].try_into().expect("4 bytes")),
            up: word(8),
            down: word(16),
        }
    }

    /// Half of the connections stay for some seconds with nothing to say.
    pub(super) fn think(random: &mut Random) -> Option<Duration> {
        (random.below(2) == 0).then(|| Duration::from_millis(random.below(8000) as u64))
    }

    /// What comes from the server.
    pub(super) fn answer(&self) -> Stream {
        Stream::new(self.number, usize::from(self.kind != Kind::Echo))
    }
}

/// One end of a connection on an engine.
#[derive(Debug)]
pub(super) struct Talk {
    is_client: bool,
    order: Option<Order>,
    /// The order's bytes that are to be sent, or have come.
    head: [u8; ORDER],
    head_at: usize,
    sent: u64,
    received: u64,
    /// Our end is closed.
    closed: bool,
    /// The peer's end.
    ended: bool,
    /// Reads a frame at a time, with pauses.
    slow: bool,
    /// How long it stays open with nothing to say, before our end is closed.
    think: Option<Duration>,
    wrong: bool,
}

/// What is to be done with a connection when it has been served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Its next event tells.
    Wait,
    /// It reads slowly, or thinks: come back after this.
    Pause(Duration),
}

/// How long a slow reader does not read.
const PAUSE: Duration = Duration::from_millis(5);

impl Talk {
    /// The server's end: waits for an order.
    pub(super) fn server(slow: bool) -> Self {
        Self {
            is_client: false,
            order: None,
            head: [0; ORDER],
            head_at: 0,
            sent: 0,
            received: 0,
            closed: false,
            ended: false,
            slow,
            think: None,
            wrong: false,
        }
    }

    /// The client's end; without a head, where the server does one thing only.
    pub(super) fn client(
        order: Order,
        with_head: bool,
        slow: bool,
        think: Option<Duration>,
    ) -> Self {
        Self {
            is_client: true,
            think,
            order: Some(order),
            head: order.bytes(),
            head_at: if with_head { 0 } else { ORDER },
            ..Self::server(slow)
        }
    }

    /// Whether this end opened the connection.
    pub(super) fn is_client(&self) -> bool {
        self.is_client
    }

    /// As far as it goes.
    pub(super) fn advance<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        conn: ConnId,
        book: &Book,
    ) -> Next {
        let pause = self.read(cx, conn, book);
        match self.write(cx, conn).or(pause) {
            Some(pause) => Next::Pause(pause),
            None => Next::Wait,
        }
    }

    fn read<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        conn: ConnId,
        book: &Book,
    ) -> Option<Duration> {
        let mut frames = 0;
        while !self.ended {
            if self.slow && frames == 1 {
                return Some(PAUSE);
            }
            match cx.recv(conn) {
                Ok(Recv::Data(frame)) => self.take(frame.bytes(), book),
                Ok(Recv::End) => self.ended = true,
                Ok(Recv::Empty) | Err(_) => break,
            }
            frames += 1;
        }
        None
    }

    fn take(&mut self, bytes: &[u8], book: &Book) {
        let mut bytes = bytes;
        if !self.is_client && self.order.is_none() {
            let missing = (ORDER - self.head_at).min(bytes.len());
            let (head, rest) = bytes.split_at(missing);
            self.head[self.head_at..self.head_at + missing].copy_from_slice(head);
            self.head_at += missing;
            if self.head_at == ORDER {
                self.order = Some(Order::parse(&self.head));
            }
            bytes = rest;
        }
        let Some(order) = self.order.filter(|_| !bytes.is_empty()) else {
            return;
        };
        let stream = match self.is_client {
            true => order.answer(),
            false => Stream::new(order.number, 0),
        };
        if let Some(at) = stream.first_difference(self.received, bytes) {
            self.wrong = true;
            let place = self.received + at as u64;
            book.failure(format!("{order:?}: byte {place} is not what was sent"));
        }
        self.received += bytes.len() as u64;
    }

    /// What our end has to send in all, as far as known, and from which stream.
    fn to_send(&self) -> Option<(Stream, u64, u64)> {
        let order = self.order?;
        Some(match (self.is_client, order.kind) {
            (true, _) => (Stream::new(order.number, 0), order.up, order.up),
            (false, Kind::Echo) => (order.answer(), self.received, order.down),
            (false, _) => (order.answer(), order.down, order.down),
        })
    }

    fn write<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) -> Option<Duration> {
        if self.closed {
            return None;
        }
        if self.is_client && self.head_at < ORDER {
            match cx.send(conn, &self.head[self.head_at..]) {
                Ok(count) => self.head_at += count,
                Err(_) => return None,
            }
            if self.head_at < ORDER {
                return None;
            }
        }
        let (stream, ready, all) = self.to_send()?;
        let kind = self.order.map(|order| order.kind);
        if !self.is_client && kind == Some(Kind::Refuse) {
            self.closed = true;
            // Gone already is as good.
            let _ = cx.abort(conn);
            return None;
        }
        let mut buffer = [0; 4096];
        while self.sent < ready.min(all) {
            let count = (ready.min(all) - self.sent).min(buffer.len() as u64) as usize;
            stream.fill(self.sent, &mut buffer[..count]);
            match cx.send(conn, &buffer[..count]) {
                Ok(taken) => {
                    self.sent += taken as u64;
                    if taken < count {
                        return None;
                    }
                }
                Err(_) => return None,
            }
        }
        if self.sent == all {
            if let Some(think) = self.think.take() {
                return Some(think);
            }
            self.closed = true;
            // Closed in this very turn: `Closed` follows.
            let _ = match (self.is_client, kind) {
                (true, Some(Kind::Abort)) => cx.abort(conn),
                _ => cx.shutdown(conn),
            };
        }
        None
    }

    /// The connection is gone: as it should?
    pub(super) fn end(self, why: &str, in_order: bool, book: &Book) {
        let broken = matches!(
            self.order.map(|order| order.kind),
            Some(Kind::Abort | Kind::Refuse)
        );
        let expected = match (self.order, self.is_client) {
            (Some(order), true) => order.down,
            (Some(order), false) => order.up,
            // Reset before its order came: what the client knows, the server does not.
            (None, _) if !in_order => return,
            (None, _) => return book.failure("a connection ended without an order".to_owned()),
        };
        // A slow reader need not have come to the end that it has nothing more to read before.
        let whole = self.closed && self.received == expected;
        // Once both have said all and heard all, a RST is as good an end as an ACK: a peer that has forgotten the connection, since its
        // TIME-WAIT was cut short or its port is wanted again (RFC 6191), answers so to a FIN that is repeated.
        let over = in_order || self.ended;
        match self.wrong {
            true => {}
            // Each connection is counted once.
            false if broken || (over && whole) => match self.is_client {
                true => book.well(self.received),
                false => book.more(self.received),
            },
            false => book.failure(format!("ended too early ({why}): {self:?}")),
        }
    }
}
