//! Pings that know which of them went unanswered, and what a veth pair has lost by itself.
//!
//! `ping` ends at once when it is told to, and counts a reply that is still on its way as lost: on a busy machine that is one run
//! in many. These ends wait for what is outstanding. And a veth pair is no wire: its ring has 256 places and its receiver's backlog
//! a thousand, and what finds them full is gone, with nothing but a counter of the sending device ([`lost_by_the_link`]) to say so.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv,
    send, setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::frames::{fold, sum};
use crate::{LIMIT, Side};

/// Between two pings.
const INTERVAL: Duration = Duration::from_millis(50);

/// How long an answer may take once no more is asked: no measurement, so a lot.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one look for an answer waits.
const GLANCE_MS: i64 = 10;

/// Type, code, checksum, identifier, sequence number; then the number of the ping.
const LENGTH: usize = 16;

/// What became of some pings.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Pings sent.
    pub sent: u64,
    /// The numbers, from 0, of those that no answer came to.
    pub lost: Vec<u64>,
}

/// Pings from a namespace to an address, every 50 ms, until they are ended.
pub struct Pings {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Tally>>,
}

impl Pings {
    /// Begins.
    #[track_caller]
    pub fn start(from: &Side, to: IpAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = from.spawn(move || ping(to, &stopped));
        Self { stop, thread }
    }

    /// Ends, once everything is answered or has had its time.
    ///
    /// # Panics
    /// If a socket failed.
    #[track_caller]
    pub fn end(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let tally = self.thread.join().expect("no panic");
        tally.unwrap_or_else(|error| panic!("pings could not be sent: {error}"))
    }
}

fn ping(to: IpAddr, stop: &AtomicBool) -> io::Result<Tally> {
    let wire = Socket::open(to)?;
    let mut tally = Tally::default();
    let mut unanswered = BTreeSet::new();
    let mut last = None::<Instant>;
    loop {
        if stop.load(Ordering::Relaxed) {
            if unanswered.is_empty() || last.is_none_or(|last| last.elapsed() > PATIENCE) {
                break;
            }
        } else if last.is_none_or(|last| last.elapsed() >= INTERVAL) {
            unanswered.insert(tally.sent);
            wire.ask(tally.sent)?;
            tally.sent += 1;
            last = Some(Instant::now());
        }
        if let Some(number) = wire.answer()? {
            unanswered.remove(&number);
        }
    }
    tally.lost = unanswered.into_iter().collect();
    Ok(tally)
}

/// A raw ICMP or ICMPv6 socket that hears one peer.
struct Socket {
    socket: OwnedFd,
    v6: bool,
    identifier: u16,
}

impl Socket {
    fn open(to: IpAddr) -> io::Result<Self> {
        let v6 = to.is_ipv6();
        let (family, protocol) = match v6 {
            true => (AddressFamily::Inet6, SockProtocol::IcmpV6),
            false => (AddressFamily::Inet, SockProtocol::Icmp),
        };
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        connect(
            socket.as_raw_fd(),
            &SockaddrStorage::from(std::net::SocketAddr::new(to, 0)),
        )?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(GLANCE_MS))?;
        Ok(Self {
            identifier: socket.as_raw_fd() as u16,
            socket,
            v6,
        })
    }

    fn ask(&self, number: u64) -> io::Result<()> {
        let mut message = [0; LENGTH];
        message[0] = if self.v6 { 128 } else { 8 };
        message[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        message[6..8].copy_from_slice(&(number as u16).to_be_bytes());
        message[8..].copy_from_slice(&number.to_be_bytes());
        if !self.v6 {
            // The kernel computes ICMPv6's, which covers addresses.
            let checksum = fold(sum(&message));
            message[2..4].copy_from_slice(&checksum);
        }
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// The number of the ping that is answered, if one is within the glance.
    fn answer(&self) -> io::Result<Option<u64>> {
        let mut packet = [0; 2048];
        let length = match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(length) => length,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // With IPv4 the IP header comes along.
        let header = if self.v6 {
            0
        } else {
            4 * usize::from(packet[0] & 15)
        };
        let Some(message) = packet[..length].get(header..header + LENGTH) else {
            return Ok(None);
        };
        let (kind, rest) = message.split_at(4);
        let ours =
            kind[0] == if self.v6 { 129 } else { 0 } && rest[..2] == self.identifier.to_be_bytes();
        let number = rest[4..].try_into().expect("eight bytes");
        Ok(ours.then(|| u64::from_be_bytes(number)))
    }
}

/// Packets that found the other end's ring or backlog full, in both directions of the pair between `one` and `other`, since the pair
/// was made. No program of anybody's has seen them.
#[track_caller]
pub fn lost_by_the_link(one: &Side, other: &Side) -> u64 {
    [one, other].iter().map(|side| dropped(side)).sum()
}

#[track_caller]
fn dropped(side: &Side) -> u64 {
    let shown = crate::process::Running::start(std::process::Command::new("ip").args([
        "-s",
        "-j",
        "-n",
        &side.namespace,
        "link",
        "show",
        &side.device,
    ]));
    let shown = shown.wait(LIMIT).ok().json();
    shown[0]["stats64"]["tx"]["dropped"]
        .as_u64()
        .unwrap_or_else(|| panic!("no counters: {shown:#}"))
}
