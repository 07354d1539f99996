//! The loop that carries frames between two devices.
//!
//! Both ends are AF_PACKET sockets (`packet`) that bypass the queueing discipline and do not see what they send
//! themselves. A train of segments that was left to cut (TSO, GSO) is no packet of any wire, so it is dropped and counted, and the
//! remedy is printed once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use serde::Serialize;

use crate::impairment::Link;
use crate::lane::{Fates, Lane};
use crate::packet::{PacketSocket, Received};

/// Frames taken from one device before the other has its turn.
const BURST: usize = 64;

/// How long the loop sleeps at most: it looks at `stop` as often.
const GLANCE: Duration = Duration::from_millis(50);

/// What passed in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// What the emulated direction did.
    #[serde(flatten)]
    pub fates: Fates,
    /// Trains of segments that nobody had cut: dropped.
    pub uncut: u64,
    /// Frames that the device at the far end did not take: larger than its MTU, down, or its ring full.
    pub refused: u64,
    /// Frames still on their way at the end.
    pub underway: u64,
}

/// A device and what arrives on it.
struct End {
    socket: PacketSocket,
    lane: Lane,
    uncut: u64,
    /// Frames that this device did not take.
    refused: u64,
}

/// Two devices of the calling thread's network namespace and the emulated link between them.
pub struct Bridge {
    ends: [End; 2],
    start: Instant,
}

impl Bridge {
    /// Opens both devices. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// No such device, no right; the message says what to do.
    pub fn open(first: &str, second: &str, link: &Link) -> Result<Self> {
        if first == second {
            bail!("a link has two ends: `{first}` was given twice");
        }
        let end = |name: &str, impairment, number| -> Result<End> {
            Ok(End {
                socket: PacketSocket::open(name)?,
                lane: Lane::new(impairment, link.seed, number),
                uncut: 0,
                refused: 0,
            })
        };
        Ok(Self {
            ends: [end(first, link.forth, 0)?, end(second, link.back, 1)?],
            start: Instant::now(),
        })
    }

    /// Changes what the link does from now on; the seed stays.
    pub fn set_link(&mut self, link: &Link) {
        self.ends[0].lane.set_impairment(link.forth);
        self.ends[1].lane.set_impairment(link.back);
    }

    /// Carries frames until `stop` is set or `limit` is over. May be called again: what is on its way stays there.
    ///
    /// # Errors
    /// A device that has gone.
    pub fn run(&mut self, stop: &AtomicBool, limit: Option<Duration>) -> Result<()> {
        let end = limit.map(|limit| Instant::now() + limit);
        while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
            let took = self.take(0)? + self.take(1)?;
            self.give(0)?;
            self.give(1)?;
            if took == 0 {
                self.sleep(end)?;
            }
        }
        Ok(())
    }

    /// What passed: from the first device to the second, and back.
    pub fn counts(&self) -> [Counts; 2] {
        [0, 1].map(|from| Counts {
            fates: self.ends[from].lane.fates(),
            uncut: self.ends[from].uncut,
            refused: self.ends[1 - from].refused,
            underway: self.ends[from].lane.underway() as u64,
        })
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Takes what has arrived on device `from`.
    fn take(&mut self, from: usize) -> Result<usize> {
        for taken in 0..BURST {
            let end = &mut self.ends[from];
            let frame = match end.socket.receive()? {
                Received::Nothing => return Ok(taken),
                Received::Frame(frame) => frame,
                Received::Train => {
                    end.uncut += 1;
                    if end.uncut == 1 {
                        eprintln!(
                            "a train of segments came from {}: dropped. Run `ethtool -K DEV tso off gso off gro off` on its peer",
                            end.socket.name
                        );
                    }
                    continue;
                }
            };
            let now = self.start.elapsed().as_nanos() as u64;
            end.lane.offer(now, frame);
        }
        Ok(BURST)
    }

    /// Gives the far device what came in at `from` and is due.
    fn give(&mut self, from: usize) -> Result<()> {
        let now = self.now();
        let [first, second] = &mut self.ends;
        let (near, far) = if from == 0 {
            (first, second)
        } else {
            (second, first)
        };
        while let Some(frame) = near.lane.due(now) {
            far.refused += u64::from(!far.socket.send([&frame, &[], &[]])?);
        }
        Ok(())
    }

    /// Until something arrives or is due.
    fn sleep(&self, end: Option<Instant>) -> Result<()> {
        let now = self.now();
        let due = self.ends.iter().filter_map(|end| end.lane.next_due()).min();
        let mut wait = GLANCE;
        if let Some(due) = due {
            wait = wait.min(Duration::from_nanos(due.saturating_sub(now)));
        }
        if let Some(end) = end {
            wait = wait.min(end.saturating_duration_since(Instant::now()));
        }
        let mut fds = self
            .ends
            .each_ref()
            .map(|end| PollFd::new(end.socket.as_fd(), PollFlags::POLLIN));
        match ppoll(&mut fds, Some(TimeSpec::from_duration(wait)), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for packets"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_are_none_are_named() {
        let link = Link::default();
        let error = Bridge::open("nosuch0", "nosuch1", &link).err();
        assert!(format!("{:#}", error.expect("an error")).contains("nosuch0"));
        let error = Bridge::open("lo", "lo", &link).err();
        assert!(format!("{:#}", error.expect("an error")).contains("two ends"));
    }
}
