//! The calling side of the plug-in's table: POSIX calls as safe functions.
//!
//! The table is that of the linked crate, or of a shared library by its path. Buffers live as long as the calls that
//! use them; the functions have the shapes that `PacketdrillInterface` says.
#![allow(
    unsafe_code,
    reason = "calls through a table of C functions; each block says what it relies on"
)]

use std::ffi::{CStr, CString, c_int, c_void};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use bywash_packetdrill::abi::{PacketdrillInterface, packetdrill_interface_init};
use libc::{epoll_event, iovec, msghdr, pollfd, sockaddr, socklen_t, timeval};

/// What a call returned: a number, or -1 with `errno`.
pub type Answer = Result<i64, i32>;

/// The plug-in.
#[derive(Clone, Copy)]
pub struct Table {
    raw: PacketdrillInterface,
}

// SAFETY: packetdrill calls the plug-in from two threads, and so the plug-in's functions and its `userdata` are made for it.
unsafe impl Send for Table {}

fn answer(value: i64) -> Answer {
    if value == -1 {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        Ok(value)
    }
}

/// A message for `sendmsg` and `recvmsg`.
#[derive(Debug, Default)]
pub struct Message {
    /// One buffer for each vector.
    pub buffers: Vec<Vec<u8>>,
    /// Where to send to (TCP Fast Open).
    pub to: Option<SocketAddr>,
    /// After `recvmsg`: flags.
    pub flags: i32,
    /// And control messages as level, type, bytes.
    pub control: Vec<(i32, i32, Vec<u8>)>,
}

impl Table {
    /// The table of the crate that this program is linked with.
    ///
    /// # Panics
    /// If the flags have a zero octet.
    pub fn linked(flags: &str) -> Self {
        Self::filled_by(packetdrill_interface_init, flags)
    }

    /// The table of a shared library, which stays loaded.
    ///
    /// # Errors
    /// What the loader says.
    pub fn loaded(library: &Path, flags: &str) -> Result<Self, String> {
        let path =
            CString::new(library.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
        let said = || {
            // SAFETY: dlerror gives null or a C string that lives until the thread's next call of the loader.
            let text = unsafe { libc::dlerror() };
            if text.is_null() {
                "the loader gives no reason".to_owned()
            } else {
                // SAFETY: not null, see above.
                unsafe { CStr::from_ptr(text) }
                    .to_string_lossy()
                    .into_owned()
            }
        };
        // SAFETY: a C string; what the library does when it is loaded is its author's promise, as with any program.
        let handle = unsafe {
            libc::dlopen(
                path.as_ptr(),
                libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_NODELETE | libc::RTLD_DEEPBIND,
            )
        };
        if handle.is_null() {
            return Err(said());
        }
        // SAFETY: an open library and a C string.
        let init = unsafe { libc::dlsym(handle, c"packetdrill_interface_init".as_ptr()) };
        if init.is_null() {
            return Err(said());
        }
        // SAFETY: by packetdrill's convention the symbol of that name is such a function.
        let init = unsafe {
            std::mem::transmute::<
                *mut c_void,
                unsafe extern "C" fn(*const libc::c_char, *mut PacketdrillInterface),
            >(init)
        };
        Ok(Self::filled_by(init, flags))
    }

    fn filled_by(
        init: unsafe extern "C" fn(*const libc::c_char, *mut PacketdrillInterface),
        flags: &str,
    ) -> Self {
        let flags = CString::new(flags).expect("no zero octet in flags");
        let mut raw = MaybeUninit::<PacketdrillInterface>::uninit();
        // SAFETY: a C string and room for the table; the function fills every member.
        let raw = unsafe {
            init(flags.as_ptr(), raw.as_mut_ptr());
            raw.assume_init()
        };
        Self { raw }
    }

    /// Ends the plug-in. No copy of the table may be used afterwards.
    pub fn free(self) {
        // SAFETY: called once, by the owner of the last copy.
        unsafe { (self.raw.free)(self.raw.userdata) }
    }

    /// `socket(2)`.
    pub fn socket(&self, domain: c_int, kind: c_int, protocol: c_int) -> Answer {
        // SAFETY: numbers only.
        answer(unsafe { (self.raw.socket)(self.raw.userdata, domain, kind, protocol) }.into())
    }

    /// `bind(2)`.
    pub fn bind(&self, fd: c_int, to: SocketAddr) -> Answer {
        let address = Address::new(to);
        // SAFETY: the address lives over the call, and its length is right.
        answer(unsafe { (self.raw.bind)(self.raw.userdata, fd, address.at(), address.len) }.into())
    }

    /// `listen(2)`.
    pub fn listen(&self, fd: c_int, backlog: c_int) -> Answer {
        // SAFETY: numbers only.
        answer(unsafe { (self.raw.listen)(self.raw.userdata, fd, backlog) }.into())
    }

    /// `accept(2)`: also the peer.
    pub fn accept(&self, fd: c_int) -> (Answer, Option<SocketAddr>) {
        let mut room = Address::empty();
        // SAFETY: room for any address, with its length.
        let fd = unsafe {
            let (at, len) = (
                room.bytes.as_mut_ptr().cast::<sockaddr>(),
                &raw mut room.len,
            );
            (self.raw.accept)(self.raw.userdata, fd, at, len)
        };
        (answer(fd.into()), room.decode())
    }

    /// `connect(2)`; `None`: `AF_UNSPEC`.
    pub fn connect(&self, fd: c_int, to: Option<SocketAddr>) -> Answer {
        let address = to.map_or(Address::unspecified(), Address::new);
        // SAFETY: the address lives over the call, and its length is right.
        answer(
            unsafe { (self.raw.connect)(self.raw.userdata, fd, address.at(), address.len) }.into(),
        )
    }

    /// `read(2)`; `None` for a null pointer.
    pub fn read(&self, fd: c_int, buffer: Option<&mut [u8]>, length: usize) -> Answer {
        let at = pointer_mut(buffer, length);
        // SAFETY: `length` bytes of room, or null.
        answer(unsafe { (self.raw.read)(self.raw.userdata, fd, at, length) } as i64)
    }

    /// `recv(2)`, or `recvfrom(2)` with an address that is not asked for.
    pub fn recv(
        &self,
        fd: c_int,
        buffer: Option<&mut [u8]>,
        length: usize,
        flags: c_int,
        from: bool,
    ) -> Answer {
        let at = pointer_mut(buffer, length);
        let mut room = Address::empty();
        // SAFETY: `length` bytes of room, or null; room for any address.
        answer(unsafe {
            if from {
                let (name, len) = (
                    room.bytes.as_mut_ptr().cast::<sockaddr>(),
                    &raw mut room.len,
                );
                (self.raw.recvfrom)(self.raw.userdata, fd, at, length, flags, name, len)
            } else {
                (self.raw.recv)(self.raw.userdata, fd, at, length, flags)
            }
        } as i64)
    }

    /// `write(2)`.
    pub fn write(&self, fd: c_int, buffer: Option<&[u8]>, length: usize) -> Answer {
        let at = pointer(buffer, length);
        // SAFETY: `length` bytes, or null.
        answer(unsafe { (self.raw.write)(self.raw.userdata, fd, at, length) } as i64)
    }

    /// `send(2)`, or `sendto(2)` with an address.
    pub fn send(
        &self,
        fd: c_int,
        buffer: Option<&[u8]>,
        length: usize,
        flags: c_int,
        to: Option<Option<SocketAddr>>,
    ) -> Answer {
        let at = pointer(buffer, length);
        // SAFETY: `length` bytes, or null; the address lives over the call.
        answer(unsafe {
            match to {
                None => (self.raw.send)(self.raw.userdata, fd, at, length, flags),
                Some(to) => {
                    let to = to.map_or(Address::unspecified(), Address::new);
                    (self.raw.sendto)(self.raw.userdata, fd, at, length, flags, to.at(), to.len)
                }
            }
        } as i64)
    }

    /// `readv(2)` and `writev(2)`.
    pub fn vectors(&self, fd: c_int, buffers: &mut [Vec<u8>], writes: bool) -> Answer {
        let vectors = vectors(buffers);
        let count = vectors.len() as c_int;
        // SAFETY: the vectors point to buffers that live over the call.
        answer(unsafe {
            if writes {
                (self.raw.writev)(self.raw.userdata, fd, vectors.as_ptr(), count)
            } else {
                (self.raw.readv)(self.raw.userdata, fd, vectors.as_ptr(), count)
            }
        } as i64)
    }

    /// `sendmsg(2)`.
    pub fn sendmsg(&self, fd: c_int, message: &mut Message, flags: c_int) -> Answer {
        let mut vectors = vectors(&mut message.buffers);
        let address = message.to.map(Address::new);
        let mut header = header(&mut vectors);
        if let Some(address) = &address {
            header.msg_name = address.at().cast_mut().cast();
            header.msg_namelen = address.len;
        }
        // SAFETY: the header points to vectors, buffers and an address that live over the call.
        answer(
            unsafe { (self.raw.sendmsg)(self.raw.userdata, fd, &raw const header, flags) } as i64,
        )
    }

    /// `recvmsg(2)`.
    pub fn recvmsg(&self, fd: c_int, message: &mut Message, flags: c_int) -> Answer {
        let mut vectors = vectors(&mut message.buffers);
        // Aligned as control messages want it.
        let mut control = [0u64; 32];
        let mut header = header(&mut vectors);
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        // SAFETY: the header points to vectors, buffers and control room that live over the call.
        let count = unsafe { (self.raw.recvmsg)(self.raw.userdata, fd, &raw mut header, flags) };
        message.flags = header.msg_flags;
        message.control.clear();
        if count >= 0 {
            // SAFETY: the callee has set the header's lengths, and each message is within them.
            unsafe {
                let mut place = libc::CMSG_FIRSTHDR(&raw const header);
                while !place.is_null() {
                    let length = (*place).cmsg_len - libc::CMSG_LEN(0) as usize;
                    let bytes = std::slice::from_raw_parts(libc::CMSG_DATA(place), length);
                    message
                        .control
                        .push(((*place).cmsg_level, (*place).cmsg_type, bytes.to_vec()));
                    place = libc::CMSG_NXTHDR(&raw const header, place);
                }
            }
        }
        answer(count as i64)
    }

    /// `fcntl(2)`.
    pub fn fcntl(&self, fd: c_int, command: c_int, argument: c_int) -> Answer {
        // SAFETY: numbers only.
        answer(unsafe { (self.raw.fcntl)(self.raw.userdata, fd, command, argument) }.into())
    }

    /// `ioctl(2)` with a number to fill in.
    pub fn ioctl(&self, fd: c_int, request: u64, value: &mut c_int) -> Answer {
        // SAFETY: the number lives over the call.
        answer(unsafe { (self.raw.ioctl)(self.raw.userdata, fd, request, value) }.into())
    }

    /// `close(2)`.
    pub fn close(&self, fd: c_int) -> Answer {
        // SAFETY: numbers only.
        answer(unsafe { (self.raw.close)(self.raw.userdata, fd) }.into())
    }

    /// `shutdown(2)`.
    pub fn shutdown(&self, fd: c_int, how: c_int) -> Answer {
        // SAFETY: numbers only.
        answer(unsafe { (self.raw.shutdown)(self.raw.userdata, fd, how) }.into())
    }

    /// `getsockopt(2)`: fills `value` and returns how much of it.
    pub fn getsockopt(&self, fd: c_int, level: c_int, name: c_int, value: &mut [u8]) -> Answer {
        let mut length = value.len() as socklen_t;
        // SAFETY: `length` bytes of room.
        let status = unsafe {
            let at = value.as_mut_ptr().cast();
            (self.raw.getsockopt)(self.raw.userdata, fd, level, name, at, &raw mut length)
        };
        answer(status.into()).map(|_| length.into())
    }

    /// `setsockopt(2)`.
    pub fn setsockopt(&self, fd: c_int, level: c_int, name: c_int, value: &[u8]) -> Answer {
        // SAFETY: the value lives over the call, and its length is right.
        answer(
            unsafe {
                let (at, length) = (value.as_ptr().cast(), value.len() as socklen_t);
                (self.raw.setsockopt)(self.raw.userdata, fd, level, name, at, length)
            }
            .into(),
        )
    }

    /// `poll(2)`: `(fd, asked, found)`.
    pub fn poll(&self, fds: &mut [(c_int, i16, i16)], timeout: c_int) -> Answer {
        let one = |(fd, events, _): &(c_int, i16, i16)| pollfd {
            fd: *fd,
            events: *events,
            revents: 0,
        };
        let mut raw: Vec<pollfd> = fds.iter().map(one).collect();
        // SAFETY: the list lives over the call, and its length is right.
        let count = unsafe {
            (self.raw.poll)(
                self.raw.userdata,
                raw.as_mut_ptr(),
                raw.len() as libc::nfds_t,
                timeout,
            )
        };
        for (one, raw) in fds.iter_mut().zip(&raw) {
            one.2 = raw.revents;
        }
        answer(count.into())
    }

    /// `epoll_create(2)`.
    pub fn epoll_create(&self, size: c_int) -> Answer {
        // SAFETY: numbers only.
        answer(unsafe { (self.raw.epoll_create)(self.raw.userdata, size) }.into())
    }

    /// `epoll_ctl(2)`.
    pub fn epoll_ctl(
        &self,
        epoll: c_int,
        operation: c_int,
        fd: c_int,
        events: u32,
        data: u64,
    ) -> Answer {
        let mut event = epoll_event { events, u64: data };
        // SAFETY: the event lives over the call.
        answer(
            unsafe {
                (self.raw.epoll_ctl)(self.raw.userdata, epoll, operation, fd, &raw mut event)
            }
            .into(),
        )
    }

    /// `epoll_wait(2)`: the events as bits and data.
    pub fn epoll_wait(
        &self,
        epoll: c_int,
        most: c_int,
        timeout: c_int,
    ) -> (Answer, Vec<(u32, u64)>) {
        let room = usize::try_from(most).unwrap_or(0);
        let mut events = vec![epoll_event { events: 0, u64: 0 }; room];
        // SAFETY: room for `most` events.
        let count = unsafe {
            (self.raw.epoll_wait)(self.raw.userdata, epoll, events.as_mut_ptr(), most, timeout)
        };
        events.truncate(usize::try_from(count).unwrap_or(0));
        let found = events
            .iter()
            .map(|event| (event.events, event.u64))
            .collect();
        (answer(count.into()), found)
    }

    /// `pipe(2)`.
    pub fn pipe(&self) -> (Answer, [c_int; 2]) {
        let mut ends = [-1; 2];
        // SAFETY: room for two numbers.
        let status = unsafe { (self.raw.pipe)(self.raw.userdata, ends.as_mut_ptr()) };
        (answer(status.into()), ends)
    }

    /// `splice(2)` without offsets.
    pub fn splice(&self, from: c_int, to: c_int, length: usize, flags: u32) -> Answer {
        let none = std::ptr::null_mut;
        // SAFETY: null offsets are allowed.
        answer(
            unsafe {
                (self.raw.splice)(self.raw.userdata, from, none(), to, none(), length, flags)
            }
            .into(),
        )
    }

    /// Injects a datagram.
    pub fn netdev_send(&self, datagram: &[u8]) -> Answer {
        // SAFETY: the bytes live over the call.
        answer(
            unsafe {
                (self.raw.netdev_send)(self.raw.userdata, datagram.as_ptr().cast(), datagram.len())
            }
            .into(),
        )
    }

    /// The stack's next datagram with its time; empty if none will come.
    pub fn netdev_receive(&self) -> Result<(Vec<u8>, i64), i32> {
        let mut room = vec![0u8; 65_536];
        let (mut length, mut at_us) = (room.len(), 0);
        // SAFETY: `length` bytes of room, and places for both numbers.
        let status = unsafe {
            let at = room.as_mut_ptr().cast();
            (self.raw.netdev_receive)(self.raw.userdata, at, &raw mut length, &raw mut at_us)
        };
        answer(status.into())?;
        room.truncate(length);
        Ok((room, at_us))
    }

    /// Lets time pass.
    pub fn usleep(&self, microseconds: u32) {
        // SAFETY: numbers only.
        unsafe { (self.raw.usleep)(self.raw.userdata, microseconds) };
    }

    /// The clock, in microseconds.
    pub fn now_us(&self) -> i64 {
        let mut time = timeval {
            tv_sec: 0,
            tv_usec: 0,
        };
        // SAFETY: a place for the time; no zone is asked for.
        unsafe {
            (self.raw.gettimeofday)(self.raw.userdata, &raw mut time, std::ptr::null_mut());
        }
        time.tv_sec * 1_000_000 + time.tv_usec
    }
}

fn pointer(buffer: Option<&[u8]>, length: usize) -> *const c_void {
    buffer.map_or(std::ptr::null(), |buffer| {
        assert!(buffer.len() >= length, "the buffer is as long as is said");
        buffer.as_ptr().cast()
    })
}

fn pointer_mut(buffer: Option<&mut [u8]>, length: usize) -> *mut c_void {
    buffer.map_or(std::ptr::null_mut(), |buffer| {
        assert!(buffer.len() >= length, "the buffer is as long as is said");
        buffer.as_mut_ptr().cast()
    })
}

fn vectors(buffers: &mut [Vec<u8>]) -> Vec<iovec> {
    let one = |buffer: &mut Vec<u8>| iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    buffers.iter_mut().map(one).collect()
}

fn header(vectors: &mut [iovec]) -> msghdr {
    // SAFETY: null pointers and zero lengths are a header of nothing.
    let mut header: msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = vectors.as_mut_ptr();
    header.msg_iovlen = vectors.len();
    header
}

/// A `sockaddr` of either family.
struct Address {
    bytes: [u8; 28],
    len: socklen_t,
}

impl Address {
    fn empty() -> Self {
        Self {
            bytes: [0; 28],
            len: 28,
        }
    }

    fn unspecified() -> Self {
        Self {
            bytes: [0; 28],
            len: 16,
        }
    }

    fn new(address: SocketAddr) -> Self {
        let mut bytes = [0; 28];
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let (family, len) = match address.ip() {
            IpAddr::V4(ip) => {
                bytes[4..8].copy_from_slice(&ip.octets());
                (libc::AF_INET, 16)
            }
            IpAddr::V6(ip) => {
                bytes[8..24].copy_from_slice(&ip.octets());
                (libc::AF_INET6, 28)
            }
        };
        bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        Self { bytes, len }
    }

    fn at(&self) -> *const sockaddr {
        self.bytes.as_ptr().cast()
    }

    fn decode(&self) -> Option<SocketAddr> {
        let port = u16::from_be_bytes([self.bytes[2], self.bytes[3]]);
        let family = i32::from(u16::from_ne_bytes([self.bytes[0], self.bytes[1]]));
        let ip = match family {
            libc::AF_INET => {
                let octets: [u8; 4] = self.bytes[4..8].try_into().ok()?;
                IpAddr::from(octets)
            }
            libc::AF_INET6 => {
                let octets: [u8; 16] = self.bytes[8..24].try_into().ok()?;
                IpAddr::from(octets)
            }
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    }
}
