//! `bywash recv`: one connection into one file.
//!
//! The bytes go to a temporary file beside FILE, which takes FILE's name when the last byte has
//! arrived: FILE is complete or absent. The disk is a matter of this command's own thread; the
//! shard goes on while a write waits.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bywash::{Stack, TcpListener};
use sha2::{Digest, Sha256};

use crate::cli::RecvArgs;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::show::{ready_line, transfer_line};

/// How long our own close may take to be acknowledged; the file is complete already.
const CLOSE_TIME: Duration = Duration::from_secs(2);

struct Received {
    bytes: u64,
    time: Duration,
    sha256: [u8; 32],
}

pub(crate) fn run(args: &RecvArgs) -> Result<(), Failure> {
    let config = args.device.engine().map_err(Failure::Usage)?;
    let interrupt = Interrupt::install()?;
    // First, so that a file that cannot be written is found before anything is attached.
    let target = Target::create(&args.file)?;
    let stack = Stack::start(config)?;
    let outcome = serve(&stack, args.port, target, &interrupt);
    let stopped = stack.stop();
    let received = outcome?;
    stopped?;
    Ok(transfer_line(
        "received",
        received.bytes,
        received.time,
        &received.sha256,
    )?)
}

fn serve(
    stack: &Stack,
    port: u16,
    target: Target,
    interrupt: &Interrupt,
) -> Result<Received, Failure> {
    let listener = stack.listen(port)?;
    ready_line("recv", stack.description(), port)?;
    let worker = std::thread::Builder::new()
        .name("bywash-recv".to_owned())
        .spawn(move || receive(listener, target))?;
    let signal = interrupt.wait_until(|| worker.is_finished());
    if signal.is_some() {
        // The worker's calls fail, and it removes the temporary file.
        stack.interrupt();
    }
    let outcome = worker
        .join()
        .map_err(|_| Failure::Failed("the receiving thread died".into()))?;
    match (outcome, signal) {
        (Err(_), Some(signal)) => Err(Failure::Interrupted(signal)),
        (outcome, _) => outcome,
    }
}

fn receive(listener: TcpListener, mut target: Target) -> Result<Received, Failure> {
    let (stream, peer) = listener.accept()?;
    // One connection: the next peer is refused.
    drop(listener);
    let start = Instant::now();
    let mut hash = Sha256::new();
    let mut bytes = 0;
    // The failure of a connection names the peer.
    let from_peer = |error: io::Error| Failure::new("receiving", &error);
    while let Some(lease) = stream.read_lease().map_err(from_peer)? {
        hash.update(&*lease);
        target.write(&lease)?;
        bytes += lease.len() as u64;
    }
    let time = start.elapsed();
    target.complete()?;
    let closed = stream
        .shutdown(Shutdown::Write)
        .and_then(|()| stream.wait_acknowledged(Some(CLOSE_TIME)));
    if let Err(error) = closed {
        // The peer has sent everything and its FIN: what becomes of ours changes nothing.
        tracing::debug!(%peer, %error, "our close was not acknowledged");
    }
    Ok(Received {
        bytes,
        time,
        sha256: hash.finalize().into(),
    })
}

/// FILE while it is not complete. Dropped before it is, it leaves nothing behind.
struct Target {
    path: PathBuf,
    /// `None`: FILE is a device, pipe or the like, and is written to directly.
    temporary: Option<PathBuf>,
    file: File,
    done: bool,
}

impl Target {
    fn create(path: &Path) -> Result<Self, Failure> {
        let cannot = |error: &io::Error| {
            Failure::Failed(format!(
                "cannot write {}: {error}; name a file in a directory that exists and may be written to",
                path.display()
            ))
        };
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(cannot(&io::ErrorKind::IsADirectory.into()));
            }
            Ok(metadata) if !metadata.is_file() => {
                let file = OpenOptions::new()
                    .write(true)
                    .open(path)
                    .map_err(|e| cannot(&e))?;
                return Ok(Self {
                    path: path.to_owned(),
                    temporary: None,
                    file,
                    done: false,
                });
            }
            // A file that may not be written must not be replaced either.
            Ok(_) => drop(
                OpenOptions::new()
                    .write(true)
                    .open(path)
                    .map_err(|e| cannot(&e))?,
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot(&error)),
        }
        let Some(name) = path.file_name() else {
            return Err(cannot(&io::ErrorKind::InvalidFilename.into()));
        };
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".bywash-{}", std::process::id()));
        let temporary = path.with_file_name(temporary);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(|error| cannot(&error))?;
        Ok(Self {
            path: path.to_owned(),
            temporary: Some(temporary),
            file,
            done: false,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let path = &self.path;
        self.file
            .write_all(bytes)
            .map_err(|error| Failure::new(format!("writing {}", path.display()), &error))
    }

    /// Gives the file its name.
    fn complete(&mut self) -> Result<(), Failure> {
        if let Some(temporary) = &self.temporary {
            self.file
                .sync_all()
                .and_then(|()| fs::rename(temporary, &self.path))
                .map_err(|error| {
                    Failure::new(format!("writing {}", self.path.display()), &error)
                })?;
        }
        self.done = true;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let (false, Some(temporary)) = (self.done, &self.temporary)
            && let Err(error) = fs::remove_file(temporary)
        {
            tracing::warn!(%error, "{} is left behind", temporary.display());
        }
    }
}
