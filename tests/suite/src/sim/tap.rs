//! The watcher on the wire: it reads every frame that a host sends and every frame that reaches one, and holds the hosts to what
//! the RFCs say can be seen from outside.
//!
//! A rule here has a name, with which its failures begin; `tests/sim.rs` shows for each that it can fail. What a host may
//! know is what has reached it: the window it may fill is the farthest right edge among the segments delivered to it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use bywash::seams::tcp::{Info, State};
use bywash::seams::wire::{ChecksumPolicy, Decoded, DropReason, Flags, SeqNumber, decode};

use super::book::{Entry, SharedBook};
use super::faults::{MS, SEC};
use super::host::addresses;
use super::packet;
use super::pattern::Stream;

/// RFC 9293 3.8.6.3: an acknowledgment is delayed by less than half a second.
const ACK_DELAY_MAX: u64 = 500 * MS;
/// RFC 9293 3.8.3: a connection is given up after no less than 100 s of silence.
const R2: u64 = 100 * SEC;

/// What is known of one end of a flow.
#[derive(Clone, Debug, Default)]
struct Side {
    iss: Option<SeqNumber>,
    wscale: Option<u8>,
    mss: u16,
    timestamps: bool,
    sack: bool,
    /// Behind everything that it has sent.
    end: SeqNumber,
    fin: Option<SeqNumber>,
    /// The latest acknowledgment, timestamp and right edge that it has sent.
    acked: Option<SeqNumber>,
    ts_value: Option<u32>,
    offered: Option<SeqNumber>,
    /// The window of the peer's SYN, until there is a number that it counts from.
    syn_window: u16,
    /// The farthest right edge and the highest acknowledgment that have reached it.
    edge: Option<SeqNumber>,
    heard_ack: Option<SeqNumber>,
    /// Segments without SYN that have reached it; those with SACK blocks count twice.
    heard: u32,
}

/// One flow: its ends in the order of their addresses.
#[derive(Clone, Debug, Default)]
struct Flow {
    sides: [Side; 2],
    /// One SYN was answered twice, by a cookie and by a connection, or by a host and by its successor: nobody outside knows which
    /// answer will count.
    ambiguous: bool,
}

/// In-order data that an end has not acknowledged.
struct Owed {
    since: u64,
    /// Payload bytes in order.
    bytes: u64,
}

/// The watcher of one world.
pub struct Tap {
    book: SharedBook,
    flows: HashMap<(SocketAddr, SocketAddr), Flow>,
    owed: BTreeMap<(u32, usize), Owed>,
    /// Connection and side to which data has come since the host's last turn.
    fresh: [Vec<(u32, usize)>; 2],
    mtu: [u16; 2],
    /// How much later than it should a host may act, for faults of its own.
    slack: [u64; 2],
    /// How much later than posted a frame of the host may leave: its device may be deaf to kicks.
    deaf: [u64; 2],
    /// Bytes of payload seen, each time that they were sent.
    pub carried: u64,
}

fn key(a: SocketAddr, b: SocketAddr) -> ((SocketAddr, SocketAddr), usize) {
    if a < b { ((a, b), 0) } else { ((b, a), 1) }
}

impl Tap {
    /// A watcher of hosts with these MTUs.
    pub fn new(book: SharedBook, mtu: [u16; 2], slack: [u64; 2], deaf: [u64; 2]) -> Self {
        Self {
            book,
            flows: HashMap::new(),
            owed: BTreeMap::new(),
            fresh: Default::default(),
            mtu,
            slack,
            deaf,
            carried: 0,
        }
    }

    fn fail(&self, rule: &str, what: impl std::fmt::Display) {
        self.book.borrow_mut().fail(format!("{rule}: {what}"));
    }

    /// A host has sent a frame. Returns what it says.
    pub fn on_sent(&mut self, host: usize, frame: &[u8]) -> Option<Decoded> {
        let decoded = match decode(frame, ChecksumPolicy::Full) {
            Ok(decoded) => decoded,
            Err(reason) => {
                self.fail(
                    "well-formed",
                    format!("{} sent a frame: {reason}", name(host)),
                );
                return None;
            }
        };
        let mtu = usize::from(self.mtu[host]);
        if decoded.payload.end != frame.len() || packet::ip_len(frame) > mtu {
            self.fail("well-formed", format!("a frame of {} bytes", frame.len()));
        }
        let (from, to) = ends(&decoded);
        if !addresses(host).contains(&from.ip()) {
            self.fail("own address", format!("{} sent as {from}", name(host)));
        }
        self.carried += decoded.payload.len() as u64;
        let (key, me) = key(from, to);
        let mut flow = self.flows.remove(&key).unwrap_or_default();
        let segment = &decoded.segment;
        if segment.flags.contains(Flags::RST) {
            self.on_reset_sent(host, from, to);
        } else if segment.flags.contains(Flags::SYN) {
            let known = self.book.borrow().number_either(from, to);
            let twice = on_syn_sent(&mut flow, me, &decoded);
            if let Some((number, _)) = known.filter(|_| twice) {
                let mut book = self.book.borrow_mut();
                // Or by a host, and again by the host that has come in its place: then its end is excused already.
                flow.ambiguous |= book.excuse_cookie(number) || book.entry(number).excuse.is_some();
            }
        } else if flow.ambiguous {
            // Not to be judged.
        } else if flow.sides[me].iss.is_some() {
            let known = self.book.borrow().number_either(from, to);
            self.check_segment(&mut flow, me, &decoded);
            if let Some((number, side)) = known {
                self.check_content(number, side, &flow.sides[me], &decoded, frame);
                self.settle(number, side, &flow, me);
            }
        } else if flow.sides[1 - me].iss.is_none() {
            // Else it is what an old incarnation says to the SYN of a new one.
            self.fail("handshake first", format!("{from} sent {segment:?}"));
        }
        self.flows.insert(key, flow);
        Some(decoded)
    }

    /// RST only with a reason: the application broke the connection, or there is none.
    fn on_reset_sent(&mut self, host: usize, from: SocketAddr, to: SocketAddr) {
        let mut book = self.book.borrow_mut();
        let Some((number, side)) = book.number_either(from, to) else {
            return;
        };
        let book_now = book.now;
        let entry = book.entry(number);
        let end = &entry.ends[side];
        // In the turn in which it opens it may still answer what came before, as RFC 9293 3.10.7.3 demands.
        // So may what a kick without effect left in the TX ring then.
        let before = end.opened_at + self.deaf[host];
        let lives = end.open && end.closed.is_none() && before < book_now;
        let excused = entry.excuse.is_some();
        let is_cookie = side == 1 && book.excuse_cookie(number);
        let end = &book.entries[number as usize].ends[side];
        if lives && !excused && !is_cookie {
            let text = format!("reset with reason: {from} reset connection {number}: {end:?}");
            book.fail(text);
        }
    }

    fn check_segment(&self, flow: &mut Flow, me: usize, decoded: &Decoded) {
        let (from, _) = ends(decoded);
        let peer = flow.sides[1 - me].clone();
        let own = &mut flow.sides[me];
        let segment = &decoded.segment;
        let len = decoded.payload.len() as u32;
        let data_end = segment.seq + len;
        let fin = segment.flags.contains(Flags::FIN);
        if !segment.flags.contains(Flags::ACK) {
            self.fail("ACK everywhere", format!("{from} sent {segment:?}"));
        }
        // RFC 9293 3.8.6: nothing beyond the window that the peer has offered.
        let edge = own.edge.unwrap_or(own.end);
        if len > 0 && data_end.after(edge) {
            let beyond = data_end.distance_from(edge);
            self.fail("window", format!("{from} sent {beyond} bytes beyond it"));
        }
        self.check_initial_window(own, &peer, data_end, from);
        if segment.seq.after(own.end) {
            self.fail("no gap", format!("{from} skipped to {}", segment.seq.raw()));
        }
        match own.fin {
            Some(at) if (len > 0 && data_end.after(at)) || (fin && data_end != at) => {
                self.fail("nothing after FIN", format!("{from} sent {segment:?}"));
            }
            None if fin => own.fin = Some(data_end),
            _ => {}
        }
        let end = data_end + u32::from(fin);
        if end.after(own.end) {
            own.end = end;
        }
        // RFC 6691: options count against the peer's MSS.
        let size = segment.header_len() - 20 + len as usize;
        if peer.iss.is_some() && len > 0 && size > usize::from(peer.mss) {
            self.fail("MSS", format!("{from} sent {size} bytes of {}", peer.mss));
        }
        self.check_ack(own, &peer, decoded);
        self.check_options(own, &peer, decoded);
    }

    /// RFC 6928 2: before anything was acknowledged no more than ten segments.
    fn check_initial_window(&self, own: &Side, peer: &Side, end: SeqNumber, from: SocketAddr) {
        let Some(iss) = own.iss else { return };
        // Duplicate ACKs and SACK blocks let out more (RFC 3042, 6675).
        let answered = own.heard_ack.is_some_and(|ack| ack.after(iss + 1)) || own.heard > 1;
        if answered || peer.mss == 0 || own.mss == 0 {
            return;
        }
        let mss = i32::from(own.mss.min(peer.mss));
        let most = (10 * mss).min((2 * mss).max(14_600)) + mss;
        let flight = end.distance_from(iss + 1);
        if flight > most {
            self.fail("initial window", format!("{from} sent {flight} of {most}"));
        }
    }

    fn check_ack(&self, own: &mut Side, peer: &Side, decoded: &Decoded) {
        let (from, _) = ends(decoded);
        let segment = &decoded.segment;
        let ack = segment.ack;
        if peer.iss.is_some() && ack.after(peer.end) {
            let beyond = ack.distance_from(peer.end);
            self.fail(
                "ACK of what was sent",
                format!("{from} acknowledged {beyond} too many"),
            );
        }
        if own.acked.is_some_and(|before| ack.before(before)) {
            self.fail("ACK never goes back", format!("{from} sent {segment:?}"));
        }
        own.acked = Some(ack);
        let shift = shift(own, peer);
        let edge = ack + (u32::from(segment.window) << shift);
        // RFC 7323 2.4: a scaled window may seem to shrink by less than its unit.
        if let Some(before) = own.offered
            && before.distance_from(edge) >= 1 << shift
        {
            let by = before.distance_from(edge);
            self.fail(
                "window never shrinks",
                format!("{from} took {by} bytes back"),
            );
        }
        if own.offered.is_none_or(|before| edge.after(before)) {
            own.offered = Some(edge);
        }
    }

    fn check_options(&self, own: &mut Side, peer: &Side, decoded: &Decoded) {
        let (from, _) = ends(decoded);
        let options = &decoded.segment.options;
        if peer.iss.is_none() {
            return;
        }
        // RFC 7323 3.2: once agreed on, in every segment.
        let agreed = own.timestamps && peer.timestamps;
        if agreed != options.timestamps.is_some() {
            self.fail(
                "timestamps",
                format!("{from} sent {options:?}, agreed: {agreed}"),
            );
        }
        if let Some(timestamps) = options.timestamps {
            let value = timestamps.value;
            let before = own.ts_value.replace(value);
            if before.is_some_and(|before| (value.wrapping_sub(before) as i32) < 0) {
                self.fail("timestamps", format!("{from} went back to {value}"));
            }
        }
        let agreed = own.sack && peer.sack;
        if !agreed && !options.sack.is_empty() {
            self.fail(
                "SACK",
                format!("{from} sent blocks that were not agreed on"),
            );
        }
        for (place, (start, end)) in options.sack.iter().enumerate() {
            // RFC 2883 4: only the first block may report what is acknowledged already.
            let old = place > 0 && start.before(decoded.segment.ack);
            if !start.before(end) || end.after(peer.end) || old {
                self.fail("SACK", format!("{from} sent {:?}", options.sack));
            }
        }
    }

    /// What is sent is what was written, each time that it is sent.
    fn check_content(&self, number: u32, side: usize, own: &Side, sent: &Decoded, frame: &[u8]) {
        let Some(iss) = own.iss else { return };
        let offset = sent.segment.seq.distance_from(iss + 1);
        let payload = &frame[sent.payload.clone()];
        if payload.is_empty() {
            return;
        }
        let right = u64::try_from(offset).ok().is_some_and(|offset| {
            let stream = Stream::new(number, side);
            stream.first_difference(offset, payload).is_none()
        });
        if !right {
            let text = format!("connection {number}, side {side}, at {offset}");
            self.fail("content", text);
        }
    }

    /// A frame reaches a host. `genuine`: it is from the other host, as that has sent it.
    pub fn on_delivered(&mut self, host: usize, frame: &[u8], genuine: bool) {
        let Ok(decoded) = decode(frame, ChecksumPolicy::Full) else {
            return self.on_icmp_delivered(frame);
        };
        let (from, to) = ends(&decoded);
        let known = self.book.borrow().number_either(to, from);
        let segment = &decoded.segment;
        if segment.flags.contains(Flags::RST) {
            return self.book.borrow_mut().reset(to, from);
        }
        if !genuine {
            return;
        }
        let (key, me) = key(to, from);
        let flow = self.flows.entry(key).or_default();
        let peer = flow.sides[1 - me].clone();
        let own = &mut flow.sides[me];
        if segment.flags.contains(Flags::SYN) && !segment.flags.contains(Flags::ACK) {
            own.syn_window = segment.window;
        }
        if segment.flags.contains(Flags::ACK)
            && let Some(iss) = own.iss
            && segment.ack.at_or_after(iss)
            && segment.ack.at_or_before(own.end)
        {
            let is_syn = segment.flags.contains(Flags::SYN);
            let shift = if is_syn { 0 } else { shift(&peer, own) };
            let edge = segment.ack + (u32::from(segment.window) << shift);
            raise(&mut own.edge, edge);
            raise(&mut own.heard_ack, segment.ack);
            let has_sack = !segment.options.sack.is_empty();
            own.heard += u32::from(!is_syn) + u32::from(has_sack);
        }
        if let Some((number, side)) = known {
            let mut book = self.book.borrow_mut();
            let now = book.now;
            book.heard(number, side, now);
            if !decoded.payload.is_empty() && !self.fresh[host].contains(&(number, side)) {
                self.fresh[host].push((number, side));
            }
        }
    }

    /// "Packet too big" takes back what was sent, and so lets out more.
    fn on_icmp_delivered(&mut self, frame: &[u8]) {
        if let Some(quoted) = packet::quoted_flow(frame) {
            let here = SocketAddr::new(quoted.local, quoted.local_port);
            let there = SocketAddr::new(quoted.remote, quoted.remote_port);
            let (key, me) = key(here, there);
            if let Some(flow) = self.flows.get_mut(&key) {
                flow.sides[me].heard += 2;
            }
        }
    }

    /// Connections and sides to which data has come since this was last asked.
    pub fn take_fresh(&mut self, host: usize) -> Vec<(u32, usize)> {
        std::mem::take(&mut self.fresh[host])
    }

    /// The connection is another shard's.
    pub fn put_back(&mut self, host: usize, number: u32, side: usize) {
        let over = self.book.borrow_mut().entry(number).ends[side]
            .closed
            .is_some();
        if !over {
            self.fresh[host].push((number, side));
        }
    }

    /// A host has had its turn after data had come to this connection; `can_send`: its TX ring was open to it.
    pub fn after_data(&mut self, number: u32, side: usize, info: &Info, can_send: bool) {
        let Some(flow) = self.flow_of(number, side) else {
            return;
        };
        let (own, peer) = (&flow.0.sides[flow.1], &flow.0.sides[1 - flow.1]);
        let (Some(acked), Some(iss)) = (own.acked, peer.iss) else {
            return;
        };
        let acked = u64::from(acked.distance_from(iss + 1).max(0) as u32);
        let open = !matches!(
            info.state,
            State::Closed | State::SynSent | State::SynReceived
        );
        if info.bytes_in <= acked || !open || flow.0.ambiguous {
            return;
        }
        let timestamps = if own.timestamps && peer.timestamps {
            12
        } else {
            0
        };
        let full = u64::from(own.mss.min(peer.mss)).saturating_sub(timestamps);
        // RFC 9293 3.8.6.3: at least every second full-sized segment; here judged at the end of a turn.
        let behind = info.bytes_in - acked;
        if can_send && behind >= 2 * full {
            let text = format!("connection {number}, side {side}: {behind} bytes after a turn");
            self.fail("ACK every second segment", text);
        }
        let now = self.book.borrow().now;
        let owed = self.owed.entry((number, side));
        let owed = owed.or_insert(Owed {
            since: now,
            bytes: 0,
        });
        owed.bytes = info.bytes_in;
    }

    /// An acknowledgment has been sent.
    fn settle(&mut self, number: u32, side: usize, flow: &Flow, me: usize) {
        let (Some(acked), Some(iss)) = (flow.sides[me].acked, flow.sides[1 - me].iss) else {
            return;
        };
        let acked = acked.distance_from(iss + 1).max(0) as u64;
        if let Some(owed) = self.owed.get(&(number, side))
            && acked >= owed.bytes
        {
            self.owed.remove(&(number, side));
        }
    }

    /// Whether an acknowledgment is overdue at a host whose turn has just ended.
    pub fn check_delays(&mut self, host: usize) {
        let mut late = Vec::new();
        {
            let mut book = self.book.borrow_mut();
            let now = book.now;
            let limit = ACK_DELAY_MAX + self.slack[host];
            self.owed.retain(|(number, side), owed| {
                let Entry { plan, ends, .. } = book.entry(*number);
                let end = &ends[*side];
                let here = if *side == 0 {
                    plan.client
                } else {
                    1 - plan.client
                };
                let over = end.closed.is_some() || end.aborted || end.left;
                if here == host && !over && now > owed.since + limit {
                    late.push((*number, *side, now - owed.since));
                }
                !over
            });
        }
        for (number, side, by) in late {
            let text = format!("connection {number}, side {side}: {} ms", by / MS);
            self.fail("ACK within 500 ms", text);
        }
    }

    /// A host is gone: it owes nothing any more.
    pub fn forget(&mut self, host: usize) {
        self.fresh[host].clear();
        let mut book = self.book.borrow_mut();
        self.owed.retain(|(number, side), _| {
            let client = book.entry(*number).plan.client;
            (client == host) != (*side == 0)
        });
    }

    fn flow_of(&self, number: u32, side: usize) -> Option<(&Flow, usize)> {
        let (client, server) = self.book.borrow().addresses(number)?;
        let (here, there) = if side == 0 {
            (client, server)
        } else {
            (server, client)
        };
        let (key, me) = key(here, there);
        Some((self.flows.get(&key)?, me))
    }

    /// The initial sequence numbers of a segment's sender and receiver, for traces.
    pub fn numbers(&self, decoded: &Decoded) -> (SeqNumber, SeqNumber) {
        let (from, to) = ends(decoded);
        let (key, me) = key(from, to);
        let iss = |side: usize| {
            let flow = self.flows.get(&key);
            flow.and_then(|flow| flow.sides[side].iss)
                .unwrap_or_default()
        };
        (iss(me), iss(1 - me))
    }
}

/// How long a peer has been silent when a connection may be given up.
pub fn may_give_up(silent_for: u64) -> bool {
    silent_for >= R2
}

/// Drop reasons of frames that are not counted as segments.
pub fn is_of_decode(reason: &str) -> bool {
    let last = DropReason::PortZero.index();
    let known = DropReason::ALL.iter().take(last + 1);
    known.into_iter().any(|one| one.name() == reason) || reason.contains("icmp")
}

fn name(host: usize) -> &'static str {
    ["a", "b"][host]
}

/// Sender and receiver of a segment.
pub fn ends(decoded: &Decoded) -> (SocketAddr, SocketAddr) {
    let tuple = &decoded.tuple;
    (
        SocketAddr::new(tuple.remote, tuple.remote_port),
        SocketAddr::new(tuple.local, tuple.local_port),
    )
}

fn raise(edge: &mut Option<SeqNumber>, to: SeqNumber) {
    if edge.is_none_or(|before| to.after(before)) {
        *edge = Some(to);
    }
}

/// The shift of `own`'s windows: RFC 7323 2.2, only if both SYNs have the option.
fn shift(own: &Side, peer: &Side) -> u8 {
    match (own.wscale, peer.wscale) {
        (Some(shift), Some(_)) => shift,
        _ => 0,
    }
}

/// Whether it is another answer to a SYN that has been answered before.
fn on_syn_sent(flow: &mut Flow, me: usize, decoded: &Decoded) -> bool {
    let segment = &decoded.segment;
    if flow.sides[me].iss == Some(segment.seq) {
        return false;
    }
    let answers = segment.flags.contains(Flags::ACK);
    let other = &flow.sides[1 - me];
    // A simultaneous open (RFC 9293 3.5, figure 8): the peer has sent nothing but its SYN either. What that said counts still.
    let crosses = flow.sides[me].iss.is_none()
        && other.acked.is_none()
        && other.iss.is_some_and(|iss| other.end == iss + 1);
    if !answers && !crosses {
        // A new incarnation.
        *flow = Flow::default();
    }
    let twice = flow.sides[me].iss.is_some();
    // It answers a SYN that is not the peer's, but somebody's in its name: whom the two ends mean is not to be seen.
    let of_another = answers
        && flow.sides[1 - me]
            .iss
            .is_some_and(|iss| segment.ack != iss + 1);
    flow.ambiguous |= of_another;
    let syn_window = flow.sides[me].syn_window;
    let options = &segment.options;
    flow.sides[me] = Side {
        iss: Some(segment.seq),
        wscale: options.window_scale,
        mss: options.mss.unwrap_or(536),
        timestamps: options.timestamps.is_some(),
        sack: options.sack_permitted,
        end: segment.seq + 1,
        ts_value: options.timestamps.map(|one| one.value),
        acked: answers.then_some(segment.ack),
        offered: answers.then(|| segment.ack + u32::from(segment.window)),
        syn_window,
        edge: answers.then(|| segment.seq + 1 + u32::from(syn_window)),
        ..Side::default()
    };
    twice
}
