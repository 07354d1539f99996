//! A mode that is refused, and the table that compares modes.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bywash::EngineConfig;
use bywash::seams::xsk::Mode;

use crate::cases::{MIB, contains};
use crate::engine::{Running, bywash, doctor, finding};
use crate::mirror::Manner;
use crate::traffic::{PATIENCE, connect, ping_pong, push, there_and_back};
use crate::{Asked, Guest, Outcome};

/// Zero copy is not to be had: a device without IOMMU, or a kernel that is too old. Bywash says so and why, works all the
/// same, and does not start where zero copy is required.
pub(crate) fn refused(guest: &mut Guest) {
    guest.asked = Asked::AUTO;
    guest.case("says-why", says_why);
    guest.case("required", required);
    guest.case("works", works);
}

fn says_why(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let running = Running::start(host, guest.config(host))?;
    let why = running.description().zero_copy_refusal.clone();
    let text = bywash(host, &["ss"])??;
    let findings = doctor(host)?;
    let mode = running.mode();
    running.stop()?;
    let Some(why) = why.filter(|_| mode == Mode::Copy) else {
        return Err(format!("mode {mode:?} without a reason"));
    };
    contains(&text, "copy mode")?;
    contains(&text, &format!("zero copy was refused: {why}"))?;
    let (level, said) = finding(&findings, "mode")?;
    contains(
        said,
        &format!("copy mode, native XDP, frames of 2048 bytes: zero copy was refused: {why}"),
    )?;
    match level {
        "warn" => Ok(why),
        _ => Err(format!("doctor: {level}: {said}")),
    }
}

fn required(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let line = ["echo", "--dev", host.device, "--require-zero-copy"];
    match bywash(host, &line)? {
        Ok(text) => Err(format!("it started: {text}")),
        Err(told) => {
            contains(&told, "exit status: 1:")?;
            contains(&told, "zero copy is required and was refused")?;
            contains(
                &told,
                "run without --require-zero-copy to have frames copied",
            )?;
            Ok(told.lines().last().unwrap_or_default().to_owned())
        }
    }
}

/// Echo and a transfer all the same, in copy mode.
fn works(guest: &Guest) -> Outcome<String> {
    let running = Running::start(&guest.host, guest.config(&guest.host))?;
    let to = running.address;
    let bytes = if guest.whole { 64 * MIB } else { 4 * MIB };
    guest.peer.run(move || ping_pong(connect(to)?, 50))??;
    guest
        .peer
        .run(move || there_and_back(connect(to)?, bytes, 6))??;
    let (mode, xdp) = (running.mode(), running.description().xdp_mode);
    let text = running.account(&guest.host)?;
    match mode {
        Mode::Copy => Ok(format!("{} MiB both ways, {xdp} XDP, {text}", bytes / MIB)),
        Mode::ZeroCopy => Err("it is zero copy".to_owned()),
    }
}

/// The same transfer in each mode. Under emulation only the order of the rows means anything.
pub(crate) fn table(guest: &mut Guest) {
    for (name, asked) in [
        ("zero copy", Asked::ZERO_COPY),
        ("driver, copy", Asked::DRIVER_COPY),
        ("generic, copy", Asked::GENERIC),
    ] {
        guest.case(&format!("row {name}"), |guest| row(guest, name, asked));
    }
}

fn row(guest: &Guest, name: &str, asked: Asked) -> Outcome<String> {
    let host = &guest.host;
    let config = EngineConfig {
        // It hashes each sent frame twice.
        guard_tx: false,
        ..asked.config(host)
    };
    let running = Running::start_as(host, config, Manner::Count)?;
    let bytes = if guest.whole { 64 * MIB } else { 16 * MIB };
    let to = running.address;
    // Once to warm up: under emulation code is translated when it first runs.
    guest.peer.run(move || push(connect(to)?, 2 * MIB, 8))??;
    let before = (running.seen.frames.load(Ordering::Relaxed), core_time()?);
    let begin = Instant::now();
    guest.peer.run(move || push(connect(to)?, bytes, 9))??;
    while running.seen.received.load(Ordering::Relaxed) < bytes + 2 * MIB {
        if begin.elapsed() > PATIENCE {
            return Err("the bytes do not arrive".to_owned());
        }
        // Not spinning: all cores' time is counted.
        std::thread::sleep(Duration::from_millis(1));
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let frames = running.seen.frames.load(Ordering::Relaxed) - before.0;
    let busy = core_time()? - before.1;
    let mode = match running.mode() {
        Mode::ZeroCopy => "zero-copy",
        Mode::Copy => "copy",
    };
    running.stop()?;
    println!(
        "VM row | {} | {name} | {mode} | {:.0} | {:.1} | {:.1} |",
        host.driver,
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
    let fields = line.split_whitespace().skip(1);
    let values: Vec<f64> = fields.map_while(|one| one.parse().ok()).collect();
    match values.as_slice() {
        // user nice system idle iowait irq softirq
        [user, nice, system, _, _, irq, softirq, ..] => {
            Ok((user + nice + system + irq + softirq) / 100.0)
        }
        _ => Err(format!("/proc/stat begins with {line:?}")),
    }
}
