//! Two network namespaces with a veth pair, or with an emulated link between two pairs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bywash_link::{Bridge, Counts, Link, Tags};
use nix::sched::{CloneFlags, setns};

use crate::LIMIT;
use crate::process::{Finished, Running};
use crate::vlans::Vlans;

/// What a bed is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Queues of the host's device and of its peer.
    pub queues: u32,
    /// Whether the devices keep the kernel's default offloads; else all are off, as a plain NIC has it.
    pub offloads: bool,
    /// What the link between the two does, forth being from host to peer. `None`: they are the two ends of one veth pair.
    /// Else both are without offloads: a link carries packets, not trains of them.
    pub link: Option<Link>,
}

impl Default for Shape {
    /// One queue, default offloads, one veth pair.
    fn default() -> Self {
        Self {
            queues: 1,
            offloads: true,
            link: None,
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
    emulator: Option<Emulator>,
    /// The host's device, when the ends are in a VLAN on it.
    trunk: Option<String>,
    vlans: Option<Vlans>,
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
        let mut bed = Self {
            host: side("host", 0, 1),
            peer: side("peer", 0, 2),
            emulator: shape.link.map(|_| Emulator {
                namespace: format!("bwt{pid}-{serial}-link"),
                counts: Arc::default(),
                change: Arc::default(),
                stop: Arc::default(),
                thread: None,
            }),
            trunk: None,
            vlans: None,
            _turn: turn,
        };
        // From here on a failure drops the bed, which removes what was made.
        for namespace in bed.namespaces() {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        match shape.link {
            Some(link) => bed.join_by(link, shape),
            None => bed.join(shape),
        }
        bed
    }

    fn namespaces(&self) -> impl Iterator<Item = &str> {
        let ends = [self.host.namespace.as_str(), self.peer.namespace.as_str()];
        let link = self.emulator.as_ref().map(|one| one.namespace.as_str());
        ends.into_iter().chain(link)
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
        peer.queue();
    }

    /// Two pairs, and the emulator between their inner ends.
    fn join_by(&mut self, link: Link, shape: Shape) {
        let emulator = self.emulator.as_mut().expect("a bed with a link");
        for (end, near) in [(&self.host, INNER[0]), (&self.peer, INNER[1])] {
            veth(
                (&end.namespace, &end.device),
                (&emulator.namespace, near),
                shape.queues,
            );
            end.configure(false);
            // The middle has no addresses and says nothing of its own.
            let quiet = format!("net.ipv6.conf.{near}.disable_ipv6=1");
            emulator.run("sysctl", &["-qw", &quiet]);
            let off = ["gro", "off", "gso", "off", "tso", "off", "tx", "off"];
            emulator.run("ethtool", &[&["-K", near][..], &off].concat());
            ip(&["-n", &emulator.namespace, "link", "set", near, "up"]);
        }
        emulator.start(link);
    }

    /// Sets the MTU of every device between the two ends, in bytes. Before an engine is attached: XDP limits it.
    #[track_caller]
    pub fn set_mtu(&self, mtu: u16) {
        let ends = [&self.host, &self.peer].map(|end| (&end.namespace, end.device.as_str()));
        let middle = self.emulator.iter();
        let middle = middle.flat_map(|one| INNER.map(|device| (&one.namespace, device)));
        for (namespace, device) in ends.into_iter().chain(middle) {
            let mtu = mtu.to_string();
            ip(&["-n", namespace, "link", "set", device, "mtu", &mtu]);
        }
    }

    /// Changes what the emulated link does, within some hundredths of a second. Its seed stays.
    ///
    /// # Panics
    /// On a bed without one.
    #[track_caller]
    pub fn set_link(&self, link: Link) {
        let emulator = self.emulator.as_ref().expect("a bed with a link");
        *emulator.change.lock().expect("no panic while held") = Some(link);
    }

    /// Puts both ends into a VLAN: `host` and `peer` are then devices of this MTU with addresses of their own, whose frames
    /// cross the bed's wire with these tags. The untagged devices stay as they are.
    #[track_caller]
    pub fn enter_vlan(&mut self, tags: Tags, mtu: u16) {
        let (vlans, mut ends) = Vlans::over(self, &[(tags, mtu)]);
        let [host, peer] = ends.pop().expect("one VLAN");
        self.trunk = Some(std::mem::replace(&mut self.host, host).device);
        self.peer = peer;
        self.vlans = Some(vlans);
    }

    /// The device that an engine is given: the host's, or what its VLAN is on.
    pub fn trunk(&self) -> &str {
        self.trunk.as_deref().unwrap_or(&self.host.device)
    }

    /// What the emulated link has done so far: from host to peer, and back.
    ///
    /// # Panics
    /// On a bed without one.
    #[track_caller]
    pub fn passed(&self) -> [Counts; 2] {
        let emulator = self.emulator.as_ref().expect("a bed with a link");
        *emulator.counts.lock().expect("no panic while held")
    }
}

/// The emulator's devices: towards the host, and towards the peer.
const INNER: [&str; 2] = ["to-host", "to-peer"];

/// The link emulator of a bed: a thread in a namespace of its own.
struct Emulator {
    namespace: String,
    counts: Arc<Mutex<[Counts; 2]>>,
    change: Arc<Mutex<Option<Link>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Emulator {
    /// How often the counts are brought up to date.
    const GLANCE: Duration = Duration::from_millis(20);

    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace, program])
            .args(arguments);
        Running::start(&mut command).wait(LIMIT).ok();
    }

    fn start(&mut self, link: Link) {
        let (counts, stop) = (self.counts.clone(), self.stop.clone());
        let change = self.change.clone();
        let (ready, opened) = std::sync::mpsc::channel();
        self.thread = Some(spawn_in(&self.namespace, move || {
            let mut bridge =
                Bridge::open(INNER[0], INNER[1], &link).expect("the devices of this bed");
            ready.send(()).expect("a bed that waits");
            while !stop.load(Ordering::Relaxed) {
                bridge
                    .run(&stop, Some(Self::GLANCE))
                    .expect("devices that stay");
                *counts.lock().expect("no panic while held") = bridge.counts();
                if let Some(link) = change.lock().expect("no panic while held").take() {
                    bridge.set_link(&link);
                }
            }
        }));
        opened.recv_timeout(LIMIT).expect("an emulator that starts");
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("WARNING: the link emulator of this bed has panicked");
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let mut namespaces: Vec<String> = self.namespaces().map(str::to_owned).collect();
        // These end before their devices do.
        drop(self.vlans.take());
        drop(self.emulator.take());
        for namespace in namespaces.drain(..) {
            if Path::new("/run/netns").join(&namespace).exists() {
                let deleted = Command::new("ip")
                    .args(["netns", "del", &namespace])
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

    pub(crate) fn configure(&self, offloads: bool) {
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

    /// Lets the kernel's packets wait where the pair's ring of 256 is full. Without a queueing discipline, which is a veth device's
    /// default, they are dropped; with one they wait since Linux 6.16, as on any NIC.
    fn queue(&self) {
        let device = self.device.as_str();
        let arguments = ["qdisc", "replace", "dev", device, "root", "pfifo", "limit"];
        self.run("tc", &[&arguments[..], &["10000"]].concat()).ok();
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
        spawn_in(&self.namespace, work)
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

/// Runs `work` in a network namespace, on a thread of its own.
#[track_caller]
pub(crate) fn spawn_in<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let path = Path::new("/run/netns").join(namespace);
    // 500 of them are wanted at a time.
    let builder = std::thread::Builder::new().stack_size(128 * 1024);
    let thread = builder.spawn(move || {
        let namespace = std::fs::File::open(&path).expect("a namespace of this bed");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("to enter it as root");
        work()
    });
    thread.expect("a thread")
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
