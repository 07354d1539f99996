//! Frames when the kernel does its worst: every transfer ends, and every frame is accounted for.

use std::time::Duration;

use bywash_engine::config::{PoolPolicy, ShardConfig};
use bywash_engine::xsk::{MemoryConfig, PoolClass, RingSizes, UmemConfig};

use crate::device::{Completions, World, memory};

const STEP: Duration = Duration::from_micros(100);
const FLOWS: usize = 3;
const BYTES: u64 = 400_000;

fn world(seed: u64) -> World {
    world_with(&memory(&[PoolClass::small(4)]), &memory(&[]), seed)
}

fn world_with(servers: &MemoryConfig, client: &MemoryConfig, seed: u64) -> World {
    let config = ShardConfig {
        // As the sum of the receive frames has it: something is left for the fill ring.
        lease_cap: 4096.min(servers.umem.rx_frames - 8),
        pools: PoolPolicy::PromoteAfter(20_000),
        ..ShardConfig::default()
    };
    let mut world = World::with(&config, servers, client, 1, FLOWS, seed);
    world.run(30, STEP);
    world
}

/// Sends on all flows, and waits until all of it has arrived.
fn transfer(world: &mut World, already: u64) {
    for flow in 0..FLOWS {
        world.send(flow, BYTES);
    }
    world.settle(already + FLOWS as u64 * BYTES, 1_000_000, STEP);
    world.run(50, STEP);
}

fn client_frames_are_back(world: &World) {
    let ledger = world
        .client_queue
        .umem()
        .audit()
        .expect("the holders add up");
    let frames = world.client.report().frames;
    assert_eq!(u64::from(ledger.tx_free), frames.tx_total, "{ledger:?}");
}

/// A frame that was sent is neither changed nor given out again before its completion, and a retransmission waits for it.
#[test]
fn late_and_reordered_completions_cost_nothing_but_time() {
    for seed in 0..6 {
        let mut world = world(200 + seed);
        world.completions = Completions::Late;
        world.lost_per_mille = 10;
        transfer(&mut world, 0);
        world.withheld.clear();
        world.run(10, STEP);
        client_frames_are_back(&world);
        world.nothing_lost();
    }
}

#[test]
fn a_frame_whose_completion_never_comes_is_missed_by_nobody_else() {
    let mut world = world(210);
    world.completions = Completions::Missing;
    transfer(&mut world, 0);
    let ledger = world
        .client_queue
        .umem()
        .audit()
        .expect("the holders add up");
    assert!(world.withheld.len() > 10, "the test withholds too few");
    assert_eq!(
        ledger.tx_outstanding as usize,
        world.withheld.len(),
        "each is outstanding, and no other"
    );
    world.completions = Completions::AtOnce;
    world.withheld.clear();
    transfer(&mut world, FLOWS as u64 * BYTES);
    client_frames_are_back(&world);
}

#[test]
fn a_transmit_ring_of_two_entries_is_enough() {
    let few = MemoryConfig {
        rings: RingSizes {
            tx: 2,
            ..memory(&[]).rings
        },
        ..memory(&[])
    };
    let mut world = world_with(&memory(&[PoolClass::small(4)]), &few, 220);
    transfer(&mut world, 0);
    client_frames_are_back(&world);
    assert_eq!(world.client.report().counters["tx-refused"], 0);
}

/// The kernel takes nothing for a while (EAGAIN, ENOBUFS), or a wake-up is lost: what was posted goes with a later kick.
#[test]
fn kicks_without_effect_are_repeated() {
    let mut world = world(230);
    for flow in 0..FLOWS {
        world.send(flow, BYTES);
    }
    for _ in 0..20 {
        world.client_queue.set_deaf(true);
        world.run(5, STEP);
        world.client_queue.set_deaf(false);
        world.run(2, STEP);
    }
    // The last kick of all had no effect either, and nothing new is posted: only a turn that kicks for the old comes to it.
    world.client_queue.set_deaf(true);
    world.run(3, STEP);
    world.client_queue.set_deaf(false);
    world.settle(FLOWS as u64 * BYTES, 1_000_000, STEP);
    assert!(world.client.report().counters["kicks-deferred"] > 5);
    assert_eq!(world.client_queue.posted(), 0);
}

/// Applications hold what they may, and a burst finds the few frames that are left gone: packets are lost. Once frames come
/// back, so do they. Were there no cap on what is held, segments out of order could take the last frames, and the one that is
/// missing would find none: for ever.
#[test]
fn a_dry_fill_ring_is_filled_again() {
    let few = MemoryConfig {
        umem: UmemConfig {
            rx_frames: 48,
            ..memory(&[]).umem
        },
        ..memory(&[PoolClass::small(4)])
    };
    let mut world = world_with(&few, &memory(&[]), 240);
    let service = world.servers[0].service_mut();
    service.keeps = Some(service.connections[0]);
    for flow in 0..FLOWS {
        world.send(flow, BYTES);
    }
    world.run(2000, STEP);
    let kept = world.servers[0].service().kept.len();
    assert!((1..=40).contains(&kept), "{kept} frames are kept");
    assert!(
        world.ring_full > 0,
        "nothing was lost: the ring was not dry"
    );
    let service = world.servers[0].service_mut();
    (service.keeps, service.kept) = (None, Vec::new());
    world.settle(FLOWS as u64 * BYTES, 1_000_000, STEP);
}

/// Leases that never come back take their frames from the flow that holds them, and from nobody else.
#[test]
fn frames_held_for_ever_hold_up_one_flow() {
    let mut world = world(250);
    let service = world.servers[0].service_mut();
    let hoarder = service.connections[0];
    service.keeps = Some(hoarder);
    for flow in 0..FLOWS {
        world.send(flow, 20 * BYTES);
    }
    world.run(40_000, STEP);
    let service = world.servers[0].service();
    for (conn, bytes) in &service.by_connection {
        assert!(
            *bytes == 20 * BYTES || *conn == hoarder,
            "{conn:?} got {bytes} bytes"
        );
    }
    assert!(
        service.kept.len() > 1000,
        "the hoard holds {}",
        service.kept.len()
    );
    assert!(service.kept.len() <= 4096, "no more than the shard's cap");
    world.nothing_lost();
}
