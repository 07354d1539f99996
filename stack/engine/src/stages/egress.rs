//! Stage 6: `Connection::poll_transmit` -> header into the headroom -> TX ring.
//!
//! Late in the turn, so that this burst's ACKs leave with it. Connections take turns by a quantum
//! of segments; whoever cannot send for want of ring room or frames stays in the queue.

use bywash_tcp::{CloseReason, State};
use bywash_wire::checksum::Sum;
use bywash_wire::{DropReason, Ecn, Link, Segment, SeqNumber, Template, Tuple};
use bywash_xsk::{PartialChecksum, Port};

use crate::payload::FramePayload;
use crate::report::Counters;
use crate::shard::Core;

/// Hop limit of what we send, as Linux has it (`net.ipv4.ip_default_ttl`).
const HOP_LIMIT: u8 = 64;

/// Why a connection stopped sending.
enum Sent {
    /// It has nothing more to send now.
    All,
    /// Its quantum is used up.
    Quantum,
    /// Ring or frames are used up: nobody can send more in this turn.
    NoRoom,
}

impl<P: Port> Core<P> {
    /// Lets every ready connection send. Returns the number of segments.
    pub(crate) fn egress(&mut self) -> usize {
        let mut sent = 0;
        for _ in 0..self.ready.len() {
            let Some(index) = self.ready.pop_front() else {
                break;
            };
            match self.send_connection(index, &mut sent) {
                Sent::All => self.sent_all(index),
                Sent::Quantum => {
                    self.rearm(index);
                    self.ready.push_back(index);
                }
                Sent::NoRoom => {
                    self.rearm(index);
                    self.ready.push_front(index);
                    break;
                }
            }
        }
        sent
    }

    /// Lets one connection send what it may, before its turn. What does not fit waits as usual.
    pub(crate) fn send_now(&mut self, index: u32) {
        let mut sent = 0;
        if matches!(self.send_connection(index, &mut sent), Sent::NoRoom) {
            tracing::trace!(index, "no room to send before the end");
        }
    }

    fn send_connection(&mut self, index: u32, sent: &mut usize) -> Sent {
        let quantum = self.config.egress_quantum;
        let Some(conn) = self.conns.by_index(index) else {
            return Sent::All;
        };
        let Some(link) = conn.link else {
            // Waits for its path; `paths` makes it ready again.
            return Sent::All;
        };
        let tuple = conn.tcp.tuple();
        if conn.tcp.challenge_due() && !self.challenges.take(self.now, self.env.random.as_mut()) {
            conn.tcp.withhold_challenge();
            self.counters.challenges_withheld += 1;
        }
        let mut left = quantum;
        while left > 0 {
            let space = self.port.tx_space();
            if space == 0 || self.port.umem().tx_free() == 0 {
                return Sent::NoRoom;
            }
            let Some(transmit) = conn.tcp.poll_transmit(self.now) else {
                return Sent::All;
            };
            left -= 1;
            let (segment, ecn, new) = (
                transmit.segment,
                transmit.ecn,
                !transmit.retransmission && transmit.payload.is_some(),
            );
            let posted = match transmit.payload {
                Some(payload) => {
                    self.bulk.note_data_sent();
                    send_payload(&mut self.port, &link, &tuple, ecn, &segment, payload)
                }
                None => post_header(&mut self.port, &link, &tuple, ecn, &segment),
            };
            *sent += count_sent(&mut self.counters, posted);
            if new && posted && left > 0 && space > 1 {
                // Those of the ring's room and the quantum that follow with the same header.
                let most = left.min(space - 1);
                if let Some(train) = conn.tcp.poll_train(self.now, &segment, most) {
                    left -= train.len();
                    let template = Template::new(&link, &tuple, ecn, HOP_LIMIT, &segment);
                    for (seq, payload) in train {
                        let posted = send_following(&mut self.port, &template, seq, payload);
                        *sent += count_sent(&mut self.counters, posted);
                    }
                }
            }
        }
        Sent::Quantum
    }

    /// Takes the connection out of the queue; it comes back when something happens to it.
    fn sent_all(&mut self, index: u32) {
        let Some(conn) = self.conns.by_index(index) else {
            return;
        };
        conn.ready = false;
        conn.tcp.give_back(&mut self.spare);
        if !conn.tcp.is_closed() {
            if conn.tcp.state() == State::TimeWait {
                return self.enter_time_wait(index);
            }
            self.await_completion(index);
            return self.rearm(index);
        }
        // Its end may still have to be told, in the next turn or when everything has been read.
        if conn.told {
            self.forget(index);
        }
    }

    /// What the application has not read yet keeps the connection whole; else its service hears of the end now, and all
    /// but a rest goes.
    fn enter_time_wait(&mut self, index: u32) {
        self.demote(index);
        let Some(conn) = self.conns.by_index(index) else {
            return;
        };
        if conn.told {
            return self.keep_time_wait(index);
        }
        if conn.ended.is_none() {
            conn.ended = Some(CloseReason::Finished);
            self.mark_dirty(index);
        }
        self.rearm(index);
    }

    fn rearm(&mut self, index: u32) {
        let Some(conn) = self.conns.by_index(index) else {
            return;
        };
        let next = match (conn.tcp.next_timeout(), conn.tcp.next_send()) {
            (Some(timeout), Some(send)) if send.as_nanos() < timeout.as_nanos() => Some(send),
            (None, send) => send,
            (timeout, _) => timeout,
        };
        self.wheel.set(index, next);
    }
}

/// Counts what the port was given: 1, if it has taken it.
fn count_sent(counters: &mut Counters, posted: bool) -> usize {
    if posted {
        counters.segments_out += 1;
    } else {
        // Room was there: a frame that the port refuses is a fault, and TCP will resend.
        debug_assert!(false, "the port refused a frame");
        counters.drops[DropReason::TransmitRingFull.index()] += 1;
    }
    posted.into()
}

/// A segment with payload: its header goes into the headroom of the frame that holds the bytes.
fn send_payload<P: Port>(
    port: &mut P,
    link: &Link,
    tuple: &Tuple,
    ecn: Ecn,
    segment: &Segment,
    payload: &mut FramePayload,
) -> bool {
    let len = bywash_wire::header_len(link, tuple, segment);
    let sum = payload.sum();
    let Some(header) = payload.frame.head_mut(len) else {
        // Queued, against the rule of `poll_transmit`, or without headroom.
        return false;
    };
    if port.completes_checksums() {
        let start = bywash_wire::emit_partial(header, link, tuple, ecn, HOP_LIMIT, segment);
        return port.transmit_partial(&mut payload.frame, len, tcp_checksum(start));
    }
    bywash_wire::emit(header, link, tuple, ecn, HOP_LIMIT, segment, sum);
    port.transmit(&payload.frame, len)
}

/// A segment of a train.
fn send_following<P: Port>(
    port: &mut P,
    template: &Template,
    seq: SeqNumber,
    payload: &mut FramePayload,
) -> bool {
    let sum = payload.sum();
    let Some(header) = payload.frame.head_mut(template.len()) else {
        return false;
    };
    if port.completes_checksums() {
        template.write_partial(header, seq);
        let checksum = tcp_checksum(template.tcp());
        return port.transmit_partial(&mut payload.frame, template.len(), checksum);
    }
    template.write(header, seq, sum);
    port.transmit(&payload.frame, template.len())
}

/// A segment without payload, in a frame of its own that is free again with its completion.
/// `false`: there was no frame, or no room in the ring.
pub(crate) fn post_header<P: Port>(
    port: &mut P,
    link: &Link,
    tuple: &Tuple,
    ecn: Ecn,
    segment: &Segment,
) -> bool {
    let Some(mut frame) = port.umem().alloc_tx() else {
        return false;
    };
    let len = bywash_wire::header_len(link, tuple, segment);
    let Some(header) = frame.head_mut(len) else {
        return false;
    };
    if port.completes_checksums() {
        let start = bywash_wire::emit_partial(header, link, tuple, ecn, HOP_LIMIT, segment);
        return port.transmit_partial(&mut frame, len, tcp_checksum(start));
    }
    bywash_wire::emit(header, link, tuple, ecn, HOP_LIMIT, segment, Sum::ZERO);
    port.transmit(&frame, len)
}

/// Where a TCP header that begins at `start` has its checksum (RFC 9293 3.1).
fn tcp_checksum(start: usize) -> PartialChecksum {
    PartialChecksum {
        // Behind the headers of Ethernet and IP: 58 at most.
        start: start as u16,
        offset: 16,
    }
}
