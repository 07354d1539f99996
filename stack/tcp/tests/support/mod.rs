//! Two ends, a network between them, and time that passes only when nothing else is left to do.
//!
//! ```text
//!   End "a" (client) --+--> faults --> in flight, by time of arrival --> End "b" (server: a listener until a SYN comes)
//!                      +<-- faults <-----------------------------------
//! ```
//! Everything is a function of the seed: a failing run fails again.

pub(crate) mod lone;
mod network;
mod trace;

use std::collections::VecDeque;

use bywash_tcp::time::{Duration, Instant};
use bywash_tcp::{
    CloseReason, Config, Connection, Disposition, Event, FastOpenAnswer, ListenOutcome, Listener,
    State, reset_for,
};
use bywash_wire::{FastOpen, FastOpenCookie, Segment, SeqNumber, Tuple};

pub(crate) use network::{Faults, Network, Random};
pub(crate) use trace::{Fate, Side, Trace};

/// A connection over plain bytes.
pub(crate) type Tcp = Connection<Vec<u8>>;

/// Where the client's sequence numbers begin: so near the end that every story wraps.
pub(crate) const ISS_A: SeqNumber = SeqNumber::new(u32::MAX - 3_000);
/// Where the server's do.
pub(crate) const ISS_B: SeqNumber = SeqNumber::new(7_000);

/// The flow as the client sees it.
pub(crate) fn tuple() -> Tuple {
    Tuple::tcp(
        "10.0.0.1".parse().unwrap(),
        40_000,
        "10.0.0.2".parse().unwrap(),
        80,
    )
}

/// Milliseconds.
pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// `len` bytes that no other offset or salt repeats soon.
pub(crate) fn pattern(len: usize, salt: u64) -> Vec<u8> {
    let mut random = Random::new(salt);
    (0..len).map(|_| random.next() as u8).collect()
}

/// One end with its application: it writes `to_send` as the connection takes it, and reads if `reads`.
pub(crate) struct End {
    pub(crate) tcp: Option<Tcp>,
    listener: Option<Listener>,
    pub(crate) events: Vec<Event>,
    pub(crate) received: Vec<u8>,
    pub(crate) to_send: VecDeque<u8>,
    /// Bytes a write; 0: whole segments.
    pub(crate) write_size: usize,
    pub(crate) close_when_sent: bool,
    pub(crate) reads: bool,
    pub(crate) drops: Vec<bywash_tcp::Disposition>,
}

impl End {
    fn new(tcp: Option<Tcp>, listener: Option<Listener>) -> Self {
        Self {
            tcp,
            listener,
            events: Vec::new(),
            received: Vec::new(),
            to_send: VecDeque::new(),
            write_size: 0,
            close_when_sent: false,
            reads: true,
            drops: Vec::new(),
        }
    }

    /// The connection; there is one once the server has seen a SYN.
    pub(crate) fn tcp(&mut self) -> &mut Tcp {
        self.tcp.as_mut().expect("no connection yet")
    }

    pub(crate) fn state(&self) -> State {
        self.tcp.as_ref().map_or(State::Listen, Connection::state)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.to_send.extend(bytes);
    }

    pub(crate) fn closed(&self) -> Option<CloseReason> {
        self.events.iter().find_map(|event| match event {
            Event::Closed(reason) => Some(*reason),
            _ => None,
        })
    }

    /// What an application does in a turn.
    fn act(&mut self, now: Instant) {
        let Some(tcp) = &mut self.tcp else { return };
        while let Some(event) = tcp.poll_event() {
            self.events.push(event);
        }
        while self.reads
            && let Some(payload) = tcp.recv()
        {
            self.received.extend_from_slice(&payload);
        }
        loop {
            let mut n = tcp
                .send_room()
                .min(tcp.segment_limit())
                .min(self.to_send.len());
            if self.write_size > 0 {
                n = n.min(self.write_size);
            }
            if n == 0 {
                break;
            }
            tcp.send(self.to_send.drain(..n).collect())
                .expect("there was room");
        }
        // In SYN-SENT a close would be the end.
        let begun = tcp.state() != State::SynSent;
        if self.close_when_sent && begun && self.to_send.is_empty() {
            tcp.close(now);
            self.close_when_sent = false;
        }
    }
}

/// Both ends and the network.
pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) a: End,
    pub(crate) b: End,
    pub(crate) network: Network,
    pub(crate) trace: Vec<Trace>,
    /// The cookie that the server gives and takes (RFC 7413); and an older one that it takes still.
    pub(crate) cookie: Option<FastOpenCookie>,
    pub(crate) older: Option<FastOpenCookie>,
    /// Every so many steps one end is written down and read back.
    pub(crate) restore_every: Option<u64>,
    steps: u64,
}

impl Pair {
    /// A client about to connect and a server that listens, over a network without faults and 1 ms away.
    pub(crate) fn new() -> Self {
        Self::with(&Config::default(), &Config::default(), Faults::default())
    }

    pub(crate) fn with(a: &Config, b: &Config, faults: Faults) -> Self {
        let now = Instant::ZERO + Duration::from_secs(100);
        let client = Tcp::connect(a, tuple(), ISS_A, 1_000, now);
        Self {
            now,
            a: End::new(Some(client), None),
            b: End::new(None, Some(Listener::new(b.clone()))),
            network: Network::new(faults),
            trace: Vec::new(),
            cookie: None,
            older: None,
            restore_every: None,
            steps: 0,
        }
    }

    /// Both ends call each other at once.
    pub(crate) fn simultaneous(config: &Config) -> Self {
        let mut pair = Self::with(config, config, Faults::default());
        let server = Tcp::connect(config, tuple().reversed(), ISS_B, 2_000, pair.now);
        pair.b = End::new(Some(server), None);
        pair
    }

    /// A pair that has shaken hands, with the trace emptied.
    pub(crate) fn established(a: &Config, b: &Config) -> Self {
        let mut pair = Self::with(a, b, Faults::default());
        pair.run_until(|pair| {
            pair.a.state() == State::Established && pair.b.state() == State::Established
        });
        pair.run_for(ms(500));
        pair.trace.clear();
        pair.a.events.clear();
        pair.b.events.clear();
        pair
    }

    pub(crate) fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }

    /// Applications act and everything that can be sent is sent, without time passing.
    pub(crate) fn settle(&mut self) {
        for side in [Side::A, Side::B] {
            let now = self.now;
            self.end(side).act(now);
            self.flush(side);
        }
    }

    /// Sends what one end has to send.
    pub(crate) fn flush(&mut self, side: Side) {
        let now = self.now;
        let mut sent = Vec::new();
        if let Some(tcp) = &mut self.end(side).tcp {
            while let Some(transmit) = tcp.poll_transmit(now) {
                let payload = transmit.payload.map(|payload| payload.clone());
                let len = payload.as_ref().map_or(0, Vec::len);
                assert_eq!(transmit.segment.payload_len, len);
                sent.push((transmit.segment, payload, transmit.retransmission));
                assert!(sent.len() < 10_000, "poll_transmit does not end");
            }
        }
        for (segment, payload, again) in sent {
            self.put(side, segment, payload, again);
        }
    }

    fn put(&mut self, from: Side, segment: Segment, payload: Option<Vec<u8>>, again: bool) {
        let mut trace = Trace {
            at: self.now,
            from,
            segment,
            retransmission: again,
            fate: Fate::Sent,
        };
        trace.fate = self.network.send(self.now, &trace, payload);
        self.trace.push(trace);
    }

    /// A turn: everything that can happen now, then time moves on to what happens next. False: nothing ever will.
    pub(crate) fn step(&mut self) -> bool {
        self.steps += 1;
        self.settle();
        self.maybe_restore();
        let Some(next) = self.next_moment() else {
            return false;
        };
        self.now = self.now.max(next);
        self.deliver();
        true
    }

    fn next_moment(&self) -> Option<Instant> {
        let timer = |end: &End| end.tcp.as_ref().and_then(Connection::next_timeout);
        let pacing = |end: &End| end.tcp.as_ref().and_then(Connection::next_send);
        [
            self.network.next(),
            timer(&self.a),
            timer(&self.b),
            pacing(&self.a),
            pacing(&self.b),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn deliver(&mut self) {
        let now = self.now;
        while let Some((to, segment, payload)) = self.network.arrived(now) {
            self.on_segment(to, &segment, payload);
        }
        for side in [Side::A, Side::B] {
            if let Some(tcp) = &mut self.end(side).tcp
                && tcp.next_timeout().is_some_and(|at| at <= now)
            {
                tcp.on_timeout(now);
            }
        }
    }

    /// Gives one end a segment, whoever made it.
    pub(crate) fn on_segment(&mut self, to: Side, segment: &Segment, payload: Option<Vec<u8>>) {
        let now = self.now;
        let (cookie, older) = (self.cookie, self.older);
        let end = self.end(to);
        let mut answer = None;
        match (&mut end.tcp, &end.listener) {
            (Some(tcp), _) if !tcp.is_closed() => {
                let disposition = tcp.on_segment(now, segment, payload);
                if disposition != Disposition::Accepted {
                    end.drops.push(disposition);
                }
            }
            (None, Some(listener)) => {
                let fast_open = fast_open_answer(segment, payload, cookie, older);
                let flow = tuple().reversed();
                match listener.on_fast_open(now, flow, segment, ISS_B, 2_000, fast_open) {
                    ListenOutcome::Connection(tcp) => end.tcp = Some(tcp),
                    ListenOutcome::Reset(reset) => answer = Some(reset),
                    ListenOutcome::Drop(reason) => end.drops.push(Disposition::Dropped(reason)),
                }
            }
            _ => answer = reset_for(segment),
        }
        if let Some(reset) = answer {
            self.put(to, reset, None, false);
        }
    }

    /// Runs until `done`; a story that never gets there fails.
    #[track_caller]
    pub(crate) fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        for _ in 0..2_000_000 {
            self.settle();
            if done(self) {
                return;
            }
            if !self.step() {
                break;
            }
        }
        self.settle();
        assert!(done(self), "the story ended otherwise:\n{}", self.story());
    }

    /// Lets `time` pass.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while self.next_moment().is_some_and(|next| next <= end) {
            self.step();
            self.settle();
        }
        self.now = end;
    }

    /// The trace in words, its last hundred lines.
    pub(crate) fn story(&self) -> String {
        let skip = self.trace.len().saturating_sub(100);
        let lines: Vec<String> = self.trace[skip..].iter().map(Trace::to_string).collect();
        format!(
            "a {:?}, b {:?}\n{}",
            self.a.state(),
            self.b.state(),
            lines.join("\n")
        )
    }

    fn maybe_restore(&mut self) {
        let Some(every) = self.restore_every else {
            return;
        };
        if !self.steps.is_multiple_of(every) {
            return;
        }
        let side = if (self.steps / every).is_multiple_of(2) {
            Side::A
        } else {
            Side::B
        };
        if let Some(tcp) = &mut self.end(side).tcp {
            *tcp = reborn(tcp);
        }
    }
}

/// What a server says that gives out `cookie`, and takes an older one still.
fn fast_open_answer(
    syn: &Segment,
    payload: Option<Vec<u8>>,
    cookie: Option<FastOpenCookie>,
    older: Option<FastOpenCookie>,
) -> FastOpenAnswer<Vec<u8>> {
    let (Some(shown), Some(_)) = (syn.options.fast_open, cookie) else {
        return FastOpenAnswer::Refuse;
    };
    let newest = FastOpen { cookie, ..shown };
    if shown == newest {
        FastOpenAnswer::Accept {
            payload,
            cookie: None,
        }
    } else if older.is_some() && shown.cookie == older {
        FastOpenAnswer::Accept {
            payload,
            cookie: Some(newest),
        }
    } else {
        FastOpenAnswer::Grant(newest)
    }
}

/// The connection, written down and read back; that must be the same connection.
pub(crate) fn reborn(tcp: &Tcp) -> Tcp {
    let mut bytes = Vec::new();
    tcp.snapshot(&mut bytes, |payload| payload);
    let copy = Tcp::restore(&bytes, |bytes| Some(bytes.to_vec())).expect("a snapshot restores");
    let mut again = Vec::new();
    copy.snapshot(&mut again, |payload| payload);
    assert!(
        bytes == again,
        "a restored connection writes another snapshot"
    );
    copy
}
