//! The loader on a veth in a namespace of its own: attach, refuse, take over from the dead, and leave nothing behind.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use bywash_xdp::pin::{self, Scope};
use bywash_xdp::{AttachConfig, AttachError, AttachedMode, Demux, Mode, Settings};
use bywash_xdp_tests::link::{Holder, Link, in_pins_namespace, on_host};
use bywash_xdp_tests::namespace::{self, ip};
use libbpf_rs::ObjectBuilder;

const HOLD: &str = env!("CARGO_BIN_EXE_hold");

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
            (Scope::Host, true) | (Scope::Ancestor { .. } | Scope::Process { .. }, false)
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
        "vlan_pairs",
        "accounts",
        "syn_prefixes",
        "xsks",
        "counters",
        "dirty",
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
        .args(["sh", HOLD])
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
    let first = Holder::start(HOLD, &["bwd0"])?;
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
    Holder::start(HOLD, &["bwd0", "native"])?.kill()?;
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
        Holder::start(HOLD, &["bwd0", stale])?.kill()?;
        let demux = Demux::attach(&link.config(wanted))?;
        assert_eq!(
            (demux.mode(), demux.took_over()),
            (becomes, false),
            "{stale} to {wanted:?}"
        );
        demux.detach()?;
        link.nothing_left();
    }
    Holder::start(HOLD, &["bwd0", "generic"])?.kill()?;
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
    Holder::start(HOLD, &["bwd0"])?.kill()?;
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
fn what_a_killed_engine_left_goes_when_its_interface_has_gone() -> Result<()> {
    let link = Link::new()?;
    Holder::start(HOLD, &["bwd0"])?.kill()?;
    let left = link.pin_dir();
    assert!(on_host(&left.join("link")));
    ip(&["link", "del", "bwd0"])?;
    // The next engine to start, on whatever interface.
    let other = Link::new()?;
    let demux = Demux::attach(&other.config(Mode::Auto))?;
    assert!(!on_host(left.parent().context("a parent")?));
    demux.detach()?;
    other.nothing_left();
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
        settings: Settings::default(),
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
    assert!(matches!(
        demux.native_refusal(),
        Some(AttachError::ModeRefused { mode: "native", .. })
    ));
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
    std::fs::copy(HOLD, &hold)?;
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
