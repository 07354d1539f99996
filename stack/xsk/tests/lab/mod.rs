//! Two network namespaces without names, a veth between them, packet sockets at the far end, a redirect program at ours.
//!
//! A namespace lives as long as a descriptor of it or a thread in it; the veth goes with them. So nothing is left behind,
//! whatever way a test ends.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::thread;

/// The engine's end of the veth.
pub(crate) const DEVICE: &str = "bwx0";
/// The far end.
const PEER_DEVICE: &str = "bwx1";
/// "Local experimental": no protocol of the kernel's. Its first payload byte names the ring (see [`Redirect`]).
pub(crate) const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// Bytes before the payload.
pub(crate) const ETHERNET: usize = 14;

const NEW_NETWORK: c_int = libc::CLONE_NEWNET;

/// What a system call that returns -1 on error returned.
fn check(what: &str, result: impl Into<i64>) -> i64 {
    let result = result.into();
    assert!(result >= 0, "{what}: {}", io::Error::last_os_error());
    result
}

fn owned(what: &str, result: impl Into<i64>) -> OwnedFd {
    let fd = check(what, result) as c_int;
    // SAFETY: the kernel has just given us this descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a program"))
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error}; these tests need iproute2"));
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn new_namespace() -> File {
    let in_there = || {
        // SAFETY: no pointers; it moves this thread only, which ends soon.
        let result = unsafe { libc::unshare(NEW_NETWORK) };
        assert!(
            result == 0,
            "these tests make network namespaces and need root: unshare: {}",
            io::Error::last_os_error()
        );
        // No router solicitations and the like between our packets.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
            .expect("sysctl disable_ipv6");
        File::open("/proc/thread-self/ns/net").expect("/proc is mounted")
    };
    thread::spawn(in_there)
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A device under test, and its far end.
pub(crate) struct Lab {
    here: File,
    there: File,
}

impl Lab {
    /// Makes both namespaces and the veth.
    ///
    /// # Panics
    /// Without the rights, and says so: a test that did not run has not passed.
    pub(crate) fn new() -> Self {
        let lab = Self {
            here: new_namespace(),
            there: new_namespace(),
        };
        let there = format!("/proc/{}/fd/{}", std::process::id(), lab.there.as_raw_fd());
        lab.here(|| {
            run(&format!(
                "ip link add {DEVICE} type veth peer name {PEER_DEVICE}"
            ));
            run(&format!("ip link set {PEER_DEVICE} netns {there}"));
            run(&format!("ip link set {DEVICE} up"));
        });
        lab.there(|| run(&format!("ip link set {PEER_DEVICE} up")));
        lab
    }

    /// Runs this in a thread of the engine's namespace.
    pub(crate) fn here<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        inside(&self.here, body)
    }

    /// Runs this in a thread of the far namespace.
    pub(crate) fn there<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        inside(&self.there, body)
    }

    /// Sets the engine's device up or down.
    pub(crate) fn set(&self, state: &str) {
        self.here(|| run(&format!("ip link set {DEVICE} {state}")));
    }

    /// A packet socket at the far end.
    pub(crate) fn peer(&self) -> Peer {
        self.there(Peer::new)
    }
}

fn inside<T: Send>(namespace: &File, body: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        // SAFETY: no pointers; it moves this thread only.
        check("setns", unsafe {
            libc::setns(namespace.as_raw_fd(), NEW_NETWORK)
        });
        body()
    };
    let joined = thread::scope(|scope| scope.spawn(enter).join());
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn index_of(device: &str) -> u32 {
    let name = std::ffi::CString::new(device).expect("a device name");
    // SAFETY: a C string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert!(index > 0, "no device {device}");
    index
}

/// Sees and sends whole frames at the far end.
pub(crate) struct Peer {
    socket: OwnedFd,
}

impl Peer {
    fn new() -> Self {
        let protocol = u16::from_be_bytes(ETHERTYPE).to_be();
        // SAFETY: no pointers.
        let socket = owned("socket(AF_PACKET)", unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                c_int::from(protocol),
            )
        });
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: protocol,
            sll_ifindex: index_of(PEER_DEVICE) as c_int,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let len = size_of_val(&address) as u32;
        let at = core::ptr::from_ref(&address).cast();
        // SAFETY: `address` is readable for `len` bytes.
        check("bind(AF_PACKET)", unsafe {
            libc::bind(socket.as_raw_fd(), at, len)
        });
        let peer = Self { socket };
        peer.set(libc::SO_RCVBUFFORCE, &(8 << 20));
        // So that a lost packet fails a test and does not hang it.
        peer.set(
            libc::SO_RCVTIMEO,
            &libc::timeval {
                tv_sec: 5,
                tv_usec: 0,
            },
        );
        peer
    }

    fn set<T>(&self, name: c_int, value: &T) {
        let (at, len) = (core::ptr::from_ref(value).cast(), size_of::<T>() as u32);
        // SAFETY: `value` is readable for `len` bytes.
        let result =
            unsafe { libc::setsockopt(self.socket.as_raw_fd(), libc::SOL_SOCKET, name, at, len) };
        check("setsockopt", result);
    }

    /// The next frame that arrives.
    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut frame = vec![0; 4096];
        // SAFETY: `frame` is writable for its length.
        let len = check("recv at the far end", unsafe {
            libc::recv(
                self.socket.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                0,
            ) as i64
        });
        frame.truncate(len as usize);
        frame
    }

    /// Whether no frame is there now.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = 0u8;
        let at = core::ptr::from_mut(&mut byte).cast();
        let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
        // SAFETY: one writable byte.
        unsafe { libc::recv(self.socket.as_raw_fd(), at, 1, flags) < 0 }
    }

    /// Sends a whole frame.
    pub(crate) fn send(&self, frame: &[u8]) {
        // SAFETY: `frame` is readable for its length.
        let sent = check("send at the far end", unsafe {
            libc::send(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
            ) as i64
        });
        assert_eq!(sent as usize, frame.len());
    }
}

/// An Ethernet header with our type. To everybody, so that the kernel at the far end takes it in too.
pub(crate) fn ethernet() -> [u8; ETHERNET] {
    let mut header = [0xff; ETHERNET];
    header[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    header[12..].copy_from_slice(&ETHERTYPE);
    header
}

/// A frame for a ring: its payload begins with the ring's index.
pub(crate) fn frame_for(ring: u8, payload: &[u8]) -> Vec<u8> {
    [&ethernet()[..], &[ring], payload].concat()
}

/// An XDP program on the device that redirects frames of our type to the socket at the index in their first payload
/// byte. Dropping it detaches.
pub(crate) struct Redirect {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_UPDATE_ELEM: i64 = 2;
const BPF_PROG_LOAD: i64 = 5;
const BPF_LINK_CREATE: i64 = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_PASS: i32 = 2;
const REDIRECT_MAP: i32 = 51;

/// `attributes` is the command's part of `union bpf_attr`, as 32-bit words.
fn bpf(what: &str, command: i64, attributes: &mut [u32]) -> OwnedFd {
    let len = size_of_val(attributes);
    // SAFETY: `attributes` is readable and writable for `len` bytes; addresses within are of live buffers.
    owned(what, unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), len)
    })
}

fn halves<T: ?Sized>(pointer: *const T) -> [u32; 2] {
    let address = pointer.cast::<u8>() as u64;
    [address as u32, (address >> 32) as u32]
}

/// One instruction of eBPF: opcode, registers (source in the upper half), offset, immediate.
const fn instruction(opcode: u8, registers: u8, offset: i16, immediate: i32) -> u64 {
    opcode as u64
        | (registers as u64) << 8
        | (offset as u16 as u64) << 16
        | (immediate as u32 as u64) << 32
}

impl Redirect {
    /// Attaches the program to the device of this thread's namespace.
    pub(crate) fn attach() -> Self {
        let map = bpf(
            "BPF_MAP_CREATE",
            BPF_MAP_CREATE,
            &mut [BPF_MAP_TYPE_XSKMAP, 4, 4, 64, 0],
        );
        let code = [
            instruction(0x61, 0x12, 0, 0), // r2 = ctx->data
            instruction(0x61, 0x13, 4, 0), // r3 = ctx->data_end
            instruction(0xbf, 0x24, 0, 0), // r4 = r2
            instruction(0x07, 0x04, 0, ETHERNET as i32 + 1),
            instruction(0x2d, 0x34, 8, 0),  // too short: pass
            instruction(0x69, 0x25, 12, 0), // r5 = the type
            instruction(0x55, 0x05, 6, i32::from(u16::from_le_bytes(ETHERTYPE))), // not ours: pass
            instruction(0x71, 0x22, ETHERNET as i16, 0), // r2 = the ring
            instruction(0x18, 0x11, 0, map.as_raw_fd()), // r1 = the map, two slots long
            instruction(0, 0, 0, 0),
            instruction(0xb7, 0x03, 0, XDP_PASS), // r3 = what an empty slot means
            instruction(0x85, 0, 0, REDIRECT_MAP),
            instruction(0x95, 0, 0, 0),        // return r0
            instruction(0xb7, 0, 0, XDP_PASS), // pass:
            instruction(0x95, 0, 0, 0),
        ];
        let [code_low, code_high] = halves(code.as_ptr());
        let [license_low, license_high] = halves(c"GPL".as_ptr());
        let mut load = [0u32; 18];
        load[..6].copy_from_slice(&[
            BPF_PROG_TYPE_XDP,
            code.len() as u32,
            code_low,
            code_high,
            license_low,
            license_high,
        ]);
        load[17] = BPF_XDP;
        let program = bpf("BPF_PROG_LOAD", BPF_PROG_LOAD, &mut load);
        let fd = program.as_raw_fd() as u32;
        let mut create = [fd, index_of(DEVICE), BPF_XDP, XDP_FLAGS_DRV_MODE];
        let link = bpf("BPF_LINK_CREATE", BPF_LINK_CREATE, &mut create);
        Self {
            map,
            _program: program,
            _link: link,
        }
    }

    /// Puts a socket into a slot.
    pub(crate) fn set(&self, slot: usize, socket: BorrowedFd<'_>) {
        let (key, value) = (slot as u32, socket.as_raw_fd() as u32);
        let [key_low, key_high] = halves(&key);
        let [value_low, value_high] = halves(&value);
        let map = self.map.as_raw_fd() as u32;
        let mut update = [map, 0, key_low, key_high, value_low, value_high, 0, 0];
        let len = size_of_val(&update);
        // SAFETY: as in `bpf`; the command returns no descriptor.
        check("BPF_MAP_UPDATE_ELEM", unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_ELEM, update.as_mut_ptr(), len)
        });
    }
}

/// Takes a capability from this thread.
pub(crate) fn drop_capability(number: u32) {
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = [VERSION_3, 0];
    // Effective, permitted, inheritable; twice, for 64 capabilities.
    let mut sets = [0u32; 6];
    // SAFETY: the structs of version 3.
    check("capget", unsafe {
        libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr())
    });
    sets[number as usize / 32 * 3] &= !(1 << (number % 32));
    // SAFETY: as above.
    check("capset", unsafe {
        libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_mut_ptr())
    });
}
