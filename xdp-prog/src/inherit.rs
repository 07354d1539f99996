//! What a new engine keeps from one that was killed: which ports and addresses were ours.
//!
//! The new program comes with empty maps. If it replaced the old one like that, packets of the dead engine's ports would pass until
//! somebody listens again, and the kernel would reset every peer. So the new maps first get what the pinned old ones say, with no
//! socket in any slot: such packets are dropped, as before. [`crate::Demux::settle`] gives back what nobody has asked for by then.

use aya::maps::{Array, HashMap, Map, MapData, MapError};

use crate::abi::{ABI_VERSION, Config, PORT_TCP_OURS};
use crate::error::AttachError;
use crate::object::Object;
use crate::pin::PinDir;

/// Ports and addresses of a dead engine that stand in our maps.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) ports: Vec<u16>,
    pub(crate) addresses: Vec<[u8; 16]>,
    /// Range of local ports, first and last; (0, 0): none.
    pub(crate) local_ports: (u16, u16),
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
    Ok(inherited)
}

/// A system call for each port: some 30 ms, and only after a death.
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
    }))
}
