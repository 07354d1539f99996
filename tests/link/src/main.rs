//! `bywash-link`: a link with delay, loss and other faults, between two devices or two namespaces.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use bywash_link::impairment::{Burst, Bytes, Each, Probability, Rate, Time};
use bywash_link::lab::{DEVICES, Lab};
use bywash_link::{Bridge, Impairment, Link};
use clap::{Args, Parser, Subcommand};

/// A link emulator: carries packets between two devices and delays, loses, reorders, doubles and damages them, as a seed decides.
///
/// Values hold for both directions; X/Y gives the first for one direction and the second for the other: --delay 10ms/30ms.
#[derive(Debug, Parser)]
#[command(name = "bywash-link", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Carry packets between two devices of this network namespace. Neither should have addresses.
    Bridge {
        /// The first device: packets that arrive here take the direction "forth".
        first: String,
        /// The second device.
        second: String,
        #[command(flatten)]
        options: Options,
    },
    /// Make two network namespaces with an emulated link between them, and remove them at the end.
    Lab {
        /// Name of the namespace at 10.99.0.1 and fd99::1.
        #[arg(long, default_value = "left")]
        left: String,
        /// Name of the namespace at 10.99.0.2 and fd99::2.
        #[arg(long, default_value = "right")]
        right: String,
        /// MTU of the link in bytes.
        #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(1280..=9000))]
        mtu: u16,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Args, Debug)]
struct Options {
    /// Seed of all draws; the same packets in the same order meet the same fate.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Time to the other end, as 10ms.
    #[arg(long, value_name = "TIME[/TIME]")]
    delay: Option<Each<Time>>,
    /// Largest addition to the delay, drawn evenly; order is kept.
    #[arg(long, value_name = "TIME[/TIME]")]
    jitter: Option<Each<Time>>,
    /// Probability that a packet is lost, as 1% or 0.01.
    #[arg(long, value_name = "P[/P]")]
    loss: Option<Each<Probability>>,
    /// Probabilities to enter and to leave a burst of losses, as 0.1%,25%.
    #[arg(long, value_name = "ENTER,LEAVE[/ENTER,LEAVE]")]
    burst: Option<Each<Burst>>,
    /// Probability that a packet is held back, so that later ones overtake it.
    #[arg(long, value_name = "P[/P]")]
    reorder: Option<Each<Probability>>,
    /// How long it is held back [default: 1ms].
    #[arg(long, value_name = "TIME[/TIME]")]
    reorder_by: Option<Each<Time>>,
    /// Probability that a packet arrives twice.
    #[arg(long, value_name = "P[/P]")]
    duplicate: Option<Each<Probability>>,
    /// Probability that a packet is marked as having met congestion (CE), if its transport takes marks (ECT).
    #[arg(long, value_name = "P[/P]")]
    mark: Option<Each<Probability>>,
    /// Probability that one bit behind the Ethernet header is flipped.
    #[arg(long, value_name = "P[/P]")]
    corrupt: Option<Each<Probability>>,
    /// Probability that the end of a packet is cut off.
    #[arg(long, value_name = "P[/P]")]
    truncate: Option<Each<Probability>>,
    /// Bits a second, as 100mbit, counted over whole frames without preamble and checksum.
    #[arg(long, value_name = "RATE[/RATE]")]
    rate: Option<Each<Rate>>,
    /// Bytes that may wait for the rate, as 64k; the rest is dropped [default: 256k].
    #[arg(long, value_name = "BYTES[/BYTES]")]
    queue: Option<Each<Bytes>>,
    /// End after this time, as 30s; else at Ctrl-C.
    #[arg(long = "for", value_name = "TIME")]
    limit: Option<Time>,
    /// Print the counts at the end as JSON.
    #[arg(long)]
    json: bool,
}

impl Options {
    fn link(&self) -> Link {
        let mut link = Link {
            seed: self.seed,
            ..Link::default()
        };
        let [forth, back] = [&mut link.forth, &mut link.back];
        set(self.delay, [forth, back], |one, value| one.delay = value.0);
        set(self.jitter, [forth, back], |one, value| {
            one.jitter = value.0;
        });
        set(self.loss, [forth, back], |one, value| one.loss = value.0);
        set(self.burst, [forth, back], |one, value| {
            one.burst = Some(value);
        });
        set(self.reorder, [forth, back], |one, value| {
            one.reorder = value.0;
        });
        set(self.reorder_by, [forth, back], |one, value| {
            one.reorder_by = value.0;
        });
        set(self.duplicate, [forth, back], |one, value| {
            one.duplicate = value.0;
        });
        set(self.mark, [forth, back], |one, value| {
            one.mark = value.0;
        });
        set(self.corrupt, [forth, back], |one, value| {
            one.corrupt = value.0;
        });
        set(self.truncate, [forth, back], |one, value| {
            one.truncate = value.0;
        });
        set(self.rate, [forth, back], |one, value| {
            one.rate = Some(value.0);
        });
        set(self.queue, [forth, back], |one, value| one.queue = value.0);
        link
    }
}

fn set<T>(
    value: Option<Each<T>>,
    [forth, back]: [&mut Impairment; 2],
    put: impl Fn(&mut Impairment, T),
) {
    if let Some(Each(one, other)) = value {
        put(forth, one);
        put(back, other);
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bywash-link: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register(signal, stop.clone()).context("cannot catch signals")?;
    }
    match cli.command {
        Command::Bridge {
            first,
            second,
            options,
        } => carry(&first, &second, &options, &stop),
        Command::Lab {
            left,
            right,
            mtu,
            options,
        } => {
            let lab = Lab::new(&left, &right, mtu)?;
            lab.enter()?;
            eprintln!(
                "`ip netns exec {left} ping 10.99.0.2` goes over the link; so does everything between {left} and {right}"
            );
            carry(DEVICES[0], DEVICES[1], &options, &stop)
        }
    }
}

fn carry(first: &str, second: &str, options: &Options, stop: &AtomicBool) -> Result<()> {
    let link = options.link();
    let mut bridge = Bridge::open(first, second, &link)?;
    eprintln!("ready: {first} <-> {second}, seed {}", link.seed);
    bridge.run(stop, options.limit.map(|time| time.0))?;
    let [forth, back] = bridge.counts();
    if options.json {
        let all = serde_json::json!({ "link": link, "forth": forth, "back": back });
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    for (name, counts) in [("forth", forth), ("back", back)] {
        let fates = counts.fates;
        println!(
            "{name}: {} packets in, {} out, {} lost, {} lost in bursts, {} beyond the queue, {} doubled, {} reordered, \
             {} marked, {} corrupted, {} truncated, {} uncut, {} refused, {} underway",
            fates.offered,
            fates.delivered,
            fates.lost,
            fates.lost_in_bursts,
            fates.queue_full,
            fates.duplicated,
            fates.reordered,
            fates.marked,
            fates.corrupted,
            fates.truncated,
            counts.uncut,
            counts.refused,
            counts.underway
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn options_set_both_directions_or_each() {
        let cli = Cli::try_parse_from([
            "bywash-link",
            "bridge",
            "a",
            "b",
            "--delay",
            "10ms/30ms",
            "--loss",
            "1%",
            "--burst",
            "1%,50%",
            "--rate",
            "10mbit/1mbit",
        ])
        .expect("good arguments");
        let Command::Bridge { options, .. } = cli.command else {
            panic!("another command");
        };
        let link = options.link();
        assert_eq!(link.forth.delay, Duration::from_millis(10));
        assert_eq!(link.back.delay, Duration::from_millis(30));
        assert_eq!((link.forth.loss, link.back.loss), (0.01, 0.01));
        assert_eq!(link.back.rate, Some(1_000_000));
        assert_eq!(link.forth.burst, link.back.burst);
        assert!(link.forth.burst.is_some());
    }

    #[test]
    fn wrong_options_are_refused() {
        for wrong in [["--delay", "10"], ["--loss", "2"], ["--rate", "fast"]] {
            let arguments = ["bywash-link", "bridge", "a", "b"].iter().chain(&wrong);
            assert!(Cli::try_parse_from(arguments).is_err(), "{wrong:?}");
        }
    }
}
