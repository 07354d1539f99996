//! A part of stage 3: the rings of single flows are read under their limits, and flows get in and out of them.

use bywash_tcp::Connection;
use bywash_wire::DropReason;
use bywash_xsk::{Frame, Port};

use crate::payload::FramePayload;
use crate::pools::limits::Admission;
use crate::pools::moves::{Found, Move, Verdict};
use crate::pools::scan::SCAN_ALL_UP_TO;
use crate::pools::{FIRST_POOL, PRIMARY, Pressure};
use crate::shard::Core;
use crate::stages::ingress::Arrival;

/// IPv4 and TCP headers without options.
const SMALLEST_HEADERS: usize = 40;

impl<P: Port> Core<P> {
    /// Reads the flows' own rings; those of no flow too, as packets may have been under way when a flow left its ring.
    pub(crate) fn read_pools(&mut self) -> usize {
        let rings = self.port.rings();
        let credit = self.pools.credit(self.config.lease_cap, self.pressure);
        // The usual case: nothing is limited but by the shard's own cap.
        let limit = self
            .pools
            .is_limited(self.config.lease_cap, credit)
            .then_some(credit);
        let mut received = 0;
        if rings <= SCAN_ALL_UP_TO || !self.port.take_marked(&mut self.scan.marked) {
            for ring in FIRST_POOL..rings {
                received += self.read_pool(ring as u16, limit);
            }
            return received;
        }
        self.counters.rings_marked += self.scan.marked.len() as u64;
        for one in &self.moves {
            for ring in [one.from, one.to] {
                if usize::from(ring) >= FIRST_POOL {
                    self.scan.arm(ring, self.now);
                }
            }
        }
        let plan = self.scan.plan(self.now);
        for ring in &plan {
            let frames = self.read_pool(*ring, limit);
            if frames > 0 {
                self.scan.arm(*ring, self.now);
            }
            received += frames;
        }
        self.scan.done(plan);
        received
    }

    /// Reads one flow's ring. `limit`: frames that it may hold, if that must be looked at packet by packet.
    fn read_pool(&mut self, ring: u16, limit: Option<usize>) -> usize {
        let most = self.config.ingress_budget;
        let budget = match limit {
            None => most,
            Some(_) => self.pools.allowance(ring, self.now).min(most),
        };
        let frames = self.fetch(ring, budget);
        if frames == 0 {
            return 0;
        }
        self.pools.on_batch(ring, frames, self.now);
        let mut batch = std::mem::take(&mut self.batch);
        match limit {
            None => self.on_frames(batch.drain(..), Arrival::by(ring)),
            Some(credit) => {
                let mut left = batch.len();
                for frame in batch.drain(..) {
                    left -= 1;
                    // What follows in this batch is not held by anybody yet.
                    let held = self.port.held(ring.into()) - left - 1;
                    self.on_limited_frame(frame, ring, held, credit);
                }
            }
        }
        self.batch = batch;
        frames
    }

    fn on_limited_frame(&mut self, frame: Frame, ring: u16, held: usize, credit: usize) {
        let (refused, refused_whole) = match self.pools.admit(ring, held, credit, self.now) {
            Admission::Whole => (None, false),
            Admission::WithoutData(reason) => (Some(reason), false),
            Admission::OnlyIntoGap(reason) => (Some(reason), true),
            Admission::Nothing(reason) => return self.count_drop(reason),
        };
        let arrival = Arrival {
            refused,
            refused_whole,
            // A burst into a gap is taken whole, not only its first segment: the peer might send the rest at one segment a
            // time-out. An application that reads nothing ends it at twice the credit.
            may_fill: held < credit.saturating_mul(2),
            ..Arrival::by(ring)
        };
        self.on_frame(frame, arrival);
    }

    /// Gives the flow an RX ring of its own, if one is free or an idle flow has one. `has_history`: packets of it may
    /// still lie in the primary's ring.
    pub(crate) fn promote(&mut self, index: u32, has_history: bool) {
        let Some(conn) = self.conns.by_index(index) else {
            return;
        };
        // One attempt: a flow that found no ring free does not ask again with every segment.
        conn.received = 0;
        let window = conn.receive_buffer / usize::from(self.config.mtu);
        let mut taken = self.pools.take(index, window, self.now);
        if taken.is_none()
            && let Some(idle) = self.pools.idle_owner(self.now)
        {
            self.demote_idle(idle);
            taken = self.pools.take(index, window, self.now);
        }
        let (Some((ring, generation)), Some(conn)) = (taken, self.conns.by_index(index)) else {
            return;
        };
        let steering = &mut self.env.steering;
        match steering.insert_flow(&conn.tcp.tuple(), ring.into(), generation) {
            Ok(()) => {
                conn.pool = Some(ring);
                self.counters.promoted += 1;
                if has_history {
                    self.begin_move(index, PRIMARY, ring);
                }
                self.limit_window(index);
            }
            Err(cause) => {
                tracing::debug!(%cause, "a flow keeps the shared ring");
                self.pools.release(ring);
                self.counters.promotions_failed += 1;
            }
        }
    }

    /// Takes the flow's ring away. Returns which it was.
    pub(crate) fn demote(&mut self, index: u32) -> Option<u16> {
        let conn = self.conns.by_index(index)?;
        let ring = conn.pool.take()?;
        self.env.steering.remove_flow(&conn.tcp.tuple());
        self.pools.release(ring);
        Some(ring)
    }

    /// Takes an idle flow's ring away, for another. It may wake up this very moment, and keeps its order.
    fn demote_idle(&mut self, index: u32) {
        if let Some(ring) = self.demote(index) {
            self.counters.demoted += 1;
            self.limit_window(index);
            self.begin_move(index, ring, PRIMARY);
        }
    }

    /// The flow's packets come by another ring from now on.
    pub(crate) fn begin_move(&mut self, index: u32, from: u16, to: u16) {
        if let Some(conn) = self.conns.by_index(index) {
            conn.moving = true;
            let turn = self.counters.turns;
            self.moves
                .push_back(Move::new(index, from, to, turn, self.now));
        }
    }

    /// After the rings were read: parked frames whose turn has come are passed on, moves that are over end.
    pub(crate) fn settle_moves(&mut self) {
        for _ in 0..self.moves.len() {
            let Some(mut one) = self.moves.pop_front() else {
                return;
            };
            while self.first_parked_follows_on(&one)
                && let Some(frame) = one.unpark()
            {
                self.on_frame(frame, Arrival::LATE);
            }
            let verdict = one.learn(self.found(&one), self.counters.turns, self.now);
            match verdict {
                Verdict::Wait => self.moves.push_back(one),
                Verdict::Done => self.end_move(one),
                Verdict::Forced => {
                    self.counters.moves_forced += 1;
                    self.end_move(one);
                }
            }
        }
    }

    fn end_move(&mut self, mut one: Move) {
        if let Some(conn) = self.conns.by_index(one.conn) {
            conn.moving = false;
        }
        while let Some(frame) = one.unpark() {
            self.on_frame(frame, Arrival::LATE);
        }
    }

    /// The connection is no more: what was parked for it finds nobody.
    pub(crate) fn forget_moves(&mut self, index: u32) {
        let mut dropped = 0;
        self.moves.retain(|one| {
            let stays = one.conn != index;
            if !stays {
                dropped += one.parked();
            }
            stays
        });
        for _ in 0..dropped {
            self.count_drop(DropReason::Closed);
        }
    }

    fn first_parked_follows_on(&mut self, one: &Move) -> bool {
        let Some(frame) = one.first_parked() else {
            return false;
        };
        let Ok(decoded) = bywash_wire::decode(frame.bytes(), self.config.checksum) else {
            return false;
        };
        let follows = |tcp: &Connection<FramePayload>| {
            tcp.is_flow(&decoded.tuple) && tcp.follows_on(&decoded.segment)
        };
        // A connection that has gone: let its frames go too.
        self.conns
            .by_index(one.conn)
            .is_none_or(|conn| follows(&conn.tcp))
    }

    fn found(&self, one: &Move) -> Found {
        let turn = self.counters.turns;
        let read = |ring: u16| {
            self.reads
                .get(usize::from(ring))
                .filter(|read| read.turn == turn)
        };
        Found {
            in_to: read(one.to).is_some(),
            to_drained: read(one.to).is_none_or(|read| read.drained),
            from_drained: usize::from(one.from) < self.reads.len()
                && read(one.from).is_none_or(|read| read.drained),
        }
    }

    /// How short frames are for this connection: by its own ring's credit, or by all that the shard has.
    pub(crate) fn pressure_on(&mut self, index: u32) -> Pressure {
        match self.conns.by_index(index).and_then(|conn| conn.pool) {
            None => self.pressure,
            Some(ring) => {
                let credit = self.pools.credit(self.config.lease_cap, self.pressure);
                let held = self.port.held(ring.into());
                self.pools.level(held, credit, self.pressure)
            }
        }
    }

    /// Bytes that a flow with a limited ring may still be sent, in full segments.
    pub(crate) fn room_of(&mut self, index: u32) -> usize {
        let Some(ring) = self.conns.by_index(index).and_then(|conn| conn.pool) else {
            return usize::MAX;
        };
        let credit = self.pools.credit(self.config.lease_cap, self.pressure);
        if !self.pools.is_limited(self.config.lease_cap, credit) {
            return usize::MAX;
        }
        let segment = usize::from(self.config.mtu).saturating_sub(SMALLEST_HEADERS);
        credit.saturating_sub(self.port.held(ring.into())) * segment
    }

    /// Windows of flows with rings of their own follow what those hold. Once a turn.
    pub(crate) fn update_pools(&mut self) {
        let mut owners = std::mem::take(&mut self.pressed);
        let cap = self.config.lease_cap;
        self.pools
            .update_levels(&self.port, cap, self.pressure, &mut owners);
        for index in owners.drain(..) {
            self.limit_window(index);
            self.mark_dirty(index);
        }
        self.pressed = owners;
    }
}
