//! The committed object under BPF_PROG_TEST_RUN, loaded by libbpf.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bywash_xdp::abi::{self, ABI_VERSION, Config, FLOWS_PER_QUEUE, SLOTS_PER_QUEUE, address_bytes};
use bywash_xdp::{Counter, FlowKey, FlowValue, Limits, Vlan};
use libbpf_rs::{MapCore, MapFlags, Object, ObjectBuilder, ProgramInput};
use socket2::{Domain, Socket, Type};

use crate::namespace;

/// The object that embedders link.
pub const OBJECT: &[u8] = include_bytes!("../../../xdp-prog/bpf/demux.bpf.o");

/// Receive queues of the interface that packets seem to come from; each has a shard but the last.
pub const QUEUES: u32 = 4;

/// AF_XDP's number in Linux's `<sys/socket.h>`.
const AF_XDP: i32 = 44;

/// What an XDP program answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// To the kernel.
    Pass,
    /// To a socket.
    Redirect,
    /// Nowhere.
    Drop,
}

impl Action {
    fn from_return_value(value: u32) -> Result<Self> {
        Ok(match value {
            1 => Self::Drop,
            2 => Self::Pass,
            4 => Self::Redirect,
            other => bail!("the program answered {other}"),
        })
    }
}

/// A packet's fate: the action, and the only counter that moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// What the program answered.
    pub action: Action,
    /// What it counted.
    pub counter: Counter,
}

/// `struct bywash_parsed` of `abi.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Why it is no TCP segment. None: it is one, and the rest is set.
    pub verdict: Option<Counter>,
    /// Of the TCP header in the frame.
    pub offset: usize,
    /// Octets of header and payload.
    pub length: usize,
    /// The flow, as the flow table's key.
    pub key: [u8; 40],
}

impl Parsed {
    const LEN: usize = 52;
    const PARSED: u32 = 255;

    fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 octets"));
        Self {
            verdict: (word(0) != Self::PARSED).then(|| Counter::ALL[word(0) as usize]),
            offset: word(4) as usize,
            length: word(8) as usize,
            key: bytes[12..].try_into().expect("40 octets"),
        }
    }
}

/// A loaded program and an interface for its packets to come from, in a network namespace of the calling thread.
pub struct Harness {
    object: Object,
    ifindex: u32,
    config: Config,
}

impl Harness {
    /// Loads the program; nothing is ours yet.
    pub fn new() -> Result<Self> {
        Self::with_flows(FLOWS_PER_QUEUE)
    }

    /// The same with room for so many flows.
    pub fn with_flows(flows: u32) -> Result<Self> {
        namespace::enter();
        let ifindex = namespace::veth("bwd0", "bwd1", QUEUES)?;
        let mut open = ObjectBuilder::default()
            .name("demux")?
            .open_memory(OBJECT)
            .context("opening the object by libbpf")?;
        for mut map in open.maps_mut() {
            match map.name().to_str() {
                Some("xsks") => map.set_max_entries(QUEUES * SLOTS_PER_QUEUE)?,
                Some("flows") => map.set_max_entries(flows)?,
                Some("dirty") => map.set_max_entries(QUEUES)?,
                _ => {}
            }
        }
        let object = open
            .load()
            .context("loading the object by libbpf: these tests need root")?;
        let config = Config {
            abi_version: ABI_VERSION,
            queues: QUEUES - 1,
            ..Config::default()
        };
        let mut harness = Self {
            object,
            ifindex,
            config,
        };
        harness.write_config()?;
        Ok(harness)
    }

    /// Makes an address ours.
    pub fn address(&self, address: IpAddr) -> Result<()> {
        self.update("addresses", &address_bytes(address), &1_u32.to_ne_bytes())
    }

    /// Makes a port listen.
    pub fn listen(&self, port: u16) -> Result<()> {
        self.port(port, abi::PORT_TCP_OURS | abi::PORT_TCP_LISTEN)
    }

    /// Sets a port's bits.
    pub fn port(&self, port: u16, bits: u32) -> Result<()> {
        self.update("ports", &u32::from(port).to_ne_bytes(), &bits.to_ne_bytes())
    }

    /// Sets what is ours of an outer tag's identifier.
    pub fn vlan(&self, outer: u16, bits: u32) -> Result<()> {
        self.update(
            "vlans",
            &u32::from(outer).to_ne_bytes(),
            &bits.to_ne_bytes(),
        )
    }

    /// Adds a pair of tags, whose outer identifier's bits say that there are some.
    pub fn vlan_pair(&self, vlan: Vlan) -> Result<()> {
        self.update(
            "vlan_pairs",
            &vlan.bits().to_ne_bytes(),
            &1_u32.to_ne_bytes(),
        )
    }

    /// Sets the range for active opens.
    pub fn local_ports(&mut self, range: RangeInclusive<u16>) -> Result<()> {
        self.config.local_port_first = *range.start();
        self.config.local_port_last = *range.end();
        self.write_config()
    }

    /// Sets the configuration's flags.
    pub fn flags(&mut self, flags: u32) -> Result<()> {
        self.config.flags = flags;
        self.write_config()
    }

    /// Sets what strangers may send.
    pub fn limits(&mut self, limits: &Limits) -> Result<()> {
        self.config.limits = limits.to_abi();
        self.write_config()
    }

    /// Inserts a flow.
    pub fn flow(&self, key: &FlowKey, value: FlowValue) -> Result<()> {
        let words = value.to_words();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.update("flows", &key.to_bytes(), &bytes)
    }

    /// Puts an AF_XDP socket into a slot. It need not be bound for the program to find it; closing it empties the slot.
    pub fn socket(&self, slot: u32) -> Result<Socket> {
        let socket = Socket::new(Domain::from(AF_XDP), Type::RAW, None)
            .context("an AF_XDP socket: these tests need root and CONFIG_XDP_SOCKETS")?;
        self.update(
            "xsks",
            &slot.to_ne_bytes(),
            &socket.as_raw_fd().to_ne_bytes(),
        )?;
        Ok(socket)
    }

    /// Runs the program on a frame that came on this queue; fails if it changed the frame, or counted other than once.
    pub fn fate(&self, queue: u32, frame: &[u8]) -> Result<Fate> {
        let before = self.counters()?;
        let mut after_frame = vec![0; frame.len()];
        let (action, _) = self.run("demux", queue, frame, Some(&mut after_frame), 1)?;
        let after = self.counters()?;
        ensure!(after_frame == frame, "the program changed the frame");
        let moved: Vec<(Counter, u64)> = Counter::ALL
            .iter()
            .zip(before.iter().zip(&after))
            .filter(|(_, (before, after))| before != after)
            .map(|(counter, (before, after))| (*counter, after - before))
            .collect();
        match moved[..] {
            [(counter, 1)] => Ok(Fate { action, counter }),
            _ => bail!("{action:?} moved these counters: {moved:?}"),
        }
    }

    /// Mean time of one run, of `repeat`, without the copies in and out.
    pub fn cost(&self, frame: &[u8], repeat: u32) -> Result<(Action, Duration)> {
        self.run("demux", 0, frame, None, repeat)
    }

    /// Runs the program on a frame that came on this queue, without a look at its counters: a fraction of [`Harness::fate`]'s time.
    pub fn action(&self, queue: u32, frame: &[u8]) -> Result<Action> {
        Ok(self.run("demux", queue, frame, None, 1)?.0)
    }

    /// What the program's parser makes of a frame.
    pub fn parsed(&self, frame: &[u8]) -> Result<Parsed> {
        let mut out = vec![0; Parsed::LEN + frame.len()];
        let (action, _) = self.run("parse", 0, frame, Some(&mut out), 1)?;
        ensure!(action == Action::Pass, "the parser answered {action:?}");
        let (head, rest) = out.split_at(Parsed::LEN);
        ensure!(rest == frame, "the parser changed the frame");
        Ok(Parsed::from_bytes(head.try_into()?))
    }

    /// All counters, summed over CPUs.
    pub fn counters(&self) -> Result<Vec<u64>> {
        let map = self.map("counters")?;
        let sum = |counter: &Counter| {
            let key = (*counter as u32).to_ne_bytes();
            let values = map.lookup_percpu(&key, MapFlags::ANY)?;
            let values = values.with_context(|| format!("no counter {counter}"))?;
            values
                .iter()
                .map(|value| Ok(u64::from_ne_bytes(value.as_slice().try_into()?)))
                .sum()
        };
        Counter::ALL.iter().map(sum).collect()
    }

    /// The object, for what is not covered above.
    pub fn object(&self) -> &Object {
        &self.object
    }

    fn run(
        &self,
        name: &str,
        queue: u32,
        frame: &[u8],
        out: Option<&mut [u8]>,
        repeat: u32,
    ) -> Result<(Action, Duration)> {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let words = [0, u32::try_from(frame.len())?, 0, self.ifindex, queue, 0];
        let mut context: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let program = self
            .object
            .progs_mut()
            .find(|program| program.name() == name);
        let output = program
            .with_context(|| format!("no program `{name}`"))?
            .test_run(ProgramInput {
                context_in: Some(&mut context),
                data_in: Some(frame),
                data_out: out,
                repeat,
                ..ProgramInput::default()
            })?;
        Ok((
            Action::from_return_value(output.return_value)?,
            output.duration,
        ))
    }

    fn write_config(&mut self) -> Result<()> {
        self.update("config", &0_u32.to_ne_bytes(), &self.config.to_bytes())
    }

    fn update(&self, map: &str, key: &[u8], value: &[u8]) -> Result<()> {
        let updated = self.map(map)?.update(key, value, MapFlags::ANY);
        updated.with_context(|| format!("updating {map}"))
    }

    fn map(&self, name: &str) -> Result<libbpf_rs::Map<'_>> {
        let map = self.object.maps().find(|map| map.name() == name);
        map.with_context(|| format!("no map {name}"))
    }
}
