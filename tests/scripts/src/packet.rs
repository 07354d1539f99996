//! Datagrams to bytes and back: the player's own, so that an error in the stack's wire code is not made twice.

use std::net::IpAddr;

use crate::script::TcpOption;

/// A TCP segment in a datagram, numbers as on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Sender and its port.
    pub source: (IpAddr, u16),
    /// Receiver and its port.
    pub destination: (IpAddr, u16),
    /// Type of service, or traffic class.
    pub tos: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number; 0 without the flag.
    pub ack: u32,
    /// Control bits.
    pub flags: u8,
    /// The four bits beside the data offset.
    pub reserved: u8,
    /// Window field.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options in order.
    pub options: Vec<TcpOption>,
    /// Payload.
    pub payload: Vec<u8>,
}

/// Ones' complement sum, folded but not inverted.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut total: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
            total += u32::from(word);
        }
        total = (total & 0xffff) + (total >> 16);
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Checksum of an upper-layer message (RFC 9293 3.1, RFC 8200 8.1); its field must hold 0, or the result is 0 if it is right.
fn upper_sum(source: IpAddr, destination: IpAddr, protocol: u8, message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    let tail = [0, 0, 0, protocol];
    !sum(&[
        &octets(source),
        &octets(destination),
        &length,
        &tail,
        message,
    ])
}

/// An IP header before a message.
pub fn ip(source: IpAddr, destination: IpAddr, tos: u8, protocol: u8, message: &[u8]) -> Vec<u8> {
    const TTL: u8 = 255;
    let mut out = Vec::with_capacity(40 + message.len());
    if source.is_ipv4() {
        out.extend([0x45, tos]);
        out.extend(((20 + message.len()) as u16).to_be_bytes());
        out.extend([0, 0, 0, 0, TTL, protocol, 0, 0]);
        out.extend(octets(source));
        out.extend(octets(destination));
        let checksum = !sum(&[&out]);
        out[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        out.extend((0x6000_0000 | u32::from(tos) << 20).to_be_bytes());
        out.extend((message.len() as u16).to_be_bytes());
        out.extend([protocol, TTL]);
        out.extend(octets(source));
        out.extend(octets(destination));
    }
    out.extend_from_slice(message);
    out
}

/// An ICMP message (RFC 792, RFC 4443) with a checksum, in a datagram.
pub fn icmp(source: IpAddr, destination: IpAddr, mut message: Vec<u8>) -> Vec<u8> {
    let protocol = if source.is_ipv4() { 1 } else { 58 };
    let checksum = if source.is_ipv4() {
        !sum(&[&message])
    } else {
        upper_sum(source, destination, protocol, &message)
    };
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    ip(source, destination, 0, protocol, &message)
}

fn encode_option(option: &TcpOption, out: &mut Vec<u8>) {
    let mut kind = |kind: u8, data: &[u8]| {
        out.extend([kind, 2 + data.len() as u8]);
        out.extend_from_slice(data);
    };
    match option {
        TcpOption::Eol => out.push(0),
        TcpOption::Nop => out.push(1),
        TcpOption::Mss(mss) => kind(2, &mss.to_be_bytes()),
        TcpOption::WindowScale(shift) => kind(3, &[*shift]),
        TcpOption::SackPermitted => kind(4, &[]),
        TcpOption::Sack(blocks) => {
            let edges: Vec<u8> = blocks
                .iter()
                .flat_map(|(left, right)| [left.to_be_bytes(), right.to_be_bytes()].concat())
                .collect();
            kind(5, &edges);
        }
        TcpOption::Timestamps { value, echo } => {
            kind(8, &[value.to_be_bytes(), echo.to_be_bytes()].concat());
        }
        TcpOption::FastOpen(cookie) => kind(34, cookie),
        TcpOption::Other(number, data) => kind(*number, data),
    }
}

fn decode_options(mut list: &[u8]) -> Result<Vec<TcpOption>, String> {
    let mut all = Vec::new();
    while let Some((&kind, rest)) = list.split_first() {
        if kind < 2 {
            all.push(if kind == 0 {
                TcpOption::Eol
            } else {
                TcpOption::Nop
            });
            list = rest;
            continue;
        }
        let length = usize::from(*rest.first().ok_or("an option is cut off")?);
        let data = list.get(2..length).ok_or("an option's length is wrong")?;
        list = &list[length..];
        let word =
            |at: usize| u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
        all.push(match (kind, data.len()) {
            (2, 2) => TcpOption::Mss(u16::from_be_bytes([data[0], data[1]])),
            (3, 1) => TcpOption::WindowScale(data[0]),
            (4, 0) => TcpOption::SackPermitted,
            (5, bytes) if bytes % 8 == 0 => {
                let block = |at| (word(at), word(at + 4));
                TcpOption::Sack((0..bytes).step_by(8).map(block).collect())
            }
            (8, 8) => TcpOption::Timestamps {
                value: word(0),
                echo: word(4),
            },
            (34, _) => TcpOption::FastOpen(data.to_vec()),
            _ => TcpOption::Other(kind, data.to_vec()),
        });
    }
    Ok(all)
}

impl Datagram {
    /// The TCP segment alone, checksum included. Options that are no multiple of four octets are padded with zeros.
    pub fn segment(&self) -> Vec<u8> {
        let mut options = Vec::new();
        for option in &self.options {
            encode_option(option, &mut options);
        }
        options.resize(options.len().next_multiple_of(4), 0);
        let words = (20 + options.len()) / 4;
        let mut out = Vec::with_capacity(words * 4 + self.payload.len());
        out.extend(self.source.1.to_be_bytes());
        out.extend(self.destination.1.to_be_bytes());
        out.extend(self.seq.to_be_bytes());
        out.extend(self.ack.to_be_bytes());
        out.extend([(words as u8) << 4 | self.reserved, self.flags]);
        out.extend(self.window.to_be_bytes());
        out.extend([0, 0]);
        out.extend(self.urgent.to_be_bytes());
        out.extend(options);
        out.extend_from_slice(&self.payload);
        let checksum = upper_sum(self.source.0, self.destination.0, 6, &out);
        out[16..18].copy_from_slice(&checksum.to_be_bytes());
        out
    }

    /// The whole datagram.
    pub fn encode(&self) -> Vec<u8> {
        let segment = self.segment();
        ip(self.source.0, self.destination.0, self.tos, 6, &segment)
    }

    /// Reads a datagram and verifies every checksum.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let version = bytes.first().ok_or("an empty datagram")? >> 4;
        let (source, destination, tos, message): (IpAddr, IpAddr, u8, &[u8]) = match version {
            4 => {
                let header = bytes.get(..20).ok_or("no whole IPv4 header")?;
                if header[0] != 0x45 || header[9] != 6 {
                    return Err("IPv4 with options, or not TCP".into());
                }
                if sum(&[header]) != 0xffff {
                    return Err("the IPv4 header's checksum is wrong".into());
                }
                if usize::from(u16::from_be_bytes([header[2], header[3]])) != bytes.len() {
                    return Err("IPv4's total length is not the datagram's".into());
                }
                let address = |at: usize| {
                    IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]])
                };
                (address(12), address(16), header[1], &bytes[20..])
            }
            6 => {
                let header = bytes.get(..40).ok_or("no whole IPv6 header")?;
                if header[6] != 6 {
                    return Err("not TCP".into());
                }
                if 40 + usize::from(u16::from_be_bytes([header[4], header[5]])) != bytes.len() {
                    return Err("IPv6's payload length is not the datagram's".into());
                }
                let address = |at: usize| {
                    let octets: [u8; 16] = header[at..at + 16].try_into().expect("sixteen");
                    IpAddr::from(octets)
                };
                let tos = header[0] << 4 | header[1] >> 4;
                (address(8), address(24), tos, &bytes[40..])
            }
            _ => return Err(format!("IP version {version}")),
        };
        if message.len() < 20 {
            return Err("no whole TCP header".into());
        }
        if upper_sum(source, destination, 6, message) != 0 {
            return Err("the TCP checksum is wrong".into());
        }
        let header_len = usize::from(message[12] >> 4) * 4;
        let list = message
            .get(20..header_len)
            .ok_or("the data offset is wrong")?;
        let half = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        let word = |at: usize| u32::from(half(at)) << 16 | u32::from(half(at + 2));
        Ok(Self {
            source: (source, half(0)),
            destination: (destination, half(2)),
            tos,
            seq: word(4),
            ack: word(8),
            flags: message[13],
            reserved: message[12] & 15,
            window: half(14),
            urgent: half(18),
            options: decode_options(list)?,
            payload: message[header_len..].to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(source: &str, destination: &str) -> Datagram {
        Datagram {
            source: (source.parse().unwrap(), 8080),
            destination: (destination.parse().unwrap(), 40_000),
            tos: 2,
            seq: 1,
            ack: 0xffff_ffff,
            flags: 0x18,
            reserved: 0,
            window: 257,
            urgent: 0,
            options: vec![
                TcpOption::Nop,
                TcpOption::Nop,
                TcpOption::Sack(vec![(1, 2), (3, 4)]),
                TcpOption::Other(19, vec![7; 6]),
            ],
            payload: vec![1, 2, 3],
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for sample in [
            sample("192.0.2.1", "192.0.2.2"),
            sample("fd00::1", "fd00::2"),
        ] {
            assert_eq!(Datagram::decode(&sample.encode()), Ok(sample));
        }
    }

    #[test]
    fn a_damaged_octet_is_seen() {
        let good = sample("192.0.2.1", "192.0.2.2").encode();
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 0x10;
            assert!(Datagram::decode(&bad).is_err(), "octet {place}");
        }
    }
}
