//! TCP as a state machine: no clock, no sockets, no frames.
//!
//! A [`Connection`] is given segments, the time and the application's wishes, and gives back segments to send, events, and
//! the moment when it wants to be called next. It is generic over one thing, the [`Payload`] handle, whose bytes it never
//! looks at. A [`Listener`] makes connections of SYNs; [`reset_for`] answers what belongs to none.
//!
//! ```text
//!  on_segment(now, segment, payload) --+            +--> poll_event, readiness, info
//!  on_timeout(now) --------------------+ Connection +--> poll_transmit -> segment, payload
//!  send, recv, close, abort -----------+            +--> next_timeout
//! ```
//!
//! | module | noun |
//! |---|---|
//! | `connection` | the coordinator: SEGMENT ARRIVES, transmission, time-outs, the application's calls |
//! | `state` | the states, and the one function that changes them |
//! | `snd`, `rcv` | the two halves: RFC 9293's variables, their queues, the window |
//! | `ack_policy`, `receive_tuning` | when to acknowledge; how large the receive buffer should be |
//! | `path_mtu` | a path narrower than promised |
//! | `reassembly` | segments out of order, SACK blocks |
//! | `loss` | which segments are believed lost, and whether they were: RACK-TLP, NewReno, PRR, undo |
//! | `congestion` | how much may be on the way, and how fast it may leave |
//! | `ecn` | marks instead of losses: negotiation, echo, reaction |
//! | `rate`, `pacing` | how fast the path delivers, and segments leave |
//! | `rtt`, `timer`, [`time`] | the retransmission time-out, named deadlines, nanoseconds |
//! | `time_wait` | what is left of a connection in TIME-WAIT |
//! | `cookie` | SYN cookies: a handshake without a connection |
//! | `fast_open` | data on the SYN |
//! | `listener`, `reset` | the states LISTEN and CLOSED |
//! | `chrono` | what a connection has spent its time on |
//! | `config`, `event`, `info`, `payload` | what goes in and comes out |
//! | `snapshot` | a connection as bytes, and back |
//!
//! # What is left out, and what is done otherwise
//!
//! RFC by RFC, with the tests: `specs/tcp.md` at the root of the repository. Here is what a reader of the code might stumble over.
//!
//! | RFC | what | why, or when |
//! |---|---|---|
//! | 9293 3.8.6.1 | a closed window is probed with an empty segment before the window, not with a byte | as Linux; cuts no segment |
//! | 9293 3.10.7.4 | an empty segment on the right edge, and a bare FIN at a closed window, are acceptable | as Linux; else ACKs are lost after a full window |
//! | 9293 3.10.7.4 | an empty segment behind our last ACK is acceptable; a RST at the end of what is held, and at a FIN's number, is believed | as Linux |
//! | 9293 3.10.7.4 | a SYN in SYN-RECEIVED is challenged; the connection does not go back to LISTEN | RFC 5961; each SYN has a connection of its own |
//! | 9293 3.10.7.2 | data on a SYN is not kept, but with TCP Fast Open (RFC 7413) | the peer sends it again; as Linux |
//! | 7413 4.2.2 | the FIN of a connection that was opened early waits for the handshake | as any close in SYN-RECEIVED |
//! | 9293 3.4.2 | MSL is 30 s, not 2 min | as Linux |
//! | 9293 3.6.1 | `close` with unread data sends no RST, `orphan` does | `close` is also the half-close |
//! | 6298 2.3, 2.4 | the RTO is SRTT and a margin of at least 200 ms, which falls once a round trip; no floor of 1 s | as Linux |
//! | 6298 2.1, 5.7 | 1 s at first, 3 s after a lost SYN without a sample | as written; no deviation |
//! | 5681 3.1 | slow start grows by all bytes acknowledged (RFC 3465 without its limit) | receivers that acknowledge once a burst; as Linux |
//! | 6582 3.2 | the retransmission timer restarts at every partial ACK | with a 200 ms floor the other choice means time-outs |
//! | 6582 4.1, 4.2 | no heuristics against spurious fast retransmission without SACK | needless ones are undone |
//! | 2018 8 | a time-out keeps SACK marks unless the oldest segment bears one | as Linux; else a time-out sends everything twice |
//! | 2018 | a block that covers a part of a segment says nothing of that part | no segment is cut for it; the next block covers more |
//! | 6675 | its accounting (pipe), not its counting of losses | RACK (RFC 8985) finds them |
//! | 8985 6.2 | the reorder timer waits for the first segment that is due, not for the last | each segment has the same time |
//! | 8985 6.2 | a D-SACK widens the window only if reordering was seen, and not if a tail loss probe has caused it | as Linux |
//! | 8985 6.2 | the echoed timestamp is not asked which transmission a SACK block names | it is that of an older segment; as Linux |
//! | 8985 7.2 | without a delay of the ACKs known: 2 SRTT + 2 ms, or + 200 ms with one segment out | as Linux |
//! | 5681 3.2, 8985 | a lost retransmission in fast recovery reduces the window no second time, a time-out in recovery neither | as Linux |
//! | 3708 | D-SACKs count only while they are no more than retransmissions | a network that doubles segments proves nothing; as Linux |
//! | 5682 | F-RTO also without SACK in the form of its section 3.1 | one algorithm; as Linux |
//! | 4015 3.2 | the window is restored in full, RTO and SRTT are not changed | as Linux |
//! | 4821 7.6 | a lost probe of the path MTU counts as congestion | its loss is found like any other |
//! | 5482 3.2 | the option goes in SYNs only, not again when the setting changes | off by default |
//! | 7323 3.2 | a segment without the timestamps agreed on is accepted | as Linux |
//! | 7323 4.1 | samples come from the time of sending, from the echo only where Karn's rule forbids that; every ACK counts alike | nanoseconds instead of milliseconds; as Linux |
//! | 1337 | a RST does not end TIME-WAIT | done |
//! | 6191 | [`accepts_new_incarnation`](Connection::accepts_new_incarnation) tells, the owner acts | the listener makes the connection |
//! | 9406 4.3 | an ACK grows slow start by all that it delivers (`L` is infinite), also without pacing | receivers that acknowledge once a burst; as Linux |
//! | 9438 4.6, 4.9 | a loss reduces from the window, not from what was on the way; an undo begins a new epoch at the old window | a window in disuse does not grow (RFC 7661); as Linux |
//! | 7661 4.4 | after silence of more than a time-out the window begins anew, unless `slow_start_after_idle` is off | as Linux |
//! | ccwg-bbr-06 5.5.10 | the first flight with too much loss is looked at, not each lost segment; lossy ACKs stand for lost ranges | all that the draft acts on; as Linux |
//! | AccECN | no accurate ECN feedback (draft-ietf-tcpm-accurate-ecn), no L4S (9330), no ABE (8511) | no controller here answers to more than one mark a round trip, and both ends must have it |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod ack_policy;
mod chrono;
mod config;
mod congestion;
mod connection;
mod cookie;
mod ecn;
mod event;
mod fast_open;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod info;
mod listener;
mod loss;
mod pacing;
mod path_mtu;
mod payload;
mod rate;
mod rcv;
mod reassembly;
mod receive_tuning;
mod reset;
mod rtt;
mod snapshot;
mod snd;
mod spare;
mod state;
mod thin;
pub mod time;
mod time_wait;
mod timer;

pub use config::{Config, KeepAlive, MtuProbing};
pub use congestion::{CongestionControl, CongestionFigures, UnknownCongestionControl};
pub use connection::{Connection, Disposition, SendError, Train, Transmit};
pub use cookie::CookieInput;
pub use ecn::EcnMode;
pub use event::{CloseReason, Event, Readiness};
pub use fast_open::{FastOpenAnswer, FastOpenOffer, FastOpenStatus};
pub use info::{Activity, Info, LimitedBy};
pub use listener::{ListenOutcome, Listener};
pub use loss::{RecoveryInfo, RecoveryPhase};
pub use payload::{COPYBREAK, Payload};
pub use reset::reset_for;
pub use snapshot::SnapshotError;
pub use spare::Spare;
pub use state::State;
pub use time_wait::{TimeWait, TimeWaitAnswer};
