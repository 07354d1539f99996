//! Compiles `bpf/demux.bpf.c` and keeps the committed object honest.
//!
//! ```text
//! cargo run -p bywash-xdp-compile              demux.bpf.c, *.h ──clang──> demux.bpf.o, demux.dis.txt, demux.clang.txt
//! cargo run -p bywash-xdp-compile -- --check   the same into a temporary directory, compared with what is committed
//! ```
//!
//! An embedder's build takes the object as it is and needs no clang. Reviewers read the C; the disassembly beside the object shows
//! in a diff what a change of source or compiler did to the code, and the check in CI shows that the three belong together.

mod build;
mod compare;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

/// Compiles the XDP demultiplexer.
#[derive(Parser)]
struct Arguments {
    /// Changes nothing: compiles into a temporary directory and compares with the committed files.
    #[arg(long)]
    check: bool,
    /// The clang to compile with.
    #[arg(long, default_value = "clang")]
    clang: PathBuf,
    /// The disassembler of the same LLVM.
    #[arg(long, default_value = "llvm-objdump")]
    objdump: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bywash-xdp-compile: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// False: the check found a difference that it cannot explain.
fn run(arguments: &Arguments) -> Result<bool> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("bpf");
    let tools = build::Tools {
        clang: arguments.clang.clone(),
        objdump: arguments.objdump.clone(),
    };
    if !arguments.check {
        let built = build::build(&tools, &sources, &sources)?;
        println!("built {} with {}", build::OBJECT, built.version);
        return Ok(true);
    }
    let scratch = tempfile::tempdir().context("making a temporary directory")?;
    let built = build::build(&tools, &sources, scratch.path())?;
    let report = compare::compare(&sources, scratch.path(), &built.version)?;
    print!("{report}");
    Ok(report.is_explained())
}
