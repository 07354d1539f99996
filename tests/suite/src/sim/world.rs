//! A world: two hosts, the wire between them, and time.
//!
//! ```text
//!  next in time:  Turn(host, shard)   -> Shard::turn -> frames -> Tap -> Link -> Arrival, Completion
//!                 Arrival(host)       -> Demux -> RX ring -> Turn
//!                 Happening, Stranger -> faults
//! ```
//! Time goes from one happening to the next; a shard has turns only while it has work, when its timer comes, and when something
//! arrives. When nothing is left to happen, everything must have come to its end.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use bywash::seams::wire::{ChecksumPolicy, Decoded, decode};
use bywash::seams::{Received, VirtualQueue};
use bywash::{ConnId, Frame};

use super::book::{Book, SharedBook};
use super::dice::Dice;
use super::faults::{Faults, MS, SEC, US};
use super::happen::patience;
use super::host::{Host, Verdict};
use super::network::{Fate, Link, Parcel};
use super::packet;
use super::scenario::Scenario;
use super::stranger;
use super::tap::Tap;
use super::trace::{Trace, describe};

/// Time of a turn that did something, and between turns that wait for room in a ring.
const TURN: u64 = 5 * US;
const SPIN: u64 = 200 * US;
/// From an arrival to the turn that it wakes.
const WAKE: u64 = 8 * US;
/// A sleeping shard looks up this often by itself (the engine's `LONGEST_SLEEP`).
const LOOK_UP: u64 = 100 * MS;
/// In peace, what TCP alone would wait for for ever is ended by the applications after so long.
const GIVE_UP: u64 = 300 * SEC;
/// Turns that a world may take: far more than any needs.
const TURNS_MAX: u64 = 3_000_000;

pub(super) enum What {
    Turn {
        host: usize,
        shard: usize,
    },
    Arrival {
        host: usize,
        bytes: Box<[u8]>,
        genuine: bool,
    },
    Completion {
        host: usize,
        shard: usize,
        frame: Frame,
    },
    /// The kernel knows the path that the shard asked for.
    Path {
        host: usize,
        shard: usize,
    },
    Happening(usize),
    Birth(usize),
    /// The shards of a host that were told to stop must have ended; a new engine comes.
    Stopped(usize),
    Stranger(stranger::Kind),
    Peace,
    GiveUp,
}

struct Item {
    at: u64,
    order: u64,
    what: What,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Item {}
impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Item {
    /// The earliest is the greatest: `BinaryHeap` gives that first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// Frames that did not reach an RX ring, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// To nobody's address.
    pub nobody: u64,
    /// The host was dead.
    pub dead: u64,
    /// Not for a port of the engine, or not to be read.
    pub kernel: u64,
    /// No frame in the fill ring.
    pub no_frame: u64,
    /// The RX ring was full.
    pub ring_full: u64,
}

/// A running world.
pub struct World {
    pub(super) scenario: Scenario,
    pub(super) hosts: [Host; 2],
    pub(super) links: [Link; 2],
    pub(super) tap: Tap,
    pub(super) book: SharedBook,
    pub(super) trace: Trace,
    pub(super) now: u64,
    pub(super) turns: u64,
    pub(super) undelivered: Undelivered,
    /// Frames put into RX rings, by host, since it was born.
    pub(super) delivered: [u64; 2],
    pub(super) dice: Dice,
    pub(super) faults: Faults,
    items: BinaryHeap<Item>,
    order: u64,
    /// When each shard has its next turn.
    pub(super) next_turn: [Vec<u64>; 2],
    parcels: Vec<Parcel>,
    sabotage: Option<Sabotage>,
}

/// A fault that no wire has: it breaks a promise on purpose, so that a checker must notice. It changes the frames of a host.
pub enum Sabotage {
    /// What the watcher sees of them; the wire carries them unchanged.
    Watcher(Change),
    /// What the wire carries; the watcher sees what was sent.
    Wire(Change),
}

/// Changes a frame that this host has sent.
pub type Change = Box<dyn FnMut(usize, &mut Vec<u8>)>;

impl World {
    /// The world of a scenario, before its first moment.
    pub fn new(scenario: Scenario, tracing: bool) -> Self {
        let mut dice = Dice::new(scenario.seed ^ 0x0b1e_55ed);
        let book = Book::new(&scenario.plans, tracing);
        let faults = scenario.faults.clone();
        book.borrow_mut().cookies = [0, 1].map(|host| {
            let backlog = scenario.hosts[host].shard.backlog as usize;
            backlog < scenario.plans.len() || faults.stranger.syns > 0
        });
        book.borrow_mut().gives_up = [0, 1].map(|host| patience(&scenario.hosts[host].shard.tcp));
        let mtu = [0, 1].map(|host| scenario.hosts[host].shard.mtu);
        let slack = [0, 1].map(|host| {
            let faults = &scenario.faults.hosts[host];
            let looks_up = faults.lost_wakeup + faults.deaf > 0;
            faults.stolen_time + if looks_up { 2 * LOOK_UP } else { MS }
        });
        let deaf = [0, 1].map(|host| match scenario.faults.hosts[host].deaf {
            0 => 0,
            _ => 2 * LOOK_UP,
        });
        let mut world = Self {
            hosts: [Host::new(0, &scenario), Host::new(1, &scenario)],
            links: [0, 1].map(|host| Link::new(faults.links[host].clone(), dice.fork())),
            tap: Tap::new(book.clone(), mtu, slack, deaf),
            book,
            trace: Trace::new(tracing),
            now: 0,
            turns: 0,
            undelivered: Undelivered::default(),
            delivered: [0; 2],
            dice,
            items: BinaryHeap::new(),
            order: 0,
            next_turn: Default::default(),
            parcels: Vec::new(),
            sabotage: None,
            faults,
            scenario,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for host in 0..2 {
            self.boot(host);
        }
        for place in 0..self.faults.happenings.len() {
            let at = self.faults.happenings[place].0;
            self.push(at, What::Happening(place));
        }
        for kind in stranger::Kind::ALL {
            if kind.rate(&self.faults.stranger) > 0 {
                self.push(0, What::Stranger(kind));
            }
        }
        let peace = self.scenario.peace;
        self.push(peace, What::Peace);
        self.push(peace + GIVE_UP, What::GiveUp);
        self.push(peace + 3 * GIVE_UP, What::GiveUp);
    }

    pub(super) fn boot(&mut self, host: usize) {
        let mut dice = self.dice.fork();
        self.hosts[host].boot(&self.scenario, &self.book, &mut dice, self.now);
        self.delivered[host] = 0;
        self.next_turn[host] = vec![u64::MAX; self.hosts[host].shards.len()];
        for shard in 0..self.hosts[host].shards.len() {
            self.wake(host, shard, self.now);
            // The kernel's answer wakes its asker.
            let known_at = self.now + self.scenario.hosts[host].route_takes;
            self.push(known_at, What::Path { host, shard });
        }
    }

    pub(super) fn push(&mut self, at: u64, what: What) {
        self.order += 1;
        let order = self.order;
        self.items.push(Item { at, order, what });
    }

    pub(super) fn wake(&mut self, host: usize, shard: usize, at: u64) {
        if at < self.next_turn[host][shard] {
            self.next_turn[host][shard] = at;
            self.push(at, What::Turn { host, shard });
        }
    }

    /// Breaks promises, for a self-test.
    pub fn set_sabotage(&mut self, sabotage: Sabotage) {
        self.sabotage = Some(sabotage);
    }

    /// The device's end of a host's queue, for a self-test.
    pub fn queue(&self, host: usize, queue: usize) -> VirtualQueue {
        self.hosts[host].queues[queue].clone()
    }

    fn as_seen(&mut self, host: usize, bytes: &[u8]) -> Vec<u8> {
        let mut seen = bytes.to_vec();
        if let Some(Sabotage::Watcher(change)) = &mut self.sabotage {
            change(host, &mut seen);
        }
        seen
    }

    /// Runs until nothing is left to happen, something is found wrong, or `until` comes.
    pub fn run(&mut self, until: u64) {
        let end = (self.scenario.peace + self.scenario.patience).min(until);
        while let Some(item) = self.items.pop() {
            if item.at > end {
                self.items.push(item);
                self.now = end;
                return;
            }
            self.now = item.at;
            self.book.borrow_mut().now = item.at;
            self.happen(item.what);
            if self.turns > TURNS_MAX {
                self.fail("liveness: the shards turn and turn");
            }
            if !self.book.borrow().failures.is_empty() {
                return;
            }
        }
    }

    /// Bytes read so far by the server of each connection.
    ///
    /// # Panics
    /// If something was found wrong: then the world stands still.
    pub fn read(&self) -> Vec<u64> {
        let book = self.book.borrow();
        assert!(book.failures.is_empty(), "{:?}", book.failures);
        book.entries
            .iter()
            .map(|entry| entry.ends[1].read)
            .collect()
    }

    /// Whether nothing is left to happen.
    pub fn is_at_rest(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn fail(&self, what: impl std::fmt::Display) {
        self.book.borrow_mut().fail(what.to_string());
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Turn { host, shard } => {
                if self.next_turn[host].get(shard) == Some(&self.now) {
                    self.next_turn[host][shard] = u64::MAX;
                    self.turn(host, shard);
                }
            }
            What::Arrival {
                host,
                bytes,
                genuine,
            } => self.arrive(host, bytes, genuine),
            What::Completion { host, shard, frame } => {
                drop(frame);
                // Completions wake nobody.
                if shard < self.next_turn[host].len() {
                    self.wake(host, shard, self.now + LOOK_UP);
                }
            }
            What::Path { host, shard } => {
                if shard < self.next_turn[host].len() {
                    self.wake(host, shard, self.now);
                }
            }
            What::Happening(place) => self.fault(self.faults.happenings[place].1),
            What::Birth(host) => self.boot(host),
            What::Stopped(host) => self.stopped(host),
            What::Stranger(kind) => self.stranger(kind),
            What::Peace => self.make_peace(),
            What::GiveUp => self.give_up(),
        }
    }

    fn stranger(&mut self, kind: stranger::Kind) {
        let rate = kind.rate(&self.faults.stranger);
        if rate == 0 {
            return;
        }
        let book = self.book.borrow();
        let frame = stranger::frame(kind, &mut self.dice, &book, self.scenario.vlan);
        drop(book);
        if let Some((host, bytes)) = frame {
            self.arrive(host, bytes, false);
        }
        let gap = SEC / rate;
        let at = self.now + gap / 2 + self.dice.below(gap + 1);
        self.push(at, What::Stranger(kind));
    }

    fn arrive(&mut self, host: usize, bytes: Box<[u8]>, genuine: bool) {
        let alive = self.hosts[host].is_alive();
        let verdict = self.hosts[host].demux.borrow().verdict(&bytes);
        let (result, count) = match verdict {
            _ if !alive => ("dead", &mut self.undelivered.dead),
            Verdict::Kernel => ("kernel", &mut self.undelivered.kernel),
            Verdict::Ring(queue, ring) => {
                let received = self.hosts[host].queues[queue].receive(ring, bytes.clone());
                match received {
                    Received::Queued => {
                        self.delivered[host] += 1;
                        self.trace.add_frame(self.now, host as u64, &bytes);
                        if self.sabotage.is_none() {
                            self.tap.on_delivered(host, &bytes, genuine);
                        } else {
                            let seen = self.as_seen(1 - host, &bytes);
                            self.tap.on_delivered(host, &seen, genuine);
                        }
                        self.trace_arrival(host, &bytes, "");
                        return self.wake_for_arrival(host, queue);
                    }
                    Received::NoFrame => ("no frame", &mut self.undelivered.no_frame),
                    Received::RingFull => ("ring full", &mut self.undelivered.ring_full),
                    Received::Refused => ("refused", &mut self.undelivered.kernel),
                }
            }
        };
        *count += 1;
        self.trace_arrival(host, &bytes, result);
    }

    fn wake_for_arrival(&mut self, host: usize, queue: usize) {
        let lost = self.dice.chance(self.faults.hosts[host].lost_wakeup);
        let after = if lost { LOOK_UP } else { WAKE };
        self.wake(host, queue, self.now + after);
    }

    fn trace_arrival(&mut self, host: usize, bytes: &[u8], result: &str) {
        if self.trace.lines {
            let text = self.describe(bytes);
            self.trace.line(self.now, || {
                format!("    >{} {text} {result}", ["a", "b"][host])
            });
        }
    }

    fn describe(&self, bytes: &[u8]) -> String {
        match decode(bytes, ChecksumPolicy::Full) {
            Ok(decoded) => {
                let (own, peer) = self.tap.numbers(&decoded);
                describe(&decoded, own, peer)
            }
            Err(reason) => format!("{} bytes: {reason}", bytes.len()),
        }
    }

    fn turn(&mut self, host: usize, shard: usize) {
        self.turns += 1;
        let faults = self.faults.hosts[host].clone();
        self.hosts[host].set_clock(self.now);
        let deaf = self.dice.chance(faults.deaf);
        self.hosts[host].queues[shard].set_deaf(deaf);
        let report = self.hosts[host].shards[shard].turn();
        if self.trace.lines {
            for note in std::mem::take(&mut self.book.borrow_mut().notes) {
                self.trace.line(self.now, || format!("      {note}"));
            }
        }
        if self.dice.chance(faults.snapshot) {
            self.reincarnate(host, shard);
        }
        self.collect(host, shard);
        self.check(host, shard);
        let Host { shards, queues, .. } = &self.hosts[host];
        let mut at = if report.worked() {
            self.now + TURN
        } else if shards[shard].has_work() {
            self.now + SPIN
        } else {
            let next = shards[shard].next_wakeup();
            let next = next.map_or(u64::MAX, |at| self.hosts[host].world_time(at));
            // What a kick did not take waits for the next turn; so do completions.
            let waits = queues[shard].posted() > 0 || report.sent > 0;
            let look_up = if waits { self.now + LOOK_UP } else { u64::MAX };
            next.max(self.now + US).min(look_up)
        };
        if at < u64::MAX && self.dice.chance(faults.stolen) {
            at += self.dice.below(faults.stolen_time + 1);
        }
        if at < u64::MAX {
            self.wake(host, shard, at);
        }
        for other in 0..self.hosts[host].shards.len() {
            if other != shard && self.hosts[host].shards[other].has_work() {
                self.wake(host, other, self.now + WAKE);
            }
        }
    }

    /// A random connection of the shard becomes bytes, and a connection again.
    fn reincarnate(&mut self, host: usize, shard: usize) {
        let shard = &mut self.hosts[host].shards[shard];
        let connections: Vec<(u32, ConnId)> = shard.service().connections().collect();
        if connections.is_empty() {
            return;
        }
        let (number, conn) = self.dice.pick(&connections);
        let Some(bytes) = shard.snapshot(conn) else {
            return;
        };
        let restored = shard.restore(conn, &bytes);
        let again = shard.snapshot(conn);
        self.trace.line(self.now, || {
            format!(
                "      connection {number} from {} bytes: {restored:?}",
                bytes.len()
            )
        });
        use bywash::seams::tcp::SnapshotError;
        match restored {
            Ok(()) if again.as_ref() == Some(&bytes) => {}
            Err(SnapshotError::NoPayload) => {}
            other => self.fail(format!("snapshot: connection {number}: {other:?}")),
        }
    }

    /// Frames leave the shard.
    fn collect(&mut self, host: usize, shard: usize) {
        let faults = self.faults.hosts[host].clone();
        while let Some(frame) = self.hosts[host].queues[shard].transmitted() {
            self.emit(host, frame.bytes());
            if self.dice.chance(faults.late_completion) {
                let at = self.now + self.dice.below(faults.late_completion_by + 1);
                self.push(at, What::Completion { host, shard, frame });
            }
        }
    }

    fn emit(&mut self, host: usize, bytes: &[u8]) {
        self.trace.add_frame(self.now, 2 + host as u64, bytes);
        let decoded = match self.sabotage {
            None => self.tap.on_sent(host, bytes),
            Some(_) => {
                let seen = self.as_seen(host, bytes);
                self.tap.on_sent(host, &seen)
            }
        };
        let mut changed;
        let mut bytes = bytes;
        if let Some(Sabotage::Wire(change)) = &mut self.sabotage {
            changed = bytes.to_vec();
            change(host, &mut changed);
            bytes = &changed;
        }
        let to = decoded.as_ref().map(|decoded| decoded.tuple.local);
        let known = to.is_none_or(|to| super::host::addresses(1 - host).contains(&to));
        let fate = if known {
            let mut parcels = std::mem::take(&mut self.parcels);
            let fate = match self.hostile(host, bytes, decoded.as_ref()) {
                None => self.links[host].send(self.now, bytes, &mut parcels),
                Some(pieces) => pieces.iter().fold(Fate::Lost, |_, bytes| {
                    self.links[host].send(self.now, bytes, &mut parcels)
                }),
            };
            for parcel in parcels.drain(..) {
                let Parcel { at, bytes } = parcel;
                let (host, genuine) = (1 - host, true);
                self.push(
                    at,
                    What::Arrival {
                        host,
                        bytes,
                        genuine,
                    },
                );
            }
            self.parcels = parcels;
            Some(fate)
        } else {
            self.undelivered.nobody += 1;
            None
        };
        if fate == Some(Fate::TooBig)
            && let Some((mtu, true)) = self.links[host].mtu
            && let Some(bytes) = packet::too_big(bytes, mtu)
        {
            let at = self.now + self.links[host].transit();
            let genuine = false;
            self.push(
                at,
                What::Arrival {
                    host,
                    bytes,
                    genuine,
                },
            );
        }
        if self.trace.lines {
            let text = self.describe(bytes);
            let fate = fate.map_or("to nobody".into(), |fate| format!("{fate:?}"));
            let fate = if fate == "Sent" { String::new() } else { fate };
            self.trace.line(self.now, || {
                format!("{}>     {text} {fate}", ["a", "b"][host])
            });
        }
    }

    /// What becomes of a frame of a host that means ill.
    fn hostile(
        &mut self,
        host: usize,
        bytes: &[u8],
        decoded: Option<&Decoded>,
    ) -> Option<Vec<Box<[u8]>>> {
        let (_, how) = self.faults.hostile.filter(|(who, _)| *who == host)?;
        let pieces = how.rewrite(bytes, &mut self.dice);
        let changed = pieces.len() > 1 || *pieces[0] != *bytes;
        if changed && how.spoils() {
            let (from, to) = super::tap::ends(decoded?);
            let mut book = self.book.borrow_mut();
            if let Some((number, _)) = book.number_either(from, to) {
                book.excuse(number, super::book::HOSTILE);
            }
        }
        Some(pieces)
    }

    /// What must hold after every turn.
    fn check(&mut self, host: usize, shard: usize) {
        let umem = self.hosts[host].queues[shard].umem();
        let ledger = if self.turns.is_multiple_of(64) {
            umem.audit().map(|_| ())
        } else {
            umem.ledger().check()
        };
        if let Err(error) = ledger {
            self.fail(format!("ledger: {error}"));
        }
        let can_send = self.hosts[host].knows_paths()
            && self.hosts[host].queues[shard].posted() == 0
            && umem.tx_free() > 0
            && !self.hosts[host].shards[shard].has_work();
        for (number, side) in self.tap.take_fresh(host) {
            let member = &mut self.hosts[host].shards[shard];
            let info = member.with_context(|app, cx| {
                let conn = app.conn(number)?;
                cx.info(conn).ok()
            });
            match info {
                Some(info) => self.tap.after_data(number, side, &info, can_send),
                None => self.tap.put_back(host, number, side),
            }
        }
        self.tap.check_delays(host);
    }
}
