//! The wire of every measurement but the in-memory ones: two network namespaces joined by a veth pair.
//!
//! ```text
//! namespace bwb-<pid>-<n>-a             namespace bwb-<pid>-<n>-b
//!   veth bwb-a 10.77.0.1/24  <────────>   veth bwb-b 10.77.0.2/24
//!   one core                              another core
//! ```
//!
//! [`Testbed`] makes the pair by running `ip` and `ethtool`, so that a reader can repeat every step by hand, and removes it when it is
//! dropped. A run that was killed with SIGKILL leaves its namespaces; the next one removes them ([`sweep`]).

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::row::Setting;

mod path;

use path::EmulatedPath;

/// What both veth ends may leave to each other instead of doing it for each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offloads {
    /// As the kernel makes a veth: checksums left undone, TSO and GSO on, GRO off.
    Default,
    /// Checksums, scatter-gather, TSO, GSO and GRO all off: one full packet at a time, as a plain NIC would carry it.
    Off,
}

impl Offloads {
    /// `default` or `off`, as the figures' tables say it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Offloads::Default => "default",
            Offloads::Off => "off",
        }
    }
}

/// The names of `ethtool -K` that [`Offloads::Off`] turns off, and whose state is recorded.
const FEATURES: [(&str, &str); 6] = [
    ("rx", "rx-checksumming"),
    ("tx", "tx-checksumming"),
    ("sg", "scatter-gather"),
    ("tso", "tcp-segmentation-offload"),
    ("gso", "generic-segmentation-offload"),
    ("gro", "generic-receive-offload"),
];

/// One end of the wire: a namespace with one veth device, and the core that its program runs on.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// Name for `ip netns`.
    pub(crate) namespace: String,
    /// The veth device in it.
    pub(crate) device: &'static str,
    /// The device's address.
    pub(crate) address: Ipv4Addr,
    /// The device's MAC address.
    pub(crate) mac: [u8; 6],
    /// Core that threads and commands of this end are pinned to.
    pub(crate) core: usize,
}

/// Two namespaces and the veth pair between them; removed on drop.
#[derive(Debug)]
pub(crate) struct Testbed {
    /// The client: sends in bulk transfers, asks in ping-pong.
    pub(crate) a: End,
    /// The server: receives, answers.
    pub(crate) b: End,
    /// Largest IP datagram on the wire, in bytes.
    pub(crate) mtu: u16,
    /// What both ends leave to each other.
    pub(crate) offloads: Offloads,
    /// Conditions of every measurement over this wire.
    pub(crate) setting: Setting,
    /// The emulated path between the two, where there is one; it removes both namespaces.
    path: Option<EmulatedPath>,
}

impl Testbed {
    /// Makes namespaces and wire. `mtu` in bytes, the same on both ends.
    pub(crate) fn new(offloads: Offloads, mtu: u16) -> Result<Self> {
        let serial = serial();
        let cores = two_cores()?;
        let end = |side: &str, device, last: u8, core| End {
            namespace: format!("bwb-{}-{serial}-{side}", std::process::id()),
            device,
            address: Ipv4Addr::new(10, 77, 0, last),
            mac: [0x02, 0, 0, 0, 0, last],
            core,
        };
        // From here on a failure drops the testbed, which removes what was made.
        let mut bed = Self {
            a: end("a", "bwb-a", 1, cores[0]),
            b: end("b", "bwb-b", 2, cores[1]),
            mtu,
            offloads,
            setting: Setting::in_memory(mtu),
            path: None,
        };
        for end in [&bed.a, &bed.b] {
            ip(&["netns", "add", &end.namespace])?;
        }
        let mtu = mtu.to_string();
        let (a, b) = (&bed.a, &bed.b);
        // One queue each way, as one core serves one queue.
        let queues = ["numtxqueues", "1", "numrxqueues", "1"];
        let near = ["link", "add", a.device, "netns", &a.namespace];
        let far = ["peer", "name", b.device, "netns", &b.namespace];
        ip(&[&near[..], &queues, &["type", "veth"], &far, &queues].concat())?;
        a.configure(b, &mtu, offloads)?;
        b.configure(a, &mtu, offloads)?;
        let napi = match [a.threaded_napi()?, b.threaded_napi()?] {
            ["off", "off"] => "softirq on the sending core (threaded NAPI off)".to_owned(),
            [a, b] => format!("threaded NAPI {a} and {b}"),
        };
        let [offloads_a, offloads_b] = [a.offloads()?, b.offloads()?];
        bed.setting = Setting {
            driver: "veth, one queue each way".to_owned(),
            offloads: format!("a: {offloads_a}; b: {offloads_b}"),
            mtu,
            napi,
            idle: "as the kernel's sockets wait".to_owned(),
        };
        Ok(bed)
    }
}

impl Testbed {
    /// A queueing discipline in front of both devices.
    pub(crate) fn set_qdisc(&mut self, qdisc: &str) -> Result<()> {
        for end in [&self.a, &self.b] {
            end.run(&["tc", "qdisc", "replace", "dev", end.device, "root", qdisc])?;
        }
        self.setting.driver += &format!(", qdisc {qdisc}");
        Ok(())
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if self.path.is_some() {
            return;
        }
        for end in [&self.a, &self.b] {
            if Path::new("/run/netns").join(&end.namespace).exists()
                && let Err(error) = ip(&["netns", "del", &end.namespace])
            {
                eprintln!(
                    "warning: {error:#}; remove it with `ip netns del {}`",
                    end.namespace
                );
            }
        }
    }
}

impl End {
    /// Addresses, neighbour and offloads of this end's device.
    fn configure(&self, peer: &End, mtu: &str, offloads: Offloads) -> Result<()> {
        let inside = |rest: &[&str]| ip(&[&["-n", &self.namespace], rest].concat());
        let device = self.device;
        inside(&["link", "set", "lo", "up"])?;
        inside(&[
            "link",
            "set",
            device,
            "address",
            &mac_text(self.mac),
            "mtu",
            mtu,
        ])?;
        inside(&[
            "addr",
            "add",
            &format!("{}/24", self.address),
            "dev",
            device,
        ])?;
        inside(&["link", "set", device, "up"])?;
        // No ARP in the middle of a measurement.
        let (address, mac) = (peer.address.to_string(), mac_text(peer.mac));
        inside(&[
            "neigh",
            "replace",
            &address,
            "lladdr",
            &mac,
            "dev",
            device,
            "nud",
            "permanent",
        ])?;
        // What one connection learns must not start the next one.
        self.run(&["sysctl", "-qw", "net.ipv4.tcp_no_metrics_save=1"])?;
        if offloads == Offloads::Off {
            let mut arguments = vec!["ethtool", "-K", device];
            arguments.extend(FEATURES.iter().flat_map(|(name, _)| [*name, "off"]));
            self.run(&arguments)?;
        }
        Ok(())
    }

    /// Runs a command in this namespace to its end.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        ip(&[&["netns", "exec", &self.namespace], arguments].concat())
    }

    /// The address, as most callers want it.
    pub(crate) fn ip(&self) -> IpAddr {
        IpAddr::V4(self.address)
    }

    /// Runs `work` on a thread of its own in this namespace, pinned to this end's core. Sockets belong to the namespace in which they
    /// are made, so whatever opens one runs in here. `work` is told whether the thread got there, so that it can meet the other end at
    /// a barrier before it fails.
    pub(crate) fn spawn<'scope, T: Send + 'scope>(
        &self,
        scope: &'scope thread::Scope<'scope, '_>,
        work: impl FnOnce(Result<()>) -> Result<T> + Send + 'scope,
    ) -> thread::ScopedJoinHandle<'scope, Result<T>> {
        let end = self.clone();
        scope.spawn(move || work(end.enter().and_then(|()| end.pin())))
    }

    /// Like [`End::spawn`], but free to run on any core: for what only starts an engine, whose shard has the core for itself.
    pub(crate) fn spawn_unpinned<'scope, T: Send + 'scope>(
        &self,
        scope: &'scope thread::Scope<'scope, '_>,
        work: impl FnOnce(Result<()>) -> Result<T> + Send + 'scope,
    ) -> thread::ScopedJoinHandle<'scope, Result<T>> {
        let end = self.clone();
        scope.spawn(move || work(end.enter()))
    }

    /// Moves the calling thread into this namespace, for good: only for threads made for it.
    fn enter(&self) -> Result<()> {
        let path = Path::new("/run/netns").join(&self.namespace);
        let handle =
            File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        setns(handle, CloneFlags::CLONE_NEWNET).with_context(|| {
            format!(
                "cannot enter network namespace {}: run as root",
                self.namespace
            )
        })
    }

    /// Moves the calling thread onto this end's core, for good.
    fn pin(&self) -> Result<()> {
        if !core_affinity::set_for_current(core_affinity::CoreId { id: self.core }) {
            bail!("cannot pin a thread to core {}", self.core);
        }
        Ok(())
    }

    /// The recorded offloads as the kernel reports them now, for example `rx on, tx on, sg on, tso on, gso on, gro off`.
    pub(crate) fn offloads(&self) -> Result<String> {
        let text = self.run(&["ethtool", "-k", self.device])?;
        let state = |long: &str| {
            text.lines()
                .find_map(|line| line.trim().strip_prefix(long)?.strip_prefix(": "))
                .and_then(|rest| rest.split_whitespace().next())
                .unwrap_or("unknown")
                .to_owned()
        };
        Ok(FEATURES
            .map(|(short, long)| format!("{short} {}", state(long)))
            .join(", "))
    }

    /// The device's MAC address, as the kernel has it.
    fn read_mac(&self) -> Result<[u8; 6]> {
        let text = self.run(&["cat", &format!("/sys/class/net/{}/address", self.device)])?;
        let mut mac = [0; 6];
        for (octet, word) in mac.iter_mut().zip(text.trim().split(':')) {
            *octet =
                u8::from_str_radix(word, 16).with_context(|| format!("no MAC address: {text}"))?;
        }
        Ok(mac)
    }

    /// Frames that the device has sent.
    pub(crate) fn frames_sent(&self) -> Result<u64> {
        let path = format!("/sys/class/net/{}/statistics/tx_packets", self.device);
        let text = self.run(&["cat", &path])?;
        text.trim()
            .parse()
            .with_context(|| format!("{path} holds no number"))
    }

    /// `on` or `off`: whether the device's NAPI runs in a kernel thread. `off` means softirq, which on veth is on the sender's CPU.
    pub(crate) fn threaded_napi(&self) -> Result<&'static str> {
        let path = format!("/sys/class/net/{}/threaded", self.device);
        let text = self.run(&["cat", &path])?;
        Ok(if text.trim() == "0" { "off" } else { "on" })
    }
}

/// Removes namespaces of benchmark runs whose process no longer exists.
pub(crate) fn sweep() -> Result<()> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return Ok(()); // no namespace was ever made on this machine
    };
    for entry in entries {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let pid = name
            .strip_prefix("bwb-")
            .and_then(|rest| rest.split('-').next());
        if let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok())
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            eprintln!("removing namespace {name}, left by a run that was killed");
            ip(&["netns", "del", name])?;
        }
    }
    Ok(())
}

/// What the experiments over veth need of this machine; the error says what is missing and where it comes from.
pub(crate) fn require() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "namespaces, veth and AF_XDP need root: run with sudo, or run `stack` or `strangers` alone, which need none"
        );
    }
    for (program, package) in [
        ("ip", "iproute2"),
        ("ethtool", "ethtool"),
        ("sysctl", "procps"),
    ] {
        if !on_path(program) {
            bail!("`{program}` is missing: on Debian `apt-get install {package}`");
        }
    }
    two_cores().map(|_| ())
}

/// True if a program of this name stands in `PATH`.
pub(crate) fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    })
}

/// Tells the namespaces of this process apart.
fn serial() -> u32 {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

fn two_cores() -> Result<[usize; 2]> {
    let cores =
        core_affinity::get_core_ids().context("cannot list the cores this process may use")?;
    match cores.as_slice() {
        [first, second, ..] => Ok([first.id, second.id]),
        _ => bail!(
            "two cores are needed, one for each end; this process may use {}",
            cores.len()
        ),
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn ip(arguments: &[&str]) -> Result<String> {
    run("ip", arguments)
}

/// Runs a command to its end; a failure's error holds the command line and what it wrote.
fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run `{program}`"))?;
    if !output.status.success() {
        bail!(
            "`{program} {}` failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
