//! One shard on one end of a wire in memory, the script on the other, and a clock that only moves when told.
//!
//! The script's side speaks IP datagrams, the shard Ethernet frames: the link header is put on and taken off here.

use std::collections::VecDeque;
use std::net::IpAddr;

use bywash_engine::clock::{Clock, ManualClock};
use bywash_engine::config::{PoolPolicy, ShardConfig};
use bywash_engine::context::Context;
use bywash_engine::host::{Path, StaticRoutes};
use bywash_engine::random::SeededRandom;
use bywash_engine::shard::{Environment, Shard};
use bywash_engine::steering::NoSteering;
use bywash_engine::tcp::time::Instant;
use bywash_engine::wire::MacAddr;
use bywash_engine::xsk::{Frame, MemoryConfig, MemoryPort, Port, UmemConfig, XskError};

use crate::flags::Flags;
use crate::segmentation;
use crate::sockets::Sockets;
use crate::sysctl::Sysctls;

const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const SCRIPT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// Octets of an Ethernet header without tag.
const ETHERNET: usize = 14;
/// Bytes of a frame: jumbo frames fit. packetdrill locks all of its memory, so larger ones would be dear.
const CHUNK: u32 = 16_384;
/// Frames for receiving: as many segments may wait to be read.
const RX_FRAMES: u32 = 2048;
/// Frames for sending: as many segments may wait for their acknowledgment.
const TX_FRAMES: u32 = 4096;
/// Longest datagram that fits a frame, behind the link header and the room that is kept for XDP.
const LONGEST: usize = CHUNK as usize - ETHERNET - 256;
/// A shard that is still at work after this many turns in one moment of virtual time is caught in a loop.
const TURNS_MAX: usize = 100_000;
/// A deadline of the timing wheel may come this much after the moment it was asked for: one tick, rounded up.
const WHEEL_TICK_NS: u64 = 1 << 17;

/// A datagram that the stack sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// From the IP header on.
    pub datagram: Vec<u8>,
    /// When, in microseconds of the machine's clock.
    pub at_us: i64,
}

/// Why a datagram could not be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// Neither IPv4 nor IPv6.
    #[error("the datagram's first octet names no IP version")]
    NotIp,
    /// Longer than a frame of the wire.
    #[error("a datagram of {0} bytes is longer than a frame of the wire in memory")]
    TooLong(usize),
    /// The stack holds every frame of the script's side.
    #[error("no frame is free: the stack holds all that were injected")]
    NoFrame,
}

/// Shard, wire and clock.
pub struct Machine {
    shard: Shard<MemoryPort, Sockets>,
    far: MemoryPort,
    clock: ManualClock,
    emitted: VecDeque<Emitted>,
    batch: Vec<Frame>,
    /// Largest datagram of the wire.
    mtu: u16,
    /// Time of the last turn.
    turned_at: Option<Instant>,
}

impl Machine {
    /// A machine at one second of its clock, with nothing open.
    ///
    /// # Errors
    /// The kernel has no memory for the wire.
    pub fn new(flags: &Flags) -> Result<Self, XskError> {
        let clock = ManualClock::new();
        let memory = MemoryConfig {
            umem: UmemConfig {
                chunk_size: CHUNK,
                rx_frames: RX_FRAMES,
                tx_frames: TX_FRAMES,
                // Few of them are ever touched.
                populate: false,
                ..MemoryConfig::default().umem
            },
            ..MemoryConfig::default()
        };
        let (near, far) = MemoryPort::try_pair(&memory)?;
        let sysctls = Sysctls::new(flags.sysctls.as_deref());
        let shard = Shard::new(
            shard_config(flags),
            near,
            Sockets::new(flags.local.clone(), sysctls),
            Environment {
                clock: Box::new(clock.clone()),
                random: Box::new(SeededRandom(flags.seed)),
                routes: Box::new(routes(&flags.local, flags.mtu)),
                steering: Box::new(NoSteering),
            },
        );
        Ok(Self {
            shard,
            far,
            clock,
            emitted: VecDeque::new(),
            batch: Vec::new(),
            mtu: flags.mtu,
            turned_at: None,
        })
    }

    /// The clock, in microseconds.
    pub fn now_us(&self) -> i64 {
        (self.clock.now().as_nanos() / 1000) as i64
    }

    /// Runs a call of the sockets layer at the present time, and what follows from it.
    pub fn call<R>(
        &mut self,
        call: impl FnOnce(&mut Sockets, &mut Context<'_, MemoryPort>) -> R,
    ) -> R {
        // The shard reads the clock once a turn: without one the call would happen in the past.
        if self.turned_at != Some(self.clock.now()) {
            self.settle();
        }
        let result = self.shard.with_context(call);
        self.settle();
        result
    }

    /// Gives the stack a datagram, and lets it act. A TCP segment longer than a frame arrives in pieces, all at once.
    ///
    /// # Errors
    /// Of a datagram in pieces the first ones may have been posted.
    pub fn inject(&mut self, datagram: &[u8]) -> Result<(), InjectError> {
        if datagram.len() > LONGEST {
            let most = usize::from(self.mtu);
            let pieces =
                segmentation::pieces(datagram, most).ok_or(InjectError::TooLong(datagram.len()))?;
            pieces.iter().try_for_each(|piece| self.post(piece))?;
        } else {
            self.post(datagram)?;
        }
        self.far.kick();
        self.settle();
        Ok(())
    }

    /// Puts a frame into the far end's TX ring.
    fn post(&mut self, datagram: &[u8]) -> Result<(), InjectError> {
        let ethertype: [u8; 2] = match datagram.first().map(|first| first >> 4) {
            Some(4) => [0x08, 0x00],
            Some(6) => [0x86, 0xdd],
            _ => return Err(InjectError::NotIp),
        };
        let mut frame = self.far.umem().alloc_tx().ok_or(InjectError::NoFrame)?;
        let length = ETHERNET + datagram.len();
        {
            let room = frame.tail_mut().ok_or(InjectError::NoFrame)?;
            let bytes = room
                .get_mut(..length)
                .ok_or(InjectError::TooLong(datagram.len()))?;
            bytes[..6].copy_from_slice(&OUR_MAC.0);
            bytes[6..12].copy_from_slice(&SCRIPT_MAC.0);
            bytes[12..14].copy_from_slice(&ethertype);
            bytes[ETHERNET..].copy_from_slice(datagram);
        }
        frame.extend(length);
        if !self.far.transmit(&frame, 0) {
            return Err(InjectError::NoFrame);
        }
        Ok(())
    }

    /// The next datagram that the stack has sent.
    pub fn take_emitted(&mut self) -> Option<Emitted> {
        self.emitted.pop_front()
    }

    /// Turns of the shard until it has nothing more to do at this moment.
    pub fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            let worked = self.shard.turn().worked();
            self.turned_at = Some(self.clock.now());
            let heard = self.collect();
            if !worked && !heard {
                return;
            }
        }
        panic!("the shard finds work for ever at {} us", self.now_us());
    }

    /// Takes what the shard sent off the wire. True if there was anything.
    fn collect(&mut self) -> bool {
        let at_us = self.now_us();
        let mut heard = false;
        while self.far.receive(0, &mut self.batch, usize::MAX) > 0 {
            heard = true;
            for frame in self.batch.drain(..) {
                self.emitted.push_back(Emitted {
                    datagram: frame.bytes()[ETHERNET..].to_vec(),
                    at_us,
                });
            }
        }
        // Frames that the shard has read and dropped come back to the script's side.
        self.far.reclaim();
        heard
    }

    /// When the stack next wants the time; `None`: never again by itself.
    pub fn next_wakeup_us(&self) -> Option<i64> {
        let next = self.shard.next_wakeup()?;
        Some((next.as_nanos().div_ceil(1000)) as i64)
    }

    /// Makes sure that the machine stops at a moment `after` from now, which it returns.
    pub fn wake_after(&mut self, after: std::time::Duration) -> i64 {
        self.call(|_, cx| cx.set_timer(after, 0));
        self.now_us() + i64::try_from(after.as_micros()).unwrap_or(i64::MAX / 2)
    }

    /// Moves the clock to `to_us`, no further than the next deadline, and lets the stack act there.
    pub fn step(&mut self, to_us: i64) {
        let now = self.now_us();
        let next = match self.next_wakeup_us() {
            // Due, and not served by the last turn: the wheel rounds up to its tick.
            Some(due) if due <= now => (now + (WHEEL_TICK_NS / 1000) as i64 + 1).min(to_us),
            Some(due) => due.min(to_us),
            None => to_us,
        };
        let by = u64::try_from(next - now).unwrap_or(0);
        self.clock.advance(std::time::Duration::from_micros(by));
        self.settle();
    }

    /// The sockets, for reading.
    pub fn sockets(&self) -> &Sockets {
        self.shard.service()
    }
}

fn shard_config(flags: &Flags) -> ShardConfig {
    let mut config = ShardConfig {
        mtu: flags.mtu,
        pools: PoolPolicy::Shared,
        // A script may inject whatever fits one moment.
        ingress_budget: 4096,
        ..ShardConfig::default()
    };
    // What packetdrill's suites set (their defaults.sh), where no kernel parameter says otherwise.
    config.tcp.receive_buffer = 270_000;
    config.tcp.receive_buffer_max = 15 << 20;
    config.tcp.send_buffer = 256 << 10;
    config
}

fn routes(local: &[IpAddr], mtu: u16) -> StaticRoutes {
    StaticRoutes::new(local.to_vec()).with_default(Path {
        source: local[0],
        source_mac: OUR_MAC,
        destination_mac: SCRIPT_MAC,
        vlan: None,
        mtu,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bywash_engine::wire::checksum::{pseudo_header, sum};

    const LOCAL: [u8; 4] = [192, 0, 2, 1];
    const PEER: [u8; 4] = [192, 0, 2, 2];
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;

    /// A segment from a port of the peer to port 80.
    fn segment(port: u16, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
        let mut tcp = [port.to_be_bytes(), 80_u16.to_be_bytes()].concat();
        tcp.extend(seq.to_be_bytes());
        tcp.extend(ack.to_be_bytes());
        tcp.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        let pseudo = pseudo_header(PEER.into(), LOCAL.into(), 6, tcp.len());
        let checksum = pseudo.then(sum(&tcp)).finish();
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
        ip.extend(PEER.into_iter().chain(LOCAL));
        let checksum = sum(&ip).finish();
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        [ip, tcp].concat()
    }

    /// The whole handshake from a port, if the SYN is answered.
    fn shake(machine: &mut Machine, port: u16) -> bool {
        machine.inject(&segment(port, 100, 0, SYN)).unwrap();
        let Some(answer) = machine.take_emitted() else {
            return false;
        };
        let iss = u32::from_be_bytes(answer.datagram[24..28].try_into().unwrap());
        machine.inject(&segment(port, 101, iss + 1, ACK)).unwrap();
        true
    }

    #[test]
    fn as_many_wait_for_accept_as_listen_said_and_one_more() {
        let flags = Flags::parse("local=192.0.2.1,sysctls=off").unwrap();
        let mut machine = Machine::new(&flags).unwrap();
        let listener = machine.call(|sockets, cx| {
            let fd = sockets
                .socket_new(libc::AF_INET, libc::SOCK_STREAM, 0)
                .unwrap();
            sockets
                .bind(fd, (std::net::Ipv4Addr::from(LOCAL), 80).into())
                .unwrap();
            sockets.listen(cx, fd, 1).unwrap();
            fd
        });
        assert!(shake(&mut machine, 1001));
        assert!(shake(&mut machine, 1002));
        assert!(!shake(&mut machine, 1003), "two wait");
        let accept = |machine: &mut Machine| {
            machine.call(|sockets, cx| sockets.accept(cx, listener, 0).unwrap())
        };
        assert_eq!(accept(&mut machine).unwrap().1.port(), 1001);
        assert!(shake(&mut machine, 1004));
        machine.call(|sockets, cx| sockets.listen(cx, listener, 2).unwrap());
        assert!(shake(&mut machine, 1005), "there is room for three now");
        assert!(!shake(&mut machine, 1006));
    }
}
