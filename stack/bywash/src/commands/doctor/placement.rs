//! Where interrupts, cores and memory are, and who else may come onto a shard's core.

use std::fs;
use std::io::{self, ErrorKind};

use bywash_engine::host::Device;

use super::tune::{Change, Step};
use super::{Findings, polling, sysfs};

const CPU: &str = "/sys/devices/system/cpu";

pub(super) fn look(findings: &mut Findings, device: &Device) {
    interrupts(findings, device);
    isolation(findings);
    frequency(findings);
    node(findings, device);
    huge_pages(findings);
}

fn interrupts(findings: &mut Findings, device: &Device) {
    let found = match polling::interrupts(device) {
        Ok(Some(found)) => found,
        Ok(None) => {
            return findings.ok(
                "irq",
                "no interrupts of its own: packets come on the core that sends them",
            );
        }
        Err(error) => return findings.unreadable("irq", "the device's interrupts", &error),
    };
    let balanced = match runs("irqbalance") {
        Ok(balanced) => balanced,
        Err(error) => return findings.unreadable("irq", "/proc", &error),
    };
    let list: Vec<String> = found
        .iter()
        .map(|(irq, cores)| format!("{irq} on {cores}"))
        .collect();
    let text = format!("interrupts {}", list.join(", "));
    if balanced {
        findings.warn(
            "irq",
            format!("{text}; irqbalance moves them"),
            "systemctl stop irqbalance, then echo CORE > /proc/irq/N/smp_affinity_list: the shard's own core with --busy-poll, a neighbour's without",
        );
    } else {
        findings.ok("irq", text);
    }
}

/// Whether a process of this name runs.
fn runs(name: &str) -> io::Result<bool> {
    for entry in fs::read_dir("/proc")? {
        // What is no process has no name, and a process may end while it is looked at.
        if fs::read_to_string(entry?.path().join("comm")).is_ok_and(|comm| comm.trim() == name) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn isolation(findings: &mut Findings) {
    let mut list = |name: &str| {
        // A kernel that cannot have any has no such file.
        let text = findings.read_if_there("isolation", format!("{CPU}/{name}"))?;
        Some(text.filter(|text| !text.is_empty() && text != "(null)"))
    };
    let (Some(isolated), Some(nohz)) = (list("isolated"), list("nohz_full")) else {
        return;
    };
    match (isolated, nohz) {
        (Some(isolated), nohz) => findings.ok(
            "isolation",
            format!(
                "cores {isolated} are kept free of other programs; {}",
                nohz.map_or("none is free of the tick".into(), |cores| format!("{cores} free of the tick"))
            ),
        ),
        (None, _) => findings.warn(
            "isolation",
            "no core is kept free of other programs: a shard may be put off its core for milliseconds",
            "boot with isolcpus=CORES nohz_full=CORES rcu_nocbs=CORES, and give them by --cores; not needed to try things out",
        ),
    }
}

fn frequency(findings: &mut Findings) {
    let entries = match fs::read_dir(CPU).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(error) => return findings.unreadable("frequency", CPU, &error),
    };
    let mut slow = Vec::new();
    let mut seen = 0;
    for entry in entries {
        let path = entry.path().join("cpufreq/scaling_governor");
        let governor = match fs::read_to_string(&path) {
            Ok(governor) => governor.trim().to_owned(),
            // No core, or one without a governor.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                continue;
            }
            Err(error) => {
                return findings.unreadable("frequency", &path.display().to_string(), &error);
            }
        };
        seen += 1;
        if governor != "performance" {
            slow.push(Change {
                why: "a core that changes its frequency adds to latency".into(),
                apply: Step::write(&path, "performance"),
                undo: Step::write(&path, governor),
            });
        }
    }
    match (seen, slow.len()) {
        (0, _) => findings.ok("frequency", "the host decides: no governor to be seen here"),
        (_, 0) => findings.ok("frequency", format!("all {seen} cores at full frequency")),
        (_, n) => {
            findings.warn(
                "frequency",
                format!("{n} of {seen} cores lower their frequency when idle"),
                slow[0].apply.to_string() + if n > 1 { " (and the others)" } else { "" },
            );
            findings.changes.extend(slow);
        }
    }
}

fn node(findings: &mut Findings, device: &Device) {
    let node = match sysfs::find(device, "device/numa_node") {
        Ok(node) => node,
        Err(reason) => return findings.unreadable("numa", "the device's node", &reason),
    };
    // -1: the firmware does not say. No file: a virtual device.
    let node = node
        .and_then(|text| text.parse::<i32>().ok())
        .filter(|node| *node >= 0);
    // A kernel without NUMA has no such file.
    let Some(nodes) = findings.read_if_there("numa", "/sys/devices/system/node/online") else {
        return;
    };
    match (node, nodes) {
        (Some(node), Some(nodes)) if nodes != "0" => {
            let path = format!("/sys/devices/system/node/node{node}/cpulist");
            let Some(cores) = findings.read("numa", path) else {
                return;
            };
            findings.warn(
                "numa",
                format!("the device is on node {node} of {nodes}"),
                format!("--cores with cores of that node: {cores}"),
            );
        }
        _ => findings.ok("numa", "one memory node, or a device of none"),
    }
}

fn huge_pages(findings: &mut Findings) {
    let Some(text) = findings.read("huge-pages", "/proc/meminfo") else {
        return;
    };
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
    };
    match (field("HugePages_Free:"), field("Hugepagesize:")) {
        (Some(free), Some(kib)) => findings.ok(
            "huge-pages",
            format!(
                "{free} of {} MiB free; the frames lie on ordinary pages",
                kib >> 10
            ),
        ),
        _ => findings.ok(
            "huge-pages",
            "none in this kernel; the frames lie on ordinary pages",
        ),
    }
}
