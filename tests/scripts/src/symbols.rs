//! The constants of C that scripts name.

/// The value of a constant.
pub fn value(name: &str) -> Option<i64> {
    macro_rules! table {
        ($($name:ident)*) => {
            match name {
                $(stringify!($name) => Some(i64::from(libc::$name)),)*
                _ => None,
            }
        };
    }
    table! {
        AF_UNSPEC AF_INET AF_INET6
        SOCK_STREAM SOCK_NONBLOCK SOCK_CLOEXEC IPPROTO_IP IPPROTO_TCP IPPROTO_IPV6
        SOL_SOCKET SOL_TCP SOL_IP SOL_IPV6
        SO_REUSEADDR SO_REUSEPORT SO_RCVBUF SO_SNDBUF SO_RCVBUFFORCE SO_SNDBUFFORCE SO_ERROR SO_LINGER
        SO_KEEPALIVE SO_RCVLOWAT SO_PRIORITY SO_MARK SO_MAX_PACING_RATE SO_ZEROCOPY SO_TIMESTAMPING
        SO_BUSY_POLL SO_OOBINLINE SO_BINDTODEVICE SO_TYPE SO_PROTOCOL SO_ACCEPTCONN
        TCP_NODELAY TCP_MAXSEG TCP_CORK TCP_KEEPIDLE TCP_KEEPINTVL TCP_KEEPCNT TCP_SYNCNT TCP_LINGER2
        TCP_DEFER_ACCEPT TCP_WINDOW_CLAMP TCP_INFO TCP_QUICKACK TCP_CONGESTION TCP_USER_TIMEOUT
        TCP_FASTOPEN TCP_FASTOPEN_CONNECT
        IP_TOS IP_TTL IP_MTU IP_MTU_DISCOVER IP_RECVERR IP_FREEBIND IP_PMTUDISC_DONT IP_PMTUDISC_DO
        IP_PMTUDISC_WANT IP_PMTUDISC_PROBE IPV6_TCLASS IPV6_UNICAST_HOPS IPV6_RECVERR IPV6_MTU
        MSG_PEEK MSG_OOB MSG_DONTWAIT MSG_NOSIGNAL MSG_WAITALL MSG_TRUNC MSG_MORE MSG_ZEROCOPY MSG_ERRQUEUE
        MSG_FASTOPEN MSG_CTRUNC MSG_EOR
        POLLIN POLLOUT POLLERR POLLHUP POLLNVAL POLLRDNORM POLLWRNORM POLLPRI POLLRDHUP
        EPOLLIN EPOLLOUT EPOLLERR EPOLLHUP EPOLLRDHUP EPOLLET EPOLLONESHOT EPOLLEXCLUSIVE
        EPOLL_CTL_ADD EPOLL_CTL_MOD EPOLL_CTL_DEL
        F_GETFL F_SETFL F_GETFD F_SETFD O_NONBLOCK O_RDWR O_RDONLY
        SHUT_RD SHUT_WR SHUT_RDWR SPLICE_F_NONBLOCK SPLICE_F_MOVE
        E2BIG EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY EBADF ECONNABORTED ECONNREFUSED
        ECONNRESET EDESTADDRREQ EEXIST EFAULT EHOSTUNREACH EINPROGRESS EINTR EINVAL EISCONN EMSGSIZE ENETUNREACH
        ENOBUFS ENOMEM ENOPROTOOPT ENOTCONN ENOTSOCK EOPNOTSUPP EPERM EPIPE EPROTO ETIMEDOUT EWOULDBLOCK ENOENT
    }
    .or_else(|| {
        Some(match name {
            // Named by the kernel only.
            "TCP_NOTSENT_LOWAT" => 25,
            "TCP_FASTOPEN_KEY" => 33,
            "TCP_FASTOPEN_NO_COOKIE" => 34,
            "TCP_INQ" | "TCP_CM_INQ" => 36,
            "TCP_TX_DELAY" => 37,
            "FIONREAD" | "SIOCINQ" => 0x541b,
            "TIOCOUTQ" | "SIOCOUTQ" => 0x5411,
            "SIOCOUTQNSD" => 0x894b,
            "SIOCATMARK" => 0x8905,
            "FIONBIO" => 0x5421,
            "SO_EE_ORIGIN_ZEROCOPY" => 5,
            "SO_EE_CODE_ZEROCOPY_COPIED" => 1,
            // States as in `tcpi_state`.
            "TCP_ESTABLISHED" => 1,
            "TCP_SYN_SENT" => 2,
            "TCP_SYN_RECV" => 3,
            "TCP_FIN_WAIT1" => 4,
            "TCP_FIN_WAIT2" => 5,
            "TCP_TIME_WAIT" => 6,
            "TCP_CLOSE" => 7,
            "TCP_CLOSE_WAIT" => 8,
            "TCP_LAST_ACK" => 9,
            "TCP_LISTEN" => 10,
            "TCP_CLOSING" => 11,
            // `tcpi_ca_state`.
            "TCP_CA_Open" => 0,
            "TCP_CA_Disorder" => 1,
            "TCP_CA_CWR" => 2,
            "TCP_CA_Recovery" => 3,
            "TCP_CA_Loss" => 4,
            // `tcpi_options`.
            "TCPI_OPT_TIMESTAMPS" => 1,
            "TCPI_OPT_SACK" => 2,
            "TCPI_OPT_WSCALE" => 4,
            "TCPI_OPT_ECN" => 8,
            "TCPI_OPT_ECN_SEEN" => 16,
            "TCPI_OPT_SYN_DATA" => 32,
            "TCP_INFINITE_SSTHRESH" => 0x7fff_ffff,
            _ => return None,
        })
    })
}

/// The name of an error, for messages.
pub fn error_name(number: i32) -> String {
    std::io::Error::from_raw_os_error(number).to_string()
}
