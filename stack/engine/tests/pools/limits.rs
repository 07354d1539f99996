//! What a pool may bring and hold.

use std::time::Duration;

use bywash_engine::config::{Discard, PoolLimits, PoolPolicy, ShardConfig};
use bywash_engine::service::Follows;
use bywash_engine::xsk::PoolClass;

use crate::device::World;

const STEP: Duration = Duration::from_micros(100);
const SEGMENT: u64 = 1400;

fn world(limits: PoolLimits, lease_cap: u32, connections: usize) -> World {
    let config = ShardConfig {
        pools: PoolPolicy::Dedicated,
        pool_limits: limits,
        lease_cap,
        ..ShardConfig::default()
    };
    let mut world = World::new(&config, &[PoolClass::small(4)], 1, connections, 5);
    world.run(30, STEP);
    world
}

fn held(world: &World) -> Vec<u64> {
    world.reports()[0]
        .pools
        .iter()
        .map(|pool| pool.held)
        .collect()
}

/// An application keeps what it gets; what happens at the pool's credit is the policy's.
fn application_that_keeps(discard: Discard) -> World {
    let limits = PoolLimits {
        credit: Some(48),
        discard,
        ..PoolLimits::default()
    };
    let mut world = world(limits, 4096, 1);
    let service = world.servers[0].service_mut();
    service.keeps = Some(service.connections[0]);
    world.send(0, 300 * SEGMENT);
    world.run(300, STEP);
    assert!(held(&world)[0] <= 48, "{discard:?}: {:?}", held(&world));
    assert!(
        held(&world)[0] > 24,
        "{discard:?}: the credit can be used: {:?}",
        held(&world)
    );
    world
}

/// Frames come back: the flow goes on to its end.
fn and_gives_back(mut world: World) -> World {
    let service = world.servers[0].service_mut();
    (service.keeps, service.kept) = (None, Vec::new());
    world.settle(300 * SEGMENT, 100_000, STEP);
    world.nothing_lost();
    assert_eq!(held(&world)[0], 0);
    world
}

#[test]
fn a_window_that_follows_the_credit_loses_nothing() {
    let world = and_gives_back(application_that_keeps(Discard::Window));
    assert_eq!(world.dropped("pool-credit"), 0);
    let again: u64 = world
        .client
        .report()
        .connections
        .iter()
        .map(|conn| conn.retransmissions)
        .sum();
    assert_eq!(again, 0);
}

/// One-byte segments fill frames without filling the window: they meet the credit itself.
fn tiny_segments(discard: Discard) -> World {
    let limits = PoolLimits {
        credit: Some(8),
        discard,
        ..PoolLimits::default()
    };
    let mut world = world(limits, 4096, 1);
    let service = world.servers[0].service_mut();
    service.keeps = Some(service.connections[0]);
    for _ in 0..40 {
        world.send(0, 1);
        world.run(3, STEP);
    }
    assert!(held(&world)[0] <= 8, "{discard:?}: {:?}", held(&world));
    assert!(world.dropped("pool-credit") > 0, "{discard:?}");
    assert_eq!(
        world.reports()[0].pools[0].beyond_credit,
        world.dropped("pool-credit")
    );
    let service = world.servers[0].service_mut();
    (service.keeps, service.kept) = (None, Vec::new());
    world.settle(40, 100_000, STEP);
    world
}

#[test]
fn what_is_beyond_the_credit_is_dropped_and_counted() {
    for discard in [Discard::Packet, Discard::Data, Discard::Window] {
        tiny_segments(discard);
    }
}

/// What waits behind a lost segment may take the whole credit: the segment itself must still be let in.
#[test]
fn a_credit_that_waits_for_a_gap_lets_the_gap_be_filled() {
    for discard in [Discard::Packet, Discard::Data, Discard::Window] {
        let limits = PoolLimits {
            credit: Some(8),
            discard,
            ..PoolLimits::default()
        };
        let mut world = world(limits, 4096, 1);
        world.lost_per_mille = 100;
        world.send(0, 200 * SEGMENT);
        world.settle(200 * SEGMENT, 200_000, STEP);
        assert_eq!(held(&world)[0], 0, "{discard:?}");
    }
}

/// `lost` segments are lost and the three behind them take the whole credit. They are short: of full ones the window lets in no
/// more than the credit.
fn credit_behind_a_gap(lost: u32, discard: Discard, reads: bool) -> World {
    let limits = PoolLimits {
        credit: Some(3),
        discard,
        ..PoolLimits::default()
    };
    let mut world = world(limits, 4096, 1);
    if !reads {
        let service = world.servers[0].service_mut();
        service.keeps = Some(service.connections[0]);
    }
    for (segments, lost_per_mille) in [(lost, 1000), (3, 0)] {
        world.lost_per_mille = lost_per_mille;
        world.client.with_context(|source, cx| {
            let conn = source.connections[0];
            cx.set_nagle(conn, false).expect("open");
            for _ in 0..segments {
                let taken = cx.send_followed(conn, &[7; 400], Follows::Record);
                assert_eq!(taken.expect("open"), 400);
            }
        });
        world.run(1, STEP);
    }
    assert_eq!((held(&world)[0], world.received()), (3, 0), "{discard:?}");
    world
}

#[test]
fn a_burst_into_a_gap_is_taken_whole_where_the_credit_is_used_up() {
    for discard in [Discard::Packet, Discard::Data, Discard::Window] {
        let mut world = credit_behind_a_gap(4, discard, true);
        world.settle(7 * 400, 100_000, STEP);
        assert_eq!(world.dropped("pool-credit"), 0, "{discard:?}");
        world.nothing_lost();
    }
}

#[test]
fn who_reads_nothing_gets_a_credit_more_into_a_gap() {
    let mut world = credit_behind_a_gap(7, Discard::Packet, false);
    world.run(1_000, STEP);
    // And the one that is always let in.
    assert_eq!(held(&world)[0], 2 * 3 + 1);
    assert!(world.dropped("pool-credit") > 0);
    let service = world.servers[0].service_mut();
    (service.keeps, service.kept) = (None, Vec::new());
    world.settle(10 * 400, 1_000_000, STEP);
}

#[test]
fn a_rate_holds_packets_back() {
    let limits = PoolLimits {
        rate: Some(10_000),
        ..PoolLimits::default()
    };
    let mut world = world(limits, 4096, 1);
    world.send(0, 2000 * SEGMENT);
    let mut steps = 0;
    while world.received() < 2000 * SEGMENT {
        world.run(1, STEP);
        steps += 1;
        assert!(steps < 100_000, "{}", world.received());
    }
    // 256 at once, and one a step.
    let least = world.reports()[0].pools[0].frames - 256;
    assert!(
        (least - 10..least + 200).contains(&steps),
        "{steps} steps of 100 us for {least} packets at 10,000 a second"
    );
    assert_eq!(world.dropped("pool-rate-limited"), 0);
    world.nothing_lost();
}

#[test]
fn a_rate_that_drops_counts() {
    let limits = PoolLimits {
        rate: Some(10_000),
        discard: Discard::Packet,
        ..PoolLimits::default()
    };
    let mut world = world(limits, 4096, 1);
    world.send(0, 2000 * SEGMENT);
    world.settle(2000 * SEGMENT, 500_000, STEP);
    let dropped = world.dropped("pool-rate-limited");
    assert!(dropped > 0);
    assert_eq!(world.reports()[0].pools[0].beyond_rate, dropped);
}

/// One application hoards frames; another flow on the shard is served all the same: the hoard's share is flushed to what is its due.
#[test]
fn a_hoard_leaves_others_their_share() {
    let mut world = world(PoolLimits::default(), 120, 2);
    world.send(0, 1);
    world.run(10, STEP);
    let service = world.servers[0].service_mut();
    let is_first = |conn| service.by_connection.contains_key(conn);
    let hoarder = *service
        .connections
        .iter()
        .find(|conn| is_first(conn))
        .expect("a byte came");
    let other = *service
        .connections
        .iter()
        .find(|conn| !is_first(conn))
        .expect("two flows");
    service.keeps = Some(hoarder);
    world.send(0, 3000 * SEGMENT);
    world.run(300, STEP);
    let hoard = held(&world).into_iter().max();
    world.send(1, 1000 * SEGMENT);
    world.run(3000, STEP);
    let service = world.servers[0].service();
    assert_eq!(
        service.by_connection[&other],
        1000 * SEGMENT,
        "the other flow starves"
    );
    assert!(
        hoard.is_some_and(|held| (40..120).contains(&held)),
        "{hoard:?} frames: plenty at first, and not all"
    );
}
