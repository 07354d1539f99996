//! What a cell looks like from outside: a capture on the kernel's side, and what tshark's expert analysis thinks of it.
//!
//! The capture is taken at the far end of the link: of what we sent it has what survived, of what the kernel sent it has all.
//! So a segment that the kernel acknowledges has always been seen, whatever the link does.

use std::path::PathBuf;

use bywash_tests::frames::mac;
use bywash_tests::process::Running;
use bywash_tests::{Bed, LIMIT};
use nix::sys::signal::Signal;

use crate::exchange::PORTS;

/// A running tcpdump; its file goes with it.
pub(crate) struct Capture {
    path: PathBuf,
    tcpdump: Option<Running>,
}

/// A line of the analysis: how often, how bad, and what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Packets that it was found in.
    pub(crate) times: u64,
    /// "Errors", "Warns" or "Notes".
    pub(crate) severity: String,
    /// "Malformed", "Checksum", "Sequence" and the like.
    pub(crate) group: String,
    /// In words.
    pub(crate) summary: String,
}

impl Capture {
    /// Begins, in the peer's namespace.
    #[track_caller]
    pub(crate) fn start(bed: &Bed) -> Self {
        let name = format!("{}.pcap", bed.peer.namespace);
        let path = std::env::temp_dir().join(name);
        let file = path.to_str().expect("a path in UTF-8");
        // Whole packets, and 64 MiB of room for them: what it loses would look as if the network had.
        let arguments = [
            "-i",
            &bed.peer.device,
            "-w",
            file,
            "-U",
            "-B",
            "65536",
            "-Z",
            "root",
            "tcp",
        ];
        let tcpdump = bed.peer.start("tcpdump", &arguments);
        let deadline = tcpdump.started + LIMIT;
        while !tcpdump.stderr().contains("listening on") {
            assert!(
                std::time::Instant::now() < deadline,
                "tcpdump does not begin: {}",
                tcpdump.stderr()
            );
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Self {
            path,
            tcpdump: Some(tcpdump),
        }
    }

    /// Waits until the file has `bytes`: packets come in blocks, up to a second late.
    #[track_caller]
    pub(crate) fn wait_for(&self, bytes: u64) {
        let deadline = std::time::Instant::now() + LIMIT;
        while std::fs::metadata(&self.path).map_or(0, |file| file.len()) < bytes {
            assert!(
                std::time::Instant::now() < deadline,
                "the capture does not grow to {bytes} bytes"
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Ends it and has it analysed. Answers the number of packets, and the findings above the level of a chat.
    #[track_caller]
    pub(crate) fn analyse(mut self, bed: &Bed) -> (u64, Vec<Finding>) {
        let tcpdump = self.tcpdump.take().expect("not ended yet");
        let said = tcpdump.end_by(Signal::SIGINT, LIMIT).ok().stderr;
        assert!(
            said.contains("\n0 packets dropped by kernel"),
            "the capture is not whole: {said}"
        );
        let file = self.path.to_str().expect("a path in UTF-8");
        // Where a sum is zero Linux writes its other form also in TCP (RFC 1624 3), and tshark wants the one. We must not.
        let mac = mac(&bed.peer.link())
            .map(|byte| format!("{byte:02x}"))
            .join(":");
        let what = format!("expert,note,not (tcp.checksum == 0xffff and eth.src == {mac})");
        let mut arguments = vec!["-n", "-r", file, "-q", "-z", &what];
        // Nothing above TCP: noise on some port may look like a broken message of the protocol that the port was meant for.
        let raw = [PORTS.0, PORTS.1].map(|port| format!("tcp.port=={port},data"));
        for decode in &raw {
            arguments.extend(["-d", decode]);
        }
        for preference in ["tcp.check_checksum:TRUE", "ip.check_checksum:TRUE"] {
            arguments.extend(["-o", preference]);
        }
        let shown = Running::start(std::process::Command::new("tshark").args(arguments));
        let findings = findings(&shown.wait(LIMIT).ok().stdout);
        let captured = said
            .lines()
            .find_map(|line| line.strip_suffix(" packets captured"));
        let packets = captured.expect("a number of packets").parse();
        (packets.expect("a number"), findings)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        drop(self.tcpdump.take());
        if let Err(error) = std::fs::remove_file(&self.path) {
            eprintln!("WARNING: {} is left behind: {error}", self.path.display());
        }
    }
}

/// Reads `tshark -z expert`: a heading `Warns (3)` for each severity, and under it frequency, group, protocol and summary.
fn findings(text: &str) -> Vec<Finding> {
    let mut severity = String::new();
    let mut all = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [name, count] if count.starts_with('(') => severity = name.to_owned(),
            [times, group, _protocol, ref summary @ ..] => {
                if let Ok(times) = times.parse() {
                    let (severity, group) = (severity.clone(), group.to_owned());
                    let summary = summary.join(" ");
                    all.push(Finding {
                        times,
                        severity,
                        group,
                        summary,
                    });
                }
            }
            _ => {}
        }
    }
    all
}

#[test]
fn an_analysis_is_read() {
    let text = "\nErrors (2)\n=============\n   Frequency      Group           Protocol  Summary\n           2  Malformed                TCP  Short segment\n\
                \nWarns (1)\n=============\n   Frequency      Group           Protocol  Summary\n           1   Sequence                TCP  ACKed segment that wasn't captured\n\n";
    let seen: Vec<_> = findings(text)
        .into_iter()
        .map(|one| (one.times, one.severity, one.group, one.summary))
        .collect();
    let line = |times, severity: &str, group: &str, summary: &str| {
        (
            times,
            severity.to_owned(),
            group.to_owned(),
            summary.to_owned(),
        )
    };
    assert_eq!(
        seen,
        [
            line(2, "Errors", "Malformed", "Short segment"),
            line(1, "Warns", "Sequence", "ACKed segment that wasn't captured"),
        ]
    );
}
