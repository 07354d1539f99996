//! The application's side: SEND, RECEIVE, CLOSE, ABORT, STATUS (RFC 9293 3.10).

use alloc::sync::Arc;
use alloc::vec::Vec;

use bywash_wire::{Flags, Segment, Tuple};

use super::flow::Flow;
use super::{Connection, SendError};
use crate::event::{CloseReason, Event, Pending, Readiness};
use crate::payload::{COPYBREAK, Payload};
use crate::rcv::Receiver;
use crate::snapshot::{Code, Reader, SnapshotError, begin};
use crate::snd::SendQueue;
use crate::state::{Input, Opened, Phase, State};
use crate::time::Instant;
use crate::time_wait::TimeWait;
use crate::timer::Timer;

impl<P: Payload> Connection<P> {
    /// The next event, in the order in which they must be acted on; `Closed` is the last of a connection.
    pub fn poll_event(&mut self) -> Option<Event> {
        let events = &mut self.events;
        if events.is_empty() {
            None
        } else if events.take(Pending::CONNECTED) {
            Some(Event::Connected)
        } else if events.take(Pending::CONFIRMED) {
            Some(Event::Confirmed)
        } else if events.take(Pending::READABLE) {
            Some(Event::Readable)
        } else if events.take(Pending::WRITABLE) {
            Some(Event::Writable)
        } else if events.take(Pending::PEER_CLOSED) {
            Some(Event::PeerClosed)
        } else if let Phase::Closed(reason) = self.phase
            && events.take(Pending::CLOSED)
        {
            Some(Event::Closed(reason))
        } else {
            None
        }
    }

    /// How things are now: the bits that poll(2) is built on.
    pub fn readiness(&self) -> Readiness {
        let mut readiness = Readiness::NONE;
        let over = matches!(self.phase, Phase::Closed(_));
        if self.rcv.is_unread() || self.rcv.finished || over {
            readiness.insert(Readiness::READABLE);
        }
        let takes = self.phase.transfers() || self.takes_syn_data();
        if over || (takes && self.send_room() > 0) {
            readiness.insert(Readiness::WRITABLE);
        }
        if self.is_hung_up() {
            readiness.insert(Readiness::HANG_UP);
        }
        if self.error().is_some() {
            readiness.insert(Readiness::ERROR);
        }
        readiness
    }

    /// Bytes that the send buffer takes now; 0 once this end was closed.
    pub fn send_room(&self) -> usize {
        if !self.takes_data() {
            return 0;
        }
        self.config.send_buffer.saturating_sub(self.snd.queued())
    }

    /// Asks for a `Writable` event once there is room again. A refused `send`, and one that fills the buffer, ask too.
    pub fn want_writable(&mut self) {
        self.control.want_writable = true;
    }

    /// The last segment, if it is not sent, shorter than [`segment_limit`](Self::segment_limit), and the send buffer has
    /// room: bytes may be appended to it, and [`extended`](Self::extended) must then be told.
    pub fn unsent_tail(&mut self) -> Option<&mut P> {
        let limit = self.segment_limit();
        if self.send_room() == 0 {
            return None;
        }
        let tail = self.snd.unsent_tail()?;
        if tail.len as usize >= limit {
            None
        } else {
            tail.payload.as_mut()
        }
    }

    /// Says that `n` bytes were appended to [`unsent_tail`](Self::unsent_tail).
    pub fn extended(&mut self, n: usize) {
        self.snd.extended(n);
        self.note_room();
    }

    /// Queues `payload`, at most [`segment_limit`](Self::segment_limit) bytes, as a segment of its own; a small one may be
    /// copied behind the last segment instead. Legal from the first SYN on; data waits for the handshake.
    pub fn send(&mut self, payload: P) -> Result<(), SendError<P>> {
        if !self.takes_data() {
            return Err(SendError::Closed(payload));
        }
        let (len, limit) = (payload.len(), self.segment_limit());
        if len > limit {
            return Err(SendError::TooLong(payload));
        }
        if len > self.send_room() {
            self.control.want_writable = true;
            return Err(SendError::Full(payload));
        }
        if len == 0 {
            return Ok(());
        }
        let copied = len <= COPYBREAK
            && self.snd.unsent_tail().is_some_and(|tail| {
                tail.len as usize + len <= limit
                    && tail
                        .payload
                        .as_mut()
                        .is_some_and(|tail| tail.append(&payload))
            });
        if copied {
            self.snd.extended(len);
            self.rcv.note_copied();
        } else {
            self.snd.push(payload);
        }
        self.note_room();
        Ok(())
    }

    /// The next payload in order. The window that this opens is told to the peer by `poll_transmit`, once it is worth it.
    pub fn recv(&mut self) -> Option<P> {
        let srtt = self.rtt.is_measured().then(|| self.rtt.srtt());
        self.rcv.pop(self.control.clock, srtt)
    }

    /// Whether everything up to the peer's FIN was read.
    pub fn at_end(&self) -> bool {
        self.rcv.finished && !self.rcv.is_unread()
    }

    /// CLOSE (RFC 9293 3.10.4): a FIN follows after all data; the peer may go on sending, and `recv` goes on working. So
    /// this is also `shutdown(SHUT_WR)`, and unread data is no reason for a RST here; see [`orphan`](Self::orphan).
    ///
    /// In SYN-SENT the connection is over at once. Closing twice does nothing.
    pub fn close(&mut self, now: Instant) {
        self.control.clock = now;
        if !self.takes_data() {
            return;
        }
        if self.phase != Phase::SynSent {
            if self.phase == Phase::SynReceived(Opened::Early) {
                self.snd.push_bare_fin();
            } else {
                self.snd.push_fin();
            }
            self.control.fin_queued = true;
        }
        // In SYN-RECEIVED this changes nothing yet: the FIN waits for ESTABLISHED.
        self.transition(Input::Close);
    }

    /// Closes, and nobody will read any more: `close(2)`. Unread data, or data that still comes, is answered with a RST
    /// (RFC 2525 2.17, RFC 9293 3.6.1), and FIN-WAIT-2 ends after a while even if the peer never says FIN.
    pub fn orphan(&mut self, now: Instant) {
        self.control.clock = now;
        if self.rcv.is_unread() && self.phase.transfers() {
            self.abort_with_reset();
            return;
        }
        self.control.orphaned = true;
        self.close(now);
        if self.phase == Phase::FinWait2 {
            self.timers.arm(Timer::Linger, now + self.config.fin_wait_2);
        }
    }

    /// ABORT (RFC 9293 3.10.5): everything queued is dropped, also what may still be read of a connection that is over, and
    /// the peer gets a RST from `poll_transmit`.
    pub fn abort(&mut self) {
        self.abort_with_reset();
        self.rcv.clear(true);
    }

    /// Whether the connection is over and nothing is left to send. Data that arrived before may still be read; the owner
    /// may drop the connection when it, or nobody, has read that.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed(_)) && !self.owes_reset()
    }

    /// Caps the bytes that may wait to be read, and so the advertised window, from now on. A buffer that tunes itself stays within
    /// what its settings allow; a fixed one becomes `bytes`, be that less or more. The right edge never moves left:
    /// a window already offered stays open.
    pub fn set_receive_limit(&mut self, bytes: usize) {
        self.rcv.set_limit(bytes);
    }

    /// Caps the segment size to `mss` bytes without options, for a path whose MTU has turned out smaller (RFC 9293 3.7.5).
    /// Segments that are longer are cut when they are sent next.
    pub fn set_mss(&mut self, mss: u16) {
        self.limit_mss(mss);
    }

    /// Switches Nagle's rule.
    pub fn set_nagle(&mut self, on: bool) {
        self.control.nagle = on;
    }

    /// Data that waits for its acknowledgment gets it with the next `poll_transmit`, and so does what comes while quick ACKs
    /// are left; or else all of it may wait for an answer to carry it. Holds until the ways of the connection say otherwise.
    pub fn set_quick_ack(&mut self, on: bool) {
        self.rcv.ack.prefer(on);
    }

    /// The flow.
    pub fn tuple(&self) -> Tuple {
        self.flow.tuple()
    }

    /// Whether `tuple` is the flow.
    #[inline]
    pub fn is_flow(&self, tuple: &Tuple) -> bool {
        self.flow.is(tuple)
    }

    /// The state.
    pub fn state(&self) -> State {
        self.phase.state()
    }

    /// How the connection ended, unless it ended well or has not ended.
    pub fn error(&self) -> Option<CloseReason> {
        match self.phase {
            Phase::Closed(CloseReason::Finished) => None,
            Phase::Closed(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether `segment` starts at or before RCV.NXT: nothing of the stream before it is missing.
    pub fn follows_on(&self, segment: &Segment) -> bool {
        !segment.seq.after(self.rcv.nxt)
    }

    /// Whether `segment` is what data held out of order waits for, while there is nothing else to read. An owner who has no
    /// room takes it all the same: refusing it would keep the room taken for ever. `spare`: the room is for others, and they do
    /// not need it now; then also if there is something to read, so that a burst is not refused but for its first segment.
    pub fn fills_gap(&self, segment: &Segment, spare: bool) -> bool {
        let first = spare || !self.rcv.is_unread();
        first && self.follows_on(segment) && !self.rcv.ooo.is_empty()
    }

    /// Whether `segment` is a SYN that may open a new incarnation of this connection, which is in TIME-WAIT: the owner then
    /// drops this one and gives the segment to its listener (RFC 9293 3.6.1, RFC 6191 2).
    pub fn accepts_new_incarnation(&self, segment: &Segment) -> bool {
        if self.phase != Phase::TimeWait
            || !segment.flags.contains(Flags::SYN)
            || segment.flags.intersects(Flags::ACK | Flags::RST)
        {
            return false;
        }
        match segment.options.timestamps {
            Some(timestamps) if self.agreed.timestamps => {
                (timestamps.value.wrapping_sub(self.agreed.ts_recent) as i32) > 0
            }
            _ => segment.seq.after(self.rcv.nxt),
        }
    }

    /// What must be kept of a connection in TIME-WAIT, so that the rest of it can go; `None` in other states. Unread data and
    /// acknowledgments owed are not kept: to be asked when everything was read, and after `poll_transmit` has given `None`.
    pub fn time_wait(&self) -> Option<TimeWait> {
        let until = self.timers.deadline(Timer::Linger)?;
        (self.phase == Phase::TimeWait).then(|| TimeWait {
            tuple: self.tuple(),
            snd_nxt: self.snd.nxt,
            rcv_nxt: self.rcv.nxt,
            window: self.rcv.window(),
            window_field: self.rcv.offered(),
            timestamps: self
                .agreed
                .timestamps
                .then_some((self.agreed.ts_offset, self.agreed.ts_recent)),
            time: self.config.msl * 2,
            until,
            answered_at: None,
        })
    }

    /// Appends the connection to `out`, in the versioned format that [`restore`](Self::restore) reads; `bytes` gives the
    /// bytes of a payload. Events not yet polled are part of it, transmissions not yet completed are not.
    pub fn snapshot<'a>(&'a self, out: &mut Vec<u8>, bytes: impl Fn(&'a P) -> &'a [u8]) {
        begin(out);
        self.tuple().save(out);
        self.config.save(out);
        self.phase.save(out);
        self.events.save(out);
        self.agreed.save(out);
        self.control.save(out);
        self.timers.save(out);
        self.congestion.save(out);
        self.limited_by.save(out);
        self.ecn.save(out);
        self.chrono.save(out);
        self.loss.save(out);
        self.rtt.save(out);
        self.counters.save(out);
        self.rare.save(out);
        self.snd.save(out, &bytes);
        self.rcv.save(out, &bytes);
    }

    /// A connection equal to the one that wrote `input`; `make` makes a payload of bytes, or `None` if it cannot.
    pub fn restore(
        input: &[u8],
        mut make: impl FnMut(&[u8]) -> Option<P>,
    ) -> Result<Self, SnapshotError> {
        let mut input = Reader::open(input)?;
        let tuple: Tuple = Code::load(&mut input)?;
        let config = Arc::new(Code::load(&mut input)?);
        let phase = Code::load(&mut input)?;
        let events = Code::load(&mut input)?;
        let agreed = Code::load(&mut input)?;
        let control = Code::load(&mut input)?;
        let timers = Code::load(&mut input)?;
        let congestion = Code::load(&mut input)?;
        let limited_by = Code::load(&mut input)?;
        let ecn = Code::load(&mut input)?;
        let chrono = Code::load(&mut input)?;
        let loss = Code::load(&mut input)?;
        let rtt = Code::load(&mut input)?;
        let counters = Code::load(&mut input)?;
        let rare = Code::load(&mut input)?;
        let snd = SendQueue::load(&mut input, &mut make)?;
        let rcv = Receiver::load(&mut input, &mut make)?;
        input.finish()?;
        let connection = Self {
            phase,
            events,
            snd,
            rcv,
            agreed,
            control,
            timers,
            congestion,
            limited_by,
            ecn,
            chrono,
            loss,
            rtt,
            counters,
            rare,
            flow: Flow::new(&tuple),
            config,
        };
        // Another protocol, or two families.
        let same = connection.tuple() == tuple;
        if same && connection.agreed.is_possible() {
            Ok(connection)
        } else {
            Err(SnapshotError::Corrupt)
        }
    }

    fn takes_data(&self) -> bool {
        self.phase.takes_data() && !self.control.fin_queued
    }

    /// The application has filled the buffer, so it will wait for room.
    fn note_room(&mut self) {
        self.control.want_writable |= self.send_room() == 0;
    }

    /// An acknowledgment has made room: a third of the buffer is worth a wake-up (as Linux has it).
    pub(super) fn tell_writable(&mut self) {
        if self.control.want_writable && self.send_room() >= self.config.send_buffer.div_ceil(3) {
            self.control.want_writable = false;
            self.events.raise(Pending::WRITABLE);
        }
    }
}
