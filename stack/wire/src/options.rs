//! TCP options: parsing what comes, writing what Linux would write.
//!
//! Options are a list of kind, length, value, where two kinds (end, no-operation) are a lone octet. A list is taken as Linux
//! takes it: an unknown option, or a known one of the wrong length, is skipped by its length; a length below two or
//! beyond the header ends the parsing, and the segment is kept with what was read until then. Dropping it would be
//! no safer (the checksum was right, so the peer means it) and would let one odd middlebox end a connection. A repeated option counts as its last instance.
//!
//! MSS, window scale, SACK-permitted and Fast Open exist on SYN segments only (RFC 9293 3.2, RFC 7323 2.2, RFC 2018 2,
//! RFC 7413 4.1.1) and are ignored elsewhere, so that no later code has to remember that. Without SYN, SACK blocks are read; on SYN they are not.

use core::fmt;

use crate::SeqNumber;
use crate::fast_open::{self, FastOpen};
use crate::words::Words;

/// Octets that options may take: a data offset of 15 words, less the fixed header.
pub const MAX_LEN: usize = 40;

/// Largest window scale; a larger one counts as this (RFC 7323 2.3).
pub const MAX_WINDOW_SCALE: u8 = 14;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
const USER_TIMEOUT: u8 = 28;

const MSS_LEN: usize = 4;
const WINDOW_SCALE_LEN: usize = 3;
const SACK_PERMITTED_LEN: usize = 2;
const TIMESTAMPS_LEN: usize = 10;
const USER_TIMEOUT_LEN: usize = 4;
const SACK_BLOCK_LEN: usize = 8;
/// NOP, NOP, kind, length.
const SACK_HEAD_LEN: usize = 4;

/// The timestamps option (RFC 7323 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: the clock value echoed. Means something only with the ACK flag.
    pub echo: u32,
}

/// Up to four selectively acknowledged ranges `start..end` (RFC 2018 3), in the order of the option, in place.
#[derive(Clone, Copy, Default)]
pub struct SackBlocks {
    blocks: [(SeqNumber, SeqNumber); Self::CAPACITY],
    len: u8,
}

impl SackBlocks {
    /// How many blocks an option can hold. Beside timestamps three fit, and [`emit`](crate::emit) writes the first three.
    pub const CAPACITY: usize = 4;

    /// No block.
    pub const EMPTY: Self = Self {
        blocks: [(SeqNumber::new(0), SeqNumber::new(0)); Self::CAPACITY],
        len: 0,
    };

    /// Adds the block `start..end` behind the others. False, and nothing done, if there are four.
    #[inline]
    pub const fn push(&mut self, start: SeqNumber, end: SeqNumber) -> bool {
        if self.len() == Self::CAPACITY {
            return false;
        }
        self.blocks[self.len as usize] = (start, end);
        self.len += 1;
        true
    }

    /// How many blocks there are.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The blocks, first one first: (first octet, octet behind the last).
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (SeqNumber, SeqNumber)> + '_ {
        self.as_slice().iter().copied()
    }

    /// The blocks as they lie.
    #[inline]
    pub fn as_slice(&self) -> &[(SeqNumber, SeqNumber)] {
        &self.blocks[..self.len()]
    }
}

impl PartialEq for SackBlocks {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for SackBlocks {}

impl fmt::Debug for SackBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|(start, end)| start..end))
            .finish()
    }
}

impl FromIterator<(SeqNumber, SeqNumber)> for SackBlocks {
    /// The first four of `blocks`.
    fn from_iter<I: IntoIterator<Item = (SeqNumber, SeqNumber)>>(blocks: I) -> Self {
        let mut all = Self::EMPTY;
        for (start, end) in blocks.into_iter().take(Self::CAPACITY) {
            all.push(start, end);
        }
        all
    }
}

/// The options of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Maximum segment size, octets; never zero when parsed. On SYN only.
    pub mss: Option<u16>,
    /// Window scale, 0..=14 when parsed. On SYN only.
    pub window_scale: Option<u8>,
    /// The sender takes SACK blocks. On SYN only.
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// How long the sender waits for acknowledgments before it gives up (RFC 5482 2), as on the wire: 15 bits of seconds, or of
    /// minutes if the high bit is set. See [`Options::user_timeout_seconds`].
    pub user_timeout: Option<u16>,
    /// A Fast Open cookie, or the wish for one (RFC 7413). On SYN only; left out if the others leave no room.
    pub fast_open: Option<FastOpen>,
    /// Selective acknowledgments.
    pub sack: SackBlocks,
}

impl Options {
    /// No option.
    pub const NONE: Self = Self {
        mss: None,
        window_scale: None,
        sack_permitted: false,
        timestamps: None,
        user_timeout: None,
        fast_open: None,
        sack: SackBlocks::EMPTY,
    };

    /// The user time-out in seconds. Zero stands for none: RFC 5482 2 reserves it.
    pub fn user_timeout_seconds(&self) -> Option<u32> {
        let field = self.user_timeout?;
        let value = u32::from(field & 0x7fff);
        let seconds = if field & 0x8000 != 0 {
            value * 60
        } else {
            value
        };
        (seconds > 0).then_some(seconds)
    }

    /// The field that says `seconds`, in minutes if that is needed, and at most 32767 minutes.
    pub fn user_timeout_field(seconds: u64) -> u16 {
        const LARGEST: u64 = 0x7fff;
        if seconds <= LARGEST {
            seconds as u16
        } else {
            0x8000 | seconds.div_ceil(60).min(LARGEST) as u16
        }
    }

    /// Octets that [`emit`](crate::emit) writes for these options: 0..=40, a multiple of four.
    #[inline]
    pub const fn emitted_len(&self) -> usize {
        let blocks = self.emitted_blocks();
        self.len_before_sack()
            + if blocks == 0 {
                0
            } else {
                SACK_HEAD_LEN + blocks * SACK_BLOCK_LEN
            }
    }

    /// Everything in front of the SACK blocks, padded.
    #[inline]
    const fn len_before_sack(&self) -> usize {
        let len = self.len_before_fast_open();
        match &self.fast_open {
            Some(fast_open) if len + fast_open.padded_len() <= MAX_LEN => {
                len + fast_open.padded_len()
            }
            _ => len,
        }
    }

    #[inline]
    const fn len_before_fast_open(&self) -> usize {
        let mut len = 0;
        if self.mss.is_some() {
            len += MSS_LEN;
        }
        if self.timestamps.is_some() {
            len += 12; // the two octets of padding are SACK-permitted's when that is sent too
        } else if self.sack_permitted {
            len += 4;
        }
        if self.window_scale.is_some() {
            len += 4;
        }
        if self.user_timeout.is_some() {
            len += USER_TIMEOUT_LEN;
        }
        len
    }

    /// The blocks that there is room for.
    #[inline]
    const fn emitted_blocks(&self) -> usize {
        let room =
            (MAX_LEN - self.len_before_sack()).saturating_sub(SACK_HEAD_LEN) / SACK_BLOCK_LEN;
        if self.sack.len() < room {
            self.sack.len()
        } else {
            room
        }
    }

    /// The options of nearly every segment of an established connection: none, or timestamps as RFC 7323 appendix A
    /// aligns them. `None`: the list is another one, and [`parse`](Self::parse) must walk it.
    #[inline(always)]
    pub(crate) fn parse_usual(list: &[u8]) -> Option<Self> {
        match *list {
            [] => Some(Self::NONE),
            [NOP, NOP, TIMESTAMPS, 10, v0, v1, v2, v3, e0, e1, e2, e3] => {
                let value = u32::from_be_bytes([v0, v1, v2, v3]);
                let echo = u32::from_be_bytes([e0, e1, e2, e3]);
                Some(Self {
                    timestamps: Some(Timestamps { value, echo }),
                    ..Self::NONE
                })
            }
            _ => None,
        }
    }

    /// Parses the option octets of a header.
    #[inline(never)]
    pub(crate) fn parse(mut list: &[u8], syn: bool) -> Self {
        let mut options = Self::NONE;
        while let [kind, rest @ ..] = list {
            match *kind {
                END => break,
                NOP => list = rest,
                kind => {
                    let Some((value, behind)) = rest.split_first().and_then(|(&len, rest)| {
                        rest.split_at_checked(usize::from(len).checked_sub(2)?)
                    }) else {
                        break; // a length that cannot be: keep what was read so far
                    };
                    options.take(kind, value, syn);
                    list = behind;
                }
            }
        }
        options
    }

    fn take(&mut self, kind: u8, value: &[u8], syn: bool) {
        match (kind, value) {
            // An MSS of zero says nothing that could be obeyed.
            (MSS, &[a, b]) if syn && [a, b] != [0, 0] => {
                self.mss = Some(u16::from_be_bytes([a, b]))
            }
            // RFC 7323 2.3: a shift above 14 counts as 14.
            (WINDOW_SCALE, &[shift]) if syn => {
                self.window_scale = Some(shift.min(MAX_WINDOW_SCALE))
            }
            (SACK_PERMITTED, []) if syn => self.sack_permitted = true,
            (TIMESTAMPS, &[v0, v1, v2, v3, e0, e1, e2, e3]) => {
                self.timestamps = Some(Timestamps {
                    value: u32::from_be_bytes([v0, v1, v2, v3]),
                    echo: u32::from_be_bytes([e0, e1, e2, e3]),
                });
            }
            (USER_TIMEOUT, &[a, b]) => self.user_timeout = Some(u16::from_be_bytes([a, b])),
            (fast_open::KIND, value) if syn => self.take_fast_open(value, false),
            (fast_open::EXPERIMENT, [a, b, value @ ..]) if syn && [*a, *b] == fast_open::MAGIC => {
                self.take_fast_open(value, true);
            }
            (SACK, blocks) if !syn => {
                let (blocks, []) = blocks.as_chunks::<SACK_BLOCK_LEN>() else {
                    return;
                };
                self.sack = blocks
                    .iter()
                    .map(|&[s0, s1, s2, s3, e0, e1, e2, e3]| {
                        (
                            SeqNumber::new(u32::from_be_bytes([s0, s1, s2, s3])),
                            SeqNumber::new(u32::from_be_bytes([e0, e1, e2, e3])),
                        )
                    })
                    .collect();
            }
            _ => {}
        }
    }

    fn take_fast_open(&mut self, value: &[u8], experimental: bool) {
        if let Some(option) = FastOpen::parse(value, experimental) {
            self.fast_open = Some(option);
        }
    }

    /// Writes [`emitted_len`](Self::emitted_len) octets in Linux's order (`tcp_options_write`): MSS, SACK-permitted with
    /// timestamps, window scale, user time-out, each padded in front to a multiple of four; Fast Open, padded behind; SACK blocks.
    #[inline]
    pub(crate) fn write(&self, words: &mut Words<'_>) {
        if let Some(mss) = self.mss {
            words.put(word(MSS, MSS_LEN, 0, 0) | u32::from(mss));
        }
        match (self.timestamps, self.sack_permitted) {
            (Some(Timestamps { value, echo }), sack_permitted) => {
                words.put(if sack_permitted {
                    word(
                        SACK_PERMITTED,
                        SACK_PERMITTED_LEN,
                        TIMESTAMPS,
                        TIMESTAMPS_LEN,
                    )
                } else {
                    word(NOP, NOP.into(), TIMESTAMPS, TIMESTAMPS_LEN)
                });
                words.put(value);
                words.put(echo);
            }
            (None, true) => words.put(word(NOP, NOP.into(), SACK_PERMITTED, SACK_PERMITTED_LEN)),
            (None, false) => {}
        }
        if let Some(shift) = self.window_scale {
            words.put(word(
                NOP,
                WINDOW_SCALE.into(),
                WINDOW_SCALE_LEN as u8,
                shift.into(),
            ));
        }
        if let Some(field) = self.user_timeout {
            words.put(word(USER_TIMEOUT, USER_TIMEOUT_LEN, 0, 0) | u32::from(field));
        }
        if let Some(fast_open) = &self.fast_open
            && self.len_before_sack() > self.len_before_fast_open()
        {
            fast_open.words().for_each(|word| words.put(word));
        }
        let blocks = self.emitted_blocks();
        if blocks > 0 {
            words.put(word(NOP, NOP.into(), SACK, 2 + blocks * SACK_BLOCK_LEN));
            for (start, end) in self.sack.iter().take(blocks) {
                words.put(start.raw());
                words.put(end.raw());
            }
        }
    }
}

/// Four octets in the order of the wire; those that may be lengths are taken as such.
#[inline(always)]
const fn word(a: u8, b: usize, c: u8, d: usize) -> u32 {
    u32::from_be_bytes([a, b as u8, c, d as u8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_timeouts_in_seconds_and_minutes() {
        for (seconds, field) in [
            (1, 1),
            (32_767, 0x7fff),
            (32_768, 0x8000 | 547),
            (u64::MAX, 0xffff),
        ] {
            assert_eq!(Options::user_timeout_field(seconds), field);
        }
        let seconds = |field| {
            let user_timeout = Some(field);
            let options = Options {
                user_timeout,
                ..Options::NONE
            };
            options.user_timeout_seconds()
        };
        assert_eq!(seconds(0), None);
        assert_eq!(seconds(0x8000), None);
        assert_eq!(seconds(90), Some(90));
        assert_eq!(seconds(0x8000 | 2), Some(120));
    }
}
