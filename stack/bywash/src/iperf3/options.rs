//! What a user may ask of a test. Spelled as `iperf3` spells it; the command line parses into these.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bywash_engine::tcp::CongestionControl;

use super::error::Iperf3Error;

/// The port that `iperf3` listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 5201;

/// Bytes of a write unless `-l` says otherwise: 128 KiB, as `iperf3` has it for TCP.
pub const DEFAULT_LENGTH: u32 = 128 * 1024;

/// Largest `-l`, in bytes; the stock program's limit (1 MiB).
pub const MAX_LENGTH: u32 = 1024 * 1024;

/// Most streams of one test in one direction; the stock program's limit.
pub const MAX_PARALLEL: u32 = 128;

/// Longest `-t`, in seconds; the stock program's limit (a day).
pub const MAX_TIME: u32 = 86_400;

/// Longest `-O`, in seconds; the stock program's limit.
pub const MAX_OMIT: u32 = 600;

/// A server (`bywash iperf3 -s`).
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Port of control and data connections (`-p`).
    pub port: u16,
    /// End after one test (`-1`).
    pub one_off: bool,
    /// One JSON document a test instead of lines (`--json`).
    pub json: bool,
    /// Time between reports (`-i`); zero for none.
    pub interval: Duration,
    /// How long a peer may keep us waiting for the next step of the protocol.
    pub patience: Duration,
    /// How long a running test may go without a byte moving on any stream.
    pub idle_limit: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            port: DEFAULT_PORT,
            one_off: false,
            json: false,
            interval: Duration::from_secs(1),
            patience: Duration::from_secs(10),
            idle_limit: Duration::from_secs(120),
        }
    }
}

impl ServerOptions {
    /// Refuses what cannot be served, naming the option.
    pub fn check(&self) -> Result<(), Iperf3Error> {
        if self.port == 0 {
            return Err(Iperf3Error::Option(
                "-p needs a port from 1 to 65535".into(),
            ));
        }
        check_interval(self.interval)
    }
}

/// How long a test goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// `-t`: seconds of measured time; 0 runs until interrupted.
    Seconds(u32),
    /// `-n`: bytes over all streams, rounded up to whole writes.
    Bytes(u64),
    /// `-k`: writes of `-l` bytes over all streams.
    Blocks(u64),
}

/// A client (`bywash iperf3 -c HOST`).
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Address and port of the server (`-c`, `-p`).
    pub server: SocketAddr,
    /// How long to test (`-t`, `-n`, `-k`).
    pub extent: Extent,
    /// Seconds at the start that are shown but not counted (`-O`).
    pub omit: u32,
    /// Streams in each direction (`-P`).
    pub parallel: u32,
    /// The server sends (`-R`).
    pub reverse: bool,
    /// Both send (`--bidir`).
    pub bidirectional: bool,
    /// Bytes of one write (`-l`).
    pub length: u32,
    /// Switch Nagle's algorithm off (`-N`).
    pub no_delay: bool,
    /// Largest segment payload, in bytes (`-M`).
    pub mss: Option<u16>,
    /// Congestion control algorithm of both sides (`-C`); `None`: each side's own.
    pub congestion: Option<CongestionControl>,
    /// One JSON document instead of lines (`--json`).
    pub json: bool,
    /// Time between reports (`-i`); zero for none.
    pub interval: Duration,
    /// How long the server may keep us waiting for the next step of the protocol.
    pub patience: Duration,
}

impl ClientOptions {
    /// The defaults of `iperf3 -c`: ten seconds, one stream, to `host` on the default port.
    pub fn new(host: IpAddr) -> Self {
        Self {
            server: SocketAddr::new(host, DEFAULT_PORT),
            extent: Extent::Seconds(10),
            omit: 0,
            parallel: 1,
            reverse: false,
            bidirectional: false,
            length: DEFAULT_LENGTH,
            no_delay: false,
            mss: None,
            congestion: None,
            json: false,
            interval: Duration::from_secs(1),
            patience: Duration::from_secs(10),
        }
    }

    /// Refuses what the protocol or the stock server would not take, naming the option.
    pub fn check(&self) -> Result<(), Iperf3Error> {
        let complaint = if self.server.port() == 0 {
            Some("-p needs a port from 1 to 65535".to_owned())
        } else if self.length == 0 || self.length > MAX_LENGTH {
            Some(format!("-l needs a length from 1 to {MAX_LENGTH} bytes"))
        } else if self.parallel == 0 || self.parallel > MAX_PARALLEL {
            Some(format!(
                "-P needs a number of streams from 1 to {MAX_PARALLEL}"
            ))
        } else if self.reverse && self.bidirectional {
            Some("-R and --bidir exclude each other".to_owned())
        } else if self.omit > MAX_OMIT {
            Some(format!("-O takes at most {MAX_OMIT} seconds"))
        } else {
            match self.extent {
                Extent::Seconds(seconds) if seconds > MAX_TIME => {
                    Some(format!("-t takes at most {MAX_TIME} seconds"))
                }
                Extent::Bytes(0) => Some("-n needs at least 1 byte".to_owned()),
                Extent::Blocks(0) => Some("-k needs at least 1 block".to_owned()),
                _ => None,
            }
        };
        match complaint {
            Some(text) => Err(Iperf3Error::Option(text)),
            None => check_interval(self.interval),
        }
    }
}

/// `-i` as the stock program takes it: 0, or 0.1 to 60 seconds.
fn check_interval(interval: Duration) -> Result<(), Iperf3Error> {
    let allowed = Duration::from_millis(100)..=Duration::from_secs(60);
    if interval.is_zero() || allowed.contains(&interval) {
        Ok(())
    } else {
        Err(Iperf3Error::Option(
            "-i needs 0 or a number of seconds from 0.1 to 60".into(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> ClientOptions {
        ClientOptions::new(IpAddr::from([10, 0, 0, 1]))
    }

    #[test]
    fn the_defaults_pass() {
        assert!(client().check().is_ok());
        assert!(ServerOptions::default().check().is_ok());
    }

    #[test]
    fn each_option_out_of_range_is_named() {
        type Spoil = fn(&mut ClientOptions);
        let cases: [(&str, Spoil); 10] = [
            ("-p", |o| o.server.set_port(0)),
            ("-l", |o| o.length = 0),
            ("-l", |o| o.length = MAX_LENGTH + 1),
            ("-P", |o| o.parallel = 0),
            ("-P", |o| o.parallel = MAX_PARALLEL + 1),
            ("-R", |o| (o.reverse, o.bidirectional) = (true, true)),
            ("-O", |o| o.omit = MAX_OMIT + 1),
            ("-t", |o| o.extent = Extent::Seconds(MAX_TIME + 1)),
            ("-n", |o| o.extent = Extent::Bytes(0)),
            ("-i", |o| o.interval = Duration::from_millis(99)),
        ];
        for (name, spoil) in cases {
            let mut options = client();
            spoil(&mut options);
            let error = options.check().expect_err(name).to_string();
            assert!(error.contains(name), "{error} does not name {name}");
        }
    }
}
