//! What the loader's tests attach to, and a process like an engine.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use bywash_xdp::{AttachConfig, Mode, Settings, pin};

use crate::namespace::{self, ip};

/// The veth pair `bwd0`, `bwd1`.
pub struct Link {
    /// Index of `bwd0`.
    pub ifindex: u32,
}

impl Link {
    /// A new network namespace for this thread, with a veth of one queue.
    pub fn new() -> Result<Self> {
        Self::with_queues(1)
    }

    /// The same with more queues.
    pub fn with_queues(queues: u32) -> Result<Self> {
        namespace::enter();
        let ifindex = namespace::veth("bwd0", "bwd1", queues)?;
        Ok(Self { ifindex })
    }

    /// What to attach with: one queue with a shard.
    pub fn config(&self, mode: Mode) -> AttachConfig {
        AttachConfig {
            interface: "bwd0".into(),
            ifindex: self.ifindex,
            pin_dir: self.pin_dir(),
            queues: 1,
            mode,
            settings: Settings::default(),
        }
    }

    /// Where the pins belong.
    pub fn pin_dir(&self) -> PathBuf {
        pin::directory(&pin::key(self.ifindex).expect("a key"))
    }

    fn shown(&self) -> Result<String> {
        ip(&["-details", "link", "show", "dev", "bwd0"])
    }

    /// Id of the program that `ip link` shows.
    pub fn program(&self) -> Result<Option<u32>> {
        let shown = self.shown()?;
        let Some((_, behind)) = shown.split_once("prog/xdp id ") else {
            return Ok(None);
        };
        let id = behind.split_whitespace().next().context("an id")?;
        Ok(Some(id.parse()?))
    }

    /// Checks that a clean end has been one.
    ///
    /// # Panics
    /// If a program, a pin, a mount or a directory is left.
    #[track_caller]
    pub fn nothing_left(&self) {
        let shown = self.shown().expect("ip link");
        assert!(!shown.contains("xdp"), "{shown}");
        let directory = self.pin_dir();
        let engine = directory.parent().expect("a parent");
        assert!(!on_host(engine), "{} is left", engine.display());
        let mounts = namespace::mounts_below(&engine.display().to_string()).expect("mounts");
        assert!(mounts.is_empty(), "{mounts:?}");
    }
}

/// The path as the loader sees it when it pins.
pub fn in_pins_namespace(path: &Path) -> PathBuf {
    namespace::pins_root().join(path.strip_prefix("/").expect("an absolute path"))
}

/// Whether the path exists there.
pub fn on_host(path: &Path) -> bool {
    in_pins_namespace(path).exists()
}

/// A process like an engine that has attached.
pub struct Holder {
    /// Its process.
    pub child: Child,
}

impl Holder {
    /// Starts `hold`, whose path the test knows, in this thread's namespace; returns once it has attached.
    pub fn start(hold: &str, arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(hold)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        ensure!(
            line.starts_with("ready "),
            "it said {line:?}, and ended with {:?}",
            child.wait()
        );
        Ok(Self { child })
    }

    /// SIGKILL: nothing in the process runs after it.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// A clean end.
    pub fn finish(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Already gone unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
