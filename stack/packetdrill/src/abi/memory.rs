//! Raw pointers of the caller, and what they point to.
//!
//! Every function here trusts the caller of the plug-in as libc trusts the caller of a system call, with one difference:
//! a null pointer with a length gives `EFAULT` instead of a fault.

use std::ffi::c_void;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use libc::{iovec, sockaddr, sockaddr_in, sockaddr_in6, socklen_t};
use nix::errno::Errno;

/// What `connect` and `sendto` are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// `AF_UNSPEC`: no address, which ends a connection.
    Unspecified,
    Ip(SocketAddr),
}

/// # Safety
/// `length` bytes can be read at `pointer`, unless it is null.
pub(super) unsafe fn bytes<'a>(pointer: *const c_void, length: usize) -> Result<&'a [u8], Errno> {
    if length == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Errno::EFAULT);
    }
    // SAFETY: not null, and the caller says that the bytes are there.
    Ok(unsafe { std::slice::from_raw_parts(pointer.cast(), length) })
}

/// Copies `bytes` to `pointer`.
///
/// # Safety
/// As many bytes can be written at `pointer`, unless it is null.
pub(super) unsafe fn put(pointer: *mut c_void, bytes: &[u8]) -> Result<(), Errno> {
    if bytes.is_empty() {
        return Ok(());
    }
    if pointer.is_null() {
        return Err(Errno::EFAULT);
    }
    // SAFETY: not null, room as the caller says, and `bytes` is memory of ours, not the caller's.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer.cast(), bytes.len()) };
    Ok(())
}

/// # Safety
/// `pointer` points to a `T` to read and write, or is null.
pub(super) unsafe fn place<'a, T>(pointer: *mut T) -> Result<&'a mut T, Errno> {
    // SAFETY: by the caller.
    unsafe { pointer.as_mut() }.ok_or(Errno::EFAULT)
}

/// # Safety
/// `pointer` points to `count` vectors, or is null.
pub(super) unsafe fn vectors<'a>(
    pointer: *const iovec,
    count: usize,
) -> Result<&'a [iovec], Errno> {
    // UIO_MAXIOV of Linux.
    if count > 1024 {
        return Err(Errno::EINVAL);
    }
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Errno::EFAULT);
    }
    // SAFETY: not null, and the caller says that the vectors are there.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// All bytes that the vectors point to, as one.
///
/// # Safety
/// Each vector's bytes can be read.
pub(super) unsafe fn gather(vectors: &[iovec]) -> Result<Vec<u8>, Errno> {
    let mut all = Vec::new();
    for vector in vectors {
        // SAFETY: by the caller.
        all.extend_from_slice(unsafe { bytes(vector.iov_base, vector.iov_len) }?);
    }
    Ok(all)
}

/// Fills the vectors with `data`, in order.
///
/// # Safety
/// Each vector's bytes can be written.
pub(super) unsafe fn scatter(vectors: &[iovec], mut data: &[u8]) -> Result<(), Errno> {
    for vector in vectors {
        let (now, later) = data.split_at(data.len().min(vector.iov_len));
        // SAFETY: by the caller, and `now` is not longer than the vector.
        unsafe { put(vector.iov_base, now) }?;
        data = later;
    }
    Ok(())
}

/// # Safety
/// `length` bytes can be read at `pointer`, unless it is null.
pub(super) unsafe fn address(
    pointer: *const sockaddr,
    length: socklen_t,
) -> Result<Address, Errno> {
    let length = length as usize;
    // SAFETY: by the caller.
    let head = unsafe { bytes(pointer.cast(), length) }?;
    let family = match head {
        [a, b, ..] => i32::from(u16::from_ne_bytes([*a, *b])),
        _ => return Err(Errno::EINVAL),
    };
    match family {
        libc::AF_UNSPEC => Ok(Address::Unspecified),
        libc::AF_INET if length >= size_of::<sockaddr_in>() => {
            // SAFETY: long enough, any bits are a value, and the read does not ask for alignment.
            let v4 = unsafe { pointer.cast::<sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Ok(Address::Ip(SocketAddr::new(
                ip.into(),
                u16::from_be(v4.sin_port),
            )))
        }
        libc::AF_INET6 if length >= size_of::<sockaddr_in6>() => {
            // SAFETY: as above.
            let v6 = unsafe { pointer.cast::<sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Ok(Address::Ip(SocketAddr::new(
                ip.into(),
                u16::from_be(v6.sin6_port),
            )))
        }
        libc::AF_INET | libc::AF_INET6 => Err(Errno::EINVAL),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// An address as the bytes of a `sockaddr_in` or `sockaddr_in6`.
fn encoded(address: SocketAddr) -> Vec<u8> {
    match address {
        SocketAddr::V4(v4) => {
            let mut bytes = (libc::AF_INET as u16).to_ne_bytes().to_vec();
            bytes.extend_from_slice(&v4.port().to_be_bytes());
            bytes.extend_from_slice(&v4.ip().octets());
            bytes.resize(size_of::<sockaddr_in>(), 0);
            bytes
        }
        SocketAddr::V6(v6) => {
            let mut bytes = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
            bytes.extend_from_slice(&v6.port().to_be_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&v6.ip().octets());
            bytes.extend_from_slice(&v6.scope_id().to_ne_bytes());
            bytes
        }
    }
}

/// Stores an address as `accept` and its like do: cut to the room, with the full length told. A null pointer is not asked.
///
/// # Safety
/// `pointer` and `length` are null, or as `accept(2)` wants them.
pub(super) unsafe fn put_address(
    pointer: *mut sockaddr,
    length: *mut socklen_t,
    address: SocketAddr,
) -> Result<(), Errno> {
    if pointer.is_null() {
        return Ok(());
    }
    let bytes = encoded(address);
    // SAFETY: by the caller.
    let length = unsafe { place(length) }?;
    let room = (*length as usize).min(bytes.len());
    // SAFETY: `room` is not more than the caller has said there is.
    unsafe { put(pointer.cast(), &bytes[..room]) }?;
    *length = bytes.len() as socklen_t;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_through_c() {
        for text in ["192.0.2.1:8080", "[fd00::1]:443"] {
            let ip: SocketAddr = text.parse().unwrap();
            let mut room = [0u8; 28];
            let mut length = 28;
            // SAFETY: 28 bytes of room, as `length` says.
            unsafe { put_address(room.as_mut_ptr().cast(), &raw mut length, ip) }.unwrap();
            // SAFETY: `length` bytes were written.
            let back = unsafe { address(room.as_ptr().cast(), length) };
            assert_eq!(back, Ok(Address::Ip(ip)));
        }
        // SAFETY: nothing is read.
        assert_eq!(unsafe { bytes(std::ptr::null(), 1) }, Err(Errno::EFAULT));
    }
}
