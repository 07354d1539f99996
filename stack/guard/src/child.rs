//! What runs in the guard's process: system calls on what was made before the fork, and nothing else.

use core::ffi::{c_int, c_uint};

use crate::{GuardConfig, OnDeath, SLICES, word};

/// Everything that the child needs.
pub(crate) struct Task {
    pub(crate) channel: c_int,
    pub(crate) link: c_int,
    /// Milliseconds of a slice; -1: for ever.
    pub(crate) slice_ms: c_int,
    pub(crate) on_death: OnDeath,
    pub(crate) on_hang_text: Vec<u8>,
    pub(crate) on_death_text: Vec<u8>,
}

pub(crate) fn on_hang_text(config: &GuardConfig) -> Vec<u8> {
    let seconds = config.limit.map_or(0.0, |limit| limit.as_secs_f64());
    let engine = &config.engine;
    format!(
        "bywash guard: the {engine} has stood still for {seconds} s: its XDP program is detached, the kernel answers for its ports\n"
    )
    .into_bytes()
}

pub(crate) fn on_death_text(config: &GuardConfig) -> Vec<u8> {
    let engine = &config.engine;
    format!(
        "bywash guard: the {engine} has died: its XDP program is detached, as it was asked for\n"
    )
    .into_bytes()
}

/// Why the watch is over.
enum End {
    Goodbye,
    Death,
    Hang,
}

impl Task {
    /// The guard's life.
    pub(crate) fn run(&self) -> ! {
        if let Err(errno) = self.settle() {
            self.say([word::FAILED, errno]);
            exit(1);
        }
        self.say([word::READY, 0]);
        match self.watch() {
            End::Goodbye => {}
            End::Death if self.on_death == OnDeath::Keep => {}
            End::Death => self.detach(&self.on_death_text),
            End::Hang => self.detach(&self.on_hang_text),
        }
        exit(0)
    }

    /// Away from the engine: its session, its directory, its descriptors.
    fn settle(&self) -> Result<(), u8> {
        // SAFETY: constants and C strings. A child that was just forked leads no group, so setsid
        // cannot fail; the name and the directory are for people only.
        unsafe {
            libc::setsid();
            libc::prctl(libc::PR_SET_NAME, c"bywash-guard".as_ptr());
            libc::chdir(c"/".as_ptr());
            // A service manager asks all processes of a service to end: the guard ends with the
            // engine. And what it says may have no reader.
            for signal in [
                libc::SIGINT,
                libc::SIGTERM,
                libc::SIGHUP,
                libc::SIGQUIT,
                libc::SIGPIPE,
            ] {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
        let mut keep = [libc::STDERR_FILENO, self.channel, self.link];
        keep.sort_unstable();
        let mut first: c_uint = 0;
        for fd in keep {
            let fd = fd.unsigned_abs();
            if fd > first {
                close_range(first, fd - 1)?;
            }
            first = first.max(fd + 1);
        }
        close_range(first, c_uint::MAX)
    }

    fn watch(&self) -> End {
        let mut missed = 0;
        loop {
            let mut wait = libc::pollfd {
                fd: self.channel,
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one entry.
            match unsafe { libc::poll(&raw mut wait, 1, self.slice_ms) } {
                0 => missed += 1,
                1.. => match self.hear() {
                    Some(end) => return end,
                    None => missed = 0,
                },
                // EINTR is the only error that there can be.
                _ => {}
            }
            if missed >= SLICES {
                return End::Hang;
            }
        }
    }

    /// Everything that the engine has said; a beat is no end.
    fn hear(&self) -> Option<End> {
        loop {
            let mut word = 0u8;
            // SAFETY: one writable byte.
            let n =
                unsafe { libc::recv(self.channel, (&raw mut word).cast(), 1, libc::MSG_DONTWAIT) };
            match n {
                0 => return Some(End::Death),
                1.. if word == word::GOODBYE => return Some(End::Goodbye),
                1.. => {}
                _ => return None,
            }
        }
    }

    /// Takes the program off the device, whoever holds the link, and tells both sides.
    fn detach(&self, text: &[u8]) {
        const BPF_LINK_DETACH: libc::c_long = 34;
        // The start of `union bpf_attr`; the kernel takes the rest as zero.
        let attr = [self.link, 0, 0, 0];
        // SAFETY: `attr` is readable for its size.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_LINK_DETACH,
                attr.as_ptr(),
                size_of_val(&attr),
            )
        };
        if done == 0 {
            // SAFETY: `text` is readable for its length. If nobody reads standard error, nobody is told.
            unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
            self.say([word::DETACHED, 0]);
        } else {
            self.say([word::FAILED, errno()]);
        }
    }

    fn say(&self, words: [u8; 2]) {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: two readable bytes. An engine that is gone does not hear it.
        unsafe { libc::send(self.channel, words.as_ptr().cast(), words.len(), flags) };
    }
}

fn close_range(first: c_uint, last: c_uint) -> Result<(), u8> {
    // SAFETY: descriptors of this process, none of which Rust code uses from here on.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(errno()),
    }
}

/// The last error; those of Linux fit a byte.
fn errno() -> u8 {
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    u8::try_from(errno).unwrap_or(u8::MAX)
}

fn exit(status: c_int) -> ! {
    // SAFETY: ends the process without the handlers that belong to the engine.
    unsafe { libc::_exit(status) }
}
