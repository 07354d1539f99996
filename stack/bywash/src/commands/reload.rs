//! `bywash reload`: a running engine loads its XDP program once more and puts it in the place of the one that runs.
//!
//! For when somebody suspects the program, or has changed something below it: connections, counters and accounts stay, and no
//! packet meets an interface without a program.

use bywash_engine::host::control::{Operation, ask, engines};
use bywash_engine::host::{Device, VlanChoice};

use crate::cli::ReloadArgs;
use crate::failure::Failure;

pub(crate) fn run(args: &ReloadArgs) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
    // Names are of this network namespace; the engine may have the device's VLANs alone.
    let device = Device::open_with(&args.dev, &VlanChoice::All).map_err(|error| failed(&error))?;
    let key = device.key();
    let Some(engine) = engines()?.into_iter().find(|engine| engine.key == key) else {
        return Err(Failure::Failed(format!(
            "no engine runs on {}: `bywash ss` lists those that do",
            args.dev
        )));
    };
    let answer = ask(&engine, Operation::Reload)?;
    println!(
        "{}: the XDP program of process {} is replaced",
        args.dev, answer["pid"]
    );
    Ok(())
}
