//! `tests/zero-copy.sh` as a command: what it refuses, and that packages which are not to be had are told and never passed over.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// An empty folder for one test.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{path:?}: {error}"),
        _ => std::fs::create_dir_all(&path).expect("a folder"),
    }
    path
}

/// Nothing is cached, and where the packages should come from nobody answers: port 9 of the loopback.
fn cut_off(command: &mut Command, cache: &Path) -> Output {
    command
        .current_dir(root())
        .env("XDG_CACHE_HOME", cache)
        .env("BYWASH_DEBIAN_MIRROR", "http://127.0.0.1:9/debian")
        .output()
        .expect("bash")
}

const SKIPPED: &str =
    "SKIPPED: zero copy in a VM: no package lists from http://127.0.0.1:9/debian: ";

#[test]
fn without_packages_it_is_skipped_with_the_reason_in_its_last_line() {
    let cache = folder("cut-off");
    let done = cut_off(Command::new("./tests/zero-copy.sh").arg("--short"), &cache);
    let text = String::from_utf8(done.stdout).expect("text");
    let last = text.lines().last().unwrap_or_default();
    assert_eq!(done.status.code(), Some(77), "{text}");
    let reason = last.strip_prefix(SKIPPED).expect(last);
    assert!(reason.contains("127.0.0.1"), "{reason}");
}

/// The function of `tests/run.sh` itself, and what it leaves for the summary.
#[test]
fn the_whole_run_tells_of_it_in_its_summary() {
    let cache = folder("summary");
    let script = r#"
        set -euo pipefail
        notes=()
        scratch=$XDG_CACHE_HOME
        eval "$(sed -n '/^zero_copy()/,/^}/p' tests/run.sh)"
        zero_copy >/dev/null
        printf 'note: %s\n' "${notes[@]}"
    "#;
    let done = cut_off(Command::new("bash").args(["-c", script]), &cache);
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{done:?}");
    assert!(text.starts_with(&format!("note: {SKIPPED}")), "{text}");
    let run = std::fs::read_to_string(root().join("tests/run.sh")).expect("tests/run.sh");
    let (_, summary) = run.split_once("section \"summary\"").expect("a summary");
    assert!(summary.contains("for note in \"${notes[@]}\"; do\n    echo \"$note\""));
}

#[test]
fn what_it_does_not_know_is_refused() {
    for line in [
        "--nonsense",
        "--short --kernel 6.1",
        "--short --table",
        "--kernel 5.10",
        "--device igb --kernel 6.12",
        "--table --kernel 6.12",
        "--kernel",
    ] {
        let done = cut_off(
            Command::new("./tests/zero-copy.sh").args(line.split(' ')),
            &folder("usage"),
        );
        let text = String::from_utf8_lossy(&done.stdout);
        assert_eq!(done.status.code(), Some(2), "{line}: {text}");
        assert!(text.contains("--kernel"), "{line}: {text}");
    }
}
