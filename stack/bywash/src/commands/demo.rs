//! `bywash demo`: the same shards, both ends on this thread, over a wire in memory.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::Duration;

use bywash::echo::Echo;
use bywash::iperf3::{Client, ClientOptions, Extent, Server, ServerOptions, ServerState};
use bywash::{ConnOptions, IdlePolicy, MemoryPair, Service, ShardConfig};
use bywash_engine::memory::ADDRESSES_A;

use crate::cli::DemoArgs;
use crate::commands::{ping, ss};
use crate::failure::Failure;
use crate::show::resolve;

const IPERF_PORT: u16 = 5201;
const ECHO_PORT: u16 = 7;

/// What a run may take beyond its set time before it counts as hung.
const GRACE: Duration = Duration::from_secs(30);

pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    if let Some(target) = &args.ping_pong {
        return kernel_ping_pong(target, args);
    }
    println!("no root: running over the in-memory wire; no kernel, no NIC");
    println!("(both ends and their TCP share this one thread, so each figure pays for two)");
    let config = ShardConfig {
        idle: IdlePolicy::Spin,
        ..ShardConfig::default()
    };
    for reverse in [false, true] {
        let way = if reverse {
            "10.0.0.1 -> 10.0.0.2"
        } else {
            "10.0.0.2 -> 10.0.0.1"
        };
        println!("\nthroughput, {way}, {} s:", args.time);
        throughput(&config, args.time, reverse)?;
    }
    println!("\nping-pong, {} bytes:", args.size);
    ping_pong(&config, args)
}

fn throughput(config: &ShardConfig, seconds: u32, reverse: bool) -> Result<(), Failure> {
    // The client reports both ends; the server's own lines would say the same again.
    let server = ServerOptions {
        port: IPERF_PORT,
        one_off: true,
        ..ServerOptions::default()
    };
    let server = Server::new(ServerState::new(server, Box::new(io::sink())));
    let options = ClientOptions {
        server: SocketAddr::new(ADDRESSES_A[0], IPERF_PORT),
        extent: Extent::Seconds(seconds),
        reverse,
        ..ClientOptions::new(ADDRESSES_A[0])
    };
    let client = Client::new(options, Box::new(io::stdout()));
    let mut pair = MemoryPair::new(config, server, client)?;
    let limit = Duration::from_secs(u64::from(seconds)) + GRACE;
    if !pair.run_until(|_, client| client.outcome().is_some(), limit) {
        return Err(Failure::Failed(format!(
            "the test did not end within {limit:?}"
        )));
    }
    pair.b.into_service().into_outcome()?;
    Ok(())
}

fn ping_pong(config: &ShardConfig, args: &DemoArgs) -> Result<(), Failure> {
    let (listening, listens) = channel();
    let echo = Echo::new(ECHO_PORT, ConnOptions::default(), listening);
    let peer = SocketAddr::new(ADDRESSES_A[0], ECHO_PORT);
    let pinger = ping::Pinger::new(peer, args.count, args.size as usize)?;
    let mut pair = MemoryPair::new(config, echo, pinger)?;
    // A picture from the middle, while the connection stands.
    let half = args.count / 2;
    let limit = GRACE * 2;
    let began = pair.run_until(|_, p| p.outcome.is_some() || p.times.len() >= half, limit);
    if let Ok(Err(error)) = listens.try_recv() {
        return Err(error.into());
    }
    let picture = picture(&pair)?;
    if !began || !pair.run_until(|_, pinger| pinger.outcome.is_some(), limit) {
        return Err(Failure::Failed(format!(
            "the ping-pong did not end within {limit:?}"
        )));
    }
    let pinger = pair.b.service();
    if let Some(Err(error)) = &pinger.outcome {
        return Err(Failure::Failed(format!("the ping-pong failed: {error}")));
    }
    println!("{}", ping::percentiles(&pinger.times));
    println!("\nss, taken halfway:");
    io::stdout().write_all(&picture)?;
    Ok(())
}

fn picture<A: Service, B: Service>(pair: &MemoryPair<A, B>) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    writeln!(text, "10.0.0.1")?;
    ss::shard(&mut text, &pair.a.report(), false)?;
    writeln!(text, "10.0.0.2")?;
    ss::shard(&mut text, &pair.b.report(), false)?;
    Ok(text)
}

fn kernel_ping_pong(target: &str, args: &DemoArgs) -> Result<(), Failure> {
    let Some((host, port)) = target.rsplit_once(':') else {
        return Err(Failure::Usage(format!(
            "--ping-pong {target}: say HOST:PORT"
        )));
    };
    let Ok(port) = port.parse() else {
        return Err(Failure::Usage(format!(
            "--ping-pong {target}: {port:?} is not a port"
        )));
    };
    let times = ping::kernel(resolve(host, port)?, args.count, args.size as usize)?;
    println!("{}", ping::percentiles(&times));
    Ok(())
}
