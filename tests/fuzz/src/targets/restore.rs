//! Bytes as a connection: `Connection::restore` says what is wrong with them, or gives a connection that can be written down
//! again and read back the same. The bytes are a real snapshot with some changed, cut or doubled; or any at all behind its head.

use bywash_tcp::time::{Duration, Instant};
use bywash_tcp::{Config, Connection, ListenOutcome, Listener, SnapshotError};
use bywash_wire::{Flags, SackBlocks, Segment, SeqNumber, Timestamps};

use super::frame::{Desk, Frame, tuple};
use crate::Input;

/// Magic number and version.
const HEAD: usize = 8;

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = input.byte();
    let desk = Desk::default();
    let mut bytes = written(&donor(&desk, input.byte()));
    if mode.is_multiple_of(4) {
        bytes.truncate(HEAD);
        bytes.extend_from_slice(input.rest());
    } else {
        spoil(&mut bytes, &mut input);
    }
    check(&desk, &bytes);
    assert_eq!(desk.alive.get(), 0, "frames left behind");
}

fn written(tcp: &Connection<Frame>) -> Vec<u8> {
    let mut bytes = Vec::new();
    tcp.snapshot(&mut bytes, |frame| &frame.bytes);
    bytes
}

fn check(desk: &Desk, bytes: &[u8]) {
    let make = |bytes: &[u8]| Some(desk.frame(bytes));
    match Connection::restore(bytes, make) {
        Ok(tcp) => {
            let again = written(&tcp);
            let second = Connection::restore(&again, make).expect("what was written is read");
            assert_eq!(written(&second), again);
            assert_eq!(tcp.state(), second.state());
        }
        // There is always a frame here.
        Err(error) => assert_ne!(error, SnapshotError::NoPayload),
    }
    let short = Connection::<Frame>::restore(bytes, |_| None);
    if let Err(error) = short {
        assert!(!error.to_string().is_empty());
    }
}

/// Changes, cuts and doublings at places that the input says.
fn spoil(bytes: &mut Vec<u8>, input: &mut Input<'_>) {
    for _ in 0..16 {
        if input.is_empty() || bytes.len() <= HEAD {
            return;
        }
        let at = HEAD + usize::from(input.u16()) % (bytes.len() - HEAD);
        match input.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..(at + usize::from(input.below(9))).min(bytes.len()))),
            2 => {
                let twice =
                    bytes[at..(at + usize::from(input.below(40))).min(bytes.len())].to_vec();
                bytes.splice(at..at, twice);
            }
            3 => bytes[at] = u8::MAX,
            4 => bytes[at] = 0,
            5 => bytes[at] ^= 1 << input.below(8),
            _ => bytes[at] = input.byte(),
        }
    }
}

/// A connection with a story: `which` says how much of it.
fn donor(desk: &Desk, which: u8) -> Connection<Frame> {
    let mut now = Instant::ZERO + Duration::from_secs(100);
    let (iss, irs) = (SeqNumber::new(u32::MAX - 2_000), SeqNumber::new(7));
    let mut syn = Segment {
        seq: irs,
        flags: Flags::SYN,
        window: 20_000,
        ..Segment::default()
    };
    syn.options.mss = Some(1_000);
    syn.options.window_scale = Some(3);
    syn.options.sack_permitted = which & 1 == 0;
    syn.options.timestamps = Some(Timestamps { value: 1, echo: 0 }).filter(|_| which & 2 == 0);
    let congestion = bywash_tcp::CongestionControl::ALL[usize::from(which >> 6) % 3];
    let config = Config {
        congestion,
        ..Config::default()
    };
    let outcome = Listener::new(config).on_segment(now, tuple(), &syn, iss, 0);
    let ListenOutcome::Connection(mut tcp) = outcome else {
        panic!("a SYN makes a connection: {outcome:?}");
    };
    let turn = |tcp: &mut Connection<Frame>, now: Instant| {
        while tcp.poll_transmit(now).is_some() {}
        while tcp.poll_event().is_some() {}
    };
    turn(&mut tcp, now);
    if which & 4 != 0 {
        return tcp;
    }
    let plain = |ahead: u32, ack: u32, len: usize| Segment {
        seq: irs + 1 + ahead,
        ack: iss + 1 + ack,
        flags: Flags::ACK,
        window: 20_000,
        payload_len: len,
        options: bywash_wire::Options {
            timestamps: Some(Timestamps { value: 2, echo: 0 }).filter(|_| which & 2 == 0),
            ..Default::default()
        },
        ..Segment::default()
    };
    tcp.on_segment(now, &plain(0, 0, 0), None);
    for _ in 0..6 {
        tcp.send(desk.frame(&[0xa5; 900])).expect("there is room");
    }
    turn(&mut tcp, now);
    now += Duration::from_millis(30);
    let mut sacked = plain(0, 0, 0);
    sacked.options.sack = SackBlocks::EMPTY;
    sacked.options.sack.push(iss + 901, iss + 2_701);
    tcp.on_segment(now, &sacked, None);
    // One in order, and one before its turn.
    tcp.on_segment(now, &plain(0, 0, 50), Some(desk.frame(&[0x5a; 50])));
    tcp.on_segment(now, &plain(500, 0, 70), Some(desk.frame(&[0x5a; 70])));
    if which & 8 != 0 {
        now += Duration::from_secs(2);
        tcp.on_timeout(now);
    }
    if which & 16 != 0 {
        tcp.close(now);
    }
    turn(&mut tcp, now);
    tcp
}
