//! The server as a [`Service`]: one of these on every shard, with a [`ServerState`] between them.
//!
//! Every connection opens with a cookie. The first one of a free server becomes the control
//! connection of a test and stays with the shard that took it; connections with the same cookie are the
//! test's streams, on whatever shard they arrive; all others hear ACCESS_DENIED. The shard with the
//! control connection drives the test (`conduct`); the other shards follow its phase.

mod conduct;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bywash_engine::context::{ConnOptions, Context};
use bywash_engine::service::{ConnId, Event, ListenerId, Recv, Service, Time};
use bywash_engine::xsk::Port;

use self::conduct::Conductor;
use super::error::Iperf3Error;
use super::message::{Cookie, Greeting, State};
use super::shared::{ActiveTest, Phase, ServerState, StreamCell, Welcome};
use super::stream::{Progress, Stream};

/// How often a shard looks after its time limits.
const UPKEEP: Duration = Duration::from_millis(200);

/// How often a shard looks for news of another one, while it expects any: nothing wakes it for them.
const WATCH: Duration = Duration::from_millis(2);

/// How often a stream's TCP figures are told to another shard, in nanoseconds.
const PUBLISH_NS: u64 = 100_000_000;

/// What a timer is for: the low byte of its token. The rest tells a timer of this test from an older one.
mod timer {
    pub(super) const UPKEEP: u64 = 0;
    pub(super) const INTERVAL: u64 = 1;
    pub(super) const OMIT: u64 = 2;
}

/// A connection whose cookie is not complete.
struct Guest {
    greeting: Greeting,
    peer: SocketAddr,
    since: Time,
}

/// The streams of the present test that this shard holds.
struct LocalStreams {
    test: Arc<ActiveTest>,
    /// The last phase that was acted on.
    phase: Phase,
    published: Time,
    by_conn: HashMap<ConnId, Stream>,
}

/// An `iperf3` server on one shard.
pub struct Server {
    state: Arc<ServerState>,
    listener: Option<ListenerId>,
    guests: HashMap<ConnId, Guest>,
    local: Option<LocalStreams>,
    conductor: Option<Conductor>,
    /// Streams that used up their share of the last turn.
    unfinished: Vec<ConnId>,
    /// When the next upkeep timer runs out.
    upkeep_due: Option<Time>,
}

impl Server {
    /// A shard's part of the server `state`.
    pub fn new(state: Arc<ServerState>) -> Self {
        Self {
            state,
            listener: None,
            guests: HashMap::new(),
            local: None,
            conductor: None,
            unfinished: Vec::new(),
            upkeep_due: None,
        }
    }

    fn on_started<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let port = self.state.options().port;
        match cx.listen(port, ConnOptions::default()) {
            Ok(listener) => {
                self.listener = Some(listener);
                self.state.note_listening(cx.shard().1);
            }
            Err(error) => {
                self.state.fail(Iperf3Error::Listen {
                    port,
                    cause: error.to_string(),
                });
                cx.stop();
            }
        }
    }

    fn on_readable<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        // Streams first: they are nearly all there is.
        if let Some(stream) = self
            .local
            .as_mut()
            .and_then(|local| local.by_conn.get_mut(&conn))
        {
            if stream.receive(cx) == Progress::More {
                self.unfinished.push(conn);
            }
        } else if self
            .conductor
            .as_ref()
            .is_some_and(|conductor| conductor.conn == conn)
        {
            self.on_control_readable(cx);
        } else if self.guests.contains_key(&conn) {
            self.on_guest_readable(cx, conn);
        }
    }

    fn on_guest_readable<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        while let Some(guest) = self.guests.get_mut(&conn) {
            let frame = match cx.recv(conn) {
                Ok(Recv::Data(frame)) => frame,
                Ok(Recv::Empty) => return,
                // Port scans and health checks do this all day: not worth a line.
                Ok(Recv::End) | Err(_) => return self.dismiss(cx, conn),
            };
            let mut rest = frame.bytes();
            match guest.greeting.on_bytes(&mut rest) {
                Ok(None) => {}
                Ok(Some(cookie)) => {
                    self.on_cookie(cx, conn, cookie, rest);
                    // What else has arrived is for the connection in its new part.
                    self.on_readable(cx, conn);
                }
                Err(error) => {
                    let peer = guest.peer;
                    self.state
                        .report(|report| report.line(&format!("iperf3: error - {peer}: {error}")));
                    self.guests.remove(&conn);
                    // The peer's other bytes would only draw resets one by one.
                    let _ = cx.abort(conn);
                }
            }
        }
    }

    fn on_cookie<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        conn: ConnId,
        cookie: Cookie,
        rest: &[u8],
    ) {
        let Some(guest) = self.guests.remove(&conn) else {
            return;
        };
        match self.state.welcome(cookie) {
            Welcome::Control(test) => self.conduct(cx, conn, guest.peer, test, rest),
            Welcome::Same(test) => {
                let cell = Arc::new(StreamCell::new(guest.since, cx.addresses(conn).ok()));
                if test.add(&cell) {
                    self.on_stream(cx, conn, test, cell, rest);
                } else {
                    self.deny(cx, conn);
                }
            }
            Welcome::Busy => self.deny(cx, conn),
        }
    }

    /// Turns a connection away as the stock server does.
    fn deny<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        // A new connection takes a byte; if it is gone already, nobody is left to be told.
        let _ = cx.send(conn, &[State::AccessDenied.byte()]);
        let _ = cx.close(conn);
    }

    fn on_stream<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        conn: ConnId,
        test: Arc<ActiveTest>,
        cell: Arc<StreamCell>,
        rest: &[u8],
    ) {
        // Another shard may have ended a test whose streams are still here.
        self.follow_phase(cx);
        let Some(parameters) = test.parameters() else {
            return;
        };
        if parameters.nodelay {
            // Fails only if the connection is gone, which `Closed` will say.
            let _ = cx.set_nagle(conn, false);
        }
        if let Ok(Some(congestion)) = parameters.congestion() {
            // As above.
            let _ = cx.configure(conn, |config| config.congestion = congestion);
        }
        let mut stream = Stream::new(conn, cell, parameters.len);
        stream.count(rest.len());
        let local = match &mut self.local {
            Some(local) if Arc::ptr_eq(&local.test, &test) => local,
            local => local.insert(LocalStreams {
                test,
                phase: Phase::Collecting,
                published: cx.now(),
                by_conn: HashMap::new(),
            }),
        };
        local.by_conn.insert(conn, stream);
        self.start_when_complete(cx);
        self.keep_up(cx);
    }

    /// Acts on a phase that the conductor, here or on another shard, has set.
    fn follow_phase<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let Some(local) = &mut self.local else { return };
        let phase = local.test.phase();
        if phase == local.phase {
            return;
        }
        local.phase = phase;
        match phase {
            Phase::Running => {
                let senders: Vec<ConnId> = local
                    .by_conn
                    .values()
                    .filter(|stream| stream.cell.is_sender())
                    .map(|s| s.conn)
                    .collect();
                for conn in senders {
                    self.go_on(cx, conn);
                }
            }
            Phase::Over => self.end_streams(cx),
            Phase::Preparing | Phase::Collecting => {}
        }
    }

    /// Takes what has still arrived, tells the last counts and closes.
    fn end_streams<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let Some(mut local) = self.local.take() else {
            return;
        };
        for stream in local.by_conn.values_mut() {
            if !stream.cell.is_sender() {
                while stream.receive(cx) == Progress::More {}
            }
            stream.publish(cx);
            // Not a reset: a stock client that reads would take it for an error.
            let _ = cx.close(stream.conn);
        }
        self.unfinished.clear();
        local
            .test
            .note_closed(u32::try_from(local.by_conn.len()).expect("at most 256 streams"));
    }

    /// Gives a stream its share of this turn.
    fn go_on<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        let Some(local) = &mut self.local else { return };
        let Some(stream) = local.by_conn.get_mut(&conn) else {
            return;
        };
        let progress = match local.test.quota() {
            Some(quota) if stream.cell.is_sender() && local.phase == Phase::Running => {
                stream.send(cx, quota)
            }
            _ => stream.receive(cx),
        };
        if progress == Progress::More {
            self.unfinished.push(conn);
        }
    }

    fn on_writable<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        match &mut self.conductor {
            Some(conductor) if conductor.conn == conn => conductor.flush(cx),
            _ => self.go_on(cx, conn),
        }
    }

    fn on_closed<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        self.guests.remove(&conn);
        if let Some(local) = &mut self.local
            && local.by_conn.remove(&conn).is_some()
        {
            // Its counts stay in its cell; the control connection tells what happened.
            local.test.note_closed(1);
        }
        if self
            .conductor
            .as_ref()
            .is_some_and(|conductor| conductor.conn == conn)
        {
            self.on_control_end(cx);
        }
    }

    /// Closes a guest that did not become more.
    fn dismiss<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        self.guests.remove(&conn);
        let _ = cx.close(conn);
    }

    /// What is due now and then: time limits, and news of other shards.
    fn on_upkeep<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        self.upkeep_due = None;
        let now = cx.now();
        let patience = self.state.options().patience.into();
        let late: Vec<(ConnId, SocketAddr)> = self
            .guests
            .iter()
            .filter(|(_, guest)| now.since(guest.since) > patience)
            .map(|(conn, guest)| (*conn, guest.peer))
            .collect();
        for (conn, peer) in late {
            let line = format!("iperf3: error - {peer}: connected and sent no cookie");
            self.state.report(|report| report.line(&line));
            self.dismiss(cx, conn);
        }
        self.start_when_complete(cx);
        self.follow_phase(cx);
        if let Some(local) = &mut self.local
            && self.conductor.is_none()
            && now.since(local.published).as_nanos() >= PUBLISH_NS
        {
            local.published = now;
            for stream in local.by_conn.values() {
                stream.publish(cx);
            }
        }
        self.conductor_upkeep(cx);
        self.keep_up(cx);
    }

    /// Sees to it that a timer runs while anything is to be looked after.
    fn keep_up<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let several = cx.shard().1 > 1;
        let follows = self.local.is_some() && self.conductor.is_none();
        let awaits = self
            .conductor
            .as_ref()
            .is_some_and(|conductor| conductor.awaits_streams(several));
        let after = if awaits || (several && follows) {
            WATCH
        } else if self.conductor.is_some() || self.local.is_some() || !self.guests.is_empty() {
            UPKEEP
        } else {
            return;
        };
        let due = cx.now() + after.into();
        if self.upkeep_due.is_none_or(|present| due < present) {
            self.upkeep_due = Some(due);
            cx.set_timer(after, timer::UPKEEP);
        }
    }

    fn on_timer<P: Port>(&mut self, cx: &mut Context<'_, P>, token: u64) {
        match token & 0xff {
            // An earlier timer may have taken this one's place; then it is not due yet.
            timer::UPKEEP => {
                if self.upkeep_due.is_some_and(|due| due <= cx.now()) {
                    self.on_upkeep(cx);
                }
            }
            kind => self.on_conductor_timer(cx, kind, token >> 8),
        }
    }
}

impl Service for Server {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Readable { conn } => self.on_readable(cx, conn),
            Event::Writable { conn } => self.on_writable(cx, conn),
            Event::Started => self.on_started(cx),
            Event::Accepted { conn, peer, .. } => {
                self.guests.insert(
                    conn,
                    Guest {
                        greeting: Greeting::default(),
                        peer,
                        since: cx.now(),
                    },
                );
                self.keep_up(cx);
            }
            Event::Closed { conn, .. } => self.on_closed(cx, conn),
            Event::Timer { token } => self.on_timer(cx, token),
            Event::Stopping => self.on_stopping(cx),
            // A server opens no connections.
            Event::Connected { .. } | Event::Unreachable { .. } => {}
        }
    }

    fn on_turn<P: Port>(&mut self, cx: &mut Context<'_, P>) -> usize {
        let conns = std::mem::take(&mut self.unfinished);
        for conn in &conns {
            self.go_on(cx, *conn);
        }
        conns.len()
    }

    fn has_work(&self) -> bool {
        !self.unfinished.is_empty()
    }
}
