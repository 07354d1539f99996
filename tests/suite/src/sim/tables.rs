//! What the controllers make of loss, distance, outages and each other, as tables: worlds without chance in their wires but loss.
//!
//! The tables are committed, so that a change of TCP shows what it does to them; `tests/sim_tables.rs` compares.

use std::fmt::Write;

use bywash::seams::tcp::CongestionControl;

use super::faults::{Happening, Loss, MS, SEC};
use super::plan::Plan;
use super::scenario::Scenario;
use super::world::World;

/// Bits a second of the wire in all tables.
const RATE: u64 = 20_000_000;
/// How long each transfer lasts, of virtual time.
const LASTS: u64 = 5 * SEC;
/// More than a transfer can carry in that time.
const ENDLESS: u64 = 2 * RATE;

const ALGORITHMS: [CongestionControl; 3] = [
    CongestionControl::Reno,
    CongestionControl::Cubic,
    CongestionControl::Bbr,
];

/// A wire of `RATE` with a queue of one round trip at least, and `flows` transfers over it.
fn scenario(algorithm: CongestionControl, rtt: u64, flows: u64) -> Scenario {
    let plans = (0..flows).map(|number| {
        let mut plan = Plan::bulk(ENDLESS, 0);
        // Not all in the same moment.
        plan.start = number * 37 * MS;
        plan
    });
    let mut scenario = Scenario::plain(1, rtt / 2, plans.collect());
    scenario.peace = 10 * LASTS;
    for link in &mut scenario.faults.links {
        link.rate = RATE;
        link.queue = (RATE / 8 * rtt / SEC / 1514).max(32) as usize;
    }
    for host in &mut scenario.hosts {
        host.shard.tcp.congestion = algorithm;
        host.shard.tcp.receive_buffer = 1 << 20;
        host.shard.tcp.send_buffer = 1 << 20;
        host.memory.umem.tx_frames = 8192;
        host.memory.umem.rx_frames = 4096;
        host.memory.rings.fill = 2048;
        host.shard.lease_cap = 2048;
    }
    scenario
}

fn megabits(bytes: u64, nanos: u64) -> f64 {
    bytes as f64 * 8e3 / nanos as f64
}

/// Goodput in Mbit/s of one flow for five seconds, by loss and round-trip time.
pub fn goodput() -> String {
    let mut out = String::new();
    let title = format!("Mbit/s of {} by loss, one flow, 5 s", RATE / 1_000_000);
    writeln!(out, "{title}").expect("a string");
    writeln!(out, "algorithm rtt     0 %  0.1 %    1 %    3 %").expect("a string");
    for algorithm in ALGORITHMS {
        for rtt in [2 * MS, 20 * MS, 100 * MS] {
            write!(out, "{:9} {:3} ms", algorithm.to_string(), rtt / MS).expect("a string");
            for loss in [0, 10, 100, 300] {
                let mut scenario = scenario(algorithm, rtt, 1);
                if loss > 0 {
                    scenario.faults.links[0].loss = Loss::Uniform(loss);
                }
                let mut world = World::new(scenario, false);
                world.run(LASTS);
                write!(out, " {:6.2}", megabits(world.read()[0], LASTS)).expect("a string");
            }
            writeln!(out).expect("a string");
        }
    }
    out
}

/// After an outage in the middle of a transfer: ms until data is read again, and until as much was read in 100 ms as before.
pub fn recovery() -> String {
    const AT: u64 = 3 * SEC;
    const STEP: u64 = 100 * MS;
    let mut out = String::new();
    writeln!(out, "ms after an outage of one direction, rtt 20 ms").expect("a string");
    writeln!(out, "algorithm outage  first data  four fifths of the rate").expect("a string");
    for algorithm in ALGORITHMS {
        for lasts in [50 * MS, 300 * MS, 2 * SEC] {
            let mut scenario = scenario(algorithm, 20 * MS, 1);
            let outage = Happening::Outage { host: 0, lasts };
            scenario.faults.happenings = vec![(AT, outage)];
            let mut world = World::new(scenario, false);
            world.run(AT + lasts);
            let (end, before) = (AT + lasts, world.read()[0]);
            let (mut first, mut full) = (None, None);
            let (mut now, mut last) = (end, before);
            while now < end + 20 * SEC && (first.is_none() || full.is_none()) {
                now += 10 * MS;
                world.run(now);
                let read = world.read()[0];
                if read > before {
                    first.get_or_insert((now - end) / MS);
                }
                if (now - end).is_multiple_of(STEP) {
                    if megabits(read - last, STEP) >= RATE as f64 * 0.8 / 1e6 {
                        full.get_or_insert((now - end) / MS);
                    }
                    last = read;
                }
            }
            let ms = |at: Option<u64>| at.map_or("never".into(), |ms| ms.to_string());
            let name = algorithm.to_string();
            let (first, full) = (ms(first), ms(full));
            let lasts = lasts / MS;
            writeln!(out, "{name:9} {lasts:6}  {first:>10}  {full:>23}").expect("a string");
        }
    }
    out
}

/// Jain's index of what flows that share a wire have read after five seconds: 1 if all got the same.
pub fn fairness() -> String {
    let mut out = String::new();
    writeln!(out, "Jain's index, and Mbit/s in all, rtt 20 ms, 5 s").expect("a string");
    writeln!(out, "algorithm flows  index  Mbit/s").expect("a string");
    for algorithm in ALGORITHMS {
        for flows in [2, 4, 8] {
            let mut world = World::new(scenario(algorithm, 20 * MS, flows), false);
            world.run(LASTS);
            let read: Vec<f64> = world.read().iter().map(|bytes| *bytes as f64).collect();
            let sum: f64 = read.iter().sum();
            let squares: f64 = read.iter().map(|one| one * one).sum();
            let index = sum * sum / (read.len() as f64 * squares);
            let all = megabits(sum as u64, LASTS);
            let name = algorithm.to_string();
            writeln!(out, "{name:9} {flows:5}  {index:5.3}  {all:6.2}").expect("a string");
        }
    }
    out
}
