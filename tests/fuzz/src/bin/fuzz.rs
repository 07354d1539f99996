//! libFuzzer's program. The environment variable `BYWASH_FUZZ` names the target; arguments are libFuzzer's own.
//! Built by `run.sh`, with the compiler's coverage instrumentation.
#![no_main]

use std::sync::LazyLock;

use bywash_fuzz::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("BYWASH_FUZZ").expect("BYWASH_FUZZ names a target");
    bywash_fuzz::target(&name).unwrap_or_else(|| panic!("no target {name}"))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| (TARGET.run)(data));
