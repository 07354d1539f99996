//! The walls between the crates: who may depend on whom, and on what from outside.
//!
//! Every table here is a whole list: a new dependency fails its test until somebody has thought about it and written it down.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bywash_tests::workspace;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

/// The direct dependencies that a crate may have at run time, beside none at all. Dev-dependencies are free.
const ALLOWED: [(&str, &[&str]); 9] = [
    // A crate of its own, because a call of code for wider vectors than the target's is unsafe.
    ("bywash-sum", &[]),
    ("bywash-wire", &["bywash-sum"]),
    ("bywash-tcp", &["bywash-wire"]),
    ("bywash-xsk", &["libc", "thiserror"]),
    // A crate of its own, because an ioctl is unsafe.
    ("bywash-ethtool", &["libc", "thiserror"]),
    // A crate of its own, because fork is unsafe.
    ("bywash-guard", &["libc", "thiserror"]),
    (
        "bywash-xdp",
        &[
            "aya",
            "netlink-packet-core",
            "netlink-packet-route",
            "netlink-sys",
            "nix",
            "thiserror",
            "tracing",
        ],
    ),
    (
        "bywash-engine",
        &[
            "bywash-ethtool",
            "bywash-guard",
            "bywash-tcp",
            "bywash-wire",
            "bywash-xdp",
            "bywash-xsk",
            "core_affinity",
            "crossbeam",
            "foldhash",
            "getrandom",
            "hashbrown",
            "netlink-packet-core",
            // Only the host side: what a driver's XDP can do is told by the generic family `netdev`.
            "netlink-packet-generic",
            "netlink-packet-route",
            "netlink-sys",
            "nix",
            "serde",
            "serde_json",
            "siphasher",
            "socket2",
            "thiserror",
            "tracing",
        ],
    ),
    (
        "bywash",
        &[
            "bywash-engine",
            "clap",
            "getrandom",
            "hdrhistogram",
            "indicatif",
            "netlink-packet-route",
            "nix",
            "serde",
            "serde_json",
            "sha2",
            "signal-hook",
            "thiserror",
            "tracing",
            "tracing-subscriber",
        ],
    ),
];

/// Members beside the default ones whose dependencies are held too: they have `unsafe` of their own, at a C interface.
const LEAVES: [(&str, &[&str]); 1] = [
    // libc and nix: the types of system calls, and eventfds as descriptor numbers.
    (
        "bywash-packetdrill",
        &["bywash-engine", "libc", "nix", "thiserror"],
    ),
];

/// What nobody who builds the default members may need: clang, libelf, and whatever binds to them.
const NATIVE: [&str; 9] = [
    "bindgen",
    "cc",
    "clang-sys",
    "libbpf-cargo",
    "libbpf-rs",
    "libbpf-sys",
    "libxdp-sys",
    "pkg-config",
    "xsk-rs",
];

/// Asynchronous runtimes and their parts.
const RUNTIMES: [&str; 10] = [
    "async-executor",
    "async-global-executor",
    "async-io",
    "async-std",
    "futures-executor",
    "glommio",
    "mio",
    "monoio",
    "smol",
    "tokio",
];

/// Licences that a dependency may be used under.
const LICENCES: [&str; 11] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    // LLVM's libFuzzer, only in the fuzzer's own program.
    "NCSA",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(workspace::root().join("Cargo.toml"))
        // Other platforms' dependencies are nobody's: the stack is for Linux.
        .other_options(
            ["--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]
                .map(str::to_owned)
                .to_vec(),
        )
        .exec()
        .expect("`cargo metadata --locked` of the workspace")
}

fn member<'a>(metadata: &'a Metadata, name: &str) -> &'a Package {
    let mut members = metadata.workspace_packages().into_iter();
    members
        .find(|package| package.name == name)
        .unwrap_or_else(|| panic!("no workspace member {name}"))
}

fn direct(package: &Package) -> BTreeSet<&str> {
    let at_run_time = package
        .dependencies
        .iter()
        .filter(|one| one.kind != DependencyKind::Development);
    at_run_time.map(|one| one.name.as_str()).collect()
}

/// Names of everything that `roots` need to be built; with `dev`, that their own tests need as well.
fn tree<'a>(metadata: &'a Metadata, roots: &[&PackageId], dev: bool) -> BTreeSet<&'a str> {
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut seen = BTreeSet::new();
    let mut todo: Vec<&PackageId> = roots.to_vec();
    while let Some(id) = todo.pop() {
        if !seen.insert(id) {
            continue;
        }
        let own_tests = dev && roots.contains(&id);
        for dependency in &nodes[id].deps {
            let wanted = |kind: &cargo_metadata::DepKindInfo| {
                kind.kind != DependencyKind::Development || own_tests
            };
            if dependency.dep_kinds.iter().any(wanted) {
                todo.push(&dependency.pkg);
            }
        }
    }
    seen.into_iter()
        .map(|id| metadata[id].name.as_str())
        .collect()
}

#[test]
fn crates_depend_on_what_the_design_allows_and_on_nothing_else() {
    let metadata = metadata();
    for (name, allowed) in ALLOWED.into_iter().chain(LEAVES) {
        let direct = direct(member(&metadata, name));
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        let extra: Vec<_> = direct.difference(&allowed).collect();
        assert!(
            extra.is_empty(),
            "{name} depends on {extra:?}: not in the list of what it may use"
        );
        let gone: Vec<_> = allowed.difference(&direct).collect();
        assert!(
            gone.is_empty(),
            "{name} no longer needs {gone:?}: take it out of the list"
        );
    }
}

#[test]
fn tcp_and_xsk_never_see_each_other() {
    let metadata = metadata();
    let tree_of = |name| tree(&metadata, &[&member(&metadata, name).id], false);
    assert_eq!(
        tree_of("bywash-wire"),
        BTreeSet::from(["bywash-sum", "bywash-wire"])
    );
    assert_eq!(
        tree_of("bywash-tcp"),
        BTreeSet::from(["bywash-sum", "bywash-tcp", "bywash-wire"])
    );
    let ours: Vec<_> = tree_of("bywash-xsk")
        .into_iter()
        .filter(|name| name.starts_with("bywash"))
        .collect();
    assert_eq!(ours, ["bywash-xsk"]);
}

#[test]
fn no_asynchronous_runtime_anywhere_below_the_command() {
    let metadata = metadata();
    let tree = tree(&metadata, &[&member(&metadata, "bywash").id], false);
    assert!(
        tree.contains("bywash-engine"),
        "the graph is not what this test takes it for: {tree:?}"
    );
    let found: Vec<_> = RUNTIMES
        .iter()
        .filter(|name| tree.contains(**name))
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn the_engine_does_not_use_libc() {
    let metadata = metadata();
    for name in ["bywash-wire", "bywash-tcp", "bywash-engine", "bywash"] {
        assert!(
            !direct(member(&metadata, name)).contains("libc"),
            "{name} uses libc: that is for bywash-xsk"
        );
    }
}

#[test]
fn default_members_need_neither_clang_nor_libelf() {
    let metadata = metadata();
    let members = metadata.workspace_default_packages();
    let names: BTreeSet<&str> = members
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let expected: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, expected, "default members");
    let roots: Vec<_> = members.iter().map(|package| &package.id).collect();
    // Their tests too: an embedder who patches something wants to run them.
    let tree = tree(&metadata, &roots, true);
    assert!(
        tree.contains("aya"),
        "the graph is not what this test takes it for: {tree:?}"
    );
    let found: Vec<_> = NATIVE.iter().filter(|name| tree.contains(**name)).collect();
    assert!(found.is_empty(), "default members need {found:?}");
}

#[test]
fn bench_and_tests_use_the_public_api() {
    let metadata = metadata();
    for name in [
        "bywash-bench",
        "bywash-bench-stack",
        "bywash-tests",
        "bywash-xdp-tests",
    ] {
        let direct = direct(member(&metadata, name));
        for inner in ["bywash-wire", "bywash-tcp", "bywash-xsk", "bywash-engine"] {
            assert!(
                !direct.contains(inner),
                "{name} depends on {inner}: use the crate `bywash`"
            );
        }
    }
}

#[test]
fn every_licence_is_one_that_we_accept() {
    let metadata = metadata();
    let mut refused = Vec::new();
    for package in &metadata.packages {
        let text = package.license.as_deref().unwrap_or("none given");
        let acceptable =
            spdx::Expression::parse_mode(text, spdx::ParseMode::LAX).is_ok_and(|expression| {
                expression.evaluate(|licence| {
                    licence
                        .license
                        .id()
                        .is_some_and(|id| LICENCES.contains(&id.name))
                })
            });
        if !acceptable {
            refused.push(format!("{} {}: {text}", package.name, package.version));
        }
    }
    assert!(refused.is_empty(), "licences not in the list: {refused:#?}");
}

#[test]
fn ours_are_mit_or_apache() {
    for package in metadata().workspace_packages() {
        assert_eq!(
            package.license.as_deref(),
            Some("MIT OR Apache-2.0"),
            "{}",
            package.name
        );
        assert_eq!(package.edition.as_str(), "2024", "{}", package.name);
    }
}

/// The attributes by which the compiler itself holds a wall.
#[test]
fn crates_forbid_what_they_must_not_do() {
    let inner = |path: &str, attribute: &str| {
        let text = std::fs::read_to_string(workspace::root().join(path)).expect(path);
        assert!(
            text.lines().any(|line| line.trim() == attribute),
            "{path} lacks {attribute}"
        );
    };
    for path in [
        "stack/sum/src/lib.rs",
        "stack/wire/src/lib.rs",
        "stack/tcp/src/lib.rs",
    ] {
        inner(path, "#![no_std]");
    }
    for path in [
        "stack/wire/src/lib.rs",
        "stack/tcp/src/lib.rs",
        "stack/engine/src/lib.rs",
        "stack/bywash/src/lib.rs",
        "stack/bywash/src/main.rs",
        "xdp-prog/src/lib.rs",
    ] {
        inner(path, "#![forbid(unsafe_code)]");
    }
    // `[lints] workspace = true` brings undocumented_unsafe_blocks and missing_docs to every member.
    let top = std::fs::read_to_string(workspace::root().join("Cargo.toml")).expect("Cargo.toml");
    for lint in [
        "undocumented_unsafe_blocks = \"deny\"",
        "missing_docs = \"warn\"",
    ] {
        assert!(top.contains(lint), "the workspace's lints lack {lint}");
    }
    for package in metadata().workspace_packages() {
        let manifest = std::fs::read_to_string(&package.manifest_path).expect("a manifest");
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{} does not take the workspace's lints",
            package.name
        );
    }
}

/// The compiler's word that wire and tcp need no std, where a target without one is installed.
#[test]
fn wire_and_tcp_build_without_std() {
    const TARGET: &str = "x86_64-unknown-none";
    let sysroot = std::process::Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .expect("rustc");
    let sysroot = String::from_utf8(sysroot.stdout).expect("a path");
    if !Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(TARGET)
        .is_dir()
    {
        // tests/tidy.rs looks at the sources in any case.
        eprintln!("SKIPPED: {TARGET} is not installed: `rustup target add {TARGET}`");
        return;
    }
    let status = std::process::Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--locked",
            "-p",
            "bywash-wire",
            "-p",
            "bywash-tcp",
            "--target",
            TARGET,
        ])
        .current_dir(workspace::root())
        .status()
        .expect("cargo");
    assert!(status.success(), "wire or tcp does not build for {TARGET}");
}
