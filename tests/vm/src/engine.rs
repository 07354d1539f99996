//! Bywash in one of the namespaces, and what it says of itself by its own commands.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bywash::seams::control::{Operation, ask, engines};
use bywash::seams::xsk::Mode;
use bywash::{Engine, EngineConfig, EngineDescription};
use serde_json::Value;

use crate::Outcome;
use crate::machine::{Side, output};
use crate::mirror::{Manner, Mirror, PORT, Seen};

/// How long the last completions and acknowledgments may take.
const SETTLE: Duration = Duration::from_secs(20);

/// A running engine with a mirror.
pub(crate) struct Running {
    engine: Engine<Mirror>,
    pub(crate) seen: Arc<Seen>,
    pub(crate) address: SocketAddr,
}

impl Running {
    pub(crate) fn start(side: &Side, config: EngineConfig) -> Outcome<Self> {
        Self::start_as(side, config, Manner::Echo)
    }

    pub(crate) fn start_as(side: &Side, config: EngineConfig, manner: Manner) -> Outcome<Self> {
        let seen = Arc::<Seen>::default();
        let (listening, listens) = channel();
        let mirror = {
            let seen = seen.clone();
            move |_shard| Mirror::new(manner, seen.clone(), listening.clone())
        };
        let engine = side
            .run(move || Engine::start(config, mirror))?
            .map_err(|error| error.to_string())?;
        let running = Self {
            engine,
            seen,
            address: SocketAddr::new(side.address.into(), PORT),
        };
        listens
            .recv()
            .map_err(|_| "the mirror never began".to_owned())??;
        Ok(running)
    }

    /// Copy or zero copy as the kernel tells it (`XDP_OPTIONS`).
    pub(crate) fn mode(&self) -> Mode {
        self.engine.description().bind_mode
    }

    pub(crate) fn description(&self) -> &EngineDescription {
        self.engine.description()
    }

    pub(crate) fn stop(self) -> Outcome<()> {
        self.engine.stop();
        self.engine
            .join()
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// What every run must have kept to, once its connections are gone; then the engine ends.
    ///
    /// - what [`settled`] says of the port;
    /// - what was received was read where the device put it, and was not copied; what was sent was copied once.
    pub(crate) fn account(self, side: &Side) -> Outcome<String> {
        let (shard, mut faults) = settled(side)?;
        let (sent, copied) = (
            self.seen.sent.load(Ordering::Relaxed),
            counter(&shard, "payload-bytes-copied"),
        );
        // A window may have room for a part of a segment only: the rest goes into a frame of its own.
        let recut = counter(&shard, "payload-bytes-recut");
        let frames = self.seen.frames.load(Ordering::Relaxed);
        let elsewhere = self.seen.elsewhere.load(Ordering::Relaxed);
        let by_device = self.seen.by_device.load(Ordering::Relaxed);
        // Only virtio leaves a header of its own. In copy mode the kernel leaves it behind: then none may be there.
        let by_device_wanted = match (side.driver.as_str(), self.mode()) {
            ("virtio_net", Mode::ZeroCopy) => frames,
            _ => 0,
        };
        let mut expect = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        expect(
            frames > 0 && sent > 0,
            format!("{frames} frames were read and {sent} bytes sent"),
        );
        expect(
            copied == sent + recut,
            format!(
                "{copied} payload bytes were copied to send {sent}, {recut} of them to cut or join segments; receiving copies none"
            ),
        );
        expect(
            elsewhere == 0,
            format!("{elsewhere} of {frames} frames lay outside of the receive chunks"),
        );
        expect(
            by_device == by_device_wanted,
            format!(
                "the device's own header stood before {by_device} of {frames} frames, {by_device_wanted} wanted"
            ),
        );
        self.stop()?;
        match faults.is_empty() {
            true => Ok(format!(
                "{frames} frames read in place, {copied} bytes copied for {sent} sent, {} sent frames watched",
                counter(&shard, "tx-guarded")
            )),
            false => Err(faults.join("; ")),
        }
    }
}

/// A counter of a shard; one that is not there is wrong whatever is expected of it.
pub(crate) fn counter(shard: &Value, name: &str) -> u64 {
    shard["counters"][name].as_u64().unwrap_or(u64::MAX)
}

/// The shard of a namespace's engine when no connection is left and every completion has come, and what is wrong with it:
///
/// - no frame was changed on its way, and every one was watched;
/// - the kernel took every descriptor;
/// - every chunk is with its holder: nothing held, lent or under way.
pub(crate) fn settled(side: &Side) -> Outcome<(Value, Vec<String>)> {
    let shard = settle(side)?;
    let mut faults = Vec::new();
    let (changed, watched, sent) = (
        counter(&shard, "tx-changed"),
        counter(&shard, "tx-guarded"),
        counter(&shard, "frames-transmitted"),
    );
    if changed != 0 {
        faults.push(format!("{changed} frames changed on their way"));
    }
    if watched != sent {
        faults.push(format!("{watched} of {sent} frames were watched"));
    }
    if counter(&shard, "tx-invalid-descriptors") != 0 {
        faults.push("the kernel refused descriptors".to_owned());
    }
    let held = &shard["frames"];
    let of = |name: &str| held[name].as_u64().unwrap_or(u64::MAX);
    if of("rx_free").saturating_add(of("fill")) != of("rx_total") || of("tx_free") != of("tx_total")
    {
        faults.push(format!("the ledger is not whole: {held}"));
    }
    Ok((shard, faults))
}

fn settle(side: &Side) -> Outcome<Value> {
    let begin = Instant::now();
    loop {
        let shard = ss(side)?["shards"][0].take();
        let quiet = shard["connections"].as_array().is_some_and(Vec::is_empty)
            && ["outstanding", "held", "leased"]
                .iter()
                .all(|holder| shard["frames"][holder].as_u64() == Some(0));
        if quiet {
            return Ok(shard);
        }
        if begin.elapsed() > SETTLE {
            return Err(format!(
                "not quiet after {SETTLE:?}: {} connections, {}",
                shard["connections"].as_array().map_or(0, Vec::len),
                shard["frames"]
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `bywash ARGUMENTS` in a namespace, to its end: what it wrote, and whether it succeeded.
pub(crate) fn bywash(side: &Side, arguments: &[&str]) -> Outcome<Result<String, String>> {
    let line: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
    side.run(move || output(Command::new("/bin/bywash").args(line)))
}

/// The engine of a namespace as `bywash ss --json` has it, without starting a program, which takes a second here.
pub(crate) fn ss(side: &Side) -> Outcome<Value> {
    let device = side.device;
    for engine in engines().map_err(|error| error.to_string())? {
        let report = ask(&engine, Operation::Ss).map_err(|error| error.to_string())?;
        if report["device"] == device {
            return Ok(report);
        }
    }
    Err(format!("there is no engine on {device}"))
}

/// What `bywash doctor` finds, engine or not: check, level and text of each finding.
pub(crate) fn doctor(side: &Side) -> Outcome<Vec<Value>> {
    let device = side.device;
    // Its exit status says whether something FAILs, which is for the caller to judge.
    let done = side.run(move || {
        Command::new("/bin/bywash")
            .args(["doctor", "--json", "--dev", device])
            .output()
    })?;
    let done = done.map_err(|error| format!("doctor: {error}"))?;
    serde_json::from_slice(&done.stdout).map_err(|error| {
        format!(
            "doctor: {error}: {}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        )
    })
}

/// Level and text of one of doctor's findings.
pub(crate) fn finding<'a>(findings: &'a [Value], check: &str) -> Outcome<(&'a str, &'a str)> {
    let found = findings
        .iter()
        .find(|finding| finding["check"] == check)
        .and_then(|finding| finding["level"].as_str().zip(finding["text"].as_str()));
    found.ok_or_else(|| format!("doctor says nothing of {check}"))
}
