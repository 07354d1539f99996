//! The states of a connection and the one function that changes them.
//!
//! ```text
//!   SYN-SENT --syn-acked--> ESTABLISHED --close--> FIN-WAIT-1 --fin-acked--> FIN-WAIT-2
//!      |                     ^       |                 |                         |
//!   syn (both at once)  syn-acked  peer-fin         peer-fin                  peer-fin
//!      v                     |       v                 v                         v
//!   SYN-RECEIVED ------------+   CLOSE-WAIT         CLOSING ----fin-acked--> TIME-WAIT
//!      ^                             | close                                     | expired
//!   (Listener)                       v                                           v
//!                                 LAST-ACK ------------fin-acked-------------> CLOSED
//! ```
//! This is RFC 9293 3.3.2, figure 5. A state holds only what is legal in it: how CLOSED was reached, who opened what is in
//! SYN-RECEIVED. Sequence numbers belong to the parts (`snd`, `rcv`), which exist in every state but CLOSED's.

use alloc::vec::Vec;

use crate::event::CloseReason;
use crate::snapshot::{Code, Reader, SnapshotError, code};

/// The states of RFC 9293 3.3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// No connection.
    Closed,
    /// Waiting for a SYN; only a [`Listener`](crate::Listener) is ever here.
    Listen,
    /// SYN sent.
    SynSent,
    /// SYN received and sent, ours not acknowledged.
    SynReceived,
    /// Data flows both ways.
    Established,
    /// We closed; our FIN is not acknowledged.
    FinWait1,
    /// We closed; our FIN is acknowledged.
    FinWait2,
    /// The peer closed.
    CloseWait,
    /// Both closed at once; our FIN is not acknowledged.
    Closing,
    /// The peer closed, then we; our FIN is not acknowledged.
    LastAck,
    /// Both closed; waiting for old segments to die.
    TimeWait,
}

impl State {
    /// The RFC's name, such as `FIN-WAIT-1`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "CLOSED",
            Self::Listen => "LISTEN",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECEIVED",
            Self::Established => "ESTABLISHED",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::CloseWait => "CLOSE-WAIT",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST-ACK",
            Self::TimeWait => "TIME-WAIT",
        }
    }
}

impl core::fmt::Display for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// Who sent the first SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    Actively,
    Passively,
    /// Passively, and what came with the SYN was taken (RFC 7413): the application has the connection already.
    Early,
}

/// A state with what is legal in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Closed(CloseReason),
    SynSent,
    SynReceived(Opened),
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
}

/// What can change a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// The peer's SYN without an acknowledgment of ours.
    Syn,
    /// The peer's SYN shows a cookie that is right.
    EarlyData,
    /// Both SYNs are acknowledged.
    SynAcked,
    /// The application has no more to send.
    Close,
    /// The peer's FIN is in order.
    PeerFin,
    /// The peer has acknowledged our FIN.
    FinAcked,
    /// An acceptable RST.
    Reset,
    /// The state's own time is over (TIME-WAIT, FIN-WAIT-2).
    Expired,
    /// The peer does not answer any more.
    TimedOut,
    /// A router says that the peer cannot be reached, and nothing was heard of it since.
    Unreachable,
    /// The application gives up.
    Abort,
}

impl Phase {
    /// The state that follows, or `None` if `input` changes nothing. No other code decides this.
    pub(crate) const fn after(self, input: Input) -> Option<Self> {
        use Input::*;
        use Phase as To;
        Some(match (self, input) {
            (To::Closed(_), _) => return None,
            (_, Abort) => To::Closed(CloseReason::Aborted),
            (_, TimedOut) => To::Closed(CloseReason::TimedOut),
            (_, Unreachable) => To::Closed(CloseReason::Unreachable),

            (To::SynSent, Syn) => To::SynReceived(Opened::Actively),
            (To::SynReceived(Opened::Passively), EarlyData) => To::SynReceived(Opened::Early),
            (To::SynSent | To::SynReceived(_), SynAcked) => To::Established,
            // RFC 9293 3.10.4: nothing was agreed yet, so nothing is left to close.
            (To::SynSent, Close) => To::Closed(CloseReason::Aborted),
            // In SYN-RECEIVED a close waits for ESTABLISHED (the second choice of RFC 9293 3.10.4): no entry.
            // The application has begun: to it nothing was refused.
            (To::SynReceived(Opened::Early), Reset) => To::Closed(CloseReason::Reset),
            (To::SynSent | To::SynReceived(_), Reset) => To::Closed(CloseReason::Refused),

            (To::Established, Close) => To::FinWait1,
            (To::Established, PeerFin) => To::CloseWait,
            (To::FinWait1, FinAcked) => To::FinWait2,
            (To::FinWait1, PeerFin) => To::Closing,
            (To::FinWait2, PeerFin) => To::TimeWait,
            (To::Closing, FinAcked) => To::TimeWait,
            (To::CloseWait, Close) => To::LastAck,
            (To::LastAck, FinAcked) => To::Closed(CloseReason::Finished),
            (To::TimeWait | To::FinWait2, Expired) => To::Closed(CloseReason::Finished),
            // RFC 1337 3: a RST must not end TIME-WAIT.
            (To::TimeWait, Reset) => return None,
            (_, Reset) => To::Closed(CloseReason::Reset),
            _ => return None,
        })
    }

    /// The public name.
    pub(crate) const fn state(self) -> State {
        match self {
            Self::Closed(_) => State::Closed,
            Self::SynSent => State::SynSent,
            Self::SynReceived(_) => State::SynReceived,
            Self::Established => State::Established,
            Self::FinWait1 => State::FinWait1,
            Self::FinWait2 => State::FinWait2,
            Self::CloseWait => State::CloseWait,
            Self::Closing => State::Closing,
            Self::LastAck => State::LastAck,
            Self::TimeWait => State::TimeWait,
        }
    }

    /// Both SYNs are acknowledged and the connection is not over.
    pub(crate) const fn is_synchronised(self) -> bool {
        !matches!(self, Self::Closed(_) | Self::SynSent | Self::SynReceived(_))
    }

    /// Data may be sent: the connection is synchronised, or was opened early (RFC 7413).
    pub(crate) const fn transfers(self) -> bool {
        self.is_synchronised() || matches!(self, Self::SynReceived(Opened::Early))
    }

    /// The peer may still send data.
    pub(crate) const fn receives(self) -> bool {
        matches!(self, Self::Established | Self::FinWait1 | Self::FinWait2)
    }

    /// The application may still queue data.
    pub(crate) const fn takes_data(self) -> bool {
        matches!(
            self,
            Self::SynSent | Self::SynReceived(_) | Self::Established | Self::CloseWait
        )
    }
}

code!(
    enum CloseReason {
        Finished = 0,
        Reset = 1,
        TimedOut = 2,
        Refused = 3,
        Aborted = 4,
        Unreachable = 5,
    }
);

impl Code for Phase {
    fn save(&self, out: &mut Vec<u8>) {
        let (state, detail) = match self {
            Self::Closed(reason) => {
                out.push(0);
                return reason.save(out);
            }
            Self::SynSent => (1, 0),
            Self::SynReceived(Opened::Actively) => (2, 0),
            Self::SynReceived(Opened::Passively) => (2, 1),
            Self::SynReceived(Opened::Early) => (2, 2),
            Self::Established => (3, 0),
            Self::FinWait1 => (4, 0),
            Self::FinWait2 => (5, 0),
            Self::CloseWait => (6, 0),
            Self::Closing => (7, 0),
            Self::LastAck => (8, 0),
            Self::TimeWait => (9, 0),
        };
        out.extend_from_slice(&[state, detail]);
    }

    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let state = u8::load(input)?;
        if state == 0 {
            return Ok(Self::Closed(CloseReason::load(input)?));
        }
        Ok(match (state, u8::load(input)?) {
            (1, 0) => Self::SynSent,
            (2, 0) => Self::SynReceived(Opened::Actively),
            (2, 1) => Self::SynReceived(Opened::Passively),
            (2, 2) => Self::SynReceived(Opened::Early),
            (3, 0) => Self::Established,
            (4, 0) => Self::FinWait1,
            (5, 0) => Self::FinWait2,
            (6, 0) => Self::CloseWait,
            (7, 0) => Self::Closing,
            (8, 0) => Self::LastAck,
            (9, 0) => Self::TimeWait,
            _ => return Err(SnapshotError::Corrupt),
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::fmt::Write;
    use std::string::String;

    const PHASES: [Phase; 12] = [
        Phase::Closed(CloseReason::Finished),
        Phase::SynSent,
        Phase::SynReceived(Opened::Actively),
        Phase::SynReceived(Opened::Passively),
        Phase::SynReceived(Opened::Early),
        Phase::Established,
        Phase::FinWait1,
        Phase::FinWait2,
        Phase::CloseWait,
        Phase::Closing,
        Phase::LastAck,
        Phase::TimeWait,
    ];
    const INPUTS: [Input; 11] = [
        Input::Syn,
        Input::EarlyData,
        Input::SynAcked,
        Input::Close,
        Input::PeerFin,
        Input::FinAcked,
        Input::Reset,
        Input::Expired,
        Input::TimedOut,
        Input::Unreachable,
        Input::Abort,
    ];

    #[test]
    fn transition_table() {
        let mut table = String::new();
        for phase in PHASES {
            for input in INPUTS {
                if let Some(next) = phase.after(input) {
                    writeln!(table, "{phase:?} + {input:?} -> {next:?}").unwrap();
                }
            }
        }
        insta::assert_snapshot!("transitions", table);
    }

    #[test]
    fn every_phase_survives_the_codec() {
        for phase in PHASES {
            let mut bytes = Vec::new();
            crate::snapshot::begin(&mut bytes);
            phase.save(&mut bytes);
            let mut reader = Reader::open(&bytes).unwrap();
            assert_eq!(Phase::load(&mut reader), Ok(phase));
            assert_eq!(reader.finish(), Ok(()));
        }
    }
}
