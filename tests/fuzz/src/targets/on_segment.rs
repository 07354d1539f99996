//! A connection in any state, an application that does what it likes, and a peer that sends what it likes, mostly near the
//! edges of windows. The peer's bytes say where they belong, so whatever it sends, the application must read that stream.
//!
//! After every step: the state has moved as RFC 9293 3.3.2 allows; what was sent is our stream, within the largest window ever
//! offered, and not queued already; acknowledgments and the window's edge never go back and name only what was sent.

use bywash_tcp::time::{Duration, Instant};
use bywash_tcp::{
    Config, CongestionControl, Connection, EcnMode, Event, KeepAlive, ListenOutcome, Listener,
    MtuProbing, State,
};
use bywash_wire::{Flags, IcmpError, IcmpKind, SackBlocks, Segment, SeqNumber, Timestamps};

use super::frame::{Desk, Frame, tuple};
use super::stream::{Given, byte_at, bytes_at};
use crate::Input;

const OURS: u8 = 0xa5;
const THEIRS: u8 = 0x5a;

struct World {
    tcp: Connection<Frame>,
    /// The most that may ever have been offered to the peer.
    limit: usize,
    desk: Desk,
    now: Instant,
    iss: SeqNumber,
    irs: SeqNumber,
    state: State,
    given: Given,
    /// Bytes that the application read and wrote.
    read: u32,
    wrote: u32,
    /// Right edge of the largest window that the peer has offered.
    open: Option<SeqNumber>,
    /// End of what was sent.
    sent: SeqNumber,
    /// The latest acknowledgment that the peer has given.
    una: SeqNumber,
    /// Our latest acknowledgment, and the edge of our window.
    told: Option<(SeqNumber, SeqNumber)>,
    stamp: u32,
    connected: bool,
    closed: bool,
}

/// The first bytes choose settings, the state to begin in, and where numbers begin.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let config = config(&mut input);
    let mut world = World::new(config, &mut input);
    let alive = world.desk.alive.clone();
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
    drop(world);
    assert_eq!(alive.get(), 0, "frames left behind");
}

fn config(input: &mut Input<'_>) -> Config {
    let (bits, more, sizes) = (input.byte(), input.byte(), input.byte());
    let on = |bit: u8| bits >> bit & 1 == 0;
    let receive_buffer = [65_536, 10_000, 1_000, 300_000][usize::from(sizes & 3)];
    Config {
        mss: [1_460, 1_000, 536, 9_000][usize::from(sizes >> 2 & 3)],
        receive_buffer,
        receive_buffer_max: receive_buffer << (sizes >> 4 & 1),
        receive_segments: [1_000, 8][usize::from(sizes >> 5 & 1)],
        send_buffer: [65_536, 3_000][usize::from(sizes >> 6 & 1)],
        timestamps: on(0),
        sack: on(1),
        window_scale: on(2),
        nagle: on(3),
        pacing: !on(4),
        keep_alive: (!on(5)).then(KeepAlive::default),
        user_timeout: (!on(6)).then(|| Duration::from_secs(20)),
        slow_start_after_idle: on(7),
        congestion: CongestionControl::ALL[usize::from(more % 3)],
        ecn: [EcnMode::Accept, EcnMode::On, EcnMode::Off][usize::from(more / 3 % 3)],
        mtu_probing: [MtuProbing::OnBlackHole, MtuProbing::Always, MtuProbing::Off]
            [usize::from(more / 9 % 3)],
        ..Config::default()
    }
}

impl World {
    fn new(config: Config, input: &mut Input<'_>) -> Self {
        let (begin, near) = (input.below(10), input.u16());
        // Half of all runs wrap.
        let iss = SeqNumber::new(u32::from(near).wrapping_sub(32_768));
        let irs = SeqNumber::new(u32::from(near.swap_bytes()).wrapping_sub(32_768));
        let desk = Desk {
            appends: near % 2 == 0,
            ..Desk::default()
        };
        let now = Instant::ZERO + Duration::from_secs(100);
        let active = begin == 1;
        let mut syn = Segment {
            seq: irs,
            flags: Flags::SYN,
            window: 20_000,
            ..Segment::default()
        };
        syn.options.mss = Some(1_460);
        syn.options.window_scale = Some(input.below(16));
        syn.options.sack_permitted = true;
        syn.options.timestamps = Some(Timestamps { value: 1, echo: 0 });
        let tcp = if active {
            Connection::connect(&config, tuple(), iss, 0, now)
        } else {
            let listener = Listener::new(config.clone());
            match listener.on_segment(now, tuple(), &syn, iss, 0) {
                ListenOutcome::Connection(tcp) => tcp,
                other => panic!("a SYN makes a connection: {other:?}"),
            }
        };
        let mut world = Self {
            state: tcp.state(),
            tcp,
            limit: config.receive_limit(),
            desk,
            now,
            iss,
            irs,
            given: Given::default(),
            read: 0,
            wrote: 0,
            open: None,
            sent: iss,
            una: iss,
            told: None,
            stamp: 0,
            connected: false,
            closed: false,
        };
        if !active {
            world.offered(&syn);
        }
        world.turn();
        world.begin(begin);
        world
    }

    /// Goes to one of the states in the way of RFC 9293.
    fn begin(&mut self, which: u8) {
        if which <= 1 {
            return;
        }
        self.plain(Flags::ACK);
        if matches!(which, 4 | 7) {
            self.plain(Flags::ACK | Flags::FIN);
        }
        if matches!(which, 3 | 5..=9) {
            self.tcp.close(self.now);
            self.moved();
            self.turn();
        }
        match which {
            5 | 6 => self.plain(Flags::ACK),
            8 => {
                let before_fin = self.sent - 1;
                self.answer(Flags::ACK | Flags::FIN, before_fin);
            }
            9 => self.plain(Flags::ACK | Flags::FIN),
            _ => {}
        }
        let expected = [
            State::SynReceived,
            State::SynSent,
            State::Established,
            State::FinWait1,
            State::CloseWait,
            State::FinWait2,
            State::FinWait2,
            State::LastAck,
            State::Closing,
            State::TimeWait,
        ];
        assert_eq!(self.state, expected[usize::from(which)]);
    }

    /// A segment in its place that acknowledges everything.
    fn plain(&mut self, flags: Flags) {
        self.answer(flags, self.sent);
    }

    fn answer(&mut self, flags: Flags, ack: SeqNumber) {
        let mut segment = Segment {
            seq: self.expected(),
            ack,
            flags,
            window: 20_000,
            ..Segment::default()
        };
        segment.options.timestamps = Some(Timestamps {
            value: 2,
            echo: self.stamp,
        });
        self.arrive(segment);
        self.turn();
    }

    /// The number that our end expects next.
    fn expected(&self) -> SeqNumber {
        self.told.map_or(self.irs, |(ack, _)| ack)
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(20) {
            0..=8 => {
                let segment = self.segment(input);
                self.arrive(segment);
            }
            9 => self.now += Duration::from_millis(input.byte().into()),
            10 => {
                if let Some(at) = self.tcp.next_timeout() {
                    self.now = self.now.max(at);
                }
            }
            11 => self.now += Duration::from_millis(u64::from(input.u16()) * 100),
            12 | 13 => self.send(input),
            14 => self.receive(input.byte()),
            15 => self.end(input.byte()),
            16 => self.reborn(),
            17 | 18 => self.knob(input),
            _ => self.icmp(input),
        }
        self.moved();
        self.turn();
    }

    /// What the peer sends: half of it is right, and the rest near to right.
    fn segment(&mut self, input: &mut Input<'_>) -> Segment {
        let flags = match input.below(16) {
            0..=6 => Flags::ACK,
            7 => Flags::ACK | Flags::PSH,
            8 => Flags::ACK | Flags::FIN,
            9 => Flags::SYN,
            10 => Flags::SYN | Flags::ACK,
            11 => Flags::RST,
            12 => Flags::RST | Flags::ACK,
            13 => Flags::ACK | Flags::ECE,
            14 => Flags::ACK | Flags::URG,
            _ => Flags::from_bits(input.byte()),
        };
        let near =
            |base: SeqNumber, step: i32| SeqNumber::new(base.raw().wrapping_add_signed(step));
        let seq = match input.below(8) {
            0..=3 => self.expected(),
            4 => near(self.expected(), input.step()),
            5 => near(self.told.map_or(self.irs, |(_, edge)| edge), input.step()),
            6 => self.expected() + u32::from(input.u16() % 4_000),
            _ => near(self.irs + 1, input.u32() as i32),
        };
        let flight = self.sent.distance_from(self.una).max(0) as u32;
        let ack = match input.below(8) {
            0..=2 => self.sent,
            3 => near(self.sent, input.step()),
            4 => near(self.una, input.step()),
            5 | 6 => self.una + u32::from(input.u16()) % (flight + 1),
            _ => SeqNumber::new(input.u32()),
        };
        let mut segment = Segment {
            // The first SYN is where the peer's numbers begin.
            seq: if self.state == State::SynSent {
                self.irs
            } else {
                seq
            },
            ack,
            flags,
            window: [20_000, 0, input.u16(), u16::MAX][usize::from(input.below(4))],
            urgent: if flags.contains(Flags::URG) {
                input.u16()
            } else {
                0
            },
            payload_len: match input.below(5) {
                0 | 1 => 0,
                2 => input.byte().into(),
                _ => (input.u16() % 1_500).into(),
            },
            ..Segment::default()
        };
        self.options(input, &mut segment, flight);
        segment
    }

    fn options(&mut self, input: &mut Input<'_>, segment: &mut Segment, flight: u32) {
        let bits = input.byte();
        if bits & 1 == 0 {
            let clock = (self.now.as_millis() as u32).wrapping_sub(99_000);
            let step = if bits & 2 == 0 { 0 } else { input.step() };
            segment.options.timestamps = Some(Timestamps {
                value: clock.wrapping_add_signed(step),
                echo: self.stamp.wrapping_add_signed(step / 2),
            });
        }
        if segment.flags.contains(Flags::SYN) {
            segment.options.mss = (bits & 4 == 0).then(|| input.u16());
            segment.options.window_scale = (bits & 8 == 0).then(|| input.below(15));
            segment.options.sack_permitted = bits & 16 == 0;
            return;
        }
        let mut blocks = SackBlocks::EMPTY;
        for _ in 0..bits >> 6 {
            let start = self.una + u32::from(input.u16()) % (flight + 1);
            let len = if bits & 32 == 0 { 1_460 } else { input.step() };
            blocks.push(start, SeqNumber::new(start.raw().wrapping_add_signed(len)));
        }
        segment.options.sack = blocks;
    }

    fn arrive(&mut self, segment: Segment) {
        let syn = segment.flags.contains(Flags::SYN);
        let offset = (segment.seq + u32::from(syn)).distance_from(self.irs + 1) as u32;
        let fin = segment.flags.contains(Flags::FIN);
        self.given
            .mark(offset, segment.payload_len + usize::from(fin));
        let bytes = bytes_at(offset, segment.payload_len, THEIRS);
        let payload = (!bytes.is_empty()).then(|| self.desk.frame(&bytes));
        let before = self.tcp.info().snd_wscale;
        let _told = self.tcp.on_segment(self.now, &segment, payload);
        self.offered_scaled(&segment, before.max(self.tcp.info().snd_wscale));
        let ack = segment.ack;
        if segment.flags.contains(Flags::ACK) && ack.after(self.una) && ack.at_or_before(self.sent)
        {
            self.una = ack;
        }
        self.moved();
    }

    fn offered(&mut self, segment: &Segment) {
        self.offered_scaled(segment, 0);
    }

    /// The peer offers a window, if the segment could be from it.
    fn offered_scaled(&mut self, segment: &Segment, scale: u8) {
        let syn = segment.flags.contains(Flags::SYN);
        let acks = segment.flags.contains(Flags::ACK);
        let (from, scale) = match (acks, syn) {
            (true, syn) => (segment.ack, if syn { 0 } else { scale }),
            (false, true) => (self.iss + 1, 0),
            (false, false) => return,
        };
        if from.after(self.sent + 1) || from.before(self.iss) {
            return;
        }
        let edge = from + (u32::from(segment.window) << scale);
        if self.open.is_none_or(|open| edge.after(open)) {
            self.open = Some(edge);
        }
    }

    fn send(&mut self, input: &mut Input<'_>) {
        let limit = self.tcp.segment_limit();
        let len = usize::from(input.u16() % 3_000).min(limit);
        let frame = self.desk.frame(&bytes_at(self.wrote, len, OURS));
        if self.tcp.send(frame).is_ok() {
            self.wrote += len as u32;
        }
        if input.below(4) == 0 {
            self.tcp.push();
        }
    }

    fn receive(&mut self, most: u8) {
        for _ in 0..most {
            let Some(frame) = self.tcp.recv() else { break };
            assert!(!frame.bytes.is_empty(), "a payload without bytes");
            for byte in &frame.bytes {
                assert_eq!(*byte, byte_at(self.read, THEIRS), "at {}", self.read);
                self.read += 1;
            }
        }
        assert!(u64::from(self.read) <= self.given.prefix());
    }

    fn end(&mut self, how: u8) {
        match how % 8 {
            0..=4 => self.tcp.close(self.now),
            5 | 6 => self.tcp.orphan(self.now),
            _ => self.tcp.abort(),
        }
    }

    fn reborn(&mut self) {
        let mut bytes = Vec::new();
        self.tcp.snapshot(&mut bytes, |frame| &frame.bytes);
        let desk = &self.desk;
        self.tcp = Connection::restore(&bytes, |bytes| Some(desk.frame(bytes)))
            .expect("what was saved loads");
        let mut again = Vec::new();
        self.tcp.snapshot(&mut again, |frame| &frame.bytes);
        assert_eq!(bytes, again, "what was loaded is not what was saved");
    }

    fn knob(&mut self, input: &mut Input<'_>) {
        match input.below(10) {
            0 => self.desk.exhausted.set(true),
            1 => self.desk.exhausted.set(false),
            2..=4 => self.desk.complete(),
            5 => self.tcp.set_mss(input.u16()),
            6 => self.tcp.set_nagle(input.below(2) == 0),
            7 => {
                let limit = usize::from(input.u16());
                self.limit = self.limit.max(limit);
                self.tcp.set_receive_limit(limit);
            }
            8 => self.tcp.mark_urgent(),
            _ => self.tcp.want_writable(),
        }
    }

    fn icmp(&mut self, input: &mut Input<'_>) {
        let kind = match input.below(6) {
            0 => IcmpKind::HostUnreachable,
            1 => IcmpKind::PortUnreachable,
            2 => IcmpKind::TimeExceeded,
            _ => IcmpKind::PacketTooBig {
                mtu: input.u16().into(),
            },
        };
        let error = IcmpError {
            tuple: tuple(),
            seq: SeqNumber::new(self.una.raw().wrapping_add_signed(input.step())),
            kind,
            reporter: tuple().remote,
        };
        let _told = self.tcp.on_icmp(self.now, error);
    }

    /// Everything that is due: timers, events, transmissions.
    fn turn(&mut self) {
        for round in 0.. {
            assert!(round < 100, "timers that are always due");
            self.transmit();
            if self.tcp.next_timeout().is_none_or(|at| at > self.now) {
                break;
            }
            self.tcp.on_timeout(self.now);
            self.moved();
        }
        self.events();
        let info = self.tcp.info();
        let limit = self.limit as u64;
        assert!(info.unread <= limit, "{} unread of {limit}", info.unread);
        assert!(
            info.held_out_of_order <= limit,
            "{} held of {limit}",
            info.held_out_of_order
        );
        assert!(info.bytes_acked <= u64::from(self.wrote) + 2);
    }

    fn transmit(&mut self) {
        for count in 0.. {
            assert!(count < 2_000, "poll_transmit does not end");
            let scale = self.tcp.info().rcv_wscale;
            let Some(transmit) = self.tcp.poll_transmit(self.now) else {
                break;
            };
            let segment = transmit.segment;
            let mut len = 0;
            if let Some(frame) = transmit.payload {
                len = frame.bytes.len();
                frame.post();
                let offset = segment.seq.distance_from(self.iss + 1) as u32;
                assert!(frame.bytes == bytes_at(offset, len, OURS), "not our stream");
                assert!(offset + len as u32 <= self.wrote, "more than was written");
                let end = segment.seq + len as u32;
                let open = self.open.expect("data before any window");
                assert!(
                    end.at_or_before(open),
                    "{} bytes beyond the window",
                    end.distance_from(open)
                );
            }
            assert_eq!(segment.payload_len, len);
            self.sent_one(&segment, scale);
        }
    }

    fn sent_one(&mut self, segment: &Segment, scale: u8) {
        let end = segment.seq + segment.sequence_len();
        if end.after(self.sent) {
            self.sent = end;
        }
        if let Some(timestamps) = segment.options.timestamps {
            self.stamp = timestamps.value;
        }
        if segment.flags.contains(Flags::RST) || !segment.flags.contains(Flags::ACK) {
            return;
        }
        let acked = segment.ack.distance_from(self.irs + 1);
        assert!(
            acked >= 0 && acked as u64 <= self.given.prefix(),
            "acknowledges what never came"
        );
        let scale = if segment.flags.contains(Flags::SYN) {
            0
        } else {
            scale
        };
        let mut edge = segment.ack + (u32::from(segment.window) << scale);
        if let Some((ack, before)) = self.told {
            assert!(
                segment.ack.at_or_after(ack),
                "an acknowledgment is taken back"
            );
            // A SYN, which is not scaled, may be unable to say more.
            let most = segment.flags.contains(Flags::SYN) && segment.window == u16::MAX;
            let lost = before.distance_from(edge);
            assert!(lost <= 0 || most, "the window shrinks by {lost}");
            if lost > 0 {
                edge = before;
            }
        }
        self.told = Some((segment.ack, edge));
        for (start, end) in segment.options.sack.iter() {
            let at = start.distance_from(self.irs + 1);
            let len = end.distance_from(start);
            assert!(len > 0 && at.checked_add(len).is_some());
            assert!(
                at < 0 || self.given.has_all(at as u32, len as usize),
                "a block of nothing"
            );
        }
    }

    fn events(&mut self) {
        while let Some(event) = self.tcp.poll_event() {
            assert!(!self.closed, "{event:?} after the end");
            match event {
                Event::Connected => {
                    assert!(!self.connected, "connected twice");
                    self.connected = true;
                }
                Event::Closed(_) => {
                    assert_eq!(self.tcp.state(), State::Closed);
                    self.closed = true;
                }
                _ => assert!(self.connected, "{event:?} before the connection stands"),
            }
        }
    }

    /// Whether the state has moved as RFC 9293 3.3.2 and 3.10 allow in one step.
    fn moved(&mut self) {
        use State as S;
        let now = self.tcp.state();
        let may = match self.state {
            S::SynSent => matches!(
                now,
                S::SynReceived | S::Established | S::CloseWait | S::Closed
            ),
            S::SynReceived => {
                matches!(
                    now,
                    S::Established | S::CloseWait | S::FinWait1 | S::Closing | S::Closed
                )
            }
            S::Established => matches!(now, S::FinWait1 | S::CloseWait | S::Closed),
            S::FinWait1 => matches!(now, S::FinWait2 | S::Closing | S::TimeWait | S::Closed),
            S::FinWait2 | S::Closing => matches!(now, S::TimeWait | S::Closed),
            S::CloseWait => matches!(now, S::LastAck | S::Closed),
            S::LastAck | S::TimeWait => now == S::Closed,
            S::Closed | S::Listen => false,
        };
        assert!(may || now == self.state, "from {} to {now}", self.state);
        self.state = now;
    }
}
