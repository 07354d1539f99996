//! The tables of `sim::tables` are what they were when somebody last looked at them.
//!
//! A change of TCP that changes them is meant to be seen: `BYWASH_TABLES=write cargo test -p bywash-tests --test sim_tables`
//! writes them anew, and the difference belongs into the commit.

use std::fs;

use bywash_tests::sim::tables;
use bywash_tests::workspace;

fn compare(name: &str, table: &str) {
    let path = workspace::root().join("tests/suite/tables").join(name);
    if std::env::var_os("BYWASH_TABLES").is_some_and(|what| what == "write") {
        fs::write(&path, table).expect("a table is written");
    }
    let before = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        before == table,
        "{name} has changed; if that is meant: BYWASH_TABLES=write cargo test -p bywash-tests --test sim_tables\n\
         before:\n{before}\nnow:\n{table}"
    );
}

#[test]
fn goodput_by_loss_and_distance() {
    compare("goodput.txt", &tables::goodput());
}

#[test]
fn recovery_from_outages() {
    compare("recovery.txt", &tables::recovery());
}

#[test]
fn fairness_of_two_to_eight_flows() {
    compare("fairness.txt", &tables::fairness());
}
