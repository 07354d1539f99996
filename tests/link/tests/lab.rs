//! The command itself: namespaces, packets of the kernel's, and nothing left behind.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LINK: &str = env!("CARGO_BIN_EXE_bywash-link");

/// A running `bywash-link lab` with namespaces of this test's name; ended when dropped.
struct Lab {
    child: Child,
    left: String,
    right: String,
}

impl Lab {
    /// Started, and ready for packets.
    fn start(name: &str, options: &[&str]) -> Self {
        let pid = std::process::id();
        let (left, right) = (format!("bwl{pid}{name}-l"), format!("bwl{pid}{name}-r"));
        let child = Command::new(LINK)
            .args(["lab", "--left", &left, "--right", &right, "--for", "60s"])
            .args(options)
            .args(["--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command");
        let mut lab = Self { child, left, right };
        let stderr = lab.child.stderr.take().expect("a pipe");
        let mut said = String::new();
        for line in BufReader::new(stderr).lines() {
            let line = line.expect("text");
            said += &line;
            if line.starts_with("ready") {
                return lab;
            }
        }
        panic!("no ready line, but: {said}");
    }

    fn left(&self, command: &[&str]) -> String {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.left])
            .args(command)
            .output()
            .expect("ip");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Ended by SIGTERM: its counts.
    fn end(mut self) -> serde_json::Value {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).expect("it runs");
        let mut counts = String::new();
        let mut stdout = self.child.stdout.take().expect("a pipe");
        stdout.read_to_string(&mut counts).expect("text");
        assert!(self.child.wait().expect("its end").success());
        for name in [&self.left, &self.right] {
            assert!(
                !Path::new("/run/netns").join(name).exists(),
                "{name} is left behind"
            );
        }
        serde_json::from_str(&counts).unwrap_or_else(|error| panic!("{error}: {counts}"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // After a failure: it gets the chance to tidy up.
        if matches!(self.child.try_wait(), Ok(None)) {
            kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).expect("it runs");
            self.child.wait().expect("its end");
        }
    }
}

#[test]
fn a_ping_takes_the_delays_of_both_directions() {
    let lab = Lab::start("delay", &["--delay", "20ms/30ms"]);
    let said = lab.left(&["ping", "-c", "3", "-i", "0.05", "-W", "5", "10.99.0.2"]);
    let least = said
        .lines()
        .find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "))
        .and_then(|times| times.split('/').next())
        .unwrap_or_else(|| panic!("{said}"));
    assert!(least.parse::<f64>().expect("a number") >= 50.0, "{said}");
    let counts = lab.end();
    assert!(counts["forth"]["delivered"].as_u64() >= Some(3), "{counts}");
    assert_eq!(counts["forth"]["refused"], 0, "{counts}");
}

#[test]
fn a_link_that_loses_everything_lets_nothing_through_in_that_direction() {
    let lab = Lab::start("loss", &["--loss", "0/100%"]);
    let said = lab.left(&["ping", "-c", "2", "-i", "0.05", "-W", "1", "10.99.0.2"]);
    assert!(said.contains(" 0 received"), "{said}");
    let counts = lab.end();
    assert!(counts["back"]["lost"].as_u64() > Some(0), "{counts}");
    assert_eq!(counts["back"]["delivered"], 0, "{counts}");
    assert_eq!(counts["forth"]["lost"], 0, "{counts}");
}

#[test]
fn duplicates_reach_the_other_end() {
    let lab = Lab::start("dup", &["--duplicate", "100%/0"]);
    let said = lab.left(&["ping", "-c", "3", "-i", "0.05", "-W", "5", "fd99::2"]);
    assert!(said.contains("duplicates"), "{said}");
    lab.end();
}

#[test]
fn namespaces_that_exist_are_left_alone() {
    let lab = Lab::start("twice", &[]);
    let second = Command::new(LINK)
        .args(["lab", "--left", &lab.left, "--right", "bwl-other"])
        .output()
        .expect("the command");
    assert!(!second.status.success());
    let said = String::from_utf8(second.stderr).expect("text");
    assert!(
        said.contains("exists") && said.contains(&lab.left),
        "{said}"
    );
    let pinged = lab.left(&["ping", "-c", "1", "-W", "5", "10.99.0.2"]);
    assert!(pinged.contains(" 1 received"), "{pinged}");
    lab.end();
}
