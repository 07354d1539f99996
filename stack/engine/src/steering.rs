//! Steering: which packets the demultiplexer takes, and into which ring.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};

use bywash_wire::{Tuple, VlanId};
use bywash_xdp::{Demux, FlowKey, FlowValue, Vlan, slot};

use crate::host::PortReservations;
use crate::host::queues::DeviceQueues;
use crate::pools::PRIMARY;

/// What a shard asks of the demultiplexer and of the kernel's port table. Calls are rare (listen,
/// first connect, promotion), never per packet.
pub trait Steering {
    /// Takes segments to `port` from now on, and keeps the kernel's programs off it.
    /// The error says who has the port and what to do.
    fn listen(&mut self, port: u16) -> Result<(), ListenRefused>;
    /// Gives `port` back.
    fn unlisten(&mut self, port: u16);
    /// Takes segments to local ports of this range from now on, and keeps the kernel off them: called
    /// before the first active open. Returns the part of the range that could be had.
    fn local_ports(&mut self, range: RangeInclusive<u16>) -> Result<RangeInclusive<u16>, String>;
    /// Sends the flow to an RX ring of its own.
    fn insert_flow(&mut self, tuple: &Tuple, ring: usize, generation: u32) -> Result<(), String>;
    /// Sends the flow back to the rings of all.
    fn remove_flow(&mut self, tuple: &Tuple);
    /// SYNs are limited from now on: handshakes are begun and not ended.
    fn limit_syns(&mut self) {}
    /// SYNs pass again.
    fn unlimit_syns(&mut self) {}
    /// A flow has been made, and no segment of it has left: the last moment to say so where strangers are not let in.
    fn opened(&mut self, _tuple: &Tuple) {}
    /// Has the NIC bring the flow's packets to this shard's queue. False: it cannot, or does already.
    fn recall(&mut self, _tuple: &Tuple) -> bool {
        false
    }
    /// The flow is gone; if it had a ring of its own, [`Steering::remove_flow`] has been called.
    fn closed(&mut self, _tuple: &Tuple) {}
}

/// Why a port could not be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenRefused {
    /// Another program of this host has it.
    Taken(String),
    /// The demultiplexer's map did not take it.
    Demux(String),
}

/// For the in-memory wire: everything that arrives is ours, and there are no rings to choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSteering;

impl Steering for NoSteering {
    fn listen(&mut self, _port: u16) -> Result<(), ListenRefused> {
        Ok(())
    }

    fn unlisten(&mut self, _port: u16) {}

    fn local_ports(&mut self, range: RangeInclusive<u16>) -> Result<RangeInclusive<u16>, String> {
        Ok(range)
    }

    fn insert_flow(&mut self, _: &Tuple, _: usize, _: u32) -> Result<(), String> {
        Err("the in-memory wire has no flow table".into())
    }

    fn remove_flow(&mut self, _tuple: &Tuple) {}
}

/// Fewest local ports that make a range worth having.
const FEWEST_LOCAL_PORTS: u16 = 16;

/// The ports of an engine: taken once for all of its shards.
#[derive(Debug)]
pub(crate) struct EnginePorts {
    reservations: PortReservations,
    /// Ports that some shard listens or has listened on.
    listened: BTreeSet<u16>,
    local: Option<RangeInclusive<u16>>,
    /// What the NIC is told, if it is.
    queues: Option<DeviceQueues>,
}

impl EnginePorts {
    pub(crate) fn new(device: &str, queues: Option<DeviceQueues>) -> Self {
        Self {
            reservations: PortReservations::on_device(device),
            listened: BTreeSet::new(),
            local: None,
            queues,
        }
    }

    /// How the NIC steers, for `ss`.
    pub(crate) fn queue_steering(&self) -> String {
        self.queues
            .as_ref()
            .map_or_else(|| "none".to_owned(), DeviceQueues::describe)
    }
}

/// The XDP demultiplexer of a device, as one of its shards sees it.
pub(crate) struct DemuxSteering {
    demux: Arc<Demux>,
    ports: Arc<Mutex<EnginePorts>>,
    queue: u32,
    /// Every flow stands in the demultiplexer's table, also those without a ring of their own.
    strict: bool,
    /// The NIC is told of active opens.
    tells_nic: bool,
}

impl DemuxSteering {
    pub(crate) fn new(demux: Arc<Demux>, ports: Arc<Mutex<EnginePorts>>, queue: u32) -> Self {
        let tells_nic = ports
            .lock()
            .is_ok_and(|ports: MutexGuard<'_, EnginePorts>| ports.queues.is_some());
        Self {
            tells_nic,
            strict: demux.is_strict(),
            demux,
            ports,
            queue,
        }
    }

    fn ports(&self) -> MutexGuard<'_, EnginePorts> {
        self.ports.lock().expect("no holder of the ports panics")
    }

    fn forget(&self, tuple: &Tuple) {
        if let Err(error) = self.demux.remove_flow(&Self::key(tuple)) {
            tracing::warn!(%tuple, %error, "a flow stays in the demultiplexer's table");
        }
    }

    fn key(tuple: &Tuple) -> FlowKey {
        FlowKey::new(
            tuple.local,
            tuple.local_port,
            tuple.remote,
            tuple.remote_port,
            tuple.vlan.map(demultiplexed),
            tuple.protocol,
        )
    }
}

/// A VLAN as the demultiplexer names it.
pub(crate) fn demultiplexed(vlan: VlanId) -> Vlan {
    match (vlan.is_service(), vlan.inner()) {
        (false, _) => Vlan::Customer(vlan.raw()),
        (true, None) => Vlan::Service(vlan.raw()),
        (true, Some(customer)) => Vlan::Stacked {
            service: vlan.raw(),
            customer,
        },
    }
}

impl Steering for DemuxSteering {
    fn listen(&mut self, port: u16) -> Result<(), ListenRefused> {
        let mut ports = self.ports();
        if !ports.listened.contains(&port) {
            ports
                .reservations
                .reserve(port)
                .map_err(|error| ListenRefused::Taken(error.to_string()))?;
            if let Some(queues) = &mut ports.queues
                && let Err(error) = queues.claim_port(port)
            {
                ports.reservations.release(port);
                return Err(ListenRefused::Demux(error.to_string()));
            }
            ports.listened.insert(port);
        }
        self.demux
            .listen(port)
            .map_err(|error| ListenRefused::Demux(error.to_string()))
    }

    /// The port stays ours: connections that were accepted on it outlive the listener, and the
    /// kernel would reset them.
    fn unlisten(&mut self, port: u16) {
        let result = self
            .demux
            .hold_port(port)
            .and_then(|()| self.demux.unlisten(port));
        if let Err(error) = result {
            tracing::warn!(port, %error, "the demultiplexer did not give the port back");
        }
    }

    fn local_ports(&mut self, range: RangeInclusive<u16>) -> Result<RangeInclusive<u16>, String> {
        let mut ports = self.ports();
        if let Some(local) = &ports.local {
            return Ok(local.clone());
        }
        let report = ports
            .reservations
            .reserve_range(range.clone())
            .map_err(|error| error.to_string())?;
        let ours = longest_free_run(&range, &report.left_out);
        let Some(ours) = ours else {
            return Err(format!(
                "local ports {}-{} are in use by other programs: give another range",
                range.start(),
                range.end()
            ));
        };
        if ours != range {
            tracing::warn!(
                ?ours,
                taken = report.left_out.len(),
                "part of the local port range is in use"
            );
        }
        self.demux
            .set_local_ports(Some(ours.clone()))
            .map_err(|error| error.to_string())?;
        ports.local = Some(ours.clone());
        Ok(ours)
    }

    fn insert_flow(&mut self, tuple: &Tuple, ring: usize, generation: u32) -> Result<(), String> {
        let value = FlowValue {
            slot: slot(self.queue, ring as u32),
            generation,
            queue: self.queue,
        };
        self.demux
            .insert_flow(&Self::key(tuple), value)
            .map_err(|error| error.to_string())
    }

    fn remove_flow(&mut self, tuple: &Tuple) {
        match self.strict {
            true => self.opened(tuple),
            false => self.forget(tuple),
        }
    }

    fn limit_syns(&mut self) {
        if let Err(error) = self.demux.limit_syns() {
            tracing::warn!(%error, "the demultiplexer does not limit SYNs");
        }
    }

    fn unlimit_syns(&mut self) {
        if let Err(error) = self.demux.unlimit_syns() {
            tracing::warn!(%error, "the demultiplexer still limits SYNs");
        }
    }

    /// The table has room for as many flows as shards may have connections (`engine::shard_config` sees to it).
    fn opened(&mut self, tuple: &Tuple) {
        if self.strict
            && let Err(cause) = self.insert_flow(tuple, PRIMARY.into(), 0)
        {
            tracing::error!(%tuple, %cause, "the demultiplexer drops what this flow's peer sends");
        }
        if self.tells_nic {
            let mut ports = self.ports();
            // What was accepted came to this queue by itself.
            if !ports.listened.contains(&tuple.local_port)
                && let Some(queues) = &mut ports.queues
            {
                queues.claim_flow(tuple, self.queue);
            }
        }
    }

    fn recall(&mut self, tuple: &Tuple) -> bool {
        self.tells_nic
            && self
                .ports()
                .queues
                .as_mut()
                .is_some_and(|queues| queues.recall_flow(tuple, self.queue))
    }

    fn closed(&mut self, tuple: &Tuple) {
        if self.strict {
            self.forget(tuple);
        }
        if self.tells_nic
            && let Some(queues) = &mut self.ports().queues
        {
            queues.release_flow(tuple);
        }
    }
}

/// The longest part of `range` without a taken port. XDP matches local ports by range: a taken
/// port in it would take another program's packets.
fn longest_free_run(range: &RangeInclusive<u16>, taken: &[u16]) -> Option<RangeInclusive<u16>> {
    let mut best: Option<(u32, u32)> = None;
    let mut start = u32::from(*range.start());
    let ends = taken.iter().map(|port| u32::from(*port));
    for end in ends.chain([u32::from(*range.end()) + 1]) {
        let longer = best.is_none_or(|(first, after)| end.saturating_sub(start) > after - first);
        if end > start && longer {
            best = Some((start, end));
        }
        start = end + 1;
    }
    let (first, after) = best?;
    (after - first >= u32::from(FEWEST_LOCAL_PORTS)).then(|| first as u16..=(after - 1) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_run_without_a_taken_port() {
        let range = 60000..=60099;
        assert_eq!(longest_free_run(&range, &[]), Some(60000..=60099));
        assert_eq!(longest_free_run(&range, &[60000]), Some(60001..=60099));
        assert_eq!(longest_free_run(&range, &[60030]), Some(60031..=60099));
        assert_eq!(
            longest_free_run(&range, &[60080, 60081]),
            Some(60000..=60079)
        );
        let all: Vec<u16> = range.clone().collect();
        assert_eq!(longest_free_run(&range, &all), None);
        assert_eq!(
            longest_free_run(&(65500..=65535), &[65500]),
            Some(65501..=65535)
        );
    }
}
