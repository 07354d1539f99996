//! Paths that swallow what is too big without a word (RFC 4821, RFC 8899).

use bywash_tcp::{Config, MtuProbing, State};

use crate::support::{Faults, Pair, Side, ms, pattern};

fn config(mtu_probing: MtuProbing) -> Config {
    Config {
        mtu_probing,
        ..Config::default()
    }
}

/// Over a path for IP packets of `mtu` bytes at most, which says nothing.
fn pair(mtu: usize, probing: MtuProbing) -> Pair {
    let mut pair = Pair::with(&config(probing), &config(probing), Faults::default());
    swallow_above(&mut pair, mtu);
    pair
}

/// From now on packets of more than `mtu` bytes vanish. Timestamps take 12 of them.
fn swallow_above(pair: &mut Pair, mtu: usize) {
    pair.network
        .drop_if(move |trace| trace.segment.payload_len + 12 + 40 > mtu);
}

fn largest(pair: &Pair) -> usize {
    let segments = pair.trace.iter().filter(|trace| trace.from == Side::A);
    let lens = segments.map(|trace| trace.segment.payload_len + 12);
    lens.max().unwrap_or(0)
}

#[test]
fn a_black_hole_is_suspected_and_its_size_is_found() {
    let mut pair = pair(1_300, MtuProbing::OnBlackHole);
    let data = pattern(3_000_000, 5);
    pair.a.send(&data);
    pair.run_until(|pair| pair.b.received.len() == data.len());
    assert_eq!(pair.b.received, data);
    // Within the search's precision of what the path takes, and never again above.
    let mtu = usize::from(pair.a.tcp().path_mtu());
    assert!((1_292..=1_300).contains(&mtu), "{mtu}");
    pair.trace.clear();
    pair.a.send(&data[..1_000_000]);
    pair.run_until(|pair| pair.b.received.len() == data.len() + 1_000_000);
    assert!(largest(&pair) <= 1_260, "{}", largest(&pair));
}

#[test]
fn a_lost_probe_costs_no_window() {
    for sack in [true, false] {
        let config = Config {
            sack,
            ..config(MtuProbing::Always)
        };
        let mut pair = Pair::with(&config, &config, Faults::default());
        swallow_above(&mut pair, 1_300);
        let data = pattern(3_000_000, 5);
        pair.a.send(&data);
        pair.run_until(|pair| pair.b.received.len() == data.len());
        assert_eq!(pair.b.received, data);
        let info = pair.a.tcp().info();
        assert!(info.retransmissions > 0, "no probe was lost");
        assert_eq!((info.timeouts, info.ssthresh), (0, u32::MAX), "sack {sack}");
        let mtu = usize::from(pair.a.tcp().path_mtu());
        assert!((1_292..=1_300).contains(&mtu), "{mtu}");
        assert_eq!(
            pair.a.tcp().found_path_mtu().map(|found| found.0),
            Some(mtu as u16)
        );
    }
}

#[test]
fn off_is_off() {
    let mut pair = pair(1_300, MtuProbing::Off);
    pair.a.send(&pattern(100_000, 5));
    pair.run_for(ms(60_000));
    assert_eq!(pair.b.received.len(), 0);
    assert_eq!(pair.a.tcp().path_mtu(), 1_500);
}

#[test]
fn a_path_that_only_was_down_gets_its_full_segments_back() {
    let mut pair = Pair::with(
        &config(MtuProbing::OnBlackHole),
        &config(MtuProbing::OnBlackHole),
        Faults::default(),
    );
    pair.run_until(|pair| pair.b.state() == State::Established);
    pair.network.drop_if(|_| true);
    pair.a.send(&pattern(2_000_000, 5));
    pair.run_for(ms(4_000));
    assert!(pair.a.tcp().path_mtu() < 1_500);
    pair.network.drop_nothing();
    pair.run_until(|pair| pair.b.received.len() == 2_000_000);
    assert!(pair.a.tcp().path_mtu() > 1_492);
}

#[test]
fn always_begins_from_below() {
    let mut pair = pair(1_500, MtuProbing::Always);
    let data = pattern(1_000_000, 5);
    pair.a.send(&data);
    pair.run_until(|pair| pair.b.received.len() == data.len());
    assert_eq!(pair.b.received, data);
    let lens = pair.trace.iter().filter(|trace| trace.is_data());
    let lens: Vec<usize> = lens.map(|trace| trace.segment.payload_len).collect();
    // The first is a probe, half way between 1024 and 1460 less 12 of timestamps, cut of a segment queued before the handshake.
    assert_eq!(lens[..3], [1_230, 1_448 - 1_230, 1_012]);
    assert!(pair.a.tcp().path_mtu() > 1_492);
    assert_eq!(pair.a.tcp().info().retransmissions, 0, "no probe was lost");
}
