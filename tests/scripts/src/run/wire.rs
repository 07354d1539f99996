//! Packets: the script's numbers to live ones on the way in, the other way round on the way out.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{Outcome, Player, When, mismatch, unsupported};
use crate::packet::{self, Datagram};
use crate::script::{EcnSpec, Icmp, Micros, Packet, Segment, TcpOption};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;
/// Bits that segments of one run may differ in: FIN, PSH, CWR.
const LOOSE: u8 = 0x01 | 0x08 | CWR;

/// What a socket of the script has been through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Fresh,
    Listening,
    Connecting,
    /// Our injected SYN, or the stack's own, has made it one end of a connection.
    Known,
}

/// A socket as packets know it.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    pub(super) stage: Stage,
    /// Live descriptor, once there is one.
    pub(super) fd: Option<i32>,
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
    /// Live number of the stack's SYN, less the script's.
    offset: Option<u32>,
    /// Numbers of the stack's SYN and of the script's: later packets count from there.
    isns: (u32, Option<u32>),
    /// Live values of the stack's timestamps by the script's, and the first pair.
    timestamps: HashMap<u32, u32>,
    first_timestamp: Option<(u32, u32)>,
}

impl Socket {
    pub(super) fn new(fd: Option<i32>, local: (IpAddr, u16), remote: (IpAddr, u16)) -> Self {
        Self {
            stage: Stage::Fresh,
            fd,
            local,
            remote,
            offset: None,
            isns: (0, None),
            timestamps: HashMap::new(),
            first_timestamp: None,
        }
    }

    /// Port of the script's end.
    pub(super) fn remote_port(&self) -> u16 {
        self.remote.1
    }

    /// The segment with the numbers that it had if none counted from a SYN; `ours`: the stack sends it.
    fn absolute(&self, segment: &Segment, ours: bool) -> Segment {
        let mut segment = segment.clone();
        if segment.flags & SYN != 0 {
            return segment;
        }
        let (stack, script) = (self.isns.0, self.isns.1.unwrap_or(0));
        let (from, to) = if ours {
            (stack, script)
        } else {
            (script, stack)
        };
        segment.seq = segment.seq.wrapping_add(from);
        segment.ack = segment.ack.map(|ack| ack.wrapping_add(to));
        for option in segment.options.iter_mut().flatten() {
            if let TcpOption::Sack(blocks) = option {
                for (left, right) in blocks {
                    *left = left.wrapping_add(to);
                    *right = right.wrapping_add(to);
                }
            }
        }
        segment
    }

    /// The live value of a timestamp that the script echoes.
    fn live_timestamp(&self, script: u32) -> u32 {
        match (self.timestamps.get(&script), self.first_timestamp) {
            (Some(live), _) => *live,
            (None, Some((first, live))) => live.wrapping_add(script.wrapping_sub(first)),
            (None, None) => script,
        }
    }
}

impl Player {
    /// The socket that an injected segment goes to: a new connection if the current socket listens, or if there is none.
    fn socket_for_injection(&mut self) -> usize {
        if let Some(place) = self.current
            && self.sockets[place].stage != Stage::Listening
        {
            return place;
        }
        let port = self.next_port;
        self.next_port += 1;
        let local = (self.settings.local, 8080);
        let remote = (self.settings.remote, port);
        let mut socket = Socket::new(None, local, remote);
        socket.stage = Stage::Known;
        self.sockets.push(socket);
        let place = self.sockets.len() - 1;
        self.current = Some(place);
        place
    }

    pub(super) fn inject(&mut self, packet: &Packet) -> Outcome {
        let place = self.socket_for_injection();
        let socket = &mut self.sockets[place];
        let datagram = match packet {
            Packet::Tcp(segment) => {
                if segment.flags & SYN != 0 {
                    socket.isns.1.get_or_insert(segment.seq);
                }
                inbound(socket, &socket.absolute(segment, false))?.encode()
            }
            Packet::Icmp(icmp) => inbound_icmp(socket, icmp)?,
        };
        match self.table.netdev_send(&datagram) {
            Ok(_) => Ok(()),
            Err(error) => mismatch(format!(
                "the plug-in did not take the packet: errno {error}"
            )),
        }
    }

    /// Waits for the stack's next packet of the current socket and compares it.
    pub(super) fn expect(&mut self, packet: &Packet, when: &When) -> Outcome {
        let Packet::Tcp(expected) = packet else {
            return unsupported("an ICMP message of the stack");
        };
        let Some(place) = self.current else {
            return unsupported("a packet before any socket");
        };
        let is_syn = expected.flags & (SYN | ACK) == SYN;
        if self.sockets[place].stage == Stage::Connecting && is_syn {
            self.sockets[place].stage = Stage::Known;
        }
        let (first, mut at) = self.next_packet(place)?;
        let socket = &mut self.sockets[place];
        if expected.flags & SYN != 0 && first.flags & SYN != 0 {
            socket.offset = Some(first.seq.wrapping_sub(expected.seq));
            socket.isns.0 = expected.seq;
        }
        let expected = &socket.absolute(expected, true);
        let mut live = first;
        let mut piece = live.payload.len();
        while (live.payload.len() as u32) < expected.len && !self.settings.strict_segments {
            let next;
            (next, at) = self.next_packet(place)?;
            // Only the last piece may have another length.
            let missing = expected.len as usize - live.payload.len();
            if next.payload.len() < missing && next.payload.len() != piece {
                return mismatch(format!(
                    "pieces of {piece} and of {} octets",
                    next.payload.len()
                ));
            }
            piece = next.payload.len();
            live = joined(live, next)?;
        }
        let tolerance = Ticks {
            tick_us: self.settings.timestamp_tick_us,
            tolerance_us: self.settings.tolerance_us,
        };
        let socket = &mut self.sockets[place];
        compare(socket, expected, &live, tolerance)?;
        self.check_time("a packet", when, at)
    }

    /// The stack's next packet that belongs to the socket, and its script time.
    fn next_packet(&mut self, place: usize) -> Outcome<(Datagram, Micros)> {
        loop {
            let (bytes, at) = match self.table.netdev_receive() {
                Ok(received) => received,
                Err(error) => return mismatch(format!("netdev_receive failed: errno {error}")),
            };
            if bytes.is_empty() {
                return mismatch("no packet: the stack has nothing more to send");
            }
            let datagram = match Datagram::decode(&bytes) {
                Ok(datagram) => datagram,
                Err(what) => return mismatch(format!("a packet that cannot be read: {what}")),
            };
            let at = at - self.start;
            if self.verbose {
                eprintln!(
                    "{:.6} {}",
                    at as f64 / 1e6,
                    show(&datagram, self.sockets[place].offset)
                );
            }
            let socket = &mut self.sockets[place];
            if socket.remote == datagram.destination && socket.stage == Stage::Known {
                let is_ours = match socket.local.1 {
                    // The stack chose the port when it connected.
                    0 => datagram.flags & SYN != 0,
                    port => port == datagram.source.1,
                };
                if is_ours {
                    socket.local = datagram.source;
                    return Ok((datagram, at));
                }
            }
        }
    }
}

/// The script's segment with live numbers.
fn inbound(socket: &Socket, segment: &Segment) -> Outcome<Datagram> {
    let offset = socket.offset.unwrap_or(0);
    let mut options = segment.options.clone().unwrap_or_default();
    for option in &mut options {
        match option {
            TcpOption::Sack(blocks) => {
                for (left, right) in blocks {
                    *left = left.wrapping_add(offset);
                    *right = right.wrapping_add(offset);
                }
            }
            TcpOption::Timestamps { echo, .. } => *echo = socket.live_timestamp(*echo),
            _ => {}
        }
    }
    let mut tos = segment.tos.unwrap_or(0);
    match segment.ecn {
        EcnSpec::Unsaid => {}
        EcnSpec::Bits(bits) => tos |= bits,
        EcnSpec::AnyEct => return unsupported("any ECT on the way in"),
    }
    let (flags, reserved) = control_bits(segment);
    Ok(Datagram {
        source: socket.remote,
        destination: socket.local,
        tos,
        seq: segment.seq,
        // As packetdrill: no acknowledgment number without the flag.
        ack: match segment.ack {
            Some(ack) if segment.flags & ACK != 0 => ack.wrapping_add(offset),
            Some(ack) => ack,
            None => 0,
        },
        flags,
        reserved,
        window: segment.window.unwrap_or(0),
        urgent: segment.urgent,
        options,
        payload: vec![0; segment.len as usize],
    })
}

/// The eight flags and the AE bit, from letters or AccECN's digit.
fn control_bits(segment: &Segment) -> (u8, u8) {
    match segment.ace {
        None => (segment.flags, 0),
        Some(u8::MAX) => (segment.flags, 1),
        Some(ace) => (segment.flags | (ace & 3) << 6, ace >> 2),
    }
}

/// ICMP type and code by the names of scripts, for IPv4 and IPv6.
fn icmp_numbers(kind: &str, code: Option<&str>, v4: bool) -> Option<(u8, u8)> {
    Some(match (v4, kind, code) {
        (true, "unreachable", code) => {
            let code = match code {
                None | Some("net_unreachable") => 0,
                Some("host_unreachable") => 1,
                Some("protocol_unreachable") => 2,
                Some("port_unreachable") => 3,
                Some("frag_needed") => 4,
                Some("source_route_failed") => 5,
                Some("net_unknown") => 6,
                Some("host_unknown") => 7,
                Some("source_host_isolated") => 8,
                Some("net_prohibited") => 9,
                Some("host_prohibited") => 10,
                Some("packet_filtered") => 13,
                Some(_) => return None,
            };
            (3, code)
        }
        (true, "source_quench", _) => (4, 0),
        (true, "time_exceeded", _) => (11, 0),
        (true, "parameter_problem", _) => (12, 0),
        (false, "unreachable", code) => {
            let code = match code {
                None | Some("no_route") => 0,
                Some("admin_prohibited") => 1,
                Some("address_unreachable") => 3,
                Some("port_unreachable") => 4,
                Some(_) => return None,
            };
            (1, code)
        }
        (false, "packet_too_big", _) => (2, 0),
        (false, "time_exceeded", _) => (3, 0),
        (false, "parameter_problem", _) => (4, 0),
        _ => return None,
    })
}

/// An ICMP message about a segment of the stack: its IP header and the first eight octets behind it.
fn inbound_icmp(socket: &Socket, icmp: &Icmp) -> Outcome<Vec<u8>> {
    let v4 = socket.local.0.is_ipv4();
    let Some((kind, code)) = icmp_numbers(&icmp.kind, icmp.code.as_deref(), v4) else {
        return unsupported(format!("icmp {} {:?}", icmp.kind, icmp.code));
    };
    let (seq, len) = icmp.quoted.unwrap_or((0, 0));
    let quoted = Datagram {
        source: socket.local,
        destination: socket.remote,
        tos: 0,
        seq: seq.wrapping_add(socket.offset.unwrap_or(0)),
        ack: 0,
        flags: ACK,
        reserved: 0,
        window: 0,
        urgent: 0,
        options: Vec::new(),
        payload: vec![0; len as usize],
    }
    .encode();
    let header = if v4 { 20 } else { 40 };
    let mut message = vec![kind, code, 0, 0];
    let mtu = icmp.mtu.unwrap_or(0);
    message.extend(mtu.to_be_bytes());
    message.extend_from_slice(&quoted[..header + 8]);
    Ok(packet::icmp(socket.remote.0, socket.local.0, message))
}

/// Two packets in a row as one, if they are pieces of one larger one. As in packetdrill the header is that of the last, but
/// for its number and CWR, which are those of the first.
fn joined(mut first: Datagram, next: Datagram) -> Outcome<Datagram> {
    let follows = next.seq == first.seq.wrapping_add(first.payload.len() as u32);
    let alike = first.flags & !LOOSE == next.flags & !LOOSE
        && first.ack == next.ack
        && first.window == next.window
        && first.tos == next.tos;
    if !follows || !alike || next.payload.is_empty() {
        return mismatch(format!(
            "{} octets, and then not the rest but {}",
            first.payload.len(),
            show(&next, Some(next.seq.wrapping_sub(0)))
        ));
    }
    first.flags = (next.flags & !CWR) | (first.flags & CWR);
    first.options = next.options;
    first.payload.extend(next.payload);
    Ok(first)
}

/// How timestamps are compared: not at all if a tick is 0.
#[derive(Clone, Copy)]
struct Ticks {
    tick_us: Micros,
    tolerance_us: Micros,
}

fn compare(socket: &mut Socket, expected: &Segment, live: &Datagram, ticks: Ticks) -> Outcome {
    let offset = socket.offset.unwrap_or(0);
    let (flags, reserved) = control_bits(expected);
    let mut wrong = Vec::new();
    let mut field = |name: &str, expected: u32, found: u32| {
        if expected != found {
            wrong.push(format!("{name} {found} instead of {expected}"));
        }
    };
    field(
        "sequence number",
        expected.seq,
        live.seq.wrapping_sub(offset),
    );
    field("payload length", expected.len, live.payload.len() as u32);
    field("flags", flags.into(), live.flags.into());
    field("reserved bits", reserved.into(), live.reserved.into());
    field("acknowledgment", expected.ack.unwrap_or(0), live.ack);
    if let Some(window) = expected.window {
        field("window", window.into(), live.window.into());
    }
    field("urgent pointer", expected.urgent.into(), live.urgent.into());
    match expected.ecn {
        EcnSpec::Unsaid => {}
        EcnSpec::Bits(bits) => field("ECN codepoint", bits.into(), (live.tos & 3).into()),
        EcnSpec::AnyEct => field("ECT", 1, u32::from(matches!(live.tos & 3, 1 | 2))),
    }
    if let Some(tos) = expected.tos {
        field("type of service", tos.into(), live.tos.into());
    }
    if live.payload.iter().any(|octet| *octet != 0) {
        wrong.push("payload that nobody wrote".to_owned());
    }
    if let Some(options) = &expected.options {
        compare_options(socket, options, &live.options, ticks, &mut wrong);
    }
    if wrong.is_empty() {
        return Ok(());
    }
    mismatch(format!(
        "{}; the packet is {}",
        wrong.join(", "),
        show(live, Some(offset))
    ))
}

/// Options in their order. Timestamps: the first live value stands for the script's first one.
fn compare_options(
    socket: &mut Socket,
    expected: &[TcpOption],
    found: &[TcpOption],
    ticks: Ticks,
    wrong: &mut Vec<String>,
) {
    let same = expected.len() == found.len()
        && expected.iter().zip(found).all(|pair| match pair {
            (
                TcpOption::Timestamps { value: script, .. },
                TcpOption::Timestamps { value: live, .. },
            ) => {
                socket.timestamps.insert(*script, *live);
                let (first, at) = *socket.first_timestamp.get_or_insert((*script, *live));
                let passed = script.wrapping_sub(first) as i32;
                let error = i64::from((live.wrapping_sub(at) as i32).wrapping_sub(passed));
                error.abs() * ticks.tick_us <= ticks.tolerance_us
            }
            (expected, found) => expected == found,
        });
    if !same {
        wrong.push(format!(
            "options {} instead of {}",
            show_options(found),
            show_options(expected)
        ));
    }
}

/// Options as a script writes them.
fn show_options(options: &[TcpOption]) -> String {
    let one = |option: &TcpOption| match option {
        TcpOption::Eol => "eol".to_owned(),
        TcpOption::Nop => "nop".to_owned(),
        TcpOption::Mss(mss) => format!("mss {mss}"),
        TcpOption::WindowScale(shift) => format!("wscale {shift}"),
        TcpOption::SackPermitted => "sackOK".to_owned(),
        TcpOption::Sack(blocks) => {
            let blocks: Vec<_> = blocks.iter().map(|(l, r)| format!("{l}:{r}")).collect();
            format!("sack {}", blocks.join(" "))
        }
        TcpOption::Timestamps { value, echo } => format!("TS val {value} ecr {echo}"),
        TcpOption::FastOpen(cookie) => format!("FO {cookie:02x?}"),
        TcpOption::Other(kind, data) => format!("kind {kind} {data:02x?}"),
    };
    let all: Vec<_> = options.iter().map(one).collect();
    format!("<{}>", all.join(","))
}

/// A packet as a script would write it.
fn show(live: &Datagram, offset: Option<u32>) -> String {
    const LETTERS: [char; 8] = ['F', 'S', 'R', 'P', '.', 'U', 'E', 'W'];
    let mut flags: String = LETTERS
        .iter()
        .enumerate()
        .filter(|(bit, _)| live.flags & 1 << bit != 0)
        .map(|(_, letter)| *letter)
        .collect();
    if live.reserved & 1 != 0 {
        flags.push('A');
    }
    let seq = live.seq.wrapping_sub(offset.unwrap_or(live.seq));
    let len = live.payload.len();
    format!(
        "{flags} {seq}:{}({len}) ack {} win {} {} [tos {:#x}]",
        seq.wrapping_add(len as u32),
        live.ack,
        live.window,
        show_options(&live.options),
        live.tos
    )
}
