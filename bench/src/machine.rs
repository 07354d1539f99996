//! What the figures were measured on.

use std::fmt;
use std::fs;
use std::thread;

use serde::{Deserialize, Serialize};

/// The machine, in the words of its kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Processor model.
    pub(crate) cpu: String,
    /// Cores this process may use.
    pub(crate) cores_usable: usize,
    /// `virtual machine`, or `no hypervisor seen`.
    pub(crate) virtual_machine: String,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Congestion control of kernel sockets that choose none.
    pub(crate) congestion_control: String,
    /// The compiler that built the suite and the stack in it.
    pub(crate) rustc: String,
}

impl Machine {
    /// This machine.
    pub(crate) fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            cpuinfo.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim().to_owned())
            })
        };
        let hypervisor =
            field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
        let kind = match hypervisor {
            true => "virtual machine",
            false => "no hypervisor seen",
        };
        Self {
            cpu: field("model name").unwrap_or_else(|| "unknown".to_owned()),
            cores_usable: thread::available_parallelism().map_or(1, usize::from),
            virtual_machine: kind.to_owned(),
            kernel: first_line("/proc/sys/kernel/osrelease"),
            congestion_control: first_line("/proc/sys/net/ipv4/tcp_congestion_control"),
            rustc: env!("BYWASH_RUSTC").to_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} cores, {}, Linux {}, default congestion control {}, {}",
            self.cpu,
            self.cores_usable,
            self.virtual_machine,
            self.kernel,
            self.congestion_control,
            self.rustc
        )
    }
}

/// Load averages over 1, 5 and 15 minutes, as `/proc/loadavg` has them.
pub(crate) fn load() -> String {
    let text = first_line("/proc/loadavg");
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .next()
        .map_or_else(|| "unknown".to_owned(), str::to_owned)
}
