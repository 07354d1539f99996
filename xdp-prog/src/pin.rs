//! Where link and maps outlive the process: a bpffs of the engine's own, in the host's mount namespace.
//!
//! ```text
//! /run/bywash/<key>/owner    regular file: pid, ABI version, mode; locked by flock while the engine lives
//! /run/bywash/<key>/bpf/     bpffs: link, flows, ports, ... xsks
//! ```
//!
//! `ip netns exec` gives every command a mount namespace and a /sys of its own: a pin in /sys/fs/bpf there is gone when the command
//! ends, and no other process ever sees it. So every path operation here runs in a thread that has joined the mount namespace of
//! pid 1. Where that is refused (pid 1 has rights that we lack), that of the oldest ancestor which lets us takes its place: whoever
//! called `ip netns exec` is one. [`Scope`] says which it became.
//!
//! A lock, unlike a pid in a file, ends with its process, also by SIGKILL, and cannot be mistaken for that of a later process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use aya::programs::links::{FdLink, PinnedLink};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::error::PinError;

/// Everything of Bywash that has a path while it runs is below this directory.
pub const RUN_DIRECTORY: &str = "/run/bywash";

/// Name of the link's pin; the maps' pins have the maps' names.
pub(crate) const LINK_PIN: &str = "link";

/// Attempts to make a directory that another engine's clean end may be removing at the same moment.
const MAKE_ATTEMPTS: u32 = 16;

/// Path of the engine's bpffs, `/run/bywash/<key>/bpf`. The key tells engines on one host apart: network namespace and interface,
/// as [`key`] makes it.
pub fn directory(key: &str) -> PathBuf {
    Path::new(RUN_DIRECTORY).join(key).join("bpf")
}

/// The key of an interface in this thread's network namespace: `<inode of the namespace>-<ifindex>`.
pub fn key(ifindex: u32) -> io::Result<String> {
    let namespace = fs::metadata("/proc/thread-self/ns/net")?;
    Ok(format!("{}-{ifindex}", namespace.ino()))
}

/// Whose mount namespace holds the engine's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// That of pid 1: every process of the host sees the pins.
    Host,
    /// That of the oldest ancestor that could be joined: the pins outlive this process, and engines started from the same place see
    /// them.
    Ancestor {
        /// The ancestor.
        pid: u32,
    },
    /// That of this process, for the reason given: other engines are noticed only by the program on the interface, and a dead
    /// engine's link cannot be taken over from another mount namespace.
    Process {
        /// Why the host's could not be joined.
        reason: String,
    },
}

/// Runs `work` in a thread of its own inside the mount namespace that [`Scope`] names.
///
/// A thread shares its root and working directory with the process, and the kernel lets only a thread that does not change its
/// mount namespace: hence CLONE_FS, which also keeps the change from every other thread.
pub(crate) fn in_host_mounts<T: Send>(work: impl FnOnce(Scope) -> T + Send) -> T {
    thread::scope(|threads| {
        let thread = threads.spawn(|| work(join_host()));
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Which mount namespace the pins of an engine started by this process would go into.
pub fn scope() -> Scope {
    in_host_mounts(|scope| scope)
}

fn join_host() -> Scope {
    let refused = match join(1) {
        Ok(()) => return Scope::Host,
        Err(error) => error,
    };
    for pid in ancestors().into_iter().rev().filter(|pid| *pid != 1) {
        if join(pid).is_ok() {
            return Scope::Ancestor { pid };
        }
    }
    Scope::Process {
        reason: format!("joining the mount namespace of pid 1: {refused}"),
    }
}

fn join(pid: u32) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
    unshare(CloneFlags::CLONE_FS)?;
    setns(namespace, CloneFlags::CLONE_NEWNS)?;
    Ok(())
}

/// This process's parent, its parent, and so on, as far as `/proc` tells.
fn ancestors() -> Vec<u32> {
    let mut chain = Vec::new();
    let mut next = Some(std::os::unix::process::parent_id());
    while let Some(pid) = next.filter(|pid| *pid > 0 && !chain.contains(pid)) {
        chain.push(pid);
        next = fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()
            .and_then(|stat| parent_in(&stat));
    }
    chain
}

/// The fourth field of `/proc/<pid>/stat`; the second is a name in parentheses that may contain anything.
fn parent_in(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

/// The engine's directory, locked, with its bpffs mounted. All methods belong into [`in_host_mounts`].
#[derive(Debug)]
pub(crate) struct PinDir {
    bpffs: PathBuf,
    owner: Flock<File>,
}

/// Why [`PinDir::open`] gave none.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// A live engine holds the lock; what it wrote about itself.
    Owned(String),
    Pin(PinError),
}

impl From<PinError> for OpenError {
    fn from(error: PinError) -> Self {
        OpenError::Pin(error)
    }
}

impl PinDir {
    /// Makes and locks the directory, and mounts the bpffs unless a dead engine left one.
    pub(crate) fn open(bpffs: &Path) -> Result<Self, OpenError> {
        let owner = lock_owner(bpffs)?;
        let this = Self {
            bpffs: bpffs.to_owned(),
            owner,
        };
        match this.mount() {
            Ok(()) => Ok(this),
            Err(error) => {
                // The mount's error is the one to report; what remove() meets follows from it.
                let _ = this.remove();
                Err(error.into())
            }
        }
    }

    fn mount(&self) -> Result<(), PinError> {
        fs::create_dir_all(&self.bpffs).map_err(pin_error("create", &self.bpffs))?;
        if is_bpffs(&self.bpffs)? {
            return Ok(());
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(
            Some("bpf"),
            &self.bpffs,
            Some("bpf"),
            flags,
            Some("mode=0700"),
        )
        .map_err(|errno| pin_error("mount bpffs on", &self.bpffs)(errno.into()))
    }

    /// Path of a pin.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.bpffs.join(name)
    }

    /// Whether a pin of this name exists.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Removes a pin; none is fine.
    pub(crate) fn unpin(&self, name: &str) -> Result<(), PinError> {
        let path = self.path(name);
        absent_is_fine(fs::remove_file(&path)).map_err(pin_error("remove the pin", &path))
    }

    /// Writes what the next engine, or a person, should know about this one.
    pub(crate) fn describe(&mut self, text: &str) -> Result<(), PinError> {
        let path = owner_path(&self.bpffs);
        rewrite(&mut self.owner, text).map_err(pin_error("write", &path))
    }

    /// Unpins everything, unmounts, and removes the directories as far as they are empty. Goes on after an error and returns the
    /// first.
    pub(crate) fn remove(self) -> Result<(), PinError> {
        let mut first: Result<(), PinError> = Ok(());
        let mut note = |result: Result<(), PinError>| {
            if first.is_ok() {
                first = result;
            }
        };
        note(self.empty());
        // More than one if engines of this and another mount namespace met.
        while is_bpffs(&self.bpffs).is_ok_and(|mounted| mounted) {
            let unmounted = umount2(&self.bpffs, MntFlags::MNT_DETACH);
            let failed = unmounted.is_err();
            note(unmounted.map_err(|errno| pin_error("unmount", &self.bpffs)(errno.into())));
            if failed {
                break;
            }
        }
        note(remove_directory(&self.bpffs));
        let owner = owner_path(&self.bpffs);
        // While still locked: an engine that waits for the path finds a new file.
        note(absent_is_fine(fs::remove_file(&owner)).map_err(pin_error("remove", &owner)));
        drop(self.owner);
        if let Some(directory) = self.bpffs.parent() {
            note(remove_directory(directory));
        }
        note(remove_directory(Path::new(RUN_DIRECTORY)));
        first
    }

    fn empty(&self) -> Result<(), PinError> {
        if !is_bpffs(&self.bpffs)? {
            return Ok(());
        }
        let pins = fs::read_dir(&self.bpffs).map_err(pin_error("list", &self.bpffs))?;
        for pin in pins {
            let pin = pin.map_err(pin_error("list", &self.bpffs))?;
            // The kernel puts files of its own (maps.debug, progs.debug) into every bpffs, and reserves the dot for such.
            if pin.file_name().as_encoded_bytes().contains(&b'.') {
                continue;
            }
            let path = pin.path();
            // Not ours either: iproute2 makes directories in the first bpffs that it finds. They end with the mount.
            if pin.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            absent_is_fine(fs::remove_file(&path)).map_err(pin_error("remove the pin", &path))?;
        }
        Ok(())
    }
}

/// Removes what engines have left that were killed and whose interface has gone since: nobody takes those over. Not to be done is
/// no error: the next start tries again.
pub(crate) fn sweep(ours: &Path) {
    let Some(directories) = ours
        .parent()
        .and_then(Path::parent)
        .and_then(|root| fs::read_dir(root).ok())
    else {
        return;
    };
    for directory in directories.flatten() {
        let bpffs = directory.path().join("bpf");
        // The interface first: where there is one, a successor may be about to take the lock.
        if bpffs == ours
            || !owner_path(&bpffs).exists()
            || !lost_its_interface(&bpffs.join(LINK_PIN))
        {
            continue;
        }
        // Locked: a live engine's.
        if let Ok(owner) = lock_owner(&bpffs)
            && (PinDir { bpffs, owner }).remove().is_ok()
        {
            let _absent_by_now = fs::remove_dir_all(directory.path());
        }
    }
}

/// Whether the pinned link's interface has gone. The kernel tells in the link's fdinfo (net/core/dev.c,
/// `bpf_xdp_link_show_fdinfo`): index 0. A pin that cannot be seen from here may well have its interface.
fn lost_its_interface(pin: &Path) -> bool {
    let Ok(link) = PinnedLink::from_pin(pin) else {
        return false;
    };
    let link = FdLink::from(link);
    let Ok(id) = link.info().map(|info| info.id()) else {
        return false;
    };
    let Ok(descriptors) = fs::read_dir("/proc/self/fdinfo") else {
        return false;
    };
    let field = |text: &str, name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok())
    };
    descriptors
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .any(|text| field(&text, "link_id:") == Some(id) && field(&text, "ifindex:") == Some(0))
}

/// `/run/bywash/<key>/owner` for `/run/bywash/<key>/bpf`.
fn owner_path(bpffs: &Path) -> PathBuf {
    bpffs.with_file_name("owner")
}

fn lock_owner(bpffs: &Path) -> Result<Flock<File>, OpenError> {
    let path = owner_path(bpffs);
    let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
    let mut last = io::Error::from(Errno::ENOENT);
    for _ in 0..MAKE_ATTEMPTS {
        fs::create_dir_all(&directory).map_err(pin_error("create", &directory))?;
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let file = match opened {
            Ok(file) => file,
            // Between our mkdir and this open another engine's end removed the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                last = error;
                continue;
            }
            Err(error) => return Err(pin_error("open", &path)(error).into()),
        };
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                file.read_to_string(&mut text)
                    .map_err(pin_error("read", &path))?;
                let text = text.trim().replace('\n', ", ");
                return Err(OpenError::Owned(text));
            }
            Err((_, errno)) => return Err(pin_error("lock", &path)(errno.into()).into()),
        };
        // The file we locked may have been removed by its owner's end in the meantime.
        let ours = lock.metadata().map_err(pin_error("examine", &path))?.ino();
        match fs::metadata(&path) {
            Ok(now) if now.ino() == ours => return Ok(lock),
            Ok(_) => {}
            Err(error) => last = error,
        }
    }
    Err(pin_error("create", &path)(last).into())
}

fn rewrite(file: &mut File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

fn is_bpffs(path: &Path) -> Result<bool, PinError> {
    match statfs(path) {
        Ok(found) => Ok(found.filesystem_type() == BPF_FS_MAGIC),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(pin_error("examine", path)(errno.into())),
    }
}

/// Removes a directory if it is empty; what others keep in it stays.
fn remove_directory(path: &Path) -> Result<(), PinError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        result => absent_is_fine(result).map_err(pin_error("remove", path)),
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

pub(crate) fn pin_error(step: &'static str, path: &Path) -> impl Fn(io::Error) -> PinError {
    let path = path.to_owned();
    move |source| PinError {
        step,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_hide_the_parent() {
        assert_eq!(parent_in("77 (a) b (c)) S 42 77 77 0"), Some(42));
        assert_eq!(parent_in("77 (cut off"), None);
    }

    #[test]
    fn the_chain_begins_with_the_parent() {
        assert_eq!(
            ancestors().first(),
            Some(&std::os::unix::process::parent_id())
        );
    }
}
