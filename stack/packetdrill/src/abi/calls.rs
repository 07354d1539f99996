//! The functions of the table, but for those that move bytes of a stream.

use std::ffi::{c_int, c_void};

use libc::{epoll_event, pollfd, size_t, sockaddr, socklen_t, timeval, useconds_t};
use nix::errno::Errno;

use super::memory::{self, Address};
use super::{answer, gate};
use crate::gate::Gate;
use crate::sockets::{EpollEvent, How};

/// What a blocking call on a descriptor gives: `EAGAIN` instead of waiting if it must not, or if it would for ever.
pub(super) fn attempt<R>(
    gate: &Gate,
    may_wait: bool,
    mut call: impl FnMut(&mut crate::machine::Machine) -> Result<Option<R>, Errno>,
) -> Result<R, Errno> {
    if may_wait {
        let done = gate.call_blocking(|machine| call(machine).transpose());
        done.unwrap_or(Err(Errno::EAGAIN))
    } else {
        gate.call(call)?.ok_or(Errno::EAGAIN)
    }
}

pub(super) fn is_nonblocking(gate: &Gate, fd: c_int) -> bool {
    gate.call(|machine| machine.sockets().is_nonblocking(fd))
}

pub(super) unsafe extern "C" fn free(userdata: *mut c_void) {
    // SAFETY: the pointer came from a box, and the caller calls nothing of the table afterwards.
    let gate = unsafe { Box::from_raw(userdata.cast::<Gate>()) };
    answer((), || {
        drop(gate);
        Ok(())
    });
}

pub(super) unsafe extern "C" fn socket(
    userdata: *mut c_void,
    domain: c_int,
    kind: c_int,
    protocol: c_int,
) -> c_int {
    answer(-1, || {
        // SAFETY: the table's own `userdata`.
        let gate = unsafe { gate(userdata) };
        gate.call(|machine| machine.call(|sockets, _| sockets.socket_new(domain, kind, protocol)))
    })
}

pub(super) unsafe extern "C" fn bind(
    userdata: *mut c_void,
    fd: c_int,
    address: *const sockaddr,
    length: socklen_t,
) -> c_int {
    answer(-1, || {
        // SAFETY: the table's own `userdata`, and an address as bind(2) wants it.
        let (gate, address) = unsafe { (gate(userdata), memory::address(address, length)?) };
        let Address::Ip(address) = address else {
            return Err(Errno::EAFNOSUPPORT);
        };
        gate.call(|machine| machine.call(|sockets, _| sockets.bind(fd, address)))?;
        Ok(0)
    })
}

pub(super) unsafe extern "C" fn listen(userdata: *mut c_void, fd: c_int, backlog: c_int) -> c_int {
    answer(-1, || {
        // SAFETY: the table's own `userdata`.
        let gate = unsafe { gate(userdata) };
        gate.call(|machine| machine.call(|sockets, cx| sockets.listen(cx, fd, backlog)))?;
        Ok(0)
    })
}

pub(super) unsafe extern "C" fn accept(
    userdata: *mut c_void,
    fd: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
) -> c_int {
    answer(-1, || {
        // SAFETY: the table's own `userdata`.
        let gate = unsafe { gate(userdata) };
        let may_wait = !is_nonblocking(gate, fd);
        let (fd, peer) = attempt(gate, may_wait, |machine| {
            machine.call(|sockets, cx| sockets.accept(cx, fd, 0))
        })?;
        // SAFETY: as accept(2) wants them.
        unsafe { memory::put_address(address, length, peer) }?;
        Ok(fd)
    })
}

/// `connect(2)` to an address, waiting for the handshake unless the socket must not.
pub(super) fn connect_to(gate: &Gate, fd: c_int, address: Address) -> Result<c_int, Errno> {
    let Address::Ip(address) = address else {
        gate.call(|machine| machine.call(|sockets, cx| sockets.disconnect(cx, fd)))?;
        return Ok(0);
    };
    gate.call(|machine| machine.call(|sockets, cx| sockets.connect(cx, fd, address)))?;
    await_handshake(gate, fd)?;
    Ok(0)
}

/// Waits for the handshake that was begun, unless the socket must not.
pub(super) fn await_handshake(gate: &Gate, fd: c_int) -> Result<(), Errno> {
    let may_wait = !is_nonblocking(gate, fd);
    attempt(gate, may_wait, |machine| {
        machine.call(|sockets, _| sockets.connected(fd))
    })
    .map_err(|error| match error {
        Errno::EAGAIN => Errno::EINPROGRESS,
        other => other,
    })
}

pub(super) unsafe extern "C" fn connect(
    userdata: *mut c_void,
    fd: c_int,
    address: *const sockaddr,
    length: socklen_t,
) -> c_int {
    answer(-1, || {
        // SAFETY: the table's own `userdata`, and an address as connect(2) wants it.
        let (gate, address) = unsafe { (gate(userdata), memory::address(address, length)?) };
        connect_to(gate, fd, address)
    })
}

pub(super) unsafe extern "C" fn fcntl(
    userdata: *mut c_void,
    fd: c_int,
    command: c_int,
    argument: c_int,
) -> c_int {
    answer(-1, || {
        // SAFETY: the table's own `userdata`.
        let gate = unsafe { gate(userdata) };
        gate.call(|machine| machine.call(|sockets, _| sockets.control(fd, command, argument)))
    })
}

pub(super) unsafe extern "C" fn ioctl(
    userdata: *mut c_void,
    fd: c_int,
    request: libc::c_ulong,
    value: *mut c_int,
) -> c_int {
    answer(-1, || {
        // SAFETY: the table's own `userdata`; every request that is known has a number as its argument.
        let (gate, value) = unsafe { (gate(userdata), memory::place(value)?) };
        let before = *value;
        *value = gate
            .call(|machine| machine.call(|sockets, cx| sockets.request(cx, fd, request, before)))?;
        Ok(0)
    })
}

pub(super) unsafe extern "C" fn close(userdata: *mut c_void, fd: c_int) -> c_int {
    answer(-1, || {
        // SAFETY: the table's own `userdata`.
        let gate = unsafe { gate(userdata) };
        gate.call(|machine| machine.call(|sockets, cx| sockets.close(cx, fd)))?;
        Ok(0)
    })
}

pub(super) unsafe extern "C" fn shutdown(userdata: *mut c_void, fd: c_int, how: c_int) -> c_int {
    answer(-1, || {
        let how = match how {
            libc::SHUT_RD => How::Read,
            libc::SHUT_WR => How::Write,
            libc::SHUT_RDWR => How::Both,
            _ => return Err(Errno::EINVAL),
        };
        // SAFETY: the table's own `userdata`.
        let gate = unsafe { gate(userdata) };
        gate.call(|machine| machine.call(|sockets, cx| sockets.shutdown(cx, fd, how)))?;
        Ok(0)
    })
}

pub(super) unsafe extern "C" fn getsockopt(
    userdata: *mut c_void,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    length: *mut socklen_t,
) -> c_int {
    answer(-1, || {
        // SAFETY: the table's own `userdata`, and a length as getsockopt(2) wants it.
        let (gate, length) = unsafe { (gate(userdata), memory::place(length)?) };
        let bytes =
            gate.call(|machine| machine.call(|sockets, cx| sockets.option(cx, fd, (level, name))))?;
        let room = (*length as usize).min(bytes.len());
        // SAFETY: `length` says how much room there is.
        unsafe { memory::put(value, &bytes[..room]) }?;
        *length = room as socklen_t;
        Ok(0)
    })
}

pub(super) unsafe extern "C" fn setsockopt(
    userdata: *mut c_void,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    length: socklen_t,
) -> c_int {
    answer(-1, || {
        // SAFETY: the table's own `userdata`, and a value of that length.
        let (gate, value) = unsafe { (gate(userdata), memory::bytes(value, length as usize)?) };
        gate.call(|machine| {
            machine.call(|sockets, cx| sockets.set_option(cx, fd, (level, name), value))
        })?;
        Ok(0)
    })
}

/// Looks until `look` finds something or `timeout` milliseconds of virtual time are over; negative: no limit.
fn wait_for<R>(
    gate: &Gate,
    timeout: c_int,
    mut look: impl FnMut(&mut crate::machine::Machine) -> Result<Option<R>, Errno>,
) -> Result<Option<R>, Errno> {
    if timeout == 0 {
        return gate.call(look);
    }
    let mut end = None;
    let found = gate.call_blocking(|machine| {
        let found = look(machine).transpose();
        if found.is_some() {
            return Some(found);
        }
        let milliseconds = u64::try_from(timeout).ok()?;
        let end = *end.get_or_insert_with(|| {
            machine.wake_after(std::time::Duration::from_millis(milliseconds))
        });
        (machine.now_us() >= end).then_some(None)
    });
    // Without limit and without anything that could come: as if interrupted.
    found.ok_or(Errno::EINTR)?.transpose()
}

pub(super) unsafe extern "C" fn poll(
    userdata: *mut c_void,
    fds: *mut pollfd,
    count: libc::nfds_t,
    timeout: c_int,
) -> c_int {
    answer(-1, || {
        let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
        if count > 0 && fds.is_null() {
            return Err(Errno::EFAULT);
        }
        let fds = if count == 0 {
            &mut []
        } else {
            // SAFETY: not null, and poll(2)'s caller says how many there are.
            unsafe { std::slice::from_raw_parts_mut(fds, count) }
        };
        // SAFETY: the table's own `userdata`.
        let gate = unsafe { gate(userdata) };
        let asked: Vec<_> = fds.iter().map(|one| (one.fd, one.events)).collect();
        let found = wait_for(gate, timeout, |machine| {
            let found = machine.call(|sockets, cx| sockets.poll(cx, &asked));
            Ok(found.iter().any(|bits| *bits != 0).then_some(found))
        })?;
        let found = found.unwrap_or_else(|| vec![0; fds.len()]);
        for (one, bits) in fds.iter_mut().zip(&found) {
            one.revents = *bits;
        }
        Ok(found.iter().filter(|bits| **bits != 0).count() as c_int)
    })
}

pub(super) unsafe extern "C" fn netdev_send(
    userdata: *mut c_void,
    datagram: *const c_void,
    length: size_t,
) -> c_int {
    answer(-1, || {
        // SAFETY: the table's own `userdata`, and a datagram of that length.
        let (gate, datagram) = unsafe { (gate(userdata), memory::bytes(datagram, length)?) };
        gate.inject(datagram).map_err(|error| {
            eprintln!("libbywash_packetdrill: {error}");
            Errno::EMSGSIZE
        })?;
        Ok(0)
    })
}

/// A datagram that never comes is told as one of no bytes: packetdrill then fails the script, where any error
/// would make it ask again for ever.
pub(super) unsafe extern "C" fn netdev_receive(
    userdata: *mut c_void,
    room: *mut c_void,
    length: *mut size_t,
    at_us: *mut i64,
) -> c_int {
    answer(-1, || {
        // SAFETY: the table's own `userdata`, and places for the length and the time.
        let (gate, length, at_us) = unsafe {
            (
                gate(userdata),
                memory::place(length)?,
                memory::place(at_us)?,
            )
        };
        let Some(emitted) = gate.receive() else {
            eprintln!("libbywash_packetdrill: no packet: the stack has nothing more to send");
            *length = 0;
            *at_us = gate.read_clock();
            return Ok(0);
        };
        let take = emitted.datagram.len().min(*length);
        // SAFETY: `length` said how much room there is.
        unsafe { memory::put(room, &emitted.datagram[..take]) }?;
        *length = take;
        *at_us = emitted.at_us;
        Ok(0)
    })
}

pub(super) unsafe extern "C" fn usleep(userdata: *mut c_void, microseconds: useconds_t) -> c_int {
    answer(-1, || {
        // SAFETY: the table's own `userdata`.
        unsafe { gate(userdata) }.sleep(microseconds.into());
        Ok(0)
    })
}

pub(super) unsafe extern "C" fn gettimeofday(
    userdata: *mut c_void,
    time: *mut timeval,
    _zone: *mut c_void,
) -> c_int {
    answer(-1, || {
        // SAFETY: the table's own `userdata`, and a place for the time.
        let (gate, time) = unsafe { (gate(userdata), memory::place(time)?) };
        let now = gate.read_clock();
        time.tv_sec = now / 1_000_000;
        time.tv_usec = now % 1_000_000;
        Ok(0)
    })
}

pub(super) unsafe extern "C" fn epoll_create(userdata: *mut c_void, size: c_int) -> c_int {
    answer(-1, || {
        if size <= 0 {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the table's own `userdata`.
        let gate = unsafe { gate(userdata) };
        gate.call(|machine| machine.call(|sockets, _| sockets.epoll_new()))
    })
}

pub(super) unsafe extern "C" fn epoll_ctl(
    userdata: *mut c_void,
    epoll: c_int,
    operation: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    answer(-1, || {
        let asked = if event.is_null() {
            if operation != libc::EPOLL_CTL_DEL {
                return Err(Errno::EFAULT);
            }
            EpollEvent { events: 0, data: 0 }
        } else {
            // SAFETY: not null, and the caller's event; the structure is packed on x86, so it is read whole.
            let event = unsafe { event.read_unaligned() };
            EpollEvent {
                events: event.events,
                data: event.u64,
            }
        };
        // SAFETY: the table's own `userdata`.
        let gate = unsafe { gate(userdata) };
        gate.call(|machine| {
            machine.call(|sockets, _| sockets.epoll_control(epoll, operation, fd, asked))
        })?;
        Ok(0)
    })
}

pub(super) unsafe extern "C" fn epoll_wait(
    userdata: *mut c_void,
    epoll: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout: c_int,
) -> c_int {
    answer(-1, || {
        let most = usize::try_from(most).map_err(|_| Errno::EINVAL)?;
        if most == 0 {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the table's own `userdata`.
        let gate = unsafe { gate(userdata) };
        let found = wait_for(gate, timeout, |machine| {
            let found = machine.call(|sockets, cx| sockets.epoll_events(cx, epoll, most))?;
            Ok((!found.is_empty()).then_some(found))
        })?
        .unwrap_or_default();
        if !found.is_empty() && events.is_null() {
            return Err(Errno::EFAULT);
        }
        for (place, event) in found.iter().enumerate() {
            let event = epoll_event {
                events: event.events,
                u64: event.data,
            };
            // SAFETY: not null, and `place` is below `most`, for which the caller has room.
            unsafe { events.add(place).write_unaligned(event) };
        }
        Ok(found.len() as c_int)
    })
}

pub(super) unsafe extern "C" fn pipe(userdata: *mut c_void, ends: *mut c_int) -> c_int {
    answer(-1, || {
        // SAFETY: the table's own `userdata`; pipe(2) wants room for two numbers.
        let (gate, ends) = unsafe { (gate(userdata), memory::place(ends.cast::<[c_int; 2]>())?) };
        *ends = gate.call(|machine| machine.call(|sockets, _| sockets.pipe_new()))?;
        Ok(0)
    })
}
