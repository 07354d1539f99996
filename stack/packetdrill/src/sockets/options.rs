//! getsockopt(2), setsockopt(2), fcntl(2): what a socket was told, and what of it TCP is told.
//!
//! An option that the stack has no use for is remembered and read back, as far as a program can tell no more
//! of it from the kernel either (marks, priorities, buffers that are forced). One whose effect a peer or a program would
//! miss is refused with `ENOPROTOOPT`: nothing is promised in silence.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use bywash_engine::context::Context;
use bywash_engine::fast_open::FastOpenKeys;
use bywash_engine::tcp::time::Duration;
use bywash_engine::tcp::{Config, CongestionControl, KeepAlive};
use bywash_engine::xsk::Port;
use nix::errno::Errno;

use super::Sockets;
use super::fast_open::{self, TCP_FASTOPEN_NO_COOKIE};
use super::socket::{Socket, State};
use super::tcp_info;

/// Options of `SOL_TCP` that libc has no name for.
const TCP_NOTSENT_LOWAT: i32 = 25;
const TCP_INQ: i32 = 36;
const TCP_RTO_MAX_MS: i32 = 44;
const TCP_RTO_MIN_US: i32 = 45;

/// Least values of Linux for SO_RCVBUF and SO_SNDBUF, in the doubled form that getsockopt shows.
const RCVBUF_MIN: i32 = 2304;
const SNDBUF_MIN: i32 = 4608;

/// What was set, in the units of the options.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    /// Plain numbers that are kept and shown, by level and name.
    values: BTreeMap<(i32, i32), i32>,
    /// `SO_LINGER`: seconds.
    pub(super) linger: Option<i32>,
    /// Whether keep-alive is on, and its times, which can be set before.
    pub(super) keep_alive_on: bool,
    pub(super) keep_alive: KeepAlive,
    /// Nagle's rule is off.
    pub(super) nodelay: bool,
    pub(super) cork: bool,
    pub(super) congestion: Option<CongestionControl>,
    /// `TCP_FASTOPEN_KEY`.
    pub(super) fast_open_keys: Option<FastOpenKeys>,
    /// `connect` has returned 0 once.
    pub(super) connect_told: bool,
}

impl Options {
    fn value(&self, level: i32, name: i32) -> Option<i32> {
        self.values.get(&(level, name)).copied()
    }

    /// `SO_RCVLOWAT`, at least one byte.
    pub(super) fn receive_low_water(&self) -> usize {
        let value = self.value(libc::SOL_SOCKET, libc::SO_RCVLOWAT);
        usize::try_from(value.unwrap_or(1)).unwrap_or(1).max(1)
    }

    /// `TCP_NOTSENT_LOWAT`, bytes that may wait unsent while the socket still counts as writable.
    pub(super) fn unsent_low_water(&self) -> Option<u64> {
        let value = self.value(libc::SOL_TCP, TCP_NOTSENT_LOWAT)?;
        // As Linux: the number is unsigned, and 0 means no limit of this socket's own.
        (value != 0).then_some(u64::from(value as u32))
    }

    /// `SO_OOBINLINE`: urgent data stays in the stream.
    pub(super) fn urgent_in_line(&self) -> bool {
        self.value(libc::SOL_SOCKET, libc::SO_OOBINLINE)
            .is_some_and(|on| on != 0)
    }

    /// `TCP_DEFER_ACCEPT`: so many seconds a child waits for its first data before anybody hears of it.
    pub(super) fn deferred(&self) -> Option<u64> {
        let seconds = self.value(libc::SOL_TCP, libc::TCP_DEFER_ACCEPT)?;
        u64::try_from(seconds).ok().filter(|seconds| *seconds > 0)
    }

    /// `SO_ZEROCOPY`: writes with `MSG_ZEROCOPY` tell when their bytes are free again.
    pub(super) fn zerocopy(&self) -> bool {
        self.value(libc::SOL_SOCKET, libc::SO_ZEROCOPY)
            .is_some_and(|on| on != 0)
    }

    /// `TCP_INQ`: `recvmsg` tells how much is left.
    pub(super) fn tells_queue(&self) -> bool {
        self.value(libc::SOL_TCP, TCP_INQ).is_some_and(|on| on != 0)
    }

    /// `TCP_FASTOPEN`: connections that may be open before their handshake has ended.
    pub(super) fn fast_open_pending(&self) -> Option<u32> {
        let value = self.value(libc::SOL_TCP, libc::TCP_FASTOPEN)?;
        u32::try_from(value).ok()
    }

    pub(super) fn fast_open_without_cookie(&self) -> bool {
        self.value(libc::SOL_TCP, TCP_FASTOPEN_NO_COOKIE)
            .is_some_and(|on| on != 0)
    }

    /// `TCP_FASTOPEN_CONNECT`.
    pub(super) fn fast_open_connect(&self) -> bool {
        self.value(libc::SOL_TCP, libc::TCP_FASTOPEN_CONNECT)
            .is_some_and(|on| on != 0)
    }

    /// Makes TCP's settings of it.
    fn apply(&self, config: &mut Config) {
        config.nagle = !self.nodelay;
        config.keep_alive = self.keep_alive_on.then_some(self.keep_alive);
        let number = |level, name| {
            let value = self.value(level, name)?;
            u64::try_from(value).ok().filter(|value| *value > 0)
        };
        if let Some(bytes) = number(libc::SOL_SOCKET, libc::SO_RCVBUF) {
            // Half of the (doubled) buffer is for data, as with tcp_adv_win_scale = 1.
            config.receive_buffer = usize::try_from(bytes / 2).unwrap_or(usize::MAX);
            // Who sets a size gets that size.
            config.receive_buffer_max = 0;
        }
        if let Some(bytes) = number(libc::SOL_SOCKET, libc::SO_SNDBUF) {
            config.send_buffer = usize::try_from(bytes).unwrap_or(usize::MAX);
        }
        if let Some(bytes) = number(libc::SOL_TCP, libc::TCP_MAXSEG) {
            config.mss = u16::try_from(bytes).unwrap_or(u16::MAX);
        }
        if let Some(milliseconds) = number(libc::SOL_TCP, libc::TCP_USER_TIMEOUT) {
            config.user_timeout = Some(Duration::from_millis(milliseconds));
        }
        if let Some(milliseconds) = number(libc::SOL_TCP, TCP_RTO_MAX_MS) {
            config.rto_max = Duration::from_millis(milliseconds);
        }
        if let Some(microseconds) = number(libc::SOL_TCP, TCP_RTO_MIN_US) {
            config.rto_min = Duration::from_nanos(microseconds * 1000);
        }
        if let Some(rate) = number(libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE) {
            config.max_pacing_rate = Some(rate);
        }
        if let Some(algorithm) = self.congestion {
            config.congestion = algorithm;
        }
        if let Some(count) = number(libc::SOL_TCP, libc::TCP_SYNCNT) {
            config.syn_retries = u8::try_from(count).unwrap_or(u8::MAX);
        }
        if let Some(bytes) = number(libc::SOL_TCP, libc::TCP_WINDOW_CLAMP) {
            config.receive_buffer = config
                .receive_buffer
                .min(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
    }
}

impl Sockets {
    /// The settings for a connection of this socket: the parameters of the kernel, then the socket's own.
    pub(super) fn config<P: Port>(&self, cx: &Context<'_, P>, fd: RawFd) -> Result<Config, Errno> {
        let mut config = cx.tcp_config().clone();
        self.sysctls.apply(&mut config);
        self.socket(fd)?.options.apply(&mut config);
        Ok(config)
    }

    /// `setsockopt(2)`.
    ///
    /// # Errors
    /// `ENOPROTOOPT` for what the stack cannot do, `EINVAL` for values that make no sense.
    pub fn set_option<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        fd: RawFd,
        (level, name): (i32, i32),
        value: &[u8],
    ) -> Result<(), Errno> {
        let socket = self.socket_mut(fd)?;
        if (level, name) == (libc::SOL_TCP, libc::TCP_CONGESTION) {
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            let algorithm = std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok());
            socket.options.congestion = Some(algorithm.ok_or(Errno::ENOENT)?);
        } else if (level, name) == (libc::SOL_TCP, libc::TCP_FASTOPEN_KEY) {
            socket.options.fast_open_keys = Some(fast_open::keys(value)?);
        } else {
            // One octet is enough for IP's options (as in Linux).
            let number = match value {
                [octet] if matches!(level, libc::SOL_IP | libc::SOL_IPV6) => i32::from(*octet),
                _ => int(value)?,
            };
            if number_is_out_of_range(level, name, number) {
                return Err(Errno::EINVAL);
            }
            set_number(socket, level, name, number, value)?;
        }
        let (options, conn) = (socket.options.clone(), socket.conn());
        let tunes = matches!(
            name,
            libc::TCP_FASTOPEN | libc::TCP_FASTOPEN_KEY | TCP_FASTOPEN_NO_COOKIE
        );
        if level == libc::SOL_TCP && tunes {
            self.tune_fast_open(cx, fd)?;
        }
        if let State::Listening(listening) = &self.socket(fd)?.state {
            let id = listening.id;
            let config = self.config(cx, fd)?;
            cx.configure_listener(id, &config);
        }
        if let Some(conn) = conn
            && (level, name) == (libc::SOL_TCP, libc::TCP_QUICKACK)
            && cx.set_quick_ack(conn, int(value)? & 1 != 0).is_err()
        {
            // As below.
        }
        if let Some(conn) = conn
            && cx.configure(conn, |config| options.apply(config)).is_err()
        {
            // It has ended in this very turn: the option is kept, and has nothing left to do.
        }
        if let Some(conn) = conn {
            let told = match (level, name) {
                (libc::SOL_TCP, libc::TCP_CORK) => cx.set_cork(conn, options.cork),
                // As Linux: what is queued now goes, whatever the cork says.
                (libc::SOL_TCP, libc::TCP_NODELAY) if options.nodelay => cx.push_out(conn),
                _ => Ok(()),
            };
            if told.is_err() {
                // As above.
            }
        }
        Ok(())
    }

    /// `getsockopt(2)`: the value's bytes.
    ///
    /// # Errors
    /// `ENOPROTOOPT` for what the stack does not know.
    pub fn option<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        fd: RawFd,
        (level, name): (i32, i32),
    ) -> Result<Vec<u8>, Errno> {
        let defaults = self.config(cx, fd)?;
        let socket = self.socket_mut(fd)?;
        let info = socket.conn().and_then(|conn| cx.info(conn).ok());
        let set = socket.options.value(level, name);
        let options = &socket.options;
        let number = match (level, name) {
            (libc::SOL_TCP, libc::TCP_INFO) => {
                let info = info.or_else(|| socket.last_info.as_deref().cloned());
                let listens = matches!(socket.state, State::Listening(_));
                return Ok(tcp_info::encode(info.as_ref(), listens));
            }
            (libc::SOL_TCP, libc::TCP_CONGESTION) => {
                let mut bytes = defaults.congestion.name().as_bytes().to_vec();
                // TCP_CA_NAME_MAX of Linux.
                bytes.resize(16, 0);
                return Ok(bytes);
            }
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                let on = i32::from(options.linger.is_some());
                let seconds = options.linger.unwrap_or(0);
                return Ok([on.to_ne_bytes(), seconds.to_ne_bytes()].concat());
            }
            (libc::SOL_SOCKET, libc::SO_ERROR) => {
                socket.error.take().map_or(0, |error| error as i32)
            }
            (libc::SOL_SOCKET, libc::SO_TYPE) => libc::SOCK_STREAM,
            (libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::IPPROTO_TCP,
            (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => {
                i32::from(matches!(socket.state, State::Listening(_)))
            }
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => i32::from(options.keep_alive_on),
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => {
                set.unwrap_or(2 * defaults.receive_buffer as i32)
            }
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => set.unwrap_or(defaults.send_buffer as i32),
            (libc::SOL_TCP, libc::TCP_NODELAY) => i32::from(options.nodelay),
            (libc::SOL_TCP, libc::TCP_CORK) => i32::from(options.cork),
            (libc::SOL_TCP, libc::TCP_MAXSEG) => info
                .map_or(set.unwrap_or(i32::from(defaults.mss)), |info| {
                    info.mss as i32
                }),
            (libc::SOL_TCP, libc::TCP_KEEPIDLE) => seconds(options.keep_alive.idle),
            (libc::SOL_TCP, libc::TCP_KEEPINTVL) => seconds(options.keep_alive.interval),
            (libc::SOL_TCP, libc::TCP_KEEPCNT) => options.keep_alive.probes.into(),
            (libc::SOL_TCP, libc::TCP_SYNCNT) => set.unwrap_or(defaults.syn_retries.into()),
            _ => set
                .or_else(|| is_kept(level, name).then_some(0))
                .ok_or(Errno::ENOPROTOOPT)?,
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    /// `fcntl(2)`: `F_GETFL`, `F_SETFL`, and the close-on-exec flag, which means nothing here.
    ///
    /// # Errors
    /// `EINVAL` for any other command.
    pub fn control(&mut self, fd: RawFd, command: i32, argument: i32) -> Result<i32, Errno> {
        let nonblocking = self.is_nonblocking(fd);
        if !self.fds.contains_key(&fd) {
            return Err(Errno::EBADF);
        }
        match command {
            libc::F_GETFL => Ok(libc::O_RDWR | if nonblocking { libc::O_NONBLOCK } else { 0 }),
            libc::F_SETFL => {
                let on = argument & libc::O_NONBLOCK != 0;
                match self.fds.get_mut(&fd) {
                    Some(super::Object::Socket(key)) => {
                        let key = *key;
                        self.sockets.get_mut(&key).ok_or(Errno::EBADF)?.nonblocking = on;
                    }
                    Some(super::Object::Pipe(end)) => end.nonblocking = on,
                    Some(super::Object::Epoll(_)) | None => {}
                }
                Ok(0)
            }
            libc::F_GETFD | libc::F_SETFD => Ok(0),
            _ => Err(Errno::EINVAL),
        }
    }
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_nanos() / 1_000_000_000).unwrap_or(i32::MAX)
}

/// The number at the begin of an option's value.
fn int(value: &[u8]) -> Result<i32, Errno> {
    match value {
        [a, b, c, d, ..] => Ok(i32::from_ne_bytes([*a, *b, *c, *d])),
        _ => Err(Errno::EINVAL),
    }
}

/// Linux's limits.
fn number_is_out_of_range(level: i32, name: i32, number: i32) -> bool {
    let range = match (level, name) {
        (libc::SOL_TCP, libc::TCP_MAXSEG) => 0..=65_535,
        (libc::SOL_TCP, libc::TCP_KEEPIDLE | libc::TCP_KEEPINTVL) => 1..=32_767,
        (libc::SOL_TCP, libc::TCP_KEEPCNT | libc::TCP_SYNCNT) => 1..=127,
        (libc::SOL_TCP, libc::TCP_USER_TIMEOUT) => 0..=i32::MAX,
        (libc::SOL_TCP, TCP_INQ | libc::TCP_FASTOPEN_CONNECT | TCP_FASTOPEN_NO_COOKIE)
        | (libc::SOL_SOCKET, libc::SO_ZEROCOPY) => 0..=1,
        (libc::SOL_TCP, libc::TCP_FASTOPEN) => 0..=i32::MAX,
        _ => return false,
    };
    !range.contains(&number)
}

fn set_number(
    socket: &mut Socket,
    level: i32,
    name: i32,
    number: i32,
    value: &[u8],
) -> Result<(), Errno> {
    let options = &mut socket.options;
    let on = number != 0;
    let second = || Duration::from_secs(u64::try_from(number).unwrap_or(0));
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_LINGER) => {
            let seconds = int(value.get(4..).unwrap_or_default())?;
            options.linger = on.then_some(seconds);
        }
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => options.keep_alive_on = on,
        // Linux doubles what it is given, for its own overhead.
        (libc::SOL_SOCKET, libc::SO_RCVBUF | libc::SO_RCVBUFFORCE) => {
            let doubled = number.saturating_mul(2).max(RCVBUF_MIN);
            let key = (libc::SOL_SOCKET, libc::SO_RCVBUF);
            options.values.insert(key, doubled);
        }
        (libc::SOL_SOCKET, libc::SO_SNDBUF | libc::SO_SNDBUFFORCE) => {
            let doubled = number.saturating_mul(2).max(SNDBUF_MIN);
            let key = (libc::SOL_SOCKET, libc::SO_SNDBUF);
            options.values.insert(key, doubled);
        }
        (libc::SOL_TCP, libc::TCP_NODELAY) => options.nodelay = on,
        (libc::SOL_TCP, libc::TCP_CORK) => options.cork = on,
        (libc::SOL_TCP, libc::TCP_KEEPIDLE) => options.keep_alive.idle = second(),
        (libc::SOL_TCP, libc::TCP_KEEPINTVL) => options.keep_alive.interval = second(),
        (libc::SOL_TCP, libc::TCP_KEEPCNT) => options.keep_alive.probes = number as u8,
        _ if is_kept(level, name) => {
            options.values.insert((level, name), number);
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// Numbers that are kept as they are: those that [`Options::apply`] reads, and those without an effect that a
/// program or a peer could miss.
fn is_kept(level: i32, name: i32) -> bool {
    match level {
        libc::SOL_SOCKET => matches!(
            name,
            libc::SO_REUSEADDR
                | libc::SO_REUSEPORT
                | libc::SO_RCVLOWAT
                | libc::SO_PRIORITY
                | libc::SO_MARK
                | libc::SO_MAX_PACING_RATE
                | libc::SO_OOBINLINE
                | libc::SO_DONTROUTE
                | libc::SO_BUSY_POLL
                | libc::SO_INCOMING_CPU
                | libc::SO_ZEROCOPY
        ),
        libc::SOL_TCP => matches!(
            name,
            libc::TCP_MAXSEG
                | libc::TCP_USER_TIMEOUT
                | libc::TCP_SYNCNT
                | libc::TCP_WINDOW_CLAMP
                | libc::TCP_QUICKACK
                | libc::TCP_LINGER2
                | libc::TCP_DEFER_ACCEPT
                | libc::TCP_FASTOPEN
                | libc::TCP_FASTOPEN_CONNECT
                | TCP_FASTOPEN_NO_COOKIE
                | TCP_NOTSENT_LOWAT
                | TCP_INQ
                | TCP_RTO_MAX_MS
                | TCP_RTO_MIN_US
        ),
        libc::SOL_IP => matches!(
            name,
            libc::IP_TOS
                | libc::IP_TTL
                | libc::IP_FREEBIND
                | libc::IP_MTU_DISCOVER
                | libc::IP_RECVERR
                | libc::IP_RECVTOS
        ),
        libc::SOL_IPV6 => matches!(
            name,
            libc::IPV6_TCLASS
                | libc::IPV6_UNICAST_HOPS
                | libc::IPV6_MTU_DISCOVER
                | libc::IPV6_V6ONLY
                | libc::IPV6_RECVERR
                | libc::IPV6_RECVTCLASS
        ),
        _ => false,
    }
}
