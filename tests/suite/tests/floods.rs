//! A hundred flows while somebody floods: every flow goes on, intact; memory and frames stay as they are; what was dropped has its
//! reason. How much the flows carry meanwhile, beside the kernel's TCP, is for `bywash-bench floods`.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use bywash_tests::flood::{Flood, Target, send_all};
use bywash_tests::flows::Flows;
use bywash_tests::pings::lost_by_the_link;
use bywash_tests::process::Running;
use bywash_tests::{Bed, LIMIT, Shape, bywash, frames};
use serde_json::Value;

const PORT: u16 = 7;
const FLOWS: usize = 100;
/// Of each flood: what comes before memory is looked at, and what comes then.
const FRAMES: usize = 20_000;
/// What resident memory may grow by: pages that are touched for the first time. A connection is a thousand bytes, so one for each
/// frame of a flood would be forty times that.
const GROWTH: u64 = 1 << 20;
/// Half-open connections that a listener keeps (`backlog`).
const BACKLOG: u64 = 1024;

/// What became of packets, by its name: the program's verdicts, and the shards' drops and counters.
fn counts(report: &Value) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    let mut add = |counters: &Value| {
        for (name, count) in counters.as_object().expect("counters by name") {
            *all.entry(name.clone()).or_default() += count.as_u64().expect("a count");
        }
    };
    add(&report["xdp"]);
    for shard in report["shards"].as_array().expect("shards") {
        add(&shard["drops"]);
        add(&shard["counters"]);
    }
    all
}

/// What has been counted since.
fn since(before: &Value, after: &Value) -> BTreeMap<String, u64> {
    let before = counts(before);
    let mut more = counts(after);
    for (name, count) in &mut more {
        *count -= before.get(name).copied().unwrap_or(0);
    }
    more.retain(|_, count| *count > 0);
    more
}

fn frames_in_all(report: &Value) -> [u64; 2] {
    ["rx_total", "tx_total"].map(|kind| {
        bywash::over_shards(report, |shard| {
            shard["frames"][kind].as_u64().expect("a number")
        })
    })
}

fn connections(report: &Value, state: &str) -> u64 {
    bywash::over_shards(report, |shard| {
        let all = shard["connections"].as_array().expect("connections");
        all.iter().filter(|one| one["state"] == state).count() as u64
    })
}

/// Counters under one of which each frame of these floods ends: what XDP keeps from the shard, or gives to the kernel as malformed;
/// what finds the shard's ring full; what the shard refuses; and the SYNs that it answers.
const ENDS: [&str; 24] = [
    "drop-syn-limit",
    "drop-syn-prefix-limit",
    "drop-ack-limit",
    "drop-no-flow",
    "drop-tcp-data-offset",
    "drop-tcp-truncated",
    "drop-first-fragment",
    "pass-malformed-ip",
    "rx-ring-full",
    "no-connection",
    "unacceptable-sequence",
    "bad-reset",
    "unexpected-syn",
    "bad-ack",
    "bad-flags",
    "missing-ack",
    "bad-data-offset",
    "bad-tcp-checksum",
    "bad-ip-checksum",
    "bad-source-address",
    "duplicate-data",
    "syn-cookies-sent",
    "connections-opened",
    "transmit-ring-full",
];

/// What must have happened.
fn signs(flood: Flood) -> &'static [&'static str] {
    match flood {
        Flood::Syns | Flood::SynsOfFew => &["redirect-syn", "syn-cookies-sent"],
        Flood::Acks => &["no-connection"],
        Flood::Forged => &["unacceptable-sequence", "bad-reset"],
        Flood::Garbage => &[
            "bad-tcp-checksum",
            "bad-ip-checksum",
            "bad-source-address",
            "drop-first-fragment",
            "pass-malformed-ip",
        ],
    }
}

/// Looks until each frame has come to an end.
#[track_caller]
fn all_counted(server: &Running, flood: Flood, before: &Value, wanted: u64) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let after = bywash::ss(server);
        let more = since(before, &after);
        let ends: u64 = ENDS.iter().filter_map(|name| more.get(*name)).sum();
        let missing: Vec<_> = signs(flood)
            .iter()
            .filter(|name| !more.contains_key(**name))
            .collect();
        if ends >= wanted && missing.is_empty() {
            println!("{flood:?}: {more:?}");
            return after;
        }
        assert!(
            Instant::now() < deadline,
            "{flood:?}: {ends} of {wanted} frames have a reason, none has {missing:?}: {more:#?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Once nobody speaks any more, frames are where they came from.
#[track_caller]
fn nothing_is_held(server: &Running) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let report = bywash::ss(server);
        let of = |kind: &str| {
            bywash::over_shards(&report, |shard| {
                shard["frames"][kind].as_u64().expect("a number")
            })
        };
        let busy = of("tx_total") - of("tx_free");
        if busy == 0 && connections(&report, "ESTABLISHED") == 0 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{busy} frames are still held: {report:#}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn flooded(arguments: &[&str]) {
    let bed = Bed::new(Shape::default());
    // Who answers the whole world needs a way there.
    let (host, gateway) = (bed.host.namespace.as_str(), bed.peer.v4.to_string());
    bywash_tests::bed::ip(&["-n", host, "route", "add", "default", "via", &gateway]);
    let port = PORT.to_string();
    let echo = [&["echo", "-p", port.as_str()][..], arguments].concat();
    let server = bywash::serve(&bed.host, &echo);
    let here = SocketAddrV4::new(bed.host.v4, PORT);
    let flows = Flows::start(&bed.peer, SocketAddr::V4(here), FLOWS, 1);
    flows.everyone_goes_on();
    let client = |address: &SocketAddr| match address {
        SocketAddr::V4(address) => *address,
        SocketAddr::V6(address) => unreachable!("{address} of a bed's IPv4"),
    };
    let target = Target {
        macs: (frames::mac(&bed.host.link()), frames::mac(&bed.peer.link())),
        server: here,
        clients: flows.addresses.iter().map(client).collect(),
    };
    for flood in Flood::ALL {
        send_all(&bed.peer, flood.frames(&target, 1, FRAMES));
        flows.everyone_goes_on();
        // What a report takes is taken now, too.
        let before = bywash::ss(&server);
        let (memory, lost) = (server.memory(), lost_by_the_link(&bed.host, &bed.peer));
        send_all(&bed.peer, flood.frames(&target, 2, FRAMES));
        flows.everyone_goes_on();
        let lost = lost_by_the_link(&bed.host, &bed.peer) - lost;
        let after = all_counted(&server, flood, &before, FRAMES as u64 - lost);
        let grown = server.memory().saturating_sub(memory);
        assert!(
            grown <= GROWTH,
            "{flood:?}: {memory} bytes, then {grown} more"
        );
        assert_eq!(frames_in_all(&before), frames_in_all(&after), "{flood:?}");
        assert_eq!(
            connections(&after, "ESTABLISHED"),
            FLOWS as u64,
            "{flood:?}"
        );
        let half_open = connections(&after, "SYN-RECEIVED");
        assert!(half_open <= BACKLOG, "{flood:?}: {half_open} half-open");
    }
    let ended = flows.end();
    ended.unwrap_or_else(|error| panic!("a flow was harmed: {error}"));
    nothing_is_held(&server);
    bywash::end(server);
}

#[test]
fn floods_harm_nobody_and_cost_no_memory() {
    flooded(&[]);
}

#[test]
fn with_strict_neither() {
    flooded(&["--strict"]);
}
