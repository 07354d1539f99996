//! Packets on another queue than their flow's: handed over, and in the end the connection follows them.

use std::time::Duration;

use bywash_engine::config::{PoolPolicy, ShardConfig};
use bywash_engine::xsk::PoolClass;

use crate::device::World;

const STEP: Duration = Duration::from_micros(100);
const FLOWS: usize = 6;

fn world(pools: PoolPolicy, travels: bool, seed: u64) -> World {
    let config = ShardConfig {
        pools,
        ..ShardConfig::default()
    };
    let pools = [PoolClass {
        pools: 4,
        ring: 2048,
    }];
    let mut world = World::new(&config, &pools, 2, FLOWS, seed);
    for server in &mut world.servers {
        server.service_mut().travels = travels;
    }
    world.run(30, STEP);
    assert_eq!(connections(&world), [FLOWS, 0]);
    world
}

fn connections(world: &World) -> Vec<usize> {
    world
        .reports()
        .iter()
        .map(|report| report.connections.len())
        .collect()
}

fn retransmissions(world: &World) -> u64 {
    world
        .client
        .report()
        .connections
        .iter()
        .map(|conn| conn.retransmissions)
        .sum()
}

/// RSS sends everything to queue 1, where no flow lives, in the middle of transfers.
fn rss_changes(pools: PoolPolicy, travels: bool, seed: u64) -> World {
    let mut world = world(pools, travels, seed);
    for flow in 0..FLOWS {
        world.send(flow, 3_000_000);
    }
    world.run(40, STEP);
    world.rss = Box::new(|_| 1);
    world.settle(FLOWS as u64 * 3_000_000, 100_000, STEP);
    world.nothing_lost();
    world
}

#[test]
fn flows_that_stay_are_handed_over_in_order() {
    for (seed, pools) in [PoolPolicy::Shared, PoolPolicy::PromoteAfter(50_000)]
        .into_iter()
        .enumerate()
    {
        let world = rss_changes(pools, false, 40 + seed as u64);
        assert_eq!(connections(&world), [FLOWS, 0]);
        assert!(world.counter("handed-over") > 1000);
        assert_eq!(world.counter("handed-over"), world.counter("taken-over"));
        assert!(world.counter("resteers-declined") > 0);
        assert_eq!(
            (world.out_of_order(), world.dropped("hand-over-full")),
            (0, 0)
        );
    }
}

#[test]
fn a_connection_follows_its_packets_and_keeps_order() {
    let policies = [
        PoolPolicy::Shared,
        PoolPolicy::PromoteAfter(50_000),
        PoolPolicy::Dedicated,
    ];
    for seed in 0..9 {
        let mut world = rss_changes(policies[seed as usize % 3], true, 60 + seed);
        assert_eq!(connections(&world), [0, FLOWS], "seed {seed}");
        assert_eq!(world.counter("resteered-here"), FLOWS as u64);
        assert_eq!(world.out_of_order(), 0, "seed {seed}");
        assert_eq!(retransmissions(&world), 0, "seed {seed}");
        let handed = world.counter("handed-over");
        for flow in 0..FLOWS {
            world.send(flow, 500_000);
        }
        world.settle(FLOWS as u64 * 3_500_000, 100_000, STEP);
        assert_eq!(
            world.counter("handed-over"),
            handed,
            "nothing takes the long way any more"
        );
        // And back.
        world.rss = Box::new(|_| 0);
        for flow in 0..FLOWS {
            world.send(flow, 3_000_000);
        }
        world.settle(FLOWS as u64 * 6_500_000, 100_000, STEP);
        assert_eq!(connections(&world), [FLOWS, 0], "seed {seed}");
        assert_eq!(
            (world.out_of_order(), retransmissions(&world)),
            (0, 0),
            "seed {seed}"
        );
        assert_eq!(
            (
                world.counter("resteers-failed"),
                world.counter("connections-lost")
            ),
            (0, 0)
        );
        world.nothing_lost();
    }
}

#[test]
fn a_nic_that_takes_rules_brings_the_packets_home_and_nothing_moves() {
    let mut world = world(PoolPolicy::Shared, true, 80);
    *world.rules.borrow_mut() = Some(Default::default());
    world.rss = Box::new(|_| 1);
    for flow in 0..FLOWS {
        world.send(flow, 3_000_000);
    }
    world.settle(FLOWS as u64 * 3_000_000, 100_000, STEP);
    assert_eq!(connections(&world), [FLOWS, 0]);
    assert_eq!(world.counter("resteers-by-nic"), FLOWS as u64);
    assert_eq!(world.counter("resteered-here"), 0);
    let handed = world.counter("handed-over");
    for flow in 0..FLOWS {
        world.send(flow, 500_000);
    }
    world.settle(FLOWS as u64 * 3_500_000, 100_000, STEP);
    assert_eq!(world.counter("handed-over"), handed, "all come home");
    world.nothing_lost();
}

#[test]
fn a_hand_over_allocates_nothing() {
    let mut world = world(PoolPolicy::Shared, false, 90);
    world.rss = Box::new(|_| 1);
    for flow in 0..FLOWS {
        world.send(flow, 3_000_000);
    }
    world.settle(FLOWS as u64 * 3_000_000, 100_000, STEP);
    let before = world.counter("handed-over");
    world.allocations = Some(0);
    for flow in 0..FLOWS {
        world.send(flow, 3_000_000);
    }
    world.settle(FLOWS as u64 * 6_000_000, 100_000, STEP);
    let handed = world.counter("handed-over") - before;
    assert!(handed > 12_000, "only {handed} frames were handed over");
    assert_eq!(world.allocations, Some(0), "for {handed} frames");
}

/// What a shard that does not keep up cannot take is dropped with a count, and what waits for it is bounded.
#[test]
fn a_shard_that_stands_still_gets_no_more_than_its_inbox_holds() {
    let mut world = world(PoolPolicy::Shared, false, 80);
    world.rss = Box::new(|_| 1);
    world.frozen = Some(0);
    for flow in 0..FLOWS {
        world.send(flow, 1_000_000);
    }
    // The peers send again and again what nobody acknowledges: enough to fill any queue.
    world.run(3000, Duration::from_millis(100));
    let held = world.lent(1);
    assert!((1..=1024).contains(&held), "{held} frames are lent");
    world.frozen = None;
    world.settle(FLOWS as u64 * 1_000_000, 100_000, STEP);
    world.run(3, STEP);
    assert_eq!(world.lent(1), 0, "every frame came back");
}

/// A flood to the wrong queue while the owner stands still.
#[test]
fn more_than_an_inbox_holds_is_dropped_with_a_count() {
    let mut world = world(PoolPolicy::Shared, false, 81);
    world.rss = Box::new(|_| 1);
    world.frozen = Some(0);
    for flow in 0..FLOWS {
        world.send(flow, 300_000);
    }
    world.flood(0, 3000);
    assert_eq!(world.lent(1), 1024);
    assert!(
        world.dropped("hand-over-full") > 1900,
        "{}",
        world.dropped("hand-over-full")
    );
    world.frozen = None;
    world.settle(FLOWS as u64 * 300_000 + 1, 100_000, STEP);
    world.run(3, STEP);
    assert_eq!(world.lent(1), 0, "every frame came back");
}
