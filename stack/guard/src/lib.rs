//! A tiny process that takes an engine's XDP program off when the engine stands still.
//!
//! ```text
//!  engine (may hang, or be stopped)                guard (forked, sleeps in poll)
//!  +-----------------------------+   heartbeats    +------------------------------------------+
//!  | watchdog thread: every shard| --------------> | none for the limit -> BPF_LINK_DETACH,   |
//!  | has moved since the last?   | <-------------- |                       say so, exit        |
//!  +-----------------------------+    verdict      | end of file: the engine died -> exit      |
//!                                                  +------------------------------------------+
//! ```
//! A stopped engine cannot help itself: its program goes on redirecting packets into rings that
//! nobody reads. Another process has to act, and it must not need the engine for it. Detaching the
//! bpf_link works whoever else holds it or its pin, in any mount namespace.
//!
//! The guard is forked and does not exec, because the library has no file of its own to run. So it
//! keeps to what POSIX allows after the fork of a process with threads (async-signal-safe calls,
//! no allocation), holds no descriptor of the engine beside its own two and standard error, and
//! stands in a session of its own, where a terminal's signals do not reach it. What the process has
//! written to before the fork is shared until it is written again: fork early.
//!
//! Time in which the guard itself did not run (a frozen container, a stopped virtual machine) does
//! not count: it waits in slices, and a slice is one however long it took.

mod child;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Slices that the limit is cut into.
const SLICES: u32 = 8;

/// How long a fresh guard may take to say that it stands: two or three system calls.
const START_MS: i32 = 5000;

/// The shortest limit: an idle shard moves ten times a second.
pub const SHORTEST: Duration = Duration::from_secs(1);

/// What the two say to each other, a byte each.
mod word {
    /// Engine: all shards move.
    pub(crate) const BEAT: u8 = b'b';
    /// Engine: an orderly end; exit without a verdict.
    pub(crate) const GOODBYE: u8 = b'q';
    /// Guard: stands, and has closed everything that is not its own.
    pub(crate) const READY: u8 = b'r';
    /// Guard: has detached the program.
    pub(crate) const DETACHED: u8 = b'd';
    /// Guard: could not; the errno follows as a byte.
    pub(crate) const FAILED: u8 = b'f';
}

/// What happens to the program when the engine's process has died without a goodbye.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDeath {
    /// It stays, and drops what is for the dead engine's ports: peers retransmit and meet the next
    /// engine instead of being reset by the kernel.
    #[default]
    Keep,
    /// It is detached: the kernel has all ports again, and resets the dead engine's peers.
    Detach,
}

/// What a guard watches.
#[derive(Clone, Debug)]
pub struct GuardConfig {
    /// Id of the XDP program's bpf_link.
    pub link: u32,
    /// Detach after this long without a heartbeat, at least [`SHORTEST`]; `None`: never.
    pub limit: Option<Duration>,
    /// What an engine's death means.
    pub on_death: OnDeath,
    /// Names the engine in what the guard writes to standard error, such as `engine 4711 on eth1`.
    pub engine: String,
}

/// Why there is no guard.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The caller's fault.
    #[error(
        "a watchdog limit of {0:?} is shorter than {SHORTEST:?}: an idle engine would not make it"
    )]
    TooShort(Duration),
    /// The link could not be had by its id.
    #[error("the XDP program's link {link} cannot be opened: {source}; it needs CAP_SYS_ADMIN")]
    Link {
        /// The link's id.
        link: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No process or no socket pair.
    #[error(
        "no guard process: {call}: {source}; run without one (watchdog off), or free what is scarce"
    )]
    System {
        /// The call.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The guard began and ended, or is silent.
    #[error("the guard process did not come up (errno {0})")]
    NotUp(i32),
}

/// What a guard has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It watches.
    Watching,
    /// It has detached the program, and is gone.
    Detached,
    /// It tried to, and could not, for this errno; it is gone.
    Failed(i32),
    /// It is gone without a word: somebody killed it. The program is as it was.
    Killed,
}

/// A guard process. Dropping it ends it, and waits for its end.
#[derive(Debug)]
pub struct Guard {
    channel: OwnedFd,
    pid: libc::pid_t,
    reaped: bool,
}

impl Guard {
    /// Forks a guard; returns when it stands.
    ///
    /// # Errors
    /// See [`GuardError`].
    pub fn spawn(config: &GuardConfig) -> Result<Self, GuardError> {
        if let Some(limit) = config.limit.filter(|limit| *limit < SHORTEST) {
            return Err(GuardError::TooShort(limit));
        }
        let link = open_link(config.link).map_err(|source| GuardError::Link {
            link: config.link,
            source,
        })?;
        let slice_ms = config.limit.map_or(-1, |limit| {
            i32::try_from((limit / SLICES).as_millis()).unwrap_or(i32::MAX)
        });
        Self::fork(config, &link, slice_ms)
    }

    fn fork(config: &GuardConfig, link: &OwnedFd, slice_ms: i32) -> Result<Self, GuardError> {
        let (ours, theirs) = socket_pair()?;
        // Everything that needs memory is made before the fork.
        let task = child::Task {
            channel: theirs.as_raw_fd(),
            link: link.as_raw_fd(),
            slice_ms,
            on_death: config.on_death,
            on_hang_text: child::on_hang_text(config),
            on_death_text: child::on_death_text(config),
        };
        // SAFETY: the child runs `Task::run` alone, which makes async-signal-safe calls only and
        // never returns.
        let pid = match unsafe { libc::fork() } {
            -1 => {
                return Err(GuardError::System {
                    call: "fork",
                    source: io::Error::last_os_error(),
                });
            }
            0 => task.run(),
            pid => pid,
        };
        drop(theirs);
        let guard = Self {
            channel: ours,
            pid,
            reaped: false,
        };
        match guard.first_word() {
            [word::READY, _] => Ok(guard),
            [_, errno] => Err(GuardError::NotUp(errno.into())),
        }
    }

    /// Process id, for people who look for it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Says that the engine is well.
    pub fn beat(&self) {
        // A full buffer holds beats that the guard has yet to read; a closed one shows as a verdict.
        self.send(word::BEAT);
    }

    /// What the guard has to say; after anything but [`Verdict::Watching`] it has ended.
    pub fn verdict(&mut self) -> Verdict {
        let mut words = [0; 2];
        let verdict = match self.receive(&mut words) {
            Ok(0) => Verdict::Killed,
            Ok(_) if words[0] == word::DETACHED => Verdict::Detached,
            Ok(_) => Verdict::Failed(words[1].into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Verdict::Watching,
            // Our end of a socket pair has no other errors; with one it is of no use.
            Err(_) => Verdict::Killed,
        };
        self.reap();
        verdict
    }

    fn first_word(&self) -> [u8; 2] {
        let mut words = [word::FAILED, 0];
        let mut wait = libc::pollfd {
            fd: self.channel.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry.
        unsafe { libc::poll(&raw mut wait, 1, START_MS) };
        match self.receive(&mut words) {
            Ok(1..) => words,
            Ok(_) | Err(_) => [word::FAILED, 0],
        }
    }

    fn send(&self, word: u8) {
        let at = (&raw const word).cast();
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: one readable byte.
        unsafe { libc::send(self.channel.as_raw_fd(), at, 1, flags) };
    }

    fn receive(&self, words: &mut [u8; 2]) -> io::Result<usize> {
        let fd = self.channel.as_raw_fd();
        let at = words.as_mut_ptr().cast();
        // SAFETY: two writable bytes.
        let n = unsafe { libc::recv(fd, at, words.len(), libc::MSG_DONTWAIT) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// Waits for the child's end, which is under way, so that no zombie is left.
    fn reap(&mut self) {
        while !self.reaped {
            let mut status = 0;
            // SAFETY: `status` is writable.
            let waited = unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
            // ECHILD: the process waits for all of its children somewhere else, or not at all.
            self.reaped =
                waited >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINTR);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.send(word::GOODBYE);
        // SAFETY: our own descriptor, which stays open. It also ends a guard whose goodbye did not
        // fit into the buffer.
        unsafe { libc::shutdown(self.channel.as_raw_fd(), libc::SHUT_WR) };
        // One that somebody stopped would keep us waiting; it has nothing to lose.
        // SAFETY: a child that was not waited for, so the pid is still its.
        unsafe { libc::kill(self.pid, libc::SIGCONT) };
        self.reap();
    }
}

fn socket_pair() -> Result<(OwnedFd, OwnedFd), GuardError> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } != 0 {
        return Err(GuardError::System {
            call: "socketpair",
            source: io::Error::last_os_error(),
        });
    }
    // SAFETY: the kernel has just given us these, and nobody else has them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// `BPF_LINK_GET_FD_BY_ID`.
fn open_link(id: u32) -> io::Result<OwnedFd> {
    const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
    // The start of `union bpf_attr`; the kernel takes the rest as zero.
    let attr = [id, 0, 0, 0];
    // SAFETY: `attr` is readable for its size.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_GET_FD_BY_ID,
            attr.as_ptr(),
            size_of_val(&attr),
        )
    };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// A guard over something that is no link: detaching it is EINVAL, which shows that it was tried.
    fn guard(slice_ms: i32, on_death: OnDeath) -> Guard {
        let config = GuardConfig {
            link: 0,
            limit: None,
            on_death,
            engine: "engine of a test".to_owned(),
        };
        let link = OwnedFd::from(fs::File::open("/dev/null").expect("/dev/null"));
        Guard::fork(&config, &link, slice_ms).expect("a guard")
    }

    fn process(guard: &Guard) -> PathBuf {
        PathBuf::from(format!("/proc/{}", guard.pid()))
    }

    /// Waits for the guard's word; a test that waits for ever is ended by its runner.
    fn word_of(guard: &mut Guard) -> Verdict {
        loop {
            match guard.verdict() {
                Verdict::Watching => std::thread::yield_now(),
                verdict => return verdict,
            }
        }
    }

    #[test]
    fn it_holds_nothing_but_its_own_and_leaves_nothing() {
        let guard = guard(-1, OnDeath::Keep);
        let process = process(&guard);
        let fds = fs::read_dir(process.join("fd")).expect("a process").count();
        assert_eq!(fds, 3, "standard error, the channel and the link");
        let name = fs::read_to_string(process.join("comm")).expect("a name");
        assert_eq!(name.trim(), "bywash-guard");
        let stat = fs::read_to_string(process.join("stat")).expect("a state");
        let session = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(3));
        assert_eq!(session, Some(guard.pid().to_string().as_str()));
        drop(guard);
        assert!(!process.exists(), "a process or a zombie is left");
    }

    #[test]
    fn silence_is_a_hang() {
        let mut guard = guard(1, OnDeath::Keep);
        assert_eq!(word_of(&mut guard), Verdict::Failed(libc::EINVAL));
        assert!(!process(&guard).exists());
    }

    #[test]
    fn beats_are_no_hang_and_death_is_silent_unless_asked_for() {
        for (on_death, verdict) in [
            (OnDeath::Keep, Verdict::Killed),
            (OnDeath::Detach, Verdict::Failed(libc::EINVAL)),
        ] {
            let mut guard = guard(-1, on_death);
            for _ in 0..1000 {
                guard.beat();
            }
            assert_eq!(guard.verdict(), Verdict::Watching);
            // What the kernel does when the engine dies.
            // SAFETY: a descriptor of ours.
            unsafe { libc::shutdown(guard.channel.as_raw_fd(), libc::SHUT_WR) };
            assert_eq!(word_of(&mut guard), verdict, "{on_death:?}");
        }
    }

    #[test]
    fn a_killed_guard_is_noticed() {
        let mut guard = guard(-1, OnDeath::Keep);
        guard.beat();
        // SAFETY: a child of ours.
        unsafe { libc::kill(guard.pid, libc::SIGKILL) };
        assert_eq!(word_of(&mut guard), Verdict::Killed);
    }

    #[test]
    fn signals_to_end_are_not_for_it() {
        let mut guard = guard(-1, OnDeath::Keep);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: a child of ours.
            unsafe { libc::kill(guard.pid, signal) };
        }
        guard.beat();
        assert_eq!(guard.verdict(), Verdict::Watching);
        assert!(process(&guard).exists());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let config = GuardConfig {
            link: u32::MAX,
            limit: Some(Duration::from_millis(999)),
            on_death: OnDeath::Keep,
            engine: String::new(),
        };
        let error = Guard::spawn(&config).expect_err("too short");
        assert!(matches!(error, GuardError::TooShort(_)), "{error}");
        let config = GuardConfig {
            limit: Some(SHORTEST),
            ..config
        };
        let error = Guard::spawn(&config).expect_err("no such link");
        assert!(matches!(error, GuardError::Link { .. }), "{error}");
    }
}
