//! The command line from outside: exit statuses, and where what is said.

use std::process::{Command, Output};

fn bywash(arguments: &[&str]) -> Output {
    match Command::new(env!("CARGO_BIN_EXE_bywash"))
        .args(arguments)
        .output()
    {
        Ok(output) => output,
        Err(error) => panic!("bywash cannot be run: {error}"),
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn wrong_usage_is_2_and_names_what_is_wrong() {
    for (arguments, named) in [
        (&[][..], "Usage"),
        (&["fly"], "fly"),
        (&["echo"], "--dev"),
        (&["echo", "--dev", "lo", "-p", "0"], "0"),
        (&["echo", "--dev", "lo", "-p", "65536"], "65536"),
        (&["iperf3", "--dev", "lo"], "--server"),
        (
            &["iperf3", "-s", "-c", "10.0.0.1", "--dev", "lo"],
            "cannot be used with",
        ),
        (
            &["iperf3", "-s", "-R", "--dev", "lo"],
            "cannot be used with",
        ),
        (
            &["iperf3", "-c", "10.0.0.1", "-1", "--dev", "lo"],
            "cannot be used with",
        ),
        (
            &[
                "iperf3", "-c", "10.0.0.1", "-t", "1", "-n", "5", "--dev", "lo",
            ],
            "cannot be used with",
        ),
        (
            &["iperf3", "-c", "10.0.0.1", "-P", "500", "--dev", "lo"],
            "-P",
        ),
        (
            &["iperf3", "-c", "10.0.0.1", "-l", "2M", "--dev", "lo"],
            "-l",
        ),
        (&["recv", "--dev", "lo", "-p", "9"], "FILE"),
        (&["send", "/etc/hostname", "--dev", "lo", "-p", "9"], "HOST"),
        (&["echo", "--dev", "lo", "--idle", "now"], "spin"),
        (
            &["echo", "--dev", "lo", "--pool-policy", "mine"],
            "promote-after",
        ),
        (
            &[
                "echo",
                "--dev",
                "lo",
                "--mode",
                "copy",
                "--require-zero-copy",
            ],
            "--mode copy",
        ),
        (&["echo", "--dev", "lo", "--shards", "0"], "0"),
        (&["demo", "--ping-pong", "nowhere"], "HOST:PORT"),
    ] {
        let output = bywash(arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(
            text.contains(named),
            "{arguments:?} does not name {named}: {text}"
        );
        assert!(stdout(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_and_version_are_0() {
    let output = bywash(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for command in ["iperf3", "echo", "recv", "send", "ss", "doctor", "demo"] {
        assert!(
            stdout(&output).contains(command),
            "{command} is not in the help"
        );
    }
    assert!(stdout(&bywash(&["--version"])).starts_with("bywash "));
}

/// One line on standard error, that begins with our name; never a panic.
fn refused(arguments: &[&str], named: &str) {
    let output = bywash(arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
    assert!(text.starts_with("bywash: "), "{arguments:?}: {text}");
    assert!(
        text.contains(named),
        "{arguments:?} does not name {named}: {text}"
    );
    assert!(
        stdout(&output).is_empty(),
        "{arguments:?}: {}",
        stdout(&output)
    );
}

#[test]
fn a_device_that_is_not_there_is_1_with_the_remedy() {
    for command in [
        &["echo", "--dev", "bwc-no-such", "-p", "7"][..],
        &["iperf3", "-s", "--dev", "bwc-no-such"],
        &["iperf3", "-c", "10.0.0.1", "--dev", "bwc-no-such"],
        &[
            "send",
            "/etc/hostname",
            "10.0.0.1",
            "--dev",
            "bwc-no-such",
            "-p",
            "9",
        ],
    ] {
        refused(command, "bwc-no-such");
    }
}

#[test]
fn files_are_looked_at_before_the_device() {
    let send = [
        "send",
        "/no/such/file",
        "10.0.0.1",
        "--dev",
        "bwc-no-such",
        "-p",
        "9",
    ];
    refused(&send, "/no/such/file");
    refused(
        &["send", "/", "10.0.0.1", "--dev", "bwc-no-such", "-p", "9"],
        "cannot read /",
    );
    let recv = [
        "recv",
        "/no/such/directory/file",
        "--dev",
        "bwc-no-such",
        "-p",
        "9",
    ];
    refused(&recv, "/no/such/directory/file");
    refused(
        &["recv", "/", "--dev", "bwc-no-such", "-p", "9"],
        "cannot write /",
    );
}

#[test]
fn a_file_is_absent_when_nothing_was_received() {
    let directory = std::env::temp_dir().join(format!("bywash-cli-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("file");
    let name = file.display().to_string();
    refused(
        &["recv", &name, "--dev", "bwc-no-such", "-p", "9"],
        "bwc-no-such",
    );
    let left: Vec<_> = std::fs::read_dir(&directory).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    std::fs::remove_dir(&directory).unwrap();
}

#[test]
fn doctor_fails_for_a_device_that_is_not_there() {
    let output = bywash(&["doctor", "--dev", "bwc-no-such", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let device = findings
        .as_array()
        .and_then(|all| all.iter().find(|finding| finding["check"] == "device"))
        .expect("a finding on the device");
    assert_eq!(device["level"], "fail");
    assert!(
        device["text"]
            .as_str()
            .is_some_and(|text| text.contains("bwc-no-such")),
        "{device}"
    );
    let table = bywash(&["doctor", "--dev", "bwc-no-such"]);
    assert!(
        stdout(&table).lines().any(|line| line.starts_with("FAIL")),
        "{}",
        stdout(&table)
    );
    assert!(stdout(&table).contains("bypass nftables"));
}

#[test]
fn the_demo_needs_no_root_and_says_so_first() {
    let output = bywash(&["demo", "--time", "1", "--count", "1000"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        text.lines().next(),
        Some("no root: running over the in-memory wire; no kernel, no NIC")
    );
    assert!(text.contains("1000 round trips"), "{text}");
    assert!(text.contains("10.0.0.1:7"), "{text}");
}
