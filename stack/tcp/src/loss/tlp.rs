//! Tail loss probes (RFC 8985 7): the last segments of a flight have nothing behind them that would tell of their loss.
//!
//! Two smoothed round trips after the last transmission or acknowledgment, instead of waiting for the retransmission timer,
//! a new segment goes, or else the last one again. What comes back is a SACK, from which RACK finds what is missing; or, if
//! only the last segment was lost, a plain acknowledgment, which must then still count as a loss for the congestion window.

use bywash_wire::SeqNumber;

use crate::config::Config;
use crate::snapshot::code;
use crate::snd::Acked;
use crate::time::Duration;

/// A probe that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// TLP.end_seq: `snd.nxt` behind it.
    pub(super) end: SeqNumber,
    /// TLP.is_retrans.
    pub(super) again: bool,
}

code!(struct Probe { end, again });

/// What an acknowledgment says of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing yet.
    Open,
    /// Nothing was lost.
    Clean,
    /// The probe has repaired a loss.
    Repaired,
}

impl Probe {
    /// RFC 8985 7.4.2; `ack`: the segment's acknowledgment, `twin`: its D-SACK names the probe, `pure`: it brings nothing.
    pub(super) fn answer(&self, ack: SeqNumber, acked: &Acked, pure: bool, twin: bool) -> Answer {
        if ack.before(self.end) {
            return Answer::Open;
        }
        if !self.again || twin {
            return Answer::Clean;
        }
        if ack.after(self.end) {
            return Answer::Repaired;
        }
        if pure && acked.seq_len == 0 && acked.sacked == 0 {
            // The same number once more: first transmission and probe have both arrived.
            return Answer::Clean;
        }
        Answer::Open
    }
}

/// How long to wait for an acknowledgment before probing (PTO, RFC 8985 7.2). With one segment out the peer may delay its
/// acknowledgment; Linux allows it as long as the least time-out.
pub(super) fn probe_timeout(srtt: Duration, outstanding: usize, config: &Config) -> Duration {
    const SLACK: Duration = Duration::from_millis(2);
    if srtt == Duration::ZERO {
        return config.initial_rto;
    }
    let slack = if outstanding == 1 {
        config.rto_min
    } else {
        SLACK
    };
    srtt * 2 + slack
}
