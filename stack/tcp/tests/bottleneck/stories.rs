//! ECN, pacing, idle senders.

use bywash_tcp::time::{Duration, Instant};
use bywash_tcp::{Config, CongestionControl, EcnMode, LimitedBy};
use bywash_wire::{Ecn, Flags};

use crate::config;
use crate::model::{Link, Model};

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn with_ecn(congestion: CongestionControl) -> Config {
    Config {
        ecn: EcnMode::On,
        ..config(congestion)
    }
}

/// A link that marks from 20 packets on and has room for 400.
fn marking() -> Link {
    Link {
        buffer: 400 * 1_500,
        mark_at: 20 * 1_500,
        ..Link::new(20, 20, 100)
    }
}

#[test]
fn marks_take_the_place_of_losses() {
    for congestion in CongestionControl::ALL {
        let mut model = Model::new(marking(), &vec![with_ecn(congestion); 2]);
        model.run(secs(5));
        let (before, dropped) = (model.flows[0].received, model.dropped);
        model.run(secs(10));
        assert!(model.marked > 0, "{congestion}");
        assert_eq!(model.dropped, dropped, "{congestion}");
        let info = model.flows[0].sender.info();
        assert!(info.ecn && info.ecn_echoes > 0, "{congestion}");
        let rate = (model.flows[0].received - before) / 10;
        assert!(rate > 500_000, "{congestion}: {rate} of 1250000 bytes/s");
        // 20 packets at 20 Mbit/s are 12 ms, and a round trip passes before a sender answers.
        let queue = model.mean_queue_ms();
        assert!(queue < 40.0, "{congestion}: {queue} ms in the queue");
    }
}

#[test]
fn who_was_not_asked_is_not_marked() {
    let mut model = Model::new(marking(), &[config(CongestionControl::Cubic)]);
    model.record = true;
    model.run(secs(3));
    assert!(!model.flows[0].sender.info().ecn);
    assert!(
        model.flows[0]
            .sent
            .iter()
            .all(|(_, _, _, ecn)| *ecn == Ecn::NotEct)
    );
    assert_eq!(model.marked, 0);
}

#[test]
fn only_new_data_is_ect_and_cwr_follows_each_reduction() {
    let mut link = marking();
    // Losses too.
    link.buffer = 30 * 1_500;
    let mut model = Model::new(link, &[with_ecn(CongestionControl::Reno)]);
    model.record = true;
    model.run(secs(20));
    let flow = &model.flows[0];
    assert!(flow.sent.iter().any(|(_, _, again, _)| *again));
    for (_, _, again, ecn) in &flow.sent {
        assert_eq!(*ecn, if *again { Ecn::NotEct } else { Ecn::Ect0 });
    }
    let cwr = flow
        .sent
        .iter()
        .filter(|(_, segment, ..)| segment.flags.contains(Flags::CWR));
    let cwr: Vec<Instant> = cwr.map(|(at, ..)| *at).collect();
    assert!(cwr.len() > 3, "{} reductions", cwr.len());
    for pair in cwr.windows(2) {
        assert!(pair[1].since(pair[0]) >= link.rtt, "once a round trip");
    }
    // ECE ends when CWR has arrived, and comes again.
    let edges = flow
        .acks
        .windows(2)
        .filter(|two| two[0].flags.contains(Flags::ECE) != two[1].flags.contains(Flags::ECE))
        .count();
    assert!(edges >= 4, "{edges}");
}

/// Times between the segments that a paced sender sends, in steady state.
fn gaps(config: Config, link: Link) -> Vec<u64> {
    let mut model = Model::new(link, &[config]);
    model.run(secs(3));
    model.record = true;
    model.run(secs(1));
    let sent = &model.flows[0].sent;
    sent.windows(2)
        .map(|two| two[1].0.since(two[0].0).as_micros())
        .collect()
}

/// Most segments that leave at one moment.
fn burst(gaps: &[u64]) -> usize {
    let mut most = 1;
    let mut run = 1;
    for gap in gaps {
        run = if *gap == 0 { run + 1 } else { 1 };
        most = most.max(run);
    }
    most
}

#[test]
fn a_rate_cap_spaces_segments_out() {
    let config = Config {
        max_pacing_rate: Some(144_800),
        ..config(CongestionControl::Cubic)
    };
    let gaps = gaps(config, Link::new(100, 40, 100));
    // 100 segments a second, in pairs: 20 ms between pairs.
    assert!((98..=102).contains(&gaps.len()), "{}", gaps.len());
    assert_eq!(burst(&gaps), 2);
    let pairs: Vec<u64> = gaps.into_iter().filter(|gap| *gap > 0).collect();
    assert!(
        pairs.iter().all(|gap| (19_000..=21_000).contains(gap)),
        "{pairs:?}"
    );
}

#[test]
fn pacing_breaks_up_bursts() {
    let link = Link::new(20, 40, 100);
    let paced = Config {
        pacing: true,
        ..config(CongestionControl::Cubic)
    };
    let burst = burst(&gaps(paced, link));
    // A millisecond of 1.2 times 20 Mbit/s are two segments; ACKs let go two at a time as well.
    assert!(burst <= 4, "{burst}");
}

#[test]
fn bbr_is_always_paced() {
    let link = Link::new(20, 40, 100);
    let mut model = Model::new(link, &[config(CongestionControl::Bbr)]);
    model.run(secs(3));
    let info = model.flows[0].sender.info();
    assert!(info.pacing_rate.is_some());
    assert_eq!(info.limited_by, LimitedBy::Pacing);
    // 20 Mbit/s are 2.5 MB/s, 52 of 1500 bytes are headers.
    let rate = info.pacing_rate.unwrap_or(0);
    assert!((2_000_000..3_200_000).contains(&rate), "{rate}");
    assert!(burst(&gaps(config(CongestionControl::Bbr), link)) <= 4);
}

#[test]
fn pacing_costs_a_flow_nothing() {
    for congestion in [CongestionControl::Cubic, CongestionControl::Reno] {
        let received = [false, true].map(|pacing| {
            let config = Config {
                pacing,
                ..config(congestion)
            };
            let mut model = Model::new(Link::new(20, 40, 100), &[config]);
            model.run(secs(20));
            model.flows[0].received
        });
        assert!(
            received[1] > received[0] * 95 / 100,
            "{congestion}: {received:?}"
        );
    }
}

#[test]
fn a_pause_takes_the_window_back_or_keeps_it() {
    for (restart, keeps) in [(true, false), (false, true)] {
        let config = Config {
            slow_start_after_idle: restart,
            ..config(CongestionControl::Cubic)
        };
        let mut model = Model::new(Link::new(20, 100, 400), &[config]);
        model.run(secs(5));
        model.flows[0].active = false;
        // What is in the send buffer goes first.
        model.run(secs(10));
        let before = model.flows[0].sender.info().cwnd;
        assert!(before > 200_000, "{before}");
        model.run(secs(10));
        model.flows[0].active = true;
        // Less than a round trip: the first flight.
        model.run(Duration::from_millis(50));
        let after = model.flows[0].sender.info().cwnd;
        assert_eq!(after == before, keeps, "{before} before, {after} after");
        assert!(keeps || after <= 14_600, "{after}");
    }
}

#[test]
fn a_thin_stream_does_not_grow_its_window() {
    let config = Config {
        max_pacing_rate: Some(50_000),
        ..config(CongestionControl::Cubic)
    };
    let mut model = Model::new(Link::new(100, 40, 400), &[config]);
    model.run(secs(60));
    let info = model.flows[0].sender.info();
    // 50 kB/s at 40 ms are 2000 bytes a round trip, the window begins with 14480.
    assert!(info.cwnd <= 2 * 14_480, "{}", info.cwnd);
}

#[test]
fn the_algorithm_changes_under_way() {
    let mut model = Model::new(Link::new(20, 40, 100), &[config(CongestionControl::Cubic)]);
    let mut received = 0;
    for congestion in [
        CongestionControl::Bbr,
        CongestionControl::Reno,
        CongestionControl::Cubic,
    ] {
        let now = model.now;
        model.flows[0]
            .sender
            .configure(now, |config| config.congestion = congestion);
        assert_eq!(model.flows[0].sender.info().congestion, congestion);
        model.run(secs(10));
        let bytes = model.flows[0].received - received;
        received = model.flows[0].received;
        assert!(bytes > 17_500_000, "{congestion}: {bytes} of 25000000");
    }
}
