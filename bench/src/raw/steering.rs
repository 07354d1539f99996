//! The XDP program of a NIC that has done the demultiplexing itself: redirect to the socket of the queue that the packet came on,
//! without a look at it. Six instructions, loaded and run by the system call, since no compiler is needed for them.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::libc;

// linux/bpf.h
const MAP_CREATE: i32 = 0;
const MAP_UPDATE: i32 = 2;
const PROG_LOAD: i32 = 5;
const PROG_TEST_RUN: i32 = 10;
const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const XDP_REDIRECT: u32 = 4;
const XDP_DROP: i32 = 1;
const PSEUDO_MAP_FD: u8 = 1;
const REDIRECT_MAP: i32 = 51;
/// Where `struct xdp_md` has `rx_queue_index`.
const RX_QUEUE_INDEX: i16 = 16;
const QUEUES: u32 = 64;

/// `union bpf_attr` of the commands used here, as the kernel takes it: fields at their offsets, the rest zero.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Attributes([u8; 128]);

impl Attributes {
    const fn new() -> Self {
        Self([0; 128])
    }

    fn word(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn pointer<T>(mut self, at: usize, value: *const T) -> Self {
        self.0[at..at + 8].copy_from_slice(&(value.expose_provenance() as u64).to_ne_bytes());
        self
    }

    fn read(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[at..at + 4]);
        u32::from_ne_bytes(bytes)
    }
}

/// One instruction: `struct bpf_insn`.
fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> [u8; 8] {
    let mut bytes = [code, (source << 4) | destination, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
    bytes[4..].copy_from_slice(&immediate.to_ne_bytes());
    bytes
}

/// The loaded program.
pub(crate) struct Steering {
    program: OwnedFd,
    _map: OwnedFd,
    _socket: OwnedFd,
}

impl Steering {
    /// Loads it, with a socket for queue 0. Needs root.
    pub(crate) fn load() -> Result<Self> {
        let attributes = Attributes::new()
            .word(0, MAP_TYPE_XSKMAP)
            .word(4, 4)
            .word(8, 4)
            .word(12, QUEUES);
        let map = descriptor(MAP_CREATE, attributes).context("creating an XSKMAP: run as root")?;
        let socket = socket()?;
        let (key, value) = (0_u32, socket.as_raw_fd());
        let attributes = Attributes::new()
            .word(0, map.as_raw_fd().cast_unsigned())
            .pointer(8, &raw const key)
            .pointer(16, &raw const value);
        call(MAP_UPDATE, &mut attributes.clone()).context("putting a socket into the XSKMAP")?;
        let code = [
            instruction(0x61, 2, 1, RX_QUEUE_INDEX, 0), // r2 = ctx->rx_queue_index
            instruction(0x18, 1, PSEUDO_MAP_FD, 0, map.as_raw_fd()), // r1 = map, two slots
            instruction(0, 0, 0, 0, 0),
            instruction(0xb7, 3, 0, 0, XDP_DROP), // r3 = what an empty place does
            instruction(0x85, 0, 0, 0, REDIRECT_MAP),
            instruction(0x95, 0, 0, 0, 0),
        ];
        let licence = c"Dual MIT/GPL";
        let attributes = Attributes::new()
            .word(0, PROG_TYPE_XDP)
            .word(4, code.len() as u32)
            .pointer(8, code.as_ptr())
            .pointer(16, licence.as_ptr());
        let program = descriptor(PROG_LOAD, attributes).context("loading the program")?;
        Ok(Self {
            program,
            _map: map,
            _socket: socket,
        })
    }

    /// Mean time of a run on this packet.
    pub(crate) fn cost(&self, packet: &[u8], repeat: u32) -> Result<Duration> {
        let mut attributes = Attributes::new()
            .word(0, self.program.as_raw_fd().cast_unsigned())
            .word(8, packet.len() as u32)
            .pointer(16, packet.as_ptr())
            .word(32, repeat);
        call(PROG_TEST_RUN, &mut attributes).context("BPF_PROG_TEST_RUN")?;
        let (verdict, nanoseconds) = (attributes.read(4), attributes.read(36));
        ensure!(
            verdict == XDP_REDIRECT,
            "the program said {verdict} instead of redirect"
        );
        Ok(Duration::from_nanos(nanoseconds.into()))
    }
}

/// An AF_XDP socket, which nix has no name for; bound to nothing.
fn socket() -> Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    let fd = Errno::result(fd).context("no AF_XDP socket")?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn descriptor(command: i32, mut attributes: Attributes) -> Result<OwnedFd> {
    let fd = call(command, &mut attributes)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call(command: i32, attributes: &mut Attributes) -> Result<i32> {
    // SAFETY: the attributes are as large as said, zero where not set, and what they point to outlives the call: each caller holds it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            (&raw mut attributes.0).cast::<u8>(),
            size_of::<Attributes>(),
        )
    };
    Ok(i32::try_from(Errno::result(result)?)?)
}
