//! The program replaced while traffic flows: the kernel's and ours, and no packet is missed, lost, or let through to the wrong side.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bywash_xdp::{AttachError, Counter, Demux, FlowKey, FlowValue, Mode, slot};
use bywash_xdp_tests::link::Link;
use bywash_xdp_tests::namespace::ip;
use bywash_xdp_tests::packet::{Packet, flags};
use bywash_xdp_tests::peer::{OURS, Peer, THEIRS};
use bywash_xdp_tests::wire::Wire;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

const REPLACEMENTS: usize = 100;
const PORT: u16 = 8080;
const KERNELS: u16 = 2222;
/// Frames under way at a time: a veth's ring holds 256 and drops what is beyond.
const WINDOW: u64 = 32;
/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

fn count(demux: &Demux, counter: Counter) -> u64 {
    demux.counters().expect("counters")[counter as usize].1
}

/// Segments of a flow of ours and of strangers to our port, each counted before the next window is sent.
fn send_ours(demux: &Demux, stop: &AtomicBool) -> Result<u64> {
    let wire = Wire::open("bwd1")?;
    let flow = Packet::v4(PORT).build();
    let stranger = Packet {
        source_port: 1,
        ..Packet::v4(PORT).flags(flags::RST)
    };
    let stranger = stranger.build();
    let start = Instant::now();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..WINDOW {
            wire.send(&flow)?;
            wire.send(&stranger)?;
        }
        sent += WINDOW;
        for counter in [Counter::RedirectFlow, Counter::RedirectPort] {
            while count(demux, counter) != sent {
                let counted = count(demux, counter);
                ensure!(
                    counted <= sent && start.elapsed() < PATIENCE,
                    "{counter}: {counted} of {sent}"
                );
                thread::yield_now();
            }
        }
    }
    Ok(sent)
}

/// A stream to the kernel's echo; answers its octets.
fn stream(stop: &AtomicBool) -> Result<usize> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((OURS, KERNELS)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut sent = 0;
    let (mut out, mut back) = (vec![0; 8192], vec![0; 8192]);
    while !stop.load(Ordering::Relaxed) {
        let chunk = out.iter_mut().enumerate();
        chunk.for_each(|(index, octet)| *octet = ((sent + index) % 251) as u8);
        stream.write_all(&out)?;
        stream.read_exact(&mut back)?;
        ensure!(out == back, "the stream is not what was sent, at {sent}");
        sent += out.len();
    }
    stream.shutdown(Shutdown::Write)?;
    ensure!(stream.read(&mut back)? == 0, "no end of the stream");
    Ok(sent)
}

fn echo(listener: &TcpListener) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    std::io::copy(&mut stream.try_clone()?, &mut stream)?;
    Ok(())
}

/// As fast as answers come, and a hundred a second where none does.
fn flood() -> Result<Child> {
    let ping = Command::new("ping")
        .args(["-f", "-q", "-W", "30", &OURS.to_string()])
        .stdout(Stdio::piped())
        .spawn();
    ping.context("running `ping` (Debian: `apt-get install iputils-ping`)")
}

/// Ends it, and answers how many pings were answered.
fn end_of(ping: Child) -> Result<u64> {
    kill(Pid::from_raw(ping.id().try_into()?), Signal::SIGINT)?;
    let output = String::from_utf8(ping.wait_with_output()?.stdout)?;
    let words: Vec<_> = output.split_whitespace().collect();
    let before = |word: &str| -> Result<u64> {
        let at = words.iter().position(|one| one.starts_with(word));
        let at = at.with_context(|| format!("no `{word}` in {output:?}"))?;
        // "1000 packets transmitted, 1000 received"
        let number = words[..at].iter().rev().find_map(|word| word.parse().ok());
        number.with_context(|| format!("no number in {output:?}"))
    };
    let (sent, received) = (before("transmitted")?, before("received")?);
    // The signal may come between the last ping and its answer.
    ensure!(sent - received <= 1, "{output}");
    Ok(received)
}

#[test]
fn a_hundred_replacements_lose_no_packet_and_reset_no_stream() -> Result<()> {
    let link = Link::new()?;
    ip(&["address", "add", &format!("{OURS}/24"), "dev", "bwd0"])?;
    let peer = Peer::with_bwd1()?;
    let demux = Arc::new(Demux::attach(&link.config(Mode::Native))?);
    demux.add_address(OURS.into())?;
    demux.listen(PORT)?;
    // Not bound to the queue: the kernel takes what is redirected and drops it, after the program has counted.
    let sockets = [
        (0, Socket::new(Domain::from(44), Type::RAW, None)?),
        (2, Socket::new(Domain::from(44), Type::RAW, None)?),
    ];
    for (ring, socket) in &sockets {
        demux.set_socket(0, *ring, socket.as_fd())?;
    }
    let key = FlowKey::new(OURS.into(), PORT, THEIRS.into(), 40000, None, 6);
    let value = FlowValue {
        slot: slot(0, 2),
        generation: 0,
        queue: 0,
    };
    demux.insert_flow(&key, value)?;

    let listener = TcpListener::bind((OURS, KERNELS))?;
    let echo = thread::spawn(move || echo(&listener));
    let stop = Arc::new(AtomicBool::new(false));
    let traffic = {
        let (demux, stop) = (demux.clone(), stop.clone());
        peer.run(move || {
            let streaming = stop.clone();
            let streamed = thread::spawn(move || stream(&streaming));
            let ours = thread::spawn(move || send_ours(&demux, &stop));
            Ok((streamed, ours, flood()?))
        })?
    };
    let (streamed, ours, ping) = traffic;
    let mut programs = vec![link.program()?];
    for _ in 0..REPLACEMENTS {
        demux.replace_program()?;
        programs.push(link.program()?);
    }
    stop.store(true, Ordering::Relaxed);
    let answered = end_of(ping)?;
    let streamed = streamed.join().expect("the stream's thread")?;
    let sent = ours.join().expect("the sender's thread")?;
    echo.join().expect("the echo's thread")?;

    programs.dedup();
    assert_eq!(programs.len(), REPLACEMENTS + 1, "each a new program");
    assert!(!programs.contains(&None), "never without one");
    // Little enough for the slowest machine, and more than one for each program.
    assert!(
        answered > 100 && streamed > 100 * 8192 && sent > 100,
        "{answered} pings, {streamed} octets, {sent} segments: too few to show anything"
    );
    for counter in Counter::ALL {
        let is_drop = counter.name().starts_with("drop");
        assert!(!is_drop || count(&demux, *counter) == 0, "{counter}");
    }
    assert_eq!(demux.flow(&key)?, Some(value), "the maps are the same");
    Arc::into_inner(demux).context("the last")?.detach()?;
    link.nothing_left();
    Ok(())
}

#[test]
fn a_program_that_somebody_has_detached_is_not_replaced() -> Result<()> {
    let link = Link::new()?;
    let demux = Demux::attach(&link.config(Mode::Auto))?;
    demux.replace_program()?;
    assert!(matches!(
        demux.reattach()?,
        bywash_xdp::Reattached::WasThere
    ));
    ip(&["link", "del", "bwd0"])?;
    let refused = demux.replace_program().expect_err("no interface");
    assert!(
        matches!(refused, AttachError::NotAttached { .. }),
        "{refused:?}"
    );
    Ok(())
}
