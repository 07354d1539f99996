//! One end alone, fed by hand: for what no well-behaved peer does, and for payloads with a will of their own.

use std::cell::Cell;
use std::rc::Rc;

use bywash_tcp::time::{Duration, Instant};
use bywash_tcp::{
    Config, Connection, Disposition, FastOpenAnswer, ListenOutcome, Listener, Payload, State,
};
use bywash_wire::{Flags, Segment, SeqNumber};

use super::{ISS_A, ISS_B, tuple};

/// What the frames of a test do, shared by all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Desk {
    /// Transmissions are not completed.
    pub(crate) queued: Rc<Cell<bool>>,
    /// There is no frame to cut into.
    pub(crate) exhausted: Rc<Cell<bool>>,
    /// Frames alive.
    pub(crate) alive: Rc<Cell<usize>>,
}

/// A payload like the engine's frames: it can be queued, cannot be appended to, and is counted.
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    desk: Desk,
}

impl Desk {
    pub(crate) fn frame(&self, bytes: &[u8]) -> Frame {
        self.alive.set(self.alive.get() + 1);
        Frame {
            bytes: bytes.to_vec(),
            desk: self.clone(),
        }
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame of {}", self.bytes.len())
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.desk.alive.set(self.desk.alive.get() - 1);
    }
}

impl Payload for Frame {
    fn len(&self) -> usize {
        self.bytes.len()
    }
    fn advance(&mut self, n: usize) {
        self.bytes.drain(..n);
    }
    fn truncate(&mut self, n: usize) {
        self.bytes.truncate(n);
    }
    fn split_off(&mut self, at: usize) -> Option<Self> {
        assert!(at > 0 && at < self.bytes.len());
        if self.desk.exhausted.get() {
            return None;
        }
        Some(self.desk.frame(&self.bytes.split_off(at)))
    }
    fn append(&mut self, _other: &Self) -> bool {
        false
    }
    fn is_queued(&self) -> bool {
        self.desk.queued.get()
    }
}

/// A segment as it was sent, with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) segment: Segment,
    pub(crate) bytes: Vec<u8>,
    pub(crate) again: bool,
}

/// A connection whose peer is the test. Its own numbers begin at `ISS_A`, the peer's at `ISS_B`.
pub(crate) struct Lone {
    pub(crate) tcp: Connection<Frame>,
    pub(crate) desk: Desk,
    pub(crate) now: Instant,
}

/// Settings without options, so that tables show what they are about.
pub(crate) fn plain() -> Config {
    Config {
        mss: 1_000,
        receive_buffer: 10_000,
        window_scale: false,
        timestamps: false,
        sack: false,
        nagle: false,
        ..Config::default()
    }
}

impl Lone {
    /// In SYN-SENT, the SYN not sent yet.
    pub(crate) fn fresh(config: &Config) -> Self {
        let now = Instant::ZERO + Duration::from_secs(100);
        let tcp = Connection::connect(config, tuple(), ISS_A, 0, now);
        Self {
            tcp,
            desk: Desk::default(),
            now,
        }
    }

    /// In SYN-SENT, the SYN sent.
    pub(crate) fn calling(config: &Config) -> Self {
        let mut lone = Self::fresh(config);
        lone.sent();
        lone
    }

    /// In SYN-RECEIVED, the SYN-ACK sent.
    pub(crate) fn called(config: &Config) -> Self {
        Self::called_with(config, |_| {})
    }

    /// In SYN-RECEIVED after a SYN with changes.
    pub(crate) fn called_with(config: &Config, change: impl FnOnce(&mut Segment)) -> Self {
        let mut lone = Self::called_by(config, FastOpenAnswer::Refuse, Desk::default(), change);
        lone.sent();
        lone
    }

    /// In SYN-RECEIVED, but opened by a SYN with a right cookie and `bytes` (RFC 7413); the SYN-ACK sent.
    pub(crate) fn called_early(config: &Config, bytes: &[u8]) -> Self {
        let desk = Desk::default();
        let answer = FastOpenAnswer::Accept {
            payload: (!bytes.is_empty()).then(|| desk.frame(bytes)),
            cookie: None,
        };
        let mut lone = Self::called_by(config, answer, desk, |syn| syn.payload_len = bytes.len());
        let sent = lone.sent();
        assert_eq!(sent.len(), 1, "the SYN-ACK");
        lone
    }

    fn called_by(
        config: &Config,
        answer: FastOpenAnswer<Frame>,
        desk: Desk,
        change: impl FnOnce(&mut Segment),
    ) -> Self {
        let now = Instant::ZERO + Duration::from_secs(100);
        let mut syn = Segment {
            seq: ISS_B,
            flags: Flags::SYN,
            window: 8_000,
            ..Segment::default()
        };
        syn.options.mss = Some(1_000);
        change(&mut syn);
        let listener = Listener::new(config.clone());
        let outcome = listener.on_fast_open(now, tuple(), &syn, ISS_A, 0, answer);
        let ListenOutcome::Connection(tcp) = outcome else {
            panic!("a SYN makes a connection")
        };
        Self { tcp, desk, now }
    }

    /// In `state`, with nothing in flight but the FIN where the state says so, and nothing owed.
    pub(crate) fn in_state(state: State, config: &Config) -> Self {
        match state {
            State::SynSent => return Self::calling(config),
            State::SynReceived => return Self::called(config),
            _ => {}
        }
        let mut lone = Self::called(config);
        lone.get(0, 1, Flags::ACK, b"");
        let now = lone.now;
        match state {
            State::Established => {}
            State::FinWait1 => lone.tcp.close(now),
            State::FinWait2 => {
                lone.tcp.close(now);
                lone.sent();
                lone.get(0, 2, Flags::ACK, b"");
            }
            State::CloseWait => {
                lone.get(0, 1, Flags::ACK | Flags::FIN, b"");
            }
            State::LastAck => {
                lone.get(0, 1, Flags::ACK | Flags::FIN, b"");
                lone.tcp.close(now);
            }
            State::Closing => {
                lone.tcp.close(now);
                lone.sent();
                lone.get(0, 1, Flags::ACK | Flags::FIN, b"");
            }
            State::TimeWait => {
                lone.tcp.close(now);
                lone.sent();
                lone.get(0, 2, Flags::ACK | Flags::FIN, b"");
            }
            State::Closed => lone.tcp.abort(),
            other => panic!("no connection is ever in {other}"),
        }
        lone.sent();
        assert_eq!(lone.tcp.state(), state);
        lone
    }

    /// A segment arrives: `seq` counted from the octet behind the peer's SYN, `ack` from our SYN.
    pub(crate) fn get(&mut self, seq: i32, ack: i32, flags: Flags, bytes: &[u8]) -> Disposition {
        let mut segment = segment(seq, ack, flags);
        segment.payload_len = bytes.len();
        self.get_segment(&segment, bytes)
    }

    pub(crate) fn get_segment(&mut self, segment: &Segment, bytes: &[u8]) -> Disposition {
        let payload = (!bytes.is_empty()).then(|| self.desk.frame(bytes));
        self.tcp.on_segment(self.now, segment, payload)
    }

    /// Everything that is sent now.
    pub(crate) fn sent(&mut self) -> Vec<Sent> {
        let mut all = Vec::new();
        while let Some(transmit) = self.tcp.poll_transmit(self.now) {
            all.push(Sent {
                segment: transmit.segment,
                bytes: transmit
                    .payload
                    .map_or(Vec::new(), |frame| frame.bytes.clone()),
                again: transmit.retransmission,
            });
            assert!(all.len() < 1_000, "poll_transmit does not end");
        }
        all
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let frame = self.desk.frame(bytes);
        self.tcp.send(frame).expect("there is room");
    }

    /// The time of the next timer comes.
    pub(crate) fn wait(&mut self) {
        self.now = self.tcp.next_timeout().expect("a timer is armed");
        self.tcp.on_timeout(self.now);
    }
}

/// See [`Lone::get`].
pub(crate) fn segment(seq: i32, ack: i32, flags: Flags) -> Segment {
    let add = |base: SeqNumber, n: i32| SeqNumber::new(base.raw().wrapping_add_signed(n));
    Segment {
        seq: add(ISS_B + 1, seq),
        ack: add(ISS_A, ack),
        flags,
        window: 8_000,
        ..Segment::default()
    }
}
