//! In steady state a system call is for many packets, whichever way the data goes.
//!
//! Counted are the calls of the shards' threads while data flows: waking the kernel to send (`kicks`) or to receive
//! (`rx-wakeups`, `busy-polls`), and sleeping (`sleeps`, one poll each). Reading the clock is none (vDSO), and nothing else
//! is called in a turn; what the control socket costs, which is asked before and after, is not the packets'.

use std::time::Duration;

use bywash_tests::process::Running;
use bywash_tests::{Bed, Shape, bywash};
use serde_json::Value;

/// Calls are to be fewer than one for so many packets.
const PACKETS_PER_CALL: u64 = 16;
const TEST_TIME: Duration = Duration::from_secs(60);

/// System calls and packets of the engine so far.
fn counted(engine: &Running) -> (u64, u64) {
    let report = bywash::ss(engine);
    let sum = |names: &[&str]| {
        bywash::over_shards(&report, |shard| {
            let count = |name: &&str| shard["counters"][*name].as_u64();
            names
                .iter()
                .map(|name| count(name).unwrap_or_else(|| panic!("no counter {name}: {shard:#}")))
                .sum()
        })
    };
    (
        sum(&["kicks", "rx-wakeups", "busy-polls", "sleeps"]),
        sum(&["segments-in", "segments-out"]),
    )
}

#[test]
fn a_system_call_is_for_many_packets() {
    let bed = Bed::new(Shape {
        offloads: false,
        ..Shape::default()
    });
    // As an engine with work to do runs: asleep it needs a call for each waking.
    let server = bywash::serve(&bed.host, &["iperf3", "-s", "--idle", "spin"]);
    let address = bed.host.address(false).to_string();
    for direction in [&[][..], &["-R"]] {
        let before = counted(&server);
        let arguments = [&["-c", &address, "-J", "-t", "2"], direction].concat();
        let client = bed.peer.run_for("iperf3", &arguments, TEST_TIME);
        assert_eq!(client.json()["error"], Value::Null, "{client:#?}");
        let after = counted(&server);
        let (calls, packets) = (after.0 - before.0, after.1 - before.1);
        println!("{direction:?}: {calls} system calls for {packets} packets");
        assert!(
            packets > 10_000,
            "only {packets} packets: nothing was measured"
        );
        assert!(
            calls * PACKETS_PER_CALL < packets,
            "{direction:?}: {calls} system calls for {packets} packets"
        );
    }
}
