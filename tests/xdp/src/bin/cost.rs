//! What a verdict costs: time of the program under PROG_TEST_RUN, some 26 ns of which are the harness's own.
//!
//! One packet again and again, so with all caches hot; and, where what a packet finds in memory matters, many packets, each run
//! once: then the kernel's two looks at the clock are in the figure as well, and the line to compare it with is that of one packet.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use bywash_xdp::{
    Counter, FlowKey, FlowValue, Limits, RING_CONTROL, RING_PRIMARY, Rate, abi, slot,
};
use bywash_xdp_tests::packet::{OUR_V4, OUR_V6, Packet, extension, flags};
use bywash_xdp_tests::random::Random;
use bywash_xdp_tests::run::Harness;
use socket2::Socket;

const PORT: u16 = 8080;
const REPEAT: u32 = 1_000_000;
const ROUNDS: usize = 5;
/// Packets of a line in which no two are alike.
const VARIED: usize = 200_000;
/// Sizes of the flow table.
const FLOWS: [u32; 5] = [1, 1_000, 16_384, 100_000, 1_000_000];

struct Bench {
    demux: Harness,
    _sockets: Vec<Socket>,
}

impl Bench {
    fn new(flows: u32) -> Result<Self> {
        let demux = Harness::with_flows(flows)?;
        demux.address(OUR_V4.into())?;
        demux.address(OUR_V6.into())?;
        demux.listen(PORT)?;
        let rings = [RING_PRIMARY, RING_CONTROL, 2];
        let sockets = rings.map(|ring| demux.socket(slot(0, ring)));
        Ok(Self {
            demux,
            _sockets: sockets.into_iter().collect::<Result<_>>()?,
        })
    }

    /// One packet, best of several rounds; fails if the program does something else with it.
    fn hot(&self, name: &str, packet: &Packet, expected: Counter) -> Result<()> {
        let frame = packet.build();
        ensure!(
            self.demux.fate(0, &frame)?.counter == expected,
            "{name}: not {expected}"
        );
        let mut best = Duration::MAX;
        for _ in 0..ROUNDS {
            best = best.min(self.demux.cost(&frame, REPEAT)?.1);
        }
        println!("{:>6} ns  {name}", best.as_nanos());
        Ok(())
    }

    /// Many packets, each run once: the mean.
    fn varied(&self, name: &str, mut next: impl FnMut() -> Packet) -> Result<()> {
        let mut total = Duration::ZERO;
        for _ in 0..VARIED {
            total += self.demux.cost(&next().build(), 1)?.1;
        }
        let mean = total.as_nanos() / VARIED as u128;
        println!("{mean:>6} ns  {name}");
        Ok(())
    }

    fn flow(&self, packet: &Packet) -> Result<()> {
        let key = FlowKey::new(
            packet.destination,
            packet.port,
            packet.source,
            packet.source_port,
            None,
            6,
        );
        let value = FlowValue {
            slot: slot(0, 2),
            generation: 0,
            queue: 0,
        };
        self.demux.flow(&key, value)
    }
}

/// The number's own peer, and so its flow.
fn peer(number: u32) -> Packet {
    Packet {
        source: IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 | number)),
        ..Packet::v4(PORT)
    }
}

fn verdicts() -> Result<()> {
    let mut bench = Bench::new(abi::FLOWS_PER_QUEUE)?;
    let flow = |packet: Packet| Packet {
        source_port: 1,
        ..packet
    };
    for packet in Packet::both(PORT) {
        bench.flow(&flow(packet))?;
    }
    println!(
        "one packet, best of {ROUNDS} rounds of {REPEAT} runs, no limits, two flows in the table"
    );
    let (v4, v6) = (Packet::v4(PORT), Packet::v6(PORT));
    let udp = Packet {
        protocol: 17,
        ..v4.clone()
    };
    let (foreign, foreign_v6) = (Packet::v4(22), Packet::v6(22));
    let group = Packet {
        mac: [0xff; 6],
        ..v4.clone()
    };
    bench.hot("pass: broadcast", &group, Counter::PassGroupMac)?;
    bench.hot("pass: UDP", &udp, Counter::PassNotTcp)?;
    let ping = v4.clone().icmp(8, &v4, 64);
    bench.hot("pass: ping", &ping, Counter::PassNotTcp)?;
    bench.hot("pass: TCP, not our port", &foreign, Counter::PassNotOurPort)?;
    bench.hot(
        "pass: TCP, not our port, v6",
        &foreign_v6,
        Counter::PassNotOurPort,
    )?;
    let tagged = v4.clone().tag(0x8100, 9);
    bench.hot("pass: TCP, another VLAN", &tagged, Counter::PassVlanForeign)?;
    let about = |packet: &Packet| packet.clone().icmp(3, &packet.clone().reversed(), 64);
    bench.hot(
        "pass: ICMP error about the kernel's",
        &about(&foreign),
        Counter::PassNotTcp,
    )?;
    bench.hot("ICMP error about ours", &about(&v4), Counter::RedirectIcmp)?;
    let syn = v4.clone().flags(flags::SYN);
    bench.hot("listener: SYN", &syn, Counter::RedirectSyn)?;
    bench.hot("listener: segment", &v4, Counter::RedirectPort)?;
    bench.hot("listener: segment, v6", &v6, Counter::RedirectPort)?;
    bench.hot("flow", &flow(v4.clone()), Counter::RedirectFlow)?;
    bench.hot("flow, v6", &flow(v6.clone()), Counter::RedirectFlow)?;
    let extended = flow(v6.clone()).extension(extension::DESTINATION);
    bench.hot(
        "flow, v6, an extension header",
        &extended,
        Counter::RedirectFlow,
    )?;

    println!("pools marked in the dirty array");
    bench.demux.flags(abi::MARK_DIRTY)?;
    bench.hot("flow", &flow(v4.clone()), Counter::RedirectFlow)?;
    bench.hot("pass: TCP, not our port", &foreign, Counter::PassNotOurPort)?;

    println!("strict: all flows in the table");
    bench.demux.flags(abi::STRICT)?;
    let reset = v4.clone().flags(flags::RST);
    bench.hot("stranger's RST, dropped", &reset, Counter::DropNoFlow)?;
    bench.hot("stranger's ACK, no limit", &v4, Counter::RedirectPort)?;
    limits(&mut bench, &syn, &v4)
}

fn limits(bench: &mut Bench, syn: &Packet, ack: &Packet) -> Result<()> {
    println!("with limits");
    let ample = Some(Rate {
        per_second: 1_000_000_000,
        burst: 100_000_000,
    });
    let spent = Some(Rate {
        per_second: 1,
        burst: 1,
    });
    bench.demux.limits(&Limits {
        ack: spent,
        ..Limits::NONE
    })?;
    // The one that there is.
    bench.demux.cost(&ack.build(), 1)?;
    bench.hot(
        "strict: stranger's ACK, beyond the limit",
        ack,
        Counter::DropAckLimit,
    )?;
    bench.demux.flags(0)?;
    bench.demux.limits(&Limits {
        syn_prefix: ample,
        syn: ample,
        ..Limits::NONE
    })?;
    bench.hot(
        "listener: SYN, within both limits",
        syn,
        Counter::RedirectSyn,
    )?;
    let constant = || syn.clone();
    bench.varied("the same packet, each run by itself", constant)?;
    let anywhere = |seed| {
        let mut random = Random::new(seed);
        move || peer(u32::try_from(random.below(1 << 24)).expect("24 bits")).flags(flags::SYN)
    };
    bench.varied(
        "SYNs from 65,536 networks within all limits: the table of networks turns over",
        anywhere(1),
    )?;
    bench.demux.limits(&Limits {
        syn_prefix: ample,
        syn: spent,
        ..Limits::NONE
    })?;
    bench.varied("the same beyond the limit of all together", anywhere(2))?;
    bench.demux.limits(&Limits {
        syn_prefix: spent,
        ..Limits::NONE
    })?;
    bench.demux.cost(&syn.build(), 1)?;
    bench.hot(
        "listener: SYN, beyond its network's limit",
        syn,
        Counter::DropSynPrefixLimit,
    )
}

fn tables() -> Result<()> {
    println!(
        "mean of {VARIED} packets of random flows, each run by itself: the clock is in the figure"
    );
    for flows in FLOWS {
        let bench = Bench::new(flows)?;
        for number in 0..flows {
            bench.flow(&peer(number))?;
        }
        let mut random = Random::new(1);
        let some = move || peer(u32::try_from(random.below(flows as usize)).expect("few"));
        bench.varied(&format!("{flows} flows in the table"), some)?;
    }
    let bench = Bench::new(1)?;
    bench.varied("none, and a table of one", || peer(0))
}

fn main() -> Result<()> {
    verdicts()?;
    tables()
}
