//! Two namespaces and a veth pair between them:
//!
//! ```text
//! near: bwh0  192.0.2.1/24  2001:db8::1/64  fe80::1/64  <---->  bwh1  192.0.2.2/24  192.0.2.254/24  2001:db8::2/64 :far
//! ```

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use bywash_engine::host::{
    Device, Host, HostEvent, KernelRoutes, Path, Resolution, Routes, Unreachable,
};
use crossbeam::channel::{Receiver, unbounded};
use nix::sched::{CloneFlags, setns};

/// Far beyond what anything here takes: a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Held for reading by whoever starts a program.
static PROGRAMS: RwLock<()> = RwLock::new(());

static LABS: AtomicU32 = AtomicU32::new(0);

/// The namespaces; deleted at the end, the veth pair with them.
pub(crate) struct Lab {
    pub(crate) near: String,
    pub(crate) far: String,
}

impl Lab {
    pub(crate) fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make network namespaces: run them as root"
        );
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("bwh-{}-{number}-{side}", std::process::id());
        let lab = Self {
            near: name("near"),
            far: name("far"),
        };
        ip(&["netns", "add", &lab.near]);
        ip(&["netns", "add", &lab.far]);
        for side in [&lab.near, &lab.far] {
            // Duplicate address detection takes a second or two per address.
            sysctl(side, "net.ipv6.conf.default.accept_dad", "0");
            ip(&["-n", side, "link", "set", "lo", "up"]);
        }
        let (near, far) = (&lab.near, &lab.far);
        ip(&[
            "link", "add", "bwh0", "netns", near, "type", "veth", "peer", "name", "bwh1", "netns",
            far,
        ]);
        for address in ["192.0.2.1/24", "2001:db8::1/64"] {
            ip(&["-n", near, "address", "add", address, "dev", "bwh0"]);
        }
        // The kernel makes a link-local address some time after the carrier comes.
        ip(&["-n", near, "link", "set", "bwh0", "addrgenmode", "none"]);
        ip(&[
            "-n",
            near,
            "address",
            "add",
            "fe80::1/64",
            "dev",
            "bwh0",
            "nodad",
        ]);
        for address in ["192.0.2.2/24", "192.0.2.254/24", "2001:db8::2/64"] {
            ip(&["-n", far, "address", "add", address, "dev", "bwh1"]);
        }
        ip(&["-n", far, "link", "set", "bwh1", "up"]);
        ip(&["-n", near, "link", "set", "bwh0", "up"]);
        lab
    }

    /// `ip` in the near namespace; arguments separated by blanks.
    pub(crate) fn near(&self, arguments: &str) {
        self.ip(&self.near, arguments);
    }

    /// `ip -batch` in the near namespace.
    pub(crate) fn near_batch(&self, lines: &str) {
        let _program = PROGRAMS.read().unwrap_or_else(PoisonError::into_inner);
        let mut ip = Command::new("ip")
            .args(["-n", &self.near, "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        ip.stdin
            .take()
            .unwrap()
            .write_all(lines.as_bytes())
            .unwrap();
        assert!(ip.wait().unwrap().success());
    }

    /// `ip` in the far namespace.
    pub(crate) fn far(&self, arguments: &str) {
        self.ip(&self.far, arguments);
    }

    fn ip(&self, namespace: &str, arguments: &str) {
        let mut all = vec!["-n", namespace];
        all.extend(arguments.split_whitespace());
        ip(&all);
    }

    /// Runs `body` on a thread in the near namespace.
    pub(crate) fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.near)).unwrap();
        let result = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                    body()
                })
                .join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// As [`Lab::inside`], while no other test starts a program: a child holds copies of all our
    /// sockets until its `exec`, and with them the ports.
    pub(crate) fn inside_alone<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let _alone = PROGRAMS.write().unwrap_or_else(PoisonError::into_inner);
        self.inside(body)
    }

    /// MAC address of the far end of the link.
    pub(crate) fn far_mac(&self) -> String {
        let _program = PROGRAMS.read().unwrap_or_else(PoisonError::into_inner);
        let output = Command::new("ip")
            .args(["-n", &self.far, "-br", "link", "show", "bwh1"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().nth(2).unwrap().to_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _program = PROGRAMS.read().unwrap_or_else(PoisonError::into_inner);
        for namespace in [&self.near, &self.far] {
            // Not a second panic while the test's own unwinds.
            let done = Command::new("ip")
                .args(["netns", "delete", namespace])
                .status();
            if !done.as_ref().is_ok_and(std::process::ExitStatus::success) {
                eprintln!("namespace {namespace} stays behind: {done:?}");
            }
        }
    }
}

pub(crate) fn ip(arguments: &[&str]) {
    let _program = PROGRAMS.read().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("iproute2 is needed");
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(crate) fn sysctl(namespace: &str, name: &str, value: &str) {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
        });
    });
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A host thread on the near end with one shard.
pub(crate) struct Rig {
    pub(crate) host: Host,
    pub(crate) device: Device,
    pub(crate) routes: KernelRoutes,
    pub(crate) events: Receiver<HostEvent>,
    wakes: Receiver<()>,
}

impl Rig {
    pub(crate) fn new(lab: &Lab) -> Self {
        let (send_event, events) = unbounded();
        let (device, host) = lab.inside(move || {
            let device = Device::open("bwh0").unwrap();
            let host = Host::spawn(&device, move |event| drop(send_event.send(event))).unwrap();
            (device, host)
        });
        let (routes, wakes) = shard(&host);
        Self {
            host,
            device,
            routes,
            events,
            wakes,
        }
    }

    /// Asks until `wanted` gives something, sleeping until the shard is woken in between.
    pub(crate) fn until<T>(
        &mut self,
        remote: &str,
        wanted: impl Fn(&Resolution) -> Option<T>,
    ) -> T {
        until(&mut self.routes, &self.wakes, address(remote), wanted)
    }

    pub(crate) fn path(&mut self, remote: &str) -> Path {
        self.until(remote, ready)
    }

    /// The first finding other than "not known yet", which must be a refusal.
    pub(crate) fn refusal(&mut self, remote: &str) -> Unreachable {
        let settled = self.until(remote, |resolution| match resolution {
            Resolution::Pending => None,
            other => Some(other.clone()),
        });
        let Resolution::Unreachable(unreachable) = settled else {
            panic!("{remote}: {settled:?}")
        };
        unreachable
    }

    /// Sleeps until `wanted` comes; events before it are passed over.
    pub(crate) fn event(&self, wanted: &HostEvent) {
        while self
            .events
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("no {wanted:?}"))
            != *wanted
        {}
    }

    /// Sleeps until `remote` is named as changed.
    pub(crate) fn changed(&mut self, remote: &str) {
        let mut changed = Vec::new();
        loop {
            self.routes.poll(&mut changed);
            if changed.contains(&address(remote)) {
                return;
            }
            self.wakes
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("{remote} does not change"));
        }
    }
}

/// One more shard, and its wake-ups.
pub(crate) fn shard(host: &Host) -> (KernelRoutes, Receiver<()>) {
    let (wake, wakes) = unbounded();
    (
        host.routes(move || wake.send(()).unwrap_or_default()),
        wakes,
    )
}

pub(crate) fn until<T>(
    routes: &mut KernelRoutes,
    wakes: &Receiver<()>,
    remote: IpAddr,
    wanted: impl Fn(&Resolution) -> Option<T>,
) -> T {
    let mut changed = Vec::new();
    loop {
        routes.poll(&mut changed);
        let resolution = routes.resolve(remote);
        if let Some(found) = wanted(&resolution) {
            return found;
        }
        wakes
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("{remote} stays {resolution:?}"));
    }
}

pub(crate) fn ready(resolution: &Resolution) -> Option<Path> {
    match resolution {
        Resolution::Ready(path) => Some(*path),
        _ => None,
    }
}
