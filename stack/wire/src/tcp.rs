//! The TCP header (RFC 9293 3.1).
//!
//! ```text
//!  0 source port      2 destination port
//!  4 sequence number
//!  8 acknowledgment number
//! 12 data offset|res  13 flags          14 window
//! 16 checksum         18 urgent pointer
//! 20 options, padded to a multiple of four          then payload
//! ```
//!
//! Ports stand in the [`Tuple`](crate::Tuple); everything else of a segment, with its options parsed and its payload as a
//! length, is a [`Segment`].

use core::fmt;
use core::ops::{BitOr, BitOrAssign};

use crate::checksum::Sum;
use crate::words::Words;
use crate::{DropReason, Options, SeqNumber};

/// Octets of a TCP header without options.
pub const HEADER_LEN: usize = 20;

/// The control bits of a segment, in their places on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Flags(u8);

impl Flags {
    /// No bit.
    pub const EMPTY: Self = Self(0);
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment field counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// ECN echo (RFC 3168 6.1).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168 6.1).
    pub const CWR: Self = Self(0x80);

    /// The bits as octet 13 of the header holds them.
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Octet 13 of the header.
    #[inline]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all bits of `other` are set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Sets the bits of `other`.
    #[inline]
    pub const fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Clears the bits of `other`.
    #[inline]
    pub const fn remove(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    /// The bits of both; `|` for constants.
    #[inline]
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOr for Flags {
    type Output = Self;
    #[inline]
    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl BitOrAssign for Flags {
    #[inline]
    fn bitor_assign(&mut self, other: Self) {
        self.insert(other);
    }
}

/// `SYN|ACK`; `-` for no flag.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let mut separator = "";
        for (bit, name) in NAMES.iter().enumerate() {
            if self.0 & (1 << bit) != 0 {
                write!(f, "{separator}{name}")?;
                separator = "|";
            }
        }
        f.write_str(if self.0 == 0 { "-" } else { "" })
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A TCP segment without its ports and without its bytes. Plain data; `default()` is an empty segment without flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Sequence number of the first octet, the SYN if there is one.
    pub seq: SeqNumber,
    /// Next sequence number expected. Means something only with [`Flags::ACK`]; decoded and emitted as it stands.
    pub ack: SeqNumber,
    /// Control bits.
    pub flags: Flags,
    /// The window field: unscaled.
    pub window: u16,
    /// The urgent pointer. Means something only with [`Flags::URG`]; decoded and emitted as it stands.
    pub urgent: u16,
    /// Options.
    pub options: Options,
    /// Octets of payload.
    pub payload_len: usize,
}

impl Segment {
    /// Sequence space that the segment takes: payload, SYN and FIN (SEG.LEN of RFC 9293 3.4).
    #[inline]
    pub const fn sequence_len(&self) -> u32 {
        let syn = self.flags.contains(Flags::SYN) as u32;
        let fin = self.flags.contains(Flags::FIN) as u32;
        self.payload_len as u32 + syn + fin
    }

    /// Octets of the TCP header with options as [`emit`](crate::emit) writes it: 20..=60, a multiple of four.
    #[inline]
    pub const fn header_len(&self) -> usize {
        HEADER_LEN + self.options.emitted_len()
    }
}

/// What a TCP header says. `payload_len` is right; the checksum is not looked at.
pub(crate) struct Parsed<'a> {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) checksum: u16,
    /// Complete but for `options` where those are unusual.
    pub(crate) segment: Segment,
    /// An option list that is neither empty nor timestamps alone, and is to be parsed into its final place: building the options
    /// on the way and moving them costs more than the rest of the header (wide loads over narrow stores wait).
    pub(crate) unusual_options: Option<&'a [u8]>,
}

/// Parses a TCP segment that fills `bytes`.
#[inline(always)]
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed<'_>, DropReason> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(DropReason::BadDataOffset);
    };
    let header_len = usize::from(header[12] >> 4) * 4;
    let Some(options_len) = header_len.checked_sub(HEADER_LEN) else {
        return Err(DropReason::BadDataOffset);
    };
    let Some((options, payload)) = rest.split_at_checked(options_len) else {
        return Err(DropReason::BadDataOffset);
    };
    let usual = Options::parse_usual(options);
    Ok(Parsed {
        source_port: u16::from_be_bytes([header[0], header[1]]),
        destination_port: u16::from_be_bytes([header[2], header[3]]),
        checksum: u16::from_be_bytes([header[16], header[17]]),
        segment: Segment {
            seq: SeqNumber::new(u32::from_be_bytes([
                header[4], header[5], header[6], header[7],
            ])),
            ack: SeqNumber::new(u32::from_be_bytes([
                header[8], header[9], header[10], header[11],
            ])),
            flags: Flags::from_bits(header[13]),
            window: u16::from_be_bytes([header[14], header[15]]),
            urgent: u16::from_be_bytes([header[18], header[19]]),
            options: usual.unwrap_or_default(),
            payload_len: payload.len(),
        },
        unusual_options: if usual.is_none() { Some(options) } else { None },
    })
}

/// Writes header and options into `header`, which has exactly `segment.header_len()` octets, and returns their sum. The
/// checksum field, octets 16 and 17, is zero.
#[inline]
pub(crate) fn write(
    header: &mut [u8],
    source_port: u16,
    destination_port: u16,
    segment: &Segment,
) -> Sum {
    let data_offset = (header.len() / 4) as u16;
    let mut words = Words::new(header);
    words.put_halves(source_port, destination_port);
    words.put(segment.seq.raw());
    words.put(segment.ack.raw());
    words.put_halves(
        data_offset << 12 | u16::from(segment.flags.bits()),
        segment.window,
    );
    words.put_halves(0, segment.urgent);
    segment.options.write(&mut words);
    words.sum()
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn flags_print_and_combine() {
        assert_eq!((Flags::SYN | Flags::ACK).to_string(), "SYN|ACK");
        assert_eq!(Flags::EMPTY.to_string(), "-");
        let mut flags = Flags::SYN | Flags::FIN;
        flags.remove(Flags::FIN);
        assert_eq!(flags, Flags::SYN);
        assert!(
            !flags.contains(Flags::SYN | Flags::ACK) && flags.intersects(Flags::SYN | Flags::ACK)
        );
    }

    #[test]
    fn sequence_length_counts_syn_and_fin() {
        let segment = |flags| Segment {
            flags,
            payload_len: 10,
            ..Segment::default()
        };
        assert_eq!(segment(Flags::ACK).sequence_len(), 10);
        assert_eq!(segment(Flags::SYN).sequence_len(), 11);
        assert_eq!(segment(Flags::SYN | Flags::FIN).sequence_len(), 12);
    }
}
