//! What routers say (RFC 9293 3.9.2.2), and what is not believed of it (RFC 5927).

use bywash_tcp::{CloseReason, Config, Disposition, State};
use bywash_wire::{DropReason, IcmpError, IcmpKind, SeqNumber};

use crate::support::lone::{Lone, plain};
use crate::support::{ISS_A, ms, tuple};

const IGNORED: Disposition = Disposition::Dropped(DropReason::IcmpIgnored);
const OTHERS: [IcmpKind; 5] = [
    IcmpKind::HostUnreachable,
    IcmpKind::PortUnreachable,
    IcmpKind::Prohibited,
    IcmpKind::TimeExceeded,
    IcmpKind::ParameterProblem,
];

/// An error that quotes the segment at `seq`, counted from our SYN.
fn error(seq: i32, kind: IcmpKind) -> IcmpError {
    IcmpError {
        tuple: tuple(),
        seq: SeqNumber::new(ISS_A.raw().wrapping_add_signed(seq)),
        kind,
        reporter: tuple().remote,
    }
}

impl Lone {
    fn icmp(&mut self, seq: i32, kind: IcmpKind) -> Disposition {
        self.tcp.on_icmp(self.now, error(seq, kind))
    }
}

const fn too_big(mtu: u32) -> IcmpKind {
    IcmpKind::PacketTooBig { mtu }
}

/// Established, with `lens` octets in flight, a segment each.
fn sending(config: &Config, lens: &[usize]) -> Lone {
    let mut lone = Lone::in_state(State::Established, config);
    for len in lens {
        lone.send(&vec![9; *len]);
    }
    assert_eq!(lone.sent().len(), lens.len());
    lone
}

#[test]
fn only_what_quotes_a_segment_in_flight_counts() {
    let mut lone = sending(&plain(), &[1_000, 1_000]);
    lone.get(0, 1_001, bywash_wire::Flags::ACK, b"");
    for seq in [0, 1, 1_000, 2_001, 2_002, -5, i32::MAX, i32::MIN] {
        assert_eq!(lone.icmp(seq, too_big(600)), IGNORED, "{seq}");
        for kind in OTHERS {
            assert_eq!(lone.icmp(seq, kind), IGNORED, "{seq}");
        }
    }
    assert_eq!(lone.tcp.path_mtu(), 1_040);
    assert_eq!(lone.icmp(1_001, too_big(600)), Disposition::Accepted);
    assert_eq!(lone.tcp.path_mtu(), 600);
}

#[test]
fn what_does_not_fit_is_sent_again_at_once_and_nothing_is_taken_for_congestion() {
    let mut lone = sending(&plain(), &[1_000, 400, 1_000]);
    let before = lone.tcp.info();
    assert_eq!(lone.icmp(1, too_big(640)), Disposition::Accepted);
    let sent = lone.sent();
    let shape: Vec<_> = sent
        .iter()
        .map(|s| (s.segment.seq.distance_from(ISS_A), s.bytes.len(), s.again))
        .collect();
    assert_eq!(
        shape,
        [
            (1, 600, true),
            (601, 400, true),
            (1_401, 600, true),
            (2_001, 400, true)
        ]
    );
    let after = lone.tcp.info();
    assert_eq!((after.cwnd, after.ssthresh), (before.cwnd, before.ssthresh));
    // New data is cut too.
    lone.get(0, 2_401, bywash_wire::Flags::ACK, b"");
    assert_eq!(lone.tcp.segment_limit(), 600);
    lone.send(&[1; 600]);
    assert_eq!(lone.sent()[0].bytes.len(), 600);
}

#[test]
fn data_queued_before_the_report_is_cut_when_it_goes() {
    let mut lone = sending(&plain(), &[1_000]);
    lone.send(&[1; 1_000]);
    lone.icmp(1, too_big(552));
    let sizes: Vec<_> = lone.sent().iter().map(|s| s.bytes.len()).collect();
    assert_eq!(sizes, [512, 488, 512, 488]);
}

#[test]
fn a_report_is_believed_for_ten_minutes() {
    let mut lone = sending(&plain(), &[1_000]);
    lone.icmp(1, too_big(600));
    lone.sent();
    lone.get(0, 1_001, bywash_wire::Flags::ACK, b"");
    lone.now += ms(599_000);
    lone.send(&[1; 10]);
    lone.sent();
    assert_eq!(lone.tcp.path_mtu(), 600);
    lone.get(0, 1_011, bywash_wire::Flags::ACK, b"");
    lone.now += ms(2_000);
    lone.send(&[1; 10]);
    lone.sent();
    assert_eq!(lone.tcp.path_mtu(), 1_040, "the whole path is tried again");
}

#[test]
fn another_connections_knowledge_is_no_report() {
    let mut lone = Lone::in_state(State::Established, &plain());
    lone.tcp.assume_path_mtu(600, lone.now);
    assert_eq!(lone.tcp.path_mtu(), 600);
    lone.send(&[1; 560]);
    assert_eq!(lone.sent().len(), 1);
    lone.tcp.assume_path_mtu(9_000, lone.now);
    assert_eq!(lone.tcp.path_mtu(), 600);
}

#[test]
fn an_open_ends_with_what_the_router_says() {
    for kind in OTHERS {
        let mut lone = Lone::calling(&plain());
        assert_eq!(lone.icmp(1, kind), IGNORED, "not our SYN");
        assert_eq!(lone.icmp(0, kind), Disposition::Accepted);
        let reason = match kind {
            IcmpKind::PortUnreachable => CloseReason::Refused,
            _ => CloseReason::Unreachable,
        };
        assert_eq!(lone.tcp.error(), Some(reason));
        assert!(lone.sent().is_empty());
    }
}

#[test]
fn a_connection_outlives_what_routers_say() {
    for kind in OTHERS {
        for state in [State::Established, State::FinWait1, State::LastAck] {
            let mut lone = Lone::in_state(state, &plain());
            lone.tcp.send(lone.desk.frame(b"x")).ok();
            lone.sent();
            assert_eq!(lone.icmp(1, kind), Disposition::Accepted);
            assert_eq!(lone.tcp.state(), state);
        }
        let mut called = Lone::called(&plain());
        assert_eq!(called.icmp(0, kind), Disposition::Accepted);
        assert_eq!(called.tcp.state(), State::SynReceived);
    }
}

#[test]
fn the_router_is_named_if_time_runs_out() {
    let mut lone = sending(&plain(), &[10]);
    lone.icmp(1, IcmpKind::HostUnreachable);
    while lone.tcp.state() == State::Established {
        lone.wait();
        lone.sent();
    }
    assert_eq!(lone.tcp.error(), Some(CloseReason::Unreachable));

    let mut lone = sending(&plain(), &[10, 10]);
    lone.icmp(1, IcmpKind::HostUnreachable);
    lone.get(0, 11, bywash_wire::Flags::ACK, b"");
    while lone.tcp.state() == State::Established {
        lone.wait();
        lone.sent();
    }
    assert_eq!(
        lone.tcp.error(),
        Some(CloseReason::TimedOut),
        "an answer since then"
    );
}

#[test]
fn a_narrow_path_survives_a_snapshot() {
    let mut lone = sending(&plain(), &[1_000]);
    lone.icmp(1, too_big(600));
    let mut bytes = Vec::new();
    lone.tcp.snapshot(&mut bytes, |frame| &frame.bytes);
    let desk = lone.desk.clone();
    lone.tcp = bywash_tcp::Connection::restore(&bytes, |bytes| Some(desk.frame(bytes))).unwrap();
    assert_eq!(lone.tcp.path_mtu(), 600);
    lone.now += ms(700_000);
    lone.send(&[1; 10]);
    lone.sent();
    assert_eq!(lone.tcp.path_mtu(), 1_040);
}
