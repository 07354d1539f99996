//! `pkt-script`: plays scripts of packets and system calls against the stack.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bywash_scripts::run::{Failure, Family, Options, play};
use clap::{Parser, ValueEnum};

/// Plays scripts in packetdrill's language against the stack, in virtual time, through the functions of
/// libbywash_packetdrill.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Scripts, or directories with scripts (*.pkt, all below).
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// What sockets and packets are made of.
    #[arg(long, value_enum, default_value = "ipv4")]
    family: FamilyArgument,
    /// A shared library with packetdrill's plug-in interface, instead of the linked one.
    #[arg(long, value_name = "FILE")]
    so: Option<PathBuf>,
    /// Print every packet that the stack sends.
    #[arg(short, long)]
    verbose: bool,
    /// How far an event may be from its time, instead of what the script says.
    #[arg(long, value_name = "MICROSECONDS")]
    tolerance: Option<i64>,
    /// End with a table by directory.
    #[arg(long)]
    table: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum FamilyArgument {
    Ipv4,
    Ipv6,
    Mapped,
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    not_played: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        family: match arguments.family {
            FamilyArgument::Ipv4 => Family::V4,
            FamilyArgument::Ipv6 => Family::V6,
            FamilyArgument::Mapped => Family::Mapped,
        },
        library: arguments.so.clone(),
        verbose: arguments.verbose,
        tolerance_us: arguments.tolerance,
    };
    let mut files = Vec::new();
    for path in &arguments.files {
        if let Err(error) = scripts(path, &mut files) {
            eprintln!("{}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    let mut tallies: BTreeMap<PathBuf, Tally> = BTreeMap::new();
    let mut all_passed = !files.is_empty();
    for file in &files {
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        let tally = tallies.entry(folder).or_default();
        let result = match std::fs::read_to_string(file) {
            Ok(text) => play(&text, &options),
            Err(error) => Err(Failure::Unsupported {
                line: 0,
                what: error.to_string(),
            }),
        };
        match result {
            Ok(()) => {
                tally.passed += 1;
                println!("pass {}", file.display());
            }
            Err(failure @ Failure::Mismatch { .. }) => {
                tally.failed += 1;
                println!("FAIL {}: {failure}", file.display());
            }
            Err(failure) => {
                tally.not_played += 1;
                println!("SKIP {}: {failure}", file.display());
            }
        }
        all_passed &= tally.failed + tally.not_played == 0;
    }
    if arguments.table {
        println!(
            "{:>6} {:>6} {:>10}  directory",
            "passed", "failed", "not played"
        );
        for (folder, tally) in &tallies {
            let Tally {
                passed,
                failed,
                not_played,
            } = tally;
            println!(
                "{passed:>6} {failed:>6} {not_played:>10}  {}",
                folder.display()
            );
        }
    }
    if all_passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The script, or all scripts below the directory, in order.
fn scripts(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    entries.sort();
    for entry in entries {
        if entry.is_dir() || entry.extension().is_some_and(|end| end == "pkt") {
            scripts(&entry, files)?;
        }
    }
    Ok(())
}
