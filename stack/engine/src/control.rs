//! What the control socket answers: pictures of the engine, gathered from its shards.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bywash_wire::ChecksumPolicy;
use bywash_xdp::Demux;
use bywash_xsk::{Mode, TxChecksum};
use crossbeam::channel::bounded;
use serde_json::{Value, json};

use crate::directory::{ControlMessage, Directory};
use crate::engine::{EngineDescription, LiveDevice, WatchdogStatus};
use crate::host::control::{Handler, Operation, Request};
use crate::report::{EngineReport, ShardReport, VlanReport};
use crate::steering::EnginePorts;

/// How long a shard may take to answer: a turn, and the walk over its connections.
const PATIENCE: Duration = Duration::from_secs(2);

/// The handler of an engine's control socket.
pub(crate) fn handler(
    description: EngineDescription,
    directory: Arc<Directory>,
    demux: Arc<Demux>,
    live: Arc<LiveDevice>,
    ports: Arc<Mutex<EnginePorts>>,
    watchdog: Option<Arc<WatchdogStatus>>,
) -> Handler {
    // The server ends before the engine detaches; a strong reference would keep it attached.
    let demux = Arc::downgrade(&demux);
    Box::new(move |Request { operation }| {
        let version = env!("CARGO_PKG_VERSION");
        if operation == Operation::Version {
            return Ok(json!({ "version": version, "pid": std::process::id() }));
        }
        let demux = demux.upgrade().ok_or("the engine is ending")?;
        if operation == Operation::Reload {
            tracing::info!("the XDP program is replaced, as asked by the control socket");
            return match demux.replace_program() {
                Ok(()) => Ok(json!({ "device": description.device, "pid": std::process::id() })),
                Err(error) => Err(error.to_string()),
            };
        }
        let counters = demux.counters().map_err(|error| error.to_string())?;
        let now = live.now();
        let shards = ask_shards(&directory)?;
        let report = EngineReport {
            version: version.to_owned(),
            pid: std::process::id(),
            device: description.device.clone(),
            addresses: now.addresses.into_iter().collect(),
            vlans: now.vlans.iter().map(VlanReport::from).collect(),
            link: if now.running { "up" } else { "down" }.to_owned(),
            mtu: now.mtu,
            mac: now.mac.to_string(),
            bind_mode: mode_name(description.bind_mode).to_owned(),
            xdp_mode: description.xdp_mode.to_owned(),
            native_refusal: description.native_refusal.clone(),
            zero_copy_refusal: description.zero_copy_refusal.clone(),
            chunk_size: description.chunk_size,
            busy_poll: live_busy_poll(&shards).unwrap_or_else(|| description.busy_poll.to_string()),
            tx_checksum: tx_checksum_name(description.tx_checksum).to_owned(),
            rx_checksum: rx_checksum_name(description.checksum).to_owned(),
            queue_steering: ports
                .lock()
                .map_or_else(|_| "unknown".to_owned(), |ports| ports.queue_steering()),
            watchdog: watchdog.as_ref().map(|status| status.report()),
            shards,
            xdp: counters
                .into_iter()
                .map(|(name, n)| (name.to_owned(), n))
                .collect(),
        };
        let mut value = serde_json::to_value(&report).map_err(|error| error.to_string())?;
        if operation == Operation::Counters
            && let Some(shards) = value["shards"].as_array_mut()
        {
            for shard in shards.iter_mut().filter_map(Value::as_object_mut) {
                shard.remove("connections");
            }
        }
        Ok(value)
    })
}

/// What busy polling is now: it may have changed since the start.
fn live_busy_poll(shards: &[ShardReport]) -> Option<String> {
    shards.iter().find_map(|shard| shard.busy_poll.clone())
}

/// `copy` or `zero-copy`.
pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Copy => "copy",
        Mode::ZeroCopy => "zero-copy",
    }
}

/// `software` or `kernel`.
pub fn tx_checksum_name(checksum: TxChecksum) -> &'static str {
    match checksum {
        TxChecksum::Software => "software",
        TxChecksum::Kernel => "kernel",
    }
}

/// `verify`, `verify-or-pseudo` or `trust`.
pub fn rx_checksum_name(policy: ChecksumPolicy) -> &'static str {
    match policy {
        ChecksumPolicy::Full => "verify",
        ChecksumPolicy::FullOrPseudo => "verify-or-pseudo",
        ChecksumPolicy::Trusted => "trust",
    }
}

fn ask_shards(directory: &Directory) -> Result<Vec<ShardReport>, String> {
    let mut reports = Vec::new();
    for shard in 0..directory.shards() {
        let (reply, answer) = bounded(1);
        if !directory.inbox(shard).send(ControlMessage::Report(reply)) {
            return Err(format!(
                "shard {shard} does not take messages; it hangs or is overloaded"
            ));
        }
        let report = answer
            .recv_timeout(PATIENCE)
            .map_err(|_| format!("shard {shard} did not answer within {PATIENCE:?}"))?;
        reports.push(report);
    }
    Ok(reports)
}
