//! Where interrupts, cores and memory are, and who else may come onto a shard's core.

use std::fs;

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
    let balanced = processes_named("irqbalance");
    let Some(found) = polling::interrupts(device) else {
        findings.ok(
            "irq",
            "no interrupts of its own: packets come on the core that sends them",
        );
        return;
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
fn processes_named(name: &str) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else {
        return false;
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok())
        .any(|comm| comm.trim() == name)
}

fn isolation(findings: &mut Findings) {
    let list = |name: &str| {
        let text = fs::read_to_string(format!("{CPU}/{name}")).unwrap_or_default();
        let text = text.trim().to_owned();
        (!text.is_empty() && text != "(null)").then_some(text)
    };
    match (list("isolated"), list("nohz_full")) {
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
    let Ok(entries) = fs::read_dir(CPU) else {
        findings.ok("frequency", "not visible here");
        return;
    };
    let mut slow = Vec::new();
    let mut seen = 0;
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path().join("cpufreq/scaling_governor");
        let Ok(governor) = fs::read_to_string(&path) else {
            continue;
        };
        seen += 1;
        let governor = governor.trim().to_owned();
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
    let node = sysfs::read(device, "device/numa_node")
        .ok()
        .and_then(|text| text.parse::<i32>().ok())
        .filter(|node| *node >= 0);
    let nodes = fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
    match node {
        Some(node) if nodes.trim() != "0" => {
            let path = format!("/sys/devices/system/node/node{node}/cpulist");
            let cores = fs::read_to_string(path).unwrap_or_default();
            findings.warn(
                "numa",
                format!("the device is on node {node} of {}", nodes.trim()),
                format!("--cores with cores of that node: {}", cores.trim()),
            );
        }
        _ => findings.ok("numa", "one memory node, or a device of none"),
    }
}

fn huge_pages(findings: &mut Findings) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
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
