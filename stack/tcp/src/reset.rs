//! The CLOSED state: what a segment gets that belongs to no connection.

use bywash_wire::{Flags, Segment, SeqNumber};

/// The RST that answers `segment` where there is no connection (RFC 9293 3.10.7.1). `None` for a RST: those are never
/// answered.
pub fn reset_for(segment: &Segment) -> Option<Segment> {
    if segment.flags.contains(Flags::RST) {
        return None;
    }
    let mut reset = Segment {
        flags: Flags::RST,
        ..Segment::default()
    };
    if segment.flags.contains(Flags::ACK) {
        reset.seq = segment.ack;
    } else {
        reset.seq = SeqNumber::new(0);
        reset.ack = segment.seq + segment.sequence_len();
        reset.flags.insert(Flags::ACK);
    }
    Some(reset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(flags: Flags, payload_len: usize) -> Segment {
        Segment {
            seq: SeqNumber::new(1_000),
            ack: SeqNumber::new(77),
            flags,
            payload_len,
            ..Segment::default()
        }
    }

    #[test]
    fn an_acknowledgment_is_answered_where_it_points() {
        let reset = reset_for(&segment(Flags::ACK, 10)).unwrap();
        assert_eq!((reset.seq.raw(), reset.flags), (77, Flags::RST));
    }

    #[test]
    fn anything_else_is_acknowledged_as_a_whole() {
        let reset = reset_for(&segment(Flags::SYN | Flags::FIN, 10)).unwrap();
        assert_eq!((reset.seq.raw(), reset.ack.raw()), (0, 1_012));
        assert_eq!(reset.flags, Flags::RST | Flags::ACK);
    }

    #[test]
    fn a_reset_is_never_answered() {
        assert_eq!(reset_for(&segment(Flags::RST | Flags::ACK, 0)), None);
    }
}
