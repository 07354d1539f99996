//! The wire between the two hosts: what becomes of each frame.

use super::dice::Dice;
use super::faults::{LinkFaults, Loss, MS, US};
use super::packet::{self, ETHERNET};

/// Shortest distance between two frames of one link, ns: keeps their order where nothing reorders.
const NEXT: u64 = 1;

/// What the wire did to a frame, in the order of the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It goes on its way.
    Sent,
    /// Lost by chance.
    Lost,
    /// In an outage.
    Outage,
    /// The queue before the rate was full.
    QueueFull,
    /// Longer than the path takes.
    TooBig,
}

/// A frame on its way.
pub struct Parcel {
    /// World time of arrival.
    pub at: u64,
    /// What arrives.
    pub bytes: Box<[u8]>,
}

/// One direction.
pub struct Link {
    /// What goes wrong on it.
    pub faults: LinkFaults,
    /// Bytes of IP packet that pass, and whether the router tells.
    pub mtu: Option<(u16, bool)>,
    /// Until then nothing passes.
    pub down_until: u64,
    dice: Dice,
    bad: bool,
    /// When the last frame accepted will have left.
    busy_until: u64,
    /// Departures of the frames that wait for the rate.
    waiting: std::collections::VecDeque<u64>,
    /// Arrival of the last frame in order.
    last: u64,
    /// Frames by fate, and frames marked, doubled, held up, damaged, cut.
    pub fates: [u64; 5],
    /// See `fates`.
    pub changed: [u64; 5],
}

impl Link {
    /// A link.
    pub fn new(faults: LinkFaults, dice: Dice) -> Self {
        Self {
            faults,
            mtu: None,
            down_until: 0,
            dice,
            bad: false,
            busy_until: 0,
            waiting: Default::default(),
            last: 0,
            fates: [0; 5],
            changed: [0; 5],
        }
    }

    /// A frame enters. What arrives of it, and when, goes into `out`.
    pub fn send(&mut self, now: u64, frame: &[u8], out: &mut Vec<Parcel>) -> Fate {
        let fate = self.judge(now, frame);
        self.fates[fate as usize] += 1;
        if fate != Fate::Sent {
            return fate;
        }
        let mut bytes: Box<[u8]> = frame.into();
        let departure = self.depart(now, &mut bytes);
        let jitter = self.dice.below(self.faults.jitter + 1);
        let mut at = departure + self.faults.delay + jitter;
        if self.dice.chance(self.faults.reordering) {
            self.changed[2] += 1;
            at += self.dice.below(self.faults.reordering_by + 1);
        } else {
            at = at.max(self.last + NEXT);
            self.last = at;
        }
        if self.dice.chance(self.faults.duplication) {
            self.changed[1] += 1;
            let at = at + self.dice.below(self.faults.delay.max(US));
            let bytes = bytes.clone();
            out.push(Parcel { at, bytes });
        }
        self.damage(&mut bytes);
        out.push(Parcel { at, bytes });
        fate
    }

    fn judge(&mut self, now: u64, frame: &[u8]) -> Fate {
        if now < self.down_until {
            return Fate::Outage;
        }
        if self.is_lost() {
            return Fate::Lost;
        }
        if self
            .mtu
            .is_some_and(|(mtu, _)| packet::ip_len(frame) > mtu.into())
        {
            return Fate::TooBig;
        }
        while self.waiting.front().is_some_and(|leaves| *leaves <= now) {
            self.waiting.pop_front();
        }
        if self.waiting.len() >= self.faults.queue {
            return Fate::QueueFull;
        }
        Fate::Sent
    }

    fn is_lost(&mut self) -> bool {
        match self.faults.loss {
            Loss::None => false,
            Loss::Uniform(lost) => self.dice.chance(lost),
            Loss::Bursty {
                worse,
                better,
                lost,
            } => {
                let change = if self.bad { better } else { worse };
                self.bad ^= self.dice.chance(change);
                self.bad && self.dice.chance(lost)
            }
        }
    }

    /// Waits for the rate; a frame that has many before it is marked.
    fn depart(&mut self, now: u64, bytes: &mut [u8]) -> u64 {
        if self.faults.rate == 0 {
            return now;
        }
        if self.waiting.len() >= self.faults.mark_at && packet::mark(bytes) {
            self.changed[0] += 1;
        }
        // 24 bytes of preamble, check sequence and gap come with each frame.
        let bits = (bytes.len() as u64 + 24) * 8;
        let takes = bits * 1_000_000_000 / self.faults.rate;
        self.busy_until = self.busy_until.max(now) + takes;
        self.waiting.push_back(self.busy_until);
        self.busy_until
    }

    fn damage(&mut self, bytes: &mut Box<[u8]>) {
        if self.dice.chance(self.faults.corruption) {
            let bit = self.dice.below((bytes.len() - ETHERNET) as u64 * 8) as usize;
            bytes[ETHERNET + bit / 8] ^= 1 << (bit % 8);
            self.changed[3] += 1;
        }
        if self.dice.chance(self.faults.truncation) {
            let len = self.dice.between(1, bytes.len() as u64 - 1) as usize;
            *bytes = bytes[..len].into();
            self.changed[4] += 1;
        }
    }

    /// From now on it only takes its time.
    pub fn make_peace(&mut self) {
        self.faults = self.faults.at_peace();
        self.mtu = None;
        self.down_until = 0;
    }

    /// The longest that a frame without bad luck takes, queue included.
    pub fn transit(&self) -> u64 {
        self.faults.delay + self.faults.jitter + MS
    }
}
