//! Packets as bytes, right or wrong. Checksums are left zero: the demultiplexer does not look at them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP flag bits, as in octet 13 of the header.
pub mod flags {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Synchronise.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Acknowledgment.
    pub const ACK: u8 = 0x10;
}

/// IPv6 extension header numbers.
pub mod extension {
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing header.
    pub const ROUTING: u8 = 43;
    /// Fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Encapsulating security payload.
    pub const ESP: u8 = 50;
    /// Destination options.
    pub const DESTINATION: u8 = 60;
}

/// Our addresses, and the peer's, in every fixture.
pub const OUR_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
/// The peer's IPv4 address.
pub const PEER_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 2);
/// Our IPv6 address.
pub const OUR_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// The peer's IPv6 address.
pub const PEER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
/// The peer's port.
pub const PEER_PORT: u16 = 40000;

/// A TCP packet to us, to be changed before it is built.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Destination MAC address.
    pub mac: [u8; 6],
    /// VLAN tags, outermost first: tag protocol identifier and control field.
    pub tags: Vec<(u16, u16)>,
    /// Source address; its family is the packet's.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number after all extension headers.
    pub protocol: u8,
    /// Octets of IPv4 options, a multiple of four.
    pub ip_options: usize,
    /// IPv4's flags and fragment offset.
    pub fragment: u16,
    /// IPv6 extension headers: number, and octets 2 and on (six more than a multiple of eight).
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub port: u16,
    /// TCP flags.
    pub flags: u8,
    /// Octets of TCP options, a multiple of four.
    pub tcp_options: usize,
    /// Octets of payload.
    pub payload: usize,
    /// Octets of Ethernet padding behind the packet.
    pub padding: usize,
    /// What stands behind the IP header in place of a TCP segment.
    pub body: Option<Vec<u8>>,
}

impl Packet {
    /// An IPv4 ACK with ten octets for this port.
    pub fn v4(port: u16) -> Self {
        Self {
            mac: [2, 0, 0, 0, 0, 1],
            tags: Vec::new(),
            source: PEER_V4.into(),
            destination: OUR_V4.into(),
            protocol: 6,
            ip_options: 0,
            fragment: 0,
            extensions: Vec::new(),
            source_port: PEER_PORT,
            port,
            flags: flags::ACK,
            tcp_options: 0,
            payload: 10,
            padding: 0,
            body: None,
        }
    }

    /// An IPv6 ACK with ten octets for this port.
    pub fn v6(port: u16) -> Self {
        Self {
            source: PEER_V6.into(),
            destination: OUR_V6.into(),
            ..Self::v4(port)
        }
    }

    /// One of each family, for tests of what both share.
    pub fn both(port: u16) -> [Self; 2] {
        [Self::v4(port), Self::v6(port)]
    }

    /// With other flags.
    #[must_use]
    pub fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    /// With a tag inside those that there are.
    #[must_use]
    pub fn tag(mut self, identifier: u16, control: u16) -> Self {
        self.tags.push((identifier, control));
        self
    }

    /// With an extension header behind those that there are: one of eight octets.
    #[must_use]
    pub fn extension(self, number: u8) -> Self {
        self.extension_with(number, &[0; 6])
    }

    /// With an extension header of these octets behind next header and length.
    #[must_use]
    pub fn extension_with(mut self, number: u8, body: &[u8]) -> Self {
        assert_eq!((body.len() + 2) % 8, 0, "extension headers have 8n octets");
        self.extensions.push((number, body.to_vec()));
        self
    }

    /// An ICMP message of this type between the same addresses, about `quoted`, of whose IP packet it has the first `len` octets.
    #[must_use]
    pub fn icmp(self, kind: u8, quoted: &Self, len: usize) -> Self {
        let mut body = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        body.extend(quoted.build()[quoted.ip_offset()..].iter().take(len));
        Self {
            protocol: if self.source.is_ipv4() { 1 } else { 58 },
            body: Some(body),
            ..self
        }
    }

    /// The packet that the other end would send.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.port,
            port: self.source_port,
            ..self
        }
    }

    /// Where the IP header starts.
    pub fn ip_offset(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Where the TCP header starts.
    pub fn tcp_offset(&self) -> usize {
        let ip = match self.destination {
            IpAddr::V4(_) => 20 + self.ip_options,
            IpAddr::V6(_) => 40 + self.extensions_len(),
        };
        self.ip_offset() + ip
    }

    fn extensions_len(&self) -> usize {
        self.extensions.iter().map(|(_, body)| body.len() + 2).sum()
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.mac);
        frame.extend([2, 0, 0, 0, 0, 2]);
        for (identifier, control) in &self.tags {
            frame.extend(identifier.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        let segment = match &self.body {
            Some(body) => body.len(),
            None => 20 + self.tcp_options + self.payload,
        };
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.build_v4(&mut frame, source, destination, segment);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.build_v6(&mut frame, source, destination, segment);
            }
            _ => panic!("addresses of two families"),
        }
        match &self.body {
            Some(body) => frame.extend(body),
            None => self.build_tcp(&mut frame),
        }
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    fn build_v4(
        &self,
        frame: &mut Vec<u8>,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        segment: usize,
    ) {
        let header = 20 + self.ip_options;
        frame.extend(0x0800_u16.to_be_bytes());
        frame.extend([0x40 | octet(header / 4), 0]);
        frame.extend(word(header + segment));
        frame.extend([0, 0]);
        frame.extend(self.fragment.to_be_bytes());
        frame.extend([64, self.protocol, 0, 0]);
        frame.extend(source.octets());
        frame.extend(destination.octets());
        frame.resize(frame.len() + self.ip_options, 1); // NOP
    }

    fn build_v6(
        &self,
        frame: &mut Vec<u8>,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        segment: usize,
    ) {
        frame.extend(0x86dd_u16.to_be_bytes());
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(word(self.extensions_len() + segment));
        let numbers = self.extensions.iter().map(|(number, _)| *number);
        let mut next = numbers.chain([self.protocol]);
        frame.extend([next.next().unwrap_or(self.protocol), 64]);
        frame.extend(source.octets());
        frame.extend(destination.octets());
        for ((_, body), next) in self.extensions.iter().zip(next) {
            frame.extend([next, octet((body.len() + 2) / 8 - 1)]);
            frame.extend(body);
        }
    }

    fn build_tcp(&self, frame: &mut Vec<u8>) {
        frame.extend(self.source_port.to_be_bytes());
        frame.extend(self.port.to_be_bytes());
        frame.extend([0; 8]);
        frame.extend([octet((20 + self.tcp_options) / 4) << 4, self.flags]);
        frame.extend([0xff, 0xff, 0, 0, 0, 0]);
        frame.resize(frame.len() + self.tcp_options, 1); // NOP
        frame.resize(frame.len() + self.payload, 0x5a);
    }
}

fn octet(value: usize) -> u8 {
    u8::try_from(value).expect("a value of 8 bits")
}

fn word(value: usize) -> [u8; 2] {
    u16::try_from(value)
        .expect("a value of 16 bits")
        .to_be_bytes()
}
