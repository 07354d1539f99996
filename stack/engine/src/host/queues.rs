//! Which queue the NIC puts a flow on, where it can be told ([`bywash_ethtool`]).
//!
//! | policy | at the start | at `listen` | at an active open | at the end |
//! |---|---|---|---|---|
//! | none | | | | |
//! | RSS | all flows over the shards' queues | | | the table as it was |
//! | ntuple, one shard | | the port to its queue | the flow to its queue | rules removed |
//! | ntuple, a shard for each queue | | (RSS decides who accepts) | the flow to its shard's queue | rules removed |
//!
//! With ntuple, a flow whose packets keep coming by another queue than its shard's gets a rule too, before its connection is moved.
//!
//! So the hardware does what the demultiplexer and the hand-over between shards do in software
//! otherwise. A rule costs a request to the driver, which may take its firmware a while: once per
//! port and per active open, on the shard's thread. Rules of an engine that was killed stay with the
//! device: `ethtool -n` lists and `ethtool -N .. delete` removes them.

use std::collections::HashMap;

use bywash_ethtool::{Ethtool, Match, QueueError, Queues, RuleId};
use bywash_wire::Tuple;

/// How the NIC is told which queue a flow goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueSteering {
    /// Not at all: as it is set up.
    #[default]
    None,
    /// The RSS indirection table leads to the shards' queues only; all of the device's traffic does.
    Rss,
    /// A rule for each port (of a single shard) and for each active open.
    Ntuple,
}

impl QueueSteering {
    /// Whether an engine of `shards` shards serves a device of `queues` queues.
    #[must_use]
    pub fn serves(self, shards: u32, queues: u32) -> bool {
        match self {
            Self::None => shards >= queues,
            Self::Rss => true,
            Self::Ntuple => shards >= queues || shards == 1,
        }
    }
}

/// What is set in the device for an engine; dropped, it is taken back.
pub(crate) struct DeviceQueues {
    queues: Queues<Box<dyn Ethtool + Send>>,
    policy: QueueSteering,
    /// One shard on a device of several queues: its ports need rules.
    rules_for_ports: bool,
    table_before: Option<Vec<u32>>,
    ports: HashMap<u16, [RuleId; 2]>,
    flows: HashMap<Tuple, RuleId>,
    refused: u64,
}

impl DeviceQueues {
    /// Sets what is set at the start; `None` for [`QueueSteering::None`].
    pub(crate) fn open(
        policy: QueueSteering,
        ethtool: Box<dyn Ethtool + Send>,
        shards: u32,
        device_queues: u32,
    ) -> Result<Option<Self>, QueueError> {
        let mut queues = Queues::new(ethtool);
        let table_before = match policy {
            QueueSteering::None => return Ok(None),
            QueueSteering::Rss => Some(queues.spread(shards)?),
            QueueSteering::Ntuple => {
                queues.rules()?;
                None
            }
        };
        Ok(Some(Self {
            queues,
            policy,
            rules_for_ports: shards < device_queues,
            table_before,
            ports: HashMap::new(),
            flows: HashMap::new(),
            refused: 0,
        }))
    }

    /// Leads a listening port to the one shard's queue.
    pub(crate) fn claim_port(&mut self, port: u16) -> Result<(), QueueError> {
        if self.policy != QueueSteering::Ntuple
            || !self.rules_for_ports
            || self.ports.contains_key(&port)
        {
            return Ok(());
        }
        let v4 = self.queues.insert(Match::PortV4(port), 0)?;
        match self.queues.insert(Match::PortV6(port), 0) {
            Ok(v6) => {
                self.ports.insert(port, [v4, v6]);
                Ok(())
            }
            Err(error) => {
                self.remove(v4);
                Err(error)
            }
        }
    }

    /// Leads the flow of an active open to its shard's queue. Where the device has no room, the flow
    /// goes on by hand-over between shards.
    pub(crate) fn claim_flow(&mut self, tuple: &Tuple, queue: u32) {
        if self.policy != QueueSteering::Ntuple {
            return;
        }
        let what = Match::flow(
            (tuple.local, tuple.local_port),
            (tuple.remote, tuple.remote_port),
        );
        match self.queues.insert(what, queue) {
            Ok(rule) => {
                self.flows.insert(*tuple, rule);
            }
            Err(error) => {
                if self.refused == 0 {
                    tracing::warn!(%tuple, %error, "a flow gets no rule; further ones are counted");
                }
                self.refused += 1;
            }
        }
    }

    /// Leads a flow whose packets come by another queue to `queue`. False: there are no rules, there is no room, or the flow has
    /// one already, which has not helped.
    pub(crate) fn recall_flow(&mut self, tuple: &Tuple, queue: u32) -> bool {
        if self.flows.contains_key(tuple) {
            return false;
        }
        self.claim_flow(tuple, queue);
        self.flows.contains_key(tuple)
    }

    /// The flow is over.
    pub(crate) fn release_flow(&mut self, tuple: &Tuple) {
        if let Some(rule) = self.flows.remove(tuple) {
            self.remove(rule);
        }
    }

    fn remove(&mut self, rule: RuleId) {
        if let Err(error) = self.queues.remove(rule) {
            tracing::warn!(place = rule.place(), %error, "a rule stays in the device");
        }
    }

    /// `rss`, or `ntuple: 3 rules, 1 refused`
    pub(crate) fn describe(&self) -> String {
        match self.policy {
            QueueSteering::None => "none".to_owned(),
            QueueSteering::Rss => "rss".to_owned(),
            QueueSteering::Ntuple => format!(
                "ntuple: {} rules, {} refused",
                2 * self.ports.len() + self.flows.len(),
                self.refused
            ),
        }
    }
}

impl Drop for DeviceQueues {
    fn drop(&mut self) {
        let ports = std::mem::take(&mut self.ports);
        let flows = std::mem::take(&mut self.flows);
        for rule in ports.into_values().flatten().chain(flows.into_values()) {
            self.remove(rule);
        }
        if let Some(table) = self.table_before.take()
            && let Err(error) = self.queues.set_indirection(&table)
        {
            tracing::warn!(%error, ?table, "the device's indirection table is not as it was");
        }
    }
}

impl std::fmt::Debug for DeviceQueues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use bywash_ethtool::Request;
    use nix::errno::Errno;

    use super::*;

    /// A NIC of four queues and `room` rules, which chooses places by itself: the commands and places
    /// that it was told, and its table.
    #[derive(Default)]
    struct State {
        room: usize,
        rules: Vec<u32>,
        next: u32,
        table: Vec<u32>,
    }

    struct Nic(Arc<Mutex<State>>);

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn put(bytes: &mut [u8], at: usize, value: u32) {
        bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    impl Ethtool for Nic {
        fn device(&self) -> &str {
            "nic0"
        }

        fn call(&mut self, request: &mut Request) -> io::Result<()> {
            let mut state = self.0.lock().unwrap();
            let bytes = request.bytes_mut();
            match word(bytes, 0) {
                0x2e => put(bytes, 8, 0x8000_0000),
                0x31 => {
                    let place = word(bytes, 176);
                    let at = state.rules.iter().position(|rule| *rule == place);
                    state.rules.remove(at.ok_or(Errno::ENOENT)?);
                }
                0x32 if state.rules.len() == state.room => return Err(Errno::ENOSPC.into()),
                0x32 => {
                    let place = state.next;
                    state.next += 1;
                    state.rules.push(place);
                    put(bytes, 176, place);
                }
                0x38 => {
                    put(bytes, 4, state.table.len() as u32);
                    for (entry, queue) in state.table.iter().enumerate() {
                        if 12 + 4 * entry <= bytes.len() {
                            put(bytes, 8 + 4 * entry, *queue);
                        }
                    }
                }
                0x39 => {
                    let size = word(bytes, 4) as usize;
                    state.table = (0..size).map(|entry| word(bytes, 8 + 4 * entry)).collect();
                }
                other => panic!("request {other:#x}"),
            }
            Ok(())
        }
    }

    fn nic(
        policy: QueueSteering,
        shards: u32,
        room: usize,
    ) -> (Arc<Mutex<State>>, Option<DeviceQueues>) {
        let state = Arc::new(Mutex::new(State {
            room,
            table: vec![0, 1, 2, 3],
            ..State::default()
        }));
        let queues = DeviceQueues::open(policy, Box::new(Nic(state.clone())), shards, 4).unwrap();
        (state, queues)
    }

    fn tuple(port: u16) -> Tuple {
        Tuple::tcp(
            "192.0.2.1".parse().unwrap(),
            port,
            "192.0.2.2".parse().unwrap(),
            443,
        )
    }

    #[test]
    fn rss_is_spread_over_the_shards_and_put_back() {
        let (state, queues) = nic(QueueSteering::Rss, 2, 0);
        assert_eq!(state.lock().unwrap().table, [0, 1, 0, 1]);
        drop(queues);
        assert_eq!(state.lock().unwrap().table, [0, 1, 2, 3]);
    }

    #[test]
    fn one_shard_gets_rules_for_its_ports_and_flows_and_leaves_none() {
        let (state, queues) = nic(QueueSteering::Ntuple, 1, 100);
        let mut queues = queues.unwrap();
        queues.claim_port(7).unwrap();
        queues.claim_port(7).unwrap();
        queues.claim_flow(&tuple(61440), 0);
        queues.claim_flow(&tuple(61441), 0);
        assert_eq!(queues.describe(), "ntuple: 4 rules, 0 refused");
        queues.release_flow(&tuple(61440));
        queues.release_flow(&tuple(61440));
        assert_eq!(state.lock().unwrap().rules.len(), 3);
        drop(queues);
        assert!(state.lock().unwrap().rules.is_empty());
    }

    #[test]
    fn a_flow_is_recalled_once_and_only_by_rules() {
        let (state, queues) = nic(QueueSteering::Ntuple, 4, 1);
        let mut queues = queues.unwrap();
        assert!(queues.recall_flow(&tuple(1), 2));
        assert!(!queues.recall_flow(&tuple(1), 2), "it has not helped");
        assert!(!queues.recall_flow(&tuple(2), 2), "no room");
        queues.release_flow(&tuple(1));
        assert!(state.lock().unwrap().rules.is_empty());
        let (_, queues) = nic(QueueSteering::Rss, 2, 1);
        assert!(!queues.unwrap().recall_flow(&tuple(1), 1));
    }

    #[test]
    fn a_full_table_is_counted_and_half_a_port_is_none() {
        let (state, queues) = nic(QueueSteering::Ntuple, 1, 1);
        let mut queues = queues.unwrap();
        queues.claim_port(7).expect_err("room for one family only");
        assert!(state.lock().unwrap().rules.is_empty());
        queues.claim_flow(&tuple(1), 0);
        queues.claim_flow(&tuple(2), 0);
        queues.claim_flow(&tuple(3), 0);
        assert_eq!(queues.describe(), "ntuple: 1 rules, 2 refused");
    }

    #[test]
    fn a_shard_for_each_queue_needs_no_rules_for_ports() {
        let (state, queues) = nic(QueueSteering::Ntuple, 4, 100);
        let mut queues = queues.unwrap();
        queues.claim_port(7).unwrap();
        assert!(state.lock().unwrap().rules.is_empty());
        queues.claim_flow(&tuple(1), 3);
        assert_eq!(state.lock().unwrap().rules.len(), 1);
    }

    #[test]
    fn which_engines_a_device_can_have() {
        assert!(QueueSteering::None.serves(2, 2) && !QueueSteering::None.serves(1, 2));
        assert!(QueueSteering::Rss.serves(2, 16));
        assert!(QueueSteering::Ntuple.serves(1, 16) && !QueueSteering::Ntuple.serves(2, 16));
        assert!(nic(QueueSteering::None, 1, 0).1.is_none());
    }
}
