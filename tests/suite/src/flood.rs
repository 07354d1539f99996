//! Floods: what somebody who has no connection, or would like to break others', sends as fast as the link carries it.
//!
//! Frames are made beforehand, some ten thousand of each kind, and sent over and over; sending one costs a system call's share.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, send, socket};

use crate::Side;
use crate::frames::{Segment, device_address, flags};
use crate::kernel::Random;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// SYNs from addresses all over the world.
    Syns,
    /// SYNs from four networks of 256 addresses.
    SynsOfFew,
    /// ACKs, some with data, of connections that there never were.
    Acks,
    /// RSTs, data, SYNs and FINs on connections that there are, with numbers that are not theirs.
    Forged,
    /// Bad checksums, cut and stretched lengths, wild options, fragments, addresses that cannot be.
    Garbage,
}

/// MSS, SACK permitted, timestamps, window scale, as Linux has them.
const SYN_OPTIONS: [u8; 20] = [
    2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
];

/// Who is flooded.
#[derive(Clone, Debug)]
pub struct Target {
    /// Link addresses: the target's, the sender's.
    pub macs: ([u8; 6], [u8; 6]),
    /// Where it listens.
    pub server: SocketAddrV4,
    /// The other ends of connections to it, which [`Flood::Forged`] forges.
    pub clients: Vec<SocketAddrV4>,
}

impl Flood {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Syns,
        Self::SynsOfFew,
        Self::Acks,
        Self::Forged,
        Self::Garbage,
    ];

    /// For tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syns => "SYNs from everywhere",
            Self::SynsOfFew => "SYNs of four networks",
            Self::Acks => "ACKs of nobody",
            Self::Forged => "forged on our flows",
            Self::Garbage => "garbage",
        }
    }

    /// `count` frames, decided by the seed.
    pub fn frames(self, target: &Target, seed: u64, count: usize) -> Vec<Vec<u8>> {
        let mut random = Random::new(seed);
        (0..count)
            .map(|number| self.frame(target, number, &mut random))
            .collect()
    }

    fn frame(self, target: &Target, number: usize, random: &mut Random) -> Vec<u8> {
        match self {
            Self::Syns => target.syn(anywhere(random), random).frame(),
            Self::SynsOfFew => {
                let last = random.draw() as u8;
                let source = Ipv4Addr::new(30, 0, random.below(4) as u8, last);
                target.syn(source, random).frame()
            }
            Self::Acks => {
                let source = SocketAddrV4::new(anywhere(random), random.draw() as u16 | 1024);
                let payload = vec![0x5a; [0, 0, 64, 1400][number % 4]];
                target.segment(source, flags::ACK, payload, random).frame()
            }
            Self::Forged => target.forged(number, random).frame(),
            Self::Garbage => target.garbage(number, random),
        }
    }
}

/// A source address that may be: neither private nor ours.
fn anywhere(random: &mut Random) -> Ipv4Addr {
    let bits = random.draw() as u32;
    Ipv4Addr::from_bits(0x2000_0000 | bits & 0x3fff_ffff)
}

impl Target {
    fn segment(
        &self,
        source: SocketAddrV4,
        flags: u8,
        payload: Vec<u8>,
        random: &mut Random,
    ) -> Segment {
        Segment {
            macs: self.macs,
            addresses: ((*source.ip()).into(), (*self.server.ip()).into()),
            ports: (source.port(), self.server.port()),
            numbers: (random.draw() as u32, random.draw() as u32),
            flags,
            options: Vec::new(),
            payload,
        }
    }

    fn syn(&self, source: Ipv4Addr, random: &mut Random) -> Segment {
        let source = SocketAddrV4::new(source, random.draw() as u16 | 1024);
        let mut segment = self.segment(source, flags::SYN, Vec::new(), random);
        segment.numbers.1 = 0;
        segment.options = SYN_OPTIONS.to_vec();
        segment
    }

    fn forged(&self, number: usize, random: &mut Random) -> Segment {
        let client = self.clients[random.below(self.clients.len())];
        let (flags, length) = [
            (flags::RST, 0),
            (flags::ACK | flags::PSH, 1000),
            (flags::RST | flags::ACK, 0),
            (flags::ACK, 0),
            (flags::SYN, 0),
            (flags::FIN | flags::ACK, 0),
        ][number % 6];
        self.segment(client, flags, vec![0xa5; length], random)
    }

    fn garbage(&self, number: usize, random: &mut Random) -> Vec<u8> {
        let source = SocketAddrV4::new(anywhere(random), random.draw() as u16 | 1024);
        let mut segment = self.segment(source, flags::ACK, vec![0x5a; 100], random);
        // Behind Ethernet: IPv4, and TCP's header behind that.
        let (ip, tcp) = (14, segment.tcp_at());
        match number % 8 {
            // A length of 0, and one beyond the header: nobody could step over them.
            0 => segment.options = vec![8, 0, 3, 255, 2, 1, 0xfd, 0xff],
            1 => {
                let martian = [
                    Ipv4Addr::LOCALHOST,
                    Ipv4Addr::UNSPECIFIED,
                    Ipv4Addr::BROADCAST,
                    Ipv4Addr::new(224, 0, 0, 1),
                    *self.server.ip(),
                ];
                segment.addresses.0 = martian[random.below(martian.len())].into();
            }
            2 => segment.flags = random.draw() as u8,
            _ => {}
        }
        let mut frame = segment.frame();
        match number % 8 {
            3 => frame[tcp + 16] ^= 0x55,
            4 => frame.truncate(tcp + random.below(20)),
            // A header of TCP longer than the packet.
            5 => frame[tcp + 12] = 0xf0,
            // A checksum of IP's own.
            6 => frame[ip + 10] ^= 0x55,
            7 => {
                // More fragments follow, and its checksum says so (RFC 1624: 0x4000 becomes 0x2000, so 0x2000 more).
                frame[ip + 6] = 0x20;
                let old = u16::from_be_bytes([frame[ip + 10], frame[ip + 11]]);
                let (sum, carry) = old.overflowing_add(0x2000);
                let sum = sum.wrapping_add(u16::from(carry));
                frame[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
            }
            _ => {}
        }
        frame
    }
}

/// A raw socket of one device.
struct Spray {
    socket: OwnedFd,
}

impl Spray {
    fn open(device: &str) -> nix::Result<Self> {
        let address: LinkAddr = device_address(device);
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        bind(socket.as_raw_fd(), &address)?;
        Ok(Self { socket })
    }

    /// False: there was no room on the way.
    fn send(&self, frame: &[u8]) -> bool {
        match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(_) => true,
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => false,
            Err(error) => panic!("a device of ours took no frame: {error}"),
        }
    }
}

/// Sends every frame once. Those that find no room are sent again.
#[track_caller]
pub fn send_all(side: &Side, frames: Vec<Vec<u8>>) {
    let device = side.device.clone();
    side.inside(move || {
        let spray = Spray::open(&device).expect("a raw socket");
        for frame in &frames {
            while !spray.send(frame) {
                std::thread::yield_now();
            }
        }
    });
}

/// A flood that goes on until it is ended.
pub struct Flooding {
    stop: Arc<AtomicBool>,
    offered: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Flooding {
    /// Sends these frames over and over, as fast as a core does.
    #[track_caller]
    pub fn start(side: &Side, frames: Vec<Vec<u8>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (offered, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (stopped, tried, taken) = (stop.clone(), offered.clone(), sent.clone());
        let device = side.device.clone();
        let thread = side.spawn(move || {
            let spray = Spray::open(&device).expect("a raw socket");
            for batch in frames.chunks(64).cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let count = batch.iter().filter(|frame| spray.send(frame)).count();
                tried.fetch_add(batch.len() as u64, Ordering::Relaxed);
                taken.fetch_add(count as u64, Ordering::Relaxed);
            }
        });
        Self {
            stop,
            offered,
            sent,
            thread,
        }
    }

    /// Frames so far: those offered to the device, and those that it took. A veth device takes what its peer's ring has room for.
    pub fn frames(&self) -> [u64; 2] {
        [&self.offered, &self.sent].map(|count| count.load(Ordering::Relaxed))
    }

    /// Ends it.
    #[track_caller]
    pub fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
    }
}
