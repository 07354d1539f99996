//! The loader on a veth in a namespace of its own: attach, refuse, take over from the dead, and leave nothing behind.

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bywash_xdp::pin::{self, Scope};
use bywash_xdp::{
    AttachConfig, AttachError, AttachedMode, Counter, Demux, DemuxError, FlowKey, FlowValue, Mode,
};
use bywash_xdp_tests::namespace::{self, ip};
use libbpf_rs::ObjectBuilder;
use nix::unistd::{Pid, gettid};
use socket2::{Domain, Socket, Type};

const PORT: u16 = 8080;
const OURS: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
/// How long an answer that must come may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for one that must not: on a veth it would come at once. The counters say the same without a clock.
const SILENCE: Duration = Duration::from_millis(300);

/// A veth of one queue between this thread's namespace and another, where the peer is.
struct Link {
    ifindex: u32,
}

impl Link {
    fn new() -> Result<Self> {
        Self::with_queues(1)
    }

    fn with_queues(queues: u32) -> Result<Self> {
        namespace::enter();
        let ifindex = namespace::veth("bwd0", "bwd1", queues)?;
        Ok(Self { ifindex })
    }

    fn config(&self, mode: Mode) -> AttachConfig {
        AttachConfig {
            interface: "bwd0".into(),
            ifindex: self.ifindex,
            pin_dir: self.pin_dir(),
            queues: 1,
            mode,
        }
    }

    fn pin_dir(&self) -> PathBuf {
        pin::directory(&pin::key(self.ifindex).expect("a key"))
    }

    fn shown(&self) -> Result<String> {
        ip(&["-details", "link", "show", "dev", "bwd0"])
    }

    /// Id of the program that `ip link` shows.
    fn program(&self) -> Result<Option<u32>> {
        let shown = self.shown()?;
        let Some((_, behind)) = shown.split_once("prog/xdp id ") else {
            return Ok(None);
        };
        let id = behind.split_whitespace().next().context("an id")?;
        Ok(Some(id.parse()?))
    }

    #[track_caller]
    fn nothing_left(&self) {
        let shown = self.shown().expect("ip link");
        assert!(!shown.contains("xdp"), "{shown}");
        let directory = self.pin_dir();
        let engine = directory.parent().expect("a parent");
        assert!(!on_host(engine), "{} is left", engine.display());
        let mounts = namespace::mounts_below(&engine.display().to_string()).expect("mounts");
        assert!(mounts.is_empty(), "{mounts:?}");
    }
}

/// The path where the loader keeps its pins.
fn in_pins_namespace(path: &Path) -> PathBuf {
    namespace::pins_root().join(path.strip_prefix("/").expect("an absolute path"))
}

fn on_host(path: &Path) -> bool {
    in_pins_namespace(path).exists()
}

/// A process like an engine that has attached.
struct Holder {
    child: Child,
}

impl Holder {
    fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hold"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        ensure!(
            line.starts_with("ready "),
            "it said {line:?}, and ended with {:?}",
            child.wait()
        );
        Ok(Self { child })
    }

    /// SIGKILL: nothing in the process runs after it.
    fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// A clean end.
    fn finish(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Already gone unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn attach_pins_link_and_maps_and_detach_leaves_nothing() -> Result<()> {
    let link = Link::new()?;
    let demux = Demux::attach(&link.config(Mode::Auto))?;
    assert_eq!(demux.mode(), AttachedMode::Native);
    assert!(!demux.took_over());
    let scope = demux.pin_scope();
    let host = namespace::pins_root() != Path::new("/");
    assert!(
        matches!(
            (scope, host),
            (Scope::Host, true) | (Scope::Process { .. }, false)
        ),
        "{scope:?}"
    );
    assert!(link.program()?.is_some());
    let pins = link.pin_dir();
    for name in [
        "link",
        "flows",
        "ports",
        "addresses",
        "config",
        "vlans",
        "xsks",
        "counters",
    ] {
        assert!(on_host(&pins.join(name)), "no pin {name}");
    }
    let owner = std::fs::read_to_string(in_pins_namespace(&pins.with_file_name("owner")))?;
    assert!(
        owner.contains(&format!("pid {}\n", std::process::id())) && owner.contains("mode native"),
        "{owner}"
    );
    demux.detach()?;
    link.nothing_left();
    // Dropping is as good, and the same process can attach again.
    drop(Demux::attach(&link.config(Mode::Generic))?);
    link.nothing_left();
    Ok(())
}

/// `ip netns exec` gives its command a mount namespace of its own; the pins have to be in the host's. A PID namespace of our own
/// stands for the host, as the real pid 1 may be beyond our rights: the shell is its pid 1.
#[test]
fn pins_are_in_the_mount_namespace_of_pid_1_and_outlive_the_callers() -> Result<()> {
    let link = Link::new()?;
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "sh", "-eu", "-c", PID_1])
        .args(["sh", env!("CARGO_BIN_EXE_hold")])
        .arg(link.pin_dir())
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let said = String::from_utf8(output.stdout)?;
    assert_eq!(
        said, "ready native host new\nready native host taken-over\n",
        "{errors}"
    );
    link.nothing_left();
    Ok(())
}

/// Arguments: the engine, and the directory of its pins.
const PID_1: &str = r#"
fail() { echo "$1" >&2; exit 1; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
mkfifo "$out/in"
unshare --mount "$1" bwd0 native <"$out/in" >"$out/said" &
engine=$!
exec 3>"$out/in"
until grep -q ready "$out/said"; do kill -0 $engine || fail "the engine ended"; sleep 0.01; done
test -e "$2/link" || fail "no pin in the mount namespace of pid 1"
grep -q "$2" "/proc/$engine/mounts" && fail "the engine's own mount namespace has the bpffs"
kill -9 $engine
wait $engine || true
test -e "$2/link" || fail "the pin did not outlive the engine"
ip link show dev bwd0 | grep -q xdp || fail "the program did not outlive the engine"
cat "$out/said"
unshare --mount "$1" bwd0 native </dev/null
test -e "$2" && fail "something is left"
grep "$2" /proc/self/mounts && fail "something is mounted"
ip link show dev bwd0 | grep xdp && fail "something is attached"
exit 0
"#;

#[test]
fn a_second_engine_is_refused_and_told_which_is_the_first() -> Result<()> {
    let link = Link::new()?;
    let first = Holder::start(&["bwd0"])?;
    let program = link.program()?;
    let refused = Demux::attach(&link.config(Mode::Auto)).expect_err("a second attach");
    assert!(
        matches!(refused, AttachError::AlreadyRunning { .. }),
        "{refused:?}"
    );
    let text = refused.to_string();
    assert!(
        text.contains(&format!("pid {}", first.child.id())) && text.contains("bwd0"),
        "{text}"
    );
    assert_eq!(link.program()?, program, "the first must not notice");
    assert!(on_host(&link.pin_dir().join("link")));
    first.finish()?;
    link.nothing_left();
    // Within one process as well: the lock belongs to the open file.
    let first = Demux::attach(&link.config(Mode::Auto))?;
    let refused = Demux::attach(&link.config(Mode::Auto)).expect_err("a second attach");
    assert!(
        matches!(refused, AttachError::AlreadyRunning { .. }),
        "{refused:?}"
    );
    first.detach()?;
    link.nothing_left();
    Ok(())
}

#[test]
fn the_link_of_a_killed_engine_is_taken_over_and_then_removed() -> Result<()> {
    let link = Link::new()?;
    Holder::start(&["bwd0", "native"])?.kill()?;
    let stale = link.program()?;
    assert!(stale.is_some(), "a killed engine leaves its program");
    let demux = Demux::attach(&link.config(Mode::Auto))?;
    assert!(demux.took_over());
    assert_eq!(demux.mode(), AttachedMode::Native);
    let new = link.program()?;
    assert!(new.is_some() && new != stale, "{stale:?}, then {new:?}");
    assert!(
        demux.counters()?.iter().all(|(_, count)| *count == 0),
        "maps of its own"
    );
    demux.detach()?;
    link.nothing_left();
    Ok(())
}

#[test]
fn a_dead_engines_link_in_another_mode_is_replaced() -> Result<()> {
    let link = Link::new()?;
    for (stale, wanted, becomes) in [
        ("generic", Mode::Auto, AttachedMode::Native),
        ("generic", Mode::Native, AttachedMode::Native),
        ("native", Mode::Generic, AttachedMode::Generic),
    ] {
        Holder::start(&["bwd0", stale])?.kill()?;
        let demux = Demux::attach(&link.config(wanted))?;
        assert_eq!(
            (demux.mode(), demux.took_over()),
            (becomes, false),
            "{stale} to {wanted:?}"
        );
        demux.detach()?;
        link.nothing_left();
    }
    Holder::start(&["bwd0", "generic"])?.kill()?;
    let demux = Demux::attach(&link.config(Mode::Generic))?;
    assert_eq!(
        (demux.mode(), demux.took_over()),
        (AttachedMode::Generic, true)
    );
    demux.detach()?;
    link.nothing_left();
    Ok(())
}

/// The interface of the dead engine is gone, and a new one has its index: the old link cannot be updated.
#[test]
fn a_link_that_lost_its_interface_is_replaced() -> Result<()> {
    let link = Link::new()?;
    Holder::start(&["bwd0"])?.kill()?;
    ip(&["link", "del", "bwd0"])?;
    let index = link.ifindex.to_string();
    ip(&[
        "link", "add", "bwd0", "index", &index, "type", "veth", "peer", "name", "bwd1",
    ])?;
    assert_eq!(namespace::ifindex("bwd0")?, link.ifindex);
    let demux = Demux::attach(&link.config(Mode::Auto))?;
    assert!(!demux.took_over());
    demux.detach()?;
    link.nothing_left();
    Ok(())
}

#[test]
fn another_program_on_the_interface_is_named_and_left_alone() -> Result<()> {
    let link = Link::new()?;
    let open = ObjectBuilder::default().open_memory(bywash_xdp_tests::run::OBJECT)?;
    let object = open.load()?;
    let program = object
        .progs_mut()
        .find(|program| program.name() == "demux")
        .context("a program")?;
    let other = program.attach_xdp(i32::try_from(link.ifindex)?)?;
    let id = link.program()?.context("attached")?;
    for mode in [Mode::Auto, Mode::Native, Mode::Generic] {
        let refused = Demux::attach(&link.config(mode)).expect_err("it is taken");
        assert!(
            matches!(refused, AttachError::OtherProgram { .. }),
            "{refused:?}"
        );
        let text = refused.to_string();
        assert!(
            text.contains(&format!("id {id}")) && text.contains("ip link show"),
            "{text}"
        );
        assert_eq!(link.program()?, Some(id));
        assert!(
            !on_host(link.pin_dir().parent().context("a parent")?),
            "left after an error"
        );
    }
    drop(other);
    Ok(())
}

#[test]
fn an_mtu_beyond_one_buffer_is_an_error_that_says_so() -> Result<()> {
    let link = Link::new()?;
    ip(&["link", "set", "dev", "bwd0", "mtu", "9000"])?;
    ip(&["link", "set", "dev", "bwd1", "mtu", "9000"])?;
    for mode in [Mode::Auto, Mode::Native] {
        let refused = Demux::attach(&link.config(mode)).expect_err("MTU 9000");
        assert!(
            matches!(refused, AttachError::MtuTooLarge { mtu: 9000, .. }),
            "{refused:?}"
        );
        assert!(
            refused.to_string().contains("ip link set dev bwd0 mtu"),
            "{refused}"
        );
        link.nothing_left();
    }
    Ok(())
}

#[test]
fn a_veth_with_too_few_queues_is_an_error_that_says_so() -> Result<()> {
    let link = Link::with_queues(4)?;
    // The peer goes on sending on four queues.
    let output = Command::new("ethtool")
        .args(["-L", "bwd0", "rx", "1"])
        .output();
    let output = output.context("running `ethtool` (Debian: `apt-get install ethtool`)")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let refused = Demux::attach(&link.config(Mode::Native)).expect_err("4 queues into 1");
    assert!(matches!(refused, AttachError::Queues { .. }), "{refused:?}");
    link.nothing_left();
    Ok(())
}

/// Loopback has no native XDP.
#[test]
fn auto_ends_generic_where_the_driver_has_no_xdp_and_native_is_an_error() -> Result<()> {
    namespace::enter();
    let ifindex = namespace::ifindex("lo")?;
    let config = |mode| AttachConfig {
        interface: "lo".into(),
        ifindex,
        pin_dir: pin::directory(&pin::key(ifindex).expect("a key")),
        queues: 1,
        mode,
    };
    // lo's MTU is 65536, so the kernel's refusal is put down to that first.
    ip(&["link", "set", "dev", "lo", "mtu", "1500"])?;
    let refused = Demux::attach(&config(Mode::Native)).expect_err("native on lo");
    assert!(
        matches!(refused, AttachError::ModeRefused { .. }),
        "{refused:?}"
    );
    let demux = Demux::attach(&config(Mode::Auto))?;
    assert_eq!(demux.mode(), AttachedMode::Generic);
    demux.detach()?;
    Ok(())
}

#[test]
fn wrong_configurations_are_refused_before_anything_is_done() -> Result<()> {
    let link = Link::new()?;
    let good = link.config(Mode::Auto);
    let missing = AttachConfig {
        ifindex: 9999,
        ..good.clone()
    };
    let refused = Demux::attach(&missing).expect_err("no such interface");
    assert!(
        matches!(refused, AttachError::UnknownInterface { ifindex: 9999, .. }),
        "{refused:?}"
    );
    for wrong in [
        AttachConfig {
            queues: 0,
            ..good.clone()
        },
        AttachConfig {
            queues: 1_000_000,
            ..good.clone()
        },
        AttachConfig {
            pin_dir: "relative/bpf".into(),
            ..good.clone()
        },
        AttachConfig {
            pin_dir: "/bpf".into(),
            ..good
        },
    ] {
        let refused = Demux::attach(&wrong).expect_err("a wrong configuration");
        assert!(matches!(refused, AttachError::Config { .. }), "{refused:?}");
    }
    link.nothing_left();
    Ok(())
}

/// Without rights: one error that says which are needed.
#[test]
fn an_unprivileged_user_is_told_what_is_missing() -> Result<()> {
    use std::os::unix::process::CommandExt;
    let link = Link::new()?;
    // Where nobody may read it.
    let directory = tempfile::Builder::new().prefix("bwd").tempdir_in("/tmp")?;
    let hold = directory.path().join("hold");
    std::fs::copy(env!("CARGO_BIN_EXE_hold"), &hold)?;
    nix::unistd::chown(directory.path(), Some(65_534.into()), None)?;
    let output = Command::new(&hold)
        .arg("bwd0")
        .uid(65_534)
        .gid(65_534)
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("run as root"),
        "{text}"
    );
    link.nothing_left();
    Ok(())
}

#[test]
fn changes_to_the_maps_are_checked() -> Result<()> {
    let link = Link::new()?;
    let demux = Demux::attach(&link.config(Mode::Auto))?;
    let socket = Socket::new(Domain::from(44), Type::RAW, None)?;
    demux.set_socket(0, 1, socket.as_fd())?;
    demux.remove_socket(0, 1)?;
    demux.remove_socket(0, 1)?;
    for (queue, ring) in [(1, 0), (0, 256), (u32::MAX, u32::MAX)] {
        assert!(matches!(
            demux.set_socket(queue, ring, socket.as_fd()),
            Err(DemuxError::Slot { .. })
        ));
    }
    let udp = std::net::UdpSocket::bind("0.0.0.0:0")?;
    assert!(matches!(
        demux.set_socket(0, 0, udp.as_fd()),
        Err(DemuxError::Map { map: "xsks", .. })
    ));

    assert!(matches!(demux.listen(0), Err(DemuxError::PortZero)));
    assert!(matches!(
        demux.unlisten(PORT),
        Err(DemuxError::PortNotOurs(PORT))
    ));
    demux.listen(PORT)?;
    demux.hold_port(PORT)?;
    demux.unlisten(PORT)?;
    assert!(matches!(
        demux.unlisten(PORT),
        Err(DemuxError::PortNotOurs(PORT))
    ));
    demux.release_port(PORT)?;
    assert!(matches!(
        demux.release_port(PORT),
        Err(DemuxError::PortNotOurs(PORT))
    ));
    assert!(matches!(
        demux.set_local_ports(Some(0..=9)),
        Err(DemuxError::PortZero)
    ));
    demux.set_local_ports(Some(50_000..=65_535))?;
    demux.set_local_ports(None)?;

    for address in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1"] {
        assert!(
            matches!(
                demux.add_address(address.parse()?),
                Err(DemuxError::Address(_))
            ),
            "{address}"
        );
    }
    demux.add_address(OURS.into())?;
    demux.add_address(OURS.into())?;
    demux.remove_address(OURS.into())?;
    demux.remove_address(OURS.into())?;
    for vlan in [0, 4095, u16::MAX] {
        assert!(
            matches!(demux.set_vlans(&[1, vlan]), Err(DemuxError::Vlan(wrong)) if wrong == vlan)
        );
    }
    demux.set_vlans(&[1, 4094])?;
    demux.set_vlans(&[])?;

    let key = FlowKey::new(
        OURS.into(),
        PORT,
        Ipv4Addr::new(10, 1, 1, 2).into(),
        1,
        None,
        6,
    );
    let value = FlowValue {
        slot: 2,
        generation: 5,
        queue: 0,
    };
    assert_eq!(demux.flow(&key)?, None);
    demux.insert_flow(&key, value)?;
    assert_eq!(demux.flow(&key)?, Some(value));
    demux.remove_flow(&key)?;
    demux.remove_flow(&key)?;
    assert_eq!(demux.flow(&key)?, None);
    for wrong in [
        FlowValue { queue: 1, ..value },
        FlowValue { slot: 256, ..value },
    ] {
        assert!(matches!(
            demux.insert_flow(&key, wrong),
            Err(DemuxError::Slot { .. })
        ));
    }
    Ok(())
}

#[test]
fn a_full_flow_table_says_so() -> Result<()> {
    let link = Link::new()?;
    let demux = Demux::attach(&link.config(Mode::Auto))?;
    let value = FlowValue {
        slot: 2,
        generation: 0,
        queue: 0,
    };
    let insert = |peer: u32| {
        let key = FlowKey::new(
            OURS.into(),
            PORT,
            Ipv4Addr::from_bits(peer).into(),
            1,
            None,
            6,
        );
        demux.insert_flow(&key, value)
    };
    for peer in 0..bywash_xdp::abi::FLOWS_PER_QUEUE {
        insert(peer)?;
    }
    let refused = insert(u32::MAX).expect_err("full");
    assert!(
        matches!(refused, DemuxError::Full { map: "flows", .. }),
        "{refused:?}"
    );
    Ok(())
}

/// Shards of several threads share one `Demux`.
#[test]
fn threads_share_a_demux() -> Result<()> {
    let link = Link::new()?;
    let demux = Demux::attach(&link.config(Mode::Auto))?;
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for _ in 0..100 {
                    demux.listen(PORT).expect("listen");
                    demux.counters().expect("counters");
                    demux.unlisten(PORT).expect("unlisten");
                }
            });
        }
    });
    assert!(matches!(
        demux.unlisten(PORT),
        Err(DemuxError::PortNotOurs(PORT))
    ));
    Ok(())
}

/// Real packets of the kernel's TCP over the veth: the peer lives in a namespace of a second thread.
#[test]
fn a_dead_engines_port_is_silent_and_all_others_are_the_kernels() -> Result<()> {
    let link = Link::new()?;
    ip(&["address", "add", "10.1.1.1/24", "dev", "bwd0"])?;
    let peer = Peer::start()?;
    ip(&[
        "link",
        "set",
        "dev",
        "bwd1",
        "netns",
        &peer.thread.to_string(),
    ])?;
    peer.ask(Task::Up)?;
    // Nobody listens: the kernel resets both.
    assert_eq!(
        peer.ask(Task::Connect(PORT, PATIENCE))?,
        Some(ErrorKind::ConnectionRefused)
    );
    assert_eq!(
        peer.ask(Task::Connect(22, PATIENCE))?,
        Some(ErrorKind::ConnectionRefused)
    );
    // An engine listens, and is killed.
    Holder::start(&["bwd0", "native", "8080"])?.kill()?;
    assert_eq!(
        peer.ask(Task::Connect(PORT, SILENCE))?,
        Some(ErrorKind::TimedOut),
        "a dead engine's port"
    );
    assert_eq!(
        peer.ask(Task::Connect(22, PATIENCE))?,
        Some(ErrorKind::ConnectionRefused)
    );

    let demux = Demux::attach(&link.config(Mode::Auto))?;
    assert!(demux.took_over());
    demux.add_address(OURS.into())?;
    demux.listen(PORT)?;
    assert_eq!(
        peer.ask(Task::Connect(PORT, SILENCE))?,
        Some(ErrorKind::TimedOut),
        "no socket in the slot"
    );
    assert_eq!(
        peer.ask(Task::Connect(22, PATIENCE))?,
        Some(ErrorKind::ConnectionRefused)
    );
    let counters = demux.counters()?;
    let count = |counter: Counter| counters[counter as usize];
    assert_eq!(count(Counter::DropEmptySlot).0, "drop-empty-slot");
    assert!(
        count(Counter::DropEmptySlot).1 >= 1 && count(Counter::PassNotOurPort).1 >= 1,
        "{counters:?}"
    );
    demux.unlisten(PORT)?;
    assert_eq!(
        peer.ask(Task::Connect(PORT, PATIENCE))?,
        Some(ErrorKind::ConnectionRefused),
        "the kernel's again"
    );
    demux.detach()?;
    link.nothing_left();
    assert_eq!(
        peer.ask(Task::Connect(PORT, PATIENCE))?,
        Some(ErrorKind::ConnectionRefused)
    );
    Ok(())
}

enum Task {
    /// Address and state of bwd1.
    Up,
    /// To this port of ours, for so long; the answer is how it failed.
    Connect(u16, Duration),
}

/// A thread in a network namespace of its own that does one task after another.
struct Peer {
    thread: Pid,
    tasks: Sender<Task>,
    answers: Receiver<Result<Option<ErrorKind>>>,
}

impl Peer {
    fn start() -> Result<Self> {
        let (tasks, inbox) = channel();
        let (outbox, answers) = channel();
        let (identity, thread) = channel();
        std::thread::spawn(move || {
            namespace::enter();
            // The test ends when it has heard enough: a closed channel ends the thread.
            let mut open = identity.send(gettid()).is_ok();
            while open && let Ok(task) = inbox.recv() {
                open = outbox.send(Self::perform(&task)).is_ok();
            }
        });
        Ok(Self {
            thread: thread.recv()?,
            tasks,
            answers,
        })
    }

    fn ask(&self, task: Task) -> Result<Option<ErrorKind>> {
        self.tasks.send(task).ok().context("the peer has gone")?;
        self.answers.recv()?
    }

    fn perform(task: &Task) -> Result<Option<ErrorKind>> {
        match task {
            Task::Up => {
                ip(&["address", "add", "10.1.1.2/24", "dev", "bwd1"])?;
                ip(&["link", "set", "dev", "bwd1", "up"])?;
                Ok(None)
            }
            Task::Connect(port, patience) => {
                let address = SocketAddr::from((OURS, *port));
                Ok(TcpStream::connect_timeout(&address, *patience)
                    .err()
                    .map(|error| error.kind()))
            }
        }
    }
}
