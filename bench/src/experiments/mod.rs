//! The experiments, a file each: what they run, over which wires, and what they take from it.
//!
//! An experiment makes [`Case`](crate::run::Case)s and hands them to [`Suite::add`](crate::suite::Suite::add), which runs them
//! interleaved. A new one gets a name in [`Experiment`](crate::suite::Experiment).

pub(crate) mod beside;
pub(crate) mod ceiling;
pub(crate) mod pools;
pub(crate) mod strangers;
