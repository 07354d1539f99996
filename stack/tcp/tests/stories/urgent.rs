//! Urgent data in line, with a mark (RFC 6093).

use bywash_tcp::{Config, State};
use bywash_wire::Flags;

use crate::support::lone::{Lone, plain, segment};
use crate::support::{Pair, ms};

const URGENT: Flags = Flags::ACK.union(Flags::URG);

#[test]
fn urgent_bytes_are_bytes_and_the_mark_says_where_they_end() {
    let mut lone = Lone::in_state(State::Established, &plain());
    assert_eq!(lone.tcp.urgent_mark(), None);
    let mut urgent = segment(0, 1, URGENT);
    urgent.urgent = 3;
    lone.get_segment(&urgent, b"abcde");
    assert_eq!(lone.tcp.urgent_mark(), Some(3));
    assert_eq!(lone.tcp.recv().unwrap().bytes, b"abcde");
    assert_eq!(lone.tcp.urgent_mark(), None, "read");

    // A mark may lie ahead of what has come; an older one changes nothing.
    let mut ahead = segment(5, 1, URGENT);
    ahead.urgent = 500;
    lone.get_segment(&ahead, b"f");
    assert_eq!(lone.tcp.urgent_mark(), Some(500));
    let mut older = segment(6, 1, URGENT);
    older.urgent = 1;
    lone.get_segment(&older, b"g");
    assert_eq!(lone.tcp.urgent_mark(), Some(500));
}

#[test]
fn a_pointer_without_its_flag_means_nothing() {
    let mut lone = Lone::in_state(State::Established, &plain());
    let mut plain = segment(0, 1, Flags::ACK);
    plain.urgent = 3;
    lone.get_segment(&plain, b"abcde");
    assert_eq!(lone.tcp.urgent_mark(), None);
}

#[test]
fn our_mark_goes_with_every_segment_before_it() {
    let mut lone = Lone::in_state(State::Established, &plain());
    lone.send(&[1; 1_000]);
    lone.send(&[2; 10]);
    lone.tcp.mark_urgent();
    lone.send(&[3; 10]);
    let pointers: Vec<_> = lone
        .sent()
        .iter()
        .map(|sent| (sent.segment.flags.contains(Flags::URG), sent.segment.urgent))
        .collect();
    assert_eq!(pointers, [(true, 1_010), (true, 10), (false, 0)]);
}

#[test]
fn the_mark_arrives() {
    let mut pair = Pair::established(&Config::default(), &Config::default());
    pair.b.reads = false;
    pair.a.send(b"hello");
    pair.settle();
    pair.a.tcp().mark_urgent();
    pair.run_for(ms(10));
    // Marked after it was sent: the peer hears with what is sent next.
    assert_eq!(pair.b.tcp().urgent_mark(), None);
    pair.a.tcp().send(b"!".to_vec()).unwrap();
    pair.a.tcp().mark_urgent();
    pair.run_for(ms(100));
    assert_eq!(pair.b.tcp().urgent_mark(), Some(6));
}
