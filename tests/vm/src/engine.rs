//! Bywash in one of the namespaces, and what it says of itself by its own commands.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bywash::seams::xsk::{BindMode, Mode};
use bywash::{Engine, EngineConfig};
use bywash_engine::host::control::{Operation, ask, engines};
use serde_json::Value;

use crate::Outcome;
use crate::machine::{Side, output};
use crate::mirror::{Manner, Mirror, Seen};

/// The port of every mirror.
pub(crate) const PORT: u16 = 7777;
/// How long the last completions and acknowledgments may take.
const SETTLE: Duration = Duration::from_secs(20);

/// An engine that is in order: zero copy or nothing, every sent frame watched.
pub(crate) fn strict(side: &Side) -> EngineConfig {
    EngineConfig {
        mode: BindMode::ZeroCopy,
        guard_tx: true,
        ..EngineConfig::new(side.device)
    }
}

pub(crate) const ECHO: Manner = Manner {
    port: PORT,
    echo: true,
};

/// A running engine with a mirror.
pub(crate) struct Running {
    engine: Engine<Mirror>,
    pub(crate) seen: Arc<Seen>,
    pub(crate) address: SocketAddr,
}

impl Running {
    pub(crate) fn start(side: &Side, config: EngineConfig, manner: Manner) -> Outcome<Self> {
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
            address: SocketAddr::new(side.address.into(), manner.port),
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

    pub(crate) fn description(&self) -> &bywash::EngineDescription {
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
    /// - no frame was changed on its way, and every one was watched;
    /// - what was received was read where the device put it; what was sent was copied once;
    /// - every chunk is with its holder: nothing held, lent or under way.
    pub(crate) fn account(self, side: &Side) -> Outcome<String> {
        let shard = self.settle(side)?;
        let counter = |name: &str| shard["counters"][name].as_u64().unwrap_or(u64::MAX);
        let (sent, copied) = (
            self.seen.sent.load(Ordering::Relaxed),
            counter("payload-bytes-copied"),
        );
        // A window may have room for a part of a segment only: the rest goes into a frame of its own.
        let recut = counter("payload-bytes-recut");
        let frames = self.seen.frames.load(Ordering::Relaxed);
        let elsewhere = self.seen.elsewhere.load(Ordering::Relaxed);
        let by_device = self.seen.by_device.load(Ordering::Relaxed);
        let virtio = self.description().driver.as_deref() == Some("virtio_net");
        let mut faults = Vec::new();
        let mut expect = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        expect(
            counter("tx-changed") == 0,
            format!("{} frames changed on their way", counter("tx-changed")),
        );
        expect(
            counter("tx-guarded") == counter("frames-transmitted"),
            format!(
                "{} of {} frames were watched",
                counter("tx-guarded"),
                counter("frames-transmitted")
            ),
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
            !virtio || self.mode() == Mode::Copy || by_device == frames,
            format!("the device's own header stood before {by_device} of {frames} frames"),
        );
        expect(
            counter("tx-invalid-descriptors") == 0,
            "the kernel refused descriptors".to_owned(),
        );
        let held = &shard["frames"];
        let of = |name: &str| held[name].as_u64().unwrap_or(u64::MAX);
        expect(
            of("rx_free") + of("fill") == of("rx_total") && of("tx_free") == of("tx_total"),
            format!("the ledger is not whole: {held}"),
        );
        self.stop()?;
        match faults.is_empty() {
            true => Ok(format!(
                "{frames} frames read in place, {copied} bytes copied for {sent} sent, {} sent frames watched",
                counter("tx-guarded")
            )),
            false => Err(faults.join("; ")),
        }
    }

    /// The shard's report, when no connection is left and every completion has come.
    fn settle(&self, side: &Side) -> Outcome<Value> {
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
