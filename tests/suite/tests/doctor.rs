//! `bywash doctor`: every check is there, every finding that is not well says what to do, and what it changes it can undo.

use std::collections::BTreeSet;

use bywash_tests::process::Finished;
use bywash_tests::{Bed, LIMIT, Shape, Side, bywash};

/// Everything that it looks at.
const CHECKS: [&str; 29] = [
    "kernel",
    "af-xdp",
    "rights",
    "memlock",
    "bpf-jit",
    "mounts",
    "cores",
    "local-ports",
    "engines",
    "watchdog",
    "leftovers",
    "device",
    "queues",
    "mtu",
    "driver",
    "zero-copy",
    "checksum",
    "xdp",
    "neighbours",
    "offloads",
    "napi",
    "busy-poll",
    "irq",
    "isolation",
    "frequency",
    "numa",
    "huge-pages",
    "vlans",
    "bypass",
];

#[track_caller]
fn doctor(side: &Side, arguments: &[&str]) -> Finished {
    bywash::run(side, &[&["doctor"], arguments].concat(), LIMIT)
}

/// The level of one check.
#[track_caller]
fn level(side: &Side, check: &str) -> String {
    let findings = doctor(side, &["--json"]).json();
    let mut all = findings.as_array().expect("a list").iter();
    let found = all.find(|finding| finding["check"] == check);
    found.expect("the check")["level"]
        .as_str()
        .expect("a word")
        .to_owned()
}

#[test]
fn every_check_is_made_and_every_problem_has_a_remedy() {
    let bed = Bed::new(Shape::default());
    let findings = doctor(&bed.host, &["--json"]).json();
    let findings = findings.as_array().expect("a list");
    let checks: BTreeSet<_> = findings
        .iter()
        .map(|finding| finding["check"].as_str().expect("a name"))
        .collect();
    assert_eq!(checks, BTreeSet::from(CHECKS));
    for finding in findings {
        let well = finding["level"] == "ok";
        assert_eq!(well, finding.get("remedy").is_none(), "{finding}");
        assert!(
            !finding["text"].as_str().expect("words").is_empty(),
            "{finding}"
        );
    }
}

#[test]
fn filters_that_do_not_see_our_packets_are_counted() {
    let bed = Bed::new(Shape::default());
    let rules =
        "table inet t { chain c { type filter hook input priority 0; tcp dport 9 drop; }; }";
    bed.host.run("nft", &[rules]).ok();
    let said = doctor(&bed.host, &[]).stdout;
    assert!(said.contains("1 nftables rules"), "{said}");
}

#[test]
fn what_it_tunes_it_reverts() {
    let bed = Bed::new(Shape::default());
    let range = |text: &str| {
        let now = bed
            .host
            .run("sysctl", &["-n", "net.ipv4.ip_local_port_range"]);
        assert_eq!(
            now.ok()
                .stdout
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
            text
        );
    };
    let wide = "net.ipv4.ip_local_port_range=32768 65535";
    bed.host.run("sysctl", &["-qw", wide]).ok();
    assert_eq!(level(&bed.host, "local-ports"), "warn");

    let printed = doctor(&bed.host, &["--tune"]).stdout;
    assert!(printed.contains("ip_local_port_range"), "{printed}");
    range("32768 65535");

    doctor(&bed.host, &["--tune", "--apply"]);
    range("32768 61439");
    assert_eq!(level(&bed.host, "local-ports"), "ok");
    // Nothing twice, and nothing lost: the first record still leads back.
    let again = doctor(&bed.host, &["--tune", "--apply"]).stdout;
    assert!(!again.contains("ip_local_port_range"), "{again}");

    doctor(&bed.host, &["--revert"]);
    range("32768 65535");
    let device = bed.host.device.as_str();
    let nothing = bywash::command(&bed.host, &["doctor", "--dev", device, "--revert"]);
    let nothing = bywash_tests::process::Running::start(&mut { nothing }).wait(LIMIT);
    assert_eq!(nothing.status.code(), Some(1), "{nothing:#?}");
    assert!(nothing.stderr.contains("nothing to revert"), "{nothing:#?}");
}

#[test]
fn the_printed_commands_are_a_script() {
    let bed = Bed::new(Shape::default());
    let wide = "net.ipv4.ip_local_port_range=32768 65535";
    bed.host.run("sysctl", &["-qw", wide]).ok();
    let script = doctor(&bed.host, &["--tune"]).stdout;
    bed.host.run("sh", &["-ec", &script]).ok();
    assert_eq!(level(&bed.host, "local-ports"), "ok");
}
