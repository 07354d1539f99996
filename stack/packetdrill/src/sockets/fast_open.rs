//! TCP Fast Open (RFC 7413) as Linux's sockets show it: `TCP_FASTOPEN`, `TCP_FASTOPEN_KEY`, `TCP_FASTOPEN_CONNECT`,
//! `TCP_FASTOPEN_NO_COOKIE`, `MSG_FASTOPEN`, and the bits of `net.ipv4.tcp_fastopen`.

use std::net::SocketAddr;
use std::os::fd::RawFd;

use bywash_engine::context::Context;
use bywash_engine::fast_open::{FastOpenKeys, FastOpenServer, KEY_LEN};
use bywash_engine::xsk::Port;
use nix::errno::Errno;

use super::Sockets;
use super::socket::State;

/// Bits of `net.ipv4.tcp_fastopen` (`TFO_CLIENT_ENABLE` and so on in Linux's `include/net/tcp.h`).
const CLIENT: u64 = 1;
const SERVER: u64 = 2;
const WITHOUT_COOKIE: u64 = 0x200;
const EVERY_LISTENER: u64 = 0x400;

/// What Linux starts with.
const DEFAULT: u64 = CLIENT;

/// Option of `SOL_TCP` that libc has no name for.
pub(super) const TCP_FASTOPEN_NO_COOKIE: i32 = 34;

/// The keys of `TCP_FASTOPEN_KEY`: one, or one and the one before.
pub(super) fn keys(value: &[u8]) -> Result<FastOpenKeys, Errno> {
    let (keys, []) = value.as_chunks::<KEY_LEN>() else {
        return Err(Errno::EINVAL);
    };
    match keys {
        [current] => Ok(FastOpenKeys::new(*current, None)),
        [current, previous] => Ok(FastOpenKeys::new(*current, Some(*previous))),
        _ => Err(Errno::EINVAL),
    }
}

impl Sockets {
    fn fast_open_bits(&self) -> u64 {
        self.sysctls.fast_open().unwrap_or(DEFAULT)
    }

    /// Whether active opens may try it.
    pub(super) fn is_fast_open_client(&self) -> bool {
        self.fast_open_bits() & CLIENT != 0
    }

    /// How the listening socket `fd` does it.
    fn fast_open_server(&self, fd: RawFd) -> Result<Option<FastOpenServer>, Errno> {
        let bits = self.fast_open_bits();
        let options = &self.socket(fd)?.options;
        let pending = match options.fast_open_pending() {
            Some(pending) => pending,
            None if bits & EVERY_LISTENER != 0 => FastOpenServer::default().pending,
            None => 0,
        };
        if bits & SERVER == 0 || pending == 0 {
            return Ok(None);
        }
        Ok(Some(FastOpenServer {
            pending,
            keys: options
                .fast_open_keys
                .clone()
                .or_else(|| self.sysctls.fast_open_keys()),
            without_cookie: bits & WITHOUT_COOKIE != 0 || options.fast_open_without_cookie(),
        }))
    }

    /// Tells the stack what options and parameters say, if the socket listens.
    pub(super) fn tune_fast_open<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        fd: RawFd,
    ) -> Result<(), Errno> {
        let server = self.fast_open_server(fd)?;
        if let State::Listening(listening) = &self.socket(fd)?.state {
            cx.set_fast_open(listening.id, server);
        }
        Ok(())
    }

    /// `connect(2)` with `TCP_FASTOPEN_CONNECT`: with a cookie at hand nothing is sent before there is data, and the call has
    /// succeeded. True if it is so.
    pub(super) fn defer<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        fd: RawFd,
        remote: SocketAddr,
    ) -> Result<bool, Errno> {
        let knows = cx.has_fast_open_cookie(remote);
        let socket = self.socket_mut(fd)?;
        let defers = knows && socket.options.fast_open_connect() && socket.deferred.is_none();
        if defers {
            socket.deferred = Some(remote);
        }
        Ok(defers)
    }

    /// `sendto` with `MSG_FASTOPEN`, or the first write after a `connect` that was put off: the SYN with as much of `bytes` as is
    /// taken, if there is a cookie. How much was; 0: there is none, and the SYN asks for it.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if `net.ipv4.tcp_fastopen` forbids it; as [`connect`](Self::connect).
    pub fn connect_with_data<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        fd: RawFd,
        remote: SocketAddr,
        bytes: &[u8],
    ) -> Result<usize, Errno> {
        if !self.is_fast_open_client() {
            return Err(Errno::EOPNOTSUPP);
        }
        if !self.may_connect(fd, remote)? {
            return Err(Errno::EISCONN);
        }
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let knows = cx.has_fast_open_cookie(remote);
        self.socket_mut(fd)?.deferred = None;
        self.open_actively(cx, fd, remote, true)?;
        let Some(conn) = self.socket(fd)?.conn().filter(|_| knows) else {
            return Ok(0);
        };
        cx.send(conn, bytes).map_err(|_| Errno::EPIPE)
    }

    /// The peer of a `connect` that was put off.
    pub fn deferred(&self, fd: RawFd) -> Option<SocketAddr> {
        self.socket(fd).ok()?.deferred
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_16_octets_and_there_may_be_two() {
        assert!(keys(&[1; 16]).is_ok() && keys(&[1; 32]).is_ok());
        for len in [0, 3, 15, 17, 48] {
            assert_eq!(keys(&vec![0; len]), Err(Errno::EINVAL), "{len}");
        }
    }
}
