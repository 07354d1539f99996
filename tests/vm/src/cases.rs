//! What is asserted in each mode: zero copy, driver copy, generic.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bywash::seams::RingSizes;
use bywash::seams::xsk::{BusyPollConfig, Mode};
use bywash::{EngineConfig, IdlePolicy, PoolClass, PoolPolicy, Stack};

use crate::engine::{Running, bywash, counter, doctor, finding, settled, ss};
use crate::machine::Side;
use crate::mirror::{HOLD, PORT};
use crate::traffic::{connect, crowd, flood, ping_pong, there_and_back, there_and_back_while};
use crate::{Asked, Guest, Outcome};

pub(crate) const MIB: u64 = 1 << 20;
/// As many as the issue of this test asks for, in rings of this many entries.
const CROWD: u32 = 200;
const CROWD_RING: u32 = 64;

/// Counters that `doctor --first-run` sends people to.
const TOLD: [&str; 8] = [
    "tx-guarded",
    "tx-changed",
    "tx-invalid-descriptors",
    "tx-stalls",
    "rx-dropped",
    "rx-ring-full",
    "fill-ring-empty",
    "payload-bytes-copied",
];

/// Times the link goes down in case `link`, at the most.
const OUTAGES_MAX: usize = 12;

/// Every case, with engines that ask for this.
pub(crate) fn all(guest: &mut Guest, asked: Asked) {
    guest.asked = asked;
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

pub(crate) fn contains(text: &str, wanted: &str) -> Outcome<()> {
    match text.contains(wanted) {
        true => Ok(()),
        false => Err(format!("{wanted:?} is not in: {text}")),
    }
}

/// The kernel says zero copy or copy, and so do `ss` and `doctor`.
fn bind(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let running = Running::start(host, guest.config(host))?;
    if running.mode() != guest.expected() {
        return Err(format!("XDP_OPTIONS says {:?}", running.mode()));
    }
    let words = match guest.expected() {
        Mode::ZeroCopy => "zero-copy mode",
        Mode::Copy => "copy mode",
    };
    let xdp = running.description().xdp_mode;
    let text = bywash(host, &["ss"])??;
    contains(&text, &format!(" {words}"))?;
    let findings = doctor(host)?;
    let (_, said) = finding(&findings, "mode")?;
    contains(said, &format!(" {words}, {xdp} XDP"))?;
    let (_, said) = finding(&findings, "xdp")?;
    contains(said, &format!("a {xdp} XDP program"))?;
    let list = bywash(host, &["doctor", "--first-run", "--dev", host.device])??;
    contains(&list, "--require-zero-copy --guard-tx")?;
    // What it wants looked at is there to be looked at.
    let counters = ss(host)?["shards"][0]["counters"].take();
    for name in TOLD {
        contains(&list, name)?;
        if counters[name].as_u64().is_none() {
            return Err(format!("no counter {name}: {counters}"));
        }
    }
    running.stop()?;
    Ok(format!(
        "XDP_OPTIONS, ss and doctor say {words}; {xdp} XDP; doctor prints the list for a first run"
    ))
}

fn kernel_echo(guest: &Guest) -> Outcome<String> {
    let running = Running::start(&guest.host, guest.config(&guest.host))?;
    let to = running.address;
    guest.peer.run(move || ping_pong(connect(to)?, 200))??;
    running.account(&guest.host)
}

fn bulk_bytes(guest: &Guest) -> u64 {
    if guest.whole { 64 * MIB } else { 4 * MIB }
}

fn kernel_bulk(guest: &Guest) -> Outcome<String> {
    let running = Running::start(&guest.host, guest.config(&guest.host))?;
    let (to, bytes) = (running.address, bulk_bytes(guest));
    guest
        .peer
        .run(move || there_and_back(connect(to)?, bytes, 1))??;
    let text = running.account(&guest.host)?;
    Ok(format!("{} MiB both ways, {text}", bytes / MIB))
}

/// Bywash at both ends, both in the same mode.
fn bywash_bulk(guest: &Guest) -> Outcome<String> {
    let running = Running::start(&guest.host, guest.config(&guest.host))?;
    let (to, bytes, config) = (
        running.address,
        bulk_bytes(guest),
        guest.config(&guest.peer),
    );
    let stack = guest
        .peer
        .run(move || Stack::start(config))?
        .map_err(|error| error.to_string())?;
    if stack.description().bind_mode != guest.expected() {
        return Err(format!("the peer: {:?}", stack.description().bind_mode));
    }
    let open = || {
        stack
            .connect(to)
            .map_err(|error| format!("connect: {error}"))
    };
    ping_pong(open()?, 50)?;
    there_and_back(open()?, bytes, 2)?;
    let (peer, faults) = settled(&guest.peer)?;
    stack.stop().map_err(|error| error.to_string())?;
    if !faults.is_empty() {
        return Err(format!("the peer: {}", faults.join("; ")));
    }
    let text = running.account(&guest.host)?;
    Ok(format!(
        "{} MiB both ways, {text}; at the peer {} watched",
        bytes / MIB,
        counter(&peer, "tx-guarded")
    ))
}

/// A ring of its own for each of 200 connections, all open at a time.
fn dedicated_pools(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let mut config = EngineConfig {
        pools: vec![PoolClass {
            pools: CROWD,
            ring: CROWD_RING,
        }],
        ..guest.config(host)
    };
    config.shard.pools = PoolPolicy::Dedicated;
    let running = Running::start(host, config)?;
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

/// The NIC goes down in the middle of a transfer, at either end, and comes back. What was lost is sent again, while the
/// first copy may still be with the device.
fn link(guest: &Guest) -> Outcome<String> {
    let running = Running::start(&guest.host, guest.config(&guest.host))?;
    let to = running.address;
    let over = Arc::new(AtomicBool::new(false));
    let transfer = {
        let over = over.clone();
        let more = move |_| !over.load(Ordering::Relaxed);
        guest
            .peer
            .spawn(move || there_and_back_while(connect(to)?, 3, more))?
    };
    let mut again = 0;
    // Each end once, and on until the link went down on segments of ours: at times none is under way.
    for (round, side) in [&guest.host, &guest.peer].into_iter().cycle().enumerate() {
        if round >= 2 && again > 0 || round == OUTAGES_MAX {
            break;
        }
        let goes_on = || {
            let before = running.seen.received.load(Ordering::Relaxed);
            wait_for("the transfer to go on", || {
                running.seen.received.load(Ordering::Relaxed) > before + MIB / 8
            })
        };
        goes_on()?;
        side.ip(&["link", "set", side.device, "down"])?;
        std::thread::sleep(Duration::from_millis(300));
        side.ip(&["link", "set", side.device, "up"])?;
        goes_on()?;
        again = ss(&guest.host)?["shards"][0]["connections"][0]["retransmissions"]
            .as_u64()
            .ok_or("there is no connection")?;
    }
    over.store(true, Ordering::Relaxed);
    let bytes = transfer
        .join()
        .map_err(|_| "the transfer panicked".to_owned())??;
    if again == 0 {
        return Err(format!("nothing was sent again in {OUTAGES_MAX} outages"));
    }
    let mode = ss(&guest.host)?["bind_mode"].to_string();
    let text = running.account(&guest.host)?;
    Ok(format!(
        "down and up at both ends under {} MiB, {again} segments sent again, {mode} after it, {text}",
        bytes / MIB
    ))
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
pub(crate) fn command(side: &Side, asked: Asked) -> Outcome<Child> {
    let device = side.device;
    let steering: &[&str] = match side.queues {
        1 => &[],
        _ => &["--queue-steering", "rss"],
    };
    let child = side.run(move || {
        Command::new("/bin/bywash")
            .args(["echo", "--guard-tx", "--dev", device])
            .args(["-p", &PORT.to_string()])
            .args(asked.arguments)
            .args(steering)
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

/// `kill -9`, and the next engine has the queue in the same mode again.
fn killed(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let to = SocketAddr::new(host.address.into(), PORT);
    let mode = match guest.expected() {
        Mode::ZeroCopy => "zero-copy",
        Mode::Copy => "copy",
    };
    let rounds = if guest.whole { 3 } else { 1 };
    for round in 0..rounds {
        let mut child = command(host, guest.asked)?;
        let engine = ss(host)?;
        let outcome = match engine["bind_mode"] == mode {
            true => guest.peer.run(move || ping_pong(connect(to)?, 20))?,
            false => Err(format!("round {round}: {}", engine["bind_mode"])),
        };
        child
            .kill()
            .and_then(|()| child.wait())
            .map_err(|error| format!("kill: {error}"))?;
        outcome?;
    }
    let (level, left) = leftovers(host)?;
    contains(&left, "engines that died have left")?;
    // One that ends in order clears up what the last killed one has left.
    Running::start(host, guest.config(host))?.stop()?;
    let (after, nothing) = leftovers(host)?;
    match (level.as_str(), after.as_str()) {
        ("warn", "ok") => Ok(format!(
            "{rounds} times killed, each time {mode} again; doctor: {left}; after the next: {nothing}"
        )),
        _ => Err(format!("leftovers: {level}, then {after}: {nothing}")),
    }
}

fn leftovers(host: &Side) -> Outcome<(String, String)> {
    let findings = doctor(host)?;
    let (level, text) = finding(&findings, "leftovers")?;
    Ok((level.to_owned(), text.to_owned()))
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
        ..guest.config(host)
    };
    config.shard.pools = PoolPolicy::Shared;
    let running = Running::start(host, config)?;
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
    let wakeups = counters["rx-wakeups"].clone();
    let text = running.account(host)?;
    Ok(format!(
        "fill ring found empty {dry} times, {wakeups} wake-ups; {text}"
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
    let mut config = guest.config(host);
    config.busy_poll = busy_poll;
    config.shard.idle = idle;
    let running = Running::start(host, config)?;
    let to = running.address;
    let bytes = bulk_bytes(guest) / 8;
    guest.peer.run(move || ping_pong(connect(to)?, 20))??;
    guest
        .peer
        .run(move || there_and_back(connect(to)?, bytes, 4))??;
    let engine = ss(host)?;
    let polling = engine["busy_poll"].as_str().unwrap_or("").to_owned();
    let stalls = counter(&engine["shards"][0], "tx-stalls");
    // virtio sends by another NAPI than it receives by: a sending socket that prefers polling is never woken, and nothing
    // leaves until that is noticed; a shard that sleeps does so in poll(), which sends. Abandoned: under so much load that
    // nothing completed for a tenth of a second then.
    let stalls_wanted = host.driver == "virtio_net"
        && guest.expected() == Mode::ZeroCopy
        && idle == IdlePolicy::Spin;
    let as_expected = match (busy_poll.is_some(), stalls_wanted) {
        (false, _) => polling == "off",
        (true, true) => {
            stalls > 0
                && (polling.starts_with("on for receiving") || polling.starts_with("abandoned"))
        }
        (true, false) => polling.starts_with("on") || polling.starts_with("abandoned"),
    };
    if !as_expected {
        return Err(format!("busy poll: {polling}; {stalls} stalls"));
    }
    let text = running.account(host)?;
    Ok(format!("busy poll {polling}, {stalls} stalls; {text}"))
}

/// Both sizes of chunks. igb counts receive buffers in KiB: with 2048 it would cut off what is longer than 1024.
fn chunks(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    for chunk in [2048, 4096] {
        let config = EngineConfig {
            chunk_size: Some(chunk),
            ..guest.config(host)
        };
        if chunk == 2048 && host.driver == "igb" && guest.expected() == Mode::ZeroCopy {
            refused(host, config, "needs 4096")?;
            continue;
        }
        let running = Running::start(host, config)?;
        let to = running.address;
        let said = ss(host)?["chunk_size"].clone();
        if said != chunk {
            return Err(format!("{said} instead of {chunk}"));
        }
        guest
            .peer
            .run(move || there_and_back(connect(to)?, MIB, 5))??;
        running
            .account(host)
            .map_err(|error| format!("chunks of {chunk}: {error}"))?;
    }
    Ok("2048 (igb: refused) and 4096 bytes".to_owned())
}

/// An engine does not start, and says so in these words.
pub(crate) fn refused(host: &Side, config: EngineConfig, words: &str) -> Outcome<String> {
    match Running::start(host, config) {
        Err(told) => contains(&told, words).map(|()| told),
        Ok(running) => running
            .stop()
            .and(Err(format!("it started, instead of saying {words:?}"))),
    }
}

/// A frame that does not fit one buffer is refused before anything is attached; doctor said so.
fn jumbo(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    host.ip(&["link", "set", host.device, "mtu", "9000"])?;
    let told = refused(host, guest.config(host), "beyond single-buffer XDP");
    let findings = doctor(host);
    host.ip(&["link", "set", host.device, "mtu", "1500"])?;
    let (told, findings) = (told?, findings?);
    let (level, said) = finding(&findings, "mtu")?;
    contains(said, "beyond single-buffer XDP")?;
    match level {
        "fail" => Ok(told),
        _ => Err(format!("doctor thinks little of it: {level}: {said}")),
    }
}
