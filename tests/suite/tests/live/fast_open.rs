//! TCP Fast Open (RFC 7413) with the kernel, each end in each role: its counters, ours, and what tshark sees.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use bywash::{EngineConfig, Stack};
use bywash_tests::{Bed, LIMIT, Shape, bywash as command, kernel};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};
use serde_json::Value;

use crate::capture::{Capture, Finding};
use crate::exchange::PORTS;
use crate::{USUAL, is_one_of};

/// Client and server, and every listener without being asked (`TFO_SERVER_WO_SOCKOPT1`): the other way is unsafe in Rust.
const EVERYTHING: &str = "net.ipv4.tcp_fastopen=1027";

fn counted(report: &Value, name: &str) -> u64 {
    command::over_shards(report, |shard| {
        shard["counters"][format!("fast-open-{name}")]
            .as_u64()
            .expect("a counter")
    })
}

/// A counter of `TcpExt` in the peer's kernel.
fn tcp_ext(bed: &Bed, name: &str) -> u64 {
    let text = bed.peer.run("cat", &["/proc/net/netstat"]).ok().stdout;
    let mut rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let mut row = || rows.next().expect("names and values").split_whitespace();
    let (names, values) = (row(), row());
    let (_, value) = names
        .zip(values)
        .find(|(one, _)| *one == name)
        .expect("a counter of this name");
    value.parse().expect("a number")
}

/// A connection of the kernel's whose request goes with the SYN if there is a cookie; the echo of it.
fn ask(server: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let family = if server.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let socket = socket(family, SockType::Stream, SockFlag::empty(), None)?;
    setsockopt(&socket, sockopt::TcpFastOpenConnect, &true)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(server))?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(request)?;
    let mut answer = vec![0; request.len()];
    stream.read_exact(&mut answer)?;
    kernel::part(stream)?;
    Ok(answer)
}

/// Bytes of a capture of six requests of 700 bytes and their answers, headers not counted.
const CAPTURED: u64 = 6 * 2 * 700;

/// Nothing is wrong; and the analysis has noted the SYNs with data.
fn check(packets: u64, findings: Vec<Finding>) {
    println!("{packets} packets: {findings:?}");
    let (fast, other): (Vec<_>, Vec<_>) = findings
        .into_iter()
        .partition(|finding| is_one_of(finding, &["TFO", "Fast Open"]));
    assert!(!fast.is_empty(), "SYNs with data are worth a note");
    let wrong = other.iter().find(|finding| !is_one_of(finding, &USUAL));
    assert_eq!(wrong, None);
}

#[test]
fn the_kernel_opens_with_data() {
    let bed = Bed::new(Shape {
        offloads: false,
        ..Shape::default()
    });
    bed.peer.run("sysctl", &["-q", EVERYTHING]).ok();
    let port = PORTS.0.to_string();
    let server = command::serve(&bed.host, &["echo", "-p", &port, "--fast-open"]);
    let capture = Capture::start(&bed);
    for v6 in [false, true] {
        let to = SocketAddr::new(bed.host.address(v6), PORTS.0);
        for round in 0..3_u8 {
            let request = vec![round; 700];
            let sent = request.clone();
            let answer = bed.peer.inside(move || ask(to, &sent));
            assert_eq!(answer.expect("an answer"), request);
        }
    }
    capture.wait_for(CAPTURED);
    let (packets, findings) = capture.analyse(&bed);
    let report = command::ss(&server);
    assert_eq!(counted(&report, "granted"), 2, "one a family: {report:#}");
    assert_eq!(counted(&report, "accepted"), 4, "{report:#}");
    assert_eq!(counted(&report, "wrong-cookies"), 0);
    // What the kernel says of its SYNs' data.
    let active = tcp_ext(&bed, "TCPFastOpenActive");
    assert_eq!(active, 4, "acknowledged");
    let failed = tcp_ext(&bed, "TCPFastOpenActiveFail");
    assert_eq!(failed, 0);
    check(packets, findings);
    command::end(server);
}

#[test]
fn the_kernel_takes_data() {
    let bed = Bed::new(Shape {
        offloads: false,
        ..Shape::default()
    });
    bed.peer.run("sysctl", &["-q", EVERYTHING]).ok();
    let device = bed.host.device.clone();
    let stack = bed
        .host
        .inside(move || Stack::start(EngineConfig::new(device)))
        .expect("the engine starts");
    let capture = Capture::start(&bed);
    for v6 in [false, true] {
        let at = SocketAddr::new(bed.peer.address(v6), PORTS.0);
        let (listens, is_listening) = std::sync::mpsc::channel();
        let server = bed.peer.spawn(move || -> io::Result<()> {
            let listener = TcpListener::bind(at)?;
            listens.send(()).map_err(io::Error::other)?;
            for _ in 0..3 {
                let (mut stream, _) = listener.accept()?;
                stream.set_read_timeout(Some(LIMIT))?;
                let mut request = [0; 700];
                stream.read_exact(&mut request)?;
                stream.write_all(&request)?;
                let end = stream.read(&mut request)?;
                assert_eq!(end, 0, "no more than was asked");
            }
            Ok(())
        });
        is_listening.recv().expect("the kernel listens");
        for round in 0..3_u8 {
            let request = vec![round; 700];
            let opened = bywash::TcpStream::connect_fast_open(stack.remote(), at, &request);
            let (mut stream, taken) = opened.expect("the kernel answers");
            assert_eq!(taken, request.len());
            let mut answer = vec![0; request.len()];
            stream.read_exact(&mut answer).expect("an answer");
            assert_eq!(answer, request);
            stream
                .shutdown(std::net::Shutdown::Write)
                .expect("it is open");
            assert_eq!(stream.read(&mut answer).expect("an end"), 0);
        }
        let served = server.join().expect("no panic");
        served.expect("the kernel was asked three times");
    }
    capture.wait_for(CAPTURED);
    let (packets, findings) = capture.analyse(&bed);
    // The first of each family asks for the cookie.
    let passive = tcp_ext(&bed, "TCPFastOpenPassive");
    assert_eq!(passive, 4);
    let asked = tcp_ext(&bed, "TCPFastOpenCookieReqd");
    assert_eq!(asked, 2);
    let failed = tcp_ext(&bed, "TCPFastOpenPassiveFail");
    assert_eq!(failed, 0);
    check(packets, findings);
    stack.stop().expect("a clean end");
}
