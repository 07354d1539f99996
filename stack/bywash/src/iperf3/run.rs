//! A server or a client on a device, from start to end.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bywash_engine::engine::{Engine, EngineConfig};

use super::client::{Client, Summary};
use super::error::Iperf3Error;
use super::options::{ClientOptions, ServerOptions};
use super::server::Server;
use super::shared::ServerState;

/// How often the main thread looks whether it was asked to stop. Nothing of a test waits for it.
const WATCH: Duration = Duration::from_millis(20);

/// Serves tests on the device of `engine` until `stop` is set, or after one test if the options say so.
///
/// Prints the ready line on standard output (standard error with `json`, where standard output
/// carries documents only). With several shards each listens; one test runs at a time over all.
///
/// # Errors
/// Options out of range, an engine that does not start, a port that is taken, output that fails.
pub fn run_server(
    engine: EngineConfig,
    options: ServerOptions,
    stop: Arc<AtomicBool>,
) -> Result<(), Iperf3Error> {
    options.check()?;
    let device = engine.device.clone();
    let (port, json) = (options.port, options.json);
    let state = ServerState::new(options, Box::new(std::io::stdout()));
    let engine = Engine::start(engine, |_shard| Server::new(Arc::clone(&state)))?;
    // Listening is the first thing a shard does after its start; the ready line waits for all of them.
    while !state.all_listening() && !state.is_finished() && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(1));
    }
    if state.all_listening() {
        let line = ready_line(&engine.description().addresses, port, &device);
        if json {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }
    while !stop.load(Ordering::Relaxed) && !state.is_finished() && !engine.is_finished() {
        std::thread::sleep(WATCH);
    }
    engine.stop();
    engine.join()?;
    state.take_failure().map_or(Ok(()), Err)
}

/// Runs one test from the device of `engine`, on its first shard, and reports on standard output.
///
/// # Errors
/// Everything that kept the test from being completed; [`Iperf3Error::Interrupted`] if `stop` was set.
pub fn run_client(
    mut engine: EngineConfig,
    options: ClientOptions,
    stop: Arc<AtomicBool>,
) -> Result<Summary, Iperf3Error> {
    options.check()?;
    // All connections of a client are opened by one shard; more would only idle.
    engine.shards = 1;
    let mut client = Some(Client::new(options, Box::new(std::io::stdout())));
    let engine = Engine::start(engine, move |_shard| {
        client.take().expect("one shard was asked for")
    })?;
    while !stop.load(Ordering::Relaxed) && !engine.is_finished() {
        std::thread::sleep(WATCH);
    }
    engine.stop();
    let client = engine
        .join()?
        .pop()
        .expect("the one shard gives its service back");
    client.into_outcome()
}

/// The line that scripts wait for.
fn ready_line(addresses: &[IpAddr], port: u16, device: &str) -> String {
    let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    format!(
        "Server listening on {} port {port} (bywash, {device})",
        addresses.join(", ")
    )
}
