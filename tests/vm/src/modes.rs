//! What differs by driver, mode and kernel.

use std::sync::atomic::Ordering;
use std::time::Instant;

use bywash::seams::xsk::{BindMode, Mode};
use bywash::{EngineConfig, XdpMode};
use bywash_engine::host::QueueSteering;

use crate::engine::{ECHO, Running, bywash, ss, strict};
use crate::mirror::Manner;
use crate::traffic::{connect, ping_pong, push, there_and_back};
use crate::{Guest, Outcome};

const MIB: u64 = 1 << 20;

/// Zero copy is not to be had: a device without IOMMU, or a kernel that is too old. Bywash says so and why, works all the
/// same, and does not start where zero copy is required.
pub(crate) fn refused(guest: &mut Guest) {
    guest.case("says-why", says_why);
    guest.case("required", required);
    guest.case("works", |guest| {
        works(guest, EngineConfig::new(guest.host.device), Mode::Copy)
    });
}

fn says_why(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let running = Running::start(host, EngineConfig::new(host.device), ECHO)?;
    let why = running.description().zero_copy_refusal.clone();
    let text = bywash(host, &["ss"])??;
    let doctor = bywash(host, &["doctor", "--dev", host.device])?;
    let doctor = doctor.unwrap_or_else(|text| text);
    let mode = running.mode();
    running.stop()?;
    let Some(why) = why.filter(|_| mode == Mode::Copy) else {
        return Err(format!("mode {mode:?} without a reason"));
    };
    for wanted in ["copy mode", "zero copy was refused"] {
        if !text.contains(wanted) {
            return Err(format!("ss does not say {wanted:?}: {text}"));
        }
    }
    if !doctor.contains("copy mode") {
        return Err(format!("doctor does not say \"copy mode\": {doctor}"));
    }
    for line in doctor.lines().filter(|line| {
        ["kernel", "driver", "zero-copy", "napi", "busy-poll"]
            .iter()
            .any(|check| line.split_whitespace().nth(1) == Some(check))
    }) {
        println!("VM note doctor: {line}");
    }
    Ok(why)
}

fn required(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let line = ["echo", "--dev", host.device, "--require-zero-copy"];
    match bywash(host, &line)? {
        Ok(text) => Err(format!("it started: {text}")),
        Err(told) if told.contains("zero copy is required and was refused") => {
            Ok(told.lines().last().unwrap_or_default().to_owned())
        }
        Err(told) => Err(format!("it failed of something else: {told}")),
    }
}

/// Echo and a transfer, in the mode that is expected.
fn works(guest: &Guest, config: EngineConfig, expected: Mode) -> Outcome<String> {
    let config = EngineConfig {
        guard_tx: true,
        ..config
    };
    let running = Running::start(&guest.host, config, ECHO)?;
    if running.mode() != expected {
        return Err(format!("mode {:?}", running.mode()));
    }
    let to = running.address;
    let bytes = if guest.whole { 64 * MIB } else { 4 * MIB };
    guest.peer.run(move || ping_pong(connect(to)?, 50))??;
    guest
        .peer
        .run(move || there_and_back(connect(to)?, bytes, 6))??;
    let xdp = running.description().xdp_mode;
    let text = running.account(&guest.host)?;
    Ok(format!("{xdp} XDP, {text}"))
}

/// One shard on a device that may have several queues: their traffic is led to the first.
fn one_queue(guest: &Guest, config: EngineConfig) -> Outcome<EngineConfig> {
    let folder = format!("/sys/class/net/{}/queues", guest.host.device);
    let queues = guest
        .host
        .run(move || std::fs::read_dir(folder))?
        .map_err(|error| format!("the queues: {error}"))?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"))
        .count();
    Ok(EngineConfig {
        queue_steering: match queues {
            1 => QueueSteering::None,
            _ => QueueSteering::Rss,
        },
        ..config
    })
}

/// The emulated 82576.
pub(crate) fn igb(guest: &mut Guest) {
    guest.case("igb-chunks", |guest| {
        let config = EngineConfig {
            chunk_size: Some(2048),
            ..one_queue(guest, strict(&guest.host))?
        };
        match Running::start(&guest.host, config, ECHO) {
            Err(told) if told.contains("needs 4096") => Ok(told),
            Err(told) => Err(told),
            Ok(running) => running
                .stop()
                .and(Err("chunks of 2048 bytes were taken".to_owned())),
        }
    });
    guest.case("igb-zero-copy", |guest| {
        let config = one_queue(guest, strict(&guest.host))?;
        works(guest, config, Mode::ZeroCopy)
    });
    table(guest);
}

/// The same transfer in each mode. Under emulation only the order of the rows means anything.
pub(crate) fn table(guest: &mut Guest) {
    let rows = [
        ("zero copy", BindMode::ZeroCopy, XdpMode::Native),
        ("driver, copy", BindMode::Copy, XdpMode::Native),
        ("generic, copy", BindMode::Copy, XdpMode::Generic),
    ];
    for (name, mode, xdp) in rows {
        guest.case(&format!("row {name}"), |guest| row(guest, name, mode, xdp));
    }
}

fn row(guest: &Guest, name: &str, mode: BindMode, xdp: XdpMode) -> Outcome<String> {
    let host = &guest.host;
    let config = EngineConfig {
        mode,
        xdp,
        ..one_queue(guest, EngineConfig::new(host.device))?
    };
    let manner = Manner {
        echo: false,
        ..ECHO
    };
    let running = Running::start(host, config, manner)?;
    let bytes = if guest.whole { 64 * MIB } else { 16 * MIB };
    let to = running.address;
    // Once to warm up: under emulation code is translated when it first runs.
    guest.peer.run(move || push(connect(to)?, 2 * MIB, 8))??;
    let before = (running.seen.frames.load(Ordering::Relaxed), core_time()?);
    let begin = Instant::now();
    guest.peer.run(move || push(connect(to)?, bytes, 9))??;
    while running.seen.received.load(Ordering::Relaxed) < bytes + 2 * MIB {
        if begin.elapsed() > crate::traffic::PATIENCE {
            return Err("the bytes do not arrive".to_owned());
        }
        std::thread::yield_now();
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let frames = running.seen.frames.load(Ordering::Relaxed) - before.0;
    let busy = core_time()? - before.1;
    let driver = running.description().driver.clone().unwrap_or_default();
    let bind = ss(host)?["bind_mode"].as_str().unwrap_or("?").to_owned();
    running.stop()?;
    println!(
        "VM row | {driver} | {name} | {bind} | {:.0} | {:.1} | {:.1} |",
        frames as f64 / elapsed,
        bytes as f64 / elapsed / 1e6,
        busy * 1e6 / frames as f64,
    );
    Ok(format!("{frames} frames in {elapsed:.2} s"))
}

/// Seconds that all cores were busy since the start (`/proc/stat`, in hundredths).
fn core_time() -> Outcome<f64> {
    let text = std::fs::read_to_string("/proc/stat").map_err(|error| error.to_string())?;
    let line = text.lines().next().unwrap_or_default();
    let mut fields = line.split_whitespace().skip(1);
    let values: Vec<f64> = fields.by_ref().filter_map(|one| one.parse().ok()).collect();
    match values.as_slice() {
        // user nice system idle iowait irq softirq
        [user, nice, system, _, _, irq, softirq, ..] => {
            Ok((user + nice + system + irq + softirq) / 100.0)
        }
        _ => Err(format!("/proc/stat begins with {line:?}")),
    }
}
