//! Runs simulated worlds: `sim --from N --seeds M`, or one with its trace: `sim --seed N -v`.

use std::process::ExitCode;

use bywash_tests::sim::{Outcome, Scenario, run, run_many};
use clap::Parser;

/// Simulated worlds: the production engine and TCP, two hosts, a faulty wire, an oracle.
///
/// A seed decides a world. Exit status 1 if any world failed; the last line says how many.
#[derive(Parser)]
#[command(name = "sim")]
struct Arguments {
    /// First seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// One seed only.
    #[arg(long, conflicts_with_all = ["from", "seeds"])]
    seed: Option<u64>,
    /// With every frame, event and fault of the world. For one seed.
    #[arg(short, long, requires = "seed")]
    verbose: bool,
    /// Worlds at a time.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, |n| n.get()))]
    threads: usize,
}

fn tell(outcome: &Outcome) {
    for failure in &outcome.failures {
        println!("seed {}: {failure}", outcome.seed);
    }
    if !outcome.failures.is_empty() {
        println!(
            "    cargo run --release -p bywash-tests --bin sim -- --seed {} -v",
            outcome.seed
        );
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (mut worlds, mut failed) = (0u64, Vec::new());
    let (mut good, mut excused, mut turns, mut bytes, mut lasted) = (0, 0, 0u64, 0u64, 0u64);
    let mut count = |outcome: Outcome| {
        worlds += 1;
        good += outcome.good;
        excused += outcome.excused;
        turns += outcome.turns;
        bytes += outcome.verified;
        lasted += outcome.lasted;
        tell(&outcome);
        if !outcome.failures.is_empty() {
            failed.push(outcome.seed);
        }
        if worlds.is_multiple_of(10_000) {
            println!("... {worlds} worlds, {} failures", failed.len());
        }
    };
    if let Some(seed) = arguments.seed {
        if arguments.verbose {
            println!("{:#?}", Scenario::of(seed));
        }
        let outcome = run(seed, arguments.verbose);
        println!("trace {:016x}", outcome.hash);
        count(outcome);
    } else {
        let seeds = arguments.from..arguments.from + arguments.seeds;
        run_many(seeds, arguments.threads.max(1), count);
    }
    println!(
        "{good} connections well, {excused} broken on purpose or by fate, {turns} turns, {bytes} bytes, {} virtual hours",
        lasted / 3_600_000_000_000
    );
    failed.sort_unstable();
    if !failed.is_empty() {
        println!("failing seeds: {failed:?}");
    }
    println!("{worlds} worlds, {} failures", failed.len());
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
