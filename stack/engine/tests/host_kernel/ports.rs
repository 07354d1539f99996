//! Port reservations against the kernel's own TCP, both ways round.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use bywash_engine::host::{PortError, PortReservations};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::lab::{Lab, sysctl};

/// A kernel listener as servers make it; the option sets what they commonly set.
fn listen(address: &str, reuse_address: bool, reuse_port: bool) -> io::Result<Socket> {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(reuse_address)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&address.into())?;
    socket.listen(8)?;
    Ok(socket)
}

const PLACES: [&str; 4] = [
    "0.0.0.0:5201",
    "192.0.2.1:5201",
    "[::]:5201",
    "[2001:db8::1]:5201",
];

#[test]
fn the_kernel_cannot_listen_on_a_reserved_port() {
    let lab = Lab::new();
    lab.inside_alone(|| {
        let mut ports = PortReservations::on_device("bwh0");
        ports.reserve(5201).unwrap();
        for place in PLACES {
            for (reuse_address, reuse_port) in [(false, false), (true, false), (true, true)] {
                let error = listen(place, reuse_address, reuse_port).unwrap_err();
                assert_eq!(
                    error.kind(),
                    io::ErrorKind::AddrInUse,
                    "{place} {reuse_address} {reuse_port}"
                );
            }
        }
        assert!(matches!(
            ports.reserve(5201),
            Err(PortError::Ours { port: 5201 })
        ));
        assert!(ports.release(5201) && !ports.release(5201));
        for place in PLACES {
            drop(listen(place, true, false).unwrap_or_else(|error| panic!("{place}: {error}")));
        }
        ports.reserve(5201).unwrap();
        drop(ports);
        listen(PLACES[2], true, false).unwrap();
    });
}

#[test]
fn a_port_on_which_the_kernel_listens_cannot_be_reserved() {
    let lab = Lab::new();
    lab.inside_alone(|| {
        for place in PLACES {
            for (reuse_address, reuse_port) in [(false, false), (true, false), (true, true)] {
                let listener = listen(place, reuse_address, reuse_port).unwrap();
                let error = PortReservations::new().reserve(5201).unwrap_err();
                let PortError::Taken {
                    port: 5201,
                    holder: Some(holder),
                } = &error
                else {
                    panic!("{place} {reuse_address} {reuse_port}: {error:?}")
                };
                assert_eq!(holder.pid, std::process::id());
                assert!(
                    error.to_string().contains(&holder.command) && !holder.command.is_empty(),
                    "{error}"
                );
                drop(listener);
                PortReservations::new().reserve(5201).unwrap();
            }
        }
    });
}

#[test]
fn an_old_connection_in_time_wait_is_no_hindrance() {
    let lab = Lab::new();
    lab.inside_alone(|| {
        let listener = TcpListener::bind("127.0.0.1:5201").unwrap();
        let client = TcpStream::connect("127.0.0.1:5201").unwrap();
        let (served, _) = listener.accept().unwrap();
        // The side that closes first is the one that waits: the server's, on our port.
        drop((served, listener));
        drop(client);
        let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        assert!(
            table.contains("0100007F:1451 ") && table.contains(" 06 "),
            "no TIME-WAIT: {table}"
        );
        PortReservations::new().reserve(5201).unwrap();
    });
}

#[test]
fn engines_on_two_devices_may_reserve_the_same_port() {
    let lab = Lab::new();
    lab.near("link add bwhx type veth peer name bwhy");
    lab.inside_alone(|| {
        let mut first = PortReservations::on_device("bwh0");
        let mut second = PortReservations::on_device("bwhx");
        first.reserve(5201).unwrap();
        second.reserve(5201).unwrap();
        // The same device once more is another matter.
        let error = PortReservations::on_device("bwh0")
            .reserve(5201)
            .unwrap_err();
        assert!(
            matches!(
                error,
                PortError::Taken {
                    port: 5201,
                    holder: None
                }
            ),
            "{error}"
        );
        drop(first);
        for place in PLACES {
            let error = listen(place, true, true).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{place}");
        }
        drop(second);
        let _listener = listen("127.0.0.1:5201", true, false).unwrap();
        let error = PortReservations::on_device("bwh0")
            .reserve(5201)
            .unwrap_err();
        assert!(
            matches!(
                error,
                PortError::Taken {
                    port: 5201,
                    holder: Some(_)
                }
            ),
            "{error}"
        );
    });
}

#[test]
fn a_range_leaves_out_what_is_in_use_and_raises_the_limit_on_files() {
    let lab = Lab::new();
    lab.inside_alone(|| {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 700, hard).unwrap();
        let _first = listen("192.0.2.1:62000", true, false).unwrap();
        let _second = listen("[::]:65535", true, false).unwrap();
        let mut ports = PortReservations::new();
        let report = ports.reserve_range(61440..=65535).unwrap();
        assert_eq!(report.left_out, [62000, 65535]);
        assert_eq!(report.reserved, 4096 - 2);
        assert!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0 > 4096);
        assert_eq!(
            listen("0.0.0.0:61440", true, false).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        // Another one has nothing to object to in principle, but more files than any limit allows.
        let error = PortReservations::new()
            .reserve_range(62000..=62000)
            .unwrap_err();
        assert!(matches!(error, PortError::Exhausted { .. }), "{error}");
    });
}

#[test]
fn a_range_inside_the_kernels_own_must_be_free() {
    let lab = Lab::new();
    sysctl(&lab.near, "net.ipv4.ip_local_port_range", "40000 40009");
    lab.inside_alone(|| {
        let listener = listen("0.0.0.0:40004", true, false).unwrap();
        let mut ports = PortReservations::on_device("bwh0");
        let error = ports.reserve_range(40000..=40008).unwrap_err();
        assert!(matches!(&error, PortError::Overlap { taken: 1, kernel, .. } if *kernel == (40000..=40009)), "{error}");
        // Nothing stays reserved.
        drop(listen("0.0.0.0:40000", true, false).unwrap());
        drop(listener);

        // If it is free, the kernel's own choice passes over it.
        assert_eq!(ports.reserve_range(40000..=40008).unwrap().reserved, 9);
        let server = TcpListener::bind("127.0.0.1:5201").unwrap();
        let client = TcpStream::connect("127.0.0.1:5201").unwrap();
        assert_eq!(client.local_addr().unwrap().port(), 40009);
        let error = TcpStream::connect("127.0.0.1:5201").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::EADDRNOTAVAIL as i32));
        drop(server);
    });
}
