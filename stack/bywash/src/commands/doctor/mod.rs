//! `bywash doctor`: what holds on this machine for a device, and how to change what does not.
//!
//! Nothing is attached, bound or sent: it only looks. Each finding is a line; one that fails makes
//! the exit status 1.

mod device;
mod machine;
mod offloads;

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::DoctorArgs;
use crate::failure::Failure;

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

/// Findings in the order in which they are shown.
#[derive(Default)]
struct Findings(Vec<Finding>);

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

    fn add(&mut self, check: &'static str, level: Level, text: String, remedy: Option<String>) {
        self.0.push(Finding {
            check,
            level,
            text,
            remedy,
        });
    }
}

pub(crate) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let mut findings = Findings::default();
    machine::look(&mut findings);
    device::look(&mut findings, &args.dev);
    offloads::look(&mut findings, &args.dev);
    findings.warn(
        "bypass",
        "our ports bypass nftables, conntrack and packet taps on this host",
        "filter them before this host, and capture at the peer; ss and tcpdump here do not show them",
    );
    let failed = findings
        .0
        .iter()
        .any(|finding| finding.level == Level::Fail);
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &findings.0)?;
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

fn table(out: &mut impl Write, findings: &Findings) -> io::Result<()> {
    for finding in &findings.0 {
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
    fn json_has_no_empty_remedies() {
        let mut findings = Findings::default();
        findings.ok("one", "is well");
        let json = serde_json::to_string(&findings.0).unwrap();
        assert_eq!(json, r#"[{"check":"one","level":"ok","text":"is well"}]"#);
    }
}
