//! TIME-WAIT in its compact form answers as the whole connection would.

use bywash_tcp::{Config, State, TimeWait, TimeWaitAnswer};
use bywash_wire::{DropReason, Flags, Segment};

use crate::support::{Pair, ms};

/// One end in TIME-WAIT, what is left of it, and the peer's last segment, its FIN.
fn waiting(config: &Config) -> (Pair, TimeWait, Segment) {
    let mut pair = Pair::established(config, config);
    pair.a.send(b"some data");
    pair.a.close_when_sent = true;
    pair.run_until(|pair| pair.b.state() == State::CloseWait);
    pair.b.close_when_sent = true;
    pair.run_until(|pair| pair.a.state() == State::TimeWait && pair.b.state() == State::Closed);
    let rest = pair.a.tcp().time_wait().expect("in TIME-WAIT");
    let mut fins = pair
        .trace
        .iter()
        .filter(|one| one.segment.flags.contains(Flags::FIN));
    let fin = fins.next_back().expect("two FINs").segment;
    (pair, rest, fin)
}

#[test]
fn a_living_connection_has_no_such_form() {
    let mut pair = Pair::established(&Config::default(), &Config::default());
    assert_eq!(pair.a.tcp().time_wait(), None);
}

#[test]
fn the_fin_once_more_is_acknowledged_and_the_wait_begins_anew() {
    let (pair, mut rest, fin) = waiting(&Config::default());
    let before = rest.until();
    let later = pair.now + ms(5_000);
    let TimeWaitAnswer::Acknowledge(ack) = rest.on_segment(later, &fin) else {
        panic!("no answer");
    };
    assert_eq!(ack.ack, fin.seq + fin.sequence_len());
    assert_eq!(ack.seq, fin.ack);
    assert_eq!(ack.flags, Flags::ACK);
    let timestamps = ack.options.timestamps.expect("agreed on");
    assert_eq!(
        timestamps.echo,
        fin.options.timestamps.expect("agreed on").value
    );
    assert!(rest.until() > before);
    assert_eq!(rest.until(), later + Config::default().msl * 2);
}

#[test]
fn a_reset_is_not_believed() {
    let (pair, mut rest, fin) = waiting(&Config::default());
    let reset = Segment {
        seq: fin.seq + 1,
        flags: Flags::RST,
        ..Segment::default()
    };
    let answer = rest.on_segment(pair.now, &reset);
    assert_eq!(answer, TimeWaitAnswer::Drop(DropReason::BadReset));
}

#[test]
fn a_new_syn_is_told_from_an_old_one() {
    for timestamps in [true, false] {
        let config = Config {
            timestamps,
            ..Config::default()
        };
        let (pair, mut rest, fin) = waiting(&config);
        let mut syn = Segment {
            seq: fin.seq + 100_000,
            flags: Flags::SYN,
            options: fin.options,
            ..Segment::default()
        };
        if let Some(theirs) = &mut syn.options.timestamps {
            theirs.value += 1;
            // By timestamps alone: the number may lie anywhere.
            syn.seq = fin.seq + (1 << 31);
        }
        assert_eq!(
            rest.on_segment(pair.now, &syn),
            TimeWaitAnswer::NewIncarnation
        );
        let mut old = syn;
        old.seq = fin.seq;
        if let Some(theirs) = &mut old.options.timestamps {
            theirs.value -= 10;
        }
        let answer = rest.on_segment(pair.now, &old);
        assert!(
            matches!(answer, TimeWaitAnswer::Acknowledge(_)),
            "{answer:?}"
        );
    }
}

#[test]
fn old_data_is_answered_and_empty_disagreement_only_now_and_then() {
    let (pair, mut rest, fin) = waiting(&Config::default());
    let mut data = fin;
    data.flags = Flags::ACK;
    data.seq = fin.seq - 100;
    data.payload_len = 50;
    for _ in 0..3 {
        let answer = rest.on_segment(pair.now, &data);
        assert!(
            matches!(answer, TimeWaitAnswer::Acknowledge(_)),
            "{answer:?}"
        );
    }
    let mut empty = data;
    empty.payload_len = 0;
    let answers = [0, 1, 499, 500].map(|at| rest.on_segment(pair.now + ms(at), &empty));
    let sent = answers.map(|answer| matches!(answer, TimeWaitAnswer::Acknowledge(_)));
    assert_eq!(sent, [true, false, false, true]);
    // The peer's own last ACK needs no answer.
    let mut last = empty;
    last.seq = fin.seq + fin.sequence_len();
    let answer = rest.on_segment(pair.now, &last);
    assert!(matches!(answer, TimeWaitAnswer::Drop(_)), "{answer:?}");
}

#[test]
fn it_is_small() {
    let size = size_of::<TimeWait>();
    assert!(size <= 112, "{size} bytes");
}
