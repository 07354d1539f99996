//! Segments within the window in any order, against a set of numbers: what is acknowledged, what SACK blocks say, and what
//! the application reads must be what has arrived.

use bywash_tcp::time::{Duration, Instant};
use bywash_tcp::{Config, Connection, Disposition, ListenOutcome, Listener};
use bywash_wire::{DropReason, Flags, Segment, SeqNumber};

use super::frame::{Desk, Frame, tuple};
use super::stream::{Given, byte_at, bytes_at};
use crate::Input;

/// So near the end that numbers wrap within the first window.
const IRS: SeqNumber = SeqNumber::new(u32::MAX - 2_000);
const ISS: SeqNumber = SeqNumber::new(77);
const SALT: u8 = 0x5a;

struct World {
    tcp: Connection<Frame>,
    desk: Desk,
    now: Instant,
    /// Offsets of the peer's stream that were accepted.
    held: Given,
    /// Of the latest segment that was accepted out of order: its first new offset.
    latest: Option<u32>,
    /// End of the window as it was told.
    edge: u32,
    read: u32,
    /// Segments since the last acknowledgment.
    unanswered: u32,
}

/// The first byte: settings. Then segments, reads and time.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(input.byte());
    let alive = world.desk.alive.clone();
    for _ in 0..150 {
        if input.is_empty() {
            break;
        }
        match input.below(16) {
            0..=11 => world.segment(&mut input),
            12 | 13 => world.read(input.byte()),
            14 => {
                world.now += Duration::from_millis(input.byte().into());
                world.tcp.on_timeout(world.now);
            }
            _ => world.reborn(),
        }
        world.acknowledged();
    }
    world.read(u8::MAX);
    assert_eq!(world.tcp.info().unread, 0);
    drop(world);
    assert_eq!(alive.get(), 0, "frames left behind");
}

impl World {
    fn new(settings: u8) -> Self {
        let config = Config {
            receive_buffer: [40_000, 4_000][usize::from(settings & 1)],
            receive_buffer_max: 40_000,
            receive_segments: [1_000, 16][usize::from(settings >> 1 & 1)],
            timestamps: false,
            ..Config::default()
        };
        let desk = Desk {
            appends: settings & 4 != 0,
            ..Desk::default()
        };
        let now = Instant::ZERO + Duration::from_secs(100);
        let mut syn = Segment {
            seq: IRS,
            flags: Flags::SYN,
            window: 8_000,
            ..Segment::default()
        };
        syn.options.mss = Some(1_000);
        syn.options.sack_permitted = true;
        syn.options.window_scale = Some(0);
        let listener = Listener::new(config);
        let ListenOutcome::Connection(tcp) = listener.on_segment(now, tuple(), &syn, ISS, 0) else {
            panic!("a SYN makes a connection")
        };
        let mut world = Self {
            tcp,
            desk,
            now,
            held: Given::default(),
            latest: None,
            edge: 0,
            read: 0,
            unanswered: 0,
        };
        while world.tcp.poll_transmit(now).is_some() {}
        // The window of a SYN is not scaled; the next one is.
        world.give(0, 0);
        let info = world.tcp.info();
        world.edge = info.rcv_wnd;
        assert!(info.sack);
        world
    }

    fn nxt(&self) -> u32 {
        self.held.prefix() as u32
    }

    fn segment(&mut self, input: &mut Input<'_>) {
        let len = match input.below(4) {
            0 => usize::from(input.below(8)) + 1,
            1 => 100,
            2 => usize::from(input.byte()) + 1,
            _ => usize::from(input.u16() % 1_500) + 1,
        };
        let nxt = self.nxt();
        let start = match input.below(8) {
            0 => nxt,
            // On a grid, so that segments touch.
            1..=4 => nxt + u32::from(input.below(40)) * 100,
            5 | 6 => nxt.saturating_add_signed(input.step()),
            _ => nxt + u32::from(input.u16() % 32_000),
        };
        let room = self.edge.saturating_sub(start) as usize;
        self.give(start, len.min(room));
    }

    fn give(&mut self, start: u32, len: usize) {
        let bytes = bytes_at(start, len, SALT);
        let segment = Segment {
            seq: IRS + 1 + start,
            ack: ISS + 1,
            flags: Flags::ACK,
            window: 8_000,
            payload_len: len,
            ..Segment::default()
        };
        let nxt = self.nxt();
        let known = self.held.has_all(start, len);
        self.unanswered += 1;
        let payload = (len > 0).then(|| self.desk.frame(&bytes));
        match self.tcp.on_segment(self.now, &segment, payload) {
            Disposition::Accepted => {
                let was_there = self.held.around(start).map(|(_, end)| end as u32);
                self.held.mark(start, len);
                if start > nxt && !known {
                    self.latest = Some(was_there.unwrap_or(start));
                } else if known && len > 0 && start > nxt {
                    panic!("{start}+{len} was known and is said to be of use");
                }
            }
            // No handle or no byte is free: the peer sends it again.
            Disposition::Dropped(DropReason::ReassemblyFull | DropReason::NoReceiveCredit) => {
                assert!(!known || len == 0);
                // The duplicate in it is told of, and nothing else has changed.
                self.unanswered += 1;
            }
            Disposition::Dropped(reason) => {
                assert!(known, "{start}+{len} is new and was dropped: {reason}");
            }
        }
    }

    fn read(&mut self, most: u8) {
        for _ in 0..most {
            let Some(frame) = self.tcp.recv() else { break };
            for byte in &frame.bytes {
                assert_eq!(*byte, byte_at(self.read, SALT), "at {}", self.read);
                self.read += 1;
            }
            assert!(self.read <= self.nxt(), "read what has not arrived");
        }
    }

    /// Everything that is sent now says what has arrived.
    fn acknowledged(&mut self) {
        let scale = self.tcp.info().rcv_wscale;
        while let Some(transmit) = self.tcp.poll_transmit(self.now) {
            let segment = transmit.segment;
            if segment.flags.contains(Flags::SYN) {
                continue;
            }
            let ack = segment.ack.distance_from(IRS + 1) as u32;
            let nxt = self.held.prefix() as u32;
            assert_eq!(ack, nxt);
            let edge = ack + (u32::from(segment.window) << scale);
            assert!(edge >= self.edge, "the window shrinks");
            self.edge = edge;
            blocks(
                &self.held,
                &mut self.latest,
                self.unanswered > 1,
                ack,
                &segment,
            );
            self.unanswered = 0;
        }
        let info = self.tcp.info();
        assert_eq!(info.unread, u64::from(self.nxt() - self.read));
        assert!(info.held_out_of_order <= 40_000);
    }

    fn reborn(&mut self) {
        let mut bytes = Vec::new();
        self.tcp.snapshot(&mut bytes, |frame| &frame.bytes);
        let desk = &self.desk;
        self.tcp = Connection::restore(&bytes, |bytes| Some(desk.frame(bytes)))
            .expect("what was saved loads");
    }
}

/// RFC 2018 4, RFC 2883 4: a first block may tell of a duplicate; of the others each is a whole island, and the first is
/// around what came last.
fn blocks(held: &Given, latest: &mut Option<u32>, several: bool, ack: u32, segment: &Segment) {
    let mut seen = Vec::new();
    let offset = |seq: SeqNumber| seq.distance_from(IRS + 1) as u32;
    let all: Vec<_> = segment
        .options
        .sack
        .iter()
        .map(|(start, end)| (offset(start), offset(end)))
        .collect();
    let within = |one: (u32, u32), other: (u32, u32)| one.0 >= other.0 && one.1 <= other.1;
    // The island around a duplicate is the next block, unless one acknowledgment answers several segments.
    let duplicate = all.first().is_some_and(|first| {
        first.1 <= ack
            || all[1..].iter().any(|other| within(*first, *other))
            || (several && held.has_all(first.0, (first.1 - first.0) as usize))
    });
    for (start, end) in all.iter().skip(usize::from(duplicate)) {
        assert!(ack < *start && start < end, "block {start}..{end} at {ack}");
        let island = held.around(*start).expect("a block names what has arrived");
        assert_eq!(
            island,
            (u64::from(*start), u64::from(*end)),
            "no whole island in {all:?} at {ack}"
        );
        assert!(!seen.contains(start), "a block twice");
        seen.push(*start);
    }
    if let Some(at) = latest.take()
        && at >= ack
        && !segment.options.sack.is_empty()
        && !duplicate
    {
        let (first, _) = held.around(at).expect("it was accepted");
        assert_eq!(seen.first().map(|start| u64::from(*start)), Some(first));
    }
}
