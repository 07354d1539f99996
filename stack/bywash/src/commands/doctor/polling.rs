//! How the kernel's half of the work is scheduled: NAPI, its threads, busy polling.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bywash_engine::host::Device;
use bywash_engine::host::netdev::{Answer, Napi, napis};

use super::tune::{Change, Step};
use super::{Findings, sysfs};

/// What makes interrupts wait for a polling engine: attempts, and nanoseconds until the kernel helps itself (the pair that
/// DPDK's af_xdp driver asks for).
const DEFERRED: [(&str, u64); 2] = [("napi_defer_hard_irqs", 2), ("gro_flush_timeout", 200_000)];

/// The first kernel on which a socket knows its NAPI from the bind on, which is when an engine asks; before, it learnt it from
/// its first packet.
const NAPI_AT_BIND: (u32, u32) = (6, 13);

pub(super) fn look(
    findings: &mut Findings,
    device: &Device,
    kernel: Option<(u32, u32)>,
    busy_poll: bool,
) {
    let napis = match napis(device.ifindex) {
        Ok(Answer::Known(napis)) => napis,
        Ok(Answer::Unknown) => {
            findings.warn(
                "napi",
                "this kernel does not list NAPI instances (Linux 6.8 does)",
                "nothing to do: how many there are shows in /proc/interrupts",
            );
            threaded(findings, device, &[]);
            too_old(findings, kernel);
            return;
        }
        Err(error) => {
            findings.warn(
                "napi",
                format!("the kernel does not list NAPI instances: {error}"),
                "allow generic netlink sockets",
            );
            return;
        }
    };
    threaded(findings, device, &napis);
    if too_old(findings, kernel) {
        return;
    }
    if napis.is_empty() {
        let driver = device.driver.as_deref().unwrap_or("the driver");
        findings.warn(
            "busy-poll",
            format!("{driver} does not register its NAPI: its queues cannot be busy-polled (kernels since 6.13)"),
            "nothing to do: the engine wakes the kernel by system calls, and says so",
        );
        return;
    }
    deferral(findings, device, busy_poll);
}

/// Whether no engine can poll on this kernel, and says so.
fn too_old(findings: &mut Findings, kernel: Option<(u32, u32)>) -> bool {
    let old = kernel.is_some_and(|kernel| kernel < NAPI_AT_BIND);
    if old {
        let (major, minor) = NAPI_AT_BIND;
        findings.warn(
            "busy-poll",
            format!("not on this kernel: a socket knows its NAPI at the bind since Linux {major}.{minor}"),
            "nothing to do: the engine wakes the kernel by system calls, and says so",
        );
    }
    old
}

fn threaded(findings: &mut Findings, device: &Device, napis: &[Napi]) {
    let switch = match sysfs::read(device, "threaded") {
        Ok(value) => value,
        Err(reason) => {
            findings.warn(
                "napi",
                format!("whether NAPI is threaded is not known: {reason}"),
                sysfs::REMEDY,
            );
            return;
        }
    };
    let count = match napis.len() {
        0 => String::new(),
        1 => "; one instance".to_owned(),
        n => format!("; {n} instances"),
    };
    if switch == "0" {
        findings.ok(
            "napi",
            format!("runs in soft interrupts, on the core that is interrupted or sends{count}"),
        );
        return;
    }
    let threads: Vec<String> = napis
        .iter()
        .filter_map(|napi| napi.pid)
        .map(|pid| format!("{pid} on cores {}", allowed(pid)))
        .collect();
    let list = if threads.is_empty() {
        String::new()
    } else {
        format!(": threads {}", threads.join(", "))
    };
    findings.warn(
        "napi",
        format!("runs in kernel threads{count}{list}"),
        "keep them off the shards' cores (taskset -pc CORES PID): on the core of a spinning shard they starve its fill ring",
    );
}

fn allowed(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.map_or_else(|| "unknown".to_owned(), |list| list.trim().to_owned())
}

fn deferral(findings: &mut Findings, device: &Device, wanted: bool) {
    let mut changes = Vec::new();
    for (name, value) in DEFERRED {
        match sysfs::read(device, name) {
            Ok(now) if now != value.to_string() => {
                let path = sysfs::path(device, name);
                changes.push(Change {
                    why: "an engine with --busy-poll fetches packets itself; interrupts only disturb it".into(),
                    apply: Step::write(&path, value.to_string()),
                    undo: Step::write(&path, now),
                });
            }
            Ok(_) => {}
            Err(reason) => {
                findings.warn(
                    "busy-poll",
                    format!("possible; {name} is not known: {reason}"),
                    sysfs::REMEDY,
                );
                return;
            }
        }
    }
    if changes.is_empty() {
        findings.ok("busy-poll", "possible, and interrupts wait for it");
    } else if wanted {
        findings.warn(
            "busy-poll",
            "possible, but interrupts do not wait for a polling engine",
            changes
                .iter()
                .map(|change| change.apply.to_string())
                .collect::<Vec<_>>()
                .join("; "),
        );
        findings.changes.extend(changes);
    } else {
        findings.ok(
            "busy-poll",
            "possible; `doctor --busy-poll` says what to set for it",
        );
    }
}

/// Interrupts of the device and the cores that serve them; `None` if it has none of its own.
pub(super) fn interrupts(device: &Device) -> io::Result<Option<Vec<(u32, String)>>> {
    let folder: PathBuf = sysfs::path(device, "device/msi_irqs");
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut found: Vec<(u32, String)> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .map(|irq: u32| {
            let path = format!("/proc/irq/{irq}/smp_affinity_list");
            let cores = fs::read_to_string(Path::new(&path));
            (
                irq,
                cores.map_or_else(|_| "unknown".into(), |cores| cores.trim().to_owned()),
            )
        })
        .collect();
    found.sort();
    Ok(Some(found))
}
