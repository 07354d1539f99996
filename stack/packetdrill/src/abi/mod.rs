//! packetdrill's plug-in interface: a table of C functions, filled once.
//!
//! The shape of the table is packetdrill's own (`packetdrill_interface`, 33 pointers); each function takes the table's
//! `userdata` first and answers as POSIX says, -1 with libc's `errno` on failure. All `unsafe` of the crate that touches
//! memory of the caller is in this folder: [`memory`](self) turns raw pointers into slices and addresses, `calls` and
//! `streams` are the functions themselves, and everything behind them is safe code.
//!
//! `fcntl` and `ioctl` are variadic in C. A function that takes the one further argument as fixed is called in the same way
//! on the platforms of Linux, whose variadic arguments travel like others.
#![allow(
    unsafe_code,
    reason = "the C side of the wall; each block says what it relies on"
)]

mod calls;
mod memory;
mod streams;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use libc::{
    epoll_event, iovec, loff_t, msghdr, pollfd, size_t, sockaddr, socklen_t, ssize_t, timeval,
    useconds_t,
};
use nix::errno::Errno;

use crate::flags::Flags;
use crate::gate::Gate;
use crate::machine::Machine;

/// `struct packetdrill_interface`.
#[repr(C)]
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the fields are POSIX's calls by their names")]
pub struct PacketdrillInterface {
    pub userdata: *mut c_void,
    pub free: unsafe extern "C" fn(*mut c_void),
    pub socket: unsafe extern "C" fn(*mut c_void, c_int, c_int, c_int) -> c_int,
    pub bind: unsafe extern "C" fn(*mut c_void, c_int, *const sockaddr, socklen_t) -> c_int,
    pub listen: unsafe extern "C" fn(*mut c_void, c_int, c_int) -> c_int,
    pub accept: unsafe extern "C" fn(*mut c_void, c_int, *mut sockaddr, *mut socklen_t) -> c_int,
    pub connect: unsafe extern "C" fn(*mut c_void, c_int, *const sockaddr, socklen_t) -> c_int,
    pub read: unsafe extern "C" fn(*mut c_void, c_int, *mut c_void, size_t) -> ssize_t,
    pub readv: unsafe extern "C" fn(*mut c_void, c_int, *const iovec, c_int) -> ssize_t,
    pub recv: unsafe extern "C" fn(*mut c_void, c_int, *mut c_void, size_t, c_int) -> ssize_t,
    pub recvfrom: unsafe extern "C" fn(
        *mut c_void,
        c_int,
        *mut c_void,
        size_t,
        c_int,
        *mut sockaddr,
        *mut socklen_t,
    ) -> ssize_t,
    pub recvmsg: unsafe extern "C" fn(*mut c_void, c_int, *mut msghdr, c_int) -> ssize_t,
    pub write: unsafe extern "C" fn(*mut c_void, c_int, *const c_void, size_t) -> ssize_t,
    pub writev: unsafe extern "C" fn(*mut c_void, c_int, *const iovec, c_int) -> ssize_t,
    pub send: unsafe extern "C" fn(*mut c_void, c_int, *const c_void, size_t, c_int) -> ssize_t,
    pub sendto: unsafe extern "C" fn(
        *mut c_void,
        c_int,
        *const c_void,
        size_t,
        c_int,
        *const sockaddr,
        socklen_t,
    ) -> ssize_t,
    pub sendmsg: unsafe extern "C" fn(*mut c_void, c_int, *const msghdr, c_int) -> ssize_t,
    pub fcntl: unsafe extern "C" fn(*mut c_void, c_int, c_int, c_int) -> c_int,
    pub ioctl: unsafe extern "C" fn(*mut c_void, c_int, libc::c_ulong, *mut c_int) -> c_int,
    pub close: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
    pub shutdown: unsafe extern "C" fn(*mut c_void, c_int, c_int) -> c_int,
    pub getsockopt: unsafe extern "C" fn(
        *mut c_void,
        c_int,
        c_int,
        c_int,
        *mut c_void,
        *mut socklen_t,
    ) -> c_int,
    pub setsockopt:
        unsafe extern "C" fn(*mut c_void, c_int, c_int, c_int, *const c_void, socklen_t) -> c_int,
    pub poll: unsafe extern "C" fn(*mut c_void, *mut pollfd, libc::nfds_t, c_int) -> c_int,
    pub netdev_send: unsafe extern "C" fn(*mut c_void, *const c_void, size_t) -> c_int,
    pub netdev_receive:
        unsafe extern "C" fn(*mut c_void, *mut c_void, *mut size_t, *mut i64) -> c_int,
    pub usleep: unsafe extern "C" fn(*mut c_void, useconds_t) -> c_int,
    pub gettimeofday: unsafe extern "C" fn(*mut c_void, *mut timeval, *mut c_void) -> c_int,
    pub epoll_create: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
    pub epoll_ctl:
        unsafe extern "C" fn(*mut c_void, c_int, c_int, c_int, *mut epoll_event) -> c_int,
    pub epoll_wait:
        unsafe extern "C" fn(*mut c_void, c_int, *mut epoll_event, c_int, c_int) -> c_int,
    pub pipe: unsafe extern "C" fn(*mut c_void, *mut c_int) -> c_int,
    pub splice: unsafe extern "C" fn(
        *mut c_void,
        c_int,
        *mut loff_t,
        c_int,
        *mut loff_t,
        size_t,
        libc::c_uint,
    ) -> c_int,
}

const _: () = assert!(size_of::<PacketdrillInterface>() == 33 * size_of::<usize>());

/// Fills the table. Called once, by the thread that will play the script. Flags that make no sense, and a machine that
/// cannot be made, end the process with a sentence on standard error: there is no way to report them.
///
/// # Safety
/// `flags` is null or a C string; `table` points to a `struct packetdrill_interface`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn packetdrill_interface_init(
    flags: *const c_char,
    table: *mut PacketdrillInterface,
) {
    let text = if flags.is_null() {
        String::new()
    } else {
        // SAFETY: the caller gives a C string.
        unsafe { CStr::from_ptr(flags) }
            .to_string_lossy()
            .into_owned()
    };
    let machine = Flags::parse(&text)
        .map_err(|error| error.to_string())
        .and_then(|flags| Machine::new(&flags).map_err(|error| error.to_string()));
    match machine {
        Ok(machine) => {
            // SAFETY: the caller gives a table to fill; no old value in it is read or dropped.
            unsafe { table.write(fill(Box::into_raw(Box::new(Gate::new(machine))))) };
        }
        Err(error) => {
            eprintln!("libbywash_packetdrill: {error}");
            std::process::exit(1);
        }
    }
}

fn fill(gate: *mut Gate) -> PacketdrillInterface {
    PacketdrillInterface {
        userdata: gate.cast(),
        free: calls::free,
        socket: calls::socket,
        bind: calls::bind,
        listen: calls::listen,
        accept: calls::accept,
        connect: calls::connect,
        read: streams::read,
        readv: streams::readv,
        recv: streams::recv,
        recvfrom: streams::recvfrom,
        recvmsg: streams::recvmsg,
        write: streams::write,
        writev: streams::writev,
        send: streams::send,
        sendto: streams::sendto,
        sendmsg: streams::sendmsg,
        fcntl: calls::fcntl,
        ioctl: calls::ioctl,
        close: calls::close,
        shutdown: calls::shutdown,
        getsockopt: calls::getsockopt,
        setsockopt: calls::setsockopt,
        poll: calls::poll,
        netdev_send: calls::netdev_send,
        netdev_receive: calls::netdev_receive,
        usleep: calls::usleep,
        gettimeofday: calls::gettimeofday,
        epoll_create: calls::epoll_create,
        epoll_ctl: calls::epoll_ctl,
        epoll_wait: calls::epoll_wait,
        pipe: calls::pipe,
        splice: streams::splice,
    }
}

/// The gate behind `userdata`.
///
/// # Safety
/// `userdata` is what `packetdrill_interface_init` stored, and `free` was not called.
unsafe fn gate<'a>(userdata: *mut c_void) -> &'a Gate {
    // SAFETY: it is a `Box<Gate>` turned into a pointer, and only `free` turns it back.
    unsafe { &*userdata.cast::<Gate>() }
}

/// Runs the body of a call: its error goes into `errno`, a panic must not unwind into C.
fn answer<T>(failed: T, body: impl FnOnce() -> Result<T, Errno>) -> T {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            error.set();
            failed
        }
        Err(_) => {
            // The panic's own message is on standard error already.
            Errno::EIO.set();
            failed
        }
    }
}
