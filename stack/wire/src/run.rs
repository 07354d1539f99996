//! Runs: segments of one flow that arrive one behind the other, and headers that differ from the last one only in their number.
//!
//! ```text
//!  head:      | Ethernet | IP . . . . . | TCP . . . . . . . . options |   decoded in full
//!  follower:  |  equal   | length, id,  | number, checksum, PSH:      |   compared with the head's, under a mask
//!             |          | checksum     | its own; the rest is equal  |
//! ```
//! What a kernel's GRO joins into one packet is recognised here, and each segment's checksums are verified all the same; but
//! nothing of a follower's header is read a second time that is known from the head. Sending, a [`Template`] is the reverse.

use core::ops::Range;

use crate::checksum::{Sum, pseudo_header, sum};
use crate::{
    ChecksumPolicy, Decoded, Ecn, Flags, Link, Segment, SeqNumber, Tuple, emit, ethernet,
    header_len, ipv4, ipv6,
};

/// Octets of a frame that are compared: all headers that can be in a run, and perhaps payload, which the mask leaves out.
const FRONT: usize = 96;
const WORDS: usize = FRONT / 8;

/// Longest headers that [`emit`](crate::emit) writes: two VLAN tags, IPv6, TCP with all options.
const HEADERS_MAX: usize = 22 + 40 + 60;

/// Where the headers of a frame are.
#[derive(Clone, Copy, Debug)]
struct Layout {
    ip: usize,
    tcp: usize,
    v4: bool,
}

impl Layout {
    /// Of a frame with at most one VLAN tag, an IPv4 header without options or an IPv6 header without extensions; `None`: it
    /// is another one.
    fn of(frame: &[u8; FRONT]) -> Option<Self> {
        let half = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let (ip, ethertype) = match half(12) {
            ethernet::TPID_CUSTOMER | ethernet::TPID_SERVICE => {
                (ethernet::HEADER_LEN + ethernet::TAG_LEN, half(16))
            }
            ethertype => (ethernet::HEADER_LEN, ethertype),
        };
        let (v4, len) = match (ethertype, frame[ip]) {
            (ethernet::ETHERTYPE_IPV4, 0x45) => (true, ipv4::HEADER_LEN),
            (ethernet::ETHERTYPE_IPV6, _) if frame[ip + 6] == crate::PROTOCOL_TCP => {
                (false, ipv6::HEADER_LEN)
            }
            _ => return None,
        };
        Some(Self {
            ip,
            tcp: ip + len,
            v4,
        })
    }

    /// Bits that followers have in common with their head: 1.
    fn mask(self, headers: usize) -> [u8; FRONT] {
        let mut mask = [0; FRONT];
        mask[..headers].fill(0xff);
        if self.v4 {
            // Total length, identification; header checksum.
            mask[self.ip + 2..self.ip + 6].fill(0);
            mask[self.ip + 10..self.ip + 12].fill(0);
        } else {
            mask[self.ip + 4..self.ip + 6].fill(0);
        }
        mask[self.tcp + 4..self.tcp + 8].fill(0);
        mask[self.tcp + 13] = !Flags::PSH.bits();
        mask[self.tcp + 16..self.tcp + 18].fill(0);
        mask
    }
}

fn words(octets: &[u8; FRONT]) -> [u64; WORDS] {
    let (chunks, _) = octets.as_chunks::<8>();
    core::array::from_fn(|at| u64::from_ne_bytes(chunks[at]))
}

/// A segment that has arrived, as what the next one may follow.
#[derive(Clone, Debug)]
pub struct Run {
    head: [u64; WORDS],
    mask: [u64; WORDS],
    layout: Layout,
    /// Sum of both addresses and the protocol.
    addresses: Sum,
    /// Where payload begins.
    payload: usize,
    /// The segment that came last: all but number, PSH and length is the head's.
    segment: Segment,
}

/// A segment that follows on the last one of a [`Run`]; [`Run::segment`] is its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follower {
    /// Where the payload lies in the frame.
    pub payload: Range<usize>,
    /// As [`Decoded::partial_checksum`](crate::Decoded).
    pub partial_checksum: bool,
}

impl Run {
    /// The run that `frame` may be the head of; `decoded` is what it says. Only plain data has followers: no flags but ACK and
    /// PSH, no congestion mark, no SACK blocks or user time-out.
    pub fn of(frame: &[u8], decoded: &Decoded) -> Option<Self> {
        let front = frame.first_chunk::<FRONT>()?;
        let segment = decoded.segment;
        let mut flags = segment.flags;
        flags.remove(Flags::PSH);
        let plain = flags == Flags::ACK
            && decoded.ecn != Ecn::Ce
            && segment.payload_len > 0
            && segment.options.sack.is_empty()
            && segment.options.user_timeout.is_none();
        let layout = Layout::of(front)?;
        let payload = decoded.payload.start;
        if !plain
            || payload > FRONT
            || payload != layout.tcp + usize::from(front[layout.tcp + 12] >> 4) * 4
        {
            return None;
        }
        let addresses = if layout.v4 { 12..20 } else { 8..40 };
        let addresses = sum(&frame[layout.ip + addresses.start..layout.ip + addresses.end]);
        Some(Self {
            head: words(front),
            mask: words(&layout.mask(payload)),
            layout,
            addresses: addresses.then(Sum::from_words(crate::PROTOCOL_TCP.into())),
            payload,
            segment,
        })
    }

    /// Whether `next` looks like a segment of the flow of `frame`: the cheap question before a run is begun.
    #[inline]
    pub fn may_begin(frame: &[u8], next: &[u8]) -> bool {
        match (frame.first_chunk::<FRONT>(), next.first_chunk::<FRONT>()) {
            // Of an untagged IPv4 packet these are the addresses and ports; of others some octets of them.
            (Some(frame), Some(next)) => {
                frame[26..34] == next[26..34] && frame[34..38] == next[34..38]
            }
            _ => false,
        }
    }

    /// The header of the segment that came last.
    #[inline]
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Whether the frame carries the segment behind the last one, with an equal header and right checksums; then it is the last
    /// one. `None` says nothing of the frame: it is to be decoded.
    #[inline]
    pub fn take(&mut self, frame: &[u8], policy: ChecksumPolicy) -> Option<Follower> {
        let front = frame.first_chunk::<FRONT>()?;
        let mut differs = 0;
        for ((word, head), mask) in words(front).iter().zip(&self.head).zip(&self.mask) {
            differs |= (word ^ head) & mask;
        }
        let Layout { ip, tcp, v4 } = self.layout;
        let half = |at: usize| u16::from_be_bytes([front[at], front[at + 1]]);
        let end = if v4 {
            ip + usize::from(half(ip + 2))
        } else {
            tcp + usize::from(half(ip + 4))
        };
        let number = front[tcp + 4..].first_chunk::<4>()?;
        let seq = SeqNumber::new(u32::from_be_bytes(*number));
        if differs != 0
            || seq != self.segment.seq + self.segment.payload_len as u32
            || end <= self.payload
            || end > frame.len()
        {
            return None;
        }
        if v4 && sum(front[ip..].first_chunk::<{ ipv4::HEADER_LEN }>()?).finish() != 0 {
            return None;
        }
        let length = Sum::from_words((end - tcp) as u64);
        let pseudo = self.addresses.then(length);
        let partial_checksum = match policy {
            ChecksumPolicy::Trusted => false,
            ChecksumPolicy::FullOrPseudo if half(tcp + 16) == pseudo.partial() => true,
            ChecksumPolicy::Full | ChecksumPolicy::FullOrPseudo => {
                if pseudo.then(sum(&frame[tcp..end])).finish() != 0 {
                    return None;
                }
                false
            }
        };
        self.segment.seq = seq;
        self.segment.payload_len = end - self.payload;
        self.segment.flags = Flags::from_bits(front[tcp + 13]);
        Some(Follower {
            payload: self.payload..end,
            partial_checksum,
        })
    }
}

/// Headers of segments of a flow that are equal but for number and payload, and of the same length.
#[derive(Clone, Debug)]
pub struct Template {
    octets: [u8; HEADERS_MAX],
    len: usize,
    tcp: usize,
    /// What the checksum covers but for number and payload.
    rest: Sum,
    /// The checksum field of a segment that is completed behind us.
    partial: u16,
}

impl Template {
    /// The headers that [`emit`](crate::emit) writes for `segment`.
    ///
    /// # Panics
    /// As [`emit`](crate::emit).
    pub fn new(link: &Link, tuple: &Tuple, ecn: Ecn, hop_limit: u8, segment: &Segment) -> Self {
        let len = header_len(link, tuple, segment);
        let tcp = len - segment.header_len();
        let mut octets = [0; HEADERS_MAX];
        let unnumbered = Segment {
            seq: SeqNumber::new(0),
            ..*segment
        };
        emit(
            &mut octets[..len],
            link,
            tuple,
            ecn,
            hop_limit,
            &unnumbered,
            Sum::ZERO,
        );
        let checksum = u16::from_be_bytes([octets[tcp + 16], octets[tcp + 17]]);
        let segment_len = segment.header_len() + segment.payload_len;
        let pseudo = pseudo_header(tuple.local, tuple.remote, tuple.protocol, segment_len);
        Self {
            octets,
            len,
            tcp,
            // What is summed is never zero, so the complement of the complement is the sum.
            rest: Sum::from_words(u64::from(!checksum)),
            partial: pseudo.partial(),
        }
    }

    /// Octets of the headers.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "headers are never empty")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Where the TCP header begins.
    #[inline]
    pub const fn tcp(&self) -> usize {
        self.tcp
    }

    /// As [`emit`](crate::emit): `payload` is the sum of the payload, which is as long as the template's.
    ///
    /// # Panics
    /// If `header` is not exactly [`len`](Self::len) octets.
    #[inline]
    pub fn write(&self, header: &mut [u8], seq: SeqNumber, payload: Sum) {
        let number = Sum::from_words(seq.raw().into());
        let checksum = self.rest.then(number).then(payload).finish();
        self.put(header, seq, checksum);
    }

    /// As [`emit_partial`](crate::emit_partial).
    ///
    /// # Panics
    /// If `header` is not exactly [`len`](Self::len) octets.
    #[inline]
    pub fn write_partial(&self, header: &mut [u8], seq: SeqNumber) {
        self.put(header, seq, self.partial);
    }

    #[inline(always)]
    fn put(&self, header: &mut [u8], seq: SeqNumber, checksum: u16) {
        /// Untagged IPv4, TCP with timestamps: nearly all there is. Of a known length, a copy is a few instructions.
        const USUAL: usize = 66;
        match <&mut [u8; USUAL]>::try_from(&mut *header) {
            Ok(header) if self.len == USUAL => header.copy_from_slice(&self.octets[..USUAL]),
            _ => header.copy_from_slice(&self.octets[..self.len]),
        }
        let tcp = &mut header[self.tcp..];
        tcp[4..8].copy_from_slice(&seq.raw().to_be_bytes());
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    }
}
