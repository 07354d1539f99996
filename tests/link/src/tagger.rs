//! VLANs without the kernel's: what a device with VLAN devices on it does, where a kernel lacks 802.1Q.
//!
//! ```text
//!                 untagged ── the trunk's own kernel, as ever
//!  trunk ─────────┤ tag 5 ─────── tag off, tag on ─── "outlet" ═══ veth ═══ vl5, with addresses
//!                 └ tags s9.7 ─── tags off, tags on ─ "outlet" ═══ veth ═══ vl97, with addresses
//! ```
//!
//! It hears what the kernel would give its VLAN devices: what XDP on the trunk has let pass.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::packet::{PacketSocket, Received, TAG};

/// EtherTypes of tags.
const CUSTOMER: u16 = 0x8100;
const SERVICE: u16 = 0x88a8;

/// Frames taken from one device before the next has its turn.
const BURST: usize = 64;

/// How long the loop sleeps at most: it looks at `stop` as often.
const GLANCE: Duration = Duration::from_millis(50);

/// Both addresses of an Ethernet header.
const ADDRESSES: usize = 12;

/// The tags of a VLAN, outermost first, as they stand in a frame with priority 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tags(Vec<u8>);

impl Tags {
    /// A customer's tag (802.1Q).
    pub fn customer(id: u16) -> Self {
        Self::of(&[(CUSTOMER, id)])
    }

    /// A provider's tag (802.1ad).
    pub fn service(id: u16) -> Self {
        Self::of(&[(SERVICE, id)])
    }

    /// A customer's tag inside a provider's.
    pub fn stacked(service: u16, customer: u16) -> Self {
        Self::of(&[(SERVICE, service), (CUSTOMER, customer)])
    }

    fn of(tags: &[(u16, u16)]) -> Self {
        let words = tags.iter().flat_map(|(tpid, id)| [*tpid, *id]);
        Self(words.flat_map(u16::to_be_bytes).collect())
    }

    /// The tags of a frame, without priorities, and their number of bytes.
    fn in_frame(frame: &[u8]) -> (Self, usize) {
        let mut tags = Vec::new();
        for tag in frame.get(ADDRESSES..).unwrap_or(&[]).chunks_exact(TAG) {
            let tpid = u16::from_be_bytes([tag[0], tag[1]]);
            if tpid != CUSTOMER && tpid != SERVICE {
                break;
            }
            let id = u16::from_be_bytes([tag[2], tag[3]]) & 0x0fff;
            tags.push((tpid, id));
        }
        let len = tags.len() * TAG;
        (Self::of(&tags), len)
    }
}

/// A trunk and the outlets of its VLANs, all of the calling thread's network namespace.
pub struct Tagger {
    trunk: PacketSocket,
    outlets: Vec<(Tags, PacketSocket)>,
    /// Frames that a device did not take.
    refused: u64,
}

impl Tagger {
    /// Opens the devices. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// No such device, no right; the message says what to do.
    pub fn open(trunk: &str, outlets: &[(Tags, String)]) -> Result<Self> {
        let open = |(tags, name): &(Tags, String)| Ok((tags.clone(), PacketSocket::open(name)?));
        Ok(Self {
            trunk: PacketSocket::open(trunk)?,
            outlets: outlets.iter().map(open).collect::<Result<_>>()?,
            refused: 0,
        })
    }

    /// Frames that a device did not take: larger than its MTU, the device down, or its ring full.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Carries frames until `stop` is set or `limit` is over.
    ///
    /// # Errors
    /// A device that has gone.
    pub fn run(&mut self, stop: &AtomicBool, limit: Option<Duration>) -> Result<()> {
        let end = limit.map(|limit| Instant::now() + limit);
        while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
            if self.down()? + self.up()? == 0 {
                self.sleep()?;
            }
        }
        Ok(())
    }

    /// From the trunk to the outlets.
    fn down(&mut self) -> Result<usize> {
        for taken in 0..BURST {
            let frame = match self.trunk.receive()? {
                Received::Nothing => return Ok(taken),
                Received::Train => continue,
                Received::Frame(frame) => frame,
            };
            let (tags, len) = Tags::in_frame(frame);
            if let Some((_, outlet)) = self.outlets.iter().find(|(of, _)| *of == tags) {
                let parts = [&frame[..ADDRESSES], &frame[ADDRESSES + len..], &[]];
                self.refused += u64::from(!outlet.send(parts)?);
            }
        }
        Ok(BURST)
    }

    /// From the outlets to the trunk.
    fn up(&mut self) -> Result<usize> {
        let mut all = 0;
        for (tags, outlet) in &mut self.outlets {
            for _ in 0..BURST {
                match outlet.receive()? {
                    Received::Nothing => break,
                    Received::Train => {}
                    Received::Frame(frame) => {
                        let (addresses, rest) = frame.split_at(ADDRESSES);
                        let sent = self.trunk.send([addresses, &tags.0, rest])?;
                        self.refused += u64::from(!sent);
                    }
                }
                all += 1;
            }
        }
        Ok(all)
    }

    fn sleep(&self) -> Result<()> {
        let outlets = self.outlets.iter().map(|(_, outlet)| outlet);
        let mut fds: Vec<PollFd<'_>> = outlets
            .chain([&self.trunk])
            .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
            .collect();
        match ppoll(&mut fds, Some(TimeSpec::from_duration(GLANCE)), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for packets"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_without_their_priorities() {
        let frame = |tags: &[u8]| [&[7; 12][..], tags, &[8, 0, 0x45, 0]].concat();
        let read = |tags: &[u8]| Tags::in_frame(&frame(tags));
        assert_eq!(read(&[]), (Tags(Vec::new()), 0));
        assert_eq!(read(&[0x81, 0, 0xe0, 5]), (Tags::customer(5), 4));
        assert_eq!(read(&[0x88, 0xa8, 0, 5]), (Tags::service(5), 4));
        let both = [0x88, 0xa8, 0, 9, 0x81, 0, 0x10, 7];
        assert_eq!(read(&both), (Tags::stacked(9, 7), 8));
        assert_eq!(Tags::in_frame(&[1; 3]), (Tags(Vec::new()), 0));
    }
}
