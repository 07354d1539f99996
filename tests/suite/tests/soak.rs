//! Twenty seconds of the soak; half an hour is `cargo run --release -p bywash-tests --bin soak -- --minutes 30`.

use std::time::Duration;

use bywash_tests::soak::{Options, run};

#[test]
fn what_a_hundred_connections_use_stays_what_it_is() {
    let outcome = run(&Options {
        length: Duration::from_secs(20),
        connections: 100,
        seed: 1,
    });
    println!("{}", outcome.table);
    assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
    assert!(outcome.connections > 0 && outcome.bytes > 0, "{outcome:?}");
}
