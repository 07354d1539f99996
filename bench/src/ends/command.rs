//! Bulk transfers between programs: the stock `iperf3` and `bywash iperf3`, in either role.
//!
//! The server starts first and says on standard output when it is ready; the client runs for the given time and reports as JSON what
//! the *receiver* counted. Programs are pinned: each end has a core of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cpu::{CoreTime, Sample};
use crate::interrupt::{self, Tracked};
use crate::netns::{End, Testbed, on_path};

/// A server that has not said by then that it is ready will not.
const READY: Duration = Duration::from_secs(10);
/// What a client may take on top of its transfer, to start and to end.
const GRACE: Duration = Duration::from_secs(10);
/// What a client may take to start before its transfer is said to be a quarter through.
const START: Duration = Duration::from_millis(150);
/// Port of every transfer.
const PORT: u16 = 5201;

/// What stands at one end.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    /// The stock `iperf3` over kernel sockets, which send with this congestion control, or the system's default.
    Stock(Option<&'static str>),
    /// `bywash iperf3`.
    Bywash(Stack),
}

/// How a `bywash` process runs.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    /// The program.
    pub(crate) path: PathBuf,
    /// `--idle`, or the program's default.
    pub(crate) idle: Option<&'static str>,
    /// `--xdp`.
    pub(crate) xdp: &'static str,
}

/// What one transfer measured.
pub(crate) struct Transfer {
    /// Payload bytes per second at the receiver, in bits.
    pub(crate) bits_per_second: f64,
    /// Segments that the sender sent again; none if it does not say.
    pub(crate) retransmissions: Option<f64>,
    /// All cores' time over the middle half of the transfer: neither start nor end of a program is in it.
    pub(crate) cores: Vec<CoreTime>,
    /// Both ends' offloads in the middle of the transfer, if asked for.
    pub(crate) offloads: Option<[String; 2]>,
}

/// Says what is missing, and how to get it.
pub(crate) fn require(bywash: &Path) -> Result<()> {
    ensure!(
        on_path("iperf3"),
        "`iperf3` is missing: on Debian `apt-get install iperf3`"
    );
    ensure!(
        bywash.is_file(),
        "{} is missing: build it with `cargo build --release -p bywash`, or name it with --bywash PATH",
        bywash.display()
    );
    Ok(())
}

/// Sends from `client` at `bed.a` to `server` at `bed.b` for the given time, in whole seconds.
pub(crate) fn transfer(
    bed: &Testbed,
    client: &Program,
    server: &Program,
    duration: Duration,
    want_offloads: bool,
) -> Result<Transfer> {
    let seconds = duration.as_secs().max(1);
    let mut server = Server::start(iperf3(server, &bed.b, &["-s", "-1"])?, PORT)?;
    let address = bed.b.address.to_string();
    let seconds_text = seconds.to_string();
    let mut arguments = vec!["-c", &address, "-t", &seconds_text, "--json"];
    if let Program::Stock(Some(control)) = client {
        arguments.extend(["-C", control]);
    }
    let mut command = iperf3(client, &bed.a, &arguments)?;
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .stdin(Stdio::null());
    let start = Instant::now();
    let mut client = Tracked::new(command.spawn().context("cannot start the client")?);
    let output = drain(client.child())?;
    thread::sleep(START + Duration::from_secs(seconds) / 4);
    let offloads = match want_offloads {
        true => Some([bed.a.offloads()?, bed.b.offloads()?]),
        false => None,
    };
    let before = Sample::now()?;
    thread::sleep(Duration::from_secs(seconds) / 2);
    let cores = before.until(&Sample::now()?);
    let limit = Duration::from_secs(seconds) + GRACE;
    let [stdout, stderr] =
        output.map(|text| text.recv_timeout(limit.saturating_sub(start.elapsed())));
    interrupt::check()?;
    let stdout = stdout
        .with_context(|| format!("the client did not end within {limit:?}{}", server.said()))?;
    let stderr = stderr.unwrap_or_default();
    let report: Value = serde_json::from_str(&stdout).with_context(|| {
        format!(
            "the client's report is no JSON: {}{}{}",
            stdout.trim(),
            stderr.trim(),
            server.said()
        )
    })?;
    if let Some(error) = report["error"].as_str() {
        bail!("the client reports: {error}{}", server.said());
    }
    let received = &report["end"]["sum_received"];
    let number = |value: &Value, name: &str| {
        value
            .as_f64()
            .with_context(|| format!("the client's report lacks {name}"))
    };
    Ok(Transfer {
        bits_per_second: number(
            &received["bits_per_second"],
            "end.sum_received.bits_per_second",
        )?,
        retransmissions: report["end"]["sum_sent"]["retransmits"].as_f64(),
        cores,
        offloads,
    })
}

/// The echo server of `bywash` at `end`, ready, until it is dropped.
pub(crate) fn echo(stack: &Stack, end: &End, port: u16) -> Result<Server> {
    let mut command = end.command(&absolute(&stack.path)?);
    command.args(["echo", "-p", &port.to_string()]);
    device(&mut command, stack, end);
    Server::start(command, port)
}

/// An `iperf3` of either kind at `end`.
fn iperf3(program: &Program, end: &End, arguments: &[&str]) -> Result<Command> {
    let mut command = match program {
        Program::Stock(_) => {
            let mut command = end.command(Path::new("iperf3"));
            // A client sets the server's core as well unless it names its own alone.
            command.args(["--forceflush", "-A", &end.core.to_string()]);
            command
        }
        Program::Bywash(stack) => {
            let mut command = end.command(&absolute(&stack.path)?);
            command.arg("iperf3");
            device(&mut command, stack, end);
            command
        }
    };
    command.args(["-p", &PORT.to_string()]).args(arguments);
    Ok(command)
}

fn device(command: &mut Command, stack: &Stack, end: &End) {
    command.args([
        "--dev",
        end.device,
        "--cores",
        &end.core.to_string(),
        "--xdp",
        stack.xdp,
    ]);
    if let Some(idle) = stack.idle {
        command.args(["--idle", idle]);
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .with_context(|| format!("cannot find {}", path.display()))
}

/// A server process that is ready; ended on drop.
pub(crate) struct Server {
    process: Tracked,
    stderr: Receiver<String>,
}

impl Server {
    /// Starts it and waits for its line. The stock `iperf3` prints a rule first.
    fn start(mut command: Command, port: u16) -> Result<Self> {
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .stdin(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut process = Tracked::new(child);
        let stdout = process
            .child()
            .stdout
            .take()
            .context("no pipe from the server")?;
        let stderr = read_all(
            process
                .child()
                .stderr
                .take()
                .context("no pipe from the server")?,
        );
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody listens any more once the server was ready; it may go on printing.
                let _ = sender.send(line);
            }
        });
        let deadline = Instant::now() + READY;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(&port.to_string()) => {
                    return Ok(Self { process, stderr });
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{command:?} was not ready within {READY:?}")
                }
                Err(RecvTimeoutError::Disconnected) => {
                    interrupt::check()?;
                    let why = stderr
                        .recv_timeout(Duration::from_secs(1))
                        .unwrap_or_default();
                    bail!("{command:?} ended before it was ready: {}", why.trim());
                }
            }
        }
    }

    /// What the server said on standard error, for an error message: asks it to end first.
    fn said(&mut self) -> String {
        interrupt::terminate(self.process.child().id());
        let text = self
            .stderr
            .recv_timeout(Duration::from_secs(3))
            .unwrap_or_default();
        match text.trim() {
            "" => String::new(),
            text => format!("; the server says: {text}"),
        }
    }
}

/// Both outputs of a child, each whole, once the child has closed it.
fn drain(child: &mut Child) -> Result<[Receiver<String>; 2]> {
    let stdout = child.stdout.take().context("no pipe from the client")?;
    let stderr = child.stderr.take().context("no pipe from the client")?;
    Ok([read_all(stdout), read_all(stderr)])
}

fn read_all(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is all there is to show; a reader that has gone needs nothing.
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

/// Where a client finds the echo server at `end`.
pub(crate) fn address(end: &End, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(end.address), port)
}
