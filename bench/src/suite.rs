//! The experiments by name: what each needs of the machine, and how it is run.

use std::time::Duration;

use anyhow::Result;
use bywash_xdp::Mode;
use clap::ValueEnum;

use crate::experiments::{
    cpu, demux, floods, latency, mechanism, pools, scale, setup, stack, strangers, throughput,
    tune, wan,
};
use crate::machine::Machine;
use crate::netns::{self, Offloads, Testbed};
use crate::run::{Case, Effort, Results, interleave};

/// What can be measured. The order is that of `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Experiment {
    /// Raw AF_XDP user to user over windows and XDP modes, against the wire's limit, and what TCP costs on top.
    Mechanism,
    /// Goodput of one flow by message and by segment size: raw AF_XDP, kernel TCP, Bywash.
    Throughput,
    /// Ping-pong of 1 to 1460 bytes, 64 messages in flight, requests at fixed rates: raw AF_XDP, kernel TCP, Bywash.
    Latency,
    /// Parts of a connection, and short connections per second: kernel TCP, Bywash.
    Setup,
    /// XDP's verdict at 1 to 1,000,000 flows, against queues that hardware steers to.
    Demux,
    /// Core time by byte and by packet, at full speed and paced.
    Cpu,
    /// What 1 to 1,000,000 connections and 1 to 1022 rings cost by packet, and the memory of a connection.
    Scale,
    /// One flow over veth set up in different ways: MTU, XDP mode, threaded NAPI, windows, a qdisc.
    Tune,
    /// Goodput over an emulated path, by loss and round trip.
    Wan,
    /// Both ends on one core over the in-memory wire, no kernel: Bywash and smoltcp. Needs no root.
    Stack,
    /// What a turn pays for looking at 1 to 1022 receive rings: all of them, or those that XDP marks.
    Pools,
    /// What a shard pays for forged segments of no connection. Needs no root.
    Strangers,
    /// 100 flows under SYN, ACK, forged and garbage floods: kernel TCP, Bywash.
    Floods,
}

impl Experiment {
    /// True if it needs namespaces, and so root.
    const fn needs_wire(self) -> bool {
        !matches!(self, Experiment::Stack | Experiment::Strangers)
    }
}

/// What the user chose for all cases.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Length and number of the runs.
    pub(crate) effort: Effort,
    /// Largest IP datagram on the wire, in bytes.
    pub(crate) mtu: u16,
    /// Native or generic XDP, where an experiment does not try both.
    pub(crate) xdp: Mode,
    /// Only cases in whose name one of these stands; empty: all.
    pub(crate) only: Vec<String>,
}

impl Options {
    /// Runs of 3 seconds and 5 of each case; `quick`: 1 second and 3.
    pub(crate) const fn effort(quick: bool) -> Effort {
        match quick {
            true => Effort {
                duration: Duration::from_secs(1),
                repetitions: 3,
            },
            false => Effort {
                duration: Duration::from_secs(3),
                repetitions: 5,
            },
        }
    }
}

/// Runs experiments and keeps their figures.
#[derive(Debug)]
pub(crate) struct Suite {
    /// The user's choices.
    pub(crate) options: Options,
    /// Figures and failures so far.
    pub(crate) results: Results,
    machine: Machine,
}

impl Suite {
    /// Nothing measured yet.
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            results: Results::default(),
            machine: Machine::this(),
        }
    }

    /// What is missing is said before anything is measured.
    pub(crate) fn require(&self, experiments: &[Experiment]) -> Result<()> {
        if experiments.iter().any(|experiment| experiment.needs_wire()) {
            netns::require()?;
            netns::sweep()?;
        }
        Ok(())
    }

    /// Runs one experiment.
    pub(crate) fn run(&mut self, experiment: Experiment) -> Result<()> {
        let mtu = self.options.mtu;
        match experiment {
            Experiment::Mechanism => mechanism::run(self),
            Experiment::Throughput => throughput::run(self),
            Experiment::Latency => latency::run(self),
            Experiment::Setup => setup::run(self),
            Experiment::Demux => demux::run(self),
            Experiment::Cpu => cpu::run(self),
            Experiment::Wan => wan::run(self),
            Experiment::Tune => tune::run(self),
            Experiment::Scale => scale::run(self),
            Experiment::Stack => stack::run(self),
            Experiment::Pools => {
                let bed = Testbed::new(Offloads::Default, mtu)?;
                self.add(pools::scan(&bed))
            }
            Experiment::Strangers => self.add(strangers::cases()),
            Experiment::Floods => {
                let bed = Testbed::new(Offloads::Default, mtu)?;
                self.add(floods::cases(&bed))
            }
        }
    }

    /// Runs each case once: what takes long, or gives the same each time.
    pub(crate) fn add_once(&mut self, cases: Vec<Case<'_>>) -> Result<()> {
        let effort = self.options.effort;
        self.options.effort.repetitions = 1;
        let done = self.add(cases);
        self.options.effort = effort;
        done
    }

    /// Runs cases interleaved and keeps what they give.
    pub(crate) fn add(&mut self, cases: Vec<Case<'_>>) -> Result<()> {
        let wanted = |case: &Case<'_>| {
            let (name, only) = (case.name(), &self.options.only);
            only.is_empty() || only.iter().any(|part| name.contains(part.as_str()))
        };
        let cases: Vec<_> = cases.into_iter().filter(wanted).collect();
        if cases.is_empty() {
            return Ok(());
        }
        let more = interleave(cases, self.options.effort, &self.machine)?;
        self.results.rows.extend(more.rows);
        self.results.failures.extend(more.failures);
        Ok(())
    }
}
