//! `bywash-bench`: the stack beside what users have today and beside what the wire can do, measured in one run.
//!
//! ```text
//!  experiments ── cases ──► run: interleaved A B C A B C ──► rows ──► terminal table, --json, --html, --markdown
//!  (suite)        over namespaces and veth (netns),            │
//!                 or over memory                               ├────► targets: the table of what must be reached
//!                                                              └────► compare OLD NEW: better, worse, noise
//! ```
//!
//! Figures are only as good as the machine is quiet; the load average stands with them.

mod compare;
mod cpu;
mod ends;
mod experiments;
mod html;
mod interrupt;
mod latency;
mod machine;
mod netns;
mod raw;
mod row;
mod run;
mod suite;
mod table;
mod targets;

use std::fs;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bywash_xdp::Mode;
use clap::{Parser, Subcommand, ValueEnum};

use run::Effort;
use suite::{Experiment, Options, Suite};

/// Measure Bywash beside raw AF_XDP, kernel TCP and smoltcp.
///
/// Prints one table with every case's figures: median of interleaved runs, smallest and largest in brackets, and the conditions
/// they hold under. Times on a busy machine are worth nothing: look at the load average in the table.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true
)]
struct Arguments {
    /// What to measure; several names, or `all`.
    #[arg(value_enum)]
    experiments: Vec<Name>,
    #[command(flatten)]
    run: RunArguments,
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    /// Runs of 1 second, 3 of each case, instead of 3 seconds and 5.
    #[arg(long)]
    quick: bool,
    /// Length of one run in seconds.
    #[arg(long, conflicts_with = "quick")]
    seconds: Option<f64>,
    /// Runs of each case.
    #[arg(long, conflicts_with = "quick", value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: Option<u16>,
    /// Write all figures as a JSON array to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write one page with plots, and the papers' figures beside ours, to this file.
    #[arg(long)]
    html: Option<PathBuf>,
    /// Write the tables as Markdown to this file.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Largest IP datagram on the wire, in bytes.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(576..=3498))]
    mtu: u16,
    /// Where the demultiplexer is attached, in every case that does not try several.
    #[arg(long, value_enum, default_value_t = Xdp::Auto)]
    xdp: Xdp,
    /// Only cases whose name, as it is shown while they run, contains this text; may be given more than once.
    #[arg(long)]
    only: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say for each figure of two runs whether it became better or worse, or whether that is noise.
    Compare {
        /// What `--json` wrote before.
        old: PathBuf,
        /// What `--json` wrote after.
        new: PathBuf,
    },
    /// Make the page of `--html` out of what `--json` wrote.
    Page {
        /// What `--json` wrote.
        json: PathBuf,
        /// The page.
        html: PathBuf,
    },
    /// Measure what must be reached, print the table, and fail if a row does not hold.
    ///
    /// Takes some 10 minutes on a quiet machine; with --quick under 3, without a million connections, which then do not hold.
    Targets {
        /// Short runs, and without what takes long.
        #[arg(long)]
        quick: bool,
        /// Write the rows to this file: {"rows":[{"id","target","value","unit","holds","note"}]}.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Write the figures that the rows rest on to this file, as `--json` of the experiments does.
        #[arg(long)]
        figures: Option<PathBuf>,
        /// Only cases whose name, as it is shown while they run, contains this text; may be given more than once. Rows that rest
        /// on others do not hold.
        #[arg(long)]
        only: Vec<String>,
    },
}

/// An experiment, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    All,
    One(Experiment),
}

impl ValueEnum for Name {
    fn value_variants<'a>() -> &'a [Self] {
        static NAMES: LazyLock<Vec<Name>> = LazyLock::new(|| {
            let experiments = Experiment::value_variants().iter().copied();
            iter::once(Name::All)
                .chain(experiments.map(Name::One))
                .collect()
        });
        &NAMES
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            Name::All => Some(clap::builder::PossibleValue::new("all").help("Every experiment")),
            Name::One(experiment) => experiment.to_possible_value(),
        }
    }
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
    let done = match &arguments.command {
        None => measure(&arguments),
        Some(Verb::Compare { old, new }) => compare(old, new),
        Some(Verb::Page { json, html }) => page(json, html),
        Some(Verb::Targets {
            quick,
            json,
            figures,
            only,
        }) => judge(*quick, only, json.as_deref(), figures.as_deref()),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bywash-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(old: &Path, new: &Path) -> Result<ExitCode> {
    print!("{}", compare::compare(&row::read(old)?, &row::read(new)?));
    Ok(ExitCode::SUCCESS)
}

fn page(json: &Path, html: &Path) -> Result<ExitCode> {
    html::write(
        html,
        &row::read(json)?,
        "cargo run --release -p bywash-bench -- page",
    )?;
    Ok(ExitCode::SUCCESS)
}

fn judge(
    quick: bool,
    only: &[String],
    json: Option<&Path>,
    figures: Option<&Path>,
) -> Result<ExitCode> {
    interrupt::install()?;
    let mut effort = Options::effort(quick);
    if quick {
        effort.duration = Duration::from_millis(700);
    }
    let options = Options {
        effort,
        mtu: 1500,
        xdp: Mode::Auto,
        only: only.to_vec(),
    };
    Ok(match targets::run(options, quick, json, figures)? {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn measure(arguments: &Arguments) -> Result<ExitCode> {
    let experiments = arguments.experiments();
    let mut suite = Suite::new(arguments.run.options()?);
    suite.require(&experiments)?;
    interrupt::install()?;
    // An interruption loses the experiment that it came in, and no earlier one.
    let done = experiments
        .into_iter()
        .try_for_each(|experiment| suite.run(experiment));
    print!("{}", table::terminal(&suite.results.rows));
    arguments.write_files(&suite)?;
    done?;
    let failures = &suite.results.failures;
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("\n{} cases failed:", failures.len());
    for failure in failures {
        eprintln!("- {failure}");
    }
    Ok(ExitCode::FAILURE)
}

impl RunArguments {
    fn options(&self) -> Result<Options> {
        let base = Options::effort(self.quick);
        let duration = match self.seconds {
            Some(seconds) => Duration::try_from_secs_f64(seconds).context("--seconds")?,
            None => base.duration,
        };
        ensure!(!duration.is_zero(), "--seconds must be more than 0");
        Ok(Options {
            effort: Effort {
                duration,
                repetitions: self.repetitions.map_or(base.repetitions, usize::from),
            },
            mtu: self.mtu,
            xdp: match self.xdp {
                Xdp::Auto => Mode::Auto,
                Xdp::Native => Mode::Native,
                Xdp::Generic => Mode::Generic,
            },
            only: self.only.clone(),
        })
    }
}

impl Arguments {
    /// Each once, in the order of `all`.
    fn experiments(&self) -> Vec<Experiment> {
        let all = self.experiments.contains(&Name::All);
        let wanted =
            |experiment: &Experiment| all || self.experiments.contains(&Name::One(*experiment));
        Experiment::value_variants()
            .iter()
            .copied()
            .filter(wanted)
            .collect()
    }

    fn write_files(&self, suite: &Suite) -> Result<()> {
        let rows = &suite.results.rows;
        if let Some(path) = &self.run.json {
            row::write(path, rows)?;
        }
        let names: Vec<_> = self
            .experiments
            .iter()
            .filter_map(|name| Some(name.to_possible_value()?.get_name().to_owned()))
            .collect();
        let quick = if self.run.quick { " --quick" } else { "" };
        let command = format!(
            "cargo run --release -p bywash-bench -- {}{quick}",
            names.join(" ")
        );
        if let Some(path) = &self.run.html {
            html::write(path, rows, &command)?;
        }
        if let Some(path) = &self.run.markdown {
            fs::write(path, table::markdown(rows, &command))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}
