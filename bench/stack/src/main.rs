//! One load of `bywash-bench-stack` at a time, for profilers: `stack --operations 100000 bulk`.
//!
//! ```text
//! valgrind --tool=callgrind --toggle-collect='*measured*' target/release/stack --operations 20000 bulk
//! ```
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use bywash_bench_stack::{Churn, Cost, Effort, Exchange, bulk, churn, exchange};
use clap::{Parser, Subcommand};

/// What the code itself costs: both ends of TCP on one core, no kernel.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Length of the run in seconds.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// So many operations instead.
    #[arg(long)]
    operations: Option<u64>,
    #[command(subcommand)]
    load: Load,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Load {
    /// One flow.
    Bulk {
        /// Bytes of payload of a segment.
        #[arg(long, default_value_t = 1460)]
        segment: u16,
    },
    /// Requests and answers.
    Exchange {
        /// Established connections.
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// Requests under way at once.
        #[arg(long, default_value_t = 64)]
        in_flight: usize,
        /// Bytes of a request, and of its answer.
        #[arg(long, default_value_t = 64)]
        message: usize,
    },
    /// Connect, a message each way, close.
    Churn {
        /// Connections at once.
        #[arg(long, default_value_t = 64)]
        at_once: usize,
        /// Bytes each way.
        #[arg(long, default_value_t = 64)]
        message: usize,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(cost) => {
            println!(
                "{:?}: {:.0}/s, {:.1} ns each; {:.2} Gbit/s; {:.1} ns a packet; {:.2} packets each, {:.1} a turn; {:.0} % of the core",
                arguments.load,
                cost.per_second(),
                cost.ns_per_operation(),
                cost.gbits(),
                cost.ns_per_packet(),
                cost.packets as f64 / cost.operations as f64,
                cost.packets as f64 / cost.turns as f64,
                cost.share() * 100.0,
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("stack: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<Cost> {
    let effort = match arguments.operations {
        Some(operations) => Effort::Operations(operations),
        None => Effort::Time(Duration::try_from_secs_f64(arguments.seconds)?),
    };
    match arguments.load {
        Load::Bulk { segment } => bulk(segment, effort),
        Load::Exchange {
            connections,
            in_flight,
            message,
        } => exchange(
            Exchange {
                connections,
                in_flight,
                message,
            },
            effort,
        ),
        Load::Churn { at_once, message } => churn(Churn { at_once, message }, effort),
    }
}
