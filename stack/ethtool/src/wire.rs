//! Ethtool's structures as bytes (`include/uapi/linux/ethtool.h`): what is written here the kernel reads, and the other way.
//!
//! ```text
//! ethtool_rxnfc          0 cmd  4 flow_type  8 data(u64)  16 rule: ethtool_rx_flow_spec  184 rule_cnt  188 rule_locs[]
//! ethtool_rx_flow_spec   0 flow_type  4 values[52]  56 more values[20]  76 masks[52]  128 more masks[20]
//!                        152 ring_cookie(u64)  160 location
//! values for TCP/IPv4    0 source  4 destination  8 source port  10 destination port        (network order)
//! values for TCP/IPv6    0 source 16 destination 32 source port  34 destination port
//! ethtool_rxfh_indir     0 cmd  4 size  8 queue of each entry
//! ethtool_value          0 cmd  4 data
//! ```

use std::net::IpAddr;

use crate::Match;

const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GRXCLSRLCNT: u32 = 0x2e;
const ETHTOOL_GRXCLSRLALL: u32 = 0x30;
const ETHTOOL_SRXCLSRLDEL: u32 = 0x31;
const ETHTOOL_SRXCLSRLINS: u32 = 0x32;
const ETHTOOL_GRXFHINDIR: u32 = 0x38;
const ETHTOOL_SRXFHINDIR: u32 = 0x39;

const TCP_V4_FLOW: u32 = 0x01;
const TCP_V6_FLOW: u32 = 0x05;

/// In `data` of the count: the driver chooses places by itself.
const RX_CLS_LOC_SPECIAL: u64 = 0x8000_0000;

/// `ETH_FLAG_RXVLAN`: VLAN tags are taken out of received frames.
pub(crate) const FLAG_RX_VLAN: u32 = 1 << 8;

/// `sizeof(struct ethtool_rxnfc)`.
const RXNFC_LEN: usize = 192;
const DATA: usize = 8;
const SPEC: usize = 16;
const RULE_COUNT: usize = 184;
const RULE_PLACES: usize = 188;
const VALUES: usize = SPEC + 4;
const MASKS: usize = SPEC + 76;
const QUEUE: usize = SPEC + 152;
const LOCATION: usize = SPEC + 160;

/// The place of a rule in the device's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(u32);

impl RuleId {
    /// `RX_CLS_LOC_ANY`: the driver chooses.
    pub const ANY: Self = Self(0xffff_ffff);

    /// This place.
    #[must_use]
    pub const fn at(place: u32) -> Self {
        Self(place)
    }

    /// The place's number.
    #[must_use]
    pub const fn place(self) -> u32 {
        self.0
    }
}

/// A rule to insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it matches.
    pub what: Match,
    /// Where that goes.
    pub queue: u32,
    /// Its place.
    pub location: RuleId,
}

impl Rule {
    /// `ETHTOOL_SRXCLSRLINS`.
    pub(crate) fn insertion(&self) -> Request {
        let mut request = Request::rxnfc(ETHTOOL_SRXCLSRLINS, RXNFC_LEN);
        let port_at = |v6: bool| if v6 { 34 } else { 10 };
        let v6 = match self.what {
            Match::PortV4(port) => {
                request.match_bytes(port_at(false), &port.to_be_bytes());
                false
            }
            Match::PortV6(port) => {
                request.match_bytes(port_at(true), &port.to_be_bytes());
                true
            }
            Match::Flow {
                source,
                destination,
            } => {
                let v6 = destination.is_ipv6();
                let address_len = if v6 { 16 } else { 4 };
                request.match_address(0, source.ip());
                request.match_address(address_len, destination.ip());
                request.match_bytes(port_at(v6) - 2, &source.port().to_be_bytes());
                request.match_bytes(port_at(v6), &destination.port().to_be_bytes());
                v6
            }
        };
        request.put(SPEC, if v6 { TCP_V6_FLOW } else { TCP_V4_FLOW });
        request.bytes[QUEUE..QUEUE + 8].copy_from_slice(&u64::from(self.queue).to_ne_bytes());
        request.put(LOCATION, self.location.0);
        request
    }
}

/// A request, and its answer in the same bytes: always as long as what the kernel may write for its command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn rxnfc(command: u32, len: usize) -> Self {
        let mut request = Self {
            bytes: vec![0; len],
        };
        request.put(0, command);
        request
    }

    /// `ETHTOOL_GFLAGS`, whose answer is a `struct ethtool_value`.
    pub(crate) fn flags() -> Self {
        Self::rxnfc(ETHTOOL_GFLAGS, 8)
    }

    /// What a `struct ethtool_value` says.
    pub(crate) fn value(&self) -> u32 {
        self.take(4)
    }

    /// `ETHTOOL_GRXCLSRLCNT`
    pub(crate) fn rule_count() -> Self {
        Self::rxnfc(ETHTOOL_GRXCLSRLCNT, RXNFC_LEN)
    }

    /// `ETHTOOL_GRXCLSRLALL` with room for `rules` places.
    pub(crate) fn all_rules(rules: u32) -> Self {
        let len = RULE_PLACES + 4 * rules as usize;
        let mut request = Self::rxnfc(ETHTOOL_GRXCLSRLALL, len.max(RXNFC_LEN));
        request.put(RULE_COUNT, rules);
        request
    }

    /// `ETHTOOL_SRXCLSRLDEL`
    pub(crate) fn removal(rule: RuleId) -> Self {
        let mut request = Self::rxnfc(ETHTOOL_SRXCLSRLDEL, RXNFC_LEN);
        request.put(LOCATION, rule.0);
        request
    }

    /// `ETHTOOL_GRXFHINDIR` with room for `size` entries; 0 asks for the size.
    pub(crate) fn indirection(size: u32) -> Self {
        let mut request = Self::rxnfc(ETHTOOL_GRXFHINDIR, 8 + 4 * size as usize);
        request.put(4, size);
        request
    }

    /// `ETHTOOL_SRXFHINDIR`
    pub(crate) fn set_indirection(table: &[u32]) -> Self {
        let mut request = Self::rxnfc(ETHTOOL_SRXFHINDIR, 8 + 4 * table.len());
        request.put(4, table.len() as u32);
        for (entry, queue) in table.iter().enumerate() {
            request.put(8 + 4 * entry, *queue);
        }
        request
    }

    /// The bytes, which begin with the command.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, for whoever answers. Their number cannot change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Rules that there are, and the size of the table; `None`: the driver chooses places by itself.
    pub(crate) fn counts(&self) -> (u32, Option<u32>) {
        let mut data = [0; 8];
        data.copy_from_slice(&self.bytes[DATA..DATA + 8]);
        let data = u64::from_ne_bytes(data);
        let chooses = data & RX_CLS_LOC_SPECIAL != 0;
        let size = u32::try_from(data & !RX_CLS_LOC_SPECIAL).unwrap_or(u32::MAX);
        (self.take(RULE_COUNT), (!chooses).then_some(size))
    }

    pub(crate) fn locations(&self) -> Vec<RuleId> {
        let room = (self.bytes.len() - RULE_PLACES) / 4;
        (0..room.min(self.take(RULE_COUNT) as usize))
            .map(|index| RuleId(self.take(RULE_PLACES + 4 * index)))
            .collect()
    }

    pub(crate) fn location(&self) -> RuleId {
        RuleId(self.take(LOCATION))
    }

    pub(crate) fn table_size(&self) -> u32 {
        self.take(4)
    }

    pub(crate) fn table(&self) -> Vec<u32> {
        (8..self.bytes.len())
            .step_by(4)
            .map(|at| self.take(at))
            .collect()
    }

    fn put(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn take(&self, at: usize) -> u32 {
        let mut value = [0; 4];
        value.copy_from_slice(&self.bytes[at..at + 4]);
        u32::from_ne_bytes(value)
    }

    /// These bytes, all of their bits.
    fn match_bytes(&mut self, at: usize, value: &[u8]) {
        self.bytes[VALUES + at..][..value.len()].copy_from_slice(value);
        self.bytes[MASKS + at..][..value.len()].fill(0xff);
    }

    fn match_address(&mut self, at: usize, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.match_bytes(at, &address.octets()),
            IpAddr::V6(address) => self.match_bytes(at, &address.octets()),
        }
    }
}
