//! The hot path: one data connection of a test, on the shard that holds it.
//!
//! A sender offers the stack blocks of `-l` bytes from one constant buffer until it takes less than
//! it is offered; a receiver takes frames, counts them and drops them. Neither does more than a
//! bounded share in one call, so that no stream (tiny blocks, a full pipe) starves its shard's turn:
//! who has more to do says [`Progress::More`] and is called again next turn.

use std::sync::Arc;

use bywash_engine::context::Context;
use bywash_engine::service::{ConnId, Recv};
use bywash_engine::xsk::Port;

use super::shared::{Quota, StreamCell};

/// Bytes offered to the stack at once; a block may be larger and is then sent in pieces.
const PIECE: usize = 128 * 1024;

/// Writes of one call. With `-l 16` a write costs some ten nanoseconds and a segment holds ninety of them.
const BLOCKS_PER_CALL: u32 = 1024;

/// Bytes that one call sends: some two hundred segments, more than a turn's egress takes from a connection.
const BYTES_PER_CALL: usize = 256 * 1024;

/// Frames that one call takes: as many as a turn brings from a ring.
const FRAMES_PER_CALL: u32 = 256;

/// What is sent. Not all alike, so that a mix-up would show in a capture; never looked at by a receiver.
static PAYLOAD: [u8; PIECE] = payload();

const fn payload() -> [u8; PIECE] {
    let mut bytes = [0; PIECE];
    let mut at = 0;
    while at < PIECE {
        bytes[at] = b'0' + (at % 10) as u8;
        at += 1;
    }
    bytes
}

/// How a call on a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The share of this call is used up: call again.
    More,
    /// Nothing to do until the stack says so.
    Waiting,
    /// The amount of the test is reached, or the peer has sent its FIN.
    Finished,
    /// The connection is gone.
    Gone,
}

/// One data connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) conn: ConnId,
    pub(super) cell: Arc<StreamCell>,
    bytes: u64,
    /// Bytes of a write.
    length: usize,
    /// Bytes of the present write that the stack has not taken.
    left: usize,
    /// Writes claimed from the quota and not begun.
    claimed: u64,
}

impl Stream {
    pub(super) fn new(conn: ConnId, cell: Arc<StreamCell>, length: u32) -> Self {
        Self {
            conn,
            cell,
            bytes: 0,
            length: length as usize,
            left: 0,
            claimed: 0,
        }
    }

    /// Counts bytes that came together with the cookie.
    pub(super) fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.cell.set_bytes(self.bytes);
    }

    /// Payload bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes what has arrived.
    pub(super) fn receive<P: Port>(&mut self, cx: &mut Context<'_, P>) -> Progress {
        let progress = self.receive_share(cx);
        self.cell.set_bytes(self.bytes);
        progress
    }

    fn receive_share<P: Port>(&mut self, cx: &mut Context<'_, P>) -> Progress {
        for _ in 0..FRAMES_PER_CALL {
            match cx.recv(self.conn) {
                Ok(Recv::Data(frame)) => self.bytes += frame.len() as u64,
                Ok(Recv::Empty) => return Progress::Waiting,
                Ok(Recv::End) => return Progress::Finished,
                Err(_) => return Progress::Gone,
            }
        }
        Progress::More
    }

    /// Sends as much as the stack takes.
    pub(super) fn send<P: Port>(&mut self, cx: &mut Context<'_, P>, quota: &Quota) -> Progress {
        let progress = self.send_share(cx, quota);
        self.cell.set_bytes(self.bytes);
        progress
    }

    fn send_share<P: Port>(&mut self, cx: &mut Context<'_, P>, quota: &Quota) -> Progress {
        let mut blocks = BLOCKS_PER_CALL;
        let mut budget = BYTES_PER_CALL;
        loop {
            if budget == 0 {
                return Progress::More;
            }
            if self.left == 0 {
                if blocks == 0 {
                    return Progress::More;
                }
                blocks -= 1;
                if self.claimed == 0 {
                    self.claimed = quota.claim(self.length);
                    if self.claimed == 0 {
                        return Progress::Finished;
                    }
                }
                self.claimed -= 1;
                self.left = self.length;
            }
            let offer = self.left.min(PIECE).min(budget);
            let Ok(taken) = cx.send(self.conn, &PAYLOAD[..offer]) else {
                return Progress::Gone;
            };
            self.bytes += taken as u64;
            self.left -= taken;
            budget -= taken;
            if taken < offer {
                return Progress::Waiting;
            }
        }
    }

    /// Tells the cell how the connection stands. False if it is gone.
    pub(super) fn publish<P: Port>(&self, cx: &mut Context<'_, P>) -> bool {
        match cx.info(self.conn) {
            Ok(info) => {
                self.cell.set_info(&info);
                true
            }
            Err(_) => false,
        }
    }
}
