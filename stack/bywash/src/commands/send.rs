//! `bywash send`: one file over one connection.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use bywash::{Remote, Stack, TcpStream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest, Sha256};

use crate::cli::SendArgs;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::show::{resolve, transfer_line};

/// Bytes of one read of the file: a few write chunks, so that the disk is asked seldom.
const READ_BYTES: usize = 256 * 1024;

/// How long the peer may take to close its direction after it has acknowledged everything.
const CLOSE_TIME: Duration = Duration::from_secs(3);

struct Sent {
    bytes: u64,
    time: Duration,
    sha256: [u8; 32],
}

pub(crate) fn run(args: &SendArgs) -> Result<(), Failure> {
    let config = args.device.engine().map_err(Failure::Usage)?;
    let interrupt = Interrupt::install()?;
    // First, so that a file that cannot be read is found before anything is attached.
    let what = args.file.display().to_string();
    let cannot = |error: &io::Error| Failure::new(format!("cannot read {what}"), error);
    let file = File::open(&args.file).map_err(|error| cannot(&error))?;
    let metadata = file.metadata().map_err(|error| cannot(&error))?;
    if metadata.is_dir() {
        return Err(cannot(&io::ErrorKind::IsADirectory.into()));
    }
    let peer = resolve(&args.host, args.port)?;
    let progress = progress(metadata.len());
    let stack = Stack::start(config)?;
    let remote = stack.remote().clone();
    let worker = std::thread::Builder::new()
        .name("bywash-send".to_owned())
        .spawn({
            let progress = progress.clone();
            move || send(&remote, peer, file, &what, &progress)
        })?;
    let signal = interrupt.wait_until(|| worker.is_finished());
    if signal.is_some() {
        stack.interrupt();
    }
    let outcome = worker
        .join()
        .map_err(|_| Failure::Failed("the sending thread died".into()));
    progress.finish_and_clear();
    let stopped = stack.stop();
    let sent = match (outcome?, signal) {
        (Err(_), Some(signal)) => return Err(Failure::Interrupted(signal)),
        (outcome, _) => outcome?,
    };
    stopped?;
    Ok(transfer_line("sent", sent.bytes, sent.time, &sent.sha256)?)
}

/// A bar on a terminal, nothing elsewhere.
fn progress(bytes: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}");
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    match style {
        Ok(style) => bar.with_style(style),
        Err(error) => {
            tracing::debug!(%error, "the plain bar it is");
            bar
        }
    }
}

fn send(
    remote: &Remote,
    peer: SocketAddr,
    mut file: File,
    what: &str,
    progress: &ProgressBar,
) -> Result<Sent, Failure> {
    let mut stream =
        TcpStream::connect(remote, peer).map_err(|error| Failure::new("cannot connect", &error))?;
    let to_peer = |error: io::Error| Failure::new("sending", &error);
    let start = Instant::now();
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let n = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                // Not an orderly close: the receiver must not take the front for the whole.
                stream.abort();
                return Err(Failure::new(format!("reading {what}"), &error));
            }
        };
        hash.update(&buffer[..n]);
        stream.write_all(&buffer[..n]).map_err(to_peer)?;
        bytes += n as u64;
        progress.inc(n as u64);
    }
    stream.shutdown(Shutdown::Write).map_err(to_peer)?;
    stream.wait_acknowledged(None).map_err(to_peer)?;
    let time = start.elapsed();
    wait_for_close(&stream, peer);
    Ok(Sent {
        bytes,
        time,
        sha256: hash.finalize().into(),
    })
}

/// Leaves the peer time to close, so that it does not meet a reset at the engine's end. All is
/// acknowledged: what happens here does not change the outcome.
fn wait_for_close(stream: &TcpStream, peer: SocketAddr) {
    let deadline = Instant::now() + CLOSE_TIME;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left));
        match stream.read_lease() {
            Ok(Some(_)) if !left.is_zero() => {}
            Ok(None) => return,
            Ok(Some(_)) => {
                tracing::debug!(%peer, "the peer goes on sending");
                return;
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "the peer did not close");
                return;
            }
        }
    }
}
