//! The application on every shard: it plays the part of its host in every plan, and tells the book.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bywash::{
    CloseReason, ConnId, ConnOptions, Context, Event, Frame, ListenerId, Port, Recv, Service,
};

use super::book::SharedBook;
use super::faults::{MS, US};
use super::host::addresses;
use super::pattern::Stream;
use super::plan::Ending;

/// Where every host listens.
pub const LISTENED: u16 = 7_000;
/// Where nobody does any more, although the port is still the engine's.
pub const UNHEARD: u16 = 7_001;

/// The one local port of both hosts in worlds that open a connection at both ends at once.
pub const BOTH: u16 = 61_440;

/// How long frames are held at most. An application that kept them for ever would stop its own peers.
const HOLD_TIME: u64 = 20 * MS;

const START: u64 = 0;
const WRITE: u64 = 1;
const READ: u64 = 2;
const RELEASE: u64 = 3;

/// A connection that lives here.
struct Live {
    conn: ConnId,
    side: usize,
    held: VecDeque<Frame>,
    stalls: bool,
    has_stalled: bool,
    waits_to_write: bool,
    waits_to_read: bool,
}

/// The service of one shard.
pub struct App {
    host: usize,
    shard: usize,
    booted: u64,
    book: SharedBook,
    /// By number of the connection.
    live: BTreeMap<u32, Live>,
    numbers: BTreeMap<ConnId, u32>,
    buffer: Vec<u8>,
    /// Times that a connection was refused because the other end did not open it at the same moment.
    refused: u64,
    listener: Option<ListenerId>,
}

impl App {
    /// The service of shard `shard` of `host`, booted at world time `booted`.
    pub fn new(host: usize, shard: usize, booted: u64, book: SharedBook) -> Self {
        Self {
            host,
            shard,
            booted,
            book,
            live: BTreeMap::new(),
            numbers: BTreeMap::new(),
            buffer: Vec::new(),
            refused: 0,
            listener: None,
        }
    }

    /// Connections that live here: number and id.
    pub fn connections(&self) -> impl ExactSizeIterator<Item = (u32, ConnId)> + '_ {
        self.live.iter().map(|(number, live)| (*number, live.conn))
    }

    /// The id of a connection that lives here.
    pub fn conn(&self, number: u32) -> Option<ConnId> {
        self.live.get(&number).map(|live| live.conn)
    }

    /// Ends every connection that need not come to a good end: its peer may be gone for good, and TCP alone waits for ever.
    pub fn give_up<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let all: Vec<u32> = self.live.keys().copied().collect();
        for number in all {
            let mut book = self.book.borrow_mut();
            let hopeless = book.entry(number).excuse.is_some()
                || book.excuse_cookie(number)
                || book.excuse_half_open(number);
            drop(book);
            if hopeless {
                self.abort(cx, number);
            }
        }
    }

    /// Accepts no more connections.
    pub fn unlisten<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        if let Some(listener) = self.listener.take() {
            cx.unlisten(listener);
        }
    }

    fn timer<P: Port>(&self, cx: &mut Context<'_, P>, after: u64, kind: u64, number: u32) {
        cx.set_timer(Duration::from_nanos(after), kind << 32 | u64::from(number));
    }

    fn schedule<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let book = self.book.borrow();
        for (number, entry) in book.entries.iter().enumerate() {
            let mine = entry.plan.client == self.host || entry.plan.both;
            if mine && entry.plan.shard == self.shard && !entry.started {
                let after = entry.plan.start.saturating_sub(self.booted);
                self.timer(cx, after, START, number as u32);
            }
        }
    }

    fn connect<P: Port>(&mut self, cx: &mut Context<'_, P>, number: u32) {
        if self.book.borrow().stopping[self.host] {
            return self.timer(cx, 1_000 * MS, START, number);
        }
        let plan = self.book.borrow_mut().entry(number).plan.clone();
        let port = match (plan.nobody, plan.both) {
            (_, true) => BOTH,
            (true, _) => UNHEARD,
            _ => LISTENED,
        };
        let server = SocketAddr::new(addresses(1 - self.host)[usize::from(plan.v6)], port);
        let options = ConnOptions::default();
        let Ok(conn) = cx.connect(server, options) else {
            // Every local port is in TIME-WAIT.
            return self.timer(cx, 1_000 * MS, START, number);
        };
        self.book.borrow_mut().entry(number).started = true;
        self.adopt(number, conn, usize::from(plan.client != self.host));
        self.register(cx, number, conn);
    }

    /// The client's port is known at once, or when the path is.
    fn register<P: Port>(&mut self, cx: &mut Context<'_, P>, number: u32, conn: ConnId) {
        let (here, there) = cx.addresses(conn).expect("just made");
        if here.port() != 0 {
            let is_client = self.live[&number].side == 0;
            let (client, server) = if is_client {
                (here, there)
            } else {
                (there, here)
            };
            self.book.borrow_mut().register(number, client, server);
        }
    }

    /// The other end of a connection that both open was not in SYN-SENT yet, or no longer.
    fn is_too_early(&self, number: u32, side: usize, reason: CloseReason) -> bool {
        let mut book = self.book.borrow_mut();
        let entry = book.entry(number);
        let other = entry.ends[1 - side].closed.is_none();
        entry.plan.both && other && !entry.ends[side].open && reason == CloseReason::Refused
    }

    fn adopt(&mut self, number: u32, conn: ConnId, side: usize) {
        let live = Live {
            conn,
            side,
            held: VecDeque::new(),
            stalls: false,
            has_stalled: false,
            waits_to_write: false,
            waits_to_read: false,
        };
        self.live.insert(number, live);
        self.numbers.insert(conn, number);
    }

    fn accepted<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId, peer: SocketAddr) {
        let (here, _) = cx.addresses(conn).expect("just accepted");
        let number = self.book.borrow().number(peer, here);
        let Some(number) = number else {
            let text = format!("accepted a connection from {peer}, which nobody has opened");
            return self.book.borrow_mut().fail(text);
        };
        // A SYN cookie lets the peer's retransmission open what the application has broken already (RFC 4987 3.6).
        let over = {
            let mut book = self.book.borrow_mut();
            let end = &book.entry(number).ends[1];
            let over = end.open && (end.closed.is_some() || end.aborted);
            over.then(|| book.cookies[self.host])
        };
        match over {
            Some(true) => return cx.abort(conn).expect("just accepted"),
            Some(false) => {
                let text = format!("accepted connection {number} a second time");
                return self.book.borrow_mut().fail(text);
            }
            None => {}
        }
        self.adopt(number, conn, 1);
        self.opened(cx, number, 1);
    }

    fn opened<P: Port>(&mut self, cx: &mut Context<'_, P>, number: u32, side: usize) {
        {
            let mut book = self.book.borrow_mut();
            let now = book.now;
            let end = &mut book.entry(number).ends[side];
            end.open = true;
            end.opened_at = now;
        }
        self.pump(cx, number);
    }

    /// Reads and writes what the plan allows now.
    fn pump<P: Port>(&mut self, cx: &mut Context<'_, P>, number: u32) {
        if let Some(live) = self.live.get(&number) {
            let side = live.side;
            let ending = self.book.borrow_mut().entry(number).plan.ends[side].ending;
            self.read(cx, number);
            self.write(cx, number);
            let end = self.book.borrow_mut().entry(number).ends[side].clone();
            match ending {
                Ending::Abort(at) if end.read >= at && end.open => self.abort(cx, number),
                Ending::Leave(at) if end.read >= at && end.open => self.leave(cx, number),
                _ => {}
            }
        }
    }

    fn read<P: Port>(&mut self, cx: &mut Context<'_, P>, number: u32) {
        let mut book = self.book.borrow_mut();
        let live = self.live.get_mut(&number).expect("looked up");
        let plan = book.entry(number).plan.ends[live.side].clone();
        if live.waits_to_read || live.stalls {
            return;
        }
        let timer = |cx: &mut Context<'_, P>, after, kind: u64| {
            cx.set_timer(Duration::from_nanos(after), kind << 32 | u64::from(number));
        };
        let mut budget = if plan.read == 0 {
            usize::MAX
        } else {
            plan.read
        };
        loop {
            let end = &book.entry(number).ends[live.side];
            if end.left || end.aborted {
                return;
            }
            if let Some((at, time)) = plan.stall
                && !live.has_stalled
                && end.read >= at
            {
                live.has_stalled = true;
                live.stalls = true;
                return timer(cx, time, READ);
            }
            if budget == 0 {
                live.waits_to_read = true;
                return timer(cx, plan.read_every, READ);
            }
            match cx.recv(live.conn) {
                Ok(Recv::Data(frame)) => {
                    budget = budget.saturating_sub(frame.len());
                    book.read(number, live.side, frame.bytes());
                    if plan.hold > 0 {
                        if live.held.is_empty() {
                            timer(cx, HOLD_TIME, RELEASE);
                        }
                        live.held.push_back(frame);
                        live.held.drain(..live.held.len().saturating_sub(plan.hold));
                    }
                }
                Ok(Recv::End) => {
                    if !book.entry(number).ends[live.side].saw_end {
                        book.end(number, live.side);
                    }
                    return;
                }
                Ok(Recv::Empty) | Err(_) => return,
            }
        }
    }

    fn write<P: Port>(&mut self, cx: &mut Context<'_, P>, number: u32) {
        let mut book = self.book.borrow_mut();
        let live = self.live.get_mut(&number).expect("looked up");
        let side = live.side;
        let plan = book.entry(number).plan.ends[side].clone();
        loop {
            let end = &mut book.entry(number).ends[side];
            if end.shut || end.aborted || !end.open || live.waits_to_write {
                return;
            }
            let open = plan.gates.iter().take_while(|gate| gate.0 <= end.read);
            let limit = open.last().map_or(0, |gate| gate.1);
            if end.written >= limit {
                break;
            }
            let n = (limit - end.written).min(plan.write as u64) as usize;
            self.buffer.resize(n, 0);
            Stream::new(number, side).fill(end.written, &mut self.buffer);
            let Ok(taken) = cx.send(live.conn, &self.buffer) else {
                return;
            };
            end.written += taken as u64;
            if taken < n {
                return;
            }
            if plan.write_every > 0 {
                live.waits_to_write = true;
                let token = WRITE << 32 | u64::from(number);
                return cx.set_timer(Duration::from_nanos(plan.write_every), token);
            }
        }
        let end = &mut book.entry(number).ends[side];
        // Behind the peer's end no gate opens any more, nor comes what an ending waits for.
        let in_vain = end.saw_end && (end.written < plan.total() || plan.breaks());
        if end.written < plan.total() && !in_vain {
            return;
        }
        match plan.ending {
            _ if in_vain => {
                end.shut = true;
                cx.shutdown(live.conn).expect("it lives");
            }
            Ending::Shutdown => {
                end.shut = true;
                cx.shutdown(live.conn).expect("it lives");
            }
            Ending::AfterPeer if end.saw_end => {
                end.shut = true;
                cx.close(live.conn).expect("it lives");
            }
            _ => {}
        }
    }

    fn abort<P: Port>(&mut self, cx: &mut Context<'_, P>, number: u32) {
        let live = self.live.get_mut(&number).expect("it lives");
        live.held.clear();
        let mut book = self.book.borrow_mut();
        book.excuse(number, "an application aborted it");
        let end = &mut book.entry(number).ends[live.side];
        if !end.aborted {
            end.aborted = true;
            cx.abort(live.conn).expect("it lives");
        }
    }

    fn leave<P: Port>(&mut self, cx: &mut Context<'_, P>, number: u32) {
        let live = self.live.get_mut(&number).expect("it lives");
        live.held.clear();
        let mut book = self.book.borrow_mut();
        book.excuse(number, "an application left it");
        let end = &mut book.entry(number).ends[live.side];
        if !end.left {
            end.left = true;
            end.shut = true;
            cx.close(live.conn).expect("it lives");
        }
    }

    fn on_timer<P: Port>(&mut self, cx: &mut Context<'_, P>, token: u64) {
        let (kind, number) = (token >> 32, token as u32);
        if kind == START {
            return self.connect(cx, number);
        }
        // It may have ended meanwhile.
        let Some(live) = self.live.get_mut(&number) else {
            return;
        };
        match kind {
            WRITE => live.waits_to_write = false,
            READ => {
                live.waits_to_read = false;
                live.stalls = false;
            }
            _ => live.held.clear(),
        }
        self.pump(cx, number);
    }
}

impl Service for App {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        self.book
            .borrow_mut()
            .note(|| format!("{}{} {event:?}", ["a", "b"][self.host], self.shard));
        match event {
            Event::Started => {
                let listen = |cx: &mut Context<'_, P>, port| {
                    let listener = cx.listen(port, ConnOptions::default());
                    listener.expect("nobody else listens")
                };
                self.listener = Some(listen(cx, LISTENED));
                let deaf = listen(cx, UNHEARD);
                cx.unlisten(deaf);
                self.schedule(cx);
            }
            Event::Accepted { conn, peer, .. } => self.accepted(cx, conn, peer),
            Event::Connected { conn } => {
                let number = self.numbers[&conn];
                self.register(cx, number, conn);
                let side = self.live[&number].side;
                self.opened(cx, number, side);
            }
            Event::Readable { conn } | Event::Writable { conn } => {
                if let Some(number) = self.numbers.get(&conn).copied() {
                    self.pump(cx, number);
                }
            }
            Event::Closed { conn, reason } => {
                if let Some(number) = self.numbers.remove(&conn) {
                    let live = self.live.remove(&number).expect("both tables agree");
                    if self.is_too_early(number, live.side, reason) {
                        self.refused += 1;
                        let after = 10 * US + self.refused * 37 * US % (2 * MS);
                        return self.timer(cx, after, START, number);
                    }
                    self.book.borrow_mut().closed(number, live.side, reason);
                }
            }
            Event::Unreachable { conn, reason } => {
                let number = self.numbers.remove(&conn).expect("one of ours");
                self.live.remove(&number);
                if !reason.to_string().contains("no local port is free") {
                    let text = format!("connection {number} cannot reach its peer: {reason}");
                    return self.book.borrow_mut().fail(text);
                }
                self.book.borrow_mut().not_started(number);
                self.timer(cx, 1_000 * MS, START, number);
            }
            Event::Timer { token } => self.on_timer(cx, token),
            Event::Stopping => cx.stop(),
        }
    }
}
