//! What was sent, for assertions and for reading.

use std::fmt;

use bywash_tcp::time::Instant;
use bywash_wire::{Flags, Segment};

use super::{ISS_A, ISS_B};

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// What the network did with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Sent,
    Doubled,
    Lost,
    Corrupted,
}

/// A segment that was sent.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    pub(crate) at: Instant,
    pub(crate) from: Side,
    pub(crate) segment: Segment,
    pub(crate) retransmission: bool,
    pub(crate) fate: Fate,
}

impl Trace {
    /// The segment's number, counted from its sender's SYN.
    pub(crate) fn seq(&self) -> u32 {
        let iss = if self.from == Side::A { ISS_A } else { ISS_B };
        self.segment.seq.distance_from(iss) as u32
    }

    /// Its acknowledgment, counted from the other end's SYN.
    pub(crate) fn ack(&self) -> u32 {
        let iss = if self.from == Side::A { ISS_B } else { ISS_A };
        self.segment.ack.distance_from(iss) as u32
    }

    pub(crate) fn has(&self, flags: Flags) -> bool {
        self.segment.flags.contains(flags)
    }

    pub(crate) fn is_data(&self) -> bool {
        self.segment.payload_len > 0
    }

    /// Whether the segment holds the last of `total` bytes.
    pub(crate) fn is_last_of(&self, total: u32) -> bool {
        self.seq() + self.segment.payload_len as u32 == total + 1
    }

    pub(crate) fn is_pure_ack(&self) -> bool {
        self.segment.flags == Flags::ACK && !self.is_data()
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let segment = &self.segment;
        write!(
            f,
            "{:?} {:?} {} seq={}",
            self.at,
            self.from,
            segment.flags,
            self.seq() as i32
        )?;
        if self.is_data() {
            write!(f, " len={}", segment.payload_len)?;
        }
        if self.has(Flags::ACK) {
            write!(f, " ack={}", self.ack() as i32)?;
        }
        write!(f, " win={}", segment.window)?;
        if !segment.options.sack.is_empty() {
            write!(f, " sack={:?}", segment.options.sack)?;
        }
        if self.retransmission {
            f.write_str(" again")?;
        }
        if self.fate != Fate::Sent {
            write!(f, " [{:?}]", self.fate)?;
        }
        Ok(())
    }
}
