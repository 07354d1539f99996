//! Runs the cases of an experiment interleaved, A B C A B C, so that whatever changes on the machine changes for all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use crate::cpu::CoreTime;
use crate::interrupt;
use crate::machine::{self, Machine};
use crate::row::{Conditions, Params, Row, Setting, spread};

/// A load average beyond this says that something else runs. Our own last experiment may still show in it.
const QUIET: f64 = 2.0;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Length of one run.
    pub(crate) duration: Duration,
    /// Runs of each case.
    pub(crate) repetitions: usize,
}

/// What one run of a case measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Metric, unit, value.
    pub(crate) readings: Vec<(&'static str, &'static str, f64)>,
    /// Every core's time while the load ran.
    pub(crate) cores: Vec<CoreTime>,
    /// Params that only the run itself could tell.
    pub(crate) params: Params,
    /// Offloads of both ends while it ran, where the run looked.
    pub(crate) offloads: Option<String>,
}

/// Something to measure.
pub(crate) struct Case<'a> {
    /// The experiment that it belongs to.
    pub(crate) experiment: &'static str,
    /// Who sends, or asks.
    pub(crate) subject: &'static str,
    /// Who receives, or answers.
    pub(crate) peer: &'static str,
    /// What distinguishes it from the experiment's other cases.
    pub(crate) params: Params,
    /// Its wire, and how its ends wait.
    pub(crate) setting: Setting,
    /// One run of the given length.
    pub(crate) run: Box<dyn FnMut(Duration) -> Result<Outcome> + 'a>,
}

impl Case<'_> {
    /// As it is announced, and as `--only` looks for it.
    pub(crate) fn name(&self) -> String {
        format!(
            "{}: {} → {} {:?}",
            self.experiment, self.subject, self.peer, self.params
        )
    }
}

/// What all runs gave: figures, and the cases that failed with the reason.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// Figures, those of one case together.
    pub(crate) rows: Vec<Row>,
    /// Sentences for the reader.
    pub(crate) failures: Vec<String>,
}

/// Runs all cases in turn, as often as wanted. A case that fails is not run again; the others go on.
pub(crate) fn interleave(
    mut cases: Vec<Case<'_>>,
    effort: Effort,
    machine: &Machine,
) -> Result<Results> {
    let mut results = Results::default();
    let mut outcomes: Vec<Vec<Outcome>> = cases.iter().map(|_| Vec::new()).collect();
    let mut failed = vec![false; cases.len()];
    let load = machine::load();
    if load
        .split(' ')
        .next()
        .and_then(|one| one.parse().ok())
        .is_some_and(|one: f64| one > QUIET)
    {
        eprintln!(
            "warning: the load average is {load}: the machine is not quiet, and these figures are not worth keeping"
        );
    }
    for repetition in 1..=effort.repetitions {
        for (number, case) in cases.iter_mut().enumerate() {
            interrupt::check()?;
            if failed[number] {
                continue;
            }
            let name = case.name();
            eprintln!("run {repetition} of {}, {name}", effort.repetitions);
            match (case.run)(effort.duration) {
                Ok(outcome) => outcomes[number].push(outcome),
                Err(error) => {
                    interrupt::check()?;
                    failed[number] = true;
                    eprintln!("  failed: {error:#}");
                    results.failures.push(format!("{name}: {error:#}"));
                }
            }
        }
    }
    for ((case, outcomes), failed) in cases.iter().zip(&outcomes).zip(&failed) {
        if !failed {
            results
                .rows
                .extend(summarise(case, outcomes, &load, machine));
        }
    }
    Ok(results)
}

fn summarise(case: &Case<'_>, outcomes: &[Outcome], load: &str, machine: &Machine) -> Vec<Row> {
    let Some(first) = outcomes.first() else {
        return Vec::new();
    };
    let params: BTreeMap<String, String> = case
        .params
        .iter()
        .chain(&first.params)
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    let core = |number: usize| {
        let runs: Vec<_> = outcomes
            .iter()
            .filter_map(|outcome| outcome.cores.get(number).copied())
            .collect();
        CoreTime::median(&runs)
    };
    let mut setting = case.setting.clone();
    if let Some(offloads) = outcomes.iter().find_map(|outcome| outcome.offloads.clone()) {
        setting.offloads = offloads;
    }
    let conditions = Conditions {
        machine: machine.clone(),
        setting,
        load: load.to_owned(),
        cores: (0..first.cores.len()).map(core).collect(),
    };
    let mut rows = Vec::new();
    for (metric, unit, _) in &first.readings {
        let values: Vec<f64> = outcomes
            .iter()
            .flat_map(|outcome| &outcome.readings)
            .filter(|reading| (reading.0, reading.1) == (*metric, *unit))
            .map(|reading| reading.2)
            .collect();
        rows.extend(spread(&values).map(|(median, min, max)| Row {
            experiment: case.experiment.to_owned(),
            subject: case.subject.to_owned(),
            peer: case.peer.to_owned(),
            params: params.clone(),
            metric: (*metric).to_owned(),
            unit: (*unit).to_owned(),
            median,
            min,
            max,
            machine: conditions.clone(),
        }));
    }
    rows
}
