//! Ending another thread's sleep, with a system call only if it does sleep.
//!
//! ```text
//! waker                         sleeper
//! notified = true               sleeping = true
//! if sleeping: write(eventfd)   if !notified: ppoll(.., eventfd)
//! ```
//! All four accesses are sequentially consistent, so at least one side sees the other's store: either the sleeper does not
//! sleep, or the waker writes.

use core::sync::atomic::{AtomicBool, Ordering};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::error::XskError;

/// Ends the [`crate::Port::wait`] of the port that it came from: the current one, or else the next.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    notified: AtomicBool,
    sleeping: AtomicBool,
    /// `None`: the port never sleeps.
    eventfd: Option<OwnedFd>,
}

impl Waker {
    /// A waker with an eventfd to sleep on.
    pub(crate) fn new() -> Result<Self, XskError> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(XskError::last("eventfd"));
        }
        // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self::with(Some(fd)))
    }

    /// A waker for a port that never sleeps.
    pub(crate) fn without_sleep() -> Self {
        Self::with(None)
    }

    fn with(eventfd: Option<OwnedFd>) -> Self {
        let shared = Shared {
            notified: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            eventfd,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Wakes the port's thread, from any thread.
    pub fn wake(&self) {
        self.shared.notified.store(true, Ordering::SeqCst);
        if self.shared.sleeping.load(Ordering::SeqCst)
            && let Some(fd) = &self.shared.eventfd
        {
            let one = 1u64.to_ne_bytes();
            // SAFETY: eight readable bytes. The one possible error, EAGAIN for a counter at its end, means that the
            // sleeper has been woken already.
            unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }

    /// Announces a sleep; `false`: do not sleep, somebody has called.
    pub(crate) fn begin_sleep(&self) -> bool {
        self.shared.sleeping.store(true, Ordering::SeqCst);
        let sleep = !self.shared.notified.load(Ordering::SeqCst);
        if !sleep {
            self.end_sleep();
        }
        sleep
    }

    /// Takes the announcement back, and every call so far with it. What a caller did before its call is visible
    /// afterwards: the swap reads the caller's store, or leaves a later one standing.
    pub(crate) fn end_sleep(&self) {
        self.shared.sleeping.store(false, Ordering::SeqCst);
        self.shared.notified.swap(false, Ordering::SeqCst);
        if let Some(fd) = &self.shared.eventfd {
            let mut count = [0u8; 8];
            // SAFETY: eight writable bytes. EAGAIN means that nobody wrote.
            unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        }
    }

    /// What to poll for input while asleep.
    pub(crate) fn raw_fd(&self) -> Option<RawFd> {
        self.shared.eventfd.as_ref().map(AsRawFd::as_raw_fd)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::thread;

    use super::*;

    /// What a port's `wait` does, with no other reason to end.
    fn sleep(waker: &Waker) {
        if waker.begin_sleep() {
            let fd = waker.raw_fd().expect("it sleeps on something");
            let mut entry = libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one entry.
            let ready = unsafe { libc::poll(&mut entry, 1, 10_000) };
            assert_eq!(ready, 1, "a call was lost");
            waker.end_sleep();
        }
    }

    /// Ball games between two sleepers: a lost call leaves both asleep.
    #[test]
    fn no_call_is_lost() {
        const ROUNDS: u32 = 20_000;
        let (ping, pong) = (
            Waker::new().expect("eventfd"),
            Waker::new().expect("eventfd"),
        );
        let ball = Arc::new(AtomicU32::new(0));
        let other = {
            let (ping, pong, ball) = (ping.clone(), pong.clone(), Arc::clone(&ball));
            thread::spawn(move || {
                for round in 0..ROUNDS {
                    while ball.load(Ordering::Acquire) != 2 * round + 1 {
                        sleep(&pong);
                    }
                    ball.store(2 * round + 2, Ordering::Release);
                    ping.wake();
                }
            })
        };
        for round in 0..ROUNDS {
            ball.store(2 * round + 1, Ordering::Release);
            pong.wake();
            while ball.load(Ordering::Acquire) != 2 * round + 2 {
                sleep(&ping);
            }
        }
        other.join().expect("the other side ends");
    }

    #[test]
    fn a_call_before_the_sleep_ends_it_once() {
        let waker = Waker::new().expect("eventfd");
        waker.wake();
        assert!(!waker.begin_sleep());
        assert!(waker.begin_sleep(), "the call has been answered");
    }
}
