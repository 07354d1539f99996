//! Every script of the collection, over every family that it is for.

use std::path::{Path, PathBuf};

use bywash_scripts::run::{Family, Options, play};

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the collection") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|end| end == "pkt") {
            files.push(path);
        }
    }
}

fn play_all(family: Family) {
    let mut files = Vec::new();
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("pkt"),
        &mut files,
    );
    files.sort();
    assert!(
        files.len() >= 30,
        "the collection is {} scripts",
        files.len()
    );
    let options = Options {
        family,
        ..Options::default()
    };
    let mut failed = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).expect("a script");
        // A script that names its family is for no other.
        if text.contains("--ip_version") && family != Family::V4 {
            continue;
        }
        if let Err(failure) = play(&text, &options) {
            failed.push(format!("{}: {failure}", file.display()));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn the_collection_over_ipv4() {
    play_all(Family::V4);
}

#[test]
fn the_collection_over_ipv6() {
    play_all(Family::V6);
}

#[test]
fn the_collection_over_ipv4_through_ipv6_sockets() {
    play_all(Family::Mapped);
}

/// Each of these is a script that passes with one thing changed: a player that sees nothing would pass it too.
#[test]
fn a_script_that_is_wrong_fails() {
    let right = "\
        0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n\
        +0 bind(3, ..., ...) = 0\n\
        +0 listen(3, 1) = 0\n\
        +.1 < S 0:0(0) win 2000 <mss 1000>\n\
        +0 > S. 0:0(0) ack 1 win 65535 <mss 1460>\n\
        +.1 < . 1:1(0) ack 1 win 2000\n\
        +0 accept(3, ..., ...) = 4\n\
        +0 write(4, ..., 100) = 100\n\
        +0 > P. 1:101(100) ack 1\n\
        +0 %{ assert tcpi_snd_mss == 1000 }%\n";
    assert_eq!(play(right, &Options::default()), Ok(()));
    for (from, to) in [
        ("mss 1460>", "mss 1459>"),
        ("win 65535", "win 65534"),
        ("> S.", "> S"),
        ("1:101(100)", "1:100(99)"),
        ("+0 > P.", "+.1 > P."),
        ("> P.", "> ."),
        ("> P. 1:101(100) ack 1", "> P. 1:101(100) ack 2"),
        ("write(4, ..., 100) = 100", "write(4, ..., 100) = 99"),
        ("listen(3, 1) = 0", "listen(3, 1) = -1 EINVAL (no)"),
        ("== 1000", "== 1001"),
    ] {
        assert!(right.contains(from), "{from}");
        let wrong = right.replace(from, to);
        let result = play(&wrong, &Options::default());
        assert!(result.is_err(), "{to:?} instead of {from:?} passes");
    }
}
