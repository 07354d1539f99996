//! The experiments by name: what each needs of the machine, and how it is run.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use bywash_xdp::Mode;
use clap::ValueEnum;

use crate::ends::command;
use crate::experiments::beside::{self, Choice};
use crate::experiments::{ceiling, pools, strangers};
use crate::machine::Machine;
use crate::netns::{self, Offloads, Testbed};
use crate::run::{Case, Effort, Results, interleave};

/// What can be measured. The order is that of `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Experiment {
    /// Raw AF_XDP over windows and XDP modes: what the wire under any TCP here can do.
    Mechanism,
    /// Bulk transfers: raw AF_XDP, kernel TCP, Bywash.
    Throughput,
    /// Ping-pong of one byte: raw AF_XDP, kernel TCP, Bywash.
    Latency,
    /// Both ends on one core over the in-memory wire, no kernel: Bywash and smoltcp. Needs no root.
    Stack,
    /// What a turn pays for looking at 1 to 1022 receive rings: all of them, or those that XDP marks.
    Pools,
    /// What a shard pays for forged segments of no connection. Needs no root.
    Strangers,
}

impl Experiment {
    /// True if it needs namespaces, and so root.
    const fn needs_wire(self) -> bool {
        !matches!(self, Experiment::Stack | Experiment::Strangers)
    }

    /// True if it runs the `bywash` program.
    const fn needs_program(self) -> bool {
        matches!(self, Experiment::Throughput | Experiment::Latency)
    }
}

/// What the user chose for all cases.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Length and number of the runs.
    pub(crate) effort: Effort,
    /// The `bywash` program.
    pub(crate) bywash: PathBuf,
    /// Largest IP datagram on the wire, in bytes.
    pub(crate) mtu: u16,
    /// Native or generic XDP, where an experiment does not try both.
    pub(crate) xdp: Mode,
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
        if experiments
            .iter()
            .any(|experiment| experiment.needs_program())
        {
            command::require(&self.options.bywash)?;
        }
        Ok(())
    }

    /// Runs one experiment.
    pub(crate) fn run(&mut self, experiment: Experiment) -> Result<()> {
        let Options { mtu, xdp, .. } = self.options;
        match experiment {
            Experiment::Mechanism => {
                let bed = Testbed::new(Offloads::Default, mtu)?;
                self.add(ceiling::sweep(&bed))
            }
            Experiment::Throughput => {
                let choice = self.choice();
                let bed = Testbed::new(Offloads::Default, mtu)?;
                let plain = Testbed::new(Offloads::Off, mtu)?;
                let mut cases = ceiling::bulk(&bed, xdp);
                cases.extend(beside::bulk(&bed, Offloads::Default, &choice));
                cases.extend(beside::bulk(&plain, Offloads::Off, &choice));
                self.add(cases)
            }
            Experiment::Latency => {
                let choice = self.choice();
                let bed = Testbed::new(Offloads::Default, mtu)?;
                let mut cases = vec![ceiling::ping(&bed, xdp)];
                cases.extend(beside::ping(&bed, &choice));
                self.add(cases)
            }
            Experiment::Stack => self.add(beside::in_memory(mtu)),
            Experiment::Pools => {
                let bed = Testbed::new(Offloads::Default, mtu)?;
                self.add(pools::scan(&bed))
            }
            Experiment::Strangers => self.add(strangers::cases()),
        }
    }

    fn choice(&self) -> Choice {
        Choice {
            bywash: self.options.bywash.clone(),
            xdp: self.options.xdp,
        }
    }

    /// Runs cases interleaved and keeps what they give.
    pub(crate) fn add(&mut self, cases: Vec<Case<'_>>) -> Result<()> {
        let more = interleave(cases, self.options.effort, &self.machine)?;
        self.results.rows.extend(more.rows);
        self.results.failures.extend(more.failures);
        Ok(())
    }
}
