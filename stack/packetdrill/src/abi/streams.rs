//! The functions of the table that move bytes: the families of `read`, `write`, and `splice`.

use std::ffi::{c_int, c_void};

use bywash_engine::service::Follows;
use libc::{iovec, loff_t, msghdr, size_t, sockaddr, socklen_t, ssize_t};
use nix::errno::Errno;

use super::calls::{attempt, await_handshake, is_nonblocking};
use super::memory::{self, Address};
use super::{answer, gate};
use crate::gate::Gate;
use crate::sockets::{Copied, Progress, Received, Sending};

/// Control message of `TCP_INQ`, which libc has no name for.
const TCP_CM_INQ: c_int = 36;

/// Reads at most `want` bytes; waits unless socket or flags forbid it.
fn receive(gate: &Gate, fd: c_int, want: usize, flags: c_int) -> Result<Received, Errno> {
    let may_wait = flags & libc::MSG_DONTWAIT == 0 && !is_nonblocking(gate, fd);
    attempt(gate, may_wait, |machine| {
        machine.call(|sockets, cx| sockets.receive(cx, fd, want, flags))
    })
}

/// Writes `bytes`: all of them if it may wait, else what there is room for.
fn transmit(gate: &Gate, fd: c_int, bytes: &[u8], flags: c_int) -> Result<ssize_t, Errno> {
    if let Some(to) = gate.call(|machine| machine.sockets().deferred(fd)) {
        return fast_open(gate, fd, bytes, flags, Address::Ip(to));
    }
    let may_wait = flags & libc::MSG_DONTWAIT == 0 && !is_nonblocking(gate, fd);
    let follows = if flags & libc::MSG_MORE != 0 {
        Follows::More
    } else if flags & libc::MSG_EOR != 0 {
        Follows::Record
    } else {
        Follows::Anything
    };
    let kind = Sending {
        follows,
        urgent: flags & libc::MSG_OOB != 0,
    };
    let mut progress = Progress::default();
    let result = attempt(gate, may_wait, |machine| {
        machine.call(|sockets, cx| sockets.transmit(cx, fd, bytes, kind, &mut progress))
    });
    let done = match result {
        Ok(done) => done,
        // Part of it is on its way: that is a success, and the next call tells the rest.
        Err(_) if progress.done > 0 => progress.done,
        Err(error) => return Err(error),
    };
    note_copied(gate, fd, done, flags)
}

/// The end of a write that took `done` bytes: `MSG_ZEROCOPY` is told that they were copied.
fn note_copied(gate: &Gate, fd: c_int, done: usize, flags: c_int) -> Result<ssize_t, Errno> {
    if flags & libc::MSG_ZEROCOPY != 0 && done > 0 {
        gate.call(|machine| machine.call(|sockets, _| sockets.note_copied(fd)))?;
    }
    Ok(done as ssize_t)
}

pub(super) unsafe extern "C" fn read(
    userdata: *mut c_void,
    fd: c_int,
    buffer: *mut c_void,
    length: size_t,
) -> ssize_t {
    // SAFETY: the same promises.
    unsafe { recv(userdata, fd, buffer, length, 0) }
}

pub(super) unsafe extern "C" fn readv(
    userdata: *mut c_void,
    fd: c_int,
    vectors: *const iovec,
    count: c_int,
) -> ssize_t {
    answer(-1, || {
        let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the table's own `userdata`, and vectors as readv(2) wants them.
        let (gate, vectors) = unsafe { (gate(userdata), memory::vectors(vectors, count)?) };
        let want = vectors.iter().map(|vector| vector.iov_len).sum();
        let received = receive(gate, fd, want, 0)?;
        // SAFETY: the vectors' bytes can be written.
        unsafe { memory::scatter(vectors, &received.bytes) }?;
        Ok(received.counted as ssize_t)
    })
}

pub(super) unsafe extern "C" fn recv(
    userdata: *mut c_void,
    fd: c_int,
    buffer: *mut c_void,
    length: size_t,
    flags: c_int,
) -> ssize_t {
    answer(-1, || {
        // SAFETY: the table's own `userdata`.
        let gate = unsafe { gate(userdata) };
        if buffer.is_null() && length > 0 && flags & libc::MSG_TRUNC == 0 {
            return Err(Errno::EFAULT);
        }
        let received = receive(gate, fd, length, flags)?;
        // SAFETY: at most `length` bytes were asked for.
        unsafe { memory::put(buffer, &received.bytes) }?;
        Ok(received.counted as ssize_t)
    })
}

pub(super) unsafe extern "C" fn recvfrom(
    userdata: *mut c_void,
    fd: c_int,
    buffer: *mut c_void,
    length: size_t,
    flags: c_int,
    _address: *mut sockaddr,
    address_length: *mut socklen_t,
) -> ssize_t {
    // SAFETY: the same promises.
    let count = unsafe { recv(userdata, fd, buffer, length, flags) };
    // SAFETY: null, or a place for the length. TCP tells no address here.
    let length = unsafe { memory::place(address_length) };
    if count >= 0
        && let Ok(length) = length
    {
        *length = 0;
    }
    count
}

pub(super) unsafe extern "C" fn recvmsg(
    userdata: *mut c_void,
    fd: c_int,
    message: *mut msghdr,
    flags: c_int,
) -> ssize_t {
    answer(-1, || {
        // SAFETY: the table's own `userdata`, and a message as recvmsg(2) wants it.
        let (gate, message) = unsafe { (gate(userdata), memory::place(message)?) };
        // SAFETY: the message's vectors.
        let vectors = unsafe { memory::vectors(message.msg_iov, message.msg_iovlen) }?;
        let want = vectors.iter().map(|vector| vector.iov_len).sum();
        let received = receive(gate, fd, want, flags)?;
        // SAFETY: the vectors' bytes can be written.
        unsafe { memory::scatter(vectors, &received.bytes) }?;
        message.msg_namelen = 0;
        message.msg_flags = 0;
        let told = match (received.copied, received.left) {
            (Some(copied), _) => {
                message.msg_flags |= libc::MSG_ERRQUEUE;
                Some(completion(copied))
            }
            (None, Some(left)) => {
                let left = i32::try_from(left).unwrap_or(i32::MAX);
                Some((libc::SOL_TCP, TCP_CM_INQ, left.to_ne_bytes().to_vec()))
            }
            (None, None) => None,
        };
        // SAFETY: the message's room for control data.
        unsafe { put_control(message, told) };
        Ok(received.counted as ssize_t)
    })
}

/// What the error queue says of writes that are done: `struct sock_extended_err`, and room for an address, as Linux has it.
fn completion(copied: Copied) -> (c_int, c_int, Vec<u8>) {
    const ORIGIN_ZEROCOPY: u8 = 5;
    const CODE_ZEROCOPY_COPIED: u8 = 1;
    let (level, name, address) = if copied.v6 {
        (libc::SOL_IPV6, libc::IPV6_RECVERR, 28)
    } else {
        (libc::SOL_IP, libc::IP_RECVERR, 16)
    };
    let mut bytes = vec![0, 0, 0, 0, ORIGIN_ZEROCOPY, 0, CODE_ZEROCOPY_COPIED, 0];
    bytes.extend(copied.first.to_ne_bytes());
    bytes.extend(copied.last.to_ne_bytes());
    bytes.resize(bytes.len() + address, 0);
    (level, name, bytes)
}

/// Gives a control message of a level, a type and its bytes, if there is one, and if there is room.
///
/// # Safety
/// `msg_control` has room for `msg_controllen` bytes.
unsafe fn put_control(message: &mut msghdr, told: Option<(c_int, c_int, Vec<u8>)>) {
    let given = message.msg_controllen;
    message.msg_controllen = 0;
    let Some((level, name, bytes)) = told else {
        return;
    };
    let size = bytes.len() as libc::c_uint;
    // SAFETY: arithmetic on lengths only.
    let (space, len) = unsafe {
        (
            libc::CMSG_SPACE(size) as usize,
            libc::CMSG_LEN(size) as usize,
        )
    };
    if message.msg_control.is_null() || given < space {
        message.msg_flags |= libc::MSG_CTRUNC;
        return;
    }
    message.msg_controllen = space;
    // SAFETY: the room is there, so there is a first header and the bytes behind it.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = name;
        (*header).cmsg_len = len;
        libc::CMSG_DATA(header).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
    }
}

pub(super) unsafe extern "C" fn write(
    userdata: *mut c_void,
    fd: c_int,
    buffer: *const c_void,
    length: size_t,
) -> ssize_t {
    // SAFETY: the same promises.
    unsafe { send(userdata, fd, buffer, length, 0) }
}

pub(super) unsafe extern "C" fn writev(
    userdata: *mut c_void,
    fd: c_int,
    vectors: *const iovec,
    count: c_int,
) -> ssize_t {
    answer(-1, || {
        let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the table's own `userdata`, and vectors as writev(2) wants them.
        let (gate, vectors) = unsafe { (gate(userdata), memory::vectors(vectors, count)?) };
        // SAFETY: the vectors' bytes can be read.
        transmit(gate, fd, &unsafe { memory::gather(vectors) }?, 0)
    })
}

pub(super) unsafe extern "C" fn send(
    userdata: *mut c_void,
    fd: c_int,
    buffer: *const c_void,
    length: size_t,
    flags: c_int,
) -> ssize_t {
    answer(-1, || {
        // SAFETY: the table's own `userdata`, and a buffer of that length.
        let (gate, bytes) = unsafe { (gate(userdata), memory::bytes(buffer, length)?) };
        transmit(gate, fd, bytes, flags)
    })
}

pub(super) unsafe extern "C" fn sendto(
    userdata: *mut c_void,
    fd: c_int,
    buffer: *const c_void,
    length: size_t,
    flags: c_int,
    address: *const sockaddr,
    address_length: socklen_t,
) -> ssize_t {
    answer(-1, || {
        // SAFETY: the table's own `userdata`, and a buffer of that length.
        let (gate, bytes) = unsafe { (gate(userdata), memory::bytes(buffer, length)?) };
        if flags & libc::MSG_FASTOPEN != 0 {
            if address.is_null() {
                return Err(Errno::EINVAL);
            }
            // SAFETY: an address as sendto(2) wants it.
            let to = unsafe { memory::address(address, address_length) }?;
            return fast_open(gate, fd, bytes, flags, to);
        }
        transmit(gate, fd, bytes, flags)
    })
}

pub(super) unsafe extern "C" fn sendmsg(
    userdata: *mut c_void,
    fd: c_int,
    message: *const msghdr,
    flags: c_int,
) -> ssize_t {
    answer(-1, || {
        // SAFETY: the table's own `userdata`, and a message as sendmsg(2) wants it.
        let (gate, message) = unsafe { (gate(userdata), memory::place(message.cast_mut())?) };
        // SAFETY: the message's vectors, whose bytes can be read.
        let bytes =
            unsafe { memory::gather(memory::vectors(message.msg_iov, message.msg_iovlen)?)? };
        if flags & libc::MSG_FASTOPEN != 0 {
            // SAFETY: the message's address.
            let to = unsafe { memory::address(message.msg_name.cast(), message.msg_namelen) }?;
            return fast_open(gate, fd, &bytes, flags, to);
        }
        transmit(gate, fd, &bytes, flags)
    })
}

/// `sendto` with `MSG_FASTOPEN` (RFC 7413), or the first write after a `connect` that was put off. With a cookie the data goes with
/// the SYN; else the SYN asks for one, and who may not wait writes later.
fn fast_open(
    gate: &Gate,
    fd: c_int,
    bytes: &[u8],
    flags: c_int,
    to: Address,
) -> Result<ssize_t, Errno> {
    if to == Address::Unspecified {
        return Err(Errno::EOPNOTSUPP);
    }
    let Address::Ip(to) = to else {
        return Err(Errno::EAFNOSUPPORT);
    };
    if flags & libc::MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let taken = gate
        .call(|machine| machine.call(|sockets, cx| sockets.connect_with_data(cx, fd, to, bytes)))?;
    let flags = flags & !libc::MSG_FASTOPEN;
    let may_wait = flags & libc::MSG_DONTWAIT == 0 && !is_nonblocking(gate, fd);
    if taken > 0 && (taken == bytes.len() || !may_wait) {
        return note_copied(gate, fd, taken, flags);
    }
    if !may_wait {
        return Err(Errno::EINPROGRESS);
    }
    await_handshake(gate, fd)?;
    transmit(gate, fd, &bytes[taken..], flags).map(|more| more + taken as ssize_t)
}

pub(super) unsafe extern "C" fn splice(
    userdata: *mut c_void,
    from: c_int,
    from_offset: *mut loff_t,
    to: c_int,
    to_offset: *mut loff_t,
    length: size_t,
    flags: libc::c_uint,
) -> c_int {
    answer(-1, || {
        if !from_offset.is_null() || !to_offset.is_null() {
            return Err(Errno::ESPIPE);
        }
        // SAFETY: the table's own `userdata`.
        let gate = unsafe { gate(userdata) };
        let may_wait = flags & libc::SPLICE_F_NONBLOCK == 0
            && !is_nonblocking(gate, from)
            && !is_nonblocking(gate, to);
        let moved = attempt(gate, may_wait, |machine| {
            machine.call(|sockets, cx| sockets.splice(cx, from, to, length))
        })?;
        Ok(c_int::try_from(moved).unwrap_or(c_int::MAX))
    })
}
