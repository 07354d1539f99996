//! What a kernel's AF_XDP can do, by its version: most of it shows only when a queue is bound, which doctor does not do.
//!
//! `tests/zero-copy.sh` tries every line of the table on Linux 6.1, 6.12 and the newest that Debian has.

use super::Findings;

/// Something that the kernel learnt after AF_XDP's first version.
struct Ability {
    name: &'static str,
    /// The first Linux that has it.
    since: (u32, u32),
    /// How Bywash does without.
    without: &'static str,
}

const ABILITIES: [Ability; 6] = [
    Ability {
        name: "need-wakeup",
        since: (5, 4),
        without: "no engine",
    },
    // As old as AF_XDP; what was wrong with several sockets of one queue was mended until then.
    Ability {
        name: "RX-only sockets",
        since: (5, 11),
        without: "no engine",
    },
    Ability {
        name: "preferred busy polling",
        since: (5, 11),
        without: "no --busy-poll",
    },
    Ability {
        name: "several buffers a packet",
        since: (6, 6),
        without: "not used",
    },
    Ability {
        name: "checksums by TX metadata",
        since: (6, 11),
        without: "no --tx-checksum kernel",
    },
    Ability {
        name: "larger sends",
        since: (6, 17),
        without: "32 frames a sendto in copy mode",
    },
];

/// Says what a kernel of this version has and lacks.
pub(super) fn look(findings: &mut Findings, version: (u32, u32)) {
    findings.ok("af-xdp", text(version));
}

fn text(version: (u32, u32)) -> String {
    let (has, lacks): (Vec<_>, Vec<_>) = ABILITIES
        .iter()
        .partition(|ability| ability.since <= version);
    let has: Vec<_> = has.iter().map(|ability| ability.name.to_owned()).collect();
    let lacks: Vec<_> = lacks
        .iter()
        .map(|ability| {
            let (major, minor) = ability.since;
            format!(
                "{} (Linux {major}.{minor}; {})",
                ability.name, ability.without
            )
        })
        .collect();
    let list = |all: Vec<_>| match all.is_empty() {
        true => "nothing".to_owned(),
        false => all.join(", "),
    };
    format!("by its version it has {}; lacks {}", list(has), list(lacks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_has_what_is_not_younger() {
        let old = text((6, 1));
        let (has, lacks) = old.split_once("; lacks ").unwrap();
        assert!(
            has.ends_with("need-wakeup, RX-only sockets, preferred busy polling"),
            "{has}"
        );
        assert!(
            lacks.starts_with("several buffers a packet (Linux 6.6; not used), "),
            "{lacks}"
        );
        assert!(lacks.contains("larger sends (Linux 6.17"), "{lacks}");
        let new = text((7, 0));
        assert!(new.ends_with("larger sends; lacks nothing"), "{new}");
        assert!(
            text((5, 3)).contains("has nothing; lacks need-wakeup"),
            "{}",
            text((5, 3))
        );
    }
}
