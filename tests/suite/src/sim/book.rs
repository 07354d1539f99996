//! The oracle: what the applications of a world have written, read and been told, and whether that is right.
//!
//! All services of a world share one [`Book`]. It knows no TCP: bytes that come out must be those that went in, in order, at
//! most once; the end comes exactly behind the last; a connection that nobody broke ends in order at both ends.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;

use bywash::CloseReason;

use super::faults::{MS, SEC};
use super::pattern::Stream;
use super::plan::Plan;
use super::tap::may_give_up;

/// An excuse: see [`Hostility::spoils`](super::faults::Hostility::spoils).
pub const HOSTILE: &str = "its peer was hostile";

/// Neither keep-alive nor a user time-out: see [`Book::gives_up`].
const PATIENT: (u64, u64) = (u64::MAX, u64::MAX);

/// The book, shared by the services and the checkers of one world, which is one thread's.
pub type SharedBook = Rc<RefCell<Book>>;

/// What one end of a connection has seen and done.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// Bytes that `send` has taken.
    pub written: u64,
    /// `shutdown` or `close` was called.
    pub shut: bool,
    /// `close` was called: what still comes is not read.
    pub left: bool,
    /// `abort` was called.
    pub aborted: bool,
    /// Bytes read.
    pub read: u64,
    /// The peer's end was read.
    pub saw_end: bool,
    /// It was connected or accepted.
    pub open: bool,
    /// World time of that.
    pub opened_at: u64,
    /// World time at which the peer was last heard.
    pub heard_at: u64,
    /// The `Closed` event.
    pub closed: Option<CloseReason>,
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What was intended.
    pub plan: Plan,
    /// The client's `connect` was called.
    pub started: bool,
    /// The client's end and the server's.
    pub ends: [End; 2],
    /// Why it need not come to a good end, if it need not.
    pub excuse: Option<&'static str>,
}

/// All connections of a world, and what was found wrong.
pub struct Book {
    /// By number.
    pub entries: Vec<Entry>,
    /// (client, server) to the number of the latest connection between them.
    by_address: HashMap<(SocketAddr, SocketAddr), u32>,
    /// Addresses by number.
    addresses: HashMap<u32, (SocketAddr, SocketAddr)>,
    /// Connections and sides that a RST has reached.
    pub resets: HashSet<(u32, usize)>,
    /// Here and there of RSTs for connections not registered yet.
    early_resets: HashSet<(SocketAddr, SocketAddr)>,
    /// Host `h` may answer a SYN by a cookie, of which it remembers nothing: if what follows is lost or out of order, so is
    /// the connection (RFC 4987 3.6).
    pub cookies: [bool; 2],
    /// By how much the clocks of the hosts have leapt in all.
    pub leaps: u64,
    /// Some host's clock has leapt by so much that TIME-WAIT may have been cut short.
    pub leapt: bool,
    /// The host's shards are on their way to their end.
    pub stopping: [bool; 2],
    /// After how much silence, and after how long a wait for an acknowledgment, a host may give a connection up although RFC 9293
    /// would wait longer: keep-alive and user time-out. `u64::MAX`: not at all.
    pub gives_up: [(u64, u64); 2],
    /// World time.
    pub now: u64,
    /// What was found wrong, in order.
    pub failures: Vec<String>,
    /// Bytes read at their right place.
    pub verified: u64,
    /// Whether events of applications go to the trace as well.
    pub tracing: bool,
    /// Lines for the trace.
    pub notes: Vec<String>,
}

impl Book {
    /// A book of these plans.
    pub fn new(plans: &[Plan], tracing: bool) -> SharedBook {
        let entries = plans.iter().map(|plan| Entry {
            plan: plan.clone(),
            started: false,
            ends: Default::default(),
            excuse: None,
        });
        Rc::new(RefCell::new(Self {
            entries: entries.collect(),
            by_address: HashMap::new(),
            addresses: HashMap::new(),
            resets: HashSet::new(),
            early_resets: HashSet::new(),
            leaps: 0,
            leapt: false,
            cookies: [false; 2],
            stopping: [false; 2],
            gives_up: [PATIENT; 2],
            now: 0,
            failures: Vec::new(),
            verified: 0,
            tracing,
            notes: Vec::new(),
        }))
    }

    /// Something is wrong.
    pub fn fail(&mut self, what: String) {
        let seconds = self.now as f64 / 1e9;
        self.failures.push(format!("{seconds:.6} s: {what}"));
    }

    /// A line for the trace.
    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if self.tracing {
            self.notes.push(what());
        }
    }

    /// The addresses of a connection are known.
    pub fn register(&mut self, number: u32, client: SocketAddr, server: SocketAddr) {
        self.by_address.insert((client, server), number);
        self.addresses.insert(number, (client, server));
        if self.early_resets.remove(&(client, server)) {
            self.resets.insert((number, 0));
        }
        let now = self.now;
        self.heard(number, 0, now);
    }

    /// (client, server) of a connection, once they are known.
    pub fn addresses(&self, number: u32) -> Option<(SocketAddr, SocketAddr)> {
        self.addresses.get(&number).copied()
    }

    /// Something of the peer has reached this end.
    pub fn heard(&mut self, number: u32, side: usize, now: u64) {
        self.entry(number).ends[side].heard_at = now;
    }

    /// The latest connection between these.
    pub fn number(&self, client: SocketAddr, server: SocketAddr) -> Option<u32> {
        self.by_address.get(&(client, server)).copied()
    }

    /// The connection with one end here and the other there, and which side `here` is.
    pub fn number_either(&self, here: SocketAddr, there: SocketAddr) -> Option<(u32, usize)> {
        let as_client = self.number(here, there).map(|number| (number, 0));
        as_client.or_else(|| self.number(there, here).map(|number| (number, 1)))
    }

    /// An entry.
    pub fn entry(&mut self, number: u32) -> &mut Entry {
        &mut self.entries[number as usize]
    }

    /// Whether a connection may end otherwise than in order.
    pub fn excuse(&mut self, number: u32, why: &'static str) {
        let entry = self.entry(number);
        if entry.excuse.is_none() {
            entry.excuse = Some(why);
        }
    }

    /// `bytes` were read at one end.
    pub fn read(&mut self, number: u32, side: usize, bytes: &[u8]) {
        let entry = &self.entries[number as usize];
        let (at, written) = (entry.ends[side].read, entry.ends[1 - side].written);
        let wrong = Stream::new(number, 1 - side).first_difference(at, bytes);
        let reader = ["client", "server"][side];
        if let Some(place) = wrong {
            let place = at + place as u64;
            self.fail(format!(
                "stream integrity: connection {number}, the {reader} read a wrong byte at {place}"
            ));
        } else if at + bytes.len() as u64 > written {
            self.fail(format!(
                "stream integrity: connection {number}, the {reader} read beyond the {written} bytes written"
            ));
        } else if entry.ends[side].saw_end {
            self.fail(format!(
                "stream integrity: connection {number}, the {reader} read behind the end"
            ));
        }
        self.verified += bytes.len() as u64;
        self.entry(number).ends[side].read += bytes.len() as u64;
    }

    /// The end of the stream was read.
    pub fn end(&mut self, number: u32, side: usize) {
        let entry = &self.entries[number as usize];
        let (own, peer) = (&entry.ends[side], &entry.ends[1 - side]);
        if !peer.shut || own.read != peer.written {
            let text = format!(
                "stream integrity: connection {number}, side {side} read the end after {} of {} bytes, shut: {}",
                own.read, peer.written, peer.shut
            );
            self.fail(text);
        }
        self.entry(number).ends[side].saw_end = true;
    }

    /// The connection has ended here.
    pub fn closed(&mut self, number: u32, side: usize, reason: CloseReason) {
        let now = self.now;
        self.entry(number).ends[side].closed = Some(reason);
        let entry = &self.entries[number as usize];
        let (own, peer) = (&entry.ends[side], &entry.ends[1 - side]);
        let excused = entry.excuse.is_some();
        // The end of the stream need not have been looked at, if everything before it was read.
        let complete = own.read == peer.written && peer.shut && own.shut;
        // A client's port may be used again, and is not known before its path is: then nobody saw for whom a RST was.
        let addresses = self.addresses(number);
        let is_seen = addresses.is_some_and(|(a, b)| self.number(a, b) == Some(number));
        let was_reset = !is_seen || self.resets.contains(&(number, side));
        // The client has taken the port of its TIME-WAIT for a new connection, as RFC 6191 allows after a second. If it has lost
        // each acknowledgment of our FIN until then, our answer to its SYN is answered by RST (RFC 9293 3.5.1, figure 9): not
        // to be told from here from a peer that has lost data. So it is right only if the peer has read all that we wrote; that it
        // has our FIN too, its own good end says.
        let is_taken = addresses.is_some_and(|(a, b)| self.number(a, b) != Some(number));
        let delivered = peer.read == own.written && complete;
        // A TIME-WAIT cut short by a leap of the clock leaves nobody to acknowledge a FIN that comes again; what was received
        // and not read goes with the reset.
        let cut_short = self.leapt || is_taken && side == 1 && delivered;
        let cut_short = cut_short && own.shut && peer.closed == Some(CloseReason::Finished);
        let silent_for = now - own.heard_at;
        let host = if side == 0 {
            entry.plan.client
        } else {
            1 - entry.plan.client
        };
        let (silence, wait) = self.gives_up[host];
        let open_for = now - own.opened_at + self.leaps;
        // A duplicate proves a peer alive, but is not counted as heard by TCP (nor by Linux's): so how long it was open counts.
        let gave_up = !own.open || open_for >= silence.min(wait);
        let gave_up = gave_up && self.gives_up[host] != PATIENT;
        // So may the peer have done with what it had not accepted yet.
        let half_open = !peer.open && self.gives_up[1 - host] != PATIENT;
        // Behind a window that stays closed, what nobody waits for any more goes after eight probes (Linux's `tcp_orphan_retries`).
        let orphaned = own.shut && open_for >= 50 * SEC;
        let right = match reason {
            CloseReason::Finished => complete || own.left || excused,
            CloseReason::Aborted => own.aborted || own.left || self.stopping[host] || orphaned,
            CloseReason::Refused => was_reset && (entry.plan.nobody || excused),
            CloseReason::Reset => was_reset && (excused || cut_short || half_open),
            CloseReason::Unreachable => false,
            // A victim of optimistic ACKs is answered, but never with what it waits for.
            CloseReason::TimedOut => {
                self.leapt || may_give_up(silent_for) || gave_up || entry.excuse == Some(HOSTILE)
            }
        };
        if !right {
            let text = format!(
                "ends with reason: connection {number}, side {side}: \"{reason}\" after {} ms of silence; {own:?}, peer {peer:?}",
                silent_for / MS
            );
            self.fail(text);
        }
        if reason == CloseReason::Reset && half_open {
            self.excuse(number, "its peer gave up the handshake");
        }
        if reason == CloseReason::Reset && cut_short && !complete {
            self.excuse(number, "TIME-WAIT was cut short");
        }
        if reason == CloseReason::Aborted && orphaned {
            self.excuse(number, "its peer kept its window closed");
        }
        if reason == CloseReason::TimedOut {
            self.excuse(number, "it timed out");
        }
    }

    /// A host has gone with all that it knew: what it had open need not come to a good end, nor what waits for it.
    pub fn died(&mut self, host: usize) {
        for entry in &mut self.entries {
            if !entry.started || entry.ends[0].closed.is_some() && entry.ends[1].closed.is_some() {
                continue;
            }
            let why = "a host died";
            entry.excuse.get_or_insert(why);
            let side = usize::from(entry.plan.client != host);
            let end = &mut entry.ends[side];
            // Its service will not hear of it any more.
            end.closed.get_or_insert(CloseReason::Aborted);
        }
    }

    /// A host's shards have been told to stop: they close what they have.
    pub fn stopped(&mut self, host: usize) {
        self.stopping[host] = true;
        for entry in &mut self.entries {
            let over = entry.ends.iter().all(|end| end.closed.is_some());
            if entry.started && !over {
                entry.excuse.get_or_insert("its shard was stopped");
                // The engine closes it in the application's stead.
                entry.ends[usize::from(entry.plan.client != host)].shut = true;
            }
        }
    }

    /// A connection that a SYN cookie may have cost; `false`: no cookie can have to do with it.
    pub fn excuse_cookie(&mut self, number: u32) -> bool {
        let now = self.now;
        let entry = &self.entries[number as usize];
        let end = &entry.ends[1];
        let may_be = self.cookies[1 - entry.plan.client] && (!end.open || end.opened_at == now);
        if may_be {
            self.excuse(number, "a SYN cookie was lost");
        }
        may_be
    }

    /// A connection whose server gave the handshake up, all that the client sent being lost, while the client has nothing to say
    /// before it is spoken to. A user time-out ends an end without a word (RFC 9293 3.8.3), so this is what keep-alive is for: a
    /// client that sent anything would be answered by RST, and is not excused.
    pub fn excuse_half_open(&mut self, number: u32) -> bool {
        let entry = &self.entries[number as usize];
        let (client, server) = (&entry.ends[0], &entry.ends[1]);
        let server_gave_up = !server.open && self.gives_up[1 - entry.plan.client].1 != u64::MAX;
        let silent = client.open && client.written == 0 && !client.shut;
        let may_be = server_gave_up && silent;
        if may_be {
            self.excuse(number, "the server gave up the handshake");
        }
        may_be
    }

    /// It had no port and never began; it will be tried again. What a stopping host was to do for it is not done.
    pub fn not_started(&mut self, number: u32) {
        let entry = self.entry(number);
        entry.started = false;
        entry.ends = Default::default();
    }

    /// A RST reaches `here`. Whoever connects may not know its port yet when the answer is there already, for the program hears
    /// of it in the turn that brings the RST too.
    pub fn reset(&mut self, here: SocketAddr, there: SocketAddr) {
        match self.number_either(here, there) {
            Some(end) => self.resets.insert(end),
            None => self.early_resets.insert((here, there)),
        };
    }

    /// A host accepts no more connections.
    pub fn unlisten(&mut self, host: usize) {
        for entry in &mut self.entries {
            if entry.plan.client != host && !entry.ends[1].open {
                entry.excuse.get_or_insert("nobody listens any more");
            }
        }
    }

    /// Whether nothing of this connection is still to come.
    pub fn is_over(&self, number: u32) -> bool {
        let entry = &self.entries[number as usize];
        if !entry.started {
            return false;
        }
        let here = |end: &End| end.closed.is_some() || !end.open;
        let opener = |side: usize| side == 0 || entry.plan.both;
        (0..2).all(|side| {
            let end = &entry.ends[side];
            here(end) && (end.closed.is_some() || !opener(side))
        })
    }

    /// Numbers of the connections that are not over.
    pub fn pending(&self) -> Vec<u32> {
        let all = 0..self.entries.len() as u32;
        all.filter(|number| !self.is_over(*number)).collect()
    }

    /// Every connection that nobody broke has carried what it was to carry.
    pub fn judge(&mut self) {
        let mut wrong = Vec::new();
        for (number, entry) in self.entries.iter().enumerate() {
            if entry.excuse.is_some() || entry.plan.nobody {
                continue;
            }
            for side in 0..2 {
                let (own, peer) = (&entry.ends[side], &entry.ends[1 - side]);
                let total = entry.plan.ends[1 - side].total();
                // Whoever reads slowly may hear of the end of the connection before it looks for that of the stream.
                let slow = entry.plan.ends[side].read > 0 || entry.plan.ends[side].stall.is_some();
                let ended = own.saw_end || slow;
                if own.read != total || peer.written != total || !peer.shut || !ended {
                    wrong.push(format!(
                        "connection {number}: side {side} got {} of {total} bytes, end seen: {}",
                        own.read, own.saw_end
                    ));
                }
            }
        }
        for text in wrong {
            self.fail(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's end is over and its port is taken again; the server, which has sent `written` bytes, is reset by that.
    fn taken_from_time_wait(read: u64, written: u64) -> Vec<String> {
        let plans = [Plan::bulk(0, written), Plan::bulk(0, written)];
        let book = Book::new(&plans, false);
        let mut book = book.borrow_mut();
        let [client, server] =
            ["10.0.0.1:61440", "10.0.0.2:7000"].map(|at| at.parse().expect("an address"));
        for number in 0..2 {
            book.entry(number).started = true;
            book.register(number, client, server);
            if number == 0 {
                for end in &mut book.entry(0).ends {
                    (end.open, end.shut) = (true, true);
                }
                book.entry(0).ends[1].written = written;
                // It sleeps, and so has not looked at the end of the stream.
                book.entry(0).ends[0].read = read;
                book.closed(0, 0, CloseReason::Finished);
                book.reset(server, client);
            }
        }
        book.entry(0).ends[0].closed = Some(CloseReason::Finished);
        book.closed(0, 1, CloseReason::Reset);
        book.failures.clone()
    }

    #[test]
    fn a_port_taken_from_time_wait_resets_nobody_but_whose_bytes_are_read() {
        assert_eq!(taken_from_time_wait(0, 0), Vec::<String>::new());
        assert_eq!(taken_from_time_wait(3, 3), Vec::<String>::new());
        let failures = taken_from_time_wait(2, 3);
        assert!(
            failures
                .iter()
                .any(|text| text.contains("side 1: \"reset by the peer\"")),
            "{failures:?}"
        );
    }
}
