//! Stage 3: RX rings -> `wire::decode` -> flow table -> `Connection::on_segment`.
//!
//! Every ring is drained in every turn, up to the budget: a slow reader holds back its own window
//! and nobody's ACKs. A received frame ends in one of three ways: its payload waits in a
//! connection's queue (the frame with it), it was dropped for a reason that is counted, or it had
//! nothing but a header.

use bywash_tcp::{CloseReason, Disposition, FastOpenAnswer, ListenOutcome, reset_for};
use bywash_wire::{Decoded, DropReason, Flags, Run, Segment, Tuple};
use bywash_xsk::{Frame, Port, prefetch};

use crate::config::PoolPolicy;
use crate::directory::Handed;
use crate::flows::Place;
use crate::payload::FramePayload;
use crate::pools::moves::{self, FIRST_SHARD};
use crate::pools::{CONTROL, FIRST_POOL, PRIMARY};
use crate::service::Event;
use crate::shard::{Conn, Core, Origin, Phase, Pressure, Read};

/// How a frame came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// By which ring.
    pub(crate) ring: u16,
    /// Its payload is not taken, for this reason.
    pub(crate) refused: Option<DropReason>,
    /// Nor is its header.
    pub(crate) refused_whole: bool,
    /// Also behind unread data it may fill a gap, out of frames that nobody else wants.
    pub(crate) may_fill: bool,
}

impl Arrival {
    /// It came by a ring and had to wait.
    pub(crate) const LATE: Self = Self::by(u16::MAX);
    /// By no ring of this queue: another shard has handed it over.
    pub(crate) const fn handed(from: u32) -> Self {
        Self::by(FIRST_SHARD | from as u16)
    }

    /// The shard that has handed it over.
    pub(crate) fn shard(self) -> Option<u32> {
        (self.ring >= FIRST_SHARD && self.ring != Self::LATE.ring)
            .then_some(u32::from(self.ring & !FIRST_SHARD))
    }

    pub(crate) const fn by(ring: u16) -> Self {
        Self {
            ring,
            refused: None,
            refused_whole: false,
            may_fill: true,
        }
    }
}

/// Frames whose connections are fetched together: enough misses at once to use the memory's width, few enough that what was
/// fetched is still there when its turn comes.
const AHEAD: usize = 16;
/// With so many connections they are in the second-level cache in any case.
const CACHED_CONNECTIONS: usize = 256;

impl<P: Port> Core<P> {
    /// Primary first, then control, then the flows' own rings.
    pub(crate) fn ingress(&mut self) -> usize {
        let mut received = 0;
        for ring in [PRIMARY, CONTROL] {
            let fetched = self.fetch(ring, self.config.ingress_budget);
            if ring == CONTROL && fetched > 0 {
                self.count_syns(fetched);
            }
            received += fetched;
            let mut batch = std::mem::take(&mut self.batch);
            self.on_frames(batch.drain(..), Arrival::by(ring));
            self.batch = batch;
        }
        received += self.read_pools();
        self.settle_moves();
        received
    }

    /// Frames of one ring in their order, with what they will need fetched a little ahead of them.
    pub(crate) fn on_frames(&mut self, mut frames: std::vec::Drain<'_, Frame>, arrival: Arrival) {
        let ahead = self.conns.len() > CACHED_CONNECTIONS;
        let mut looked_to = usize::MAX;
        while let Some(frame) = frames.next() {
            let left = frames.as_slice();
            // Those that are left are counted from the end, whatever a run has taken.
            if ahead && looked_to > left.len() {
                self.look_ahead(&frame, left);
                looked_to = (left.len() + 1).saturating_sub(AHEAD);
            }
            match left.first() {
                Some(next) if Run::may_begin(frame.bytes(), next.bytes()) => {
                    self.on_run(frame, &mut frames, arrival);
                }
                _ => {
                    self.on_frame(frame, arrival);
                }
            }
        }
    }

    /// Fetches the connections of the next frames into the cache: all at once, where one after the other each would be waited
    /// for. First those frames' headers and the table's entries, whose misses overlap as nothing depends on them.
    fn look_ahead(&self, first: &Frame, frames: &[Frame]) {
        let (next, later) = frames.split_at(frames.len().min(AHEAD - 1));
        for frame in later.iter().take(AHEAD) {
            if let Some(headers) = frame.bytes().first_chunk::<64>() {
                prefetch(headers);
            }
        }
        for frame in std::iter::once(first).chain(next) {
            if let Some(index) =
                bywash_wire::glance(frame.bytes()).and_then(|tuple| self.flows.guess(&tuple))
            {
                self.conns.prefetch(index);
            }
        }
    }

    /// Frames of a ring -> `self.batch`.
    pub(crate) fn fetch(&mut self, ring: u16, budget: usize) -> usize {
        let frames = self.port.receive(ring.into(), &mut self.batch, budget);
        if let Some(last) = self.batch.last() {
            let is_pool = usize::from(ring) >= FIRST_POOL;
            self.bulk.note(ring, is_pool, last.len());
            self.reads[usize::from(ring)] = Read {
                turn: self.counters.turns,
                drained: frames < budget,
            };
        }
        frames
    }

    /// Frames that other shards handed over: lent from their UMEM, copied into a frame of ours.
    pub(crate) fn take_over(&mut self) -> usize {
        if self.config.shards < 2 {
            return 0;
        }
        let directory = self.directory.clone();
        let inbox = directory.inbox(self.config.index);
        let mut taken = 0;
        while taken < self.config.ingress_budget
            && let Some(handed) = inbox.next_frame()
        {
            taken += 1;
            let (from, desc) = match handed {
                Handed::Frame { from, desc } => (from, desc),
                Handed::Marker { from, conn } => {
                    self.on_marker(from, conn);
                    continue;
                }
            };
            let view = directory.inbox(from).view();
            let Some(lease) = view.and_then(|view| view.open(desc)) else {
                debug_assert!(false, "what is handed over is lent, and opened once");
                continue;
            };
            let Some(mut frame) = self.port.umem().alloc_rx() else {
                self.count_drop(DropReason::NoReceiveCredit);
                continue;
            };
            match frame.tail_mut() {
                Some(room) if room.len() >= lease.len() => {
                    room[..lease.len()].copy_from_slice(&lease);
                }
                _ => {
                    self.count_drop(DropReason::NoReceiveCredit);
                    continue;
                }
            }
            frame.extend(lease.len());
            frame.umem().count_copied(lease.len());
            drop(lease);
            self.counters.taken_over += 1;
            self.on_frame(frame, Arrival::handed(from));
        }
        taken
    }

    pub(crate) fn on_frame(&mut self, frame: Frame, arrival: Arrival) {
        // Used where it lies: it is too long to be moved for nothing.
        match &bywash_wire::decode(frame.bytes(), self.config.checksum) {
            Ok(decoded) => {
                self.on_decoded(decoded, frame, arrival);
            }
            // XDP gives us ICMP errors that quote our ports.
            Err(DropReason::NotTcp) => self.on_icmp_frame(frame),
            Err(reason) => self.count_drop(*reason),
        }
    }

    /// The connection that took it, if one did.
    #[inline]
    fn on_decoded(&mut self, decoded: &Decoded, frame: Frame, arrival: Arrival) -> Option<u32> {
        // What had to wait was counted when it came.
        if arrival.ring != Arrival::LATE.ring {
            self.counters.segments_in += 1;
            self.counters.partial_checksums += u64::from(decoded.partial_checksum);
        }
        match self.place_of(&decoded.tuple) {
            Some(Place::Connection(index)) => {
                self.on_flow_segment(index, decoded, frame, arrival);
                return Some(index);
            }
            Some(Place::TimeWait(index)) => {
                self.on_time_wait_segment(index, decoded, frame, arrival);
            }
            None => self.on_stray_segment(decoded, frame, arrival),
        }
        None
    }

    /// A frame, and those of the same flow behind it that follow on it with the same header: looked up once, and decoded once.
    fn on_run(&mut self, head: Frame, frames: &mut std::vec::Drain<'_, Frame>, arrival: Arrival) {
        let policy = self.config.checksum;
        let decoded = bywash_wire::decode(head.bytes(), policy);
        let Ok(decoded) = &decoded else {
            return self.on_frame(head, arrival);
        };
        let run = Run::of(head.bytes(), decoded);
        let index = self.on_decoded(decoded, head, arrival);
        let (Some(mut run), Some(index), None) = (run, index, arrival.refused) else {
            return;
        };
        let Some(conn) = self.conns.by_index(index) else {
            return;
        };
        // What is in the middle of a move is judged segment by segment.
        if conn.moving || conn.away > 0 {
            return;
        }
        let mut promote = false;
        while !promote
            && let Some(next) = frames.as_slice().first()
            && self.port.umem().rx_held() < self.config.lease_cap as usize
            && let Some(follower) = run.take(next.bytes(), policy)
            && conn.tcp.continues(self.now, run.segment())
            && let Some(mut frame) = frames.next()
        {
            self.counters.segments_in += 1;
            self.counters.partial_checksums += u64::from(follower.partial_checksum);
            conn.received += follower.payload.len() as u64;
            promote = conn.deserves_ring(self.config.pools);
            frame.set_window(follower.payload);
            conn.tcp
                .on_following(run.segment(), FramePayload::received(frame));
        }
        if promote {
            self.promote(index, true);
        }
    }

    fn on_flow_segment(
        &mut self,
        index: u32,
        decoded: &Decoded,
        mut frame: Frame,
        arrival: Arrival,
    ) {
        let refused = match arrival.refused {
            None if !self.may_hold_frames() => Some(DropReason::NoReceiveCredit),
            reason => reason,
        };
        // Free frames that the fill ring has not asked for.
        let spare = arrival.may_fill && self.port.umem().rx_free() > 0;
        let Some(conn) = self.conns.by_index(index) else {
            debug_assert!(false, "the flow table names connections that exist");
            return;
        };
        if decoded.segment.flags.contains(Flags::SYN)
            && conn.tcp.accepts_new_incarnation(&decoded.segment)
            && self.gives_way(index)
        {
            return self.on_stray_segment(decoded, frame, arrival);
        }
        let Some(conn) = self.conns.by_index(index) else {
            return;
        };
        if conn.moving && !conn.tcp.follows_on(&decoded.segment) {
            match moves::park(&mut self.moves, index, frame, arrival.ring, self.now) {
                None => return self.counters.frames_parked += 1,
                Some(of_the_old_ring) => frame = of_the_old_ring,
            }
        }
        // One frame more than the limit for each connection with a gap, or the limit would never be left again.
        let refused = refused.filter(|_| !conn.tcp.fills_gap(&decoded.segment, spare));
        if let Some(reason) = refused.filter(|_| arrival.refused_whole) {
            return self.count_drop(reason);
        }
        let disposition = if decoded.payload.is_empty() {
            drop(frame);
            conn.tcp.on_segment(self.now, &decoded.segment, None)
        } else if refused.is_none() {
            conn.received += decoded.payload.len() as u64;
            let payload = payload_of(frame, decoded);
            conn.tcp.lend_for_reading(&mut self.spare);
            conn.tcp
                .on_packet(self.now, decoded.ecn, &decoded.segment, Some(payload))
        } else {
            // The ACK in it still counts; the data will be sent again.
            let bare = without_payload(&decoded.segment);
            conn.tcp.on_segment(self.now, &bare, None);
            Disposition::Dropped(refused.unwrap_or(DropReason::NoReceiveCredit))
        };
        let away = conn.away > 0 || arrival.shard().is_some();
        let promote = conn.deserves_ring(self.config.pools);
        self.mark_dirty(index);
        if let Disposition::Dropped(reason) = disposition {
            self.count_drop(reason);
        }
        if promote {
            self.promote(index, true);
        }
        if away {
            self.count_away(index, arrival);
        }
    }

    /// Ends a connection in TIME-WAIT for a new one of the same tuple, and tells the service. Not while the service has
    /// something left to read: the peer was told that it arrived. The SYN comes again.
    fn gives_way(&mut self, index: u32) -> bool {
        let Some(conn) = self.conns.by_index(index) else {
            return false;
        };
        if !conn.told && !conn.abandoned && !conn.tcp.at_end() {
            return false;
        }
        let told = conn.told || matches!(conn.origin, Origin::HalfOpen(_));
        if let Some(conn) = self.conns.id_of(index).filter(|_| !told) {
            let reason = CloseReason::Finished;
            self.events.push_back(Event::Closed { conn, reason });
        }
        self.forget(index);
        true
    }

    /// A segment of no connection of this shard.
    pub(crate) fn on_stray_segment(&mut self, decoded: &Decoded, frame: Frame, arrival: Arrival) {
        let tuple = decoded.tuple;
        if self.config.shards > 1
            && let Some(owner) = self.directory.owner(&tuple)
        {
            if owner != self.config.index {
                return self.hand_over(owner, frame);
            }
            // Ours, and not here yet: it is in the inbox.
            self.adopt_travellers();
            if let Some(index) = self.connection_of(&tuple) {
                return self.on_flow_segment(index, decoded, frame, arrival);
            }
        }
        if !self.listeners.contains(tuple.local_port) {
            self.count_drop(DropReason::NoConnection);
            return self.answer_stray(decoded);
        }
        if !matches!(self.phase, Phase::Running) {
            return self.count_drop(DropReason::Stopping);
        }
        self.on_listener_segment(decoded, frame, arrival);
    }

    /// Lends the frame to the shard that owns its flow, if that shard keeps up and enough frames are left here.
    pub(crate) fn hand_over(&mut self, owner: u32, frame: Frame) {
        if !self.may_hold_frames() {
            return self.count_drop(DropReason::HandOverFull);
        }
        let desc = frame.lend();
        let from = self.config.index;
        if self
            .directory
            .hand_over(owner, Handed::Frame { from, desc })
        {
            self.counters.handed_over += 1;
        } else {
            drop(self.port.umem().take_back(desc));
            self.count_drop(DropReason::HandOverFull);
        }
    }

    fn on_listener_segment(&mut self, decoded: &Decoded, frame: Frame, arrival: Arrival) {
        let tuple = decoded.tuple;
        let full = self.conns.len() >= self.config.max_connections as usize;
        let backlog = self.config.backlog;
        let Some(half_open) = self.listeners.half_open(tuple.local_port) else {
            return;
        };
        let is_request = is_request(decoded.segment.flags);
        if is_request && full {
            return self.count_drop(DropReason::ConnectionTableFull);
        }
        if is_request && self.listeners.is_shut(tuple.local_port) {
            return self.count_drop(DropReason::ListenQueueFull);
        }
        if is_request && self.wants_cookie(half_open) {
            return self.send_cookie(decoded);
        }
        if is_request && half_open >= backlog {
            return self.count_drop(DropReason::ListenQueueFull);
        }
        if let Some(index) = self.take_cookie(decoded) {
            return self.on_flow_segment(index, decoded, frame, arrival);
        }
        if self.may_follow_cookie(decoded.segment.flags) {
            return self.count_drop(DropReason::NoConnection);
        }
        let answer = if is_request && arrival.refused.is_none() {
            self.answer_fast_open(decoded, frame)
        } else {
            FastOpenAnswer::Refuse
        };
        let Some(entry) = self.listeners.by_port(tuple.local_port) else {
            return;
        };
        let iss = self.secrets.initial_sequence(&tuple, self.now);
        let offset = self.secrets.timestamp_offset(&tuple);
        let listener = entry.listener(&tuple);
        let buffer = listener.config().receive_limit();
        let segment = &decoded.segment;
        let outcome = listener.on_fast_open(self.now, tuple, segment, iss, offset, answer);
        match outcome {
            ListenOutcome::Connection(tcp) => {
                entry.half_open += 1;
                let origin = Origin::HalfOpen(tuple.local_port);
                let index = self.adopt(tcp, origin, buffer, None);
                self.find_path(index);
            }
            ListenOutcome::Reset(reset) => {
                self.count_drop(DropReason::NoConnection);
                self.send_stray(decoded, &reset);
            }
            ListenOutcome::Drop(reason) => self.count_drop(reason),
        }
    }

    /// Puts a connection into the tables. With an `opening` configuration its tuple is not final
    /// yet and no segment can find it.
    pub(crate) fn adopt(
        &mut self,
        tcp: bywash_tcp::Connection<FramePayload>,
        origin: Origin,
        receive_buffer: usize,
        opening: Option<Box<bywash_tcp::Config>>,
    ) -> u32 {
        let tuple = tcp.tuple();
        let known = opening.is_none();
        let fast_open = self.begin_fast_open(&tcp, origin);
        let id = self.conns.insert(Conn {
            tcp,
            link: None,
            origin,
            pool: None,
            moving: false,
            away: 0,
            receive_buffer,
            received: 0,
            dirty: false,
            ready: false,
            wants_writable: false,
            starved: false,
            blocked: false,
            ended: None,
            told: false,
            abandoned: false,
            progress: None,
            fast_open,
            opening,
        });
        self.counters.connections_opened += 1;
        if self.pressure != Pressure::None {
            self.limit_window(id.index);
        }
        if known {
            self.enlist(&tuple, id.index);
        }
        self.mark_dirty(id.index);
        id.index
    }

    /// Makes the connection findable by its tuple.
    pub(crate) fn enlist(&mut self, tuple: &Tuple, index: u32) {
        self.flows.insert(tuple, Place::Connection(index));
        if self.config.shards > 1 {
            self.directory.insert(tuple, self.config.index);
        }
        self.env.steering.opened(tuple);
        if self.config.pools == PoolPolicy::Dedicated {
            self.promote(index, false);
        }
    }

    /// RFC 9293 3.10.7.1, at a limited rate: the CLOSED state answers everything but a RST by a RST.
    fn answer_stray(&mut self, decoded: &Decoded) {
        let Some(reset) = reset_for(&decoded.segment) else {
            return;
        };
        self.send_stray(decoded, &reset);
    }

    /// Sends a RST of no connection, at a limited rate.
    fn send_stray(&mut self, decoded: &Decoded, reset: &Segment) {
        if !self.resets.take(self.now) {
            return self.count_drop(DropReason::ResetRateLimited);
        }
        if self.send_back(decoded, reset) {
            self.counters.resets_out += 1;
        }
    }

    /// Whether another received frame may be kept for an application.
    pub(crate) fn may_hold_frames(&self) -> bool {
        self.held_frames() < self.config.lease_cap as usize
    }

    /// RX frames that connections, applications and leases hold.
    fn held_frames(&self) -> usize {
        self.port.umem().rx_held()
    }

    /// Re-reads how much of the frame budget is held, once a turn. Returns whether the windows must
    /// be told.
    pub(crate) fn update_pressure(&mut self) -> bool {
        let held = self.held_frames();
        let cap = self.config.lease_cap as usize;
        let pressure = Pressure::of(held, cap);
        std::mem::replace(&mut self.pressure, pressure) != pressure
    }
}

/// The frame with its window on the payload.
pub(crate) fn payload_of(mut frame: Frame, decoded: &Decoded) -> FramePayload {
    frame.set_window(decoded.payload.clone());
    FramePayload::received(frame)
}

/// What remains of a segment whose data cannot be kept: its FIN lies behind the data and goes too.
fn without_payload(segment: &Segment) -> Segment {
    let mut bare = *segment;
    bare.payload_len = 0;
    bare.flags.remove(Flags::FIN);
    bare
}

/// A SYN that asks for a connection, and nothing else (RFC 9293 3.10.7.2).
fn is_request(flags: Flags) -> bool {
    flags.contains(Flags::SYN)
        && !flags.contains(Flags::ACK)
        && !flags.contains(Flags::RST)
        && !flags.contains(Flags::FIN)
}
