//! The committed object attached by libbpf, as a program of another language would: no line of our loader takes part.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bywash_xdp::abi::{self, ABI_VERSION, Config};
use bywash_xdp::{Limits, RING_CONTROL, RING_PRIMARY};
use bywash_xdp_tests::link::Link;
use bywash_xdp_tests::namespace::ip;
use bywash_xdp_tests::packet::{Packet, flags};
use bywash_xdp_tests::peer::{OURS, Peer};
use bywash_xdp_tests::run::OBJECT;
use bywash_xdp_tests::wire::Wire;
use bywash_xsk::{PoolClass, Port, XskConfig, XskPort};
use libbpf_rs::{MapCore, MapFlags, Object, ObjectBuilder};

const PORT: u16 = 8080;
const KERNELS: u16 = 2222;
const PATIENCE: Duration = Duration::from_secs(20);

fn update(object: &Object, map: &str, key: &[u8], value: &[u8]) -> Result<()> {
    let map = object.maps().find(|one| one.name() == map);
    Ok(map.context("the map")?.update(key, value, MapFlags::ANY)?)
}

/// Octets to the kernel's listener and back.
fn kernels_tcp_works(peer: &Peer) -> Result<()> {
    let listener = TcpListener::bind((OURS, KERNELS))?;
    let echo = thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        std::io::copy(&mut stream.try_clone()?, &mut stream)?;
        Ok(())
    });
    peer.run(|| {
        let mut stream = TcpStream::connect_timeout(&(OURS, KERNELS).into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (out, mut back) = (vec![0x5a; 100_000], vec![0; 100_000]);
        let mut writer = stream.try_clone()?;
        let writing = thread::spawn(move || writer.write_all(&out));
        stream.read_exact(&mut back)?;
        writing.join().expect("the writer")?;
        anyhow::ensure!(back.iter().all(|octet| *octet == 0x5a), "other octets");
        Ok(())
    })?;
    echo.join().expect("the echo")
}

/// Waits until a frame is in the ring.
fn received(port: &mut XskPort, ring: u32) -> Result<Vec<u8>> {
    let start = Instant::now();
    let mut frames = Vec::new();
    while port.receive(ring as usize, &mut frames, 1) == 0 {
        anyhow::ensure!(start.elapsed() < PATIENCE, "nothing in ring {ring}");
        thread::yield_now();
    }
    Ok(frames[0].bytes().to_vec())
}

#[test]
fn an_object_that_libbpf_attached_passes_the_kernels_packets_and_redirects_ours() -> Result<()> {
    let link = Link::new()?;
    ip(&["address", "add", &format!("{OURS}/24"), "dev", "bwd0"])?;
    let peer = Peer::with_bwd1()?;
    let object = ObjectBuilder::default()
        .name("demux")?
        .open_memory(OBJECT)?
        .load()?;
    let program = object.progs_mut().find(|one| one.name() == "demux");
    let attached = program
        .context("no program `demux`")?
        .attach_xdp(i32::try_from(link.ifindex)?)?;
    assert!(link.program()?.is_some());
    // All zero: nothing is ours.
    kernels_tcp_works(&peer)?;

    let config = Config {
        abi_version: ABI_VERSION,
        queues: 1,
        limits: Limits::default().to_abi(),
        ..Config::default()
    };
    update(&object, "config", &0_u32.to_ne_bytes(), &config.to_bytes())?;
    let bits = abi::PORT_TCP_OURS | abi::PORT_TCP_LISTEN;
    let address = abi::address_bytes(OURS.into());
    update(&object, "addresses", &address, &1_u32.to_ne_bytes())?;
    update(
        &object,
        "ports",
        &u32::from(PORT).to_ne_bytes(),
        &bits.to_ne_bytes(),
    )?;
    let mut port = XskPort::open(&XskConfig {
        pools: vec![PoolClass::small(1)],
        ..XskConfig::new("bwd0", 0)
    })?;
    for (ring, socket) in port.sockets() {
        let key = u32::try_from(ring)?.to_ne_bytes();
        update(&object, "xsks", &key, &socket.as_raw_fd().to_ne_bytes())?;
    }
    port.refill();
    let segment = Packet::v4(PORT);
    let syn = segment.clone().flags(flags::SYN);
    for (ring, packet) in [(RING_PRIMARY, segment), (RING_CONTROL, syn)] {
        let frame = packet.build();
        let sent = frame.clone();
        peer.run(move || Wire::open("bwd1")?.send(&sent))?;
        assert_eq!(received(&mut port, ring)?, frame);
    }
    kernels_tcp_works(&peer)?;
    drop(attached);
    assert_eq!(link.program()?, None);
    Ok(())
}
