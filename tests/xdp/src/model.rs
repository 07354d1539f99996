//! The demultiplexer's rules once more, written for reading and not for the verifier: what the program is compared with.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use bywash_xdp::{Counter, FlowKey, FlowValue, RING_CONTROL, RING_PRIMARY, Vlan, slot};

/// What is ours.
#[derive(Default)]
pub struct Model {
    /// Queues with a shard.
    pub queues: u32,
    /// Our addresses.
    pub addresses: HashSet<IpAddr>,
    /// Listening ports.
    pub listening: HashSet<u16>,
    /// Ports that are ours without a listener.
    pub held: HashSet<u16>,
    /// Ports for active opens.
    pub local: Option<RangeInclusive<u16>>,
    /// VLANs that are ours.
    pub vlans: HashSet<Vlan>,
    /// Flows with a pool.
    pub flows: HashMap<FlowKey, FlowValue>,
    /// Slots with a socket.
    pub sockets: HashSet<u32>,
    /// All of our flows are in `flows`.
    pub strict: bool,
}

struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    first_fragment: bool,
    protocol: u8,
    segment: &'a [u8],
}

impl Model {
    /// The counter that must move for this frame.
    pub fn verdict(&self, queue: u32, frame: &[u8]) -> Counter {
        self.try_verdict(queue, frame)
            .unwrap_or_else(|counter| counter)
    }

    fn try_verdict(&self, queue: u32, frame: &[u8]) -> Result<Counter, Counter> {
        let mac = frame.get(..14).ok_or(Counter::PassNotIp)?;
        if mac[0] & 1 == 1 {
            return Err(Counter::PassGroupMac);
        }
        let (mut tags, mut rest) = (Vec::new(), &frame[12..]);
        while let kind @ (0x8100 | 0x88a8) = word(rest, 0) {
            // One tag inside a service tag, and no more.
            if !matches!((&tags[..], kind), ([], _) | ([(0x88a8, _)], 0x8100)) {
                return Err(Counter::PassVlanStacked);
            }
            let tag = rest.get(..6).ok_or(Counter::PassNotIp)?;
            tags.push((kind, word(tag, 2) & 0xfff));
            rest = &rest[4..];
        }
        let vlan = vlan(&tags);
        if vlan.is_some_and(|vlan| !self.vlans.contains(&vlan)) {
            return Err(Counter::PassVlanForeign);
        }
        let ethertype = word(rest, 0);
        let rest = &rest[2..];
        let ip = match ethertype {
            0x0800 => parse_v4(rest)?,
            0x86dd => parse_v6(rest)?,
            _ => return Err(Counter::PassNotIp),
        };
        match ip.protocol {
            6 => self.tcp(queue, vlan, &ip),
            _ => self.icmp(queue, &ip),
        }
    }

    /// Whether a port is ours.
    pub fn is_ours(&self, port: u16) -> bool {
        let by_range = self
            .local
            .as_ref()
            .is_some_and(|range| range.contains(&port));
        port != 0 && (self.listening.contains(&port) || self.held.contains(&port) || by_range)
    }

    fn icmp(&self, queue: u32, ip: &Ip<'_>) -> Result<Counter, Counter> {
        let quoted = quoted(ip).ok_or(Counter::PassNotTcp)?;
        let (source, port) = quoted;
        // Errors go to whom they are about.
        if source != ip.destination || !self.addresses.contains(&source) || !self.is_ours(port) {
            return Err(Counter::PassNotTcp);
        }
        if queue >= self.queues {
            return Err(Counter::DropNoShard);
        }
        self.redirect(slot(queue, RING_PRIMARY), Counter::RedirectIcmp)
    }

    /// An empty slot drops.
    fn redirect(&self, slot: u32, counter: Counter) -> Result<Counter, Counter> {
        match self.sockets.contains(&slot) {
            true => Ok(counter),
            false => Err(Counter::DropEmptySlot),
        }
    }

    fn tcp(&self, queue: u32, vlan: Option<Vlan>, ip: &Ip<'_>) -> Result<Counter, Counter> {
        let segment = ip.segment;
        if segment.len() < 4 {
            return Err(Counter::PassMalformedIp);
        }
        let (source_port, port) = (word(segment, 0), word(segment, 2));
        let listening = self.listening.contains(&port);
        let by_port = listening || self.held.contains(&port);
        if !self.is_ours(port) {
            return Err(Counter::PassNotOurPort);
        }
        if !self.addresses.contains(&ip.destination) {
            return Err(Counter::PassNotOurAddress);
        }
        if ip.first_fragment {
            return Err(Counter::DropFirstFragment);
        }
        let header = segment.get(..20).ok_or(Counter::DropTcpTruncated)?;
        let data_offset = usize::from(header[12] >> 4) * 4;
        if data_offset < 20 || data_offset > segment.len() {
            return Err(Counter::DropTcpDataOffset);
        }
        if source_port == 0 {
            return Err(Counter::DropTcpPortZero);
        }
        if queue >= self.queues {
            return Err(Counter::DropNoShard);
        }
        let key = FlowKey::new(ip.destination, port, ip.source, source_port, vlan, 6);
        let syn = header[13] & 0x12 == 0x02;
        let ack_only = header[13] & 0x17 == 0x10;
        let (slot, counter) = match self.flows.get(&key) {
            Some(flow) if flow.queue == queue => (flow.slot, Counter::RedirectFlow),
            Some(_) => (slot(queue, RING_PRIMARY), Counter::RedirectOtherQueue),
            None if listening && syn => (slot(queue, RING_CONTROL), Counter::RedirectSyn),
            None if self.strict && !syn && !(listening && ack_only) => {
                return Err(Counter::DropNoFlow);
            }
            None if by_port => (slot(queue, RING_PRIMARY), Counter::RedirectPort),
            None => (slot(queue, RING_PRIMARY), Counter::RedirectLocalRange),
        };
        self.redirect(slot, counter)
    }
}

/// What a frame's tags mean. Identifier 0 names no VLAN: the tag might as well not be there.
fn vlan(tags: &[(u16, u16)]) -> Option<Vlan> {
    let id_of = |kind| {
        let mut ids = tags.iter().filter(|tag| tag.0 == kind).map(|tag| tag.1);
        ids.next().filter(|id| *id != 0)
    };
    match (id_of(0x88a8), id_of(0x8100)) {
        (None, None) => None,
        (None, Some(customer)) => Some(Vlan::Customer(customer)),
        (Some(service), None) => Some(Vlan::Service(service)),
        (Some(service), Some(customer)) => Some(Vlan::Stacked { service, customer }),
    }
}

/// Source address and port of the TCP segment that an ICMP error quotes.
fn quoted(ip: &Ip<'_>) -> Option<(IpAddr, u16)> {
    if ip.first_fragment {
        return None;
    }
    let quoted = ip.segment.get(8..)?;
    let (kind, octet) = (ip.segment[0], |at: usize| quoted.get(at).copied());
    let segment = match ip.protocol {
        1 => {
            let header = usize::from(octet(0)? & 15) * 4;
            let sound = quoted.len() >= 20 && octet(0)? >> 4 == 4 && header >= 20;
            if !sound || octet(9)? != 6 || word(quoted, 6) & 0x1fff != 0 {
                return None;
            }
            matches!(kind, 3 | 11 | 12).then(|| quoted.get(header..))??
        }
        _ => {
            let segment = quoted.get(40..)?;
            if octet(0)? >> 4 != 6 || octet(6)? != 6 {
                return None;
            }
            matches!(kind, 1..=4).then_some(segment)?
        }
    };
    let source = match ip.protocol {
        1 => v4_at(quoted, 12),
        _ => v6_at(quoted, 8).into(),
    };
    // No segment has port 0.
    let named = segment.len() >= 8 && word(segment, 0) != 0 && word(segment, 2) != 0;
    named.then(|| (source, word(segment, 0)))
}

fn v4_at(bytes: &[u8], at: usize) -> IpAddr {
    let octets: [u8; 4] = bytes[at..at + 4].try_into().expect("4 octets");
    Ipv4Addr::from(octets).into()
}

fn v6_at(bytes: &[u8], at: usize) -> Ipv6Addr {
    let octets: [u8; 16] = bytes[at..at + 16].try_into().expect("16 octets");
    Ipv6Addr::from(octets)
}

fn parse_v4(packet: &[u8]) -> Result<Ip<'_>, Counter> {
    const MALFORMED: Counter = Counter::PassMalformedIp;
    let header = packet.get(..20).ok_or(MALFORMED)?;
    let header_len = usize::from(header[0] & 15) * 4;
    let total = usize::from(word(header, 2));
    if header[0] >> 4 != 4 || header_len < 20 {
        return Err(MALFORMED);
    }
    let packet = packet.get(..total).ok_or(MALFORMED)?;
    let segment = packet.get(header_len..).ok_or(MALFORMED)?;
    if !matches!(header[9], 1 | 6) {
        return Err(Counter::PassNotTcp);
    }
    let fragment = word(header, 6);
    if fragment & 0x1fff != 0 {
        return Err(Counter::PassFragment);
    }
    Ok(Ip {
        source: v4_at(header, 12),
        destination: v4_at(header, 16),
        protocol: header[9],
        first_fragment: fragment & 0x2000 != 0,
        segment,
    })
}

fn parse_v6(packet: &[u8]) -> Result<Ip<'_>, Counter> {
    const MALFORMED: Counter = Counter::PassMalformedIp;
    let header = packet.get(..40).ok_or(MALFORMED)?;
    let (source, destination) = (v6_at(header, 8), v6_at(header, 24));
    let mapped = |address: Ipv6Addr| address.to_ipv4_mapped().is_some();
    if header[0] >> 4 != 6 || mapped(source) || mapped(destination) {
        return Err(MALFORMED);
    }
    let mut rest = packet[40..]
        .get(..usize::from(word(header, 4)))
        .ok_or(MALFORMED)?;
    let mut next = header[6];
    let mut first_fragment = false;
    let mut walked = 0;
    while !matches!(next, 6 | 58) {
        if !matches!(next, 0 | 43 | 44 | 60) {
            return Err(Counter::PassNotTcp);
        }
        if walked == 6 {
            return Err(Counter::PassExtensions);
        }
        let start = rest.get(..8).ok_or(MALFORMED)?;
        let mut len = 8;
        if next == 44 {
            if word(start, 2) & 0xfff8 != 0 {
                return Err(Counter::PassFragment);
            }
            first_fragment = true;
        } else {
            len += usize::from(start[1]) * 8;
            if rest.len() < len {
                return Err(MALFORMED);
            }
            if next == 43 && start[3] != 0 {
                return Err(Counter::PassExtensions);
            }
        }
        next = start[0];
        rest = &rest[len..];
        walked += 1;
    }
    Ok(Ip {
        source: source.into(),
        destination: destination.into(),
        protocol: next,
        first_fragment,
        segment: rest,
    })
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
