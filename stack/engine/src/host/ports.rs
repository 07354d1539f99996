//! Dummy kernel sockets that keep the kernel off our ports (after Edwards and Muir, 4.4.5).
//!
//! TCP of this host is done by two stacks that know nothing of each other. So that both do not use
//! one port, a kernel socket is bound to each port of ours and never listens:
//!
//! - bound with `SO_REUSEADDR` set, so that old connections in TIME-WAIT are no hindrance, while a
//!   kernel listener on the port is;
//! - `SO_REUSEADDR` cleared afterwards, so that a later kernel listener on the port gets EADDRINUSE,
//!   and the kernel's choice of ephemeral ports passes the port over;
//! - bound to the engine's device, which still keeps off every kernel socket that is not bound to
//!   another device, but leaves the port free for an engine on another device of the namespace.
//!
//! One `[::]` socket without `IPV6_V6ONLY` covers IPv4 as well; where the kernel has no IPv6 it is a
//! `0.0.0.0` socket.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

/// Local ports for active opens, unless the caller says otherwise: above the kernel's own default
/// range (32768 to 60999).
pub const LOCAL_PORTS: RangeInclusive<u16> = 61440..=65535;

/// The kernel's own range of local ports; read in the calling thread's network namespace.
const KERNEL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// File descriptors to leave free beside the reservations: rings, maps, netlink, files.
const SPARE_FILES: u64 = 1024;

/// Why a port cannot be reserved. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Port 0 is no port.
    #[error("port 0 cannot be reserved: it stands for \"any port\"")]
    Zero,
    /// This engine has the port already.
    #[error("port {port} is already in use by this engine")]
    Ours {
        /// The port.
        port: u16,
    },
    /// The kernel's TCP uses the port.
    #[error("port {port} is taken by the kernel's TCP: {}; stop that program or choose another port", describe(holder.as_ref()))]
    Taken {
        /// The port.
        port: u16,
        /// Who holds it, if `/proc` shows it.
        holder: Option<Holder>,
    },
    /// No right to bind the port.
    #[error(
        "no right to bind port {port}: ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE"
    )]
    NoRights {
        /// The port.
        port: u16,
    },
    /// The range for active opens lies in the kernel's own, and the kernel uses some of it.
    #[error(
        "local ports {}-{} lie in the kernel's own range {}-{} and {taken} of them are in use: \
         choose others, or sysctl net.ipv4.ip_local_port_range", ours.start(), ours.end(), kernel.start(), kernel.end()
    )]
    Overlap {
        /// The range asked for.
        ours: RangeInclusive<u16>,
        /// `net.ipv4.ip_local_port_range`.
        kernel: RangeInclusive<u16>,
        /// Ports of ours that are in use.
        taken: usize,
    },
    /// Not one port of the range is free.
    #[error("not one of the local ports {}-{} is free", range.start(), range.end())]
    Exhausted {
        /// The range asked for.
        range: RangeInclusive<u16>,
    },
    /// The limit on open files is too low for a socket per port.
    #[error(
        "reserving local ports takes {needed} file descriptors, and the limit is {limit}: \
         raise it (ulimit -Hn {needed}, LimitNOFILE={needed}), or use fewer local ports"
    )]
    FileLimit {
        /// Descriptors needed in all.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// Something else failed.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        error: io::Error,
    },
}

/// A process that has a kernel socket on a port, found in `/proc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Name of the program (`/proc/<pid>/comm`).
    pub command: String,
}

fn describe(holder: Option<&Holder>) -> String {
    match holder {
        Some(holder) => format!(
            "by {} (pid {}), as far as /proc shows",
            holder.command, holder.pid
        ),
        None => {
            "/proc does not show by whom (a socket that is only bound, or a process out of sight)"
                .to_owned()
        }
    }
}

/// What became of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeReport {
    /// The range asked for.
    pub range: RangeInclusive<u16>,
    /// Ports of it that are ours now.
    pub reserved: usize,
    /// Ports of it that were in use and must not be used for active opens, ascending.
    pub left_out: Vec<u16>,
}

/// The ports of one engine, each held by a kernel socket. Dropping it gives them back.
#[derive(Debug, Default)]
pub struct PortReservations {
    device: Option<String>,
    sockets: BTreeMap<u16, Socket>,
}

impl PortReservations {
    /// None yet; to be reserved on all devices of the network namespace of the thread that does so.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// None yet; to be reserved on one device, so that an engine on another device of the same
    /// network namespace may have the same ports (it has other addresses).
    #[must_use]
    pub fn on_device(name: &str) -> Self {
        Self {
            device: Some(name.to_owned()),
            sockets: BTreeMap::new(),
        }
    }

    /// Keeps the kernel off one port, for IPv4 and IPv6.
    ///
    /// # Errors
    /// [`PortError::Taken`] if the kernel uses it, [`PortError::Ours`] if this engine does.
    pub fn reserve(&mut self, port: u16) -> Result<(), PortError> {
        if port == 0 {
            return Err(PortError::Zero);
        }
        if self.sockets.contains_key(&port) {
            return Err(PortError::Ours { port });
        }
        let socket =
            dummy(port, self.device.as_deref()).map_err(|error| match Errno::try_from(error) {
                Ok(Errno::EADDRINUSE) => PortError::Taken {
                    port,
                    holder: holder_of(port),
                },
                Ok(Errno::EACCES) => PortError::NoRights { port },
                Ok(errno) => PortError::Io {
                    what: format!("reserving port {port}"),
                    error: errno.into(),
                },
                Err(error) => PortError::Io {
                    what: format!("reserving port {port}"),
                    error,
                },
            })?;
        self.sockets.insert(port, socket);
        Ok(())
    }

    /// Gives one port back. Whether it was ours.
    pub fn release(&mut self, port: u16) -> bool {
        self.sockets.remove(&port).is_some()
    }

    /// Keeps the kernel off a range of local ports, leaving out those in use. Raises this process's
    /// limit on open files if it must. Either succeeds, or leaves no port of the range reserved
    /// that was not reserved before.
    ///
    /// # Errors
    /// [`PortError::Overlap`], [`PortError::FileLimit`], [`PortError::Exhausted`]; see there.
    pub fn reserve_range(&mut self, range: RangeInclusive<u16>) -> Result<RangeReport, PortError> {
        raise_file_limit(range.clone().count() as u64)?;
        let kernel = kernel_range()?;
        let mut fresh = Vec::new();
        let mut left_out = Vec::new();
        for port in range.clone() {
            match self.reserve(port) {
                Ok(()) => fresh.push(port),
                Err(PortError::Taken { .. } | PortError::Ours { .. }) => left_out.push(port),
                Err(error) => {
                    self.give_back(&fresh);
                    return Err(error);
                }
            }
        }
        let overlap = range.start() <= kernel.end() && kernel.start() <= range.end();
        let error = if overlap && !left_out.is_empty() {
            Some(PortError::Overlap {
                ours: range.clone(),
                kernel,
                taken: left_out.len(),
            })
        } else if fresh.is_empty() {
            Some(PortError::Exhausted {
                range: range.clone(),
            })
        } else {
            None
        };
        match error {
            Some(error) => {
                self.give_back(&fresh);
                Err(error)
            }
            None => Ok(RangeReport {
                range,
                reserved: fresh.len(),
                left_out,
            }),
        }
    }

    fn give_back(&mut self, ports: &[u16]) {
        for port in ports {
            self.sockets.remove(port);
        }
    }
}

fn dummy(port: u16, device: Option<&str>) -> io::Result<Socket> {
    let ipv6 = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP));
    let (socket, address) = match ipv6 {
        Ok(socket) => {
            socket.set_only_v6(false)?;
            (socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        }
        // Booted with ipv6.disable=1, or built without: IPv4 is all there is to reserve.
        Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            (socket, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        }
        Err(error) => return Err(error),
    };
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.set_reuse_address(false)?;
    Ok(socket)
}

fn kernel_range() -> Result<RangeInclusive<u16>, PortError> {
    let failed = |error| PortError::Io {
        what: KERNEL_RANGE.to_owned(),
        error,
    };
    let text = fs::read_to_string(KERNEL_RANGE).map_err(failed)?;
    parse_range(&text).ok_or_else(|| {
        failed(io::Error::other(format!(
            "two port numbers expected: {text:?}"
        )))
    })
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse::<u16>);
    match (numbers.next()?, numbers.next()?, numbers.next()) {
        (Ok(low), Ok(high), None) if low <= high => Some(low..=high),
        _ => None,
    }
}

/// Makes room for `more` descriptors: the soft limit up to the hard one, and the hard one too if
/// this process may.
fn raise_file_limit(more: u64) -> Result<(), PortError> {
    let failed = |what: &str, error: io::Error| PortError::Io {
        what: what.to_owned(),
        error,
    };
    let limits = |error: Errno| failed("limit on open files", error.into());
    let open = fs::read_dir("/proc/self/fd")
        .map_err(|error| failed("/proc/self/fd", error))?
        .count() as u64;
    let needed = open + more + SPARE_FILES;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(limits)?;
    if needed <= soft {
        return Ok(());
    }
    match setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => Err(PortError::FileLimit {
            needed,
            limit: hard,
        }),
        Err(error) => Err(limits(error)),
    }
}

/// Who holds a TCP port of this thread's network namespace. Best effort: processes that this one
/// may not look into, and sockets that are bound only, do not show.
fn holder_of(port: u16) -> Option<Holder> {
    // /proc/net would be the namespace of the process's first thread.
    let inodes: Vec<u64> = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| inodes_on(&table, port))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let links: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds = files.flatten().any(|file| {
            fs::read_link(file.path())
                .is_ok_and(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
        });
        if holds {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(Holder {
                pid,
                command: command.trim().to_owned(),
            });
        }
    }
    None
}

/// Inodes of the sockets with this local port in the text of `/proc/net/tcp` or `tcp6`: those that
/// listen if any does, else all.
fn inodes_on(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let on_port: Vec<(bool, u64)> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, local) = fields.get(1)?.rsplit_once(':')?;
            let inode: u64 = fields.get(9)?.parse().ok()?;
            // TIME-WAIT has no inode: nobody holds it.
            (u16::from_str_radix(local, 16) == Ok(port) && inode != 0)
                .then_some((fields[3] == LISTEN, inode))
        })
        .collect();
    let any_listens = on_port.iter().any(|(listens, _)| *listens);
    on_port
        .into_iter()
        .filter(|(listens, _)| *listens || !any_listens)
        .map(|(_, inode)| inode)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1451 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1451 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 20 4 30 10 -1
   2: 0100007F:1452 0100007F:D431 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0000000000000000
   3: 0100007F:1453 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000000000000000 20 4 30 10 -1
   4: broken";

    #[test]
    fn the_listener_is_named_before_its_connections() {
        assert_eq!(inodes_on(TABLE, 5201), [4711]);
        assert_eq!(inodes_on(TABLE, 5203), [4713]);
    }

    #[test]
    fn time_wait_has_no_holder() {
        assert_eq!(inodes_on(TABLE, 5202), [0_u64; 0]);
        assert_eq!(inodes_on(TABLE, 1), [0_u64; 0]);
        assert_eq!(inodes_on("", 5201), [0_u64; 0]);
    }

    #[test]
    fn the_kernels_range_is_two_numbers() {
        assert_eq!(parse_range("32768\t60999\n"), Some(32768..=60999));
        for text in ["", "1", "1 2 3", "5 4", "1 65536", "a b"] {
            assert_eq!(parse_range(text), None, "{text:?}");
        }
    }

    #[test]
    fn port_zero_is_refused() {
        let mut ports = PortReservations::new();
        assert!(matches!(ports.reserve(0), Err(PortError::Zero)));
    }
}
