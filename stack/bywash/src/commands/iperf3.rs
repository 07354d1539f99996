//! `bywash iperf3`

use bywash::iperf3::{ClientOptions, Extent, Iperf3Error, ServerOptions, run_client, run_server};

use crate::cli::Iperf3Args;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::show::resolve;

pub(crate) fn run(args: Iperf3Args) -> Result<(), Failure> {
    let engine = args.device.engine().map_err(Failure::Usage)?;
    let interrupt = Interrupt::install()?;
    match &args.client {
        None => run_server(engine, server(&args), interrupt.flag()).map_err(failure),
        Some(host) => {
            let options = client(&args, host)?;
            match run_client(engine, options, interrupt.flag()) {
                Ok(_) => Ok(()),
                Err(Iperf3Error::Interrupted) => {
                    Err(Failure::Interrupted(interrupt.signal().unwrap_or_default()))
                }
                Err(error) => Err(failure(error)),
            }
        }
    }
}

fn server(args: &Iperf3Args) -> ServerOptions {
    ServerOptions {
        port: args.port,
        one_off: args.one_off,
        json: args.json,
        interval: args.interval,
        ..ServerOptions::default()
    }
}

fn client(args: &Iperf3Args, host: &str) -> Result<ClientOptions, Failure> {
    let server = resolve(host, args.port)?;
    let mut options = ClientOptions::new(server.ip());
    options.server = server;
    options.interval = args.interval;
    options.json = args.json;
    options.omit = args.omit;
    options.parallel = args.parallel;
    options.reverse = args.reverse;
    options.bidirectional = args.bidir;
    options.no_delay = args.no_delay;
    options.mss = args.set_mss;
    options.congestion = args.device.congestion;
    if let Some(length) = args.length {
        // What is too much for a u32 is too much for `check` as well.
        options.length = u32::try_from(length).unwrap_or(u32::MAX);
    }
    options.extent = match (args.bytes, args.time) {
        (Some(bytes), _) => Extent::Bytes(bytes),
        (None, Some(seconds)) => Extent::Seconds(seconds),
        (None, None) => options.extent,
    };
    Ok(options)
}

fn failure(error: Iperf3Error) -> Failure {
    match error {
        Iperf3Error::Option(text) => Failure::Usage(text),
        other => Failure::from(other),
    }
}
