//! lwIP as the other end: a third TCP, in a program of its own (`lwip.c`) that is compiled here against Debian's `liblwip-dev`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use bywash_tests::process::Running;
use bywash_tests::{Bed, LIMIT};

use crate::exchange::CELL_TIME;

/// Where it listens.
pub(crate) const PORT: u16 = 7001;

/// Its address of one family.
pub(crate) fn address(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 4).into()
    } else {
        Ipv4Addr::new(10, 88, 0, 4).into()
    }
}

/// A directory of this test's own, and in it the program.
pub(crate) struct Program {
    directory: PathBuf,
}

/// A connection's worth of lwIP.
pub(crate) struct Talk {
    running: Running,
    out: PathBuf,
}

impl Program {
    /// Compiles it.
    #[track_caller]
    pub(crate) fn compile() -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("lwip-{}-{serial}", std::process::id());
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&directory).expect("a place for the program");
        let program = Self { directory };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/live/lwip.c");
        let mut compiler = Command::new("cc");
        compiler
            .args([
                "-O1",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-isystem",
                "/usr/include/lwip",
            ])
            .args([source, "-llwip", "-lpthread", "-o"])
            .arg(program.path());
        // What is missing, if it is: `apt-get install liblwip-dev`, or ./tests/run.sh, which does it.
        Running::start(&mut compiler).wait(LIMIT).ok();
        program
    }

    fn path(&self) -> PathBuf {
        self.directory.join("lwip-peer")
    }

    /// Waits for one connection to [`PORT`], and sends `bytes` over it.
    #[track_caller]
    pub(crate) fn listen(&self, bed: &Bed, bytes: &[u8]) -> Talk {
        let mut talk = self.start(bed, bytes, &["listen".to_owned(), PORT.to_string()]);
        talk.running.line(LIMIT, |line| line == "listening");
        talk
    }

    /// Connects to `server`, and sends `bytes`.
    #[track_caller]
    pub(crate) fn connect(&self, bed: &Bed, server: SocketAddr, bytes: &[u8]) -> Talk {
        let words = [
            "connect".to_owned(),
            server.ip().to_string(),
            server.port().to_string(),
        ];
        self.start(bed, bytes, &words)
    }

    #[track_caller]
    fn start(&self, bed: &Bed, bytes: &[u8], words: &[String]) -> Talk {
        let (back, out) = (self.directory.join("in"), self.directory.join("out"));
        std::fs::write(&back, bytes).expect("room for what it sends");
        let mut command = bed.peer.command(self.path());
        command
            .arg(&bed.peer.device)
            .args([address(false), address(true)].map(|one| one.to_string()))
            .args([&back, &out])
            .args(words);
        Talk {
            running: Running::start(&mut command),
            out,
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            eprintln!(
                "WARNING: {} is left behind: {error}",
                self.directory.display()
            );
        }
    }
}

impl Talk {
    /// What has come, after an end in order.
    #[track_caller]
    pub(crate) fn end(self) -> Vec<u8> {
        self.running.wait(CELL_TIME).ok();
        std::fs::read(&self.out).expect("what it has received")
    }
}
