//! Runs kept inputs: `replay TARGET FILE...`. A panic says what is wrong with one.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let Some(target) = bywash_fuzz::target(&name) else {
        let names: Vec<_> = bywash_fuzz::TARGETS
            .iter()
            .map(|target| target.name)
            .collect();
        eprintln!("usage: replay TARGET FILE...; targets: {}", names.join(" "));
        return ExitCode::from(2);
    };
    for path in arguments {
        match std::fs::read(&path) {
            Ok(bytes) => (target.run)(&bytes),
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::from(2);
            }
        }
        println!("{path}: holds");
    }
    ExitCode::SUCCESS
}
