//! Two network namespaces and the emulated link between them, made by `ip` and `ethtool` so that every step can be done by hand.
//!
//! ```text
//! namespace LEFT                namespace <LEFT>-link               namespace RIGHT
//!   eth0 10.99.0.1/24  <-veth->   left  ── bywash-link ──  right  <-veth->  eth0 10.99.0.2/24
//!        fd99::1/64                                                               fd99::2/64
//! ```
//!
//! Offloads are off on the two outer ends: they would hand over trains of segments and unfinished checksums.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

/// The three namespaces; gone with everything in them when dropped.
#[derive(Debug)]
pub struct Lab {
    /// Those that were made.
    made: Vec<String>,
    middle: String,
}

/// Devices of the middle namespace.
pub const DEVICES: [&str; 2] = ["left", "right"];

impl Lab {
    /// Makes the namespaces `left` and `right` and the one between them. Needs root.
    ///
    /// # Errors
    /// A namespace of this name that exists, a program that is missing, no right.
    pub fn new(left: &str, right: &str, mtu: u16) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "network namespaces need root: run with sudo"
        );
        ensure!(left != right, "two ends of one name: `{left}`");
        let middle = format!("{left}-link");
        let mut lab = Self {
            made: Vec::new(),
            middle: middle.clone(),
        };
        for name in [left, right, &middle] {
            if path(name).exists() {
                bail!(
                    "the network namespace `{name}` exists: give other names, or remove it with `ip netns del {name}`"
                );
            }
            run("ip", &["netns", "add", name])?;
            lab.made.push(name.to_owned());
            run("ip", &["-n", name, "link", "set", "lo", "up"])?;
        }
        for (last, (outer, device)) in (1..).zip([left, right].into_iter().zip(DEVICES)) {
            lab.join(outer, device, last, mtu)?;
        }
        Ok(lab)
    }

    fn join(&self, outer: &str, device: &str, last: u8, mtu: u16) -> Result<()> {
        let middle = self.middle.as_str();
        let mtu = mtu.to_string();
        let pair = [
            "link", "add", "eth0", "mtu", &mtu, "netns", outer, "type", "veth", "peer", "name",
            device, "mtu", &mtu, "netns", middle,
        ];
        run("ip", &pair)?;
        // The middle has no addresses and sends nothing of its own.
        let disable = format!("net.ipv6.conf.{device}.disable_ipv6=1");
        run("ip", &["netns", "exec", middle, "sysctl", "-qw", &disable])?;
        let v4 = format!("10.99.0.{last}/24");
        let v6 = format!("fd99::{last}/64");
        run("ip", &["-n", outer, "address", "add", &v4, "dev", "eth0"])?;
        run(
            "ip",
            &["-n", outer, "address", "add", &v6, "dev", "eth0", "nodad"],
        )?;
        for (namespace, name) in [(outer, "eth0"), (middle, device)] {
            let switches = [
                "netns", "exec", namespace, "ethtool", "-K", name, "rx", "off", "tx", "off", "tso",
                "off", "gso", "off", "gro", "off", "txvlan", "off",
            ];
            run("ip", &switches)?;
            run("ip", &["-n", namespace, "link", "set", name, "up"])?;
        }
        Ok(())
    }

    /// Moves the calling thread between the two, where the devices of [`DEVICES`] are.
    ///
    /// # Errors
    /// No right.
    pub fn enter(&self) -> Result<()> {
        let file = std::fs::File::open(path(&self.middle))
            .with_context(|| format!("cannot open the namespace {}", self.middle))?;
        setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.made {
            if let Err(error) = run("ip", &["netns", "del", name]) {
                eprintln!("left behind: {error:#}");
            }
        }
    }
}

fn path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run `{program}`: is it installed?"))?;
    ensure!(
        output.status.success(),
        "`{program} {}` failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
