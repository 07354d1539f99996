//! What on this host is meant to see every packet, and does not see ours.

use std::process::Command;

use bywash_engine::host::Device;

use super::Findings;

const REMEDY: &str = "filter before this host, and capture at the peer; ss and tcpdump here do not show our connections";

/// What bypasses a host's filters does so whether or not the device is there; tc's filters are a device's.
pub(super) fn look(findings: &mut Findings, device: Option<&Device>) {
    let mut bypassed = Vec::new();
    let mut unknown = Vec::new();
    match output("nft", &["-j", "list", "ruleset"]) {
        Ok(text) => match rules(&text) {
            Some(0) => {}
            Some(n) => bypassed.push(format!("{n} nftables rules")),
            None => unknown.push("nftables (its answer cannot be read)".to_owned()),
        },
        Err(error) => unknown.push(format!("nftables ({error})")),
    }
    for hook in ["ingress", "egress"] {
        let Some(device) = device else {
            break;
        };
        match output("tc", &["filter", "show", "dev", &device.name, hook]) {
            Ok(text) => {
                let filters = text
                    .lines()
                    .filter(|line| line.starts_with("filter"))
                    .count();
                if filters > 0 {
                    bypassed.push(format!("{filters} tc filters at {hook}"));
                }
            }
            Err(error) => unknown.push(format!("tc {hook} ({error})")),
        }
    }
    let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    if count.is_ok_and(|count| count.trim() != "0") {
        bypassed.push("connection tracking".to_owned());
    }
    let mut text =
        "our ports bypass nftables, conntrack, tc and packet taps on this host".to_owned();
    if !bypassed.is_empty() {
        text += &format!("; here these do not see them: {}", bypassed.join(", "));
    }
    if !unknown.is_empty() {
        text += &format!("; not known: {}", unknown.join(", "));
    }
    findings.warn("bypass", text, REMEDY);
}

fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program} cannot be run: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(said.lines().next().unwrap_or("no reason given").to_owned())
    }
}

/// Number of rules in what `nft -j list ruleset` says.
fn rules(text: &str) -> Option<usize> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let entries = value.get("nftables")?.as_array()?;
    Some(
        entries
            .iter()
            .filter(|entry| entry.get("rule").is_some())
            .count(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_counted() {
        let text =
            r#"{"nftables":[{"metainfo":{}},{"table":{}},{"chain":{}},{"rule":{}},{"rule":{}}]}"#;
        assert_eq!(rules(text), Some(2));
        assert_eq!(rules(r#"{"nftables":[]}"#), Some(0));
        assert_eq!(rules("no"), None);
    }
}
