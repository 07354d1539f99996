//! `bywash-bench`: the stack beside what users have today and beside what the wire can do, measured in one run.
//!
//! ```text
//!             raw AF_XDP pair (the ceiling)          interleaved: A B C A B C
//! throughput  kernel TCP <-> kernel TCP, by iperf3   median, smallest, largest
//! latency     Bywash <-> Bywash, Bywash <-> kernel   every core's time
//! memory      Bywash and smoltcp, no kernel at all
//! ```
//!
//! Figures are only as good as the machine is quiet; the load average stands with them.

mod beside;
mod ceiling;
mod command;
mod cpu;
mod interrupt;
mod kernel;
mod latency;
mod machine;
mod memory;
mod netns;
mod ours;
mod pools;
mod raw;
mod report;
mod run;
mod smol;
mod strangers;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use bywash_xdp::Mode;
use clap::{Parser, ValueEnum};

use beside::Choice;
use machine::Machine;
use netns::{Offloads, Testbed};
use run::{Case, Effort, Results, interleave};

/// Measure Bywash beside raw AF_XDP, kernel TCP and smoltcp.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// What to measure.
    experiment: Experiment,
    /// Runs of 1 second, 3 of each case, instead of 3 seconds and 5.
    #[arg(long)]
    quick: bool,
    /// Length of one run in seconds.
    #[arg(long, conflicts_with = "quick")]
    seconds: Option<f64>,
    /// Runs of each case.
    #[arg(long, conflicts_with = "quick")]
    repetitions: Option<usize>,
    /// The bywash program.
    #[arg(long, default_value = "target/release/bywash")]
    bywash: PathBuf,
    /// Write all figures as a JSON array to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the tables as Markdown to this file.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Largest IP datagram on the wire, in bytes.
    #[arg(long, default_value_t = 1500)]
    mtu: u16,
    /// Where the demultiplexer is attached, in every case that has one but the sweep of `raw`.
    #[arg(long, value_enum, default_value_t = Xdp::Auto)]
    xdp: Xdp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Experiment {
    /// All of the figures in SPECIFICATION.md: throughput, latency and memory.
    First,
    /// Raw AF_XDP alone, over windows and XDP modes.
    Raw,
    /// Bulk transfers: raw AF_XDP, kernel TCP, Bywash.
    Throughput,
    /// Ping-pong of one byte: raw AF_XDP, kernel TCP, Bywash.
    Latency,
    /// What a turn pays for looking at 1 to 1022 receive rings: all of them, or those that XDP marks.
    Pools,
    /// Both ends on one core without a kernel: Bywash and smoltcp. Needs no root.
    Memory,
    /// What a shard pays for forged segments of no connection. Needs no root.
    Strangers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Xdp {
    /// Native if the driver has it.
    Auto,
    /// In the driver.
    Native,
    /// In the kernel's generic receive path.
    Generic,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(results) if results.failures.is_empty() => ExitCode::SUCCESS,
        Ok(results) => {
            eprintln!("\n{} cases failed:", results.failures.len());
            for failure in &results.failures {
                eprintln!("- {failure}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bywash-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<Results> {
    interrupt::install()?;
    let machine = Machine::this();
    let (seconds, repetitions) = if arguments.quick { (1.0, 3) } else { (3.0, 5) };
    let effort = Effort {
        duration: Duration::try_from_secs_f64(arguments.seconds.unwrap_or(seconds))
            .context("--seconds")?,
        repetitions: arguments.repetitions.unwrap_or(repetitions),
    };
    let choice = Choice {
        bywash: arguments.bywash.clone(),
        xdp: match arguments.xdp {
            Xdp::Auto => Mode::Auto,
            Xdp::Native => Mode::Native,
            Xdp::Generic => Mode::Generic,
        },
    };
    require(arguments)?;
    let mut results = Results::default();
    let mut add = |cases: Vec<Case<'_>>| -> Result<()> {
        let more = interleave(cases, effort, &machine)?;
        results.rows.extend(more.rows);
        results.failures.extend(more.failures);
        Ok(())
    };
    let wanted = |experiment| [experiment, Experiment::First].contains(&arguments.experiment);
    if arguments.experiment == Experiment::Raw {
        let bed = Testbed::new(Offloads::Default, arguments.mtu)?;
        add(ceiling::sweep(&bed))?;
    }
    if arguments.experiment == Experiment::Pools {
        let bed = Testbed::new(Offloads::Default, arguments.mtu)?;
        add(pools::scan(&bed))?;
    }
    if wanted(Experiment::Throughput) {
        let bed = Testbed::new(Offloads::Default, arguments.mtu)?;
        let plain = Testbed::new(Offloads::Off, arguments.mtu)?;
        let mut cases = ceiling::bulk(&bed, choice.xdp);
        cases.extend(beside::bulk(&bed, Offloads::Default, &choice));
        cases.extend(beside::bulk(&plain, Offloads::Off, &choice));
        add(cases)?;
    }
    if wanted(Experiment::Latency) {
        let bed = Testbed::new(Offloads::Default, arguments.mtu)?;
        let mut cases = vec![ceiling::ping(&bed, choice.xdp)];
        cases.extend(beside::ping(&bed, &choice));
        add(cases)?;
    }
    if wanted(Experiment::Memory) {
        add(beside::in_memory(arguments.mtu))?;
    }
    if arguments.experiment == Experiment::Strangers {
        add(strangers::cases())?;
    }
    print!("{}", report::table(&results.rows, &machine));
    write_files(arguments, &results, &machine)?;
    Ok(results)
}

/// What is missing is said before anything is measured.
fn require(arguments: &Arguments) -> Result<()> {
    use Experiment::{First, Latency, Memory, Strangers, Throughput};
    if ![Memory, Strangers].contains(&arguments.experiment) {
        netns::require()?;
        netns::sweep()?;
    }
    match arguments.experiment {
        First | Throughput | Latency => command::require(&arguments.bywash),
        _ => Ok(()),
    }
}

fn write_files(arguments: &Arguments, results: &Results, machine: &Machine) -> Result<()> {
    let write = |path: &PathBuf, text: String| {
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    if let Some(path) = &arguments.json {
        write(path, serde_json::to_string_pretty(&results.rows)?)?;
    }
    if let Some(path) = &arguments.markdown {
        let name = arguments.experiment.to_possible_value();
        let name = name.as_ref().map_or("", |name| name.get_name());
        let quick = if arguments.quick { " --quick" } else { "" };
        let command = format!("cargo run --release -p bywash-bench -- {name}{quick}");
        write(path, report::markdown(&results.rows, machine, &command))?;
    }
    Ok(())
}
