//! A script as values: what the parser makes of the text.

mod cursor;
mod expression;
mod packets;
mod parse;

pub use parse::parse;

/// Microseconds of the script's clock.
pub type Micros = i64;

/// A whole script.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    /// `--name=value` and `--name` lines.
    pub options: Vec<(String, String)>,
    /// What happens, in order.
    pub events: Vec<Event>,
}

/// When something is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// `*`: whenever.
    Any,
    /// `1.5`: since the start.
    Absolute(Micros),
    /// `+1.5`: since the event before.
    Relative(Micros),
    /// `1.5~1.6`.
    AbsoluteRange(Micros, Micros),
    /// `+1.5~+1.6`.
    RelativeRange(Micros, Micros),
}

/// One line of the script.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Where it stands, from 1.
    pub line: usize,
    /// When.
    pub time: Time,
    /// `0...0.3`: a call that blocks until then; relative if the time is.
    pub until: Option<Micros>,
    /// What.
    pub action: Action,
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `<`: a packet to the stack.
    Inject(Packet),
    /// `>`: a packet of the stack.
    Expect(Packet),
    /// `name(..) = result`.
    Call(Call),
    /// Backticks: a shell command.
    Command(String),
    /// `%{ .. }%`: Python.
    Code(String),
}

/// A packet as a script writes it, sequence numbers from the script's zero.
#[derive(Clone, Debug, PartialEq)]
pub enum Packet {
    /// A TCP segment.
    Tcp(Segment),
    /// An ICMP message about the segment at these numbers.
    Icmp(Icmp),
}

/// The ECN codepoint that a packet carries or must carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EcnSpec {
    /// Nothing was said: not-ECT on the way in, anything on the way out.
    Unsaid,
    /// Exactly these two bits.
    Bits(u8),
    /// ECT(0) or ECT(1).
    AnyEct,
}

/// A TCP segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Codepoint.
    pub ecn: EcnSpec,
    /// Whole type-of-service octet, if it was given.
    pub tos: Option<u8>,
    /// The low eight control bits.
    pub flags: u8,
    /// The AE bit (the NS bit of old), or AccECN's three-bit field as a digit, which needs AccECN.
    pub ace: Option<u8>,
    /// First sequence number.
    pub seq: u32,
    /// Payload octets.
    pub len: u32,
    /// Acknowledgment number.
    pub ack: Option<u32>,
    /// Window field.
    pub window: Option<u16>,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options; `None`: `<...>`, whatever comes.
    pub options: Option<Vec<TcpOption>>,
}

/// A TCP option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpOption {
    /// Kind 0.
    Eol,
    /// Kind 1.
    Nop,
    /// Kind 2.
    Mss(u16),
    /// Kind 3.
    WindowScale(u8),
    /// Kind 4.
    SackPermitted,
    /// Kind 5: edges.
    Sack(Vec<(u32, u32)>),
    /// Kind 8.
    Timestamps {
        /// The sender's clock.
        value: u32,
        /// What is echoed.
        echo: u32,
    },
    /// Kind 34: a cookie, or a request for one.
    FastOpen(Vec<u8>),
    /// Any other, with its data.
    Other(u8, Vec<u8>),
}

/// An ICMP message.
#[derive(Clone, Debug, PartialEq)]
pub struct Icmp {
    /// Names of type and code, as written.
    pub kind: String,
    /// Code by name, if there is one.
    pub code: Option<String>,
    /// Numbers of the quoted segment.
    pub quoted: Option<(u32, u32)>,
    /// MTU of the next hop.
    pub mtu: Option<u32>,
}

/// A system call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Its arguments.
    pub arguments: Vec<Expression>,
    /// What it returns.
    pub result: Expression,
    /// The error that goes with -1.
    pub error: Option<String>,
}

/// An argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// `...`
    Ellipsis,
    /// A number.
    Number(i64),
    /// A constant, to be looked up.
    Symbol(String),
    /// `A|B`.
    Or(Vec<Expression>),
    /// `"text"`.
    Text(String),
    /// `[a, b]`.
    List(Vec<Expression>),
    /// `{a, name=b}`.
    Struct(Vec<(Option<String>, Expression)>),
}

/// Why a text is no script, or none that we can play.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ParseError {
    /// Where, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}
