//! Plays a script: one event after the other, at its time.
//!
//! Like packetdrill, the player keeps two views of a connection: the script's numbers, which begin at 0, and
//! the live ones. Segments and system calls are mapped from one to the other on their way ([`wire`](self)).

mod calls;
mod code;
mod commands;
mod info;
mod settings;
mod values;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::script::{Action, Event, Micros, ParseError, Script, Time, parse};
use crate::table::Table;

pub use settings::{Family, Settings};

use calls::Blocked;
use commands::Parameters;
use wire::Socket;

/// How playing a script ended, if not well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The text makes no sense.
    #[error("{0}")]
    Parse(#[from] ParseError),
    /// It asks for something that this player does not do.
    #[error("line {line}: not played: {what}")]
    Unsupported {
        /// Where.
        line: usize,
        /// What.
        what: String,
    },
    /// The stack did something else.
    #[error("line {line}: {what}")]
    Mismatch {
        /// Where.
        line: usize,
        /// What was expected and what came.
        what: String,
    },
}

/// A failure without its line.
pub(crate) enum Fault {
    Unsupported(String),
    Mismatch(String),
}

type Outcome<T = ()> = Result<T, Fault>;

fn mismatch<T>(what: impl Into<String>) -> Outcome<T> {
    Err(Fault::Mismatch(what.into()))
}

fn unsupported<T>(what: impl Into<String>) -> Outcome<T> {
    Err(Fault::Unsupported(what.into()))
}

/// What a script is played with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// IPv4, IPv6, or IPv4 through an IPv6 socket.
    pub family: Family,
    /// A shared library instead of the linked crate.
    pub library: Option<PathBuf>,
    /// Prints every packet that the stack sends.
    pub verbose: bool,
    /// Tolerance of all times instead of the script's, in microseconds.
    pub tolerance_us: Option<Micros>,
}

/// Plays the script in `text`.
///
/// # Errors
/// The first thing that went otherwise than the script says.
pub fn play(text: &str, options: &Options) -> Result<(), Failure> {
    // A script that names its family is for that one.
    let v6 = options.family == Family::V6 && !text.contains("--ip_version=ipv4");
    let (cookie, zero) = if v6 {
        (settings::TFO_COOKIE_V6, settings::TFO_COOKIE_ZERO_V6)
    } else {
        (settings::TFO_COOKIE_V4, settings::TFO_COOKIE_ZERO_V4)
    };
    let (level, name) = match options.family {
        Family::V6 if v6 => ("SOL_IPV6", "IPV6_RECVERR"),
        Family::Mapped => ("SOL_IPV6", "IPV6_RECVERR"),
        Family::V4 | Family::V6 => ("SOL_IP", "IP_RECVERR"),
    };
    let text = text
        .replace("TFO_COOKIE_ZERO", zero)
        .replace("TFO_COOKIE", cookie)
        .replace("CMSG_LEVEL_IP", level)
        .replace("CMSG_TYPE_RECVERR", name);
    let script = parse(&text)?;
    let settings = Settings::of(&script, options)?;
    let parameters = Parameters::new();
    let flags = settings.flags(parameters.root());
    let table = match &options.library {
        None => Table::linked(&flags),
        Some(path) => {
            Table::loaded(path, &flags).map_err(|what| Failure::Mismatch { line: 0, what })?
        }
    };
    let mut player = Player::new(table, settings, parameters, options.verbose);
    let result = player.run(&script);
    player.end();
    result
}

/// A script being played.
pub(crate) struct Player {
    table: Table,
    settings: Settings,
    parameters: Parameters,
    verbose: bool,
    /// Live time of the script's zero.
    start: Micros,
    /// Script time of the event before, if it was an injected packet: the next relative one counts from there.
    anchor: Option<Micros>,
    /// Live descriptors by the script's numbers.
    fds: BTreeMap<i64, i32>,
    sockets: Vec<Socket>,
    /// The socket that packets are about: place in `sockets`.
    current: Option<usize>,
    blocked: Option<Blocked>,
    next_port: u16,
}

impl Player {
    fn new(table: Table, settings: Settings, parameters: Parameters, verbose: bool) -> Self {
        Self {
            table,
            settings,
            parameters,
            verbose,
            start: table.now_us(),
            anchor: None,
            fds: BTreeMap::new(),
            sockets: Vec::new(),
            current: None,
            blocked: None,
            next_port: 40_000,
        }
    }

    fn run(&mut self, script: &Script) -> Result<(), Failure> {
        for event in &script.events {
            self.event(event).map_err(|fault| {
                let line = event.line;
                match fault {
                    Fault::Unsupported(what) => Failure::Unsupported { line, what },
                    Fault::Mismatch(what) => Failure::Mismatch { line, what },
                }
            })?;
        }
        let last = script.events.last().map_or(0, |event| event.line);
        self.await_blocked().map_err(|fault| {
            let (Fault::Unsupported(what) | Fault::Mismatch(what)) = fault;
            Failure::Mismatch { line: last, what }
        })
    }

    /// Closes everything, so that no call sleeps any more, and ends the plug-in.
    fn end(mut self) {
        for fd in std::mem::take(&mut self.fds).into_values() {
            if self.table.close(fd).is_err() {
                // Half-made by a script that failed.
            }
        }
        if self.blocked.take().is_none_or(Blocked::finish) {
            self.table.free();
        }
    }

    fn event(&mut self, event: &Event) -> Outcome {
        let now = self.table.now_us() - self.start;
        let is_injection = matches!(event.action, Action::Inject(_));
        let base = self.anchor.filter(|_| is_injection).unwrap_or(now);
        let (first, last) = match event.time {
            Time::Any => (now, None),
            Time::Absolute(at) => (at, None),
            Time::Relative(after) => (base + after, None),
            Time::AbsoluteRange(from, to) => (from, Some(to)),
            Time::RelativeRange(from, to) => (base + from, Some(base + to)),
        };
        let when = When {
            any: event.time == Time::Any,
            first,
            last: last.unwrap_or(first),
        };
        self.anchor = is_injection.then_some(first);
        if let Action::Expect(packet) = &event.action {
            return self.expect(packet, &when);
        }
        if let Action::Call(_) = event.action {
            self.await_blocked()?;
        }
        self.wait_until(first);
        match &event.action {
            Action::Inject(packet) => self.inject(packet),
            Action::Call(call) => {
                let relative = matches!(event.time, Time::Relative(_));
                let until = event
                    .until
                    .map(|end| if relative { base + end } else { end });
                self.call(call, until)
            }
            Action::Command(text) => self.parameters.command(text),
            Action::Code(text) => self.code(text),
            Action::Expect(_) => Ok(()),
        }
    }

    /// As packetdrill: sleeps to shortly before, then looks at the clock until it is time.
    fn wait_until(&self, at: Micros) {
        const SPIN: Micros = 20;
        loop {
            let left = at - (self.table.now_us() - self.start);
            if left <= 0 {
                return;
            }
            if left > SPIN {
                self.table
                    .usleep(u32::try_from(left - SPIN).unwrap_or(u32::MAX));
            }
        }
    }

    /// Whether something happened when it should have.
    fn check_time(&self, what: &str, when: &When, at: Micros) -> Outcome {
        let tolerance = self.settings.tolerance_us;
        if when.any || (when.first - tolerance..=when.last + tolerance).contains(&at) {
            return Ok(());
        }
        let seconds = |us: Micros| us as f64 / 1e6;
        mismatch(format!(
            "{what} expected at {:.6}..{:.6} s, happened at {:.6} s",
            seconds(when.first),
            seconds(when.last),
            seconds(at)
        ))
    }
}

/// When an event is to happen, in script time.
pub(crate) struct When {
    any: bool,
    first: Micros,
    last: Micros,
}
