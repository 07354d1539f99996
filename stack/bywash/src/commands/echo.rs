//! `bywash echo`

use std::sync::mpsc::channel;

use bywash::echo::Echo;
use bywash::{ConnOptions, Engine};

use crate::cli::EchoArgs;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::show::ready_line;

pub(crate) fn run(args: &EchoArgs) -> Result<(), Failure> {
    let config = args.device.engine().map_err(Failure::Usage)?;
    let interrupt = Interrupt::install()?;
    let shards = config.shards;
    let (listening, outcomes) = channel();
    let engine = Engine::start(config, |_shard| {
        let options = ConnOptions {
            fast_open: Some(args.fast_open),
            ..ConnOptions::default()
        };
        Echo::new(args.port, options, listening.clone())
    })?;
    drop(listening);
    let mut refused = None;
    for outcome in outcomes.iter().take(shards as usize) {
        if let Err(error) = outcome {
            refused.get_or_insert(error);
        }
    }
    if refused.is_none() {
        ready_line("echo", engine.description(), args.port)?;
        interrupt.wait_until(|| engine.is_finished());
    }
    engine.stop();
    engine.join()?;
    refused.map_or(Ok(()), |error| Err(error.into()))
}
