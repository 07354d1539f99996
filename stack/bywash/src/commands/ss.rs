//! `bywash ss`: what every engine on this host says of itself.

use std::io::{self, Write};

use bywash_engine::host::control::{Operation, ask, engines};
use bywash_engine::report::{ConnectionReport, EngineReport, ShardReport, WatchdogReport};

use crate::cli::SsArgs;
use crate::failure::Failure;
use crate::show::size;

pub(crate) fn run(args: &SsArgs) -> Result<(), Failure> {
    let mut reports: Vec<EngineReport> = Vec::new();
    let mut silent = false;
    for engine in engines()? {
        let report = ask(&engine, Operation::Ss)
            .map_err(Failure::from)
            .and_then(|answer| Ok(serde_json::from_value(answer)?));
        match report {
            Ok(report) => reports.push(report),
            Err(failure) => {
                silent = true;
                eprint!("{}: ", engine.key);
                failure.report();
            }
        }
    }
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &reports)?;
        writeln!(out)?;
    } else if reports.is_empty() && !silent {
        writeln!(out, "no engine runs on this host")?;
    } else {
        for report in &reports {
            engine(&mut out, report, args)?;
        }
    }
    out.flush()?;
    if silent {
        Err(Failure::Reported)
    } else {
        Ok(())
    }
}

fn engine(out: &mut impl Write, report: &EngineReport, args: &SsArgs) -> io::Result<()> {
    let addresses: Vec<String> = report.addresses.iter().map(ToString::to_string).collect();
    writeln!(
        out,
        "{} ({}): link {}, MTU {}, process {}, bywash {}, {} mode, {} XDP",
        report.device,
        addresses.join(" "),
        report.link,
        report.mtu,
        report.pid,
        report.version,
        report.bind_mode,
        report.xdp_mode,
    )?;
    writeln!(
        out,
        "  kernel: busy poll {}, checksums sent by {}, received {}, queue steering {}{}",
        report.busy_poll,
        report.tx_checksum,
        report.rx_checksum,
        report.queue_steering,
        report
            .native_refusal
            .as_ref()
            .map_or_else(String::new, |why| format!(", native XDP refused: {why}")),
    )?;
    for vlan in &report.vlans {
        let addresses: Vec<String> = vlan.addresses.iter().map(ToString::to_string).collect();
        writeln!(
            out,
            "  vlan {} ({}, {}): link {}, MTU {}",
            vlan.vlan,
            vlan.device,
            addresses.join(" "),
            vlan.link,
            vlan.mtu,
        )?;
    }
    if let Some(why) = &report.zero_copy_refusal {
        writeln!(out, "  frames are copied; zero copy was refused: {why}")?;
    }
    watchdog(out, report.watchdog.as_ref())?;
    counters(out, "  demux", report.xdp.iter())?;
    for one in &report.shards {
        shard(out, one, args.info)?;
        if args.pools {
            pools(out, one)?;
        }
    }
    Ok(())
}

/// `  watchdog: 5 s, guard 4712, keeps the program on death`
fn watchdog(out: &mut impl Write, report: Option<&WatchdogReport>) -> io::Result<()> {
    let Some(report) = report else {
        return writeln!(out, "  watchdog: off");
    };
    writeln!(out, "  watchdog: {}", watchdog_line(report))
}

/// `5 s, guard 4712, keeps the program on death`
pub(crate) fn watchdog_line(report: &WatchdogReport) -> String {
    let limit = report
        .limit_ms
        .map_or_else(|| "off".to_owned(), |ms| format!("{} s", ms as f64 / 1e3));
    let guard = report
        .guard
        .map_or_else(|| "NO GUARD NOW".to_owned(), |pid| format!("guard {pid}"));
    let mut line = format!(
        "{limit}, {guard}, {}s the program on death",
        report.on_death
    );
    for (count, what) in [
        (report.detached, "detached"),
        (report.guards_lost, "guards lost"),
    ] {
        if count > 0 {
            line += &format!(", {what} {count}");
        }
    }
    line
}

/// A shard's part of the table; `bywash demo` shows the in-memory shards by it. `info`: a second line for each connection.
pub(crate) fn shard(out: &mut impl Write, shard: &ShardReport, info: bool) -> io::Result<()> {
    let frames = &shard.frames;
    writeln!(
        out,
        "  shard {}: pools {}/{}, frames free rx {}/{} tx {}/{}, in TIME-WAIT {}",
        shard.shard,
        shard.pools_used,
        shard.pools_total,
        frames.rx_free,
        frames.rx_total,
        frames.tx_free,
        frames.tx_total,
        shard.time_waits,
    )?;
    counters(out, "    counters", shard.counters.iter())?;
    counters(out, "    drops", shard.drops.iter())?;
    for listener in &shard.listeners {
        writeln!(
            out,
            "    LISTEN      port {} ({} accepted, {} half-open)",
            listener.port, listener.accepted, listener.half_open,
        )?;
    }
    if !shard.connections.is_empty() {
        writeln!(
            out,
            "    {:<11} {:<28} {:<28} {:>5} {:>8} {:>9} {:>9} {:>9} {:>6} {:>9} {:>9} {:<5} LIMIT",
            "STATE",
            "LOCAL",
            "PEER",
            "POOL",
            "RTT",
            "CWND",
            "UNACKED",
            "UNSENT",
            "RETR",
            "IN",
            "OUT",
            "CC",
        )?;
    }
    for conn in &shard.connections {
        connection(out, conn)?;
        if info {
            sender(out, conn)?;
        }
    }
    Ok(())
}

/// The rings of single flows, but those that have never had one.
fn pools(out: &mut impl Write, shard: &ShardReport) -> io::Result<()> {
    writeln!(
        out,
        "    {:>4} {:>5} {:<28} {:<28} {:>6} {:>10} {:>6} {:>6} {:>9} {:>8} {:>8} {:>9}",
        "POOL",
        "SIZE",
        "LOCAL",
        "PEER",
        "OWNERS",
        "FRAMES",
        "HELD",
        "CREDIT",
        "BY-CREDIT",
        "BY-RATE",
        "FULL",
        "IDLE",
    )?;
    for pool in shard.pools.iter().filter(|pool| pool.owners > 0) {
        let end = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        writeln!(
            out,
            "    {:>4} {:>5} {:<28} {:<28} {:>6} {:>10} {:>6} {:>6} {:>9} {:>8} {:>8} {:>6} ms",
            pool.ring,
            pool.size,
            end(pool.flow.map(|(local, _)| local.to_string())),
            end(pool.flow.map(|(_, peer)| peer.to_string())),
            pool.owners,
            pool.frames,
            pool.held,
            pool.credit,
            pool.beyond_credit,
            pool.beyond_rate,
            pool.ring_full,
            pool.idle_us / 1000,
        )?;
    }
    Ok(())
}

fn connection(out: &mut impl Write, conn: &ConnectionReport) -> io::Result<()> {
    let local = match &conn.vlan {
        None => conn.local.to_string(),
        Some(vlan) => format!("{} vlan {vlan}", conn.local),
    };
    let pool = conn
        .pool
        .map_or_else(|| "-".to_owned(), |pool| pool.to_string());
    writeln!(
        out,
        "    {:<11} {:<28} {:<28} {pool:>5} {:>8} {:>9} {:>9} {:>9} {:>6} {:>9} {:>9} {:<5} {}",
        conn.state,
        local,
        conn.remote.to_string(),
        format!("{} us", conn.rtt_us),
        size(u64::from(conn.cwnd)),
        size(u64::from(conn.in_flight)),
        size(conn.unsent),
        conn.retransmissions,
        size(conn.bytes_in),
        size(conn.bytes_acked),
        conn.sender.congestion,
        conn.limited_by,
    )
}

/// Why it is not faster: what `ss -i` says of the kernel's connections.
fn sender(out: &mut impl Write, conn: &ConnectionReport) -> io::Result<()> {
    let sender = &conn.sender;
    let rate = |bytes: u64| format!("{:.1} Mbit/s", bytes as f64 * 8e-6);
    let mut words = vec![format!("{} ({})", sender.congestion, sender.phase)];
    match conn.ssthresh {
        u32::MAX => {}
        ssthresh => words.push(format!("ssthresh {}", size(ssthresh.into()))),
    }
    words.push(format!(
        "rtt {} us, deviation {}, least {}",
        conn.rtt_us, sender.rttvar_us, sender.rtt_us_min
    ));
    words.push(format!("rto {} ms, mss {}", conn.rto_us / 1_000, conn.mss));
    let whose = match sender.delivery_rate_app_limited {
        true => " (all the application gave)",
        false => "",
    };
    words.push(format!("delivery {}{whose}", rate(sender.delivery_rate)));
    if let Some(pacing) = sender.pacing_rate {
        words.push(format!("pacing {}", rate(pacing)));
    }
    if let Some(bandwidth) = sender.bandwidth {
        words.push(format!("bandwidth {}", rate(bandwidth)));
    }
    if sender.recovery != "Open" {
        words.push(format!("recovery {}", sender.recovery));
    }
    if !matches!(sender.fast_open.as_str(), "" | "-") {
        words.push(format!(
            "fast-open {} {} B",
            sender.fast_open, sender.syn_data
        ));
    }
    if sender.ecn {
        words.push("ecn".to_owned());
    }
    for (count, what) in [
        (sender.sacked_now.into(), "sacked"),
        (sender.lost_now.into(), "lost now"),
        (sender.lost, "lost"),
        (sender.timeouts, "time-outs"),
        (sender.undone, "undone"),
        (sender.ecn_marks, "CE in"),
        (sender.ecn_echoes, "ECE in"),
    ] {
        if count > 0 {
            words.push(format!("{what} {count}"));
        }
    }
    words.push(format!(
        "busy {} ms (rwnd-limited {}, sndbuf-limited {})",
        sender.busy_ms, sender.rwnd_limited_ms, sender.sndbuf_limited_ms
    ));
    writeln!(out, "        {}", words.join(", "))
}

/// Those that are not zero, on one line.
fn counters<'a>(
    out: &mut impl Write,
    title: &str,
    all: impl Iterator<Item = (&'a String, &'a u64)>,
) -> io::Result<()> {
    let shown: Vec<String> = all
        .filter(|(_, n)| **n > 0)
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    if shown.is_empty() {
        Ok(())
    } else {
        writeln!(out, "{title}: {}", shown.join(", "))
    }
}
