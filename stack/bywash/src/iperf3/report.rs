//! What a test tells: the same values as lines while it runs, or as one JSON document at its end.
//!
//! The document has the layout of the stock program (`start`, `intervals`, `end`), so what reads
//! that can read ours. Writing may fail (a closed pipe): the first failure is kept and asked for with [`Report::failure`].

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::cpu::CpuUse;
use super::message::{Parameters, VERSION};
use super::text;

/// One stream's part of an interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamInterval {
    /// The number that stands for the stream.
    pub socket: u32,
    /// Seconds since the start of the measured time.
    pub start: f64,
    /// Seconds since the start of the measured time.
    pub end: f64,
    /// Length in seconds.
    pub seconds: f64,
    /// Payload bytes.
    pub bytes: u64,
    /// Payload bits a second.
    pub bits_per_second: f64,
    /// What only a sender knows.
    #[serde(flatten)]
    pub sender_figures: Option<SenderFigures>,
    /// Whether it lies in the omitted time.
    pub omitted: bool,
    /// Whether we sent.
    pub sender: bool,
}

/// What only a sender knows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SenderFigures {
    /// Segments sent again in the interval.
    pub retransmits: u64,
    /// Congestion window in bytes.
    pub snd_cwnd: u32,
    /// The peer's window in bytes.
    pub snd_wnd: u32,
    /// Smoothed round-trip time in microseconds.
    pub rtt: u32,
    /// Its deviation.
    pub rttvar: u32,
    /// Largest segment payload in bytes.
    pub mss: u32,
}

/// Streams of one direction together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sum {
    /// Seconds since the start of the measured time.
    pub start: f64,
    /// Seconds since the start of the measured time.
    pub end: f64,
    /// Length in seconds.
    pub seconds: f64,
    /// Payload bytes.
    pub bytes: u64,
    /// Payload bits a second.
    pub bits_per_second: f64,
    /// Segments sent again, where the sender counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u64>,
    /// Only in intervals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub omitted: Option<bool>,
    /// Whether this side sent.
    pub sender: bool,
}

/// One interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// In order of their making.
    pub streams: Vec<StreamInterval>,
    /// Of the only direction, or the first stream's.
    pub sum: Sum,
    /// Of the other direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sum_bidir_reverse: Option<Sum>,
}

impl Interval {
    /// Sums each direction that occurs with `sum(streams, sender)`.
    pub(super) fn new(
        streams: Vec<StreamInterval>,
        sum: impl Fn(&[StreamInterval], bool) -> Sum,
    ) -> Self {
        let first = streams.first().is_some_and(|stream| stream.sender);
        let both = streams.iter().any(|stream| stream.sender != first);
        let reverse = both.then(|| sum(&streams, !first));
        Self {
            sum: sum(&streams, first),
            sum_bidir_reverse: reverse,
            streams,
        }
    }
}

/// One side of one stream over the whole test.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SideTotal {
    /// The number that stands for the stream.
    pub socket: u32,
    /// Always 0.
    pub start: f64,
    /// Seconds of measured time on that side.
    pub end: f64,
    /// The same.
    pub seconds: f64,
    /// Payload bytes.
    pub bytes: u64,
    /// Payload bits a second.
    pub bits_per_second: f64,
    /// What only the sending side tells.
    #[serde(flatten)]
    pub extremes: Option<SenderExtremes>,
    /// Whether *this program* sent on the stream (so the stock program has it, on both sides).
    pub sender: bool,
}

/// What the sending side tells of the whole test. All 0, but for the retransmissions, where the peer sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SenderExtremes {
    /// Segments sent again.
    pub retransmits: u64,
    /// Bytes.
    pub max_snd_cwnd: u32,
    /// Bytes.
    pub max_snd_wnd: u32,
    /// Microseconds.
    pub max_rtt: u32,
    /// Microseconds.
    pub min_rtt: u32,
    /// Microseconds.
    pub mean_rtt: u32,
}

/// Both sides of one stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamEnd {
    /// As the sender counted.
    pub sender: SideTotal,
    /// As the receiver counted.
    pub receiver: SideTotal,
}

/// Processor time of both sides, in percent of one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CpuUtilization {
    host_total: f64,
    host_user: f64,
    host_system: f64,
    remote_total: f64,
    remote_user: f64,
    remote_system: f64,
}

impl CpuUtilization {
    /// Ours and the peer's.
    pub fn new(host: CpuUse, remote: CpuUse) -> Self {
        Self {
            host_total: host.total,
            host_user: host.user,
            host_system: host.system,
            remote_total: remote.total,
            remote_user: remote.user,
            remote_system: remote.system,
        }
    }
}

/// The whole test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct End {
    /// In order of their making.
    pub streams: Vec<StreamEnd>,
    /// All senders of the first direction.
    pub sum_sent: Sum,
    /// All receivers of the first direction.
    pub sum_received: Sum,
    /// The other direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sum_sent_bidir_reverse: Option<Sum>,
    /// The other direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sum_received_bidir_reverse: Option<Sum>,
    /// Processor time.
    pub cpu_utilization_percent: CpuUtilization,
    /// Of the side that sends (first direction).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender_tcp_congestion: Option<String>,
    /// Of the side that receives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receiver_tcp_congestion: Option<String>,
}

/// A data connection.
#[derive(Clone, Debug, Serialize)]
pub struct Connected {
    socket: u32,
    local_host: String,
    local_port: u16,
    remote_host: String,
    remote_port: u16,
}

impl Connected {
    /// The stream shown as `socket`, between `local` and `remote`.
    pub fn new(socket: u32, local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            socket,
            local_host: local.ip().to_string(),
            local_port: local.port(),
            remote_host: remote.ip().to_string(),
            remote_port: remote.port(),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
struct Peer {
    host: String,
    port: u16,
}

#[derive(Clone, Debug, Serialize)]
struct Timestamp {
    time: String,
    timesecs: u64,
}

#[derive(Clone, Debug, Serialize)]
struct TestStart {
    protocol: &'static str,
    num_streams: u32,
    blksize: u32,
    omit: u32,
    duration: u32,
    bytes: u64,
    blocks: u64,
    reverse: u8,
    bidir: u8,
    tos: u8,
    target_bitrate: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Start {
    connected: Vec<Connected>,
    version: &'static str,
    system_info: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connecting_to: Option<Peer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_connection: Option<Peer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_mss_default: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    test_start: Option<TestStart>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Document {
    start: Start,
    intervals: Vec<Interval>,
    end: Option<End>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Which side of a test reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Shows both sides' totals.
    Client,
    /// Shows its own side's totals.
    Server,
}

/// Where a side of a test tells what happens.
pub struct Report {
    out: Box<dyn Write + Send>,
    role: Role,
    json: bool,
    document: Document,
    both_ways: bool,
    shown: usize,
    failure: Option<io::Error>,
}

impl Report {
    /// Reports to `out`, in lines or, with `json`, one document a test.
    pub fn new(role: Role, json: bool, out: Box<dyn Write + Send>) -> Self {
        Self {
            out,
            role,
            json,
            document: Document::default(),
            both_ways: false,
            shown: 0,
            failure: None,
        }
    }

    /// A test begins with a control connection to (or, at a server, from) `peer`.
    pub fn begin(&mut self, peer: SocketAddr, cookie: String) {
        let address = Peer {
            host: peer.ip().to_string(),
            port: peer.port(),
        };
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        self.document = Document::default();
        (self.both_ways, self.shown) = (false, 0);
        let start = &mut self.document.start;
        start.version = VERSION;
        start.system_info = system_info();
        start.timestamp = Some(Timestamp {
            time: text::http_date(since_epoch),
            timesecs: since_epoch,
        });
        start.cookie = Some(cookie);
        let line = match self.role {
            Role::Client => {
                start.connecting_to = Some(address);
                format!("Connecting to host {}, port {}", peer.ip(), peer.port())
            }
            Role::Server => {
                start.accepted_connection = Some(address);
                format!(
                    "Accepted connection from {}, port {}",
                    peer.ip(),
                    peer.port()
                )
            }
        };
        self.line(&line);
    }

    /// All data connections stand and the test starts. `mss` is the control connection's, in bytes.
    pub fn start(&mut self, parameters: &Parameters, mss: u32, connected: Vec<Connected>) {
        if self.role == Role::Client && parameters.reverse {
            let host = self
                .document
                .start
                .connecting_to
                .as_ref()
                .map_or("", |peer| peer.host.as_str());
            let line = format!("Reverse mode, remote host {host} is sending");
            self.line(&line);
        }
        for one in &connected {
            let line = format!(
                "[{:>3}] local {} port {} connected to {} port {}",
                one.socket, one.local_host, one.local_port, one.remote_host, one.remote_port
            );
            self.line(&line);
        }
        self.both_ways = parameters.bidirectional;
        let start = &mut self.document.start;
        start.connected = connected;
        start.tcp_mss_default = Some(mss);
        start.test_start = Some(TestStart {
            protocol: "TCP",
            num_streams: parameters.parallel,
            blksize: parameters.len,
            omit: parameters.omit,
            duration: parameters.time,
            bytes: parameters.num,
            blocks: parameters.blockcount,
            reverse: parameters.reverse.into(),
            bidir: parameters.bidirectional.into(),
            tos: 0,
            target_bitrate: parameters.bandwidth,
        });
    }

    /// An interval is over.
    pub fn interval(&mut self, interval: Interval) {
        let lines = text::interval(&interval, self.role, self.both_ways, self.shown == 0);
        self.shown += 1;
        self.line(&lines);
        if self.json {
            self.document.intervals.push(interval);
        }
    }

    /// The test is over.
    pub fn end(&mut self, end: End) {
        self.total(end);
        self.close();
    }

    /// The totals of a test that was cut short: [`Self::fail`] follows.
    pub fn total(&mut self, end: End) {
        let lines = text::end(&end, self.role, self.both_ways);
        self.line(&lines);
        self.document.end = Some(end);
    }

    /// The test failed: the document ends with the error, as the stock program's does. In lines the
    /// error is not repeated by a client, whose caller prints it; a server goes on, so it says it here.
    pub fn fail(&mut self, error: &str) {
        if self.role == Role::Server {
            self.line(&format!("iperf3: error - {error}"));
        }
        self.document.error = Some(error.to_owned());
        self.close();
    }

    /// A line that stands in no document.
    pub fn line(&mut self, line: &str) {
        if !self.json {
            self.write(line);
        }
    }

    fn close(&mut self) {
        if self.json {
            if self.document.start.version.is_empty() {
                self.document.start.version = VERSION;
                self.document.start.system_info = system_info();
            }
            let text = serde_json::to_string_pretty(&self.document)
                .expect("numbers and strings always serialise");
            self.write(&text);
        }
        self.document = Document::default();
    }

    fn write(&mut self, text: &str) {
        if let Err(error) = writeln!(self.out, "{text}").and_then(|()| self.out.flush()) {
            self.failure.get_or_insert(error);
        }
    }

    /// The first failure to write, once.
    pub fn failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }
}

/// Kernel, host and machine, like `uname -a`; what cannot be read is left out.
fn system_info() -> String {
    let mut words: Vec<String> = ["ostype", "hostname", "osrelease", "version"]
        .iter()
        .filter_map(|name| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok())
        .map(|text| text.trim().to_owned())
        .collect();
    words.push(std::env::consts::ARCH.to_owned());
    words.join(" ")
}
