//! Congestion control where it matters: flows that share a bottleneck. Goodput, queue and fairness as tables, ECN, pacing and
//! validated windows as stories.

mod model;
mod stories;

use std::fmt::Write as _;

use bywash_tcp::time::Duration;
use bywash_tcp::{Config, CongestionControl};

use model::{Link, Model, fairness};

/// Large buffers, so that nothing but congestion control limits.
pub(crate) fn config(congestion: CongestionControl) -> Config {
    Config {
        congestion,
        send_buffer: 8 << 20,
        receive_buffer: 8 << 20,
        receive_segments: 1 << 16,
        ..Config::default()
    }
}

/// Utilisation in per cent, mean time in the queue in milliseconds, packets dropped per thousand, Jain's index; over the
/// second half of `secs`.
fn measure(link: Link, flows: &[Config], secs: u64) -> (f64, f64, f64, f64, Vec<u64>) {
    let mut model = Model::new(link, flows);
    model.run(Duration::from_secs(secs / 2));
    let before: Vec<u64> = model.flows.iter().map(|flow| flow.received).collect();
    let dropped = model.dropped;
    model.run(Duration::from_secs(secs / 2));
    let shares: Vec<u64> = model
        .flows
        .iter()
        .zip(before)
        .map(|(flow, before)| flow.received - before)
        .collect();
    let bytes: u64 = shares.iter().sum();
    let share_of_link = bytes as f64 / (link.rate * (secs / 2)) as f64 * 100.0;
    let packets = bytes as f64 / 1_448.0;
    (
        share_of_link,
        model.mean_queue_ms(),
        (model.dropped - dropped) as f64 / packets * 1_000.0,
        fairness(&shares),
        shares,
    )
}

#[test]
fn a_shared_bottleneck() {
    let mut table = String::from(
        "20 Mbit/s, 40 ms       | flows | goodput % | queue ms | lost/1000 | fairness\n",
    );
    for buffer in [25, 100, 400] {
        for congestion in CongestionControl::ALL {
            for flows in [1, 2, 8] {
                let configs = vec![config(congestion); flows];
                let (goodput, queue, dropped, fair, _) =
                    measure(Link::new(20, 40, buffer), &configs, 60);
                writeln!(
                    table,
                    "{congestion:5} buffer {buffer:3} % BDP |   {flows}   |    {goodput:3.0}    |   {queue:4.0}   |    {dropped:3.0}    |   {fair:.1}"
                )
                .expect("a string takes all");
                assert!(goodput > 60.0, "{congestion} {buffer} {flows}: {goodput}");
                assert!(
                    flows == 1 || fair > 0.5,
                    "{congestion} {buffer} {flows}: {fair}"
                );
            }
        }
    }
    insta::assert_snapshot!("bottleneck", table);
}

#[test]
fn different_algorithms_share_a_bottleneck() {
    use CongestionControl::{Bbr, Cubic, Reno};
    let mut table = String::from("20 Mbit/s, 40 ms, Mbit/s of one and of the other\n");
    for buffer in [25, 100, 400] {
        for (one, other) in [(Cubic, Reno), (Cubic, Bbr), (Reno, Bbr)] {
            let configs = [config(one), config(other)];
            let (_, _, _, _, shares) = measure(Link::new(20, 40, buffer), &configs, 60);
            let mbit = |bytes: u64| bytes as f64 * 8.0 / 30.0 / 1e6;
            writeln!(
                table,
                "buffer {buffer:3} % BDP: {one:5} {:3.0}   {other:5} {:3.0}",
                mbit(shares[0]),
                mbit(shares[1])
            )
            .expect("a string takes all");
            for share in &shares {
                assert!(mbit(*share) > 0.5, "{one} and {other}: {shares:?}");
            }
        }
    }
    insta::assert_snapshot!("coexistence", table);
}
