//! Every target holds for its committed corpus and for some thousand inputs of a seeded generator, and the corpora stay small.

use std::fs;
use std::path::{Path, PathBuf};

use bywash_fuzz::{TARGETS, target};

fn corpus(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files
}

/// Runs the target; a panic in it says which input it was.
fn run(name: &str, input: &str, bytes: &[u8]) {
    let target = target(name).expect("a target");
    let outcome = std::panic::catch_unwind(|| (target.run)(bytes));
    assert!(outcome.is_ok(), "{name} fails for {input}: {bytes:?}");
}

fn replay(name: &str) {
    let files = corpus(name);
    assert!(files.len() >= 5, "{name}: hardly a corpus");
    for path in files {
        run(
            name,
            &path.display().to_string(),
            &fs::read(&path).expect("an input"),
        );
    }
    // Inputs that no corpus has: a xorshift, the same in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for number in 0..1_000 {
        let len = random() % 400;
        let bytes: Vec<u8> = (0..len).map(|_| random() as u8).collect();
        run(name, &format!("generated input {number}"), &bytes);
    }
}

macro_rules! replays {
    ($($name:ident),+) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })+

        #[test]
        fn every_target_is_replayed_and_every_corpus_is_small() {
            let here = [$(stringify!($name)),+];
            assert_eq!(TARGETS.map(|target| target.name), here);
            for name in here {
                let files = corpus(name);
                let bytes: u64 = files.iter().map(|path| fs::metadata(path).expect("a file").len()).sum();
                assert!(files.len() < 200 && bytes < 300 << 10, "{name}: {} files, {bytes} bytes", files.len());
            }
        }
    };
}

replays!(
    decode,
    options,
    on_segment,
    reassembly,
    scoreboard,
    rings,
    restore,
    memory_port,
    control_socket,
    iperf3
);
