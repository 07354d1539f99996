//! The control socket: how `bywash ss` and `bywash doctor` find and question running engines.
//!
//! `/run/bywash/<key>/control.sock` is a Unix stream socket of mode 0600. A path socket, because
//! those work across network namespaces, and abstract ones do not. One connection, one question:
//!
//! ```text
//! -> {"v":1,"op":"ss"}\n
//! <- {"v":1,"ok":{...}}\n        or        {"v":1,"error":"..."}\n
//! ```
//!
//! A thread of its own serves at most [`CLIENTS`] connections at a time, each within
//! [`CLIENT_TIME`]; none of it touches a shard except what the engine's handler does.

mod line;

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

pub use line::{Arrival, REQUEST_MAX, RequestLine, interpret};

use super::lock::{CONTROL_SOCKET, EngineLock, Owner, RUN_DIR, owner};

/// Version of the protocol; both ends refuse any other.
pub const VERSION: u64 = 1;

/// Connections served at a time; the next one gets an error reply.
pub const CLIENTS: usize = 8;

/// A client must have sent its line within this time.
pub const CLIENT_TIME: Duration = Duration::from_secs(2);

/// Longest reply that a client takes: a million sockets at a few hundred bytes each.
const REPLY_MAX: u64 = 1 << 30;

/// How long a client waits for an engine's reply. A shard answers within a turn; a long list takes
/// its time to be written.
const REPLY_TIME: Duration = Duration::from_secs(10);

/// What can be asked of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// The connections and listeners.
    Ss,
    /// What holds on this machine, and what does not.
    Doctor,
    /// All counters.
    Counters,
    /// Version of the program.
    Version,
    /// Put a fresh copy of the XDP program in the place of the one that runs.
    Reload,
}

/// One question to an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub operation: Operation,
}

/// The engine's side of a question: gives the value that goes under `"ok"`, or a text for
/// `"error"`. Called on the control thread; it may wait for shards, but not for ever.
pub type Handler = Box<dyn Fn(Request) -> Result<Value, String> + Send>;

/// Why a control socket could not be served or asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket or its directory: missing rights, engine gone, time-out.
    #[error("{}: {error}", path.display())]
    Io {
        /// The path in question.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The other end speaks another version.
    #[error(
        "this program speaks version {VERSION} of the control protocol, the engine does not: {0}"
    )]
    Version(String),
    /// The engine answered with an error.
    #[error("the engine answers: {0}")]
    Engine(String),
    /// The answer is no reply of this protocol.
    #[error("not a reply of the control protocol: {0}")]
    Malformed(String),
}

/// The thread that serves an engine's control socket. Dropping it ends the thread and removes the
/// socket.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Serves `control.sock` in the directory of an engine that holds its device.
    ///
    /// # Errors
    /// [`ControlError::Io`] if the socket cannot be made.
    pub fn start(lock: &EngineLock, handler: Handler) -> Result<Self, ControlError> {
        let path = lock.directory().join(CONTROL_SOCKET);
        let failed = |error| ControlError::Io {
            path: path.clone(),
            error,
        };
        let listener = listen(&path).map_err(failed)?;
        let stop = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let stop = Arc::new(stop.map_err(|error| failed(error.into()))?);
        let server = Server {
            listener,
            stop: Arc::clone(&stop),
            handler,
            clients: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("bywash-control".to_owned())
            .spawn(move || server.run());
        let thread = thread.map_err(failed)?;
        Ok(Self {
            path,
            stop,
            thread: Some(thread),
        })
    }

    /// Path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        if let Err(error) = self.stop.write(1) {
            tracing::error!("the control thread cannot be told to end: {error}");
            return;
        }
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the control thread panicked");
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!("{} stays behind: {error}", self.path.display());
            }
            _ => {}
        }
    }
}

/// A listening socket that nobody but its owner can ever have connected to: the mode is narrowed
/// between `bind` and `listen`, while connecting is refused.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.listen(CLIENTS as i32)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

struct Server {
    listener: UnixListener,
    stop: Arc<EventFd>,
    handler: Handler,
    clients: Vec<Client>,
}

struct Client {
    stream: UnixStream,
    line: RequestLine,
    deadline: Instant,
}

/// What a client's socket gave.
enum Progress {
    Arrived(Arrival),
    Gone,
}

impl Server {
    fn run(mut self) {
        loop {
            let now = Instant::now();
            let (late, waiting): (Vec<_>, Vec<_>) = self
                .clients
                .drain(..)
                .partition(|client: &Client| client.deadline <= now);
            self.clients = waiting;
            for client in late {
                reply(
                    client.stream,
                    &Err(format!(
                        "no request line within {} s",
                        CLIENT_TIME.as_secs()
                    )),
                );
            }
            let nearest = self
                .clients
                .iter()
                .map(|client| client.deadline - now)
                .min();
            match self.wait(nearest) {
                Ok((true, _, _)) => return,
                Ok((false, knock, readable)) => {
                    self.serve(&readable);
                    if knock {
                        self.accept();
                    }
                }
                Err(error) => {
                    tracing::error!("the control socket is served no more: {error}");
                    return;
                }
            }
        }
    }

    /// Sleeps until something is to be done: whether to stop, whether somebody knocks, and which
    /// clients have sent something.
    fn wait(&self, nearest: Option<Duration>) -> io::Result<(bool, bool, Vec<bool>)> {
        let mut fds = vec![
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(
            self.clients
                .iter()
                .map(|client| PollFd::new(client.stream.as_fd(), PollFlags::POLLIN)),
        );
        let timeout = nearest.map_or(PollTimeout::NONE, |time| {
            // Rounded up, or the last millisecond would be spun through.
            PollTimeout::try_from(time.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        Ok((ready[0], ready[1], ready[2..].to_vec()))
    }

    fn serve(&mut self, readable: &[bool]) {
        let clients = std::mem::take(&mut self.clients);
        for (mut client, readable) in clients.into_iter().zip(readable) {
            if !*readable {
                self.clients.push(client);
                continue;
            }
            match client.read() {
                Progress::Arrived(Arrival::More) => self.clients.push(client),
                Progress::Gone => {}
                Progress::Arrived(Arrival::TooLong) => reply(
                    client.stream,
                    &Err(format!("request longer than {REQUEST_MAX} bytes")),
                ),
                Progress::Arrived(Arrival::Line) => {
                    let answer = client
                        .line
                        .parse()
                        .and_then(|request| (self.handler)(request));
                    reply(client.stream, &answer);
                }
            }
        }
    }

    fn accept(&mut self) {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return;
            }
            Err(error) => {
                // Out of file descriptors, most likely: the knock stays, so do not spin on it.
                tracing::warn!("control socket: {error}");
                std::thread::sleep(Duration::from_millis(100));
                return;
            }
        };
        if self.clients.len() >= CLIENTS {
            reply(
                stream,
                &Err(format!("{CLIENTS} clients are being served; try again")),
            );
        } else if let Err(error) = stream.set_nonblocking(true) {
            tracing::warn!("control socket: {error}");
        } else {
            self.clients.push(Client {
                stream,
                line: RequestLine::default(),
                deadline: Instant::now() + CLIENT_TIME,
            });
        }
    }
}

impl Client {
    fn read(&mut self) -> Progress {
        let mut buffer = [0; REQUEST_MAX];
        match self.stream.read(&mut buffer) {
            // An end without a newline: a client that only wanted to know whether we live.
            Ok(0) => Progress::Gone,
            Ok(length) => Progress::Arrived(self.line.on_bytes(&buffer[..length])),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Progress::Arrived(Arrival::More)
            }
            Err(_) => Progress::Gone,
        }
    }
}

/// Writes the reply; a client that does not take it within its time goes without.
fn reply(mut stream: UnixStream, answer: &Result<Value, String>) {
    let value = match answer {
        Ok(value) => json!({ "v": VERSION, "ok": value }),
        Err(text) => json!({ "v": VERSION, "error": text }),
    };
    let written = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_write_timeout(Some(CLIENT_TIME)))
        .and_then(|()| stream.write_all(format!("{value}\n").as_bytes()));
    if let Err(error) = written {
        tracing::debug!("a control client did not take its reply: {error}");
    }
}

/// A live engine on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// Its [`super::Device::key`].
    pub key: String,
    /// Its control socket.
    pub socket: PathBuf,
    /// Process, command line, start and interface, from the lock file.
    pub owner: Option<Owner>,
}

/// Every engine on this host that answers on its control socket, ordered by key, whatever network
/// namespace it is in.
///
/// # Errors
/// [`ControlError::Io`] if `/run/bywash` or an engine's socket may not be looked at (an engine's
/// user or root may).
pub fn engines() -> Result<Vec<EngineInfo>, ControlError> {
    engines_in(Path::new(RUN_DIR))
}

/// As [`engines`], under another directory than [`RUN_DIR`].
///
/// # Errors
/// As [`engines`].
pub fn engines_in(root: &Path) -> Result<Vec<EngineInfo>, ControlError> {
    let failed = |path: &Path, error| ControlError::Io {
        path: path.to_owned(),
        error,
    };
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(root, error)),
    };
    let mut engines = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed(root, error))?;
        let socket = entry.path().join(CONTROL_SOCKET);
        match UnixStream::connect(&socket) {
            Ok(_) => {}
            // No socket: not an engine's directory, or the engine is still starting or just ending.
            // Refused: its engine is dead.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory
                ) =>
            {
                continue;
            }
            Err(error) => return Err(failed(&socket, error)),
        }
        let owner = owner(&entry.path()).map_err(|error| failed(&entry.path(), error))?;
        engines.push(EngineInfo {
            key: entry.file_name().to_string_lossy().into_owned(),
            socket,
            owner,
        });
    }
    engines.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(engines)
}

/// Asks one engine one question.
///
/// # Errors
/// See [`ControlError`]; `Io` if the engine has ended meanwhile or does not answer within 10 s.
pub fn ask(engine: &EngineInfo, operation: Operation) -> Result<Value, ControlError> {
    let failed = |error| ControlError::Io {
        path: engine.socket.clone(),
        error,
    };
    let mut stream = UnixStream::connect(&engine.socket).map_err(failed)?;
    stream.set_read_timeout(Some(REPLY_TIME)).map_err(failed)?;
    stream
        .set_write_timeout(Some(CLIENT_TIME))
        .map_err(failed)?;
    let request = json!({ "v": VERSION, "op": operation });
    // A server that is full replies and closes without having read the request.
    let written = stream.write_all(format!("{request}\n").as_bytes());
    let mut line = String::new();
    BufReader::new(stream.take(REPLY_MAX))
        .read_line(&mut line)
        .map_err(failed)?;
    if line.is_empty() {
        written.map_err(failed)?;
        return Err(failed(ErrorKind::UnexpectedEof.into()));
    }
    interpret(&line)
}
