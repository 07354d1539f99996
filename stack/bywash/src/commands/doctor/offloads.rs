//! The offloads that matter to us, as `ethtool` tells them.

use std::process::Command;

use super::Findings;
use super::tune::{Change, Step};

/// An offload that changes what reaches XDP: its name at `ethtool -k`, what it does, and the
/// argument that switches it.
const HARMFUL: [(&str, &str, &str); 4] = [
    (
        "large-receive-offload",
        "merges packets before XDP sees them",
        "lro",
    ),
    (
        "rx-gro-hw",
        "merges packets before XDP sees them",
        "rx-gro-hw",
    ),
    (
        "rx-vlan-offload",
        "takes VLAN tags out of the packets that XDP sees",
        "rxvlan",
    ),
    (
        "rx-vlan-stag-hw-parse",
        "takes 802.1ad tags out of the packets that XDP sees",
        "rx-vlan-stag-hw-parse",
    ),
];

pub(super) fn look(findings: &mut Findings, name: &str) {
    let output = match Command::new("ethtool").args(["-k", name]).output() {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr)
                .trim()
                .replace('\n', " ");
            findings.warn(
                "offloads",
                format!("ethtool -k {name}: {text}"),
                "see `device` above",
            );
            return;
        }
        Err(error) => {
            findings.warn(
                "offloads",
                format!("not known: ethtool cannot be run ({error})"),
                "apt-get install ethtool",
            );
            return;
        }
    };
    let on = enabled(&String::from_utf8_lossy(&output.stdout));
    let mut harm = false;
    for (feature, what, argument) in HARMFUL {
        if on.iter().any(|name| name == feature) {
            harm = true;
            let why = format!("{feature} is on: it {what}");
            let change = Change {
                why: why.clone(),
                apply: Step::run(&format!("ethtool -K {name} {argument} off")),
                undo: Step::run(&format!("ethtool -K {name} {argument} on")),
            };
            findings.tune("offloads", why, change);
        }
    }
    if !harm {
        findings.ok(
            "offloads",
            "nothing merges packets or takes tags out of them before XDP",
        );
    }
}

/// Names of the features that are on and can be switched.
fn enabled(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().split_once(':'))
        .filter(|(_, state)| state.trim() == "on")
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_that_are_on_are_found() {
        let text = "Features for veth0:\nrx-checksumming: on\n\ttx-checksum-ip-generic: on\n\
                    large-receive-offload: off [fixed]\nrx-vlan-offload: on [fixed]\n";
        let on = enabled(text);
        assert_eq!(on, ["rx-checksumming", "tx-checksum-ip-generic"]);
    }
}
