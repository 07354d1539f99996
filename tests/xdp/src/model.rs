//! The demultiplexer's rules once more, written for reading and not for the verifier: what the program is compared with.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use bywash_xdp::{Counter, FlowKey, FlowValue, RING_CONTROL, RING_PRIMARY, slot};

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
    pub vlans: HashSet<u16>,
    /// Flows with a pool.
    pub flows: HashMap<FlowKey, FlowValue>,
    /// Slots with a socket.
    pub sockets: HashSet<u32>,
}

struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    first_fragment: bool,
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
        let (ethertype, vlan, rest) = match word(frame, 12) {
            0x88a8 => return Err(Counter::PassVlanStacked),
            0x8100 => {
                let tag = frame.get(14..18).ok_or(Counter::PassNotIp)?;
                let vlan = word(tag, 0) & 0xfff;
                match word(tag, 2) {
                    0x8100 | 0x88a8 => return Err(Counter::PassVlanStacked),
                    _ if vlan != 0 && !self.vlans.contains(&vlan) => {
                        return Err(Counter::PassVlanForeign);
                    }
                    ethertype => (ethertype, vlan, &frame[18..]),
                }
            }
            ethertype => (ethertype, 0, &frame[14..]),
        };
        let ip = match ethertype {
            0x0800 => parse_v4(rest)?,
            0x86dd => parse_v6(rest)?,
            _ => return Err(Counter::PassNotIp),
        };
        self.tcp(queue, vlan, &ip)
    }

    fn tcp(&self, queue: u32, vlan: u16, ip: &Ip<'_>) -> Result<Counter, Counter> {
        let segment = ip.segment;
        if segment.len() < 4 {
            return Err(Counter::PassMalformedIp);
        }
        let (source_port, port) = (word(segment, 0), word(segment, 2));
        let listening = self.listening.contains(&port);
        let by_port = listening || self.held.contains(&port);
        let by_range = self
            .local
            .as_ref()
            .is_some_and(|range| range.contains(&port));
        if port == 0 || !(by_port || by_range) {
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
        let key = FlowKey::new(ip.destination, port, ip.source, source_port, Some(vlan), 6);
        let syn = header[13] & 0x12 == 0x02;
        let (slot, counter) = match self.flows.get(&key) {
            Some(flow) if flow.queue == queue => (flow.slot, Counter::RedirectFlow),
            Some(_) => (slot(queue, RING_PRIMARY), Counter::RedirectOtherQueue),
            None if listening && syn => (slot(queue, RING_CONTROL), Counter::RedirectSyn),
            None if by_port => (slot(queue, RING_PRIMARY), Counter::RedirectPort),
            None => (slot(queue, RING_PRIMARY), Counter::RedirectLocalRange),
        };
        if self.sockets.contains(&slot) {
            Ok(counter)
        } else {
            Err(Counter::DropEmptySlot)
        }
    }
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
    if header[9] != 6 {
        return Err(Counter::PassNotTcp);
    }
    let fragment = word(header, 6);
    if fragment & 0x1fff != 0 {
        return Err(Counter::PassFragment);
    }
    let address =
        |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    Ok(Ip {
        source: address(12).into(),
        destination: address(16).into(),
        first_fragment: fragment & 0x2000 != 0,
        segment,
    })
}

fn parse_v6(packet: &[u8]) -> Result<Ip<'_>, Counter> {
    const MALFORMED: Counter = Counter::PassMalformedIp;
    let header = packet.get(..40).ok_or(MALFORMED)?;
    let address = |at: usize| {
        let octets: [u8; 16] = header[at..at + 16].try_into().expect("16 octets");
        Ipv6Addr::from(octets)
    };
    let (source, destination) = (address(8), address(24));
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
    while next != 6 {
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
        first_fragment,
        segment: rest,
    })
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
