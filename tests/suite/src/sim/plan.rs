//! What the applications of a world intend: one [`Plan`] a connection, one [`EndPlan`] each end.

use super::dice::Dice;
use super::faults::{MS, SEC, US};

/// One connection, from the `connect` to the end of both streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Host that connects; the other one listens.
    pub client: usize,
    /// Which of the client's shards does.
    pub shard: usize,
    /// World time of the `connect`.
    pub start: u64,
    /// Over IPv6.
    pub v6: bool,
    /// A port where nobody listens: it must be refused.
    pub nobody: bool,
    /// Both ends connect, each to the other's local port: a simultaneous open (RFC 9293 3.5).
    pub both: bool,
    /// The client's end and the server's.
    pub ends: [EndPlan; 2],
}

/// What one end does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndPlan {
    /// (bytes received, bytes that may have been sent by then), both growing: one entry is a bulk transfer, more are
    /// requests and responses.
    pub gates: Vec<(u64, u64)>,
    /// Bytes of one call of `send`.
    pub write: usize,
    /// Between two calls of `send`; 0: as fast as it goes.
    pub write_every: u64,
    /// Bytes read at a time, every so often; 0: everything at once.
    pub read: usize,
    /// See `read`.
    pub read_every: u64,
    /// (bytes received, time): here the reader sleeps once.
    pub stall: Option<(u64, u64)>,
    /// Frames that the application keeps before it gives the oldest back.
    pub hold: usize,
    /// How the end ends.
    pub ending: Ending,
}

/// How an end of a connection ends its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// `shutdown` when everything is sent: a half-close if the other end goes on, a simultaneous close if it does the same.
    Shutdown,
    /// `close` when everything is sent and the peer has ended.
    AfterPeer,
    /// `abort` once so much was received.
    Abort(u64),
    /// `close` once so much was received, whatever else may come.
    Leave(u64),
}

impl EndPlan {
    fn sending(gates: Vec<(u64, u64)>) -> Self {
        Self {
            gates,
            write: 16_384,
            write_every: 0,
            read: 0,
            read_every: 0,
            stall: None,
            hold: 0,
            ending: Ending::Shutdown,
        }
    }

    /// Bytes that it sends in all, if it comes to that.
    pub fn total(&self) -> u64 {
        self.gates.last().map_or(0, |gate| gate.1)
    }

    /// Whether it ends the connection before the streams have ended.
    pub fn breaks(&self) -> bool {
        matches!(self.ending, Ending::Abort(_) | Ending::Leave(_))
    }
}

impl Plan {
    /// A transfer of `up` bytes to the server and `down` bytes back, both at once.
    pub fn bulk(up: u64, down: u64) -> Self {
        Self {
            client: 0,
            shard: 0,
            start: 0,
            v6: false,
            nobody: false,
            both: false,
            ends: [
                EndPlan::sending(vec![(0, up)]),
                EndPlan::sending(vec![(0, down)]),
            ],
        }
    }

    /// `rounds` requests, each answered before the next.
    pub fn rounds(rounds: u64, request: u64, response: u64) -> Self {
        let mut plan = Self::bulk(0, 0);
        plan.ends[0].gates = (0..rounds)
            .map(|i| (i * response, (i + 1) * request))
            .collect();
        plan.ends[1].gates = (0..rounds)
            .map(|i| ((i + 1) * request, (i + 1) * response))
            .collect();
        plan
    }

    /// A connection by chance; `bytes` bounds what it carries.
    pub fn random(dice: &mut Dice, shards: [usize; 2], bytes: u64, v6: bool) -> Self {
        let mut plan = match dice.below(10) {
            0..=2 => Self::bulk(dice.magnitude(1, bytes), 0),
            3 => Self::bulk(0, dice.magnitude(1, bytes)),
            4..=5 => Self::bulk(dice.magnitude(1, bytes), dice.magnitude(1, bytes)),
            6..=7 => {
                let rounds = dice.between(1, 12);
                let each = (bytes / rounds / 2).max(1);
                Self::rounds(rounds, dice.magnitude(1, each), dice.magnitude(1, each))
            }
            8 => {
                // The server answers after the client's FIN only: a half-close.
                let up = dice.magnitude(1, bytes);
                let mut plan = Self::bulk(up, 0);
                plan.ends[1].gates = vec![(up, dice.magnitude(1, bytes))];
                plan
            }
            _ => Self::bulk(0, 0),
        };
        plan.client = dice.below(2) as usize;
        plan.shard = dice.below(shards[plan.client] as u64) as usize;
        plan.v6 = v6;
        plan.nobody = dice.one_in(60);
        for side in 0..2 {
            let received = plan.ends[1 - side].total();
            plan.ends[side].vary(dice, received);
        }
        // Two ends that each wait for the other's FIN would wait for ever.
        if plan.ends.iter().all(|end| end.ending == Ending::AfterPeer) {
            plan.ends[dice.below(2) as usize].ending = Ending::Shutdown;
        }
        plan
    }
}

impl EndPlan {
    fn vary(&mut self, dice: &mut Dice, received: u64) {
        self.write = dice.pick(&[1 << 16, 1 << 16, 16_384, 4_000, 1_460, 500]);
        // At most a few hundred calls an end: a world is small.
        self.write = self.write.max((self.total() / 200) as usize);
        if dice.one_in(8) {
            self.write = self.write.min((self.total() / 40) as usize + 1);
            self.write_every = dice.magnitude(100 * US, 50 * MS);
        }
        if dice.one_in(8) {
            self.read = (received / 40) as usize + 1;
            self.read_every = dice.magnitude(100 * US, 100 * MS);
        }
        if dice.one_in(8) {
            self.stall = Some((dice.below(received + 1), dice.magnitude(10 * MS, 8 * SEC)));
        }
        if dice.one_in(8) {
            self.hold = dice.between(1, 24) as usize;
        }
        self.ending = match dice.below(20) {
            0..=12 => Ending::Shutdown,
            13..=16 => Ending::AfterPeer,
            17 => Ending::Abort(dice.below(received + 1)),
            18 => Ending::Leave(dice.below(received + 1)),
            _ => Ending::Shutdown,
        };
    }
}
