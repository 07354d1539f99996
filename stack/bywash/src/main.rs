//! The `bywash` command.
//!
//! Exit status: 0 done; 1 something stood in the way (one line on standard error says what, and
//! the remedy); 2 wrong usage; 128 + signal for a client, `send` or an unfinished `recv` that was
//! interrupted. A server that is asked to end by SIGINT or SIGTERM ends with 0.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod failure;
mod interrupt;
mod show;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli::start_log(&cli);
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Iperf3(args) => commands::iperf3::run(args),
        Command::Echo(args) => commands::echo::run(&args),
        Command::Recv(args) => commands::recv::run(&args),
        Command::Send(args) => commands::send::run(&args),
        Command::Ss(args) => commands::ss::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Reload(args) => commands::reload::run(&args),
        Command::Demo(args) => commands::demo::run(&args),
    }
}
