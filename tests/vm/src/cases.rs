//! What is asserted of zero copy.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bywash::seams::RingSizes;
use bywash::seams::xsk::{BusyPollConfig, Mode};
use bywash::{EngineConfig, IdlePolicy, PoolClass, PoolPolicy, Stack};

use crate::engine::{ECHO, PORT, Running, bywash, ss, strict};
use crate::machine::Side;
use crate::mirror::HOLD;
use crate::traffic::{connect, crowd, flood, ping_pong, there_and_back};
use crate::{Guest, Outcome};

const MIB: u64 = 1 << 20;
/// As many as the issue of this test asks for, in rings of this many entries.
const CROWD: u32 = 200;
const CROWD_RING: u32 = 64;

pub(crate) fn zero_copy(guest: &mut Guest) {
    guest.case("bind", bind);
    guest.case("kernel-echo", kernel_echo);
    guest.case("kernel-bulk", kernel_bulk);
    guest.case("bywash-bulk", bywash_bulk);
    guest.case("crowd", dedicated_pools);
    guest.case("link", link);
    guest.case("killed", killed);
    guest.case("starved", starved);
    for (name, idle, busy_poll) in VARIANTS {
        guest.case(name, |guest| variant(guest, idle, busy_poll));
    }
    guest.case("chunks", chunks);
    guest.case("jumbo", jumbo);
}

fn contains(text: &str, wanted: &str) -> Outcome<()> {
    match text.contains(wanted) {
        true => Ok(()),
        false => Err(format!("{wanted:?} is not in: {text}")),
    }
}

/// The kernel says zero copy, and so do `ss` and `doctor`.
fn bind(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let running = Running::start(host, strict(host), ECHO)?;
    if running.mode() != Mode::ZeroCopy {
        return Err("XDP_OPTIONS says copy".to_owned());
    }
    let text = bywash(host, &["ss"])??;
    contains(&text, "zero-copy mode")?;
    let doctor = bywash(host, &["doctor", "--dev", host.device])?;
    let doctor = doctor.unwrap_or_else(|text| text);
    contains(&doctor, "zero-copy mode")?;
    let list = bywash(host, &["doctor", "--first-run", "--dev", host.device])??;
    contains(&list, "--require-zero-copy --guard-tx")?;
    running.stop()?;
    Ok(
        "XDP_OPTIONS, ss and doctor say zero copy; doctor prints the list for a first run"
            .to_owned(),
    )
}

fn kernel_echo(guest: &Guest) -> Outcome<String> {
    let running = Running::start(&guest.host, strict(&guest.host), ECHO)?;
    let to = running.address;
    guest.peer.run(move || ping_pong(connect(to)?, 200))??;
    running.account(&guest.host)
}

fn bulk_bytes(guest: &Guest) -> u64 {
    if guest.whole { 64 * MIB } else { 4 * MIB }
}

fn kernel_bulk(guest: &Guest) -> Outcome<String> {
    let running = Running::start(&guest.host, strict(&guest.host), ECHO)?;
    let (to, bytes) = (running.address, bulk_bytes(guest));
    guest
        .peer
        .run(move || there_and_back(connect(to)?, bytes, 1))??;
    let text = running.account(&guest.host)?;
    Ok(format!("{} MiB both ways, {text}", bytes / MIB))
}

/// Bywash at both ends, both in zero-copy mode.
fn bywash_bulk(guest: &Guest) -> Outcome<String> {
    let running = Running::start(&guest.host, strict(&guest.host), ECHO)?;
    let (to, bytes, config) = (running.address, bulk_bytes(guest), strict(&guest.peer));
    guest.peer.run(move || -> Outcome<()> {
        let stack = Stack::start(config).map_err(|error| error.to_string())?;
        if stack.description().bind_mode != Mode::ZeroCopy {
            return Err("the peer copies".to_owned());
        }
        let open = || {
            stack
                .connect(to)
                .map_err(|error| format!("connect: {error}"))
        };
        let done = open()
            .and_then(|stream| ping_pong(stream, 50))
            .and_then(|()| there_and_back(open()?, bytes, 2));
        let stopped = stack.stop().map_err(|error| error.to_string());
        done.and(stopped)
    })??;
    let text = running.account(&guest.host)?;
    Ok(format!("{} MiB both ways, {text}", bytes / MIB))
}

/// A ring of its own for each of 200 connections, all open at a time.
fn dedicated_pools(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let mut config = EngineConfig {
        pools: vec![PoolClass {
            pools: CROWD,
            ring: CROWD_RING,
        }],
        ..strict(host)
    };
    config.shard.pools = PoolPolicy::Dedicated;
    let running = Running::start(host, config, ECHO)?;
    let to = running.address;
    let streams = guest
        .peer
        .run(move || crowd(to, CROWD as usize, 4 << 10))??;
    let shard = ss(host)?["shards"][0].take();
    let rings: std::collections::BTreeSet<u64> = shard["connections"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|conn| conn["pool"].as_u64())
        .collect();
    if rings.len() != CROWD as usize {
        return Err(format!("{} rings for {CROWD} connections", rings.len()));
    }
    let idle = shard["pools"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pool| pool["frames"].as_u64() == Some(0))
        .count();
    if idle > 0 {
        return Err(format!("nothing came by {idle} of the rings"));
    }
    drop(streams);
    let text = running.account(host)?;
    Ok(format!("{CROWD} connections in as many rings, {text}"))
}

/// The NIC goes down in the middle of a transfer, at either end, and comes back.
fn link(guest: &Guest) -> Outcome<String> {
    let running = Running::start(&guest.host, strict(&guest.host), ECHO)?;
    let (to, bytes) = (running.address, 4 * bulk_bytes(guest) / 8);
    let transfer = guest
        .peer
        .spawn(move || there_and_back(connect(to)?, bytes, 3))?;
    for side in [&guest.host, &guest.peer] {
        let before = running.seen.received.load(Ordering::Relaxed);
        wait_for("the transfer to go on", || {
            running.seen.received.load(Ordering::Relaxed) > before + MIB / 4
                || transfer.is_finished()
        })?;
        side.ip(&["link", "set", side.device, "down"])?;
        std::thread::sleep(Duration::from_millis(300));
        side.ip(&["link", "set", side.device, "up"])?;
    }
    transfer
        .join()
        .map_err(|_| "the transfer panicked".to_owned())??;
    let mode = ss(&guest.host)?["bind_mode"].to_string();
    let text = running.account(&guest.host)?;
    Ok(format!("down and up at both ends, {mode} after it, {text}"))
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) -> Outcome<()> {
    let begin = Instant::now();
    while !holds() {
        if begin.elapsed() > Duration::from_secs(30) {
            return Err(format!("waited 30 s for {what}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// `bywash echo` as a process of its own.
fn command(side: &Side) -> Outcome<Child> {
    let device = side.device;
    let child = side.run(move || {
        Command::new("/bin/bywash")
            .args(["echo", "--require-zero-copy", "--guard-tx", "--dev", device])
            .args(["-p", &PORT.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
    })?;
    let mut child = child.map_err(|error| format!("bywash echo: {error}"))?;
    wait_for("bywash echo to be ready", || {
        ss(side).is_ok_and(|engine| engine["shards"][0]["listeners"][0]["port"] == PORT)
            || child.try_wait().is_ok_and(|status| status.is_some())
    })?;
    match child.try_wait() {
        Ok(None) => Ok(child),
        other => Err(format!("bywash echo ended: {other:?}")),
    }
}

/// `kill -9`, and the next engine has the queue in zero-copy mode again.
fn killed(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let to = std::net::SocketAddr::new(host.address.into(), PORT);
    let rounds = if guest.whole { 3 } else { 1 };
    for round in 0..rounds {
        let mut child = command(host)?;
        let engine = ss(host)?;
        let outcome = match engine["bind_mode"] == "zero-copy" {
            true => guest.peer.run(move || ping_pong(connect(to)?, 20))?,
            false => Err(format!("round {round}: {}", engine["bind_mode"])),
        };
        child
            .kill()
            .and_then(|()| child.wait())
            .map_err(|error| format!("kill: {error}"))?;
        outcome?;
    }
    // One that ends in order clears up what the last killed one has left.
    Running::start(host, strict(host), ECHO)?.stop()?;
    Ok(format!("{rounds} times killed, each time zero copy again"))
}

/// The shard stands still while more packets come than there are frames: the fill ring runs dry, and the driver must be told
/// when it is full again.
fn starved(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let mut config = EngineConfig {
        rings: RingSizes {
            // More than the fill ring and virtio's own ring of 1024 have together.
            primary: 4096,
            fill: 1024,
            ..RingSizes::default()
        },
        // The shard's standing still is meant.
        watchdog: None,
        ..strict(host)
    };
    config.shard.pools = PoolPolicy::Shared;
    let running = Running::start(host, config, ECHO)?;
    let (to, bytes) = (running.address, bulk_bytes(guest) / 4);
    let address = host.address;
    let transfer = guest
        .peer
        .spawn(move || there_and_back(connect(to)?, bytes, 3))?;
    wait_for("the transfer to begin", || {
        running.seen.received.load(Ordering::Relaxed) > 0
    })?;
    HOLD.store(true, Ordering::Relaxed);
    let flooding = guest.peer.spawn(move || flood(address, PORT, 6000));
    // A device without receive buffers holds up its whole hub: the flood stands still too, until the shard goes on.
    std::thread::sleep(Duration::from_millis(1500));
    HOLD.store(false, Ordering::Relaxed);
    flooding?
        .join()
        .map_err(|_| "the flood panicked".to_owned())??;
    transfer
        .join()
        .map_err(|_| "the transfer panicked".to_owned())??;
    let counters = ss(host)?["shards"][0]["counters"].take();
    let dry = counters["fill-ring-empty"].as_u64().unwrap_or(0);
    if dry == 0 {
        return Err(format!("the fill ring never ran dry: {counters}"));
    }
    let text = running.account(host)?;
    Ok(format!(
        "fill ring found empty {dry} times, {} wake-ups; {text}",
        counters["rx-wakeups"]
    ))
}

type Variant = (&'static str, IdlePolicy, Option<BusyPollConfig>);

const POLL: Option<BusyPollConfig> = Some(BusyPollConfig {
    time_us: 20,
    budget: 64,
});

/// How the shard idles, and who runs the driver.
const VARIANTS: [Variant; 4] = [
    ("sleep", IdlePolicy::Sleep, None),
    ("spin", IdlePolicy::Spin, None),
    ("busy-poll-spin", IdlePolicy::Spin, POLL),
    (
        "busy-poll-sleep",
        IdlePolicy::SpinThenSleep(Duration::from_micros(50)),
        POLL,
    ),
];

fn variant(guest: &Guest, idle: IdlePolicy, busy_poll: Option<BusyPollConfig>) -> Outcome<String> {
    let host = &guest.host;
    let mut config = strict(host);
    config.busy_poll = busy_poll;
    config.shard.idle = idle;
    let running = Running::start(host, config, ECHO)?;
    let to = running.address;
    let bytes = bulk_bytes(guest) / 8;
    guest.peer.run(move || ping_pong(connect(to)?, 20))??;
    guest
        .peer
        .run(move || there_and_back(connect(to)?, bytes, 4))??;
    let engine = ss(host)?;
    let polling = engine["busy_poll"].as_str().unwrap_or("").to_owned();
    let stalls = engine["shards"][0]["counters"]["tx-stalls"].clone();
    // Abandoned: under so much load that nothing completed for a tenth of a second. What counts is that nothing hung.
    if busy_poll.is_some() != (polling.starts_with("on") || polling.starts_with("abandoned")) {
        return Err(format!("busy poll: {polling}"));
    }
    let text = running.account(host)?;
    Ok(format!("busy poll {polling}, {stalls} stalls; {text}"))
}

/// Both sizes of chunks.
fn chunks(guest: &Guest) -> Outcome<String> {
    for chunk in [2048, 4096] {
        let config = EngineConfig {
            chunk_size: Some(chunk),
            ..strict(&guest.host)
        };
        let running = Running::start(&guest.host, config, ECHO)?;
        let to = running.address;
        guest
            .peer
            .run(move || there_and_back(connect(to)?, MIB, 5))??;
        running
            .account(&guest.host)
            .map_err(|error| format!("chunks of {chunk}: {error}"))?;
    }
    Ok("2048 and 4096 bytes".to_owned())
}

/// A frame that does not fit one buffer is refused before anything is attached.
fn jumbo(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    host.ip(&["link", "set", host.device, "mtu", "9000"])?;
    let told = match Running::start(host, strict(host), ECHO) {
        Err(told) => Ok(told),
        Ok(running) => {
            running.stop()?;
            Err("an MTU of 9000 was taken".to_owned())
        }
    };
    host.ip(&["link", "set", host.device, "mtu", "1500"])?;
    let told = told?;
    contains(&told, "beyond single-buffer XDP")?;
    Ok(told)
}
