//! The soak as a command: `soak --minutes 30 --connections 500 --seed 1`.

use std::process::ExitCode;
use std::time::Duration;

use bywash_tests::soak::{Options, run};
use clap::Parser;

/// Random applications between two engines and the kernel's TCP, over a link with faults: does what they use stay what it is?
///
/// Needs root, and the `bywash` program of this target directory. Exit status 1 if anything failed; the last line says how much.
#[derive(Parser)]
#[command(name = "soak")]
struct Arguments {
    /// How long.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Connections at a time.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(10..))]
    connections: u16,
    /// Decides applications and faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = run(&Options {
        length: Duration::from_secs_f64(arguments.minutes * 60.0),
        connections: usize::from(arguments.connections),
        seed: arguments.seed,
    });
    print!("{}", outcome.table);
    for failure in outcome.failures.iter().take(50) {
        println!("failure: {failure}");
    }
    println!(
        "soak: {} connections, {} bytes, {} failures",
        outcome.connections,
        outcome.bytes,
        outcome.failures.len()
    );
    match outcome.failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
