//! Two network namespaces with a veth pair, or with a router between two pairs where packets are lost.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::LIMIT;
use crate::process::{Finished, Running};

/// What a bed is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Queues of the host's device and of its peer.
    pub queues: u32,
    /// Whether the devices keep the kernel's default offloads; else all are off, as a plain NIC has it.
    pub offloads: bool,
    /// Of a thousand packets, this many are lost, in each direction, by a router between the two.
    pub lost_per_mille: Option<u32>,
}

impl Default for Shape {
    /// One queue, default offloads, no loss.
    fn default() -> Self {
        Self {
            queues: 1,
            offloads: true,
            lost_per_mille: None,
        }
    }
}

/// One end.
#[derive(Clone, Debug)]
pub struct Side {
    /// Its network namespace, by the name that `ip netns` knows.
    pub namespace: String,
    /// Its device.
    pub device: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

/// Two ends and the wire between them; gone with everything in them when dropped.
pub struct Bed {
    /// Where the engine runs.
    pub host: Side,
    /// Its peer.
    pub peer: Side,
    router: Option<String>,
    _turn: MutexGuard<'static, ()>,
}

/// Held while a bed stands.
static TURN: Mutex<()> = Mutex::new(());

/// Waits for the turn of a test that makes its own namespaces, and holds it.
pub fn turn() -> MutexGuard<'static, ()> {
    // A test that failed has dropped its bed all the same.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bed {
    /// Makes it.
    ///
    /// # Panics
    /// Without root, or if a program is missing: a test that cannot run must not look as if it had.
    #[track_caller]
    pub fn new(shape: Shape) -> Self {
        let turn = turn();
        assert!(
            nix::unistd::geteuid().is_root(),
            "the tests in network namespaces need root: run ./tests/run.sh as root"
        );
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let side = |name: &str, net: u8, last: u8| Side {
            namespace: format!("bwt{pid}-{serial}-{name}"),
            device: format!("bwt{pid}{}", &name[..1]),
            v4: Ipv4Addr::new(10, 88, net, last),
            v6: Ipv6Addr::new(0xfd88, u16::from(net), 0, 0, 0, 0, 0, u16::from(last)),
        };
        let routed = shape.lost_per_mille.is_some();
        let bed = Self {
            host: side("host", 0, 1),
            peer: side("peer", u8::from(routed), 2),
            router: routed.then(|| format!("bwt{pid}-{serial}-router")),
            _turn: turn,
        };
        // From here on a failure drops the bed, which removes what was made.
        for namespace in bed.namespaces() {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        match (&bed.router, shape.lost_per_mille) {
            (Some(router), Some(lost)) => bed.join_by(router, lost, shape),
            _ => bed.join(shape),
        }
        bed
    }

    fn namespaces(&self) -> impl Iterator<Item = &str> {
        let ends = [self.host.namespace.as_str(), self.peer.namespace.as_str()];
        ends.into_iter().chain(self.router.as_deref())
    }

    fn join(&self, shape: Shape) {
        let (host, peer) = (&self.host, &self.peer);
        veth(
            (&host.namespace, &host.device),
            (&peer.namespace, &peer.device),
            shape.queues,
        );
        for side in [host, peer] {
            side.configure(shape.offloads);
        }
    }

    /// Two pairs and a router, which forgets some packets. GSO is off on the way, so that it forgets packets and not trains of them.
    fn join_by(&self, router: &str, lost: u32, shape: Shape) {
        let side = |net: u8| Side {
            namespace: router.to_owned(),
            device: format!("to{net}"),
            v4: Ipv4Addr::new(10, 88, net, 254),
            v6: Ipv6Addr::new(0xfd88, u16::from(net), 0, 0, 0, 0, 0, 254),
        };
        for (end, near) in [(&self.host, side(0)), (&self.peer, side(1))] {
            veth(
                (&end.namespace, &end.device),
                (router, &near.device),
                shape.queues,
            );
            end.configure(shape.offloads);
            near.configure(false);
            for (family, gateway) in [("-4", near.v4.to_string()), ("-6", near.v6.to_string())] {
                ip(&[
                    "-n",
                    &end.namespace,
                    family,
                    "route",
                    "add",
                    "default",
                    "via",
                    &gateway,
                ]);
            }
        }
        // The peer's own trains would be cut only in the router.
        self.peer
            .run(
                "ethtool",
                &[
                    "-K",
                    &self.peer.device,
                    "tso",
                    "off",
                    "gso",
                    "off",
                    "gro",
                    "off",
                ],
            )
            .ok();
        let middle = side(0);
        middle
            .run(
                "sysctl",
                &[
                    "-qw",
                    "net.ipv4.ip_forward=1",
                    "net.ipv6.conf.all.forwarding=1",
                ],
            )
            .ok();
        let rules = format!(
            "table inet loss {{ chain forward {{ type filter hook forward priority 0; policy accept; \
             meta l4proto tcp numgen random mod 1000 < {lost} counter drop; }}; }}"
        );
        middle.run("nft", &[&rules]).ok();
    }

    /// Packets that the router has forgotten so far.
    #[track_caller]
    pub fn lost(&self) -> u64 {
        let router = self.router.as_deref().expect("a bed that loses packets");
        let listed = Running::start(
            Command::new("ip").args(["netns", "exec", router, "nft", "-j", "list", "ruleset"]),
        );
        let rules = listed.wait(LIMIT).ok().json();
        let rules = rules["nftables"].as_array().expect("a list").iter();
        let counters =
            rules.flat_map(|entry| entry["rule"]["expr"].as_array().into_iter().flatten());
        counters
            .filter_map(|expression| expression["counter"]["packets"].as_u64())
            .sum()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for namespace in self.namespaces() {
            if Path::new("/run/netns").join(namespace).exists() {
                let deleted = Command::new("ip")
                    .args(["netns", "del", namespace])
                    .status();
                if !deleted.is_ok_and(|status| status.success()) {
                    eprintln!(
                        "WARNING: `ip netns del {namespace}` failed: something is left behind"
                    );
                }
            }
        }
    }
}

impl Side {
    /// Its address of one family, for command lines.
    pub fn address(&self, v6: bool) -> IpAddr {
        if v6 { self.v6.into() } else { self.v4.into() }
    }

    fn configure(&self, offloads: bool) {
        let namespace = self.namespace.as_str();
        let device = self.device.as_str();
        ip(&[
            "-n",
            namespace,
            "address",
            "add",
            &format!("{}/24", self.v4),
            "dev",
            device,
        ]);
        // A tentative address cannot be used yet.
        ip(&[
            "-n",
            namespace,
            "address",
            "add",
            &format!("{}/64", self.v6),
            "dev",
            device,
            "nodad",
        ]);
        ip(&["-n", namespace, "link", "set", device, "up"]);
        if !offloads {
            let names = ["rx", "tx", "sg", "tso", "gso", "gro"];
            let switches = names.iter().flat_map(|name| [*name, "off"]);
            let arguments: Vec<&str> = ["-K", device].into_iter().chain(switches).collect();
            self.run("ethtool", &arguments).ok();
        }
    }

    /// A program that is to run here.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(program);
        command
    }

    /// Runs a program here to its end.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Finished {
        self.run_for(program, arguments, LIMIT)
    }

    /// As [`run`](Self::run), with a limit of its own.
    #[track_caller]
    pub fn run_for(&self, program: &str, arguments: &[&str], limit: Duration) -> Finished {
        self.start(program, arguments).wait(limit)
    }

    /// Starts a program here.
    #[track_caller]
    pub fn start(&self, program: &str, arguments: &[&str]) -> Running {
        Running::start(self.command(program).args(arguments))
    }

    /// Runs `work` here, on a thread of its own: its sockets are this namespace's.
    #[track_caller]
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let path = Path::new("/run/netns").join(&self.namespace);
        // 500 of them are wanted at a time.
        let builder = std::thread::Builder::new().stack_size(128 * 1024);
        let thread = builder.spawn(move || {
            let namespace = std::fs::File::open(&path).expect("a namespace of this bed");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("to enter it as root");
            work()
        });
        thread.expect("a thread")
    }

    /// As [`spawn`](Self::spawn), and waits for its result.
    #[track_caller]
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// What `ip -j link show` says of the device.
    #[track_caller]
    pub fn link(&self) -> serde_json::Value {
        let shown = Running::start(Command::new("ip").args([
            "-j",
            "-n",
            &self.namespace,
            "link",
            "show",
            &self.device,
        ]));
        shown.wait(LIMIT).ok().json()[0].take()
    }

    /// A second pair between this end and `other`, for tests that need one more device.
    #[track_caller]
    pub fn second_device(&self, other: &Side) -> Side {
        let extra = |side: &Side, last| Side {
            namespace: side.namespace.clone(),
            device: format!("{}2", side.device),
            v4: Ipv4Addr::new(10, 88, 2, last),
            v6: Ipv6Addr::new(0xfd88, 2, 0, 0, 0, 0, 0, u16::from(last)),
        };
        let (here, there) = (extra(self, 1), extra(other, 2));
        veth(
            (&here.namespace, &here.device),
            (&there.namespace, &there.device),
            1,
        );
        here.configure(true);
        there.configure(true);
        here
    }
}

/// A pair of `queues` queues, each end born in its namespace.
#[track_caller]
fn veth(one: (&str, &str), other: (&str, &str), queues: u32) {
    let queues = queues.to_string();
    let many = ["numtxqueues", &queues, "numrxqueues", &queues];
    let mut arguments = vec!["link", "add", one.1, "netns", one.0];
    arguments.extend(many);
    arguments.extend(["type", "veth", "peer", "name", other.1, "netns", other.0]);
    arguments.extend(many);
    ip(&arguments);
}

/// Runs `ip`, which must succeed.
#[track_caller]
pub fn ip(arguments: &[&str]) {
    Running::start(Command::new("ip").args(arguments))
        .wait(LIMIT)
        .ok();
}
