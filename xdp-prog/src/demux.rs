//! The attached program: its maps, edited while it runs, and its clean end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::MapError;
use nix::libc;

use crate::abi::{
    Config, FLOWS_PER_QUEUE, FlowKey, FlowValue, PORT_TCP_LISTEN, PORT_TCP_OURS, SLOTS_PER_QUEUE,
    STRICT, address_bytes, slot,
};
use crate::attach::{self, Attachment, Outcome, Reattached};
use crate::counter::Counter;
use crate::error::{AttachError, DemuxError, DetachError, errno};
use crate::inherit::Inherited;
use crate::object::{self, Maps};
use crate::pin::Scope;
use crate::settings::Settings;
use crate::vlan::{Vlan, outer_bits};

/// How the program is wanted on the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Native if the driver has it, else generic; [`Demux::mode`] tells which it became, and callers must show it.
    #[default]
    Auto,
    /// In the driver, or an error.
    Native,
    /// In the kernel's generic receive path: slower, and works on every device.
    Generic,
}

/// How the program runs, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the kernel's generic receive path.
    Generic,
}

impl From<AttachedMode> for Mode {
    fn from(mode: AttachedMode) -> Self {
        match mode {
            AttachedMode::Native => Mode::Native,
            AttachedMode::Generic => Mode::Generic,
        }
    }
}

impl AttachedMode {
    /// `native` or `generic`.
    pub const fn name(self) -> &'static str {
        match self {
            AttachedMode::Native => "native",
            AttachedMode::Generic => "generic",
        }
    }
}

/// What to attach, and where.
#[derive(Clone, Debug)]
pub struct AttachConfig {
    /// The interface's name: for messages only.
    pub interface: String,
    /// The interface's index in this thread's network namespace: what is attached to.
    pub ifindex: u32,
    /// Absolute path for the engine's own bpffs: [`crate::pin::directory`] makes it from the engine's key.
    pub pin_dir: PathBuf,
    /// Queues 0 up to `queues - 1` have a shard. Packets of ours on other queues are dropped, counted as `drop-no-shard`.
    pub queues: u32,
    /// Native or generic.
    pub mode: Mode,
    /// What the program does beside steering.
    pub settings: Settings,
}

/// The `dirty` map, to be mapped into the engine's memory: a byte by slot, see [`slot`].
///
/// The program sets a slot's byte to 1 when it sends a packet to a flow pool, if [`Settings::dirty_slots`] says so; whoever maps
/// the array sets it back to 0. The byte can be seen *before* the packet is in the ring, as the kernel publishes a ring at the end
/// of its NAPI cycle, and a second packet may have found the byte still set just before it was cleared. So a ring whose byte was
/// set is to be looked at for longer than a NAPI cycle lasts, and all rings now and then.
#[derive(Clone, Copy, Debug)]
pub struct DirtySlots<'a> {
    /// The map.
    pub fd: BorrowedFd<'a>,
    /// Octets of the whole array: [`SLOTS_PER_QUEUE`] for each queue. To be mapped from offset 0.
    pub len: usize,
}

/// The attached demultiplexer. All methods may be called from any thread.
///
/// [`Demux::detach`] or dropping the value removes program, pins and mount. A process that dies by SIGKILL leaves program and pinned
/// link in place: packets of the dead engine's ports are then dropped (a PASS would let the kernel reset every peer), all others
/// pass, and the next [`Demux::attach`] takes the link over.
#[derive(Debug)]
pub struct Demux {
    state: Mutex<State>,
    dirty: OwnedFd,
    /// `None` once it was removed.
    attachment: Mutex<Option<Attachment>>,
    outcome: Outcome,
    queues: u32,
}

#[derive(Debug)]
struct State {
    maps: Maps,
    config: Config,
    settings: Settings,
    /// How many want SYNs to be limited.
    alarms: u32,
    ports: HashMap<u16, PortUse>,
    vlans: BTreeSet<Vlan>,
    /// Of a dead engine, until [`Demux::settle`]; without what this engine has asked for itself.
    inherited: Inherited,
}

/// How many listeners and connections need a port to be ours.
#[derive(Clone, Copy, Debug, Default)]
struct PortUse {
    listeners: u32,
    holds: u32,
}

impl Demux {
    /// Loads the program, attaches it to the interface and pins link and maps.
    ///
    /// Nothing is ours at first: every packet passes until addresses, ports and sockets are set. A link that a dead engine left is
    /// taken over atomically, with its ports, addresses and VLANs: their packets are dropped as before, until this engine serves them or
    /// [`Demux::settle`] gives them back. Sockets and flows are not taken over: they are gone.
    pub fn attach(config: &AttachConfig) -> Result<Self, AttachError> {
        let ((maps, dirty), attachment, mut outcome) = attach::attach(config)?;
        let inherited = std::mem::take(&mut outcome.inherited);
        let (local_port_first, local_port_last) = inherited.local_ports;
        let demux = Self {
            state: Mutex::new(State {
                maps,
                config: Config {
                    local_port_first,
                    local_port_last,
                    ..attach::initial(config)
                },
                settings: config.settings,
                alarms: 0,
                ports: HashMap::new(),
                vlans: inherited.vlans.clone(),
                inherited,
            }),
            dirty,
            outcome,
            queues: config.queues,
            attachment: Mutex::new(Some(attachment)),
        };
        Ok(demux)
    }

    /// Ends a take-over, once this engine has asked for everything that it serves: the dead engine's other ports, addresses and VLANs are
    /// the kernel's again.
    pub fn settle(&self) -> Result<(), DemuxError> {
        let mut state = self.lock();
        let inherited = std::mem::take(&mut state.inherited);
        for port in inherited.ports {
            let set = state.maps.ports.set(u32::from(port), 0, 0);
            set.map_err(failed("giving a port back", "ports"))?;
        }
        for address in inherited.addresses {
            absent_is_fine(state.maps.addresses.remove(&address))
                .map_err(failed("giving an address back", "addresses"))?;
        }
        if !inherited.vlans.is_empty() {
            state.change_vlans(BTreeSet::new())?;
        }
        if inherited.local_ports == (0, 0) {
            return Ok(());
        }
        let config = Config {
            local_port_first: 0,
            local_port_last: 0,
            ..state.config
        };
        state.write_config(config)
    }

    /// The mode that the kernel reports.
    pub fn mode(&self) -> AttachedMode {
        self.outcome.mode
    }

    /// Why [`Mode::Auto`] ended generic: the driver's refusal. None if it did not, or if generic is what was asked for.
    pub fn native_refusal(&self) -> Option<&AttachError> {
        self.outcome.native_refusal.as_ref()
    }

    /// True if the link was that of an engine which had died.
    pub fn took_over(&self) -> bool {
        self.outcome.took_over
    }

    /// Whose mount namespace holds the pins.
    pub fn pin_scope(&self) -> &Scope {
        &self.outcome.scope
    }

    /// Puts an AF_XDP socket, bound to `queue` of this interface, into the queue's ring (0 primary, 1 control, 2.. flow pools).
    pub fn set_socket(
        &self,
        queue: u32,
        ring: u32,
        socket: BorrowedFd<'_>,
    ) -> Result<(), DemuxError> {
        let index = self.index(queue, ring)?;
        let mut state = self.lock();
        let set = state.maps.xsks.set(index, socket.as_raw_fd(), 0);
        set.map_err(failed("setting a socket", "xsks"))
    }

    /// Empties a ring's slot: packets for it are dropped from now on. Sockets that close leave their slots by themselves.
    pub fn remove_socket(&self, queue: u32, ring: u32) -> Result<(), DemuxError> {
        let index = self.index(queue, ring)?;
        absent_is_fine(self.lock().maps.xsks.unset(index))
            .map_err(failed("removing a socket", "xsks"))
    }

    /// Takes the port on all of our addresses: SYNs go to the control pool, other segments to the primary. Calls nest: one
    /// [`Demux::unlisten`] for each.
    pub fn listen(&self, port: u16) -> Result<(), DemuxError> {
        self.lock().change_port(port, |uses| {
            uses.listeners += 1;
            true
        })
    }

    /// Ends one [`Demux::listen`]. After the last one the port is the kernel's again, unless it is held.
    pub fn unlisten(&self, port: u16) -> Result<(), DemuxError> {
        self.lock().change_port(port, |uses| match uses.listeners {
            0 => false,
            _ => {
                uses.listeners -= 1;
                true
            }
        })
    }

    /// Keeps a port ours without a listener: for connections that outlive it. All segments go to the primary. Calls nest.
    pub fn hold_port(&self, port: u16) -> Result<(), DemuxError> {
        self.lock().change_port(port, |uses| {
            uses.holds += 1;
            true
        })
    }

    /// Ends one [`Demux::hold_port`].
    pub fn release_port(&self, port: u16) -> Result<(), DemuxError> {
        self.lock().change_port(port, |uses| match uses.holds {
            0 => false,
            _ => {
                uses.holds -= 1;
                true
            }
        })
    }

    /// The range of local ports for active opens, or none. Segments to it that no other rule takes go to the primary.
    pub fn set_local_ports(&self, range: Option<RangeInclusive<u16>>) -> Result<(), DemuxError> {
        let (first, last) = match range {
            Some(range) if *range.start() == 0 => return Err(DemuxError::PortZero),
            Some(range) => range.into_inner(),
            None => (0, 0),
        };
        let mut state = self.lock();
        let config = Config {
            local_port_first: first,
            local_port_last: last,
            ..state.config
        };
        state.inherited.local_ports = (0, 0);
        state.write_config(config)
    }

    /// Makes a local address ours. Adding one twice is no error.
    pub fn add_address(&self, address: IpAddr) -> Result<(), DemuxError> {
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        if address.is_unspecified() || address.is_multicast() || broadcast {
            return Err(DemuxError::Address(address));
        }
        let mut state = self.lock();
        let bytes = address_bytes(address);
        state.inherited.addresses.retain(|old| *old != bytes);
        let added = state.maps.addresses.insert(bytes, 1, 0);
        added.map_err(full_or_failed(
            "adding an address",
            "addresses",
            object::ADDRESSES,
        ))
    }

    /// Gives a local address back to the kernel. Removing one that is not there is no error.
    pub fn remove_address(&self, address: IpAddr) -> Result<(), DemuxError> {
        absent_is_fine(self.lock().maps.addresses.remove(&address_bytes(address)))
            .map_err(failed("removing an address", "addresses"))
    }

    /// The VLANs whose tagged frames are ours as well, in place of those set before. Untagged frames always are.
    pub fn set_vlans(&self, vlans: &[Vlan]) -> Result<(), DemuxError> {
        if let Some(&wrong) = vlans.iter().find(|vlan| !vlan.is_valid()) {
            return Err(DemuxError::Vlan(wrong));
        }
        self.lock().change_vlans(vlans.iter().copied().collect())
    }

    /// Whether [`Settings::strict`] holds: then every flow has to be inserted before its first segment leaves.
    pub fn is_strict(&self) -> bool {
        self.lock().config.flags & STRICT != 0
    }

    /// Limits and flags from now on. What the limits have counted so far stays.
    pub fn set_settings(&self, settings: &Settings) -> Result<(), DemuxError> {
        if let Some(reason) = settings.refusal() {
            return Err(DemuxError::Settings(reason));
        }
        let mut state = self.lock();
        let config = settings.apply(state.config, state.alarms > 0);
        state.settings = *settings;
        state.write_config(config)
    }

    /// Has the limits on SYNs hold, if they wait for that ([`SynLimits::OnAlarm`](crate::SynLimits::OnAlarm)). Calls nest: one
    /// [`Demux::unlimit_syns`] for each.
    pub fn limit_syns(&self) -> Result<(), DemuxError> {
        let mut state = self.lock();
        let alarms = state.alarms + 1;
        state.set_alarms(alarms)
    }

    /// Ends one [`Demux::limit_syns`]. After the last one SYNs pass.
    pub fn unlimit_syns(&self) -> Result<(), DemuxError> {
        let mut state = self.lock();
        let alarms = state.alarms.saturating_sub(1);
        state.set_alarms(alarms)
    }

    /// Sends a flow's packets to a slot; an entry that exists is replaced. The flow's local port must be ours by
    /// [`Demux::listen`], [`Demux::hold_port`] or the local range: the program looks at ports first.
    pub fn insert_flow(&self, key: &FlowKey, value: FlowValue) -> Result<(), DemuxError> {
        if value.queue >= self.queues || value.slot >= self.queues * SLOTS_PER_QUEUE {
            return Err(DemuxError::Slot {
                queue: value.queue,
                ring: value.slot % SLOTS_PER_QUEUE,
                queues: self.queues,
            });
        }
        let mut state = self.lock();
        let inserted = state.maps.flows.insert(key.to_bytes(), value.to_words(), 0);
        inserted.map_err(full_or_failed(
            "inserting a flow",
            "flows",
            self.queues * FLOWS_PER_QUEUE,
        ))
    }

    /// Removes a flow: its packets go where the port's do. Removing one that is not there is no error.
    pub fn remove_flow(&self, key: &FlowKey) -> Result<(), DemuxError> {
        absent_is_fine(self.lock().maps.flows.remove(&key.to_bytes()))
            .map_err(failed("removing a flow", "flows"))
    }

    /// The flow's entry, if there is one.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<FlowValue>, DemuxError> {
        match self.lock().maps.flows.get(&key.to_bytes(), 0) {
            Ok(words) => Ok(Some(FlowValue::from_words(words))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("reading a flow", "flows")(error)),
        }
    }

    /// Which slots a packet was sent to.
    pub fn dirty_slots(&self) -> DirtySlots<'_> {
        DirtySlots {
            fd: self.dirty.as_fd(),
            len: self.queues as usize * SLOTS_PER_QUEUE as usize,
        }
    }

    /// Packets by verdict since the program was attached, summed over all CPUs, in the order of [`Counter::ALL`]. A system call for
    /// each counter: for the control path.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, DemuxError> {
        let state = self.lock();
        let mut sums = Vec::with_capacity(Counter::ALL.len());
        for &counter in Counter::ALL {
            let values = state.maps.counters.get(&(counter as u32), 0);
            let values = values.map_err(failed("reading a counter", "counters"))?;
            sums.push((counter.name(), values.iter().sum()));
        }
        Ok(sums)
    }

    /// Detaches the program and removes pins, mount and directories. Returns once the kernel says that the program has gone.
    pub fn detach(self) -> Result<(), DetachError> {
        match self.attachment().take() {
            Some(attachment) => attachment.remove(),
            None => Ok(()),
        }
    }

    /// Id of the program's bpf_link, by which another process can detach it (`BPF_LINK_DETACH`). A new one after
    /// [`Demux::reattach`].
    pub fn link_id(&self) -> Result<u32, AttachError> {
        match self.attachment().as_ref() {
            Some(attachment) => attachment.link_id(),
            None => Err(AttachError::Detached),
        }
    }

    /// Puts the program back, if somebody has detached its link: with the same maps, in the same mode. Sockets, ports, addresses and
    /// flows are as they were.
    pub fn reattach(&self) -> Result<Reattached, AttachError> {
        match self.attachment().as_mut() {
            Some(attachment) => attachment.reattach(),
            None => Err(AttachError::Detached),
        }
    }

    /// Loads the program once more and puts it in the place of the one that runs, which ends: by `bpf_link_update`, in one step.
    /// Maps, and with them sockets, ports, flows, counters and accounts, stay. Every packet is judged by the one or the other.
    pub fn replace_program(&self) -> Result<(), AttachError> {
        match self.attachment().as_mut() {
            Some(attachment) => attachment.replace(),
            None => Err(AttachError::Detached),
        }
    }

    fn attachment(&self) -> MutexGuard<'_, Option<Attachment>> {
        self.attachment
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self, queue: u32, ring: u32) -> Result<u32, DemuxError> {
        if queue < self.queues && ring < SLOTS_PER_QUEUE {
            return Ok(slot(queue, ring));
        }
        Err(DemuxError::Slot {
            queue,
            ring,
            queues: self.queues,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked here left maps that are still consistent: each change is one system call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Demux {
    fn drop(&mut self) {
        let attachment = self.attachment().take();
        if let Some(attachment) = attachment
            && let Err(error) = attachment.remove()
        {
            // Drop cannot return it; `detach` can.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the XDP program was not removed cleanly"
            );
        }
    }
}

impl State {
    fn change_port(
        &mut self,
        port: u16,
        change: impl FnOnce(&mut PortUse) -> bool,
    ) -> Result<(), DemuxError> {
        if port == 0 {
            return Err(DemuxError::PortZero);
        }
        let mut uses = self.ports.get(&port).copied().unwrap_or_default();
        if !change(&mut uses) {
            return Err(DemuxError::PortNotOurs(port));
        }
        let bits = match (uses.listeners, uses.holds) {
            (0, 0) => 0,
            (0, _) => PORT_TCP_OURS,
            _ => PORT_TCP_OURS | PORT_TCP_LISTEN,
        };
        let set = self.maps.ports.set(u32::from(port), bits, 0);
        set.map_err(failed("setting a port", "ports"))?;
        self.inherited.ports.retain(|old| *old != port);
        if bits == 0 {
            self.ports.remove(&port);
        } else {
            self.ports.insert(port, uses);
        }
        Ok(())
    }

    /// New pairs before the bits that lead to them, old ones after.
    fn change_vlans(&mut self, wanted: BTreeSet<Vlan>) -> Result<(), DemuxError> {
        let failed = |map| failed("setting a VLAN", map);
        let is_pair = |vlan: &&Vlan| vlan.is_pair();
        for pair in wanted.iter().filter(is_pair) {
            let added = self.maps.vlan_pairs.insert(pair.bits(), 1, 0);
            added.map_err(full_or_failed(
                "setting a VLAN",
                "vlan_pairs",
                object::VLAN_PAIRS,
            ))?;
        }
        let mut bits: BTreeMap<u16, u32> =
            self.vlans.iter().map(|vlan| (vlan.outer(), 0)).collect();
        bits.extend(outer_bits(&wanted));
        for (id, bits) in bits {
            let set = self.maps.vlans.set(u32::from(id), bits, 0);
            set.map_err(failed("vlans"))?;
        }
        for pair in self.vlans.difference(&wanted).filter(is_pair) {
            absent_is_fine(self.maps.vlan_pairs.remove(&pair.bits()))
                .map_err(failed("vlan_pairs"))?;
        }
        self.vlans = wanted;
        self.inherited.vlans.clear();
        Ok(())
    }

    fn set_alarms(&mut self, alarms: u32) -> Result<(), DemuxError> {
        let config = self.settings.apply(self.config, alarms > 0);
        if config != self.config {
            self.write_config(config)?;
        }
        self.alarms = alarms;
        Ok(())
    }

    fn write_config(&mut self, config: Config) -> Result<(), DemuxError> {
        let set = self.maps.config.set(0, config.to_bytes(), 0);
        set.map_err(failed("writing the configuration", "config"))?;
        self.config = config;
        Ok(())
    }
}

fn failed(operation: &'static str, map: &'static str) -> impl FnOnce(MapError) -> DemuxError {
    move |source| DemuxError::Map {
        operation,
        map,
        source: Box::new(source),
    }
}

/// A full hash table answers E2BIG.
fn full_or_failed(
    operation: &'static str,
    map: &'static str,
    entries: u32,
) -> impl FnOnce(MapError) -> DemuxError {
    move |error| match errno(&error) {
        Some(libc::E2BIG) => DemuxError::Full { map, entries },
        _ => failed(operation, map)(error),
    }
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}
