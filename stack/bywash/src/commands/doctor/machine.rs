//! What does not depend on the device: kernel, rights, limits, cores, other engines.

use std::fs;
use std::io;

use bywash_engine::engine::{PinScope, pin_scope};
use bywash_engine::host::control::{EngineInfo, engines};
use bywash_engine::host::lock::RUN_DIR;
use bywash_engine::host::ports::LOCAL_PORTS;
use nix::sys::resource::{Resource, getrlimit};

use super::tune::{Change, Step};
use super::{Findings, af_xdp, watchdog};

/// First kernel with everything that the engine uses: XDP links are 5.9, and the multi-socket
/// fixes of AF_XDP came until 5.11.
const KERNEL: (u32, u32) = (5, 11);

/// Memory of one shard with the defaults, roughly: what a limit must at least allow.
const SHARD_BYTES: u64 = 64 << 20;

/// Numbers of `linux/capability.h`, and what each is for.
const CAPABILITIES: [(u32, &str, &str); 4] = [
    (12, "CAP_NET_ADMIN", "attaching XDP, binding AF_XDP sockets"),
    (13, "CAP_NET_RAW", "making AF_XDP sockets"),
    (21, "CAP_SYS_ADMIN", "mounting the engine's bpffs"),
    (39, "CAP_BPF", "loading the demultiplexer"),
];
const CAP_IPC_LOCK: u32 = 14;

/// The kernel's own local ports, of the calling thread's network namespace.
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Looks, and gives the kernel's version if it can be told.
pub(super) fn look(findings: &mut Findings) -> Option<(u32, u32)> {
    let kernel = kernel(findings);
    let capabilities = capabilities(findings);
    memlock(findings, capabilities);
    jit(findings);
    mounts(findings);
    cores(findings);
    local_ports(findings);
    other_engines(findings);
    kernel
}

fn kernel(findings: &mut Findings) -> Option<(u32, u32)> {
    let release = findings.read("kernel", "/proc/sys/kernel/osrelease")?;
    let version = version(&release);
    match version {
        Some(found) if found >= KERNEL => {
            findings.ok("kernel", format!("Linux {release}"));
            af_xdp::look(findings, found);
        }
        Some(_) => findings.fail(
            "kernel",
            format!("Linux {release} is too old"),
            format!("boot Linux {}.{} or newer", KERNEL.0, KERNEL.1),
        ),
        None => findings.warn(
            "kernel",
            format!("the version {release:?} says nothing to us"),
            format!(
                "make sure that it is Linux {}.{} or newer",
                KERNEL.0, KERNEL.1
            ),
        ),
    }
    version
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The effective set; what is missing becomes a finding.
fn capabilities(findings: &mut Findings) -> u64 {
    let Some(status) = findings.read("rights", "/proc/self/status") else {
        return 0;
    };
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let Some(set) = set else {
        findings.unreadable("rights", "CapEff in /proc/self/status", &"no such line");
        return 0;
    };
    let missing: Vec<String> = CAPABILITIES
        .iter()
        .filter(|(bit, ..)| set & (1 << bit) == 0)
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        findings.ok("rights", "all capabilities that an engine needs");
    } else {
        findings.fail(
            "rights",
            format!("missing: {}", missing.join(", ")),
            "run as root; without root there is `bywash demo`",
        );
    }
    set
}

fn memlock(findings: &mut Findings, capabilities: u64) {
    if capabilities & (1 << CAP_IPC_LOCK) != 0 {
        findings.ok("memlock", "no limit on locked memory (CAP_IPC_LOCK)");
        return;
    }
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) if soft >= SHARD_BYTES => {
            findings.ok("memlock", format!("locked memory up to {} MiB", soft >> 20));
        }
        Ok((soft, _)) => findings.fail(
            "memlock",
            format!(
                "locked memory only up to {} KiB: a shard needs {} MiB",
                soft >> 10,
                SHARD_BYTES >> 20
            ),
            "ulimit -l unlimited, LimitMEMLOCK=infinity in a unit, or CAP_IPC_LOCK",
        ),
        Err(error) => findings.warn(
            "memlock",
            format!("the limit cannot be read: {error}"),
            "ulimit -l unlimited, to be sure",
        ),
    }
}

fn jit(findings: &mut Findings) {
    match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable")
        .as_deref()
        .map(str::trim)
    {
        Ok("0") => findings.tune(
            "bpf-jit",
            "BPF programs are interpreted: the demultiplexer is several times slower",
            Change {
                why: "compile BPF programs".into(),
                apply: Step::run("sysctl -w net.core.bpf_jit_enable=1"),
                undo: Step::run("sysctl -w net.core.bpf_jit_enable=0"),
            },
        ),
        Ok(_) => findings.ok("bpf-jit", "BPF programs are compiled"),
        // Absent in network namespaces other than the first, and where the JIT cannot be off.
        Err(_) => findings.ok("bpf-jit", "not to be seen from here; on by default"),
    }
}

fn mounts(findings: &mut Findings) {
    match pin_scope() {
        PinScope::Host => findings.ok("mounts", format!("pins go under {RUN_DIR} of the host")),
        PinScope::Ancestor { pid } => findings.ok(
            "mounts",
            format!("pins go under {RUN_DIR} as process {pid} sees it; pid 1 lets nobody join it"),
        ),
        PinScope::Process { reason } => findings.warn(
            "mounts",
            format!("pins end with this process's mount namespace ({reason})"),
            "run outside a container, or share the host's pid namespace with it",
        ),
    }
}

fn cores(findings: &mut Findings) {
    match std::thread::available_parallelism().map(usize::from) {
        Ok(1) => findings.warn(
            "cores",
            "one core: a spinning shard competes with the kernel and the application for it",
            "allow more cores (taskset, cpuset), or run with --idle sleep",
        ),
        Ok(n) => findings.ok(
            "cores",
            format!("{n} cores for this process; a shard takes one"),
        ),
        Err(error) => findings.warn(
            "cores",
            format!("their number cannot be read: {error}"),
            "name them with --cores",
        ),
    }
}

fn local_ports(findings: &mut Findings) {
    let (first, last) = (*LOCAL_PORTS.start(), *LOCAL_PORTS.end());
    let Some(text) = findings.read("local-ports", PORT_RANGE) else {
        return;
    };
    let mut kernel = text
        .split_whitespace()
        .map_while(|word| word.parse::<u16>().ok());
    match (kernel.next(), kernel.next()) {
        (Some(from), Some(to)) if from <= last && first <= to => findings.tune(
            "local-ports",
            format!(
                "our range for active opens, {first}-{last}, overlaps the kernel's {from}-{to}"
            ),
            Change {
                why: "keep the kernel's local ports off ours".into(),
                apply: Step::write(PORT_RANGE, format!("{} {}", from.min(first - 2), first - 1)),
                undo: Step::write(PORT_RANGE, format!("{from} {to}")),
            },
        ),
        (Some(from), Some(to)) => findings.ok(
            "local-ports",
            format!("active opens use {first}-{last}, the kernel {from}-{to}"),
        ),
        _ => findings.warn(
            "local-ports",
            format!("the kernel's range of local ports is no two numbers: {text:?}"),
            format!("keep it clear of {first}-{last}"),
        ),
    }
}

fn other_engines(findings: &mut Findings) {
    let alive = match engines() {
        Ok(alive) => alive,
        Err(error) => {
            findings.warn("engines", error.to_string(), "ask as root");
            return;
        }
    };
    if alive.is_empty() {
        findings.ok("engines", "no other engine runs on this host");
    } else {
        let names: Vec<String> = alive.iter().map(name).collect();
        findings.ok("engines", format!("running: {}", names.join(", ")));
    }
    watchdog::look(findings, &alive);
    match stale(&alive) {
        Ok(dead) if dead.is_empty() => findings.ok("leftovers", "none of dead engines"),
        Ok(dead) => findings.warn(
            "leftovers",
            format!("engines that died have left {}", dead.join(", ")),
            "the next engine on their device takes over and cleans up; packets to their ports are dropped until then",
        ),
        Err(error) => {
            findings.warn("leftovers", format!("{RUN_DIR} cannot be read: {error}"), "ask as root");
        }
    }
}

pub(super) fn name(engine: &EngineInfo) -> String {
    match &engine.owner {
        Some(owner) => format!("process {} on {}", owner.pid, owner.interface),
        None => engine.key.clone(),
    }
}

/// Directories under the run directory that no live engine has.
fn stale(alive: &[EngineInfo]) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(RUN_DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut dead = Vec::new();
    for entry in entries {
        let entry = entry?;
        let key = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() && !alive.iter().any(|engine| engine.key == key) {
            dead.push(entry.path().display().to_string());
        }
    }
    Ok(dead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_are_read() {
        assert_eq!(version("6.18.44-cloud-amd64"), Some((6, 18)));
        assert_eq!(version("5.9.0"), Some((5, 9)));
        assert!(version("5.9.0") < Some(KERNEL));
        assert_eq!(version("next"), None);
    }
}
