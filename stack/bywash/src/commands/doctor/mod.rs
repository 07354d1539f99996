//! `bywash doctor`: what holds on this machine for a device, and how to change what does not.
//!
//! Nothing is attached, bound or sent: it only looks. Each finding is a line; one that fails makes
//! the exit status 1. With `--tune` it prints the changes that the findings ask for, with `--apply` it makes them, with
//! `--revert` it undoes them. With `--first-run` it prints what to do with a NIC that Bywash has never met.

mod af_xdp;
mod device;
mod filters;
mod first_run;
mod machine;
mod offloads;
mod placement;
mod polling;
mod sysfs;
mod tune;
mod vlans;
mod watchdog;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use bywash_engine::host::{Device, VlanChoice};
use serde::Serialize;

use crate::cli::DoctorArgs;
use crate::failure::Failure;
use tune::{Change, Ledger};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Works, with something to know.
    Warn,
    /// An engine would not start, or not work.
    Fail,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// Findings in the order in which they are shown, and the changes that they ask for.
#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
    changes: Vec<Change>,
    /// What `--tune` offers and `--apply` leaves alone: it takes more than this device.
    offers: Vec<String>,
}

impl Findings {
    fn ok(&mut self, check: &'static str, text: impl Into<String>) {
        self.add(check, Level::Ok, text.into(), None);
    }

    fn warn(&mut self, check: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(check, Level::Warn, text.into(), Some(remedy.into()));
    }

    fn fail(&mut self, check: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(check, Level::Fail, text.into(), Some(remedy.into()));
    }

    /// The trimmed content of a file of the kernel's; a finding and `None` if there is none to be read.
    fn read(&mut self, check: &'static str, path: impl AsRef<Path>) -> Option<String> {
        let path = path.as_ref();
        match fs::read_to_string(path) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) => {
                self.unreadable(check, &path.display().to_string(), &error);
                None
            }
        }
    }

    /// As [`read`](Self::read), but a file that does not exist is an answer: `Some(None)`.
    fn read_if_there(
        &mut self,
        check: &'static str,
        path: impl AsRef<Path>,
    ) -> Option<Option<String>> {
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(None),
            _ => self.read(check, path).map(Some),
        }
    }

    /// Nothing can be said about this check.
    fn unreadable(&mut self, check: &'static str, what: &str, error: &dyn std::fmt::Display) {
        self.warn(
            check,
            format!("{what} could not be read: {error}"),
            "look whether /proc and /sys are mounted here, and readable",
        );
    }

    /// A warning whose remedy can be applied and reverted.
    fn tune(&mut self, check: &'static str, text: impl Into<String>, change: Change) {
        self.warn(check, text, change.apply.to_string());
        self.changes.push(change);
    }

    fn add(&mut self, check: &'static str, level: Level, text: String, remedy: Option<String>) {
        self.list.push(Finding {
            check,
            level,
            text,
            remedy,
        });
    }
}

pub(crate) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if args.revert {
        let device = Device::open_with(&args.dev, &VlanChoice::All)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        return Ledger::of(&device).revert(&mut out);
    }
    if args.first_run {
        let device = Device::open(&args.dev).map_err(|error| Failure::Failed(error.to_string()))?;
        return Ok(first_run::print(&device, &mut out)?);
    }
    let (findings, device) = look(args);
    let failed = findings
        .list
        .iter()
        .any(|finding| finding.level == Level::Fail);
    match (args.tune, device) {
        (true, None) => {
            table(&mut io::stderr().lock(), &findings)?;
            return Err(Failure::Reported);
        }
        (true, Some(device)) if args.apply => {
            return Ledger::of(&device).apply(&findings.changes, &mut out);
        }
        (true, Some(_)) if args.json => {
            serde_json::to_writer_pretty(&mut out, &findings.changes)?;
            writeln!(out)?;
            return Ok(());
        }
        (true, Some(_)) => {
            tune::print(&findings.changes, &mut out)?;
            return Ok(tune::offer(&findings.offers, &mut out)?);
        }
        (false, _) => {}
    }
    if args.json {
        serde_json::to_writer_pretty(&mut out, &findings.list)?;
        writeln!(out)?;
    } else {
        table(&mut out, &findings)?;
    }
    out.flush()?;
    if failed {
        Err(Failure::Reported)
    } else {
        Ok(())
    }
}

/// Everything there is to find; no device if it cannot be used.
fn look(args: &DoctorArgs) -> (Findings, Option<Device>) {
    let mut findings = Findings::default();
    let kernel = machine::look(&mut findings);
    // Its VLANs are looked at as they are; a trunk may have no address of its own.
    let device = match Device::open_with(&args.dev, &VlanChoice::All) {
        Ok(device) => device,
        Err(error) => {
            // The text has the remedy.
            findings.fail(
                "device",
                error.to_string(),
                "see above; `ip link` lists what there is",
            );
            filters::look(&mut findings, None);
            return (findings, None);
        }
    };
    device::look(&mut findings, &device);
    offloads::look(&mut findings, &device.name);
    polling::look(&mut findings, &device, kernel, args.busy_poll);
    placement::look(&mut findings, &device);
    vlans::look(&mut findings, &device);
    filters::look(&mut findings, Some(&device));
    (findings, Some(device))
}

fn table(out: &mut impl Write, findings: &Findings) -> io::Result<()> {
    for finding in &findings.list {
        let level = match finding.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        writeln!(out, "{level}  {:<12} {}", finding.check, finding.text)?;
        if let Some(remedy) = &finding.remedy {
            writeln!(out, "      {:<12} -> {remedy}", "")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_stands_below_its_finding() {
        let mut findings = Findings::default();
        findings.ok("one", "is well");
        findings.fail("two", "is not", "do this");
        let mut text = Vec::new();
        table(&mut text, &findings).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("ok "), "{text}");
        assert!(lines[1].starts_with("FAIL"), "{text}");
        assert!(lines[2].ends_with("-> do this"), "{text}");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let mut findings = Findings::default();
        // A directory is there, and no text.
        assert_eq!(findings.read("one", "/proc"), None);
        assert_eq!(findings.read_if_there("two", "/proc"), None);
        assert_eq!(
            findings.read_if_there("three", "/proc/no/such/file"),
            Some(None)
        );
        assert_eq!(findings.read("four", "/proc/no/such/file"), None);
        let said: Vec<_> = findings
            .list
            .iter()
            .map(|one| (one.check, one.level))
            .collect();
        let warned = |check| (check, Level::Warn);
        assert_eq!(said, [warned("one"), warned("two"), warned("four")]);
        assert!(findings.list[0].text.contains("/proc could not be read"));
    }

    #[test]
    fn json_has_no_empty_remedies() {
        let mut findings = Findings::default();
        findings.ok("one", "is well");
        let json = serde_json::to_string(&findings.list).unwrap();
        assert_eq!(json, r#"[{"check":"one","level":"ok","text":"is well"}]"#);
    }
}
