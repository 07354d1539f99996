//! A flow that gets a ring, or loses it, keeps its order.

use std::time::Duration;

use bywash_engine::config::{PoolLimits, PoolPolicy, ShardConfig};
use bywash_engine::xsk::PoolClass;

use crate::device::World;

const STEP: Duration = Duration::from_micros(100);
const IDLE: Duration = Duration::from_millis(2);
const FLOWS: usize = 8;

fn config() -> ShardConfig {
    ShardConfig {
        pools: PoolPolicy::PromoteAfter(12_000),
        pool_limits: PoolLimits {
            idle_after: IDLE,
            ..PoolLimits::default()
        },
        ..ShardConfig::default()
    }
}

/// Eight flows and three rings: who sends is promoted, who has not sent for a while makes room. Returns the world and what was
/// sent.
fn coming_and_going(seed: u64, lost_per_mille: usize, rounds: usize) -> (World, u64) {
    let pools = [PoolClass {
        pools: 3,
        ring: 2048,
    }];
    let mut world = World::new(&config(), &pools, 1, FLOWS, seed);
    world.run(20, STEP);
    world.lost_per_mille = lost_per_mille;
    let mut sent = 0;
    for _ in 0..rounds {
        let first = world.dice.roll(FLOWS);
        for flow in [first, (first + 3) % FLOWS] {
            let bytes = 20_000 + world.dice.roll(100_000) as u64;
            world.send(flow, bytes);
            sent += bytes;
        }
        let pause = world.dice.roll(60);
        world.run(pause, STEP);
    }
    world.settle(sent, 2_000_000, STEP);
    (world, sent)
}

#[test]
fn no_segment_is_out_of_order_while_flows_come_and_go() {
    let (mut promoted, mut demoted, mut parked) = (0, 0, 0);
    for seed in 1..30 {
        let (world, _) = coming_and_going(seed, 0, 60);
        assert_eq!(world.out_of_order(), 0, "seed {seed}");
        let client = world.client.report();
        let again: u64 = client
            .connections
            .iter()
            .map(|conn| conn.retransmissions)
            .sum();
        assert_eq!(again, 0, "seed {seed}: nothing was lost");
        assert_eq!(world.counter("moves-forced"), 0, "seed {seed}");
        world.nothing_lost();
        promoted += world.counter("promoted");
        demoted += world.counter("demoted");
        parked += world.counter("frames-parked");
    }
    assert!(
        promoted > 500 && demoted > 400,
        "{promoted} promoted, {demoted} demoted"
    );
    assert!(
        parked > 20,
        "only {parked} frames had to wait: the test shows little"
    );
}

/// A packet that the wire loses while its flow moves must not hold the flow up for long, and all of it arrives.
#[test]
fn loss_while_flows_move_is_told_to_tcp() {
    for seed in 100..106 {
        let (world, sent) = coming_and_going(seed, 5, 30);
        assert_eq!(world.received(), sent, "seed {seed}");
        world.nothing_lost();
    }
}

/// A ring goes from flow to flow, and each finds it as its own.
#[test]
fn a_ring_is_recycled() {
    let pools = [PoolClass {
        pools: 1,
        ring: 2048,
    }];
    let mut world = World::new(&config(), &pools, 1, FLOWS, 7);
    world.run(20, STEP);
    let mut sent = 0;
    for round in 0..3 * FLOWS {
        world.send(round % FLOWS, 100_000);
        sent += 100_000;
        world.settle(sent, 10_000, STEP);
        world.run(1, 2 * IDLE);
    }
    let report = &world.reports()[0];
    assert!(
        report.pools[0].owners >= 3 * FLOWS as u64 - 2,
        "{report:#?}"
    );
    assert_eq!((report.pools_used, report.pools[0].held), (1, 0));
    assert_eq!(world.out_of_order(), 0);
    assert_eq!(
        world.flows.borrow().len(),
        1,
        "the others were taken out of the flow table"
    );
}

/// A busy flow keeps its ring, whoever wants it.
#[test]
fn a_busy_flow_is_not_demoted() {
    let pools = [PoolClass {
        pools: 1,
        ring: 2048,
    }];
    let mut world = World::new(&config(), &pools, 1, 2, 8);
    world.run(20, STEP);
    let mut sent = 0;
    for _ in 0..50 {
        for flow in 0..2 {
            world.send(flow, 30_000);
            sent += 30_000;
        }
        world.run(10, STEP);
    }
    world.settle(sent, 10_000, STEP);
    assert_eq!(
        (world.counter("promoted"), world.counter("demoted")),
        (1, 0)
    );
}

/// `Dedicated`: a ring from the first segment on, with nothing to wait for.
#[test]
fn a_dedicated_ring_is_there_from_the_first_segment_on() {
    let config = ShardConfig {
        pools: PoolPolicy::Dedicated,
        ..config()
    };
    let pools = [PoolClass {
        pools: 2,
        ring: 2048,
    }];
    let mut world = World::new(&config, &pools, 1, 3, 9);
    world.run(20, STEP);
    for flow in 0..3 {
        world.send(flow, 5000);
    }
    world.settle(15_000, 1000, STEP);
    let report = &world.reports()[0];
    let with_ring = report.connections.iter().filter(|conn| conn.pool.is_some());
    assert_eq!(with_ring.count(), 2, "as many as there are rings");
    assert_eq!(world.counter("frames-parked"), 0);
    assert!(
        report.pools.iter().all(|pool| pool.frames > 0),
        "{report:#?}"
    );
}

/// `Shared`: nobody gets one.
#[test]
fn shared_flows_have_no_ring() {
    let config = ShardConfig {
        pools: PoolPolicy::Shared,
        ..config()
    };
    let pools = [PoolClass {
        pools: 2,
        ring: 2048,
    }];
    let mut world = World::new(&config, &pools, 1, 3, 10);
    world.run(20, STEP);
    for flow in 0..3 {
        world.send(flow, 200_000);
    }
    world.settle(600_000, 10_000, STEP);
    assert_eq!(
        (world.counter("promoted"), world.reports()[0].pools_used),
        (0, 0)
    );
}
