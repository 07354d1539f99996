//! What travels on the control connection, as bytes and as values.

use serde::{Deserialize, Serialize};

use bywash_engine::tcp::{CongestionControl, UnknownCongestionControl};

use super::options::{DEFAULT_LENGTH, MAX_LENGTH, MAX_OMIT, MAX_PARALLEL, MAX_TIME};

/// What we say we are, where the protocol carries a version. Stock programs only show it.
pub const VERSION: &str = concat!("bywash ", env!("CARGO_PKG_VERSION"));

/// A state of the test, one signed byte on the wire (`iperf_api.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum State {
    /// Streams are complete: get ready.
    TestStart = 1,
    /// Send now.
    TestRunning = 2,
    /// The client has seen enough.
    TestEnd = 4,
    /// Server: tell me your parameters.
    ParamExchange = 9,
    /// Server: open the data connections.
    CreateStreams = 10,
    /// Server is being stopped.
    ServerTerminate = 11,
    /// Client is being stopped.
    ClientTerminate = 12,
    /// Server: tell me your results, mine follow.
    ExchangeResults = 13,
    /// Server: results are exchanged, show them.
    DisplayResults = 14,
    /// Client: goodbye.
    IperfDone = 16,
    /// Server runs another client's test.
    AccessDenied = -1,
    /// Server failed; two big-endian `i32` follow: iperf3's error number and errno.
    ServerError = -2,
}

impl State {
    const ALL: [Self; 12] = [
        Self::TestStart,
        Self::TestRunning,
        Self::TestEnd,
        Self::ParamExchange,
        Self::CreateStreams,
        Self::ServerTerminate,
        Self::ClientTerminate,
        Self::ExchangeResults,
        Self::DisplayResults,
        Self::IperfDone,
        Self::AccessDenied,
        Self::ServerError,
    ];

    /// The byte on the wire.
    pub const fn byte(self) -> u8 {
        (self as i8).cast_unsigned()
    }

    /// The state of a byte, or `None` if no state has it.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.byte() == byte)
    }
}

/// Tells the connections of one test from those of another: 36 characters and a NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie([u8; Self::LEN]);

impl Cookie {
    /// Bytes on the wire.
    pub const LEN: usize = 37;
    /// What the stock program draws its characters from.
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

    /// A cookie of 36 characters chosen by `random` (each byte picks one of 32).
    pub fn from_random(random: &[u8; 36]) -> Self {
        let mut bytes = [0; Self::LEN];
        for (byte, choice) in bytes.iter_mut().zip(random) {
            *byte = Self::ALPHABET[usize::from(choice % 32)];
        }
        Self(bytes)
    }

    /// All 37 bytes.
    pub const fn bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The characters without the NUL.
    pub fn text(&self) -> String {
        self.0
            .iter()
            .take_while(|byte| **byte != 0)
            .map(|byte| char::from(*byte))
            .collect()
    }
}

/// Gathers the cookie that opens every connection, and turns away what is no cookie at its first wrong byte.
#[derive(Clone, Debug, Default)]
pub struct Greeting {
    bytes: Vec<u8>,
}

/// The peer's first bytes are not a cookie: it speaks another protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer does not speak the iperf3 protocol (byte {byte:#04x} at {at} of the cookie)")]
pub struct NotACookie {
    /// The offending byte.
    pub byte: u8,
    /// Its place, from 0.
    pub at: usize,
}

impl Greeting {
    /// Takes bytes from the front of `input` and leaves what follows the cookie. `Ok(None)`: more is needed.
    pub fn on_bytes(&mut self, input: &mut &[u8]) -> Result<Option<Cookie>, NotACookie> {
        while self.bytes.len() < Cookie::LEN {
            let Some((&byte, rest)) = input.split_first() else {
                return Ok(None);
            };
            let at = self.bytes.len();
            // Old clients build the cookie from host name and time, so any printable character may stand in it;
            // it may be shorter and padded with NULs, and always ends in one.
            let ended = self.bytes.last() == Some(&0);
            let fits = if byte == 0 {
                at > 0
            } else {
                byte.is_ascii_graphic() && !ended && at < Cookie::LEN - 1
            };
            if !fits {
                return Err(NotACookie { byte, at });
            }
            self.bytes.push(byte);
            *input = rest;
        }
        let mut cookie = [0; Cookie::LEN];
        cookie.copy_from_slice(&self.bytes);
        Ok(Some(Cookie(cookie)))
    }
}

/// What the client wants. Fields that are not ours to act on (pacing, TOS, title, ...) are read over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// The test is over TCP.
    #[serde(default, skip_serializing_if = "is_false")]
    pub tcp: bool,
    /// The test is over UDP, which we refuse.
    #[serde(default, skip_serializing_if = "is_false")]
    pub udp: bool,
    /// The test is over SCTP, which we refuse.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sctp: bool,
    /// Seconds at the start that are not counted.
    #[serde(default)]
    pub omit: u32,
    /// Seconds of measured time; 0 if another limit holds, or none.
    #[serde(default)]
    pub time: u32,
    /// Bytes over all streams; 0 for no limit.
    #[serde(default)]
    pub num: u64,
    /// Blocks over all streams; 0 for no limit.
    #[serde(default)]
    pub blockcount: u64,
    /// TCP_MAXSEG in bytes; 0 for the default.
    #[serde(default, rename = "MSS", skip_serializing_if = "is_zero")]
    pub mss: u32,
    /// TCP_NODELAY.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nodelay: bool,
    /// Streams in each direction.
    #[serde(default = "one")]
    pub parallel: u32,
    /// The server sends.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reverse: bool,
    /// Both send.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bidirectional: bool,
    /// Socket buffer in bytes; 0 for the default.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub window: u32,
    /// Bytes of one write.
    #[serde(default = "default_length")]
    pub len: u32,
    /// Bits per second that a sender may send; 0 for no limit.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub bandwidth: u64,
    /// TCP_CONGESTION; empty for the default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub congestion: String,
    /// Resolution of the stock program's pacing, in microseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pacing_timer: u32,
    /// The client's version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub client_version: String,
}

fn one() -> u32 {
    1
}
fn default_length() -> u32 {
    DEFAULT_LENGTH
}
fn is_false(value: &bool) -> bool {
    !value
}
fn is_zero(value: &u32) -> bool {
    *value == 0
}
fn is_zero_u64(value: &u64) -> bool {
    *value == 0
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            tcp: true,
            udp: false,
            sctp: false,
            omit: 0,
            time: 10,
            num: 0,
            blockcount: 0,
            mss: 0,
            nodelay: false,
            parallel: 1,
            reverse: false,
            bidirectional: false,
            window: 0,
            len: DEFAULT_LENGTH,
            bandwidth: 0,
            congestion: String::new(),
            pacing_timer: 1000,
            client_version: VERSION.to_owned(),
        }
    }
}

/// Why a server does not run the test that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// UDP or SCTP.
    #[error("the client asked for a test over {0}, but only TCP is served here")]
    Protocol(&'static str),
    /// A number is outside of what the protocol allows.
    #[error("the client asked for {name} {value}, beyond the limit of {limit}")]
    TooLarge {
        /// Name of the parameter.
        name: &'static str,
        /// What was asked.
        value: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A number that must not be zero is.
    #[error("the client asked for {0} 0")]
    Zero(&'static str),
    /// `-R` and `--bidir` at once.
    #[error("the client asked for a reverse and a bidirectional test at once")]
    BothWays,
    /// A congestion control algorithm that there is not.
    #[error(
        "the client asked for the congestion control algorithm {0:?}: {UnknownCongestionControl}"
    )]
    Congestion(String),
    /// Pacing is asked of our side, and we have none.
    #[error(
        "the client asked the server to send at {0} bits a second; only unlimited sending is served here"
    )]
    Paced(u64),
}

impl Refusal {
    /// iperf3's number for SERVER_ERROR, from `iperf_api.h`; its client prints a text for it.
    pub const fn code(&self) -> i32 {
        match self {
            Self::Protocol(_) | Self::Paced(_) => 13, // IEUNIMP
            Self::Congestion(_) => 134,               // IESETCONGESTION
            Self::TooLarge { .. } | Self::Zero(_) | Self::BothWays => 114, // IERECVPARAMS
        }
    }
}

impl Parameters {
    /// Whether our server can run this test.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.udp || self.sctp {
            return Err(Refusal::Protocol(if self.udp { "UDP" } else { "SCTP" }));
        }
        let limits = [
            ("len", self.len, MAX_LENGTH),
            ("parallel", self.parallel, MAX_PARALLEL),
            ("omit", self.omit, MAX_OMIT),
            ("time", self.time, MAX_TIME),
            ("MSS", self.mss, u32::from(u16::MAX)),
        ];
        for (name, value, limit) in limits {
            if value > limit {
                return Err(Refusal::TooLarge {
                    name,
                    value: value.into(),
                    limit: limit.into(),
                });
            }
        }
        if self.len == 0 || self.parallel == 0 {
            return Err(Refusal::Zero(if self.len == 0 {
                "len"
            } else {
                "parallel"
            }));
        }
        if self.reverse && self.bidirectional {
            return Err(Refusal::BothWays);
        }
        self.congestion()?;
        if self.bandwidth != 0 && (self.reverse || self.bidirectional) {
            return Err(Refusal::Paced(self.bandwidth));
        }
        Ok(())
    }

    /// The congestion control algorithm asked for; `None`: any.
    pub fn congestion(&self) -> Result<Option<CongestionControl>, Refusal> {
        if self.congestion.is_empty() {
            return Ok(None);
        }
        self.congestion
            .parse()
            .map(Some)
            .map_err(|_| Refusal::Congestion(self.congestion.clone()))
    }

    /// Data connections in all.
    pub const fn streams(&self) -> u32 {
        if self.bidirectional {
            self.parallel * 2
        } else {
            self.parallel
        }
    }

    /// Whole writes that the senders of one side make in all; `None` for no limit.
    pub fn blocks(&self) -> Option<u64> {
        match (self.num, self.blockcount) {
            (0, 0) => None,
            (0, blocks) => Some(blocks),
            (bytes, _) => Some(bytes.div_ceil(u64::from(self.len))),
        }
    }
}

/// What one side measured, as the other side is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Processor time in percent of wall time.
    pub cpu_util_total: f64,
    /// The user's part.
    pub cpu_util_user: f64,
    /// The kernel's part.
    pub cpu_util_system: f64,
    /// 1 if the sender counts retransmissions, 0 if it cannot, -1 from a receiver.
    #[serde(deserialize_with = "count_or_minus_one")]
    pub sender_has_retransmits: i64,
    /// Congestion control of this side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub congestion_used: Option<String>,
    /// By stream.
    pub streams: Vec<StreamResults>,
}

/// One stream of [`Results`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamResults {
    /// 1, 3, 4, 5, ... in the order in which the connections were made.
    pub id: u32,
    /// Bytes sent or received, without those of the omitted time.
    pub bytes: u64,
    /// Retransmissions, -1 from a receiver.
    #[serde(deserialize_with = "count_or_minus_one")]
    pub retransmits: i64,
    /// UDP only.
    pub jitter: f64,
    /// UDP only.
    pub errors: i64,
    /// UDP only.
    pub packets: i64,
    /// Seconds; always 0.
    #[serde(default)]
    pub start_time: f64,
    /// Seconds since the start of this side's measured time.
    #[serde(default)]
    pub end_time: f64,
}

/// Reads -1 also where a stock program prints it as an unsigned number or as a float.
fn count_or_minus_one<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    if let Some(value) = number.as_i64() {
        return Ok(value);
    }
    // cJSON prints (uint64_t)-1 as 18446744073709551615: all larger than an i64 stand for -1.
    Ok(match number.as_f64() {
        Some(value) if value.is_finite() && value < 9.2e18 => value as i64,
        _ => -1,
    })
}

/// The id of the stream that was made as number `index` (from 0): the stock program leaves out 2.
pub const fn stream_id(index: u32) -> u32 {
    if index == 0 { 1 } else { index + 2 }
}

/// The number that stands for a stream in reports, where the stock program shows its descriptor.
pub const fn stream_label(index: u32) -> u32 {
    5 + 2 * index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_survive_the_wire() {
        for state in State::ALL {
            assert_eq!(State::from_byte(state.byte()), Some(state));
        }
        assert_eq!(State::from_byte(0xff), Some(State::AccessDenied));
        assert_eq!(State::from_byte(3), None);
    }

    #[test]
    fn a_cookie_arrives_in_any_pieces_and_leaves_what_follows() {
        let cookie = Cookie::from_random(&[7; 36]);
        let mut greeting = Greeting::default();
        for byte in &cookie.bytes()[..36] {
            assert_eq!(greeting.on_bytes(&mut [*byte].as_slice()), Ok(None));
        }
        let mut rest: &[u8] = b"\0data";
        assert_eq!(greeting.on_bytes(&mut rest), Ok(Some(cookie)));
        assert_eq!(rest, b"data");
        assert_eq!(cookie.text(), "h".repeat(36));
    }

    #[test]
    fn what_is_no_cookie_is_told_at_its_first_wrong_byte() {
        let cases: [(&[u8], usize); 4] = [
            (b"GET / HTTP/1.0\r\n\r\n", 3),
            (b"\x16\x03\x01", 0),
            (b"\0\0\0", 0),
            (&[b'a'; 37], 36),
        ];
        for (bytes, at) in cases {
            let error = Greeting::default()
                .on_bytes(&mut &*bytes)
                .expect_err("not a cookie");
            assert_eq!(error.at, at, "{bytes:?}");
        }
    }

    #[test]
    fn parameters_of_the_stock_client_are_read() {
        let text = r#"{"tcp":true,"omit":1,"time":0,"num":307200,"blockcount":0,"parallel":2,"bidirectional":true,"len":131072,"pacing_timer":1000,"client_version":"3.12","cntl_ka":1}"#;
        let parameters: Parameters = serde_json::from_str(text).expect("stock parameters");
        assert!(parameters.check().is_ok());
        assert_eq!(
            (parameters.streams(), parameters.blocks(), parameters.omit),
            (4, Some(3), 1)
        );
    }

    #[test]
    fn tests_that_are_not_served_are_refused_with_a_reason() {
        type Spoil = fn(&mut Parameters);
        let cases: [(Spoil, &str); 6] = [
            (|p| p.udp = true, "UDP"),
            (|p| p.len = MAX_LENGTH + 1, "len"),
            (|p| p.parallel = 0, "parallel 0"),
            (|p| (p.reverse, p.bidirectional) = (true, true), "at once"),
            (|p| (p.bandwidth, p.reverse) = (5, true), "5 bits"),
            (|p| p.time = u32::MAX, "time"),
        ];
        for (spoil, text) in cases {
            let mut parameters = Parameters::default();
            spoil(&mut parameters);
            let refusal = parameters.check().expect_err(text).to_string();
            assert!(refusal.contains(text), "{refusal}");
        }
    }

    #[test]
    fn minus_one_is_read_in_every_spelling() {
        for spelling in [
            "-1",
            "18446744073709551615",
            "-1.0",
            "1.8446744073709552e19",
        ] {
            let text = format!(
                r#"{{"cpu_util_total":1.5,"cpu_util_user":0,"cpu_util_system":1,"sender_has_retransmits":{spelling},"streams":[{{"id":1,"bytes":5,"retransmits":{spelling},"jitter":0,"errors":0,"packets":0}}]}}"#
            );
            let results: Results = serde_json::from_str(&text).expect(spelling);
            assert_eq!(results.sender_has_retransmits, -1, "{spelling}");
            assert_eq!(results.streams[0].retransmits, -1, "{spelling}");
        }
    }

    #[test]
    fn ids_leave_out_two() {
        assert_eq!([0, 1, 2, 3].map(stream_id), [1, 3, 4, 5]);
    }
}
