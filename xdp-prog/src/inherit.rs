//! What a new engine keeps from one that was killed: which ports, addresses and VLANs were ours.
//!
//! The new program comes with empty maps. If it replaced the old one like that, packets of the dead engine's ports would pass until
//! somebody listens again, and the kernel would reset every peer. So the new maps first get what the pinned old ones say, with no
//! socket in any slot: such packets are dropped, as before. [`crate::Demux::settle`] gives back what nobody has asked for by then.

use std::collections::BTreeSet;

use aya::maps::{Array, HashMap, Map, MapData, MapError};

use crate::abi::{ABI_VERSION, Config, PORT_TCP_OURS, VLAN_CUSTOMER, VLAN_SERVICE, VLAN_STACKED};
use crate::error::AttachError;
use crate::object::Object;
use crate::pin::PinDir;
use crate::vlan::Vlan;

/// Ports, addresses and VLANs of a dead engine that stand in our maps.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) ports: Vec<u16>,
    pub(crate) addresses: Vec<[u8; 16]>,
    /// Range of local ports, first and last; (0, 0): none.
    pub(crate) local_ports: (u16, u16),
    pub(crate) vlans: BTreeSet<Vlan>,
}

/// Copies from the pinned maps into the object's. Maps that cannot be read, or of another version, leave nothing to inherit.
pub(crate) fn inherit(
    pin_dir: &PinDir,
    object: &mut Object,
    config: Config,
) -> Result<Inherited, AttachError> {
    let inherited = match read(pin_dir) {
        Ok(Some(inherited)) => inherited,
        Ok(None) => return Ok(Inherited::default()),
        Err(error) => {
            tracing::warn!(%error, "the dead engine's maps cannot be read: its ports pass until they are taken again");
            return Ok(Inherited::default());
        }
    };
    object.write_config(Config {
        local_port_first: inherited.local_ports.0,
        local_port_last: inherited.local_ports.1,
        ..config
    })?;
    object.write_ours(&inherited.addresses, &inherited.ports, PORT_TCP_OURS)?;
    object.write_vlans(&inherited.vlans)?;
    Ok(inherited)
}

/// A system call for each port and tag: some 30 ms, and only after a death.
fn read(pin_dir: &PinDir) -> Result<Option<Inherited>, MapError> {
    let open = |name: &str| MapData::from_pin(pin_dir.path(name));
    let config: Array<MapData, [u8; Config::LEN]> = Map::Array(open("config")?).try_into()?;
    let config = Config::from_bytes(&config.get(&0, 0)?);
    if config.abi_version != ABI_VERSION {
        return Ok(None);
    }
    let addresses: HashMap<MapData, [u8; 16], u32> = Map::HashMap(open("addresses")?).try_into()?;
    let addresses = addresses.keys().collect::<Result<_, _>>()?;
    let map: Array<MapData, u32> = Map::Array(open("ports")?).try_into()?;
    let mut ports = Vec::new();
    for port in 1..=u16::MAX {
        if map.get(&u32::from(port), 0)? != 0 {
            ports.push(port);
        }
    }
    Ok(Some(Inherited {
        ports,
        addresses,
        local_ports: (config.local_port_first, config.local_port_last),
        vlans: read_vlans(pin_dir)?,
    }))
}

fn read_vlans(pin_dir: &PinDir) -> Result<BTreeSet<Vlan>, MapError> {
    let open = |name: &str| MapData::from_pin(pin_dir.path(name));
    let tags: Array<MapData, u32> = Map::Array(open("vlans")?).try_into()?;
    let pairs: HashMap<MapData, u32, u32> = Map::HashMap(open("vlan_pairs")?).try_into()?;
    let mut vlans = BTreeSet::new();
    for id in 1..=4094 {
        let bits = tags.get(&u32::from(id), 0)?;
        if bits & VLAN_CUSTOMER != 0 {
            vlans.insert(Vlan::Customer(id));
        }
        if bits & VLAN_SERVICE != 0 {
            vlans.insert(Vlan::Service(id));
        }
    }
    for pair in pairs.keys() {
        let pair = pair?;
        let (service, customer) = ((pair >> 12 & 0x0fff) as u16, (pair & 0x0fff) as u16);
        // A pair is looked up only where the outer tag's bits say so.
        if tags.get(&u32::from(service), 0)? & VLAN_STACKED != 0 {
            vlans.insert(Vlan::Stacked { service, customer });
        }
    }
    Ok(vlans)
}
