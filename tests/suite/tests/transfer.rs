//! 64 MiB in each direction, against the kernel's TCP and against ourselves, on a clean wire and on one that loses packets.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bywash_link::{Impairment, Link};
use bywash_tests::process::{Finished, Running};
use bywash_tests::{Bed, LIMIT, Shape, bywash, kernel};

const BYTES: usize = 64 << 20;
const PORT: &str = "9000";
/// Ten times what a busy machine takes with 1 % loss.
const TRANSFER_TIME: Duration = Duration::from_secs(240);

/// A folder of this test, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bwt{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0
            .join(name)
            .to_str()
            .expect("a path in UTF-8")
            .to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("WARNING: {} is left behind: {error}", self.0.display());
        }
    }
}

/// A file of noise, and its SHA-256.
fn source(scratch: &Scratch, seed: u64) -> (String, String) {
    let bytes = kernel::noise(seed, BYTES);
    let path = scratch.path("source");
    fs::write(&path, &bytes).expect("room for 64 MiB");
    (path, kernel::sha256(&bytes))
}

fn hash_of(path: &str) -> String {
    kernel::sha256(&fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}")))
}

/// The command's own word on what it moved, which must be the truth.
#[track_caller]
fn says(finished: &Finished, hash: &str) {
    assert!(
        finished.stdout.contains(hash),
        "SHA-256 {hash} is not what it says: {finished:#?}"
    );
    assert!(
        finished.stdout.contains(&BYTES.to_string()),
        "{BYTES} bytes are not what it says: {finished:#?}"
    );
}

fn nothing_but(scratch: &Scratch, names: &[&str]) {
    let mut found: Vec<_> = fs::read_dir(&scratch.0)
        .expect("our folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("a name in UTF-8")
        })
        .collect();
    found.sort();
    assert_eq!(found, names);
}

/// `socat` or `nc` sends, `bywash recv` receives.
fn from_the_kernel(shape: Shape, v6: bool, seed: u64) {
    let (bed, scratch) = (Bed::new(shape), Scratch::new("from-kernel"));
    let (from, hash) = source(&scratch, seed);
    let to = scratch.path("arrived");
    let receiver = bywash::serve(&bed.host, &["recv", &to, "-p", PORT]);
    let host = bed.host.address(v6).to_string();
    let sender = if v6 {
        // -N: shut the sending side down at the end of the file.
        let file = File::open(&from).expect("the source");
        Running::start_with(bed.peer.command("nc").args(["-6", "-N", &host, PORT]), file)
    } else {
        bed.peer.start(
            "socat",
            &[
                "-u",
                &format!("OPEN:{from}"),
                &format!("TCP4:{host}:{PORT}"),
            ],
        )
    };
    sender.wait(TRANSFER_TIME).ok();
    says(&receiver.wait(TRANSFER_TIME).ok(), &hash);
    assert_eq!(hash_of(&to), hash);
    nothing_but(&scratch, &["arrived", "source"]);
    lost_if_asked(&bed, shape);
}

/// `bywash send` sends, `socat` or `nc` receives.
fn to_the_kernel(shape: Shape, v6: bool, seed: u64) {
    let (bed, scratch) = (Bed::new(shape), Scratch::new("to-kernel"));
    let (from, hash) = source(&scratch, seed);
    let to = scratch.path("arrived");
    let receiver = if v6 {
        // The shell only opens the file.
        let command = format!("exec nc -6 -l {PORT} > {to}");
        bed.peer.start("sh", &["-c", &command])
    } else {
        bed.peer.start(
            "socat",
            &[
                "-u",
                &format!("TCP4-LISTEN:{PORT}"),
                &format!("CREATE:{to}"),
            ],
        )
    };
    wait_for_listener(&bed, &receiver);
    let peer = bed.peer.address(v6).to_string();
    says(
        &bywash::run(
            &bed.host,
            &["send", &from, &peer, "-p", PORT],
            TRANSFER_TIME,
        )
        .ok(),
        &hash,
    );
    receiver.wait(LIMIT).ok();
    assert_eq!(hash_of(&to), hash);
    lost_if_asked(&bed, shape);
}

fn wait_for_listener(bed: &Bed, receiver: &Running) {
    let deadline = receiver.started + LIMIT;
    while !bed
        .peer
        .run("ss", &["-Hltn", "sport", "=", PORT])
        .ok()
        .stdout
        .contains(PORT)
    {
        assert!(
            std::time::Instant::now() < deadline,
            "nobody listens: {}",
            receiver.stderr()
        );
    }
}

fn lost_if_asked(bed: &Bed, shape: Shape) {
    if shape.link.is_some() {
        let [forth, back] = bed.passed();
        let lost = forth.fates.lost + back.fates.lost;
        assert!(
            lost > 100,
            "only {lost} packets were lost: this proves nothing"
        );
    }
}

const PLAIN: Shape = Shape {
    queues: 1,
    offloads: false,
    link: None,
};

fn lossy() -> Shape {
    let impairment = Impairment {
        loss: 0.01,
        ..Impairment::default()
    };
    Shape {
        link: Some(Link::both(impairment, 1)),
        ..Shape::default()
    }
}

#[test]
fn from_socat() {
    from_the_kernel(Shape::default(), false, 1);
}

#[test]
fn from_nc_over_ipv6() {
    from_the_kernel(Shape::default(), true, 2);
}

#[test]
fn from_socat_with_loss() {
    from_the_kernel(lossy(), false, 3);
}

#[test]
fn from_socat_without_offloads() {
    from_the_kernel(PLAIN, false, 10);
}

#[test]
fn to_nc_over_ipv6_without_offloads() {
    to_the_kernel(PLAIN, true, 11);
}

#[test]
fn to_socat() {
    to_the_kernel(Shape::default(), false, 4);
}

#[test]
fn to_nc_over_ipv6() {
    to_the_kernel(Shape::default(), true, 5);
}

#[test]
fn to_nc_over_ipv6_with_loss() {
    to_the_kernel(lossy(), true, 6);
}

/// Both ends are ours. `recv` ends after its one connection, and its port is free again.
fn among_ourselves(shape: Shape, seed: u64) {
    let (bed, scratch) = (Bed::new(shape), Scratch::new("ours"));
    let (from, hash) = source(&scratch, seed);
    let to = scratch.path("arrived");
    let receiver = bywash::serve(&bed.peer, &["recv", &to, "-p", PORT]);
    let peer = bed.peer.v4.to_string();
    says(
        &bywash::run(
            &bed.host,
            &["send", &from, &peer, "-p", PORT],
            TRANSFER_TIME,
        )
        .ok(),
        &hash,
    );
    says(&receiver.wait(LIMIT).ok(), &hash);
    assert_eq!(hash_of(&to), hash);
    lost_if_asked(&bed, shape);
}

#[test]
fn among_ourselves_on_a_clean_wire() {
    among_ourselves(Shape::default(), 7);
}

#[test]
fn among_ourselves_with_loss() {
    among_ourselves(lossy(), 8);
}

#[test]
fn an_interrupted_receiver_leaves_no_half_file() {
    let (bed, scratch) = (Bed::new(Shape::default()), Scratch::new("half"));
    let to = scratch.path("arrived");
    let receiver = bywash::serve(&bed.host, &["recv", &to, "-p", PORT]);
    let server = std::net::SocketAddr::new(bed.host.v4.into(), 9000);
    let sender = bed.peer.spawn(move || {
        let mut stream = kernel::connect(server).expect("a connection");
        std::io::Write::write_all(&mut stream, &kernel::noise(9, 1 << 20)).expect("to send");
        // Held open: the file is not complete.
        stream
    });
    let _stream = sender.join().expect("no panic");
    let finished = receiver.end_by(nix::sys::signal::Signal::SIGINT, LIMIT);
    assert_eq!(finished.status.code(), Some(130), "{finished:#?}");
    assert!(!Path::new(&to).exists());
    nothing_but(&scratch, &[]);
}
