//! Packets: `< P. 1:1001(1000) ack 1 win 257 <nop,nop,TS val 1 ecr 2>`, `< icmp unreachable frag_needed mtu 1200 [1:1001(1000)]`.

use super::cursor::Cursor;
use super::{EcnSpec, Icmp, Packet, ParseError, Segment, TcpOption};

/// A packet behind its direction.
pub(super) fn packet(cursor: &mut Cursor<'_>) -> Result<Packet, ParseError> {
    if cursor.take_word("icmp") {
        return icmp(cursor).map(Packet::Icmp);
    }
    if cursor.take_word("udp") {
        return cursor.error("UDP is not played");
    }
    let (ecn, tos) = ip_info(cursor)?;
    let (flags, ace) = flags(cursor)?;
    let (seq, len) = range(cursor)?;
    let mut segment = Segment {
        ecn,
        tos,
        flags,
        ace,
        seq,
        len,
        ack: None,
        window: None,
        urgent: 0,
        options: Some(Vec::new()),
    };
    if cursor.take_word("ack") {
        segment.ack = Some(cursor.u32()?);
    }
    if cursor.take_word("win") {
        segment.window = Some(cursor.u32()? as u16);
    }
    if cursor.take_word("urg") {
        segment.urgent = cursor.u32()? as u16;
    }
    // `<` directly behind the packet begins its options; on a line of its own it would need a time before it.
    if cursor.peek() == Some('<') {
        cursor.expect("<")?;
        segment.options = if cursor.take("...") {
            cursor.expect(">")?;
            None
        } else {
            Some(options(cursor)?)
        };
    }
    Ok(Packet::Tcp(segment))
}

/// `[ect0]`, `[tos 0x10]`, `[ce, ttl 64]`; a TTL is not looked at.
fn ip_info(cursor: &mut Cursor<'_>) -> Result<(EcnSpec, Option<u8>), ParseError> {
    let (mut ecn, mut tos) = (EcnSpec::Unsaid, None);
    if !cursor.take("[") {
        return Ok((ecn, tos));
    }
    while !cursor.take("]") {
        match cursor.name() {
            "noecn" => ecn = EcnSpec::Bits(0),
            "ect1" => ecn = EcnSpec::Bits(1),
            "ect0" => ecn = EcnSpec::Bits(2),
            "ce" => ecn = EcnSpec::Bits(3),
            "ect01" => ecn = EcnSpec::AnyEct,
            "tos" => tos = Some(cursor.u32()? as u8),
            "ttl" | "flowlabel" => {
                cursor.number()?;
            }
            other => return cursor.error(format!("{other:?} says nothing about an IP header")),
        }
        cursor.take(",");
    }
    Ok((ecn, tos))
}

fn flags(cursor: &mut Cursor<'_>) -> Result<(u8, Option<u8>), ParseError> {
    cursor.skip_blank();
    let word = cursor.take_while(|c| !c.is_whitespace());
    let (mut flags, mut ace) = (0, None);
    for letter in word.chars() {
        flags |= match letter {
            'F' => 0x01,
            'S' => 0x02,
            'R' => 0x04,
            'P' => 0x08,
            '.' => 0x10,
            'U' => 0x20,
            'E' => 0x40,
            'W' => 0x80,
            'A' => {
                ace = Some(u8::MAX);
                0
            }
            '0'..='7' => {
                ace = Some(letter as u8 - b'0');
                0
            }
            '-' => 0,
            _ => return cursor.error(format!("{word:?} are no flags")),
        };
    }
    Ok((flags, ace))
}

/// `1:1001(1000)`.
fn range(cursor: &mut Cursor<'_>) -> Result<(u32, u32), ParseError> {
    let first = cursor.u32()?;
    cursor.expect(":")?;
    let after = cursor.u32()?;
    cursor.expect("(")?;
    let len = cursor.u32()?;
    cursor.expect(")")?;
    if after != first.wrapping_add(len) {
        return cursor.error(format!("{first}:{after} are not {len} octets"));
    }
    Ok((first, len))
}

fn options(cursor: &mut Cursor<'_>) -> Result<Vec<TcpOption>, ParseError> {
    let mut all = Vec::new();
    while !cursor.take(">") {
        all.push(option(cursor)?);
        if !cursor.take(",") {
            cursor.expect(">")?;
            break;
        }
    }
    Ok(all)
}

fn option(cursor: &mut Cursor<'_>) -> Result<TcpOption, ParseError> {
    Ok(match cursor.name() {
        "eol" => TcpOption::Eol,
        "nop" => TcpOption::Nop,
        "mss" => TcpOption::Mss(cursor.u32()? as u16),
        "wscale" => TcpOption::WindowScale(cursor.u32()? as u8),
        "sackOK" => TcpOption::SackPermitted,
        "sack" => {
            let mut blocks = Vec::new();
            while cursor.peek().is_some_and(|c| c.is_ascii_digit()) {
                let left = cursor.u32()?;
                cursor.expect(":")?;
                blocks.push((left, cursor.u32()?));
            }
            TcpOption::Sack(blocks)
        }
        "TS" => {
            if !cursor.take_word("val") {
                return cursor.error("TS wants val and ecr");
            }
            let value = cursor.u32()?;
            if !cursor.take_word("ecr") {
                return cursor.error("TS wants val and ecr");
            }
            let echo = cursor.u32()?;
            TcpOption::Timestamps { value, echo }
        }
        "FO" => TcpOption::FastOpen(hex(cursor)?),
        "FOEXP" => {
            // RFC 6994 magic number of the experiment (RFC 7413 appendix A).
            let mut data = vec![0xf9, 0x89];
            data.extend(hex(cursor)?);
            TcpOption::Other(254, data)
        }
        "md5" => TcpOption::Other(19, hex(cursor)?),
        other => return cursor.error(format!("TCP option {other:?} is not known")),
    })
}

/// Octets as hexadecimal digits, possibly none. `TFO_COOKIE` stands for the cookie of the test key.
fn hex(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, ParseError> {
    cursor.skip_blank();
    let digits = cursor.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
    let octet = |place: usize| u8::from_str_radix(digits.get(place..place + 2)?, 16).ok();
    let octets: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(octet).collect();
    match octets {
        Some(octets) => Ok(octets),
        None => cursor.error(format!("{digits:?} are no octets in hexadecimal")),
    }
}

fn icmp(cursor: &mut Cursor<'_>) -> Result<Icmp, ParseError> {
    let mut icmp = Icmp {
        kind: cursor.name().to_owned(),
        code: None,
        quoted: None,
        mtu: None,
    };
    loop {
        if cursor.take_word("mtu") {
            icmp.mtu = Some(cursor.u32()?);
        } else if cursor.take("[") {
            icmp.quoted = Some(range(cursor)?);
            cursor.expect("]")?;
        } else if icmp.code.is_none() && icmp.quoted.is_none() {
            let code = cursor.name();
            if code.is_empty() {
                return Ok(icmp);
            }
            icmp.code = Some(code.to_owned());
        } else {
            return Ok(icmp);
        }
    }
}
