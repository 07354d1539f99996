//! One engine per device: the directory `/run/bywash/<key>/` and the lock in it.
//!
//! ```text
//! /run/bywash/                    made by the first engine, removed by the last
//!   4026531840-2/                 Device::key(): network namespace and interface index
//!     lock                        flock held for the engine's life; says who holds it
//!     control.sock                see `control`
//!     bpf/                        bpffs with the pinned program; bywash-xdp mounts and unmounts it
//! ```
//!
//! The kernel gives the lock up when its holder dies, however it dies, so a directory whose lock is
//! free belongs to a dead engine and is taken over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::device::Device;

/// Where engines leave what other processes must find. `ip netns exec` keeps `/run`, so one
/// directory serves all network namespaces; keys differ by namespace.
pub const RUN_DIR: &str = "/run/bywash";

/// Name of the lock file in an engine's directory.
pub(super) const LOCK_FILE: &str = "lock";

/// Name of the control socket in an engine's directory.
pub(super) const CONTROL_SOCKET: &str = "control.sock";

/// A directory may vanish under a starting engine when another one ends; then it starts over.
const ATTEMPTS: usize = 20;

/// How long a holder may take from locking the file to writing its name into it, per attempt.
const NAMING_PAUSE: Duration = Duration::from_millis(5);

/// Who holds a device, as the lock file says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Process id, in the holder's own PID namespace.
    pub pid: u32,
    /// Command line, arguments separated by blanks.
    pub command: String,
    /// Start of the engine in seconds since 1970.
    pub started: u64,
    /// Name of the interface when the engine started.
    pub interface: String,
}

impl Owner {
    fn this_process(interface: &str) -> Self {
        Self {
            pid: std::process::id(),
            command: std::env::args_os()
                .map(|word| word.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(" "),
            // A clock before 1970 is set wrongly; the start time is for people only.
            started: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |time| time.as_secs()),
            interface: interface.to_owned(),
        }
    }
}

/// Why an engine cannot have a device to itself.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another engine is on the device.
    #[error("another Bywash is on {interface}: {}; end it first, or use another device", .owner.as_ref().map_or_else(
        || "its lock file does not name it".to_owned(), |owner| format!("pid {} ({})", owner.pid, owner.command)))]
    Busy {
        /// Interface name.
        interface: String,
        /// The other engine; `None` if its lock file cannot be understood.
        owner: Option<Owner>,
    },
    /// No right to write under `/run/bywash`.
    #[error("no right to write {}: {error}; an engine needs root", path.display())]
    NoRights {
        /// What could not be written.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// Something else failed.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory in question.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
}

impl LockError {
    fn new(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NoRights { path, error }
            }
            _ => Self::Io { path, error },
        }
    }
}

/// This process's hold on a device. Dropping it removes the control socket, the lock and the
/// directories that are then empty.
#[derive(Debug)]
pub struct EngineLock {
    file: Flock<File>,
    root: PathBuf,
    directory: PathBuf,
}

impl EngineLock {
    /// Takes the device for this process.
    ///
    /// # Errors
    /// [`LockError::Busy`] names the engine that has it; see there for the others.
    pub fn acquire(device: &Device) -> Result<Self, LockError> {
        Self::acquire_in(Path::new(RUN_DIR), &device.key(), &device.name)
    }

    /// As [`EngineLock::acquire`], under another directory than [`RUN_DIR`].
    ///
    /// # Errors
    /// As [`EngineLock::acquire`].
    pub fn acquire_in(root: &Path, key: &str, interface: &str) -> Result<Self, LockError> {
        let directory = root.join(key);
        let path = directory.join(LOCK_FILE);
        let mut vanished = io::Error::from(Errno::ENOENT);
        for _ in 0..ATTEMPTS {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o755);
            match builder.create(&directory) {
                // An ending engine removed the parent just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    vanished = error;
                    continue;
                }
                other => other.map_err(|error| LockError::new(&directory, error))?,
            }
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path);
            let file = match opened {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    vanished = error;
                    continue;
                }
                other => other.map_err(|error| LockError::new(&path, error))?,
            };
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((file, Errno::EWOULDBLOCK)) => {
                    return Err(LockError::Busy {
                        interface: interface.to_owned(),
                        owner: named_in(file),
                    });
                }
                Err((_, error)) => return Err(LockError::new(&path, error.into())),
            };
            // The last holder may have removed the file between our open and our lock; then what we
            // hold is a file without a name, which keeps nobody out.
            let held = file
                .metadata()
                .map_err(|error| LockError::new(&path, error))?;
            match fs::metadata(&path) {
                Ok(named) if named.ino() == held.ino() && named.dev() == held.dev() => {}
                _ => continue,
            }
            let lock = Self {
                file,
                root: root.to_owned(),
                directory,
            };
            lock.settle_in(interface)?;
            return Ok(lock);
        }
        Err(LockError::new(&path, vanished))
    }

    /// Names this process in the lock file and clears away what a dead engine left.
    fn settle_in(&self, interface: &str) -> Result<(), LockError> {
        let socket = self.directory.join(CONTROL_SOCKET);
        remove(&socket).map_err(|error| LockError::new(&socket, error))?;
        let text = serde_json::to_string(&Owner::this_process(interface)).map_err(io::Error::from);
        let mut file: &File = &self.file;
        text.and_then(|text| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(text.as_bytes())
        })
        .map_err(|error| LockError::new(&self.directory.join(LOCK_FILE), error))
    }

    /// The engine's directory, `/run/bywash/<key>`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for EngineLock {
    fn drop(&mut self) {
        // The lock file goes last and while it is still locked: whoever finds it free may take all.
        for name in [CONTROL_SOCKET, LOCK_FILE] {
            let path = self.directory.join(name);
            if let Err(error) = remove(&path) {
                tracing::warn!("{} stays behind: {error}", path.display());
            }
        }
        for directory in [&self.directory, &self.root] {
            match fs::remove_dir(directory) {
                Ok(()) => {}
                // Another engine's, or a bpffs that its owner still has to unmount.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound
                    ) => {}
                Err(error) => tracing::warn!("{} stays behind: {error}", directory.display()),
            }
        }
    }
}

/// Who holds the engine directory `directory`, as its lock file says; `None` if there is no such
/// file or it does not name its holder. Says nothing about whether that process lives.
///
/// # Errors
/// If the file is there and cannot be read.
pub fn owner(directory: &Path) -> io::Result<Option<Owner>> {
    match fs::read_to_string(directory.join(LOCK_FILE)) {
        Ok(text) => Ok(serde_json::from_str(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the holder's name from a lock file, which it may be about to write.
fn named_in(mut file: File) -> Option<Owner> {
    for _ in 0..ATTEMPTS {
        let mut text = String::new();
        let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
        if let (Ok(_), Ok(owner)) = (read, serde_json::from_str(&text)) {
            return Some(owner);
        }
        std::thread::sleep(NAMING_PAUSE);
    }
    None
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of this test's own, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("bywash-lock-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn the_second_engine_is_told_who_has_the_device() {
        let scratch = Scratch::new("second");
        let root = scratch.0.join("run");
        let first = EngineLock::acquire_in(&root, "1-2", "eth9").unwrap();
        let error = EngineLock::acquire_in(&root, "1-2", "eth9").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("pid {}", std::process::id())) && text.contains("eth9"),
            "{text}"
        );
        assert!(text.contains(&std::env::args().next().unwrap()), "{text}");
        let other = EngineLock::acquire_in(&root, "1-3", "eth8").unwrap();
        drop(first);
        assert!(!root.join("1-2").exists() && root.join("1-3").exists());
        drop(other);
        assert!(!root.exists());
    }

    #[test]
    fn a_dead_engines_directory_is_taken_over_and_cleared() {
        let scratch = Scratch::new("stale");
        let root = scratch.0.join("run");
        let directory = root.join("1-2");
        fs::create_dir_all(&directory).unwrap();
        fs::write(
            directory.join(LOCK_FILE),
            "{ a much longer text than the next holder's name, half writ".repeat(9),
        )
        .unwrap();
        fs::write(directory.join(CONTROL_SOCKET), "").unwrap();
        let lock = EngineLock::acquire_in(&root, "1-2", "eth9").unwrap();
        assert!(!directory.join(CONTROL_SOCKET).exists());
        assert_eq!(owner(&directory).unwrap().unwrap().pid, std::process::id());
        drop(lock);
        assert!(!root.exists());
    }

    #[test]
    fn what_others_keep_in_the_directory_survives() {
        let scratch = Scratch::new("others");
        let root = scratch.0.join("run");
        let lock = EngineLock::acquire_in(&root, "1-2", "eth9").unwrap();
        fs::create_dir(root.join("1-2/bpf")).unwrap();
        drop(lock);
        assert!(root.join("1-2/bpf").exists() && !root.join("1-2").join(LOCK_FILE).exists());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let error = EngineLock::acquire_in(Path::new("/proc/bywash"), "1-2", "eth9").unwrap_err();
        assert!(error.to_string().contains("/proc/bywash"), "{error}");
    }

    #[test]
    fn one_of_many_that_start_at_once_gets_the_device() {
        let scratch = Scratch::new("race");
        let root = scratch.0.join("run");
        for _ in 0..50 {
            let start = std::sync::Barrier::new(4);
            let held = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            EngineLock::acquire_in(&root, "1-2", "eth9")
                        })
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect::<Vec<_>>()
            });
            let holders = held.iter().filter(|lock| lock.is_ok()).count();
            assert_eq!(holders, 1, "{held:?}");
        }
    }
}
