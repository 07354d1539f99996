//! Stage 3: RX rings -> `wire::decode` -> flow table -> `Connection::on_segment`.
//!
//! Every ring is drained in every turn, up to the budget: a slow reader holds back its own window
//! and nobody's ACKs. A received frame ends in one of three ways: its payload waits in a
//! connection's queue (the frame with it), it was dropped for a reason that is counted, or it had
//! nothing but a header.

use bywash_tcp::{Disposition, ListenOutcome, reset_for};
use bywash_wire::{Decoded, DropReason, Ecn, Flags, Link, Segment, Tuple};
use bywash_xsk::{Frame, Port};

use crate::config::PoolPolicy;
use crate::payload::FramePayload;
use crate::shard::{Conn, Core, Origin, Phase, Pressure};
use crate::stages::egress::post_header;

impl<P: Port> Core<P> {
    /// Primary first, then control, then the flows' own rings: a promoted flow's older packets are
    /// in the primary.
    pub(crate) fn ingress(&mut self) -> usize {
        self.pools.expire(self.now);
        let mut received = 0;
        let mut batch = std::mem::take(&mut self.batch);
        // All of them, those of no flow too: packets may have been under way when a flow left its ring.
        for ring in 0..self.port.rings() {
            if self.pools.is_held(ring) {
                continue;
            }
            received += self
                .port
                .receive(ring, &mut batch, self.config.ingress_budget);
            for frame in batch.drain(..) {
                self.on_frame(frame);
            }
        }
        self.batch = batch;
        received
    }

    /// Frames that other shards handed over: bytes of their UMEM, copied into a frame of ours.
    pub(crate) fn take_over(&mut self) -> usize {
        if self.config.shards < 2 {
            return 0;
        }
        let directory = self.directory.clone();
        let inbox = directory.inbox(self.config.index);
        let mut taken = 0;
        while taken < self.config.ingress_budget
            && let Some(bytes) = inbox.next_frame()
        {
            taken += 1;
            let Some(mut frame) = self.port.umem().alloc_rx() else {
                self.count_drop(DropReason::NoReceiveCredit);
                continue;
            };
            match frame.tail_mut() {
                Some(room) if room.len() >= bytes.len() => {
                    room[..bytes.len()].copy_from_slice(&bytes)
                }
                _ => {
                    self.count_drop(DropReason::NoReceiveCredit);
                    continue;
                }
            }
            frame.extend(bytes.len());
            self.counters.taken_over += 1;
            self.on_frame(frame);
        }
        taken
    }

    fn on_frame(&mut self, frame: Frame) {
        let decoded = match bywash_wire::decode(frame.bytes(), self.config.checksum) {
            Ok(decoded) => decoded,
            // XDP gives us ICMP errors that quote our ports.
            Err(DropReason::NotTcp) => return self.on_icmp_frame(&frame),
            Err(reason) => return self.count_drop(reason),
        };
        self.counters.segments_in += 1;
        self.counters.partial_checksums += u64::from(decoded.partial_checksum);
        match self.flows.lookup(&decoded.tuple) {
            Some(index) => self.on_flow_segment(index, &decoded, frame),
            None => self.on_stray_segment(&decoded, &frame),
        }
    }

    fn on_flow_segment(&mut self, index: u32, decoded: &Decoded, frame: Frame) {
        let may_hold = self.may_hold_frames();
        let Some(conn) = self.conns.by_index(index) else {
            debug_assert!(false, "the flow table names connections that exist");
            return;
        };
        if decoded.segment.flags.contains(Flags::SYN)
            && conn.tcp.accepts_new_incarnation(&decoded.segment)
        {
            self.forget(index);
            return self.on_stray_segment(decoded, &frame);
        }
        let disposition = if decoded.payload.is_empty() {
            drop(frame);
            conn.tcp.on_segment(self.now, &decoded.segment, None)
        } else if may_hold {
            conn.received += decoded.payload.len() as u64;
            let payload = payload_of(frame, decoded);
            conn.tcp
                .on_segment(self.now, &decoded.segment, Some(payload))
        } else {
            // The ACK in it still counts; the data will be sent again.
            let bare = without_payload(&decoded.segment);
            conn.tcp.on_segment(self.now, &bare, None);
            Disposition::Dropped(DropReason::NoReceiveCredit)
        };
        let promote = conn.pool.is_none()
            && matches!(self.config.pools, PoolPolicy::PromoteAfter(bytes) if conn.received > bytes);
        self.mark_dirty(index);
        if let Disposition::Dropped(reason) = disposition {
            self.count_drop(reason);
        }
        if promote {
            self.promote(index, true);
        }
    }

    /// A segment of no connection of this shard.
    fn on_stray_segment(&mut self, decoded: &Decoded, frame: &Frame) {
        let tuple = decoded.tuple;
        if self.config.shards > 1
            && let Some(owner) = self.directory.owner(&tuple)
            && owner != self.config.index
        {
            return self.hand_over(owner, frame);
        }
        if !self.listeners.contains(tuple.local_port) {
            self.count_drop(DropReason::NoConnection);
            return self.answer_stray(decoded);
        }
        if !matches!(self.phase, Phase::Running) {
            return self.count_drop(DropReason::Stopping);
        }
        self.on_listener_segment(decoded);
    }

    pub(crate) fn hand_over(&mut self, owner: u32, frame: &Frame) {
        if self.directory.hand_over(owner, frame.bytes()) {
            self.counters.handed_over += 1;
        } else {
            self.count_drop(DropReason::HandOverFull);
        }
    }

    fn on_listener_segment(&mut self, decoded: &Decoded) {
        let tuple = decoded.tuple;
        let full = self.conns.len() >= self.config.max_connections as usize;
        let backlog = self.config.backlog;
        let Some(entry) = self.listeners.by_port(tuple.local_port) else {
            return;
        };
        let is_syn = decoded.segment.flags.contains(Flags::SYN);
        if is_syn && (full || entry.half_open >= backlog) {
            let reason = if full {
                DropReason::ConnectionTableFull
            } else {
                DropReason::ListenQueueFull
            };
            return self.count_drop(reason);
        }
        let iss = self.secrets.initial_sequence(&tuple, self.now);
        let offset = self.secrets.timestamp_offset(&tuple);
        let listener = entry.listener(&tuple);
        let buffer = listener.config().receive_buffer;
        let outcome = listener.on_segment(self.now, tuple, &decoded.segment, iss, offset);
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
        let tuple = *tcp.tuple();
        let known = opening.is_none();
        let id = self.conns.insert(Conn {
            tcp,
            link: None,
            origin,
            pool: None,
            receive_buffer,
            received: 0,
            dirty: false,
            ready: false,
            wants_writable: false,
            starved: false,
            ended: None,
            told: false,
            abandoned: false,
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
        self.flows.insert(*tuple, index);
        if self.config.shards > 1 {
            self.directory.insert(tuple, self.config.index);
        }
        if self.config.pools == PoolPolicy::Dedicated {
            self.promote(index, false);
        }
    }

    /// Gives the flow an RX ring of its own, if one is free. `has_history`: packets of it may still
    /// lie in the primary's ring.
    fn promote(&mut self, index: u32, has_history: bool) {
        let Some(conn) = self.conns.by_index(index) else {
            return;
        };
        // One attempt: a flow that found no ring free does not ask again with every segment.
        conn.received = 0;
        let Some((ring, generation)) = self.pools.take() else {
            return;
        };
        match self
            .env
            .steering
            .insert_flow(conn.tcp.tuple(), ring.into(), generation)
        {
            Ok(()) => {
                conn.pool = Some(ring);
                self.counters.promoted += 1;
                if has_history {
                    self.pools.hold(ring, self.now);
                }
            }
            Err(cause) => {
                tracing::debug!(%cause, "a flow keeps the shared ring");
                self.pools.release(ring);
                self.counters.promotions_failed += 1;
            }
        }
    }

    /// Takes the flow's ring away: all that is left of it is the minute in TIME-WAIT, and rings are few.
    pub(crate) fn demote(&mut self, index: u32) {
        if let Some(conn) = self.conns.by_index(index)
            && let Some(ring) = conn.pool.take()
        {
            self.env.steering.remove_flow(conn.tcp.tuple());
            self.pools.release(ring);
        }
    }

    /// RFC 9293 3.10.7.1, at a limited rate: the CLOSED state answers everything but a RST by a RST.
    fn answer_stray(&mut self, decoded: &Decoded) {
        let Some(reset) = reset_for(&decoded.segment) else {
            return;
        };
        self.send_stray(decoded, &reset);
    }

    /// Sends a segment of no connection back to where `decoded` came from. There is no state to
    /// keep a path in, and the sender's own link header is as good as what the kernel would say.
    fn send_stray(&mut self, decoded: &Decoded, segment: &Segment) {
        if !self.resets.take(self.now) {
            return self.count_drop(DropReason::ResetRateLimited);
        }
        let link = Link {
            source_mac: decoded.destination_mac,
            destination_mac: decoded.source_mac,
            vlan: decoded.tuple.vlan,
        };
        if self.port.tx_space() == 0 {
            return self.count_drop(DropReason::TransmitRingFull);
        }
        if post_header(&mut self.port, &link, &decoded.tuple, Ecn::NotEct, segment) {
            self.counters.resets_out += 1;
            self.counters.segments_out += 1;
        } else {
            self.count_drop(DropReason::NoTransmitFrame);
        }
    }

    /// Whether another received frame may be kept for an application.
    fn may_hold_frames(&self) -> bool {
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
        let pressure = if held * 4 > cap * 3 {
            Pressure::High
        } else if held * 2 > cap {
            Pressure::Half
        } else {
            Pressure::None
        };
        std::mem::replace(&mut self.pressure, pressure) != pressure
    }
}

/// The frame with its window on the payload.
fn payload_of(mut frame: Frame, decoded: &Decoded) -> FramePayload {
    frame.advance(decoded.payload.start);
    frame.truncate(decoded.payload.len());
    FramePayload::received(frame)
}

/// What remains of a segment whose data cannot be kept: its FIN lies behind the data and goes too.
fn without_payload(segment: &Segment) -> Segment {
    let mut bare = *segment;
    bare.payload_len = 0;
    bare.flags.remove(Flags::FIN);
    bare
}
