use bywash_xsk::{MemoryConfig, MemoryPort, PoolClass};

use super::*;
use crate::config::ShardConfig;

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

/// Pools of these classes, from ring 2 on.
fn pools(classes: &[(u32, u32)]) -> Pools {
    let classes = classes.iter();
    let config = MemoryConfig {
        pools: classes
            .map(|(pools, ring)| PoolClass {
                pools: *pools,
                ring: *ring,
            })
            .collect(),
        ..MemoryConfig::default()
    };
    let (port, _) = MemoryPort::pair(&config);
    Pools::new(&port, &ShardConfig::default(), at(0))
}

#[test]
fn every_ring_goes_round() {
    let mut pools = pools(&[(3, 256)]);
    let taken: Vec<_> = std::iter::from_fn(|| pools.take(0, 1, at(0))).collect();
    assert_eq!(taken, [(2, 1), (3, 2), (4, 3)]);
    assert_eq!(pools.usage(), (3, 3));
    pools.release(3);
    assert_eq!(pools.take(7, 1, at(0)), Some((3, 4)));
    assert_eq!(pools.pool_mut(3).owner, Some(7));
    assert_eq!(pools.pool_mut(3).counters.owners, 2);
}

#[test]
fn the_ring_given_back_first_is_taken_first() {
    let mut pools = pools(&[(3, 256)]);
    for _ in 0..3 {
        pools.take(0, 1, at(0));
    }
    for ring in [4, 2, 3] {
        pools.release(ring);
    }
    let again = [(); 3].map(|()| pools.take(0, 1, at(0)).expect("free").0);
    assert_eq!(again, [4, 2, 3]);
}

#[test]
fn a_flow_gets_the_smallest_ring_that_holds_its_window() {
    let mut pools = pools(&[(1, 1024), (2, 64), (1, 256)]);
    let mut take = |window| pools.take(0, window, at(0)).map(|(ring, _)| ring);
    assert_eq!(take(64), Some(3));
    assert_eq!(take(65), Some(5), "256 entries");
    assert_eq!(take(65), Some(2), "the next larger one");
    assert_eq!(take(5000), Some(4), "what there is");
    assert_eq!(take(1), None);
}

#[test]
fn an_idle_owner_is_found_and_a_busy_one_is_not() {
    let mut pools = pools(&[(40, 64)]);
    for owner in 0..40 {
        pools.take(owner, 1, at(0));
    }
    for ring in (2..42).filter(|ring| *ring != 35) {
        pools.on_batch(ring, 1, at(9));
    }
    let found: Vec<u32> = (0..3).filter_map(|_| pools.idle_owner(at(10))).collect();
    assert_eq!(found, [33], "a search looks at {SEARCH}; three see all");
    assert_eq!(pools.idle_owner(at(9)), None);
}

#[test]
fn a_share_may_be_used_by_others_until_frames_run_short() {
    let mut pools = pools(&[(3, 64)]);
    assert_eq!(pools.credit(400, Pressure::None), 400);
    pools.take(0, 1, at(0));
    pools.take(1, 1, at(0));
    pools.take(2, 1, at(0));
    assert_eq!(pools.credit(400, Pressure::Half), 100);
    pools.limits.credit = Some(60);
    assert_eq!(pools.credit(400, Pressure::None), 60);
    assert_eq!(pools.credit(400, Pressure::High), 60);
}
